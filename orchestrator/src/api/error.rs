//! How a request is refused: the status, what is wrong and where, always as JSON.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use orchestrator_core::accounts::AccountError;
use orchestrator_core::root::CommandError;
use orchestrator_core::sla::SlaError;
use serde::Serialize;
use utoipa::ToSchema;

use crate::root::CallError;

/// What is answered instead of what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct ErrorBody {
    /// The HTTP status, as in 404.
    code: u16,
    /// Its name, as in "Not Found".
    status: String,
    /// What is wrong and what to do.
    message: String,
    /// Every fault of a document, with its place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FaultBody>,
}

/// One fault of a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct FaultBody {
    /// Where, as a JSON path.
    path: String,
    /// What.
    message: String,
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    status: StatusCode,
    message: String,
    errors: Vec<FaultBody>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            errors: Vec::new(),
        }
    }

    /// Who asks is not known.
    pub(super) fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, message)
    }

    /// Who asks may not.
    pub(super) fn forbidden(needed: &str) -> Self {
        let message = format!("You have not enough permissions! This needs the role {needed}");
        Self::new(StatusCode::FORBIDDEN, message)
    }

    /// There is no such thing, or none that the caller may know of.
    pub(super) fn unknown(kind: &str, id: &str) -> Self {
        let id: String = id.chars().take(128).collect();
        Self::new(StatusCode::NOT_FOUND, format!("there is no {kind} {id}"))
    }

    /// What was asked for makes no sense.
    pub(super) fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, message)
    }

    /// A fault of the program or its surroundings; the cause is for the log.
    pub(super) fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, "a request failed");
        let message = "root could not do this; its log says why";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    pub(super) fn body(&self) -> ErrorBody {
        ErrorBody {
            code: self.status.as_u16(),
            status: self
                .status
                .canonical_reason()
                .unwrap_or_default()
                .to_owned(),
            message: self.message.clone(),
            errors: self.errors.clone(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self.body())).into_response()
    }
}

impl From<Vec<SlaError>> for ApiError {
    fn from(faults: Vec<SlaError>) -> Self {
        let texts: Vec<_> = faults.iter().map(ToString::to_string).collect();
        let plural = if faults.len() == 1 { "" } else { "s" };
        let message = format!(
            "the SLA has {} fault{plural}, nothing was changed: {}",
            faults.len(),
            texts.join("; ")
        );
        let errors = faults.into_iter().map(|fault| FaultBody {
            path: fault.path,
            message: fault.fault.to_string(),
        });
        Self {
            errors: errors.collect(),
            ..Self::unprocessable(message)
        }
    }
}

impl From<CallError> for ApiError {
    fn from(error: CallError) -> Self {
        let message = error.to_string();
        match error {
            CallError::Command(CommandError::Unknown { .. }) => {
                Self::new(StatusCode::NOT_FOUND, message)
            }
            CallError::Command(
                CommandError::Exists { .. }
                | CommandError::Taken { .. }
                | CommandError::Revoked { .. }
                | CommandError::TooManyRevoked(_)
                | CommandError::Untold(_),
            ) => Self::new(StatusCode::CONFLICT, message),
            CallError::Command(CommandError::Addresses { .. } | CommandError::TooMany { .. }) => {
                Self::unprocessable(message)
            }
            CallError::Command(CommandError::Record(error)) => Self::internal(&error),
            CallError::Stopping(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, message),
        }
    }
}

impl From<AccountError> for ApiError {
    fn from(error: AccountError) -> Self {
        let message = error.to_string();
        match error {
            AccountError::Unknown(..) => Self::new(StatusCode::NOT_FOUND, message),
            AccountError::UserName(_)
            | AccountError::OrganisationName(..)
            | AccountError::Role(_) => Self::unprocessable(message),
            AccountError::Exists(..)
            | AccountError::LastAdmin(_)
            | AccountError::RootStays
            | AccountError::NotEmpty(..)
            | AccountError::Renamed(_)
            | AccountError::TooMany(..) => Self::new(StatusCode::CONFLICT, message),
            AccountError::WrongSecret => Self::unauthorized(message),
            AccountError::Record(error) => Self::internal(&error),
        }
    }
}
