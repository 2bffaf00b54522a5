//! The rounds of two ends, message by message.

use weald_proto::session::{CandidateKind, PeerCandidate};

use super::*;
use crate::peer::candidates::{Interface, MAX_PEER_CANDIDATES};

fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "a test needs some first instant")]
    Instant::now()
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn behind_nat(inside: &str, seen: [&str; 2]) -> Surroundings {
    let mut here = Surroundings::default();
    here.set_interfaces([Interface {
        address: at(inside),
        prefix_len: 24,
    }]);
    here.observe(at("198.51.100.1:1"), at(seen[0]));
    here.observe(at("198.51.100.1:2"), at(seen[1]));
    here
}

fn said(punch: &mut Punch) -> Vec<PeerToPeer> {
    probes(punch).0
}

type Probes = Vec<(SocketAddr, bool, From)>;

fn probes(punch: &mut Punch) -> (Vec<PeerToPeer>, Probes) {
    let (mut said, mut sent) = (Vec::new(), Vec::new());
    while let Some(event) = punch.poll_event() {
        match event {
            PunchEvent::Say(message) => said.push(message),
            PunchEvent::Probe {
                to,
                short_lived,
                from,
            } => sent.push((to, short_lived, from)),
            PunchEvent::EndSpray => {}
        }
    }
    (said, sent)
}

struct Pair {
    leader: (Punch, Surroundings),
    follower: (Punch, Surroundings),
    pools: Pools,
}

impl Pair {
    fn new(
        leader: Surroundings,
        follower: Surroundings,
        limits: PunchLimits,
        now: Instant,
    ) -> Self {
        let mut one = Self {
            leader: (Punch::new(true, limits, 1, Searches::default()), leader),
            follower: (Punch::new(false, limits, 2, Searches::default()), follower),
            pools: Pools::default(),
        };
        one.leader.0.set_local(&one.leader.1, &one.pools, now);
        one.follower.0.set_local(&one.follower.1, &one.pools, now);
        one.exchange(now);
        one
    }

    /// Hands over what both say until neither says anything; returns the probes of each.
    fn exchange(&mut self, now: Instant) -> (Probes, Probes) {
        let (mut by_leader, mut by_follower) = (Vec::new(), Vec::new());
        loop {
            let (said, sent) = probes(&mut self.leader.0);
            by_leader.extend(sent);
            let (answers, sent) = probes(&mut self.follower.0);
            by_follower.extend(sent);
            if said.is_empty() && answers.is_empty() {
                return (by_leader, by_follower);
            }
            let (follower, at_follower) = &mut self.follower;
            for message in said {
                follower.handle_message(&message, at_follower, &self.pools, now);
            }
            let (leader, at_leader) = &mut self.leader;
            for message in answers {
                leader.handle_message(&message, at_leader, &self.pools, now);
            }
        }
    }
}

const EASY_A: [&str; 2] = ["203.0.113.1:10260", "203.0.113.1:10260"];
const EASY_B: [&str; 2] = ["203.0.113.2:10260", "203.0.113.2:10260"];

fn easy(now: Instant) -> Pair {
    Pair::new(
        behind_nat("192.168.1.7:10260", EASY_A),
        behind_nat("192.168.2.7:10260", EASY_B),
        PunchLimits::default(),
        now,
    )
}

#[test]
fn the_leader_opens_before_it_says_so_and_both_send_fully_after() {
    let now = start();
    let mut pair = easy(now);
    assert_eq!(pair.leader.0.poll_timeout(), Some(now));
    assert_eq!(pair.follower.0.poll_timeout(), None, "it only follows");
    pair.leader.0.handle_timeout(now);
    let first: Vec<_> = std::iter::from_fn(|| pair.leader.0.poll_event()).collect();
    let (last, opening) = first.split_last().unwrap();
    assert_eq!(*last, PunchEvent::Say(PeerToPeer::Punch { round: 1 }));
    let opened: Vec<_> = opening
        .iter()
        .map(|event| {
            let PunchEvent::Probe {
                to,
                short_lived: true,
                from: From::Main,
            } = event
            else {
                panic!("{event:?}");
            };
            *to
        })
        .collect();
    let reflexive = at(EASY_B[0]);
    assert_eq!(
        opened.iter().filter(|to| **to == reflexive).count(),
        OPENING_PROBES
    );

    let punch = PeerToPeer::Punch { round: 1 };
    let (follower, here) = &mut pair.follower;
    follower.handle_message(&punch, here, &pair.pools, now);
    let (answer, sent) = probes(follower);
    assert_eq!(answer, [PeerToPeer::PunchOpened { round: 1 }]);
    assert!(sent.contains(&(at(EASY_A[0]), false, From::Main)));
    assert!(sent.iter().all(|(_, short_lived, _)| !short_lived));

    let (leader, here) = &mut pair.leader;
    leader.handle_message(&answer[0], here, &pair.pools, now);
    assert!(probes(leader).1.contains(&(reflexive, false, From::Main)));
    assert_eq!(leader.poll_timeout(), Some(now + SEND_AT[1]));
}

#[test]
fn a_round_ends_and_the_next_ones_come_later_and_later() {
    let mut now = start();
    let mut pair = easy(now);
    for pause in PAUSES.into_iter().chain([PAUSES[5]]) {
        assert_eq!(pair.leader.0.poll_timeout(), Some(now));
        pair.leader.0.handle_timeout(now);
        pair.exchange(now);
        let over = now + ROUND_TIME;
        while let Some(at) = pair.leader.0.poll_timeout().filter(|at| *at <= over) {
            pair.leader.0.handle_timeout(at);
            pair.follower.0.handle_timeout(at);
            pair.exchange(at);
        }
        now = over + pause;
        assert_eq!(pair.leader.0.standing(), Standing::NoAnswer);
        assert_eq!(pair.follower.0.poll_timeout(), None);
    }
}

#[test]
fn a_proven_path_ends_attempts_and_its_loss_starts_them_anew() {
    let now = start();
    let mut pair = easy(now);
    pair.leader.0.handle_timeout(now);
    pair.exchange(now);
    pair.leader.0.set_direct(true, now);
    pair.follower.0.set_direct(true, now);
    assert_eq!(pair.leader.0.poll_timeout(), None);
    assert_eq!(pair.leader.0.standing(), Standing::Direct);

    let later = now + Duration::from_secs(100);
    pair.follower.0.set_direct(false, later);
    pair.leader.0.set_direct(false, later);
    pair.exchange(later);
    assert_eq!(pair.leader.0.poll_timeout(), Some(later));
}

#[test]
fn a_follower_whose_address_changes_makes_the_leader_start() {
    let now = start();
    let mut pair = easy(now);
    pair.leader.0.handle_timeout(now);
    said(&mut pair.leader.0);
    pair.leader.0.handle_timeout(now + OPEN_TIMEOUT);
    let resting = pair.leader.0.poll_timeout().unwrap();
    assert_eq!(resting, now + OPEN_TIMEOUT + PAUSES[0]);
    pair.follower.1 = behind_nat("10.0.0.7:10260", ["203.0.113.9:1", "203.0.113.9:1"]);
    let (follower, here) = &mut pair.follower;
    let soon = now + OPEN_TIMEOUT + Duration::from_millis(1);
    follower.set_local(here, &pair.pools, soon);
    pair.exchange(soon);
    assert_eq!(pair.leader.0.poll_timeout(), Some(soon));
}

#[test]
fn a_sequential_nat_is_aimed_at_ahead_and_a_little_behind() {
    let now = start();
    let mut pair = Pair::new(
        behind_nat("192.168.1.7:10260", EASY_A),
        behind_nat(
            "192.168.2.7:10260",
            ["203.0.113.2:20000", "203.0.113.2:20001"],
        ),
        PunchLimits::default(),
        now,
    );
    pair.leader.0.handle_timeout(now);
    let (by_leader, _) = pair.exchange(now);
    for port in (19_995..20_000).chain(20_002..=20_021) {
        let to = SocketAddr::from(([203, 0, 113, 2], port));
        // Opened first, then aimed at.
        let sent: Vec<_> = by_leader.iter().filter(|probe| probe.0 == to).collect();
        assert!(sent[0].1 && !sent[1].1, "{port}: {sent:?}");
    }
    // What was observed is a candidate as it is, and aimed at no oftener.
    let observed = at("203.0.113.2:20000");
    let opened = by_leader
        .iter()
        .filter(|probe| probe.0 == observed && probe.1);
    assert_eq!(opened.count(), OPENING_PROBES);
}

fn hard(limits: PunchLimits, now: Instant) -> Pair {
    Pair::new(
        behind_nat("192.168.1.7:10260", EASY_A),
        behind_nat(
            "192.168.2.7:10260",
            ["203.0.113.2:2000", "203.0.113.2:61001"],
        ),
        limits,
        now,
    )
}

/// Runs both ends until `until`; returns the probes of each.
fn run(pair: &mut Pair, now: Instant, until: Instant) -> (Probes, Probes) {
    let (mut by_leader, mut by_follower) = (Vec::new(), Vec::new());
    let mut now = now;
    while now <= until {
        pair.leader.0.handle_timeout(now);
        pair.follower.0.handle_timeout(now);
        let (one, two) = pair.exchange(now);
        by_leader.extend(one);
        by_follower.extend(two);
        let next = [pair.leader.0.poll_timeout(), pair.follower.0.poll_timeout()];
        now = next
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(until + Duration::from_secs(1));
    }
    (by_leader, by_follower)
}

#[test]
fn a_hard_pair_sprays_within_its_budget_and_once_an_hour() {
    let now = start();
    let mut pair = hard(PunchLimits::default(), now);
    let (search, open) = run(&mut pair, now, now + Duration::from_secs(600));
    let open: Vec<_> = open
        .iter()
        .filter(|probe| matches!(probe.2, From::Extra(_)))
        .collect();
    assert_eq!(open.len(), usize::from(SPRAY_SOCKETS));
    assert!(open.iter().all(|probe| probe.1 && probe.0 == at(EASY_A[0])));
    let known = [at("203.0.113.2:2000"), at("203.0.113.2:61001")];
    let search: Vec<_> = search
        .iter()
        .filter(|probe| probe.0.ip() == known[0].ip() && !known.contains(&probe.0))
        .map(|probe| probe.0)
        .collect();
    let mut distinct = search.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), search.len());
    assert!(search.len() <= usize::from(SPRAY_PROBES) && search.len() > 900);
    assert_eq!(pair.leader.0.standing(), Standing::SearchSpent);
}

#[test]
fn a_search_is_remembered_from_session_to_session_and_by_network() {
    let now = start();
    let first = hard(PunchLimits::default(), now);
    let sprays = |searches: &Searches, network: [u8; 4], now| {
        let mut pair = hard(PunchLimits::default(), now);
        pair.follower.1.set_interfaces([Interface {
            address: SocketAddr::from((network, 10260)),
            prefix_len: 24,
        }]);
        let (limits, pools) = (PunchLimits::default(), Pools::default());
        pair.follower.0 = Punch::new(false, limits, 2, searches.clone());
        pair.follower.0.set_local(&pair.follower.1, &pools, now);
        let told = first.leader.0.mine.told.clone();
        assert_eq!(told.mapping, NatMapping::Independent);
        pair.leader.1.observe(at("198.51.100.1:3"), at(EASY_A[0]));
        pair.leader.0 = Punch::new(true, limits, 1, Searches::default());
        pair.leader.0.set_local(&pair.leader.1, &pools, now);
        pair.exchange(now);
        let (_, open) = run(&mut pair, now, now + Duration::from_secs(60));
        let sprayed = open.iter().any(|probe| probe.2 != From::Main);
        (sprayed, pair.follower.0.searches().clone())
    };
    let home = [192, 168, 2, 7];
    let (sprayed, mut searches) = sprays(&Searches::default(), home, now);
    assert!(sprayed);
    let soon = now + Duration::from_secs(120);
    assert!(!sprays(&searches, home, soon).0, "the next session");
    for nth in 1..6 {
        let there = [10, 0, nth, 7];
        let (sprayed, next) = sprays(&searches, there, soon);
        assert_eq!(sprayed, nth < 4, "network {nth}");
        searches = next;
    }
    assert!(sprays(&searches, home, now + SPRAY_PAUSE).0);
}

#[test]
fn a_port_that_a_router_leads_to_one_of_them_needs_no_search() {
    let now = start();
    for at_leader in [true, false] {
        let mut pair = hard(PunchLimits::default(), now);
        let mapped = at("203.0.113.9:10260");
        let (mapping, other) = if at_leader {
            (&mut pair.leader, &mut pair.follower)
        } else {
            (&mut pair.follower, &mut pair.leader)
        };
        mapping.1.set_mapped(vec![mapped]);
        mapping.0.set_local(&mapping.1, &pair.pools, now);
        let (said, _) = probes(&mut mapping.0);
        for message in said {
            other.0.handle_message(&message, &other.1, &pair.pools, now);
        }
        let first = run(&mut pair, now, now + ROUND_TIME);
        let (of_mapping, of_other) = if at_leader {
            (first.0, first.1)
        } else {
            (first.1, first.0)
        };
        let is_main = |probe: &(SocketAddr, bool, From)| probe.2 == From::Main;
        assert!(of_mapping.iter().chain(&of_other).all(is_main));
        assert!(
            of_other.contains(&(mapped, false, From::Main)),
            "it is tried"
        );
        // It was a lie, or a dead mapping: the search is made all the same.
        let rest = run(&mut pair, now + ROUND_TIME, now + Duration::from_secs(60));
        assert!(rest.1.iter().any(|probe| !is_main(probe)), "{at_leader}");
    }
}

#[test]
fn a_follower_that_is_direct_already_does_not_search() {
    let now = start();
    let mut pair = hard(PunchLimits::default(), now);
    pair.follower.0.set_direct(true, now);
    let (_, open) = run(&mut pair, now, now + Duration::from_secs(60));
    assert!(!open.is_empty(), "it helps the leader with a round");
    assert!(open.iter().all(|probe| probe.2 == From::Main));
}

#[test]
fn a_round_to_where_nobody_is_any_more_is_begun_anew() {
    let now = start();
    let mut pair = easy(now);
    pair.leader.0.handle_timeout(now);
    pair.exchange(now);
    // The follower's NAT has forgotten its port, and observers have said so.
    let moved = ["203.0.113.2:7777"; 2];
    pair.follower.1 = behind_nat("192.168.2.7:10260", moved);
    let soon = now + Duration::from_millis(100);
    pair.follower
        .0
        .set_local(&pair.follower.1, &pair.pools, soon);
    pair.exchange(soon);
    let next = now + MIN_ROUND_INTERVAL;
    assert_eq!(pair.leader.0.poll_timeout(), Some(next));
    pair.leader.0.handle_timeout(next);
    let opened = probes(&mut pair.leader.0).1;
    assert!(opened.contains(&(at(moved[0]), true, From::Main)));
}

#[test]
fn what_a_peer_has_named_is_judged_again_when_interfaces_come() {
    let now = start();
    let mut pair = easy(now);
    let far = at("10.9.0.7:10260");
    let list = PeerToPeer::Candidates {
        generation: 9,
        mapping: NatMapping::Independent,
        candidates: vec![PeerCandidate {
            kind: CandidateKind::Interface,
            address: far,
        }],
    };
    let (leader, here) = &mut pair.leader;
    let refused = leader.handle_message(&list, here, &pair.pools, now);
    assert_eq!(refused, [(far, Refusal::ForeignPrivate)]);
    assert_eq!(leader.standing(), Standing::NothingToTry);
    // A link that is not told, because the list to tell has no room, would do as well.
    here.set_interfaces([Interface {
        address: at("10.1.0.7:10260"),
        prefix_len: 24,
    }]);
    leader.set_local(here, &pair.pools, now);
    assert_eq!(leader.poll_timeout(), Some(now), "it begins at once");
    leader.handle_timeout(now);
    assert!(probes(leader).1.contains(&(far, true, From::Main)));
    assert!(leader.targets().iter().all(|one| one.refused.is_none()));
}

/// It would say that it has opened its side to a leader of which it refuses every address, and the
/// leader's probes would take the mapping that it needs.
#[test]
fn a_node_that_does_not_know_its_interfaces_yet_takes_no_part() {
    let now = start();
    for leads in [true, false] {
        let known = easy(now);
        let (mut here, there) = (known.leader.1, known.follower.1);
        let interfaces: Vec<_> = here.interfaces().collect();
        here.set_interfaces([]);
        let (leader, follower) = if leads { (here, there) } else { (there, here) };
        let mut pair = Pair::new(leader, follower, PunchLimits::default(), now);
        assert_eq!(pair.leader.0.poll_timeout(), None, "no round");
        let blind = if leads {
            &mut pair.leader
        } else {
            &mut pair.follower
        };
        let punch = PeerToPeer::Punch { round: 1 };
        blind.0.handle_message(&punch, &blind.1, &pair.pools, now);
        assert_eq!(probes(&mut blind.0), (Vec::new(), Vec::new()));

        blind.1.set_interfaces(interfaces);
        blind.0.set_local(&blind.1, &pair.pools, now);
        pair.exchange(now);
        pair.leader.0.handle_timeout(now);
        let (by_leader, by_follower) = pair.exchange(now);
        for sent in [by_leader, by_follower] {
            assert!(sent.iter().any(|(_, short_lived, _)| !short_lived));
        }
    }
}

#[test]
fn an_observer_that_says_something_else_all_the_time_makes_no_storm() {
    let now = start();
    let mut pair = easy(now);
    let mut lists = 0;
    let minute = 60_000;
    for ms in (0..minute).step_by(20) {
        let now = now + Duration::from_millis(ms);
        let (follower, here) = &mut pair.follower;
        let port = u16::try_from(2000 + ms % 4000).unwrap();
        here.observe(
            at("198.51.100.1:2"),
            SocketAddr::from(([203, 0, 113, 2], port)),
        );
        follower.set_local(here, &pair.pools, now);
        follower.handle_timeout(now);
        lists += said(follower).len();
    }
    // A few at once, then one in five seconds.
    assert!((12..=18).contains(&lists), "{lists} lists in a minute");

    // And if such lists come all the same, rounds do not follow each other without a pause.
    let mut pair = easy(now);
    let mut rounds = 0;
    for ms in (0..minute).step_by(20) {
        let now = now + Duration::from_millis(ms);
        let list = PeerToPeer::Candidates {
            generation: 10 + ms,
            mapping: NatMapping::Independent,
            candidates: Vec::new(),
        };
        let (leader, here) = &mut pair.leader;
        leader.handle_message(&list, here, &pair.pools, now);
        leader.handle_timeout(now);
        rounds = leader.rounds();
    }
    assert!(rounds <= 12, "{rounds} rounds in a minute");
}

#[test]
fn sprays_can_be_switched_off_and_so_can_all_attempts() {
    let now = start();
    let mut pair = hard(
        PunchLimits {
            spray: false,
            ..PunchLimits::default()
        },
        now,
    );
    let (_, open) = run(&mut pair, now, now + Duration::from_secs(60));
    assert!(open.iter().all(|probe| probe.2 == From::Main));

    let limits = PunchLimits {
        punch: false,
        spray: true,
    };
    let mut pair = hard(limits, now);
    assert_eq!(
        run(&mut pair, now, now + Duration::from_secs(60)),
        Default::default()
    );
    assert_eq!(pair.leader.0.standing(), Standing::Disabled);
}

#[test]
fn old_lists_and_rounds_are_ignored_and_eager_leaders_not_followed() {
    let now = start();
    let mut pair = easy(now);
    let (follower, here) = &mut pair.follower;
    for (round, after, follows) in [
        (5, 0, true),
        (5, 9000, false),
        (6, 200, false),
        (7, 9000, true),
    ] {
        let punch = PeerToPeer::Punch { round };
        let when = now + Duration::from_millis(after);
        follower.handle_message(&punch, here, &pair.pools, when);
        assert_eq!(!said(follower).is_empty(), follows, "round {round}");
    }
    let list = PeerToPeer::Candidates {
        generation: 1,
        mapping: NatMapping::Random,
        candidates: Vec::new(),
    };
    let (leader, here) = &mut pair.leader;
    leader.handle_message(&list, here, &pair.pools, now);
    assert_eq!(leader.mappings().1, NatMapping::Independent);
}

#[test]
fn what_may_not_be_probed_is_told_and_never_sent_to() {
    let now = start();
    let mut pair = easy(now);
    let victim = at("224.0.0.1:5353");
    let mut candidates = vec![PeerCandidate {
        kind: CandidateKind::Reflexive,
        address: victim,
    }];
    candidates.extend((0..40).map(|nth| PeerCandidate {
        kind: CandidateKind::Interface,
        address: SocketAddr::from(([203, 0, 113, nth], 1)),
    }));
    let list = PeerToPeer::Candidates {
        generation: 9,
        mapping: NatMapping::Independent,
        candidates,
    };
    let (leader, here) = &mut pair.leader;
    let refused = leader.handle_message(&list, here, &pair.pools, now);
    assert_eq!(refused[0], (victim, Refusal::Special));
    let too_many = refused
        .iter()
        .filter(|one| one.1 == Refusal::TooMany)
        .count();
    assert_eq!(too_many, 41 - MAX_PEER_CANDIDATES);
    let (sent, _) = run(&mut pair, now, now + Duration::from_secs(3));
    let mut targets: Vec<_> = sent.iter().map(|probe| probe.0).collect();
    targets.sort();
    targets.dedup();
    assert_eq!(targets.len(), MAX_PEER_CANDIDATES - 1);
    assert!(!targets.contains(&victim));
}

#[test]
fn a_node_whose_udp_is_blocked_says_so_and_keeps_its_search_for_later() {
    let now = start();
    let mut pair = hard(PunchLimits::default(), now);
    pair.leader.0.set_udp_blocked(true);
    pair.follower.0.set_udp_blocked(true);
    let later = now + Duration::from_secs(60);
    let ports = |probes: Probes| {
        let ports = probes.iter().map(|(to, _, _)| to.port());
        ports.collect::<std::collections::BTreeSet<u16>>().len()
    };
    let (search, open) = run(&mut pair, now, later);
    assert!(open.iter().all(|probe| probe.2 == From::Main));
    let searched = ports(search);
    assert!(searched <= 3, "{searched} ports");
    assert_eq!(pair.leader.0.standing(), Standing::UdpBlocked);
    let silent = Punch::new(true, PunchLimits::default(), 1, Searches::default());
    let mut blocked = Punch::new(true, PunchLimits::default(), 1, Searches::default());
    blocked.set_udp_blocked(true);
    assert_eq!(silent.standing(), Standing::PeerSilent);
    assert_eq!(blocked.standing(), Standing::UdpBlocked);

    pair.leader.0.set_udp_blocked(false);
    pair.follower.0.set_udp_blocked(false);
    let (search, _) = run(&mut pair, later, later + Duration::from_secs(600));
    let searched = ports(search);
    assert!(searched > 900, "{searched} ports");
    assert_eq!(pair.leader.0.standing(), Standing::SearchSpent);
}
