//! First packets of connections whose lane depends on how far away a peer is, while that is not
//! known: they wait until its path is measured, or until that has failed.
//!
//! A connection keeps its lane for life, so it is not decided for want of a round trip. Packets that
//! wait for a session whatever their lane are `peers`'.

use std::time::{Duration, Instant};

use netmanager_core::dataplane::{PeerState, Reachability};
use netmanager_core::table::PeerId;
use netmanager_core::verdict::DropReason;
use netmanager_core::vnet::VnetHeader;

use super::Driver;
use super::peers::PeerEntry;
use super::queue::Queue;

/// How long connections wait for a probe of a new session's path to come back, where the handshake
/// alone does not say that it is short. A probe may be lost; then the handshake has to do.
const MEASURE_TIME: Duration = Duration::from_millis(300);

impl PeerEntry {
    /// When the wait for a measurement of the session's path is over.
    fn measured_by(&self) -> Option<Instant> {
        self.since.map(|since| since + MEASURE_TIME)
    }

    /// Whether how far away the peer is will be known in a moment.
    pub(super) fn is_measuring(&self, state: &PeerState, now: Instant) -> bool {
        match state.reachable {
            Reachability::Unknown | Reachability::Connecting => true,
            Reachability::Up => !state.is_known() && self.measured_by().is_some_and(|at| now < at),
            Reachability::Down => false,
        }
    }

    /// When connections wait no longer for a measurement; none if none do, or as long as there is no
    /// session, because the peer's own timeouts end that.
    pub(super) fn unmeasured_deadline(&self) -> Option<Instant> {
        self.measured_by().filter(|_| !self.unmeasured.is_empty())
    }
}

impl Driver {
    /// Keeps the first packet of a connection until it is known how far away its peer is.
    pub(super) fn await_peer(&mut self, peer: PeerId, vnet: &VnetHeader, packet: &[u8]) {
        let Some(entry) = self.peers.get_mut(&peer) else {
            self.counters.count(DropReason::PeerUnreachable);
            return;
        };
        let pool = &mut self.pool;
        if !entry.unmeasured.push(pool, *vnet, packet, self.now) {
            self.counters.count(DropReason::PeerQueueFull);
        }
        self.want(peer);
        // What the packet path was told may have been true until a moment ago.
        self.tell_plane(peer);
    }

    /// Hands packets in again whose peers are measured, or cannot be reached.
    pub(super) fn decide_measured(&mut self) {
        for peer in std::mem::take(&mut self.measured) {
            let entry = self.peers.get_mut(&peer);
            let mut waiting = entry.map(|entry| std::mem::take(&mut entry.unmeasured));
            while let Some(mut parked) = waiting.as_mut().and_then(Queue::pop) {
                self.take_from_tun(parked.vnet, &mut parked.packet);
            }
        }
        self.poll_plane();
    }
}
