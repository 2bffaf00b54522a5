//! Under which key a flow's packets are found: the side they arrive on and the whole tuple.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::packet::{L4, PacketInfo};
use crate::table::Host;

/// On which side of the data plane a packet arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// From this node's own instances and host programs.
    Tun,
    /// From another node.
    Peer,
}

impl Side {
    /// The side on which packets from that host arrive.
    #[must_use]
    pub const fn of(host: Host) -> Self {
        match host {
            Host::Local => Self::Tun,
            Host::Peer(_) => Self::Peer,
        }
    }
}

/// The key of one direction of a flow: side, protocol, addresses and ports.
///
/// An echo request has its identifier as source port and 0 as destination port, a reply the other
/// way round, so that the two directions mirror each other as those of TCP do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowKey {
    source: Address,
    destination: Address,
    source_port: u16,
    destination_port: u16,
    protocol: u8,
    side: Side,
    v6: bool,
}

/// An address in two words; IPv4 in its IPv6-mapped form, told apart by [`FlowKey::v6`].
type Address = [u64; 2];

impl FlowKey {
    /// The key of a packet that arrives on that side; none unless it is TCP, UDP or an echo with
    /// its header.
    #[must_use]
    pub fn of(side: Side, info: &PacketInfo) -> Option<Self> {
        let (source_port, destination_port) = match info.l4 {
            L4::Tcp {
                src_port, dst_port, ..
            }
            | L4::Udp { src_port, dst_port } => (src_port, dst_port),
            L4::IcmpEcho { id, reply: false } => (id, 0),
            L4::IcmpEcho { id, reply: true } => (0, id),
            L4::IcmpError { .. } | L4::Icmp | L4::Other | L4::LaterFragment => return None,
        };
        Some(Self {
            source: words(info.src),
            destination: words(info.dst),
            source_port,
            destination_port,
            protocol: info.protocol,
            side,
            v6: info.src.is_ipv6(),
        })
    }

    /// The key of packets of that protocol between two addresses of one family.
    #[must_use]
    pub fn between(protocol: u8, side: Side, source: SocketAddr, destination: SocketAddr) -> Self {
        Self {
            source: words(source.ip()),
            destination: words(destination.ip()),
            source_port: source.port(),
            destination_port: destination.port(),
            protocol,
            side,
            v6: source.is_ipv6(),
        }
    }

    /// The key of the answers to packets with this key when they arrive on `side`.
    #[must_use]
    pub const fn reversed(self, side: Side) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            side,
            ..self
        }
    }

    /// This key with other addresses of the same family.
    #[must_use]
    pub fn with_addresses(self, source: IpAddr, destination: IpAddr) -> Self {
        Self {
            source: words(source),
            destination: words(destination),
            ..self
        }
    }

    /// This key for packets that arrive on `side`.
    #[must_use]
    pub const fn on(self, side: Side) -> Self {
        Self { side, ..self }
    }

    /// The side that the packets arrive on.
    #[must_use]
    pub const fn side(&self) -> Side {
        self.side
    }

    /// The protocol number.
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// The source address.
    #[must_use]
    pub fn source(&self) -> IpAddr {
        address(self.source, self.v6)
    }

    /// The destination address.
    #[must_use]
    pub fn destination(&self) -> IpAddr {
        address(self.destination, self.v6)
    }

    /// The source port, or the identifier of an echo request.
    #[must_use]
    pub const fn source_port(&self) -> u16 {
        self.source_port
    }

    /// The destination port, or the identifier of an echo reply.
    #[must_use]
    pub const fn destination_port(&self) -> u16 {
        self.destination_port
    }
}

impl Hash for FlowKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for word in self.source.into_iter().chain(self.destination) {
            state.write_u64(word);
        }
        state.write_u64(
            u64::from(self.source_port) << 48
                | u64::from(self.destination_port) << 32
                | u64::from(self.protocol) << 8
                | u64::from(self.side == Side::Peer) << 1
                | u64::from(self.v6),
        );
    }
}

fn words(ip: IpAddr) -> Address {
    let bits = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    [(bits >> 64) as u64, bits as u64]
}

fn address([high, low]: Address, v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).into()
    } else {
        Ipv4Addr::from_bits(low as u32).into()
    }
}
