//! Routes and policy rules to messages and back.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAction as Action, RuleAttribute, RuleMessage};

use super::super::item::{Family, Place, Route, RouteTarget, Rule, RuleAction};
use super::family_of;

/// The priorities of the rules that the kernel starts with.
const KERNEL_RULES: [u32; 3] = [0, 32766, 32767];

/// The kernel's table of own addresses, which it fills itself.
const LOCAL_TABLE: u32 = 255;

/// The message that makes or removes a route; `index` is its device's.
pub(super) fn route_message(route: &Route, index: Option<u32>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family_of(route.destination.ip());
    message.header.destination_prefix_length = route.destination.prefix();
    message.header.protocol = RouteProtocol::Static;
    message.attributes = vec![
        RouteAttribute::Table(route.table),
        RouteAttribute::Priority(route.metric),
    ];
    if route.destination.prefix() > 0 {
        let destination = route.destination.network().into();
        let attribute = RouteAttribute::Destination(destination);
        message.attributes.push(attribute);
    }
    match &route.target {
        RouteTarget::Unreachable => message.header.kind = RouteType::Unreachable,
        RouteTarget::Device {
            gateway, source, ..
        } => {
            message.header.kind = RouteType::Unicast;
            message.attributes.extend(index.map(RouteAttribute::Oif));
            if let Some(gateway) = gateway {
                message.header.flags |= RouteFlags::Onlink;
                let attribute = RouteAttribute::Gateway((*gateway).into());
                message.attributes.push(attribute);
            } else if route.destination.is_ipv4() {
                message.header.scope = RouteScope::Link;
            }
            if let Some(source) = source {
                let attribute = RouteAttribute::PrefSource((*source).into());
                message.attributes.push(attribute);
            }
        }
    }
    message
}

/// The route that a message tells of, if a person or a program set it.
pub(super) fn route(
    place: &Place,
    message: &RouteMessage,
    names: &BTreeMap<u32, String>,
) -> Option<Route> {
    if message.header.protocol == RouteProtocol::Kernel {
        return None;
    }
    let mut table = u32::from(message.header.table);
    let (mut destination, mut metric) = (None, 0);
    let (mut device, mut gateway, mut source) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(address) => destination = ip(address),
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::Oif(index) => device = names.get(index).cloned(),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::PrefSource(address) => source = ip(address),
            _ => {}
        }
    }
    if table == LOCAL_TABLE {
        return None;
    }
    // A default route names no destination.
    let zero = match message.header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0_u8; 16]),
        _ => return None,
    };
    let destination = destination.unwrap_or(zero);
    let target = match message.header.kind {
        RouteType::Unicast => RouteTarget::Device {
            device: device?,
            gateway,
            source,
        },
        RouteType::Unreachable => RouteTarget::Unreachable,
        _ => return None,
    };
    Some(Route {
        place: place.clone(),
        table,
        destination: IpNetwork::new(destination, message.header.destination_prefix_length).ok()?,
        metric,
        target,
    })
}

/// The message that makes or removes a rule.
pub(super) fn rule_message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = match rule.family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    };
    message.attributes = vec![
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::Iifname(rule.input.clone()),
    ];
    if let Some(source) = rule.source {
        message.header.src_len = source.prefix();
        message.attributes.push(RuleAttribute::Source(source.ip()));
    }
    match rule.action {
        RuleAction::Lookup(table) => {
            message.header.action = Action::ToTable;
            message.attributes.push(RuleAttribute::Table(table));
        }
        RuleAction::Blackhole => message.header.action = Action::Blackhole,
    }
    message
}

/// The rule that a message tells of, if it could be one of ours.
pub(super) fn rule(place: &Place, family: Family, message: &RuleMessage) -> Option<Rule> {
    let mut table = u32::from(message.header.table);
    let (mut priority, mut input, mut source) = (0, None, None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(number) => priority = *number,
            RuleAttribute::Iifname(name) => input = Some(name.clone()),
            RuleAttribute::Source(ip) => {
                source = Some(IpNetwork::new(*ip, message.header.src_len).ok()?);
            }
            RuleAttribute::Table(number) => table = *number,
            _ => {}
        }
    }
    if KERNEL_RULES.contains(&priority) {
        return None;
    }
    let action = match message.header.action {
        Action::ToTable => RuleAction::Lookup(table),
        Action::Blackhole => RuleAction::Blackhole,
        _ => return None,
    };
    Some(Rule {
        place: place.clone(),
        family,
        priority,
        input: input?,
        source,
        action,
    })
}

const fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}
