//! What must never happen, whatever packets come: a source that is not its sender's, a destination
//! that is not here, a word between organisations, transit.

use std::net::IpAddr;

use netmanager_core::dataplane::DataPlane;
use netmanager_core::dataplane::FlowLimits;
use netmanager_core::packet::{L4, PacketInfo};
use netmanager_core::table::{Host, Nodes, PeerId, Snapshot};
use netmanager_core::verdict::Verdict;
use netmanager_core::vnet::VnetHeader;
use proptest::prelude::*;
use std::sync::Arc;
use std::time::{Duration, Instant};
use weald_proto::table::Table;

use crate::packets::{echo, fragments, port_unreachable, tcp, udp};
use crate::world::{node_id, shop};

const ADDRESSES: [&str; 12] = [
    "10.30.0.9",
    "10.30.0.1",
    "10.30.0.2",
    "10.30.0.3",
    "10.30.0.8",
    "10.30.8.1",
    "10.30.8.2",
    "10.30.8.5",
    "10.30.255.1",
    "10.30.255.2",
    "10.30.0.77",
    "192.0.2.1",
];

#[derive(Debug, Clone)]
enum Step {
    /// A packet from the TUN (none) or from a peer, with one byte changed perhaps.
    Packet {
        from: Option<bool>,
        make: Make,
        spoil: Option<(usize, u8)>,
    },
    /// An error about the packet that passed last.
    Error { from: Option<bool>, source: usize },
    /// Another table.
    Move { instance: usize, node: usize },
    /// A peer is lost or comes back.
    Peer { beta: bool, down: bool },
    /// Time passes.
    Pass { seconds: u64 },
}

#[derive(Debug, Clone, Copy)]
struct Make {
    source: usize,
    destination: usize,
    kind: u8,
    port: u16,
    flags: u8,
}

struct Harness {
    plane: DataPlane,
    nodes: Nodes,
    table: Table,
    snapshot: Arc<Snapshot>,
    now: Instant,
    last: Vec<u8>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn leases_and_policy_hold_whatever_comes(steps in proptest::collection::vec(step(), 1..80)) {
        let mut harness = Harness::new();
        for step in steps {
            harness.step(&step);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(
        packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..120), 1..20),
        flags in any::<u8>(),
    ) {
        let mut harness = Harness::new();
        let vnet = VnetHeader { flags, ..VnetHeader::default() };
        let beta = harness.peer(true);
        for mut bytes in packets {
            harness.plane.handle_tun(&vnet, &mut bytes, harness.now);
            harness.plane.handle_peer(beta, &vnet, &mut bytes, harness.now);
        }
    }
}

impl Harness {
    fn new() -> Self {
        #[expect(clippy::disallowed_methods, reason = "a test's clock starts somewhere")]
        let now = Instant::now();
        let mut nodes = Nodes::new();
        let table = shop();
        let snapshot = Arc::new(Snapshot::build(&table, &node_id("alpha"), &mut nodes, 1));
        let limits = FlowLimits {
            flows: 12,
            fragmented_packets: 4,
            answers: 4,
        };
        let mut plane = DataPlane::new(limits, 3);
        plane.set_table(Arc::clone(&snapshot), now);
        Self {
            plane,
            nodes,
            table,
            snapshot,
            now,
            last: udp(("10.30.0.9", 1), ("10.30.0.2", 2), b"x"),
        }
    }

    fn peer(&self, beta: bool) -> PeerId {
        let name = if beta { "beta" } else { "gamma" };
        self.nodes.find(&node_id(name)).unwrap()
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Packet { from, make, spoil } => {
                for mut packet in make.packets() {
                    if let Some((at, bits)) = spoil {
                        let at = at % packet.len();
                        packet[at] ^= bits;
                    }
                    if let Some(passed) = self.packet(*from, &packet)
                        && spoil.is_none()
                    {
                        self.last = passed;
                    }
                }
            }
            Step::Error { from, source } => {
                let error = port_unreachable(ADDRESSES[*source], &self.last);
                if let Some(passed) = self.packet(*from, &error) {
                    crate::packets::see(&passed);
                }
            }
            Step::Move { instance, node } => {
                let node = ["alpha", "beta", "gamma"][*node];
                self.table.instances[*instance].node = node_id(node);
                let epoch = self.snapshot.epoch() + 1;
                let me = node_id("alpha");
                let snapshot = Snapshot::build(&self.table, &me, &mut self.nodes, epoch);
                self.snapshot = Arc::new(snapshot);
                self.plane.set_table(Arc::clone(&self.snapshot), self.now);
            }
            Step::Peer { beta, down } => {
                let peer = self.peer(*beta);
                let mut state = crate::world::up(3);
                if *down {
                    state.reachable = netmanager_core::dataplane::Reachability::Down;
                }
                self.plane.set_peer(peer, state, self.now);
            }
            Step::Pass { seconds } => {
                self.now += Duration::from_secs(*seconds);
                self.plane.handle_timeout(self.now);
            }
        }
        while self.plane.poll_packet().is_some() {}
        assert!(self.plane.flows(self.now).count() <= 12);
    }

    /// Sends a packet, checks what must hold, and says what it looks like if it passed.
    fn packet(&mut self, from: Option<bool>, packet: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = packet.to_vec();
        let vnet = VnetHeader::default();
        let from = from.map(|beta| self.peer(beta));
        let counted = |plane: &DataPlane| plane.counters().iter().map(|(_, n)| n).sum::<u64>();
        let before = counted(&self.plane);
        let verdict = match from {
            None => self.plane.handle_tun(&vnet, &mut bytes, self.now),
            Some(peer) => self.plane.handle_peer(peer, &vnet, &mut bytes, self.now),
        };
        let dropped = counted(&self.plane) - before;
        let to = match verdict {
            Verdict::Deliver => Host::Local,
            Verdict::Forward(peer) => Host::Peer(peer),
            Verdict::Stream(_) | Verdict::Await(_) => {
                assert_eq!((dropped, &bytes[..]), (0, packet), "it waits as it came");
                return None;
            }
            Verdict::Drop(_) | Verdict::Reject(_) => {
                assert_eq!(dropped, 1, "a dropped packet is counted once");
                assert_eq!(bytes, packet, "and unchanged");
                return None;
            }
        };
        assert_eq!(dropped, 0);
        let sent = PacketInfo::parse(packet).unwrap();
        let passed = PacketInfo::parse(&bytes).unwrap();
        let host = |ip: IpAddr| self.snapshot.owner(ip).map(|owner| owner.host);
        let is_service = |ip: IpAddr| self.snapshot.service_at(ip).is_some();
        match from {
            None => assert_eq!(host(sent.src), Some(Host::Local), "{sent:?}"),
            Some(peer) => {
                assert_eq!(host(sent.src), Some(Host::Peer(peer)), "{sent:?}");
                assert_eq!(host(sent.dst), Some(Host::Local), "{sent:?}");
                assert_eq!(to, Host::Local, "no transit");
            }
        }
        assert_eq!(host(passed.dst), Some(to), "{passed:?}");
        match to {
            Host::Peer(_) => assert_eq!(host(passed.src), Some(Host::Local), "{passed:?}"),
            Host::Local => assert!(is_service(passed.src) || passed.src == sent.src),
        }
        let organisation = |ip| self.snapshot.organisation_of(ip);
        // A node may report errors about whatever passes it.
        let is_report = matches!(sent.l4, L4::IcmpError { .. })
            && self
                .snapshot
                .owner(sent.src)
                .is_some_and(|owner| owner.instance.is_none());
        assert!(is_report || organisation(sent.src) == organisation(passed.dst));
        Some(bytes)
    }
}

impl Make {
    fn packets(self) -> Vec<Vec<u8>> {
        let (from, to) = (ADDRESSES[self.source], ADDRESSES[self.destination]);
        let (from_port, to_port) = (self.port, 3 - self.port);
        match self.kind {
            0 => vec![echo(from, to, 7, self.flags & 1 == 0)],
            1 => {
                let whole = udp((from, from_port), (to, to_port), &[0; 90]);
                fragments(&whole, self.port, 48)
            }
            2 | 3 => vec![udp((from, from_port), (to, to_port), b"x")],
            _ => vec![tcp((from, from_port), (to, to_port), self.flags)],
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let flags = prop_oneof![Just(2u8), Just(2), Just(18), Just(16), Just(17), Just(4)];
    let make = (0..12usize, 0..12usize, 0..7u8, 1..3u16, flags).prop_map(
        |(source, destination, kind, port, flags)| Make {
            source,
            destination,
            kind,
            port,
            flags,
        },
    );
    let from = || proptest::option::of(any::<bool>());
    let spoil = prop_oneof![
        9 => Just(None),
        1 => (0..60usize, 1..=255u8).prop_map(Some),
    ];
    prop_oneof![
        12 => (from(), make, spoil)
            .prop_map(|(from, make, spoil)| Step::Packet { from, make, spoil }),
        3 => (from(), 0..12usize).prop_map(|(from, source)| Step::Error { from, source }),
        1 => (0..5usize, 0..3usize).prop_map(|(instance, node)| Step::Move { instance, node }),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(beta, down)| Step::Peer { beta, down }),
        1 => prop_oneof![Just(1u64), Just(31), Just(200)].prop_map(|seconds| Step::Pass { seconds }),
    ]
}
