//! The service table as the packet path looks it up: one immutable snapshot.

/// Another node, interned: stable for the life of the process, also over table changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);
