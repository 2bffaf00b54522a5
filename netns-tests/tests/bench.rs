//! `netmanager bench` between two real nodes over an emulated link: every figure, sane relations
//! between them, and what `compare` says of runs that differ and of runs that do not.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::pair::{self, NO_PUNCHING, NODES, TABLE};
use netns_tests::{Fleet, Impairment, Lab};
use serde_json::Value;

/// The link is the bottleneck by far, so that figures hardly depend on what else the machine does.
const RATE: u64 = 40_000_000;
const THROTTLED: u64 = 10_000_000;
const QUEUE: Duration = Duration::from_millis(50);
const SOON: Duration = Duration::from_secs(20);
/// A bench tries rates, connections and ways one after the other.
const BENCH: Duration = Duration::from_secs(240);

/// The instance on beta, for whose node the name stands.
const BY_NAME: &str = "home.lab.echo.lab.1.instance.local";

const FIGURES: [&str; 16] = [
    "rtt_idle_p50",
    "rtt_idle_p99",
    "rtt_idle_p999",
    "tcp_up_1",
    "tcp_up_1_cpu_near",
    "tcp_up_1_cpu_far",
    "tcp_up_1_cpu_daemons",
    "tcp_down_1",
    "tcp_both_1",
    "tcp_up_8",
    "tcp_down_8",
    "tcp_both_8",
    "udp_64",
    "udp_1200",
    "connections",
    "rtt_load_p99",
];

#[test]
fn a_bench_has_every_figure_and_a_throttled_one_is_slower() -> Result<()> {
    let lab = pair::lab()?;
    let fleet = start(&lab)?;
    pair::set_lan(&lab, Impairment::rate(RATE, QUEUE));

    let refused = bench(&fleet, "beta", &["alpha"]).unwrap_err();
    ensure!(
        format!("{refused:#}").contains("[bench] respond = true"),
        "{refused:#}"
    );
    pair::wait_path(&fleet, "direct", SOON)?;

    let page = lab.node("alpha").write_file("bench.html", "")?;
    let shown = page.display().to_string();
    let quick = ["beta", "--rounds", "1", "--time", "0.2", "--html", &shown];
    let all: Value = serde_json::from_str(&bench(&fleet, "alpha", &quick)?)?;
    has_sane_figures(&all)?;
    let html = std::fs::read_to_string(&page)?;
    ensure!(html.contains("<svg") && html.contains("tcp_up_8"), "{html}");

    let only = [
        "--no-bare",
        "--rounds",
        "5",
        "--time",
        "0.8",
        "--only",
        "tcp_up_1",
    ];
    let run = |name: &str| -> Result<PathBuf> {
        let printed = bench(&fleet, "alpha", &[&[BY_NAME], &only[..]].concat())?;
        lab.node("alpha").write_file(name, &printed)
    };
    let first = run("first.json")?;
    pair::set_lan(&lab, Impairment::rate(THROTTLED, QUEUE));
    let throttled = run("throttled.json")?;
    // Two runs of the same one after the other may differ as the machine's other work does.
    for (second, expected) in [(&first, "no difference shown"), (&throttled, "slower")] {
        let differences = compare(&fleet, &first, second)?;
        let verdicts = ["tcp_up_1", "all rates"].map(|metric| verdict(&differences, metric));
        ensure!(
            verdicts.iter().all(|one| one == expected),
            "{expected} was expected: {differences:#}"
        );
    }
    let differences = compare(&fleet, &throttled, &first)?;
    ensure!(
        verdict(&differences, "tcp_up_1") == "faster",
        "{differences:#}"
    );
    Ok(())
}

/// Beta answers benches, alpha does not. No relay runs: under load a node would rather use it than
/// the slow LAN, and figures would be of both.
fn start(lab: &Lab) -> Result<Fleet<'_>> {
    let mut fleet = Fleet::new(lab)?;
    fleet.write_table(TABLE)?;
    let answers = format!("{NO_PUNCHING}[bench]\nrespond = true\nbare = true\n");
    for ((machine, id), config) in NODES.into_iter().zip([NO_PUNCHING, &answers]) {
        fleet.add_node(machine, id, "acme", config)?;
        fleet.start(machine)?;
    }
    Ok(fleet)
}

fn bench(fleet: &Fleet<'_>, machine: &str, arguments: &[&str]) -> Result<String> {
    let arguments = [&["--json", "bench"], arguments].concat();
    let command = fleet.tool_command(machine, &arguments)?;
    fleet.host(machine).run_ok(command, BENCH)
}

fn compare(fleet: &Fleet<'_>, first: &PathBuf, second: &PathBuf) -> Result<Value> {
    let [first, second] = [first, second].map(|path| path.display().to_string());
    let printed = bench(fleet, "alpha", &["compare", &first, &second])?;
    Ok(serde_json::from_str(&printed)?)
}

fn verdict(differences: &Value, metric: &str) -> String {
    let found = differences["differences"].as_array().into_iter().flatten();
    let mut own = found.filter(|one| one["metric"] == metric);
    let verdict = own.next().map(|one| &one["verdict"]);
    verdict
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn has_sane_figures(all: &Value) -> Result<()> {
    let about = &all["about"];
    ensure!(about["missing"] == serde_json::json!({}), "{about:#}");
    let note = |what: &str| about["notes"][what].as_str().unwrap_or_default();
    ensure!(note("peer") == "home/beta", "{about:#}");
    ensure!(note("path").starts_with("direct 192.168.7.2:"), "{about:#}");
    ensure!(note("lane").starts_with("l3 "), "{about:#}");
    for road in ["overlay", "bare"] {
        let figure = |metric: &str| value(all, road, metric);
        for metric in FIGURES {
            ensure!(
                figure(metric)? > 0.0 || metric.ends_with("daemons"),
                "{road} {metric}"
            );
        }
        ensure!(figure("rtt_idle_p50")? <= figure("rtt_idle_p99")?);
        ensure!(figure("rtt_idle_p99")? <= figure("rtt_idle_p999")?);
        // Much more than the link carries cannot have arrived, though what waited behind a gap comes
        // at once when that is filled, and loads are short; a busy machine may bring less.
        let link = RATE as f64 / 1e6;
        for one_way in ["tcp_up_1", "tcp_up_8", "tcp_down_1", "tcp_down_8"] {
            let rate = figure(one_way)?;
            ensure!(rate < link * 4.0, "{road} {one_way} {rate}");
            ensure!(rate > link * 0.1, "{road} {one_way} {rate}");
        }
        ensure!(figure("tcp_both_8")? < link * 8.0, "{road}");
        ensure!(figure("udp_1200")? > figure("udp_64")? * 0.5, "{road}");
        let daemons = figure("tcp_up_1_cpu_daemons")?;
        let ends = figure("tcp_up_1_cpu_near")? + figure("tcp_up_1_cpu_far")?;
        ensure!(
            daemons <= ends,
            "{road}: daemons {daemons}, both ends {ends}"
        );
    }
    // A daemon works for each byte of the overlay.
    ensure!(value(all, "overlay", "tcp_up_1_cpu_daemons")? > 0.0);
    Ok(())
}

fn value(all: &Value, road: &str, metric: &str) -> Result<f64> {
    let records = all["records"].as_array().context("no records")?;
    let is_it = |one: &&Value| one["system"] == road && one["metric"] == metric;
    let record = records.iter().find(is_it);
    record
        .and_then(|one| one["value"].as_f64())
        .with_context(|| format!("no {metric} of {road} in {all:#}"))
}
