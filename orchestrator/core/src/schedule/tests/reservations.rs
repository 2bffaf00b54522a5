//! Reserving and releasing: never too much, and nothing is lost.

use proptest::prelude::*;
use weald_proto::table::{PortMapping, Transport};

use super::*;
use crate::resources::MAX_PER_NODE;

fn with_port(host: u16, transport: Transport) -> ServiceSpec {
    ServiceSpec {
        ports: vec![PortMapping {
            host,
            instance: 80,
            transport,
        }],
        ..spec(amount(100, 100))
    }
}

#[test]
fn what_does_not_fit_is_refused_with_figures() {
    let mut nodes = inventory(&[("a", 1_000, 1_000)]);
    let service = spec(amount(600, 100));
    nodes
        .reserve(&label("a"), &instance(0), 1, &service)
        .unwrap();
    assert_eq!(
        nodes.reserve(&label("a"), &instance(1), 1, &service),
        Err(ReserveError::Refused(Reason::Insufficient {
            resource: "processors (1/1000)".to_owned(),
            needed: 600,
            free: 400
        }))
    );
    let unknown = nodes.reserve(&label("z"), &instance(1), 1, &service);
    assert_eq!(
        unknown.unwrap_err().to_string(),
        "cluster munich has no node z"
    );
    assert!(nodes.release(&instance(0), 1));
    assert!(!nodes.release(&instance(0), 1));
    assert_eq!(
        nodes.node(&label("a")).unwrap().free(),
        amount(1_000, 1_000)
    );
}

#[test]
fn one_life_is_on_one_node_and_a_move_is_made_before_it_breaks() {
    let mut nodes = inventory(&[("a", 1_000, 1_000), ("b", 1_000, 1_000)]);
    let service = spec(amount(600, 600));
    let reserved = |nodes: &Inventory| {
        ["a", "b"].map(|name| nodes.node(&label(name)).unwrap().reserved().millicpus)
    };
    for _ in 0..2 {
        nodes
            .reserve(&label("a"), &instance(0), 1, &service)
            .unwrap();
        assert_eq!(reserved(&nodes), [600, 0], "twice is once");
    }
    nodes
        .reserve(&label("b"), &instance(0), 1, &service)
        .unwrap();
    assert_eq!(reserved(&nodes), [0, 600], "the same life moves");
    nodes
        .reserve(&label("a"), &instance(0), 2, &service)
        .unwrap();
    assert_eq!(reserved(&nodes), [600, 600], "the earlier life stays");
    assert_eq!(
        nodes
            .reserve(&label("b"), &instance(0), 1, &service)
            .unwrap_err()
            .to_string(),
        "shop.prod.web.front.0 is reserved in generation 2, which is later than 1"
    );
    assert!(nodes.release(&instance(0), 1));
    assert_eq!(reserved(&nodes), [600, 0]);
    nodes
        .reserve(&label("a"), &instance(0), 3, &spec(amount(1_000, 1)))
        .unwrap();
    assert_eq!(reserved(&nodes), [1_000, 0], "in place of the earlier life");
}

#[test]
fn a_port_of_the_host_has_one_user() {
    let mut nodes = inventory(&[("a", 1_000, 1_000)]);
    let http = with_port(8080, Transport::Tcp);
    nodes.reserve(&label("a"), &instance(0), 1, &http).unwrap();
    let taken = Reason::PortTaken {
        port: "8080/tcp".to_owned(),
        by: "shop.prod.web.front.0".to_owned(),
    };
    assert_eq!(
        nodes.reserve(&label("a"), &instance(1), 1, &http),
        Err(ReserveError::Refused(taken.clone()))
    );
    let by = "munich/a".to_owned();
    let refusals = vec![Refusal { by, reason: taken }];
    assert_eq!(BestFit.place(&http, &nodes), Err(refusals));
    let udp = with_port(8080, Transport::Udp);
    nodes.reserve(&label("a"), &instance(1), 1, &udp).unwrap();
    nodes.reserve(&label("a"), &instance(0), 2, &http).unwrap();
}

#[test]
fn a_node_that_shrinks_keeps_its_reservations_and_takes_nothing_more() {
    let mut nodes = inventory(&[("a", 1_000, 1_000)]);
    nodes
        .reserve(&label("a"), &instance(0), 1, &spec(amount(800, 800)))
        .unwrap();
    nodes.set_node(label("a"), capacity(amount(500, 2_000)));
    let node = nodes.node(&label("a")).unwrap();
    assert_eq!(node.reserved(), amount(800, 800));
    assert_eq!(node.free(), amount(0, 1_200));
    assert!(BestFit.place(&spec(amount(1, 0)), &nodes).is_err());
    assert!(nodes.remove_node(&label("a")));
    assert!(!nodes.release(&instance(0), 1));
    assert!(!nodes.set_unavailable(&label("a"), None));
}

#[test]
fn aggregates_are_of_live_nodes() {
    let mut nodes = inventory(&[
        ("a", 1_000, 4_000),
        ("b", 3_000, 1_000),
        ("c", 9_000, 9_000),
    ]);
    nodes.set_unavailable(&label("c"), Some("silent for 3 s".to_owned()));
    assert!(nodes.set_load(&label("a"), 80.0, 2_000));
    assert!(nodes.set_load(&label("b"), 40.0, 500));
    assert!(!nodes.set_load(&label("z"), 1.0, 1));
    nodes
        .reserve(&label("b"), &instance(0), 1, &spec(amount(1_000, 0)))
        .unwrap();
    let all = nodes.aggregate();
    assert_eq!(all.nodes, 2);
    assert_eq!(all.total, amount(4_000, 5_000));
    assert_eq!(all.free, amount(3_000, 5_000));
    assert_eq!(all.largest_free, amount(2_000, 4_000));
    assert_eq!(all.free_millicpus_mean_deviation, (1_500.0, 500.0));
    assert_eq!(all.free_memory_mean_deviation, (2_500.0, 1_500.0));
    assert!((all.cpu_percent - 50.0).abs() < 1e-4, "{}", all.cpu_percent);
    assert!(
        (all.memory_percent - 50.0).abs() < 1e-4,
        "{}",
        all.memory_percent
    );
    assert_eq!(all.runtimes, [Runtime::Process]);
    assert_eq!(
        inventory(&[]).aggregate(),
        weald_proto::control::Aggregate::default()
    );
}

#[derive(Debug, Clone)]
enum Step {
    Place(u32, u64, Resources),
    /// Reserves on a node that no scheduler advised.
    Reserve(usize, u32, u64, Resources),
    Release(u32, u64),
    Silent(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let needs = (0_u32..900, 0_u32..900, 0_u32..2).prop_map(|(cpu, memory, gpus)| Resources {
        gpus,
        ..amount(cpu, memory)
    });
    let step = prop_oneof![
        4 => (0_usize..4, 0_u32..12, 1_u64..4, needs.clone()).prop_map(|(at, n, g, it)| Step::Reserve(at, n, g, it)),
        6 => (0_u32..12, 1_u64..4, needs).prop_map(|(n, g, it)| Step::Place(n, g, it)),
        3 => (0_u32..12, 1_u64..4).prop_map(|(n, g)| Step::Release(n, g)),
        1 => (0_usize..4).prop_map(Step::Silent),
    ];
    proptest::collection::vec(step, 0..60)
}

proptest! {
    /// Whatever is placed and released: no node promises more than it has, what a scheduler advises
    /// can be reserved, root never leaves out a cluster that could, and in the end all is free.
    #[test]
    fn nothing_is_promised_twice(
        sizes in proptest::collection::vec((0_u32..2_000, 0_u32..2_000, 0_u32..3), 0..4),
        steps in steps(),
    ) {
        let mut nodes = inventory(&[]);
        let names: Vec<Label> = (0..sizes.len()).map(|n| label(&format!("n{n}"))).collect();
        for (name, (cpu, memory, gpus)) in names.iter().zip(&sizes) {
            nodes.set_node(name.clone(), capacity(Resources { gpus: *gpus, ..amount(*cpu, *memory) }));
        }
        for step in steps {
            match step {
                Step::Place(number, generation, needs) => {
                    let service = spec(needs);
                    let ranked = rank(&service, &[candidate("munich", &nodes)]);
                    match BestFit.place(&service, &nodes) {
                        Ok(placement) => {
                            prop_assert_eq!(ranked.order.len(), 1);
                            let most = placement.node.name;
                            match nodes.reserve(&most, &instance(number), generation, &service) {
                                Ok(()) => {}
                                Err(ReserveError::Stale { known, .. }) => prop_assert!(known > generation),
                                Err(other) => prop_assert!(false, "{other}"),
                            }
                        }
                        Err(refusals) => {
                            for name in &names {
                                let by = nodes.id(name).to_string();
                                prop_assert!(refusals.iter().any(|it| it.by == by));
                            }
                        }
                    }
                }
                Step::Reserve(index, number, generation, needs) => {
                    if let Some(name) = names.get(index) {
                        let before = nodes.node(name).unwrap().reserved();
                        if nodes.reserve(name, &instance(number), generation, &spec(needs)).is_err() {
                            prop_assert_eq!(nodes.node(name).unwrap().reserved(), before);
                        }
                    }
                }
                Step::Release(number, generation) => {
                    nodes.release(&instance(number), generation);
                }
                Step::Silent(index) => {
                    if let Some(name) = names.get(index) {
                        let silent = nodes.node(name).unwrap().unavailable().is_some();
                        nodes.set_unavailable(name, (!silent).then(|| "silent".to_owned()));
                    }
                }
            }
            for (_, node) in nodes.nodes() {
                let (reserved, total) = (node.reserved(), node.capacity().total);
                for (resource, of) in crate::resources::RESOURCES {
                    prop_assert!(of(&reserved) <= of(&total), "{resource}");
                    prop_assert_eq!(of(&reserved) + of(&node.free()), of(&total));
                }
            }
        }
        for number in 0..12 {
            nodes.release(&instance(number), u64::MAX);
        }
        for (_, node) in nodes.nodes() {
            prop_assert_eq!(node.free(), node.capacity().total);
        }
    }
}

#[test]
fn the_lease_of_a_full_node_is_one_statement() {
    use weald_proto::addr::Dual;
    use weald_proto::codec::{MAX_TEXT_LEN, Message as _};
    use weald_proto::statement::{Lease, LeasedInstance, Statement};

    // As long as SLAs may have names, and everybody else.
    let name = |length: usize| label(&"n".repeat(length));
    let application = weald_proto::name::ApplicationName {
        name: name(30),
        namespace: name(30),
    };
    let service = weald_proto::name::ServiceName {
        application,
        name: name(30),
        namespace: name(30),
    };
    let both = Dual {
        v4: Some([10, 30, 255, 255].into()),
        v6: Some([0xff; 16].into()),
    };
    let leased = |number: u32| LeasedInstance {
        instance: InstanceId {
            service: service.clone(),
            number: u32::MAX - number,
        },
        organisation: Organisation(name(63)),
        generation: u64::MAX,
        instance_ip: both,
    };
    let most = u32::try_from(MAX_PER_NODE).unwrap();
    let lease = Statement::Lease(Lease {
        node: weald_proto::id::NodeId::new(name(63), name(63)),
        epoch: u64::MAX,
        expires: u64::MAX,
        node_ip: both,
        instances: (0..most).map(leased).collect(),
    });
    // What is signed may have as many bytes as one field.
    let bytes = lease.encode().unwrap().len();
    assert!(bytes <= MAX_TEXT_LEN, "{bytes} bytes");
}

#[test]
fn a_node_has_room_for_so_many_instances_whatever_else_is_free() {
    let mut nodes = inventory(&[("a", 1_000, 1_000)]);
    let service = spec(amount(0, 0));
    let most = u32::try_from(MAX_PER_NODE).unwrap();
    let a = label("a");
    for number in 0..most {
        nodes.reserve(&a, &instance(number), 1, &service).unwrap();
    }
    let refused = nodes.reserve(&a, &instance(most), 1, &service);
    let crowded = Reason::Insufficient {
        resource: "instances (256 per node)".to_owned(),
        needed: 1,
        free: 0,
    };
    assert_eq!(refused, Err(ReserveError::Refused(crowded)));
    // A later life takes the place of an earlier one.
    nodes.reserve(&a, &instance(0), 2, &service).unwrap();
    assert!(nodes.release(&instance(1), 1));
    nodes.reserve(&a, &instance(most), 1, &service).unwrap();
}
