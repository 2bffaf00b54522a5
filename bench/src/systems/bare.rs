//! The bare veth, with the kernel's offloads and without.

use std::net::IpAddr;

use anyhow::Result;
use netns_tests::Lab;

use super::{Found, System, Tunnel};
use crate::ground;

/// Turns off what lets a veth carry a GSO packet of UDP unsegmented.
pub(super) const NO_UDP_SEGMENTATION: &str = "tx-udp-segmentation";

/// Whether the veth carries packets of up to 64 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offloads {
    On,
    Off,
}

struct Bare<'lab> {
    lab: &'lab Lab,
    name: String,
    offloads: Offloads,
}

pub(super) fn find<'lab>(lab: &'lab Lab, name: &str, offloads: Offloads) -> Found<'lab> {
    let system = Bare {
        lab,
        name: name.to_owned(),
        offloads,
    };
    Found::System(Box::new(system), String::new())
}

impl Bare<'_> {
    fn set(&self, state: &str) -> Result<()> {
        if self.offloads == Offloads::On {
            return Ok(());
        }
        let features = ["tso", "gso", "gro", NO_UDP_SEGMENTATION]
            .map(|feature| format!("{feature} {state}"))
            .join(" ");
        ground::set_features(self.lab, &features)
    }
}

impl System for Bare<'_> {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&mut self) -> Result<Tunnel> {
        self.set("off")?;
        let [client, server] = ground::nodes(self.lab);
        let namespaces = [
            self.lab.open_namespace(client.name())?,
            self.lab.open_namespace(server.name())?,
        ];
        Ok(Tunnel {
            namespaces,
            addresses: ground::OUTER.map(IpAddr::V4),
            daemons: None,
            by_service: None,
        })
    }

    fn stop(&mut self) -> Result<()> {
        // A veth has no GRO unless asked for, so that stays off.
        self.set("on")?;
        if self.offloads == Offloads::Off {
            ground::set_features(self.lab, "gro off")?;
        }
        Ok(())
    }
}
