//! Makes packets and reads them, independently of the code under test.

use std::net::IpAddr;

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

/// A packet as a test sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: u8,
    /// From the L4 header on.
    pub(crate) l4: Vec<u8>,
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn tcp(from: (&str, u16), to: (&str, u16), flags: u8) -> Vec<u8> {
    tcp_at(from, to, flags, 1000, 2000)
}

pub(crate) fn tcp_at(
    from: (&str, u16),
    to: (&str, u16),
    flags: u8,
    sequence: u32,
    acknowledgment: u32,
) -> Vec<u8> {
    let mut l4 = ports(from.1, to.1);
    l4.extend(sequence.to_be_bytes());
    l4.extend(if flags & ACK == 0 { 0 } else { acknowledgment }.to_be_bytes());
    l4.extend([5 << 4, flags, 1, 0, 0, 0, 0, 0]);
    packet(ip(from.0), ip(to.0), 6, l4)
}

pub(crate) fn udp(from: (&str, u16), to: (&str, u16), payload: &[u8]) -> Vec<u8> {
    packet(ip(from.0), ip(to.0), 17, udp_segment(from.1, to.1, payload))
}

fn udp_segment(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let mut l4 = ports(from, to);
    l4.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
    l4.extend([0, 0]);
    l4.extend(payload);
    l4
}

pub(crate) fn echo(from: &str, to: &str, id: u16, reply: bool) -> Vec<u8> {
    let (from, to) = (ip(from), ip(to));
    let kind = match (from.is_ipv4(), reply) {
        (true, false) => 8,
        (true, true) => 0,
        (false, false) => 128,
        (false, true) => 129,
    };
    let mut l4 = vec![kind, 0, 0, 0];
    l4.extend(id.to_be_bytes());
    l4.extend([0, 1, b'p', b'i', b'n', b'g']);
    packet(from, to, icmp_of(from), l4)
}

/// "Port unreachable" from `from` about a packet, to its sender.
pub(crate) fn port_unreachable(from: &str, about: &[u8]) -> Vec<u8> {
    let from = ip(from);
    let (kind, code) = if from.is_ipv4() { (3, 3) } else { (1, 4) };
    let mut l4 = vec![kind, code, 0, 0, 0, 0, 0, 0];
    l4.extend(about);
    packet(from, see_headers(about).source, icmp_of(from), l4)
}

/// Cuts a packet into fragments of at most `size` bytes of payload.
pub(crate) fn fragments(packet: &[u8], id: u16, size: usize) -> Vec<Vec<u8>> {
    let seen = see(packet);
    let count = seen.l4.len().div_ceil(size);
    let cut = |(i, part): (usize, &[u8])| {
        let more = i + 1 < count;
        let units = u16::try_from(i * size / 8).unwrap();
        match (seen.source, seen.destination) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let field = units | if more { 0x2000 } else { 0 };
                v4(from, to, seen.protocol, id, field, part)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let field = units << 3 | u16::from(more);
                let mut payload = vec![seen.protocol, 0];
                payload.extend(field.to_be_bytes());
                payload.extend(u32::from(id).to_be_bytes());
                payload.extend(part);
                v6(from, to, 44, &payload)
            }
            _ => unreachable!("one family"),
        }
    };
    seen.l4.chunks(size).enumerate().map(cut).collect()
}

/// A packet with right checksums.
pub(crate) fn packet(from: IpAddr, to: IpAddr, protocol: u8, mut l4: Vec<u8>) -> Vec<u8> {
    if let Some(at) = checksum_at(protocol) {
        l4[at..at + 2].fill(0);
        let sum = checksum(from, to, protocol, &l4);
        l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => v4(from, to, protocol, 0, 0x4000, &l4),
        (IpAddr::V6(from), IpAddr::V6(to)) => v6(from, to, protocol, &l4),
        _ => unreachable!("one family"),
    }
}

/// Reads a packet, and checks every checksum that it has, those of what an ICMP error quotes
/// included.
pub(crate) fn see(packet: &[u8]) -> Seen {
    let seen = see_headers(packet);
    if let Some(at) = checksum_at(seen.protocol) {
        let mut blank = seen.l4.clone();
        blank[at..at + 2].fill(0);
        let sum = checksum(seen.source, seen.destination, seen.protocol, &blank);
        assert_eq!(&seen.l4[at..at + 2], sum.to_be_bytes(), "{seen:?}");
    }
    let is_error = match seen.protocol {
        1 => seen.l4[0] == 3,
        58 => seen.l4[0] == 1,
        _ => false,
    };
    if is_error {
        see(&seen.l4[8..]);
    }
    seen
}

/// Reads a packet and checks only what its IP header has.
pub(crate) fn see_headers(packet: &[u8]) -> Seen {
    if packet[0] >> 4 == 4 {
        assert_eq!(fold(&packet[..20]), 0xffff, "header checksum");
        let word = |at: usize| <[u8; 4]>::try_from(&packet[at..at + 4]).unwrap();
        Seen {
            source: word(12).into(),
            destination: word(16).into(),
            protocol: packet[9],
            l4: packet[20..].to_vec(),
        }
    } else {
        let word = |at: usize| <[u8; 16]>::try_from(&packet[at..at + 16]).unwrap();
        Seen {
            source: word(8).into(),
            destination: word(24).into(),
            protocol: packet[6],
            l4: packet[40..].to_vec(),
        }
    }
}

impl Seen {
    pub(crate) fn ports(&self) -> (u16, u16) {
        let port = |at: usize| u16::from_be_bytes([self.l4[at], self.l4[at + 1]]);
        (port(0), port(2))
    }

    pub(crate) fn tcp_flags(&self) -> u8 {
        assert_eq!(self.protocol, 6);
        self.l4[13]
    }

    pub(crate) fn tcp_numbers(&self) -> (u32, u32) {
        let number = |at: usize| u32::from_be_bytes(self.l4[at..at + 4].try_into().unwrap());
        (number(4), number(8))
    }

    /// The packet that an ICMP error quotes.
    pub(crate) fn quoted(&self) -> Self {
        see(&self.l4[8..])
    }
}

fn icmp_of(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 1 } else { 58 }
}

fn ports(from: u16, to: u16) -> Vec<u8> {
    [from.to_be_bytes(), to.to_be_bytes()].concat()
}

fn checksum_at(protocol: u8) -> Option<usize> {
    match protocol {
        6 => Some(16),
        17 => Some(6),
        1 | 58 => Some(2),
        _ => None,
    }
}

fn v4(
    from: std::net::Ipv4Addr,
    to: std::net::Ipv4Addr,
    protocol: u8,
    id: u16,
    fragment: u16,
    payload: &[u8],
) -> Vec<u8> {
    let mut head = vec![0x45, 0];
    head.extend(u16::try_from(20 + payload.len()).unwrap().to_be_bytes());
    head.extend(id.to_be_bytes());
    head.extend(fragment.to_be_bytes());
    head.extend([64, protocol, 0, 0]);
    head.extend(from.octets());
    head.extend(to.octets());
    let sum = !fold(&head);
    head[10..12].copy_from_slice(&sum.to_be_bytes());
    head.extend(payload);
    head
}

fn v6(from: std::net::Ipv6Addr, to: std::net::Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut head = vec![0x60, 0, 0, 0];
    head.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    head.extend([next, 64]);
    head.extend(from.octets());
    head.extend(to.octets());
    head.extend(payload);
    head
}

fn checksum(from: IpAddr, to: IpAddr, protocol: u8, l4: &[u8]) -> u16 {
    let mut all = Vec::new();
    if protocol != 1 {
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                all.extend(from.octets());
                all.extend(to.octets());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                all.extend(from.octets());
                all.extend(to.octets());
            }
            _ => unreachable!("one family"),
        }
        all.extend(u32::try_from(l4.len()).unwrap().to_be_bytes());
        all.extend([0, 0, 0, protocol]);
    }
    all.extend(l4);
    match !fold(&all) {
        0 if protocol == 17 => 0xffff,
        sum => sum,
    }
}

/// The ones' complement sum, in the most naive way.
fn fold(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}
