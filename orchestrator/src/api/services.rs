//! Services and their instances, as Oakestra has them.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use orchestrator_core::root::Command;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::ApiState;
use super::body::Body;
use super::caller::User;
use super::encoding::Encoding;
use super::error::ApiError;
use super::shapes::{self, Message, ServiceView, applications};
use super::sla;

/// What became of the services of an SLA.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Registered {
    /// The id of the last one.
    job_id: String,
    deployed_services: Vec<RegisteredService>,
    /// Always empty: either all services are registered, or none.
    failed_services: Vec<RegisteredService>,
    /// What was accepted, and is not acted on or in part only.
    warnings: Vec<sla::Warning>,
}

/// What became of one service.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct RegisteredService {
    service_name: String,
    status: u16,
}

/// Adds the services of an SLA to the application that it names by its id. Nothing is deployed.
#[utoipa::path(post, path = "/api/service", tag = "services",
    request_body(content = Object, description = "an SLA with the applicationID of one application"),
    responses((status = 200, body = Registered)))]
pub(super) async fn create(
    State(state): State<ApiState>,
    user: User,
    Body(body): Body<Value>,
) -> Result<Json<Registered>, ApiError> {
    user.must_deploy()?;
    let id = body.pointer("/applications/0/applicationID");
    let id = id.and_then(Value::as_str).filter(|id| !id.is_empty());
    let Some(id) = id.map(ToOwned::to_owned) else {
        let message =
            "$.applications[0].applicationID: is missing; write the id of the application";
        return Err(ApiError::unprocessable(message));
    };
    let scope = user.scope();
    let (wanted, seen) = (id.clone(), scope.clone());
    let known = state.look(move |root, _| {
        let mut all = applications(root, &seen);
        all.find(|it| it.id == wanted).cloned()
    });
    let known = known.await?;
    let known = known.ok_or_else(|| ApiError::unknown("application", &id))?;
    let place = (&known.organisation, &known.name);
    let drafts = sla::drafts_for(&state, &user, &body, place).await?;
    let [draft] = drafts.as_slice() else {
        let message = "$.applications: name one application only, that of the services";
        return Err(ApiError::unprocessable(message));
    };
    if draft.name != known.name {
        let message = format!(
            "$.applications[0]: application {id} is {}, not {}",
            known.name, draft.name
        );
        return Err(ApiError::unprocessable(message));
    }
    let names = draft.services.iter().map(|it| RegisteredService {
        service_name: it.spec.name.name.to_string(),
        status: 200,
    });
    let deployed_services = names.collect();
    let warnings = sla::warnings(&body, &drafts);
    let command = Command::ApplyAll {
        drafts,
        organisation: known.organisation,
        new: false,
    };
    let done = state.command(command, scope).await?;
    Ok(Json(Registered {
        job_id: done.services.last().cloned().unwrap_or_default(),
        deployed_services,
        failed_services: Vec::new(),
        warnings,
    }))
}

/// A service with its instances.
#[utoipa::path(get, path = "/api/service/{id}", tag = "services",
    responses((status = 200, body = ServiceView)))]
pub(super) async fn read(
    State(state): State<ApiState>,
    user: User,
    encoding: Encoding,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let (scope, wanted) = (user.scope(), id.clone());
    let view = state.look(move |root, _| shapes::service(root, &scope, &wanted));
    let view = view.await?;
    let view = view.ok_or_else(|| ApiError::unknown("service", &id))?;
    Ok(encoding.answer(&view))
}

/// Not implemented: a service that is to be another is deleted and made anew.
#[utoipa::path(put, path = "/api/service/{id}", tag = "services",
    responses((status = 501, body = Message)))]
pub(super) async fn change(_user: User, Path(id): Path<String>) -> ApiError {
    let message = format!("Not implemented: delete service {id}, and make it anew");
    ApiError::new(StatusCode::NOT_IMPLEMENTED, message)
}

/// Removes a service with its instances.
#[utoipa::path(delete, path = "/api/service/{id}", tag = "services",
    responses((status = 200, body = Message)))]
pub(super) async fn remove(
    State(state): State<ApiState>,
    user: User,
    Path(id): Path<String>,
) -> Result<Json<Message>, ApiError> {
    user.must_deploy()?;
    let command = Command::DeleteService(id);
    state.command(command, user.scope()).await?;
    Ok(Message::new("Job deleted"))
}

/// Every service that one may see.
#[utoipa::path(get, path = "/api/services", tag = "services",
    responses((status = 200, body = Vec<ServiceView>)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    user: User,
    encoding: Encoding,
) -> Result<Response, ApiError> {
    let scope = user.scope();
    let views = state.look(move |root, _| shapes::services(root, &scope, None));
    Ok(encoding.answer(&views.await?))
}

/// The services of an application.
#[utoipa::path(get, path = "/api/services/{application}", tag = "services",
    responses((status = 200, body = Vec<ServiceView>)))]
pub(super) async fn list_of(
    State(state): State<ApiState>,
    user: User,
    encoding: Encoding,
    Path(application): Path<String>,
) -> Result<Response, ApiError> {
    let (scope, id) = (user.scope(), application.clone());
    let views = state.look(move |root, _| {
        applications(root, &scope).find(|it| it.id == id)?;
        Some(shapes::services(root, &scope, Some(&id)))
    });
    let views = views.await?;
    let views = views.ok_or_else(|| ApiError::unknown("application", &application))?;
    Ok(encoding.answer(&views))
}

/// Deploys one more instance; a body is not looked at.
#[utoipa::path(post, path = "/api/service/{id}/instance", tag = "services",
    responses((status = 200, body = Message)))]
pub(super) async fn deploy(
    State(state): State<ApiState>,
    user: User,
    Path(id): Path<String>,
) -> Result<Json<Message>, ApiError> {
    user.must_deploy()?;
    let command = Command::Deploy(id);
    state.command(command, user.scope()).await?;
    Ok(Message::new("ok"))
}

/// Undeploys an instance by its number, or all of them by -1.
#[utoipa::path(delete, path = "/api/service/{id}/instance/{number}", tag = "services",
    responses((status = 200, body = Message)))]
pub(super) async fn undeploy(
    State(state): State<ApiState>,
    user: User,
    Path((id, number)): Path<(String, String)>,
) -> Result<Json<Message>, ApiError> {
    user.must_deploy()?;
    let number = match number.as_str() {
        "-1" => None,
        text => match text.parse() {
            Ok(number) => Some(number),
            Err(_) => {
                let message = format!("{text:?} is no number of an instance; -1 means all");
                return Err(ApiError::unprocessable(message));
            }
        },
    };
    let command = Command::Undeploy(id, number);
    state.command(command, user.scope()).await?;
    Ok(Message::new("ok"))
}
