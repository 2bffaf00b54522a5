//! Nodes and clusters that are gone for good or come back, and lives that have moved: what they had is
//! given back once, and what is said of them is believed.

use orchestrator_core::cluster::LEASE_LIFE;
use weald_proto::control::RootToCluster;
use weald_proto::statement::NodeStatement;

use super::leftovers::{replace_disk, restart_munich, rows_of_the_next};
use super::*;

fn node(text: &str) -> NodeId {
    text.parse().unwrap()
}

/// An instance on munich/a, and munich/b beside it.
fn on_one_of_two() -> (Tiers, InstanceId) {
    let sites: [(&str, &[Host]); 1] = [("munich", &[("a", 4000, 4000), ("b", 4000, 4000)])];
    let mut tiers = Tiers::new(&sites);
    let instance = tiers.deploy(draft("shop", 500, 400));
    assert_eq!(tiers.host(&instance), "munich/a");
    (tiers, instance)
}

fn munich_hears(tiers: &mut Tiers, message: RootToCluster) {
    tiers.tell_cluster("munich", cluster::Input::Root(message));
}

/// Munich is offered a later life of what runs there, which goes to the node with more left.
fn move_to_b(tiers: &mut Tiers, instance: &InstanceId) -> u64 {
    let generation = tiers.root.instance(instance).unwrap().life.generation() + 1;
    let spec = tiers.root.services().next().unwrap().spec.clone();
    let offer = RootToCluster::Offer {
        instance: instance.clone(),
        generation,
        spec: Box::new(spec),
        within_ms: 1000,
    };
    munich_hears(tiers, offer);
    let reports = tiers.clusters[&label("munich")].instances();
    let places: Vec<_> = reports.filter_map(|it| it.node.clone()).collect();
    assert_eq!(places, [node("munich/b")]);
    generation
}

#[test]
fn a_life_that_has_moved_gives_its_former_place_back() {
    let (mut tiers, instance) = on_one_of_two();
    move_to_b(&mut tiers, &instance);
    tiers.pass(Duration::from_secs(3));
    assert_eq!(tiers.workers[&node("munich/a")].instances().count(), 0);
    let (.., nodes) = tiers.root.clusters().next().unwrap();
    let reserved = nodes.iter().map(|it| it.reserved.millicpus);
    assert_eq!(reserved.collect::<Vec<_>>(), [0, 500]);
}

/// Its former node is silent when it is withdrawn, and dies: nobody waits for that one any more.
#[test]
fn nobody_waits_for_a_node_that_dies_after_a_life_has_moved_away() {
    let (mut tiers, instance) = on_one_of_two();
    tiers.silent.push(node("munich/a"));
    let generation = move_to_b(&mut tiers, &instance);
    let ended = |tiers: &Tiers| {
        let reports = tiers.clusters[&label("munich")].instances();
        let mut of_it = reports.filter(|it| it.instance == instance);
        of_it.all(|it| it.phase == Phase::Terminated)
    };
    let withdraw = RootToCluster::Withdraw {
        instance: instance.clone(),
        generation,
    };
    munich_hears(&mut tiers, withdraw);
    tiers.pass(Duration::from_secs(3));
    assert_eq!(tiers.workers[&node("munich/b")].instances().count(), 0);
    assert!(!ended(&tiers), "its former node may have it still");
    tiers.pass(Duration::from_secs(2));
    assert!(ended(&tiers), "its former node is dead");
}

/// It counts as alive from the start of the cluster on, so nothing changes when it is heard of.
#[test]
fn a_node_that_comes_back_to_another_start_of_its_cluster_is_in_the_tables() {
    let (mut tiers, instance) = on_one_of_two();
    tiers.silent.push(node("munich/a"));
    tiers.pass(Duration::from_secs(6));
    let of_a = |rows: &[Statement]| last_row(rows, "munich/a").map(|row| row.removed);
    assert_eq!(of_a(&rows_of_the_next(&tiers)), Some(true));
    tiers.silent.clear();
    restart_munich(&mut tiers);
    tiers.join("munich/b", "shop.prod");
    tiers.pass(Duration::from_secs(2));
    assert_eq!(of_a(&rows(&tiers.told("munich/b"))), Some(false));
    assert_eq!(tiers.host(&instance), "munich/a");
    assert_eq!(tiers.phase(&instance), Phase::Running);
}

/// What was said of a node last.
fn last_row(rows: &[Statement], of: &str) -> Option<NodeStatement> {
    let of_nodes = rows.iter().filter_map(|row| match row {
        Statement::Node(row) => Some(row),
        Statement::Service(_)
        | Statement::Instance(_)
        | Statement::Relay(_)
        | Statement::Grant(_)
        | Statement::Revocations(_)
        | Statement::Lease(_) => None,
    });
    let mut of_it = of_nodes.filter(|row| row.node == node(of)).cloned();
    of_it.next_back()
}

fn add(tiers: &mut Tiers, name: &str, key: u8) {
    let added = tiers.command(Command::AddCluster {
        name: label(name),
        key: [key; 32],
        organisations: None,
        owner: organisation("acme"),
    });
    added.unwrap();
}

/// Nodes of it may have leases of it for as long.
#[test]
fn blocks_of_a_cluster_that_was_removed_rest_although_root_is_started_again() {
    let mut tiers = Tiers::new(&[("munich", &[])]);
    let blocks = |tiers: &Tiers| tiers.root.clusters().next().unwrap().0.blocks.clone();
    let first = blocks(&tiers);
    tiers.clusters.clear();
    tiers
        .command(Command::RemoveCluster(label("munich")))
        .unwrap();
    tiers.root = tiers.restored_root();
    add(&mut tiers, "ulm", 7);
    let second = blocks(&tiers);
    assert!(!first.is_empty());
    assert!(first.is_disjoint(&second), "{first:?} {second:?}");
    tiers.command(Command::RemoveCluster(label("ulm"))).unwrap();
    // Whoever had them knows for as long, and another root too that has seen it end.
    tiers.now += LEASE_LIFE;
    tiers.queue.push_back(Event::Root(root::Input::Tick));
    tiers.settle();
    tiers.root = tiers.restored_root();
    add(&mut tiers, "bonn", 8);
    assert_eq!(blocks(&tiers), first);
}

/// All others have what it has said in its former life.
#[test]
fn what_a_cluster_says_of_its_nodes_is_news_after_it_has_joined_again() {
    let sites: [(&str, &[Host]); 2] = [
        ("munich", &[("a", 100, 100)]),
        ("ulm", &[("b", 4000, 4000)]),
    ];
    let mut tiers = Tiers::new(&sites);
    let instance = tiers.deploy(draft("shop", 500, 400));
    tiers.join("munich/a", "shop.prod");
    tiers.pass(Duration::from_secs(1));
    let last = |tiers: &mut Tiers| last_row(&rows(&tiers.told("munich/a")), "ulm/b");
    let before = last(&mut tiers).unwrap();
    let (name, id) = (label("ulm"), node("ulm/b"));
    let lease = |tiers: &Tiers| tiers.clusters[&label("ulm")].lease(&label("b")).unwrap();
    let leased = lease(&tiers);
    tiers.clusters.remove(&name);
    tiers.workers.remove(&id);
    tiers.command(Command::RemoveCluster(name.clone())).unwrap();
    tiers.pass(Duration::from_secs(1));
    add(&mut tiers, "ulm", 7);
    let (trust, now) = (Box::new(Names(Some(name.clone()))), tiers.at());
    let (next, _) = Cluster::restore(settings(&name), trust, &[], now).unwrap();
    tiers.clusters.insert(name.clone(), next);
    replace_disk(&mut tiers, &id);
    for event in [
        Event::Root(root::Input::ClusterConnected(name.clone())),
        Event::Cluster(name.clone(), cluster::Input::RootConnected),
        Event::Cluster(name, cluster::Input::WorkerConnected(label("b"), key("b"))),
        Event::Worker(id, worker::Input::Connected),
    ] {
        tiers.queue.push_back(event);
    }
    tiers.pass(root::RETRY + Duration::from_secs(3));
    assert_eq!(tiers.host(&instance), "ulm/b");
    let after = last(&mut tiers).unwrap();
    assert!(!after.removed && after.generation > before.generation);
    let now = lease(&tiers);
    assert!(now.epoch > leased.epoch, "{leased:?}, then {now:?}");
}
