//! Compares tunnels; `make bench` and `make bench-all` call it.
//!
//! `weald-bench [--systems a,b] [--only tcp1,tcp4] [--rounds N] [--short] [--all] [--out FILE.json]`

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use bench::run::{self, Order};
use bench::scenarios::{PARTS, Times};
use bench::systems::{DEFAULT, MORE};

/// Rounds, where nothing else is said.
const ROUNDS: u32 = 5;

fn main() -> ExitCode {
    let outcome = order().and_then(|order| run::run(&order, &mut std::io::stdout()));
    match outcome {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weald-bench: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn order() -> Result<Order> {
    let names =
        |names: &[&str]| -> Vec<String> { names.iter().map(|name| (*name).to_owned()).collect() };
    let mut order = Order {
        systems: names(&DEFAULT),
        rounds: ROUNDS,
        times: Times::FULL,
        only: Vec::new(),
        out: None,
        command: String::new(),
    };
    let mut target = "bench";
    let mut said = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || {
            let value = arguments.next();
            value.with_context(|| format!("{argument} wants a value"))
        };
        match argument.as_str() {
            "--systems" => {
                let value = value()?;
                order.systems = list(&value);
                said.push(format!("SYSTEMS={value}"));
            }
            "--only" => {
                let value = value()?;
                order.only = list(&value);
                let unknown = order.only.iter().find(|name| !PARTS.contains(&&***name));
                if let Some(unknown) = unknown {
                    bail!(
                        "nothing is called {unknown:?}; there are {}",
                        PARTS.join(", ")
                    );
                }
                said.push(format!("ONLY={value}"));
            }
            "--rounds" => {
                let value = value()?;
                order.rounds = value.parse().context("--rounds wants a number")?;
                said.push(format!("ROUNDS={value}"));
            }
            "--out" => {
                let value = value()?;
                said.push(format!("OUT={value}"));
                order.out = Some(value.into());
            }
            "--short" => {
                order.times = Times::SHORT;
                said.push("SHORT=1".to_owned());
            }
            "--all" => {
                target = "bench-all";
                order.systems.extend(names(&MORE));
            }
            other => bail!(
                "unknown argument {other:?}; \
                 usage: weald-bench [--systems a,b] [--only tcp1,tcp4] [--rounds N] [--short] [--all] [--out FILE]"
            ),
        }
    }
    if order.rounds == 1 {
        order.times = Times::SHORT;
    }
    order.command = std::iter::once(format!("make {target}"))
        .chain(said)
        .collect::<Vec<_>>()
        .join(" ");
    Ok(order)
}

fn list(value: &str) -> Vec<String> {
    let names = value.split(',').map(str::trim);
    names.map(str::to_owned).collect()
}
