//! Refusals as etherparse reads them, their sums summed again, and packets that get none.

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

use super::*;

/// A TCP packet from `10.30.0.1` or `fdff::1`.
fn tcp(v6: bool, flags: TcpFlags, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let ip = if v6 {
        PacketBuilder::ipv6(hosts(true).0.to_be_bytes(), hosts(true).1.to_be_bytes(), 64)
    } else {
        PacketBuilder::ipv4([10, 30, 0, 1], [10, 30, 0, 2], 64)
    };
    ip.tcp(4000, 80, u32::MAX, 1024)
        .write(&mut out, payload)
        .unwrap();
    let l4 = if v6 { 40 } else { 20 };
    out[l4 + 13] = flags.0;
    out[l4 + 8..l4 + 12].copy_from_slice(&77u32.to_be_bytes());
    out
}

fn udp(v6: bool, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let ip = if v6 {
        PacketBuilder::ipv6(hosts(true).0.to_be_bytes(), hosts(true).1.to_be_bytes(), 64)
    } else {
        PacketBuilder::ipv4([10, 30, 0, 1], [10, 30, 0, 2], 64)
    };
    ip.udp(4000, 53).write(&mut out, payload).unwrap();
    out
}

fn hosts(v6: bool) -> (u128, u128) {
    if v6 {
        (0xfdff << 112 | 1, 0xfdff << 112 | 2)
    } else {
        (0, 0)
    }
}

/// Every sum is right, and the answer goes the other way.
#[track_caller]
fn assert_sound(packet: &[u8], answer: &[u8]) {
    let (asked, info) = (
        PacketInfo::parse(packet).unwrap(),
        PacketInfo::parse(answer).unwrap(),
    );
    assert_eq!((info.src, info.dst), (asked.dst, asked.src));
    assert_eq!(usize::from(info.total_len), answer.len());
    let l4 = usize::from(info.l4_offset);
    let pseudo = if info.protocol == PROTOCOL_ICMP {
        0
    } else {
        pseudo_sum(info.src, info.dst, info.protocol, answer.len() - l4)
    };
    assert_eq!(fold(pseudo + sum(&answer[l4..])), 0xffff);
    let sliced = SlicedPacket::from_ip(answer).unwrap();
    if let Some(NetSlice::Ipv4(ip)) = sliced.net {
        let header = ip.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
    }
}

#[test]
fn a_reset_has_the_numbers_of_the_rfc() {
    let (syn, ack, fin) = (TcpFlags::SYN, TcpFlags::ACK, TcpFlags::FIN);
    for v6 in [false, true] {
        for (flags, payload, sequence, acknowledgment) in [
            (syn, &b""[..], 0, Some(0)),
            (syn, b"fast open", 0, Some(9)),
            (fin, b"end", 0, Some(3)),
            (syn.union(ack), b"", 77, None),
            (ack, b"data", 77, None),
            (fin.union(ack), b"", 77, None),
        ] {
            let packet = tcp(v6, flags, payload);
            let answer = reject(&packet, Reject::NoInstance).unwrap();
            assert_sound(&packet, &answer);
            let sliced = SlicedPacket::from_ip(&answer).unwrap();
            let Some(TransportSlice::Tcp(reset)) = sliced.transport else {
                panic!("no TCP");
            };
            assert!(reset.rst() && !reset.syn() && !reset.fin());
            assert_eq!((reset.source_port(), reset.destination_port()), (80, 4000));
            assert_eq!(reset.sequence_number(), sequence, "{flags:?}");
            assert_eq!(reset.ack(), acknowledgment.is_some());
            assert_eq!(
                reset.acknowledgment_number(),
                acknowledgment.unwrap_or(0),
                "{flags:?}"
            );
        }
    }
}

#[test]
fn the_rest_hears_unreachable_and_what_was() {
    for v6 in [false, true] {
        let packet = udp(v6, b"question");
        for (why, v4_code, v6_code) in [
            (Reject::NoInstance, [3, 3], [1, 4]),
            (Reject::PeerUnreachable, [3, 1], [1, 3]),
            (Reject::Prohibited, [3, 13], [1, 1]),
        ] {
            let answer = reject(&packet, why).unwrap();
            assert_sound(&packet, &answer);
            let icmp = &answer[if v6 { 40 } else { 20 }..];
            assert_eq!(icmp[..2], if v6 { v6_code } else { v4_code }, "{why:?}");
            assert_eq!(icmp[4..8], [0; 4]);
            assert_eq!(&icmp[8..], packet);
        }
    }
}

#[test]
fn what_is_quoted_is_bounded() {
    for (v6, longest) in [(false, 576), (true, 1280)] {
        let packet = udp(v6, &[1; 1999]);
        let answer = reject(&packet, Reject::PeerUnreachable).unwrap();
        assert_sound(&packet, &answer);
        assert_eq!(answer.len(), longest);
    }
}

#[test]
fn some_packets_get_no_answer() {
    let udp = udp(false, b"question");
    let with = |at: usize, bytes: &[u8]| {
        let mut packet = udp.clone();
        packet[at..at + bytes.len()].copy_from_slice(bytes);
        packet
    };
    let error = reject(&udp, Reject::NoInstance).unwrap();
    let mut reply = error.clone();
    reply[20] = 0;
    for (what, packet) in [
        (
            "a reset",
            tcp(false, TcpFlags::RST.union(TcpFlags::ACK), b""),
        ),
        ("an ICMP error", error),
        ("an echo reply", reply),
        ("a later fragment", with(6, &[0, 1])),
        ("to multicast", with(16, &[224, 0, 0, 251])),
        ("to broadcast", with(16, &[255; 4])),
        ("from nobody", with(12, &[0; 4])),
        ("from loopback", with(12, &[127, 0, 0, 1])),
        ("from multicast", with(12, &[239, 1, 1, 1])),
        ("malformed", with(0, &[0x41])),
        ("empty", vec![]),
    ] {
        for why in [
            Reject::NoInstance,
            Reject::PeerUnreachable,
            Reject::Prohibited,
        ] {
            assert_eq!(reject(&packet, why), None, "{what}");
        }
    }
}

#[test]
fn a_reset_of_a_super_packet_acknowledges_nothing_it_cannot() {
    let packet = tcp(false, TcpFlags::FIN, &[0; 60_000]);
    let answer = reject(&packet, Reject::NoInstance).unwrap();
    assert_sound(&packet, &answer);
    assert_eq!(answer[28..32], 60_000u32.to_be_bytes());
}
