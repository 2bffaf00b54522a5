//! Compares tunnels over long and lossy paths; `make bench-wan` calls it.
//!
//! `weald-wan [--systems a,b] [--rtt 20,100] [--loss 0,1] [--rate 100] [--only bulk,http] [--rounds N]
//! [--seconds N] [--out FILE.json]`

use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bench::wan::{self, Amount, Crowd, Order, Part, Selection, Times};

/// Rounds, and seconds of each connection and series of probes, where nothing else is said.
const ROUNDS: u32 = 5;
const SECONDS: u64 = 8;
/// A hundred requests for each page, or as many as can be begun in that time.
const PAGES: Amount = Amount {
    requests: 100,
    time: Duration::from_secs(30),
};
/// A thousand connections a second for a minute.
const CROWD: Crowd = Crowd {
    per_second: 1000,
    time: Duration::from_secs(60),
};

fn main() -> ExitCode {
    let outcome = order().and_then(|order| wan::run(&order, &mut std::io::stdout()));
    match outcome {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weald-wan: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn order() -> Result<Order> {
    let (mut systems, mut selection) = (Vec::new(), Selection::default());
    let (mut rounds, mut seconds, mut out) = (ROUNDS, SECONDS, None);
    let mut command = "make bench-wan".to_owned();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments.next();
        let value = value.with_context(|| format!("{argument} wants a value"))?;
        match argument.as_str() {
            "--systems" => systems = list(&value)?,
            "--rtt" => selection.round_trips = list(&value)?,
            "--loss" => selection.losses = list(&value)?,
            "--rate" => selection.rates = list(&value)?,
            "--only" => {
                let parts = value.split(',').map(|word| Part::of_word(word.trim()));
                selection.only = parts.collect::<Result<_>>()?;
            }
            "--rounds" => rounds = value.parse().context("--rounds wants a number")?,
            "--seconds" => seconds = value.parse().context("--seconds wants a number")?,
            "--out" => out = Some(value.clone().into()),
            other => bail!(
                "unknown argument {other:?}; usage: weald-wan [--systems a,b] [--rtt 20,100] \
                 [--loss 0,1] [--rate 100] [--only bulk,http] [--rounds N] [--seconds N] \
                 [--out FILE]"
            ),
        }
        let variable = argument.trim_start_matches('-').to_uppercase();
        command += &format!(" {variable}={value}");
    }
    let time = Duration::from_secs(seconds);
    Ok(Order {
        systems,
        plan: selection.plan()?,
        rounds,
        times: Times {
            tcp: time,
            probes: time,
            http: PAGES,
        },
        crowd: CROWD,
        out,
        command,
    })
}

fn list<T: FromStr>(value: &str) -> Result<Vec<T>> {
    let parts = value.split(',').map(str::trim);
    parts
        .map(|part| {
            part.parse()
                .ok()
                .with_context(|| format!("{part:?} in {value:?}"))
        })
        .collect()
}
