//! Applications, as Oakestra has them.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use orchestrator_core::root::{Command, Scope};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::ApiState;
use super::body::Body;
use super::caller::User;
use super::encoding::Encoding;
use super::error::ApiError;
use super::shapes::{ApplicationView, Message, applications};
use super::sla;

/// Makes the applications of an SLA with their services, and answers with all applications of the
/// user. Nothing is deployed.
#[utoipa::path(post, path = "/api/application", tag = "applications",
    request_body(content = Object, description = "an SLA"),
    responses((status = 200, body = Vec<ApplicationView>)))]
pub(super) async fn create(
    State(state): State<ApiState>,
    user: User,
    encoding: Encoding,
    Body(body): Body<Value>,
) -> Result<Response, ApiError> {
    user.must_deploy()?;
    let (drafts, customer) = sla::drafts(&state, &user, &body).await?;
    if let Some(id) = drafts.iter().find_map(|draft| draft.id.as_deref()) {
        let message =
            format!("$.applications: root gives ids; leave applicationID empty, not {id:?}");
        return Err(ApiError::unprocessable(message));
    }
    let command = Command::ApplyAll {
        drafts,
        organisation: customer.organisation,
        new: true,
    };
    state.command(command, user.scope()).await?;
    let views = of_user(&state, user.scope(), Some(customer.user)).await?;
    Ok(encoding.answer(&views))
}

/// An application.
#[utoipa::path(get, path = "/api/application/{id}", tag = "applications",
    responses((status = 200, body = ApplicationView)))]
pub(super) async fn read(
    State(state): State<ApiState>,
    user: User,
    encoding: Encoding,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let scope = user.scope();
    let wanted = id.clone();
    let view = state.look(move |root, _| {
        let found = applications(root, &scope).find(|it| it.id == wanted);
        found.map(|it| ApplicationView::new(root, it))
    });
    let view = view.await?;
    let view = view.ok_or_else(|| ApiError::unknown("application", &id))?;
    Ok(encoding.answer(&view))
}

/// What of an application can be changed. Its name stands in the names of its services, and is the
/// one that it has; services are changed by their own routes.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct ApplicationChange {
    application_name: Option<String>,
    application_namespace: Option<String>,
    application_desc: Option<String>,
}

/// Describes an application.
#[utoipa::path(put, path = "/api/application/{id}", tag = "applications",
    request_body = ApplicationChange, responses((status = 200, body = Message)))]
pub(super) async fn change(
    State(state): State<ApiState>,
    user: User,
    Path(id): Path<String>,
    Body(change): Body<ApplicationChange>,
) -> Result<Json<Message>, ApiError> {
    user.must_deploy()?;
    let (scope, wanted) = (user.scope(), id.clone());
    let name = state.look(move |root, _| {
        let found = applications(root, &scope).find(|it| it.id == wanted);
        found.map(|it| it.name.clone())
    });
    let name = name.await?;
    let name = name.ok_or_else(|| ApiError::unknown("application", &id))?;
    let same = |given: &Option<String>, has: &weald_proto::id::Label| {
        let given = given.as_deref();
        given.is_none_or(|given| given.eq_ignore_ascii_case(has.as_str()))
    };
    if !same(&change.application_name, &name.name)
        || !same(&change.application_namespace, &name.namespace)
    {
        let message = format!("application {name} cannot be renamed; make another one instead");
        return Err(ApiError::unprocessable(message));
    }
    if let Some(description) = change.application_desc {
        let command = Command::Describe(id, description);
        state.command(command, user.scope()).await?;
    }
    Ok(Message::new("Application is updated"))
}

/// Removes an application with its services and their instances.
#[utoipa::path(delete, path = "/api/application/{id}", tag = "applications",
    responses((status = 200, body = Message)))]
pub(super) async fn remove(
    State(state): State<ApiState>,
    user: User,
    Path(id): Path<String>,
) -> Result<Json<Message>, ApiError> {
    user.must_deploy()?;
    let command = Command::DeleteApplication(id);
    state.command(command, user.scope()).await?;
    Ok(Message::new("Application Deleted"))
}

/// Every application that one may see.
#[utoipa::path(get, path = "/api/applications", tag = "applications",
    responses((status = 200, body = Vec<ApplicationView>)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    user: User,
    encoding: Encoding,
) -> Result<Response, ApiError> {
    let views = of_user(&state, user.scope(), None).await?;
    Ok(encoding.answer(&views))
}

/// The applications that a user has made; one's own, by name or id.
#[utoipa::path(get, path = "/api/applications/{user}", tag = "applications",
    responses((status = 200, body = Vec<ApplicationView>)))]
pub(super) async fn list_of(
    State(state): State<ApiState>,
    user: User,
    encoding: Encoding,
    Path(wanted): Path<String>,
) -> Result<Response, ApiError> {
    let own = wanted == user.name() || wanted == user.0.user().id;
    let name = if own {
        user.name().to_owned()
    } else if user.0.is_admin() {
        super::users::name_of(&state, &wanted).await?
    } else {
        return Err(ApiError::unauthorized(
            "one can list one's own applications only",
        ));
    };
    let views = of_user(&state, user.scope(), Some(name)).await?;
    Ok(encoding.answer(&views))
}

async fn of_user(
    state: &ApiState,
    scope: Scope,
    user: Option<String>,
) -> Result<Vec<ApplicationView>, ApiError> {
    let views = state.look(move |root, _| {
        applications(root, &scope)
            .filter(|it| user.as_ref().is_none_or(|user| it.customer == *user))
            .map(|it| ApplicationView::new(root, it))
            .collect()
    });
    views.await
}
