//! Two nodes, their NATs, a relay between them, and a clock that jumps from event to event.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use netmanager_core::peer::candidates::{Interface, Surroundings};
use netmanager_core::peer::paths::{Path, PathEvent, Paths, RelayIndex};
use netmanager_core::peer::punch::{From, Punch, PunchEvent, PunchLimits, SPRAY_PROBES, Searches};
use weald_proto::addr::Pools;
use weald_proto::session::PeerToPeer;

use crate::nat::{Filtering, Kind, Mapping, Nat};
use crate::random::Random;
use crate::scenario::{Scenario, Site};

const PORT: u16 = 10_260;
/// The port that routers lead to a node that asks them to.
const LED_PORT: u16 = 50_000;
/// The ports of the relay that say where packets come from.
const OBSERVERS: [u16; 2] = [10_250, 10_251];
/// The first port of the sockets that a spray opens.
const EXTRA_PORT: u16 = 40_000;
const RELAY: Path = Path::Relay {
    relay: RelayIndex(0),
    peer: 7,
};
/// What one node may send in all attempts of a case: some rounds and one search.
const MAX_PUNCH_PROBES: u64 = SPRAY_PROBES as u64 + 3000;

/// Where a node is.
#[derive(Debug)]
struct Spot {
    inside: IpAddr,
    nats: Vec<Nat>,
    maps_ports: bool,
    v6: Option<V6>,
    blocks_udp: bool,
}

/// An address that is seen as it is, behind a firewall or not.
#[derive(Debug)]
struct V6 {
    ip: IpAddr,
    firewall: Option<Nat>,
}

/// One node.
#[derive(Debug)]
struct Node {
    spot: Spot,
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
        by: usize,
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
    /// A node is told of its own interfaces.
    Interfaces {
        of: usize,
    },
    /// An observer has answered a node.
    Observed {
        of: usize,
        observer: u16,
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
        for (of, late) in scenario.late.into_iter().enumerate() {
            if late.is_zero() {
                net.handle(Event::Interfaces { of });
            } else {
                // The session begins all the same.
                net.set_local(of);
                net.schedule_at(now + late, Event::Interfaces { of });
            }
            net.drive(of);
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
        let spot = &mut self.nodes[1].spot;
        for nat in &mut spot.nats {
            nat.forget();
        }
        if let Some(firewall) = spot.v6.as_mut().and_then(|v6| v6.firewall.as_mut()) {
            firewall.forget_flows();
        }
        // Its relay sees the new mapping with the next packet and says so.
        for observer in OBSERVERS {
            self.handle(Event::Observed { of: 1, observer });
        }
        self.drive(1);
    }

    /// The second node is in the second site from now on, and does what the driver does then.
    pub(crate) fn move_to(&mut self, [first, second]: &[Site; 2]) {
        self.together = false;
        let [node, moved] = &mut self.nodes;
        node.spot.blocks_udp = first.blocks_udp;
        let node = moved;
        node.spot = Spot::new(second, 2, 9);
        node.extra.clear();
        node.towards.clear();
        node.surroundings.set_mapped(Vec::new());
        node.surroundings.set_interfaces(node.spot.interfaces());
        for observer in OBSERVERS {
            node.surroundings.ask(observed_at(observer), self.now);
        }
        node.paths.probe_all(self.now);
        self.set_local(1);
        for observer in OBSERVERS {
            self.schedule(self.relay_delay * 2, Event::Observed { of: 1, observer });
        }
        self.drive(1);
        for node in &mut self.nodes {
            node.probes = 0;
        }
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
        let timers = self.nodes.iter().flat_map(|node| {
            let known = node.surroundings.poll_timeout();
            [node.paths.poll_timeout(), node.punch.poll_timeout(), known]
        });
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
                by,
                from,
                to,
                reply,
                nonce,
            } => {
                // What comes back to its sender is not sealed by the peer.
                if let Some((which, port)) = self.receiver(from, to).filter(|it| it.0 != by) {
                    self.arrive(which, port, from, reply, nonce);
                }
            }
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
            Event::Interfaces { of } => {
                let node = &mut self.nodes[of];
                node.surroundings.set_interfaces(node.spot.interfaces());
                for observer in OBSERVERS {
                    self.observe(of, observer);
                }
                self.set_local(of);
            }
            Event::Observed { of, observer } => {
                self.observe(of, observer);
                // While others have yet to say the same, it looks like another kind of NAT.
                if self.nodes[of].surroundings.is_settled() {
                    self.set_local(of);
                }
            }
        }
    }

    /// A probe has come to a socket of a node, which does what the driver does.
    fn arrive(&mut self, which: usize, port: u16, from: SocketAddr, reply: bool, nonce: u64) {
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
            let spot = &mut node.spot;
            if spot.inside == to.ip() {
                // Private addresses lead nowhere from outside.
                let is_public = spot.nats.is_empty() && !spot.blocks_udp;
                return (is_public || self.together).then_some((which, to.port()));
            }
            if let Some(v6) = spot.v6.as_mut().filter(|v6| v6.ip == to.ip()) {
                return match &mut v6.firewall {
                    _ if self.together => Some((which, to.port())),
                    _ if spot.blocks_udp => None,
                    None => Some((which, to.port())),
                    Some(firewall) => {
                        let at = firewall.inbound(from, to.port(), self.now)?;
                        Some((which, at.port()))
                    }
                };
            }
            if spot.nats.last().is_some_and(|nat| nat.ip() == to.ip()) {
                let mut at = to;
                for nat in spot.nats.iter_mut().rev() {
                    at = nat.inbound(from, at.port(), self.now)?;
                }
                return (at.ip() == spot.inside).then_some((which, at.port()));
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
        let on_link = self.together && self.nodes[1 - which].spot.has(to.ip());
        let spot = &mut self.nodes[which].spot;
        let own = match (to.ip(), &spot.v6) {
            (IpAddr::V4(_), _) => spot.inside,
            (IpAddr::V6(_), Some(v6)) => v6.ip,
            (IpAddr::V6(_), None) => return,
        };
        let mut from = SocketAddr::new(own, port);
        if !on_link {
            if spot.blocks_udp {
                return;
            }
            let firewall = spot.v6.as_mut().and_then(|v6| v6.firewall.as_mut());
            let (nats, firewall) = if to.is_ipv4() {
                (spot.nats.as_mut_slice(), None)
            } else {
                (&mut [][..], firewall)
            };
            for nat in nats.iter_mut().chain(firewall) {
                from = nat.outbound(from, to, &mut self.random, self.now);
            }
            if short_lived {
                return;
            }
        }
        if !self.random.percent(self.loss_percent) {
            let event = Event::Direct {
                by: which,
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
        self.schedule_at(at, event);
    }

    fn schedule_at(&mut self, at: Instant, event: Event) {
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
        let message = self.messages.len() - 1;
        self.schedule_at(at, Event::Said { to, message });
    }

    /// An observer says what it sees of a node, and its gateway what it leads there; where UDP is
    /// blocked nobody says anything.
    fn observe(&mut self, which: usize, observer: u16) {
        let node = &mut self.nodes[which];
        if node.spot.blocks_udp {
            return;
        }
        let observer = observed_at(observer);
        let inside = SocketAddr::new(node.spot.inside, PORT);
        let mut seen = inside;
        for nat in &mut node.spot.nats {
            seen = nat.outbound(seen, observer, &mut self.random, self.now);
        }
        node.surroundings.observe(observer, seen);
        let gateway = node.spot.nats.last_mut().filter(|_| node.spot.maps_ports);
        if let Some(gateway) = gateway {
            let outside = gateway.lead(LED_PORT, inside);
            node.surroundings.set_mapped(vec![outside]);
        }
    }

    fn set_local(&mut self, which: usize) {
        let node = &mut self.nodes[which];
        node.punch
            .set_local(&node.surroundings, &Pools::default(), self.now);
    }

    /// Does what a node's machines want.
    fn drive(&mut self, which: usize) {
        if self.nodes[which].surroundings.handle_timeout(self.now) {
            self.set_local(which);
        }
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

impl Spot {
    /// A host of a site in a place, both of which have numbers.
    fn new(site: &Site, host: u8, place: u8) -> Self {
        let inside = if site.nats.is_empty() {
            Ipv4Addr::new(192, 0, 2, 1 + host)
        } else {
            Ipv4Addr::new(192, 168, 1 + place / 2, 7 + host)
        };
        let count = site.nats.len();
        let nats = site.nats.iter().enumerate().map(|(nth, kind)| {
            let ip = if nth + 1 == count {
                Ipv4Addr::new(203, 0, 113, 1 + place)
            } else {
                Ipv4Addr::new(100, 64, 0, 1 + place)
            };
            Nat::new(*kind, ip.into(), site.lifetime)
        });
        let v6 = site.v6.map(|firewalled| {
            let ip = Ipv6Addr::new(0x2001, 0xdb8, place.into(), 0, 0, 0, 0, 7 + u16::from(host));
            let kind = Kind {
                mapping: Mapping::Independent,
                filtering: Filtering::AddressAndPort,
                remembers_strangers: false,
            };
            let ip = IpAddr::from(ip);
            V6 {
                ip,
                firewall: firewalled.then(|| Nat::new(kind, ip, site.lifetime)),
            }
        });
        Self {
            inside: inside.into(),
            nats: nats.collect(),
            maps_ports: site.maps_ports,
            v6,
            blocks_udp: site.blocks_udp,
        }
    }

    fn interfaces(&self) -> Vec<Interface> {
        let v6 = self.v6.as_ref().map(|v6| (v6.ip, 64));
        let all = [(self.inside, 24)].into_iter().chain(v6);
        all.map(|(ip, prefix_len)| Interface {
            address: SocketAddr::new(ip, PORT),
            prefix_len,
        })
        .collect()
    }

    fn has(&self, ip: IpAddr) -> bool {
        self.inside == ip || self.v6.as_ref().is_some_and(|v6| v6.ip == ip)
    }
}

fn observed_at(observer: u16) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, 1], observer))
}

impl Node {
    fn new(which: usize, scenario: &Scenario, now: Instant) -> Self {
        let site = &scenario.sites[if scenario.together { 0 } else { which }];
        let host = u8::try_from(which).unwrap();
        let place = if scenario.together { 0 } else { host };
        let mut spot = Spot::new(site, host, place);
        spot.blocks_udp &= !scenario.together;
        let mut paths = Paths::new(which as u64);
        paths.handle_handshake(RELAY, now);
        Self {
            spot,
            surroundings: Surroundings::default(),
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
