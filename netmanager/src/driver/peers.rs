//! The peers of the table: who has a session, who is dialled, what waits for whom.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use netmanager_core::dataplane::{PeerState, Reachability};
use netmanager_core::fast::lane::FastLane;
use netmanager_core::lane::Refused;
use netmanager_core::peer::candidates::Refusal;
use netmanager_core::peer::paths::Path;
use netmanager_core::peer::punch::Searches;
use netmanager_core::peer::{Action, Loss, Peer, Reach};
use netmanager_core::table::PeerId;
use netmanager_core::verdict::DropReason;
use netmanager_core::vnet::VnetHeader;
use weald_proto::id::{Identity, NodeId};
use weald_trust::tls::PEER_ALPN;

use super::Driver;
use super::drive::CloseCode;
use super::queue::Queue;
use super::session::{MAX_FANOUT, Session, With};
use crate::quic::{self, Slot};
use crate::socket::is_dialable;

/// How long a path on which somebody else answered is left alone: two sites often use the same
/// private addresses.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);

/// What the driver keeps of one peer.
#[derive(Debug)]
pub(super) struct PeerEntry {
    pub(super) node: NodeId,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) machine: Peer,
    pub(super) session: Option<Slot>,
    pub(super) dialling: Option<Slot>,
    /// A dial waits for its first path: a relay has yet to say how the peer is reached.
    pub(super) dial_pending: bool,
    /// The ways that the last dial was tried on, until a session stands.
    pub(super) dialled: Vec<Path>,
    /// Paths on which somebody else answered, and when.
    pub(super) refused: BTreeMap<Path, Instant>,
    pub(super) queue: Queue,
    /// First packets of connections whose lane depends on the way to the peer.
    pub(super) unmeasured: Queue,
    pub(super) since: Option<Instant>,
    /// The searches for ports of the peer; they are not made often.
    pub(super) searches: Searches,
    pub(super) last_failure: Option<String>,
    pub(super) sent_bytes: u64,
    pub(super) received_bytes: u64,
    /// The fast lane, if the configuration has it.
    pub(super) fast: FastLane,
    /// The last handshake that has given it keys, while its connection lasts.
    pub(super) agreement: Option<Slot>,
    told: Option<PeerState>,
}

impl Driver {
    /// Brings the peers in line with the table.
    pub(super) fn update_peers(&mut self) {
        let me = self.table.me().clone();
        let rows: Vec<_> = self
            .table
            .peers()
            .map(|(id, row)| (id, row.clone()))
            .collect();
        for (id, row) in &rows {
            let entry = self
                .peers
                .entry(*id)
                .or_insert_with(|| PeerEntry::new(&me, &row.id, self.idle_teardown));
            let former = std::mem::replace(&mut entry.addresses, row.addresses.clone());
            entry.refused.clear();
            // Until it is known which networks there are, nothing can be said of those of others.
            let knows_networks = self.surroundings.interfaces().next().is_some();
            for address in row.addresses.iter().filter(|_| knows_networks) {
                let is_new = !former.contains(address);
                if is_new && self.judge_named(*address).is_err() {
                    self.counters.count(DropReason::CandidateRefused);
                }
            }
            let withdrawn = former
                .into_iter()
                .filter(|address| !row.addresses.contains(address));
            let Some(entry) = self.peers.get(id) else {
                continue;
            };
            let session = entry.session.and_then(|slot| self.sessions.of_mut(slot));
            if let Some(session) = session {
                for address in withdrawn {
                    session.paths.remove(Path::Direct(address), self.now);
                }
            }
        }
        let gone: Vec<PeerId> = self
            .peers
            .keys()
            .filter(|id| !rows.iter().any(|(row, _)| row == *id))
            .copied()
            .collect();
        for id in gone {
            self.forget_at_relays(id);
            self.forget_lane_peer(id);
            self.forget_fast(id);
            if let Some(entry) = self.peers.remove(&id) {
                let waiting = entry.queue.len() + entry.unmeasured.len();
                self.counters.add(DropReason::PeerUnreachable, waiting);
                for slot in entry.session.into_iter().chain(entry.dialling) {
                    self.close(slot, CloseCode::UnknownNode);
                }
            }
        }
        for (id, _) in rows {
            self.offer_paths(id);
            self.tell_plane(id);
        }
    }

    /// Sends a packet to a peer, or lets it wait for a session.
    pub(super) fn forward(&mut self, peer: PeerId, vnet: &VnetHeader, packet: &[u8]) {
        let is_fast = self.is_fast(peer, packet);
        let Some(entry) = self.peers.get_mut(&peer) else {
            self.counters.count(DropReason::PeerUnreachable);
            return;
        };
        let session = entry
            .session
            .and_then(|slot| Some((slot, self.sessions.of_mut(slot)?)));
        if is_fast && entry.queue.is_empty() && self.io.is_writable() {
            self.send_fast(peer, vnet, packet);
        } else if let Some((slot, session)) = session.filter(|_| !is_fast)
            && entry.queue.is_empty()
            && super::transmit::has_room(&mut session.connection, packet.len())
        {
            match super::transmit::send_packet(session, &mut self.pool, vnet, packet) {
                Ok(()) => entry.sent_bytes += packet.len() as u64,
                Err(reason) => self.counters.count(reason),
            }
            self.touched.insert(slot);
        } else if !entry.queue.push(&mut self.pool, *vnet, packet, self.now) {
            self.counters.count(DropReason::PeerQueueFull);
        }
        self.want(peer);
    }

    /// Notes that somebody needs the peer; dials if nobody has yet.
    pub(super) fn want(&mut self, peer: PeerId) {
        let Some(entry) = self.peers.get_mut(&peer) else {
            return;
        };
        let action = entry.machine.want(self.now);
        if action.is_some() {
            self.act(peer, action);
        }
    }

    pub(super) fn act(&mut self, peer: PeerId, action: Option<Action>) {
        match action {
            Some(Action::Dial) => self.dial(peer),
            Some(Action::GiveUp) => self.give_up(peer),
            Some(Action::CloseIdle) => {
                if let Some(slot) = self.peers.get_mut(&peer).and_then(PeerEntry::take_session) {
                    self.forget_fast(peer);
                    self.close(slot, CloseCode::Idle);
                    self.close_lane(peer, CloseCode::Idle);
                    self.remember_peers();
                }
            }
            None => {}
        }
        self.tell_plane(peer);
    }

    fn dial(&mut self, peer: PeerId) {
        self.ask_relays(peer);
        let paths = self.candidates(peer);
        let Some(entry) = self.peers.get_mut(&peer) else {
            return;
        };
        if paths.is_empty() {
            entry.dial_pending = true;
            return;
        }
        entry.dial_pending = false;
        entry.dialled.clone_from(&paths);
        let former = entry.dialling.take();
        let expected = Identity::Node(entry.node.clone());
        let crypto = self.credentials.client_config(&expected, PEER_ALPN);
        let dialled = crypto.and_then(|crypto| {
            let config = quic::peer_client_config(crypto);
            self.connect(config, With::Peer(peer), |session| {
                session.fanout = paths;
                session.fanout.truncate(MAX_FANOUT);
            })
        });
        if let Some(former) = former {
            self.close(former, CloseCode::Superseded);
        }
        match dialled {
            Ok(slot) => {
                if let Some(entry) = self.peers.get_mut(&peer) {
                    entry.dialling = Some(slot);
                }
            }
            Err(error) => tracing::error!(%error, %expected, "cannot dial"),
        }
    }

    fn give_up(&mut self, peer: PeerId) {
        let Some(entry) = self.peers.get_mut(&peer) else {
            return;
        };
        entry.dial_pending = false;
        let failure = if entry.dialling.is_some() {
            "the handshake was not answered"
        } else {
            "no address is known and no relay has it registered"
        };
        entry.last_failure = Some(failure.to_owned());
        tracing::info!(peer = %entry.node, why = failure, "peer unreachable");
        if let Some(slot) = entry.dialling.take() {
            // Whoever answered there does not finish what it begins, or its packets do not arrive.
            let answered = self.sessions.of(slot).and_then(|session| session.answered);
            if let Some(path) = answered {
                entry.refused.insert(path, self.now);
            }
            self.close(slot, CloseCode::Unreachable);
        }
        self.tell_plane(peer);
        self.drop_queue(peer);
        self.refuse_all_waiting(peer, Refused::NoAnswer);
    }

    /// Drops what waits for a peer that cannot be reached; the packet path, which knows that it is
    /// down, tells those whose flows have had no answer.
    fn drop_queue(&mut self, peer: PeerId) {
        while self
            .peers
            .get_mut(&peer)
            .and_then(|entry| entry.queue.pop())
            .is_some()
        {
            self.counters.count(DropReason::PeerQueueExpired);
        }
    }

    /// Every way that a handshake with the peer can be tried on.
    fn candidates(&self, peer: PeerId) -> Vec<Path> {
        let Some(entry) = self.peers.get(&peer) else {
            return Vec::new();
        };
        let relayed = self.relays.iter().filter_map(|relay| relay.path_to(peer));
        let direct = entry
            .addresses
            .iter()
            .copied()
            .filter(|address| self.judge_dial(*address).is_ok());
        let all: Vec<Path> = relayed.chain(direct.map(Path::Direct)).collect();
        let is_open = |path: &Path| !entry.is_refused(*path, self.now);
        let open: Vec<Path> = all.iter().copied().filter(is_open).collect();
        if open.is_empty() { all } else { open }
    }

    /// Whether an address of a row is dialled; if not, why in a word that stands in JSON.
    pub(super) fn judge_dial(&self, address: SocketAddr) -> Result<(), &'static str> {
        if !is_dialable(address) {
            return Err("not_dialable");
        }
        if !self.io.socket.reaches(address) {
            return Err(Refusal::Family.word());
        }
        if self.table.pools().contains(address.ip()) {
            return Err(Refusal::Overlay.word());
        }
        self.judge_named(address).map_err(Refusal::word)
    }

    /// Whether an address that a row names may be sent to. Alone, the operator has written it; else the
    /// peer has named it itself, and may lie.
    fn judge_named(&self, address: SocketAddr) -> Result<(), Refusal> {
        match self.cluster {
            Some(_) => self.surroundings.judge(address, self.table.pools()),
            None => Ok(()),
        }
    }

    /// Offers every known way to the peer's session, or to the dial that is under way.
    pub(super) fn offer_paths(&mut self, peer: PeerId) {
        let paths = self.candidates(peer);
        let Some(entry) = self.peers.get_mut(&peer) else {
            return;
        };
        if let Some(slot) = entry.session {
            if let Some(session) = self.sessions.of_mut(slot) {
                for path in paths {
                    session.paths.add(path, self.now);
                }
                self.touched.insert(slot);
            }
        } else if let Some(slot) = entry.dialling {
            entry.dialled.clone_from(&paths);
            for path in paths {
                let repeat = self
                    .sessions
                    .of_mut(slot)
                    .map_or_else(Vec::new, |session| session.widen(path));
                for datagram in repeat {
                    let len = datagram.len();
                    self.send_untried(path, &datagram, len);
                }
            }
        } else if entry.dial_pending {
            self.dial(peer);
        }
    }

    pub(super) fn handle_peer_lost(&mut self, slot: Slot, peer: PeerId, loss: Loss, reason: &str) {
        let answered = self
            .sessions
            .of(slot)
            .filter(|session| session.established.is_none());
        let answered = answered.and_then(|session| session.answered);
        let Some(entry) = self.peers.get_mut(&peer) else {
            return;
        };
        let was_ours = entry.session == Some(slot) || entry.dialling == Some(slot);
        if entry.session == Some(slot) {
            entry.session = None;
            entry.since = None;
            tracing::info!(peer = %entry.node, why = reason, "session lost");
        }
        let has_session = entry.session.is_some();
        let mut elsewhere = None;
        if entry.dialling == Some(slot) {
            entry.dialling = None;
            tracing::debug!(peer = %entry.node, why = reason, "handshake failed");
            // Whoever answered was not the peer; another path may lead to it.
            if let Some(path) = answered {
                entry.refused.insert(path, self.now);
                elsewhere = entry.machine.retry_elsewhere();
            }
        }
        if !has_session {
            self.forget_fast(peer);
        }
        let Some(entry) = self.peers.get_mut(&peer) else {
            return;
        };
        if was_ours {
            entry.last_failure = Some(reason.to_owned());
            let refused = entry.refused.clone();
            let open = self
                .candidates(peer)
                .into_iter()
                .any(|path| !refused.contains_key(&path));
            let action = match self.peers.get_mut(&peer) {
                Some(_) if has_session => None,
                Some(_) if open && elsewhere.is_some() => elsewhere,
                Some(entry) => entry.machine.handle_session_lost(loss, self.now),
                None => None,
            };
            self.act(peer, action);
            self.remember_peers();
        }
    }

    /// The datagram session with a peer.
    pub(super) fn session_with(&self, peer: PeerId) -> Option<&Session> {
        self.sessions.of(self.peers.get(&peer)?.session?)
    }

    /// Tells the packet path how a peer is reached, if that has changed.
    pub(super) fn tell_plane(&mut self, peer: PeerId) {
        let Some(entry) = self.peers.get_mut(&peer) else {
            return;
        };
        let loss_permille = (entry.session)
            .and_then(|slot| self.sessions.of_mut(slot))
            .and_then(Session::loss_permille);
        let session = entry.session.and_then(|slot| self.sessions.of(slot));
        let reachable = match entry.machine.reach() {
            Reach::Unknown => Reachability::Unknown,
            Reach::Connecting => Reachability::Connecting,
            Reach::Up => Reachability::Up,
            Reach::Down => Reachability::Down,
        };
        let min_rtt = session.and_then(|session| session.paths.min_rtt(self.now));
        let relayed = session.and_then(|s| s.path).is_some_and(Path::is_relayed);
        let handshake = session.filter(|_| min_rtt.is_none());
        let mut state = PeerState {
            reachable,
            min_rtt,
            estimated_rtt: handshake.map(|session| session.connection.rtt()),
            relayed,
            loss_permille,
            measuring: false,
        };
        state.measuring = entry.is_measuring(&state, self.now);
        if !state.measuring && !entry.unmeasured.is_empty() {
            self.measured.insert(peer);
        }
        if entry.told != Some(state) {
            entry.told = Some(state);
            self.plane.set_peer(peer, state, self.now);
        }
    }

    pub(super) fn handle_peer_timeouts(&mut self) {
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            let Some(entry) = self.peers.get_mut(&peer) else {
                continue;
            };
            if entry
                .machine
                .poll_timeout()
                .is_some_and(|(at, _)| at <= self.now)
            {
                let action = entry.machine.handle_timeout(self.now);
                self.act(peer, action);
            }
            let Some(entry) = self.peers.get(&peer) else {
                continue;
            };
            if entry.queue.deadline().is_some_and(|at| at <= self.now) && entry.session.is_none() {
                self.drop_queue(peer);
            }
            let Some(entry) = self.peers.get(&peer) else {
                continue;
            };
            if entry.unmeasured_deadline().is_some_and(|at| at <= self.now) {
                self.tell_plane(peer);
            }
        }
    }

    pub(super) fn peer_deadline(&self) -> Option<Instant> {
        let machines = self
            .peers
            .values()
            .filter_map(|entry| entry.machine.poll_timeout());
        let waiting = self.peers.values().filter(|entry| entry.session.is_none());
        let queues = waiting.filter_map(|entry| entry.queue.deadline());
        let entries = self.peers.values();
        let unmeasured = entries.filter_map(PeerEntry::unmeasured_deadline);
        let machines = machines.map(|(at, _)| at);
        machines.chain(queues).chain(unmeasured).min()
    }

    pub(super) fn name_of(&self, peer: PeerId) -> String {
        self.peers
            .get(&peer)
            .map_or_else(String::new, |entry| entry.node.to_string())
    }
}

impl PeerEntry {
    /// Whether somebody else has answered there of late.
    pub(super) fn is_refused(&self, path: Path, now: Instant) -> bool {
        let refused = self.refused.get(&path);
        refused.is_some_and(|at| now < *at + REFUSED_PAUSE)
    }

    fn take_session(&mut self) -> Option<Slot> {
        self.since = None;
        self.session.take()
    }

    /// Thousandths of the packets that were lost lately, as the packet path was told.
    pub(super) fn loss_permille(&self) -> Option<u16> {
        self.told?.loss_permille
    }

    fn new(me: &NodeId, node: &NodeId, teardown: Duration) -> Self {
        Self {
            node: node.clone(),
            addresses: Vec::new(),
            machine: Peer::new(me < node).torn_down_after(teardown),
            session: None,
            dialling: None,
            dial_pending: false,
            dialled: Vec::new(),
            refused: BTreeMap::new(),
            queue: Queue::default(),
            unmeasured: Queue::default(),
            since: None,
            searches: Searches::default(),
            last_failure: None,
            sent_bytes: 0,
            received_bytes: 0,
            fast: FastLane::default(),
            agreement: None,
            told: None,
        }
    }
}
