//! Puts other addresses into a packet and keeps its checksums as right as they were.
//!
//! The flow table's translation calls it. Ports stay as they are but for the L4 lane's. Which sums an address is part of:
//! the header checksum of IPv4; the pseudo-header of TCP, UDP and ICMPv6 (not of ICMP); and for a
//! packet that an ICMP error quotes, the sum of the error around it.

use std::net::IpAddr;

use super::checksum::Delta;
use super::parse::{self, Extent};
use super::{L4, PROTOCOL_ICMPV6, PROTOCOL_UDP, Packet, PacketInfo};
use crate::vnet::VnetHeader;

/// Where the checksum stands in a TCP header.
const TCP_CHECKSUM: usize = 16;

/// Which of the two addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
}

impl Packet<'_> {
    /// Replaces the source address. An address of the other family changes nothing.
    pub fn set_src(&mut self, ip: IpAddr, vnet: &VnetHeader) {
        if set_address(self.bytes, &self.info, Side::Source, ip, vnet.needs_csum()).is_some() {
            self.info.src = ip;
        }
    }

    /// Replaces the destination address. An address of the other family changes nothing.
    pub fn set_dst(&mut self, ip: IpAddr, vnet: &VnetHeader) {
        let partial = vnet.needs_csum();
        if set_address(self.bytes, &self.info, Side::Destination, ip, partial).is_some() {
            self.info.dst = ip;
        }
    }

    /// Replaces the ports of a TCP segment; another packet stays as it is.
    pub fn set_tcp_ports(&mut self, source: u16, destination: u16, vnet: &VnetHeader) {
        let L4::Tcp {
            src_port, dst_port, ..
        } = &mut self.info.l4
        else {
            return;
        };
        (*src_port, *dst_port) = (source, destination);
        let at = usize::from(self.info.l4_offset);
        let mut new = [0; 4];
        new[..2].copy_from_slice(&source.to_be_bytes());
        new[2..].copy_from_slice(&destination.to_be_bytes());
        let Some(field) = self.bytes.get_mut(at..at + 4) else {
            return;
        };
        let delta = Delta::between(field, &new);
        field.copy_from_slice(&new);
        // A partial sum is of the pseudo-header alone, which has no ports.
        if let (false, Some(old)) = (vnet.needs_csum(), read(self.bytes, at + TCP_CHECKSUM)) {
            write(self.bytes, at + TCP_CHECKSUM, delta.apply(old));
        }
    }

    /// What an ICMP error says about the packet that it quotes. Offsets count from where the
    /// quotation begins; `total_len` is what the quoted header claims.
    ///
    /// None if this is no ICMP error, or what it quotes cannot be read.
    #[must_use]
    pub fn embedded(&self) -> Option<PacketInfo> {
        let quoted = self.bytes.get(self.embedded_offset()?..)?;
        parse::parse(quoted, Extent::Quoted).ok()
    }

    /// Replaces the source address of the quoted packet.
    pub fn set_embedded_src(&mut self, ip: IpAddr) {
        self.set_embedded(Side::Source, ip);
    }

    /// Replaces the destination address of the quoted packet.
    pub fn set_embedded_dst(&mut self, ip: IpAddr) {
        self.set_embedded(Side::Destination, ip);
    }

    fn embedded_offset(&self) -> Option<usize> {
        match self.info.l4 {
            L4::IcmpError { embedded } => Some(usize::from(embedded)),
            L4::Tcp { .. }
            | L4::Udp { .. }
            | L4::IcmpEcho { .. }
            | L4::Icmp
            | L4::Other
            | L4::LaterFragment => None,
        }
    }

    fn set_embedded(&mut self, side: Side, ip: IpAddr) {
        let (Some(info), Some(at)) = (self.embedded(), self.embedded_offset()) else {
            return;
        };
        let Some(quoted) = self.bytes.get_mut(at..) else {
            return;
        };
        // Whether the quoted checksum was a partial one cannot be seen; nobody verifies it.
        let Some(delta) = set_address(quoted, &info, side, ip, false) else {
            return;
        };
        let checksum = usize::from(self.info.l4_offset) + 2;
        if let Some(old) = read(self.bytes, checksum) {
            write(self.bytes, checksum, delta.apply(old));
        }
    }
}

/// Replaces an address, the header checksum and the L4 checksum; the result is the difference that
/// all of this makes to a sum over `bytes`. None if the family does not fit.
fn set_address(
    bytes: &mut [u8],
    info: &PacketInfo,
    side: Side,
    ip: IpAddr,
    partial: bool,
) -> Option<Delta> {
    let old = match side {
        Side::Source => info.src,
        Side::Destination => info.dst,
    };
    let (at, delta) = match (old, ip, side) {
        (IpAddr::V4(old), IpAddr::V4(new), Side::Source) => {
            (12, Delta::between(&old.octets(), &new.octets()))
        }
        (IpAddr::V4(old), IpAddr::V4(new), Side::Destination) => {
            (16, Delta::between(&old.octets(), &new.octets()))
        }
        (IpAddr::V6(old), IpAddr::V6(new), Side::Source) => {
            (8, Delta::between(&old.octets(), &new.octets()))
        }
        (IpAddr::V6(old), IpAddr::V6(new), Side::Destination) => {
            (24, Delta::between(&old.octets(), &new.octets()))
        }
        (IpAddr::V4(_), IpAddr::V6(_), _) | (IpAddr::V6(_), IpAddr::V4(_), _) => return None,
    };
    match ip {
        IpAddr::V4(ip) => bytes.get_mut(at..at + 4)?.copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => bytes.get_mut(at..at + 16)?.copy_from_slice(&ip.octets()),
    }
    let mut total = delta;
    if ip.is_ipv4() {
        let old = read(bytes, 10)?;
        total = total.and(change(bytes, 10, old, delta.apply(old)));
    }
    if let Some(at) = pseudo_checksum(info) {
        // A quotation may end before the field.
        if let Some(old) = read(bytes, at) {
            let new = updated(old, delta, partial, info.protocol);
            total = total.and(change(bytes, at, old, new));
        }
    }
    Some(total)
}

/// The L4 checksum after the addresses have changed by `delta`.
fn updated(old: u16, delta: Delta, partial: bool, protocol: u8) -> u16 {
    if partial {
        return delta.apply_partial(old);
    }
    if protocol != PROTOCOL_UDP {
        return delta.apply(old);
    }
    match old {
        // UDP without a checksum stays so.
        0 => 0,
        // A sum that comes out as zero is sent as all ones (RFC 768).
        _ => match delta.apply(old) {
            0 => 0xffff,
            new => new,
        },
    }
}

/// Where the checksum stands that covers the pseudo-header.
fn pseudo_checksum(info: &PacketInfo) -> Option<usize> {
    let offset = match info.l4 {
        L4::Tcp { .. } | L4::Udp { .. } => info.l4.checksum_offset()?,
        L4::IcmpEcho { .. } | L4::IcmpError { .. } | L4::Icmp
            if info.protocol == PROTOCOL_ICMPV6 =>
        {
            2
        }
        L4::IcmpEcho { .. } | L4::IcmpError { .. } | L4::Icmp | L4::Other | L4::LaterFragment => {
            return None;
        }
    };
    Some(usize::from(info.l4_offset) + usize::from(offset))
}

fn change(bytes: &mut [u8], at: usize, old: u16, new: u16) -> Delta {
    write(bytes, at, new);
    Delta::between(&old.to_be_bytes(), &new.to_be_bytes())
}

fn read(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_be_bytes(*field))
}

fn write(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(field) = bytes.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}
