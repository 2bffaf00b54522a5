//! Port mappings: has the router in front of this node lead one of its outside ports to the data
//! socket, so that peers reach it there whatever their own NATs do.
//!
//! [`pcp`] (RFC 6887), [`natpmp`] (RFC 6886) and [`upnp`] (IGD over [`http`] and [`xml`]) are
//! layouts, [`mapper`] is what is asked of one gateway, and when. Nobody but the default gateway is
//! ever asked or believed; which gateways there are, and the sockets, are the shell's.

use std::net::Ipv4Addr;

pub mod http;
pub mod mapper;
pub mod natpmp;
pub mod pcp;
pub mod upnp;
pub mod xml;

#[cfg(test)]
mod tests;

pub use mapper::Mapper;

/// The port at which gateways answer PCP and NAT-PMP (RFC 6886, section 1.1; RFC 6887, section 19).
pub const MAPPING_PORT: u16 = 5351;
/// How long a mapping is asked for, in seconds (RFC 6886, section 3.3). It is what a node that has
/// crashed leaves behind.
pub const LIFETIME: u32 = 7200;
/// UDP, as protocols are numbered in IP headers.
pub const UDP: u8 = 17;

/// A default gateway, and this node's address towards it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gateway {
    /// The gateway's address on the link.
    pub ip: Ipv4Addr,
    /// This node's address on the link.
    pub client: Ipv4Addr,
}

/// How a gateway is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// The Port Control Protocol, RFC 6887.
    Pcp,
    /// The NAT Port Mapping Protocol, RFC 6886.
    NatPmp,
    /// UPnP's Internet Gateway Device.
    Upnp,
}

impl Protocol {
    /// All of them, the best first: the first two say when they have forgotten everything, and only
    /// PCP's answers prove that they are to what was asked.
    pub const ALL: [Self; 3] = [Self::Pcp, Self::NatPmp, Self::Upnp];

    /// The stable word that stands in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pcp => "pcp",
            Self::NatPmp => "nat_pmp",
            Self::Upnp => "upnp",
        }
    }
}

/// The bytes from `at`, if there are as many.
fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}
