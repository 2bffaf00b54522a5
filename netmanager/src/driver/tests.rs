//! A packet thread on a pipe and a socket of 127.0.0.1: what it drops outside the packet path is
//! counted, too. No namespace is touched.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use netmanager_core::peer::punch::PunchLimits;
use netmanager_core::proxy::Servers;
use netmanager_core::table::{Nodes, Snapshot};
use netmanager_core::verdict::DropReason;
use netmanager_core::vnet::VNET_HEADER_LEN;
use weald_proto::addr::Dual;
use weald_proto::id::{Identity, Label, NodeId, Organisation};
use weald_proto::table::{NodeRow, Table};
use weald_trust::pki::RootAuthority;
use weald_trust::tls::Clock;

use super::*;
use crate::api::inspect::{Inspect, Inspector, Reply};
use crate::api::report::PathReport;
use crate::pipe::{StackEnd, pipe};
use crate::socket::Batching;

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

fn row(name: &str, last: u8, addresses: Vec<SocketAddr>) -> NodeRow {
    NodeRow {
        id: NodeId::new(label("munich"), label(name)),
        organisation: Organisation(label("shop")),
        addresses,
        node_ip: Dual {
            v4: Some([10, 30, 255, last].into()),
            v6: None,
        },
    }
}

/// A packet thread of node alpha, and the table's other node beta, which answers nothing.
struct World {
    driver: RunningDriver,
    stack: StackEnd,
    nodes: Nodes,
    epoch: u64,
    beta: UdpSocket,
}

impl World {
    fn new() -> Self {
        let root = RootAuthority::create(&label("main"), SystemTime::now()).unwrap();
        let cluster = root.cluster(&label("munich"), SystemTime::now()).unwrap();
        let me = Identity::Node(row("alpha", 1, vec![]).id);
        let issued = cluster.issue(&me, SystemTime::now()).unwrap();
        let credentials = issued.credentials(None, Clock::system()).unwrap();
        let here = "127.0.0.1:0".parse().unwrap();
        let (packets, stack) = pipe().unwrap();
        let beta = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut nodes = Nodes::new();
        let table = table(vec![row("beta", 2, vec![beta.local_addr().unwrap()])]);
        let table = Snapshot::build(&table, &row("alpha", 1, vec![]).id, &mut nodes, 1);
        let driver = spawn(DriverConfig {
            credentials: Arc::new(credentials),
            socket: DataSocket::bind(here, Batching::default()).unwrap(),
            tun: Device::Pipe(packets),
            table: Arc::new(table),
            reset_key: [7; 32],
            known_peers: Vec::new(),
            on_peers: Box::new(drop),
            cluster: None,
            relay_token: None,
            shown: Vec::new(),
            revoked: None,
            punch: PunchLimits::default(),
            idle_teardown: Duration::from_secs(600),
            advertise: Vec::new(),
            heard: Box::new(drop),
            lane: LaneSockets::published(Arc::new(ArcSwap::from_pointee(Servers::new()))),
            fast_lane: false,
            choices: ChoiceFile::default(),
        })
        .unwrap();
        Self {
            driver,
            stack,
            nodes,
            epoch: 1,
            beta,
        }
    }

    fn set_others(&mut self, others: Vec<NodeRow>) {
        self.epoch += 1;
        let me = row("alpha", 1, vec![]).id;
        let table = Snapshot::build(&table(others), &me, &mut self.nodes, self.epoch);
        self.driver.handle().set_table(Arc::new(table)).unwrap();
    }

    fn ask<T>(&self, question: impl FnOnce(Reply<T>) -> Inspect) -> T {
        let (reply, answer) = Reply::channel();
        self.driver.handle().submit(question(reply)).unwrap();
        answer.blocking_recv().unwrap()
    }

    /// Sends as a program of this node, and waits until the packet thread has read so many.
    fn send(&self, packets: &[Vec<u8>], read: u64) {
        for packet in packets {
            self.stack.send(packet.clone()).unwrap();
        }
        let give_up = Instant::now() + Duration::from_secs(20);
        while self.ask(Inspect::Status).traffic.tun_in_packets < read {
            assert!(Instant::now() < give_up, "the packets are not read");
            std::thread::yield_now();
        }
    }

    /// What was dropped so far, by reason.
    fn drops(&self) -> Vec<(String, u64)> {
        let counters = self.ask(Inspect::Counters).into_iter();
        let counted = counters.map(|counter| (counter.reason, counter.packets));
        counted.filter(|(_, packets)| *packets > 0).collect()
    }
}

fn table(others: Vec<NodeRow>) -> Table {
    let mut nodes = vec![row("alpha", 1, vec![])];
    nodes.extend(others);
    Table {
        nodes,
        ..Table::default()
    }
}

/// A UDP packet from alpha to beta behind its virtio-net header; UDP needs no checksum in IPv4.
fn to_beta(number: u8) -> Vec<u8> {
    let mut ip = vec![0x45, 0, 0, 29, 0, number, 0x40, 0, 64, 17, 0, 0];
    ip.extend([10, 30, 255, 1]);
    ip.extend([10, 30, 255, 2]);
    let sum: u32 = ip
        .chunks(2)
        .map(|two| u32::from(two[0]) << 8 | u32::from(two[1]))
        .sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    ip.extend([0x12, 0x34, 0, 53, 0, 9, 0, 0, number]);
    [vec![0; VNET_HEADER_LEN], ip].concat()
}

fn counted(reason: DropReason, packets: u64) -> Vec<(String, u64)> {
    vec![(reason.word().to_owned(), packets)]
}

#[test]
fn what_waits_for_a_peer_that_a_reload_removes_is_counted() {
    let mut world = World::new();
    world.send(&[to_beta(1), to_beta(2), to_beta(3)], 3);
    assert_eq!(world.drops(), [], "they wait for a session");
    world.set_others(vec![]);
    assert_eq!(world.drops(), counted(DropReason::PeerUnreachable, 3));
    assert_eq!(world.ask(Inspect::Peers), []);
    world.driver.shutdown();
}

#[test]
fn what_is_too_short_for_its_header_is_counted() {
    let world = World::new();
    let short = vec![0; VNET_HEADER_LEN - 1];
    world.send(&[short, to_beta(1)], 1);
    assert_eq!(world.drops(), counted(DropReason::Malformed, 1));
    // The other one has led to a handshake.
    world
        .beta
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let (len, _) = world.beta.recv_from(&mut [0; 2000]).unwrap();
    assert!(len >= 1200, "{len} bytes are no first packet of QUIC");
    world.driver.shutdown();
}

/// The ways to beta as `why` lists them: where, what became of it, why.
fn ways(world: &World) -> Vec<(String, String, Option<String>)> {
    let peers = world.ask(Inspect::Peers);
    let ways = peers.into_iter().flat_map(|peer| peer.candidates);
    ways.map(|way| (way.path.to_string(), way.state, way.reason))
        .collect()
}

#[test]
fn ways_to_a_peer_without_a_session_are_listed_with_what_became_of_them() {
    let mut world = World::new();
    let at = world.beta.local_addr().unwrap();
    let others = ["224.0.0.1:5", "[2001:db8::1]:5"].map(|text| text.parse().unwrap());
    world.set_others(vec![row("beta", 2, vec![at, others[0], others[1]])]);
    let expected = |state: &str| {
        let way = |at, state: &str, reason: Option<&str>| {
            let path = PathReport::Direct { address: at };
            (
                path.to_string(),
                state.to_owned(),
                reason.map(str::to_owned),
            )
        };
        vec![
            way(at, state, None),
            way(others[0], "refused", Some("not_dialable")),
            way(others[1], "refused", Some("family_not_here")),
        ]
    };
    assert_eq!(ways(&world), expected("untried"));
    world.send(&[to_beta(1)], 1);
    assert_eq!(ways(&world), expected("dialling"));
    let give_up = Instant::now() + Duration::from_secs(20);
    while ways(&world) != expected("no_answer") {
        assert!(Instant::now() < give_up, "{:?}", ways(&world));
        std::thread::yield_now();
    }
    world.driver.shutdown();
}

#[test]
fn datagrams_that_the_socket_has_no_way_for_are_counted() {
    let beta = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (packets, _stack) = pipe().unwrap();
    let socket = DataSocket::bind("127.0.0.1:0".parse().unwrap(), Batching::default()).unwrap();
    let mut io = Io::new(socket, Device::Pipe(packets)).unwrap();
    io.send("[::1]:9".parse().unwrap(), &[7; 250], 100);
    assert_eq!(io.socket_refused(), 3);
    io.send(beta.local_addr().unwrap(), &[7; 250], 100);
    assert_eq!(
        (io.socket_refused(), io.traffic.socket_out_datagrams),
        (3, 3)
    );
}
