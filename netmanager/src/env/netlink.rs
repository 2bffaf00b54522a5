//! A blocking route-netlink socket: makes, removes and lists links, addresses, routes and rules.
//!
//! A netlink socket stays in the namespace that it was opened in, so one is opened by a thread
//! that is there and used from anywhere. It translates between [`super::item::Item`]s and messages and decides
//! nothing.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the enums are the kernel's: they are long and grow with it"
)]

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use ipnetwork::IpNetwork;
use nix::libc;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::packet_route::rule::RuleMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

use super::config::MAX_SEGMENTS;
use super::item::{Family, Route, Rule};

mod routes;

/// A route-netlink socket in one namespace.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// A network device as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mtu: u32,
    pub(super) is_up: bool,
    pub(super) is_veth: bool,
    /// The index of the other end of a veth, in that end's namespace.
    pub(super) peer_index: Option<u32>,
}

impl Netlink {
    /// Opens a socket in the namespace of the calling thread.
    pub(super) fn open_here() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Makes a pair of virtual Ethernet devices: one here, its peer in another namespace.
    pub(super) fn add_veth(
        &mut self,
        device: &str,
        peer: &str,
        peer_namespace: BorrowedFd<'_>,
        mtu: u32,
    ) -> io::Result<()> {
        let far = LinkMessageBuilder::<LinkUnspec>::new()
            .name(peer)
            .mtu(mtu)
            .setns_by_fd(peer_namespace.as_raw_fd())
            .build();
        let near = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Veth)
            .name(device)
            .mtu(mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far)))
            .build();
        self.create(RouteNetlinkMessage::NewLink(near))
    }

    /// Removes a device.
    pub(super) fn delete_link(&mut self, device: &str) -> io::Result<()> {
        let index = self.index(device)?;
        let message = LinkMessageBuilder::<LinkUnspec>::new().index(index).build();
        self.change(RouteNetlinkMessage::DelLink(message))
    }

    /// Sets a device's MTU, bounds its super-packets and takes it up.
    pub(super) fn set_up(&mut self, device: &str, mtu: u32) -> io::Result<()> {
        let index = self.index(device)?;
        let message = LinkMessageBuilder::<LinkUnspec>::new()
            .index(index)
            .mtu(mtu)
            .append_extra_attribute(LinkAttribute::GsoMaxSegs(MAX_SEGMENTS))
            .up()
            .build();
        self.change(RouteNetlinkMessage::SetLink(message))
    }

    /// Takes a device down.
    pub(super) fn set_down(&mut self, device: &str) -> io::Result<()> {
        let index = self.index(device)?;
        let builder = LinkMessageBuilder::<LinkUnspec>::new();
        let message = builder.index(index).down().build();
        self.change(RouteNetlinkMessage::SetLink(message))
    }

    /// Gives a device an address, without duplicate address detection.
    pub(super) fn add_address(&mut self, device: &str, address: IpNetwork) -> io::Result<()> {
        let mut message = self.address_message(device, address)?;
        let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
        message.attributes.push(AddressAttribute::Flags(flags));
        self.create(RouteNetlinkMessage::NewAddress(message))
    }

    /// Takes an address from a device.
    pub(super) fn delete_address(&mut self, device: &str, address: IpNetwork) -> io::Result<()> {
        let message = self.address_message(device, address)?;
        self.change(RouteNetlinkMessage::DelAddress(message))
    }

    fn address_message(&mut self, device: &str, address: IpNetwork) -> io::Result<AddressMessage> {
        let mut message = AddressMessage::default();
        message.header.family = family_of(address.ip());
        message.header.prefix_len = address.prefix();
        message.header.index = self.index(device)?;
        message.attributes = vec![
            AddressAttribute::Local(address.ip()),
            AddressAttribute::Address(address.ip()),
        ];
        Ok(message)
    }

    /// Makes a route.
    pub(super) fn add_route(&mut self, route: &Route) -> io::Result<()> {
        let message = self.route_message(route)?;
        self.create(RouteNetlinkMessage::NewRoute(message))
    }

    /// Removes a route.
    pub(super) fn delete_route(&mut self, route: &Route) -> io::Result<()> {
        let mut message = self.route_message(route)?;
        // Whoever made it.
        message.header.protocol = RouteProtocol::Unspec;
        message.header.scope = RouteScope::NoWhere;
        self.change(RouteNetlinkMessage::DelRoute(message))
    }

    fn route_message(&mut self, route: &Route) -> io::Result<RouteMessage> {
        let index = match &route.target {
            super::item::RouteTarget::Unreachable => None,
            super::item::RouteTarget::Device { device, .. } => Some(self.index(device)?),
        };
        Ok(routes::route_message(route, index))
    }

    /// Makes a policy rule.
    pub(super) fn add_rule(&mut self, rule: &Rule) -> io::Result<()> {
        self.create(RouteNetlinkMessage::NewRule(routes::rule_message(rule)))
    }

    /// Removes a policy rule.
    pub(super) fn delete_rule(&mut self, rule: &Rule) -> io::Result<()> {
        self.change(RouteNetlinkMessage::DelRule(routes::rule_message(rule)))
    }

    /// Every device.
    pub(super) fn links(&mut self) -> io::Result<Vec<Link>> {
        let replies = self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(replies
            .into_iter()
            .filter_map(|reply| match reply {
                RouteNetlinkMessage::NewLink(message) => Some(link(&message)),
                _ => None,
            })
            .collect())
    }

    /// Every address, with its device's name.
    pub(super) fn addresses(
        &mut self,
        names: &BTreeMap<u32, String>,
    ) -> io::Result<Vec<(String, IpNetwork)>> {
        let replies = self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        let address = |message: AddressMessage| {
            let name = names.get(&message.header.index)?.clone();
            let ip = message.attributes.iter().find_map(|attribute| {
                // IPv6 has no local address apart from the address.
                match attribute {
                    AddressAttribute::Address(ip) => Some(*ip),
                    _ => None,
                }
            })?;
            let network = IpNetwork::new(ip, message.header.prefix_len).ok()?;
            Some((name, network))
        };
        Ok(replies
            .into_iter()
            .filter_map(|reply| match reply {
                RouteNetlinkMessage::NewAddress(message) => address(message),
                _ => None,
            })
            .collect())
    }

    /// The routes of both families that somebody set, without their place.
    pub(super) fn routes(
        &mut self,
        place: &super::item::Place,
        names: &BTreeMap<u32, String>,
    ) -> io::Result<Vec<Route>> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            for reply in self.dump(RouteNetlinkMessage::GetRoute(request))? {
                if let RouteNetlinkMessage::NewRoute(message) = reply {
                    found.extend(routes::route(place, &message, names));
                }
            }
        }
        Ok(found)
    }

    /// The policy rules of both families, but those that the kernel starts with.
    pub(super) fn rules(&mut self, place: &super::item::Place) -> io::Result<Vec<Rule>> {
        let mut found = Vec::new();
        for (family, code) in [
            (Family::V4, AddressFamily::Inet),
            (Family::V6, AddressFamily::Inet6),
        ] {
            let mut request = RuleMessage::default();
            request.header.family = code;
            for reply in self.dump(RouteNetlinkMessage::GetRule(request))? {
                if let RouteNetlinkMessage::NewRule(message) = reply {
                    found.extend(routes::rule(place, family, &message));
                }
            }
        }
        Ok(found)
    }

    fn index(&mut self, device: &str) -> io::Result<u32> {
        let builder = LinkMessageBuilder::<LinkUnspec>::new();
        let request = RouteNetlinkMessage::GetLink(builder.name(device).build());
        for reply in self.request(request, NLM_F_REQUEST)? {
            if let RouteNetlinkMessage::NewLink(message) = reply {
                return Ok(message.header.index);
            }
        }
        Err(io::Error::from_raw_os_error(libc::ENODEV))
    }

    fn create(&mut self, message: RouteNetlinkMessage) -> io::Result<()> {
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        self.request(message, flags).map(|_| ())
    }

    fn change(&mut self, message: RouteNetlinkMessage) -> io::Result<()> {
        self.request(message, NLM_F_REQUEST | NLM_F_ACK).map(|_| ())
    }

    fn dump(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.request(message, NLM_F_REQUEST | NLM_F_DUMP)
    }

    /// Sends a request and reads until its answer is complete.
    fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = NetlinkMessage::from(message);
        request.header.flags = flags;
        request.header.sequence_number = self.sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let is_single = flags & (NLM_F_DUMP | NLM_F_ACK) == 0;
        let mut replies = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let reply = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                let length = (reply.header.length as usize).next_multiple_of(4);
                rest = rest.get(length.max(4)..).unwrap_or_default();
                if reply.header.sequence_number != self.sequence {
                    continue;
                }
                match reply.payload {
                    NetlinkPayload::Done(_) => return Ok(replies),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(replies),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::InnerMessage(inner) => {
                        replies.push(inner);
                        if is_single {
                            return Ok(replies);
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}

impl std::fmt::Debug for Netlink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Netlink").finish_non_exhaustive()
    }
}

fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mtu: 0,
        is_up: message.header.flags.contains(LinkFlags::Up),
        is_veth: false,
        peer_index: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Link(index) => link.peer_index = Some(*index),
            LinkAttribute::LinkInfo(infos) => {
                link.is_veth = infos.contains(&LinkInfo::Kind(InfoKind::Veth));
            }
            _ => {}
        }
    }
    link
}

const fn family_of(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
