//! The L4 lane: TCP connections that end here, and the streams that carry their bytes.
//!
//! All of it runs on the packet thread, beside QUIC: a socket that can be read is read into a
//! stream, a stream that can be read is written to a socket, and nothing is handed from thread to
//! thread. An idle connection costs a socket and a few hundred bytes. Which flow takes the lane,
//! and who may connect to what, is netmanager-core's; here are sockets, streams and time.
//!
//! `sockets` makes sockets in the overlay namespace, `published` ends streams where there is none,
//! `conn` is one connection, `open` begins them, `pump` moves bytes, `peers` keeps the QUIC
//! connections, which are of their own: streams never share one with datagrams.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use netmanager_core::flow::FlowId;
use netmanager_core::lane::{Hello, Refused};
use netmanager_core::table::PeerId;
use quinn_proto::{Dir, Side, StreamId};
use rustix::event::epoll;
use rustix::process::{Resource, getrlimit};

pub use self::sockets::LaneSockets;

use self::conn::{Conn, ConnId, Conns};
use self::peers::LanePeer;
use self::turns::Turns;
use super::Driver;
use crate::api::report::StreamReport;
use crate::quic::Slot;

mod conn;
mod events;
mod open;
mod peers;
mod published;
mod pump;
mod sockets;
mod turns;

/// How long the far end may take to connect to its instance; shorter than programs wait.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Descriptors that connections leave: for sprays, names, the API and sockets that are ready.
const RESERVED_DESCRIPTORS: u64 = 512;
/// How long a stream waits that finds all sockets taken: a few times what it takes to make one.
const SOCKET_PAUSE: Duration = Duration::from_millis(2);
/// How often the sessions of peers with connections are kept from being idle.
const CARE_INTERVAL: Duration = Duration::from_secs(30);

/// What the packet thread keeps of the lane.
#[derive(Debug)]
pub(super) struct Lane {
    epoll: OwnedFd,
    sockets: LaneSockets,
    conns: Conns,
    by_stream: BTreeMap<(Slot, StreamId), ConnId>,
    by_flow: BTreeMap<FlowId, ConnId>,
    /// Who has opened the connections that end at published servers, and what for.
    published: BTreeMap<ConnId, (PeerId, Hello)>,
    peers: BTreeMap<PeerId, LanePeer>,
    /// When connections that are being opened are given up.
    deadlines: BTreeSet<(Instant, ConnId)>,
    /// Connections that may have something to move.
    turns: Turns,
    /// When connections are accepted again, if that was not possible.
    accepts_at: Option<Instant>,
    /// Streams of peers whose lease has yet to be judged, or that have to wait for a socket.
    held: BTreeSet<ConnId>,
    /// When those that wait for a socket try again.
    sockets_at: Option<Instant>,
    next_care: Option<Instant>,
    /// This process ends: nothing is begun any more.
    ends: bool,
    counters: LaneCounters,
}

/// What the lane has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct LaneCounters {
    /// Connections opened here whose targets have accepted.
    opened: u64,
    /// Connections opened by peers whose targets have accepted.
    accepted: u64,
    /// Connections and streams that ended otherwise than by both ends' closing, by reason.
    refused: BTreeMap<Refused, u64>,
}

impl Lane {
    pub(super) fn new(sockets: LaneSockets) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let lane = Self {
            epoll,
            sockets,
            conns: Conns::default(),
            by_stream: BTreeMap::new(),
            by_flow: BTreeMap::new(),
            published: BTreeMap::new(),
            peers: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            turns: Turns::default(),
            accepts_at: None,
            held: BTreeSet::new(),
            sockets_at: None,
            next_care: None,
            ends: false,
            counters: LaneCounters::default(),
        };
        lane.watch_listeners()?;
        Ok(lane)
    }

    /// Has epoll tell of connections that the stack has accepted.
    fn watch_listeners(&self) -> io::Result<()> {
        for (number, listener) in self.sockets.listeners.iter().enumerate() {
            let data = epoll::EventData::new_u64(events::listener_data(number));
            epoll::add(&self.epoll, listener, data, epoll::EventFlags::IN)?;
        }
        Ok(())
    }

    /// The connections whose streams the session in `slot` carries.
    fn carried_by(&self, slot: Slot) -> impl Iterator<Item = ConnId> {
        let first = StreamId::new(Side::Client, Dir::Bi, 0);
        let from = self.by_stream.range((slot, first)..);
        from.take_while(move |((of, _), _)| *of == slot)
            .map(|(_, id)| *id)
    }

    /// The sessions that the lane has with a peer.
    fn slots_of(&self, peer: PeerId) -> Vec<Slot> {
        let lane_peer = self.peers.get(&peer);
        lane_peer.map_or_else(Vec::new, |it| it.slots().collect())
    }

    /// The descriptor that is readable when a socket has something.
    pub(super) const fn descriptor(&self) -> &OwnedFd {
        &self.epoll
    }

    /// What there is and was.
    pub(super) fn report(&self) -> StreamReport {
        let refused = self.counters.refused.iter();
        StreamReport {
            open: self.conns.len(),
            opened: self.counters.opened,
            accepted: self.counters.accepted,
            refused: refused
                .map(|(reason, count)| (reason.word().to_owned(), *count))
                .collect(),
        }
    }

    /// Whether something waits that no descriptor tells of.
    pub(super) fn has_more(&self) -> bool {
        self.turns.slots().next().is_some()
    }

    fn deadline(&self) -> Option<Instant> {
        let opening = self.deadlines.first().map(|(at, _)| *at);
        let peers = self.peers.values().filter_map(LanePeer::deadline).min();
        let pauses = [self.accepts_at, self.sockets_at];
        [opening, peers, self.next_care]
            .into_iter()
            .chain(pauses)
            .flatten()
            .min()
    }

    fn insert(&mut self, conn: Conn, deadline: Instant) -> ConnId {
        let (stream, flow) = ((conn.slot, conn.stream), conn.flow);
        let id = self.conns.insert(conn);
        self.by_stream.insert(stream, id);
        if let Some(flow) = flow {
            self.by_flow.insert(flow, id);
        }
        self.deadlines.insert((deadline, id));
        self.next_care.get_or_insert(deadline + CARE_INTERVAL);
        id
    }

    fn remove(&mut self, id: ConnId) -> Option<Conn> {
        let conn = self.conns.remove(id)?;
        self.by_stream.remove(&(conn.slot, conn.stream));
        if let Some(flow) = conn.flow {
            self.by_flow.remove(&flow);
        }
        if let Some(at) = conn.deadline {
            self.deadlines.remove(&(at, id));
        }
        self.published.remove(&id);
        self.turns.remove(conn.slot, id);
        Some(conn)
    }

    /// The connection is open: nothing is due any more.
    fn settle(&mut self, id: ConnId) {
        if let Some(at) = self.conns.get_mut(id).and_then(|conn| conn.deadline.take()) {
            self.deadlines.remove(&(at, id));
        }
    }

    /// Whether the process has descriptors for another connection, beside those that it needs for
    /// everything else.
    fn has_room(&self) -> bool {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let kept = RESERVED_DESCRIPTORS.min(limit / 2);
        (self.conns.len() as u64) < limit - kept
    }

    /// Whether another instance is asked when one has not accepted a connection.
    const fn looks_elsewhere(&self, why: Refused) -> bool {
        !self.ends && why.is_of_target()
    }

    fn count(&mut self, reason: Refused) {
        *self.counters.refused.entry(reason).or_default() += 1;
    }
}

impl Driver {
    pub(super) fn lane_deadline(&self) -> Option<Instant> {
        self.lane.deadline()
    }

    /// What has become due, and what was left over.
    pub(super) fn handle_lane_timeouts(&mut self) {
        self.touched.extend(self.lane.turns.slots());
        if self.lane.accepts_at.is_some_and(|at| at <= self.now) {
            self.accept_again();
        }
        self.lane.sockets_at = None;
        for id in std::mem::take(&mut self.lane.held) {
            self.hear_hello(id);
        }
        while let Some((at, id)) = self.lane.deadlines.first().copied()
            && at <= self.now
        {
            self.lane.deadlines.remove(&(at, id));
            self.fail(id, Refused::NoAnswer);
        }
        self.handle_waiting();
        if self.lane.next_care.is_some_and(|at| at <= self.now) {
            let busy = self.keep_peers_of_streams();
            self.lane.next_care = busy.then(|| self.now + CARE_INTERVAL);
        }
    }

    /// Resets every connection, so that local programs hear of it before the TUN goes.
    pub(super) fn end_lane(&mut self) {
        self.lane.ends = true;
        for id in self.lane.conns.ids() {
            self.fail(id, Refused::Gone);
        }
        for peer in self.lane.peers.keys().copied().collect::<Vec<_>>() {
            self.refuse_all_waiting(peer, Refused::Gone);
        }
        // The resets come out of the TUN and have to be rewritten.
        self.read_tun();
    }
}
