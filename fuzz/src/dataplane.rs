//! Target on the packet path: packets from instances and from peers, and what must never happen.

use std::sync::Arc;
use std::time::{Duration, Instant};

use netmanager_core::dataplane::{DataPlane, FlowLimits, PeerState, Reachability};
use netmanager_core::packet::PacketInfo;
use netmanager_core::table::{Host, Nodes, PeerId, Snapshot};
use netmanager_core::verdict::Verdict;
use netmanager_core::vnet::{VNET_HEADER_LEN, VnetHeader};
use weald_proto::addr::{Dual, Pools};
use weald_proto::id::{Label, NodeId, Organisation};
use weald_proto::name::{ApplicationName, InstanceId, ServiceName, Zone};
use weald_proto::table::{AcceptPolicy, InstanceRow, LanePolicy, NodeRow, ServiceRow, Table};

/// Most flows that the target's data plane may hold.
const MAX_FLOWS: usize = 8;

/// Events, each one byte, for packets followed by a length in two bytes, a virtio-net header and
/// the packet. The last two bits of the event: 0 a packet from the TUN, 1 from a peer, 2 time
/// passes, 3 a peer is lost or comes back; the next bit says which peer.
///
/// # Panics
/// If a packet passes whose source is not its sender's or whose destination is not where it goes,
/// if a dropped one is changed or not counted once, or if a limit is exceeded.
pub fn dataplane(data: &[u8]) {
    let Some(mut plane) = Plane::new() else {
        return;
    };
    let mut rest = data;
    while let Some((event, after)) = rest.split_first() {
        rest = after;
        let peer = plane.peers[usize::from(event >> 2 & 1)];
        match event & 3 {
            2 => {
                plane.now += Duration::from_secs(u64::from(event >> 2));
                plane.core.handle_timeout(plane.now);
            }
            3 => {
                let reachable = if event >> 3 & 1 == 0 {
                    Reachability::Down
                } else {
                    Reachability::Up
                };
                let state = PeerState {
                    reachable,
                    ..PeerState::default()
                };
                plane.core.set_peer(peer, state, plane.now);
            }
            side => {
                let Some((len, after)) = rest.split_first_chunk::<2>() else {
                    return;
                };
                let len = usize::from(u16::from_be_bytes(*len));
                let (bytes, after) = after.split_at_checked(len).unwrap_or((after, &[]));
                rest = after;
                let from = if side == 0 {
                    Host::Local
                } else {
                    Host::Peer(peer)
                };
                plane.packet(from, bytes);
            }
        }
        let mut again = 0;
        while let Some(mut packet) = plane.core.poll_again() {
            plane.core.handle_again(&mut packet, plane.now);
            again += 1;
            assert!(again <= MAX_FLOWS, "begins again without end");
        }
        while plane.core.poll_packet().is_some() {}
        assert!(plane.core.flows(plane.now).count() <= MAX_FLOWS);
    }
}

struct Plane {
    core: DataPlane,
    table: Arc<Snapshot>,
    peers: [PeerId; 2],
    now: Instant,
}

impl Plane {
    fn new() -> Option<Self> {
        let now = Instant::now();
        let mut nodes = Nodes::new();
        let table = shop()?;
        let snapshot = Arc::new(Snapshot::build(&table, &node_id("a")?, &mut nodes, 1));
        let peers = [nodes.find(&node_id("b")?)?, nodes.find(&node_id("c")?)?];
        let limits = FlowLimits {
            flows: MAX_FLOWS,
            fragmented_packets: 2,
            answers: 2,
        };
        let mut core = DataPlane::new(limits, 1);
        core.set_table(Arc::clone(&snapshot), now);
        Some(Self {
            core,
            table: snapshot,
            peers,
            now,
        })
    }

    fn packet(&mut self, from: Host, bytes: &[u8]) {
        let Some((head, packet)) = bytes.split_first_chunk::<VNET_HEADER_LEN>() else {
            return;
        };
        let vnet = VnetHeader::parse(head);
        let mut rewritten = packet.to_vec();
        let before = self.dropped();
        let verdict = match from {
            Host::Local => self.core.handle_tun(&vnet, &mut rewritten, self.now),
            Host::Peer(peer) => self.core.handle_peer(peer, &vnet, &mut rewritten, self.now),
        };
        let to = match verdict {
            Verdict::Deliver => Host::Local,
            Verdict::Forward(peer) => Host::Peer(peer),
            Verdict::Stream(_) | Verdict::Await(_) => {
                assert_eq!((self.dropped(), &rewritten[..]), (before, packet));
                return;
            }
            Verdict::Drop(_) | Verdict::Reject(_) => {
                assert_eq!(self.dropped(), before + 1);
                assert_eq!(rewritten, packet);
                return;
            }
        };
        assert_eq!(self.dropped(), before);
        let (Ok(sent), Ok(passed)) = (PacketInfo::parse(packet), PacketInfo::parse(&rewritten))
        else {
            panic!("what passes is no packet");
        };
        let host = |ip| self.table.owner(ip).map(|owner| owner.host);
        assert_eq!(host(sent.src), Some(from), "{sent:?}");
        assert_eq!(host(passed.dst), Some(to), "{passed:?}");
        assert!(from == Host::Local || host(sent.dst) == Some(Host::Local));
        assert!(from == Host::Local || to == Host::Local, "transit");
    }

    fn dropped(&self) -> u64 {
        self.core.counters().iter().map(|(_, count)| count).sum()
    }
}

/// Nodes a, b and c at 10.30.255.1 to 3; a hosts the client at 10.30.0.9, each an instance of web
/// at 10.30.0.1 to 3; web is at 10.30.8.1 by turns and at 10.30.8.2 by distance. IPv6 likewise.
fn shop() -> Option<Table> {
    let organisation = Organisation(label("shop")?);
    let names = ["a", "b", "c"];
    let mut table = Table {
        pools: Pools::default(),
        zones: Zone::defaults(),
        ..Table::default()
    };
    for (number, name) in (1..).zip(names) {
        table.nodes.push(NodeRow {
            id: node_id(name)?,
            organisation: organisation.clone(),
            addresses: Vec::new(),
            node_ip: dual([10, 30, 255, number], 0xff00 + u16::from(number)),
        });
        table.instances.push(instance("web", number, name)?);
    }
    table.instances.push(instance("client", 9, "a")?);
    for (name, number) in [("web", 1), ("client", 3)] {
        table.services.push(ServiceRow {
            name: service_name(name)?,
            organisation: organisation.clone(),
            round_robin: dual([10, 30, 8, number], 0x2000 + u16::from(number)),
            closest: dual([10, 30, 8, number + 1], 0x1000 + u16::from(number)),
            lane: LanePolicy::Auto,
            accept: AcceptPolicy::Late,
        });
    }
    Some(table)
}

fn instance(service: &str, number: u8, node: &str) -> Option<InstanceRow> {
    Some(InstanceRow {
        id: InstanceId {
            service: service_name(service)?,
            number: u32::from(number),
        },
        node: node_id(node)?,
        instance_ip: dual([10, 30, 0, number], u16::from(number)),
        ports: Vec::new(),
    })
}

fn service_name(name: &str) -> Option<ServiceName> {
    Some(ServiceName {
        application: ApplicationName {
            name: label("shop")?,
            namespace: label("prod")?,
        },
        name: label(name)?,
        namespace: label("prod")?,
    })
}

fn node_id(name: &str) -> Option<NodeId> {
    Some(NodeId::new(label("munich")?, label(name)?))
}

fn label(text: &str) -> Option<Label> {
    Label::new(text).ok()
}

fn dual(v4: [u8; 4], v6: u16) -> Dual {
    Dual {
        v4: Some(v4.into()),
        v6: Some([0xfdff, 0, 0, 0, 0, 0, 0, v6].into()),
    }
}
