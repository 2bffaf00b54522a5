//! From the data socket inwards: which frame a datagram is, which session it belongs to.

use std::io;
use std::net::SocketAddr;

use bytes::BytesMut;
use netmanager_core::chunk::{Reassembler, ReassemblyLimits};
use netmanager_core::peer::paths::{PADDED_LEN, Path, RelayIndex};
use netmanager_core::seal::OpenError;
use netmanager_core::verdict::DropReason;
use quinn_proto::{ConnectionEvent, DatagramEvent, Incoming};
use weald_proto::frame::{FrameKind, Probe, RELAY_HEADER_LEN, RelayHeader};

use super::Driver;
use super::session::{Session, With};
use crate::quic::{self, HALF_OPEN_MAX, HALF_OPEN_RETRY, Slot, destination_connection_id};

/// Calls for batches of datagrams before the TUN has its turn.
const RECEIVE_ROUNDS: usize = 2;
/// The upper half of the first byte of a Retry packet (RFC 9000, section 17.2.5).
const RETRY: u8 = 0b1111;

impl Driver {
    /// Reads what has come on the data socket.
    pub(super) fn receive(&mut self) {
        for _ in 0..RECEIVE_ROUNDS {
            match self.io.socket.receive(&mut self.receive_buffers) {
                Ok(count) => self.handle_batches(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    // Such as an ICMP unreachable from an earlier send; the socket lives on.
                    tracing::trace!(%error, "data socket");
                    break;
                }
            }
            // Before the next call, so that its buffers are free again.
            self.take_in_touched();
        }
    }

    /// Reads what has come on the sockets of sprays.
    pub(super) fn receive_extra(&mut self) {
        for key in self.io.extra.ready() {
            let Some(socket) = self.io.extra.socket(key) else {
                continue;
            };
            let Ok(count) = socket.receive(&mut self.receive_buffers) else {
                continue;
            };
            self.arrived_on = Some(key);
            self.handle_batches(count);
            self.arrived_on = None;
            self.take_in_touched();
        }
    }

    fn handle_batches(&mut self, count: usize) {
        for index in 0..count {
            let Some((from, mut batch, stride)) = self.receive_buffers.take_datagrams(index) else {
                continue;
            };
            self.io.traffic.socket_in_bytes += batch.len() as u64;
            if batch.is_empty() {
                self.io.traffic.socket_in_datagrams += 1;
                self.counters.count(DropReason::UnknownFrame);
            }
            while !batch.is_empty() {
                let fast = fast_len(&batch, stride);
                if fast > 0 {
                    self.io.traffic.socket_in_datagrams += fast.div_ceil(stride) as u64;
                    let mut frames = batch.split_to(fast);
                    self.handle_fast(Path::Direct(from), &mut frames, stride);
                    continue;
                }
                let datagram = batch.split_to(stride.min(batch.len()));
                self.io.traffic.socket_in_datagrams += 1;
                self.handle_datagram(from, datagram);
            }
        }
    }

    pub(super) fn handle_datagram(&mut self, from: SocketAddr, datagram: BytesMut) {
        match FrameKind::of(&datagram) {
            FrameKind::Quic => self.handle_quic(Path::Direct(from), datagram),
            FrameKind::Probe => self.handle_probe(Path::Direct(from), datagram),
            FrameKind::RelayData => self.handle_relay_frame(from, datagram),
            FrameKind::Fast => {
                let len = datagram.len();
                self.handle_fast(Path::Direct(from), &mut { datagram }, len);
            }
            // Questions are for relays.
            FrameKind::RelayQuestion | FrameKind::RelayKnock | FrameKind::Unknown => {
                if !self.handle_knocked(from, &datagram) {
                    self.counters.count(DropReason::UnknownFrame);
                }
            }
        }
    }

    fn handle_relay_frame(&mut self, from: SocketAddr, mut frame: BytesMut) {
        let Some(header) = RelayHeader::decode(&frame) else {
            self.counters.count(DropReason::UnknownFrame);
            return;
        };
        // Two clusters may name the relay at one address differently; one of the names is right.
        let mut relays = self.relays.iter_mut();
        let found = relays.find_map(|relay| {
            let index = relay.index;
            let is_there = relay.address() == Some(from);
            let keys = is_there.then(|| relay.keys_of(header.link)).flatten()?;
            Some((index, keys))
        });
        let Some((index, keys)) = found else {
            self.counters.count(DropReason::FrameUnauthenticated);
            return;
        };
        if let Err(error) = keys.opener.open(&mut frame, RelayHeader::TAG) {
            self.counters.count(reason_of(error));
            return;
        }
        self.heard_relay(index);
        let mut packet = frame.split_off(RELAY_HEADER_LEN);
        let path = Path::Relay {
            relay: index,
            peer: header.peer,
        };
        match FrameKind::of(&packet) {
            FrameKind::Quic => self.handle_quic(path, packet),
            FrameKind::Probe => self.handle_probe(path, packet),
            FrameKind::Fast => {
                let len = packet.len();
                self.handle_fast(path, &mut packet, len);
            }
            FrameKind::RelayData
            | FrameKind::RelayQuestion
            | FrameKind::RelayKnock
            | FrameKind::Unknown => {
                self.counters.count(DropReason::UnknownFrame);
            }
        }
    }

    fn handle_quic(&mut self, from: Path, packet: BytesMut) {
        let remote = self.virtual_address_of(from, &packet);
        let is_retry = packet.first().is_some_and(|first| first >> 4 == RETRY);
        self.current_slot.clear();
        self.scratch.clear();
        let event = self
            .endpoint
            .handle(self.now, remote, None, None, packet, &mut self.scratch);
        match event {
            Some(DatagramEvent::NewConnection(incoming)) => self.accept(incoming, from),
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(slot) = self.sessions.of_handle(handle) {
                    if let Some(With::Relay(relay)) = self.sessions.of(slot).map(|it| it.with) {
                        self.heard_relay(relay);
                    }
                    if is_retry && let Some(session) = self.sessions.of_mut(slot) {
                        session.note_answer(from);
                    }
                    self.take_packet(slot, from, event);
                }
            }
            Some(DatagramEvent::Response(transmit)) => self.respond(from, transmit.size),
            None => self.counters.count(DropReason::QuicUnknown),
        }
    }

    /// Hands a packet to its connection, and notes which way it has come. Where an authentic one
    /// has come from that nobody knew, the peer's NAT has moved it: that is a way to it.
    fn take_packet(&mut self, slot: Slot, from: Path, event: ConnectionEvent) {
        let home = self.home_of(slot);
        let paths = home.and_then(|home| self.sessions.of(home));
        let is_new = paths.is_some_and(|session| !session.paths.knows(from));
        let Some(session) = self.sessions.of_mut(slot) else {
            return;
        };
        let shakes = session.connection.is_handshaking();
        let before = (is_new || shakes).then(|| frames_taken(session));
        session.connection.handle_event(event);
        let is_authentic = before.is_some_and(|before| frames_taken(session) != before);
        if shakes && is_authentic {
            session.note_answer(from);
            if !session.connection.is_handshaking() && !session.connection.is_closed() {
                session.note_handshake(from);
            }
        }
        if shakes && session.connection.is_closed() {
            session.note_failure(from);
        }
        self.touched.insert(slot);
        let Some((home, session)) = home.and_then(|at| Some((at, self.sessions.of_mut(at)?)))
        else {
            return;
        };
        if is_new && is_authentic {
            session.paths.add_learned(from, self.now);
            self.touched.insert(home);
        }
        session.paths.note_packet(from, self.now);
    }

    /// The session whose paths the packets of this one go over, once it is up: that with the peer.
    fn home_of(&self, slot: Slot) -> Option<Slot> {
        let home = match self.sessions.of(slot)?.with {
            With::Peer(_) => slot,
            With::Lane(peer) => self.peers.get(&peer)?.session?,
            With::Stranger | With::Relay(_) | With::Cluster | With::Agreement(_) => return None,
        };
        let is_up = self.sessions.of(home)?.established.is_some();
        is_up.then_some(home)
    }

    /// Sends what quinn-proto wrote into the scratch buffer back to where its cause came from.
    fn respond(&mut self, to: Path, size: usize) {
        let response = std::mem::take(&mut self.scratch);
        if let Some(bytes) = response.get(..size) {
            self.send_on(to, bytes, size);
        }
        self.scratch = response;
    }

    /// The address under which quinn-proto knows the sender of a packet.
    fn virtual_address_of(&self, from: Path, packet: &[u8]) -> SocketAddr {
        if let Some(session) = Slot::of_packet(packet).and_then(|slot| self.sessions.of(slot)) {
            return session.virtual_address;
        }
        let is_long = packet.first().is_some_and(|first| first & 0x80 != 0);
        let known = if is_long {
            let id = destination_connection_id(packet);
            id.and_then(|id| self.sessions.of_initial(id))
                .and_then(|slot| self.sessions.of(slot))
        } else {
            self.sessions.on_path(from)
        };
        known.map_or_else(
            || self.addresses.for_unknown(from),
            |session| session.virtual_address,
        )
    }

    fn accept(&mut self, incoming: Incoming, from: Path) {
        let half_open = self.sessions.half_open();
        if half_open >= HALF_OPEN_MAX {
            self.counters.count(DropReason::SessionTableFull);
            self.endpoint.ignore(incoming);
            return;
        }
        self.scratch.clear();
        if half_open >= HALF_OPEN_RETRY
            && !incoming.remote_address_validated()
            && incoming.may_retry()
        {
            if let Ok(transmit) = self.endpoint.retry(incoming, &mut self.scratch) {
                self.respond(from, transmit.size);
            }
            return;
        }
        let Some(slot) = self.sessions.next_slot() else {
            self.counters.count(DropReason::SessionTableFull);
            self.endpoint.ignore(incoming);
            return;
        };
        let virtual_address = incoming.remote_address();
        let initial_id = incoming.orig_dst_cid().to_vec();
        let server = quic::lane_server_for(&initial_id, &self.lane_server);
        let is_lane = server.is_some();
        let agreement = self.fast.server_for(&initial_id);
        let is_agreement = agreement.is_some();
        self.current_slot.set(slot);
        match self
            .endpoint
            .accept(incoming, self.now, &mut self.scratch, server.or(agreement))
        {
            Ok((handle, connection)) => {
                let seed = self.next_seed();
                let mut session = Session::new(
                    handle,
                    connection,
                    virtual_address,
                    With::Stranger,
                    false,
                    (seed, self.now),
                );
                session.path = Some(from);
                if is_lane {
                    session.be_lane(Some(from));
                }
                session.is_agreement = is_agreement;
                session.initial_id = Some(initial_id);
                self.sessions.insert(slot, session);
                self.touched.insert(slot);
            }
            Err(error) => {
                tracing::debug!(%from, cause = %error.cause, "handshake refused");
                if let Some(transmit) = error.response {
                    self.respond(from, transmit.size);
                }
            }
        }
        self.current_slot.clear();
    }

    fn handle_probe(&mut self, from: Path, mut frame: BytesMut) {
        let Some(probe) = Probe::decode(&frame) else {
            self.counters.count(DropReason::UnknownFrame);
            return;
        };
        let slot = self.sessions.of_probe(probe.session);
        let Some((slot, session)) = slot.and_then(|slot| Some((slot, self.sessions.of_mut(slot)?)))
        else {
            self.counters.count(DropReason::FrameUnauthenticated);
            return;
        };
        let Some(keys) = &mut session.probes else {
            self.counters.count(DropReason::FrameUnauthenticated);
            return;
        };
        if let Err(error) = keys.opener.open(&mut frame, Probe::TAG) {
            self.counters.count(reason_of(error));
            return;
        }
        if let (Some(arrived), Path::Direct(address)) = (self.arrived_on, from) {
            self.io.extra.answer_from(address, arrived, slot);
        }
        // An authenticated frame makes its source a candidate.
        session.paths.add_learned(from, self.now);
        if probe.reply {
            session.paths.handle_reply(from, probe.nonce, self.now);
        } else {
            let padded = frame.len() >= PADDED_LEN;
            session.paths.note_probe(from, padded, self.now);
            let answer = Probe {
                reply: true,
                session: keys.their_id,
                counter: 0,
                nonce: probe.nonce,
            };
            // As long as the request, so that padded probes measure both directions.
            let mut bytes = answer.encode(frame.len());
            if keys.sealer.seal(&mut bytes, Probe::TAG).is_ok() {
                let len = bytes.len();
                self.send_on(from, &bytes, len);
            }
        }
        self.touched.insert(slot);
    }

    /// Hands out what there is of packets whose chunks have not all come.
    pub(super) fn expire_chunks(&mut self, slot: Slot) {
        let Self {
            sessions,
            plane,
            io,
            now,
            counters,
            ..
        } = self;
        let Some((peer, session)) = sessions.with_peer(slot) else {
            return;
        };
        let mut forwards = Vec::new();
        session
            .reassembler
            .handle_timeout(*now, &mut |vnet, packet| {
                super::packets::take_from_peer(plane, io, &mut forwards, peer, vnet, packet, *now);
            });
        while let Some((reason, count)) = session.reassembler.poll_drop() {
            counters.add(reason, count);
        }
        self.after_plane(forwards);
    }

    /// Counts the chunks that wait for others, because their session ends.
    pub(super) fn abandon_chunks(&mut self, slot: Slot) {
        if let Some(session) = self.sessions.of_mut(slot) {
            let new = Reassembler::new(ReassemblyLimits::default());
            let former = std::mem::replace(&mut session.reassembler, new);
            self.counters
                .add(DropReason::ChunkIncomplete, former.waiting());
        }
    }

    /// Where a relay with this index is, if it is known.
    pub(super) fn relay_address(&self, index: RelayIndex) -> Option<SocketAddr> {
        self.relays
            .iter()
            .find(|relay| relay.index == index)?
            .address()
    }
}

/// Counts frames of packets that were authentic; those which come in any exchange of packets.
fn frames_taken(session: &Session) -> u64 {
    let frames = session.connection.stats().frame_rx;
    frames.acks + frames.crypto + frames.datagram + frames.ping + frames.stream
}

/// How many bytes at the start of a batch are frames of the fast lane.
fn fast_len(batch: &[u8], stride: usize) -> usize {
    let frames = batch.chunks(stride);
    let fast = frames.take_while(|frame| FrameKind::of(frame) == FrameKind::Fast);
    fast.map(<[u8]>::len).sum()
}

pub(super) const fn reason_of(error: OpenError) -> DropReason {
    match error {
        OpenError::Short | OpenError::Tag => DropReason::FrameUnauthenticated,
        OpenError::Replayed => DropReason::FrameReplayed,
    }
}
