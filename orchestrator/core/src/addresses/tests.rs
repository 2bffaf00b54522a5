//! Blocks, service addresses and a cluster's own; that no address ever has two owners is `model`'s.

mod model;

use weald_proto::addr::Dual;
use weald_proto::id::{NodeId, Organisation};
use weald_proto::name::{InstanceId, ServiceName};
use weald_proto::statement::Grant;

use super::*;
use crate::Now;
use crate::samples::{self, label};

const LIFETIME: Duration = Duration::from_secs(100);

fn service(name: &str) -> ServiceName {
    samples::service(name, "front")
}

fn instance(number: u32) -> Holder {
    Holder::Instance(InstanceId {
        service: service("web"),
        number,
    })
}

fn node(name: &str) -> Holder {
    Holder::Node(NodeId::new(label("munich"), label(name)))
}

fn acme() -> Organisation {
    Organisation(label("acme"))
}

fn at(seconds: u64) -> Now {
    Now {
        elapsed: Duration::from_secs(seconds),
        // Set back and forth; nothing may depend on it.
        unix: seconds % 3 * 1_000_000,
    }
}

fn dual(v4: &str, v6: &str) -> Dual {
    Dual {
        v4: v4.parse().ok(),
        v6: v6.parse().ok(),
    }
}

fn root() -> RootAddresses {
    RootAddresses::new(Plan::default(), LIFETIME)
}

/// A root whose IPv4 pool has one block, and so 62 addresses.
fn small_root() -> RootAddresses {
    let plan = Plan {
        v4: "10.30.0.0/26".parse().unwrap(),
        ..Plan::default()
    };
    RootAddresses::new(plan, LIFETIME)
}

fn cluster(generation: u64, blocks: &[&str]) -> ClusterAddresses {
    let mut cluster = ClusterAddresses::new(Plan::default(), LIFETIME);
    assert!(cluster.take_grant(&grant(generation, blocks)));
    cluster
}

fn grant(generation: u64, blocks: &[&str]) -> Grant {
    Grant {
        cluster: label("munich"),
        key: [0; 32],
        generation,
        blocks: blocks.iter().map(|it| it.parse().unwrap()).collect(),
        organisations: vec![],
        owner: acme(),
        expires: 0,
    }
}

fn pins(round_robin: Dual, closest: Dual) -> Pins {
    Pins {
        round_robin,
        closest,
    }
}

fn shown(errors: Vec<AddressError>) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn clusters_get_blocks_of_each_kind_that_do_not_overlap() {
    let mut root = root();
    let mut given = Vec::new();
    for name in ["munich", "vienna"] {
        for kind in BlockKind::ALL {
            let block = root.grant(&label(name), kind, at(0)).unwrap();
            assert_eq!(Plan::default().kind(block), Some(kind));
            given.push(block.to_string());
        }
    }
    assert_eq!(
        given,
        [
            "10.30.0.0/26",
            "fdff::/64",
            "fdff:3000::/64",
            "10.30.0.64/26",
            "fdff:0:0:1::/64",
            "fdff:3000:0:1::/64"
        ]
    );
    assert_eq!(root.blocks(&label("munich")).count(), 3);
    let overlapping = root.adopt_block("10.30.0.0/25".parse().unwrap(), &label("zurich"), at(0));
    assert_eq!(
        overlapping.unwrap_err().to_string(),
        "block 10.30.0.0/25 cannot be given to cluster zurich: 10.30.0.0/26 belongs to cluster munich"
    );
    for foreign in [
        "10.31.0.0/26",
        "fdff:2000::/64",
        "10.30.9.1/26",
        "10.0.0.0/8",
    ] {
        let refused = root.adopt_block(foreign.parse().unwrap(), &label("zurich"), at(0));
        assert!(refused.is_err(), "{foreign}");
    }
}

#[test]
fn services_get_what_they_pin_and_else_the_next_that_is_free() {
    let mut root = root();
    let pinned = pins(dual("10.30.40.1", "fdff:2000::4001"), Dual::default());
    let has = root
        .assign(&service("web"), &acme(), &pinned, at(0))
        .unwrap();
    assert_eq!(has.round_robin, pinned.round_robin);
    assert_eq!(has.closest, dual("10.30.255.254", "fdff:1000::1"));
    let again = root
        .assign(&service("web"), &acme(), &pinned, at(5))
        .unwrap();
    assert_eq!(again, has, "twice is once");
    let other = root
        .assign(&service("db"), &acme(), &Pins::default(), at(0))
        .unwrap();
    assert_eq!(other.round_robin, dual("10.30.255.253", "fdff:2000::1"));
    assert_eq!(other.closest, dual("10.30.255.252", "fdff:1000::2"));
    // Blocks go around pinned addresses.
    let blocks: Vec<_> =
        std::iter::from_fn(|| root.grant(&label("munich"), BlockKind::V4, at(0))).collect();
    assert_eq!(blocks.len(), 1024 - 2);
    assert!(!blocks.contains(&"10.30.40.0/26".parse().unwrap()));
}

#[test]
fn pins_that_collide_are_all_refused_and_nothing_changes() {
    let mut root = root();
    let web = pins(dual("10.30.40.1", ""), Dual::default());
    root.assign(&service("web"), &acme(), &web, at(0)).unwrap();
    root.grant(&label("munich"), BlockKind::V4, at(0)).unwrap();
    let before: Vec<_> = root.services().map(|(ip, _)| ip).collect();
    let wrong = pins(
        dual("10.30.40.1", "fdff:1000::9"),
        dual("10.30.0.7", "fdff:1000::"),
    );
    let errors = root
        .assign(&service("db"), &acme(), &wrong, at(0))
        .unwrap_err();
    assert_eq!(
        shown(errors),
        [
            "address 10.30.40.1 belongs to rr of service shop.prod.web.front; choose another",
            "address fdff:1000::9 cannot be assigned from fdff:2000::/21; choose one inside, not the first or last",
            "address 10.30.0.7 belongs to block 10.30.0.0/26 of cluster munich; choose another",
            "address fdff:1000:: cannot be assigned from fdff:1000::/21; choose one inside, not the first or last",
        ]
    );
    let twice = pins(dual("10.30.41.1", ""), dual("10.30.41.1", ""));
    let errors = root
        .assign(&service("db"), &acme(), &twice, at(0))
        .unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:?}");
    let other = Organisation(label("other"));
    assert!(root.assign(&service("web"), &other, &web, at(0)).is_err());
    let after: Vec<_> = root.services().map(|(ip, _)| ip).collect();
    assert_eq!(before, after);
}

#[test]
fn of_what_others_have_only_that_it_is_taken_is_told() {
    let mut root = root();
    let other = Organisation(label("other"));
    let web = pins(dual("10.30.40.1", ""), Dual::default());
    root.assign(&service("web"), &acme(), &web, at(0)).unwrap();
    let left = pins(dual("10.30.40.2", ""), Dual::default());
    root.assign(&service("old"), &acme(), &left, at(0)).unwrap();
    root.release(&service("old"), at(0));
    root.grant(&label("munich"), BlockKind::V4, at(0)).unwrap();
    let mut told = |ip: &str, to: &Organisation| {
        let wanted = pins(dual(ip, ""), Dual::default());
        let errors = root.assign(&service("db"), &other, &wanted, at(0));
        let errors = errors.unwrap_err().into_iter();
        let told = errors.map(|it| it.told_to(|of| of == to));
        shown(told.collect()).join("; ")
    };
    for (ip, hidden, known) in [
        (
            "10.30.40.1",
            "address 10.30.40.1 is taken; choose another",
            "address 10.30.40.1 belongs to rr of service shop.prod.web.front; choose another",
        ),
        (
            "10.30.40.2",
            "address 10.30.40.2 was returned and is free in 100 s; choose another or wait",
            "address 10.30.40.2 was returned by rr of service shop.prod.old.front and is free in \
             100 s; choose another or wait",
        ),
        (
            "10.30.0.7",
            "address 10.30.0.7 is taken; choose another",
            "address 10.30.0.7 is taken; choose another",
        ),
        (
            "192.0.2.1",
            "address 192.0.2.1 cannot be assigned from 10.30.0.0/16; choose one inside, not the \
             first or last",
            "address 192.0.2.1 cannot be assigned from 10.30.0.0/16; choose one inside, not the \
             first or last",
        ),
    ] {
        assert_eq!(told(ip, &other), hidden);
        assert_eq!(told(ip, &acme()), known);
    }
}

#[test]
fn what_a_service_returns_rests_for_a_lease_lifetime_except_for_itself() {
    let mut root = root();
    let pinned = pins(dual("10.30.40.1", ""), Dual::default());
    let had = root
        .assign(&service("web"), &acme(), &pinned, at(0))
        .unwrap();
    root.release(&service("web"), at(10));
    assert_eq!(root.services().count(), 0);
    assert_eq!(
        root.poll_timeout(),
        Some((Duration::from_secs(110), "address rested"))
    );
    let errors = root
        .assign(&service("db"), &acme(), &pinned, at(40))
        .unwrap_err();
    assert_eq!(
        shown(errors),
        [
            "address 10.30.40.1 was returned by rr of service shop.prod.web.front and is free in 70 s; choose another or wait"
        ]
    );
    let again = root
        .assign(&service("web"), &acme(), &Pins::default(), at(50))
        .unwrap();
    assert_eq!(again, had, "without pins it gets back what it had");
    root.release(&service("web"), at(60));
    root.handle_timeout(at(160));
    assert_eq!(root.held(at(160)).count(), 0);
    assert!(
        root.assign(&service("db"), &acme(), &pinned, at(160))
            .is_ok()
    );
}

#[test]
fn a_new_pin_lets_the_old_address_rest() {
    let mut root = root();
    let first = pins(dual("10.30.40.1", ""), Dual::default());
    let second = pins(dual("10.30.40.2", ""), Dual::default());
    root.assign(&service("web"), &acme(), &first, at(0))
        .unwrap();
    let has = root
        .assign(&service("web"), &acme(), &second, at(1))
        .unwrap();
    assert_eq!(has.round_robin.v4, second.round_robin.v4);
    assert!(root.assign(&service("db"), &acme(), &first, at(2)).is_err());
    assert!(
        root.assign(&service("db"), &acme(), &first, at(101))
            .is_ok()
    );
}

#[test]
fn when_ipv4_is_used_up_everything_goes_on_with_ipv6() {
    let mut root = small_root();
    for number in 0..31 {
        let has = root
            .assign(
                &service(&format!("s{number}")),
                &acme(),
                &Pins::default(),
                at(0),
            )
            .unwrap();
        assert!(has.round_robin.v4.is_some() && has.closest.v4.is_some());
    }
    let has = root
        .assign(&service("last"), &acme(), &Pins::default(), at(0))
        .unwrap();
    assert_eq!(has.round_robin, dual("", "fdff:2000::20"));
    assert_eq!(root.grant(&label("munich"), BlockKind::V4, at(0)), None);
    assert!(
        root.grant(&label("munich"), BlockKind::Instances, at(0))
            .is_some()
    );

    let mut cluster = cluster(1, &["10.30.0.4/31", "fdff::/64"]);
    assert_eq!(
        cluster.assign(&instance(0), at(0)),
        Ok(dual("10.30.0.4", "fdff::1"))
    );
    assert_eq!(cluster.used_up(at(0)), [BlockKind::Nodes]);
    assert_eq!(
        cluster.assign(&node("a1"), at(0)),
        Ok(dual("10.30.0.5", ""))
    );
    assert_eq!(cluster.assign(&instance(1), at(0)), Ok(dual("", "fdff::2")));
    assert_eq!(cluster.used_up(at(0)), [BlockKind::V4, BlockKind::Nodes]);
    assert_eq!(
        cluster.assign(&node("a2"), at(0)).unwrap_err().to_string(),
        "no address is left for node munich/a2; remove something, or configure larger pools"
    );
    assert!(cluster.take_grant(&grant(2, &["10.30.0.4/31", "fdff::/64", "fdff:3000::/64"])));
    assert!(
        !cluster.take_grant(&grant(1, &[])),
        "an older grant says nothing"
    );
    assert_eq!(
        cluster.assign(&node("a2"), at(0)),
        Ok(dual("", "fdff:3000::1"))
    );
    assert_eq!(cluster.used_up(at(0)), [BlockKind::V4]);
}

#[test]
fn an_instance_keeps_its_addresses_and_gets_them_back() {
    let mut cluster = cluster(1, &["10.30.0.0/26", "fdff::/64"]);
    let has = cluster.assign(&instance(0), at(0)).unwrap();
    assert_eq!(has, dual("10.30.0.1", "fdff::1"), "not the first of a pool");
    assert_eq!(cluster.assign(&instance(0), at(1)), Ok(has));
    assert_eq!(cluster.release(&instance(0), at(10)), has);
    assert_eq!(cluster.release(&instance(0), at(11)), Dual::default());
    assert_eq!(
        cluster.assign(&instance(1), at(109)),
        Ok(dual("10.30.0.2", "fdff::2"))
    );
    assert_eq!(
        cluster.assign(&instance(0), at(109)),
        Ok(has),
        "its own rests only for others"
    );
    cluster.release(&instance(0), at(200));
    assert_eq!(
        cluster.poll_timeout(),
        Some((Duration::from_secs(300), "address rested"))
    );
    assert_eq!(
        cluster.assign(&instance(2), at(300)),
        Ok(has),
        "after the lifetime it is anybody's"
    );
    assert_eq!(
        cluster.assign(&instance(0), at(300)),
        Ok(dual("10.30.0.3", "fdff::3"))
    );
    cluster.handle_timeout(at(300));
    assert_eq!(cluster.poll_timeout(), None);
}

#[test]
fn a_block_that_is_taken_away_is_only_used_up() {
    let mut cluster = cluster(1, &["10.30.0.0/26", "fdff::/64"]);
    let has = cluster.assign(&instance(0), at(0)).unwrap();
    cluster.assign(&instance(1), at(0)).unwrap();
    cluster.release(&instance(1), at(0));
    cluster.take_grant(&grant(2, &["10.30.0.64/26", "fdff:0:0:1::/64"]));
    assert_eq!(cluster.assign(&instance(0), at(0)), Ok(has));
    assert_eq!(
        cluster.assign(&instance(1), at(0)),
        Ok(dual("10.30.0.64", "fdff:0:0:1::"))
    );
}

#[test]
fn a_cluster_that_is_gone_leaves_its_blocks_resting() {
    let mut root = root();
    let first = root.grant(&label("munich"), BlockKind::V4, at(0)).unwrap();
    root.release_cluster(&label("munich"), at(10));
    assert_eq!(root.blocks(&label("munich")).count(), 0);
    let pinned = pins(dual("10.30.0.9", ""), Dual::default());
    let errors = root
        .assign(&service("web"), &acme(), &pinned, at(20))
        .unwrap_err();
    assert_eq!(
        shown(errors),
        [
            "address 10.30.0.9 was returned by cluster munich and is free in 90 s; choose another or wait"
        ]
    );
    assert_ne!(
        root.grant(&label("vienna"), BlockKind::V4, at(109)),
        Some(first)
    );
    assert_eq!(
        root.grant(&label("vienna"), BlockKind::V4, at(110)),
        Some(first)
    );
}

#[test]
fn a_restart_takes_everything_up_and_refuses_collisions() {
    let mut root = root();
    let block: IpNetwork = "10.30.0.64/26".parse().unwrap();
    root.adopt_block(block, &label("munich"), at(0)).unwrap();
    root.adopt_block(block, &label("munich"), at(0)).unwrap();
    assert!(root.adopt_block(block, &label("vienna"), at(0)).is_err());
    // It has it again, though it is said to rest.
    assert!(root.hold_block(block, &label("munich"), at(0)).is_err());
    assert_eq!(root.blocks(&label("munich")).collect::<Vec<_>>(), [block]);
    root.hold_block("10.30.0.0/26".parse().unwrap(), &label("zurich"), at(0))
        .unwrap();
    assert_eq!(root.held_blocks(at(99)).count(), 1);
    assert_eq!(root.held_blocks(at(100)).count(), 0);
    let owner = |name| ServiceOwner {
        service: service(name),
        organisation: acme(),
        closest: false,
    };
    let ip: IpAddr = "10.30.40.1".parse().unwrap();
    root.adopt(ip, &owner("web"), at(0)).unwrap();
    root.adopt(ip, &owner("web"), at(0)).unwrap();
    assert!(root.adopt(ip, &owner("db"), at(0)).is_err());
    assert!(root.hold(ip, owner("db"), at(0)).is_err());
    assert!(
        root.adopt("10.30.0.65".parse().unwrap(), &owner("web"), at(0))
            .is_err()
    );
    let resting: IpAddr = "10.30.40.2".parse().unwrap();
    root.hold(resting, owner("db"), at(0)).unwrap();
    assert!(root.adopt(resting, &owner("web"), at(50)).is_err());
    assert!(root.adopt(resting, &owner("db"), at(50)).is_ok());

    let mut cluster = cluster(1, &["10.30.0.64/26"]);
    cluster
        .adopt("10.30.0.64".parse().unwrap(), instance(0), at(0))
        .unwrap();
    assert_eq!(
        cluster
            .adopt("10.30.0.64".parse().unwrap(), node("a1"), at(0))
            .unwrap_err()
            .to_string(),
        "address 10.30.0.64 belongs to instance shop.prod.web.front.0; choose another"
    );
    cluster
        .hold("10.30.0.65".parse().unwrap(), instance(9), at(0))
        .unwrap();
    assert!(
        cluster
            .hold("10.30.0.64".parse().unwrap(), instance(9), at(0))
            .is_err()
    );
    assert!(
        cluster
            .adopt("10.30.0.65".parse().unwrap(), node("a1"), at(0))
            .is_err()
    );
    assert_eq!(cluster.held(at(0)).count(), 1);
    assert_eq!(cluster.owners().count(), 1);
    assert_eq!(
        cluster.assign(&instance(1), at(0)),
        Ok(dual("10.30.0.66", ""))
    );
}
