//! A node that says what is not so: its worker of instances, lives, addresses and logs that are not its
//! own, its netmanager of what it is and may have.

use super::*;
use weald_proto::codec::MAX_LIST_LEN;
use weald_proto::control::InstanceReport;

/// All that somebody else could see of a lie.
fn shown(tiers: &Tiers) -> String {
    let instances: Vec<_> = tiers.root.instances().collect();
    let clusters = tiers.clusters.values();
    let clusters: Vec<_> = clusters
        .map(|it| {
            let reports: Vec<_> = it.instances().collect();
            let owners: Vec<_> = it.owners_of_addresses().collect();
            format!("{reports:?} {owners:?}")
        })
        .collect();
    format!("{instances:?} {clusters:?}")
}

#[test]
fn reports_of_what_a_worker_was_not_given_are_refused_and_counted() {
    let mut tiers = Tiers::new(&[("munich", &[("a", 1000, 1000), ("b", 100, 100)])]);
    let instance = tiers.deploy(draft("shop", 500, 400));
    assert_eq!(tiers.host(&instance), "munich/a");
    let generation = tiers.root.instance(&instance).unwrap().life.generation();
    tiers.join("munich/a", "shop.prod");
    tiers.pass(Duration::from_secs(2));
    tiers.told("munich/a");
    let (honest, liar): (NodeId, NodeId) =
        ("munich/a".parse().unwrap(), "munich/b".parse().unwrap());
    let other = InstanceId {
        number: instance.number + 1,
        ..instance.clone()
    };
    let before = shown(&tiers);
    let refused = |tiers: &Tiers| tiers.clusters[&label("munich")].refused_reports();
    assert_eq!(refused(&tiers), 0);
    let lies = [
        ("another's instance", &liar, &instance, generation),
        ("one that there is not", &liar, &other, generation),
        ("one that there is not", &honest, &other, 1),
        ("a later life", &honest, &instance, generation + 1),
        ("the last life of all", &honest, &instance, u64::MAX),
    ];
    // Later than anything that the workers have said themselves.
    let mut sequence = 1_000_000;
    for (what, node, instance, generation) in lies {
        let counted = refused(&tiers);
        for phase in [Phase::Running, Phase::Failed] {
            let report = InstanceReport {
                node: Some(node.clone()),
                detail: "a lie".to_owned(),
                exit_status: Some(1),
                ..InstanceReport::new(instance.clone(), generation, phase)
            };
            sequence += 1;
            tiers.worker_says(
                node,
                WorkerToCluster::Report {
                    sequence,
                    complete: false,
                    instances: vec![report],
                },
            );
            tiers.settle();
            assert_eq!(shown(&tiers), before, "{what}, {phase:?}");
            let told = tiers.told("munich/a");
            assert!(rows(&told).is_empty(), "{what}: {told:?}");
        }
        assert!(refused(&tiers) > counted, "{what} is not counted");
    }
    // Each of the two is told of once for a while, and not with every lie.
    let text = |node: &NodeId, instance: &InstanceId, generation: u64| {
        format!(
            "node {node} reports {instance} in generation {generation}, which it shall not have: \
             that is not believed; nothing else has changed. Once it may be late news over a broken \
             link; if that goes on, look at that node, or have nobody trust it any more: weald revoke \
             node {node}"
        )
    };
    let expected = [text(&liar, &instance, generation), text(&honest, &other, 1)];
    assert_eq!(tiers.lies, expected);
    // The honest one goes on.
    tiers.pass(Duration::from_secs(3));
    assert_eq!(tiers.phase(&instance), Phase::Running);
    assert_eq!(tiers.host(&instance), "munich/a");
}

/// What a worker says of one instance.
fn report(sequence: u64, report: InstanceReport) -> WorkerToCluster {
    WorkerToCluster::Report {
        sequence,
        complete: false,
        instances: vec![report],
    }
}

/// A site of two nodes with an instance on `a`, whose netmanagers listen.
fn site() -> (Tiers, InstanceId, NodeId, NodeId) {
    let mut tiers = Tiers::new(&[("munich", &[("a", 1000, 1000), ("b", 600, 600)])]);
    let instance = tiers.deploy(draft("shop", 500, 400));
    assert_eq!(tiers.host(&instance), "munich/a");
    tiers.join("munich/a", "shop.prod");
    tiers.join("munich/b", "shop.prod");
    tiers.pass(Duration::from_secs(2));
    let (a, b) = ("munich/a".parse().unwrap(), "munich/b".parse().unwrap());
    (tiers, instance, a, b)
}

fn generation(tiers: &Tiers, instance: &InstanceId) -> u64 {
    tiers.root.instance(instance).unwrap().life.generation()
}

/// The instances that a node may send from.
fn leased(tiers: &Tiers, node: &str) -> Vec<(InstanceId, u64, Dual)> {
    let lease = tiers.clusters[&label("munich")].lease(&label(node));
    let instances = lease.unwrap().instances.into_iter();
    instances
        .map(|it| (it.instance, it.generation, it.instance_ip))
        .collect()
}

#[test]
fn where_an_instance_is_and_which_addresses_it_has_is_not_the_workers_to_say() {
    let (mut tiers, instance, a, b) = site();
    let other = tiers.deploy(draft("bank", 500, 400));
    assert_eq!(tiers.host(&other), "munich/b");
    tiers.pass(Duration::from_secs(2));
    let (before, own, theirs) = (shown(&tiers), leased(&tiers, "a"), leased(&tiers, "b"));
    assert_eq!((own.len(), theirs.len()), (1, 1));
    tiers.told("munich/a");
    tiers.told("munich/b");
    let lie = InstanceReport {
        node: Some(b),
        instance_ip: theirs[0].2,
        ..InstanceReport::new(
            instance.clone(),
            generation(&tiers, &instance),
            Phase::Running,
        )
    };
    tiers.worker_says(&a, report(1_000_000, lie));
    tiers.settle();
    tiers.pass(Duration::from_secs(2));
    assert_eq!(shown(&tiers), before);
    assert_eq!((leased(&tiers, "a"), leased(&tiers, "b")), (own, theirs));
    for node in ["munich/a", "munich/b"] {
        let told = tiers.told(node);
        assert!(rows(&told).is_empty(), "{told:?}");
    }
}

#[test]
fn who_rejects_or_ends_what_another_one_has_changes_nothing() {
    let (mut tiers, instance, a, b) = site();
    let generation = generation(&tiers, &instance);
    let before = shown(&tiers);
    let ended = InstanceReport::new(instance.clone(), generation, Phase::Terminated);
    let reason = Reason::Unavailable {
        text: "a lie".to_owned(),
    };
    let rejected = |instance: &InstanceId, generation| WorkerToCluster::Rejected {
        instance: instance.clone(),
        generation,
        reason: reason.clone(),
    };
    for (node, lie) in [
        (&b, report(1_000_000, ended)),
        (&b, rejected(&instance, generation)),
        (&b, rejected(&instance, u64::MAX)),
        // It has taken it before, and cannot take that back.
        (&a, rejected(&instance, generation)),
    ] {
        tiers.worker_says(node, lie.clone());
        tiers.settle();
        assert_eq!(shown(&tiers), before, "{lie:?}");
    }
    tiers.pass(Duration::from_secs(3));
    assert_eq!(tiers.phase(&instance), Phase::Running);
    assert_eq!(tiers.host(&instance), "munich/a");
}

#[test]
fn an_old_life_that_is_said_to_run_after_its_removal_comes_into_no_table_and_no_lease() {
    let (mut tiers, instance, a, _) = site();
    let old = generation(&tiers, &instance);
    let service = tiers.root.services().next().unwrap().id.clone();
    tiers
        .command(Command::Undeploy(service.clone(), Some(0)))
        .unwrap();
    tiers.pass(Duration::from_secs(15));
    assert!(tiers.root.instance(&instance).is_none());
    assert_eq!(leased(&tiers, "a"), []);
    tiers.told("munich/b");
    let lie = InstanceReport::new(instance.clone(), old, Phase::Running);
    tiers.worker_says(&a, report(1_000_000, lie.clone()));
    tiers.settle();
    tiers.pass(Duration::from_secs(3));
    assert!(tiers.root.instance(&instance).is_none());
    assert_eq!(leased(&tiers, "a"), []);
    let told = tiers.told("munich/b");
    assert!(rows(&told).is_empty(), "{told:?}");
    assert_eq!(tiers.lies.len(), 1, "{:?}", tiers.lies);
    assert!(tiers.lies[0].contains("which it shall not have"));

    // The same while a later instance of the service runs: it is not taken for that one.
    let done = tiers.command(Command::Deploy(service)).unwrap();
    let next = done.instances[0].clone();
    tiers.pass(Duration::from_secs(3));
    assert_eq!(tiers.phase(&next), Phase::Running);
    let (before, lease) = (shown(&tiers), leased(&tiers, "a"));
    tiers.worker_says(&a, report(2_000_000, lie));
    tiers.settle();
    assert_eq!(shown(&tiers), before);
    assert_eq!(leased(&tiers, "a"), lease);
}

#[test]
fn a_log_is_believed_of_the_node_that_was_asked_only() {
    let (mut tiers, instance, a, b) = site();
    let (step, asked) = tiers.root.read_logs(&instance, 10).unwrap();
    tiers.root_effects(step);
    tiers.settle();
    // The first request of a cluster has the number 1, as everybody can guess.
    let logs = |request, text: &str| WorkerToCluster::Logs {
        request,
        lines: Ok(vec![text.to_owned()]),
    };
    for request in 0..5 {
        tiers.worker_says(&b, logs(request, "forged"));
    }
    tiers.settle();
    assert!(tiers.logs.is_empty(), "{:?}", tiers.logs);
    let told = "node munich/b answers with a log that munich/a was asked for: it is not shown; nothing \
                else has changed.";
    assert!(tiers.lies[0].starts_with(told), "{:?}", tiers.lies);
    assert_eq!(tiers.clusters[&label("munich")].refused_reports(), 1);
    tiers.worker_says(&a, logs(1, "true"));
    tiers.worker_says(&a, logs(1, "once more"));
    tiers.settle();
    let expected = Ok(vec!["true".to_owned()]);
    assert_eq!(tiers.logs, BTreeMap::from([(asked, expected)]));
}

#[test]
fn a_worker_that_makes_up_instances_without_end_costs_no_more_than_one_that_is_full() {
    let (mut tiers, instance, _, b) = site();
    let before = shown(&tiers);
    let made_up = |round: usize| {
        let all = (0..MAX_LIST_LEN).map(|number| InstanceId {
            number: u32::try_from(1000 + round * MAX_LIST_LEN + number).unwrap(),
            ..instance.clone()
        });
        let all = all.map(|it| InstanceReport::new(it, 1, Phase::Running));
        all.collect::<Vec<_>>()
    };
    let cluster = label("munich");
    for round in 0..3 {
        let lie = WorkerToCluster::Report {
            sequence: 1_000_000 + u64::try_from(round).unwrap(),
            complete: false,
            instances: made_up(round),
        };
        let input = cluster::Input::Worker(b.name.clone(), lie);
        let now = tiers.at();
        let step = tiers.clusters.get_mut(&cluster).unwrap().handle(input, now);
        let stops = step.unwrap().effects.into_iter().filter(|effect| {
            matches!(
                effect,
                cluster::Effect::ToWorker(_, ClusterToWorker::Stop { .. })
            )
        });
        let expected = if round == 0 { MAX_LIST_LEN } else { 0 };
        assert_eq!(stops.count(), expected, "round {round}");
    }
    let refused = tiers.clusters[&cluster].refused_reports();
    assert_eq!(refused, 3 * u64::try_from(MAX_LIST_LEN).unwrap());
    assert_eq!(shown(&tiers), before);
}

#[test]
fn what_a_netmanager_claims_of_itself_gives_it_nothing() {
    let (mut tiers, instance, ..) = site();
    // It has an instance of the same application, so that the other node is told where it is.
    let service = tiers.root.services().next().unwrap().id.clone();
    let second = tiers.command(Command::Deploy(service)).unwrap().instances;
    assert_eq!(tiers.host(&second[0]), "munich/b");
    tiers.pass(Duration::from_secs(2));
    let (before, own, theirs) = (shown(&tiers), leased(&tiers, "a"), leased(&tiers, "b"));
    assert_eq!((own.len(), theirs.len()), (1, 1));
    tiers.told("munich/a");
    tiers.told("munich/b");
    // It says that it has the newest of everything, and that it is where the other node is.
    let claimed = vec!["10.0.0.77:4433".parse().unwrap()];
    tiers.net(
        "munich/b",
        NetToCluster::Hello {
            version: 1,
            addresses: claimed.clone(),
            lease: u64::MAX,
            revocations: u64::MAX,
        },
    );
    tiers.pass(Duration::from_secs(2));
    assert_eq!(shown(&tiers), before);
    assert_eq!(
        (leased(&tiers, "a"), leased(&tiers, "b")),
        (own, theirs.clone())
    );
    // Its lease is the true one, whatever epoch it says to have.
    let told = tiers.told("munich/b");
    let statements = told.iter().filter_map(|it| {
        let ClusterToNet::Lease(signed) = it else {
            return None;
        };
        Statement::decode(&signed.statement).ok()
    });
    let leases: Vec<_> = statements.collect();
    assert!(!leases.is_empty(), "{told:?}");
    for lease in leases {
        let Statement::Lease(lease) = lease else {
            panic!("{lease:?}");
        };
        assert_eq!(lease.node.to_string(), "munich/b");
        let named: Vec<_> = lease.instances.iter().map(|it| &it.instance).collect();
        assert_eq!(named, [&theirs[0].0]);
        assert!(lease.epoch < u64::MAX);
    }
    // Where it says to be dialled stands in its own row alone.
    let told = rows(&tiers.told("munich/a"));
    assert!(!told.is_empty(), "nobody is told of its address");
    for statement in told {
        let Statement::Node(row) = &statement else {
            panic!("{statement:?}");
        };
        assert_eq!(row.node.to_string(), "munich/b");
        assert!(row.addresses.contains(&claimed[0]), "{row:?}");
    }
    assert_eq!(tiers.host(&instance), "munich/a");
}

/// Whatever nodes say that they have, their cluster can say it of all of them: each of its messages
/// is encoded here.
#[test]
fn nodes_that_say_much_do_not_silence_their_cluster() {
    let names = ["a", "b", "c"];
    let mut tiers = Tiers::new(&[("munich", &names.map(|name| (name, 100, 100)))]);
    for name in names {
        let addons = (0..1024).map(|number| format!("{name} {number:0>1000}"));
        let capacity = NodeCapacity {
            total: Resources::default(),
            runtimes: vec![Runtime::Process; 1024],
            addons: addons.collect(),
            place: None,
        };
        let hello = WorkerToCluster::Hello {
            version: weald_proto::control::VERSION,
            capacity,
        };
        tiers.worker_says(&NodeId::new(label("munich"), label(name)), hello);
    }
    tiers.pass(Duration::from_secs(2));
    let (_, standing, aggregate, nodes) = tiers.root.clusters().next().unwrap();
    assert_eq!((standing, nodes.len()), (Standing::Alive, 3));
    assert!(nodes.iter().all(|it| it.capacity.addons.len() == 64));
    // Those of a node differ only behind what is told of a name.
    assert_eq!(aggregate.unwrap().addons.len(), 3);
}
