//! The QUIC connections of the lane: one that this node has dialled to each peer, and those of
//! peers that have dialled it.
//!
//! Streams are opened by whoever dialled, so that two nodes never have to agree on one connection.
//! Which path packets take, and whether the peer is there at all, is the datagram session's.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use netmanager_core::flow::FlowId;
use netmanager_core::lane::Refused;
use netmanager_core::peer::CONNECT_TIMEOUT;
use netmanager_core::peer::paths::Path;
use netmanager_core::table::PeerId;
use netmanager_core::vnet::VnetHeader;
use weald_proto::id::Identity;

use crate::driver::Driver;
use crate::driver::drive::CloseCode;
use crate::driver::session::With;
use crate::quic::{self, Slot};

/// Flows that wait for a connection with one peer.
const MAX_WAITING: usize = 1024;
/// Connections of one peer that this node keeps; a peer that has restarted dials again before the
/// old one is known to be dead.
const MAX_INCOMING: usize = 3;
/// What may be written and not acknowledged beyond two congestion windows: turns of two streams.
/// Two, because quinn-proto counts what has arrived behind a gap, and a gap whose filling is lost
/// as well is open for longer than a window lasts.
const SEND_SLACK: u64 = 256 << 10;
/// How long after a dial that has failed the next is made, while flows wait.
const REDIAL_PAUSE: Duration = Duration::from_millis(200);
/// The round-trip time assumed of a peer that has not been measured.
const UNMEASURED: Duration = Duration::from_millis(100);

/// What the lane keeps of one peer.
#[derive(Debug, Default)]
pub(super) struct LanePeer {
    pub(super) up: Option<Slot>,
    dialling: Option<Slot>,
    incoming: VecDeque<Slot>,
    waiting: VecDeque<Waiting>,
    /// When a dial that has failed is tried again.
    redial_at: Option<Instant>,
}

/// A flow that waits for a connection.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) flow: FlowId,
    pub(super) vnet: VnetHeader,
    pub(super) packet: Vec<u8>,
    pub(super) since: Instant,
}

impl LanePeer {
    pub(super) fn waits_for(&self, flow: FlowId) -> bool {
        self.waiting.iter().any(|waiting| waiting.flow == flow)
    }

    pub(super) fn wait(&mut self, waiting: Waiting) -> Result<(), Waiting> {
        if self.waiting.len() >= MAX_WAITING {
            return Err(waiting);
        }
        self.waiting.push_back(waiting);
        Ok(())
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.expires().into_iter().chain(self.redial_at).min()
    }

    /// When the first of the flows has waited long enough.
    fn expires(&self) -> Option<Instant> {
        self.waiting
            .front()
            .map(|waiting| waiting.since + CONNECT_TIMEOUT)
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> + '_ {
        let own = self.up.into_iter().chain(self.dialling);
        own.chain(self.incoming.iter().copied())
    }

    fn forget(&mut self, slot: Slot) {
        self.up = self.up.filter(|up| *up != slot);
        self.dialling = self.dialling.filter(|dialling| *dialling != slot);
        self.incoming.retain(|incoming| *incoming != slot);
    }
}

impl Driver {
    /// Dials a peer for the lane if flows wait for it and its datagram session is up.
    pub(in crate::driver) fn dial_lane(&mut self, peer: PeerId) {
        let Some(lane_peer) = self.lane.peers.get(&peer) else {
            return;
        };
        let idle = lane_peer.up.is_none() && lane_peer.dialling.is_none();
        if !idle || lane_peer.waiting.is_empty() {
            return;
        }
        let (Some(path), Some(entry)) = (self.path_of(peer), self.peers.get(&peer)) else {
            // The session's start dials.
            return;
        };
        let expected = Identity::Node(entry.node.clone());
        let rtt = self.lane_rtt(peer);
        let crypto = self.credentials.client_config(&expected, quic::LANE_ALPN);
        let dialled = crypto.and_then(|crypto| {
            let config = quic::lane_client_config(crypto, rtt);
            self.connect(config, With::Lane(peer), |session| {
                session.be_lane(Some(path));
            })
        });
        match dialled {
            Ok(slot) => {
                if let Some(lane_peer) = self.lane.peers.get_mut(&peer) {
                    lane_peer.dialling = Some(slot);
                }
            }
            Err(error) => tracing::error!(%error, %expected, "cannot dial for the L4 lane"),
        }
    }

    /// The path of a peer's datagram session.
    pub(in crate::driver) fn path_of(&self, peer: PeerId) -> Option<Path> {
        self.session_with(peer)?.path
    }

    /// The round-trip time that windows are made for: until probes have measured it, what the
    /// handshake took.
    fn lane_rtt(&self, peer: PeerId) -> Duration {
        self.session_with(peer).map_or(UNMEASURED, |session| {
            let probed = session.paths.min_rtt(self.now);
            probed.unwrap_or_else(|| session.connection.rtt())
        })
    }

    /// A connection of the lane is up, dialled by this node or by the peer.
    pub(in crate::driver) fn establish_lane(&mut self, slot: Slot, peer: PeerId) {
        let Some(session) = self.sessions.of_mut(slot) else {
            return;
        };
        session.with = With::Lane(peer);
        let (dialled, own) = (session.dialled, session.path);
        let path = self.path_of(peer).or(own);
        if let Some(session) = self.sessions.of_mut(slot) {
            session.path = path;
        }
        self.sessions.settle(slot, self.now);
        let lane_peer = self.lane.peers.entry(peer).or_default();
        if !dialled {
            lane_peer.incoming.push_back(slot);
            let surplus = lane_peer.incoming.len() > MAX_INCOMING;
            let oldest = lane_peer.incoming.front().copied().filter(|_| surplus);
            if let Some(oldest) = oldest {
                self.close(oldest, CloseCode::Superseded);
            }
            self.take_streams(slot);
            return;
        }
        lane_peer.dialling = None;
        lane_peer.up = Some(slot);
        for waiting in std::mem::take(&mut lane_peer.waiting) {
            if let Err(waiting) = self.ask(slot, waiting) {
                self.refuse_waiting(&waiting, Refused::NoRoom);
            }
        }
    }

    /// A connection of the lane is gone, or about to be: whatever it carried is reset.
    pub(in crate::driver) fn lane_lost(&mut self, slot: Slot, peer: PeerId, reason: &str) {
        tracing::debug!(peer = %self.name_of(peer), why = reason, "connection of the L4 lane lost");
        let Some(lane_peer) = self.lane.peers.get_mut(&peer) else {
            return;
        };
        lane_peer.forget(slot);
        // The peer may not know this node yet: its table comes from elsewhere.
        let waits = !lane_peer.waiting.is_empty() && lane_peer.redial_at.is_none();
        if waits {
            lane_peer.redial_at = Some(self.now + REDIAL_PAUSE);
        }
        let carried: Vec<_> = self.lane.carried_by(slot).collect();
        for id in carried {
            self.drop_conn(id, Refused::Gone);
        }
        self.lane.turns.forget(slot);
    }

    fn refuse_waiting(&mut self, waiting: &Waiting, why: Refused) {
        self.lane.count(why);
        let elsewhere = self.lane.looks_elsewhere(why);
        self.plane
            .refuse_stream(waiting.flow, &waiting.packet, elsewhere);
        self.poll_plane();
    }

    /// Dials again where that is due, and gives up flows that have waited too long.
    pub(super) fn handle_waiting(&mut self) {
        let now = self.now;
        let (mut expired, mut redials) = (Vec::new(), Vec::new());
        for (peer, lane_peer) in &mut self.lane.peers {
            while lane_peer.expires().is_some_and(|at| at <= now) {
                expired.extend(lane_peer.waiting.pop_front());
            }
            if lane_peer.redial_at.take_if(|at| *at <= now).is_some() {
                redials.push(*peer);
            }
        }
        for waiting in expired {
            self.refuse_waiting(&waiting, Refused::NoAnswer);
        }
        for peer in redials {
            self.dial_lane(peer);
        }
    }

    /// Gives up all flows that wait for a connection with a peer.
    pub(in crate::driver) fn refuse_all_waiting(&mut self, peer: PeerId, why: Refused) {
        let lane_peer = self.lane.peers.get_mut(&peer);
        let waiting = lane_peer.map(|it| std::mem::take(&mut it.waiting));
        for waiting in waiting.unwrap_or_default() {
            self.refuse_waiting(&waiting, why);
        }
    }

    /// The peer's packets may take another path: its lane's as well.
    pub(in crate::driver) fn lane_path_changed(&mut self, peer: PeerId) {
        let Some(path) = self.path_of(peer) else {
            return;
        };
        for slot in self.lane.slots_of(peer) {
            if let Some(session) = self.sessions.of_mut(slot)
                && session.path.replace(path) != Some(path)
            {
                session.connection.path_changed(self.now);
                session.connection.ping();
                self.touched.insert(slot);
            }
        }
    }

    /// Closes a peer's connections.
    pub(in crate::driver) fn close_lane(&mut self, peer: PeerId, code: CloseCode) {
        for slot in self.lane.slots_of(peer) {
            self.close(slot, code);
        }
    }

    /// The peer is not in the table any more.
    pub(in crate::driver) fn forget_lane_peer(&mut self, peer: PeerId) {
        self.close_lane(peer, CloseCode::UnknownNode);
        self.refuse_all_waiting(peer, Refused::Gone);
        self.lane.peers.remove(&peer);
    }

    /// Lets a connection buffer what the path can have in flight, and little more.
    pub(in crate::driver) fn bound_lane(&mut self, slot: Slot) {
        if let Some(session) = self.sessions.of_mut(slot)
            && matches!(session.with, With::Lane(_))
        {
            let window = session.connection.congestion_state().window();
            session.connection.set_send_window(2 * window + SEND_SLACK);
        }
    }

    /// Keeps the sessions of peers with connections from being taken for idle, because the lane's
    /// packets use their paths; false if there are none.
    pub(super) fn keep_peers_of_streams(&mut self) -> bool {
        let mut busy = false;
        for (peer, lane_peer) in &self.lane.peers {
            let used = lane_peer.slots().any(|slot| {
                let carries = self.lane.carried_by(slot).next().is_some();
                carries && self.sessions.of(slot).is_some()
            });
            if used && let Some(entry) = self.peers.get_mut(peer) {
                entry.machine.note_traffic(self.now);
                busy = true;
            }
        }
        busy
    }
}
