//! More than one relay between two nodes that have no direct path: packets take the near one, whatever its
//! place in the table, and another one while it is away. No connection notices.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netns_tests::load::Load;
use netns_tests::pair::{self, NODES, ON_ALPHA, ON_BETA, TABLE};
use netns_tests::{Attachment, Fleet, Impairment, Lab, Link, Machine, wait};
use serde_json::Value;

/// Longer than anything takes that comes at all.
const SOON: Duration = Duration::from_secs(40);
/// How long relayed flows may stand still when their relay dies.
const RELAY_TIME: Duration = Duration::from_secs(3);
/// How far the far relays are, one way; the near one is on the same wire as the routers.
const FAR: Duration = Duration::from_millis(30);
/// What of the download is looked at.
const PIECE: u64 = 2_000_000;
/// The machine of the near relay in the lab of [`pair::behind_nats`].
const NEAR: &str = "relay";

fn far(number: u32) -> String {
    format!("far{number}")
}

/// Two sites behind NATs, a near relay, and so many far ones.
fn lab(far_relays: u32) -> Result<Lab> {
    let mut description = pair::behind_nats("192.168.8.0/24")
        .machine(Machine::host("alpha").at("site-a", 11))
        .machine(Machine::host("beta").at("site-b", 12));
    for number in 1..=far_relays {
        let link = Link::emulated(Impairment::delay(FAR), number.into());
        let attachment = Attachment::to("internet").number(20 + number).link(link);
        description = description.machine(Machine::host(&far(number)).attach(attachment));
    }
    Lab::new(&description)
}

/// Starts all: the far relays stand first in the table, the near one last, and nodes have no addresses.
fn start(lab: &Lab, far_relays: u32) -> Result<Fleet<'_>> {
    let mut fleet = Fleet::new(lab)?;
    let mut rows = String::new();
    for number in 1..=far_relays {
        let machine = far(number);
        let at = lab.node(&machine).v4();
        rows += &format!("[[relay]]\nid = \"hub/{machine}\"\naddresses = [\"{at}:10250\"]\n\n");
        fleet.start_relay(&machine, &format!("hub/{machine}"), "")?;
    }
    let table = TABLE
        .replace("addresses = [\"192.168.7.1:10260\"]\n", "")
        .replace("addresses = [\"192.168.7.2:10260\"]\n", "");
    fleet.write_table(&format!("{rows}{table}"))?;
    fleet.start_relay(NEAR, "hub/r1", "")?;
    for (machine, id) in NODES {
        fleet.add_node(machine, id, "acme", pair::NO_PUNCHING)?;
        fleet.start(machine)?;
    }
    Ok(fleet)
}

fn load(fleet: &Fleet<'_>) -> Result<Load> {
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    let beta = fleet.instance("beta", ON_BETA)?;
    let load = Load::start(&alpha, &beta, [10, 30, 1, 2].into())?;
    load.wait_echo(Instant::now(), SOON)?;
    Ok(load)
}

/// Waits until both nodes send to each other through that relay.
fn wait_relay(fleet: &Fleet<'_>, relay: &str) -> Result<()> {
    wait::until(&format!("both nodes use {relay}"), SOON, || {
        for ((machine, _), (_, peer)) in NODES.iter().zip(NODES.iter().rev()) {
            let peer = fleet.peer(machine, peer)?;
            let path = &peer["path"];
            ensure!(path["kind"] == "relay", "{machine}: {path}");
            ensure!(path["relay"] == relay, "{machine}: {path}");
        }
        Ok(())
    })
}

/// Fails unless the download goes on, by the counters of the relay on `over`, and the one on `beside` carries
/// no more than probes meanwhile.
fn ensure_carried(fleet: &Fleet<'_>, over: &str, beside: &str) -> Result<()> {
    let before = fleet.relayed_bytes(over)?;
    let idle = fleet.relayed_bytes(beside)?;
    let carried = wait::until("the relay carries the download", SOON, || {
        let carried = fleet.relayed_bytes(over)? - before;
        ensure!(carried >= PIECE, "{over}: {carried} bytes");
        Ok(carried)
    })?;
    let idle = fleet.relayed_bytes(beside)? - idle;
    ensure!(
        idle < carried / 20,
        "{over}: {carried} bytes, {beside}: {idle}"
    );
    Ok(())
}

/// Waits until packets go over nothing but the path in use: after a change they take both for a while.
fn relay_is_alone(fleet: &Fleet<'_>, load: &Load, relay: &str) -> Result<()> {
    wait_relay(fleet, relay)?;
    load.wait_echo(Instant::now() + Duration::from_secs(1), SOON)?;
    Ok(())
}

fn relays_of(fleet: &Fleet<'_>, machine: &str) -> Result<Vec<String>> {
    let status = fleet.tool_json(machine, &["status"])?;
    let relays = status.first().context("no status")?["packets"]["relays"].clone();
    let relays: Vec<Value> = serde_json::from_value(relays)?;
    let up = relays.iter().filter(|relay| relay["state"] == "up");
    Ok(up
        .map(|relay| relay["relay"].as_str().unwrap_or_default().to_owned())
        .collect())
}

#[test]
fn flows_take_the_near_relay_and_the_far_one_while_it_is_away() -> Result<()> {
    let lab = lab(1)?;
    let mut fleet = start(&lab, 1)?;
    let load = load(&fleet)?;
    relay_is_alone(&fleet, &load, "hub/r1")?;
    let begun = pair::sessions(&fleet)?;
    ensure_carried(&fleet, NEAR, &far(1))?;

    fleet.relay(NEAR).kill()?;
    let killed = Instant::now();
    let took = load.wait_echo(killed, SOON)?;
    println!("echos came over the far relay {took:?} after the near one had died");
    ensure!(took <= RELAY_TIME, "echos are back after {took:?}");
    wait_relay(&fleet, "hub/far1")?;
    load.wait_download(SOON)?;

    fleet.start_relay(NEAR, "hub/r1", "")?;
    let back = Instant::now();
    wait_relay(&fleet, "hub/r1")?;
    println!(
        "the near relay is used {:?} after it is back",
        back.elapsed()
    );
    relay_is_alone(&fleet, &load, "hub/r1")?;
    ensure_carried(&fleet, NEAR, &far(1))?;
    pair::ensure_same_session(&fleet, begun)?;
    let summary = load.finish()?;
    println!("{summary:?}");
    Ok(())
}

#[test]
fn a_near_relay_is_found_at_the_end_of_a_table_of_five() -> Result<()> {
    let lab = lab(4)?;
    let fleet = start(&lab, 4)?;
    let load = load(&fleet)?;
    let begun = pair::sessions(&fleet)?;
    wait_relay(&fleet, "hub/r1")?;
    // One of those that are farther leaves, and never one of the first two.
    for (machine, _) in NODES {
        wait::until("four relays are kept", SOON, || {
            let up = relays_of(&fleet, machine)?;
            ensure!(up.len() == 4, "{machine}: {up:?}");
            for relay in ["hub/far1", "hub/far2", "hub/r1"] {
                ensure!(up.iter().any(|one| one == relay), "{machine}: {up:?}");
            }
            Ok(())
        })?;
    }
    relay_is_alone(&fleet, &load, "hub/r1")?;
    ensure_carried(&fleet, NEAR, &far(1))?;
    pair::ensure_same_session(&fleet, begun)?;
    let summary = load.finish()?;
    ensure!(summary.longest_gap < RELAY_TIME, "{summary:?}");
    println!("{summary:?}");
    Ok(())
}
