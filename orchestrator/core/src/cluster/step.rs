//! What a cluster is told and what it answers, as values. What it makes of them is its parent's.

use std::net::SocketAddr;

use weald_proto::control::{ClusterToRoot, ClusterToWorker, RootToCluster, WorkerToCluster};
use weald_proto::id::{Label, RelayId};
use weald_proto::session::{ClusterToNet, NetToCluster};

use crate::record::Write;

/// What a cluster is told. Nodes are named by their label within the cluster; that the other end is
/// that node was proven before.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A new connection with root.
    RootConnected,
    /// The connection with root is gone.
    RootDisconnected,
    /// Root said something on the present connection.
    Root(RootToCluster),
    /// A new connection of a worker, in place of any earlier one; the SHA-256 of the
    /// SubjectPublicKeyInfo that it proved to hold.
    WorkerConnected(Label, [u8; 32]),
    /// The present connection of a worker is gone.
    WorkerDisconnected(Label),
    /// A worker said something on its present connection.
    Worker(Label, WorkerToCluster),
    /// A new session of a netmanager, in place of any earlier one.
    NetConnected {
        /// Which node.
        node: Label,
        /// SHA-256 of the SubjectPublicKeyInfo that it proved to hold.
        key: [u8; 32],
        /// Its address as it is seen here.
        observed: SocketAddr,
    },
    /// The present session of a netmanager is gone.
    NetDisconnected(Label),
    /// A netmanager said something on its present session.
    Net(Label, NetToCluster),
    /// The relays of this cluster, all of them, as they are configured.
    Relays(Vec<(RelayId, Vec<SocketAddr>)>),
    /// Time has passed.
    Tick,
}

/// What the shell does, after the writes of the same step are committed. What is sent to somebody
/// who is not connected is dropped.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Says something to root.
    ToRoot(ClusterToRoot),
    /// Says something to a worker.
    ToWorker(Label, ClusterToWorker),
    /// Says something to a netmanager.
    ToNet(Label, ClusterToNet),
    /// Root speaks another protocol: say so, and close the connection.
    CloseRoot(String),
    /// A worker does not keep to the protocol: say so, and close its connection.
    CloseWorker(Label, String),
    /// A netmanager does not keep to the protocol: say so, and close its session.
    CloseNet(Label, String),
    /// Something that an operator must know of.
    Fault(String),
    /// A worker has said what is not so, and nothing has become of it: an operator should look at its
    /// node if that goes on.
    Lie(String),
}

/// What follows from an input.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Step {
    /// To be committed, as one, before any effect.
    pub writes: Vec<Write>,
    /// To be carried out then, in order.
    pub effects: Vec<Effect>,
}

impl Step {
    pub(super) fn tell_root(&mut self, message: ClusterToRoot) {
        self.effects.push(Effect::ToRoot(message));
    }

    pub(super) fn tell_worker(&mut self, node: &Label, message: ClusterToWorker) {
        self.effects.push(Effect::ToWorker(node.clone(), message));
    }

    pub(super) fn tell_net(&mut self, node: &Label, message: ClusterToNet) {
        self.effects.push(Effect::ToNet(node.clone(), message));
    }
}
