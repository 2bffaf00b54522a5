//! The body of a request, as JSON of a limited size.

use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use serde::de::DeserializeOwned;

use super::error::ApiError;

/// Bytes of the longest body: as long as the longest SLA.
pub(super) const MAX_BODY: usize = orchestrator_core::sla::MAX_BYTES;

/// How long a body may take to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// A body that was read.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let header = |name| parts.headers.get(name).and_then(|it| it.to_str().ok());
        let kind = header(&CONTENT_TYPE).unwrap_or_default();
        let plain = kind.split(';').next().unwrap_or_default().trim();
        if !plain.eq_ignore_ascii_case("application/json") {
            let message = format!("send JSON, with Content-Type: application/json, not {kind:?}");
            return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
        let length = header(&CONTENT_LENGTH).and_then(|it| it.parse::<usize>().ok());
        if length.is_some_and(|length| length > MAX_BODY) {
            return Err(too_long());
        }
        let bytes = tokio::time::timeout(PATIENCE, to_bytes(body, MAX_BODY)).await;
        let bytes = bytes.map_err(|_| {
            let message = format!("the body did not come within {} s", PATIENCE.as_secs());
            ApiError::new(StatusCode::REQUEST_TIMEOUT, message)
        })?;
        let bytes = bytes.map_err(|_| too_long())?;
        let read = serde_json::from_slice(&bytes);
        read.map(Self).map_err(|error| {
            let message = format!("the body cannot be read: {error}");
            let status = match error.classify() {
                serde_json::error::Category::Data => StatusCode::UNPROCESSABLE_ENTITY,
                serde_json::error::Category::Io
                | serde_json::error::Category::Syntax
                | serde_json::error::Category::Eof => StatusCode::BAD_REQUEST,
            };
            ApiError::new(status, message)
        })
    }
}

fn too_long() -> ApiError {
    let message = format!(
        "the body is longer than {MAX_BODY} bytes, or was cut off; send several smaller ones"
    );
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
}
