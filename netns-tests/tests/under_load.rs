//! Paths that change and break under a running download and a stream of echos: nothing is reset,
//! every byte is right, and echos are back in time.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netns_tests::load::Load;
use netns_tests::pair::{self, ON_ALPHA, ON_BETA, TABLE};
use netns_tests::{Fleet, Impairment, Lab, Loss, Machine};
use netns_tests::{Node, wait};

const SOON: Duration = Duration::from_secs(20);
/// How long relayed flows may stand still when their relay is killed and started again.
const RELAY_TIME: Duration = Duration::from_secs(3);
/// Bytes of a download whose connection has settled: its ends have measured the way.
const UNDER_WAY: u64 = 1 << 20;
/// How long an echo may take more than its round trip once there is a way again.
const BACK_TIME: Duration = Duration::from_millis(300);
/// The same for one time of four, which may have met busy cores.
const BUSY_TIME: Duration = Duration::from_secs(1);
/// The longest gap in a stream of echos, one every 10 ms, that counts as none: a path that breaks
/// costs more, busy cores cost less.
const NO_GAP: Duration = Duration::from_millis(700);

const BETA: std::net::Ipv4Addr = std::net::Ipv4Addr::new(10, 30, 1, 2);

fn load(fleet: &Fleet<'_>) -> Result<Load> {
    let (alpha, beta) = (
        fleet.instance("alpha", ON_ALPHA)?,
        fleet.instance("beta", ON_BETA)?,
    );
    let load = Load::start(&alpha, &beta, BETA)?;
    load.wait_echo(Instant::now(), SOON)?;
    Ok(load)
}

fn set_lan(lab: &Lab, usable: bool) {
    let loss = if usable { 0.0 } else { 1.0 };
    pair::set_lan(lab, Impairment::loss(Loss::Random(loss)));
}

/// Fails if an echo that was sent since then is lost, or all were late for a while.
fn ensure_unbroken(load: &Load, since: Instant) -> Result<()> {
    let seen = load.since(since)?;
    println!("since nothing may be lost: {seen:?}");
    ensure!(seen.lost == 0 && seen.longest_gap <= NO_GAP, "{seen:?}");
    Ok(())
}

/// The two nodes, with every service on that lane.
fn start<'lab>(lab: &'lab Lab, lane: &str) -> Result<Fleet<'lab>> {
    pair::start_nodes(lab, &pair::table_of(lane), &pair::NODES, pair::NO_PUNCHING)
}

/// Fails unless the download goes on that lane.
fn ensure_lane(fleet: &Fleet<'_>, lane: &str) -> Result<()> {
    let flows = fleet.tool_json("alpha", &["flows"])?;
    let mut flows = flows.iter().flat_map(netns_tests::fleet::elements);
    let found = flows.any(|flow| flow["protocol"] == "tcp" && flow["lane"] == lane);
    ensure!(found, "{:?}", fleet.tool_json("alpha", &["flows"])?);
    Ok(())
}

#[test]
fn a_relay_that_is_killed_costs_relayed_flows_little_and_direct_ones_nothing() -> Result<()> {
    kill_the_relay("l3")
}

#[test]
fn connections_of_the_l4_lane_outlive_a_relay_that_is_killed() -> Result<()> {
    kill_the_relay("l4")
}

fn kill_the_relay(lane: &str) -> Result<()> {
    let lab = pair::lab()?;
    let mut fleet = start(&lab, lane)?;
    set_lan(&lab, false);
    let relayed = load(&fleet)?;
    pair::wait_path(&fleet, "relay", SOON)?;
    ensure_lane(&fleet, lane)?;
    relayed.wait_downloaded(UNDER_WAY, SOON)?;
    fleet.relay("relay").kill()?;
    let down = Instant::now();
    fleet.start_relay("relay", "hub/r1", "")?;
    let up = Instant::now();
    let took = relayed.wait_echo(up, SOON)?;
    ensure!(took <= RELAY_TIME, "echos are back after {took:?}");
    relayed.wait_download(SOON)?;
    // A sender doubles the pause before every further try (TCP on the L3 lane, QUIC between the nodes
    // on the other): what could not get through for a time is tried again after as long at most.
    let (resumed, limit) = (up.elapsed(), 2 * RELAY_TIME + (up - down));
    let summary = relayed.finish()?;
    println!(
        "relay away for {:?}, echos back after {took:?}, the download after {resumed:?}: {summary:?}",
        up - down
    );
    ensure!(
        resumed <= limit,
        "the download goes on after {resumed:?}, not within {limit:?}"
    );

    set_lan(&lab, true);
    let direct = load(&fleet)?;
    pair::wait_path(&fleet, "direct", SOON)?;
    let settled = Instant::now();
    direct.wait_echo(settled, SOON)?;
    direct.finish()?;
    let direct = load(&fleet)?;
    let killed = Instant::now();
    fleet.relay("relay").kill()?;
    direct.wait_echo(Instant::now() + RELAY_TIME, SOON)?;
    direct.wait_download(SOON)?;
    ensure_unbroken(&direct, killed)?;
    ensure!(pair::path_kind(&fleet)? == "direct");
    direct.finish().map(drop)
}

#[test]
fn a_lan_that_goes_and_comes_resets_nothing() -> Result<()> {
    cut_the_lan("l3")
}

#[test]
fn a_lan_that_goes_and_comes_resets_nothing_of_the_l4_lane() -> Result<()> {
    cut_the_lan("l4")
}

fn cut_the_lan(lane: &str) -> Result<()> {
    let lab = pair::lab()?;
    let fleet = start(&lab, lane)?;
    let load = load(&fleet)?;
    pair::wait_path(&fleet, "direct", SOON)?;
    ensure_lane(&fleet, lane)?;
    for _ in 0..2 {
        set_lan(&lab, false);
        pair::wait_path(&fleet, "relay", SOON)?;
        load.wait_echo(Instant::now(), SOON)?;
        load.wait_download(SOON)?;
        // A better path takes over while the former one still works.
        let mended = Instant::now();
        set_lan(&lab, true);
        pair::wait_path(&fleet, "direct", SOON)?;
        load.wait_echo(Instant::now(), SOON)?;
        load.wait_download(SOON)?;
        ensure_unbroken(&load, mended)?;
    }
    let summary = load.finish()?;
    println!("two outages of the LAN: {summary:?}");
    Ok(())
}

/// Gives everything that a router translates another port from now on, as one that has restarted
/// does; returns when it has forgotten the old one.
fn rebind(router: &Node, port: u16) -> Result<Instant> {
    router.nft(&format!(
        "flush chain ip lab-nat post\n\
         add rule ip lab-nat post oifname \"wan\" meta l4proto udp masquerade to :{port}\n"
    ))?;
    let forget = netns_tests::command("conntrack -F");
    router.run_ok(forget, SOON)?;
    let forgotten = Instant::now();
    wait::until("the router has given the new port", SOON, || {
        let list = netns_tests::command("conntrack -L -p udp");
        let entries = router.run_ok(list, SOON)?;
        ensure!(entries.contains(&format!("dport={port}")), "{entries}");
        Ok(())
    })?;
    Ok(forgotten)
}

/// Probes over the relay that either node has sent to the other and does not count as lost; an error if
/// one holds the relay's path for dead.
fn relay_probes(fleet: &Fleet<'_>) -> Result<[u64; 2]> {
    let mut good = [0; 2];
    for ((good, (machine, _)), (_, peer)) in good
        .iter_mut()
        .zip(pair::NODES)
        .zip(pair::NODES.into_iter().rev())
    {
        let peer = fleet.peer(machine, peer)?;
        let ways = peer["candidates"].as_array().into_iter().flatten();
        let relay = ways.clone().find(|way| way["path"]["kind"] == "relay");
        let relay = relay.filter(|way| way["state"] == "working" || way["state"] == "active");
        let relay = relay.with_context(|| format!("{machine}: {peer}"))?;
        let count = |key: &str| relay[key].as_u64().unwrap_or_default();
        *good = count("probes_sent").saturating_sub(count("probes_lost"));
    }
    Ok(good)
}

/// Waits until both nodes have had an answer over the relay: the way that packets take when the other
/// one is silent has got over what was before.
fn wait_relay_answers(fleet: &Fleet<'_>) -> Result<()> {
    let before = wait::until("the relay's path works", SOON, || relay_probes(fleet))?;
    wait::until("the relay's path answers", SOON, || {
        // One of them may still be under way.
        let now = relay_probes(fleet)?;
        let answered = now
            .iter()
            .zip(before)
            .all(|(now, before)| *now >= before + 2);
        ensure!(answered, "{before:?} then {now:?}");
        Ok(())
    })
}

/// Has a NAT forget its ports four times; the path is of `kind` each time before.
fn rebind_under_load(config: &str, kind: &str) -> Result<()> {
    netns_tests::require::programs(&["conntrack"])?;
    let lab = Lab::new(
        &pair::behind_nats("192.168.8.0/24")
            .machine(Machine::host("alpha").at("site-a", 11))
            .machine(Machine::host("beta").at("site-b", 12)),
    )?;
    let table = TABLE.lines().filter(|line| !line.contains("192.168.7."));
    let table: Vec<&str> = table.collect();
    let fleet = pair::start_nodes(&lab, &table.join("\n"), &pair::NODES, config)?;
    let load = load(&fleet)?;
    let router = lab.node("router-a");
    let begun = pair::sessions(&fleet)?;
    let mut took = Vec::new();
    for port in [20_000, 30_000, 40_000, 50_000] {
        pair::wait_path(&fleet, kind, SOON)?;
        wait_relay_answers(&fleet)?;
        load.wait_download(SOON)?;
        // Silence says nothing of a path that packets have come over for a moment only.
        load.wait_echo(Instant::now() + Duration::from_millis(500), SOON)?;
        let forgotten = rebind(router, port)?;
        took.push(load.wait_echo(forgotten, SOON)?);
        load.wait_download(SOON)?;
    }
    pair::ensure_same_session(&fleet, begun)?;
    let summary = load.finish()?;
    println!("{kind}: echos back after {took:?}: {summary:?}");
    took.sort();
    ensure!(
        took[2] <= BACK_TIME && took[3] <= BUSY_TIME,
        "echos are back after {took:?}"
    );
    Ok(())
}

#[test]
fn a_nat_that_forgets_its_ports_costs_relayed_flows_little() -> Result<()> {
    rebind_under_load(pair::NO_PUNCHING, "relay")
}

/// The far NAT lets the new port in only when the way has been punched anew: until then packets go
/// over the relay, before the old path is given up.
#[test]
fn a_nat_that_forgets_its_ports_costs_punched_flows_little() -> Result<()> {
    rebind_under_load("", "direct")
}
