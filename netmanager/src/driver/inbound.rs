//! From the data socket inwards: which frame a datagram is, which session it belongs to.

use std::io;
use std::net::SocketAddr;

use bytes::BytesMut;
use netmanager_core::peer::paths::{Path, RelayIndex};
use netmanager_core::verdict::DropReason;
use quinn_proto::{DatagramEvent, Incoming};
use weald_proto::frame::{FrameKind, Probe, RELAY_HEADER_LEN, RelayHeader};

use super::Driver;
use super::session::{Session, With};
use crate::quic::{HALF_OPEN_MAX, HALF_OPEN_RETRY, Slot, destination_connection_id};

/// Calls for batches of datagrams before the TUN has its turn.
const RECEIVE_ROUNDS: usize = 2;

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
                let datagram = batch.split_to(stride.min(batch.len()));
                self.io.traffic.socket_in_datagrams += 1;
                self.handle_datagram(from, datagram);
            }
        }
    }

    fn handle_datagram(&mut self, from: SocketAddr, datagram: BytesMut) {
        match FrameKind::of(&datagram) {
            FrameKind::Quic => self.handle_quic(Path::Direct(from), datagram),
            FrameKind::Probe => self.handle_probe(Path::Direct(from), datagram),
            FrameKind::RelayData => self.handle_relay_frame(from, datagram),
            FrameKind::Unknown => self.counters.count(DropReason::UnknownFrame),
        }
    }

    fn handle_relay_frame(&mut self, from: SocketAddr, mut frame: BytesMut) {
        let Some(header) = RelayHeader::decode(&frame) else {
            self.counters.count(DropReason::UnknownFrame);
            return;
        };
        let relay = self
            .relays
            .iter_mut()
            .find(|relay| relay.address() == Some(from));
        let Some((index, keys)) = relay.and_then(|relay| {
            let index = relay.index;
            relay.keys_of(header.link).map(|keys| (index, keys))
        }) else {
            self.counters.count(DropReason::FrameUnauthenticated);
            return;
        };
        if keys.opener.open(&mut frame, RelayHeader::TAG).is_err() {
            self.counters.count(DropReason::FrameUnauthenticated);
            return;
        }
        let packet = frame.split_off(RELAY_HEADER_LEN);
        let path = Path::Relay {
            relay: index,
            peer: header.peer,
        };
        match FrameKind::of(&packet) {
            FrameKind::Quic => self.handle_quic(path, packet),
            FrameKind::Probe => self.handle_probe(path, packet),
            FrameKind::RelayData | FrameKind::Unknown => {
                self.counters.count(DropReason::UnknownFrame);
            }
        }
    }

    fn handle_quic(&mut self, from: Path, packet: BytesMut) {
        let remote = self.virtual_address_of(from, &packet);
        self.current_slot.clear();
        self.scratch.clear();
        let event = self
            .endpoint
            .handle(self.now, remote, None, None, packet, &mut self.scratch);
        match event {
            Some(DatagramEvent::NewConnection(incoming)) => self.accept(incoming, from),
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                let Some(slot) = self.sessions.of_handle(handle) else {
                    return;
                };
                if let Some(session) = self.sessions.of_mut(slot) {
                    session.note_answer(from);
                    session.connection.handle_event(event);
                    self.touched.insert(slot);
                }
            }
            Some(DatagramEvent::Response(transmit)) => self.respond(from, transmit.size),
            None => self.counters.count(DropReason::QuicUnknown),
        }
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
            self.endpoint.ignore(incoming);
            return;
        };
        let virtual_address = incoming.remote_address();
        let initial_id = incoming.orig_dst_cid().to_vec();
        self.current_slot.set(slot);
        match self
            .endpoint
            .accept(incoming, self.now, &mut self.scratch, None)
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
            return;
        };
        if keys.opener.open(&mut frame, Probe::TAG).is_err() {
            self.counters.count(DropReason::FrameUnauthenticated);
            return;
        }
        if probe.reply {
            session.paths.handle_reply(from, probe.nonce, self.now);
        } else {
            let observed = match from {
                Path::Direct(address) => Some(address),
                Path::Relay { .. } => None,
            };
            let answer = Probe {
                reply: true,
                session: keys.their_id,
                counter: 0,
                nonce: probe.nonce,
                observed,
            };
            // As long as the request, so that padded probes measure both directions.
            let mut bytes = answer.encode(frame.len());
            if keys.sealer.seal(&mut bytes, Probe::TAG).is_ok() {
                // An authenticated request makes its source a candidate.
                session.paths.add(from, self.now);
                let len = bytes.len();
                self.send_on(from, &bytes, len);
            }
        }
        self.touched.insert(slot);
    }

    /// Where a relay with this index is, if it is known.
    pub(super) fn relay_address(&self, index: RelayIndex) -> Option<SocketAddr> {
        self.relays
            .iter()
            .find(|relay| relay.index == index)?
            .address()
    }
}
