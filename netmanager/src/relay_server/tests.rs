//! A relay and its nodes over 127.0.0.1: real sockets, certificates and tokens.

use std::io::{BufRead, BufReader, Write};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Instant, SystemTime};

use netmanager_core::relay::MAX_PACKET;
use weald_proto::id::{Label, NodeId, Organisation, RelayId};
use weald_proto::relay::{
    Hello, HelloRefusal, NodeMessage, Open, OpenRefusal, Refused, RelayMessage,
};
use weald_trust::pki::{ClusterAuthority, Issued, RootAuthority};
use weald_trust::tls::{Clock, KeyHash};
use weald_trust::token;

use super::*;

mod client;
mod keeper;
mod revocations;
mod tcp;

use client::Client;

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

fn node(name: &str) -> NodeId {
    NodeId::new(label("munich"), label(name))
}

/// A root with a cluster, and a relay of that cluster that runs.
struct World {
    cluster: ClusterAuthority,
    identity: Identity,
    server: RelayServer,
}

impl World {
    fn new() -> Self {
        Self::with(0, None)
    }

    fn with(rate_bits_per_second: u64, status: Option<&Path>) -> Self {
        Self::of(
            cluster(),
            Path::new("/nonexistent"),
            rate_bits_per_second,
            status,
        )
    }

    fn of(
        cluster: ClusterAuthority,
        folder: &Path,
        rate_bits_per_second: u64,
        status: Option<&Path>,
    ) -> Self {
        let identity = Identity::Relay(RelayId::new(label("munich"), label("r1")));
        let issued = cluster.issue(&identity, SystemTime::now()).unwrap();
        let credentials = issued.credentials(None, Clock::system()).unwrap();
        let config = RelayConfig {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            tcp_listen: Some(vec!["127.0.0.1:0".parse().unwrap()]),
            pki_dir: folder.to_owned(),
            cluster: Vec::new(),
            rate_bits_per_second,
            status: status.map(Path::to_owned),
        };
        let server = RelayServer::start_with(&config, Arc::new(credentials)).unwrap();
        Self {
            cluster,
            identity,
            server,
        }
    }

    fn issue(&self, name: &str) -> Issued {
        let identity = Identity::Node(node(name));
        self.cluster.issue(&identity, SystemTime::now()).unwrap()
    }

    fn token(&self, name: &str, issued: &Issued, organisation: &str) -> Vec<u8> {
        token(&self.cluster, name, issued, organisation, SystemTime::now())
    }

    fn client(&self, issued: &Issued) -> Client {
        let credentials = issued.credentials(None, Clock::system()).unwrap();
        Client::new(self.server.addresses()[0], &self.identity, &credentials)
    }

    /// A node that is registered.
    fn join(&self, name: &str, organisation: &str) -> Client {
        let issued = self.issue(name);
        let mut client = self.client(&issued);
        let answer = client.hello(&self.token(name, &issued, organisation));
        assert!(matches!(answer, RelayMessage::Welcome(_)), "{answer:?}");
        client
    }

    /// What a relay says to a node that presents this token.
    fn refuse(&self, issued: &Issued, token: &[u8]) -> String {
        let before = self.report();
        let mut client = self.client(issued);
        let refused = refusal(client.hello(token));
        assert_eq!(refused.reason, HelloRefusal::Token);
        let text = refused.text;
        client.wait(|client| client.lost.is_some());
        let lost = client.lost.unwrap();
        assert!(lost.contains(&text), "{lost}");
        let after = self.report();
        assert_eq!(after.tokens_refused, before.tokens_refused + 1);
        assert_eq!(after.registrations, before.registrations);
        assert_eq!(after.total, before.total);
        text
    }

    fn report(&self) -> RelayReport {
        self.server.handle().report().unwrap()
    }

    /// The report once something is so.
    fn report_when(&self, mut so: impl FnMut(&RelayReport) -> bool) -> RelayReport {
        let started = Instant::now();
        loop {
            let report = self.report();
            if so(&report) {
                return report;
            }
            assert!(started.elapsed() < Duration::from_secs(20), "{report:?}");
            std::thread::yield_now();
        }
    }
}

fn cluster() -> ClusterAuthority {
    let root = RootAuthority::create(&label("main"), SystemTime::now()).unwrap();
    root.cluster(&label("munich"), SystemTime::now()).unwrap()
}

fn token(
    cluster: &ClusterAuthority,
    name: &str,
    issued: &Issued,
    organisation: &str,
    now: SystemTime,
) -> Vec<u8> {
    let credentials = issued.credentials(None, Clock::system()).unwrap();
    let key: KeyHash = credentials.spki_sha256();
    let organisation = Organisation(label(organisation));
    let life = Duration::from_secs(3600);
    token::issue(cluster, &node(name), key, &organisation, now, life).unwrap()
}

fn refusal(answer: RelayMessage) -> Refused {
    let RelayMessage::Refused(refused) = answer else {
        panic!("{answer:?}");
    };
    refused
}

fn assert_balanced(counters: &CountersReport) {
    assert_eq!(
        counters.received.bytes,
        counters.sent.bytes + counters.dropped.bytes + counters.queued.bytes,
        "{counters:?}"
    );
}

#[test]
fn two_nodes_exchange_opaque_packets() {
    let world = World::new();
    let mut a = world.join("a1", "shop");
    let mut b = world.join("b1", "shop");
    let peer = a.open(&node("b1")).result.unwrap();
    assert_eq!(peer, b.link);
    let mut bytes = 0;
    for length in [1, 2, 600, 1200, MAX_PACKET] {
        let packet: Vec<u8> = (0..length).map(|i| i as u8).collect();
        a.send(peer, &packet);
        assert_eq!(b.receive(), (a.link, packet.clone()));
        b.send(a.link, &packet);
        assert_eq!(a.receive(), (b.link, packet));
        bytes += 2 * (length + 23) as u64;
    }
    let report = world.report();
    let shop = &report.organisations["shop"];
    assert_eq!(shop.registrations, 2);
    assert_eq!(shop.counters.received.bytes, bytes);
    assert_eq!(shop.counters.sent.bytes, bytes);
    assert_eq!(shop.counters, report.total);
    assert_eq!(report.total.dropped, TallyReport::default());
    world.server.stop().unwrap();
}

#[test]
fn batches_arrive_whole_and_in_order() {
    let world = World::new();
    let mut a = world.join("a1", "shop");
    let mut b = world.join("b1", "shop");
    for round in 0..20_u8 {
        for n in 0..40_u8 {
            let length = if n % 13 == 12 { 300 } else { 1200 };
            let mut packet = vec![round; length];
            packet[1] = n;
            a.send(b.link, &packet);
        }
        for n in 0..40_u8 {
            let (from, packet) = b.receive();
            assert_eq!((from, packet[0], packet[1]), (a.link, round, n));
        }
    }
}

#[test]
fn a_stolen_token_is_refused() {
    let world = World::new();
    let (a, b) = (world.issue("a1"), world.issue("b1"));
    let stolen = world.token("a1", &a, "shop");
    assert_eq!(
        world.refuse(&b, &stolen),
        "the relay token was made for munich/a1, but node munich/b1 presents it"
    );
    let again = world.issue("a1");
    assert_eq!(
        world.refuse(&again, &stolen),
        "the relay token of munich/a1 was made for another key; fetch a new token"
    );
    world.server.stop().unwrap();
}

#[test]
fn expired_foreign_changed_and_missing_tokens_are_refused() {
    let world = World::new();
    let issued = world.issue("a1");
    let long_ago = SystemTime::now() - Duration::from_secs(7200);
    let expired = token(&world.cluster, "a1", &issued, "shop", long_ago);
    let text = world.refuse(&issued, &expired);
    assert!(
        text.starts_with("the relay token of munich/a1 expired on"),
        "{text}"
    );

    let foreign = token(&cluster(), "a1", &issued, "shop", SystemTime::now());
    let text = world.refuse(&issued, &foreign);
    assert_eq!(text, "the relay token's issuer was not signed by root main");

    let good = world.token("a1", &issued, "shop");
    let organisation = good.windows(4).position(|four| four == b"shop").unwrap();
    let mut changed = good.clone();
    changed[organisation] = b'c';
    let text = world.refuse(&issued, &changed);
    assert!(text.contains("was changed"), "{text}");

    for none in [&[][..], &good[..good.len() / 2]] {
        let text = world.refuse(&issued, none);
        assert!(text.contains("cannot be read"), "{text}");
    }
    // The node itself is none the worse for it.
    let mut client = world.client(&issued);
    assert!(matches!(client.hello(&good), RelayMessage::Welcome(_)));
}

#[test]
fn a_node_of_another_root_cannot_even_shake_hands() {
    let world = World::new();
    let stranger = cluster();
    let identity = Identity::Node(node("a1"));
    let issued = stranger.issue(&identity, SystemTime::now()).unwrap();
    let mut client = world.client(&issued);
    client.wait(|client| client.lost.is_some());
    assert_eq!(world.report().registrations, 0);
}

#[test]
fn another_organisation_looks_like_nobody() {
    let world = World::new();
    let mut a = world.join("a1", "shop");
    let mut b = world.join("b1", "bank");
    let refused = Err(OpenRefusal::UnknownNode);
    assert_eq!(a.open(&node("b1")).result, refused);
    assert_eq!(a.open(&node("nobody")).result, refused);
    a.send(b.link, b"hello");
    let peer = b.link;
    assert_eq!(a.message(), RelayMessage::Gone { peer });
    let report = world.report();
    let dropped = &report.total.dropped_by_reason["unknown_peer"];
    assert_eq!(dropped.frames, 1);
    // Nothing has come through: the next thing that b hears is its own answer.
    assert_eq!(b.open(&node("a1")).result, refused);
}

#[test]
fn the_end_of_a_session_is_told_and_a_new_one_supersedes_the_old() {
    let world = World::new();
    let mut a = world.join("a1", "shop");
    let b = world.join("b1", "shop");
    let old = a.open(&node("b1")).result.unwrap();
    b.close();
    assert_eq!(a.message(), RelayMessage::Gone { peer: old });
    assert_eq!(a.open(&node("b1")).result, Err(OpenRefusal::UnknownNode));

    let issued = world.issue("b1");
    let token = world.token("b1", &issued, "shop");
    let mut first = world.client(&issued);
    first.hello(&token);
    let peer = a.open(&node("b1")).result.unwrap();
    assert_eq!(peer, first.link);
    let mut second = world.client(&issued);
    second.hello(&token);
    assert_eq!(first.message(), RelayMessage::Superseded);
    first.wait(|first| first.lost.is_some());
    assert_eq!(a.message(), RelayMessage::Gone { peer });
    assert_eq!(a.open(&node("b1")).result, Ok(second.link));
    let report = world.report();
    assert_eq!(
        (
            report.registrations,
            report.organisations["shop"].registrations
        ),
        (2, 2)
    );
}

#[test]
fn who_does_not_keep_to_the_protocol_is_told_how() {
    let world = World::new();
    let issued = world.issue("a1");
    let open = NodeMessage::Open(Open {
        request: 1,
        node: node("b1"),
    });
    let version = NodeMessage::Hello(Hello {
        version: 2,
        token: Vec::new(),
        revocations: None,
    });
    let cases = [
        (
            open.encode(),
            HelloRefusal::Protocol,
            "the first message must be Hello",
        ),
        (
            version.encode(),
            HelloRefusal::Version,
            "this relay speaks version 1, not 2",
        ),
        (
            vec![0xff; 4],
            HelloRefusal::Protocol,
            "a message of 4294967295 bytes",
        ),
        (
            vec![0, 0, 0, 1, 0xff],
            HelloRefusal::Protocol,
            "not a protobuf message",
        ),
        (vec![0; 4], HelloRefusal::Protocol, "without a kind"),
    ];
    for (bytes, reason, expected) in cases {
        let mut client = world.client(&issued);
        let refused = refusal(client.say_first(&bytes));
        assert_eq!(refused.reason, reason);
        assert!(refused.text.contains(expected), "{}", refused.text);
        client.wait(|client| client.lost.is_some());
    }
    let mut twice = world.join("c1", "shop");
    twice.say(&version.encode());
    assert!(matches!(twice.message(), RelayMessage::Refused(_)));
    assert_eq!(world.report().registrations, 0);
}

#[test]
fn frames_without_registration_are_counted_and_not_answered() {
    let world = World::new();
    let relay = world.server.addresses()[0];
    let mut a = world.join("a1", "shop");
    let b = world.join("b1", "shop");
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let good = a.frame(b.link, b"packet");
    let mut forged = good.clone();
    forged[20] ^= 1;
    let mut unknown = good.clone();
    unknown[1] ^= 1;
    let large = a.frame(b.link, &[0; MAX_PACKET + 1]);
    let empty = a.frame(b.link, &[]);
    let junk: [(&[u8], &str); 7] = [
        (&[], "malformed"),
        (&[0x01; 60], "malformed"),
        (&[0x10; 10], "malformed"),
        (&empty, "malformed"),
        (&forged, "unauthenticated"),
        (&unknown, "unknown_link"),
        (&large, "oversized"),
    ];
    for (bytes, reason) in junk {
        let before = world.report();
        stranger.send_to(bytes, relay).unwrap();
        let after = world.report_when(|report| report.total != before.total);
        let mut expected = before.clone();
        let one = TallyReport {
            frames: 1,
            bytes: bytes.len() as u64,
        };
        let tallies = &mut expected.total;
        let by_reason = tallies.dropped_by_reason.get_mut(reason).unwrap();
        for tally in [&mut tallies.received, &mut tallies.dropped, by_reason] {
            tally.frames += one.frames;
            tally.bytes += one.bytes;
        }
        expected.uptime_ms = after.uptime_ms;
        assert_eq!(after, expected, "{reason}");
    }
    stranger
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    assert!(stranger.recv_from(&mut [0; 100]).is_err());
}

#[test]
fn half_open_handshakes_are_capped_and_addresses_have_to_prove_themselves() {
    let world = World::new();
    let issued = world.issue("a1");
    // They say their first words only; so many are taken at face value.
    let mut flood: Vec<Client> = (0..80).map(|_| world.client(&issued)).collect();
    for client in &mut flood {
        client.flush();
    }
    let report = world.report_when(|report| report.unregistered_sessions >= 64);
    assert_eq!(report.unregistered_sessions, 64);
    let retries = flood.iter().filter(|client| {
        let mut first = [0; 2048];
        let patience = Some(Duration::from_secs(10));
        client.socket.set_read_timeout(patience).unwrap();
        client.socket.recv_from(&mut first).unwrap();
        // A Retry packet, by its type bits (RFC 9000, section 17.2.5).
        first[0] & 0xf0 == 0xf0
    });
    assert_eq!(retries.count(), 16);
    assert_eq!(world.report().unregistered_sessions, 64);
    // Who answers the Retry gets in.
    world.join("b1", "shop");
    assert_eq!(world.report().registrations, 1);
}

#[test]
fn a_flood_of_one_organisation_leaves_the_other_its_half() {
    let world = World::with(20_000_000, None);
    let mut a = world.join("a1", "shop");
    let a2 = world.join("a2", "shop");
    let mut b = world.join("b1", "bank");
    let b2 = world.join("b2", "bank");
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(2) {
        for _ in 0..10 {
            for _ in 0..4 {
                a.send(a2.link, &[0; 1200]);
            }
            b.send(b2.link, &[0; 1200]);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let report = world.report();
    let sent = |name: &str| report.organisations[name].counters.sent.bytes as f64;
    let share = sent("bank") / (sent("bank") + sent("shop"));
    assert!((0.45..0.55).contains(&share), "{share}");
    assert!(report.total.dropped_by_reason["queue_full"].frames > 0);
    for organisation in report.organisations.values() {
        assert_balanced(&organisation.counters);
    }
    assert_balanced(&report.total);
    let rate = report.total.sent.bytes as f64 * 8.0 / started.elapsed().as_secs_f64();
    assert!(rate < 21_500_000.0, "{rate}");
}

#[test]
fn the_status_socket_answers_those_who_may_ask() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.sock");
    let world = World::with(0, Some(&path));
    let _a = world.join("a1", "shop");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let report = ask(&path).unwrap();
    assert_eq!(report.relay, "relay munich/r1");
    assert_eq!(report.organisations["shop"].registrations, 1);

    for wrong in ["{}\n", "status\n", "{\"request\":\"stop\"}\n", "\n"] {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(wrong.as_bytes()).unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        assert!(answer.starts_with("{\"error\":"), "{answer}");
        assert!(answer.contains("send {"), "{answer}");
    }
    world.server.stop().unwrap();
    assert!(!path.exists());
    let error = ask(&path).unwrap_err();
    assert!(format!("{error:#}").contains("no relay answers on"));
}

#[test]
fn a_relay_that_ends_says_so() {
    let world = World::new();
    let mut a = world.join("a1", "shop");
    let handle = world.server.handle();
    world.server.stop().unwrap();
    a.wait(|a| a.lost.is_some());
    let lost = a.lost.unwrap();
    assert!(lost.contains("the relay is shutting down"), "{lost}");
    assert!(handle.report().is_err());
}

#[test]
fn a_node_certificate_is_not_a_relay_certificate() {
    let issued = cluster()
        .issue(&Identity::Node(node("a1")), SystemTime::now())
        .unwrap();
    let credentials = issued.credentials(None, Clock::system()).unwrap();
    let config = RelayConfig {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        tcp_listen: Some(Vec::new()),
        pki_dir: "/nonexistent".into(),
        cluster: Vec::new(),
        rate_bits_per_second: 0,
        status: None,
    };
    let error = RelayServer::start_with(&config, Arc::new(credentials)).unwrap_err();
    assert!(
        error.to_string().contains("that of node munich/a1"),
        "{error}"
    );
}
