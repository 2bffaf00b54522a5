//! What the control plane costs, and how fast it is: root, a cluster and a relay on one machine, two
//! nodes on the same LAN, all of them real.
//!
//! Each round starts from nothing: first everything is left alone, then instances are deployed. Two
//! nodes that have talked keep a session for minutes, which would count as the control plane's.
//!
//! `make bench-control` runs it for figures; a short form is a test. What the overlay's data path
//! does is another bench's.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::lab::Lab;
use crate::tiers::{Role, Tiers};
use crate::{Attachment, Description, Machine, Segment, require, wait};
use weald_measure::results::{Results, spread};

mod deploy;
mod idle;

/// What is measured.
const SYSTEM: &str = "weald";
/// The machine of root and the cluster.
const CONTROL: &str = "control";
/// The node that instances are placed on, and whose idle costs are counted.
const SERVING: &str = "serving";
/// The node that asks for them by name.
const ASKING: &str = "asking";
/// The cluster's name, and its relay's.
const CLUSTER: &str = "lan";
const RELAY: &str = "lan/r1";
/// How long a step may take.
const SOON: Duration = Duration::from_secs(30);

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// How often all of it.
    pub rounds: u32,
    /// Deployments in each round.
    pub deployments: u32,
    /// For how long everything is left alone while it is watched.
    pub idle: Duration,
}

/// Each figure, its unit, and the most that it should be. Memory is of the idle time, and `then` of
/// the time after the deployments.
pub const METRICS: [(&str, &str, Option<f64>); 20] = [
    ("submit to first byte, p50", "ms", None),
    ("submit to first byte, p99", "ms", Some(300.0)),
    ("submit to first byte, most", "ms", None),
    ("rss root", "MB", None),
    ("rss cluster", "MB", None),
    ("rss root + cluster", "MB", Some(40.0)),
    ("rss worker", "MB", None),
    ("rss netmanager", "MB", None),
    ("rss worker + netmanager", "MB", Some(25.0)),
    ("rss root + cluster, then", "MB", None),
    ("rss worker + netmanager, then", "MB", None),
    ("cpu root", "% of a core", None),
    ("cpu cluster", "% of a core", None),
    ("cpu root + cluster", "% of a core", Some(0.5)),
    ("cpu worker", "% of a core", None),
    ("cpu netmanager", "% of a core", None),
    ("cpu worker + netmanager", "% of a core", Some(0.5)),
    ("control link, sent", "kbit/s", None),
    ("control link, received", "kbit/s", None),
    ("control link", "kbit/s", Some(2.0)),
];

/// Measures everything, and says on `out` how far it is.
///
/// # Errors
/// Without root, without a program that it needs, or when something does not work.
pub fn run(extent: Extent, results: &mut Results, out: &mut dyn Write) -> Result<()> {
    require::programs(&["nginx", "curl", "nft", "ip"])?;
    for round in 1..=extent.rounds {
        let lab = Lab::new(&lan())?;
        let mut tiers = start(&lab)?;
        writeln!(out, "round {round}: idle for {:?}", extent.idle)?;
        idle::measure(&lab, &mut tiers, extent.idle, round, results)?;
        writeln!(out, "round {round}: {} deployments", extent.deployments)?;
        let times = deploy::measure(&lab, &tiers, extent.deployments)?;
        let [p50, p99, most] = [50, 99, 100].map(|it| percentile(&times, it));
        for (metric, value) in [("p50", p50), ("p99", p99), ("most", most)] {
            let metric = format!("submit to first byte, {metric}");
            results.add(round, SYSTEM, &metric, value.context("no times")?, "ms");
        }
        idle::measure_memory(&mut tiers, round, results)?;
    }
    Ok(())
}

/// Starts everything and waits until it works.
fn start(lab: &Lab) -> Result<Tiers<'_>> {
    let mut tiers = Tiers::log_as_usual(lab, CONTROL)?;
    tiers.add_cluster(CONTROL, CLUSTER)?;
    tiers.add_relay(CONTROL, RELAY)?;
    tiers.add_node(CONTROL, SERVING)?;
    tiers.add_node(CONTROL, ASKING)?;
    tiers.login("Admin", "Admin")?;
    let alive = |nodes: &Value| {
        let nodes = nodes.as_array();
        nodes.is_some_and(|all| all.len() == 2 && all.iter().all(|it| it["standing"] == "alive"))
    };
    tiers.wait_api("both nodes are alive", "/api/v1/nodes", alive)?;
    for node in [SERVING, ASKING] {
        wait::until("the netmanager has everybody whom it dials", SOON, || {
            let status = tiers.fleet.tool_json(node, &["status"])?;
            let status = status.first().context("no status")?;
            ensure!(!status["cluster"]["observed"].is_null(), "{status}");
            let relay = &status["packets"]["relays"][0];
            ensure!(relay["state"] == "up", "{status}");
            Ok(())
        })?;
    }
    Ok(tiers)
}

/// The figures as a table: each one's median and spread over the rounds, and the goal.
#[must_use]
pub fn table(results: &Results) -> String {
    let mut text = format!(
        "{:28} {:>10} {:>10} {:>10} {:>8}  {}\n",
        "", "median", "least", "most", "goal", "unit"
    );
    for (metric, unit, goal) in METRICS {
        let Some(found) = spread(&results.values(SYSTEM, metric)) else {
            text.push_str(&format!("{metric:28} not measured\n"));
            continue;
        };
        let shown = goal.map_or(String::new(), |goal| format!("{goal}"));
        let missed = goal.is_some_and(|goal| found.median > goal);
        text.push_str(&format!(
            "{metric:28} {:>10.2} {:>10.2} {:>10.2} {shown:>8}  {unit}{}\n",
            found.median,
            found.least,
            found.most,
            if missed { "  MISSED" } else { "" }
        ));
    }
    text
}

/// The least of the values that so many per cent of them do not exceed.
fn percentile(values: &[Duration], per_cent: usize) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort();
    let rank = (sorted.len() * per_cent).div_ceil(100).max(1);
    sorted.get(rank - 1).map(|time| time.as_secs_f64() * 1000.0)
}

fn lan() -> Description {
    let host =
        |name: &str, number| Machine::host(name).attach(Attachment::to("lan").number(number));
    Description::new()
        .segment(Segment::new("lan").v4("192.0.2.0/24"))
        .machine(host(CONTROL, 10))
        .machine(host(SERVING, 11))
        .machine(host(ASKING, 12))
}

/// The pids of root, the cluster, and the serving node's worker and netmanager.
fn pids(tiers: &mut Tiers<'_>) -> Result<[u32; 4]> {
    let root = tiers.process(CONTROL, Role::Root)?.pid();
    let cluster = tiers.process(CONTROL, Role::Cluster)?.pid();
    let worker = tiers.process(SERVING, Role::Worker)?.pid();
    let netmanager = tiers.fleet.daemon(SERVING).pid();
    ensure!(root != cluster, "one process for two roles");
    Ok([root, cluster, worker, netmanager])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_values_themselves() {
        assert_eq!(percentile(&[], 50), None);
        let times: Vec<_> = (1..=50).rev().map(Duration::from_millis).collect();
        let [p50, p99, most] = [50, 99, 100].map(|it| percentile(&times, it));
        assert_eq!((p50, p99, most), (Some(25.0), Some(50.0), Some(50.0)));
        assert_eq!(percentile(&times[..1], 1), Some(50.0));
    }

    #[test]
    fn the_table_says_what_misses_its_goal() {
        let mut results = Results::new("make bench-control");
        results.add(1, SYSTEM, "control link", 2.5, "kbit/s");
        results.add(1, SYSTEM, "rss root + cluster", 30.0, "MB");
        let text = table(&results);
        let line = |metric: &str| {
            let found = text
                .lines()
                .find(|line| line.starts_with(&format!("{metric}  ")));
            found.unwrap_or_default().to_owned()
        };
        assert!(line("control link").ends_with("kbit/s  MISSED"), "{text}");
        assert!(line("rss root + cluster").ends_with(" MB"), "{text}");
        assert!(line("cpu root").ends_with("not measured"), "{text}");
    }
}
