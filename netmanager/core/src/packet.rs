//! A checked view of one inner IP packet, and its rewriting in place.
//!
//! [`Packet::parse`] looks at every byte that later code relies on; after it, no accessor can
//! panic and no rewrite can miss. A packet may be a super-packet: then its lengths cover the whole,
//! up to 64 KiB, and the virtio-net header says how to cut it. It keeps no state and decides
//! nothing: the data plane parses every packet here, the flow table and translation read
//! [`PacketInfo`] and rewrite addresses, the chunk layer checks what it has put together.
//!
//! Checksums are not verified (the kernel that gets the packet does that), only kept as right as
//! they were.

use std::net::IpAddr;

use thiserror::Error;

use crate::verdict::DropReason;
use crate::vnet::VnetError;

pub(crate) mod checksum;
mod parse;
mod rewrite;
#[cfg(test)]
mod tests;

/// A parsed packet that can be rewritten.
#[derive(Debug)]
pub struct Packet<'a> {
    bytes: &'a mut [u8],
    info: PacketInfo,
}

/// What the headers of a packet say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketInfo {
    /// The source address.
    pub src: IpAddr,
    /// The destination address.
    pub dst: IpAddr,
    /// The protocol of the payload, behind IPv6 extension headers. Of a later IPv6 fragment, what
    /// its fragment header says, which may be an extension header.
    pub protocol: u8,
    /// Where the payload of IP begins: the L4 header, or the data of a later fragment.
    pub l4_offset: u16,
    /// Bytes of the packet, by its IP header.
    pub total_len: u16,
    /// There if this is a part of a fragmented packet.
    pub fragment: Option<Fragment>,
    /// The L4 header.
    pub l4: L4,
}

/// Which part of a fragmented packet this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// The identification, 16 bits in IPv4.
    pub id: u32,
    /// Where its payload belongs, in bytes.
    pub offset: u16,
    /// Whether more fragments follow.
    pub more: bool,
}

/// What the packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum L4 {
    /// TCP, with a whole header.
    Tcp {
        /// The source port.
        src_port: u16,
        /// The destination port.
        dst_port: u16,
        /// The flags.
        flags: TcpFlags,
        /// Bytes of the header with its options; 0 in a quotation that ends before that field.
        header_len: u8,
    },
    /// UDP, with a whole header.
    Udp {
        /// The source port.
        src_port: u16,
        /// The destination port.
        dst_port: u16,
    },
    /// An echo request or reply of ICMP or ICMPv6.
    IcmpEcho {
        /// The identifier.
        id: u16,
        /// Whether it is the reply.
        reply: bool,
    },
    /// An ICMP or ICMPv6 error that quotes the packet it is about.
    IcmpError {
        /// Where the quoted packet begins.
        embedded: u16,
    },
    /// Any other ICMP or ICMPv6 message.
    Icmp,
    /// Another protocol.
    Other,
    /// The part of a fragmented packet that has no L4 header.
    LaterFragment,
}

/// The flags of a TCP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpFlags(pub u8);

/// Protocol number of ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// Protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// Protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// Protocol number of ICMPv6.
pub const PROTOCOL_ICMPV6: u8 = 58;
/// Bytes of an IPv4 header without options.
pub(crate) const IPV4_HEADER_LEN: usize = 20;
/// Bytes of an IPv6 header.
pub(crate) const IPV6_HEADER_LEN: usize = 40;
/// Bytes of a TCP header without options.
pub(crate) const TCP_HEADER_LEN: usize = 20;
/// Bytes of a UDP header.
pub(crate) const UDP_HEADER_LEN: usize = 8;
/// Bytes of an ICMP header before what it carries.
pub(crate) const ICMP_HEADER_LEN: usize = 8;
/// Most bytes of a packet, super-packets included: all that IPv4 can say. Linux's are not longer
/// unless "BIG TCP" is switched on for the device.
pub const MAX_PACKET_LEN: usize = 65_535;

/// What is wrong with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PacketError {
    /// No bytes at all.
    #[error("an empty packet")]
    Empty,
    /// Neither IPv4 nor IPv6.
    #[error("IP version {0}")]
    Version(u8),
    /// It ends before a header does.
    #[error("{have} bytes, where {needed} are needed")]
    Truncated {
        /// Bytes that would have to be there.
        needed: usize,
        /// Bytes that are there.
        have: usize,
    },
    /// A header that says it is shorter than it must be, or longer than the packet.
    #[error("a header length of {0}")]
    HeaderLength(usize),
    /// It is longer than [`MAX_PACKET_LEN`].
    #[error("a packet of {0} bytes")]
    TooLong(usize),
    /// IPv6 extension headers that are too many, or not where they may be.
    #[error("extension header {0} where it must not be")]
    ExtensionHeader(u8),
    /// An IPv6 routing header with a way still to go, so that the destination is not the last.
    #[error("a routing header with {0} segments left")]
    RoutingHeader(u8),
    /// A fragment that ends beyond the longest packet, or between two units of 8 bytes.
    #[error("a fragment of {len} bytes at {offset}")]
    Fragment {
        /// Where it belongs.
        offset: usize,
        /// Bytes of its payload.
        len: usize,
    },
    /// A UDP length that the packet does not have.
    #[error("a UDP length of {0}")]
    UdpLength(u16),
    /// The virtio-net header contradicts the packet.
    #[error("virtio-net header: {0}")]
    Vnet(VnetError),
}

impl PacketError {
    /// The reason under which a packet with this fault is counted.
    #[must_use]
    pub const fn reason(self) -> DropReason {
        match self {
            Self::Vnet(_) => DropReason::LyingVnetHeader,
            Self::Empty
            | Self::Version(_)
            | Self::Truncated { .. }
            | Self::HeaderLength(_)
            | Self::TooLong(_)
            | Self::ExtensionHeader(_)
            | Self::RoutingHeader(_)
            | Self::Fragment { .. }
            | Self::UdpLength(_) => DropReason::Malformed,
        }
    }
}

impl<'a> Packet<'a> {
    /// Checks the packet; bytes behind its end are left out of the view.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &'a mut [u8]) -> Result<Self, PacketError> {
        let info = PacketInfo::parse(bytes)?;
        let have = bytes.len();
        let bytes = bytes
            .get_mut(..usize::from(info.total_len))
            .ok_or_else(|| PacketError::Truncated {
                needed: usize::from(info.total_len),
                have,
            })?;
        Ok(Self { bytes, info })
    }

    /// What its headers say, rewrites included.
    #[must_use]
    pub const fn info(&self) -> &PacketInfo {
        &self.info
    }

    /// The whole packet, from its IP header on.
    #[must_use]
    pub const fn bytes(&self) -> &[u8] {
        self.bytes
    }
}

impl PacketInfo {
    /// Checks a packet without being able to change it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, PacketError> {
        parse::parse(bytes, parse::Extent::Whole)
    }

    /// Bytes of all headers: of IP, extensions and L4, or what of them this packet has.
    #[must_use]
    pub const fn header_len(&self) -> usize {
        let l4 = match self.l4 {
            L4::Tcp { header_len, .. } => header_len as usize,
            L4::Udp { .. } => UDP_HEADER_LEN,
            L4::IcmpEcho { .. } | L4::IcmpError { .. } => ICMP_HEADER_LEN,
            L4::Icmp | L4::Other | L4::LaterFragment => 0,
        };
        self.l4_offset as usize + l4
    }

    /// Bytes behind all headers.
    #[must_use]
    pub const fn payload_len(&self) -> usize {
        (self.total_len as usize).saturating_sub(self.header_len())
    }
}

impl L4 {
    /// Where in the L4 header the checksum stands that covers the addresses and can be left
    /// partial: that of TCP and UDP.
    #[must_use]
    pub const fn checksum_offset(&self) -> Option<u16> {
        match self {
            Self::Tcp { .. } => Some(16),
            Self::Udp { .. } => Some(6),
            Self::IcmpEcho { .. }
            | Self::IcmpError { .. }
            | Self::Icmp
            | Self::Other
            | Self::LaterFragment => None,
        }
    }
}

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// The connection begins.
    pub const SYN: Self = Self(0x02);
    /// The connection is refused or aborted.
    pub const RST: Self = Self(0x04);
    /// The data so far is to be handed to the program.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgment number counts.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer counts.
    pub const URG: Self = Self(0x20);
    /// Congestion was seen.
    pub const ECE: Self = Self(0x40);
    /// The congestion window was reduced.
    pub const CWR: Self = Self(0x80);

    /// Whether all flags of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any flag of `other` is set.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// These flags and those.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These flags without those.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}
