//! Weald: two netmanagers with a table file, as a user runs them.
//!
//! The load runs on the nodes' own addresses inside the overlay namespaces, next to the TUN, as it
//! does with every peer; and from instance to instance by service IP, as users' programs do.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use netns_tests::{Fleet, Lab, wait};

use super::{ByService, Found, System, Tunnel};
use crate::ground::{self, MACHINES};

/// Node ids of the two machines.
const IDS: [&str; 2] = ["lab/alpha", "lab/beta"];
/// The instances that load runs between.
const INSTANCES: [&str; 2] = ["bench.lab.client.lab.0", "bench.lab.server.lab.0"];
/// Further instances beside the client.
const CLIENTS: [&str; 3] = [
    "bench.lab.client.lab.1",
    "bench.lab.client.lab.2",
    "bench.lab.client.lab.3",
];
/// The client's instance IP and the server's service IP (round robin over its one instance).
const BY_SERVICE: [&str; 2] = ["10.30.1.1", "10.30.100.1"];
/// How long a session may take to be there.
const SOON: std::time::Duration = std::time::Duration::from_secs(20);

const TABLE: &str = r#"
[[node]]
id = "lab/alpha"
organisation = "acme"
addresses = ["192.168.77.1:10260"]
ipv4 = "10.30.0.1"
ipv6 = "fdff::1"

[[node]]
id = "lab/beta"
organisation = "acme"
addresses = ["192.168.77.2:10260"]
ipv4 = "10.30.0.2"
ipv6 = "fdff::2"

[[service]]
application = "bench.lab"
name = "server.lab"
organisation = "acme"
rr = { ipv4 = "10.30.100.1", ipv6 = "fdff:2000::1" }
closest = { ipv4 = "10.30.101.1", ipv6 = "fdff:1000::1" }

[[service.instance]]
number = 0
node = "lab/beta"
ipv4 = "10.30.1.2"
ipv6 = "fdff::1:2"

[[service]]
application = "bench.lab"
name = "client.lab"
organisation = "acme"
rr = { ipv4 = "10.30.100.2", ipv6 = "fdff:2000::2" }
closest = { ipv4 = "10.30.101.2", ipv6 = "fdff:1000::2" }

[[service.instance]]
number = 0
node = "lab/alpha"
ipv4 = "10.30.1.1"
ipv6 = "fdff::1:1"
"#;

struct Weald<'lab> {
    lab: &'lab Lab,
    name: String,
    /// What the configurations' `[overlay]` sections say besides the name.
    overlay: String,
    /// A feature of the veth that is off meanwhile.
    without: String,
    /// What the services say besides their addresses.
    service: String,
    fleet: Option<Fleet<'lab>>,
}

pub(super) fn find<'lab>(
    lab: &'lab Lab,
    name: &str,
    overlay: &str,
    without: &str,
    service: &str,
) -> Result<Found<'lab>> {
    netns_tests::fleet::netmanager_binary()?;
    let system = Weald {
        lab,
        name: name.to_owned(),
        overlay: overlay.to_owned(),
        without: without.to_owned(),
        service: service.to_owned(),
        fleet: None,
    };
    Ok(Found::System(Box::new(system), String::new()))
}

impl System for Weald<'_> {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&mut self) -> Result<Tunnel> {
        ground::set_feature(self.lab, &self.without, "off")?;
        let fleet = self
            .fleet
            .insert(prepare(self.lab, &self.overlay, &self.service)?);
        for machine in MACHINES {
            fleet.start_quiet(machine)?;
        }
        let overlay = |machine| self.lab.open_namespace(&fleet.overlay_name(machine));
        let namespaces = [overlay(MACHINES[0])?, overlay(MACHINES[1])?];
        for ((machine, namespace), address) in
            MACHINES.into_iter().zip(&namespaces).zip(ground::INNER)
        {
            // The host's end of the uplink has the address as well, and what comes out of the
            // TUN for the namespace itself is refused: here the load is in there.
            namespace.ip_batch(&format!("addr replace {address}/32 dev lo\n"))?;
            namespace.nft(&format!(
                "insert rule inet {} input iifname \"weald0\" ip daddr {address} accept\n",
                fleet.overlay_name(machine)
            ))?;
        }
        let addresses = ground::INNER.map(IpAddr::V4);
        wait::until("a packet passes", SOON, || {
            let near = namespaces[0].udp_bind((addresses[0], 0).into())?;
            let far = namespaces[1].udp_bind((addresses[1], 0).into())?;
            far.set_read_timeout(Some(std::time::Duration::from_millis(300)))?;
            near.send_to(b"hello", far.local_addr()?)?;
            far.recv_from(&mut [0; 16]).context("nothing came")?;
            let peer = fleet.peer(MACHINES[0], IDS[1])?;
            ensure!(peer["path"]["kind"] == "direct", "{peer}");
            Ok(())
        })?;
        let instance = |end: usize| fleet.instance(MACHINES[end], INSTANCES[end]);
        let by_service = ByService {
            namespaces: [instance(0)?, instance(1)?],
            addresses: [BY_SERVICE[0].parse()?, BY_SERVICE[1].parse()?],
            clients: CLIENTS
                .map(|name| fleet.instance(MACHINES[0], name))
                .into_iter()
                .collect::<Result<_>>()?,
        };
        Ok(Tunnel {
            namespaces,
            addresses,
            daemons: Some([
                fleet.daemon(MACHINES[0]).pid(),
                fleet.daemon(MACHINES[1]).pid(),
            ]),
            by_service: Some(by_service),
        })
    }

    fn stop(&mut self) -> Result<()> {
        if let Some(mut fleet) = self.fleet.take() {
            for machine in MACHINES {
                fleet.down(machine)?;
            }
        }
        ground::set_feature(self.lab, &self.without, "on")
    }
}

/// Makes certificates and configurations, in place of those of the last start.
fn prepare<'lab>(lab: &'lab Lab, overlay: &str, service: &str) -> Result<Fleet<'lab>> {
    let mut old = vec![lab.dir().join("authority")];
    for node in ground::nodes(lab) {
        for name in ["pki", "state"] {
            old.push(node.dir()?.join(name));
        }
    }
    for folder in old.iter().filter(|folder| folder.exists()) {
        std::fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    let mut fleet = Fleet::new(lab)?;
    let table = TABLE.replace("\nrr = ", &format!("\n{service}\nrr = "));
    fleet.write_table(&(table + &more_clients()))?;
    for (machine, id) in MACHINES.into_iter().zip(IDS) {
        fleet.add_node(machine, id, "acme", "")?;
        append(&fleet, machine, overlay)?;
    }
    Ok(fleet)
}

/// The rows of [`CLIENTS`].
fn more_clients() -> String {
    let row = |number: usize| {
        format!(
            "\n[[service.instance]]\nnumber = {number}\nnode = \"lab/alpha\"\n\
             ipv4 = \"10.30.1.1{number}\"\nipv6 = \"fdff::1:1{number}\"\n"
        )
    };
    (1..=CLIENTS.len()).map(row).collect()
}

/// Adds a line to the end of a configuration, which is its `[overlay]` section.
fn append(fleet: &Fleet<'_>, machine: &str, line: &str) -> Result<()> {
    let config = fleet.host(machine).dir()?.join("net.toml");
    let text = std::fs::read_to_string(&config)?;
    std::fs::write(&config, format!("{text}{line}\n"))?;
    Ok(())
}
