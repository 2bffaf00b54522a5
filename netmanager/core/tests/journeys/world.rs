//! Three nodes with a table, and a wire between them.
//!
//! `alpha` hosts the client and web 1, `beta` web 2 and an instance of another organisation,
//! `gamma` web 3. Each instance's address ends in what it is: client 9, web 1 to 3, rival 8.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netmanager_core::dataplane::{DataPlane, FlowLimits, PeerState, Reachability, Target};
use netmanager_core::flow::{CHOICES_LEN, FlowId, PLACE_LEN};
use netmanager_core::table::{Nodes, PeerId, Snapshot};
use netmanager_core::verdict::{Counters, DropReason, Verdict};
use netmanager_core::vnet::VnetHeader;
use weald_proto::addr::{Dual, Pools};
use weald_proto::id::{Label, NodeId, Organisation};
use weald_proto::name::{ApplicationName, InstanceId, ServiceName, Zone};
use weald_proto::table::{AcceptPolicy, InstanceRow, LanePolicy, NodeRow, ServiceRow, Table};

use crate::packets::{Seen, see};

pub(crate) const CLIENT: &str = "10.30.0.9";
pub(crate) const CLIENT6: &str = "fdff::9";
pub(crate) const WEB: [&str; 3] = ["10.30.0.1", "10.30.0.2", "10.30.0.3"];
pub(crate) const WEB6: [&str; 3] = ["fdff::1", "fdff::2", "fdff::3"];
pub(crate) const RIVAL: &str = "10.30.0.8";
pub(crate) const RIVAL6: &str = "fdff::8";
pub(crate) const WEB_RR: &str = "10.30.8.1";
pub(crate) const WEB_RR6: &str = "fdff:2000::1";
pub(crate) const WEB_CLOSEST: &str = "10.30.8.2";
pub(crate) const WEB_CLOSEST6: &str = "fdff:1000::1";
pub(crate) const EMPTY_RR: &str = "10.30.8.3";
pub(crate) const EMPTY_RR6: &str = "fdff:2000::3";
pub(crate) const RIVAL_RR: &str = "10.30.8.5";
pub(crate) const RIVAL_RR6: &str = "fdff:2000::5";
pub(crate) const ALPHA_NODE: &str = "10.30.255.1";
pub(crate) const BETA_NODE: &str = "10.30.255.2";
pub(crate) const BETA_NODE6: &str = "fdff::ff:2";

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) table: Table,
    nodes: BTreeMap<&'static str, Node>,
    epoch: u64,
}

struct Node {
    plane: DataPlane,
    peers: Nodes,
    /// What its processes have kept for the next one.
    choices: Vec<u8>,
}

/// Where a packet ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// It was written to the TUN of that node.
    Arrived(&'static str, Vec<u8>),
    /// That node dropped it.
    Dropped(&'static str, DropReason),
    /// That node dropped it and answered.
    Rejected(&'static str, DropReason),
    /// It waits there, for that flow to have a stream.
    Waits(FlowId),
    /// It waits there, for that peer to be measured.
    Awaits(PeerId),
}

impl End {
    #[track_caller]
    pub(crate) fn arrived_at(self, node: &str) -> Vec<u8> {
        let (at, packet) = self.arrived();
        assert_eq!(at, node);
        packet
    }

    #[track_caller]
    pub(crate) fn arrived(self) -> (&'static str, Vec<u8>) {
        let Self::Arrived(at, packet) = self else {
            panic!("did not arrive: {self:?}");
        };
        (at, packet)
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(shop(), FlowLimits::default())
    }

    pub(crate) fn with(table: Table, limits: FlowLimits) -> Self {
        table.check().unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test's clock starts somewhere")]
        let now = Instant::now();
        let nodes = ["alpha", "beta", "gamma"].map(|name| {
            let node = Node {
                plane: DataPlane::new(limits, 42),
                peers: Nodes::new(),
                choices: vec![0; CHOICES_LEN],
            };
            (name, node)
        });
        let mut world = Self {
            now,
            table: Table::default(),
            nodes: nodes.into(),
            epoch: 0,
        };
        world.set_table(table);
        world
    }

    pub(crate) fn set_table(&mut self, table: Table) {
        self.epoch += 1;
        for (name, node) in &mut self.nodes {
            let snapshot = Snapshot::build(&table, &node_id(name), &mut node.peers, self.epoch);
            node.plane.set_table(Arc::new(snapshot), self.now);
        }
        self.table = table;
    }

    /// Has one node know that an instance is about to go; the others have not heard yet.
    pub(crate) fn drain(&mut self, name: &'static str, instance: &InstanceId) {
        self.epoch += 1;
        let node = self.nodes.get_mut(name).unwrap();
        let snapshot = Snapshot::build(&self.table, &node_id(name), &mut node.peers, self.epoch);
        let snapshot = snapshot.with_draining(std::slice::from_ref(instance));
        node.plane.set_table(Arc::new(snapshot), self.now);
    }

    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Table)) {
        let mut table = self.table.clone();
        change(&mut table);
        table.check().unwrap();
        self.set_table(table);
    }

    /// Forgets everything but the table and the choices, as a restart does.
    pub(crate) fn restart(&mut self, node: &'static str) {
        let Node { plane, choices, .. } = self.nodes.get_mut(node).unwrap();
        while let Some((at, place)) = plane.poll_choice() {
            choices[at..at + place.len()].copy_from_slice(&place);
        }
        let choices = choices.clone();
        self.restart_with(node, choices);
    }

    /// Forgets everything but the table, as a restart after a restart of the host does.
    pub(crate) fn restart_empty(&mut self, node: &'static str) {
        self.restart_with(node, vec![0; CHOICES_LEN]);
    }

    fn restart_with(&mut self, node: &'static str, choices: Vec<u8>) {
        let mut plane = DataPlane::new(FlowLimits::default(), 43);
        for (number, place) in choices.chunks(PLACE_LEN).enumerate() {
            plane.restore_choice(number * PLACE_LEN, place);
        }
        let peers = Nodes::new();
        let restarted = Node {
            plane,
            peers,
            choices,
        };
        self.nodes.insert(node, restarted);
        self.set_table(self.table.clone());
    }

    /// What `node` calls `other`.
    pub(crate) fn peer(&self, node: &str, other: &str) -> PeerId {
        self.nodes[node].peers.find(&node_id(other)).unwrap()
    }

    pub(crate) fn plane(&mut self, node: &str) -> &mut DataPlane {
        &mut self.nodes.get_mut(node).unwrap().plane
    }

    pub(crate) fn set_peer(&mut self, node: &str, other: &str, state: PeerState) {
        let (peer, now) = (self.peer(node, other), self.now);
        self.plane(node).set_peer(peer, state, now);
    }

    pub(crate) fn measure(&mut self, node: &str, other: &str, millis: u64) {
        self.set_peer(node, other, up(millis));
    }

    pub(crate) fn lose(&mut self, node: &str, other: &str) {
        let reachable = Reachability::Down;
        self.set_peer(
            node,
            other,
            PeerState {
                reachable,
                ..PeerState::default()
            },
        );
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
        for node in self.nodes.values_mut() {
            while let Some((at, _)) = node.plane.poll_timeout() {
                if at > self.now {
                    break;
                }
                node.plane.handle_timeout(self.now);
            }
        }
    }

    /// Lets `node` read a packet from its TUN, and carries it to where it ends.
    pub(crate) fn send(&mut self, node: &'static str, packet: &[u8]) -> End {
        self.send_with(node, &VnetHeader::default(), packet)
    }

    pub(crate) fn send_with(
        &mut self,
        node: &'static str,
        vnet: &VnetHeader,
        packet: &[u8],
    ) -> End {
        let mut bytes = packet.to_vec();
        let now = self.now;
        let verdict = self.plane(node).handle_tun(vnet, &mut bytes, now);
        let Verdict::Forward(to) = verdict else {
            return end(node, verdict, packet, bytes);
        };
        let to = self.name_of(node, to);
        self.carry(node, to, vnet, &bytes)
    }

    /// Lets `node` handle the next connection that begins again, and carries its first packet to
    /// where it ends.
    pub(crate) fn again(&mut self, node: &'static str) -> Option<End> {
        let now = self.now;
        let mut again = self.plane(node).poll_again()?;
        let original = again.packet.clone();
        let verdict = self.plane(node).handle_again(&mut again, now);
        let Verdict::Forward(to) = verdict else {
            return Some(end(node, verdict, &original, again.packet));
        };
        let to = self.name_of(node, to);
        Some(self.carry(node, to, &again.vnet, &again.packet))
    }

    /// Lets a packet arrive at `to` in the session with `from`, whoever made it.
    pub(crate) fn carry(
        &mut self,
        from: &'static str,
        to: &'static str,
        vnet: &VnetHeader,
        packet: &[u8],
    ) -> End {
        let (peer, now) = (self.peer(to, from), self.now);
        let mut bytes = packet.to_vec();
        let verdict = self.plane(to).handle_peer(peer, vnet, &mut bytes, now);
        assert!(
            !matches!(verdict, Verdict::Forward(_)),
            "no transit: {verdict:?}"
        );
        end(to, verdict, packet, bytes)
    }

    pub(crate) fn inject(&mut self, from: &'static str, to: &'static str, packet: &[u8]) -> End {
        self.carry(from, to, &VnetHeader::default(), packet)
    }

    /// The answers that a node has made for its own programs.
    pub(crate) fn answers(&mut self, node: &'static str) -> Vec<Seen> {
        let mut seen = Vec::new();
        while let Some((target, packet)) = self.plane(node).poll_packet() {
            assert_eq!(target, Target::Tun);
            seen.push(see(&packet));
        }
        seen
    }

    #[track_caller]
    pub(crate) fn only_answer(&mut self, node: &'static str) -> Seen {
        let answers = self.answers(node);
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers.into_iter().next().unwrap()
    }

    /// Does something and says which counters of `node` it has changed, and how many flows are
    /// there more than before.
    pub(crate) fn changed(
        &mut self,
        node: &str,
        act: impl FnOnce(&mut Self),
    ) -> (Vec<(DropReason, u64)>, i64) {
        let counters = |world: &mut Self| world.plane(node).counters().clone();
        let flows = |world: &mut Self| {
            let now = world.now;
            i64::try_from(world.plane(node).flows(now).count()).unwrap()
        };
        let (before, flows_before) = (counters(self), flows(self));
        act(self);
        let (after, flows_after): (Counters, i64) = (counters(self), flows(self));
        let changed = after
            .iter()
            .filter(|(reason, count)| *count != before.of(*reason))
            .map(|(reason, count)| (reason, count - before.of(reason)))
            .collect();
        (changed, flows_after - flows_before)
    }

    fn name_of(&self, node: &str, peer: PeerId) -> &'static str {
        let id = self.nodes[node].peers.id(peer);
        let found = self.nodes.keys().find(|name| node_id(name) == *id);
        found.copied().unwrap()
    }
}

fn end(node: &'static str, verdict: Verdict, before: &[u8], after: Vec<u8>) -> End {
    match verdict {
        Verdict::Deliver => End::Arrived(node, after),
        Verdict::Drop(reason) => {
            assert_eq!(after, before, "a dropped packet is unchanged");
            End::Dropped(node, reason)
        }
        Verdict::Reject(reason) => {
            assert_eq!(after, before, "a rejected packet is unchanged");
            End::Rejected(node, reason)
        }
        Verdict::Forward(peer) => panic!("forwarded to {peer}"),
        Verdict::Stream(flow) => {
            assert_eq!(after, before, "a packet that waits is unchanged");
            End::Waits(flow)
        }
        Verdict::Await(peer) => {
            assert_eq!(after, before, "a packet that waits is unchanged");
            End::Awaits(peer)
        }
    }
}

pub(crate) fn up(millis: u64) -> PeerState {
    PeerState {
        reachable: Reachability::Up,
        min_rtt: Some(Duration::from_millis(millis)),
        ..PeerState::default()
    }
}

pub(crate) fn shop() -> Table {
    Table {
        pools: Pools::default(),
        zones: Zone::defaults(),
        nodes: vec![node("alpha", 1), node("beta", 2), node("gamma", 3)],
        relays: Vec::new(),
        services: vec![
            service("web", "shop", 1),
            service("empty", "shop", 3),
            service("client", "shop", 7),
            service("rival", "rivals", 5),
        ],
        instances: vec![
            instance("client", 1, "alpha", 9),
            instance("web", 1, "alpha", 1),
            instance("web", 2, "beta", 2),
            instance("web", 3, "gamma", 3),
            instance("rival", 1, "beta", 8),
        ],
    }
}

fn node(name: &str, number: u8) -> NodeRow {
    NodeRow {
        id: node_id(name),
        organisation: Organisation(label("shop")),
        addresses: Vec::new(),
        node_ip: dual(
            [10, 30, 255, number],
            [0xfdff, 0, 0, 0, 0, 0, 0xff, u16::from(number)],
        ),
    }
}

fn service(name: &str, organisation: &str, number: u8) -> ServiceRow {
    let closest = number + 1;
    ServiceRow {
        name: service_name(name),
        organisation: Organisation(label(organisation)),
        round_robin: dual(
            [10, 30, 8, number],
            [0xfdff, 0x2000, 0, 0, 0, 0, 0, u16::from(number)],
        ),
        closest: dual(
            [10, 30, 8, closest],
            [0xfdff, 0x1000, 0, 0, 0, 0, 0, u16::from(number)],
        ),
        lane: LanePolicy::Auto,
        accept: AcceptPolicy::Late,
    }
}

pub(crate) fn instance(service: &str, number: u32, host: &str, last: u8) -> InstanceRow {
    InstanceRow {
        id: InstanceId {
            service: service_name(service),
            number,
        },
        node: node_id(host),
        instance_ip: dual(
            [10, 30, 0, last],
            [0xfdff, 0, 0, 0, 0, 0, 0, u16::from(last)],
        ),
        ports: Vec::new(),
    }
}

pub(crate) fn service_name(name: &str) -> ServiceName {
    ServiceName {
        application: ApplicationName {
            name: label("shop"),
            namespace: label("prod"),
        },
        name: label(name),
        namespace: label("prod"),
    }
}

pub(crate) fn node_id(name: &str) -> NodeId {
    NodeId::new(label("munich"), label(name))
}

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

fn dual(v4: [u8; 4], v6: [u16; 8]) -> Dual {
    Dual {
        v4: Some(v4.into()),
        v6: Some(v6.into()),
    }
}
