//! Requests and answers of the local API, one a line of JSON.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::hosting::{AttachedReport, Attachment, BenchOffer};
use super::inspect::{FlowFilter, KnockQuery};
use super::report::{
    DropCounter, EchoReport, Explanation, FlowReport, NetworkReport, PeerReport, Status,
};

/// The longest request: a name has at most 253 characters, so this is far more than any needs.
pub const MAX_REQUEST_BYTES: usize = 64 << 10;

/// The longest answer that a client reads: 4096 flows take about 3 MB.
pub const MAX_ANSWER_BYTES: u64 = 16 << 20;

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How is the daemon?
    Status {},
    /// Which peers are known?
    Peers {},
    /// Which flows are open?
    Flows {
        /// Which of them.
        #[serde(default)]
        filter: FlowFilter,
    },
    /// What does this name mean, and what would each policy pick now?
    Explain {
        /// A semantic name, with or without zone, short or whole.
        name: String,
        /// The local instance on whose behalf to ask; none means the host's programs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<String>,
    },
    /// How many packets were dropped, by reason?
    Counters {},
    /// Which network is this node in, and which relays see it?
    Network {},
    /// A frame by which a relay is made to send this node a datagram; whoever sends it sees from
    /// where and whether one comes.
    Knock(KnockQuery),
    /// Host this instance: make its namespace, its device and its rules. Needs root or the daemon's
    /// user. The same again changes nothing.
    Attach(Attachment),
    /// Host this instance no more. Needs root or the daemon's user. One that is not attached is no
    /// fault.
    Detach {
        /// The instance.
        instance: String,
        /// Only if it is attached in that life or an older one; none means any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        generation: Option<u64>,
    },
    /// Which instances are attached?
    Attached {},
    /// Send an echo into the overlay. In userspace mode only: else programs do that themselves.
    Echo {
        /// Where to: an address of the overlay.
        destination: IpAddr,
        /// Tells askers apart.
        id: u16,
        /// Its number.
        sequence: u16,
        /// How long to wait for what becomes of it; eight seconds at most.
        timeout_ms: u32,
    },
    /// Have a peer answer load. Needs root or the daemon's user.
    Bench {
        /// Which peer, as `cluster/name`.
        peer: String,
        /// For how many seconds at most.
        seconds: u32,
    },
}

/// The answer to a [`Request`], or why there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", content = "data", rename_all = "snake_case")]
pub enum Answer {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Peers`].
    Peers(Vec<PeerReport>),
    /// To [`Request::Flows`].
    Flows(Vec<FlowReport>),
    /// To [`Request::Explain`].
    Explanation(Explanation),
    /// To [`Request::Counters`].
    Counters(Vec<DropCounter>),
    /// To [`Request::Network`].
    Network(Box<NetworkReport>),
    /// To [`Request::Knock`]; none if the relay is not up.
    Knock(Option<Vec<u8>>),
    /// To [`Request::Attach`].
    Attached(Box<AttachedReport>),
    /// To [`Request::Detach`]: whether it was attached.
    Detached(bool),
    /// To [`Request::Attached`].
    Attachments(Vec<AttachedReport>),
    /// To [`Request::Echo`].
    Echo(EchoReport),
    /// To [`Request::Bench`].
    Bench(Box<BenchOffer>),
    /// To any.
    Error(ApiError),
}

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// What kind of reason.
    pub code: ErrorCode,
    /// What is wrong and what to do.
    pub message: String,
}

impl ApiError {
    /// An error with its text.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

/// What kind of reason a request has no answer for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request is not understood.
    BadRequest,
    /// There is no such name or instance.
    NotFound,
    /// The asking process may not ask.
    Refused,
    /// Too many ask at once.
    Busy,
    /// The packet thread or the daemon's thread does not answer.
    Unavailable,
    /// It contradicts what is there.
    Conflict,
    /// The kernel refused something.
    Failed,
}
