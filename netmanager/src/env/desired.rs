//! From a config to the items that it takes, in the order in which they can be made.
//!
//! Pure. The addresses, in short: every veth's overlay end has 169.254.1.1 and fe80::1, which is
//! the gateway of whoever is at the other end; the host's end has the node's addresses and
//! fe80::2; an instance's end has its addresses as /32 and /128. Pools lead to the TUN, and only
//! what comes out of it uses the instances' routes (table 20).

use std::net::{IpAddr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv6Network};
use netmanager_core::lane::{STACK_PREFIX_V4, STACK_PREFIX_V6, STACK_V4, STACK_V6};
use weald_proto::id::Label;

use super::config::{
    EnvConfig, INNER_MTU, InstanceEnv, RESOLVER_V4, RESOLVER_V6, host_device, instance_device,
    instance_namespace, overlay_number, resolv_conf_path,
};
use super::item::{Family, Item, Place, Route, RouteTarget, Rule, RuleAction};
use super::rules;

/// The TUN in the overlay namespace.
pub(super) const TUN_DEVICE: &str = "weald0";

/// The overlay's end of the veth to the host.
pub(super) const UPLINK_DEVICE: &str = "up0";

/// An instance's end of its veth.
pub(super) const INSTANCE_DEVICE: &str = "eth0";

/// The routing table with the addresses of this node: its instances and itself.
const LOCAL_TABLE: u32 = 20;

/// The kernel's main routing table.
const MAIN_TABLE: u32 = 254;

/// The metric of pool routes to the TUN.
const TUN_METRIC: u32 = 100;

/// The metric of what is neither better nor worse than another; IPv6 has no 0.
const PLAIN_METRIC: u32 = 1024;

/// The least metric of `unreachable` routes: above whatever a person would choose. The overlay's
/// number is added on the host, where several overlays may have one each.
const UNREACHABLE_METRIC: u32 = 0x7f00_0000;

/// The least metric of the pools' routes on the host, to which the overlay's number is added.
const POOL_METRIC: u32 = 0x0100_0000;

/// The loopback device's MTU, which the kernel chooses.
const LOOPBACK_MTU: u32 = 65536;

/// The link-local address of the overlay's end of every veth.
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The link-local address of the host's end of its veth.
const HOST_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

/// Forwarding of IPv4 on the host. The kernel changes `accept_redirects` when `ip_forward` is
/// written, so it is named first and given back last.
const HOST_FORWARDING_V4: [(&str, &str); 2] = [
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv4/ip_forward", "1"),
];

/// Forwarding of IPv6 on the host.
const HOST_FORWARDING_V6: [(&str, &str); 1] = [("net/ipv6/conf/all/forwarding", "1")];

/// Settings of a new overlay namespace: it routes, believes no redirect or router, and its
/// addresses are unique by construction.
const OVERLAY_SYSCTLS: [(&str, &str); 12] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv6/conf/all/accept_redirects", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/dad_transmits", "0"),
    ("net/ipv6/conf/default/addr_gen_mode", "1"),
];

/// Everything that the config takes, in the order in which it can be made.
pub(super) fn items(config: &EnvConfig) -> Vec<Item> {
    let overlay = Place::Namespace(config.name.to_string());
    let mut items = vec![Item::Namespace(config.name.to_string())];
    items.extend(OVERLAY_SYSCTLS.map(|(key, value)| sysctl(&overlay, key, value)));
    items.push(Item::Nft {
        place: overlay.clone(),
        table: config.name.to_string(),
        text: rules::overlay_table(config, config.name.as_str()),
    });
    items.extend(policy_rules(config, &overlay));
    items.extend(unreachable(config, &overlay, UNREACHABLE_METRIC));
    let number = u32::from(overlay_number(&config.name));
    items.extend(unreachable(
        config,
        &Place::Host,
        UNREACHABLE_METRIC + number,
    ));
    items.push(up(&overlay, "lo", LOOPBACK_MTU));
    items.push(Item::Nft {
        place: Place::Host,
        table: config.name.to_string(),
        text: rules::host_table(config, config.name.as_str()),
    });
    items.extend(uplink(config, &overlay));
    for instance in &config.instances {
        items.extend(instance_items(config, instance, &overlay));
    }
    items
}

/// Whether a route on the host is the overlay's, going by its metric, which nobody else uses.
pub(super) fn is_host_route(overlay: &Label, route: &Route) -> bool {
    let number = u32::from(overlay_number(overlay));
    let metrics = [POOL_METRIC + number, UNREACHABLE_METRIC + number];
    route.place == Place::Host && metrics.contains(&route.metric)
}

/// The routes that lead the pools, and the phantoms of the L4 lane, to the TUN; they go when it
/// goes.
pub(super) fn tun_routes(config: &EnvConfig, overlay: &Place) -> [Route; 4] {
    let [pool4, pool6] = pools(config);
    let [stack4, stack6] = stack_addresses().map(|address| {
        let network = IpNetwork::new(address.network(), address.prefix());
        network.unwrap_or(address)
    });
    [pool4, pool6, stack4, stack6].map(|destination| Route {
        place: overlay.clone(),
        table: MAIN_TABLE,
        destination,
        metric: TUN_METRIC,
        target: to_device(TUN_DEVICE, None, None),
    })
}

/// The addresses of the TUN, at which connections of the L4 lane end.
pub(super) fn stack_addresses() -> [IpNetwork; 2] {
    let with_prefix = |ip: IpAddr, prefix| IpNetwork::new(ip, prefix).unwrap_or_else(|_| ip.into());
    [
        with_prefix(IpAddr::V4(STACK_V4), STACK_PREFIX_V4),
        with_prefix(IpAddr::V6(STACK_V6), STACK_PREFIX_V6),
    ]
}

/// Whether the host must forward for the config.
pub(super) fn needs_forwarding(config: &EnvConfig) -> bool {
    config.egress || !config.mapped_ports().is_empty()
}

/// The settings that make a host forward, in the order of changing; the last one is the switch.
pub(super) fn host_forwarding(family: Family) -> Vec<Item> {
    let settings: &[(&str, &str)] = match family {
        Family::V4 => &HOST_FORWARDING_V4,
        Family::V6 => &HOST_FORWARDING_V6,
    };
    let item = |(key, value): &(&str, &str)| sysctl(&Place::Host, key, value);
    settings.iter().map(item).collect()
}

fn policy_rules(config: &EnvConfig, overlay: &Place) -> Vec<Item> {
    let mut items = Vec::new();
    for (family, own) in [
        (Family::V4, config.node_ip.v4.map(IpAddr::V4)),
        (Family::V6, config.node_ip.v6.map(IpAddr::V6)),
    ] {
        let rule = |priority, input: &str, source, action| {
            Item::Rule(Rule {
                place: overlay.clone(),
                family,
                priority,
                input: input.to_owned(),
                source,
                action,
            })
        };
        // The host's own programs go through the flow table; answers from outside go straight
        // to the instance that asked.
        if let Some(own) = own {
            let own = Some(IpNetwork::from(own));
            items.push(rule(94, UPLINK_DEVICE, own, RuleAction::Lookup(MAIN_TABLE)));
        }
        let local = RuleAction::Lookup(LOCAL_TABLE);
        items.push(rule(95, UPLINK_DEVICE, None, local));
        items.push(rule(96, UPLINK_DEVICE, None, RuleAction::Blackhole));
        items.push(rule(100, TUN_DEVICE, None, local));
        items.push(rule(101, TUN_DEVICE, None, RuleAction::Blackhole));
        items.push(rule(102, "lo", None, local));
    }
    items
}

fn unreachable(config: &EnvConfig, place: &Place, metric: u32) -> Vec<Item> {
    pools(config)
        .map(|pool| route(place, MAIN_TABLE, pool, metric, RouteTarget::Unreachable))
        .to_vec()
}

fn uplink(config: &EnvConfig, overlay: &Place) -> Vec<Item> {
    let device = host_device(&config.name);
    let host = Place::Host;
    let conf6 = |key: &str, value| sysctl(&host, &format!("net/ipv6/conf/{device}/{key}"), value);
    let mut items = vec![
        Item::Veth {
            place: overlay.clone(),
            device: UPLINK_DEVICE.into(),
            peer_place: host.clone(),
            peer: device.clone(),
        },
        conf6("accept_dad", "0"),
        conf6("accept_ra", "0"),
        conf6("addr_gen_mode", "1"),
        // Answers from 127.0.0.1 to a mapped port come back by this device.
        sysctl(
            &host,
            &format!("net/ipv4/conf/{device}/route_localnet"),
            "1",
        ),
        sysctl(&host, &format!("net/ipv4/conf/{device}/rp_filter"), "0"),
    ];
    items.extend(overlay_end(overlay, UPLINK_DEVICE));
    let mut own: Vec<IpNetwork> = config.node_ip.iter().map(IpNetwork::from).collect();
    own.push(link_local(HOST_V6));
    for address in own {
        items.push(Item::Address {
            place: host.clone(),
            device: device.clone(),
            address,
        });
    }
    items.push(up(&host, &device, INNER_MTU));
    items.push(Item::Address {
        place: overlay.clone(),
        device: UPLINK_DEVICE.into(),
        address: IpAddr::V6(RESOLVER_V6).into(),
    });
    items.extend(host_routes(config, &device));
    for ip in config.node_ip.iter() {
        let target = to_device(UPLINK_DEVICE, None, None);
        items.push(route(overlay, LOCAL_TABLE, ip.into(), PLAIN_METRIC, target));
    }
    if config.egress {
        let gateways = [config.node_ip.v4.map(IpAddr::V4), Some(IpAddr::V6(HOST_V6))];
        for gateway in gateways.into_iter().flatten() {
            items.push(default_route(overlay, UPLINK_DEVICE, gateway));
        }
    }
    items
}

/// The pools' routes on the host, and those to the resolver for its programs.
fn host_routes(config: &EnvConfig, device: &str) -> Vec<Item> {
    let number = u32::from(overlay_number(&config.name));
    let [pool4, pool6] = pools(config);
    let resolver4 = IpNetwork::from(IpAddr::V4(RESOLVER_V4));
    let resolver6 = IpNetwork::from(IpAddr::V6(RESOLVER_V6));
    let mut items = Vec::new();
    for (own, gateway, destinations) in [
        (
            config.node_ip.v4.map(IpAddr::V4),
            IpAddr::V4(RESOLVER_V4),
            [pool4, resolver4],
        ),
        (
            config.node_ip.v6.map(IpAddr::V6),
            IpAddr::V6(GATEWAY_V6),
            [pool6, resolver6],
        ),
    ] {
        let Some(own) = own else { continue };
        for destination in destinations {
            // 169.254.1.1 is itself on the link; everything else is behind it.
            let gateway = Some(gateway).filter(|gateway| IpNetwork::from(*gateway) != destination);
            let target = to_device(device, gateway, Some(own));
            items.push(route(
                &Place::Host,
                MAIN_TABLE,
                destination,
                POOL_METRIC + number,
                target,
            ));
        }
    }
    items
}

fn instance_items(config: &EnvConfig, instance: &InstanceEnv, overlay: &Place) -> Vec<Item> {
    let namespace = instance_namespace(&config.name, &instance.id);
    let inside = Place::Namespace(namespace.clone());
    let device = instance_device(&instance.id);
    let mut items = vec![
        Item::File {
            path: resolv_conf_path(&config.name, &instance.id),
            contents: format!("nameserver {RESOLVER_V4}\nnameserver {RESOLVER_V6}\n"),
        },
        Item::Namespace(namespace),
        sysctl(&inside, "net/ipv6/conf/default/accept_dad", "0"),
        sysctl(&inside, "net/ipv6/conf/default/accept_ra", "0"),
        up(&inside, "lo", LOOPBACK_MTU),
        Item::Veth {
            place: overlay.clone(),
            device: device.clone(),
            peer_place: inside.clone(),
            peer: INSTANCE_DEVICE.into(),
        },
    ];
    items.extend(overlay_end(overlay, &device));
    for ip in instance.instance_ip.iter() {
        items.push(Item::Address {
            place: inside.clone(),
            device: INSTANCE_DEVICE.into(),
            address: ip.into(),
        });
    }
    items.push(up(&inside, INSTANCE_DEVICE, INNER_MTU));
    for ip in instance.instance_ip.iter() {
        let gateway = match ip {
            IpAddr::V4(_) => IpAddr::V4(RESOLVER_V4),
            IpAddr::V6(_) => IpAddr::V6(GATEWAY_V6),
        };
        items.push(default_route(&inside, INSTANCE_DEVICE, gateway));
        let target = to_device(&device, None, None);
        items.push(route(overlay, LOCAL_TABLE, ip.into(), PLAIN_METRIC, target));
    }
    items
}

/// The addresses of the overlay's end of a veth, and that it is up.
fn overlay_end(overlay: &Place, device: &str) -> [Item; 3] {
    let address = |address| Item::Address {
        place: overlay.clone(),
        device: device.into(),
        address,
    };
    [
        address(IpAddr::V4(RESOLVER_V4).into()),
        address(link_local(GATEWAY_V6)),
        up(overlay, device, INNER_MTU),
    ]
}

fn pools(config: &EnvConfig) -> [IpNetwork; 2] {
    let (v4, v6) = (&config.pools.v4, &config.pools.v6);
    // Routes are kept by their network address, whatever the config wrote.
    [
        IpNetwork::new(v4.network().into(), v4.prefix()).unwrap_or(IpNetwork::V4(*v4)),
        IpNetwork::new(v6.network().into(), v6.prefix()).unwrap_or(IpNetwork::V6(*v6)),
    ]
}

fn link_local(address: Ipv6Addr) -> IpNetwork {
    // 64 is a valid prefix length.
    Ipv6Network::new(address, 64).map_or_else(|_| IpAddr::V6(address).into(), IpNetwork::V6)
}

fn default_route(place: &Place, device: &str, gateway: IpAddr) -> Item {
    let zero: IpAddr = match gateway {
        IpAddr::V4(_) => IpAddr::V4([0, 0, 0, 0].into()),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let destination = IpNetwork::new(zero, 0).unwrap_or_else(|_| zero.into());
    let target = to_device(device, Some(gateway), None);
    route(place, MAIN_TABLE, destination, PLAIN_METRIC, target)
}

fn to_device(device: &str, gateway: Option<IpAddr>, source: Option<IpAddr>) -> RouteTarget {
    RouteTarget::Device {
        device: device.to_owned(),
        gateway,
        source,
    }
}

fn route(
    place: &Place,
    table: u32,
    destination: IpNetwork,
    metric: u32,
    target: RouteTarget,
) -> Item {
    Item::Route(Route {
        place: place.clone(),
        table,
        destination,
        metric,
        target,
    })
}

fn sysctl(place: &Place, key: &str, value: &str) -> Item {
    Item::Sysctl {
        place: place.clone(),
        key: key.to_owned(),
        value: value.to_owned(),
    }
}

fn up(place: &Place, device: &str, mtu: u32) -> Item {
    Item::Up {
        place: place.clone(),
        device: device.to_owned(),
        mtu,
    }
}
