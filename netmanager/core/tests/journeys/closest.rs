//! `closest`: by measured distance, and what is asked to be measured.

use std::collections::BTreeSet;

use netmanager_core::balance::Reason;
use netmanager_core::dataplane::{Family, Reachability};
use netmanager_core::verdict::DropReason;
use weald_proto::name::Policy;
use weald_proto::table::{LanePolicy, Table};

use crate::packets::{SYN, tcp};
use crate::world::{CLIENT, End, WEB_CLOSEST, World, instance, node_id, service_name, shop};

#[test]
fn the_nearest_is_picked_and_a_small_difference_changes_nothing() {
    let mut world = remote_only();
    assert_eq!(pick(&mut world), "beta", "nothing measured: lowest number");
    world.measure("alpha", "gamma", 50);
    assert_eq!(pick(&mut world), "gamma", "the only one measured");
    world.measure("alpha", "beta", 41);
    assert_eq!(pick(&mut world), "gamma", "not more than 20 % nearer");
    world.measure("alpha", "beta", 39);
    assert_eq!(pick(&mut world), "beta");
    world.measure("alpha", "gamma", 32);
    assert_eq!(pick(&mut world), "beta");
    world.lose("alpha", "beta");
    assert_eq!(pick(&mut world), "gamma", "the only one left");
    world.lose("alpha", "gamma");
    let packet = tcp((CLIENT, 9), (WEB_CLOSEST, 80), SYN);
    assert_eq!(
        world.send("alpha", &packet),
        End::Rejected("alpha", DropReason::PeerUnreachable)
    );
}

#[test]
fn what_is_on_this_node_comes_first() {
    let mut world = World::new();
    world.measure("alpha", "beta", 1);
    assert_eq!(pick(&mut world), "alpha");
}

#[test]
fn a_moved_instance_is_as_near_as_its_new_node() {
    let mut world = remote_only();
    world.measure("alpha", "beta", 10);
    world.measure("alpha", "gamma", 50);
    assert_eq!(pick(&mut world), "beta");
    world.change(|table| {
        for row in &mut table.instances {
            if row.instance_ip.v4 == Some([10, 30, 0, 3].into()) {
                row.node = node_id("alpha");
            }
        }
    });
    assert_eq!(pick(&mut world), "alpha");
}

#[test]
fn unmeasured_nodes_are_asked_for_at_most_eight_of_them() {
    let mut world = remote_only();
    pick(&mut world);
    let expected = BTreeSet::from([world.peer("alpha", "beta"), world.peer("alpha", "gamma")]);
    let asked: BTreeSet<_> = world.plane("alpha").interests().collect();
    assert_eq!(asked, expected);
    assert_eq!(world.plane("alpha").interests().count(), 0, "drained");
    world.measure("alpha", "beta", 10);
    pick(&mut world);
    let asked: Vec<_> = world.plane("alpha").interests().collect();
    assert_eq!(asked, [world.peer("alpha", "gamma")]);

    let mut table = shop();
    let template = table.nodes[0].clone();
    for i in 0..12u8 {
        let mut node = template.clone();
        node.id = node_id(&format!("far{i}"));
        node.node_ip.v4 = Some([10, 30, 200, i].into());
        node.node_ip.v6 = None;
        table.nodes.push(node);
        let host = format!("far{i}");
        table
            .instances
            .push(instance("web", 10 + u32::from(i), &host, 100 + i));
    }
    let mut world = World::with(table, netmanager_core::dataplane::FlowLimits::default());
    world.plane("alpha").note_interest(&service_name("web"));
    assert_eq!(world.plane("alpha").interests().count(), 8);
    world.plane("alpha").note_interest(&service_name("nothing"));
    assert_eq!(world.plane("alpha").interests().count(), 0);
}

#[test]
fn explaining_says_what_would_be_picked_and_picks_nothing() {
    let mut world = as_packets(shop());
    world.measure("alpha", "beta", 10);
    world.lose("alpha", "gamma");
    let reasons = |world: &mut World, policy| -> Vec<(bool, Reason)> {
        world
            .plane("alpha")
            .explain(&service_name("web"), policy, Family::V4)
            .into_iter()
            .map(|candidate| (candidate.picked, candidate.reason))
            .collect()
    };
    assert_eq!(
        reasons(&mut world, Policy::Closest),
        [
            (true, Reason::OnThisNode),
            (false, Reason::Farther),
            (false, Reason::NodeDown)
        ]
    );
    assert_eq!(
        reasons(&mut world, Policy::Instance),
        [
            (true, Reason::Named),
            (true, Reason::Named),
            (false, Reason::NodeDown)
        ]
    );
    let first = reasons(&mut world, Policy::RoundRobin);
    assert_eq!(first, reasons(&mut world, Policy::RoundRobin));
    assert_eq!(first.iter().filter(|(picked, _)| *picked).count(), 1);
    let said = first.iter().position(|(picked, _)| *picked).unwrap();
    let packet = tcp((CLIENT, 1), (crate::world::WEB_RR, 80), SYN);
    let (node, _) = world.send("alpha", &packet).arrived();
    assert_eq!(node, ["alpha", "beta", "gamma"][said]);

    let candidates =
        world
            .plane("alpha")
            .explain(&service_name("web"), Policy::Closest, Family::V6);
    assert_eq!(candidates[1].node, node_id("beta"));
    assert_eq!(candidates[1].ip, Some("fdff::2".parse().unwrap()));
    assert_eq!(candidates[2].reachable, Reachability::Down);
    let unknown = service_name("nothing");
    assert!(
        world
            .plane("alpha")
            .explain(&unknown, Policy::Closest, Family::V4)
            .is_empty()
    );
}

fn remote_only() -> World {
    let mut table = shop();
    table
        .instances
        .retain(|row| row.instance_ip.v4 != Some([10, 30, 0, 1].into()));
    as_packets(table)
}

/// However far away, packets arrive: where a flow goes does not depend on its lane.
fn as_packets(mut table: Table) -> World {
    for service in &mut table.services {
        service.lane = LanePolicy::L3;
    }
    World::with(table, netmanager_core::dataplane::FlowLimits::default())
}

/// Opens a connection to `closest` and says where it went.
fn pick(world: &mut World) -> &'static str {
    let now = world.now;
    let port = 20_000 + u16::try_from(world.plane("alpha").flows(now).count()).unwrap();
    let syn = tcp((CLIENT, port), (WEB_CLOSEST, 80), SYN);
    world.send("alpha", &syn).arrived().0
}
