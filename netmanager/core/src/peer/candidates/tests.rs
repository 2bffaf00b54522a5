//! What is told to peers, and what peers must not make this node do.

use weald_proto::addr::Pools;

use super::*;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn home() -> Surroundings {
    let mut home = Surroundings::default();
    home.set_interfaces([Interface {
        address: at("192.168.1.7:10260"),
        prefix_len: 24,
    }]);
    home
}

#[test]
fn two_observers_tell_how_ports_are_mapped() {
    let cases = [
        (["203.0.113.1:5000"].as_slice(), NatMapping::Unknown),
        (
            &["203.0.113.1:5000", "203.0.113.1:5000"],
            NatMapping::Independent,
        ),
        (
            &["203.0.113.1:5000", "203.0.113.1:5003"],
            NatMapping::Sequential,
        ),
        (
            &["203.0.113.1:5000", "203.0.113.1:61003"],
            NatMapping::Random,
        ),
        (
            &["203.0.113.1:5000", "203.0.113.2:5001"],
            NatMapping::Random,
        ),
        (&["192.168.1.7:10260"], NatMapping::Independent),
        // A relay inside the site, on another network than this node's.
        (
            &["192.168.1.7:10260", "203.0.113.1:5000"],
            NatMapping::Unknown,
        ),
        (
            &["192.168.1.7:10260", "203.0.113.1:5000", "203.0.113.1:5000"],
            NatMapping::Independent,
        ),
        (
            &["203.0.113.1:5000", "192.168.1.7:10260", "203.0.113.1:5003"],
            NatMapping::Sequential,
        ),
        (&[], NatMapping::Unknown),
    ];
    for (seen, expected) in cases {
        let mut home = home();
        for (nth, seen) in seen.iter().enumerate() {
            let observer =
                SocketAddr::from(([198, 51, 100, 1], 10250 + u16::try_from(nth).unwrap()));
            assert!(home.observe(observer, at(seen)));
            assert!(!home.observe(observer, at(seen)), "no news");
        }
        assert_eq!(home.mapping(), expected, "{seen:?}");
    }
}

#[test]
fn an_observer_on_the_own_link_says_nothing_of_the_nat() {
    let mut home = home();
    home.observe(at("192.168.1.2:10300"), at("192.168.1.7:10260"));
    assert_eq!(home.mapping(), NatMapping::Unknown);
    home.observe(at("198.51.100.1:1"), at("203.0.113.1:1"));
    home.observe(at("198.51.100.1:2"), at("203.0.113.1:1"));
    assert_eq!(home.mapping(), NatMapping::Independent);
    assert!(home.forget_observer(at("198.51.100.1:2")));
    assert_eq!(home.mapping(), NatMapping::Unknown);
}

#[test]
fn what_observers_do_not_say_again_is_forgotten() {
    #[expect(clippy::disallowed_methods, reason = "a test needs some first instant")]
    let now = Instant::now();
    let observers = [at("198.51.100.1:1"), at("198.51.100.1:2")];
    let seen = |home: &Surroundings| home.observations().count();
    let mut home = home();
    for observer in observers {
        home.observe(observer, at("203.0.113.1:1"));
        home.ask(observer, now);
    }
    assert!(!home.is_settled());
    assert!(home.observe(observers[0], at("203.0.113.1:7777")));
    assert!(!home.is_settled(), "half of what is known is old");
    assert_eq!(home.poll_timeout(), Some(now + ANSWER_PATIENCE));
    assert!(!home.handle_timeout(now));
    assert!(home.handle_timeout(now + ANSWER_PATIENCE));
    assert!(home.is_settled());
    assert_eq!((seen(&home), home.poll_timeout()), (1, None));

    home.lose_observer(observers[0], now);
    assert!(home.is_settled());
    assert!(!home.handle_timeout(now + LOST_PATIENCE / 2));
    home.observe(observers[0], at("203.0.113.1:7777"));
    assert_eq!(home.poll_timeout(), None, "the relay is back");
    home.lose_observer(observers[0], now);
    assert!(home.handle_timeout(now + LOST_PATIENCE));
    assert_eq!(seen(&home), 0);
}

#[test]
fn the_list_is_bounded_and_keeps_what_observers_see_last() {
    let mut host = Surroundings::default();
    host.set_interfaces((0..40_u8).map(|nth| Interface {
        address: SocketAddr::from(([10, 0, 0, nth], 10260)),
        prefix_len: 8,
    }));
    host.set_configured(vec![at("198.51.100.9:7")]);
    host.observe(at("203.0.113.1:1"), at("198.51.100.9:30001"));
    host.observe(at("203.0.113.1:2"), at("198.51.100.9:30000"));
    let list = host.candidates();
    assert_eq!(list.len(), MAX_PEER_CANDIDATES);
    let last: Vec<_> = list
        .iter()
        .rev()
        .take(3)
        .map(|one| (one.kind, one.address))
        .collect();
    assert_eq!(
        last,
        [
            (CandidateKind::Reflexive, at("198.51.100.9:30001")),
            (CandidateKind::Reflexive, at("198.51.100.9:30000")),
            (CandidateKind::Configured, at("198.51.100.9:7")),
        ]
    );
}

#[test]
fn what_observers_say_of_special_addresses_is_ignored_and_observers_are_bounded() {
    let mut home = home();
    assert!(!home.observe(at("198.51.100.1:1"), at("127.0.0.1:53")));
    for nth in 0..100 {
        home.observe(
            SocketAddr::from(([198, 51, 100, nth], 1)),
            at("203.0.113.1:1"),
        );
    }
    assert_eq!(home.observations().count(), MAX_OBSERVERS);
}

#[test]
fn third_parties_and_own_addresses_are_not_probed() {
    let pools = Pools::default();
    let home = home();
    let judged = |text: &str| home.judge(at(text), &pools);
    for special in [
        "127.0.0.1:53",
        "0.1.2.3:1",
        "224.0.0.251:5353",
        "255.255.255.255:9",
        "240.0.0.1:9",
        "169.254.169.254:80",
        "203.0.113.1:0",
        "[::1]:53",
        "[ff02::fb]:5353",
        "[fe80::1]:1",
        "[::ffff:192.0.2.1]:1",
        "[64:ff9b::1]:1",
        "[100::1]:1",
    ] {
        assert_eq!(judged(special), Err(Refusal::Special), "{special}");
    }
    assert_eq!(judged("10.30.1.1:80"), Err(Refusal::Overlay));
    assert_eq!(judged("192.168.1.7:10260"), Err(Refusal::Own));
    assert_eq!(judged("10.1.1.1:10260"), Err(Refusal::ForeignPrivate));
    assert_eq!(judged("172.20.0.1:10260"), Err(Refusal::ForeignPrivate));
    assert_eq!(judged("100.64.0.1:10260"), Err(Refusal::ForeignPrivate));
    assert_eq!(judged("[2001:db8::1]:10260"), Err(Refusal::Family));
    assert_eq!(judged("192.168.9.9:10260"), Ok(()));
    assert_eq!(judged("203.0.113.5:4444"), Ok(()));
}

#[test]
fn mappings_are_told_as_such_and_those_that_lead_nowhere_are_not() {
    let pools = Pools::default();
    let mut home = home();
    let judged = |text: &str| home.judge_mapping(at(text), &pools);
    assert_eq!(judged("203.0.113.2:10260"), Ok(()));
    for (lie, why) in [
        ("127.0.0.1:10260", Refusal::Special),
        ("255.255.255.255:10260", Refusal::Special),
        ("0.0.0.0:10260", Refusal::Special),
        ("224.0.0.1:10260", Refusal::Special),
        ("169.254.169.254:80", Refusal::Special),
        ("203.0.113.2:0", Refusal::Special),
        ("[::1]:10260", Refusal::Special),
        ("10.30.1.1:10260", Refusal::Overlay),
        ("192.168.1.7:10260", Refusal::Own),
        ("192.168.1.7:99", Refusal::Own),
        ("192.168.9.9:10260", Refusal::Private),
        ("100.64.3.4:10260", Refusal::Private),
        ("10.1.1.1:10260", Refusal::Private),
        ("[fd00::1]:10260", Refusal::Private),
    ] {
        assert_eq!(judged(lie), Err(why), "{lie}");
    }
    let mapped = at("203.0.113.2:10260");
    assert!(home.set_mapped(vec![mapped]));
    assert!(!home.set_mapped(vec![mapped]), "no news");
    // A router that keeps ports gives out the mapped one, and another one for a second observer.
    home.observe(at("198.51.100.1:1"), mapped);
    home.observe(at("198.51.100.1:2"), at("203.0.113.2:4000"));
    let kinds = |home: &Surroundings| -> Vec<_> {
        let list = home.candidates();
        list.iter().map(|one| (one.kind, one.address)).collect()
    };
    assert_eq!(
        kinds(&home),
        [
            (CandidateKind::Interface, at("192.168.1.7:10260")),
            (CandidateKind::Mapped, mapped),
            (CandidateKind::Reflexive, at("203.0.113.2:4000")),
            (CandidateKind::Reflexive, mapped),
        ]
    );
    assert_eq!(
        home.mapping(),
        NatMapping::Random,
        "observers are as they were"
    );
    home.set_configured(vec![mapped]);
    assert_eq!(kinds(&home)[1], (CandidateKind::Configured, mapped));
    assert_eq!(
        kinds(&home).len(),
        4,
        "it is told once as what somebody says"
    );
}
