//! Clusters: in Oakestra's shape, in ours, and their removal. How they join is `tokens`'.

use axum::Json;
use axum::extract::{Path, State};
use orchestrator_core::root::{ClusterState, Command};
use serde::Serialize;
use utoipa::ToSchema;
use weald_proto::control::{Aggregate, Standing};
use weald_proto::id::Label;
use weald_proto::join::JoinRole;

use super::ApiState;
use super::caller::{Reader, User};
use super::error::ApiError;
use super::shapes::{ClusterView, Message};

/// Every cluster that one may know of. On loopback this needs no token.
#[utoipa::path(get, path = "/api/clusters", tag = "clusters",
    responses((status = 200, body = Vec<ClusterView>)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    reader: Reader,
) -> Result<Json<Vec<ClusterView>>, ApiError> {
    views(&state, reader, false).await.map(Json)
}

/// The clusters that are connected. On loopback this needs no token.
#[utoipa::path(get, path = "/api/clusters/active", tag = "clusters",
    responses((status = 200, body = Vec<ClusterView>)))]
pub(super) async fn list_active(
    State(state): State<ApiState>,
    reader: Reader,
) -> Result<Json<Vec<ClusterView>>, ApiError> {
    views(&state, reader, true).await.map(Json)
}

async fn views(
    state: &ApiState,
    reader: Reader,
    active: bool,
) -> Result<Vec<ClusterView>, ApiError> {
    let views = state.look(move |root, _| {
        root.clusters()
            .filter(|(cluster, ..)| reader.sees(cluster))
            .map(|(cluster, standing, sums, _)| {
                ClusterView::new(cluster, standing, sums, root.last_known(cluster))
            })
            .filter(|view| view.active || !active)
            .collect()
    });
    views.await
}

/// A cluster.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct ClusterStatus {
    name: String,
    /// `alive`, `suspect`, `dead` or `gone`.
    #[schema(value_type = String)]
    standing: Standing,
    /// The organisation that owns it; null if that is another one's affair.
    owner: Option<String>,
    /// The organisations whose instances may run there, of those that one may know of; null means all.
    organisations: Option<Vec<String>>,
    /// The blocks of instance addresses that it was granted.
    blocks: Vec<String>,
    nodes: u32,
    millicpus: u32,
    free_millicpus: u32,
    memory_mib: u32,
    free_memory_mib: u32,
}

impl ClusterStatus {
    fn new(
        cluster: &ClusterState,
        standing: Standing,
        sums: Option<&Aggregate>,
        user: &User,
    ) -> Self {
        let sums = sums.cloned().unwrap_or_default();
        let scope = user.scope();
        // Who owns a cluster knows whom it lets in.
        let owns = scope.has(&cluster.owner);
        let hosts = cluster.organisations.as_ref();
        let hosts = hosts.map(|all| all.iter().filter(|it| owns || scope.has(it)));
        Self {
            name: cluster.name.to_string(),
            standing,
            owner: owns.then(|| cluster.owner.to_string()),
            organisations: hosts.map(|all| all.map(ToString::to_string).collect()),
            blocks: cluster.blocks.iter().map(ToString::to_string).collect(),
            nodes: sums.nodes,
            millicpus: sums.total.millicpus,
            free_millicpus: sums.free.millicpus,
            memory_mib: sums.total.memory_mib,
            free_memory_mib: sums.free.memory_mib,
        }
    }
}

/// Every cluster that one may know of.
#[utoipa::path(get, path = "/api/v1/clusters", tag = "clusters",
    responses((status = 200, body = Vec<ClusterStatus>)))]
pub(super) async fn statuses(
    State(state): State<ApiState>,
    user: User,
) -> Result<Json<Vec<ClusterStatus>>, ApiError> {
    let views = state.look(move |root, _| {
        root.clusters()
            .filter(|(cluster, ..)| user.0.sees(cluster))
            .map(|(cluster, standing, sums, _)| ClusterStatus::new(cluster, standing, sums, &user))
            .collect()
    });
    views.await.map(Json)
}

/// Removes a cluster: what ran there is placed anew, and its name may be joined with again.
#[utoipa::path(delete, path = "/api/v1/clusters/{name}", tag = "clusters",
    responses((status = 200, body = Message)))]
pub(super) async fn remove(
    State(state): State<ApiState>,
    user: User,
    Path(name): Path<String>,
) -> Result<Json<Message>, ApiError> {
    user.must_operate()?;
    let label = Label::new(&name).map_err(|_| ApiError::unknown("cluster", &name))?;
    let command = Command::RemoveCluster(label.clone());
    state.command(command, user.scope()).await?;
    let forget = move |desk: &crate::join::JoinDesk| desk.forget(JoinRole::Cluster, &label);
    super::tokens::at_desk(&state, forget).await?;
    Ok(Message::new("Cluster removed"))
}
