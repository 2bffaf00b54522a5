//! What a netmanager and its cluster say to each other, on the node's data socket; and what two
//! netmanagers show each other before they believe each other's packets.
//!
//! The netmanager dials. It names the applications that it is interested in and gets their rows,
//! signed one by one, then every change of them. Their layout as bytes is [`crate::codec`]'s.

use std::net::SocketAddr;

use crate::addr::{Dual, Pools};
use crate::join::{RenewRequest, RenewResponse};
use crate::name::{ApplicationName, Zone};
use crate::statement::Signed;

/// The version of the session protocol.
pub const VERSION: u32 = 1;
/// The ALPN between a netmanager and its cluster.
pub const ALPN: &[u8] = b"weald-session/1";

/// What a netmanager says to its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetToCluster {
    /// The first message of a session.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// Where the node's data socket may be dialled on its own networks.
        addresses: Vec<SocketAddr>,
        /// The epoch of the newest lease that it has; 0 for none.
        lease: u64,
        /// The epoch of the newest revocation list that it has; 0 for none.
        revocations: u64,
    },
    /// All applications whose rows the node wants, those of its own instances among them.
    Interests(Vec<ApplicationName>),
    /// Its own networks have changed.
    Addresses(Vec<SocketAddr>),
    /// Sent when nothing else was said for some seconds.
    KeepAlive,
    /// The node's certificate is to live on.
    Renew(RenewRequest),
}

/// What a cluster says to a netmanager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterToNet {
    /// Answers Hello.
    Welcome {
        /// [`VERSION`].
        version: u32,
        /// The node's address as the cluster sees it.
        observed: SocketAddr,
        /// The prefixes that belong to the overlay.
        pools: Pools,
        /// The zones that semantic names end in.
        zones: Vec<Zone>,
        /// The node's own addresses in the overlay.
        node_ip: Dual,
        /// The token that relays ask for.
        relay_token: Vec<u8>,
    },
    /// What the node may send from (a signed `statement::Lease`).
    Lease(Signed),
    /// What a cluster may claim (a signed `statement::Grant`).
    Grant(Signed),
    /// Who is revoked (a signed `statement::Revocations`).
    Revocations(Signed),
    /// Rows of services, instances, nodes and relays.
    Rows {
        /// The applications that these rows, and those that went before with `more`, are all of;
        /// rows of them that are not here are gone.
        complete: Vec<ApplicationName>,
        /// The rows.
        rows: Vec<Signed>,
        /// Whether the next such message goes on with them.
        more: bool,
    },
    /// An application that the node asked for does not exist, or not for it.
    Unknown(ApplicationName),
    /// Answers [`NetToCluster::Renew`].
    Renewed(RenewResponse),
}

/// What a netmanager shows another one, on a unidirectional stream of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerToPeer {
    /// The first message of a session.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// The epoch of the newest revocation list that it has; 0 for none. Whoever has a newer one
        /// sends it.
        revocations: u64,
    },
    /// What its cluster may claim (a signed `statement::Grant`), which its lease is judged by.
    Grant(Signed),
    /// What it may send from (a signed `statement::Lease`); again whenever that changes.
    Lease(Signed),
    /// Who is revoked (a signed `statement::Revocations`).
    Revocations(Signed),
    /// Where it may be reached; again whenever that changes, with a higher generation.
    Candidates {
        /// Counts the lists of this session, from 1.
        generation: u64,
        /// How its NAT, if there is one, gives out ports.
        mapping: NatMapping,
        /// The addresses, the latest observation last.
        candidates: Vec<PeerCandidate>,
    },
    /// The sender has opened the way out of its own NAT in this round and waits: send to all of its
    /// candidates now.
    Punch {
        /// Counts the rounds of this session, from 1.
        round: u32,
    },
    /// Answers Punch: so has this end, and it sends.
    PunchOpened {
        /// The number in Punch.
        round: u32,
    },
    /// Somebody on this node wants to measure the way to the other: answer load for a while.
    BenchAsk {
        /// Tells the answer.
        number: u64,
        /// For how long at most.
        seconds: u32,
    },
    /// Answers BenchAsk.
    BenchAnswer {
        /// The number in BenchAsk.
        number: u64,
        /// Why not; empty if it is granted.
        refused: String,
        /// What load must show.
        token: Vec<u8>,
        /// The TCP and UDP port at the node's address in the overlay.
        port: u16,
        /// The port at its other addresses, for comparison; 0 if it offers none.
        bare_port: u16,
    },
}

/// One address at which a node may be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerCandidate {
    /// How the node knows it.
    pub kind: CandidateKind,
    /// The address of its data socket.
    pub address: SocketAddr,
}

/// How a node knows one of its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CandidateKind {
    /// An interface has it.
    Interface,
    /// An observer outside has told it.
    Reflexive,
    /// Its operator says so.
    Configured,
    /// A gateway has said that it leads packets to it.
    Mapped,
}

/// How a NAT maps one inside address and port to outside ones (RFC 4787, section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NatMapping {
    /// Fewer than two observers have said what they see.
    #[default]
    Unknown,
    /// The same towards everyone, or there is no NAT.
    Independent,
    /// Another port for every destination, each a little above the one before.
    Sequential,
    /// Another port for every destination, without an order.
    Random,
}
