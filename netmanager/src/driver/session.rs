//! Sessions: QUIC connections and what belongs to each, in numbered slots.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use netmanager_core::chunk::{Chunker, Reassembler, ReassemblyLimits};
use netmanager_core::congestion::TokenBucket;
use netmanager_core::peer::CONNECT_TIMEOUT;
use netmanager_core::peer::loss::LossMeter;
use netmanager_core::peer::paths::{Path, Paths, RelayIndex};
use netmanager_core::peer::punch::Punch;
use netmanager_core::seal::{Opener, SealKey, Sealer};
use netmanager_core::table::PeerId;
use quinn_proto::{Connection, ConnectionHandle, StreamId};
use weald_proto::frame::Probe;
use weald_proto::stream::Deframer;
use weald_trust::tls;

use crate::quic::Slot;
use crate::quic::control::pacing_rate;

/// Paths that a handshake is tried on at once.
pub(super) const MAX_FANOUT: usize = 8;
/// Bytes of the longest message of a peer: a statement has at most 64 KiB, and some go around it.
const MAX_SHOWN_LEN: usize = 66 << 10;
/// Datagrams of the first flight, kept to be repeated on a path that turns up meanwhile.
const MAX_FIRST_FLIGHT: usize = 4;

/// Whom a session is with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum With {
    /// Somebody who has not shown a certificate yet.
    Stranger,
    /// Another node.
    Peer(PeerId),
    /// A relay.
    Relay(RelayIndex),
    /// The own cluster.
    Cluster,
    /// Another node, for streams of the L4 lane.
    Lane(PeerId),
    /// Another node, for keys of the fast lane.
    Agreement(PeerId),
}

/// One QUIC connection and what belongs to it.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) handle: ConnectionHandle,
    pub(super) connection: Connection,
    /// What quinn-proto takes for the peer's address; never changes.
    pub(super) virtual_address: SocketAddr,
    pub(super) with: With,
    pub(super) dialled: bool,
    pub(super) established: Option<Instant>,
    pub(super) born: Instant,
    /// When a session that another one has superseded is closed: what is on its way still counts.
    pub(super) retires: Option<Instant>,
    /// Where packets go; none until a dial that is tried in several ways is done.
    pub(super) path: Option<Path>,
    /// Where a dial is tried, until its handshake is done.
    pub(super) fanout: Vec<Path>,
    /// Where the first answer to it came from, the peer's or that of somebody who has seen the dial, or
    /// what made it fail.
    pub(super) answered: Option<Path>,
    first_flight: VecDeque<Vec<u8>>,
    pub(super) paths: Paths,
    pub(super) loss: LossMeter,
    pub(super) probes: Option<ProbeKeys>,
    /// Attempts to reach the peer directly, once the session is up.
    pub(super) punch: Option<Punch>,
    pub(super) chunker: Chunker,
    pub(super) reassembler: Reassembler,
    /// The stream that this node has opened: to a relay or to the cluster, or to show a peer what
    /// it has.
    pub(super) stream: Option<StreamId>,
    /// What waits to be written to it; not used with relays.
    pub(super) outgoing: Vec<u8>,
    /// The stream on which a peer shows what it has.
    pub(super) incoming: Option<StreamId>,
    /// What has come of a message from the cluster or a peer.
    pub(super) deframer: Deframer,
    /// Until when packets of a peer wait for its lease to be judged.
    pub(super) held_until: Option<Instant>,
    /// The destination id of the first Initial of an incoming session, while it is half open.
    pub(super) initial_id: Option<Vec<u8>>,
    /// Whether this is a handshake for keys of the fast lane, and nothing else.
    pub(super) is_agreement: bool,
    /// When the next packets may leave; sessions of the L4 lane only.
    pub(super) pacer: Option<TokenBucket>,
    /// Frames of streams that have left.
    paced_frames: u64,
    /// Until when they wait.
    pub(super) paced_until: Option<Instant>,
}

impl Session {
    /// Thousandths of the packets that were lost lately on the path in use, by QUIC's own count and
    /// by that of the probes; none if neither has seen enough.
    pub(super) fn loss_permille(&mut self) -> Option<u16> {
        let stats = self.connection.stats().path;
        self.loss
            .note(self.path, stats.sent_packets, stats.lost_packets);
        self.loss.permille().max(self.paths.probe_loss_permille())
    }

    pub(super) fn new(
        handle: ConnectionHandle,
        connection: Connection,
        virtual_address: SocketAddr,
        with: With,
        dialled: bool,
        (seed, now): (u64, Instant),
    ) -> Self {
        Self {
            handle,
            connection,
            virtual_address,
            with,
            dialled,
            established: None,
            born: now,
            retires: None,
            path: None,
            fanout: Vec::new(),
            answered: None,
            first_flight: VecDeque::new(),
            paths: Paths::new(seed),
            loss: LossMeter::default(),
            probes: None,
            punch: None,
            chunker: Chunker::default(),
            reassembler: Reassembler::new(ReassemblyLimits::default()),
            stream: None,
            outgoing: Vec::new(),
            incoming: None,
            deframer: Deframer::new(MAX_SHOWN_LEN),
            held_until: None,
            initial_id: None,
            is_agreement: false,
            pacer: None,
            paced_frames: 0,
            paced_until: None,
        }
    }

    /// Makes this a session of the L4 lane, on the path of its peer's other session.
    pub(super) fn be_lane(&mut self, path: Option<Path>) {
        self.path = path;
        self.pacer = Some(TokenBucket::new(self.born));
    }

    /// When the session is closed if nothing else happens: a superseded one when it retires, an
    /// incoming handshake when it has taken too long, because half-open sessions are what strangers
    /// can make a node hold.
    pub(super) fn closing_deadline(&self) -> Option<Instant> {
        if self.connection.is_closed() {
            return None;
        }
        let half_open = self
            .initial_id
            .is_some()
            .then(|| self.born + CONNECT_TIMEOUT);
        self.retires.or(half_open)
    }

    /// Notes that a packet which only the peer, or somebody who has seen the dial, can have made came
    /// over `from`. The dial goes on everywhere: who that was is known when the handshake is done.
    pub(super) fn note_answer(&mut self, from: Path) {
        if self.answered.is_none() {
            self.answered = Some(from);
            self.first_flight.clear();
        }
    }

    /// Notes that the packet which has ended the handshake without success came over `from`.
    pub(super) const fn note_failure(&mut self, from: Path) {
        self.answered = Some(from);
    }

    /// Notes that the packet which has completed the handshake with a node came over `from`: the keys
    /// that it was made with are the peer's.
    pub(super) fn note_handshake(&mut self, from: Path) {
        if matches!(self.with, With::Peer(_) | With::Stranger) {
            self.path = Some(from);
            self.fanout.clear();
        }
    }

    /// How many segments may leave now, of so many; none if all must wait.
    pub(super) fn pace(&mut self, segments: usize, now: Instant) -> Option<usize> {
        let Some(pacer) = &mut self.pacer else {
            return Some(segments);
        };
        let rate = pacing_rate(&self.connection)?;
        let budget = pacer.budget(rate, now);
        if budget == 0 {
            self.paced_until = Some(pacer.ready_at(rate));
            return None;
        }
        let mtu = u64::from(self.connection.current_mtu());
        let allowed = usize::try_from(budget.div_ceil(mtu)).unwrap_or(usize::MAX);
        Some(segments.min(allowed))
    }

    /// Takes note of what has left. Only what carries bytes of streams is charged for: whoever
    /// receives knows nothing of the path's rate, and acknowledgements that waited for their turn
    /// would hold the other end back.
    pub(super) fn spend(&mut self, bytes: usize) {
        if let Some(pacer) = &mut self.pacer {
            let frames = self.connection.stats().frame_tx.stream;
            if frames != self.paced_frames {
                self.paced_frames = frames;
                pacer.spend(bytes as u64);
            }
        }
    }

    /// Keeps a datagram of a dial, if nothing has answered yet.
    pub(super) fn keep_first_flight(&mut self, datagrams: &[u8], segment_size: usize) {
        if self.answered.is_some() {
            return;
        }
        for datagram in datagrams.chunks(segment_size) {
            if self.first_flight.len() == MAX_FIRST_FLIGHT {
                self.first_flight.pop_front();
            }
            self.first_flight.push_back(datagram.to_vec());
        }
    }

    /// What a dial that nothing has answered has said, and where.
    pub(super) fn unanswered(&self) -> Vec<(Path, Vec<u8>)> {
        let waits = self.path.is_none() && self.established.is_none();
        let paths = self.fanout.iter().filter(|_| waits);
        let said = paths.flat_map(|path| self.first_flight.iter().map(|one| (*path, one.clone())));
        said.collect()
    }

    /// Tries a dial on one more path; returns what to send there at once.
    pub(super) fn widen(&mut self, path: Path) -> Vec<Vec<u8>> {
        let waits = self.dialled && self.path.is_none() && self.established.is_none();
        if !waits || self.fanout.len() == MAX_FANOUT || self.fanout.contains(&path) {
            return Vec::new();
        }
        self.fanout.push(path);
        self.first_flight.iter().cloned().collect()
    }
}

/// The keys of probes beside a session, exported from it.
#[derive(Debug)]
pub(super) struct ProbeKeys {
    pub(super) sealer: Sealer,
    pub(super) opener: Opener,
    /// The id that the peer knows the session by.
    pub(super) their_id: u64,
    /// The id that this node knows the session by.
    pub(super) our_id: u64,
}

/// The label of the keys of probes (RFC 8446, section 7.5).
const PROBE_LABEL: &str = "weald probe";

impl ProbeKeys {
    /// Derives the keys; `is_client` is whether this end dialled.
    pub(super) fn derive(connection: &Connection, is_client: bool) -> anyhow::Result<Self> {
        let export = |context: &[u8]| -> anyhow::Result<[u8; 16]> {
            let mut out = [0; 16];
            tls::export(connection.crypto_session(), PROBE_LABEL, context, &mut out)
                .map_err(|_| anyhow::anyhow!("the session exports no keys"))?;
            Ok(out)
        };
        let id = |context: &[u8]| -> anyhow::Result<u64> {
            let bytes = export(context)?;
            Ok(bytes
                .first_chunk()
                .map_or(0, |head| u64::from_be_bytes(*head)))
        };
        let (mine, theirs) = if is_client {
            ("client", "server")
        } else {
            ("server", "client")
        };
        Ok(Self {
            sealer: Sealer::new(SealKey::new(export(format!("key of {mine}").as_bytes())?)),
            opener: Opener::new(SealKey::new(export(format!("key of {theirs}").as_bytes())?)),
            their_id: id(format!("id at {theirs}").as_bytes())?,
            our_id: id(format!("id at {mine}").as_bytes())?,
        })
    }
}

/// All sessions, by slot, by quinn-proto's handle and by what stands in packets.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    slots: Vec<Option<Session>>,
    free: Vec<Slot>,
    by_handle: HashMap<ConnectionHandle, Slot>,
    by_probe_id: BTreeMap<u64, Slot>,
    by_initial_id: BTreeMap<Vec<u8>, Slot>,
}

impl Sessions {
    /// The slot that the next session goes to; none when all are taken.
    pub(super) fn next_slot(&mut self) -> Option<Slot> {
        if let Some(slot) = self.free.last() {
            return Some(*slot);
        }
        if self.slots.len() == Slot::MAX {
            return None;
        }
        let slot = Slot(u16::try_from(self.slots.len()).ok()?);
        self.slots.push(None);
        self.free.push(slot);
        Some(slot)
    }

    /// Puts a session into the slot that [`Self::next_slot`] has named.
    pub(super) fn insert(&mut self, slot: Slot, session: Session) {
        self.free.retain(|free| *free != slot);
        self.by_handle.insert(session.handle, slot);
        if let Some(id) = &session.initial_id {
            self.by_initial_id.insert(id.clone(), slot);
        }
        if let Some(place) = self.slots.get_mut(usize::from(slot.0)) {
            *place = Some(session);
        }
    }

    pub(super) fn remove(&mut self, slot: Slot) -> Option<Session> {
        let session = self.slots.get_mut(usize::from(slot.0))?.take()?;
        self.free.push(slot);
        self.by_handle.remove(&session.handle);
        if let Some(keys) = &session.probes {
            self.by_probe_id.remove(&keys.our_id);
        }
        if let Some(id) = &session.initial_id {
            self.by_initial_id.remove(id);
        }
        Some(session)
    }

    pub(super) fn of(&self, slot: Slot) -> Option<&Session> {
        self.slots.get(usize::from(slot.0))?.as_ref()
    }

    pub(super) fn of_mut(&mut self, slot: Slot) -> Option<&mut Session> {
        self.slots.get_mut(usize::from(slot.0))?.as_mut()
    }

    /// The session in `slot`, if it is with a peer, and with which.
    pub(super) fn with_peer(&mut self, slot: Slot) -> Option<(PeerId, &mut Session)> {
        let session = self.of_mut(slot)?;
        match session.with {
            With::Peer(peer) => Some((peer, session)),
            With::Stranger
            | With::Relay(_)
            | With::Cluster
            | With::Lane(_)
            | With::Agreement(_) => None,
        }
    }

    pub(super) fn of_handle(&self, handle: ConnectionHandle) -> Option<Slot> {
        self.by_handle.get(&handle).copied()
    }

    pub(super) fn of_probe(&self, our_id: u64) -> Option<Slot> {
        self.by_probe_id.get(&our_id).copied()
    }

    pub(super) fn of_initial(&self, id: &[u8]) -> Option<Slot> {
        self.by_initial_id.get(id).copied()
    }

    /// The session whose packets go over `path`, if any: a stateless reset may be for it.
    pub(super) fn on_path(&self, path: Path) -> Option<&Session> {
        self.slots.iter().flatten().find(|session| {
            // Those of the lanes share their paths and end by silence.
            let own = session.pacer.is_none() && !session.is_agreement;
            own && session.path == Some(path) && !session.connection.is_closed()
        })
    }

    /// Notes that a handshake is complete: probes are recognised, Initials are no more.
    pub(super) fn establish(&mut self, slot: Slot, keys: ProbeKeys, now: Instant) {
        self.by_probe_id.insert(keys.our_id, slot);
        if let Some(session) = self.of_mut(slot) {
            session.probes = Some(keys);
        }
        self.settle(slot, now);
    }

    /// Notes that the handshake of a session without probes is complete.
    pub(super) fn settle(&mut self, slot: Slot, now: Instant) {
        let Some(session) = self.of_mut(slot) else {
            return;
        };
        session.established = Some(now);
        if let Some(id) = session.initial_id.take() {
            self.by_initial_id.remove(&id);
        }
    }

    /// A probe of the session in `slot`, of at least so many bytes and ready to be sent; none while it
    /// has no keys for probes.
    pub(super) fn sealed_probe(&mut self, slot: Slot, nonce: u64, len: usize) -> Option<Vec<u8>> {
        let keys = self.of_mut(slot)?.probes.as_mut()?;
        let probe = Probe {
            reply: false,
            session: keys.their_id,
            counter: 0,
            nonce,
        };
        let mut bytes = probe.encode(len);
        keys.sealer.seal(&mut bytes, Probe::TAG).ok()?;
        Some(bytes)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, &Session)> {
        self.slots.iter().enumerate().filter_map(|(slot, session)| {
            Some((Slot(u16::try_from(slot).ok()?), session.as_ref()?))
        })
    }

    pub(super) fn slots(&self) -> Vec<Slot> {
        self.iter().map(|(slot, _)| slot).collect()
    }

    /// When something is due in a session.
    pub(super) fn deadline(&mut self) -> Option<Instant> {
        let sessions = self.slots.iter_mut().flatten();
        sessions
            .filter_map(|session| {
                let paths = session
                    .established
                    .and_then(|_| session.paths.poll_timeout());
                let punch = session.punch.as_ref().and_then(Punch::poll_timeout);
                let chunks = session.reassembler.poll_timeout();
                let closing = session.closing_deadline();
                let held = session
                    .held_until
                    .into_iter()
                    .chain(session.paced_until)
                    .min();
                [
                    session.connection.poll_timeout(),
                    paths,
                    punch,
                    chunks,
                    closing,
                    held,
                ]
                .into_iter()
                .flatten()
                .min()
            })
            .min()
    }

    /// Incoming handshakes that are not complete.
    pub(super) fn half_open(&self) -> usize {
        self.slots
            .iter()
            .flatten()
            .filter(|session| session.initial_id.is_some() && !session.connection.is_closed())
            .count()
    }
}
