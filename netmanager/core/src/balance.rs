//! Picks the instance of a new flow.
//!
//! It keeps what must outlive a table: one turn counter and the last closest pick per service. It
//! sees no packets; the data plane asks it once per new flow, `netmanager dig` asks it to explain.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::time::Duration;

use weald_proto::id::NodeId;
use weald_proto::name::InstanceId;

use crate::dataplane::{PeerState, Reachability};
use crate::table::{Host, InstanceIndex, PeerId, ServiceIndex, Snapshot};

mod explain;
mod pick;

/// `closest` leaves its pick only for one whose round-trip time is below this share of its own,
/// in percent: else two nodes at the same distance would swap with every measurement.
const SWITCH_BELOW_PERCENT: u32 = 80;
/// How many instances are tried when the answers of the new flow collide with those of others.
/// Eight in a row do not happen by chance.
pub const MAX_ATTEMPTS: usize = 8;
/// Of so many nodes per service `closest` has the distance measured.
pub const MAX_MEASURED_NODES: usize = 8;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// An instance that was picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pick {
    /// The instance.
    pub instance: InstanceIndex,
    /// Its address, of the family asked for.
    pub ip: IpAddr,
    /// Where it is.
    pub host: Host,
    /// At which attempt it was picked.
    attempt: usize,
}

/// Why no instance could be picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PickError {
    /// There is none with an address of the family.
    #[error("the service has no instance")]
    NoInstance,
    /// The nodes of all of them are down.
    #[error("no node of the service's instances can be reached")]
    AllDown,
    /// Every one was tried.
    #[error("no further instance to try")]
    Exhausted,
}

/// Why a candidate is picked or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It is its turn.
    NextInTurn,
    /// Its turn comes later.
    NotItsTurn,
    /// It is on this node.
    OnThisNode,
    /// The nearest.
    Nearest,
    /// The last pick, and no other is clearly nearer.
    StillNearEnough,
    /// Another one is nearer.
    Farther,
    /// Nothing is measured, and it has the lowest number.
    LowestNumber,
    /// How far it is has not been measured.
    NotMeasured,
    /// The name itself gives its number.
    Named,
    /// Its node is down.
    NodeDown,
    /// It has no address of the family.
    NoAddress,
}

impl Reason {
    /// The reason in words.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::NextInTurn => "next in turn",
            Self::NotItsTurn => "not its turn",
            Self::OnThisNode => "on this node",
            Self::Nearest => "nearest",
            Self::StillNearEnough => "last pick, and no other is more than 20 % nearer",
            Self::Farther => "farther",
            Self::LowestNumber => "nothing measured yet, lowest number",
            Self::NotMeasured => "not measured yet",
            Self::Named => "named by its number",
            Self::NodeDown => "node unreachable",
            Self::NoAddress => "no address of this family",
        }
    }
}

/// What a policy makes of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The instance.
    pub instance: InstanceId,
    /// The node that hosts it.
    pub node: NodeId,
    /// Where that is, seen from here.
    pub host: Host,
    /// Its address of the family asked for.
    pub ip: Option<IpAddr>,
    /// Whether its node can be reached; a local one always can.
    pub reachable: Reachability,
    /// The smallest round-trip time to its node; zero for this one.
    pub min_rtt: Option<Duration>,
    /// Whether its node is reached through a relay.
    pub relayed: bool,
    /// Whether a new flow would go there. For `instance`, whether one that names it would.
    pub picked: bool,
    /// Why.
    pub reason: Reason,
}

/// The peers' states as the balancer sees them.
pub type Peers = BTreeMap<PeerId, PeerState>;

/// What outlives a table, per service.
#[derive(Debug, Clone, Copy, Default)]
struct Memory {
    turn: u64,
    closest: Option<u32>,
}

/// Picks instances.
#[derive(Debug)]
pub struct Balancer {
    /// By the service's index in the current table.
    memories: Vec<Memory>,
    seed: u64,
}

impl Balancer {
    /// A balancer that knows no service. The seed lets nodes begin with different instances.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            memories: Vec::new(),
            seed,
        }
    }

    /// Goes over to another table; services that are in both keep their turn.
    pub fn set_table(&mut self, old: Option<&Snapshot>, new: &Snapshot) {
        let hasher = foldhash::fast::FixedState::with_seed(self.seed);
        let memories = new.services().map(|(_, service)| {
            let kept = old
                .and_then(|old| old.service_by_name(&service.name))
                .and_then(|index| self.memories.get(index.position()).copied());
            kept.unwrap_or_else(|| Memory {
                turn: first_turn(hasher.hash_one(&service.name)),
                closest: None,
            })
        });
        self.memories = memories.collect();
    }

    fn memory(&self, service: ServiceIndex) -> Memory {
        self.memories
            .get(service.position())
            .copied()
            .unwrap_or_default()
    }

    /// The other nodes whose distance matters to `closest` for that service: of those that host
    /// it, the first [`MAX_MEASURED_NODES`] by instance number.
    pub fn measured_nodes(table: &Snapshot, service: ServiceIndex) -> BTreeSet<PeerId> {
        let mut nodes = BTreeSet::new();
        for index in &table.service(service).instances {
            if nodes.len() == MAX_MEASURED_NODES {
                break;
            }
            if let Host::Peer(peer) = table.instance(*index).host {
                nodes.insert(peer);
            }
        }
        nodes
    }
}

/// Where the turn of a service begins: anywhere, but far from the counter's end.
const fn first_turn(hash: u64) -> u64 {
    hash >> 32
}
