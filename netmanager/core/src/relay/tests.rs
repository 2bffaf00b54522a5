//! The relay as nodes see it: registering, reaching peers, fairness, and frames that are dropped.

use proptest::prelude::*;
use weald_proto::frame::{Knock, Knocked};
use weald_proto::id::Label;

use super::*;
use crate::seal::{Opener, SealKey, Sealer};

/// The client end of a link.
struct Node {
    link: u32,
    address: SocketAddr,
    up: Sealer,
    down: Opener,
}

impl Node {
    fn frame(&mut self, peer: u32, packet: &[u8]) -> Vec<u8> {
        let header = RelayHeader {
            link: self.link,
            peer,
            counter: 0,
        };
        let mut frame = [&header.encode()[..], packet].concat();
        self.up.seal(&mut frame, RelayHeader::TAG).unwrap();
        frame
    }

    fn open(&mut self, frame: &mut [u8]) -> (u32, Vec<u8>) {
        self.down.open(frame, RelayHeader::TAG).unwrap();
        let header = RelayHeader::decode(frame).unwrap();
        assert_eq!(header.link, self.link);
        (header.peer, frame[RELAY_HEADER_LEN..].to_vec())
    }
}

fn id(name: &str) -> NodeId {
    format!("c/{name}").parse().unwrap()
}

fn relay(bits_per_second: u64) -> (Relay, Instant) {
    #[expect(clippy::disallowed_methods, reason = "a test needs some first instant")]
    let now = Instant::now();
    (Relay::new(bits_per_second, [7; 32], now), now)
}

fn register(relay: &mut Relay, name: &str, organisation: &str, now: Instant) -> Node {
    let number = name
        .bytes()
        .fold(1_u16, |n, byte| n.wrapping_mul(31) ^ u16::from(byte));
    let (up, down) = ([number as u8; 16], [number as u8 ^ 0xff; 16]);
    let address = SocketAddr::from(([192, 0, 2, 1], number));
    let registration = Registration {
        node: id(name),
        organisation: Organisation(Label::new(organisation).unwrap()),
        address,
        up: SealKey::new(up),
        down: SealKey::new(down),
        expires: now + Duration::from_secs(3600),
    };
    Node {
        link: relay.register(registration).unwrap(),
        address,
        up: Sealer::new(SealKey::new(up)),
        down: Opener::new(SealKey::new(down)),
    }
}

/// Everything that the relay sends now: where to, and the frame.
fn sent(relay: &mut Relay, now: Instant) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut frames = Vec::new();
    let mut out = Vec::new();
    while let Some(transmit) = relay.poll_transmit(now, 8, &mut out) {
        assert_eq!(out.len(), transmit.size);
        for frame in out.chunks(transmit.segment_size) {
            frames.push((transmit.to, frame.to_vec()));
        }
        out.clear();
    }
    frames
}

fn notices(relay: &mut Relay) -> Vec<Notice> {
    std::iter::from_fn(|| relay.poll_notice()).collect()
}

fn assert_balanced(counters: &RelayCounters) {
    let dropped = counters.all_dropped();
    assert_eq!(
        counters.received.bytes,
        counters.sent.bytes + dropped.bytes + counters.queued.bytes
    );
    assert_eq!(
        counters.received.frames,
        counters.sent.frames + dropped.frames + counters.queued.frames
    );
}

/// Hands `frame` over and asserts that it is dropped for exactly this reason, and nothing else
/// happens.
fn assert_dropped(
    relay: &mut Relay,
    from: SocketAddr,
    mut frame: Vec<u8>,
    now: Instant,
    reason: RelayDrop,
) {
    let (before, copy) = (relay.total(), frame.clone());
    relay.handle_frame(from, &mut frame, now);
    let mut expected = before;
    expected.received.add(1, frame.len());
    expected.drop_frame(reason, frame.len());
    assert_eq!(relay.total(), expected, "{reason}");
    assert_eq!(sent(relay, now), [], "{reason}");
    assert_eq!(frame, copy, "{reason}");
}

#[test]
fn a_packet_crosses_and_its_answer_returns() {
    let (mut relay, now) = relay(0);
    let mut a = register(&mut relay, "a", "shop", now);
    let mut b = register(&mut relay, "b", "shop", now);
    assert_eq!(relay.open(a.link, &id("b")), Ok(b.link));

    let mut frame = a.frame(b.link, b"ping");
    relay.handle_frame(a.address, &mut frame, now);
    let [(to, mut frame)] = sent(&mut relay, now).try_into().unwrap();
    assert_eq!(to, b.address);
    let (from, packet) = b.open(&mut frame);
    assert_eq!((from, packet.as_slice()), (a.link, &b"ping"[..]));

    // The answer needs no Open of its own.
    let mut frame = b.frame(from, b"pong");
    relay.handle_frame(b.address, &mut frame, now);
    let [(to, mut frame)] = sent(&mut relay, now).try_into().unwrap();
    assert_eq!(to, a.address);
    assert_eq!(a.open(&mut frame), (b.link, b"pong".to_vec()));

    let total = relay.total();
    assert_eq!(total.received, total.sent);
    assert_eq!(total.sent.bytes, 2 * (4 + RELAY_HEADER_LEN as u64));
    assert_eq!(total.all_dropped(), Tally::default());
}

#[test]
fn frames_go_to_where_the_newest_one_came_from() {
    let (mut relay, now) = relay(0);
    let mut a = register(&mut relay, "a", "shop", now);
    let mut b = register(&mut relay, "b", "shop", now);
    let elsewhere: SocketAddr = "[2001:db8::7]:9".parse().unwrap();
    let mut early = b.frame(a.link, b"early");
    let mut late = b.frame(a.link, b"late");
    relay.handle_frame(elsewhere, &mut late, now);
    relay.handle_frame(b.address, &mut early, now);
    sent(&mut relay, now);
    let mut frame = a.frame(b.link, b"x");
    relay.handle_frame(a.address, &mut frame, now);
    assert_eq!(sent(&mut relay, now)[0].0, elsewhere);

    relay.set_address(b.link, b.address);
    let mut frame = a.frame(b.link, b"x");
    relay.handle_frame(a.address, &mut frame, now);
    assert_eq!(sent(&mut relay, now)[0].0, b.address);
}

#[test]
fn another_organisation_looks_like_nobody() {
    let (mut relay, now) = relay(0);
    let mut a = register(&mut relay, "a", "shop", now);
    let b = register(&mut relay, "b", "bank", now);
    let foreign = relay.open(a.link, &id("b"));
    assert_eq!(foreign, relay.open(a.link, &id("nobody")));
    assert_eq!(foreign, Err(OpenRefusal::UnknownNode));
    // Neither is it reached by guessing its id, and the answer is that for a dead id.
    for peer in [b.link, b.link ^ 1, a.link, 0] {
        let frame = a.frame(peer, b"x");
        assert_dropped(&mut relay, a.address, frame, now, RelayDrop::UnknownPeer);
    }
    let gone = Notice::Gone {
        link: a.link,
        peer: b.link,
    };
    assert_eq!(notices(&mut relay), [gone]);
}

#[test]
fn frames_that_are_not_from_a_registered_node_are_dropped_and_counted() {
    let (mut relay, now) = relay(0);
    let mut a = register(&mut relay, "a", "shop", now);
    let b = register(&mut relay, "b", "shop", now);
    let from = a.address;

    for short in [vec![], vec![0x10], vec![0x10; RELAY_HEADER_LEN - 1]] {
        assert_dropped(&mut relay, from, short, now, RelayDrop::Malformed);
    }
    let other_kind = vec![0x01; 100];
    assert_dropped(&mut relay, from, other_kind, now, RelayDrop::Malformed);
    let empty = a.frame(b.link, &[]);
    assert_dropped(&mut relay, from, empty, now, RelayDrop::Malformed);
    let large = a.frame(b.link, &[0; MAX_PACKET + 1]);
    assert_dropped(&mut relay, from, large, now, RelayDrop::Oversized);
    for link in [0, a.link ^ 1, u32::MAX] {
        let mut stranger = Node {
            link,
            ..register_nothing()
        };
        let frame = stranger.frame(b.link, b"x");
        assert_dropped(&mut relay, from, frame, now, RelayDrop::UnknownLink);
    }
    let mut forger = Node {
        link: a.link,
        ..register_nothing()
    };
    let forged = forger.frame(b.link, b"x");
    assert_dropped(&mut relay, from, forged, now, RelayDrop::Unauthenticated);
    let mut redirected = a.frame(b.link, b"x");
    redirected[8] ^= 1;
    assert_dropped(
        &mut relay,
        from,
        redirected,
        now,
        RelayDrop::Unauthenticated,
    );

    let mut good = a.frame(b.link, b"x");
    relay.handle_frame(from, &mut good, now);
    assert_eq!(sent(&mut relay, now).len(), 1);
    assert_dropped(&mut relay, from, good, now, RelayDrop::Replayed);
    assert_eq!(notices(&mut relay), []);
    // None of it is charged to the organisation.
    let (_, _, counters) = relay.organisations().next().unwrap();
    assert_eq!(counters.all_dropped(), Tally::default());
}

fn register_nothing() -> Node {
    Node {
        link: 0,
        address: SocketAddr::from(([0; 4], 0)),
        up: Sealer::new(SealKey::new([0x55; 16])),
        down: Opener::new(SealKey::new([0x55; 16])),
    }
}

#[test]
fn who_knows_a_link_hears_of_its_end() {
    let (mut relay, now) = relay(0);
    let mut a = register(&mut relay, "a", "shop", now);
    let b = register(&mut relay, "b", "shop", now);
    let c = register(&mut relay, "c", "shop", now);
    relay.open(a.link, &id("b")).unwrap();
    let mut frame = a.frame(b.link, b"x");
    relay.handle_frame(a.address, &mut frame, now);
    relay.unregister(b.link);
    let gone = Notice::Gone {
        link: a.link,
        peer: b.link,
    };
    assert_eq!(notices(&mut relay), [gone]);
    // What was queued is dropped, and counted where it was charged.
    assert_eq!(sent(&mut relay, now), []);
    let total = relay.total();
    assert_eq!(total.dropped(RelayDrop::ReceiverGone).frames, 1);
    assert_balanced(&total);
    relay.unregister(b.link);
    relay.unregister(c.link);
    assert_eq!(notices(&mut relay), []);
    assert_eq!(relay.links(), 1);
}

#[test]
fn sending_to_a_dead_id_is_answered_at_a_limited_rate() {
    let (mut relay, now) = relay(0);
    let mut a = register(&mut relay, "a", "shop", now);
    let mut count = |after: Duration| {
        for _ in 0..50 {
            let mut frame = a.frame(99, b"x");
            relay.handle_frame(a.address, &mut frame, now + after);
        }
        notices(&mut relay).len()
    };
    assert_eq!(count(Duration::ZERO), 1);
    assert_eq!(count(GONE_INTERVAL - Duration::from_nanos(1)), 0);
    assert_eq!(count(GONE_INTERVAL), 1);
}

#[test]
fn a_new_registration_supersedes_the_old_one() {
    let (mut relay, now) = relay(0);
    let mut old = register(&mut relay, "a", "shop", now);
    let b = register(&mut relay, "b", "shop", now);
    relay.open(b.link, &id("a")).unwrap();
    let new = register(&mut relay, "a", "shop", now);
    assert_ne!(old.link, new.link);
    let (link, peer) = (b.link, old.link);
    assert_eq!(
        notices(&mut relay),
        [
            Notice::Gone { link, peer },
            Notice::Superseded { link: old.link }
        ]
    );
    let frame = old.frame(b.link, b"x");
    assert_dropped(&mut relay, old.address, frame, now, RelayDrop::UnknownLink);
    assert_eq!(relay.open(b.link, &id("a")), Ok(new.link));
}

#[test]
fn registrations_end_with_their_tokens() {
    let (mut relay, now) = relay(0);
    let a = register(&mut relay, "a", "shop", now);
    let expiry = now + Duration::from_secs(3600);
    assert_eq!(relay.poll_timeout(), Some((expiry, "token expiry")));
    relay.handle_timeout(expiry - Duration::from_nanos(1));
    assert_eq!(relay.links(), 1);
    relay.handle_timeout(expiry);
    assert_eq!(relay.links(), 0);
    assert_eq!(notices(&mut relay), [Notice::Expired { link: a.link }]);
    assert_eq!(relay.poll_timeout(), None);
}

#[test]
fn opening_has_a_limit_that_gone_peers_do_not_use_up() {
    let (mut relay, now) = relay(0);
    let a = register(&mut relay, "a", "shop", now);
    let mut peers = Vec::new();
    for n in 0..=MAX_PEERS_OPENED {
        peers.push(register(&mut relay, &format!("p{n}"), "shop", now));
    }
    for n in 0..MAX_PEERS_OPENED {
        assert!(relay.open(a.link, &id(&format!("p{n}"))).is_ok());
    }
    let last = id(&format!("p{MAX_PEERS_OPENED}"));
    assert_eq!(relay.open(a.link, &last), Err(OpenRefusal::TooManyPeers));
    assert!(relay.open(a.link, &id("p0")).is_ok());
    relay.unregister(peers[0].link);
    assert!(relay.open(a.link, &last).is_ok());
}

#[test]
fn a_failed_send_is_a_drop() {
    let (mut relay, now) = relay(0);
    let mut a = register(&mut relay, "a", "shop", now);
    let b = register(&mut relay, "b", "shop", now);
    for packet in [&[1; 100][..], &[2; 100], &[3; 40]] {
        let mut frame = a.frame(b.link, packet);
        relay.handle_frame(a.address, &mut frame, now);
    }
    let mut out = Vec::new();
    let transmit = relay.poll_transmit(now, 8, &mut out).unwrap();
    assert_eq!(transmit.segment_size, 123);
    assert_eq!(transmit.size, 2 * 123 + 63);
    lose(&mut relay, &transmit);
    let total = relay.total();
    assert_eq!(total.sent, Tally::default());
    assert_eq!(total.dropped(RelayDrop::SendFailed), total.received);
}

#[test]
fn batches_are_for_one_receiver_and_of_one_size() {
    let (mut relay, now) = relay(0);
    let mut a = register(&mut relay, "a", "shop", now);
    let b = register(&mut relay, "b", "shop", now);
    let c = register(&mut relay, "c", "shop", now);
    let lengths = [
        (&b, 100),
        (&b, 100),
        (&b, 30),
        (&b, 30),
        (&b, 200),
        (&c, 200),
    ];
    for (to, length) in lengths {
        let mut frame = a.frame(to.link, &vec![0; length]);
        relay.handle_frame(a.address, &mut frame, now);
    }
    let mut out = Vec::new();
    let batches: Vec<_> = std::iter::from_fn(|| relay.poll_transmit(now, 8, &mut out))
        .map(|transmit| (transmit.to, transmit.size, transmit.segment_size))
        .collect();
    assert_eq!(
        batches,
        [
            (b.address, 123 + 123 + 53, 123),
            (b.address, 53, 53),
            (b.address, 223, 223),
            (c.address, 223, 223),
        ]
    );
}

/// Offers `load` times the rate of 100 Mbit/s by each organisation for a second; returns what each
/// got through, as a part of the rate.
fn shares(loads: &[f64]) -> Vec<f64> {
    const RATE: u64 = 100_000_000;
    let (mut relay, start) = relay(RATE);
    let mut pairs: Vec<_> = (0..loads.len())
        .map(|n| {
            let organisation = format!("org{n}");
            let a = register(&mut relay, &format!("a{n}"), &organisation, start);
            let b = register(&mut relay, &format!("b{n}"), &organisation, start);
            (a, b.link, 0.0)
        })
        .collect();
    let step = Duration::from_micros(500);
    let mut now = start;
    while now < start + Duration::from_secs(1) {
        for ((node, peer, owed), load) in pairs.iter_mut().zip(loads) {
            *owed += load * RATE as f64 / 8.0 * step.as_secs_f64();
            while *owed > 1223.0 {
                *owed -= 1223.0;
                let mut frame = node.frame(*peer, &[0; 1200]);
                relay.handle_frame(node.address, &mut frame, now);
            }
        }
        sent(&mut relay, now);
        now += step;
    }
    assert_balanced(&relay.total());
    relay
        .organisations()
        .map(|(_, _, counters)| {
            assert_balanced(counters);
            counters.sent.bytes as f64 * 8.0 / RATE as f64
        })
        .collect()
}

#[test]
fn a_flood_of_one_organisation_leaves_the_other_its_half() {
    let shares = shares(&[4.0, 1.0]);
    assert!((0.47..0.53).contains(&shares[0]), "{shares:?}");
    assert!((0.47..0.53).contains(&shares[1]), "{shares:?}");
}

#[test]
fn what_one_organisation_leaves_the_others_get() {
    let shares = shares(&[4.0, 0.1, 4.0]);
    assert!((0.43..0.48).contains(&shares[0]), "{shares:?}");
    assert!((0.095..0.105).contains(&shares[1]), "{shares:?}");
    assert!((0.43..0.48).contains(&shares[2]), "{shares:?}");
}

#[test]
fn the_rate_is_kept_and_the_next_wake_up_known() {
    let shares = shares(&[2.0]);
    assert!((0.98..1.02).contains(&shares[0]), "{shares:?}");

    let (mut relay, now) = relay(8_000_000);
    let mut a = register(&mut relay, "a", "shop", now);
    let b = register(&mut relay, "b", "shop", now);
    for _ in 0..30 {
        let mut frame = a.frame(b.link, &[0; 977]);
        relay.handle_frame(a.address, &mut frame, now);
    }
    // 1000 bytes take 1 ms; batches of eight, until 5 ms are overdrawn.
    assert_eq!(sent(&mut relay, now).len(), 8);
    let wake_up = now + Duration::from_millis(3);
    assert_eq!(relay.poll_timeout(), Some((wake_up, "rate")));
    assert_eq!(sent(&mut relay, wake_up).len(), 8);
}

#[test]
fn queues_are_bounded_per_organisation_and_in_all() {
    let (mut relay, now) = relay(0);
    let count = 2 * MAX_QUEUED_BYTES / MAX_ORGANISATION_BYTES;
    for n in 0..count {
        let organisation = format!("org{n}");
        let mut a = register(&mut relay, &format!("a{n}"), &organisation, now);
        let b = register(&mut relay, &format!("b{n}"), &organisation, now);
        for _ in 0..MAX_ORGANISATION_BYTES / 1000 {
            let mut frame = a.frame(b.link, &[0; MAX_PACKET]);
            relay.handle_frame(a.address, &mut frame, now);
        }
        let total = relay.total();
        assert!(total.queued.bytes <= 2 * MAX_QUEUED_BYTES as u64);
        assert_balanced(&total);
    }
    for (name, _, counters) in relay.organisations() {
        assert!(
            counters.queued.bytes <= MAX_ORGANISATION_BYTES as u64,
            "{name}"
        );
        assert!(counters.queued.frames > 0, "{name} got nothing");
    }
    sent(&mut relay, now);
    assert_eq!(relay.total().queued, Tally::default());
    assert_balanced(&relay.total());
}

#[derive(Debug, Clone)]
enum Step {
    Register(u8),
    Unregister(u8),
    Open(u8, u8),
    Send {
        from: u8,
        to: u8,
        length: u16,
        corrupt: bool,
    },
    Poll {
        after_ms: u16,
        fails: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..6_u8).prop_map(Step::Register),
        (0..6_u8).prop_map(Step::Unregister),
        (0..6_u8, 0..6_u8).prop_map(|(a, b)| Step::Open(a, b)),
        (0..6_u8, 0..6_u8, 0..1600_u16, prop::bool::weighted(0.1)).prop_map(
            |(from, to, length, corrupt)| Step::Send {
                from,
                to,
                length,
                corrupt
            }
        ),
        (0..6_u8, 0..6_u8, 0..1600_u16, prop::bool::weighted(0.1)).prop_map(
            |(from, to, length, corrupt)| Step::Send {
                from,
                to,
                length,
                corrupt
            }
        ),
        (0..20_u16, prop::bool::weighted(0.2))
            .prop_map(|(after_ms, fails)| Step::Poll { after_ms, fails }),
    ]
}

proptest! {
    /// Nodes 0 to 2 are of one organisation, 3 to 5 of another. Whatever happens, the books
    /// balance and every packet reaches the node that it was for, in its organisation.
    #[test]
    fn books_balance_and_packets_arrive_where_they_should(
        steps in prop::collection::vec(step(), 1..120),
        rate in prop_oneof![Just(0_u64), Just(1_000_000)],
    ) {
        let (mut relay, mut now) = relay(rate);
        let mut nodes: Vec<Option<Node>> = (0..6).map(|_| None).collect();
        for step in steps {
            match step {
                Step::Register(n) => {
                    let organisation = if n < 3 { "shop" } else { "bank" };
                    let node = register(&mut relay, &format!("n{n}"), organisation, now);
                    nodes[usize::from(n)] = Some(node);
                }
                Step::Unregister(n) => {
                    if let Some(node) = nodes[usize::from(n)].take() {
                        relay.unregister(node.link);
                    }
                }
                Step::Open(a, b) => {
                    let Some(link) = nodes[usize::from(a)].as_ref().map(|node| node.link) else {
                        continue;
                    };
                    let there = nodes[usize::from(b)].as_ref().map(|node| node.link);
                    let expected = there.filter(|_| a != b && (a < 3) == (b < 3));
                    let opened = relay.open(link, &id(&format!("n{b}")));
                    prop_assert_eq!(opened.ok(), expected);
                }
                Step::Send { from, to, length, corrupt } => {
                    let to = nodes[usize::from(to)].as_ref().map_or(77, |node| node.link);
                    if let Some(node) = &mut nodes[usize::from(from)] {
                        let mut packet = vec![from; usize::from(length)];
                        packet.extend(to.to_be_bytes());
                        let mut frame = node.frame(to, &packet);
                        frame[20] ^= u8::from(corrupt);
                        relay.handle_frame(node.address, &mut frame, now);
                    }
                }
                Step::Poll { after_ms, fails } => {
                    now += Duration::from_millis(u64::from(after_ms));
                    let mut out = Vec::new();
                    while let Some(transmit) = relay.poll_transmit(now, 4, &mut out) {
                        for frame in out.chunks_mut(transmit.segment_size) {
                            let header = RelayHeader::decode(frame).unwrap();
                            let at = nodes.iter_mut().position(|node| {
                                node.as_ref().is_some_and(|node| node.link == header.link)
                            });
                            let receiver = nodes[at.unwrap()].as_mut().unwrap();
                            prop_assert_eq!(transmit.to, receiver.address);
                            let (_, packet) = receiver.open(frame);
                            let (body, to) = packet.split_last_chunk::<4>().unwrap();
                            prop_assert_eq!(u32::from_be_bytes(*to), receiver.link);
                            if let Some(sender) = body.first() {
                                prop_assert_eq!(*sender < 3, at.unwrap() < 3);
                            }
                        }
                        if fails {
                            lose(&mut relay, &transmit);
                        }
                        out.clear();
                    }
                }
            }
            assert_balanced(&relay.total());
            for (_, _, counters) in relay.organisations() {
                assert_balanced(counters);
            }
        }
    }

    #[test]
    fn no_datagram_panics_or_is_answered(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let (mut relay, now) = relay(0);
        let a = register(&mut relay, "a", "shop", now);
        let mut plain = bytes.clone();
        relay.handle_frame(a.address, &mut plain, now);
        let mut aimed = [&[0x10][..], &a.link.to_be_bytes(), &bytes].concat();
        relay.handle_frame(a.address, &mut aimed, now);
        prop_assert_eq!(sent(&mut relay, now), []);
        prop_assert_eq!(notices(&mut relay), []);
        prop_assert_eq!(relay.total().all_dropped(), relay.total().received);
    }
}

#[test]
fn a_knock_is_answered_by_less_and_to_the_knocker_only() {
    let (mut relay, now) = relay(0);
    let mut node = register(&mut relay, "a", "acme", now);
    let knock = |node: &mut Node, port, from_other_port| {
        let knock = Knock {
            link: node.link,
            port,
            from_other_port,
        };
        let mut frame = knock.encode(0);
        node.up.seal(&mut frame, RelayHeader::TAG).unwrap();
        frame
    };
    let elsewhere: SocketAddr = "192.0.2.1:4000".parse().unwrap();
    let mut frame = knock(&mut node, 0, true);
    let answer = relay.handle_knock(elsewhere, &mut frame, now).unwrap();
    assert_eq!((answer.to, answer.from_other_port), (elsewhere, true));
    assert!(answer.bytes.len() < frame.len());
    let heard = Knocked::decode(&answer.bytes).unwrap();
    assert_eq!(heard.seen, elsewhere);
    assert_eq!(heard.tag[..], frame[RelayHeader::TAG]);
    assert_eq!(
        relay.handle_knock(elsewhere, &mut frame, now),
        None,
        "a replay"
    );

    // Whatever address a knock comes from, only the registration's own is sent to.
    let mut frame = knock(&mut node, 777, false);
    let far: SocketAddr = "198.51.100.9:4000".parse().unwrap();
    let answer = relay.handle_knock(far, &mut frame, now).unwrap();
    assert_eq!(answer.to, SocketAddr::new(node.address.ip(), 777));

    let mut forged = knock(&mut node, 0, false);
    forged[RelayHeader::TAG.start] ^= 1;
    assert_eq!(relay.handle_knock(far, &mut forged, now), None);
    let answered = (0..100).filter(|_| {
        let mut frame = knock(&mut node, 0, false);
        relay.handle_knock(far, &mut frame, now).is_some()
    });
    assert_eq!(answered.count(), 58);
    let dropped = |reason| relay.total().dropped(reason).frames;
    assert_eq!(dropped(RelayDrop::Replayed), 1);
    assert_eq!(dropped(RelayDrop::Unauthenticated), 1);
    assert_eq!(dropped(RelayDrop::KnocksTooOften), 42);
    assert_eq!(notices(&mut relay), []);
}

/// The socket could not send it.
fn lose(relay: &mut Relay, transmit: &RelayTransmit) {
    let frames = transmit.size.div_ceil(transmit.segment_size);
    relay.handle_lost(transmit, frames, transmit.size, RelayDrop::SendFailed);
}
