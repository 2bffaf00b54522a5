//! Two nodes with a LAN between them and a relay beside it: the smallest overlay with two paths.
//!
//! `alpha` and `beta` both have an interface in `wan`, where the relay is, and one in `lan`, whose
//! addresses the table gives. The LAN's links are emulated and can be cut.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use crate::emulator::Impairment;
use crate::fleet::Fleet;
use crate::lab::Lab;
use crate::{Attachment, Description, Link, Machine, Segment};

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
            .machine(Machine::host("relay").attach(Attachment::to("wan").number(10)))
            .machine(node("alpha", 1, 1))
            .machine(node("beta", 2, 2)),
    )
}

/// Starts the relay and both netmanagers with [`TABLE`].
///
/// # Errors
/// A program refuses or does not get ready.
pub fn start(lab: &Lab) -> Result<Fleet<'_>> {
    let mut fleet = Fleet::new(lab)?;
    fleet.write_table(TABLE)?;
    fleet.start_relay("relay", "hub/r1", "")?;
    for (machine, id) in NODES {
        fleet.add_node(machine, id, "acme", "")?;
        fleet.start(machine)?;
    }
    Ok(fleet)
}

/// The kind of the path that alpha takes to beta, as `peers` shows it: `direct`, `relay`, `none`.
///
/// # Errors
/// The daemon does not answer, or does not know beta.
pub fn path_kind(fleet: &Fleet<'_>) -> Result<String> {
    let peer = fleet.peer("alpha", "home/beta")?;
    Ok(peer["path"]["kind"].as_str().unwrap_or_default().to_owned())
}

/// Cuts or mends the LAN.
pub fn set_lan(lab: &Lab, impairment: Impairment) {
    for (machine, _) in NODES {
        lab.link(machine, "lan").set_both(impairment);
    }
}
