//! What the data plane is told about other nodes.

use std::time::Duration;

use crate::flow::lane::{LONG_PATH, PathFacts};

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
    /// What the handshake took for a round trip, its computing included; only while nothing else has
    /// been measured.
    pub estimated_rtt: Option<Duration>,
    /// Whether its packets go through a relay.
    pub relayed: bool,
    /// Thousandths of the packets to it that were lost lately; none if too few were sent.
    pub loss_permille: Option<u16>,
    /// Whether the way to it will be known in a moment: a session is about to be there, or is so
    /// new that nothing was measured. Connections whose lane depends on it wait for that.
    pub measuring: bool,
}

impl PeerState {
    /// Whether what is known of the way to it says which lane its connections take: a path cannot be
    /// longer than the handshake has found it.
    #[must_use]
    pub fn is_known(&self) -> bool {
        let is_short = self.estimated_rtt.is_some_and(|rtt| rtt < LONG_PATH);
        self.relayed || self.min_rtt.is_some() || is_short
    }

    pub(crate) fn path(&self) -> PathFacts {
        PathFacts {
            min_rtt: self.min_rtt.or(self.estimated_rtt),
            relayed: self.relayed,
            loss_permille: self.loss_permille,
        }
    }
}
