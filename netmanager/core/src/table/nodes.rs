//! Names of other nodes, interned.
//!
//! Who is connected and how is `peer`'s; here a node is a number that stays its own.

use std::collections::BTreeMap;
use std::fmt;

use weald_proto::id::NodeId;

/// Another node, interned: stable for the life of the process, also over table changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peer#{}", self.0)
    }
}

/// The interner of other nodes. It forgets nothing, so that an id is never reused.
#[derive(Debug, Clone, Default)]
pub struct Nodes {
    by_id: BTreeMap<NodeId, PeerId>,
    ids: Vec<NodeId>,
}

impl Nodes {
    /// An interner that knows no node yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of a node, given to it now if it had none.
    pub fn intern(&mut self, id: &NodeId) -> PeerId {
        if let Some(peer) = self.by_id.get(id) {
            return *peer;
        }
        let peer = PeerId(u32::try_from(self.ids.len()).unwrap_or(u32::MAX));
        self.ids.push(id.clone());
        self.by_id.insert(id.clone(), peer);
        peer
    }

    /// The number of a node that has one.
    #[must_use]
    pub fn find(&self, id: &NodeId) -> Option<PeerId> {
        self.by_id.get(id).copied()
    }

    /// The name behind a number.
    ///
    /// # Panics
    /// When the number did not come from this interner.
    #[must_use]
    pub fn id(&self, peer: PeerId) -> &NodeId {
        &self.ids[peer.0 as usize]
    }
}
