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

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use weald_proto::id::Organisation;
use weald_proto::name::{Policy, ServiceName};

pub use self::again::Again;
pub use self::change::LINGER;
pub use self::peers::{PeerState, Reachability};
pub use self::streams::StreamWanted;
pub use crate::balance::{Candidate, Family};
pub use crate::flow::FlowView;

use self::again::Openings;
use self::answers::Answers;
use crate::balance::Balancer;
use crate::flow::{Choices, FlowId, FlowTable, Lane, LaneReason, PLACE_LEN};
use crate::fragment::FragmentTable;
use crate::lane::Phantoms;
use crate::table::{Host, PeerId, Snapshot};
use crate::verdict::{Counters, Verdict};
use crate::vnet::VnetHeader;

mod again;
mod answers;
mod change;
mod check;
mod handle;
mod open;
mod peers;
mod reset;
mod streams;

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
    choices: Choices,
    /// Connections whose servers have left the table, and when they end; the earliest first.
    lingering: VecDeque<(Instant, FlowId)>,
    /// Instances that were hosted here until a moment ago, until when streams to them are taken, and
    /// whose they were; the earliest first.
    departed: VecDeque<(Instant, IpAddr, Organisation)>,
    openings: Openings,
    phantoms: Phantoms,
    /// Whether connections of the L4 lane can end at this node's kernel.
    has_stack: bool,
    answers: Answers,
    interests: BTreeSet<PeerId>,
    counters: Counters,
    lanes: BTreeMap<(Lane, LaneReason), u64>,
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
            choices: Choices::default(),
            lingering: VecDeque::new(),
            departed: VecDeque::new(),
            openings: Openings::default(),
            phantoms: Phantoms::default(),
            has_stack: true,
            answers: Answers::new(limits.answers, seed),
            interests: BTreeSet::new(),
            counters: Counters::default(),
            lanes: BTreeMap::new(),
        }
    }

    /// Says that no kernel is behind the device at which connections of the L4 lane could end: flows
    /// that are opened here take another one.
    #[must_use]
    pub const fn without_stack(mut self) -> Self {
        self.has_stack = false;
        self
    }

    /// Takes up a part of where connections to services went that a former process has opened, as
    /// that has [polled](Self::poll_choice) it.
    pub fn restore_choice(&mut self, at: usize, place: &[u8]) {
        self.choices.restore(at, place);
    }

    /// A part of what the next process takes up, by its offset; until there is none.
    pub fn poll_choice(&mut self) -> Option<(usize, [u8; PLACE_LEN])> {
        self.choices.poll_write()
    }

    /// Goes over to another table. Flows that policy forbids now, or whose client is gone, end with a
    /// reset for the local end, and so do connections whose server is gone, after [`LINGER`]; flows
    /// of an instance that has moved follow it.
    pub fn set_table(&mut self, table: Arc<Snapshot>, now: Instant) {
        let old = self.table.replace(Arc::clone(&table));
        self.balancer.set_table(old.as_deref(), &table);
        self.peers.retain(|peer, _| table.peer(*peer).is_some());
        if let Some(old) = old {
            self.follow_table(&old, &table, now);
            self.note_departed(&old, &table, now);
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
        self.end_lingering(now);
    }

    /// When [`DataPlane::handle_timeout`] has something to do, and what.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let sweep = self.flows.next_sweep().map(|at| (at, "flow sweep"));
        let lingering = self.lingering.front().map(|(at, _)| *at);
        let departed = self.departed.front().map(|(at, ..)| *at);
        let gone = lingering.into_iter().chain(departed).min();
        let gone = gone.map(|at| (at, "servers that are gone"));
        sweep.into_iter().chain(gone).min()
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

    /// How many flows were opened here, by their lanes and the reasons for those.
    #[must_use]
    pub const fn lanes(&self) -> &BTreeMap<(Lane, LaneReason), u64> {
        &self.lanes
    }

    /// How many packets were dropped here, by reason. Every dropped packet counts once.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }
}
