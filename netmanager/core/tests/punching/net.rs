//! Two nodes, their NATs, a relay between them, and a clock that jumps from event to event.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use netmanager_core::peer::candidates::{Interface, Surroundings};
use netmanager_core::peer::paths::{Path, PathEvent, Paths, RelayIndex};
use netmanager_core::peer::punch::{From, Punch, PunchEvent, PunchLimits, SPRAY_PROBES, Searches};
use weald_proto::addr::Pools;
use weald_proto::session::PeerToPeer;

use crate::nat::Nat;
use crate::random::Random;
use crate::scenario::Scenario;

const PORT: u16 = 10_260;
/// The first port of the sockets that a spray opens.
const EXTRA_PORT: u16 = 40_000;
const RELAY: Path = Path::Relay {
    relay: RelayIndex(0),
    peer: 7,
};
/// What one node may send in all attempts of a case: some rounds and one search.
const MAX_PUNCH_PROBES: u64 = SPRAY_PROBES as u64 + 3000;

/// One node.
#[derive(Debug)]
struct Node {
    inside: IpAddr,
    nats: Vec<Nat>,
    blocks_udp: bool,
    surroundings: Surroundings,
    paths: Paths,
    punch: Punch,
    /// Sockets of sprays that are open.
    extra: BTreeSet<u16>,
    towards: BTreeMap<SocketAddr, u16>,
    /// When the last message to this node inside the session arrives: they keep their order.
    last_message: Instant,
    probes: u64,
    all_dead: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A probe that has passed its sender's NATs.
    Direct {
        from: SocketAddr,
        to: SocketAddr,
        reply: bool,
        nonce: u64,
    },
    Relayed {
        to: usize,
        reply: bool,
        nonce: u64,
    },
    Said {
        to: usize,
        message: usize,
    },
}

#[derive(Debug)]
pub(crate) struct Net {
    nodes: [Node; 2],
    together: bool,
    delay: Duration,
    relay_delay: Duration,
    jitter_ms: u64,
    loss_percent: u64,
    random: Random,
    start: Instant,
    now: Instant,
    queue: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    sequence: u64,
    messages: Vec<PeerToPeer>,
    trace: Vec<String>,
}

impl Net {
    pub(crate) fn new(scenario: &Scenario, random: Random) -> Self {
        #[expect(clippy::disallowed_methods, reason = "a test needs some first instant")]
        let now = Instant::now();
        let mut net = Self {
            nodes: [0, 1].map(|which| Node::new(which, scenario, now)),
            together: scenario.together,
            delay: scenario.delay,
            relay_delay: scenario.relay_delay,
            jitter_ms: scenario.jitter_ms,
            loss_percent: scenario.loss_percent,
            random,
            start: now,
            now,
            queue: BinaryHeap::new(),
            sequence: 0,
            messages: Vec::new(),
            trace: Vec::new(),
        };
        for which in [0, 1] {
            net.observe(which);
            net.drive(which);
        }
        net
    }

    pub(crate) fn is_direct(&self) -> bool {
        self.nodes.iter().all(|node| node.paths.has_direct())
    }

    /// Runs until both ends have a direct path; how long that took, if it came within `limit`.
    pub(crate) fn run_until_direct(&mut self, limit: Duration) -> Option<Duration> {
        let start = self.now;
        while !self.is_direct() {
            if !self.step(start + limit) {
                return None;
            }
        }
        Some(self.now - start)
    }

    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// The second node's routers restart.
    pub(crate) fn forget_mappings(&mut self) {
        for nat in &mut self.nodes[1].nats {
            nat.forget();
        }
        // Its relay sees the new mapping with the next packet and says so.
        self.observe(1);
        self.drive(1);
    }

    /// What holds in every case.
    pub(crate) fn check(&self, told: &str) {
        for node in &self.nodes {
            assert!(!node.all_dead, "{told}: the relay was given up");
            assert!(node.paths.active().is_some(), "{told}: no path");
            let probes = node.probes;
            assert!(probes <= MAX_PUNCH_PROBES, "{told}: {probes} probes");
        }
    }

    pub(crate) fn standing(&self) -> String {
        let words = |node: &Node| {
            format!(
                "{} {:?}",
                node.punch.standing().word(),
                node.punch.mappings()
            )
        };
        format!("{}; {}", words(&self.nodes[0]), words(&self.nodes[1]))
    }

    pub(crate) fn trace(&self) -> Vec<String> {
        self.trace.clone()
    }

    /// The next event or timer, if it comes before `end`.
    fn step(&mut self, end: Instant) -> bool {
        let timers = self
            .nodes
            .iter()
            .flat_map(|node| [node.paths.poll_timeout(), node.punch.poll_timeout()]);
        let event = self.queue.peek().map(|Reverse((at, ..))| *at);
        let Some(next) = timers.flatten().chain(event).min() else {
            return false;
        };
        if next > end {
            return false;
        }
        self.now = self.now.max(next);
        if event.is_some_and(|at| at <= self.now) {
            let Reverse((at, _, event)) = self.queue.pop().unwrap();
            self.trace.push(format!("{:?} {event:?}", at - self.start));
            self.handle(event);
        }
        self.drive(0);
        self.drive(1);
        true
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Direct {
                from,
                to,
                reply,
                nonce,
            } => self.arrive(from, to, reply, nonce),
            Event::Relayed { to, reply, nonce } => {
                let paths = &mut self.nodes[to].paths;
                if reply {
                    paths.handle_reply(RELAY, nonce, self.now);
                } else {
                    self.send_relayed(1 - to, true, nonce);
                }
            }
            Event::Said { to, message } => {
                let node = &mut self.nodes[to];
                let message = &self.messages[message];
                node.punch
                    .handle_message(message, &node.surroundings, &Pools::default(), self.now);
            }
        }
    }

    /// A probe comes to an address: through NATs to a node, which does what the driver does.
    fn arrive(&mut self, from: SocketAddr, to: SocketAddr, reply: bool, nonce: u64) {
        let Some((which, port)) = self.receiver(from, to) else {
            return;
        };
        let node = &mut self.nodes[which];
        let extra = port.checked_sub(EXTRA_PORT);
        match extra {
            Some(number) if node.extra.contains(&number) => {
                node.towards.entry(from).or_insert(number);
            }
            None if port == PORT => {}
            Some(_) | None => return,
        }
        node.paths.add_learned(Path::Direct(from), self.now);
        if reply {
            node.paths.handle_reply(Path::Direct(from), nonce, self.now);
        } else {
            node.paths.note_probe(Path::Direct(from), false, self.now);
            self.send_direct(which, from, true, nonce);
        }
    }

    fn receiver(&mut self, from: SocketAddr, to: SocketAddr) -> Option<(usize, u16)> {
        for (which, node) in self.nodes.iter_mut().enumerate() {
            if node.inside == to.ip() {
                // Private addresses lead nowhere from outside.
                let is_public = node.nats.is_empty();
                return (is_public || self.together).then_some((which, to.port()));
            }
            if node.nats.last().is_some_and(|nat| nat.ip() == to.ip()) {
                let mut at = to;
                for nat in node.nats.iter_mut().rev() {
                    at = nat.inbound(from, at.port(), self.now)?;
                }
                return (at.ip() == node.inside).then_some((which, at.port()));
            }
        }
        None
    }

    fn send_direct(&mut self, which: usize, to: SocketAddr, reply: bool, nonce: u64) {
        let number = self.nodes[which].towards.get(&to).copied();
        let port = number.map_or(PORT, |number| EXTRA_PORT + number);
        self.emit(which, port, to, false, reply, nonce);
    }

    fn emit(
        &mut self,
        which: usize,
        port: u16,
        to: SocketAddr,
        short_lived: bool,
        reply: bool,
        nonce: u64,
    ) {
        let node = &mut self.nodes[which];
        let mut from = SocketAddr::new(node.inside, port);
        let on_link = self.together && to.ip() == self.nodes[1 - which].inside;
        let node = &mut self.nodes[which];
        if !on_link {
            if node.blocks_udp {
                return;
            }
            for nat in &mut node.nats {
                from = nat.outbound(from, to, &mut self.random, self.now);
            }
            if short_lived {
                return;
            }
        }
        if !self.random.percent(self.loss_percent) {
            let event = Event::Direct {
                from,
                to,
                reply,
                nonce,
            };
            self.schedule(self.delay, event);
        }
    }

    fn send_relayed(&mut self, to: usize, reply: bool, nonce: u64) {
        // The relay loses nothing here: what becomes of sessions whose every path fails is not
        // the question.
        self.schedule(self.relay_delay, Event::Relayed { to, reply, nonce });
    }

    fn schedule(&mut self, delay: Duration, event: Event) {
        let at = self.now + delay + self.random.millis(0, self.jitter_ms);
        self.sequence += 1;
        self.queue.push(Reverse((at, self.sequence, event)));
    }

    fn say(&mut self, to: usize, message: PeerToPeer) {
        // A lost packet of the session is sent again a good round trip later.
        let lost = self.random.percent(self.loss_percent);
        let repeated = if lost {
            self.relay_delay * 4
        } else {
            Duration::ZERO
        };
        let jitter = self.random.millis(0, self.jitter_ms);
        let at = self.now + self.relay_delay + repeated + jitter;
        let at = at.max(self.nodes[to].last_message);
        self.nodes[to].last_message = at;
        self.messages.push(message);
        self.sequence += 1;
        let event = Event::Said {
            to,
            message: self.messages.len() - 1,
        };
        self.queue.push(Reverse((at, self.sequence, event)));
    }

    /// Two observers say what they see of a node; where UDP is blocked they see nothing.
    fn observe(&mut self, which: usize) {
        let node = &mut self.nodes[which];
        if !node.blocks_udp {
            for observer in [10_250, 10_251] {
                let observer = SocketAddr::from(([198, 51, 100, 1], observer));
                let mut seen = SocketAddr::new(node.inside, PORT);
                for nat in &mut node.nats {
                    seen = nat.outbound(seen, observer, &mut self.random, self.now);
                }
                node.surroundings.observe(observer, seen);
            }
        }
        node.punch
            .set_local(&node.surroundings, &Pools::default(), self.now);
    }

    /// Does what a node's machines want.
    fn drive(&mut self, which: usize) {
        let node = &mut self.nodes[which];
        if node.paths.poll_timeout().is_some_and(|at| at <= self.now) {
            node.paths.handle_timeout(self.now);
        }
        node.punch.set_direct(node.paths.has_direct(), self.now);
        node.punch.handle_timeout(self.now);
        while let Some(event) = self.nodes[which].punch.poll_event() {
            match event {
                PunchEvent::Say(message) => self.say(1 - which, message),
                PunchEvent::Probe {
                    to,
                    short_lived,
                    from,
                } => {
                    let node = &mut self.nodes[which];
                    node.probes += 1;
                    let port = match from {
                        From::Main => PORT,
                        From::Extra(number) => {
                            node.extra.insert(number);
                            EXTRA_PORT + number
                        }
                    };
                    let nonce = self.random.next();
                    self.emit(which, port, to, short_lived, false, nonce);
                }
                PunchEvent::EndSpray => {
                    let node = &mut self.nodes[which];
                    let used: BTreeSet<u16> = node.towards.values().copied().collect();
                    node.extra.retain(|number| used.contains(number));
                }
            }
        }
        while let Some(event) = self.nodes[which].paths.poll_event() {
            match event {
                PathEvent::Probe { path, nonce, .. } => match path {
                    Path::Direct(to) => self.send_direct(which, to, false, nonce),
                    Path::Relay { .. } => self.send_relayed(1 - which, false, nonce),
                },
                PathEvent::Switched { .. } => {}
                PathEvent::AllDead => self.nodes[which].all_dead = true,
            }
        }
    }
}

impl Node {
    fn new(which: usize, scenario: &Scenario, now: Instant) -> Self {
        let site = &scenario.sites[if scenario.together { 0 } else { which }];
        let host = u8::try_from(which).unwrap();
        let inside = if site.nats.is_empty() {
            Ipv4Addr::new(192, 0, 2, 1 + host)
        } else {
            Ipv4Addr::new(192, 168, 1, 7 + host)
        };
        let place = if scenario.together { 0 } else { host };
        let count = site.nats.len();
        let nats = site.nats.iter().enumerate().map(|(nth, kind)| {
            let ip = if nth + 1 == count {
                Ipv4Addr::new(203, 0, 113, 1 + place)
            } else {
                Ipv4Addr::new(100, 64, 0, 1 + place)
            };
            Nat::new(*kind, ip.into(), scenario.lifetime)
        });
        let mut surroundings = Surroundings::default();
        surroundings.set_interfaces([Interface {
            address: SocketAddr::new(inside.into(), PORT),
            prefix_len: 24,
        }]);
        let mut paths = Paths::new(which as u64);
        paths.handle_handshake(RELAY, now);
        Self {
            inside: inside.into(),
            nats: nats.collect(),
            blocks_udp: site.blocks_udp && !scenario.together,
            surroundings,
            paths,
            punch: Punch::new(
                which == 0,
                PunchLimits::default(),
                99 + which as u64,
                Searches::default(),
            ),
            extra: BTreeSet::new(),
            towards: BTreeMap::new(),
            last_message: now,
            probes: 0,
            all_dead: false,
        }
    }
}
