//! From a description to addresses, routes and rules: checks everything, touches nothing.
//!
//! Addresses are numbered within each segment (explicit numbers first, then the routers' inner
//! sides, then the rest, from 1). Routes are found by breadth-first search over the routers: a
//! default route towards the core, and a route to every other prefix that a NAT does not hide.
//! [`crate::Lab`] carries the plan out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use crate::description::{Attachment, Description, Link, Machine, Segment};
use crate::nat::{self, Nat};

/// The longest interface name that Linux takes (IFNAMSIZ without the closing zero).
const MAX_INTERFACE_NAME: usize = 15;

/// A checked lab, ready to be built.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    pub(crate) segments: Vec<PlannedSegment>,
    pub(crate) machines: Vec<PlannedMachine>,
}

/// A segment with parsed prefixes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PlannedSegment {
    pub(crate) name: String,
    v4: Option<Ipv4Network>,
    v6: Option<Ipv6Network>,
}

/// A machine with its interfaces and routes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PlannedMachine {
    pub(crate) name: String,
    pub(crate) interfaces: Vec<PlannedInterface>,
    pub(crate) routes: Vec<Route>,
    pub(crate) forwards: bool,
    pub(crate) own_dirs: Vec<PathBuf>,
    /// The nft ruleset; empty when none is needed.
    pub(crate) ruleset: String,
}

/// An interface with its addresses.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PlannedInterface {
    pub(crate) name: String,
    pub(crate) segment: usize,
    /// The name of the link's other end, on the segment's bridge.
    pub(crate) port: String,
    pub(crate) v4: Option<Ipv4Network>,
    pub(crate) v6: Option<Ipv6Network>,
    pub(crate) link: Link,
}

/// A route by way of a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    /// The destination; a prefix length of zero is the default route.
    pub(crate) to: IpNetwork,
    /// The router's address on a shared segment.
    pub(crate) via: IpAddr,
}

impl Plan {
    /// Checks a description and works out everything that it leaves open.
    ///
    /// # Errors
    /// Names the first part of the description that cannot be built.
    pub(crate) fn new(description: &Description) -> Result<Self> {
        let segments = description
            .segments
            .iter()
            .map(segment)
            .collect::<Result<Vec<_>>>()?;
        check_names(description)?;
        let numbers = numbers(description)?;
        let mut machines = Vec::new();
        for (index, one) in description.machines.iter().enumerate() {
            machines.push(
                machine(index, one, &segments, &numbers)
                    .with_context(|| format!("machine {:?}", one.name))?,
            );
        }
        for index in 0..machines.len() {
            let mut routes = routes(index, description, &segments, &machines, false);
            routes.extend(self::routes(index, description, &segments, &machines, true));
            machines[index].routes = routes;
        }
        Ok(Self { segments, machines })
    }
}

fn segment(one: &Segment) -> Result<PlannedSegment> {
    let context = || format!("segment {:?}", one.name);
    let v4 = one
        .v4
        .as_deref()
        .map(str::parse::<Ipv4Network>)
        .transpose()
        .with_context(context)?;
    let v6 = one
        .v6
        .as_deref()
        .map(str::parse::<Ipv6Network>)
        .transpose()
        .with_context(context)?;
    Ok(PlannedSegment {
        name: one.name.clone(),
        v4,
        v6,
    })
}

/// Checks that names are unique and can stand in a namespace's name.
fn check_names(description: &Description) -> Result<()> {
    let mut seen = BTreeSet::new();
    let segments = description.segments.iter().map(|one| &one.name);
    for name in segments.chain(description.machines.iter().map(|one| &one.name)) {
        let plain = |character: char| character.is_ascii_alphanumeric() || character == '-';
        ensure!(
            !name.is_empty() && name.chars().all(plain),
            "name {name:?} may have only letters, digits and '-'"
        );
        ensure!(seen.insert(name), "name {name:?} is used twice");
    }
    Ok(())
}

/// Gives every attachment its host number: (machine, attachment) -> number.
fn numbers(description: &Description) -> Result<BTreeMap<(usize, usize), u32>> {
    let mut taken: BTreeSet<(&str, u32)> = BTreeSet::new();
    let mut numbers = BTreeMap::new();
    for pass in 0..3 {
        for (machine_index, machine) in description.machines.iter().enumerate() {
            for (index, attachment) in machine.attachments.iter().enumerate() {
                if pass_of(machine, attachment) != pass {
                    continue;
                }
                let segment = attachment.segment.as_str();
                let free = || (1..).find(|number| !taken.contains(&(segment, *number)));
                let number = attachment.number.or_else(free).context("no number left")?;
                ensure!(
                    taken.insert((segment, number)),
                    "number {number} is used twice on segment {segment:?}"
                );
                numbers.insert((machine_index, index), number);
            }
        }
    }
    Ok(numbers)
}

fn pass_of(machine: &Machine, attachment: &Attachment) -> usize {
    match (attachment.number, machine.routing) {
        (Some(_), _) => 0,
        (None, Some(_)) if !attachment.wan => 1,
        (None, _) => 2,
    }
}

fn machine(
    index: usize,
    one: &Machine,
    segments: &[PlannedSegment],
    numbers: &BTreeMap<(usize, usize), u32>,
) -> Result<PlannedMachine> {
    let mut interfaces: Vec<PlannedInterface> = Vec::new();
    for (position, attachment) in one.attachments.iter().enumerate() {
        let segment = segments
            .iter()
            .position(|segment| segment.name == attachment.segment)
            .with_context(|| format!("there is no segment {:?}", attachment.segment))?;
        let name = attachment
            .interface
            .clone()
            .unwrap_or_else(|| format!("eth{position}"));
        if name.is_empty() || name.len() > MAX_INTERFACE_NAME {
            bail!("interface name {name:?} must have 1 to {MAX_INTERFACE_NAME} characters");
        }
        ensure!(
            interfaces.iter().all(|other| other.name != name),
            "interface name {name:?} is used twice"
        );
        let number = numbers[&(index, position)];
        interfaces.push(PlannedInterface {
            name,
            segment,
            port: format!("m{index}i{position}"),
            v4: segments[segment]
                .v4
                .map(|prefix| host_v4(prefix, number))
                .transpose()?,
            v6: segments[segment]
                .v6
                .map(|prefix| host_v6(prefix, number))
                .transpose()?,
            link: attachment.link.clone(),
        });
    }
    let outside = one.attachments.iter().position(|attachment| attachment.wan);
    let ruleset = match (&one.routing, outside) {
        (Some(routing), Some(outside)) => nat::ruleset(routing, &interfaces[outside].name),
        (Some(_) | None, _) => String::new(),
    };
    Ok(PlannedMachine {
        name: one.name.clone(),
        interfaces,
        routes: Vec::new(),
        forwards: one.routing.is_some(),
        own_dirs: one.own_dirs.clone(),
        ruleset,
    })
}

fn host_v4(prefix: Ipv4Network, number: u32) -> Result<Ipv4Network> {
    let address = Ipv4Addr::from_bits(prefix.network().to_bits().wrapping_add(number));
    ensure!(
        prefix.contains(address),
        "number {number} does not fit into {prefix}"
    );
    Ok(Ipv4Network::new(address, prefix.prefix())?)
}

fn host_v6(prefix: Ipv6Network, number: u32) -> Result<Ipv6Network> {
    let address = Ipv6Addr::from_bits(prefix.network().to_bits().wrapping_add(number.into()));
    ensure!(
        prefix.contains(address),
        "number {number} does not fit into {prefix}"
    );
    Ok(Ipv6Network::new(address, prefix.prefix())?)
}

/// Finds the routes of one machine for one address family.
fn routes(
    from: usize,
    description: &Description,
    segments: &[PlannedSegment],
    machines: &[PlannedMachine],
    v6: bool,
) -> Vec<Route> {
    let own = machines[from]
        .interfaces
        .iter()
        .map(|interface| interface.segment);
    let mut first_hops: BTreeMap<usize, Option<IpAddr>> = own.map(|index| (index, None)).collect();
    let mut queue: VecDeque<usize> = first_hops.keys().copied().collect();
    while let Some(at) = queue.pop_front() {
        let so_far = first_hops[&at];
        for (index, router) in machines.iter().enumerate() {
            if index == from || !router.forwards {
                continue;
            }
            for (entry, exit) in crossings(&description.machines[index], router, at, v6) {
                let target = router.interfaces[exit].segment;
                if first_hops.contains_key(&target) {
                    continue;
                }
                first_hops.insert(target, so_far.or_else(|| address(router, entry, v6)));
                queue.push_back(target);
            }
        }
    }
    let default = first_hops.get(&0).copied().flatten();
    let mut routes: Vec<Route> = Vec::new();
    if let Some(via) = default {
        routes.push(Route {
            to: everything(v6),
            via,
        });
    }
    for (segment, hop) in &first_hops {
        let Some(via) = hop.filter(|hop| Some(*hop) != default) else {
            continue;
        };
        if let Some(to) = prefix(&segments[*segment], v6) {
            routes.push(Route { to, via });
        }
    }
    routes
}

/// The ways through a router from segment `at`, as (entry, exit) interfaces, for packets that
/// may pass: from the outside to the inside only without translation.
fn crossings(
    machine: &Machine,
    router: &PlannedMachine,
    at: usize,
    v6: bool,
) -> Vec<(usize, usize)> {
    let nat = machine.routing.map_or(
        Nat::None,
        |routing| if v6 { routing.v6 } else { routing.v4 },
    );
    let usable = |index: &usize| address(router, *index, v6).is_some();
    let all = || (0..router.interfaces.len()).filter(usable);
    let mut ways = Vec::new();
    for entry in all().filter(|index| router.interfaces[*index].segment == at) {
        if machine.attachments[entry].wan && nat != Nat::None {
            continue;
        }
        ways.extend(
            all()
                .filter(|exit| *exit != entry)
                .map(|exit| (entry, exit)),
        );
    }
    ways
}

fn address(machine: &PlannedMachine, interface: usize, v6: bool) -> Option<IpAddr> {
    let interface = &machine.interfaces[interface];
    if v6 {
        interface.v6.map(|network| network.ip().into())
    } else {
        interface.v4.map(|network| network.ip().into())
    }
}

fn prefix(segment: &PlannedSegment, v6: bool) -> Option<IpNetwork> {
    // The network address of a checked prefix always makes a network again.
    if v6 {
        segment
            .v6
            .and_then(|one| IpNetwork::new(one.network().into(), one.prefix()).ok())
    } else {
        segment
            .v4
            .and_then(|one| IpNetwork::new(one.network().into(), one.prefix()).ok())
    }
}

/// The default route's destination: the one network with prefix length zero.
fn everything(v6: bool) -> IpNetwork {
    let unspecified = if v6 {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    };
    // A prefix length of zero is valid for both families, so the fallback is never taken.
    IpNetwork::new(unspecified, 0).unwrap_or_else(|_| IpNetwork::from(unspecified))
}

#[cfg(test)]
mod tests;
