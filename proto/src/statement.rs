//! What root and clusters sign: grants, rows, leases and revocations.
//!
//! A statement travels as the bytes that were signed, so that what is verified is exactly what was
//! signed, and can be passed on by anybody. Root's statements are verified with the root's key; a
//! cluster's with the key that root's [`Grant`] names for it, and only within what the grant
//! allows. Here are the values; their layout as bytes is [`crate::codec`]'s, signing and judging
//! them weald-trust's.

use std::net::SocketAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::addr::Dual;
use crate::control::Generation;
use crate::id::{Label, NodeId, Organisation, RelayId};
use crate::name::{InstanceId, ServiceName};
use crate::table::{AcceptPolicy, LanePolicy};

/// Seconds since 1970.
pub type UnixSeconds = u64;

/// What a signature covers before the statement, so that it is valid for nothing else.
pub const SIGNATURE_CONTEXT: &[u8] = b"weald statement v1\0";

/// A signed statement as it travels: opaque until it is verified.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Signed {
    /// The encoded [`Statement`].
    pub statement: Vec<u8>,
    /// Ed25519 over [`SIGNATURE_CONTEXT`] and the statement.
    pub signature: Vec<u8>,
    /// The cluster whose key signed; none for root.
    pub cluster: Option<Label>,
}

impl Signed {
    /// The bytes that the signature of an encoded statement covers.
    #[must_use]
    pub fn signed_bytes(statement: &[u8]) -> Vec<u8> {
        [SIGNATURE_CONTEXT, statement].concat()
    }
}

impl std::fmt::Debug for Signed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let by = self.cluster.as_ref().map_or("root", Label::as_str);
        write!(f, "Signed({} bytes by {by})", self.statement.len())
    }
}

/// What can be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// By root.
    Grant(Grant),
    /// By root.
    Revocations(Revocations),
    /// By root, which assigns service addresses.
    Service(ServiceStatement),
    /// By the cluster that hosts the instance.
    Instance(InstanceStatement),
    /// By the node's cluster.
    Node(NodeStatement),
    /// By the relay's cluster.
    Relay(RelayStatement),
    /// By the node's cluster.
    Lease(Lease),
}

/// What a cluster may claim. The highest generation counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The cluster.
    pub cluster: Label,
    /// The Ed25519 public key (32 bytes) of the cluster's intermediate.
    pub key: [u8; 32],
    /// Orders the grants of one cluster.
    pub generation: Generation,
    /// The blocks, or single addresses as /32 and /128, that it may assign.
    pub blocks: Vec<IpNetwork>,
    /// The organisations whose instances it may host.
    pub organisations: Vec<Organisation>,
    /// The organisation that owns the cluster, and so its nodes' host programs.
    pub owner: Organisation,
    /// Until when.
    pub expires: UnixSeconds,
}

/// Everybody who is revoked. The highest epoch counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Revocations {
    /// Larger than that of every earlier list.
    pub epoch: u64,
    /// SHA-256 of the SubjectPublicKeyInfo of revoked nodes, relays and intermediates.
    pub keys: Vec<[u8; 32]>,
    /// Revoked organisations.
    pub organisations: Vec<Organisation>,
}

/// A service, or that it is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceStatement {
    /// The service's name.
    pub name: ServiceName,
    /// The tenant.
    pub organisation: Organisation,
    /// Orders the statements on one service.
    pub generation: Generation,
    /// Whether the service is gone; then nothing but name, organisation and generation counts.
    pub removed: bool,
    /// What `rr` names resolve to.
    pub round_robin: Dual,
    /// What `closest` names resolve to.
    pub closest: Dual,
    /// Which lane its flows take.
    pub lane: LanePolicy,
    /// When its connections on the L4 lane are accepted.
    pub accept: AcceptPolicy,
}

/// An instance, or that it is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceStatement {
    /// Which one.
    pub instance: InstanceId,
    /// The tenant.
    pub organisation: Organisation,
    /// Orders the statements on one instance: [`row_generation`].
    pub generation: Generation,
    /// Whether the instance is gone from this node.
    pub removed: bool,
    /// The node that hosts it.
    pub node: NodeId,
    /// Its addresses.
    pub instance_ip: Dual,
}

/// Bits of a row's generation that count its changes within one life of an instance: a change in
/// every tenth of a second for ten months. Those that are left are enough for a thousand lives a
/// second for two years.
const CHANGE_BITS: u32 = 28;
/// The most changes that are told apart.
const MAX_CHANGES: u32 = (1 << CHANGE_BITS) - 1;

/// The generation of an instance's row: rows of a later life win over those of every earlier one,
/// whichever cluster signed them; within a life they are counted.
#[must_use]
pub const fn row_generation(life: Generation, change: u32) -> Generation {
    let change = if change < MAX_CHANGES {
        change
    } else {
        MAX_CHANGES
    };
    life << CHANGE_BITS | change as u64
}

/// The life that an instance's row of this generation is of.
#[must_use]
pub const fn row_life(row: Generation) -> Generation {
    row >> CHANGE_BITS
}

/// How often the row of this generation had changed within a life; 0 if it is another life's.
#[must_use]
pub const fn row_changes(row: Generation, life: Generation) -> u32 {
    if row_life(row) == life {
        row as u32 & MAX_CHANGES
    } else {
        0
    }
}

/// A node, or that it is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatement {
    /// Who.
    pub node: NodeId,
    /// Orders the statements on one node.
    pub generation: Generation,
    /// Whether the node is gone.
    pub removed: bool,
    /// The node's own addresses in the overlay.
    pub node_ip: Dual,
    /// Where its data socket may be dialled directly.
    pub addresses: Vec<SocketAddr>,
}

/// A relay, or that it is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayStatement {
    /// Who.
    pub relay: RelayId,
    /// Orders the statements on one relay.
    pub generation: Generation,
    /// Whether the relay is gone.
    pub removed: bool,
    /// Where it is reached, over UDP.
    pub addresses: Vec<SocketAddr>,
}

/// What a node may send from: complete, the highest epoch counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The node.
    pub node: NodeId,
    /// Orders the leases of one node.
    pub epoch: u64,
    /// Until when.
    pub expires: UnixSeconds,
    /// The node's own addresses.
    pub node_ip: Dual,
    /// The instances that it hosts.
    pub instances: Vec<LeasedInstance>,
}

/// One instance of a [`Lease`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeasedInstance {
    /// Which one.
    pub instance: InstanceId,
    /// The tenant.
    pub organisation: Organisation,
    /// Of which life.
    pub generation: Generation,
    /// Its addresses.
    pub instance_ip: Dual,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_life_wins_however_often_the_one_before_it_changed() {
        assert!(row_generation(7, 1) < row_generation(7, 2));
        assert!(row_generation(7, u32::MAX) < row_generation(8, 1));
        assert_eq!(row_changes(row_generation(7, 5), 7), 5);
        assert_eq!(row_changes(row_generation(7, 5), 8), 0);
        assert_eq!(row_changes(row_generation(7, u32::MAX), 7), MAX_CHANGES);
        assert_eq!(row_life(row_generation(7, u32::MAX)), 7);
    }
}
