//! Pairs of nodes behind simulated NATs: the real `Punch` and `Paths` machines against a model of
//! which pairs must find each other, and how soon.
//!
//! Every case is a seed: it draws the NATs of both sites (RFC 4787 mapping and filtering, Linux's
//! habit of remembering what it did not ask for, double NAT, port mappings, blocked UDP, one site for
//! both), IPv6 and its firewalls, delay, jitter, loss and lifetimes, and how late a node learns of
//! its interfaces; runs the pair, takes a mapping away, runs on, and has the second node move. A
//! failure prints its seed; `WEALD_SEED=n` runs that one alone, `WEALD_SEEDS=n` as many from there.

#![allow(clippy::unwrap_used, reason = "a test")]

mod nat;
mod net;
mod random;
mod scenario;

use std::time::Duration;

use self::net::Net;
use self::random::Random;
use self::scenario::{Expected, Scenario};

/// Cases of one run; all together take seconds.
const SEEDS: u64 = 500;
/// From session to direct path, for pairs that need no search; a round that loss has spoilt and its
/// repetition fit in it.
const EASY_TIME: Duration = Duration::from_secs(6);
/// The same for pairs that have to search a port.
const SEARCH_TIME: Duration = Duration::from_secs(15);
/// From the loss of a mapping to a direct path again: Linux has to forget an unanswered packet first.
const AGAIN_TIME: Duration = Duration::from_secs(90);
/// How long a path that is gone may count as one.
const NOTICED: Duration = Duration::from_secs(5);
/// Searches that may fail, in percent of all.
const FAILED_SEARCHES_PERCENT: usize = 10;

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    AsExpected,
    Found,
    NotFound,
}

/// Runs one case.
fn run(seed: u64) -> Outcome {
    let mut random = Random::new(seed);
    let scenario = Scenario::draw(&mut random);
    let expected = scenario.expected();
    let mut net = Net::new(&scenario, random);
    let limit = if expected == Expected::Search {
        SEARCH_TIME
    } else {
        EASY_TIME
    };
    let told = || format!("seed {seed}: {scenario:?}");
    let direct_after = net.run_until_direct(limit);
    net.check(&told());
    match expected {
        Expected::Direct => assert!(
            direct_after.is_some(),
            "{}: no direct path within {limit:?}: {}",
            told(),
            net.standing()
        ),
        Expected::Relayed => assert_eq!(direct_after, None, "{}", told()),
        Expected::Search if direct_after.is_none() => return Outcome::NotFound,
        Expected::Search => return Outcome::Found,
    }
    if expected == Expected::Direct {
        net.run(Duration::from_secs(20));
        assert!(net.is_direct(), "{}: not kept", told());
        net.forget_mappings();
        net.run(Duration::from_secs(10));
        let again = net.run_until_direct(AGAIN_TIME);
        assert!(
            again.is_some(),
            "{}: not direct again: {}",
            told(),
            net.standing()
        );
    } else {
        net.run(Duration::from_secs(120));
    }
    net.check(&told());
    if let Some(moved) = scenario.moved() {
        net.move_to(&moved.sites);
        // Both have noticed by then that the former path is gone.
        net.run(NOTICED);
        let expected = moved.expected();
        let limit = if moved.may_remember_strangers() {
            AGAIN_TIME
        } else {
            EASY_TIME
        };
        let direct = net.run_until_direct(limit);
        let told = || format!("{} after the move: {}", told(), net.standing());
        match expected {
            Expected::Direct => assert!(direct.is_some(), "{}", told()),
            Expected::Relayed => assert!(direct.is_none(), "{}", told()),
            Expected::Search => {}
        }
        net.check(&told());
    }
    Outcome::AsExpected
}

fn seeds() -> Vec<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match (number("WEALD_SEED"), number("WEALD_SEEDS")) {
        (Some(seed), count) => (seed..seed + count.unwrap_or(1)).collect(),
        (None, count) => (0..count.unwrap_or(SEEDS)).collect(),
    }
}

#[test]
fn every_pair_gets_the_path_that_its_nats_allow() {
    let outcomes: Vec<Outcome> = seeds().into_iter().map(run).collect();
    let count = |outcome| outcomes.iter().filter(|one| **one == outcome).count();
    let (found, lost) = (count(Outcome::Found), count(Outcome::NotFound));
    eprintln!("{found} of {} searches have found a port", found + lost);
    assert!(
        lost * 100 <= (found + lost) * FAILED_SEARCHES_PERCENT || found + lost < 10,
        "{lost} of {} searches have failed",
        found + lost
    );
}

#[test]
fn a_case_is_the_same_every_time() {
    let trace = |seed| {
        let mut random = Random::new(seed);
        let scenario = Scenario::draw(&mut random);
        let mut net = Net::new(&scenario, random);
        net.run(Duration::from_secs(5));
        net.trace()
    };
    for seed in 0..5 {
        assert_eq!(trace(seed), trace(seed));
    }
}
