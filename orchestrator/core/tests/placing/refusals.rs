//! A refusal tries the next worker, then the next cluster, and each one's reason is kept.

use super::*;

fn busy(text: &str) -> Reason {
    Reason::Unavailable {
        text: text.to_owned(),
    }
}

fn id(node: &str) -> NodeId {
    node.parse().unwrap()
}

/// Munich has the most left, on `a` more than on `b`; paris the least.
fn sites() -> Tiers {
    Tiers::new(&[
        ("munich", &[("a", 4000, 4000), ("b", 3000, 3000)]),
        ("paris", &[("a", 1000, 1000)]),
    ])
}

fn explained(tiers: &Tiers, instance: &InstanceId) -> String {
    let known = tiers.root.instance(instance).unwrap();
    known.history.explain(instance, tiers.at())
}

#[test]
fn a_worker_that_rejects_is_followed_by_the_next_one() {
    let mut tiers = sites();
    tiers.rejecting.insert(id("munich/a"), busy("it is full"));
    let before = tiers.now;
    let instance = tiers.deploy(draft("shop", 500, 400));
    assert_eq!(tiers.host(&instance), "munich/b");
    assert_eq!(tiers.phase(&instance), Phase::Running);
    assert_eq!(tiers.now, before, "nobody waited for anything");
    let only = |tiers: &Tiers, node: &str| {
        let worker = tiers.workers.get(&id(node)).unwrap();
        worker.instances().count()
    };
    assert_eq!(only(&tiers, "munich/a"), 0);
    assert_eq!(only(&tiers, "munich/b"), 1);
    assert_eq!(only(&tiers, "paris/a"), 0);
    // What it reserved on the first is free again: the next one fits there exactly.
    tiers.rejecting.clear();
    let whole = tiers.deploy(draft("large", 4000, 4000));
    assert_eq!(tiers.host(&whole), "munich/a");
}

#[test]
fn a_cluster_whose_workers_all_reject_is_followed_by_the_next_one_in_the_same_attempt() {
    let mut tiers = sites();
    tiers.rejecting.insert(id("munich/a"), busy("it is full"));
    tiers
        .rejecting
        .insert(id("munich/b"), busy("it is leaving"));
    let before = tiers.now;
    let instance = tiers.deploy(draft("shop", 500, 400));
    assert_eq!(tiers.host(&instance), "paris/a");
    assert_eq!(tiers.phase(&instance), Phase::Running);
    assert_eq!(tiers.now, before, "nobody waited for anything");
    let known = tiers.root.instance(&instance).unwrap();
    let attempts: Vec<_> = known.history.attempts().collect();
    let refusals = attempts.iter().flat_map(|it| &it.refusals);
    let refusals: Vec<_> = refusals.map(|it| (it.by.as_str(), &it.reason)).collect();
    assert_eq!(
        refusals,
        [
            ("munich/a", &busy("it is full")),
            ("munich/b", &busy("it is leaving")),
        ]
    );
    let taken: Vec<_> = attempts
        .iter()
        .filter_map(|it| it.taken.as_deref())
        .collect();
    assert_eq!(taken, ["paris/a"]);
    let text = explained(&tiers, &instance);
    for line in [
        "taken by paris",
        "  munich/a: not available: it is full\n",
        "  munich/b: not available: it is leaving\n",
    ] {
        assert!(text.contains(line), "{line:?} is not in:\n{text}");
    }
}

#[test]
fn an_answer_that_is_late_does_not_take_it_back_from_the_next_one() {
    let mut tiers = sites();
    let (slow, next) = (id("munich/a"), id("munich/b"));
    tiers.late.insert(slow.clone(), Vec::new());
    let instance = tiers.deploy(draft("shop", 500, 400));
    assert_ne!(tiers.phase(&instance), Phase::Running);
    tiers.pass(cluster::ANSWER - Duration::from_millis(200));
    assert_eq!(tiers.host(&instance), "", "it has its time");
    tiers.pass(Duration::from_millis(400));
    assert_eq!(tiers.host(&instance), "munich/b");
    assert_eq!(tiers.phase(&instance), Phase::Running);
    let life = tiers.root.instance(&instance).unwrap().life.generation();

    // Now it hears all of it, and says what it makes of that.
    for input in tiers.late.remove(&slow).unwrap() {
        tiers.queue.push_back(Event::Worker(slow.clone(), input));
    }
    tiers.pass(Duration::from_secs(5));
    assert_eq!(tiers.host(&instance), "munich/b");
    assert_eq!(tiers.phase(&instance), Phase::Running);
    let now = tiers.root.instance(&instance).unwrap();
    assert_eq!(now.life.generation(), life, "it is the same life");
    let runs = |node: &NodeId| {
        let worker = tiers.workers.get(node).unwrap();
        let runs = |it: &&weald_proto::control::InstanceReport| it.phase == Phase::Running;
        worker.instances().filter(runs).count()
    };
    assert_eq!((runs(&slow), runs(&next)), (0, 1));
}

#[test]
fn a_rejection_that_is_late_counts_for_nothing() {
    let mut tiers = sites();
    let instance = tiers.deploy(draft("shop", 500, 400));
    assert_eq!(tiers.host(&instance), "munich/a");
    let generation = tiers.root.instance(&instance).unwrap().life.generation();
    let before = explained(&tiers, &instance);
    for (node, generation) in [
        ("munich/a", generation),
        ("munich/a", generation + 1),
        ("munich/a", 0),
        ("munich/b", generation),
        ("paris/a", generation),
    ] {
        let rejected = WorkerToCluster::Rejected {
            instance: instance.clone(),
            generation,
            reason: busy("too late"),
        };
        tiers.worker_says(&id(node), rejected);
        tiers.settle();
        assert_eq!(tiers.host(&instance), "munich/a");
        assert_eq!(tiers.phase(&instance), Phase::Running);
    }
    assert_eq!(explained(&tiers, &instance), before);
}
