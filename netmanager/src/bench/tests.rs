//! Both ends of a bench over loopback: who is answered, that figures come, and that it ends.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use weald_measure::results::Results;
use weald_measure::stream::Stream;

use super::common;
use super::far::Far;
use super::load::{self, Way};
use super::responder::{Place, Responder};
use super::run::{self, OVERLAY, Order, PARTS, Road};
use super::wire::{Counts, Datagram, HEAD_BYTES, Purpose, Token};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const SHORT: Duration = Duration::from_millis(50);
/// What a busy machine may need.
const PATIENCE: Duration = Duration::from_secs(20);

fn responder(asker: &str, bare: bool) -> Responder {
    let place = Place {
        address: LOOPBACK,
        device: None,
        asker: asker.parse().unwrap(),
        bare,
    };
    Responder::start(&place, Duration::from_secs(600)).unwrap()
}

fn at(responder: &Responder) -> SocketAddr {
    SocketAddr::new(LOOPBACK, responder.port())
}

fn reach(responder: &Responder) -> Far {
    Far::reach(at(responder), Some(LOOPBACK), *responder.token()).unwrap()
}

/// What comes back on a connection that begins with `head`, to its end.
fn answer(to: SocketAddr, head: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // Whoever refuses may have closed already.
    let _ = stream.write_all(head);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[test]
fn every_part_is_measured() {
    let responder = responder("127.0.0.1", false);
    let order = Order {
        rounds: 2,
        time: SHORT,
        only: Vec::new(),
        daemon: std::process::id(),
    };
    let mut results = Results::of("test", "test");
    let mut roads = [Road {
        name: OVERLAY,
        far: reach(&responder),
    }];
    let mut progress = Vec::new();
    run::run(&order, &mut roads, &mut results, &mut progress).unwrap();
    let progress = String::from_utf8(progress).unwrap();
    assert_eq!(progress.lines().count(), 2 * PARTS.len(), "{progress}");
    assert!(results.about().missing.is_empty(), "{progress}");
    for part in PARTS {
        let of_part = |metric: &&str| metric.starts_with(part);
        let metrics = results.metrics(OVERLAY);
        let metric = metrics.into_iter().find(of_part).unwrap();
        let values = results.values(OVERLAY, metric);
        assert_eq!(values.len(), 2, "{metric}");
        assert!(
            values.iter().all(|value| *value > 0.0),
            "{metric}: {values:?}"
        );
    }
    let (table, page) = (run::table(&results), run::html(&results));
    for text in [&table, &page] {
        assert!(
            text.contains("tcp_up_8") && text.contains("Mbit/s"),
            "{text}"
        );
    }
    for foreign in ["http:", "https:", "<script", "src="] {
        assert!(!page.contains(foreign), "{foreign} in {page}");
    }
}

#[test]
fn both_ends_count_what_passes() {
    let responder = responder("127.0.0.1", false);
    let mut far = reach(&responder);
    let before = far.counts().unwrap();
    let stream = Stream {
        size: 512,
        batched: false,
        time: SHORT,
    };
    let passed = far.pass(&stream, 1e6).unwrap();
    assert!(
        passed.sent > 0 && passed.received == passed.sent,
        "{passed:?}"
    );
    for way in [Way::Up, Way::Down, Way::Both] {
        let moved = load::tcp(&mut far, way, 2, SHORT, std::process::id()).unwrap();
        assert!(moved.bits_per_second > 0.0, "{way:?}: {moved:?}");
        assert!(
            moved.ends.iter().all(|end| *end > 0.0),
            "{way:?}: {moved:?}"
        );
    }
    let after = far.counts().unwrap();
    assert!(after.nanoseconds > before.nanoseconds);
    assert!(after.sink_bytes > before.sink_bytes);
    assert!(after.load_cpu > before.load_cpu, "{before:?} {after:?}");
    assert_eq!(after.datagram_bytes, passed.received * 512);
}

#[test]
fn strangers_get_no_answer() {
    let responder = responder("127.0.0.1", false);
    let _far = reach(&responder);
    let other = Token::draw().unwrap();
    for purpose in [
        Purpose::Sink,
        Purpose::Source,
        Purpose::Touch,
        Purpose::Report,
    ] {
        assert_eq!(answer(at(&responder), &purpose.head(&other)), b"");
    }
    let own = responder.token();
    assert_eq!(answer(at(&responder), &Purpose::Touch.head(own)), [0]);
    let mut unknown = Purpose::Touch.head(own);
    unknown[HEAD_BYTES - 1] = 9;
    assert_eq!(answer(at(&responder), &unknown), b"");

    let socket = UdpSocket::bind((LOOPBACK, 0)).unwrap();
    socket.connect(at(&responder)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send(&Datagram::Echo.head(&other)).unwrap();
    socket.send(b"").unwrap();
    socket.send(&own.bytes()[..]).unwrap();
    let right = [&Datagram::Echo.head(own)[..], b"right"].concat();
    socket.send(&right).unwrap();
    // Datagrams of loopback keep their order, so the first answer is to the only right one.
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(buffer[..length], right);
}

#[test]
fn only_the_asker_is_answered_and_beside_the_overlay_whoever_has_the_token() {
    let responder = responder("127.0.0.9", true);
    let token = responder.token();
    let touch = Purpose::Touch.head(token);
    assert_eq!(answer(at(&responder), &touch), b"");
    let asker = Some("127.0.0.9".parse().unwrap());
    assert!(Far::reach(at(&responder), asker, *token).is_ok());

    let bare = SocketAddr::new(LOOPBACK, responder.bare_port().unwrap());
    assert_eq!(
        answer(bare, &Purpose::Touch.head(&Token::draw().unwrap())),
        b""
    );
}

#[test]
fn it_is_over_when_the_asker_goes() {
    let responder = responder("127.0.0.1", false);
    let far = reach(&responder);
    assert!(!responder.is_over());
    drop(far);
    let begin = Instant::now();
    while !responder.is_over() {
        assert!(begin.elapsed() < PATIENCE, "it goes on");
        std::thread::sleep(Duration::from_millis(2));
    }
    // Its sockets close soon after.
    while TcpStream::connect(at(&responder)).is_ok() {
        assert!(begin.elapsed() < PATIENCE, "it still listens");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn addresses_are_of_one_family() {
    let dual = |v4: Option<&str>, v6: Option<&str>| weald_proto::addr::Dual {
        v4: v4.map(|ip| ip.parse().unwrap()),
        v6: v6.map(|ip| ip.parse().unwrap()),
    };
    let both = dual(Some("10.30.0.1"), Some("fdff::1"));
    let v6 = dual(None, Some("fdff::2"));
    let shown = |pair: Option<[IpAddr; 2]>| pair.map(|ips| ips.map(|ip| ip.to_string()));
    let expected = Some(["fdff::1".to_owned(), "fdff::2".to_owned()]);
    assert_eq!(shown(common(&both, &v6)), expected);
    assert_eq!(shown(common(&both, &both)).unwrap()[0], "10.30.0.1");
    assert_eq!(common(&v6, &dual(Some("10.30.0.3"), None)), None);
}

proptest! {
    #[test]
    fn counts_travel(numbers in prop::array::uniform5(any::<u64>())) {
        let [nanoseconds, sink_bytes, datagram_bytes, daemon_cpu, load_cpu] = numbers;
        let counts = Counts { nanoseconds, sink_bytes, datagram_bytes, daemon_cpu, load_cpu };
        let bytes = counts.encode();
        prop_assert_eq!(Counts::decode(bytes.as_slice().try_into().unwrap()), counts);
    }

    #[test]
    fn heads_of_any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let token = Token::draw().unwrap();
        prop_assert_eq!(Purpose::read(&bytes, &token), None);
        prop_assert_eq!(Datagram::read(&bytes, &token), None);
    }
}
