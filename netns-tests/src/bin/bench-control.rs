//! Measures the control plane and prints a table; `make bench-control` calls it. `ROUNDS` says how
//! often, `OUT` where the figures go.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use netns_tests::control_bench::{Extent, run, table};
use weald_measure::results::Results;

/// How often all of it is measured, unless told otherwise.
const ROUNDS: u32 = 3;
/// Where the figures go, unless told otherwise.
const OUT: &str = "bench/results/control.json";
/// Deployments in each round.
const DEPLOYMENTS: u32 = 50;
/// For how long everything is left alone.
const IDLE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-control failed: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> Result<()> {
    let said = |name: &str| std::env::var(name).ok().filter(|it| !it.is_empty());
    let rounds = match said("ROUNDS") {
        Some(text) => text.parse().context("ROUNDS is no number")?,
        None => ROUNDS,
    };
    let out = PathBuf::from(said("OUT").unwrap_or_else(|| OUT.to_owned()));
    let mut results = Results::new(&format!("make bench-control ROUNDS={rounds}"));
    let extent = Extent {
        rounds,
        deployments: DEPLOYMENTS,
        idle: IDLE,
    };
    run(extent, &mut results, &mut std::io::stderr())?;
    let about = results.write(&out)?;
    print!("{}", table(&results));
    println!("written to {} and {}", out.display(), about.display());
    Ok(())
}
