//! Weald's own ways of having services run: an SLA that shall be so, and a number of instances.

use axum::Json;
use axum::extract::{Path, Query, State};
use orchestrator_core::root::{Command, MAX_INSTANCES};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::ApiState;
use super::body::Body;
use super::caller::User;
use super::error::ApiError;
use super::sla;

/// How to apply.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct ApplyQuery {
    /// How many instances of each service shall run; with none, that stays as it is.
    deploy: Option<String>,
}

/// What an SLA has led to.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Applied {
    /// The ids of the applications, in the order of the SLA.
    applications: Vec<String>,
    /// The ids of the services, in the order of the SLA.
    services: Vec<String>,
    /// The instances that were made.
    instances: Vec<String>,
    /// What was accepted, and is not acted on or in part only.
    warnings: Vec<sla::Warning>,
}

/// Makes what of an SLA is not there yet. What is there and the same stays; what is there and
/// differs is refused, and then nothing is changed.
#[utoipa::path(post, path = "/api/v1/apply", tag = "applications", params(ApplyQuery),
    request_body(content = Object, description = "an SLA"),
    responses((status = 200, body = Applied)))]
pub(super) async fn apply(
    State(state): State<ApiState>,
    user: User,
    query: Result<Query<ApplyQuery>, axum::extract::rejection::QueryRejection>,
    Body(body): Body<Value>,
) -> Result<Json<Applied>, ApiError> {
    user.must_deploy()?;
    let Query(query) = query.map_err(|error| ApiError::unprocessable(error.body_text()))?;
    let deploy = query.deploy.as_deref().map(number).transpose()?;
    let (drafts, customer) = sla::drafts(&state, &user, &body).await?;
    let warnings = sla::warnings(&body, &drafts);
    let (by, checked) = (user.clone(), drafts.clone());
    let ids = state.look(move |root, _| {
        let mut all = checked.iter();
        all.try_for_each(|draft| sla::check_id(root, &by, draft))
    });
    ids.await??;
    let command = Command::ApplyAll {
        drafts,
        organisation: customer.organisation,
        new: false,
    };
    let done = state.command(command, user.scope()).await?;
    let mut instances = Vec::new();
    if let Some(number) = deploy {
        for service in &done.services {
            let command = Command::Scale(service.clone(), number);
            let scaled = state.command(command, user.scope()).await?;
            instances.extend(scaled.instances.iter().map(ToString::to_string));
        }
    }
    Ok(Json(Applied {
        applications: done.applications,
        services: done.services,
        instances,
        warnings,
    }))
}

fn number(text: &str) -> Result<u32, ApiError> {
    let number = text.parse().ok().filter(|number| *number <= MAX_INSTANCES);
    number.ok_or_else(|| {
        let message = format!("deploy={text:?}: write a number of instances, 0 to {MAX_INSTANCES}");
        ApiError::unprocessable(message)
    })
}

/// How many instances of a service shall run.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Scale {
    /// 0 to 1000.
    instances: u32,
}

/// What scaling has led to.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Scaled {
    /// The instances that were made; those that are too many go, the newest first.
    instances: Vec<String>,
}

/// Has so many instances of a service run.
#[utoipa::path(post, path = "/api/v1/services/{id}/scale", tag = "services",
    request_body = Scale, responses((status = 200, body = Scaled)))]
pub(super) async fn scale(
    State(state): State<ApiState>,
    user: User,
    Path(id): Path<String>,
    Body(wanted): Body<Scale>,
) -> Result<Json<Scaled>, ApiError> {
    user.must_deploy()?;
    let command = Command::Scale(id, wanted.instances);
    let done = state.command(command, user.scope()).await?;
    let instances = done.instances.iter().map(ToString::to_string).collect();
    Ok(Json(Scaled { instances }))
}
