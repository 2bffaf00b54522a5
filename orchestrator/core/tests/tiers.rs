//! Root, two clusters and four workers over links that lose, double, delay and break, with crashes
//! of every process at every moment.
//!
//! Each seed is one history: some minutes of chaos, then calm. After it everything that was
//! acknowledged to the user runs, once, and nothing else does; at no time has an address two owners.
//! `WEALD_SEED=n` replays one, `WEALD_SEEDS=n` runs the first n.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests may fail loudly; clippy exempts only the tests themselves"
)]

mod support {
    pub(crate) mod names;
    pub(crate) mod random;
}

/// What is simulated, from the ground up.
mod simulated {
    pub(crate) mod fault;
    pub(crate) mod site;

    pub(crate) mod links;
    pub(crate) mod runtime;
    pub(crate) mod tables;
    pub(crate) mod trust;

    pub(crate) mod process;
    pub(crate) mod user;

    pub(crate) mod asks;
    pub(crate) mod effects;
    pub(crate) mod operators;
    pub(crate) mod trouble;
    pub(crate) mod wires;
    pub(crate) mod world;

    pub(crate) mod agreed;
    pub(crate) mod check;
}

use simulated::fault::Broken;
use simulated::world::{Before, World};

/// Histories per run.
const SEEDS: u64 = 200;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap())
}

#[test]
fn three_tiers_agree_whatever_is_lost() {
    let seeds = match number("WEALD_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("WEALD_SEEDS").unwrap_or(SEEDS),
    };
    let histories = seeds.end - seeds.start;
    let (mut crashes, mut commands) = (0, 0);
    let mut faults = Vec::new();
    for seed in seeds {
        match World::new(seed, Before::PersistThenSend).run() {
            Ok(lived) => {
                crashes += u64::from(lived.crashes);
                commands += lived.commands;
            }
            Err(fault) => faults.push(format!(
                "seed {seed} (replay with WEALD_SEED={seed}): {fault}"
            )),
        }
    }
    let failed = faults.len();
    assert!(
        faults.is_empty(),
        "{failed} of {histories}:\n{}",
        faults.join("\n")
    );
    assert!(crashes >= 5 * histories, "only {crashes} crashes");
    assert!(commands >= 20 * histories, "only {commands} commands");
}

/// The check can fail: whoever tells before it has written loses what it has promised.
#[test]
fn sending_before_persisting_loses_what_was_promised() {
    let broken = (0..SEEDS).filter_map(|seed| {
        let fault = World::new(seed, Before::SendThenPersist).run().err()?;
        (fault.broken == Broken::Promise).then_some(seed)
    });
    let broken: Vec<u64> = broken.collect();
    assert!(broken.len() > 3, "promises were broken with {broken:?}");
    for seed in broken {
        assert!(World::new(seed, Before::PersistThenSend).run().is_ok());
    }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let lived = |seed| World::new(seed, Before::PersistThenSend).traced().run();
    let seventh = lived(7).unwrap();
    assert_eq!(lived(7), Ok(seventh));
    assert_ne!(lived(8).unwrap().trace, seventh.trace);
}
