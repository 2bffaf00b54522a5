//! The lab of one case: an internet with root, a relay and a cluster's orchestrator, and each site
//! behind its routers and one transit router, so that packets between sites pass two transit hops.

use anyhow::{Result, ensure};

use super::case::{Case, Flavour, Kind, Pair};
use crate::lab::Lab;
use crate::nat::Nat;
use crate::nat_probe::Behaviour;
use crate::{Attachment, Description, Machine, Segment};

/// The machine of root and the relay.
pub(super) const HUB: &str = "hub";
/// The machine of the cluster's orchestrator.
pub(super) const CONTROL: &str = "control";
/// The machines of the nodes.
pub(super) const NODES: [&str; 2] = ["alpha", "beta"];

/// The letters of the sites, and what is in their addresses.
const SITES: [&str; 2] = ["a", "b"];
/// The host numbers of the nodes: not the same, for sites have the same prefix.
const NUMBERS: [u32; 2] = [11, 12];

/// Describes the lab of a case.
#[must_use]
pub fn description(case: Case) -> Description {
    let core = Segment::new("core")
        .v4("203.0.113.0/24")
        .v6("2001:db8::/64");
    let mut description = Description::new()
        .segment(core)
        .machine(Machine::host(HUB).at("core", 10))
        .machine(Machine::host(CONTROL).at("core", 20));
    for (index, kind) in case.pair.sites().into_iter().enumerate() {
        description = site(description, index, kind, case);
    }
    for (index, node) in NODES.into_iter().enumerate() {
        let site = match case.pair {
            Pair::Apart(..) => index,
            Pair::Same(_) => 0,
        };
        let lan = format!("site-{}", SITES[site]);
        let attachment = Attachment::to(&lan).number(NUMBERS[index]);
        description = description.machine(Machine::host(node).attach(attachment));
    }
    description
}

/// Adds a site with its routers: transit router, carrier's router if there is one, own router.
fn site(description: Description, index: usize, kind: Kind, case: Case) -> Description {
    let name = |what: &str| format!("{what}-{}", SITES[index]);
    let segment = |what: &str, v4: &str, number: u32| {
        let segment = Segment::new(&name(what)).v4(v4);
        let v6 = format!("2001:db8:{}{number}::/64", SITES[index]);
        if case.ip.has_v6(index) {
            segment.v6(&v6)
        } else {
            segment
        }
    };
    let isp = ["198.51.100.0/25", "198.51.100.128/25"][index];
    // Sites behind a NAT have the same prefix, as homes do.
    let lan = match kind {
        Kind::None => ["192.0.2.0/25", "192.0.2.128/25"][index],
        Kind::FullCone
        | Kind::AddressRestricted
        | Kind::PortRestricted
        | Kind::SymmetricRandom
        | Kind::SymmetricSequential
        | Kind::UdpBlocked
        | Kind::Double => "192.168.1.0/24",
    };
    let router = |machine: &str, outside: &str, inside: &str, nat: Nat| {
        let router = Machine::router(&name(machine), outside, &name(inside)).nat(nat);
        match case.router {
            Flavour::Drops => router.drop_unsolicited(),
            Flavour::Answers => router,
        }
    };
    let mut description = description
        .segment(segment("isp", isp, 1))
        .segment(segment("site", lan, 2))
        .machine(Machine::router(&name("transit"), "core", &name("isp")));
    let mut outside = name("isp");
    if kind == Kind::Double {
        let carrier = router("carrier", &outside, "between", Nat::PortRestricted);
        description = description
            .segment(segment("between", "100.64.0.0/24", 3))
            .machine(carrier);
        outside = name("between");
    }
    let own = router("gateway", &outside, "site", kind.nat());
    description.machine(if kind == Kind::UdpBlocked {
        own.block_udp()
    } else {
        own
    })
}

/// Lets the nodes behind routers that block UDP talk with their cluster, and with nobody else: without it
/// they could not join, and nothing would be known of how they reach each other.
///
/// # Errors
/// A router refuses the rules.
pub(super) fn let_control_through(lab: &Lab, case: Case) -> Result<()> {
    let rules: String = lab
        .node(CONTROL)
        .addresses()
        .iter()
        .flat_map(|address| {
            let ip = if address.is_ipv4() { "ip" } else { "ip6" };
            let rule = "insert rule inet lab-filter forward";
            ["saddr", "daddr"].map(|end| format!("{rule} {ip} {end} {address} accept\n"))
        })
        .collect();
    for (index, kind) in case.pair.sites().into_iter().enumerate() {
        if kind == Kind::UdpBlocked {
            let gateway = format!("gateway-{}", SITES[index]);
            lab.node(&gateway).nft(&rules)?;
        }
    }
    Ok(())
}

/// Proves with plain UDP that every site's routers map and filter as their kind says.
///
/// # Errors
/// One does not.
pub fn prove(lab: &Lab, case: Case) -> Result<()> {
    let outside = [lab.node(HUB), lab.node(CONTROL)];
    for (index, kind) in case.pair.sites().into_iter().enumerate() {
        let seen = Behaviour::observe(lab.node(NODES[index]), outside, false)?;
        let promised = kind.behaviour(case.router);
        ensure!(
            seen == promised,
            "{kind:?} router that {}: {seen:?}, not {promised:?}",
            case.router.word()
        );
        if case.ip.has_v6(index) && kind != Kind::UdpBlocked {
            let seen = Behaviour::observe(lab.node(NODES[index]), outside, true)?;
            let promised = Behaviour::of(Nat::None, case.router == Flavour::Drops);
            ensure!(seen == promised, "{kind:?} router, IPv6: {seen:?}");
        }
    }
    Ok(())
}
