//! What nodes cost that nobody uses: an open session, a session that is closed after a while and is
//! back at once, and forty nodes in one lab.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netns_tests::pair::{self, NODES, ON_ALPHA, ON_BETA, TABLE};
use netns_tests::{Capture, Captured, Description, Fleet, Impairment, Lab, Machine, Segment, wait};

const SOON: Duration = Duration::from_secs(20);
/// What a peer may cost that nobody uses, both directions together.
const KILOBIT: f64 = 1000.0;
/// Headers of IPv4 and UDP.
const HEADERS: u64 = 28;
/// After how long sessions are closed here, instead of five minutes; they are quiet after a tenth.
const TEARDOWN: Duration = Duration::from_secs(40);
/// How long is counted.
const COUNTED: Duration = Duration::from_secs(25);

fn bits_per_second(captured: &Captured, time: Duration) -> f64 {
    let flows = captured.udp_flows();
    let bytes: u64 = flows
        .values()
        .map(|tally| tally.payload_bytes + tally.packets * HEADERS)
        .sum();
    8.0 * bytes as f64 / time.as_secs_f64()
}

/// Whether alpha has a session with beta, in a word.
fn state(fleet: &Fleet<'_>) -> Result<String> {
    let peer = fleet.peer("alpha", "home/beta")?;
    Ok(peer["state"].as_str().unwrap_or_default().to_owned())
}

/// A peer with two paths: the LAN, and by way of a relay, with which the node has a session as well.
/// Everything counts that the host sends or receives on the interface of each.
#[test]
fn a_peer_that_nobody_uses_costs_a_kilobit_and_then_nothing_and_is_back_at_once() -> Result<()> {
    let lab = pair::lab()?;
    let one_way = Duration::from_millis(20);
    pair::set_lan(&lab, Impairment::delay(one_way));
    let config = format!(
        "[paths]\npunch = false\nidle_teardown = {}\n",
        TEARDOWN.as_secs()
    );
    let fleet = pair::start_nodes(&lab, TABLE, &NODES, &config)?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    let beta = fleet.instance("beta", ON_BETA)?;
    let _echo = beta.udp_echo(pair::anywhere())?;
    let echo = |timeout| alpha.udp_exchange(pair::at("10.30.1.2"), b"echo", timeout);
    wait::until("an echo comes back", SOON, || {
        echo(Duration::from_millis(500))
    })?;
    wait::until("both paths work", SOON, || {
        let peer = fleet.peer("alpha", "home/beta")?;
        let ways = peer["candidates"].as_array().context("no ways")?;
        let work = |way: &&serde_json::Value| way["state"] == "active" || way["state"] == "working";
        ensure!(ways.iter().filter(work).count() == 2, "{peer}");
        Ok(())
    })?;
    let used = Instant::now();
    let _ = echo(SOON)?;

    std::thread::sleep(TEARDOWN / 8);
    let host = lab.node("alpha");
    let captures: Vec<Capture> = ["eth0", "eth1"]
        .into_iter()
        .map(|interface| host.capture(interface))
        .collect::<Result<_>>()?;
    let since = Instant::now();
    std::thread::sleep(COUNTED);
    let counted = since.elapsed();
    let (mut all, mut flows) = (Vec::new(), Vec::new());
    for capture in captures {
        let captured = capture.stop()?;
        all.push(bits_per_second(&captured, counted));
        flows.push(captured.udp_flows());
    }
    println!("an idle relay and peer by it, an idle peer: {all:.0?} bit/s");
    ensure!(state(&fleet)? == "up");
    let sum: f64 = all.iter().sum();
    ensure!(sum > 100.0, "nothing keeps the session: {all:.0?} bit/s");
    let most = all.iter().copied().fold(0.0, f64::max);
    ensure!(most <= KILOBIT, "{all:.0?} bit/s: {flows:#?}");

    wait::until("the session is closed at both ends", SOON, || {
        let far = fleet.peer("beta", "home/alpha")?;
        let states = [state(&fleet)?, far["state"].to_string()];
        ensure!(states == ["unknown", "\"unknown\""], "{states:?}");
        Ok(())
    })?;
    let closed = used.elapsed();
    ensure!(closed >= TEARDOWN, "closed after {closed:?}");
    // The last words cross, and are answered with those of the other end.
    let capture = host.capture("eth1")?;
    wait::until("the last words have come", SOON, || {
        let before = capture.look(Captured::len);
        std::thread::sleep(20 * one_way);
        let now = capture.look(Captured::len);
        ensure!(now == before, "{} more", now - before);
        Ok(())
    })?;
    drop(capture);
    // Neither end dials the other one because it was told.
    let capture = host.capture("eth1")?;
    std::thread::sleep(Duration::from_secs(5));
    let quiet = capture.stop()?;
    ensure!(quiet.udp_flows().is_empty(), "{:?}", quiet.udp_flows());
    ensure!(state(&fleet)? == "unknown");

    let since = Instant::now();
    let _ = echo(SOON)?;
    let took = since.elapsed();
    // A handshake, and a round trip for the echo itself; the relay's way is shorter here.
    let limit = 4 * one_way + Duration::from_millis(300);
    println!("back after {took:?}");
    ensure!(took <= limit, "back after {took:?}");
    Ok(())
}

const CROWD: usize = 40;
/// How long the crowd is counted.
const CROWD_COUNTED: Duration = Duration::from_secs(10);

/// A table of so many nodes on one LAN, each with an instance of a service.
fn crowd_table() -> String {
    let mut table =
        "[[relay]]\nid = \"hub/r1\"\naddresses = [\"192.168.0.250:10250\"]\n".to_owned();
    for number in 1..=CROWD {
        table.push_str(&format!(
            "[[node]]\nid = \"home/n{number}\"\norganisation = \"acme\"\n\
             addresses = [\"192.168.0.{number}:10260\"]\n\
             ipv4 = \"10.30.0.{number}\"\nipv6 = \"fdff::{number}\"\n"
        ));
    }
    table.push_str(
        "[[service]]\napplication = \"home.lab\"\nname = \"echo.lab\"\norganisation = \"acme\"\n\
         rr = { ipv4 = \"10.30.100.1\", ipv6 = \"fdff:2000::1\" }\n\
         closest = { ipv4 = \"10.30.101.1\", ipv6 = \"fdff:1000::1\" }\n",
    );
    for number in 1..=CROWD {
        table.push_str(&format!(
            "[[service.instance]]\nnumber = {}\nnode = \"home/n{number}\"\n\
             ipv4 = \"10.30.1.{number}\"\nipv6 = \"fdff::1:{number}\"\n",
            number - 1
        ));
    }
    table
}

/// Bytes that a node's data socket has sent and received, with headers.
fn socket_bytes(fleet: &Fleet<'_>, machine: &str) -> Result<u64> {
    let status = fleet.tool_json(machine, &["status"])?;
    let traffic = status.first().map(|status| &status["packets"]["traffic"]);
    let traffic = traffic.context("no status")?;
    let count = |key: &str| traffic[key].as_u64().with_context(|| format!("no {key}"));
    let datagrams = count("socket_in_datagrams")? + count("socket_out_datagrams")?;
    Ok(count("socket_in_bytes")? + count("socket_out_bytes")? + datagrams * HEADERS)
}

#[test]
fn forty_nodes_that_nobody_uses_cost_a_kilobit_each() -> Result<()> {
    let machines: Vec<String> = (1..=CROWD).map(|number| format!("n{number}")).collect();
    let segment = Segment::new("lan").v4("192.168.0.0/24");
    let mut description = Description::new()
        .segment(segment)
        .machine(Machine::host("relay").at("lan", 250));
    for (machine, number) in machines.iter().zip(1..) {
        description = description.machine(Machine::host(machine).at("lan", number));
    }
    let lab = Lab::new(&description)?;
    let mut fleet = Fleet::new(&lab)?;
    fleet.write_table(&crowd_table())?;
    fleet.start_relay("relay", "hub/r1", "")?;
    for machine in &machines {
        let teardown = "[paths]\nidle_teardown = 10\n";
        fleet.add_node(machine, &format!("home/{machine}"), "acme", teardown)?;
        fleet.start_quiet(machine)?;
    }
    // Each has a session with the next one, so that there is something to close.
    for (machine, number) in machines.iter().zip(0..) {
        let next = (number + 1) % CROWD;
        let name = format!("home.lab.echo.lab.{next}.instance");
        fleet.tool(machine, &["ping", &name, "-c", "1", "-W", "5"])?;
    }
    wait::until("all sessions are closed", Duration::from_secs(40), || {
        for machine in &machines {
            let status = fleet.tool_json(machine, &["status"])?;
            let up = &status[0]["packets"]["peers_up"];
            ensure!(*up == 0, "{machine}: {up} up");
        }
        Ok(())
    })?;
    let since = Instant::now();
    let mut before = Vec::new();
    for machine in &machines {
        before.push((socket_bytes(&fleet, machine)?, since.elapsed()));
    }
    std::thread::sleep(CROWD_COUNTED);
    let mut rates = Vec::new();
    for (machine, (bytes, at)) in machines.iter().zip(before) {
        let bytes = socket_bytes(&fleet, machine)? - bytes;
        rates.push(8.0 * bytes as f64 / (since.elapsed() - at).as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    let (middle, most) = (rates[CROWD / 2], rates[CROWD - 1]);
    println!("{CROWD} idle nodes: {middle:.0} bit/s in the middle, at most {most:.0}");
    ensure!(most > 0.0, "nothing keeps them at their relay");
    ensure!(most <= KILOBIT, "{rates:?}");
    Ok(())
}
