//! `netcheck` behind routers of known kinds: what it says is what they are.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::pair::TABLE;
use netns_tests::{Description, Fleet, Lab, Machine, Nat, Segment, wait};
use serde_json::Value;

/// How long the daemon may take until its relays are up.
const SOON: Duration = Duration::from_secs(20);

/// Two relays on the internet, and alpha behind a router.
fn lab(router: Machine) -> Result<Lab> {
    Lab::new(
        &Description::new()
            .segment(Segment::new("internet").v4("203.0.113.0/24"))
            .segment(Segment::new("site").v4("192.168.7.0/24"))
            .machine(Machine::host("relay").at("internet", 10))
            .machine(Machine::host("second").at("internet", 20))
            .machine(router)
            .machine(Machine::host("alpha").at("site", 11)),
    )
}

fn router(nat: Nat) -> Machine {
    let router = Machine::router("router", "internet", "site");
    router.nat(nat).drop_unsolicited()
}

/// What `netcheck --json` says behind such a router; its text must say the same words. Both relays are
/// reached before, over UDP or, where none gets through, over TCP.
fn check(router: Machine) -> Result<Value> {
    let lab = lab(router)?;
    let mut fleet = Fleet::new(&lab)?;
    let second = "[[relay]]\nid = \"hub/r2\"\naddresses = [\"203.0.113.20:10250\"]\n\n[[node]]";
    fleet.write_table(&TABLE.replacen("[[node]]", second, 1))?;
    fleet.start_relay("relay", "hub/r1", "")?;
    fleet.start_relay("second", "hub/r2", "")?;
    fleet.add_node("alpha", "home/alpha", "acme", "")?;
    fleet.start("alpha")?;
    wait::until("both relays are up", SOON, || {
        let status = fleet.tool_json("alpha", &["status"])?;
        let relays = status.first().map(|status| &status["packets"]["relays"]);
        let relays = relays.and_then(Value::as_array).context("no relays")?;
        ensure!(
            relays.iter().all(|relay| relay["state"] == "up"),
            "{relays:?}"
        );
        ensure!(relays.len() == 2);
        Ok(())
    })?;
    let report = fleet.tool_json("alpha", &["netcheck"])?;
    let report = report.into_iter().next().context("no report")?;
    let text = fleet.tool("alpha", &["netcheck"])?;
    for key in ["udp", "mapping", "filtering", "ipv6"] {
        let word = report[key].as_str().context("a word is missing")?;
        ensure!(text.contains(word), "{word} is not in\n{text}");
    }
    println!("{text}");
    Ok(report)
}

fn ensure_kind(report: &Value, mapping: &str, filtering: &str) -> Result<()> {
    ensure!(report["udp"] == "works", "{report}");
    ensure!(report["nat"] == true, "{report}");
    ensure!(report["mapping"] == mapping, "{report}");
    ensure!(report["filtering"] == filtering, "{report}");
    ensure!(report["path_mtu"] == 1500, "{report}");
    ensure!(report["ipv6"] == "no_address", "{report}");
    let relays = report["relays"].as_array().context("no relays")?;
    ensure!(relays.len() == 2, "{report}");
    for relay in relays {
        ensure!(
            relay["rtt_us"].as_u64().is_some_and(|rtt| rtt > 0),
            "{report}"
        );
        let seen = relay["seen"].as_str().context("nothing seen")?;
        ensure!(seen.starts_with("203.0.113."), "{report}");
    }
    let nearest = relays.iter().filter(|relay| relay["nearest"] == true);
    ensure!(nearest.count() == 1, "{report}");
    Ok(())
}

#[test]
fn a_full_cone_lets_everybody_in() -> Result<()> {
    ensure_kind(&check(router(Nat::FullCone))?, "independent", "none")
}

#[test]
fn a_restricted_cone_lets_in_who_was_sent_to() -> Result<()> {
    let report = check(router(Nat::AddressRestricted))?;
    ensure_kind(&report, "independent", "address")
}

#[test]
fn masquerade_filters_by_port() -> Result<()> {
    let report = check(router(Nat::PortRestricted))?;
    ensure_kind(&report, "independent", "address_and_port")?;
    ensure!(report["hairpin"] == false, "{report}");
    ensure!(report["advice"] == "", "{report}");
    Ok(())
}

#[test]
fn a_symmetric_nat_gives_random_ports() -> Result<()> {
    let report = check(router(Nat::Symmetric))?;
    ensure_kind(&report, "random", "address_and_port")?;
    ensure!(
        report["advice"]
            .as_str()
            .is_some_and(|advice| advice.contains("advertise"))
    );
    Ok(())
}

#[test]
fn blocked_udp_is_said_and_what_to_do() -> Result<()> {
    let report = check(router(Nat::PortRestricted).block_udp())?;
    ensure!(report["udp"] == "blocked", "{report}");
    for relay in report["relays"].as_array().context("no relays")? {
        ensure!(relay["way"] == "relay-tcp", "{report}");
    }
    ensure!(report["mapping"] == "unknown" && report["filtering"] == "unknown");
    ensure!(
        report["advice"]
            .as_str()
            .is_some_and(|advice| advice.contains("UDP"))
    );
    Ok(())
}
