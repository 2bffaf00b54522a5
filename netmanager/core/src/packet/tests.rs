//! Packets good and bad, and rewriting against building the packet anew with etherparse.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder};
use proptest::prelude::*;

use super::checksum::{fold, pseudo_sum, sum};
use super::*;
use crate::vnet::{self, VnetHeader};

const FULL: VnetHeader = VnetHeader {
    flags: 0,
    gso_type: 0,
    hdr_len: 0,
    gso_size: 0,
    csum_start: 0,
    csum_offset: 0,
};

/// What a packet of the tests carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Udp,
    Echo,
}

fn build(kind: Kind, src: IpAddr, dst: IpAddr, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let ip = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => PacketBuilder::ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => PacketBuilder::ipv6(src.octets(), dst.octets(), 64),
        _ => panic!("mixed families"),
    };
    match kind {
        Kind::Tcp => ip
            .tcp(4000, 80, 0x0102_0304, 1024)
            .ack(7)
            .psh()
            .options_raw(&[1, 1, 1, 0])
            .unwrap()
            .write(&mut out, payload),
        Kind::Udp => ip.udp(5353, 65_535).write(&mut out, payload),
        Kind::Echo if src.is_ipv4() => ip.icmpv4_echo_request(0xabcd, 3).write(&mut out, payload),
        Kind::Echo => ip.icmpv6_echo_request(0xabcd, 3).write(&mut out, payload),
    }
    .unwrap();
    out
}

fn v4(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Two hosts of one family.
fn hosts(v6: bool) -> (IpAddr, IpAddr) {
    if v6 {
        ("fdff::1".parse().unwrap(), "fdff:2000::7".parse().unwrap())
    } else {
        (v4("10.30.1.1"), v4("10.30.250.7"))
    }
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop::sample::select(vec![Kind::Tcp, Kind::Udp, Kind::Echo])
}

fn addresses(count: usize) -> impl Strategy<Value = Vec<IpAddr>> {
    let v4 = prop::collection::vec(any::<u32>().prop_map(|ip| Ipv4Addr::from(ip).into()), count);
    let v6 = prop::collection::vec(
        any::<u128>().prop_map(|ip| Ipv6Addr::from(ip).into()),
        count,
    );
    prop_oneof![v4, v6]
}

/// The same packet with the pseudo-header's sum where its checksum stands.
fn partial(packet: &[u8]) -> (Vec<u8>, VnetHeader) {
    let info = PacketInfo::parse(packet).unwrap();
    let vnet = VnetHeader::plain(&info, true);
    let mut packet = packet.to_vec();
    let l4 = usize::from(info.l4_offset);
    let field = l4 + usize::from(vnet.csum_offset);
    let pseudo = pseudo_sum(info.src, info.dst, info.protocol, packet.len() - l4);
    packet[field..field + 2].copy_from_slice(&fold(pseudo).to_be_bytes());
    (packet, vnet)
}

/// What Linux does with a partial checksum when it hands the packet to a device without offloads.
fn finish(packet: &mut [u8], vnet: &VnetHeader) {
    let start = usize::from(vnet.csum_start);
    let field = start + usize::from(vnet.csum_offset);
    let checksum = match !fold(sum(&packet[start..])) {
        0 => 0xffff,
        checksum => checksum,
    };
    packet[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn rewriting_is_building_anew(
        kind in kinds(),
        ips in addresses(4),
        payload in prop::collection::vec(any::<u8>(), 0..99),
    ) {
        let expected = build(kind, ips[2], ips[3], &payload);
        let mut bytes = build(kind, ips[0], ips[1], &payload);
        let mut packet = Packet::parse(&mut bytes).unwrap();
        prop_assert_eq!(packet.info().payload_len(), payload.len());
        packet.set_src(ips[2], &FULL);
        packet.set_dst(ips[3], &FULL);
        let info = *packet.info();
        prop_assert_eq!(&bytes, &expected);
        prop_assert_eq!(PacketInfo::parse(&expected), Ok(info));
    }

    #[test]
    fn rewriting_a_partial_checksum_is_building_anew(
        tcp in any::<bool>(),
        ips in addresses(4),
        payload in prop::collection::vec(any::<u8>(), 0..99),
    ) {
        let kind = if tcp { Kind::Tcp } else { Kind::Udp };
        let whole = build(kind, ips[2], ips[3], &payload);
        let (expected, _) = partial(&whole);
        let (mut bytes, vnet) = partial(&build(kind, ips[0], ips[1], &payload));
        let mut packet = Packet::parse(&mut bytes).unwrap();
        vnet.check(packet.info()).unwrap();
        packet.set_dst(ips[3], &vnet);
        packet.set_src(ips[2], &vnet);
        prop_assert_eq!(&bytes, &expected);
        finish(&mut bytes, &vnet);
        prop_assert_eq!(&bytes, &whole);
    }

    #[test]
    fn rewriting_what_an_error_quotes_keeps_the_sums(
        kind in kinds(),
        v6 in any::<bool>(),
        quoted_payload in 0usize..40,
        cut in 0usize..60,
    ) {
        let (client, service) = hosts(v6);
        let instance = if v6 { "fdff::99".parse().unwrap() } else { v4("10.30.1.99") };
        let mut quoted = build(kind, client, instance, &vec![0x5a; quoted_payload]);
        let least = if v6 { 48 } else { 28 };
        quoted.truncate(least.max(quoted.len().saturating_sub(cut)));
        let mut bytes = icmp_error(instance, client, &quoted);
        assert_sums(&bytes);
        let mut packet = Packet::parse(&mut bytes).unwrap();
        let embedded = packet.embedded().unwrap();
        prop_assert_eq!((embedded.src, embedded.dst), (client, instance));
        packet.set_src(service, &FULL);
        packet.set_embedded_dst(service);
        packet.set_embedded_src(instance);
        let embedded = packet.embedded().unwrap();
        prop_assert_eq!((embedded.src, embedded.dst), (instance, service));
        prop_assert_eq!(packet.info().src, service);
        assert_sums(&bytes);
        // The quoted IPv4 header stays whole, and the quoted L4 sum if it is all there.
        let quoted = &bytes[bytes.len() - quoted.len()..];
        if !v6 {
            prop_assert_eq!(fold(sum(&quoted[..20])), 0xffff);
        }
        if PacketInfo::parse(quoted).is_ok() {
            assert_sums(quoted);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..120), first in 0u8..4) {
        let mut bytes = bytes;
        if let Some(byte) = bytes.first_mut() {
            // Mostly something that looks like IP.
            *byte = [0x45, 0x60, 0x4f, *byte][usize::from(first)];
        }
        touch_everything(&mut bytes);
    }

    #[test]
    fn no_broken_packet_makes_it_panic(
        kind in kinds(),
        v6 in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        len in any::<prop::sample::Index>(),
    ) {
        let (client, service) = hosts(v6);
        let quoted = build(kind, client, service, &[1; 9]);
        let mut bytes = icmp_error(service, client, &quoted);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(len.index(bytes.len() * 4).max(20));
        touch_everything(&mut bytes);
    }
}

fn touch_everything(bytes: &mut [u8]) {
    let (v4, v6) = (v4("1.2.3.4"), "1:2::3".parse::<IpAddr>().unwrap());
    let Ok(mut packet) = Packet::parse(bytes) else {
        return;
    };
    let partial = VnetHeader::plain(packet.info(), true);
    assert_eq!(partial.check(packet.info()), Ok(()));
    for ip in [v4, v6] {
        packet.set_src(ip, &FULL);
        packet.set_dst(ip, &partial);
        packet.set_embedded_src(ip);
        packet.set_embedded_dst(ip);
    }
    let info = *packet.info();
    assert_eq!(usize::from(info.total_len), packet.bytes().len());
    assert_eq!(PacketInfo::parse(packet.bytes()), Ok(info));
}

/// A "port unreachable" that quotes `quoted`.
fn icmp_error(src: IpAddr, dst: IpAddr, quoted: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => PacketBuilder::ipv4(src.octets(), dst.octets(), 64)
            .icmpv4_raw(3, 3, [0; 4])
            .write(&mut out, quoted),
        (IpAddr::V6(src), IpAddr::V6(dst)) => PacketBuilder::ipv6(src.octets(), dst.octets(), 64)
            .icmpv6_raw(1, 4, [0; 4])
            .write(&mut out, quoted),
        _ => panic!("mixed families"),
    }
    .unwrap();
    out
}

/// Every checksum of the packet is right, summed over all it covers.
#[track_caller]
fn assert_sums(packet: &[u8]) {
    let info = PacketInfo::parse(packet).unwrap();
    let l4 = usize::from(info.l4_offset);
    if info.src.is_ipv4() {
        assert_eq!(fold(sum(&packet[..l4])), 0xffff, "IPv4 header");
    }
    let pseudo = if info.protocol == PROTOCOL_ICMP {
        0
    } else {
        pseudo_sum(info.src, info.dst, info.protocol, packet.len() - l4)
    };
    assert_eq!(fold(pseudo + sum(&packet[l4..])), 0xffff, "L4");
}

#[test]
fn udp_without_a_checksum_stays_so() {
    let (src, dst) = hosts(false);
    let mut bytes = build(Kind::Udp, src, dst, b"odd");
    bytes[26..28].fill(0);
    let mut packet = Packet::parse(&mut bytes).unwrap();
    packet.set_dst(v4("10.30.7.7"), &FULL);
    assert_eq!(bytes[26..28], [0, 0]);
    assert_eq!(fold(sum(&bytes[..20])), 0xffff);
}

#[test]
fn a_udp_sum_of_zero_is_sent_as_all_ones() {
    let (src, dst) = hosts(false);
    let new = v4("10.30.7.7");
    let mut found = 0;
    for payload in 0..=u16::MAX {
        let expected = build(Kind::Udp, src, new, &payload.to_be_bytes());
        if expected[26..28] != [0xff, 0xff] {
            continue;
        }
        found += 1;
        let mut bytes = build(Kind::Udp, src, dst, &payload.to_be_bytes());
        Packet::parse(&mut bytes).unwrap().set_dst(new, &FULL);
        assert_eq!(bytes, expected);
    }
    assert!(found > 0, "one payload word makes the sum zero");
}

#[test]
fn a_super_packet_is_rewritten_like_any_other() {
    for v6 in [false, true] {
        let (src, dst) = hosts(v6);
        let (_, new) = (
            src,
            if v6 {
                "fdff::5".parse().unwrap()
            } else {
                v4("10.30.0.5")
            },
        );
        let headers = if v6 { 64 } else { 44 };
        let payload = vec![0xa5; MAX_PACKET_LEN - headers];
        let (mut bytes, mut vnet) = partial(&build(Kind::Tcp, src, dst, &payload));
        assert_eq!(bytes.len(), MAX_PACKET_LEN);
        vnet.gso_type = if v6 { vnet::GSO_TCPV6 } else { vnet::GSO_TCPV4 };
        vnet.gso_size = 1348;
        let mut packet = Packet::parse(&mut bytes).unwrap();
        vnet.check(packet.info()).unwrap();
        packet.set_dst(new, &vnet);
        finish(&mut bytes, &vnet);
        assert_eq!(bytes, build(Kind::Tcp, src, new, &payload));
    }
}

#[test]
fn excess_is_trimmed() {
    let (src, dst) = hosts(false);
    let mut bytes = build(Kind::Udp, src, dst, b"payload");
    let len = bytes.len();
    bytes.extend_from_slice(b"excess");
    let packet = Packet::parse(&mut bytes).unwrap();
    assert_eq!(packet.bytes().len(), len);
}

#[test]
fn an_address_of_the_other_family_changes_nothing() {
    let (src, dst) = hosts(false);
    let before = build(Kind::Tcp, src, dst, b"payload");
    let mut bytes = before.clone();
    let mut packet = Packet::parse(&mut bytes).unwrap();
    packet.set_src("::1".parse().unwrap(), &FULL);
    packet.set_dst("::1".parse().unwrap(), &FULL);
    assert_eq!(packet.info().src, src);
    assert_eq!(bytes, before);
}

#[test]
fn what_the_headers_say() {
    let (src, dst) = hosts(true);
    let mut bytes = build(Kind::Tcp, src, dst, b"payload");
    let info = *Packet::parse(&mut bytes).unwrap().info();
    let flags = TcpFlags::ACK.union(TcpFlags::PSH);
    assert_eq!(
        info,
        PacketInfo {
            src,
            dst,
            protocol: PROTOCOL_TCP,
            l4_offset: 40,
            total_len: 71,
            fragment: None,
            l4: L4::Tcp {
                src_port: 4000,
                dst_port: 80,
                flags,
                header_len: 24,
            },
        }
    );
    assert_eq!((info.header_len(), info.payload_len()), (64, 7));
    let echo = build(Kind::Echo, src, dst, b"payload");
    let echo = PacketInfo::parse(&echo).unwrap();
    assert_eq!(
        echo.l4,
        L4::IcmpEcho {
            id: 0xabcd,
            reply: false
        }
    );
}

/// An IPv4 fragment.
fn fragment4(id: u16, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let (IpAddr::V4(src), IpAddr::V4(dst)) = hosts(false) else {
        unreachable!()
    };
    let len = u16::try_from(payload.len()).unwrap();
    let mut head = Ipv4Header::new(len, 64, IpNumber::UDP, src.octets(), dst.octets()).unwrap();
    head.identification = id;
    head.more_fragments = more;
    head.fragment_offset = IpFragOffset::try_new(offset / 8).unwrap();
    head.header_checksum = head.calc_header_checksum();
    [&head.to_bytes()[..], payload].concat()
}

/// An IPv6 packet with extension headers, `next` being the first one's kind.
fn extended6(next: u8, rest: &[u8]) -> Vec<u8> {
    let (IpAddr::V6(src), IpAddr::V6(dst)) = hosts(true) else {
        unreachable!()
    };
    let head = Ipv6Header {
        payload_length: u16::try_from(rest.len()).unwrap(),
        next_header: IpNumber(next),
        hop_limit: 64,
        source: src.octets(),
        destination: dst.octets(),
        ..Ipv6Header::default()
    };
    [&head.to_bytes()[..], rest].concat()
}

#[test]
fn only_the_first_fragment_has_ports() {
    let datagram = build(Kind::Udp, hosts(false).0, hosts(false).1, &[7; 40])[20..].to_vec();
    let mut first = fragment4(9, 0, true, &datagram[..24]);
    let mut later = fragment4(9, 24, false, &datagram[24..]);
    let new = v4("10.30.9.9");
    for bytes in [&mut first, &mut later] {
        let mut packet = Packet::parse(bytes).unwrap();
        assert_eq!(packet.info().fragment.unwrap().id, 9);
        packet.set_dst(new, &FULL);
        assert_eq!(fold(sum(&bytes[..20])), 0xffff);
    }
    let whole = [&first[20..], &later[20..]].concat();
    assert_eq!(whole, build(Kind::Udp, hosts(false).0, new, &[7; 40])[20..]);
    let later = PacketInfo::parse(&later).unwrap();
    assert_eq!(later.l4, L4::LaterFragment);
    let fragment = Fragment {
        id: 9,
        offset: 24,
        more: false,
    };
    assert_eq!(later.fragment, Some(fragment));
}

#[test]
fn extension_headers_are_walked() {
    let udp = build(Kind::Udp, hosts(true).0, hosts(true).1, b"payload")[40..].to_vec();
    let hop_by_hop = [60, 0, 1, 4, 0, 0, 0, 0];
    let options = [44, 1, 1, 4, 0, 0, 0, 0, 1, 6, 0, 0, 0, 0, 0, 0];
    let whole = [17, 0, 0, 0, 0, 0, 0, 1];
    let mut bytes = extended6(0, &[&hop_by_hop[..], &options, &whole, &udp].concat());
    let mut packet = Packet::parse(&mut bytes).unwrap();
    let info = *packet.info();
    assert_eq!(
        (info.protocol, info.l4_offset, info.fragment),
        (17, 72, None)
    );
    assert_eq!(
        info.l4,
        L4::Udp {
            src_port: 5353,
            dst_port: 65_535
        }
    );
    let new = "fdff::77".parse().unwrap();
    packet.set_dst(new, &FULL);
    assert_eq!(
        bytes[72..],
        build(Kind::Udp, hosts(true).0, new, b"payload")[40..]
    );

    let later = [17, 0, 0x10, 0x01, 0, 0, 0, 5];
    let bytes = extended6(44, &[&later[..], &[0xee; 16]].concat());
    let info = PacketInfo::parse(&bytes).unwrap();
    let fragment = Fragment {
        id: 5,
        offset: 0x1000,
        more: true,
    };
    assert_eq!(
        (info.fragment, info.l4),
        (Some(fragment), L4::LaterFragment)
    );
}

#[test]
fn malformed_packets_are_refused_with_what_is_wrong() {
    let good = build(Kind::Tcp, hosts(false).0, hosts(false).1, b"payload");
    let udp = build(Kind::Udp, hosts(false).0, hosts(false).1, b"payload");
    let with = |packet: &[u8], at: usize, bytes: &[u8]| {
        let mut packet = packet.to_vec();
        packet[at..at + bytes.len()].copy_from_slice(bytes);
        packet
    };
    let hop = |next| [next, 0, 1, 4, 0, 0, 0, 0];
    let nine: Vec<u8> = (0..9).flat_map(|_| hop(60)).collect();
    let truncated = |needed, have| PacketError::Truncated { needed, have };
    let cases: Vec<(&str, Vec<u8>, PacketError)> = vec![
        ("no bytes", vec![], PacketError::Empty),
        ("version 0", vec![0; 40], PacketError::Version(0)),
        ("version 15", vec![0xff; 40], PacketError::Version(15)),
        (
            "half an IPv4 header",
            good[..10].to_vec(),
            truncated(20, 10),
        ),
        ("half an IPv6 header", vec![0x60; 39], truncated(40, 39)),
        (
            "IHL of 4 words",
            with(&good, 0, &[0x44]),
            PacketError::HeaderLength(16),
        ),
        (
            "total length 0",
            with(&good, 2, &[0, 0]),
            PacketError::HeaderLength(20),
        ),
        (
            "total length 1 too long",
            with(&good, 2, &[0, 52]),
            truncated(52, 51),
        ),
        (
            "IHL beyond the packet",
            with(&good, 0, &[0x4f]),
            PacketError::HeaderLength(60),
        ),
        (
            "TCP header cut",
            with(&good, 2, &[0, 39]),
            truncated(40, 39),
        ),
        (
            "TCP options cut",
            with(&good, 32, &[0xf0]),
            truncated(80, 51),
        ),
        (
            "TCP offset of 4 words",
            with(&good, 32, &[0x40]),
            PacketError::HeaderLength(16),
        ),
        (
            "UDP length 7",
            with(&udp, 24, &[0, 7]),
            PacketError::UdpLength(7),
        ),
        (
            "UDP length 1 too long",
            with(&udp, 24, &[0, 16]),
            PacketError::UdpLength(16),
        ),
        (
            "a fragment that ends between units",
            fragment4(1, 0, true, &[0; 33]),
            PacketError::Fragment { offset: 0, len: 33 },
        ),
        (
            "a fragment beyond 64 KiB",
            fragment4(1, 65_504, false, &[0; 40]),
            PacketError::Fragment {
                offset: 65_504,
                len: 40,
            },
        ),
        (
            "a first fragment without ports",
            fragment4(1, 0, true, &[]),
            truncated(28, 20),
        ),
        (
            "extension header cut",
            extended6(0, &[17, 0]),
            truncated(48, 42),
        ),
        (
            "extension header beyond the packet",
            extended6(60, &[17, 9, 0, 0, 0, 0, 0, 0]),
            truncated(120, 48),
        ),
        (
            "hop-by-hop options that are not first",
            extended6(60, &[hop(0), hop(59)].concat()),
            PacketError::ExtensionHeader(0),
        ),
        (
            "nine extension headers",
            extended6(60, &nine),
            PacketError::ExtensionHeader(60),
        ),
        (
            "a routing header with a way to go",
            extended6(43, &[17, 0, 0, 1, 0, 0, 0, 0]),
            PacketError::RoutingHeader(1),
        ),
        (
            "two fragment headers",
            extended6(
                44,
                &[[44, 0, 0, 0, 0, 0, 0, 1], [17, 0, 0, 0, 0, 0, 0, 1]].concat(),
            ),
            PacketError::ExtensionHeader(44),
        ),
        (
            "IPv6 length beyond 64 KiB",
            {
                let mut long = extended6(59, &[]);
                long[4..6].fill(0xff);
                long
            },
            PacketError::TooLong(65_575),
        ),
        (
            "ICMP without a header",
            fragment4(1, 0, false, &[8, 0, 0, 0])
                .iter()
                .enumerate()
                .map(|(at, byte)| if at == 9 { PROTOCOL_ICMP } else { *byte })
                .collect(),
            truncated(28, 24),
        ),
    ];
    for (what, bytes, error) in cases {
        assert_eq!(PacketInfo::parse(&bytes), Err(error), "{what}");
        assert_eq!(error.reason(), DropReason::Malformed);
    }
}

#[test]
fn an_error_that_quotes_nothing_readable_has_no_embedded_packet() {
    let (src, dst) = hosts(false);
    for quoted in [&[][..], &[0x45; 19], &[0x45, 0, 0, 20], &[0; 28]] {
        let mut bytes = icmp_error(src, dst, quoted);
        let before = bytes.clone();
        let mut packet = Packet::parse(&mut bytes).unwrap();
        assert_eq!(packet.embedded(), None);
        packet.set_embedded_dst(src);
        assert_eq!(bytes, before);
    }
}

#[test]
fn lying_vnet_headers_are_refused() {
    use crate::vnet::VnetError as E;
    let (bytes, good) = partial(&build(
        Kind::Tcp,
        hosts(false).0,
        hosts(false).1,
        &[1; 3000],
    ));
    let info = PacketInfo::parse(&bytes).unwrap();
    let good = VnetHeader {
        gso_type: vnet::GSO_TCPV4 | vnet::GSO_ECN,
        gso_size: 1348,
        hdr_len: 44,
        ..good
    };
    assert_eq!(good.check(&info), Ok(()));
    let protocol = |gso_type| E::GsoProtocol {
        gso_type,
        protocol: 6,
    };
    let checksum = |start, offset| E::Checksum { start, offset };
    let cases = [
        (
            "UFO",
            VnetHeader {
                gso_type: 3,
                ..good
            },
            E::UnknownGso(3),
        ),
        (
            "TCPv6",
            VnetHeader {
                gso_type: 4,
                ..good
            },
            protocol(4),
        ),
        (
            "UDP",
            VnetHeader {
                gso_type: 5,
                ..good
            },
            protocol(5),
        ),
        (
            "no segment size",
            VnetHeader {
                gso_size: 0,
                ..good
            },
            E::GsoSize {
                gso_size: 0,
                payload: 3000,
            },
        ),
        (
            "3000 segments",
            VnetHeader {
                gso_size: 1,
                ..good
            },
            E::GsoSize {
                gso_size: 1,
                payload: 3000,
            },
        ),
        (
            "no partial checksum",
            VnetHeader { flags: 0, ..good },
            E::GsoWithoutPartialChecksum,
        ),
        (
            "checksum of IP",
            VnetHeader {
                csum_start: 0,
                ..good
            },
            checksum(0, 16),
        ),
        (
            "checksum of UDP",
            VnetHeader {
                csum_offset: 6,
                ..good
            },
            checksum(20, 6),
        ),
        (
            "checksum outside",
            VnetHeader {
                csum_start: 0xffff,
                ..good
            },
            checksum(0xffff, 16),
        ),
        (
            "headers longer than the packet",
            VnetHeader {
                hdr_len: 3045,
                ..good
            },
            E::HeaderLength {
                hdr_len: 3045,
                total: 3044,
            },
        ),
    ];
    for (what, vnet, error) in cases {
        assert_eq!(vnet.check(&info), Err(PacketError::Vnet(error)), "{what}");
        assert_eq!(
            PacketError::Vnet(error).reason(),
            DropReason::LyingVnetHeader
        );
    }
    let fragment = PacketInfo::parse(&fragment4(1, 8, false, &[0; 8])).unwrap();
    assert_eq!(
        good.check(&fragment),
        Err(PacketError::Vnet(E::HeaderLength {
            hdr_len: 44,
            total: 28
        }))
    );
    let good = VnetHeader { hdr_len: 0, ..good };
    assert_eq!(good.check(&fragment), Err(PacketError::Vnet(E::Fragment)));
}

#[test]
fn the_vnet_header_is_read_as_it_is_written() {
    let header = VnetHeader {
        flags: 1,
        gso_type: 0x81,
        hdr_len: 66,
        gso_size: 1348,
        csum_start: 20,
        csum_offset: 16,
    };
    let mut bytes = [0; vnet::VNET_HEADER_LEN];
    header.write(&mut bytes);
    assert_eq!(VnetHeader::parse(&bytes), header);
    assert_eq!((bytes[0], bytes[1]), (1, 0x81));
    assert_eq!(bytes[4..6], 1348u16.to_ne_bytes());
}
