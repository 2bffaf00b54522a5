//! The comparison of tunnels runs: bare veth, the limit and Weald, one short round.
//!
//! No figure is held here, because the machine is shared; only that all are there and make sense.

use anyhow::{Result, ensure};
use bench::run::{self, Order};
use bench::scenarios::Times;
use weald_measure::results::parse_list;

#[test]
fn one_short_round_has_every_figure() -> Result<()> {
    let folder = tempdir();
    let out = folder.join("short.json");
    let order = Order {
        systems: ["raw", "limit", "weald"].map(ToOwned::to_owned).to_vec(),
        rounds: 1,
        times: Times::SHORT,
        only: Vec::new(),
        out: Some(out.clone()),
        command: "make bench SYSTEMS=raw,limit,weald ROUNDS=1".to_owned(),
    };
    let mut progress = Vec::new();
    let results = run::run(&order, &mut progress)?;
    let progress = String::from_utf8_lossy(&progress);
    for system in ["raw", "limit", "weald"] {
        let metrics = ["tcp1", "tcp4", "tcp1_cpu_all", "rtt_idle_p50"];
        for metric in metrics {
            let value = results.value(1, system, metric);
            ensure!(
                value.is_some_and(|value| value > 0.0),
                "{system} has {value:?} as {metric}\n{progress}"
            );
        }
    }
    for metric in ["tcp1_cpu_sender", "tcp1_service", "rss_idle", "tcp1_ratio"] {
        let value = results.value(1, "weald", metric);
        ensure!(
            value.is_some_and(|value| value > 0.0),
            "weald has {value:?} as {metric}\n{progress}"
        );
    }
    let list = parse_list(&std::fs::read_to_string(&out)?)?;
    ensure!(list.len() == results.records().len(), "another list");
    for (read, written) in list.iter().zip(results.records()) {
        let same = (&read.system, &read.metric) == (&written.system, &written.metric);
        let near = (read.value - written.value).abs() <= written.value.abs() * 1e-9;
        ensure!(same && near, "{written:?} was written as {read:?}");
    }
    let page = std::fs::read_to_string(out.with_extension("html"))?;
    ensure!(page.contains("<svg"), "no plot: {page}");
    ensure!(progress.contains("medians"), "no table: {progress}");
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

fn tempdir() -> std::path::PathBuf {
    std::env::temp_dir().join(format!("weald-side-by-side-{}", std::process::id()))
}
