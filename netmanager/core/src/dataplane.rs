//! The whole packet path: what a packet from the TUN or from a peer leads to.
//!
//! A packet of a known flow costs one hash lookup and is rewritten in place. Everything else is
//! checked, by the lease of its sender and by policy, and opens a flow or is dropped with a reason
//! that is counted.
//!
//! The loop of a shell:
//! 1. [`DataPlane::set_table`] and [`DataPlane::set_peer`] whenever those change;
//! 2. [`DataPlane::handle_tun`] and [`DataPlane::handle_peer`] for packets, acting on the verdict;
//! 3. [`DataPlane::handle_timeout`] when [`DataPlane::poll_timeout`] says so;
//! 4. after each of these, [`DataPlane::poll_packet`] until it has nothing more, and now and then
//!    [`DataPlane::interests`].
//!
//! It holds no session, no queue towards peers and no chunk: those are the shell's.

use std::sync::Arc;
use std::time::Instant;

use weald_proto::name::{Policy, ServiceName};

pub use self::peers::{PeerState, Reachability};
pub use crate::balance::{Candidate, Family};
pub use crate::flow::FlowView;

use crate::table::{PeerId, Snapshot};
use crate::verdict::{Counters, DropReason, Verdict};
use crate::vnet::VnetHeader;

mod peers;

/// Bounds of what the data plane keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowLimits {
    /// Most flows at once.
    pub flows: usize,
    /// Most fragmented packets at once whose fragments are still expected.
    pub fragmented_packets: usize,
    /// Most answers that wait to be polled.
    pub answers: usize,
}

impl Default for FlowLimits {
    /// For a node of some hundred instances: about 100 MB when all of it is used.
    fn default() -> Self {
        Self {
            flows: 262_144,
            fragmented_packets: 4096,
            answers: 8192,
        }
    }
}

/// Where a packet that we have made goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// To the TUN, with an empty virtio-net header: its checksums are complete.
    Tun,
    /// To that peer, likewise.
    Peer(PeerId),
}

/// The packet path of one node.
#[derive(Debug)]
pub struct DataPlane {
    counters: Counters,
}

impl DataPlane {
    /// A data plane without a table, which drops everything.
    #[must_use]
    pub fn new(_limits: FlowLimits, _seed: u64) -> Self {
        Self {
            counters: Counters::default(),
        }
    }

    /// Goes over to another table. Flows whose instance is gone, or that policy forbids now, end
    /// with a reset for the local end; flows of an instance that has moved follow it.
    pub fn set_table(&mut self, _table: Arc<Snapshot>, _now: Instant) {}

    /// Takes note of a peer's state.
    pub fn set_peer(&mut self, _peer: PeerId, _state: PeerState, _now: Instant) {}

    /// Handles a packet that a local instance or host program has sent.
    pub fn handle_tun(&mut self, _vnet: &VnetHeader, _packet: &mut [u8], _now: Instant) -> Verdict {
        self.counters.count(DropReason::SourceNotLocal);
        Verdict::Drop(DropReason::SourceNotLocal)
    }

    /// Handles a packet that `from` has sent.
    pub fn handle_peer(
        &mut self,
        _from: PeerId,
        _vnet: &VnetHeader,
        _packet: &mut [u8],
        _now: Instant,
    ) -> Verdict {
        self.counters.count(DropReason::SourceNotLeased);
        Verdict::Drop(DropReason::SourceNotLeased)
    }

    /// Forgets what has expired.
    pub fn handle_timeout(&mut self, _now: Instant) {}

    /// When [`DataPlane::handle_timeout`] has something to do, and what.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        None
    }

    /// The next packet that we have made ourselves: resets and ICMP errors.
    pub fn poll_packet(&mut self) -> Option<(Target, Vec<u8>)> {
        None
    }

    /// Every flow.
    pub fn flows(&self, _now: Instant) -> impl Iterator<Item = FlowView> + '_ {
        std::iter::empty()
    }

    /// What a policy would make of a new flow to that service now, instance by instance. Nothing
    /// is picked by asking.
    #[must_use]
    pub fn explain(
        &self,
        _service: &ServiceName,
        _policy: Policy,
        _family: Family,
    ) -> Vec<Candidate> {
        Vec::new()
    }

    /// Has the distance to a service's nodes measured, as when its `closest` name is asked for.
    pub fn note_interest(&mut self, _service: &ServiceName) {}

    /// The peers whose distance `closest` wants to know since the last call: the shell opens
    /// sessions to them.
    pub fn interests(&mut self) -> impl Iterator<Item = PeerId> + '_ {
        std::iter::empty()
    }

    /// How many packets were dropped here, by reason. Every dropped packet counts once.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }
}
