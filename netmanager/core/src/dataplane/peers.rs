//! What the data plane is told about other nodes.

use std::time::Duration;

use crate::flow::lane::PathFacts;

/// Whether a peer can be reached now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Reachability {
    /// Nobody has tried.
    #[default]
    Unknown,
    /// A session is being made.
    Connecting,
    /// There is a session.
    Up,
    /// No session could be made, or it broke and could not be made again.
    Down,
}

impl Reachability {
    /// The word in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Connecting => "connecting",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// What the shell knows of another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PeerState {
    /// Whether it can be reached.
    pub reachable: Reachability,
    /// The smallest round-trip time measured lately.
    pub min_rtt: Option<Duration>,
    /// Whether its packets go through a relay.
    pub relayed: bool,
}

impl PeerState {
    pub(crate) const fn path(&self) -> PathFacts {
        PathFacts {
            min_rtt: self.min_rtt,
            relayed: self.relayed,
        }
    }
}
