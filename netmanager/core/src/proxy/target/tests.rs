//! Tests of targets: what clients write, and what that is in the overlay.

use std::collections::BTreeSet;

use weald_proto::addr::Pools;
use weald_proto::id::{Label, NodeId, Organisation};
use weald_proto::name::{InstanceId, Zone};
use weald_proto::table::{AcceptPolicy, InstanceRow, LanePolicy, NodeRow, ServiceRow, Table};

use super::*;
use crate::table::{Nodes, Scope};

#[test]
fn targets_are_written_in_three_forms() {
    for text in ["web.prod.rr.local:80", "10.30.0.1:65535", "[fdff::1]:1"] {
        assert_eq!(Target::parse(text).unwrap().to_string(), text);
    }
    let mapped = Target::parse("[::ffff:10.30.0.1]:80").unwrap();
    assert_eq!(mapped.to_string(), "10.30.0.1:80");
}

#[test]
fn what_is_no_target_is_refused() {
    use TargetError::{Host, NoPort, Port};
    for (text, error) in [
        ("", NoPort),
        ("web.prod.rr", NoPort),
        ("web.prod.rr:", Port),
        ("web.prod.rr:0", Port),
        ("web.prod.rr:+1", Port),
        ("web.prod.rr:65536", Port),
        ("web.prod.rr:http", Port),
        (":80", Host),
        ("[]:80", Host),
        ("[web]:80", Host),
        ("[fdff::1:80", NoPort),
        ("fdff::1:80", NoPort),
        ("http://web.prod.rr:80", NoPort),
        ("user@web.prod.rr:80", Host),
        ("web prod:80", Host),
        ("wéb:80", Host),
    ] {
        assert_eq!(Target::parse(text), Err(error), "{text:?}");
    }
    let long = format!("{}:80", "a".repeat(MAX_NAME_TEXT_LEN + 2));
    assert_eq!(Target::parse(&long), Err(Host));
}

#[test]
fn names_and_addresses_of_the_overlay_are_located() {
    let table = snapshot();
    for (target, address, closest) in [
        ("shop.prod.web.prod.rr.local:80", "10.30.8.1:80", false),
        ("shop.prod.web.prod.any.rr:80", "10.30.8.1:80", false),
        ("shop.prod.web.prod.rr.local.:80", "10.30.8.1:80", false),
        ("shop.prod.web.prod.closest.local:80", "10.30.9.1:80", true),
        (
            "shop.prod.web.prod.0.instance.local:80",
            "10.30.0.10:80",
            false,
        ),
        ("shop.prod.six.prod.rr.local:80", "[fdff:2000::6]:80", false),
        ("10.30.0.10:22", "10.30.0.10:22", false),
        ("10.30.9.1:22", "10.30.9.1:22", true),
        ("[fdff::10]:22", "[fdff::10]:22", false),
    ] {
        let found = locate(&Target::parse(target).unwrap(), own(), None, &table).unwrap();
        assert_eq!(found.address.to_string(), address, "{target}");
        assert_eq!(found.closest.is_some(), closest, "{target}");
        assert_eq!(found.application, None, "the table is whole");
    }
}

#[test]
fn short_names_mean_the_application_that_was_named() {
    let (table, shop) = (snapshot(), "shop.prod".parse().unwrap());
    let target = Target::parse("web.prod.rr.local:80").unwrap();
    let found = locate(&target, own(), Some(&shop), &table).unwrap();
    assert_eq!(found.address.to_string(), "10.30.8.1:80");
    let refused = locate(&target, own(), None, &table).unwrap_err();
    assert!(matches!(
        &refused,
        Refused::Name(NotResolved::NoApplication { .. })
    ));
    assert_eq!(refused.reply(), Reply::HostUnreachable);
}

#[test]
fn what_is_not_of_the_overlay_is_refused() {
    let table = snapshot();
    let refused = |target: &str| {
        let target = Target::parse(target).unwrap();
        locate(&target, own(), None, &table).unwrap_err()
    };
    for outside in [
        "192.0.2.1:80",
        "127.0.0.1:80",
        "[::1]:80",
        "[2001:db8::1]:1",
    ] {
        let why = refused(outside);
        assert!(matches!(why, Refused::Outside(_)), "{why}");
        assert_eq!(why.reply(), Reply::NotAllowed);
    }
    for name in ["localhost:80", "example.com:443", "printer.local:80"] {
        let why = refused(name);
        assert!(matches!(why, Refused::Name(NotResolved::Name(_))), "{why}");
        assert!(why.to_string().contains("nobody else is asked"), "{why}");
    }
    for missing in [
        "shop.prod.wbe.prod.rr.local:80",
        "shop.prod.web.prod.7.instance.local:80",
        // Another organisation's.
        "bank.prod.vault.prod.rr.local:80",
    ] {
        let why = refused(missing);
        assert!(matches!(why, Refused::Name(_)), "{why}");
        assert_eq!(why.reply(), Reply::HostUnreachable);
    }
}

#[test]
fn both_ends_need_addresses_of_one_family() {
    let table = snapshot();
    let only_v4 = Dual { v6: None, ..own() };
    for target in ["shop.prod.six.prod.rr.local:80", "[fdff::10]:22"] {
        let why = locate(&Target::parse(target).unwrap(), only_v4, None, &table).unwrap_err();
        assert!(matches!(why, Refused::Family(_)), "{why}");
    }
    let only_v6 = Dual { v4: None, ..own() };
    let target = Target::parse("shop.prod.web.prod.rr.local:80").unwrap();
    let found = locate(&target, only_v6, None, &table).unwrap();
    assert_eq!(found.address.to_string(), "[fdff:2000::1]:80");
}

#[test]
fn applications_that_are_not_known_are_to_be_asked_for() {
    let shop: ApplicationName = "shop.prod".parse().unwrap();
    let scope = Scope::Applications(BTreeSet::from([shop.clone()]));
    let table = snapshot().with_scope(scope);
    let locate = |target: &str| locate(&Target::parse(target).unwrap(), own(), None, &table);
    let found = locate("shop.prod.web.prod.rr.local:80").unwrap();
    assert_eq!(found.application, Some(shop));
    let why = locate("blog.prod.web.prod.rr.local:80").unwrap_err();
    assert_eq!(why, Refused::Unasked("blog.prod".parse().unwrap()));
    let why = locate("shop.prod.wbe.prod.rr.local:80").unwrap_err();
    assert!(matches!(why, Refused::Name(_)), "all is known of it: {why}");
}

fn own() -> Dual {
    Dual {
        v4: "10.30.255.1".parse().ok(),
        v6: "fdff::ff01".parse().ok(),
    }
}

fn snapshot() -> Snapshot {
    let table = Table {
        pools: Pools::default(),
        zones: vec![Zone::new("local").unwrap()],
        nodes: vec![node_row("a1", own())],
        relays: Vec::new(),
        services: vec![
            service_row("acme", "shop.prod.web.prod", 1, true),
            service_row("acme", "shop.prod.six.prod", 6, false),
            service_row("rival", "bank.prod.vault.prod", 9, true),
        ],
        instances: vec![InstanceRow {
            id: "shop.prod.web.prod.0".parse::<InstanceId>().unwrap(),
            node: node("a1"),
            instance_ip: Dual {
                v4: "10.30.0.10".parse().ok(),
                v6: "fdff::10".parse().ok(),
            },
            ports: Vec::new(),
        }],
    };
    assert_eq!(table.check(), Ok(()));
    Snapshot::build(&table, &node("a1"), &mut Nodes::new(), 1)
}

fn node(name: &str) -> NodeId {
    NodeId::new(Label::new("home").unwrap(), Label::new(name).unwrap())
}

fn node_row(name: &str, node_ip: Dual) -> NodeRow {
    NodeRow {
        id: node(name),
        organisation: Organisation(Label::new("acme").unwrap()),
        addresses: Vec::new(),
        node_ip,
    }
}

fn service_row(organisation: &str, name: &str, number: u8, has_v4: bool) -> ServiceRow {
    let dual = |v4: [u8; 4], v6: String| Dual {
        v4: has_v4.then(|| v4.into()),
        v6: v6.parse().ok(),
    };
    ServiceRow {
        name: name.parse().unwrap(),
        organisation: Organisation(Label::new(organisation).unwrap()),
        round_robin: dual([10, 30, 8, number], format!("fdff:2000::{number}")),
        closest: dual([10, 30, 9, number], format!("fdff:1000::{number}")),
        lane: LanePolicy::Auto,
        accept: AcceptPolicy::Late,
    }
}
