//! What a netmanager and its cluster say to each other, on the node's data socket; and what two
//! netmanagers show each other before they believe each other's packets.
//!
//! The netmanager dials. It names the applications that it is interested in and gets their rows,
//! signed one by one, then every change of them. Their layout as bytes is [`crate::codec`]'s.

use std::net::SocketAddr;

use crate::addr::{Dual, Pools};
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
        /// The applications that these rows are all of; rows of them that are not here are gone.
        complete: Vec<ApplicationName>,
        /// The rows.
        rows: Vec<Signed>,
    },
    /// An application that the node asked for does not exist, or not for it.
    Unknown(ApplicationName),
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
}
