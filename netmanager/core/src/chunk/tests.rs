//! Cutting and putting together: losses, reordering, and whatever a hostile peer may send.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use weald_proto::chunk::{CHUNK_HEADER_LEN, ChunkHeader, ChunkKind};

use super::*;
use crate::packet::checksum::{fold, pseudo_sum, sum};
use crate::packet::{L4, PacketInfo, TcpFlags};
use crate::vnet::{self, Gso, VnetError, VnetHeader};

/// The sequence number of a super-packet of TCP, so near the end that it wraps.
const SEQUENCE: u32 = u32::MAX - 20_000;
const ID: u16 = 65_500;

/// The four kinds of super-packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    v6: bool,
    tcp: bool,
}

const SHAPES: [Shape; 4] = [
    Shape {
        v6: false,
        tcp: true,
    },
    Shape {
        v6: true,
        tcp: true,
    },
    Shape {
        v6: false,
        tcp: false,
    },
    Shape {
        v6: true,
        tcp: false,
    },
];

impl Shape {
    const fn header_len(self) -> usize {
        (if self.v6 { 40 } else { 20 }) + if self.tcp { 32 } else { 8 }
    }

    /// A super-packet as Linux makes it: PSH, FIN and CWR set, the pseudo-header's sum in place.
    fn build(self, payload: usize, gso_size: u16) -> (VnetHeader, Vec<u8>) {
        let l4_len = self.header_len() - if self.v6 { 40 } else { 20 } + payload;
        let (protocol, l4): (u8, Vec<u8>) = if self.tcp {
            let mut tcp = vec![0; 32];
            tcp[..4].copy_from_slice(&[0x0f, 0xa0, 0, 80]);
            tcp[4..8].copy_from_slice(&SEQUENCE.to_be_bytes());
            tcp[8..14].copy_from_slice(&[0, 0, 0, 9, 0x80, 0x99]); // CWR, ACK, PSH, FIN
            tcp[14..16].copy_from_slice(&[1, 0]);
            tcp[20..32].copy_from_slice(&[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
            (6, tcp)
        } else {
            let length = u16::try_from(l4_len).unwrap().to_be_bytes();
            (17, [&[0x0f, 0xa0, 0, 53][..], &length, &[0, 0]].concat())
        };
        let ip: Vec<u8> = if self.v6 {
            let len = u16::try_from(l4_len).unwrap().to_be_bytes();
            let src = [0xfd, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
            [&[0x60, 0, 0, 0], &len[..], &[protocol, 64], &src, &src].concat()
        } else {
            let len = u16::try_from(20 + l4_len).unwrap().to_be_bytes();
            let id = ID.to_be_bytes();
            let rest = [0x40, 0, 64, protocol, 0, 0, 10, 30, 0, 1, 10, 30, 0, 2];
            let mut ip = [&[0x45, 0][..], &len, &id, &rest].concat();
            let checksum = !fold(sum(&ip));
            ip[10..12].copy_from_slice(&checksum.to_be_bytes());
            ip
        };
        let bytes = (0..payload).map(|at| ((at as u32).wrapping_mul(2_654_435_761) >> 24) as u8);
        let mut packet: Vec<u8> = ip.into_iter().chain(l4).chain(bytes).collect();
        let info = PacketInfo::parse(&packet).unwrap();
        let partial = fold(pseudo_sum(info.src, info.dst, protocol, l4_len));
        let field = usize::from(info.l4_offset + info.l4.checksum_offset().unwrap());
        packet[field..field + 2].copy_from_slice(&partial.to_be_bytes());
        let gso_type = match (self.tcp, self.v6) {
            (true, false) => vnet::GSO_TCPV4 | vnet::GSO_ECN,
            (true, true) => vnet::GSO_TCPV6 | vnet::GSO_ECN,
            (false, _) => vnet::GSO_UDP_L4,
        };
        let header = VnetHeader {
            gso_type,
            gso_size,
            hdr_len: u16::try_from(self.header_len()).unwrap(),
            ..VnetHeader::plain(&info, true)
        };
        header.check(&info).unwrap();
        (header, packet)
    }
}

fn split(vnet: &VnetHeader, packet: &[u8], max_datagram: usize) -> Vec<Vec<u8>> {
    split_by(&mut Chunker::new(), vnet, packet, max_datagram)
}

fn split_by(
    chunker: &mut Chunker,
    vnet: &VnetHeader,
    packet: &[u8],
    max_datagram: usize,
) -> Vec<Vec<u8>> {
    let mut datagrams: Vec<Vec<u8>> = Vec::new();
    chunker
        .split(vnet, packet, max_datagram, &mut |parts| {
            datagrams.push(parts.concat())
        })
        .unwrap();
    for datagram in &datagrams {
        assert!(datagram.len() <= max_datagram, "{} bytes", datagram.len());
    }
    if let [equal @ .., last] = &datagrams[..] {
        assert!(equal.windows(2).all(|two| two[0].len() == two[1].len()));
        assert!(equal.iter().all(|datagram| datagram.len() >= last.len()));
    }
    datagrams
}

/// A reassembler, its clock, and what came out of it.
#[derive(Debug)]
struct Receiver {
    reassembler: Reassembler,
    now: Instant,
    packets: Vec<(VnetHeader, Vec<u8>)>,
}

impl Receiver {
    fn new() -> Self {
        Self::with(ReassemblyLimits::default())
    }

    fn with(limits: ReassemblyLimits) -> Self {
        Self {
            reassembler: Reassembler::new(limits),
            now: start(),
            packets: Vec::new(),
        }
    }

    fn handle(&mut self, datagram: &[u8]) -> Result<(), ChunkDrop> {
        let packets = &mut self.packets;
        self.reassembler
            .handle(datagram, self.now, &mut |vnet, packet| {
                let info = PacketInfo::parse(packet).unwrap();
                assert_eq!(usize::from(info.total_len), packet.len());
                vnet.check(&info).unwrap();
                packets.push((vnet, packet.to_vec()));
            })
    }

    /// Lets all that waits run out of time.
    fn expire(&mut self) {
        while let Some(at) = self.reassembler.poll_timeout() {
            assert!(at > self.now, "a deadline that has passed is still there");
            self.now = at;
            let packets = &mut self.packets;
            self.reassembler.handle_timeout(at, &mut |vnet, packet| {
                packets.push((vnet, packet.to_vec()));
            });
        }
    }

    fn drops(&mut self) -> Vec<(DropReason, u64)> {
        std::iter::from_fn(|| self.reassembler.poll_drop()).collect()
    }
}

/// Checks what came out against the whole, byte by byte; the result says which bytes came.
#[track_caller]
fn assert_parts(whole: &[u8], vnet: &VnetHeader, parts: &[(VnetHeader, Vec<u8>)]) -> Vec<bool> {
    let whole_info = PacketInfo::parse(whole).unwrap();
    let headers = whole_info.header_len();
    let payload = &whole[headers..];
    let mut came = vec![false; payload.len()];
    for (header, part) in parts {
        let info = PacketInfo::parse(part).unwrap();
        header.check(&info).unwrap();
        assert!(header.needs_csum());
        assert_eq!(usize::from(info.total_len), part.len());
        assert_eq!(
            (info.src, info.dst, info.protocol),
            (whole_info.src, whole_info.dst, whole_info.protocol)
        );
        let data = &part[headers..];
        if header.gso() == Gso::None {
            assert!(data.len() <= usize::from(vnet.gso_size));
        } else {
            assert_eq!(header.gso(), vnet.gso());
            assert_eq!(header.gso_size, vnet.gso_size);
            assert_eq!(usize::from(header.hdr_len), headers);
        }
        let start = find_start(whole, &info, part, payload, data, vnet.gso_size);
        assert_eq!(
            data,
            &payload[start..start + data.len()],
            "bytes at {start}"
        );
        for seen in &mut came[start..start + data.len()] {
            assert!(!std::mem::replace(seen, true), "delivered twice");
        }
        assert_headers(whole, part, &info, header, start, payload.len());
    }
    came
}

/// Where a part belongs: by its sequence number, or of UDP by the datagrams' bytes.
fn find_start(
    whole: &[u8],
    info: &PacketInfo,
    part: &[u8],
    payload: &[u8],
    data: &[u8],
    gso_size: u16,
) -> usize {
    let l4 = usize::from(info.l4_offset);
    if matches!(info.l4, L4::Tcp { .. }) {
        let sequence = |bytes: &[u8]| u32::from_be_bytes(*bytes[l4 + 4..].first_chunk().unwrap());
        return sequence(part).wrapping_sub(sequence(whole)) as usize;
    }
    // Only the last datagram is shorter than the others.
    if !data.len().is_multiple_of(usize::from(gso_size)) {
        return payload.len() - data.len();
    }
    (0..payload.len())
        .step_by(usize::from(gso_size))
        .find(|at| payload[*at..].starts_with(data))
        .expect("datagrams of the whole")
}

fn assert_headers(
    whole: &[u8],
    part: &[u8],
    info: &PacketInfo,
    header: &VnetHeader,
    start: usize,
    total: usize,
) {
    let l4 = usize::from(info.l4_offset);
    let l4_len = part.len() - l4;
    let mut expected = whole[..info.header_len()].to_vec();
    match info.src {
        IpAddr::V4(_) => {
            assert_eq!(fold(sum(&part[..l4])), 0xffff, "IPv4 checksum");
            expected[2..4].copy_from_slice(&(part.len() as u16).to_be_bytes());
            expected[10..12].copy_from_slice(&part[10..12]);
            let segment = start / usize::from(header.gso_size).max(1);
            let id = u16::from_be_bytes([part[4], part[5]]).wrapping_sub(ID);
            if header.gso() != Gso::None {
                assert_eq!(usize::from(id), segment, "identification");
            }
            expected[4..6].copy_from_slice(&part[4..6]);
        }
        IpAddr::V6(_) => expected[4..6].copy_from_slice(&(l4_len as u16).to_be_bytes()),
    }
    let partial = fold(pseudo_sum(info.src, info.dst, info.protocol, l4_len)).to_be_bytes();
    if let L4::Tcp { flags, .. } = info.l4 {
        let last = start + part.len() - info.header_len() == total;
        let ends = TcpFlags::FIN.union(TcpFlags::PSH);
        assert_eq!((flags.contains(ends), flags.intersects(ends)), (last, last));
        assert_eq!(flags.contains(TcpFlags::CWR), start == 0);
        expected[l4 + 4..l4 + 8].copy_from_slice(&part[l4 + 4..l4 + 8]);
        expected[l4 + 13] = flags.0;
        expected[l4 + 16..l4 + 18].copy_from_slice(&partial);
    } else {
        expected[l4 + 4..l4 + 6].copy_from_slice(&(l4_len as u16).to_be_bytes());
        expected[l4 + 6..l4 + 8].copy_from_slice(&partial);
    }
    // Nothing but what is named above differs from the whole.
    assert_eq!(part[..info.header_len()], expected);
}

/// Which bytes of the payload the chunks that came hold; of UDP, in whole datagrams.
fn model(
    shape: Shape,
    datagrams: &[Vec<u8>],
    lost: &[bool],
    total: usize,
    gso_size: u16,
) -> Vec<bool> {
    let mut came = vec![false; total];
    for (datagram, _) in datagrams.iter().zip(lost).filter(|(_, lost)| !**lost) {
        let (header, rest) = ChunkHeader::decode(datagram).unwrap();
        let at = usize::from(header.index) * usize::from(header.chunk_len);
        came[at..at + rest.len() - usize::from(header.template_len)].fill(true);
    }
    if !shape.tcp {
        for segment in came.chunks_mut(usize::from(gso_size)) {
            let whole = segment.iter().all(|came| *came);
            segment.fill(whole);
        }
    }
    came
}

#[track_caller]
fn assert_losing(
    shape: Shape,
    payload: usize,
    gso_size: u16,
    max_datagram: usize,
    lost: &dyn Fn(usize) -> bool,
) {
    let (vnet, packet) = shape.build(payload, gso_size);
    let datagrams = split(&vnet, &packet, max_datagram);
    let lost: Vec<bool> = (0..datagrams.len()).map(lost).collect();
    let mut receiver = Receiver::new();
    for (datagram, _) in datagrams.iter().zip(&lost).filter(|(_, lost)| !**lost) {
        receiver.handle(datagram).unwrap();
    }
    receiver.expire();
    let came = assert_parts(&packet, &vnet, &receiver.packets);
    assert_eq!(came, model(shape, &datagrams, &lost, payload, gso_size));
}

#[test]
fn a_whole_super_packet_comes_out_as_it_went_in() {
    for shape in SHAPES {
        for (payload, gso_size) in [
            (1349, 1348),
            (2696, 1348),
            (40_000, 1348),
            (65_535 - shape.header_len(), 1348),
            (65_535 - shape.header_len(), 1300),
            (4000, 100),
            (3000, 48),
        ] {
            for max_datagram in [1162, 1250, 1414, 1434, 9000, 70_000] {
                let (vnet, packet) = shape.build(payload, gso_size);
                let mut receiver = Receiver::new();
                for datagram in split(&vnet, &packet, max_datagram) {
                    receiver.handle(&datagram).unwrap();
                }
                assert_eq!(receiver.packets, [(vnet, packet)]);
                assert_eq!(receiver.reassembler.poll_timeout(), None);
                assert_eq!(receiver.drops(), []);
            }
        }
    }
}

#[test]
fn an_inner_packet_of_1400_bytes_and_its_chunk_header_are_1414() {
    for (shape, gso_size) in [
        (SHAPES[0], 1348),
        (SHAPES[1], 1328),
        (SHAPES[2], 1372),
        (SHAPES[3], 1352),
    ] {
        assert_eq!(shape.header_len() + usize::from(gso_size), 1400);
        let (vnet, packet) = shape.build(usize::from(gso_size) * 40, gso_size);
        let datagrams = split(&vnet, &packet, 1414);
        assert_eq!(datagrams.len(), 40);
        assert!(datagrams.iter().all(|datagram| datagram.len() == 1414));
    }
}

#[test]
fn each_chunk_lost_in_turn_costs_that_one() {
    for shape in SHAPES {
        for (gso_size, max_datagram) in [(1348, 1414), (1348, 1162), (300, 1414)] {
            for lost in 0..40 {
                assert_losing(shape, 30_001, gso_size, max_datagram, &|at| at == lost);
            }
        }
    }
}

#[test]
fn bursts_cost_what_was_in_them() {
    for shape in SHAPES {
        for len in 2..12 {
            for first in 0..30 {
                assert_losing(shape, 30_001, 1300, 1414, &|at| {
                    (first..first + len).contains(&at)
                });
            }
        }
        assert_losing(shape, 30_001, 1300, 1414, &|at| at % 2 == 0);
        assert_losing(shape, 30_001, 1300, 1414, &|at| at % 2 == 1);
        assert_losing(shape, 30_001, 1300, 1162, &|at| at % 3 == 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    #[test]
    fn what_comes_out_is_what_came_in_at_its_place(
        shape in prop::sample::select(SHAPES.to_vec()),
        payload in 1401usize..65_000,
        gso_size in 48u16..1400,
        max_datagram in 1162usize..1473,
        seed in any::<u64>(),
        loss_percent in 0u64..60,
    ) {
        let (vnet, packet) = shape.build(payload, gso_size);
        let datagrams = split(&vnet, &packet, max_datagram);
        let mut random = seed;
        let mut next = move || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            random >> 33
        };
        let lost: Vec<bool> = datagrams.iter().map(|_| next() % 100 < loss_percent).collect();
        let mut order: Vec<usize> = (0..datagrams.len()).filter(|at| !lost[*at]).collect();
        for at in (1..order.len()).rev() {
            order.swap(at, next() as usize % (at + 1));
        }
        let mut receiver = Receiver::new();
        for at in order {
            receiver.handle(&datagrams[at]).unwrap();
            if next() % 4 == 0 {
                let again = receiver.handle(&datagrams[at]);
                let twice = matches!(again, Err(ChunkDrop::Duplicate { .. } | ChunkDrop::Late { .. }));
                prop_assert!(twice);
            }
        }
        receiver.expire();
        let came = assert_parts(&packet, &vnet, &receiver.packets);
        prop_assert_eq!(came, model(shape, &datagrams, &lost, payload, gso_size));
    }

    #[test]
    fn no_datagram_makes_it_panic_or_hand_out_nonsense(
        datagrams in prop::collection::vec(hostile(), 1..40),
    ) {
        let mut receiver = Receiver::with(ReassemblyLimits { max_incomplete: 4, ..ReassemblyLimits::default() });
        for datagram in datagrams {
            let _ = receiver.handle(&datagram);
            prop_assert!(receiver.reassembler.incomplete() <= 4);
        }
        receiver.expire();
    }
}

/// Chunks of two packets with some bytes changed, or bytes that are none.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((0usize..80, any::<u8>()), 0..3);
    let chunk = (
        prop::sample::select(SHAPES.to_vec()),
        0u32..2,
        0usize..6,
        changes,
        any::<bool>(),
    );
    let broken = chunk.prop_map(|(shape, packet, index, changes, cut)| {
        let (vnet, bytes) = shape.build(6000, 1200);
        let mut chunker = Chunker::starting_at(packet);
        let mut datagrams = split_by(&mut chunker, &vnet, &bytes, 1414);
        let mut datagram = datagrams.swap_remove(index % datagrams.len());
        for (at, value) in changes {
            datagram[at] = value;
        }
        datagram.truncate(if cut { 60 } else { datagram.len() });
        datagram
    });
    let any_bytes = (
        prop::sample::select(vec![1u8, 0x81, 2, 3, 0x43, 4, 0x84, 5]),
        prop::collection::vec(any::<u8>(), 0..90),
    )
        .prop_map(|(first, rest)| [&[first][..], &rest].concat());
    prop_oneof![4 => broken, 1 => any_bytes]
}

#[test]
fn a_newer_super_packet_shows_the_loss_before_the_deadline() {
    let (vnet, packet) = SHAPES[0].build(30_000, 1348);
    let mut chunker = Chunker::new();
    let first = split_by(&mut chunker, &vnet, &packet, 1414);
    let second = split_by(&mut chunker, &vnet, &packet, 1414);
    let mut receiver = Receiver::new();
    for datagram in &first[1..] {
        receiver.handle(datagram).unwrap();
    }
    let (overtaking, rest) = second.split_at(17);
    for datagram in &overtaking[..16] {
        receiver.handle(datagram).unwrap();
    }
    assert_eq!(receiver.packets.len(), 0, "it may still be reordering");
    receiver.handle(&overtaking[16]).unwrap();
    assert_eq!(receiver.packets.len(), 1);
    assert_eq!(receiver.packets[0].1.len(), packet.len() - 1348);
    assert_eq!(
        receiver.handle(&first[0]),
        Err(ChunkDrop::Late { packet: 0 })
    );
    for datagram in rest {
        receiver.handle(datagram).unwrap();
    }
    assert_eq!(receiver.packets[1..], [(vnet, packet)]);
    assert_eq!(receiver.reassembler.poll_timeout(), None);
}

#[test]
fn deadlines_are_exact() {
    let limits = ReassemblyLimits::default();
    let (vnet, packet) = SHAPES[0].build(30_000, 1348);
    let datagrams = split(&vnet, &packet, 1414);
    let mut receiver = Receiver::new();
    let start = receiver.now;
    receiver.handle(&datagrams[0]).unwrap();
    assert_eq!(
        receiver.reassembler.poll_timeout(),
        Some(start + limits.idle)
    );
    let early = start + limits.idle - Duration::from_nanos(1);
    receiver
        .reassembler
        .handle_timeout(early, &mut |_, _| panic!("too early"));
    // Each chunk prolongs the wait, but not for ever.
    for (number, datagram) in (1u32..13).zip(&datagrams[1..]) {
        receiver.now = start + Duration::from_millis(20) * number;
        receiver.handle(datagram).unwrap();
        let due = (receiver.now + limits.idle).min(start + limits.lifetime);
        assert_eq!(receiver.reassembler.poll_timeout(), Some(due));
    }
    receiver.expire();
    assert_eq!(receiver.now, start + limits.lifetime);
    assert_eq!(receiver.packets.len(), 1);
}

#[test]
fn pieces_of_a_large_packet_are_all_needed() {
    for needs_csum in [false, true] {
        let (_, mut packet) = SHAPES[2].build(1372, 1372);
        let info = PacketInfo::parse(&packet).unwrap();
        let vnet = VnetHeader::plain(&info, needs_csum);
        packet[40] ^= 1;
        let datagrams = split(&vnet, &packet, 1162);
        assert_eq!(datagrams.len(), 2);
        assert_eq!(datagrams[0].len(), 714);
        let mut receiver = Receiver::new();
        receiver.handle(&datagrams[1]).unwrap();
        receiver.handle(&datagrams[0]).unwrap();
        assert_eq!(receiver.packets, [(vnet, packet)]);

        let mut receiver = Receiver::new();
        receiver.handle(&datagrams[1]).unwrap();
        receiver.expire();
        assert_eq!(receiver.packets, []);
        assert_eq!(receiver.drops(), [(DropReason::ChunkIncomplete, 1)]);
    }
}

#[test]
fn a_super_packet_of_one_segment_goes_as_a_plain_packet() {
    let (vnet, packet) = SHAPES[0].build(1000, 1348);
    let datagrams = split(&vnet, &packet, 1414);
    assert_eq!(datagrams, [[&[0x81], &packet[..]].concat()]);
    let mut receiver = Receiver::new();
    receiver.handle(&datagrams[0]).unwrap();
    let plain = VnetHeader {
        gso_type: 0,
        gso_size: 0,
        hdr_len: 0,
        ..vnet
    };
    assert_eq!(receiver.packets, [(plain, packet)]);
}

#[test]
fn several_small_packets_share_a_datagram() {
    let packets: Vec<_> = (1..5).map(|len| SHAPES[2].build(len * 30, 1372)).collect();
    let plain = |header: &VnetHeader| VnetHeader {
        gso_type: 0,
        gso_size: 0,
        hdr_len: 0,
        ..*header
    };
    let mut batch = Batch::new(400);
    assert_eq!(batch.datagram(), None);
    let added: Vec<bool> = packets
        .iter()
        .map(|(vnet, packet)| batch.push(&plain(vnet), packet))
        .collect();
    assert_eq!(added, [true, true, true, false]);
    assert!(!batch.push(&packets[0].0, &packets[0].1), "a super-packet");
    let mut receiver = Receiver::new();
    let datagram = batch.datagram().unwrap();
    assert_eq!(datagram.len(), 1 + 3 * (2 + 28) + 180);
    receiver.handle(datagram).unwrap();
    let expected: Vec<_> = packets[..3]
        .iter()
        .map(|(vnet, packet)| (plain(vnet), packet.clone()))
        .collect();
    assert_eq!(receiver.packets, expected);

    // A bad one among them costs only itself; bytes that end too early cost the rest.
    let mut broken = datagram.to_vec();
    broken[3] = 0;
    assert_eq!(
        receiver.handle(&broken),
        Err(ChunkDrop::Packet(PacketError::Version(0)))
    );
    assert_eq!(receiver.packets.len(), 5);
    assert_eq!(
        receiver.handle(&datagram[..datagram.len() - 1]),
        Err(ChunkDrop::Truncated)
    );
    assert_eq!(receiver.packets.len(), 7);
    batch.clear();
    assert_eq!(batch.datagram(), None);
    assert_eq!(receiver.handle(&[2]), Ok(()));
}

#[test]
fn the_number_of_incomplete_packets_is_bounded() {
    let limits = ReassemblyLimits {
        max_incomplete: 3,
        reordering: 1000,
        ..ReassemblyLimits::default()
    };
    let mut receiver = Receiver::with(limits);
    let (vnet, packet) = SHAPES[0].build(30_000, 1348);
    let mut chunker = Chunker::new();
    for _ in 0..10 {
        let datagrams = split_by(&mut chunker, &vnet, &packet, 1414);
        receiver.handle(&datagrams[3]).unwrap();
    }
    assert_eq!(receiver.reassembler.incomplete(), 3);
    assert_eq!(
        receiver.packets.len(),
        7,
        "the oldest made room with what they had"
    );
    assert_eq!(receiver.drops(), [(DropReason::ChunkTableFull, 7)]);

    let limits = ReassemblyLimits {
        max_bytes: 70_000,
        reordering: 1000,
        ..ReassemblyLimits::default()
    };
    let mut receiver = Receiver::with(limits);
    for _ in 0..10 {
        let datagrams = split_by(&mut chunker, &vnet, &packet, 1414);
        receiver.handle(&datagrams[3]).unwrap();
    }
    assert_eq!(receiver.reassembler.incomplete(), 2, "30052 bytes each");
}

#[test]
fn packet_numbers_wrap() {
    let (vnet, packet) = SHAPES[0].build(3000, 1348);
    let mut chunker = Chunker::starting_at(u32::MAX - 1);
    let mut receiver = Receiver::new();
    let first = split_by(&mut chunker, &vnet, &packet, 1414);
    for datagram in &first {
        receiver.handle(datagram).unwrap();
    }
    for _ in 0..600 {
        for datagram in split_by(&mut chunker, &vnet, &packet, 1414) {
            receiver.handle(&datagram).unwrap();
        }
    }
    assert_eq!(receiver.packets.len(), 601);
    let late = Err(ChunkDrop::Late {
        packet: u32::MAX - 1,
    });
    assert_eq!(receiver.handle(&first[0]), late, "forgotten by now");
}

#[test]
fn what_cannot_be_cut_is_refused() {
    let (vnet, packet) = SHAPES[0].build(3000, 1348);
    let refused = |vnet: &VnetHeader, packet: &[u8], max_datagram| {
        Chunker::new().split(vnet, packet, max_datagram, &mut |_| panic!("emitted"))
    };
    let small = ChunkError::DatagramTooSmall { max_datagram: 577 };
    assert_eq!(refused(&vnet, &packet, 577), Err(small));
    assert_eq!(
        refused(&vnet, &[], 1414),
        Err(ChunkError::Packet(PacketError::Empty))
    );
    let lying = VnetHeader {
        gso_type: vnet::GSO_UDP_L4,
        ..vnet
    };
    let lie = VnetError::GsoProtocol {
        gso_type: 5,
        protocol: 6,
    };
    assert_eq!(
        refused(&lying, &packet, 1414),
        Err(ChunkError::Packet(PacketError::Vnet(lie)))
    );
}

/// A chunk's header and bytes, to be changed one by one.
fn first_chunk() -> (ChunkHeader, Vec<u8>) {
    let (vnet, packet) = SHAPES[0].build(5000, 1348);
    let datagrams = split(&vnet, &packet, 1414);
    let (header, rest) = ChunkHeader::decode(&datagrams[0]).unwrap();
    (header, rest.to_vec())
}

fn join(header: ChunkHeader, rest: &[u8]) -> Vec<u8> {
    [&header.encode()[..], rest].concat()
}

#[test]
fn hostile_chunks_are_dropped_with_a_reason() {
    let (good, rest) = first_chunk();
    let template = |at: usize, byte: u8| {
        let mut rest = rest.clone();
        rest[at] = byte;
        rest
    };
    let piece = ChunkKind::Piece { needs_csum: false };
    use DropReason as R;
    let cases: Vec<(&str, Vec<u8>, DropReason)> = vec![
        ("no bytes", vec![], R::ChunkUnknownKind),
        ("an unknown kind", vec![0x0f; 40], R::ChunkUnknownKind),
        ("an unknown flag", vec![0x21; 40], R::ChunkUnknownKind),
        (
            "half a header",
            good.encode()[..9].to_vec(),
            R::ChunkTruncated,
        ),
        (
            "half a template",
            join(good, &rest[..30]),
            R::ChunkTruncated,
        ),
        (
            "no bytes of its own",
            join(good, &rest[..52]),
            R::ChunkOutOfRange,
        ),
        (
            "a byte too few",
            join(good, &rest[..1399]),
            R::ChunkOutOfRange,
        ),
        (
            "a byte too many",
            join(
                good,
                &template(0, 0x45).into_iter().chain([0]).collect::<Vec<_>>(),
            ),
            R::ChunkOutOfRange,
        ),
        (
            "an index beyond",
            join(ChunkHeader { index: 4, ..good }, &rest),
            R::ChunkOutOfRange,
        ),
        (
            "the last index",
            join(
                ChunkHeader {
                    index: u16::MAX,
                    ..good
                },
                &rest,
            ),
            R::ChunkOutOfRange,
        ),
        (
            "nothing to cut",
            join(ChunkHeader { total: 0, ..good }, &rest),
            R::ChunkOutOfRange,
        ),
        (
            "chunks of nothing",
            join(
                ChunkHeader {
                    chunk_len: 0,
                    ..good
                },
                &rest,
            ),
            R::ChunkOutOfRange,
        ),
        (
            "chunks of a byte",
            join(
                ChunkHeader {
                    chunk_len: 1,
                    ..good
                },
                &rest[..53],
            ),
            R::ChunkOutOfRange,
        ),
        (
            "more than 64 KiB with the template",
            join(
                ChunkHeader {
                    total: 65_500,
                    ..good
                },
                &rest,
            ),
            R::ChunkOutOfRange,
        ),
        (
            "no segment size",
            join(
                ChunkHeader {
                    gso_size: 0,
                    ..good
                },
                &rest,
            ),
            R::ChunkOutOfRange,
        ),
        (
            "a piece with a template",
            join(
                ChunkHeader {
                    kind: piece,
                    ..good
                },
                &rest,
            ),
            R::ChunkOutOfRange,
        ),
        (
            "a segment size of 1",
            join(
                ChunkHeader {
                    gso_size: 1,
                    ..good
                },
                &rest,
            ),
            R::LyingVnetHeader,
        ),
        (
            "a template of no IP",
            join(good, &template(0, 0x05)),
            R::Malformed,
        ),
        (
            "a template of another total length",
            join(good, &template(3, 0)),
            R::Malformed,
        ),
        (
            "a template with fewer options",
            join(good, &template(32, 0x50)),
            R::Malformed,
        ),
        (
            "a template of ICMP",
            join(good, &template(9, 1)),
            R::Malformed,
        ),
        (
            "a template of UDP",
            join(good, &template(9, 17)),
            R::Malformed,
        ),
        (
            "a template of SCTP",
            join(good, &template(9, 132)),
            R::Malformed,
        ),
        (
            "a template that is a fragment",
            join(good, &template(6, 0x20)),
            R::LyingVnetHeader,
        ),
        ("an empty packet", vec![1], R::Malformed),
        ("a packet cut short", vec![1, 0x45, 0, 0], R::Malformed),
    ];
    for (what, datagram, reason) in cases {
        let mut receiver = Receiver::new();
        let error = receiver.handle(&datagram).expect_err(what);
        assert_eq!(error.reason(), reason, "{what}: {error}");
        assert_eq!(receiver.packets, []);
        assert_eq!(receiver.reassembler.incomplete(), 0, "{what}");
        assert_eq!(receiver.drops(), []);
    }
}

#[test]
fn chunks_that_contradict_those_before_are_dropped() {
    let (vnet, packet) = SHAPES[0].build(5000, 1348);
    let datagrams = split(&vnet, &packet, 1414);
    let mut receiver = Receiver::new();
    receiver.handle(&datagrams[0]).unwrap();
    let (second, rest) = ChunkHeader::decode(&datagrams[1]).unwrap();
    let mut other_port = rest.to_vec();
    other_port[20] ^= 1;
    let mut other_bytes = datagrams[0].clone();
    *other_bytes.last_mut().unwrap() ^= 1;
    let conflict = |index| Err(ChunkDrop::Conflict { packet: 0, index });
    for (what, datagram, result) in [
        (
            "another total",
            join(
                ChunkHeader {
                    total: 5001,
                    ..second
                },
                rest,
            ),
            conflict(1),
        ),
        (
            "another segment size",
            join(
                ChunkHeader {
                    gso_size: 1347,
                    ..second
                },
                rest,
            ),
            conflict(1),
        ),
        (
            "no ECN",
            join(
                ChunkHeader {
                    kind: ChunkKind::Super { ecn: false },
                    ..second
                },
                rest,
            ),
            conflict(1),
        ),
        ("another template", join(second, &other_port), conflict(1)),
        ("other bytes", other_bytes, conflict(0)),
        (
            "the same again",
            datagrams[0].clone(),
            Err(ChunkDrop::Duplicate {
                packet: 0,
                index: 0,
            }),
        ),
    ] {
        assert_eq!(receiver.handle(&datagram), result, "{what}");
    }
    for datagram in &datagrams[1..] {
        receiver.handle(datagram).unwrap();
    }
    assert_eq!(
        receiver.packets,
        [(vnet, packet)],
        "and nothing else changed"
    );
    assert_eq!(
        receiver.handle(&datagrams[2]),
        Err(ChunkDrop::Late { packet: 0 })
    );
    assert_eq!(receiver.packets.len(), 1);
}

#[test]
fn the_chunk_header_fits_the_byte_budget() {
    assert_eq!(CHUNK_HEADER_LEN, 14);
}

/// Any moment will do: only differences count.
#[expect(clippy::disallowed_methods, reason = "a test needs some first instant")]
fn start() -> Instant {
    Instant::now()
}
