//! A worker that says what is not so: of instances and lives that it was never given.

use super::*;
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
    for (at, (what, node, instance, generation)) in lies.into_iter().enumerate() {
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
        assert!(
            refused(&tiers) > u64::try_from(at).unwrap(),
            "{what} is not counted"
        );
    }
    // The honest one goes on.
    tiers.pass(Duration::from_secs(3));
    assert_eq!(tiers.phase(&instance), Phase::Running);
    assert_eq!(tiers.host(&instance), "munich/a");
}
