//! Answers to packets that have nowhere to go: TCP resets and ICMP unreachables.
//!
//! They look as if the packet's destination had sent them, so that a program hears at once what
//! it would hear of a closed port or a dead host on its own link. Building one is all that is done
//! here; the data plane decides when, and limits how often.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::packet::checksum::{fold, pseudo_sum, sum};
use crate::packet::{
    Fragment, ICMP_HEADER_LEN, IPV4_HEADER_LEN, IPV6_HEADER_LEN, L4, PROTOCOL_ICMP,
    PROTOCOL_ICMPV6, PROTOCOL_TCP, PacketInfo, TCP_HEADER_LEN, TcpFlags,
};

#[cfg(test)]
mod tests;

/// Why a packet is answered with a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reject {
    /// The service has no instance: TCP is reset, the rest hears "port unreachable".
    NoInstance,
    /// The node of the destination cannot be reached: TCP is reset, the rest hears "host
    /// unreachable".
    PeerUnreachable,
    /// Policy forbids it: TCP is reset, the rest hears "administratively prohibited".
    Prohibited,
}

/// Hop limit of what we send: that of Linux.
const HOP_LIMIT: u8 = 64;
/// Most bytes of an ICMP error over IPv4: what every host can take (RFC 1812, section 4.3.2.3).
const MAX_ICMP_LEN: usize = 576;
/// Most bytes of an ICMPv6 error: the least MTU of IPv6 (RFC 4443, section 2.4).
const MAX_ICMPV6_LEN: usize = 1280;

/// Builds the answer to `packet`, whole and with full checksums, or none where there must be none:
/// for a reset, for an ICMP error, for a fragment but the first, for multicast and broadcast, and
/// for a packet that cannot be read.
#[must_use]
pub fn reject(packet: &[u8], why: Reject) -> Option<Vec<u8>> {
    let info = PacketInfo::parse(packet).ok()?;
    let packet = packet.get(..usize::from(info.total_len))?;
    if !is_host(info.src) || !is_host(info.dst) {
        return None;
    }
    match info.l4 {
        L4::Tcp { flags, .. } => reset(packet, &info, flags),
        L4::Udp { .. } | L4::IcmpEcho { reply: false, .. } | L4::Other => {
            Some(unreachable_error(packet, &info, why))
        }
        L4::IcmpEcho { reply: true, .. } | L4::IcmpError { .. } | L4::Icmp | L4::LaterFragment => {
            None
        }
    }
}

/// Whether `ip` can be the address of one host.
fn is_host(ip: IpAddr) -> bool {
    let special = ip.is_multicast() || ip.is_unspecified() || ip.is_loopback();
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !special && !broadcast
}

/// A reset as RFC 9293, section 3.10.7.1, wants it for a connection that does not exist.
fn reset(packet: &[u8], info: &PacketInfo, flags: TcpFlags) -> Option<Vec<u8>> {
    // The length of a fragmented segment cannot be seen.
    let whole = matches!(info.fragment, None | Some(Fragment { more: false, .. }));
    if flags.contains(TcpFlags::RST) || !whole {
        return None;
    }
    let head: &[u8; TCP_HEADER_LEN] = packet.get(usize::from(info.l4_offset)..)?.first_chunk()?;
    let mut tcp = [0u8; TCP_HEADER_LEN];
    tcp[0..2].copy_from_slice(&head[2..4]);
    tcp[2..4].copy_from_slice(&head[0..2]);
    tcp[12] = 5 << 4;
    if flags.contains(TcpFlags::ACK) {
        tcp[4..8].copy_from_slice(&head[8..12]);
        tcp[13] = TcpFlags::RST.0;
    } else {
        let sequence = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        let controls =
            u32::from(flags.contains(TcpFlags::SYN)) + u32::from(flags.contains(TcpFlags::FIN));
        let length = u32::try_from(info.payload_len()).ok()? + controls;
        tcp[8..12].copy_from_slice(&sequence.wrapping_add(length).to_be_bytes());
        tcp[13] = TcpFlags::RST.union(TcpFlags::ACK).0;
    }
    let pseudo = pseudo_sum(info.dst, info.src, PROTOCOL_TCP, tcp.len());
    let checksum = !fold(pseudo + sum(&tcp));
    tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    Some(with_ip_header(info, PROTOCOL_TCP, &tcp))
}

fn unreachable_error(packet: &[u8], info: &PacketInfo, why: Reject) -> Vec<u8> {
    let v4 = info.dst.is_ipv4();
    let (kind, code) = match (v4, why) {
        (true, Reject::NoInstance) => (3, 3),
        (true, Reject::PeerUnreachable) => (3, 1),
        (true, Reject::Prohibited) => (3, 13),
        (false, Reject::NoInstance) => (1, 4),
        (false, Reject::PeerUnreachable) => (1, 3),
        (false, Reject::Prohibited) => (1, 1),
    };
    let (protocol, room) = if v4 {
        (PROTOCOL_ICMP, MAX_ICMP_LEN - IPV4_HEADER_LEN)
    } else {
        (PROTOCOL_ICMPV6, MAX_ICMPV6_LEN - IPV6_HEADER_LEN)
    };
    let quoted = packet.get(..room - ICMP_HEADER_LEN).unwrap_or(packet);
    let mut icmp = vec![kind, code, 0, 0, 0, 0, 0, 0];
    icmp.extend_from_slice(quoted);
    let pseudo = if v4 {
        0
    } else {
        pseudo_sum(info.dst, info.src, protocol, icmp.len())
    };
    let checksum = !fold(pseudo + sum(&icmp));
    icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
    with_ip_header(info, protocol, &icmp)
}

/// A packet back to the sender of the one that `info` is about. `payload` is short: at most
/// [`MAX_ICMPV6_LEN`].
fn with_ip_header(info: &PacketInfo, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (info.dst, info.src) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ipv4(from, to, protocol, payload),
        (IpAddr::V6(from), IpAddr::V6(to)) => ipv6(from, to, protocol, payload),
        // One packet has addresses of one family.
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => Vec::new(),
    }
}

fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut head = [0u8; IPV4_HEADER_LEN];
    let total = u16::try_from(IPV4_HEADER_LEN + payload.len()).unwrap_or(u16::MAX);
    head[0] = 0x45;
    head[2..4].copy_from_slice(&total.to_be_bytes());
    head[6] = 0x40; // do not fragment
    head[8] = HOP_LIMIT;
    head[9] = protocol;
    head[12..16].copy_from_slice(&from.octets());
    head[16..20].copy_from_slice(&to.octets());
    let checksum = !fold(sum(&head));
    head[10..12].copy_from_slice(&checksum.to_be_bytes());
    [&head, payload].concat()
}

fn ipv6(from: Ipv6Addr, to: Ipv6Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut head = [0u8; IPV6_HEADER_LEN];
    let len = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    head[0] = 0x60;
    head[4..6].copy_from_slice(&len.to_be_bytes());
    head[6] = protocol;
    head[7] = HOP_LIMIT;
    head[8..24].copy_from_slice(&from.octets());
    head[24..40].copy_from_slice(&to.octets());
    [&head, payload].concat()
}
