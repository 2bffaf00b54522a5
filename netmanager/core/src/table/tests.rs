//! Tests of the snapshot: who owns what, and what stays the same over table changes.

use std::net::IpAddr;

use weald_proto::addr::{Dual, Pools};
use weald_proto::id::{Label, NodeId, Organisation};
use weald_proto::name::{ApplicationName, InstanceId, Policy, ServiceName, Zone};
use weald_proto::table::{AcceptPolicy, InstanceRow, LanePolicy, NodeRow, ServiceRow, Table};

use super::{Host, Nodes, Snapshot};

#[test]
fn every_address_has_the_owner_that_the_table_says() {
    let mut nodes = Nodes::new();
    let table = shop();
    table.check().unwrap();
    let snapshot = Snapshot::build(&table, &node("a1"), &mut nodes, 7);
    let b1 = nodes.find(&node("b1")).unwrap();

    let local = snapshot.owner(ip("10.30.0.2")).unwrap();
    assert_eq!(local.host, Host::Local);
    let remote = snapshot.owner(ip("fdff::3")).unwrap();
    assert_eq!(remote.host, Host::Peer(b1));
    assert_eq!(local.organisation, remote.organisation);
    assert_eq!(
        snapshot.instance(remote.instance.unwrap()).id.number,
        1,
        "fdff::3 is instance 1"
    );
    let node_address = snapshot.owner(ip("10.30.255.2")).unwrap();
    assert_eq!(
        (node_address.host, node_address.instance),
        (Host::Peer(b1), None)
    );
    assert_eq!(
        snapshot.organisation(node_address.organisation).to_string(),
        "infra"
    );

    assert_eq!(
        snapshot.owner(ip("10.30.8.1")),
        None,
        "a service address has no owner"
    );
    assert_eq!(snapshot.owner(ip("10.30.0.99")), None);
    assert_eq!(
        snapshot.local_addresses(),
        [
            ip("10.30.255.1"),
            ip("fdff::ff01"),
            ip("10.30.0.2"),
            ip("fdff::2")
        ]
    );
    assert_eq!(snapshot.epoch(), 7);
    assert_eq!(snapshot.peers().count(), 1);
    assert_eq!(snapshot.peer(b1).unwrap().id, node("b1"));
}

#[test]
fn services_are_found_by_address_and_by_name() {
    let snapshot = Snapshot::build(&shop(), &node("a1"), &mut Nodes::new(), 1);
    let web = snapshot.service_by_name(&service_name("web")).unwrap();
    assert_eq!(
        snapshot.service_at(ip("10.30.8.1")),
        Some((web, Policy::RoundRobin))
    );
    assert_eq!(
        snapshot.service_at(ip("fdff:1000::1")),
        Some((web, Policy::Closest))
    );
    assert_eq!(snapshot.service_at(ip("10.30.0.2")), None);
    assert_eq!(snapshot.service_by_name(&service_name("nothing")), None);
    let numbers: Vec<_> = snapshot
        .service(web)
        .instances
        .iter()
        .map(|index| snapshot.instance(*index).id.number)
        .collect();
    assert_eq!(numbers, [1, 4], "ordered by number, not by row");
    assert!(snapshot.instance_by_id(&instance_id("web", 4)).is_some());
    assert_eq!(snapshot.instance_by_id(&instance_id("web", 2)), None);
    assert_eq!(
        snapshot.application_of(ip("fdff::2")).unwrap().to_string(),
        "shop.prod"
    );
    assert_eq!(snapshot.application_of(ip("10.30.255.1")), None);
}

#[test]
fn a_peer_keeps_its_number_when_the_table_changes() {
    let mut nodes = Nodes::new();
    let mut table = shop();
    let _ = Snapshot::build(&table, &node("a1"), &mut nodes, 1);
    let b1 = nodes.find(&node("b1")).unwrap();
    table.nodes.reverse();
    table.nodes.insert(0, node_row("aa", 9));
    table.instances.remove(0);
    let snapshot = Snapshot::build(&table, &node("a1"), &mut nodes, 2);
    assert_eq!(nodes.find(&node("b1")), Some(b1));
    assert_eq!(nodes.id(b1), &node("b1"));
    assert_eq!(
        snapshot.owner(ip("10.30.255.2")).unwrap().host,
        Host::Peer(b1)
    );
    assert_eq!(nodes.find(&node("a1")), None, "a node is not its own peer");
}

#[test]
fn rows_that_refer_to_nothing_are_left_out() {
    let mut table = shop();
    table.services.clear();
    let snapshot = Snapshot::build(&table, &node("a1"), &mut Nodes::new(), 1);
    assert_eq!(snapshot.instances().count(), 0);
    assert_eq!(snapshot.owner(ip("10.30.0.2")), None);
}

fn shop() -> Table {
    Table {
        pools: Pools::default(),
        zones: Zone::defaults(),
        nodes: vec![node_row("a1", 1), node_row("b1", 2)],
        relays: Vec::new(),
        services: vec![ServiceRow {
            name: service_name("web"),
            organisation: organisation("shop"),
            round_robin: dual("10.30.8.1", "fdff:2000::1"),
            closest: dual("10.30.8.2", "fdff:1000::1"),
            lane: LanePolicy::Auto,
            accept: AcceptPolicy::Late,
        }],
        instances: vec![
            instance_row(4, "a1", dual("10.30.0.2", "fdff::2")),
            instance_row(1, "b1", dual("10.30.0.3", "fdff::3")),
        ],
    }
}

fn node_row(name: &str, last: u8) -> NodeRow {
    NodeRow {
        id: node(name),
        organisation: organisation("infra"),
        addresses: Vec::new(),
        node_ip: dual(&format!("10.30.255.{last}"), &format!("fdff::ff{last:02x}")),
    }
}

fn instance_row(number: u32, host: &str, instance_ip: Dual) -> InstanceRow {
    InstanceRow {
        id: instance_id("web", number),
        node: node(host),
        instance_ip,
        ports: Vec::new(),
    }
}

fn instance_id(service: &str, number: u32) -> InstanceId {
    InstanceId {
        service: service_name(service),
        number,
    }
}

fn service_name(name: &str) -> ServiceName {
    ServiceName {
        application: ApplicationName {
            name: label("shop"),
            namespace: label("prod"),
        },
        name: label(name),
        namespace: label("prod"),
    }
}

fn node(name: &str) -> NodeId {
    NodeId::new(label("munich"), label(name))
}

fn organisation(name: &str) -> Organisation {
    Organisation(label(name))
}

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

fn dual(v4: &str, v6: &str) -> Dual {
    Dual {
        v4: Some(v4.parse().unwrap()),
        v6: Some(v6.parse().unwrap()),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
