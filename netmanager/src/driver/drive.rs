//! Drives sessions: QUIC events inwards, datagrams and packets outwards.

use std::time::{Duration, Instant};

use bytes::Bytes;
use netmanager_core::peer::paths::{PADDED_LEN, Path, PathEvent, Paths};
use netmanager_core::peer::punch::Punch;
use netmanager_core::peer::{Keep, Loss};
use netmanager_core::table::PeerId;
use quinn_proto::{ConnectionError, Event, StreamEvent, VarInt};
use weald_proto::id::Identity;
use weald_trust::tls;

use super::Driver;
use super::session::{ProbeKeys, With};
use crate::quic::Slot;

/// How long a superseded session is still listened to: what the peer sent before it knew is on its
/// way for half a round trip.
const RETIREMENT: Duration = Duration::from_millis(500);

/// Why we close sessions, as application error codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CloseCode {
    /// The daemon stops.
    Shutdown = 1,
    /// Another session with the same peer stays.
    Superseded = 2,
    /// The peer is not in this node's table.
    UnknownNode = 3,
    /// Nobody has used the session for long.
    Idle = 4,
    /// Nothing was heard on any path.
    Unreachable = 5,
    /// The other end does not keep to the protocol.
    Protocol = 6,
    /// The other end's key is revoked.
    Revoked = 7,
}

impl CloseCode {
    const fn text(self) -> &'static str {
        match self {
            Self::Shutdown => "the daemon stops",
            Self::Superseded => "another session stays",
            Self::UnknownNode => "not in the table",
            Self::Idle => "idle",
            Self::Unreachable => "no path answers",
            Self::Protocol => "protocol violated",
            Self::Revoked => "revoked",
        }
    }
}

impl Driver {
    /// Drives every session that something has happened to, and those that this touches.
    pub(super) fn drive_touched(&mut self) {
        while let Some(slot) = self.touched.pop_first() {
            self.drive(slot);
        }
        self.flush_fast();
    }

    fn drive(&mut self, slot: Slot) {
        self.take_in(slot);
        self.drive_paths(slot);
        self.bound_lane(slot);
        self.take_turns(slot);
        self.drive_punch(slot);
        loop {
            self.flush_queue(slot);
            self.transmit(slot);
            if !self.io.is_writable() || !self.can_flush(slot) {
                break;
            }
        }
        let drained = self
            .sessions
            .of(slot)
            .is_some_and(|s| s.connection.is_drained());
        if drained {
            self.io.extra.end(slot);
            self.abandon_chunks(slot);
            self.sessions.remove(slot);
        }
    }

    /// Takes in what has come on the touched sessions, and sends nothing yet: what it leads to goes
    /// out together, acknowledgements of the tunnel beside those of the flows inside.
    pub(super) fn take_in_touched(&mut self) {
        for slot in self.touched.iter().copied().collect::<Vec<_>>() {
            self.take_in(slot);
        }
    }

    fn take_in(&mut self, slot: Slot) {
        self.drain_events(slot);
        self.receive_datagrams(slot);
    }

    fn drain_events(&mut self, slot: Slot) {
        loop {
            let Some(session) = self.sessions.of_mut(slot) else {
                return;
            };
            let Some(event) = session.connection.poll() else {
                break;
            };
            match event {
                Event::Connected => self.handle_connected(slot),
                Event::ConnectionLost { reason } => self.handle_lost(slot, &reason),
                Event::Stream(event) if session.pacer.is_some() => {
                    self.handle_lane_stream(slot, event);
                }
                Event::Stream(StreamEvent::Readable { .. } | StreamEvent::Opened { .. }) => {
                    self.read_stream(slot);
                }
                Event::Stream(StreamEvent::Writable { .. }) => self.write_stream(slot),
                Event::Stream(_)
                | Event::HandshakeDataReady
                | Event::DatagramReceived
                | Event::DatagramsUnblocked => {}
            }
        }
        self.pass_endpoint_events(slot);
    }

    fn read_stream(&mut self, slot: Slot) {
        match self.sessions.of(slot).map(|session| session.with) {
            Some(With::Relay(_)) => self.read_relay_stream(slot),
            Some(With::Cluster) => self.hear_cluster(slot),
            Some(With::Peer(_)) => self.hear_peer(slot),
            Some(With::Stranger | With::Lane(_) | With::Agreement(_)) | None => {}
        }
    }

    fn write_stream(&mut self, slot: Slot) {
        match self.sessions.of_mut(slot) {
            Some(session) if matches!(session.with, With::Cluster | With::Peer(_)) => {
                session.flush_stream();
            }
            Some(_) => self.write_relay_stream(slot),
            None => {}
        }
    }

    pub(super) fn pass_endpoint_events(&mut self, slot: Slot) {
        self.current_slot.set(slot);
        if let Some(session) = self.sessions.of_mut(slot) {
            while let Some(event) = session.connection.poll_endpoint_events() {
                if let Some(answer) = self.endpoint.handle_event(session.handle, event) {
                    session.connection.handle_event(answer);
                }
            }
        }
        self.current_slot.clear();
    }

    fn handle_connected(&mut self, slot: Slot) {
        let Some(session) = self.sessions.of(slot) else {
            return;
        };
        let shown = session.connection.crypto_session();
        // Its certificate was judged when it came; a list of the revoked may have come since.
        let keys = shown.peer_identity();
        let keys = keys.map_or_else(Vec::new, |chain| tls::keys_of_verified(chain.as_ref()));
        let revoked = self.credentials.revoked();
        if keys.iter().any(|key| revoked.keys.contains(key)) {
            let with = session.with;
            self.end_revoked(slot, with);
            return;
        }
        let identity = tls::peer_identity(shown);
        let is_lane = session.pacer.is_some();
        let is_agreement = session.is_agreement;
        let with = match (session.with, identity.map(|peer| peer.identity)) {
            (With::Stranger, Some(Identity::Node(node))) => {
                let peer = self.table.peers().find(|(_, row)| row.id == node);
                let peer = peer.map(|(id, _)| id);
                let is_session = !is_lane && !is_agreement;
                if peer.is_none() && is_session && self.take_guest(slot, &node) {
                    return;
                }
                peer.map(|peer| match (is_lane, is_agreement) {
                    (true, _) => With::Lane(peer),
                    (false, true) => With::Agreement(peer),
                    (false, false) => With::Peer(peer),
                })
            }
            (With::Stranger, _) => None,
            (
                known @ (With::Peer(_)
                | With::Relay(_)
                | With::Cluster
                | With::Lane(_)
                | With::Agreement(_)),
                _,
            ) => Some(known),
        };
        match with {
            Some(With::Peer(peer)) => self.establish_peer(slot, peer),
            Some(With::Lane(peer)) => self.establish_lane(slot, peer),
            Some(With::Agreement(peer)) => self.establish_agreement(slot, peer),
            Some(With::Relay(relay)) => {
                if let Some(session) = self.sessions.of_mut(slot) {
                    session.established = Some(self.now);
                }
                self.start_relay_link(slot, relay);
            }
            Some(With::Cluster) => {
                if let Some(session) = self.sessions.of_mut(slot) {
                    session.established = Some(self.now);
                }
                self.start_cluster(slot);
            }
            Some(With::Stranger) | None => self.close(slot, CloseCode::UnknownNode),
        }
    }

    pub(super) fn establish_peer(&mut self, slot: Slot, peer: PeerId) {
        let Some(session) = self.sessions.of_mut(slot) else {
            return;
        };
        let keys = match ProbeKeys::derive(&session.connection, session.dialled) {
            Ok(keys) => keys,
            Err(error) => {
                tracing::error!(%error, "no probe keys");
                self.close(slot, CloseCode::Protocol);
                return;
            }
        };
        session.with = With::Peer(peer);
        let (dialled, born, path) = (session.dialled, session.born, session.path);
        let seed = self.next_seed();
        let Some(entry) = self.peers.get_mut(&peer) else {
            self.close(slot, CloseCode::UnknownNode);
            return;
        };
        if entry.dialling == Some(slot) {
            entry.dialling = None;
        }
        if entry.machine.handle_session_up(dialled, born, self.now) == Keep::Old {
            self.retire(slot);
            return;
        }
        entry.dial_pending = false;
        entry.refused.clear();
        entry.dialled.clear();
        let former = entry.session.replace(slot);
        let gone = entry.fast.reset();
        self.fast.forget(gone);
        entry.since = Some(self.now);
        // The own dial loses against one that has come up, unless this node wins ties.
        let loser = entry.dialling.filter(|_| !entry.machine.wins_ties());
        if let Some(loser) = loser {
            entry.dialling = None;
            self.retire(loser);
        }
        self.sessions.establish(slot, keys, self.now);
        if let Some(session) = self.sessions.of_mut(slot) {
            session.paths = Paths::new(seed);
            if dialled {
                session.paths.hold_probes(self.now);
            }
            if let Some(path) = path {
                session.paths.handle_handshake(path, self.now);
                session.paths.estimate(path, session.connection.rtt());
            }
        }
        if let Some(former) = former.filter(|former| *former != slot) {
            self.retire(former);
        }
        self.lane_path_changed(peer);
        tracing::info!(peer = %self.name_of(peer), path = %self.show_path(path), dialled, "session up");
        self.begin_showing(slot);
        self.begin_punching(slot, peer);
        // A direct session wants a relayed way to fall back to, and the reverse.
        self.ask_relays(peer);
        self.offer_paths(peer);
        self.tell_plane(peer);
        self.remember_peers();
        self.dial_lane(peer);
    }

    fn handle_lost(&mut self, slot: Slot, reason: &ConnectionError) {
        let Some(with) = self.sessions.of(slot).map(|session| session.with) else {
            return;
        };
        match with {
            With::Stranger => {
                self.refused_handshakes += 1;
                tracing::debug!(%reason, "handshake failed");
            }
            With::Peer(peer) => {
                let says = |code: CloseCode| {
                    matches!(
                        reason,
                        ConnectionError::ApplicationClosed(close)
                            if close.error_code == VarInt::from_u32(code as u32)
                    )
                };
                let loss = if says(CloseCode::Shutdown) {
                    Loss::Farewell
                } else if says(CloseCode::Idle) {
                    Loss::Idle
                } else {
                    Loss::Unforeseen
                };
                self.handle_peer_lost(slot, peer, loss, &reason.to_string());
            }
            With::Relay(relay) => self.handle_relay_lost(slot, relay, &reason.to_string()),
            With::Cluster => self.handle_cluster_lost(slot, &reason.to_string()),
            With::Lane(peer) => self.lane_lost(slot, peer, &reason.to_string()),
            With::Agreement(peer) => self.agreement_lost(slot, peer, reason),
        }
    }

    /// Ends a session that another one has superseded, when what is on its way has come.
    fn retire(&mut self, slot: Slot) {
        if let Some(session) = self.sessions.of_mut(slot) {
            session.retires = Some(self.now + RETIREMENT);
        }
    }

    /// Ends a session from this side; nobody is told of its loss any more.
    pub(super) fn close(&mut self, slot: Slot, code: CloseCode) {
        if let Some(With::Lane(peer)) = self.sessions.of(slot).map(|session| session.with) {
            self.lane_lost(slot, peer, code.text());
        }
        self.abandon_chunks(slot);
        if let Some(session) = self.sessions.of_mut(slot) {
            let reason = Bytes::from_static(code.text().as_bytes());
            session
                .connection
                .close(self.now, VarInt::from_u32(code as u32), reason);
            session.with = With::Stranger;
            // Nothing of it is due any more but the end of the connection.
            session.paths = Paths::new(0);
            session.punch = None;
            self.touched.insert(slot);
        }
    }

    fn receive_datagrams(&mut self, slot: Slot) {
        let Self {
            sessions,
            plane,
            io,
            counters,
            peers,
            now,
            ..
        } = self;
        let Some((peer, session)) = sessions.with_peer(slot) else {
            return;
        };
        if Self::is_held(session.held_until, *now) {
            return;
        }
        let mut received = 0;
        let mut forwards = Vec::new();
        while let Some(datagram) = session.connection.datagrams().recv() {
            received += datagram.len() as u64;
            let result = session
                .reassembler
                .handle(&datagram, *now, &mut |vnet, packet| {
                    super::packets::take_from_peer(
                        plane,
                        io,
                        &mut forwards,
                        peer,
                        vnet,
                        packet,
                        *now,
                    );
                });
            if let Err(drop) = result {
                counters.count(drop.reason());
            }
        }
        while let Some((reason, count)) = session.reassembler.poll_drop() {
            counters.add(reason, count);
        }
        if received > 0
            && let Some(entry) = peers.get_mut(&peer)
        {
            entry.received_bytes += received;
            entry.machine.note_traffic(*now);
            self.after_plane(forwards);
        }
    }

    /// Sends due probes and acts on changes of path.
    fn drive_paths(&mut self, slot: Slot) {
        let Some((peer, session)) = self.sessions.with_peer(slot) else {
            return;
        };
        if session.established.is_none() {
            return;
        }
        let entry = self.peers.get(&peer);
        let is_quiet = entry.is_some_and(|entry| entry.machine.is_quiet(self.now));
        session.paths.set_quiet(is_quiet, self.now);
        if session
            .paths
            .poll_timeout()
            .is_some_and(|at| at <= self.now)
        {
            session.paths.handle_timeout(self.now);
            match session.path.filter(|_| session.paths.is_in_doubt()) {
                Some(Path::Relay { relay, .. }) => self.doubt_relay(relay),
                Some(Path::Direct(_)) => self.doubt_mapping(),
                None => {}
            }
            self.keep_met_sockets(slot);
        }
        while let Some(event) = self
            .sessions
            .of_mut(slot)
            .and_then(|s| s.paths.poll_event())
        {
            match event {
                PathEvent::Probe {
                    path,
                    nonce,
                    padded,
                } => self.send_probe(slot, path, nonce, if padded { PADDED_LEN } else { 0 }),
                PathEvent::Switched { from, to, reason } => {
                    if from.is_some() {
                        tracing::info!(
                            peer = %self.name_of(peer), from = %self.show_path(from),
                            to = %self.show_path(Some(to)), why = reason.word(), "path changed"
                        );
                    }
                    if let Some(session) = self.sessions.of_mut(slot)
                        && session.path != Some(to)
                    {
                        session.path = Some(to);
                        session.connection.path_changed(self.now);
                        session.connection.ping();
                        self.lane_path_changed(peer);
                    }
                }
                PathEvent::AllDead => {
                    tracing::info!(peer = %self.name_of(peer), "no path answers");
                    self.close(slot, CloseCode::Unreachable);
                    self.handle_peer_lost(slot, peer, Loss::Unforeseen, "no path answers");
                    return;
                }
            }
        }
        self.tell_plane(peer);
    }

    /// What has become due in the sessions.
    pub(super) fn handle_session_timeouts(&mut self) {
        for slot in self.sessions.slots() {
            let Some(session) = self.sessions.of_mut(slot) else {
                continue;
            };
            let now = self.now;
            let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
            if due(session.closing_deadline()) {
                let superseded = session.retires.is_some();
                let code = if superseded {
                    CloseCode::Superseded
                } else {
                    CloseCode::Unreachable
                };
                self.close(slot, code);
                continue;
            }
            if due(session.paced_until) {
                session.paced_until = None;
                self.touched.insert(slot);
            }
            if due(session.held_until) {
                session.held_until = None;
                self.touched.insert(slot);
            }
            if due(session.connection.poll_timeout()) {
                session.connection.handle_timeout(now);
                self.touched.insert(slot);
            }
            if due(session.reassembler.poll_timeout()) {
                self.expire_chunks(slot);
                self.touched.insert(slot);
            } else if session.established.is_some()
                && (due(session.paths.poll_timeout())
                    || due(session.punch.as_ref().and_then(Punch::poll_timeout)))
            {
                self.touched.insert(slot);
            }
        }
    }
}
