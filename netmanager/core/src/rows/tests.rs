//! Tests of the rows: the newest wins in any order, what is gone is gone, and what is built fits.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use weald_proto::statement::{LeasedInstance, row_generation};
use weald_proto::table::{AcceptPolicy, LanePolicy, Table};

use super::*;
use crate::table::{Host, Nodes, Snapshot};

#[test]
fn rows_make_the_table_that_they_say() {
    let store = shop();
    let built = store.build(&[]);
    assert_eq!(built.faults, []);
    built.table.check().unwrap();
    let names = |table: &Table| -> Vec<String> {
        let nodes = table.nodes.iter().map(|row| row.id.to_string());
        let services = table.services.iter().map(|row| row.name.to_string());
        let instances = table.instances.iter().map(|row| row.id.to_string());
        let relays = table.relays.iter().map(|row| row.id.to_string());
        nodes
            .chain(services)
            .chain(instances)
            .chain(relays)
            .collect()
    };
    assert_eq!(
        names(&built.table),
        [
            "munich/a1",
            "munich/b1",
            "shop.prod.web.prod",
            "shop.prod.web.prod.1",
            "munich/r"
        ]
    );
    assert_eq!(built.table.nodes[0].node_ip, dual(255, 1));
    assert_eq!(built.table.nodes[1].organisation.to_string(), "acme");
    let service = &built.table.services[0];
    let chosen = (service.lane, service.accept);
    assert_eq!(chosen, (LanePolicy::L4, AcceptPolicy::Early));
}

#[test]
fn a_complete_list_takes_what_it_does_not_have() {
    let mut store = shop();
    assert_eq!(store.knowledge(&app("shop")), Some(Knowledge::Complete));
    store.handle_rows(&[app("shop")], vec![service(1, "shop", "web", 1)], &[]);
    assert_eq!(store.build(&[]).table.instances, []);
    assert_eq!(store.build(&[]).table.services.len(), 1);

    store.handle_rows(&[], vec![instance(2, "shop", 1, "b1", 3)], &[]);
    assert_eq!(
        store.build(&[]).table.instances,
        [],
        "an older row is no news"
    );
    store.handle_rows(&[], vec![instance(3, "shop", 1, "b1", 3)], &[]);
    assert_eq!(store.build(&[]).table.instances.len(), 1, "the same one is");
}

#[test]
fn an_unknown_application_has_no_rows_and_is_known_to_have_none() {
    let mut store = shop();
    store.handle_unknown(app("shop"));
    assert_eq!(store.knowledge(&app("shop")), Some(Knowledge::Unknown));
    assert_eq!(store.build(&[]).table.services, []);
    assert_eq!(store.knowledge(&app("bank")), None);

    store.keep_only(&BTreeSet::from([app("bank")]));
    assert_eq!(store.knowledge(&app("shop")), None);
    assert_eq!(store.applications().count(), 0);
}

#[test]
fn a_removal_takes_its_subject_and_keeps_it_away() {
    let mut store = shop();
    let mut gone = instance(4, "shop", 1, "b1", 3);
    if let Statement::Instance(row) = &mut gone.statement {
        row.removed = true;
    }
    assert!(store.handle(gone));
    assert_eq!(store.build(&[]).table.instances, []);
    assert!(!store.handle(instance(3, "shop", 1, "b1", 3)));
    assert!(!store.handle(instance(4, "shop", 1, "b1", 3)));
    assert!(store.handle(instance(5, "shop", 1, "b1", 3)));
    assert_eq!(store.build(&[]).table.instances.len(), 1);
}

#[test]
fn what_is_attached_here_is_here_until_it_has_moved() {
    let mut store = shop();
    let own = attached(1, 2, 7);
    let built = store.build(std::slice::from_ref(&own));
    built.table.check().unwrap();
    let hosts: Vec<String> = built
        .table
        .instances
        .iter()
        .map(|row| format!("{} on {}", row.id, row.node))
        .collect();
    assert_eq!(
        hosts,
        [
            "shop.prod.web.prod.2 on munich/a1",
            "shop.prod.web.prod.1 on munich/b1"
        ]
    );

    store.handle(instance(9, "shop", 2, "a1", 7));
    assert_eq!(
        store.build(&[]).table.instances.len(),
        1,
        "a row alone does not make an instance be here"
    );
    store.handle(instance(10, "shop", 2, "b1", 7));
    let built = store.build(&[own]);
    assert_eq!(built.table.instances[1].node, node("b1"), "it has moved");
    built.table.check().unwrap();
}

#[test]
fn a_lease_says_where_instances_are_and_a_row_who_is_picked() {
    let mut store = shop();
    // Of an application without rows here, on a node without one.
    store.handle(lease(1, "c1", 9, &[(1, "bank", 1, 20)]));
    let built = store.build(&[]);
    assert_eq!(built.table, shop().build(&[]).table);
    let leased: Vec<_> = built
        .leased
        .iter()
        .map(|leased| {
            let instance = leased.instance.as_ref().map(ToString::to_string);
            (leased.node.to_string(), instance, leased.addresses)
        })
        .collect();
    assert_eq!(
        leased,
        [
            (
                "munich/c1".to_owned(),
                Some("bank.prod.web.prod.1".to_owned()),
                dual(0, 20)
            ),
            ("munich/c1".to_owned(), None, dual(255, 9))
        ]
    );

    // A newer life than the row's, on a node with a row: it has moved there, and may not listen yet.
    store.handle(node_row(1, "c1", 9));
    store.handle(lease(2, "c1", 9, &[(4, "shop", 1, 3)]));
    let built = store.build(&[]);
    built.table.check().unwrap();
    let [moved] = &*built.leased else {
        panic!("{:?}", built.leased);
    };
    assert_eq!((&moved.node, moved.addresses), (&node("c1"), dual(0, 3)));
    assert_eq!(built.table.instances, []);
    let mut listens = store.clone();
    listens.handle(instance(4, "shop", 1, "c1", 3));
    let built = listens.build(&[]);
    assert_eq!((built.leased.len(), built.table.instances.len()), (0, 1));
    assert_eq!(built.table.instances[0].node, node("c1"));

    // A removal of that life counts as well, and a lease ends.
    let mut gone = instance(4, "shop", 1, "c1", 3);
    if let Statement::Instance(row) = &mut gone.statement {
        row.removed = true;
    }
    store.handle(gone);
    assert_eq!(store.build(&[]).table.instances, []);
    assert!(!store.expire_leases(999));
    assert!(store.expire_leases(1000));
    assert!(
        !store.handle(lease(3, "a1", 1, &[])),
        "the own one is for others"
    );
}

#[test]
fn what_does_not_hold_any_more_is_gone_until_it_is_said_again() {
    let mut store = shop();
    store.withdraw_unless(|signed| !signed.statement.starts_with(b"Instance"));
    let table = store.build(&[]).table;
    assert_eq!((table.services.len(), table.instances.len()), (1, 0));
    assert!(store.handle(instance(3, "shop", 1, "b1", 3)));
    store.withdraw_unless(|_| false);
    let table = store.build(&[]).table;
    assert_eq!((table.services.len(), table.relays.len()), (0, 0));
    assert_eq!(table.nodes.len(), 1, "the own one, by its cluster's grant");
}

#[test]
fn leased_addresses_have_an_owner_and_no_row() {
    let mut store = shop();
    store.handle(lease(1, "c1", 9, &[(1, "bank", 1, 20)]));
    let built = store.build(&[]);
    let mut nodes = Nodes::new();
    let snapshot = Snapshot::build(&built.table, &node("a1"), &mut nodes, 1);
    let snapshot = snapshot.with_leases(&[node("d1")], &built.leased, &mut nodes);
    let [c1, d1] = ["c1", "d1"].map(|name| nodes.find(&node(name)).unwrap());
    let ip = dual(0, 20).iter().next().unwrap();
    let owner = snapshot.owner(ip).unwrap();
    assert_eq!((owner.host, owner.instance), (Host::Peer(c1), None));
    let id = snapshot.instance_id_at(ip).unwrap();
    assert_eq!(id.to_string(), "bank.prod.web.prod.1");
    assert_eq!(snapshot.peer(d1).unwrap().id, node("d1"));
    let own = dual(255, 9).iter().next().unwrap();
    assert_eq!(snapshot.owner(own).unwrap().host, Host::Peer(c1));
    assert_eq!(snapshot.instance_id_at(own), None);
}

#[test]
fn an_attached_instance_is_not_picked_once_its_life_is_out_of_the_tables() {
    let mut store = shop();
    let own = attached(7, 2, 7);
    let snapshot = |store: &RowStore| {
        let built = store.build(std::slice::from_ref(&own));
        let snapshot = Snapshot::build(&built.table, &node("a1"), &mut Nodes::default(), 1);
        snapshot.with_draining(&built.draining)
    };
    let picked = |snapshot: &Snapshot| {
        let service = snapshot.service_by_name(&service_name("shop", "web"));
        snapshot.service(service.unwrap()).instances.len()
    };
    let ip = own.instance_ip.v4.map(IpAddr::V4).unwrap();
    // What an earlier life's row says is of that life.
    let mut gone = instance(6, "shop", 2, "a1", 7);
    remove(&mut gone);
    store.handle(gone);
    let before = snapshot(&store);
    assert!(!before.drains(ip) && picked(&before) == 2);
    let mut gone = instance(7, "shop", 2, "a1", 7);
    remove(&mut gone);
    store.handle(gone);
    let after = snapshot(&store);
    assert!(after.drains(ip) && picked(&after) == 1);
    assert_eq!(after.instance_by_id(&own.instance), None);
    // It may still send, and its connections go on.
    assert_eq!(after.owner(ip).unwrap().host, Host::Local);
    assert_eq!(after.instance_id_at(ip), Some(&own.instance));
    // Not by the word of another cluster, nor by one that does not hold any more.
    let mut foreign = instance(8, "shop", 2, "a1", 7);
    remove(&mut foreign);
    if let Statement::Instance(row) = &mut foreign.statement {
        row.node = NodeId::new(label("paris"), label("a1"));
    }
    let mut lied = store.clone();
    lied.handle(foreign);
    assert!(!snapshot(&lied).drains(ip));
    let mut revoked = store.clone();
    revoked.withdraw_unless(|signed| !signed.statement.starts_with(b"Instance"));
    assert!(!snapshot(&revoked).drains(ip));
    // The last one of a service stays: no other could be asked.
    let mut other = instance(4, "shop", 1, "b1", 3);
    remove(&mut other);
    let mut last = store.clone();
    last.handle(other);
    let last = snapshot(&last);
    assert!(!last.drains(ip) && picked(&last) == 1);
    let mut back = instance(7, "shop", 2, "a1", 7);
    if let Statement::Instance(row) = &mut back.statement {
        row.generation = row_generation(7, 2);
    }
    store.handle(back);
    assert!(!snapshot(&store).drains(ip));
}

#[test]
fn of_a_row_and_a_lease_the_later_life_counts() {
    let mut store = shop();
    let host = |store: &RowStore| {
        let built = store.build(&[]);
        let leased = built.leased.iter().map(|it| it.node.clone());
        let rows = built.table.instances.iter().map(|row| row.node.clone());
        rows.chain(leased).collect::<Vec<_>>()
    };
    // However often a row of the earlier life has changed.
    let mut row = instance(3, "shop", 1, "b1", 3);
    if let Statement::Instance(row) = &mut row.statement {
        row.generation = row_generation(3, 1000);
    }
    store.handle(row);
    assert_eq!(host(&store), [node("b1")]);
    store.handle(lease(1, "c1", 9, &[(3, "shop", 1, 3)]));
    assert_eq!(host(&store)[0], node("b1"), "the row of the same life");
    store.handle(lease(2, "c1", 9, &[(4, "shop", 1, 3)]));
    assert!(!host(&store).contains(&node("b1")), "{:?}", host(&store));
}

#[test]
fn rows_that_wait_for_others_are_left_out_quietly() {
    let mut store = RowStore::new(node("a1"));
    store.set_basics(basics());
    store.handle(instance(3, "shop", 1, "b1", 3));
    store.handle(service(1, "shop", "web", 1));
    let built = store.build(&[attached(1, 2, 7)]);
    assert_eq!((built.table.instances, built.faults), (vec![], vec![]));
    store.handle(grant(1));
    assert_eq!(store.build(&[attached(1, 2, 7)]).table.instances.len(), 1);
    store.handle(node_row(1, "b1", 2));
    assert_eq!(store.build(&[attached(1, 2, 7)]).table.instances.len(), 2);
}

#[test]
fn what_contradicts_is_left_out_and_said() {
    let mut store = shop();
    store.handle(instance(1, "shop", 5, "b1", 3));
    let mut outside = instance(1, "shop", 6, "b1", 3);
    if let Statement::Instance(row) = &mut outside.statement {
        row.instance_ip.v4 = Some("192.0.2.1".parse().unwrap());
    }
    store.handle(outside);
    let built = store.build(&[]);
    built.table.check().unwrap();
    let faults: Vec<String> = built.faults.iter().map(ToString::to_string).collect();
    assert_eq!(
        faults,
        [
            "address 10.30.0.3 belongs to both instance shop.prod.web.prod.1 and instance \
             shop.prod.web.prod.5; give each its own",
            "instance shop.prod.web.prod.6: address 192.0.2.1 is outside the pools 10.30.0.0/16 \
             and fdff::/16"
        ]
    );
    assert_eq!(built.table.instances.len(), 1);
}

#[test]
fn what_is_kept_makes_the_same_rows_again() {
    let store = shop();
    let kept: Vec<Signed> = store.signed().cloned().collect();
    assert_eq!(kept.len(), 5);
    assert!(kept[0].statement.starts_with(b"Grant"), "{:?}", kept[0]);
}

#[test]
fn a_static_table_takes_attached_instances_of_its_services() {
    let table = shop().build(&[]).table;
    let own = attached(1, 1, 8);
    let with = with_attached(table.clone(), &node("a1"), std::slice::from_ref(&own));
    with.check().unwrap();
    assert_eq!(with.instances, [own.row(&node("a1"))]);
    let mut stranger = own;
    stranger.instance.service.name = label("nothing");
    assert_eq!(
        with_attached(table.clone(), &node("a1"), &[stranger]),
        table
    );
}

#[test]
fn what_cannot_be_attached_is_refused_with_the_reason() {
    let table = shop().build(&[]).table;
    let first = attached(3, 1, 8);
    let here = std::slice::from_ref(&first);
    let refusal = |instance: Attached| instance.check(here, &table).unwrap_err().to_string();
    assert_eq!(first.check(here, &table), Ok(()), "the same again is fine");
    assert_eq!(attached(4, 1, 9).check(here, &table), Ok(()), "a new life");
    assert_eq!(
        refusal(attached(2, 1, 8)),
        "generation 3 of instance shop.prod.web.prod.1 is attached; 2 is older"
    );
    assert!(refusal(attached(3, 1, 9)).contains("an instance keeps its addresses"));
    assert_eq!(
        refusal(attached(1, 2, 8)),
        "address 10.30.0.8 of instance shop.prod.web.prod.2 belongs to shop.prod.web.prod.1 on \
         this node"
    );
    let mut outside = attached(1, 2, 9);
    outside.instance_ip.v4 = Some("192.0.2.1".parse().unwrap());
    assert!(refusal(outside.clone()).contains("is outside the pools 10.30.0.0/16"));
    outside.instance_ip = Dual::default();
    assert!(refusal(outside).contains("has neither an IPv4 nor an IPv6 address"));
}

#[test]
fn interests_last_as_long_as_somebody_asks() {
    let start = start();
    let at = |minutes| start + Duration::from_mins(minutes);
    let mut interests = Interests::default();
    assert!(interests.set_own(BTreeSet::from([app("shop")])));
    assert!(!interests.set_own(BTreeSet::from([app("shop")])));
    assert!(!interests.ask(&app("shop"), at(0)), "of interest already");
    assert!(interests.ask(&app("bank"), at(0)));
    assert_eq!(interests.poll_timeout(), Some(at(10)));
    assert!(!interests.ask(&app("bank"), at(6)));
    assert!(!interests.handle_timeout(at(10)));
    assert!(interests.contains(&app("bank")));
    assert!(interests.handle_timeout(at(16)));
    assert_eq!(interests.all(), BTreeSet::from([app("shop")]));
    assert!(interests.set_own(BTreeSet::new()));
}

#[test]
fn too_many_names_push_out_the_oldest() {
    let start = start();
    let mut interests = Interests::default();
    for number in 0..=MAX_ASKED {
        let at = start + Duration::from_secs(number as u64);
        assert!(interests.ask(&app(&format!("app{number}")), at));
    }
    assert_eq!(interests.all().len(), MAX_ASKED);
    assert!(!interests.contains(&app("app0")));
    assert!(interests.contains(&app("app1")));
}

proptest! {
    /// Every subject ends with its newest statement, whatever order they came in, and what is
    /// built from it passes the check of tables.
    #[test]
    fn the_newest_generation_wins_in_any_order(
        rows in prop::collection::vec((1_u64..6, 0_u32..4, 0_u8..6, any::<bool>()), 1..30),
        seed in any::<u64>(),
    ) {
        let rows: Vec<Judged> = rows
            .into_iter()
            .map(|(generation, number, last, removed)| {
                let mut row = instance(generation, "shop", number, "b1", last);
                if let Statement::Instance(row) = &mut row.statement {
                    row.removed = removed;
                }
                row.signed.statement = format!("{:?}", row.statement).into_bytes();
                row
            })
            .collect();
        let fed = |rows: &[Judged]| {
            let mut store = shop();
            store.handle_unknown(app("shop"));
            store.handle_rows(&[app("shop")], vec![service(1, "shop", "web", 1)], &[]);
            for row in rows {
                store.handle(row.clone());
            }
            store
        };
        let mut shuffled = rows.clone();
        let mut state = seed;
        for position in (1..shuffled.len()).rev() {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            shuffled.swap(position, (state >> 33) as usize % (position + 1));
        }
        let (first, second) = (fed(&rows), fed(&shuffled));
        prop_assert_eq!(first.build(&[]), second.build(&[]));
        prop_assert!(first.build(&[]).table.check().is_ok());
        for stored in second.instances.iter() {
            let newest = rows.iter().filter_map(|row| {
                let Statement::Instance(row) = &row.statement else {
                    return None;
                };
                (row.instance == stored.instance).then_some(row)
            });
            let newest = newest.map(|row| row.generation).max();
            let floor = (stored.instance.number == 1).then_some(3);
            prop_assert_eq!(Some(stored.generation), newest.max(floor));
        }
    }
}

fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "a test needs some first instant")]
    Instant::now()
}

fn shop() -> RowStore {
    let mut store = RowStore::new(node("a1"));
    store.set_basics(basics());
    store.handle(grant(1));
    store.handle_rows(
        &[app("shop")],
        vec![
            service(1, "shop", "web", 1),
            instance(3, "shop", 1, "b1", 3),
            node_row(1, "b1", 2),
            judged(
                "Relay",
                Statement::Relay(RelayStatement {
                    relay: RelayId::new(label("munich"), label("r")),
                    generation: 1,
                    removed: false,
                    addresses: vec!["192.0.2.9:10250".parse().unwrap()],
                }),
            ),
        ],
        &[],
    );
    store
}

fn basics() -> Basics {
    Basics {
        pools: Pools::default(),
        zones: Zone::defaults(),
        node_ip: dual(255, 1),
    }
}

fn grant(generation: u64) -> Judged {
    judged(
        "Grant",
        Statement::Grant(Grant {
            cluster: label("munich"),
            key: [7; 32],
            generation,
            blocks: Vec::new(),
            organisations: vec![Organisation(label("acme"))],
            owner: Organisation(label("acme")),
            expires: 0,
        }),
    )
}

fn service(generation: u64, application: &str, name: &str, last: u8) -> Judged {
    judged(
        "Service",
        Statement::Service(ServiceStatement {
            name: service_name(application, name),
            organisation: Organisation(label("acme")),
            generation,
            removed: false,
            round_robin: dual(8, last),
            closest: dual(9, last),
            lane: LanePolicy::L4,
            accept: AcceptPolicy::Early,
        }),
    )
}

/// The same, but that it is gone.
fn remove(row: &mut Judged) {
    if let Statement::Instance(row) = &mut row.statement {
        row.removed = true;
    }
}

/// A row of that life.
fn instance(generation: u64, application: &str, number: u32, host: &str, last: u8) -> Judged {
    judged(
        "Instance",
        Statement::Instance(InstanceStatement {
            instance: InstanceId {
                service: service_name(application, "web"),
                number,
            },
            organisation: Organisation(label("acme")),
            generation: row_generation(generation, 1),
            removed: false,
            node: node(host),
            instance_ip: dual(0, last),
        }),
    )
}

fn node_row(generation: u64, name: &str, last: u8) -> Judged {
    judged(
        "Node",
        Statement::Node(NodeStatement {
            node: node(name),
            generation,
            removed: false,
            node_ip: dual(255, last),
            addresses: Vec::new(),
        }),
    )
}

fn lease(epoch: u64, name: &str, last: u8, instances: &[(u64, &str, u32, u8)]) -> Judged {
    let instances = instances
        .iter()
        .map(|(generation, application, number, last)| LeasedInstance {
            instance: InstanceId {
                service: service_name(application, "web"),
                number: *number,
            },
            organisation: Organisation(label("acme")),
            generation: *generation,
            instance_ip: dual(0, *last),
        });
    judged(
        "Lease",
        Statement::Lease(Lease {
            node: node(name),
            epoch,
            expires: 1000,
            node_ip: dual(255, last),
            instances: instances.collect(),
        }),
    )
}

fn judged(kind: &str, statement: Statement) -> Judged {
    Judged {
        signed: Signed {
            statement: format!("{kind} {statement:?}").into_bytes(),
            signature: vec![0; 64],
            cluster: Some(label("munich")),
        },
        statement,
    }
}

fn attached(generation: u64, number: u32, last: u8) -> Attached {
    Attached {
        instance: InstanceId {
            service: service_name("shop", "web"),
            number,
        },
        generation,
        instance_ip: dual(0, last),
        organisation: None,
        ports: Vec::new(),
    }
}

fn dual(third: u8, last: u8) -> Dual {
    let v6: IpAddr = format!("fdff::{third:x}:{last:x}").parse().unwrap();
    let v4: IpAddr = format!("10.30.{third}.{last}").parse().unwrap();
    match (v4, v6) {
        (IpAddr::V4(v4), IpAddr::V6(v6)) => Dual {
            v4: Some(v4),
            v6: Some(v6),
        },
        _ => Dual::default(),
    }
}

fn service_name(application: &str, name: &str) -> ServiceName {
    ServiceName {
        application: app(application),
        name: label(name),
        namespace: label("prod"),
    }
}

fn app(name: &str) -> ApplicationName {
    ApplicationName {
        name: label(name),
        namespace: label("prod"),
    }
}

fn node(name: &str) -> NodeId {
    NodeId::new(label("munich"), label(name))
}

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}
