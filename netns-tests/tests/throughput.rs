//! One TCP flow through the tunnel against the same flow on the bare link, and one that a relay
//! forwards against one on a direct path, each in one run.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use netns_tests::pair::{self, NO_PUNCHING, NODES, ON_ALPHA, ON_BETA, TABLE};
use netns_tests::{Description, Fleet, Lab, Machine, Segment, command, require, wait};
use weald_measure::usage::cpu_seconds;

/// Rounds; bare and tunnelled take turns in each. All of them are measured, whatever they show, and
/// their median is judged once.
const ROUNDS: usize = 7;
/// How long one measurement lasts.
const MEASURE: &str = "2";
/// The least median of the rounds' ratios; the best tunnel of the field reached 0.14 when measured
/// for this project. Eleven runs with three rounds each of a release build, on two cores on which
/// the bare link alone varies by a half, gave 0.099 to 0.148, with a median of 0.129. The CPU time
/// beside it is the steadier figure.
const LEAST_RATIO: f64 = 0.10;
/// The least median of the rounds' ratios of a relayed flow to a direct one, both as packets: with
/// `auto` only the relayed one would take the L4 lane. Measured were 0.62 as packets, 0.62 with both
/// on the L4 lane, and 0.44 to 0.48 with `auto`.
const LEAST_RELAYED: f64 = 0.5;
const SOON: Duration = Duration::from_secs(20);

#[test]
fn one_tcp_flow_against_the_bare_link() -> Result<()> {
    require::programs(&["iperf3"])?;
    let node = |name: &str, number| Machine::host(name).at("lan", number);
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

    let daemons = NODES.map(|(machine, _)| fleet.daemon(machine).pid());
    let (mut bare, mut tunnelled, mut costs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let to = beta.v4().to_string();
        bare.push(measure(|line| alpha.run_ok(command(line), SOON), &to)?.rate);
        let before = cpu_of(daemons)?;
        let through = |line: &str| inner_alpha.run_ok(command(line), SOON);
        let measured = measure(through, "10.30.1.2")?;
        tunnelled.push(measured.rate);
        let after = cpu_of(daemons)?;
        costs.push([0, 1].map(|i| (after[i] - before[i]) / measured.bytes));
    }
    let mut ratios: Vec<f64> = tunnelled.iter().zip(&bare).map(|(t, b)| t / b).collect();
    let ratio = median(&mut ratios);
    let [sender, receiver] = medians(&costs);
    let shown = format!(
        "bare {bare:.2?}, tunnelled {tunnelled:.2?} Gbit/s, ratio {ratio:.3}; \
         daemons: sender {sender:.2}, receiver {receiver:.2} CPU ns/byte"
    );
    println!("{shown}");
    wait::until("the session is up and direct", SOON, || {
        let peer = fleet.peer("alpha", "home/beta")?;
        ensure!(peer["path"]["kind"] == "direct", "{peer}");
        Ok(())
    })?;
    ensure!(ratio >= LEAST_RATIO, "{shown}, less than {LEAST_RATIO}");
    Ok(())
}

#[test]
fn a_relayed_flow_against_a_direct_one() -> Result<()> {
    require::programs(&["iperf3"])?;
    let node = |name: &str, number| Machine::host(name).at("wan", number).at("lan", number);
    let lab = Lab::new(
        &Description::new()
            .segment(Segment::new("wan").v4("203.0.113.0/24"))
            .segment(Segment::new("lan").v4("192.168.7.0/24"))
            .machine(Machine::host("relay").at("wan", 10))
            .machine(node("alpha", 1))
            .machine(node("beta", 2))
            .machine(Machine::host("gamma").at("wan", 3)),
    )?;
    // The table names addresses on the LAN only, and others are not looked for.
    let [alpha, beta] = NODES;
    let nodes = [alpha, beta, ("gamma", "home/gamma")];
    let mut fleet = pair::start_nodes(&lab, &pair::table_of("l3"), &nodes, NO_PUNCHING)?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    let beta = fleet.instance("beta", ON_BETA)?;
    let gamma = fleet.instance("gamma", "home.lab.ghost.lab.0")?;
    let _servers = [
        beta.spawn(command("iperf3 -s"))?,
        gamma.spawn(command("iperf3 -s"))?,
    ];
    let run = |line: &str| alpha.run_ok(command(line), SOON);
    let relay = fleet.relay("relay").pid();
    let mut found = [(); 2].map(|()| (Vec::new(), Vec::new()));
    let ends = [
        (&beta, "beta", "10.30.1.2", "direct"),
        (&gamma, "gamma", "10.30.1.3", "relay"),
    ];
    for (server, _, ip, _) in ends {
        server.wait_tcp_listening(5201, SOON)?;
        run(&format!("ping -c 1 -W 10 {ip}"))?;
    }
    for _ in 0..ROUNDS {
        for ((_, machine, ip, kind), (rates, costs)) in ends.iter().zip(&mut found) {
            let peer = fleet.peer("alpha", &format!("home/{machine}"))?;
            ensure!(peer["path"]["kind"] == *kind, "{peer}");
            let pids = ["alpha", machine].map(|name| fleet.daemon(name).pid());
            let pids = [pids[0], pids[1], relay];
            let (before, relayed) = (cpu_of(pids)?, fleet.relayed_bytes("relay")?);
            let measured = measure(run, ip)?;
            let (after, relayed) = (cpu_of(pids)?, fleet.relayed_bytes("relay")? - relayed);
            // Probes go by the relay either way.
            let is_relayed = relayed as f64 > measured.bytes / 2.0;
            ensure!(
                is_relayed == (*kind == "relay"),
                "{kind}: {relayed} of {} bytes by the relay",
                measured.bytes
            );
            rates.push(measured.rate);
            costs.push([0, 1, 2].map(|i| (after[i] - before[i]) / measured.bytes));
        }
    }
    let [(direct, direct_costs), (relayed, relayed_costs)] = found;
    let mut ratios: Vec<f64> = relayed.iter().zip(&direct).map(|(r, d)| r / d).collect();
    let ratio = median(&mut ratios);
    let shown = format!(
        "direct {direct:.2?}, relayed {relayed:.2?} Gbit/s, ratio {ratio:.3}; CPU ns/byte of \
         sender, receiver, relay: direct {:.2?}, relayed {:.2?}",
        medians(&direct_costs),
        medians(&relayed_costs),
    );
    println!("{shown}");
    ensure!(ratio >= LEAST_RELAYED, "{shown}, less than {LEAST_RELAYED}");
    Ok(())
}

/// What one measurement found.
struct Measured {
    /// Gbit/s that the receiver took in.
    rate: f64,
    /// Bytes that it took in.
    bytes: f64,
}

/// One flow for a while; the congestion control is named because the default varies.
fn measure(run: impl Fn(&str) -> Result<String>, to: &str) -> Result<Measured> {
    let printed = run(&format!("iperf3 -J -C cubic -t {MEASURE} -c {to}"))?;
    let report: serde_json::Value = serde_json::from_str(&printed)?;
    let sum = &report["end"]["sum_received"];
    let bits = sum["bits_per_second"].as_f64();
    let bytes = sum["bytes"].as_f64();
    let (Some(bits), Some(bytes)) = (bits, bytes) else {
        bail!("no rate in {printed}");
    };
    let rate = bits / 1e9;
    Ok(Measured { rate, bytes })
}

/// Nanoseconds of CPU that each of the processes has used: steadier than rates on a machine with
/// other work.
fn cpu_of<const N: usize>(pids: [u32; N]) -> Result<[f64; N]> {
    let mut used = [0.0; N];
    for (pid, used) in pids.into_iter().zip(&mut used) {
        *used = cpu_seconds(pid)? * 1e9;
    }
    Ok(used)
}

/// The median of each column.
fn medians<const N: usize>(rows: &[[f64; N]]) -> [f64; N] {
    std::array::from_fn(|column| {
        let mut values: Vec<f64> = rows.iter().map(|row| row[column]).collect();
        median(&mut values)
    })
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
