//! What stands around every route: whom the request is addressed to and from which page it comes,
//! how long it may take, that it is counted, and that even what is unknown is answered as JSON.
//!
//! `Host` must be a name of this host, so that no foreign name that is made to point here works
//! from a browser; `Origin`, which browsers send, must be this very server. There is no CORS.

use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::{Authority, PathAndQuery};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tower::util::MapRequest;

use super::ApiState;
use super::error::ApiError;
use super::peer::Peer;

/// How long a request may take in all, its body included.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Makes a service of the routes.
pub(super) fn around(routes: Router<ApiState>, state: ApiState) -> Router {
    let routes = routes
        .fallback(unknown)
        .method_not_allowed_fallback(not_allowed)
        .layer(middleware::from_fn_with_state(state.clone(), guard))
        .with_state(state);
    // Before any route is looked for: the slash at the end is taken away.
    Router::new().fallback_service(MapRequest::new(routes, without_slash))
}

async fn unknown(uri: Uri) -> ApiError {
    ApiError::unknown("route", uri.path())
}

async fn not_allowed(method: Method, uri: Uri) -> ApiError {
    let message = format!("{method} is not possible on {}", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
}

async fn guard(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let answer = match check(&state, &request) {
        Err(error) => error.into_response(),
        Ok(()) => match tokio::time::timeout(TIMEOUT, next.run(request)).await {
            Ok(response) => response,
            Err(_) => {
                let message = format!("this took longer than {} s", TIMEOUT.as_secs());
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message).into_response()
            }
        },
    };
    let route = route.as_ref().map_or("other", MatchedPath::as_str);
    let status = answer.status();
    let metrics = &state.0.metrics;
    metrics.count_request(&method, route, status, began.elapsed());
    answer
}

fn check(state: &ApiState, request: &Request) -> Result<(), ApiError> {
    let Some(peer) = request.extensions().get::<Peer>() else {
        return Err(ApiError::internal(&"a request came on no connection"));
    };
    let bad = |message: String| ApiError::new(StatusCode::BAD_REQUEST, message);
    let host = authority(request.headers().get(HOST))
        .ok_or_else(|| bad("the request needs a header Host".to_owned()))?;
    if !is_own(&host, peer, &state.settings().names) {
        let message = format!(
            "this is not {}; ask it as localhost or by its address, or have root know that name",
            host.host()
        );
        return Err(ApiError::new(StatusCode::MISDIRECTED_REQUEST, message));
    }
    let Some(origin) = request.headers().get(ORIGIN) else {
        return Ok(());
    };
    let scheme = if peer.tls { "https://" } else { "http://" };
    let same = origin
        .to_str()
        .ok()
        .and_then(|text| text.strip_prefix(scheme));
    if same.is_some_and(|origin| origin.eq_ignore_ascii_case(host.as_str())) {
        Ok(())
    } else {
        let message = "pages of other origins may not ask this API";
        Err(ApiError::new(StatusCode::FORBIDDEN, message))
    }
}

fn authority(host: Option<&HeaderValue>) -> Option<Authority> {
    host?.to_str().ok()?.parse().ok()
}

/// Whether a request for this host is for us: by a name of loopback, by the address at which it
/// arrived, or by a name that was configured.
fn is_own(host: &Authority, peer: &Peer, names: &[String]) -> bool {
    let host = host.host().trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = host.parse::<std::net::IpAddr>() {
        return ip.is_loopback() || ip == peer.local.ip().to_canonical();
    }
    let own = |name: &str| host.eq_ignore_ascii_case(name);
    own("localhost") || names.iter().any(|name| own(name))
}

fn without_slash(mut request: Request) -> Request {
    let path = request.uri().path();
    if path.len() > 1 && path.ends_with('/') {
        let path = path.trim_end_matches('/');
        let path = if path.is_empty() { "/" } else { path };
        let whole = match request.uri().query() {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        let mut parts = request.uri().clone().into_parts();
        if let Ok(whole) = whole.parse::<PathAndQuery>() {
            parts.path_and_query = Some(whole);
            if let Ok(uri) = Uri::from_parts(parts) {
                *request.uri_mut() = uri;
            }
        }
    }
    request
}
