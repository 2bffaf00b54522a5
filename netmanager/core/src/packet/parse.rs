//! Reads the headers of a packet, or of one that an ICMP error quotes.
//!
//! Only [`super::PacketInfo`] and [`super::Packet::embedded`] call it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    Fragment, ICMP_HEADER_LEN, IPV4_HEADER_LEN, IPV6_HEADER_LEN, L4, MAX_PACKET_LEN, PROTOCOL_ICMP,
    PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP, PacketError, PacketInfo, TCP_HEADER_LEN, TcpFlags,
    UDP_HEADER_LEN,
};

/// How much of the packet has to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// All of it.
    Whole,
    /// Its beginning, as an ICMP error quotes it: the IP header and 8 bytes (RFC 792).
    Quoted,
}

/// Most IPv6 extension headers: each of the kinds that Linux accepts, with room to spare.
const MAX_EXTENSION_HEADERS: usize = 8;
/// Bytes of the L4 header that a quotation must hold.
const QUOTED_L4_LEN: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// What the IP header and its extensions say.
struct Ip {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    l4_offset: usize,
    total: usize,
    fragment: Option<Fragment>,
}

pub(super) fn parse(bytes: &[u8], extent: Extent) -> Result<PacketInfo, PacketError> {
    let ip = match bytes.first() {
        None => return Err(PacketError::Empty),
        Some(first) => match first >> 4 {
            4 => ipv4(bytes, extent)?,
            6 => ipv6(bytes, extent)?,
            version => return Err(PacketError::Version(version)),
        },
    };
    let bytes = bytes.get(..ip.total).unwrap_or(bytes);
    let l4 = if ip.fragment.is_some_and(|fragment| fragment.offset != 0) {
        L4::LaterFragment
    } else {
        l4(bytes, &ip, extent)?
    };
    Ok(PacketInfo {
        src: ip.src,
        dst: ip.dst,
        protocol: ip.protocol,
        l4_offset: narrow(ip.l4_offset)?,
        total_len: narrow(ip.total)?,
        fragment: ip.fragment,
        l4,
    })
}

fn ipv4(bytes: &[u8], extent: Extent) -> Result<Ip, PacketError> {
    let head: &[u8; IPV4_HEADER_LEN] = header(bytes, 0)?;
    let header_len = usize::from(head[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([head[2], head[3]]));
    if header_len < IPV4_HEADER_LEN || header_len > total {
        return Err(PacketError::HeaderLength(header_len));
    }
    present(bytes, header_len)?;
    if extent == Extent::Whole {
        present(bytes, total)?;
    }
    let field = u16::from_be_bytes([head[6], head[7]]);
    let fragment = Fragment {
        id: u32::from(u16::from_be_bytes([head[4], head[5]])),
        offset: (field & 0x1fff) << 3,
        more: field & 0x2000 != 0,
    };
    check_fragment(fragment, total - header_len)?;
    Ok(Ip {
        src: IpAddr::V4(Ipv4Addr::new(head[12], head[13], head[14], head[15])),
        dst: IpAddr::V4(Ipv4Addr::new(head[16], head[17], head[18], head[19])),
        protocol: head[9],
        l4_offset: header_len,
        total,
        fragment: (fragment.more || fragment.offset != 0).then_some(fragment),
    })
}

fn ipv6(bytes: &[u8], extent: Extent) -> Result<Ip, PacketError> {
    let head: &[u8; IPV6_HEADER_LEN] = header(bytes, 0)?;
    let total = IPV6_HEADER_LEN + usize::from(u16::from_be_bytes([head[4], head[5]]));
    if total > MAX_PACKET_LEN {
        return Err(PacketError::TooLong(total));
    }
    if extent == Extent::Whole {
        present(bytes, total)?;
    }
    let mut ip = Ip {
        src: IpAddr::V6(Ipv6Addr::from(*header::<16>(head, 8)?)),
        dst: IpAddr::V6(Ipv6Addr::from(*header::<16>(head, 24)?)),
        protocol: head[6],
        l4_offset: IPV6_HEADER_LEN,
        total,
        fragment: None,
    };
    extension_headers(bytes.get(..total).unwrap_or(bytes), &mut ip)?;
    Ok(ip)
}

/// Walks to the L4 header, or to the data of a later fragment.
fn extension_headers(bytes: &[u8], ip: &mut Ip) -> Result<(), PacketError> {
    let mut fragmented = false;
    for number in 0..=MAX_EXTENSION_HEADERS {
        let kind = ip.protocol;
        let first = number == 0;
        let known = matches!(kind, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS);
        if !known {
            return Ok(());
        }
        if number == MAX_EXTENSION_HEADERS
            || (kind == HOP_BY_HOP && !first)
            || (kind == FRAGMENT && fragmented)
        {
            return Err(PacketError::ExtensionHeader(kind));
        }
        let head: &[u8; 8] = header(bytes, ip.l4_offset)?;
        ip.protocol = head[0];
        if kind == FRAGMENT {
            fragmented = true;
            ip.l4_offset += 8;
            let field = u16::from_be_bytes([head[2], head[3]]);
            let fragment = Fragment {
                id: u32::from_be_bytes([head[4], head[5], head[6], head[7]]),
                offset: field & 0xfff8,
                more: field & 1 != 0,
            };
            check_fragment(fragment, ip.total.saturating_sub(ip.l4_offset))?;
            // One that is the whole packet is treated like a packet (RFC 6946).
            ip.fragment = (fragment.more || fragment.offset != 0).then_some(fragment);
            if fragment.offset != 0 {
                return Ok(());
            }
            continue;
        }
        if kind == ROUTING && head[3] != 0 {
            return Err(PacketError::RoutingHeader(head[3]));
        }
        ip.l4_offset += (usize::from(head[1]) + 1) * 8;
        present(bytes, ip.l4_offset)?;
    }
    Ok(())
}

/// `len` is that of the fragment's payload.
fn check_fragment(fragment: Fragment, len: usize) -> Result<(), PacketError> {
    let offset = usize::from(fragment.offset);
    let too_far = offset != 0 && offset + len > MAX_PACKET_LEN - IPV4_HEADER_LEN;
    if too_far || (fragment.more && !len.is_multiple_of(8)) {
        return Err(PacketError::Fragment { offset, len });
    }
    Ok(())
}

fn l4(bytes: &[u8], ip: &Ip, extent: Extent) -> Result<L4, PacketError> {
    match (ip.protocol, ip.src) {
        (PROTOCOL_TCP, _) => tcp(bytes, ip, extent),
        (PROTOCOL_UDP, _) => udp(bytes, ip, extent),
        (PROTOCOL_ICMP, IpAddr::V4(_)) => {
            let head: &[u8; ICMP_HEADER_LEN] = header(bytes, ip.l4_offset)?;
            Ok(match head[0] {
                8 => echo(head, false),
                0 => echo(head, true),
                // Destination unreachable, time exceeded, parameter problem.
                3 | 11 | 12 => error(ip)?,
                _ => L4::Icmp,
            })
        }
        (PROTOCOL_ICMPV6, IpAddr::V6(_)) => {
            let head: &[u8; ICMP_HEADER_LEN] = header(bytes, ip.l4_offset)?;
            Ok(match head[0] {
                128 => echo(head, false),
                129 => echo(head, true),
                // Destination unreachable, packet too big, time exceeded, parameter problem.
                1..=4 => error(ip)?,
                _ => L4::Icmp,
            })
        }
        _ => Ok(L4::Other),
    }
}

fn tcp(bytes: &[u8], ip: &Ip, extent: Extent) -> Result<L4, PacketError> {
    let (src_port, dst_port) = ports(bytes, ip)?;
    let (flags, header_len) = match (header::<TCP_HEADER_LEN>(bytes, ip.l4_offset), extent) {
        (Ok(head), _) => (TcpFlags(head[13]), (head[12] >> 4) * 4),
        (Err(_), Extent::Quoted) => (TcpFlags::default(), 0),
        (Err(error), Extent::Whole) => return Err(error),
    };
    if extent == Extent::Whole {
        if usize::from(header_len) < TCP_HEADER_LEN {
            return Err(PacketError::HeaderLength(usize::from(header_len)));
        }
        present(bytes, ip.l4_offset + usize::from(header_len))?;
    }
    Ok(L4::Tcp {
        src_port,
        dst_port,
        flags,
        header_len,
    })
}

fn udp(bytes: &[u8], ip: &Ip, extent: Extent) -> Result<L4, PacketError> {
    let (src_port, dst_port) = ports(bytes, ip)?;
    let head: &[u8; UDP_HEADER_LEN] = header(bytes, ip.l4_offset)?;
    let length = u16::from_be_bytes([head[4], head[5]]);
    let payload = bytes.len() - ip.l4_offset;
    let too_short = usize::from(length) < UDP_HEADER_LEN;
    // The first fragment has the length of the whole datagram.
    let too_long = ip.fragment.is_none() && usize::from(length) > payload;
    if extent == Extent::Whole && (too_short || too_long) {
        return Err(PacketError::UdpLength(length));
    }
    Ok(L4::Udp { src_port, dst_port })
}

fn ports(bytes: &[u8], ip: &Ip) -> Result<(u16, u16), PacketError> {
    let head: &[u8; QUOTED_L4_LEN] = header(bytes, ip.l4_offset)?;
    Ok((
        u16::from_be_bytes([head[0], head[1]]),
        u16::from_be_bytes([head[2], head[3]]),
    ))
}

const fn echo(head: &[u8; ICMP_HEADER_LEN], reply: bool) -> L4 {
    L4::IcmpEcho {
        id: u16::from_be_bytes([head[4], head[5]]),
        reply,
    }
}

fn error(ip: &Ip) -> Result<L4, PacketError> {
    Ok(L4::IcmpError {
        embedded: narrow(ip.l4_offset + ICMP_HEADER_LEN)?,
    })
}

/// The `N` bytes at `at`.
fn header<const N: usize>(bytes: &[u8], at: usize) -> Result<&[u8; N], PacketError> {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .ok_or_else(|| PacketError::Truncated {
            needed: at.saturating_add(N),
            have: bytes.len(),
        })
}

fn present(bytes: &[u8], needed: usize) -> Result<(), PacketError> {
    if bytes.len() < needed {
        let have = bytes.len();
        return Err(PacketError::Truncated { needed, have });
    }
    Ok(())
}

fn narrow(length: usize) -> Result<u16, PacketError> {
    u16::try_from(length).map_err(|_| PacketError::TooLong(length))
}
