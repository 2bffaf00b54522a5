//! The systems that are compared: each is a tunnel between the two machines of [`crate::ground`],
//! started, loaded, stopped.
//!
//! Every round starts each system anew, so that one never runs beside another.

use std::io::Write;
use std::net::IpAddr;

use anyhow::Result;
use netns_tests::{Lab, Namespace};
use weald_measure::results::Results;

mod bare;
mod limit;
mod nebula;
mod programs;
mod weald;
mod wireguard;

/// A system under test.
pub trait System {
    /// Its name in tables and files.
    fn name(&self) -> &str;

    /// Starts it and returns when packets pass.
    ///
    /// # Errors
    /// It does not start; the error shows what it wrote.
    fn start(&mut self) -> Result<Tunnel>;

    /// Stops it and removes what it has made.
    ///
    /// # Errors
    /// Something of it cannot be removed.
    fn stop(&mut self) -> Result<()>;
}

/// A running system, as load sees it.
#[derive(Debug)]
pub struct Tunnel {
    /// Where the load's client and server run.
    pub namespaces: [Namespace; 2],
    /// Their addresses.
    pub addresses: [IpAddr; 2],
    /// The processes of the sending and of the receiving end; none where the kernel does it.
    pub daemons: Option<[u32; 2]>,
    /// Another way through it, from instance to instance by service IP.
    pub by_service: Option<ByService>,
}

/// From instance to instance by service IP.
#[derive(Debug)]
pub struct ByService {
    /// The two instances.
    pub namespaces: [Namespace; 2],
    /// The client's address, and the service's.
    pub addresses: [IpAddr; 2],
    /// Further instances beside the client, with addresses of their own.
    pub clients: Vec<Namespace>,
}

/// What a name stands for.
pub enum Found<'lab> {
    /// A system that can be measured, and its version.
    System(Box<dyn System + 'lab>, String),
    /// One that cannot be had here, and why.
    Missing(String),
}

/// The systems of `make bench`.
pub const DEFAULT: [&str; 6] = [
    "raw",
    "raw-plain",
    "limit",
    "weald",
    "boringtun",
    "wireguard-go",
];

/// The systems of `make bench-wan`.
pub const WAN: [&str; 8] = [
    "raw-cubic",
    "raw-bbr",
    "wireguard-go",
    "nebula",
    "weald-l3",
    "weald-l4",
    "weald-l4-early",
    "weald-auto",
];

/// What `make bench-all` adds.
pub const MORE: [&str; 14] = [
    "weald-fast",
    "weald-fast-plain-wire",
    "weald-no-offload",
    "weald-plain-wire",
    "tailscale-wireguard-go",
    "nebula",
    "gotatun",
    "quincy",
    "vpncloud",
    "easytier",
    "yggdrasil",
    "openvpn",
    "tinc",
    "wireguard-go-plain-wire",
];

/// What configurations say besides, for TCP in sealed frames beside QUIC.
const FAST_LANE: &str = "\n[data_plane]\nfast_lane = true";

impl std::fmt::Debug for Found<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::System(system, version) => write!(f, "{} {version}", system.name()),
            Self::Missing(reason) => write!(f, "missing: {reason}"),
        }
    }
}

/// Finds a system by its name.
///
/// # Errors
/// There is none of this name; the error lists all.
pub fn find<'lab>(lab: &'lab Lab, name: &str) -> Result<Found<'lab>> {
    match name {
        "raw" | "raw-cubic" | "raw-bbr" => Ok(bare::find(lab, name, bare::Offloads::On)),
        "raw-plain" => Ok(bare::find(lab, name, bare::Offloads::Off)),
        "limit" => limit::find(lab),
        "weald" => weald::find(lab, name, "", "", ""),
        "weald-fast" => weald::find(lab, name, FAST_LANE, "", ""),
        "weald-fast-plain-wire" => weald::find(lab, name, FAST_LANE, bare::NO_UDP_SEGMENTATION, ""),
        "weald-no-offload" => weald::find(lab, name, "offloads = false", "", ""),
        "weald-plain-wire" => weald::find(lab, name, "", bare::NO_UDP_SEGMENTATION, ""),
        "weald-l3" => weald::find(lab, name, "", "", "lane = \"l3\""),
        "weald-l4" => weald::find(lab, name, "", "", "lane = \"l4\""),
        "weald-l4-early" => weald::find(lab, name, "", "", "lane = \"l4\"\naccept = \"early\""),
        "weald-auto" => weald::find(lab, name, "", "", "lane = \"auto\""),
        "boringtun" => Ok(wireguard::find(lab, name, &wireguard::BORINGTUN)),
        "wireguard-go" => Ok(wireguard::find(lab, name, &wireguard::WIREGUARD_GO)),
        "wireguard-go-plain-wire" => Ok(wireguard::find(lab, name, &wireguard::PLAIN_WIRE)),
        "tailscale-wireguard-go" => Ok(wireguard::find(lab, name, &wireguard::TAILSCALE)),
        "gotatun" => Ok(wireguard::find(lab, name, &wireguard::GOTATUN)),
        "nebula" => Ok(nebula::find(lab)),
        "quincy" | "vpncloud" | "easytier" | "yggdrasil" | "openvpn" | "tinc" => Ok(
            Found::Missing("this harness does not drive it yet".to_owned()),
        ),
        other => anyhow::bail!(
            "no system {other:?}; there are {}",
            DEFAULT
                .iter()
                .chain(&WAN)
                .chain(&MORE)
                .copied()
                .collect::<Vec<_>>()
                .join(", ")
        ),
    }
}

/// The systems of these names; those that cannot be had are said and noted as missing.
///
/// # Errors
/// Nobody knows one of the names, or what it needs of the lab fails.
pub(crate) fn find_all<'lab>(
    lab: &'lab Lab,
    names: &[String],
    results: &mut Results,
    progress: &mut dyn Write,
) -> Result<Vec<Box<dyn System + 'lab>>> {
    let mut systems: Vec<Box<dyn System + 'lab>> = Vec::new();
    for name in names {
        match find(lab, name)? {
            Found::System(system, version) => {
                if !version.is_empty() {
                    results.add_note(name, &version);
                }
                systems.push(system);
            }
            Found::Missing(reason) => {
                writeln!(progress, "{name}: {reason}")?;
                results.add_missing(name, &reason);
            }
        }
    }
    Ok(systems)
}

/// Starts a system, measures it and stops it, whatever came of it.
///
/// # Errors
/// It does not start or stop, or the measuring fails.
pub(crate) fn while_up<T>(
    system: &mut dyn System,
    measure: impl FnOnce(&Tunnel) -> Result<T>,
) -> Result<T> {
    let measured = system.start().and_then(|tunnel| measure(&tunnel));
    let stopped = system.stop();
    let measured = measured?;
    stopped?;
    Ok(measured)
}
