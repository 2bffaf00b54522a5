//! Outwards: queued packets into QUIC, QUIC's packets onto paths.

use std::collections::BTreeMap;
use std::time::Instant;

use netmanager_core::peer::paths::Path;
use netmanager_core::table::PeerId;
use netmanager_core::verdict::DropReason;
use netmanager_core::vnet::VnetHeader;
use quinn_proto::Connection;
use weald_proto::frame::{RELAY_HEADER_LEN, RelayHeader};

use super::Driver;
use super::fast::is_tcp;
use super::peers::PeerEntry;
use super::pool::BufferPool;
use super::session::{Session, Sessions, With};
use crate::quic::Slot;
use crate::socket::MAX_BATCH_BYTES;

impl Driver {
    /// Sends what is queued for peers; whatever else their sessions need is done when they are driven.
    /// Those of the L4 lane are left for then: what is read from streams goes with acknowledgements.
    pub(super) fn transmit_touched(&mut self) {
        for slot in self.touched.iter().copied().collect::<Vec<_>>() {
            if self.sessions.with_peer(slot).is_some() {
                self.transmit(slot);
            }
        }
    }

    /// Writes out what QUIC has to send.
    pub(super) fn transmit(&mut self, slot: Slot) {
        while self.io.is_writable() {
            let Some(session) = self.sessions.of_mut(slot) else {
                return;
            };
            let mtu = usize::from(session.connection.current_mtu()).max(1472) + RELAY_HEADER_LEN;
            let segments = self
                .io
                .socket
                .max_segments()
                .min(MAX_BATCH_BYTES / mtu)
                .max(1);
            let Some(segments) = session.pace(segments, self.now) else {
                break;
            };
            let mut batch = std::mem::take(&mut self.batch);
            batch.clear();
            let transmit = session
                .connection
                .poll_transmit(self.now, segments, &mut batch);
            if let Some(transmit) = &transmit {
                session.spend(transmit.size);
                let bytes = batch.get(..transmit.size).unwrap_or_default();
                let segment_size = transmit.segment_size.unwrap_or(transmit.size);
                self.send_of(slot, bytes, segment_size);
            }
            self.batch = batch;
            if transmit.is_none() {
                break;
            }
        }
        self.pass_endpoint_events(slot);
    }

    /// Sends a session's packets over its path, and over a second one while that is uncertain; over
    /// all of them while a dial is unanswered.
    fn send_of(&mut self, slot: Slot, bytes: &[u8], segment_size: usize) {
        let Some(session) = self.sessions.of_mut(slot) else {
            return;
        };
        let own = session.path;
        let (path, second) = match session.with {
            With::Agreement(peer) => (self.path_of(peer).or(own), None),
            // The path is the business of the peer's datagram session.
            With::Lane(peer) => {
                let session = self.session_with(peer);
                let second = session.and_then(|session| session.paths.second(self.now));
                (session.and_then(|session| session.path).or(own), second)
            }
            With::Peer(_) => (own, session.paths.second(self.now)),
            With::Stranger | With::Relay(_) | With::Cluster => (own, None),
        };
        if let Some(path) = path {
            self.send_on(path, bytes, segment_size);
            if let Some(second) = second.filter(|second| *second != path) {
                self.send_on(second, bytes, segment_size);
            }
            return;
        }
        let Some(session) = self.sessions.of_mut(slot) else {
            return;
        };
        session.keep_first_flight(bytes, segment_size);
        for path in session.fanout.clone() {
            self.send_untried(path, bytes, segment_size);
        }
    }

    /// Sends a probe of at least so many bytes; if the path has never answered, within the budget.
    pub(super) fn send_probe(&mut self, slot: Slot, path: Path, nonce: u64, len: usize) {
        if let Some(bytes) = self.sessions.sealed_probe(slot, nonce, len) {
            let len = bytes.len();
            let session = self.sessions.of(slot);
            if session.is_some_and(|session| session.paths.is_proven(path)) {
                self.send_on(path, &bytes, len);
            } else {
                self.send_untried(path, &bytes, len);
            }
        }
    }

    /// Sends datagrams to where nobody has answered yet: only so many go to one address, whoever
    /// named it.
    pub(super) fn send_untried(&mut self, path: Path, bytes: &[u8], segment_size: usize) {
        if let Path::Direct(address) = path {
            for _ in bytes.chunks(segment_size) {
                if !self.probe_budget.take(address.ip(), self.now) {
                    self.counters.count(DropReason::ProbeOverBudget);
                    return;
                }
            }
        }
        self.send_on(path, bytes, segment_size);
    }

    /// Sends datagrams of one size over a path, framed and sealed if it is a relayed one.
    pub(super) fn send_on(&mut self, path: Path, bytes: &[u8], segment_size: usize) {
        match path {
            Path::Direct(address) => self.io.send(address, bytes, segment_size),
            Path::Relay { relay, peer } => {
                let count = bytes.len().div_ceil(segment_size.max(1)) as u64;
                let Some(relay) = self.relays.iter_mut().find(|entry| entry.index == relay) else {
                    self.counters.add(DropReason::RelayGone, count);
                    return;
                };
                let (Some(address), Some((link, keys))) = (relay.address(), relay.sending()) else {
                    self.counters.add(DropReason::RelayGone, count);
                    return;
                };
                let mut frames = std::mem::take(&mut self.frames);
                frames.clear();
                for packet in bytes.chunks(segment_size) {
                    let at = frames.len();
                    let header = RelayHeader {
                        link,
                        peer,
                        counter: 0,
                    };
                    frames.extend_from_slice(&header.encode());
                    frames.extend_from_slice(packet);
                    let frame = frames.get_mut(at..).unwrap_or_default();
                    if keys.sealer.seal(frame, RelayHeader::TAG).is_err() {
                        frames.truncate(at);
                        self.counters.count(DropReason::RelayGone);
                    }
                }
                self.io
                    .send(address, &frames, segment_size + RELAY_HEADER_LEN);
                self.frames = frames;
            }
        }
    }

    /// Whether queued packets wait that would be taken now.
    pub(super) fn can_flush(&mut self, slot: Slot) -> bool {
        let now = self.now;
        let in_use = in_use(&mut self.sessions, &mut self.peers, slot);
        in_use.is_some_and(|(_, session, entry)| next_way(session, entry, now).is_some())
    }

    /// Hands queued packets to the fast lane, or to QUIC as far as it takes them.
    pub(super) fn flush_queue(&mut self, slot: Slot) {
        while self.io.is_writable() {
            let in_use = in_use(&mut self.sessions, &mut self.peers, slot);
            let Some((peer, session, entry)) = in_use else {
                return;
            };
            let Some(way) = next_way(session, entry, self.now) else {
                return;
            };
            let Some(parked) = entry.queue.pop() else {
                return;
            };
            match way {
                Way::Fast => self.send_fast(peer, &parked.vnet, &parked.packet),
                Way::Quic => {
                    let sent = send_packet(session, &mut self.pool, &parked.vnet, &parked.packet);
                    if let Err(reason) = sent {
                        self.counters.count(reason);
                    }
                    entry.sent_bytes += parked.packet.len() as u64;
                }
            }
        }
    }
}

/// How a packet goes to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Sealed beside QUIC.
    Fast,
    /// In QUIC's DATAGRAMs.
    Quic,
}

/// How the next queued packet goes; none if there is none, or if it has to wait.
fn next_way(session: &mut Session, entry: &mut PeerEntry, now: Instant) -> Option<Way> {
    let parked = entry.queue.front()?;
    if is_tcp(&parked.packet) && entry.fast.sealer(now).is_some() {
        return Some(Way::Fast);
    }
    has_room(&mut session.connection, parked.packet.len()).then_some(Way::Quic)
}

/// The session in `slot` and its peer, if packets for the peer go over this session.
fn in_use<'a>(
    sessions: &'a mut Sessions,
    peers: &'a mut BTreeMap<PeerId, PeerEntry>,
    slot: Slot,
) -> Option<(PeerId, &'a mut Session, &'a mut PeerEntry)> {
    let (peer, session) = sessions.with_peer(slot)?;
    let entry = peers.get_mut(&peer)?;
    (entry.session == Some(slot)).then_some((peer, session, entry))
}

/// What one packet may take in quinn-proto's queue: its bytes, and per datagram headers and the
/// bookkeeping of the queue, for datagrams of the least MTU.
const fn queue_cost(packet_len: usize) -> usize {
    const DATAGRAM_OVERHEAD: usize = 160;
    packet_len + (packet_len / 1000 + 2) * DATAGRAM_OVERHEAD
}

/// Whether QUIC's own queue takes a packet of this size without dropping others.
pub(super) fn has_room(connection: &mut Connection, packet_len: usize) -> bool {
    connection.datagrams().send_buffer_space() >= queue_cost(packet_len)
}

/// Cuts a packet into datagrams and queues them in QUIC.
pub(super) fn send_packet(
    session: &mut Session,
    pool: &mut BufferPool,
    vnet: &VnetHeader,
    packet: &[u8],
) -> Result<(), DropReason> {
    let connection = &mut session.connection;
    let Some(max_datagram) = connection.datagrams().max_size() else {
        return Err(DropReason::PeerUnreachable);
    };
    let mut buffer = pool.take(queue_cost(packet.len()));
    let mut refused = false;
    let split = session
        .chunker
        .split(vnet, packet, max_datagram, &mut |parts| {
            for part in parts {
                buffer.extend_from_slice(part);
            }
            let datagram = buffer.split().freeze();
            refused |= connection.datagrams().send(datagram, false).is_err();
        });
    pool.put(buffer);
    match split {
        Ok(()) if refused => Err(DropReason::PeerQueueFull),
        Ok(()) => Ok(()),
        Err(error) => {
            tracing::debug!(%error, len = packet.len(), max_datagram, "packet not cut");
            Err(DropReason::Malformed)
        }
    }
}
