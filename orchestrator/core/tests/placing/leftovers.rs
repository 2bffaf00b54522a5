//! A life that is refused or given back leaves nothing behind: not the life before it on the node or
//! in the cluster, and not an instance that nobody looks for a place for.

use orchestrator_core::root::Effect;
use weald_proto::control::RootToCluster;

use super::*;

fn munich() -> Tiers {
    Tiers::new(&[("munich", &[("a", 4000, 4000)])])
}

/// Tells root something, and nobody what it says; returns that.
fn tell(tiers: &mut Tiers, message: ClusterToRoot) -> Vec<RootToCluster> {
    let now = tiers.at();
    let input = root::Input::Cluster(label("munich"), message);
    let step = tiers.root.handle(input, now).unwrap();
    let said = step.effects.into_iter().filter_map(|effect| match effect {
        Effect::ToCluster(_, message) => Some(message),
        Effect::CloseCluster(..) | Effect::Fault(_) | Effect::Logs { .. } => None,
    });
    said.collect()
}

/// Munich says that it is alive, every 100 ms for so long; returns what root says meanwhile.
fn beat(tiers: &mut Tiers, time: Duration) -> Vec<RootToCluster> {
    let sums = tiers.root.clusters().next().and_then(|it| it.2.cloned());
    let until = tiers.now + time;
    let mut said = Vec::new();
    while tiers.now < until {
        tiers.now += Duration::from_millis(100);
        let heartbeat = ClusterToRoot::Heartbeat {
            sequence: 1,
            aggregate: sums.clone().unwrap(),
        };
        said.extend(tell(tiers, heartbeat));
    }
    said
}

/// Munich took the first life, and root has not heard so in time: it wants that gone, and then offers
/// another life there. Munich does not take that one and has the first one still.
#[test]
fn a_life_that_shall_be_gone_goes_although_the_next_one_is_refused() {
    let mut tiers = munich();
    let draft = draft("shop", 500, 400);
    let apply = Command::Apply(draft, organisation("acme"));
    let service = tiers.command(apply).unwrap().services[0].clone();
    let now = tiers.at();
    let deploy = Command::Deploy(service);
    let (_, done) = tiers.root.command(deploy, &Scope::All, now).unwrap();
    let instance = done.instances[0].clone();
    let first = tiers.root.instance(&instance).unwrap().life.generation();
    let said = beat(&mut tiers, root::OFFER + 2 * root::RETRY);
    let second = tiers.root.instance(&instance).unwrap().life.generation();
    assert!(second > first, "{said:?}");
    let refused = ClusterToRoot::Refused {
        instance: instance.clone(),
        generation: second,
        refusals: Vec::new(),
    };
    let withdrawn = RootToCluster::Withdraw {
        instance,
        generation: first,
    };
    let said = tell(&mut tiers, refused);
    assert!(said.contains(&withdrawn), "{said:?}");
}

#[test]
fn a_node_that_rejects_a_later_life_ends_the_earlier_one() {
    let mut tiers = munich();
    let instance = tiers.deploy(draft("shop", 500, 400));
    let services = tiers.root.services();
    let spec = services.map(|it| it.spec.clone()).next().unwrap();
    let node: NodeId = "munich/a".parse().unwrap();
    assert_eq!(tiers.workers[&node].instances().count(), 1);
    let text = "it is full".to_owned();
    tiers
        .rejecting
        .insert(node.clone(), Reason::Unavailable { text });
    let offer = RootToCluster::Offer {
        generation: tiers.root.instance(&instance).unwrap().life.generation() + 1,
        instance,
        spec: Box::new(spec),
        within_ms: 1000,
    };
    let input = cluster::Input::Root(offer);
    tiers
        .queue
        .push_back(Event::Cluster(label("munich"), input));
    tiers.settle();
    tiers.pass(Duration::from_secs(2));
    assert_eq!(tiers.workers[&node].instances().count(), 0);
}

/// A worker that has lost all that it had, as one whose disk was replaced.
pub(super) fn replace_disk(tiers: &mut Tiers, node: &NodeId) {
    let resources = Resources {
        millicpus: 4000,
        memory_mib: 4000,
        ..Resources::default()
    };
    let capacity = NodeCapacity {
        total: resources,
        runtimes: vec![Runtime::Process],
        addons: Vec::new(),
        place: None,
    };
    let (worker, _) = Worker::restore(node.clone(), capacity, &[]).unwrap();
    tiers.workers.insert(node.clone(), worker);
}

/// The same, while the cluster is there to see it.
fn lose_everything(tiers: &mut Tiers, node: &NodeId) {
    replace_disk(tiers, node);
    for input in [
        cluster::Input::WorkerDisconnected(node.name.clone()),
        cluster::Input::WorkerConnected(node.name.clone(), key(node.name.as_str())),
    ] {
        let event = Event::Cluster(node.cluster.clone(), input);
        tiers.queue.push_back(event);
    }
    let event = Event::Worker(node.clone(), worker::Input::Connected);
    tiers.queue.push_back(event);
    tiers.settle();
}

/// Munich is started again from its disk, and everybody connects anew.
pub(super) fn restart_munich(tiers: &mut Tiers) {
    let (name, now) = (label("munich"), tiers.at());
    let trust = Box::new(Names(Some(name.clone())));
    let records = tiers.disks[&name].records();
    let (next, step) = Cluster::restore(settings(&name), trust, &records, now).unwrap();
    tiers.clusters.insert(name.clone(), next);
    tiers.cluster_effects(&name, step);
    for event in [
        Event::Root(root::Input::ClusterDisconnected(name.clone())),
        Event::Root(root::Input::ClusterConnected(name.clone())),
        Event::Cluster(name, cluster::Input::RootConnected),
    ] {
        tiers.queue.push_back(event);
    }
    let nodes: Vec<_> = tiers.workers.keys().cloned().collect();
    for node in nodes {
        let input = cluster::Input::WorkerConnected(node.name.clone(), key(node.name.as_str()));
        let event = Event::Cluster(node.cluster.clone(), input);
        tiers.queue.push_back(event);
        let event = Event::Worker(node, worker::Input::Connected);
        tiers.queue.push_back(event);
    }
}

/// It would be asked once a second for ever, and nobody else; also when the cluster was started
/// again meanwhile, and does not know that the node had it.
#[test]
fn what_a_node_has_lost_and_rejects_then_goes_to_another() {
    for is_restarted in [false, true] {
        lose_and_reject(is_restarted);
    }
}

fn lose_and_reject(is_restarted: bool) {
    let sites: [(&str, &[Host]); 1] = [("munich", &[("a", 4000, 4000), ("b", 1000, 1000)])];
    let mut tiers = Tiers::new(&sites);
    let instance = tiers.deploy(draft("shop", 500, 400));
    assert_eq!(tiers.host(&instance), "munich/a");
    let node: NodeId = "munich/a".parse().unwrap();
    let text = "it has no runtime any more".to_owned();
    let reason = Reason::Unavailable { text };
    tiers.rejecting.insert(node.clone(), reason);
    if is_restarted {
        replace_disk(&mut tiers, &node);
        restart_munich(&mut tiers);
    } else {
        lose_everything(&mut tiers, &node);
    }
    tiers.pass(Duration::from_secs(1));
    assert_eq!(tiers.host(&instance), "munich/b");
    assert_eq!(tiers.phase(&instance), Phase::Running);
}

/// Nobody takes it, and root does not hear that it was refused: only what the cluster says until it
/// is answered.
#[test]
fn what_is_given_back_is_looked_after_although_the_refusal_is_lost() {
    let mut tiers = munich();
    let instance = tiers.deploy(draft("shop", 500, 400));
    let node: NodeId = "munich/a".parse().unwrap();
    let text = "it has no runtime any more".to_owned();
    let reason = Reason::Unavailable { text };
    tiers.rejecting.insert(node.clone(), reason);
    tiers.held = Some(Vec::new());
    lose_everything(&mut tiers, &node);
    tiers.pass(Duration::from_secs(1));
    let held = tiers.held.take().unwrap();
    let is_refusal = |input: &root::Input| {
        matches!(
            input,
            root::Input::Cluster(_, ClusterToRoot::Refused { .. })
        )
    };
    assert!(held.iter().any(is_refusal));
    let arrives = held.into_iter().filter(|input| !is_refusal(input));
    tiers.queue.extend(arrives.map(Event::Root));
    tiers.settle();
    assert_eq!(tiers.phase(&instance), Phase::Requested);
    tiers.rejecting.clear();
    tiers.pass(root::RETRY + Duration::from_secs(2));
    assert_eq!(tiers.phase(&instance), Phase::Running);
}

/// Its phase would say that a cluster makes it, and nobody would be asked ever again.
#[test]
fn an_instance_that_was_given_back_is_looked_after_by_the_next_root() {
    let mut tiers = munich();
    let instance = tiers.deploy(draft("shop", 500, 400));
    assert_eq!(tiers.phase(&instance), Phase::Running);
    let refused = ClusterToRoot::Refused {
        instance: instance.clone(),
        generation: tiers.root.instance(&instance).unwrap().life.generation(),
        refusals: Vec::new(),
    };
    let input = root::Input::Cluster(label("munich"), refused);
    tiers.queue.push_back(Event::Root(input));
    tiers.settle();
    assert_eq!(tiers.phase(&instance), Phase::Requested);
    tiers.root = tiers.restored_root();
    assert!(tiers.root.next_due().is_some_and(|due| due <= tiers.now));
    let name = label("munich");
    for event in [
        Event::Cluster(name.clone(), cluster::Input::RootDisconnected),
        Event::Root(root::Input::ClusterConnected(name.clone())),
        Event::Cluster(name, cluster::Input::RootConnected),
    ] {
        tiers.queue.push_back(event);
    }
    tiers.pass(Duration::from_secs(3));
    assert_eq!(tiers.phase(&instance), Phase::Running);
}

#[test]
fn a_welcome_of_root_that_comes_twice_says_nothing_new() {
    let mut tiers = munich();
    let now = tiers.at();
    let welcome = RootToCluster::Welcome {
        version: weald_proto::control::VERSION,
    };
    let cluster = tiers.clusters.get_mut(&label("munich")).unwrap();
    let step = cluster.handle(cluster::Input::Root(welcome), now).unwrap();
    assert_eq!(step, cluster::Step::default());
}

/// The cluster died before it had said so, while others could still pick it or when its placement was
/// forgotten: the next one says it.
#[test]
fn the_next_cluster_says_what_is_out_of_the_tables_and_was_not_said() {
    for ended in [false, true] {
        let mut tiers = munich();
        let instance = tiers.deploy(draft("shop", 500, 400));
        tiers.pass(Duration::from_secs(1));
        let id = tiers.root.services().next().map(|it| it.id.clone());
        tiers.command(Command::Scale(id.unwrap(), 0)).unwrap();
        if ended {
            tiers.pass(cluster::DRAIN + Duration::from_secs(1));
        }
        assert_eq!(tiers.root.instance(&instance).is_none(), ended);
        let rows = rows_of_the_next(&tiers);
        let says_so = rows.iter().any(|row| {
            matches!(row, Statement::Instance(row) if row.instance == instance && row.removed)
        });
        assert!(says_so, "who was told that it runs believes so: {rows:?}");
    }
}

/// The same where the instance comes again before it was said: what its next life has replaced was the
/// only record of it.
#[test]
fn the_next_cluster_says_it_although_another_life_has_taken_the_place() {
    let mut tiers = munich();
    let instance = tiers.deploy(draft("shop", 500, 400));
    let id = tiers.root.services().next().map(|it| it.id.clone());
    tiers.command(Command::DeleteService(id.unwrap())).unwrap();
    tiers.pass(cluster::DRAIN + Duration::from_secs(1));
    assert!(tiers.root.instance(&instance).is_none());
    // Its node does not answer, so the next life is in no table.
    tiers.silent.push("munich/a".parse().unwrap());
    let applied = tiers
        .command(Command::Apply(
            draft("shop", 500, 400),
            organisation("acme"),
        ))
        .unwrap();
    let deployed = tiers.command(Command::Deploy(applied.services[0].clone()));
    assert_eq!(deployed.unwrap().instances, std::slice::from_ref(&instance));
    assert_ne!(tiers.phase(&instance), Phase::Running);
    let rows = rows_of_the_next(&tiers);
    let says_so = rows.iter().any(
        |row| matches!(row, Statement::Instance(row) if row.instance == instance && row.removed),
    );
    assert!(says_so, "who was told that it runs believes so: {rows:?}");
}

/// The rows that munich tells root when it was started again.
pub(super) fn rows_of_the_next(tiers: &Tiers) -> Vec<Statement> {
    let (name, now) = (label("munich"), tiers.at());
    let trust = Box::new(Names(Some(name.clone())));
    let records = tiers.disks[&name].records();
    let (mut next, _) = Cluster::restore(settings(&name), trust, &records, now).unwrap();
    next.handle(cluster::Input::RootConnected, now).unwrap();
    let welcome = RootToCluster::Welcome {
        version: weald_proto::control::VERSION,
    };
    let step = next.handle(cluster::Input::Root(welcome), now).unwrap();
    let mut said = Vec::new();
    for effect in step.effects {
        if let cluster::Effect::ToRoot(ClusterToRoot::Rows(rows)) = effect {
            let rows = rows.iter().map(|it| Statement::decode(&it.statement));
            said.extend(rows.map(Result::unwrap));
        }
    }
    said
}
