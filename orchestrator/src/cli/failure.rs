//! Why a command failed, and the exit code that says so to scripts.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

/// What went wrong where more is known than a text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// The command line is right, but what it says makes no sense.
    #[error("{0}")]
    Usage(String),
    /// Root does not answer.
    #[error(
        "root at {root} does not answer: {cause}; start it with `weald root`, or name another with `weald login --root`"
    )]
    Silent {
        /// Its address.
        root: String,
        /// What happened instead.
        cause: String,
    },
    /// There is no such thing.
    #[error("there is no {kind} {name}; `{list}` shows what there is")]
    Unknown {
        kind: &'static str,
        name: String,
        list: &'static str,
    },
    /// Instances fit nowhere as things are.
    #[error(
        "{fewer} of {all} instances fit nowhere; make room, change the SLA, or wait with --wait\n{why}"
    )]
    Unplaced {
        /// How many.
        fewer: usize,
        /// Of how many.
        all: usize,
        /// Every reason.
        why: String,
    },
    /// Root refuses.
    #[error("{}", refused(message, faults))]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What root says of it.
        message: String,
        /// Every fault of the document that was sent.
        faults: Vec<Fault>,
    },
}

/// One fault of a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fault {
    /// Where, as a JSON path.
    pub(super) path: String,
    /// What.
    pub(super) message: String,
}

/// The kind of a failure; its number is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Failed = 1,
    Usage = 2,
    Silent = 3,
    NotFound = 4,
    Unplaced = 5,
}

impl Kind {
    fn of(error: &anyhow::Error) -> Self {
        match error.downcast_ref::<Failure>() {
            Some(Failure::Usage(_)) => Self::Usage,
            Some(Failure::Silent { .. }) => Self::Silent,
            Some(Failure::Unknown { .. } | Failure::Refused { status: 404, .. }) => Self::NotFound,
            Some(Failure::Unplaced { .. }) => Self::Unplaced,
            Some(Failure::Refused { .. }) | None => Self::Failed,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Silent => "silent",
            Self::NotFound => "not_found",
            Self::Unplaced => "fits_nowhere",
        }
    }
}

/// Says on standard error what went wrong.
pub(super) fn report(error: &anyhow::Error, json: bool) -> ExitCode {
    let kind = Kind::of(error);
    if json {
        eprintln!("{}", as_json(error, kind));
    } else {
        eprintln!("weald: {error:#}");
    }
    ExitCode::from(kind as u8)
}

fn as_json(error: &anyhow::Error, kind: Kind) -> serde_json::Value {
    let mut body = serde_json::json!({ "code": kind.word(), "message": format!("{error:#}") });
    if let Some(Failure::Refused {
        status,
        message,
        faults,
    }) = error.downcast_ref::<Failure>()
    {
        body["status"] = (*status).into();
        body["message"] = message.as_str().into();
        body["errors"] = serde_json::json!(faults);
    }
    serde_json::json!({ "error": body })
}

/// Root's message, with every fault on a line of its own.
fn refused(message: &str, faults: &[Fault]) -> String {
    let lines: Vec<_> = faults
        .iter()
        .map(|it| format!("{}: {}", it.path, it.message))
        .collect();
    // The message may end with the same faults, one after the other.
    let mut text = message
        .strip_suffix(&lines.join("; "))
        .unwrap_or(message)
        .trim_end()
        .to_owned();
    for line in lines {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n  {line}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(path: &str, message: &str) -> Fault {
        Fault {
            path: path.to_owned(),
            message: message.to_owned(),
        }
    }

    fn refusal(status: u16, message: &str, faults: Vec<Fault>) -> anyhow::Error {
        let message = message.to_owned();
        Failure::Refused {
            status,
            message,
            faults,
        }
        .into()
    }

    #[test]
    fn each_fault_has_a_line_and_is_said_once() {
        let faults = vec![fault("$.a", "is missing"), fault("$.b[0]", "is no number")];
        let message = "the SLA has 2 faults: $.a: is missing; $.b[0]: is no number";
        let text = refusal(422, message, faults.clone()).to_string();
        assert_eq!(
            text,
            "the SLA has 2 faults:\n  $.a: is missing\n  $.b[0]: is no number"
        );
        let text = refusal(422, "no", faults).to_string();
        assert_eq!(text, "no\n  $.a: is missing\n  $.b[0]: is no number");
        assert_eq!(refusal(409, "taken", Vec::new()).to_string(), "taken");
    }

    #[test]
    fn scripts_can_tell_failures_apart() {
        let silent = Failure::Silent {
            root: "http://127.0.0.1:1".to_owned(),
            cause: "refused".to_owned(),
        };
        let unknown = Failure::Unknown {
            kind: "application",
            name: "a.b".to_owned(),
            list: "weald app get",
        };
        for (error, code) in [
            (anyhow::Error::from(silent).context("asking"), 3),
            (unknown.into(), 4),
            (refusal(404, "no", Vec::new()), 4),
            (refusal(422, "no", Vec::new()), 1),
            (anyhow::anyhow!("disk"), 1),
            (Failure::Usage("no".to_owned()).into(), 2),
        ] {
            assert_eq!(Kind::of(&error) as u8, code, "{error:#}");
        }
    }

    #[test]
    fn json_has_root_s_words_and_every_fault() {
        let error = refusal(422, "bad: $.a: x", vec![fault("$.a", "x")]);
        let value = as_json(&error, Kind::of(&error));
        assert_eq!(value["error"]["code"], "failed");
        assert_eq!(value["error"]["status"], 422);
        assert_eq!(value["error"]["message"], "bad: $.a: x");
        assert_eq!(value["error"]["errors"][0]["path"], "$.a");
    }
}
