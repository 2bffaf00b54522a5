//! A worker step by step: what it takes on, survives, refuses and reports.

use weald_proto::spec::{Resources, Runtime};

use super::*;
use crate::samples::{self, label};

fn instance(number: u32) -> InstanceId {
    let service = samples::service("web", "prod");
    InstanceId { service, number }
}

fn spec() -> ServiceSpec {
    let resources = Resources {
        millicpus: 500,
        memory_mib: 100,
        ..Resources::default()
    };
    samples::spec(instance(0).service, resources)
}

fn capacity() -> NodeCapacity {
    NodeCapacity {
        total: Resources {
            millicpus: 2000,
            memory_mib: 250,
            ..Resources::default()
        },
        runtimes: vec![Runtime::Process],
        addons: Vec::new(),
        place: None,
    }
}

/// The reports among the effects, as a cluster gets them: through the codec.
fn heard(effects: &[Effect]) -> Vec<InstanceReport> {
    use weald_proto::codec::Message as _;
    let said = effects.iter().filter_map(|effect| match effect {
        Effect::Send(message) => Some(WorkerToCluster::decode(&message.encode().unwrap()).unwrap()),
        Effect::Start { .. }
        | Effect::Await { .. }
        | Effect::Stop { .. }
        | Effect::ReadLogs { .. }
        | Effect::Incompatible { .. } => None,
    });
    let reports = said.filter_map(|message| match message {
        WorkerToCluster::Report { instances, .. } => Some(instances),
        WorkerToCluster::Hello { .. }
        | WorkerToCluster::Heartbeat { .. }
        | WorkerToCluster::Rejected { .. }
        | WorkerToCluster::Logs { .. }
        | WorkerToCluster::Renew(_) => None,
    });
    reports.flatten().collect()
}

/// A detail that no message could hold, cut behind its last character that fits.
fn assert_cut(reports: &[InstanceReport], phase: Phase) {
    let [report] = reports else {
        panic!("{reports:?}");
    };
    assert_eq!(report.phase, phase);
    assert!(report.detail.starts_with("üü") && report.detail.ends_with("ü…"));
    assert!(report.detail.len() <= MAX_DETAIL, "{}", report.detail.len());
}

#[test]
fn however_long_a_detail_is_a_report_holds_it() {
    let long = || "ü".repeat(100_000);
    let mut world = World::new();
    world.welcome();
    world.deploy(1, 1, spec());
    let effects = world.runtime(1, 1, RuntimeEvent::Quiet(long()));
    assert_cut(&heard(&effects), Phase::Creating);
    let effects = world.runtime(1, 1, RuntimeEvent::NotStarted(long()));
    assert_cut(&heard(&effects), Phase::Failed);
    // It is kept as it was told, and told again by the next one.
    let kept = world.disk.values().map(Vec::len).max().unwrap();
    assert!(kept < 4 * MAX_DETAIL, "{kept} bytes are kept");
    world.restart();
    assert_cut(&heard(&world.welcome()), Phase::Failed);
}

/// A worker with a disk that is written as its steps say.
struct World {
    worker: Worker,
    disk: BTreeMap<(String, String), Vec<u8>>,
    now: Duration,
}

impl World {
    fn new() -> Self {
        let node = NodeId::new(label("munich"), label("a1"));
        let (worker, step) = Worker::restore(node, capacity(), &[]).unwrap();
        assert_eq!(step, Step::default());
        Self {
            worker,
            disk: BTreeMap::new(),
            now: Duration::ZERO,
        }
    }

    fn tell(&mut self, input: Input) -> Vec<Effect> {
        let now = Now {
            elapsed: self.now,
            unix: 0,
        };
        let step = self.worker.handle(input, now).unwrap();
        for write in step.writes {
            match write {
                Write::Put(record) => {
                    self.disk.insert((record.kind, record.key), record.value);
                }
                Write::Delete { kind, key } => {
                    self.disk.remove(&(kind, key));
                }
            }
        }
        step.effects
    }

    fn welcome(&mut self) -> Vec<Effect> {
        let mut effects = self.tell(Input::Connected);
        let welcome = ClusterToWorker::Welcome { version: VERSION };
        effects.extend(self.tell(Input::Message(welcome)));
        effects
    }

    fn deploy(&mut self, number: u32, generation: Generation, spec: ServiceSpec) -> Vec<Effect> {
        self.tell(Input::Message(ClusterToWorker::Deploy {
            instance: instance(number),
            generation,
            spec: Box::new(spec),
            instance_ip: Dual::default(),
        }))
    }

    fn runtime(&mut self, number: u32, generation: Generation, event: RuntimeEvent) -> Vec<Effect> {
        self.tell(Input::Runtime {
            instance: instance(number),
            generation,
            event,
        })
    }

    fn restart(&mut self) -> Vec<Effect> {
        let records: Vec<Record> = self
            .disk
            .iter()
            .map(|((kind, key), value)| Record {
                kind: kind.clone(),
                key: key.clone(),
                value: value.clone(),
            })
            .collect();
        let node = NodeId::new(label("munich"), label("a1"));
        let (worker, step) = Worker::restore(node, capacity(), &records).unwrap();
        self.worker = worker;
        assert_eq!(step.writes, []);
        step.effects
    }

    /// Acknowledges the last report among the effects.
    fn acknowledge(&mut self, effects: &[Effect]) -> Vec<Effect> {
        let of = |effect: &Effect| {
            if let Effect::Send(WorkerToCluster::Report { sequence, .. }) = effect {
                Some(*sequence)
            } else {
                None
            }
        };
        let sequence = effects.iter().rev().find_map(of);
        let sequence = sequence.unwrap();
        self.tell(Input::Message(ClusterToWorker::Acknowledged { sequence }))
    }
}

fn reported(effects: &[Effect]) -> Vec<(u32, Generation, Phase)> {
    let mut reported = Vec::new();
    for effect in effects {
        if let Effect::Send(WorkerToCluster::Report { instances, .. }) = effect {
            let of = |it: &InstanceReport| (it.instance.number, it.generation, it.phase);
            reported.extend(instances.iter().map(of));
        }
    }
    reported
}

fn started(effects: &[Effect]) -> Vec<(u32, Generation)> {
    let start = |effect: &Effect| {
        if let Effect::Start {
            instance,
            generation,
            ..
        } = effect
        {
            Some((instance.number, *generation))
        } else {
            None
        }
    };
    effects.iter().filter_map(start).collect()
}

fn rejected(effects: &[Effect]) -> Option<Reason> {
    effects.iter().find_map(|effect| {
        if let Effect::Send(WorkerToCluster::Rejected { reason, .. }) = effect {
            Some(reason.clone())
        } else {
            None
        }
    })
}

#[test]
fn an_instance_lives_from_deploy_to_stop_and_leaves_no_record() {
    let mut world = World::new();
    world.welcome();
    let effects = world.deploy(1, 7, spec());
    assert_eq!(started(&effects), [(1, 7)]);
    assert_eq!(reported(&effects), [(1, 7, Phase::Creating)]);
    assert_eq!(world.disk.len(), 1);
    let effects = world.runtime(1, 7, RuntimeEvent::Running);
    assert_eq!(reported(&effects), [(1, 7, Phase::Running)]);
    world.acknowledge(&effects);
    let stop = ClusterToWorker::Stop {
        instance: instance(1),
        generation: 8,
    };
    let effects = world.tell(Input::Message(stop));
    let ends = Effect::Stop {
        instance: instance(1),
        generation: 8,
    };
    assert!(effects.contains(&ends), "{effects:?}");
    let effects = world.runtime(1, 8, RuntimeEvent::Stopped);
    assert_eq!(reported(&effects), [(1, 8, Phase::Terminated)]);
    world.acknowledge(&effects);
    assert!(world.disk.is_empty(), "{:?}", world.disk);
    assert_eq!(world.worker.instances().count(), 0);
}

#[test]
fn a_restarted_worker_takes_everything_up_again() {
    let mut world = World::new();
    world.welcome();
    world.deploy(1, 7, spec());
    world.deploy(2, 3, spec());
    let exit = RuntimeEvent::Exited {
        status: 137,
        detail: Some("it used more memory than its limit of 100 MiB".to_owned()),
    };
    world.runtime(2, 3, exit);
    assert_eq!(
        started(&world.restart()),
        [(1, 7)],
        "what has ended is not started again"
    );
    let effects = world.welcome();
    let told = reported(&effects);
    assert_eq!(told, [(1, 7, Phase::Creating), (2, 3, Phase::Failed)]);
    let report = world
        .worker
        .instances()
        .find(|it| it.instance.number == 2)
        .unwrap();
    assert_eq!(report.exit_status, Some(137));
    assert_eq!(
        report.detail,
        "it used more memory than its limit of 100 MiB"
    );
}

#[test]
fn refusals_name_the_figures() {
    let mut world = World::new();
    world.welcome();
    let mut first = spec();
    first.ports = vec!["8080:80/tcp".parse().unwrap()];
    first.resources.memory_mib = 200;
    assert_eq!(rejected(&world.deploy(1, 1, first.clone())), None);
    let expected = Reason::Insufficient {
        resource: "memory (MiB)".to_owned(),
        needed: 100,
        free: 50,
    };
    let disk = world.disk.clone();
    assert_eq!(rejected(&world.deploy(2, 1, spec())), Some(expected));
    let mut second = spec();
    second.resources.memory_mib = 10;
    second.ports = vec!["8080:81/tcp".parse().unwrap()];
    let expected = Reason::PortTaken {
        port: "8080/tcp".to_owned(),
        by: "shop.prod.web.prod.1".to_owned(),
    };
    assert_eq!(
        rejected(&world.deploy(2, 1, second.clone())),
        Some(expected)
    );
    second.ports.clear();
    second.runtime = Runtime::Wasm;
    let expected = Reason::Runtime {
        needed: "wasm".to_owned(),
        available: vec!["process".to_owned()],
    };
    assert_eq!(rejected(&world.deploy(2, 1, second)), Some(expected));
    assert_eq!(world.disk, disk, "a refusal changes nothing");
    // Its own new life replaces the old one, and has its room.
    assert_eq!(started(&world.deploy(1, 2, first.clone())), [(1, 2)]);
    // What has ended by itself holds no room.
    let exit = RuntimeEvent::Exited {
        status: 1,
        detail: None,
    };
    world.runtime(1, 2, exit);
    assert_eq!(started(&world.deploy(3, 1, first)), [(3, 1)]);
}

#[test]
fn only_a_one_shot_completes() {
    for (one_shot, status, phase, detail) in [
        (true, 0, Phase::Completed, ""),
        (true, 3, Phase::Failed, "it ended with status 3"),
        (
            false,
            0,
            Phase::Failed,
            "it ended with status 0, but is not one_shot",
        ),
    ] {
        let mut world = World::new();
        world.welcome();
        let mut spec = spec();
        spec.one_shot = one_shot;
        world.deploy(1, 1, spec);
        let detail_of = RuntimeEvent::Exited {
            status,
            detail: None,
        };
        world.runtime(1, 1, detail_of);
        let report = world.worker.instances().next().unwrap();
        assert_eq!((report.phase, report.detail.as_str()), (phase, detail));
        assert_eq!(report.exit_status, Some(status));
    }
}

#[test]
fn events_of_a_replaced_life_say_nothing() {
    let mut world = World::new();
    world.welcome();
    world.deploy(1, 1, spec());
    world.deploy(1, 2, spec());
    world.runtime(1, 1, RuntimeEvent::NotStarted("late".to_owned()));
    let report = world.worker.instances().next().unwrap();
    assert_eq!((report.generation, report.phase), (2, Phase::Creating));
}

#[test]
fn it_says_every_second_that_it_is_alive() {
    let mut world = World::new();
    world.welcome();
    let mut heartbeats = 0;
    for _ in 0..100 {
        world.now += Duration::from_millis(100);
        let beat =
            |effect: &Effect| matches!(effect, Effect::Send(WorkerToCluster::Heartbeat { .. }));
        heartbeats += world.tell(Input::Tick).iter().filter(|it| beat(it)).count();
    }
    assert_eq!(heartbeats, 10);
    world.tell(Input::Disconnected);
    assert_eq!(world.worker.next_due(), None);
}

#[test]
fn another_version_is_said_to_be_so() {
    let mut world = World::new();
    world.tell(Input::Connected);
    let effects = world.tell(Input::Message(ClusterToWorker::Welcome { version: 9 }));
    assert_eq!(effects, [Effect::Incompatible { version: 9 }]);
}

#[test]
fn a_damaged_record_is_named() {
    let record = Record {
        kind: DUTY.to_owned(),
        key: "shop".to_owned(),
        value: b"{".to_vec(),
    };
    let node = NodeId::new(label("munich"), label("a1"));
    let error = Worker::restore(node, capacity(), &[record]).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("the stored duty \"shop\" cannot be read: "),
        "{text}"
    );
}

#[test]
fn a_welcome_that_comes_twice_says_nothing_new() {
    let mut world = World::new();
    world.welcome();
    let said = world.deploy(1, 1, spec());
    let welcome = ClusterToWorker::Welcome { version: VERSION };
    assert_eq!(world.tell(Input::Message(welcome)), []);
    world.runtime(1, 1, RuntimeEvent::Running);
    // The cluster knows that it is being made, not that it runs.
    world.acknowledge(&said);
    world.now += Duration::from_secs(1);
    let again = world.tell(Input::Tick);
    let says_so = |effect: &Effect| {
        matches!(effect, Effect::Send(WorkerToCluster::Report { instances, .. })
            if instances.iter().any(|it| it.phase == Phase::Running))
    };
    assert!(again.iter().any(says_so), "{again:?}");
}
