//! One TCP flow through the tunnel against the same flow on the bare link, in one run.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::pair::{NODES, ON_ALPHA, ON_BETA, TABLE};
use netns_tests::{Attachment, Description, Fleet, Lab, Machine, Segment, command, require, wait};

/// Rounds; bare and tunnelled take turns in each.
const ROUNDS: usize = 3;
/// How long one measurement lasts.
const MEASURE: &str = "2";
/// The least median of the rounds' ratios. The goal is 0.10, where the best tunnel of the field
/// reached 0.14 when measured for this project. Eight runs of this test with a release build, on a
/// loaded machine, gave 0.103 to 0.182, with a median of 0.138; the rest is room for such machines,
/// on which the bare link alone varies by a half.
const LEAST_RATIO: f64 = 0.08;
const SOON: Duration = Duration::from_secs(20);

#[test]
fn one_tcp_flow_against_the_bare_link() -> Result<()> {
    require::programs(&["iperf3"])?;
    let node =
        |name: &str, number| Machine::host(name).attach(Attachment::to("lan").number(number));
    let lab = Lab::new(
        &Description::new()
            .segment(Segment::new("lan").v4("192.168.7.0/24"))
            .machine(node("alpha", 1))
            .machine(node("beta", 2)),
    )?;
    let mut fleet = Fleet::new(&lab)?;
    fleet.write_table(TABLE)?;
    for (machine, id) in NODES {
        fleet.add_node(machine, id, "acme", "")?;
        fleet.start(machine)?;
    }
    let (alpha, beta) = (lab.node("alpha"), lab.node("beta"));
    let _bare_server = beta.spawn(command("iperf3 -s"))?;
    let inner_beta = fleet.instance("beta", ON_BETA)?;
    let inner_alpha = fleet.instance("alpha", ON_ALPHA)?;
    let _inner_server = inner_beta.spawn(command("iperf3 -s"))?;
    beta.wait_tcp_listening(5201, SOON)?;
    inner_beta.wait_tcp_listening(5201, SOON)?;

    let (mut bare, mut tunnelled) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let to = beta.v4().to_string();
        bare.push(measure(|line| alpha.run_ok(command(line), SOON), &to)?);
        let through = |line: &str| inner_alpha.run_ok(command(line), SOON);
        tunnelled.push(measure(through, "10.30.1.2")?);
    }
    let mut ratios: Vec<f64> = tunnelled.iter().zip(&bare).map(|(t, b)| t / b).collect();
    let ratio = median(&mut ratios);
    let shown = format!("bare {bare:.2?}, tunnelled {tunnelled:.2?} Gbit/s, ratio {ratio:.3}");
    println!("{shown}");
    wait::until("the session is up and direct", SOON, || {
        let peer = fleet.peer("alpha", "home/beta")?;
        ensure!(peer["path"]["kind"] == "direct", "{peer}");
        Ok(())
    })?;
    ensure!(ratio >= LEAST_RATIO, "{shown}, less than {LEAST_RATIO}");
    Ok(())
}

/// Gbit/s that a receiver took in; the congestion control is named because the default varies.
fn measure(run: impl Fn(&str) -> Result<String>, to: &str) -> Result<f64> {
    let printed = run(&format!("iperf3 -J -C cubic -t {MEASURE} -c {to}"))?;
    let report: serde_json::Value = serde_json::from_str(&printed)?;
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(bits.with_context(|| format!("no rate in {printed}"))? / 1e9)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
