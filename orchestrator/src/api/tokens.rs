//! Join tokens: how clusters are invited. What they are is weald-trust's `join`; workers are invited
//! by their cluster.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weald_proto::id::Label;
use weald_proto::join::JoinRole;
use weald_trust::join::{Entry, JoinTokenFault, TokenId};

use super::ApiState;
use super::body::Body;
use super::caller::User;
use super::error::ApiError;
use super::shapes::Message;
use crate::join::{DeskError, JoinDesk};

/// How long a token is good if nothing else is said.
const LIFE: Duration = Duration::from_hours(1);

/// A token that is wanted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Invitation {
    /// The name that the cluster will have.
    cluster: String,
    /// How often the token can be used; once, if nothing is said.
    uses: Option<u32>,
    /// For how many seconds it is good; an hour, if nothing is said.
    life_seconds: Option<u64>,
}

/// A token that was made. Its text is shown this once.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Invited {
    id: String,
    /// What `weald join` takes.
    token: String,
}

/// A token, without its text.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TokenView {
    id: String,
    role: String,
    cluster: String,
    uses: u32,
    used: u32,
    /// Seconds since 1970.
    issued: u64,
    /// Seconds since 1970.
    expires: u64,
}

impl From<&Entry> for TokenView {
    fn from(entry: &Entry) -> Self {
        Self {
            id: entry.id.to_string(),
            role: entry.role.to_string(),
            cluster: entry.cluster.to_string(),
            uses: entry.uses,
            used: entry.used,
            issued: entry.issued,
            expires: entry.expires,
        }
    }
}

/// Makes a token with which a cluster joins.
#[utoipa::path(post, path = "/api/v1/tokens", tag = "clusters",
    request_body = Invitation, responses((status = 200, body = Invited)))]
pub(super) async fn create(
    State(state): State<ApiState>,
    user: User,
    Body(wanted): Body<Invitation>,
) -> Result<Json<Invited>, ApiError> {
    user.must_operate()?;
    let cluster = Label::new(&wanted.cluster).map_err(|error| {
        ApiError::unprocessable(format!("cluster {:?}: {error}", wanted.cluster))
    })?;
    let settings = state.settings();
    let (root, addresses) = (settings.fingerprint, settings.join_addresses.clone());
    let life = wanted.life_seconds.map_or(LIFE, Duration::from_secs);
    let terms = (wanted.uses.unwrap_or(1), life);
    let desk = Arc::clone(&state.0.desk);
    let issued = tokio::task::spawn_blocking(move || {
        desk.issue(JoinRole::Cluster, cluster, root, &addresses, terms)
    });
    let issued = issued.await.map_err(|error| ApiError::internal(&error))?;
    let (id, token) = issued.map_err(|error| match error.downcast::<DeskError>() {
        Ok(error) => refused(&error),
        Err(error) => match error.downcast::<JoinTokenFault>() {
            Ok(fault) => ApiError::new(StatusCode::CONFLICT, fault.to_string()),
            Err(error) => ApiError::internal(&error),
        },
    })?;
    Ok(Json(Invited {
        id: id.to_string(),
        token,
    }))
}

/// Every token that was made and not taken back.
#[utoipa::path(get, path = "/api/v1/tokens", tag = "clusters",
    responses((status = 200, body = Vec<TokenView>)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    user: User,
) -> Result<Json<Vec<TokenView>>, ApiError> {
    user.must_operate()?;
    let entries = state.0.desk.list();
    Ok(Json(entries.iter().map(TokenView::from).collect()))
}

/// Takes a token back; whoever has joined with it stays.
#[utoipa::path(delete, path = "/api/v1/tokens/{id}", tag = "clusters",
    responses((status = 200, body = Message)))]
pub(super) async fn remove(
    State(state): State<ApiState>,
    user: User,
    Path(id): Path<String>,
) -> Result<Json<Message>, ApiError> {
    user.must_operate()?;
    let id: TokenId = id
        .parse()
        .map_err(|_| ApiError::unknown("join token", &id))?;
    at_desk(&state, move |desk| desk.revoke(id)).await?;
    Ok(Message::new("Token revoked"))
}

/// Does something with the book of tokens, which is on disk, on a blocking thread.
pub(super) async fn at_desk<T: Send + 'static>(
    state: &ApiState,
    work: impl FnOnce(&JoinDesk) -> Result<T, DeskError> + Send + 'static,
) -> Result<T, ApiError> {
    let desk = Arc::clone(&state.0.desk);
    let done = tokio::task::spawn_blocking(move || work(&desk)).await;
    let done = done.map_err(|error| ApiError::internal(&error))?;
    done.map_err(|error| refused(&error))
}

fn refused(error: &DeskError) -> ApiError {
    use weald_trust::join::JoinFault;
    match error {
        DeskError::Fault(JoinFault::NoSuchId(id)) => {
            ApiError::unknown("join token", &id.to_string())
        }
        DeskError::Fault(_)
        | DeskError::Request(_)
        | DeskError::Taken { .. }
        | DeskError::Stranger { .. } => ApiError::unprocessable(error.to_string()),
        DeskError::Refused(_) | DeskError::Disk(_) => ApiError::internal(error),
    }
}
