//! What root is told and what it answers, as values. What it makes of them is its parent's.

use weald_proto::control::{ClusterToRoot, RootToCluster};
use weald_proto::id::Label;

use crate::record::Write;

/// What root is told by its links; what users want comes as a [`Command`](super::Command).
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A new connection of a cluster, in place of any earlier one; that it is that cluster was
    /// proven before.
    ClusterConnected(Label),
    /// The present connection of a cluster is gone.
    ClusterDisconnected(Label),
    /// A cluster said something on its present connection.
    Cluster(Label, ClusterToRoot),
    /// Time has passed.
    Tick,
}

/// What the shell does, after the writes of the same step are committed. What is sent to somebody
/// who is not connected is dropped.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Says something to a cluster.
    ToCluster(Label, RootToCluster),
    /// A cluster does not keep to the protocol: say so, and close its connection.
    CloseCluster(Label, String),
    /// Answers [`Root::read_logs`](super::Root::read_logs).
    Logs {
        /// The number that the request was given.
        request: u64,
        /// The last lines, oldest first; or why there are none.
        lines: Result<Vec<String>, String>,
    },
    /// Something that an operator must know of.
    Fault(String),
}

/// What follows from an input or a command.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Step {
    /// To be committed, as one, before any effect or answer.
    pub writes: Vec<Write>,
    /// To be carried out then, in order.
    pub effects: Vec<Effect>,
}

impl Step {
    pub(super) fn tell(&mut self, cluster: &Label, message: RootToCluster) {
        self.effects
            .push(Effect::ToCluster(cluster.clone(), message));
    }
}
