//! Plain JSON, or JSON within a JSON string for the clients of Oakestra that expect that.

use std::convert::Infallible;

use axum::Json;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::error::ApiError;

/// The header by which the double encoding is asked for; its value is `string`.
const HEADER: &str = "x-oakestra-encoding";
/// The same, in a query.
const QUERY: &str = "encoding=string";

/// How an answer is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// As JSON.
    Plain,
    /// As a JSON string that contains JSON.
    Doubled,
}

impl Encoding {
    /// Writes an answer.
    pub(super) fn answer(self, value: &impl Serialize) -> Response {
        match self {
            Self::Plain => Json(value).into_response(),
            Self::Doubled => match serde_json::to_string(value) {
                Ok(text) => Json(text).into_response(),
                Err(error) => ApiError::internal(&error).into_response(),
            },
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Encoding {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let header = parts.headers.get(HEADER);
        let query = parts.uri.query().unwrap_or_default();
        let doubled = header.is_some_and(|value| value.as_bytes() == b"string")
            || query.split('&').any(|pair| pair == QUERY);
        Ok(if doubled { Self::Doubled } else { Self::Plain })
    }
}
