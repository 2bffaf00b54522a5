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

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use weald_proto::name::{Policy, ServiceName};

pub use self::peers::{PeerState, Reachability};
pub use crate::balance::{Candidate, Family};
pub use crate::flow::FlowView;

use self::answers::Answers;
use crate::balance::Balancer;
use crate::flow::FlowTable;
use crate::fragment::FragmentTable;
use crate::table::{Host, PeerId, Snapshot};
use crate::verdict::{Counters, Verdict};
use crate::vnet::VnetHeader;

mod answers;
mod change;
mod check;
mod handle;
mod open;
mod peers;
mod reset;

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
    table: Option<Arc<Snapshot>>,
    peers: BTreeMap<PeerId, PeerState>,
    flows: FlowTable,
    fragments: FragmentTable,
    balancer: Balancer,
    answers: Answers,
    interests: BTreeSet<PeerId>,
    counters: Counters,
}

impl DataPlane {
    /// A data plane without a table, which drops everything. The seed should differ from start to
    /// start: it keeps senders from choosing tuples that collide in the flow table.
    #[must_use]
    pub fn new(limits: FlowLimits, seed: u64) -> Self {
        Self {
            table: None,
            peers: BTreeMap::new(),
            flows: FlowTable::new(limits.flows, seed),
            fragments: FragmentTable::new(limits.fragmented_packets, seed),
            balancer: Balancer::new(seed),
            answers: Answers::new(limits.answers, seed),
            interests: BTreeSet::new(),
            counters: Counters::default(),
        }
    }

    /// Goes over to another table. Flows whose instance is gone, or that policy forbids now, end
    /// with a reset for the local end; flows of an instance that has moved follow it.
    pub fn set_table(&mut self, table: Arc<Snapshot>, now: Instant) {
        let old = self.table.replace(Arc::clone(&table));
        self.balancer.set_table(old.as_deref(), &table);
        self.peers.retain(|peer, _| table.peer(*peer).is_some());
        if let Some(old) = old {
            self.follow_table(&old, &table, now);
        }
    }

    /// Takes note of a peer's state. When it is lost, flows that it has not answered yet end, so
    /// that their openers hear of it or find another instance.
    pub fn set_peer(&mut self, peer: PeerId, state: PeerState, now: Instant) {
        let before = self.peers.insert(peer, state).unwrap_or_default();
        if state.reachable == Reachability::Down && before.reachable != Reachability::Down {
            self.follow_loss(peer, now);
        }
    }

    /// Handles a packet that a local instance or host program has sent.
    ///
    /// The packet is rewritten in place; a refused one is unchanged.
    pub fn handle_tun(&mut self, vnet: &VnetHeader, packet: &mut [u8], now: Instant) -> Verdict {
        self.handle(Host::Local, vnet, packet, now)
    }

    /// Handles a packet that `from` has sent, and proved to be from.
    ///
    /// The packet is rewritten in place; a refused one is unchanged.
    pub fn handle_peer(
        &mut self,
        from: PeerId,
        vnet: &VnetHeader,
        packet: &mut [u8],
        now: Instant,
    ) -> Verdict {
        self.handle(Host::Peer(from), vnet, packet, now)
    }

    /// Forgets what has expired.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.flows.sweep(now);
    }

    /// When [`DataPlane::handle_timeout`] has something to do, and what.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.flows.next_sweep().map(|at| (at, "flow sweep"))
    }

    /// The next packet that we have made ourselves: resets and ICMP errors.
    pub fn poll_packet(&mut self) -> Option<(Target, Vec<u8>)> {
        self.answers.pop()
    }

    /// How many flows there are.
    #[must_use]
    pub fn flow_count(&self) -> usize {
        self.flows.len()
    }

    /// Every flow.
    pub fn flows(&self, now: Instant) -> impl Iterator<Item = FlowView> + '_ {
        let table = self.table.as_deref();
        self.flows
            .iter(now)
            .map(move |(_, flow)| FlowView::new(flow, table, now))
    }

    /// What a policy would make of a new flow to that service now, instance by instance. Nothing
    /// is picked by asking.
    #[must_use]
    pub fn explain(&self, service: &ServiceName, policy: Policy, family: Family) -> Vec<Candidate> {
        let Some(table) = &self.table else {
            return Vec::new();
        };
        table
            .service_by_name(service)
            .map_or_else(Vec::new, |index| {
                self.balancer
                    .explain(table, &self.peers, index, policy, family)
            })
    }

    /// Has the distance to a service's nodes measured, as when its `closest` name is asked for.
    pub fn note_interest(&mut self, service: &ServiceName) {
        if let Some(table) = self.table.clone()
            && let Some(index) = table.service_by_name(service)
        {
            self.ask_for_distances(&table, index);
        }
    }

    /// The peers that the shell should have sessions with, since the last call: those whose
    /// distance `closest` wants to know, at most [`crate::balance::MAX_MEASURED_NODES`] per
    /// service, and those that are down and that a new flow would have gone to. How soon a lost
    /// peer is tried again is the shell's.
    pub fn interests(&mut self) -> impl Iterator<Item = PeerId> + use<> {
        std::mem::take(&mut self.interests).into_iter()
    }

    /// How many packets were dropped here, by reason. Every dropped packet counts once.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }
}
