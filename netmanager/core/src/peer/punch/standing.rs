//! What stands between a node and a direct path, in words that stay the same.

use std::net::SocketAddr;

use weald_proto::session::{CandidateKind, NatMapping};

use super::super::candidates::Refusal;
use super::{Punch, Stage};

/// Why there is a direct path, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// There is one.
    Direct,
    /// The configuration forbids attempts.
    Disabled,
    /// The peer has named no addresses; it may be of an older version.
    PeerSilent,
    /// The peer has named none that may be tried from here.
    NothingToTry,
    /// A round is under way, or is about to begin.
    Trying,
    /// Both NATs give every destination another port, so neither can be aimed at.
    BothNatsChangePorts,
    /// One NAT gives out random ports, and the search for one is over or forbidden.
    SearchSpent,
    /// This node reaches its relays over TCP only: its network lets no UDP through.
    UdpBlocked,
    /// Probes were sent and none came through; the next round is later.
    NoAnswer,
}

impl Standing {
    /// The stable word that stands in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Disabled => "disabled",
            Self::PeerSilent => "peer_silent",
            Self::NothingToTry => "nothing_to_try",
            Self::Trying => "trying",
            Self::BothNatsChangePorts => "both_nats_change_ports",
            Self::SearchSpent => "search_spent",
            Self::UdpBlocked => "udp_blocked",
            Self::NoAnswer => "no_answer",
        }
    }

    /// What an operator could change about it; empty if nothing is wrong.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Direct | Self::Trying => "",
            Self::Disabled => "set punch = true under [paths] in net.toml on both nodes",
            Self::PeerSilent => "update the peer, or allow punch under [paths] there",
            Self::NothingToTry => {
                "let the peer reach a relay outside its own network, so that it learns its outside \
                 address, or name one in its row of the table"
            }
            Self::BothNatsChangePorts => {
                "let one of the routers map ports (PCP, NAT-PMP or UPnP; port_mapping under [paths]), \
                 or forward the data port there and name that address in the node's row, or have one \
                 router keep ports (endpoint-independent mapping)"
            }
            Self::SearchSpent => {
                "let one router map ports (PCP, NAT-PMP or UPnP; port_mapping under [paths]), or \
                 forward the data port there and name that address in the node's row, or allow spray \
                 under [paths] on both nodes; a search is made once an hour"
            }
            Self::UdpBlocked => "allow outgoing UDP on the router of this node",
            Self::NoAnswer => {
                "allow outgoing UDP on both routers, or forward the data port on one and name that \
                 address in the node's row"
            }
        }
    }
}

/// One address of the peer that attempts were made at, or that is not tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetView {
    /// The address.
    pub address: SocketAddr,
    /// How the peer knows it; none if it is not tried.
    pub kind: Option<CandidateKind>,
    /// Probes sent to it, short-lived ones too.
    pub sent: u64,
    /// Why it is not tried.
    pub refused: Option<Refusal>,
}

impl Punch {
    /// What stands between this node and a direct path to the peer.
    #[must_use]
    pub fn standing(&self) -> Standing {
        if self.is_direct {
            return Standing::Direct;
        }
        // Whatever else is in the way, nothing helps before this.
        if self.udp_blocked {
            return Standing::UdpBlocked;
        }
        if !self.limits.punch {
            return Standing::Disabled;
        }
        let Some(theirs) = &self.theirs else {
            return Standing::PeerSilent;
        };
        if theirs.targets.is_empty() {
            return Standing::NothingToTry;
        }
        let is_trying = matches!(self.stage, Stage::Opened { .. } | Stage::Sending { .. });
        if is_trying || self.spray.is_some() || self.round == 0 {
            return Standing::Trying;
        }
        let changes = |mapping| matches!(mapping, NatMapping::Sequential | NatMapping::Random);
        let (mine, theirs) = (self.mine.told.mapping, theirs.mapping);
        if changes(mine) && changes(theirs) {
            Standing::BothNatsChangePorts
        } else if mine == NatMapping::Random || theirs == NatMapping::Random {
            Standing::SearchSpent
        } else {
            Standing::NoAnswer
        }
    }

    /// Rounds begun or followed.
    #[must_use]
    pub const fn rounds(&self) -> u32 {
        self.round
    }

    /// How the own NAT and the peer's map ports, as the two have told each other.
    #[must_use]
    pub fn mappings(&self) -> (NatMapping, NatMapping) {
        let theirs = self.theirs.as_ref().map(|theirs| theirs.mapping);
        (self.mine.told.mapping, theirs.unwrap_or_default())
    }

    /// Every address that the peer has named, and what became of it.
    #[must_use]
    pub fn targets(&self) -> Vec<TargetView> {
        let Some(theirs) = &self.theirs else {
            return Vec::new();
        };
        let tried = theirs.targets.iter().map(|target| TargetView {
            address: target.candidate.address,
            kind: Some(target.candidate.kind),
            sent: target.sent,
            refused: None,
        });
        let refused = theirs.refused.iter().map(|(address, refusal)| TargetView {
            address: *address,
            kind: None,
            sent: 0,
            refused: Some(*refusal),
        });
        tried.chain(refused).collect()
    }
}
