//! The crowd: nodes, the sessions between them, a wire with one delay, and a count of what is sent.
//!
//! A session is ideal: a handshake takes a round trip and so many bytes, what one end says in it
//! arrives. Everything else is said by the real machines.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use netmanager_core::peer::candidates::{Interface, Surroundings};
use netmanager_core::peer::paths::{PADDED_LEN, Path, PathEvent, Paths, RelayIndex};
use netmanager_core::peer::punch::{Punch, PunchEvent, PunchLimits, Searches};
use netmanager_core::peer::{Action, Keep, Loss, Peer};
use weald_proto::addr::Pools;
use weald_proto::codec::Message as _;
use weald_proto::session::PeerToPeer;

/// Between any two nodes, one way.
const DELAY: Duration = Duration::from_micros(500);
/// Bytes that each end sends for a handshake: some Initials of 1200, a certificate chain.
const HANDSHAKE_BYTES: u64 = 5000;
/// Bytes of a probe with headers of UDP and IPv4.
const PROBE_BYTES: u64 = 31 + 28;
/// The same of one that is as long as a full packet.
const PADDED_BYTES: u64 = PADDED_LEN as u64 + 28;
/// What a relay adds.
const RELAY_BYTES: u64 = 23;
/// What QUIC and headers add to a message.
const MESSAGE_BYTES: u64 = 70;
/// What QUIC's own keep-alives cost a session, in bits a second: from either end a ping and its
/// acknowledgement every 15 s.
pub(crate) const KEEP_ALIVE_BITS: u64 = 8 * 4 * 70 / 15;

/// One end of a session: a node, and the other one.
type End = (usize, usize);

#[derive(Debug)]
enum Event {
    /// A handshake is done, dialled by the first one.
    Up(End),
    Probe(End, Path, u64, u64),
    Reply(End, Path, u64),
    Said(End, PeerToPeer),
    Closed(End),
    Timer(End),
}

struct Session {
    paths: Paths,
    punch: Punch,
}

struct Node {
    surroundings: Surroundings,
    peers: BTreeMap<usize, Peer>,
    sessions: BTreeMap<usize, Session>,
    this_second: (u64, u64),
    busiest: u64,
}

pub(crate) struct Crowd {
    nodes: Vec<Node>,
    queue: BTreeMap<(Instant, u64), Event>,
    /// When each end's next timer is, so that none stands in the queue twice.
    timers: BTreeMap<End, Instant>,
    sequence: u64,
    start: Instant,
    now: Instant,
    bytes: u64,
    handshakes: usize,
    pools: Pools,
    changes: u8,
}

impl Crowd {
    pub(crate) fn new(count: usize) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "a simulation needs some first instant"
        )]
        let now = Instant::now();
        let node = |number| Node {
            surroundings: surroundings(number, 0),
            peers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            this_second: (0, 0),
            busiest: 0,
        };
        Self {
            nodes: (0..count).map(node).collect(),
            queue: BTreeMap::new(),
            timers: BTreeMap::new(),
            sequence: 0,
            start: now,
            now,
            bytes: 0,
            handshakes: 0,
            pools: Pools::default(),
            changes: 0,
        }
    }

    /// Bytes that all have sent.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) const fn handshakes(&self) -> usize {
        self.handshakes
    }

    /// Sessions that are open, seen from each end.
    pub(crate) fn open(&self) -> usize {
        self.nodes.iter().map(|node| node.sessions.len()).sum()
    }

    /// Pairs of which one has wanted the other.
    pub(crate) fn pairs(&self) -> usize {
        let ends = self.nodes.iter().enumerate().flat_map(|(one, node)| {
            let others = node.peers.keys();
            others.map(move |other| (one.min(*other), one.max(*other)))
        });
        ends.collect::<std::collections::BTreeSet<_>>().len()
    }

    /// The most that one node has sent within one second.
    pub(crate) fn busiest_second(&self) -> u64 {
        let busiest = self
            .nodes
            .iter()
            .map(|node| node.busiest.max(node.this_second.1));
        busiest.max().unwrap_or(0)
    }

    pub(crate) fn forget_busiest(&mut self) {
        for node in &mut self.nodes {
            (node.busiest, node.this_second) = (0, (0, 0));
        }
    }

    /// Has every node want `count` others, always the same ones.
    pub(crate) fn want_each(&mut self, count: usize) {
        for one in 0..self.nodes.len() {
            for step in 1..=count {
                // Far apart and both ways: some pairs want each other at once.
                let other = (one + step * step * 7) % self.nodes.len();
                let now = self.now;
                let action = self.peer((one, other)).want(now);
                self.act((one, other), action);
            }
        }
    }

    /// Gives all nodes other addresses, as a network does that has been away.
    pub(crate) fn change_all_links(&mut self) {
        self.changes += 1;
        for one in 0..self.nodes.len() {
            let now = self.now;
            let node = &mut self.nodes[one];
            node.surroundings = surroundings(one, self.changes);
            for session in node.sessions.values_mut() {
                session
                    .punch
                    .set_local(&node.surroundings, &self.pools, now);
                session.paths.probe_all(now);
            }
            for other in node.sessions.keys().copied().collect::<Vec<_>>() {
                self.drive((one, other));
            }
        }
    }

    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(entry) = self.queue.first_entry().filter(|it| it.key().0 <= end) {
            self.now = entry.key().0;
            let event = entry.remove();
            self.handle(event);
        }
        self.now = end;
    }

    fn peer(&mut self, (one, other): End) -> &mut Peer {
        let peers = &mut self.nodes[one].peers;
        peers.entry(other).or_insert_with(|| Peer::new(one < other))
    }

    fn handle(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Up((one, other)) => {
                self.handshakes += 1;
                // Both ends judge: of two at once the same one stays.
                let born = now - 2 * DELAY;
                let kept = self.peer((one, other)).handle_session_up(true, born, now);
                let kept_there = self.peer((other, one)).handle_session_up(false, born, now);
                assert_eq!(kept, kept_there);
                if kept == Keep::New {
                    self.open_session((one, other));
                    self.open_session((other, one));
                }
            }
            Event::Probe(end, path, nonce, bytes) => {
                let (one, other) = end;
                let back = self.path_back(end, path);
                if let Some(session) = self.nodes[one].sessions.get_mut(&other) {
                    session.paths.add_learned(back, now);
                    session.paths.note_probe(back, false, now);
                    self.send(one, path, bytes);
                    self.push(DELAY, Event::Reply((other, one), path, nonce));
                    self.drive(end);
                }
            }
            Event::Reply((one, other), path, nonce) => {
                if let Some(session) = self.nodes[one].sessions.get_mut(&other) {
                    session.paths.handle_reply(path, nonce, now);
                    self.drive((one, other));
                }
            }
            Event::Said((one, other), message) => {
                let node = &mut self.nodes[one];
                if let Some(session) = node.sessions.get_mut(&other) {
                    let here = &node.surroundings;
                    session
                        .punch
                        .handle_message(&message, here, &self.pools, now);
                    self.drive((one, other));
                }
            }
            Event::Closed((one, other)) => {
                if self.nodes[one].sessions.remove(&other).is_some() {
                    let action = self.peer((one, other)).handle_session_lost(Loss::Idle, now);
                    self.act((one, other), action);
                }
            }
            Event::Timer(end) => {
                if self.timers.get(&end) == Some(&now) {
                    self.timers.remove(&end);
                    let action = self.peer(end).handle_timeout(now);
                    self.act(end, action);
                    self.drive(end);
                }
            }
        }
    }

    fn act(&mut self, (one, other): End, action: Option<Action>) {
        match action {
            Some(Action::Dial) => {
                self.count(one, HANDSHAKE_BYTES);
                self.count(other, HANDSHAKE_BYTES);
                self.push(2 * DELAY, Event::Up((one, other)));
            }
            Some(Action::CloseIdle) => {
                self.nodes[one].sessions.remove(&other);
                self.count(one, MESSAGE_BYTES);
                self.push(DELAY, Event::Closed((other, one)));
            }
            Some(Action::GiveUp) | None => {}
        }
        self.set_timer((one, other));
    }

    fn open_session(&mut self, (one, other): End) {
        let mut paths = Paths::new((one * 1000 + other) as u64);
        let there = direct(self.nodes[other].surroundings.interfaces().next().unwrap());
        paths.handle_handshake(there, self.now);
        paths.add(RELAY, self.now);
        let limits = PunchLimits::default();
        let mut punch = Punch::new(one < other, limits, 1, Searches::default());
        punch.set_local(&self.nodes[one].surroundings, &self.pools, self.now);
        let session = Session { paths, punch };
        self.nodes[one].sessions.insert(other, session);
        self.drive((one, other));
    }

    /// Does what the machines of one end of a session want.
    fn drive(&mut self, end: End) {
        let (one, other) = end;
        let now = self.now;
        let quiet = self.peer(end).is_quiet(now);
        let Some(session) = self.nodes[one].sessions.get_mut(&other) else {
            return self.set_timer(end);
        };
        session.paths.set_quiet(quiet, now);
        session.paths.handle_timeout(now);
        session.punch.set_direct(session.paths.has_direct(), now);
        session.punch.handle_timeout(now);
        let probes: Vec<PathEvent> = std::iter::from_fn(|| session.paths.poll_event()).collect();
        let punches: Vec<PunchEvent> = std::iter::from_fn(|| session.punch.poll_event()).collect();
        for event in probes {
            match event {
                PathEvent::Probe {
                    path,
                    nonce,
                    padded,
                } => {
                    let bytes = if padded { PADDED_BYTES } else { PROBE_BYTES };
                    self.probe(end, path, nonce, bytes);
                }
                PathEvent::Switched { .. } | PathEvent::AllDead => {}
            }
        }
        for event in punches {
            match event {
                PunchEvent::Say(message) => {
                    let bytes = message.encode().unwrap().len() as u64;
                    self.count(one, bytes + MESSAGE_BYTES);
                    self.push(DELAY, Event::Said((other, one), message));
                }
                PunchEvent::Probe { to, .. } => {
                    self.probe(end, Path::Direct(to), 0, PROBE_BYTES);
                }
                PunchEvent::EndSpray => {}
            }
        }
        self.set_timer(end);
    }

    /// Sends a probe; it arrives if the other node is where it goes.
    fn probe(&mut self, (one, other): End, path: Path, nonce: u64, bytes: u64) {
        self.send(one, path, bytes);
        let here = &self.nodes[other].surroundings;
        let is_there = here.interfaces().map(direct).any(|at| at == path);
        if path == RELAY || is_there {
            self.push(DELAY, Event::Probe((other, one), path, nonce, bytes));
        }
    }

    /// The path that a node sees a probe come over, which was sent over `path`.
    fn path_back(&self, (_, from): End, path: Path) -> Path {
        match path {
            Path::Relay { .. } => RELAY,
            Path::Direct(_) => direct(self.nodes[from].surroundings.interfaces().next().unwrap()),
        }
    }

    fn set_timer(&mut self, end: End) {
        let (one, other) = end;
        let peer = self.peer(end).poll_timeout().map(|(at, _)| at);
        let session = self.nodes[one].sessions.get(&other);
        let paths = session.and_then(|session| session.paths.poll_timeout());
        let punch = session.and_then(|session| session.punch.poll_timeout());
        let next = [peer, paths, punch].into_iter().flatten().min();
        let next = next.map(|at| at.max(self.now));
        match next {
            Some(at) if self.timers.get(&end) != Some(&at) => {
                self.timers.insert(end, at);
                self.push(at - self.now, Event::Timer(end));
            }
            Some(_) => {}
            None => drop(self.timers.remove(&end)),
        }
    }

    fn push(&mut self, after: Duration, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now + after, self.sequence), event);
    }

    fn send(&mut self, one: usize, path: Path, bytes: u64) {
        let relayed = if path == RELAY { RELAY_BYTES } else { 0 };
        self.count(one, bytes + relayed);
    }

    fn count(&mut self, one: usize, bytes: u64) {
        self.bytes += bytes;
        let second = (self.now - self.start).as_secs();
        let node = &mut self.nodes[one];
        if node.this_second.0 != second {
            node.busiest = node.busiest.max(node.this_second.1);
            node.this_second = (second, 0);
        }
        node.this_second.1 += bytes;
    }
}

const RELAY: Path = Path::Relay {
    relay: RelayIndex(0),
    peer: 1,
};

fn direct(interface: Interface) -> Path {
    Path::Direct(interface.address)
}

/// A node's place on the LAN, after so many changes.
fn surroundings(number: usize, changes: u8) -> Surroundings {
    let [.., high, low] = (number + 1).to_be_bytes();
    let mut here = Surroundings::default();
    here.set_interfaces([Interface {
        address: SocketAddr::from(([192, 168, 16 + 4 * changes + high, low], 10260)),
        prefix_len: 16,
    }]);
    here
}
