//! Why a command failed, and the exit code that says so to scripts.

use std::process::ExitCode;

use crate::api::client::ClientError;
use crate::api::message::ErrorCode;
use crate::config::ConfigErrors;

/// The kind of a failure; its number is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Failed = 1,
    Usage = 2,
    NotRunning = 3,
    NotFound = 4,
    Refused = 5,
    Config = 6,
    NoReply = 7,
}

impl Kind {
    const fn word(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::NotRunning => "not_running",
            Self::NotFound => "not_found",
            Self::Refused => "refused",
            Self::Config => "config",
            Self::NoReply => "no_reply",
        }
    }
}

/// A failed command.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    pub(super) error: anyhow::Error,
}

impl Failure {
    pub(super) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            error: anyhow::Error::msg(message.into()),
        }
    }

    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind as u8)
    }

    /// Says on standard error what went wrong.
    pub(super) fn report(&self, json: bool) {
        if json {
            let error = serde_json::json!({
                "error": { "code": self.kind.word(), "message": format!("{:#}", self.error) }
            });
            eprintln!("{error}");
        } else {
            eprintln!("netmanager: {:#}", self.error);
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        // An error from the daemon's start may be about its configuration.
        let config = error.downcast_ref::<ConfigErrors>().is_some();
        let kind = if config { Kind::Config } else { Kind::Failed };
        Self { kind, error }
    }
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Self {
        Self {
            kind: Kind::Config,
            error: errors.into(),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self {
            kind: Kind::Failed,
            error: error.into(),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let kind = match &error {
            ClientError::NotRunning { .. } => Kind::NotRunning,
            ClientError::NoPermission { .. } => Kind::Refused,
            ClientError::Broken(_) | ClientError::Answer(_) => Kind::Failed,
            ClientError::Api(api) => match api.code {
                ErrorCode::BadRequest => Kind::Usage,
                ErrorCode::NotFound => Kind::NotFound,
                ErrorCode::Refused => Kind::Refused,
                ErrorCode::Busy
                | ErrorCode::Unavailable
                | ErrorCode::Conflict
                | ErrorCode::Failed => Kind::Failed,
            },
        };
        Self {
            kind,
            error: error.into(),
        }
    }
}
