//! Two nodes behind NATs that give every destination a random port: nothing but a relay is between
//! them, unless one of the routers leads a port inside when it is asked.
//!
//! The outside addresses are ordinary ones: miniupnpd maps none of the blocks for documentation.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::pair::{self, ON_ALPHA, ON_BETA, TABLE};
use netns_tests::port_mapping::{PortMapping, Speaks};
use netns_tests::{Description, Fleet, Lab, Machine, Nat, Segment, wait};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(15);
/// How long a direct path may take, as every easy pair's.
const DIRECT_TIME: Duration = Duration::from_secs(5);
/// How long a pair is watched that must not get one: several rounds.
const NEVER_TIME: Duration = Duration::from_secs(6);
/// The instance on beta, by name.
const PEER: &str = "home.lab.echo.lab.1.instance";
/// Echos and their bytes, by which the relay's counters tell which way they went.
const ECHOS: u64 = 20;
const ECHO_BYTES: usize = 1000;

/// The table of [`pair`] without the addresses of nodes.
fn table() -> String {
    let lines = TABLE.lines();
    let lines = lines.filter(|line| !line.starts_with("addresses = [\"192.168."));
    let text: String = lines.flat_map(|line| [line, "\n"]).collect();
    text.replace("203.0.113.10:10250", "193.0.10.10:10250")
}

fn lab() -> Result<Lab> {
    let gateway = |name: &str, wan: &str, lan: &str| {
        let router = Machine::router(name, wan, lan);
        router.nat(Nat::Symmetric).drop_unsolicited()
    };
    Lab::new(
        &Description::new()
            .segment(Segment::new("core").v4("193.0.10.0/24"))
            .segment(Segment::new("isp-a").v4("193.0.11.0/25"))
            .segment(Segment::new("isp-b").v4("193.0.11.128/25"))
            .segment(Segment::new("site-a").v4("192.168.7.0/24"))
            .segment(Segment::new("site-b").v4("192.168.7.0/24"))
            .machine(Machine::host("relay").at("core", 10))
            .machine(Machine::router("transit-a", "core", "isp-a"))
            .machine(Machine::router("transit-b", "core", "isp-b"))
            .machine(gateway("gw-a", "isp-a", "site-a"))
            .machine(gateway("gw-b", "isp-b", "site-b"))
            .machine(Machine::host("alpha").at("site-a", 11))
            .machine(Machine::host("beta").at("site-b", 12)),
    )
}

/// Waits until the path is of a kind, and sees by the relay's counters that it is.
fn ensure_path(fleet: &Fleet<'_>, kind: &str, within: Duration) -> Result<()> {
    pair::wait_path(fleet, kind, within)?;
    wait::until("echos take it", SOON, || {
        let alpha = fleet.instance("alpha", ON_ALPHA)?;
        let before = fleet.relayed_bytes("relay")?;
        let payload = [7; ECHO_BYTES];
        for _ in 0..ECHOS {
            let to = pair::at("10.30.1.2");
            let echoed = alpha.udp_exchange(to, &payload, Duration::from_secs(1))?;
            ensure!(echoed == payload);
        }
        let relayed = fleet.relayed_bytes("relay")? - before;
        let is_relayed = relayed >= ECHOS * ECHO_BYTES as u64;
        let is_some = relayed >= ECHOS * ECHO_BYTES as u64 / 10;
        ensure!(
            is_relayed == (kind == "relay"),
            "{relayed} bytes were relayed"
        );
        ensure!(is_some == is_relayed, "{relayed} bytes were relayed");
        Ok(())
    })
}

/// What the daemon of alpha says of its one gateway, as soon as it is in a state.
fn gateway(fleet: &Fleet<'_>, state: &str) -> Result<Value> {
    wait::until(&format!("the gateway is {state}"), SOON, || {
        let status = fleet.tool_json("alpha", &["status"])?;
        let gateways = status.first().and_then(|it| it["gateways"].as_array());
        let [gateway] = gateways.context("no gateways are asked")?.as_slice() else {
            anyhow::bail!("not one gateway: {status:?}");
        };
        ensure!(gateway["state"] == state, "{gateway}");
        Ok(gateway.clone())
    })
}

fn ensure_mapped(router: &PortMapping<'_>, fleet: &Fleet<'_>, protocol: &str) -> Result<Value> {
    let gateway =
        gateway(fleet, "mapped").with_context(|| format!("miniupnpd: {}", router.shown()))?;
    ensure!(gateway["protocol"] == protocol, "{gateway}");
    ensure!(gateway["external"] == "193.0.11.2:10260", "{gateway}");
    ensure!(gateway["refused"].is_null(), "{gateway}");
    let rules = router.rules()?;
    ensure!(rules.contains("192.168.7.11"), "{rules}");
    Ok(gateway)
}

#[test]
fn a_router_that_maps_ports_makes_two_random_nats_direct() -> Result<()> {
    let lab = lab()?;
    let router = PortMapping::start(lab.node("gw-a"), Speaks::ALL)?;
    let mut fleet = pair::start_nodes(&lab, &table(), &pair::NODES, "")?;
    let beta = fleet.instance("beta", ON_BETA)?;
    let _echo = beta.udp_echo(pair::anywhere())?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    wait::until("an echo comes back", SOON, || {
        alpha.udp_exchange(pair::at("10.30.1.2"), b"echo", Duration::from_millis(200))
    })?;
    ensure_path(&fleet, "direct", DIRECT_TIME)?;
    ensure_mapped(&router, &fleet, "pcp")?;

    // Beta has reached it there, and each says so.
    let why = fleet.tool("beta", &["why", "alpha"])?;
    ensure!(why.contains("193.0.11.2:10260: mapped, answers"), "{why}");
    let why = fleet.tool("alpha", &["why", "beta"])?;
    ensure!(why.contains("mapped 193.0.11.2:10260"), "{why}");
    let status = fleet.tool("alpha", &["status"])?;
    ensure!(status.contains(": 193.0.11.2:10260 by pcp"), "{status}");
    let netcheck = fleet.tool_json("alpha", &["netcheck"])?;
    let netcheck = netcheck.first().context("no report")?;
    ensure!(netcheck["port_mapping"] == "works", "{netcheck}");
    let speaks = &netcheck["gateways"][0]["speaks"];
    ensure!(
        *speaks == serde_json::json!(["pcp", "nat_pmp", "upnp"]),
        "{netcheck}"
    );
    // Nobody speaks anything at the other site.
    let other = fleet.tool_json("beta", &["netcheck"])?;
    ensure!(other[0]["port_mapping"] == "no_gateway_speaks", "{other:?}");
    let figures = fleet.scrape("alpha", netns_tests::fleet::METRICS)?;
    ensure!(figures["weald_port_mappings{protocol=\"pcp\"}"] == 1.0);

    // A router that has restarted has forgotten; that shows when it is looked at, each minute or
    // when something has changed on the host's links.
    let router = router.restart(Speaks::ALL)?;
    ensure!(!router.rules()?.contains("192.168.7.11"));
    let host = lab.node("alpha");
    host.ip_batch("link add other type veth peer name end\nlink set other up\n")?;
    wait::until("the port is mapped again", SOON, || {
        let gateway = gateway(&fleet, "mapped")?;
        ensure!(gateway["restarts"] == 1, "{gateway}");
        ensure!(router.rules()?.contains("192.168.7.11"));
        Ok(())
    })?;
    ensure_path(&fleet, "direct", SOON)?;

    // Who stops leaves nothing behind.
    fleet.stop("alpha")?;
    let rules = router.rules()?;
    ensure!(!rules.contains("192.168.7.11"), "{rules}");
    Ok(())
}

#[test]
fn upnp_does_where_nothing_else_is_spoken() -> Result<()> {
    let lab = lab()?;
    let speaks = Speaks {
        pcp: false,
        upnp: true,
    };
    let router = PortMapping::start(lab.node("gw-a"), speaks)?;
    let mut fleet = pair::start_nodes(&lab, &table(), &pair::NODES, "")?;
    let beta = fleet.instance("beta", ON_BETA)?;
    let _echo = beta.udp_echo(pair::anywhere())?;
    let gateway = ensure_mapped(&router, &fleet, "upnp")?;
    ensure!(
        gateway["speaks"] == serde_json::json!(["upnp"]),
        "{gateway}"
    );
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    wait::until("an echo comes back", SOON, || {
        alpha.udp_exchange(pair::at("10.30.1.2"), b"echo", Duration::from_millis(200))
    })?;
    let ping = ["ping", PEER, "--until-direct", "-c", "20", "-i", "0.25"];
    let said = fleet.tool("alpha", &ping)?;
    ensure!(said.contains(", path direct 193.0."), "{said}");
    ensure_path(&fleet, "direct", DIRECT_TIME)?;
    fleet.stop("alpha")?;
    let rules = router.rules()?;
    ensure!(!rules.contains("192.168.7.11"), "{rules}");
    Ok(())
}

#[test]
fn without_a_mapping_two_random_nats_stay_on_the_relay() -> Result<()> {
    let lab = lab()?;
    let router = PortMapping::start(lab.node("gw-a"), Speaks::ALL)?;
    let off = "[paths]\nport_mapping = false\n";
    let capture = lab.node("gw-a").capture("lan")?;
    let fleet = pair::start_nodes(&lab, &table(), &pair::NODES, off)?;
    let beta = fleet.instance("beta", ON_BETA)?;
    let _echo = beta.udp_echo(pair::anywhere())?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    wait::until("an echo comes back", SOON, || {
        alpha.udp_exchange(pair::at("10.30.1.2"), b"echo", Duration::from_millis(200))
    })?;
    wait::until("both know what is in the way", SOON, || {
        let peer = fleet.peer("alpha", "home/beta")?;
        ensure!(
            peer["direct"]["standing"] == "both_nats_change_ports",
            "{peer}"
        );
        let advice = peer["direct"]["advice"].as_str().unwrap_or_default();
        ensure!(advice.contains("port_mapping"), "{advice}");
        Ok(())
    })?;
    let direct = wait::until("a direct path", NEVER_TIME, || {
        ensure!(pair::path_kind(&fleet)? == "direct");
        Ok(())
    });
    ensure!(direct.is_err(), "there is a direct path without a mapping");
    ensure_path(&fleet, "relay", SOON)?;
    let ping = ["ping", PEER, "--until-direct", "-c", "3", "-i", "0.25"];
    let error = fleet.tool("alpha", &ping).err();
    let error = format!("{:#}", error.context("there was a direct reply")?);
    ensure!(error.contains("3 received"), "{error}");
    ensure!(error.contains("`netmanager why` says"), "{error}");
    let netcheck = fleet.tool_json("alpha", &["netcheck"])?;
    ensure!(netcheck[0]["port_mapping"] == "off", "{netcheck:?}");
    // The router was not even asked.
    let captured = capture.stop()?;
    let asked = captured.datagrams().filter(|one| {
        let port = one.flow.destination.port();
        one.flow.source.ip() == lab.node("alpha").v4() && (port == 5351 || port == 1900)
    });
    ensure!(asked.count() == 0, "a router was asked");
    ensure!(!router.rules()?.contains("192.168.7.11"));
    Ok(())
}
