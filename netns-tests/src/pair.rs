//! Two nodes with a LAN between them and a relay beside it: the smallest overlay with two paths.
//!
//! `alpha` and `beta` both have an interface in `wan`, where the relay is, and one in `lan`, whose
//! addresses the table gives. The LAN's links are emulated and can be cut.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::emulator::Impairment;
use crate::fleet::Fleet;
use crate::lab::Lab;
use crate::{Attachment, Description, Link, Machine, Nat, Segment, wait};

/// The two machines and their ids.
pub const NODES: [(&str, &str); 2] = [("alpha", "home/alpha"), ("beta", "home/beta")];

/// The table: `echo` with an instance on each node, `empty` without any, `ghost` on a node that
/// does not run, and `vault` of another organisation on beta.
pub const TABLE: &str = r#"
[[relay]]
id = "hub/r1"
addresses = ["203.0.113.10:10250"]

[[node]]
id = "home/alpha"
organisation = "acme"
addresses = ["192.168.7.1:10260"]
ipv4 = "10.30.0.1"
ipv6 = "fdff::1"

[[node]]
id = "home/beta"
organisation = "acme"
addresses = ["192.168.7.2:10260"]
ipv4 = "10.30.0.2"
ipv6 = "fdff::2"

[[node]]
id = "home/gamma"
organisation = "acme"
ipv4 = "10.30.0.3"
ipv6 = "fdff::3"

[[service]]
application = "home.lab"
name = "echo.lab"
organisation = "acme"
rr = { ipv4 = "10.30.100.1", ipv6 = "fdff:2000::1" }
closest = { ipv4 = "10.30.101.1", ipv6 = "fdff:1000::1" }

[[service.instance]]
number = 0
node = "home/alpha"
ipv4 = "10.30.1.1"
ipv6 = "fdff::1:1"

[[service.instance]]
number = 1
node = "home/beta"
ipv4 = "10.30.1.2"
ipv6 = "fdff::1:2"

[[service]]
application = "home.lab"
name = "empty.lab"
organisation = "acme"
rr = { ipv4 = "10.30.100.2", ipv6 = "fdff:2000::2" }
closest = { ipv4 = "10.30.101.2", ipv6 = "fdff:1000::2" }

[[service]]
application = "home.lab"
name = "ghost.lab"
organisation = "acme"
rr = { ipv4 = "10.30.100.3", ipv6 = "fdff:2000::3" }
closest = { ipv4 = "10.30.101.3", ipv6 = "fdff:1000::3" }

[[service.instance]]
number = 0
node = "home/gamma"
ipv4 = "10.30.1.3"
ipv6 = "fdff::1:3"

[[service]]
application = "bank.lab"
name = "vault.lab"
organisation = "bank"
rr = { ipv4 = "10.30.100.4", ipv6 = "fdff:2000::4" }
closest = { ipv4 = "10.30.101.4", ipv6 = "fdff:1000::4" }

[[service.instance]]
number = 0
node = "home/beta"
ipv4 = "10.30.1.4"
ipv6 = "fdff::1:4"
"#;

/// [`TABLE`] where every service has that lane.
#[must_use]
pub fn table_of(lane: &str) -> String {
    TABLE.replace("\nrr = ", &format!("\nlane = {lane:?}\nrr = "))
}

/// The instance of `echo` on alpha.
pub const ON_ALPHA: &str = "home.lab.echo.lab.0";
/// The instance of `echo` on beta.
pub const ON_BETA: &str = "home.lab.echo.lab.1";

/// The port of the servers in tests.
pub const PORT: u16 = 7000;

/// [`PORT`] at an address.
///
/// # Panics
/// Panics if it is no address.
#[track_caller]
pub fn at(ip: &str) -> SocketAddr {
    match ip.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, PORT),
        Err(error) => panic!("{ip}: {error}"),
    }
}

/// [`PORT`] at every address of both families.
pub fn anywhere() -> SocketAddr {
    SocketAddr::from(([0_u16; 8], PORT))
}

/// Builds the lab.
///
/// # Errors
/// As [`Lab::new`].
pub fn lab() -> Result<Lab> {
    let node = |name: &str, number, seed| {
        let link = Link::emulated(Impairment::default(), seed);
        Machine::host(name)
            .attach(Attachment::to("wan").number(number))
            .attach(Attachment::to("lan").number(number).link(link))
    };
    Lab::new(
        &Description::new()
            .segment(Segment::new("wan").v4("203.0.113.0/24"))
            .segment(Segment::new("lan").v4("192.168.7.0/24"))
            .machine(Machine::host("relay").at("wan", 10))
            .machine(node("alpha", 1, 1))
            .machine(node("beta", 2, 2)),
    )
}

/// A relay on the internet, and two sites behind NAT routers that drop what nobody asked for; site b
/// has the prefix `site_b`. The machines `alpha` and `beta` are still to be added.
#[must_use]
pub fn behind_nats(site_b: &str) -> Description {
    let router = |name: &str, lan: &str| {
        Machine::router(name, "internet", lan)
            .nat(Nat::PortRestricted)
            .drop_unsolicited()
    };
    Description::new()
        .segment(Segment::new("internet").v4("203.0.113.0/24"))
        .segment(Segment::new("site-a").v4("192.168.7.0/24"))
        .segment(Segment::new("site-b").v4(site_b))
        .machine(Machine::host("relay").at("internet", 10))
        .machine(router("router-a", "site-a"))
        .machine(router("router-b", "site-b"))
}

/// Addresses that alpha must send nothing to, whatever peer names them: of its own host, of everybody,
/// without a port, of the overlay, its own, of sites that it is not at, of a family that it does not have.
pub const NEVER_SENT_TO: [&str; 10] = [
    "127.0.0.1:53",
    "224.0.0.251:5353",
    "255.255.255.255:9",
    "169.254.169.254:80",
    "203.0.113.10:0",
    "10.30.1.1:80",
    "203.0.113.1:10260",
    "172.20.0.1:53",
    "100.64.0.1:53",
    "[2001:db8::1]:53",
];

/// Keeps nodes from opening direct ways through NATs, so that what is cut is cut.
pub const NO_PUNCHING: &str = "[paths]\npunch = false\n";

/// Starts the relay and both netmanagers with [`TABLE`]. They look for no other direct way than the
/// LAN.
///
/// # Errors
/// A program refuses or does not get ready.
pub fn start(lab: &Lab) -> Result<Fleet<'_>> {
    start_nodes(lab, TABLE, &NODES, NO_PUNCHING)
}

/// Starts the relay and the netmanagers of `nodes`, pairs of a machine and an id, with a table and
/// further sections of their configuration.
///
/// # Errors
/// A program refuses or does not get ready.
pub fn start_nodes<'lab>(
    lab: &'lab Lab,
    table: &str,
    nodes: &[(&str, &str)],
    config: &str,
) -> Result<Fleet<'lab>> {
    let mut fleet = Fleet::new(lab)?;
    fleet.write_table(table)?;
    fleet.start_relay("relay", "hub/r1", "")?;
    add_nodes(&mut fleet, nodes, config)?;
    Ok(fleet)
}

/// Starts both netmanagers with a table, and nothing else: the LAN is their only way, however slow,
/// where they would rather take a relay that is near.
///
/// # Errors
/// A program refuses or does not get ready.
pub fn start_on_lan<'lab>(lab: &'lab Lab, table: &str) -> Result<Fleet<'lab>> {
    let mut fleet = Fleet::new(lab)?;
    fleet.write_table(table)?;
    add_nodes(&mut fleet, &NODES, NO_PUNCHING)?;
    Ok(fleet)
}

fn add_nodes(fleet: &mut Fleet<'_>, nodes: &[(&str, &str)], config: &str) -> Result<()> {
    for (machine, id) in nodes {
        fleet.add_node(machine, id, "acme", config)?;
        fleet.start(machine)?;
    }
    Ok(())
}

/// The kind of the path that alpha takes to beta, as `peers` shows it: `direct`, `relay`, `none`.
///
/// # Errors
/// The daemon does not answer, or does not know beta.
pub fn path_kind(fleet: &Fleet<'_>) -> Result<String> {
    let peer = fleet.peer("alpha", "home/beta")?;
    Ok(peer["path"]["kind"].as_str().unwrap_or_default().to_owned())
}

/// Waits until the path that alpha takes to beta is of a kind, as in [`path_kind`].
///
/// # Errors
/// It is of another after `patience`; the error shows all that alpha knows of beta.
pub fn wait_path(fleet: &Fleet<'_>, kind: &str, patience: Duration) -> Result<()> {
    wait::until(&format!("the path is {kind}"), patience, || {
        let found = path_kind(fleet)?;
        ensure!(found == kind, "{}", fleet.peer("alpha", "home/beta")?);
        Ok(())
    })
}

/// How many sessions each node has had, of which there is at least one.
///
/// # Errors
/// A daemon does not run, or has had none.
pub fn sessions(fleet: &Fleet<'_>) -> Result<[usize; 2]> {
    let begun = [
        fleet.sessions_begun(NODES[0].0)?,
        fleet.sessions_begun(NODES[1].0)?,
    ];
    ensure!(begun.iter().all(|count| *count > 0), "sessions: {begun:?}");
    Ok(begun)
}

/// Fails if a node has had another session since [`sessions`] said so.
///
/// # Errors
/// It has, or has none now.
pub fn ensure_same_session(fleet: &Fleet<'_>, begun: [usize; 2]) -> Result<()> {
    let now = sessions(fleet)?;
    ensure!(
        now == begun,
        "another session: {begun:?} had begun, now {now:?}\n{}{}",
        fleet.log_of(NODES[0].0, "session")?,
        fleet.log_of(NODES[1].0, "session")?
    );
    for ((machine, _), (_, peer)) in NODES.iter().zip(NODES.iter().rev()) {
        let peer = fleet.peer(machine, peer)?;
        ensure!(peer["state"] == "up", "{machine}: {peer}");
    }
    Ok(())
}

/// Waits until neither node has connections of the L4 lane.
///
/// # Errors
/// One has some after `patience`, or does not answer.
pub fn wait_no_streams(fleet: &Fleet<'_>, patience: Duration) -> Result<()> {
    wait::until(
        "both nodes have forgotten the connections",
        patience,
        || {
            for (machine, _) in NODES {
                let status = fleet.tool_json(machine, &["status"])?;
                let open = &status[0]["packets"]["streams"]["open"];
                ensure!(open == 0, "{machine}: {open} left");
            }
            Ok(())
        },
    )
}

/// Cuts or mends the LAN.
pub fn set_lan(lab: &Lab, impairment: Impairment) {
    for (machine, _) in NODES {
        lab.link(machine, "lan").set_both(impairment);
    }
}
