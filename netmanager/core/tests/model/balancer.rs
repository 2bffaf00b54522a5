//! The balancer: turns are fair, and `closest` is close.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use netmanager_core::balance::{Balancer, Family, PickError};
use netmanager_core::dataplane::{PeerState, Reachability};
use netmanager_core::table::{Host, Nodes, PeerId, ServiceIndex, Snapshot};
use proptest::prelude::*;
use weald_proto::name::Policy;

use crate::world::{instance, node_id, service_name, shop};

/// Web with that many instances, each on a node of its own, the first on this one.
fn web(instances: u8) -> (Snapshot, Vec<PeerId>, ServiceIndex) {
    let mut table = shop();
    table.instances.clear();
    let template = table.nodes[0].clone();
    for i in 1..=instances {
        let name = format!("node{i}");
        let mut node = template.clone();
        node.id = node_id(&name);
        node.node_ip.v4 = Some([10, 30, 200, i].into());
        node.node_ip.v6 = None;
        table.nodes.push(node);
        let mut row = instance("web", u32::from(i), &name, i);
        if i % 4 == 0 {
            row.instance_ip.v4 = None;
        }
        table.instances.push(row);
    }
    table.check().unwrap();
    let mut nodes = Nodes::new();
    let snapshot = Snapshot::build(&table, &node_id("node1"), &mut nodes, 1);
    let peers = (2..=instances)
        .map(|i| nodes.find(&node_id(&format!("node{i}"))).unwrap())
        .collect();
    let service = snapshot.service_by_name(&service_name("web")).unwrap();
    (snapshot, peers, service)
}

fn state(down: bool, millis: Option<u64>) -> PeerState {
    PeerState {
        reachable: if down {
            Reachability::Down
        } else {
            Reachability::Up
        },
        min_rtt: millis.map(Duration::from_millis),
        ..PeerState::default()
    }
}

proptest! {
    /// However many instances there are and whichever of them are down: as many picks in a row as
    /// there are healthy ones hit each once, whatever the families.
    #[test]
    fn any_full_turn_hits_each_healthy_instance_once(
        count in 1..9u8,
        down in proptest::collection::vec(any::<bool>(), 9),
        skip in 0..20usize,
        seed in any::<u64>(),
    ) {
        let (table, peers, service) = web(count);
        let states: BTreeMap<_, _> = peers
            .iter()
            .zip(&down)
            .map(|(peer, down)| (*peer, state(*down, None)))
            .collect();
        let mut balancer = Balancer::new(seed);
        balancer.set_table(None, &table);
        let pick = |balancer: &mut Balancer| {
            let pick = balancer
                .pick(&table, &states, service, Policy::RoundRobin, Family::V6, 0)
                .unwrap();
            balancer.commit(&table, service, Policy::RoundRobin, &pick);
            pick.instance
        };
        for _ in 0..skip {
            pick(&mut balancer);
        }
        let healthy = 1 + down.iter().take(peers.len()).filter(|down| !**down).count();
        let turn: Vec<_> = (0..healthy).map(|_| pick(&mut balancer)).collect();
        let distinct: BTreeSet<_> = turn.iter().copied().collect();
        prop_assert_eq!(distinct.len(), healthy);
        balancer.set_table(Some(&table), &table);
        let next: Vec<_> = (0..healthy).map(|_| pick(&mut balancer)).collect();
        prop_assert_eq!(turn, next, "a change of the table does not disturb the turn");
    }

    /// The attempts of one pick are all the healthy instances with an address of the family, each
    /// once.
    #[test]
    fn attempts_go_through_all_that_could_be_picked(
        count in 1..9u8,
        down in proptest::collection::vec(any::<bool>(), 9),
        closest in any::<bool>(),
    ) {
        let (table, peers, service) = web(count);
        let states: BTreeMap<_, _> = peers
            .iter()
            .zip(&down)
            .map(|(peer, down)| (*peer, state(*down, Some(5))))
            .collect();
        let mut balancer = Balancer::new(1);
        balancer.set_table(None, &table);
        let policy = if closest { Policy::Closest } else { Policy::RoundRobin };
        let mut picked = BTreeSet::new();
        for attempt in 0.. {
            match balancer.pick(&table, &states, service, policy, Family::V4, attempt) {
                Ok(pick) => prop_assert!(picked.insert(pick.instance), "twice"),
                Err(error) => {
                    prop_assert_eq!(error, PickError::Exhausted);
                    break;
                }
            }
        }
        let expected: BTreeSet<_> = table
            .instances()
            .filter(|(_, instance)| instance.instance_ip.v4.is_some())
            .filter(|(_, instance)| match instance.host {
                Host::Local => true,
                Host::Peer(peer) => states[&peer].reachable != Reachability::Down,
            })
            .map(|(index, _)| index)
            .collect();
        prop_assert_eq!(picked, expected);
    }

    /// Whatever was picked and measured before: no other is clearly nearer than the pick, and with
    /// nothing measured it is the lowest number.
    #[test]
    fn closest_is_never_clearly_farther_than_another(
        rounds in proptest::collection::vec(
            proptest::collection::vec((any::<bool>(), proptest::option::of(1..100u64)), 7),
            1..8,
        ),
    ) {
        let (table, peers, service) = far_web();
        let mut balancer = Balancer::new(1);
        balancer.set_table(None, &table);
        for round in rounds {
            let states: BTreeMap<_, _> = peers
                .iter()
                .zip(&round)
                .map(|(peer, (down, millis))| (*peer, state(*down, *millis)))
                .collect();
            let healthy: Vec<_> = peers
                .iter()
                .filter(|peer| states[peer].reachable != Reachability::Down)
                .collect();
            let pick = balancer.pick(&table, &states, service, Policy::Closest, Family::V6, 0);
            if healthy.is_empty() {
                prop_assert_eq!(pick, Err(PickError::AllDown));
                continue;
            }
            let pick = pick.unwrap();
            balancer.commit(&table, service, Policy::Closest, &pick);
            let Host::Peer(picked) = pick.host else { panic!("none is local") };
            prop_assert!(healthy.contains(&&picked));
            let nearest = healthy.iter().filter_map(|peer| states[peer].min_rtt).min();
            match (nearest, states[&picked].min_rtt) {
                (Some(nearest), Some(rtt)) => prop_assert!(nearest >= rtt * 80 / 100),
                (Some(_), None) => prop_assert!(false, "a measured one comes first"),
                (None, _) => prop_assert_eq!(Some(&&picked), healthy.first()),
            }
        }
    }
}

/// Web with seven instances, all on other nodes.
fn far_web() -> (Snapshot, Vec<PeerId>, ServiceIndex) {
    let mut table = shop();
    table.instances.clear();
    let template = table.nodes[0].clone();
    for i in 1..=7u8 {
        let name = format!("node{i}");
        let mut node = template.clone();
        node.id = node_id(&name);
        node.node_ip.v4 = Some([10, 30, 200, i].into());
        node.node_ip.v6 = None;
        table.nodes.push(node);
        table
            .instances
            .push(instance("web", u32::from(i), &name, i));
    }
    let mut nodes = Nodes::new();
    let snapshot = Snapshot::build(&table, &node_id("alpha"), &mut nodes, 1);
    let peers = (1..=7)
        .map(|i| nodes.find(&node_id(&format!("node{i}"))).unwrap())
        .collect();
    let service = snapshot.service_by_name(&service_name("web")).unwrap();
    (snapshot, peers, service)
}
