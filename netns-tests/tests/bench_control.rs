//! The bench of the control plane, in short: every figure is there and is one, and those that do not
//! depend on how busy the machine is are within their goals.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::control_bench::{Extent, METRICS, run, table};
use netns_tests::fleet::netmanager_binary;
use weald_measure::results::Results;

/// What a few seconds of counting hold more than a minute has on average: one heartbeat, one
/// keep-alive.
const SHORT: f64 = 1.25;
/// How much larger programs are that are built for debugging.
const DEBUG: f64 = 1.3;

/// How many times its goal a figure may be here; none if it depends on how busy the machine is.
fn slack(metric: &str) -> Result<Option<f64>> {
    let folder = netmanager_binary()?;
    let folder = folder.parent().context("no folder")?;
    let size = if folder.ends_with("release") {
        1.0
    } else {
        DEBUG
    };
    Ok(match metric {
        "rss root + cluster" | "rss worker + netmanager" => Some(size),
        "control link" => Some(SHORT),
        _ => None,
    })
}

#[test]
fn every_figure_is_there_and_small() -> Result<()> {
    let mut results = Results::new("a test");
    let extent = Extent {
        rounds: 1,
        deployments: 3,
        idle: Duration::from_secs(6),
    };
    run(extent, &mut results, &mut std::io::stdout())?;
    print!("{}", table(&results));
    let value = |metric: &str| results.value(1, "weald", metric).context("no value");
    for (metric, unit, goal) in METRICS {
        let found = results.records().iter().find(|it| it.metric == metric);
        let found = found.with_context(|| format!("no {metric}"))?;
        ensure!(found.unit == unit, "{found:?}");
        // Processor time is counted in ticks, of which there may be none.
        let least = if metric.starts_with("cpu") {
            0.0
        } else {
            f64::MIN_POSITIVE
        };
        ensure!(found.value.is_finite() && found.value >= least, "{found:?}");
        if let Some((slack, goal)) = slack(metric)?.zip(goal) {
            let most = goal * slack;
            ensure!(found.value <= most, "{found:?}, at most {most}");
        }
    }
    ensure!(results.records().len() == METRICS.len(), "others as well");
    let [p50, p99] = [
        value("submit to first byte, p50")?,
        value("submit to first byte, p99")?,
    ];
    ensure!(p50 <= p99, "{p50} {p99}");
    let [root, cluster] = [value("rss root")?, value("rss cluster")?];
    ensure!(value("rss root + cluster")? == root + cluster);
    Ok(())
}
