//! What the core does to one packet, in nanoseconds: parsing, translating, cutting into chunks and
//! putting together. No I/O, hot caches; `cargo bench -p bench --bench packet` measures, and as a
//! test everything runs a few times to show that it runs.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use netmanager_core::chunk::{Chunker, Parts, Reassembler, ReassemblyLimits};
use netmanager_core::packet::{Packet, PacketInfo};
use netmanager_core::vnet::{FLAG_NEEDS_CSUM, GSO_TCPV4, VnetHeader};

/// Datagrams that fit a path MTU of 1500 (see `weald_proto::chunk`).
const MAX_DATAGRAM: usize = 1414;
/// Payload of one segment: an inner MTU of 1400 less 52 bytes of headers.
const SEGMENT: u16 = 1348;
/// Samples of which the median and the fastest are shown.
const SAMPLES: usize = 201;
/// How long a sample lasts: so that the clock's resolution does not matter, and short enough that
/// some samples are not interrupted on a busy machine.
const SAMPLE: Duration = Duration::from_millis(2);

fn main() {
    // Cargo passes `--bench` when it measures.
    let measure = std::env::args().any(|argument| argument == "--bench");
    let bench = Bench { measure };
    println!(
        "{:<36} {:>14} {:>14} {:>10}",
        "benchmark", "ns/op, median", "fastest", "ns/byte"
    );
    parse(&bench);
    translate(&bench);
    split(&bench);
    split_and_reassemble(&bench);
}

fn parse(bench: &Bench) {
    for (name, payload) in [("parse, 1400 B", 1348), ("parse, 64 KiB", 65_483)] {
        let (_, packet) = super_packet(payload);
        bench.run(name, packet.len(), || {
            black_box(PacketInfo::parse(black_box(&packet)).is_ok());
        });
    }
}

fn translate(bench: &Bench) {
    let (vnet, mut packet) = super_packet(1348);
    let full = VnetHeader::default();
    let targets = [[10, 30, 250, 7], [10, 30, 1, 9]].map(|ip| IpAddr::V4(Ipv4Addr::from(ip)));
    for (name, vnet) in [("partial", &vnet), ("full", &full)] {
        let mut at = 0;
        let len = packet.len();
        bench.run(&format!("parse and set_dst, {name} checksum"), len, || {
            at ^= 1;
            if let Ok(mut packet) = Packet::parse(black_box(&mut packet)) {
                packet.set_dst(targets[at], vnet);
            }
        });
    }
}

fn split(bench: &Bench) {
    let (vnet, packet) = super_packet(65_483);
    let mut chunker = Chunker::new();
    let mut datagram = Vec::new();
    bench.run("split, 64 KiB", packet.len(), || {
        let result = chunker.split(&vnet, black_box(&packet), MAX_DATAGRAM, &mut |parts| {
            put_together(parts, &mut datagram);
            black_box(&datagram);
        });
        black_box(result.is_ok());
    });
}

fn split_and_reassemble(bench: &Bench) {
    let now = Instant::now();
    for (name, payload) in [
        ("split and reassemble, 64 KiB", 65_483),
        ("split and reassemble, 1400 B", 1348),
        ("split and reassemble, 100 B", 48),
    ] {
        let (vnet, packet) = super_packet(payload);
        let mut chunker = Chunker::new();
        let mut reassembler = Reassembler::new(ReassemblyLimits::default());
        let mut datagram = Vec::new();
        let mut packets = 0;
        let mut runs = 0;
        bench.run(name, packet.len(), || {
            runs += 1;
            let result = chunker.split(&vnet, &packet, MAX_DATAGRAM, &mut |parts| {
                put_together(parts, &mut datagram);
                let result = reassembler.handle(&datagram, now, &mut |_, packet| {
                    packets += 1;
                    black_box(packet);
                });
                black_box(result.is_ok());
            });
            black_box(result.is_ok());
        });
        assert_eq!(packets, runs, "{name}: every packet comes out once");
    }
}

/// Makes the datagram as the packet thread does, in memory that is there.
fn put_together(parts: Parts<'_>, datagram: &mut Vec<u8>) {
    datagram.clear();
    for part in parts {
        datagram.extend_from_slice(part);
    }
}

/// TCP over IPv4 with timestamps and a partial checksum.
fn super_packet(payload: usize) -> (VnetHeader, Vec<u8>) {
    let total = u16::try_from(52 + payload)
        .unwrap_or(u16::MAX)
        .to_be_bytes();
    let ip = [
        0x45, 0, total[0], total[1], 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 30, 0, 1, 10, 30, 0, 2,
    ];
    let mut packet = vec![0x5a; 52 + payload];
    packet[..20].copy_from_slice(&ip);
    packet[20..52].fill(0);
    packet[32..34].copy_from_slice(&[0x80, 0x10]);
    let gso = payload > usize::from(SEGMENT);
    let vnet = VnetHeader {
        flags: FLAG_NEEDS_CSUM,
        gso_type: if gso { GSO_TCPV4 } else { 0 },
        hdr_len: 52,
        gso_size: if gso { SEGMENT } else { 0 },
        csum_start: 20,
        csum_offset: 16,
    };
    (vnet, packet)
}

/// Runs something often and shows how long once takes.
struct Bench {
    measure: bool,
}

impl Bench {
    fn run(&self, name: &str, bytes: usize, mut once: impl FnMut()) {
        if !self.measure {
            (0..3).for_each(|_| once());
            println!("{name:<36} {:>14}", "ok");
            return;
        }
        let iterations = iterations_per_sample(&mut once);
        let mut samples: Vec<f64> = (0..SAMPLES)
            .map(|_| {
                let start = Instant::now();
                (0..iterations).for_each(|_| once());
                start.elapsed().as_nanos() as f64 / f64::from(iterations)
            })
            .collect();
        samples.sort_by(f64::total_cmp);
        let (median, fastest) = (samples[SAMPLES / 2], samples[0]);
        let per_byte = median / bytes as f64;
        println!("{name:<36} {median:>14.1} {fastest:>14.1} {per_byte:>10.3}");
    }
}

fn iterations_per_sample(once: &mut impl FnMut()) -> u32 {
    let mut iterations = 1;
    loop {
        let start = Instant::now();
        (0..iterations).for_each(|_| once());
        if start.elapsed() >= SAMPLE || iterations > u32::MAX / 2 {
            return iterations;
        }
        iterations *= 2;
    }
}
