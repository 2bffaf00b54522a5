//! Does one of the core's operations so many times: `weald-ops flow-hit 1000`.
//!
//! `tests/instructions.rs` runs it under valgrind with two counts; the difference of the
//! instructions, divided by that of the counts, is what one operation takes, without the start.
//! Nothing here depends on the clock, on chance or on the machine.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use netmanager_core::chunk::{Chunker, Reassembler, ReassemblyLimits};
use netmanager_core::dataplane::{DataPlane, FlowLimits, PeerState, Reachability};
use netmanager_core::dns::{self, Caller, DnsAction, TableStatus, Transport};
use netmanager_core::packet::{Packet, PacketInfo};
use netmanager_core::table::{Nodes, PeerId, Snapshot};
use netmanager_core::verdict::Verdict;
use netmanager_core::vnet::{FLAG_NEEDS_CSUM, GSO_TCPV4, VnetHeader};
use weald_proto::addr::{Dual, Pools};
use weald_proto::id::{Label, NodeId, Organisation};
use weald_proto::name::{InstanceId, ServiceName, Zone};
use weald_proto::table::{AcceptPolicy, InstanceRow, LanePolicy, NodeRow, ServiceRow, Table};

/// Does something so many times.
type Operation = fn(u32) -> Result<()>;

/// The operations, by name.
const OPERATIONS: [(&str, Operation); 8] = [
    ("parse", parse),
    ("translate-partial", translate_partial),
    ("translate-full", translate_full),
    ("flow-hit", flow_hit),
    ("flow-miss", flow_miss),
    ("dns-answer", dns_answer),
    ("chunk-64k", chunk_large),
    ("chunk-100", chunk_small),
];

/// Services of the table, each with one instance.
const SERVICES: u16 = 1_000;
/// Payload of a TCP segment with an inner MTU of 1400.
const SEGMENT: u16 = 1348;
/// Datagrams that fit a path MTU of 1500.
const MAX_DATAGRAM: usize = 1414;
/// The client, an instance on this node.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 30, 1, 1);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let names = || OPERATIONS.map(|(name, _)| name).join(" ");
    match arguments.as_slice() {
        [list] if list == "--list" => println!("{}", names()),
        [name, count] => {
            let found = OPERATIONS.iter().find(|(operation, _)| operation == name);
            let (_, operation) = found.with_context(|| format!("operations: {}", names()))?;
            operation(count.parse().context("the count is a number")?)?;
        }
        _ => bail!("usage: weald-ops --list | weald-ops OPERATION COUNT"),
    }
    Ok(())
}

fn parse(count: u32) -> Result<()> {
    let packet = tcp(CLIENT, Ipv4Addr::new(10, 30, 8, 1), 4000, 1348);
    for _ in 0..count {
        ensure!(PacketInfo::parse(black_box(&packet)).is_ok(), "no packet");
    }
    Ok(())
}

fn translate_partial(count: u32) -> Result<()> {
    translate(count, &partial(0))
}

fn translate_full(count: u32) -> Result<()> {
    translate(count, &VnetHeader::default())
}

fn translate(count: u32, vnet: &VnetHeader) -> Result<()> {
    let mut packet = tcp(CLIENT, Ipv4Addr::new(10, 30, 8, 1), 4000, 1348);
    for turn in 0..count {
        let target = Ipv4Addr::new(10, 30, 2, (turn & 1) as u8);
        let mut packet = Packet::parse(black_box(&mut packet))?;
        packet.set_dst(IpAddr::V4(target), vnet);
    }
    Ok(())
}

/// Packets of one flow, from a service IP to an instance on another node.
fn flow_hit(count: u32) -> Result<()> {
    let mut world = World::new()?;
    for turn in 0..=count {
        let mut packet = tcp(CLIENT, service_ip(7), 4000, 100);
        set_flags(&mut packet, if turn == 0 { SYN } else { ACK });
        world.forward(&mut packet)?;
    }
    Ok(())
}

/// First packets of as many flows: looked up, balanced, entered.
fn flow_miss(count: u32) -> Result<()> {
    let mut world = World::new()?;
    for turn in 0..count {
        let port = 1024 + (turn % 60_000) as u16;
        let service = (turn / 60_000) as u16;
        let mut packet = tcp(CLIENT, service_ip(service), port, 0);
        set_flags(&mut packet, SYN);
        world.forward(&mut packet)?;
    }
    Ok(())
}

fn dns_answer(count: u32) -> Result<()> {
    let world = World::new()?;
    let mut query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
    for label in ["shop", "prod", "s7", "prod", "rr", "local"] {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(b"\x00\x00\x01\x00\x01");
    let caller = Caller {
        ip: IpAddr::V4(CLIENT),
    };
    let (mut out, status) = (Vec::new(), TableStatus::Authoritative);
    for _ in 0..count {
        let query = black_box(&query);
        let action = dns::answer(
            query,
            Transport::Udp,
            caller,
            &world.table,
            status,
            &mut out,
        );
        ensure!(matches!(action, DnsAction::Answer(_)), "{action:?}");
        ensure!(out.ends_with(&service_ip(7).octets()), "{out:?}");
    }
    Ok(())
}

fn chunk_large(count: u32) -> Result<()> {
    chunk(count, 65_483, &partial(SEGMENT))
}

fn chunk_small(count: u32) -> Result<()> {
    chunk(count, 48, &partial(0))
}

/// Cuts a packet into chunks and puts them together.
fn chunk(count: u32, payload: u16, vnet: &VnetHeader) -> Result<()> {
    let packet = tcp(CLIENT, Ipv4Addr::new(10, 30, 2, 1), 4000, payload);
    let now = Instant::now();
    let mut chunker = Chunker::new();
    let mut reassembler = Reassembler::new(ReassemblyLimits::default());
    let mut datagram = Vec::new();
    let mut whole = 0;
    for _ in 0..count {
        let outcome = chunker.split(vnet, black_box(&packet), MAX_DATAGRAM, &mut |parts| {
            datagram.clear();
            for part in parts {
                datagram.extend_from_slice(part);
            }
            let handled = reassembler.handle(&datagram, now, &mut |_, packet| {
                whole += 1;
                black_box(packet);
            });
            black_box(handled.is_ok());
        });
        ensure!(outcome.is_ok(), "not cut");
    }
    ensure!(whole == count, "{whole} of {count} came out whole");
    Ok(())
}

/// A node with a client, and a peer with an instance of every service.
struct World {
    core: DataPlane,
    table: Arc<Snapshot>,
    peer: PeerId,
    now: Instant,
}

impl World {
    fn new() -> Result<Self> {
        let now = Instant::now();
        let mut nodes = Nodes::new();
        let table = Arc::new(Snapshot::build(&table()?, &node("a")?, &mut nodes, 1));
        let peer = nodes.find(&node("b")?).context("no peer")?;
        let limits = FlowLimits {
            flows: 1 << 20,
            fragmented_packets: 16,
            answers: 16,
        };
        let mut core = DataPlane::new(limits, 1);
        core.set_table(Arc::clone(&table), now);
        let state = PeerState {
            reachable: Reachability::Up,
            min_rtt: Some(Duration::from_millis(1)),
            ..PeerState::default()
        };
        core.set_peer(peer, state, now);
        Ok(Self {
            core,
            table,
            peer,
            now,
        })
    }

    fn forward(&mut self, packet: &mut [u8]) -> Result<()> {
        let verdict = self
            .core
            .handle_tun(&partial(0), black_box(packet), self.now);
        ensure!(verdict == Verdict::Forward(self.peer), "{verdict:?}");
        Ok(())
    }
}

fn table() -> Result<Table> {
    let organisation = Organisation(label("shop")?);
    let mut table = Table {
        pools: Pools::default(),
        zones: Zone::defaults(),
        ..Table::default()
    };
    for (number, name) in [(1, "a"), (2, "b")] {
        table.nodes.push(NodeRow {
            id: node(name)?,
            organisation: organisation.clone(),
            addresses: Vec::new(),
            node_ip: dual(Ipv4Addr::new(10, 30, 255, number), 0xff00),
        });
    }
    for number in 0..=SERVICES {
        let [high, low] = number.to_be_bytes();
        // The last one is the client's own.
        let client = number == SERVICES;
        let name: ServiceName = format!("shop.prod.s{number}.prod").parse()?;
        let ip = if client {
            CLIENT
        } else {
            Ipv4Addr::new(10, 30, 32 + high, low)
        };
        table.instances.push(InstanceRow {
            id: InstanceId {
                service: name.clone(),
                number: 0,
            },
            node: node(if client { "a" } else { "b" })?,
            instance_ip: dual(ip, 0x1),
            ports: Vec::new(),
        });
        table.services.push(ServiceRow {
            name,
            organisation: organisation.clone(),
            round_robin: dual(service_ip(number), 0x2000),
            closest: dual(Ipv4Addr::new(10, 30, 96 + high, low), 0x1000),
            lane: LanePolicy::Auto,
            accept: AcceptPolicy::Late,
        });
    }
    Ok(table)
}

fn service_ip(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 30, 64 + high, low)
}

/// An address, and one of IPv6 that is as unique.
fn dual(v4: Ipv4Addr, kind: u16) -> Dual {
    let [_, _, high, low] = v4.octets();
    let last = u16::from_be_bytes([high, low]);
    Dual {
        v4: Some(v4),
        v6: Some([0xfdff, kind, 0, 0, 0, 0, 0, last].into()),
    }
}

fn node(name: &str) -> Result<NodeId> {
    Ok(NodeId::new(label("munich")?, label(name)?))
}

fn label(text: &str) -> Result<Label> {
    Label::new(text).with_context(|| format!("no label: {text}"))
}

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Sets the flags of a packet of [`tcp`].
fn set_flags(packet: &mut [u8], flags: u8) {
    packet[33] = flags;
}

fn partial(gso_size: u16) -> VnetHeader {
    VnetHeader {
        flags: FLAG_NEEDS_CSUM,
        gso_type: if gso_size > 0 { GSO_TCPV4 } else { 0 },
        hdr_len: 52,
        gso_size,
        csum_start: 20,
        csum_offset: 16,
    }
}

/// TCP over IPv4 with room for timestamps, ACK set, the header checksum left at 0.
fn tcp(from: Ipv4Addr, to: Ipv4Addr, port: u16, payload: u16) -> Vec<u8> {
    let mut packet = vec![0; 52];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(52 + payload).to_be_bytes());
    packet[6] = 0x40;
    packet[8..10].copy_from_slice(&[64, 6]);
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    packet[20..22].copy_from_slice(&port.to_be_bytes());
    packet[22..24].copy_from_slice(&80_u16.to_be_bytes());
    packet[32..34].copy_from_slice(&[0x80, ACK]);
    packet[40..52].fill(1);
    packet.resize(52 + usize::from(payload), 0x5a);
    packet
}
