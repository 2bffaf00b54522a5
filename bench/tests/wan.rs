//! Over a long and lossy path the L4 lane carries what the path can bring, where the kernel's cubic
//! cannot: a short round of `make bench-wan`, with all that it measures.
//!
//! The machine is shared and the build is a debug one, so what is held is far below the figures.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bench::wan::{self, Amount, Cell, Crowd, Order, Part, Path, Plan, Times};

const SHORT: Times = Times {
    tcp: Duration::from_secs(5),
    probes: Duration::from_millis(500),
    http: Amount {
        requests: 4,
        time: Duration::from_secs(20),
    },
};
const PATH: Path = Path {
    round_trip: Duration::from_millis(20),
    loss_percent: 1.0,
    rate_mbit: 50,
};

fn order(systems: &[&str], plan: Plan, times: Times, command: &str) -> Order {
    Order {
        systems: systems.iter().map(|name| (*name).to_owned()).collect(),
        plan,
        rounds: 1,
        times,
        crowd: Crowd {
            per_second: 100,
            time: Duration::from_secs(1),
        },
        out: None,
        command: command.to_owned(),
    }
}

#[test]
fn at_20_ms_and_1_percent_of_loss_the_lane_carries_most_of_the_rate() -> Result<()> {
    let plan = Plan {
        cells: vec![Cell {
            path: PATH,
            parts: vec![Part::Bulk, Part::Http],
        }],
        lan: Vec::new(),
    };
    let systems = ["raw-cubic", "weald-l4", "weald-auto"];
    let command =
        "make bench-wan SYSTEMS=raw-cubic,weald-l4,weald-auto RTT=20 LOSS=1 RATE=50 ROUNDS=1";
    let order = order(&systems, plan, SHORT, command);
    let mut progress = Vec::new();
    let results = wan::run(&order, &mut progress)?;
    let progress = String::from_utf8_lossy(&progress);
    println!("{progress}");
    let of = |system: &str, figure: &str| {
        let value = results.value(1, system, &PATH.metric(figure));
        value.with_context(|| format!("no {figure} of {system}\n{progress}"))
    };
    let cubic = of("raw-cubic", "tcp1")?;
    for lane in ["weald-l4", "weald-auto"] {
        let rate = of(lane, "tcp1")?;
        ensure!(
            rate >= 0.6 * f64::from(PATH.rate_mbit),
            "{lane}: {progress}"
        );
        ensure!(rate >= 3.0 * cubic, "{lane}: {progress}");
    }
    for system in systems {
        for page in ["1k", "100k", "1m"] {
            let figure = |what: &str| of(system, &format!("http_{page}_{what}"));
            ensure!(figure("count")? == 4.0, "{system}: {progress}");
            // One round trip for the connection and one for the page, or accepted early one.
            ensure!(figure("p50")? >= 20.0, "{system}: {progress}");
            ensure!(figure("p99")? >= figure("p50")?, "{system}: {progress}");
        }
    }
    Ok(())
}

#[test]
fn pings_beside_a_transfer_and_connections_in_quick_succession_are_measured() -> Result<()> {
    let path = Path {
        loss_percent: 0.0,
        ..PATH
    };
    let plan = Plan {
        cells: vec![Cell {
            path,
            parts: vec![Part::Ping],
        }],
        lan: vec![Part::Lan, Part::Connections],
    };
    let times = Times {
        tcp: Duration::from_secs(1),
        ..SHORT
    };
    let command = "make bench-wan SYSTEMS=weald-l3,weald-l4 RTT=20 LOSS=0 RATE=50 \
                   ONLY=ping,lan,connections ROUNDS=1";
    let order = order(&["weald-l3", "weald-l4"], plan, times, command);
    let mut progress = Vec::new();
    let results = wan::run(&order, &mut progress)?;
    let progress = String::from_utf8_lossy(&progress);
    println!("{progress}");
    let of = |system: &str, metric: &str| {
        let value = results.value(1, system, metric);
        value.with_context(|| format!("no {metric} of {system}\n{progress}"))
    };
    for system in ["weald-l3", "weald-l4"] {
        ensure!(of(system, &path.metric("ping_p50"))? >= 20.0, "{progress}");
        of(system, &path.metric("ping_added_p50"))?;
        ensure!(of(system, "tcp1_lan")? > 0.0, "{progress}");
    }
    ensure!(of("weald-l4", "tcp1_lan_ratio")? > 0.0, "{progress}");
    ensure!(of("weald-l4", "connections_failed")? == 0.0, "{progress}");
    ensure!(of("weald-l4", "connections_left")? == 0.0, "{progress}");
    Ok(())
}
