//! The routes, and the document that describes them. It is committed as `docs/openapi.json`.

use axum::Router;
use utoipa::OpenApi;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Ref, ResponseBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::ApiState;
use super::error::{ErrorBody, FaultBody};
use super::{
    applications, auth, clusters, deployments, observe, organisations, revocations, services,
    tokens, users,
};

/// The name of how one shows who one is.
const BEARER: &str = "bearer";
/// What can be asked for without a token: to get one; and on loopback, what is marked there.
const OPEN: [&str; 2] = ["/api/auth/login", "/api/v1/auth/first"];

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Weald",
        description = "Root's REST API: Oakestra's routes under /api, Weald's own under /api/v1. Every route stands with and without a slash at its end. With the header `X-Oakestra-Encoding: string` or the query `encoding=string`, the answers about applications, services and organisations are JSON within a JSON string, as some clients of Oakestra expect."
    ),
    components(schemas(ErrorBody, FaultBody))
)]
struct Base;

fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::with_openapi(Base::openapi())
        .routes(routes!(auth::login))
        .routes(routes!(auth::refresh))
        .routes(routes!(auth::register))
        .routes(routes!(auth::first))
        .routes(routes!(applications::create))
        .routes(routes!(
            applications::read,
            applications::change,
            applications::remove
        ))
        .routes(routes!(applications::list))
        .routes(routes!(applications::list_of))
        .routes(routes!(services::create))
        .routes(routes!(services::read, services::change, services::remove))
        .routes(routes!(services::list))
        .routes(routes!(services::list_of))
        .routes(routes!(services::deploy))
        .routes(routes!(services::undeploy))
        .routes(routes!(clusters::list))
        .routes(routes!(clusters::list_active))
        .routes(routes!(users::list))
        .routes(routes!(users::list_of))
        .routes(routes!(
            users::read,
            users::change,
            users::change_password,
            users::remove
        ))
        .routes(routes!(users::permissions))
        .routes(routes!(organisations::list, organisations::create))
        .routes(routes!(organisations::change, organisations::remove))
        .routes(routes!(deployments::apply))
        .routes(routes!(deployments::scale))
        .routes(routes!(observe::status))
        .routes(routes!(observe::instances))
        .routes(routes!(observe::explain))
        .routes(routes!(observe::logs))
        .routes(routes!(observe::nodes))
        .routes(routes!(observe::metrics))
        .routes(routes!(clusters::statuses))
        .routes(routes!(clusters::remove))
        .routes(routes!(revocations::list, revocations::revoke))
        .routes(routes!(tokens::create, tokens::list))
        .routes(routes!(tokens::remove))
        .route(DOCUMENT, axum::routing::get(read))
}

/// Where the document can be read.
const DOCUMENT: &str = "/docs/openapi.json";

async fn read() -> axum::Json<utoipa::openapi::OpenApi> {
    axum::Json(document())
}

/// All routes.
pub(super) fn routes() -> Router<ApiState> {
    router().split_for_parts().0
}

/// The description of every route, made from the code.
#[must_use]
pub fn document() -> utoipa::openapi::OpenApi {
    let (_, mut document) = router().split_for_parts();
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .build();
    if let Some(components) = document.components.as_mut() {
        components.add_security_scheme(BEARER, SecurityScheme::Http(scheme));
    }
    for (path, item) in &mut document.paths.paths {
        let operations = [
            &mut item.get,
            &mut item.post,
            &mut item.put,
            &mut item.delete,
        ];
        for operation in operations.into_iter().flatten() {
            describe(path, operation);
        }
    }
    document
}

/// Adds what holds for every route: how it is refused, and who may ask.
fn describe(path: &str, operation: &mut Operation) {
    let body = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("ErrorBody")))
        .build();
    let refused = ResponseBuilder::new()
        .description("What is wrong and what to do")
        .content("application/json", body)
        .build();
    let responses = &mut operation.responses.responses;
    responses.insert("default".to_owned(), refused.into());
    if !OPEN.contains(&path) {
        let none: [&str; 0] = [];
        operation.security = Some(vec![SecurityRequirement::new(BEARER, none)]);
    }
}
