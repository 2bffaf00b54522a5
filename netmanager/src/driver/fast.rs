//! The fast lane: TCP packets of peers in sealed frames beside QUIC, if both ends' configurations
//! have it.
//!
//! Which keys are used, and when others are wanted, is netmanager-core's `fast`; `keys` has the
//! handshakes that give them. Here are the frames on their way. Paths, leases, flows and chunks are
//! those of the peers' session: a packet takes this lane or QUIC's DATAGRAMs, and the far end's
//! packet path cannot tell. Only TCP goes this way, because nothing here slows a sender down; what
//! is not TCP, and everything while there are no keys, goes over QUIC.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use netmanager_core::fast::lane::FastLane;
use netmanager_core::fast::room;
use netmanager_core::peer::paths::Path;
use netmanager_core::table::PeerId;
use netmanager_core::verdict::DropReason;
use netmanager_core::vnet::VnetHeader;
use quinn_proto::ServerConfig;
use weald_proto::fast::FastHeader;
use weald_proto::frame::RELAY_HEADER_LEN;

use super::Driver;
use super::inbound::reason_of;
use super::packets::take_from_peer;
use super::session::Session;
use crate::quic::agreement;
use crate::socket::MAX_BATCH_BYTES;

mod keys;

/// Sealed bytes that are sent before more are read: they fill a call to the socket.
const FULL_BYTES: usize = 32 << 10;

/// What the packet thread keeps of the lane beside what it keeps of each peer.
#[derive(Debug)]
pub(super) struct Fast {
    /// For agreements that others dial; none if the configuration does not want the lane.
    server: Option<Arc<ServerConfig>>,
    /// Whose frames a key opens.
    owners: HashMap<u64, PeerId>,
    /// Sealed frames that have not left yet.
    outgoing: Outgoing,
}

/// Frames that leave together, over the same paths.
#[derive(Debug, Default)]
struct Outgoing {
    bytes: Vec<u8>,
    lengths: Vec<usize>,
    paths: [Option<Path>; 2],
}

impl Outgoing {
    /// The frames from the one at `first` on that one call can send: all of one length, and after
    /// them perhaps a shorter one; at most `most` bytes and `segments` frames. Returns how many
    /// frames, and their bytes.
    fn run(&self, first: usize, most: usize, segments: usize) -> (usize, usize) {
        let lengths = self.lengths.get(first..).unwrap_or_default();
        let Some(segment) = lengths.first().copied() else {
            return (0, 0);
        };
        let most = segments.min(most / segment.max(1)).max(1);
        let equal = lengths.iter().take(most);
        let equal = equal.take_while(|length| **length == segment).count();
        let shorter = lengths.get(equal).filter(|length| **length < segment);
        match shorter.filter(|_| equal < most) {
            Some(last) => (equal + 1, equal * segment + last),
            None => (equal, equal * segment),
        }
    }
}

impl Fast {
    pub(super) fn new(server: Option<ServerConfig>) -> Self {
        Self {
            server: server.map(Arc::new),
            owners: HashMap::new(),
            outgoing: Outgoing::default(),
        }
    }

    /// The settings for an incoming connection whose first id says that it is for keys; none if it
    /// is not, or if the lane is not wanted here.
    pub(super) fn server_for(&self, first_id: &[u8]) -> Option<Arc<ServerConfig>> {
        let server = self.server.as_ref();
        server.filter(|_| agreement::is_meant_by(first_id)).cloned()
    }

    /// Whether the configuration has the lane.
    pub(super) const fn is_wanted(&self) -> bool {
        self.server.is_some()
    }

    pub(super) fn forget(&mut self, keys: impl IntoIterator<Item = u64>) {
        for key in keys {
            self.owners.remove(&key);
        }
    }
}

/// Whether the packet is a whole one of TCP: of IPv6, without extension headers.
pub(super) fn is_tcp(packet: &[u8]) -> bool {
    const TCP: u8 = 6;
    match packet.first().map(|first| first >> 4) {
        Some(4) => packet.get(9) == Some(&TCP),
        Some(6) => packet.get(6) == Some(&TCP),
        Some(_) | None => false,
    }
}

impl Driver {
    /// Whether the lane takes a packet to a peer now. Sees to it that there are keys, if there
    /// should be.
    pub(super) fn is_fast(&mut self, peer: PeerId, packet: &[u8]) -> bool {
        if !self.fast.is_wanted() || !is_tcp(packet) {
            return false;
        }
        let Some(entry) = self.peers.get_mut(&peer) else {
            return false;
        };
        let is_up = entry.fast.sealer(self.now).is_some();
        if entry.fast.wants_keys(self.now) {
            self.agree(peer);
        }
        is_up
    }

    /// Seals a packet that the lane takes into frames, which leave soon.
    pub(super) fn send_fast(&mut self, peer: PeerId, vnet: &VnetHeader, packet: &[u8]) {
        let Some(slot) = self.peers.get(&peer).and_then(|entry| entry.session) else {
            return;
        };
        let session = self.sessions.of(slot);
        let Some((path, session)) = session.and_then(|session| Some((session.path?, session)))
        else {
            self.counters.count(DropReason::PeerUnreachable);
            return;
        };
        let paths = [Some(path), session.paths.second(self.now)];
        if self.fast.outgoing.paths != paths {
            self.flush_fast();
            self.fast.outgoing.paths = paths;
        }
        let (Some(entry), Some(session)) = (self.peers.get_mut(&peer), self.sessions.of_mut(slot))
        else {
            return;
        };
        let outgoing = &mut self.fast.outgoing;
        let sent = seal_packet(&mut entry.fast, session, outgoing, vnet, packet, self.now);
        match sent {
            Ok(()) => entry.sent_bytes += packet.len() as u64,
            Err(reason) => self.counters.count(reason),
        }
        if self.fast.outgoing.bytes.len() >= FULL_BYTES {
            self.flush_fast();
        }
    }

    /// Sends the frames that have been sealed.
    pub(super) fn flush_fast(&mut self) {
        if self.fast.outgoing.lengths.is_empty() {
            return;
        }
        let mut outgoing = std::mem::take(&mut self.fast.outgoing);
        let [path, second] = outgoing.paths;
        let second = second.filter(|second| Some(*second) != path);
        let relayed = path.into_iter().chain(second).any(Path::is_relayed);
        let mut at = 0;
        let mut first = 0;
        while first < outgoing.lengths.len() {
            let most = if relayed {
                // Each frame gets a relay's header.
                let segment = outgoing.lengths.get(first).copied().unwrap_or(1);
                MAX_BATCH_BYTES / (segment + RELAY_HEADER_LEN) * segment
            } else {
                MAX_BATCH_BYTES
            };
            let (count, len) = outgoing.run(first, most, self.io.socket.max_segments());
            let bytes = outgoing.bytes.get(at..at + len).unwrap_or_default();
            let segment = outgoing.lengths.get(first).copied().unwrap_or(len);
            for path in path.into_iter().chain(second) {
                self.send_on(path, bytes, segment);
            }
            at += len;
            first += count.max(1);
        }
        outgoing.bytes.clear();
        outgoing.lengths.clear();
        self.fast.outgoing = outgoing;
    }

    /// Takes in frames that have come over one path, each of `stride` bytes but the last.
    pub(super) fn handle_fast(&mut self, from: Path, frames: &mut [u8], stride: usize) {
        let mut rest = frames;
        while !rest.is_empty() {
            let Some(key) = FastHeader::decode(rest.get(..stride).unwrap_or(rest)).map(|it| it.key)
            else {
                self.counters.count(DropReason::UnknownFrame);
                rest = rest.get_mut(stride..).unwrap_or_default();
                continue;
            };
            let of_key = |frame: &&[u8]| FastHeader::decode(frame).is_some_and(|it| it.key == key);
            let count = rest.chunks(stride).take_while(of_key).count();
            let (run, after) = rest.split_at_mut((count * stride).min(rest.len()));
            self.take_run(from, key, run, stride);
            rest = after;
        }
    }

    /// Takes in frames that name one key.
    fn take_run(&mut self, from: Path, key: u64, run: &mut [u8], stride: usize) {
        let Self {
            fast,
            peers,
            sessions,
            plane,
            io,
            counters,
            now,
            ..
        } = self;
        let owner = fast.owners.get(&key).copied();
        let entry = owner.and_then(|peer| Some((peer, peers.get_mut(&peer)?)));
        let session = entry.and_then(|(peer, entry)| {
            let slot = entry.session?;
            Some((peer, entry, slot, sessions.of_mut(slot)?))
        });
        let Some((peer, entry, slot, session)) = session else {
            counters.add(
                DropReason::FrameUnauthenticated,
                run.len().div_ceil(stride) as u64,
            );
            return;
        };
        let is_held = Self::is_held(session.held_until, *now);
        let (mut opened, mut received) = (false, 0);
        let mut forwards = Vec::new();
        for frame in run.chunks_mut(stride) {
            let inner = match entry.fast.open(key, frame) {
                Ok(inner) => inner,
                Err(error) => {
                    counters.count(reason_of(error));
                    continue;
                }
            };
            opened = true;
            received += inner.len() as u64;
            // An empty one has only shown that the peer has the key.
            if inner.is_empty() {
                continue;
            }
            if is_held {
                counters.count(DropReason::SourceNotLeased);
                continue;
            }
            let taken = session
                .reassembler
                .handle(inner, *now, &mut |vnet, packet| {
                    take_from_peer(plane, io, &mut forwards, peer, vnet, packet, *now);
                });
            if let Err(drop) = taken {
                counters.count(drop.reason());
            }
        }
        while let Some((reason, count)) = session.reassembler.poll_drop() {
            counters.add(reason, count);
        }
        if opened {
            if !session.paths.knows(from) {
                session.paths.add_learned(from, *now);
            }
            session.paths.note_packet(from, *now);
            entry.received_bytes += received;
            entry.machine.note_traffic(*now);
            self.touched.insert(slot);
            self.after_plane(forwards);
        }
    }
}

/// Cuts a packet into datagrams and seals each.
fn seal_packet(
    lane: &mut FastLane,
    session: &mut Session,
    outgoing: &mut Outgoing,
    vnet: &VnetHeader,
    packet: &[u8],
    now: Instant,
) -> Result<(), DropReason> {
    let sealer = lane.sealer(now).ok_or(DropReason::PeerUnreachable)?;
    let most = room(usize::from(session.connection.current_mtu()));
    let mut exhausted = false;
    let split = session.chunker.split(vnet, packet, most, &mut |parts| {
        let before = outgoing.bytes.len();
        if sealer.seal(&parts, &mut outgoing.bytes).is_ok() {
            outgoing.lengths.push(outgoing.bytes.len() - before);
        } else {
            exhausted = true;
        }
    });
    match split {
        // The last of a key's frames; what is sent next goes over QUIC.
        Ok(()) if exhausted => Err(DropReason::PeerUnreachable),
        Ok(()) => Ok(()),
        Err(error) => {
            tracing::debug!(%error, len = packet.len(), most, "packet not cut");
            Err(DropReason::Malformed)
        }
    }
}
