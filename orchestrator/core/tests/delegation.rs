//! Delegated scheduling step by step, without faults: who is asked, who refuses and why, what the
//! netmanagers are told, and what becomes of a worker that is silent.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests may fail loudly; clippy exempts only the tests themselves"
)]

mod support {
    pub(crate) mod names;
}

#[path = "placing/back.rs"]
mod back;
#[path = "placing/kept.rs"]
mod kept;
#[path = "placing/leftovers.rs"]
mod leftovers;
#[path = "placing/lies.rs"]
mod lies;
#[path = "placing/many.rs"]
mod many;
#[path = "placing/refusals.rs"]
mod refusals;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use orchestrator_core::Now;
use orchestrator_core::addresses::Plan;
use orchestrator_core::cluster::{self, Cluster, Settings};
use orchestrator_core::record::{Record, Write};
use orchestrator_core::root::{self, Command, CommandError, Root, Scope};
use orchestrator_core::sla::{self, ApplicationDraft};
use orchestrator_core::worker::{self, RuntimeEvent, Worker};
use weald_proto::addr::{Dual, Pools};
use weald_proto::codec::Message as _;
use weald_proto::control::{
    ClusterToRoot, ClusterToWorker, NodeCapacity, Phase, Reason, Standing, WorkerToCluster,
};
use weald_proto::id::{Label, NodeId, Organisation};
use weald_proto::name::{ApplicationName, InstanceId, Zone};
use weald_proto::session::{ClusterToNet, NetToCluster};
use weald_proto::spec::{Resources, Runtime};
use weald_proto::statement::{Signed, Statement};

use support::names::Names;

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

fn organisation(name: &str) -> Organisation {
    Organisation(label(name))
}

/// The key of a node of this name.
fn key(node: &str) -> [u8; 32] {
    [node.as_bytes()[0]; 32]
}

/// An application `name.prod` with one service `web.prod` that needs so much.
fn draft(name: &str, millicpus: u32, memory: u32) -> ApplicationDraft {
    let text = format!(
        r#"{{"sla_version": "v2.0", "customerID": "admin", "applications": [{{
            "applicationID": "", "application_name": "{name}", "application_namespace": "prod",
            "application_desc": "", "microservices": [{{
                "microserviceID": "", "microservice_name": "web", "microservice_namespace": "prod",
                "virtualization": "process", "cmd": ["/bin/true"], "code": "/bin/true",
                "memory": {memory}, "vcpus": 0, "storage": 0, "vgpus": 0, "vtpus": 0,
                "bandwidth_in": 0, "bandwidth_out": 0, "port": "",
                "constraints": [], "connectivity": [], "state": "", "added_files": []
            }}]
        }}]}}"#,
    );
    let context = sla::Context {
        pools: &Pools::default(),
        zones: &Zone::defaults(),
        organisation: &organisation("acme"),
        application: None,
    };
    let mut draft = sla::check_text(&text, context).unwrap().pop().unwrap();
    draft.services[0].spec.resources.millicpus = millicpus;
    draft
}

/// A node's name, processors and memory.
type Host = (&'static str, u32, u32);

/// What somebody has written.
#[derive(Debug, Default)]
struct Disk(BTreeMap<(String, String), Record>);

impl Disk {
    fn commit(&mut self, writes: Vec<Write>) {
        for write in writes {
            match write {
                Write::Put(record) => {
                    let key = (record.kind.clone(), record.key.clone());
                    self.0.insert(key, record);
                }
                Write::Delete { kind, key } => {
                    self.0.remove(&(kind, key));
                }
            }
        }
    }

    fn records(&self) -> Vec<Record> {
        self.0.values().cloned().collect()
    }
}

/// Root, clusters and workers whose messages all arrive at once.
struct Tiers {
    now: Duration,
    root: Root,
    /// What root and clusters have written.
    disk: Disk,
    disks: BTreeMap<Label, Disk>,
    clusters: BTreeMap<Label, Cluster>,
    workers: BTreeMap<NodeId, Worker>,
    /// Workers that hear and say nothing.
    silent: Vec<NodeId>,
    /// Workers that reject what they are offered, and why.
    rejecting: BTreeMap<NodeId, Reason>,
    /// What workers are told that hear it late.
    late: BTreeMap<NodeId, Vec<worker::Input>>,
    /// What each netmanager was told.
    nets: BTreeMap<NodeId, Vec<ClusterToNet>>,
    /// Who is to say when it listens on which ports.
    awaited: Vec<(NodeId, InstanceId, u64, BTreeSet<u16>)>,
    queue: VecDeque<Event>,
    /// What root is told while it is out of reach.
    held: Option<Vec<root::Input>>,
    /// What operators are told of workers that say what is not so.
    lies: Vec<String>,
    /// The logs that root has got, by the number of the request.
    logs: BTreeMap<u64, Result<Vec<String>, String>>,
}

enum Event {
    Root(root::Input),
    Cluster(Label, cluster::Input),
    Worker(NodeId, worker::Input),
}

impl Tiers {
    /// Clusters by name, each with its nodes' processors and memory.
    fn new(sites: &[(&str, &[Host])]) -> Self {
        let mut tiers = Self {
            now: Duration::ZERO,
            root: Root::restore(Plan::default(), Box::new(Names(None)), &[], start())
                .unwrap()
                .0,
            disk: Disk::default(),
            disks: BTreeMap::new(),
            clusters: BTreeMap::new(),
            workers: BTreeMap::new(),
            silent: Vec::new(),
            rejecting: BTreeMap::new(),
            late: BTreeMap::new(),
            nets: BTreeMap::new(),
            awaited: Vec::new(),
            queue: VecDeque::new(),
            held: None,
            lies: Vec::new(),
            logs: BTreeMap::new(),
        };
        for (at, (site, nodes)) in sites.iter().enumerate() {
            let name = label(site);
            let trust = Box::new(Names(Some(name.clone())));
            let (cluster, _) = Cluster::restore(settings(&name), trust, &[], start()).unwrap();
            tiers.clusters.insert(name.clone(), cluster);
            tiers
                .command(Command::AddCluster {
                    name: name.clone(),
                    key: [u8::try_from(at).unwrap(); 32],
                    organisations: None,
                    owner: organisation("acme"),
                })
                .unwrap();
            let input = root::Input::ClusterConnected(name.clone());
            tiers.queue.push_back(Event::Root(input));
            let input = cluster::Input::RootConnected;
            tiers.queue.push_back(Event::Cluster(name.clone(), input));
            for (node, millicpus, memory_mib) in *nodes {
                let id = NodeId::new(name.clone(), label(node));
                let capacity = NodeCapacity {
                    total: Resources {
                        millicpus: *millicpus,
                        memory_mib: *memory_mib,
                        ..Resources::default()
                    },
                    runtimes: vec![Runtime::Process],
                    addons: Vec::new(),
                    place: None,
                };
                let (worker, _) = Worker::restore(id.clone(), capacity, &[]).unwrap();
                tiers.workers.insert(id.clone(), worker);
                let input = cluster::Input::WorkerConnected(label(node), key(node));
                tiers.queue.push_back(Event::Cluster(name.clone(), input));
                let input = worker::Input::Connected;
                tiers.queue.push_back(Event::Worker(id, input));
            }
        }
        tiers.pass(Duration::from_secs(3));
        tiers
    }

    fn at(&self) -> Now {
        Now {
            elapsed: self.now,
            unix: start().unix + self.now.as_secs(),
        }
    }

    /// Root as it would be if it was started now from its disk.
    fn restored_root(&self) -> Root {
        let trust = Box::new(Names(None));
        let root = Root::restore(Plan::default(), trust, &self.disk.records(), self.at());
        root.unwrap().0
    }

    /// A cluster is told something, and all that follows is done.
    fn tell_cluster(&mut self, name: &str, input: cluster::Input) {
        self.queue.push_back(Event::Cluster(label(name), input));
        self.settle();
    }

    fn command(&mut self, command: Command) -> Result<root::Done, CommandError> {
        let now = self.at();
        let (step, done) = self.root.command(command, &Scope::All, now)?;
        self.root_effects(step);
        self.settle();
        Ok(done)
    }

    /// Applies a draft and has one instance run.
    fn deploy(&mut self, draft: ApplicationDraft) -> InstanceId {
        let done = self
            .command(Command::Apply(draft, organisation("acme")))
            .unwrap();
        let service = done.services[0].clone();
        let done = self.command(Command::Deploy(service)).unwrap();
        done.instances[0].clone()
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now += Duration::from_millis(100);
            self.queue.push_back(Event::Root(root::Input::Tick));
            for name in self.clusters.keys() {
                let tick = Event::Cluster(name.clone(), cluster::Input::Tick);
                self.queue.push_back(tick);
            }
            for id in self.workers.keys() {
                self.queue
                    .push_back(Event::Worker(id.clone(), worker::Input::Tick));
            }
            self.settle();
        }
    }

    fn settle(&mut self) {
        while let Some(event) = self.queue.pop_front() {
            let now = self.at();
            match (event, &mut self.held) {
                (Event::Root(input), Some(held)) => held.push(input),
                (Event::Root(input), None) => {
                    let step = self.root.handle(input, now).unwrap();
                    self.root_effects(step);
                }
                (Event::Cluster(name, input), _) => {
                    // A test may have taken it away, to have it removed.
                    let Some(cluster) = self.clusters.get_mut(&name) else {
                        continue;
                    };
                    let step = cluster.handle(input, now).unwrap();
                    self.cluster_effects(&name, step);
                }
                (Event::Worker(id, input), _) => {
                    if self.silent.contains(&id) {
                        continue;
                    }
                    let Some(input) = self.heard(&id, input) else {
                        continue;
                    };
                    let worker = self.workers.get_mut(&id).unwrap();
                    let step = worker.handle(input, now).unwrap();
                    self.worker_effects(&id, step);
                }
            }
        }
    }

    /// What a worker hears of what it is told: it may hear that later, or reject it.
    fn heard(&mut self, id: &NodeId, input: worker::Input) -> Option<worker::Input> {
        let is_message = matches!(input, worker::Input::Message(_));
        if let (Some(waiting), true) = (self.late.get_mut(id), is_message) {
            waiting.push(input);
            return None;
        }
        let (
            Some(reason),
            worker::Input::Message(ClusterToWorker::Deploy {
                instance,
                generation,
                ..
            }),
        ) = (self.rejecting.get(id), &input)
        else {
            return Some(input);
        };
        let rejected = WorkerToCluster::Rejected {
            instance: instance.clone(),
            generation: *generation,
            reason: reason.clone(),
        };
        self.worker_says(id, rejected);
        None
    }

    /// A worker says something, whatever it was told.
    fn worker_says(&mut self, id: &NodeId, message: WorkerToCluster) {
        let input = cluster::Input::Worker(id.name.clone(), message);
        self.queue
            .push_back(Event::Cluster(id.cluster.clone(), input));
    }

    fn root_effects(&mut self, step: root::Step) {
        self.disk.commit(step.writes);
        for effect in step.effects {
            match effect {
                root::Effect::ToCluster(name, message) => {
                    message.encode().unwrap();
                    let input = cluster::Input::Root(message);
                    self.queue.push_back(Event::Cluster(name, input));
                }
                root::Effect::CloseCluster(name, why) => {
                    assert!(!self.clusters.contains_key(&name), "{why}");
                }
                root::Effect::Fault(why) => panic!("{why}"),
                root::Effect::Logs { request, lines } => drop(self.logs.insert(request, lines)),
            }
        }
    }

    fn cluster_effects(&mut self, name: &Label, step: cluster::Step) {
        let disk = self.disks.entry(name.clone()).or_default();
        disk.commit(step.writes);
        for effect in step.effects {
            match effect {
                cluster::Effect::ToRoot(message) => {
                    message.encode().unwrap();
                    let input = root::Input::Cluster(name.clone(), message);
                    self.queue.push_back(Event::Root(input));
                }
                cluster::Effect::ToWorker(node, message) => {
                    message.encode().unwrap();
                    let id = NodeId::new(name.clone(), node);
                    let input = worker::Input::Message(message);
                    self.queue.push_back(Event::Worker(id, input));
                }
                cluster::Effect::ToNet(node, message) => {
                    let id = NodeId::new(name.clone(), node);
                    self.nets.entry(id).or_default().push(message);
                }
                cluster::Effect::Lie(text) => self.lies.push(text),
                cluster::Effect::CloseRoot(why)
                | cluster::Effect::CloseWorker(_, why)
                | cluster::Effect::CloseNet(_, why)
                | cluster::Effect::Fault(why) => panic!("{why}"),
            }
        }
    }

    fn worker_effects(&mut self, id: &NodeId, step: worker::Step) {
        let mut runtime = |instance, generation, event| {
            let input = worker::Input::Runtime {
                instance,
                generation,
                event,
            };
            self.queue.push_back(Event::Worker(id.clone(), input));
        };
        let mut said = Vec::new();
        for effect in step.effects {
            match effect {
                worker::Effect::Send(message) => said.push(message),
                worker::Effect::Start {
                    instance,
                    generation,
                    ..
                } => runtime(instance, generation, RuntimeEvent::Running),
                worker::Effect::Await {
                    instance,
                    generation,
                    ports,
                } => self.awaited.push((id.clone(), instance, generation, ports)),
                worker::Effect::Stop {
                    instance,
                    generation,
                } => runtime(instance, generation, RuntimeEvent::Stopped),
                worker::Effect::ReadLogs { .. } => {}
                worker::Effect::Incompatible { version } => panic!("version {version}"),
            }
        }
        for message in said {
            message.encode().unwrap();
            let input = cluster::Input::Worker(id.name.clone(), message);
            self.queue
                .push_back(Event::Cluster(id.cluster.clone(), input));
        }
    }

    /// The oldest one that was asked says something of its ports.
    fn say_of_ports(&mut self, event: RuntimeEvent) {
        let (node, instance, generation, _) = self.awaited[0].clone();
        let input = worker::Input::Runtime {
            instance,
            generation,
            event,
        };
        self.queue.push_back(Event::Worker(node, input));
        self.settle();
    }

    fn net(&mut self, node: &str, message: NetToCluster) {
        let id: NodeId = node.parse().unwrap();
        let input = cluster::Input::Net(id.name, message);
        self.queue.push_back(Event::Cluster(id.cluster, input));
        self.settle();
    }

    /// A netmanager connects, says Hello and wants an application.
    fn join(&mut self, node: &str, wants: &str) {
        let id: NodeId = node.parse().unwrap();
        let input = cluster::Input::NetConnected {
            node: id.name.clone(),
            key: [9; 32],
            observed: "192.0.2.9:4433".parse().unwrap(),
        };
        self.queue.push_back(Event::Cluster(id.cluster, input));
        self.net(
            node,
            NetToCluster::Hello {
                version: 1,
                addresses: vec!["10.0.0.1:4433".parse().unwrap()],
                lease: 0,
                revocations: 0,
            },
        );
        let wants: ApplicationName = wants.parse().unwrap();
        self.net(node, NetToCluster::Interests(vec![wants]));
    }

    /// What a netmanager was told since this was last asked.
    fn told(&mut self, node: &str) -> Vec<ClusterToNet> {
        let id: NodeId = node.parse().unwrap();
        self.nets.remove(&id).unwrap_or_default()
    }

    fn phase(&self, id: &InstanceId) -> Phase {
        self.root.instance(id).unwrap().phase()
    }

    fn host(&self, id: &InstanceId) -> String {
        let node = self.root.instance(id).unwrap().node.as_ref();
        node.map(ToString::to_string).unwrap_or_default()
    }
}

fn settings(name: &Label) -> Settings {
    Settings {
        name: name.clone(),
        place: None,
        plan: Plan::default(),
        pools: Pools::default(),
        zones: Zone::defaults(),
    }
}

fn start() -> Now {
    Now {
        elapsed: Duration::ZERO,
        unix: 1_800_000_000,
    }
}

/// The statements among what a netmanager was told.
fn rows(told: &[ClusterToNet]) -> Vec<Statement> {
    signed_rows(told)
        .map(|row| Statement::decode(&row.statement).unwrap())
        .collect()
}

/// The rows as they were signed.
fn signed_rows(told: &[ClusterToNet]) -> impl Iterator<Item = &Signed> {
    let rows = told.iter().filter_map(|message| match message {
        ClusterToNet::Rows { rows, .. } => Some(rows),
        ClusterToNet::Welcome { .. }
        | ClusterToNet::Lease(_)
        | ClusterToNet::Grant(_)
        | ClusterToNet::Revocations(_)
        | ClusterToNet::Unknown(_)
        | ClusterToNet::Renewed(_) => None,
    });
    rows.flatten()
}

/// How many rows of instances came that are in the tables.
fn hosted(told: &[ClusterToNet]) -> usize {
    let here = |it: &&Statement| matches!(it, Statement::Instance(it) if !it.removed);
    rows(told).iter().filter(here).count()
}

#[test]
fn an_instance_goes_to_the_cluster_and_node_with_the_most_left() {
    let mut tiers = Tiers::new(&[
        ("munich", &[("a", 1000, 1000), ("b", 2000, 2000)]),
        ("paris", &[("a", 4000, 500)]),
    ]);
    let id = tiers.deploy(draft("shop", 500, 400));
    assert_eq!(tiers.phase(&id), Phase::Running);
    assert_eq!(tiers.host(&id), "munich/b");
    let known = tiers.root.instance(&id).unwrap();
    assert!(known.instance_ip.v4.is_some() && known.instance_ip.v6.is_some());
}

#[test]
fn three_refusals_are_explained_with_their_figures() {
    let mut tiers = Tiers::new(&[
        ("munich", &[("a", 600, 1000), ("b", 1000, 300)]),
        ("paris", &[("a", 200, 200)]),
    ]);
    // In sum munich has enough, so that it is asked; each of its nodes lacks something.
    let id = tiers.deploy(draft("shop", 800, 500));
    tiers.pass(Duration::from_secs(2));
    assert_eq!(tiers.phase(&id), Phase::Requested);
    let text = tiers
        .root
        .instance(&id)
        .unwrap()
        .history
        .explain(&id, tiers.at());
    for line in [
        "munich/a: processors (1/1000): 800 needed, 600 free",
        "munich/b: memory (MiB): 500 needed, 300 free",
        "paris: processors (1/1000)",
        "800 needed, 200 free",
    ] {
        assert!(text.contains(line), "{line} is not in:\n{text}");
    }
    // It waits for a node that can: one does.
    let big = NodeCapacity {
        total: Resources {
            millicpus: 2000,
            memory_mib: 2000,
            ..Resources::default()
        },
        runtimes: vec![Runtime::Process],
        addons: Vec::new(),
        place: None,
    };
    let paris = NodeId::new(label("paris"), label("z"));
    let (worker, _) = Worker::restore(paris.clone(), big, &[]).unwrap();
    tiers.workers.insert(paris.clone(), worker);
    let input = cluster::Input::WorkerConnected(label("z"), key("z"));
    tiers.queue.push_back(Event::Cluster(label("paris"), input));
    tiers
        .queue
        .push_back(Event::Worker(paris, worker::Input::Connected));
    tiers.pass(Duration::from_secs(4));
    assert_eq!(tiers.phase(&id), Phase::Running);
    assert_eq!(tiers.host(&id), "paris/z");
}

#[test]
fn a_burst_is_spread_before_any_heartbeat_tells_of_it() {
    let mut tiers = Tiers::new(&[
        ("munich", &[("a", 4000, 2000)]),
        ("paris", &[("a", 4000, 2000)]),
    ]);
    let apply = Command::Apply(draft("shop", 500, 100), organisation("acme"));
    let service = tiers.command(apply).unwrap().services[0].clone();
    let done = tiers.command(Command::Scale(service, 4)).unwrap();
    let hosts: Vec<_> = done.instances.iter().map(|id| tiers.host(id)).collect();
    assert_eq!(hosts, ["munich/a", "paris/a", "munich/a", "paris/a"]);
}

#[test]
fn another_server_is_in_the_tables_when_it_has_settled() {
    let mut tiers = Tiers::new(&[("munich", &[("a", 1000, 1000)])]);
    tiers.deploy(draft("shop", 100, 10));
    tiers.join("munich/a", "shop.prod");
    assert_eq!(
        hosted(&tiers.told("munich/a")),
        1,
        "the first is there at once"
    );
    let service = tiers.root.services().next().unwrap().id.clone();
    tiers.command(Command::Scale(service, 2)).unwrap();
    assert!(
        tiers
            .root
            .instances()
            .all(|it| it.phase() == Phase::Running)
    );
    assert_eq!(hosted(&tiers.told("munich/a")), 0);
    tiers.pass(cluster::SETTLE - Duration::from_millis(100));
    assert_eq!(hosted(&tiers.told("munich/a")), 0);
    tiers.pass(Duration::from_millis(200));
    assert_eq!(hosted(&tiers.told("munich/a")), 1);
}

#[test]
fn one_with_ports_runs_and_is_in_the_tables_once_it_listens() {
    let mut tiers = Tiers::new(&[("munich", &[("a", 1000, 1000)])]);
    let mut draft = draft("shop", 100, 10);
    draft.services[0].spec.listens = vec![80];
    let first = tiers.deploy(draft);
    tiers.join("munich/a", "shop.prod");
    let asked: Vec<_> = tiers.awaited.iter().map(|it| &it.3).collect();
    assert_eq!(asked, [&BTreeSet::from([80])]);
    tiers.say_of_ports(RuntimeEvent::Quiet("it does not".to_owned()));
    let known = tiers.root.instance(&first).unwrap();
    assert_eq!(
        (known.phase(), known.detail.as_str()),
        (Phase::Creating, "it does not")
    );
    tiers.pass(Duration::from_secs(5));
    assert_eq!(hosted(&tiers.told("munich/a")), 0);
    tiers.say_of_ports(RuntimeEvent::Listens);
    let known = tiers.root.instance(&first).unwrap();
    assert_eq!((known.phase(), known.detail.as_str()), (Phase::Running, ""));
    assert_eq!(hosted(&tiers.told("munich/a")), 1);

    // The next one does not settle: that it listens is known.
    let service = tiers.root.services().next().unwrap().id.clone();
    tiers.awaited.clear();
    tiers.command(Command::Scale(service, 2)).unwrap();
    assert_eq!(hosted(&tiers.told("munich/a")), 0);
    tiers.say_of_ports(RuntimeEvent::Listens);
    assert_eq!(hosted(&tiers.told("munich/a")), 1);

    // It ends, and what is heard late of its ports does not wake it up.
    let exit = RuntimeEvent::Exited {
        status: 1,
        detail: None,
    };
    let second = tiers.awaited[0].1.clone();
    tiers.say_of_ports(exit);
    tiers.say_of_ports(RuntimeEvent::Listens);
    assert_eq!(tiers.phase(&second), Phase::Failed);
    assert_eq!(hosted(&tiers.told("munich/a")), 0);
}

#[test]
fn others_may_answer_until_root_has_said_that_there_are_none() {
    let mut tiers = Tiers::new(&[
        ("munich", &[("a", 900, 1000)]),
        ("paris", &[("a", 600, 1000)]),
    ]);
    let first = tiers.deploy(draft("shop", 500, 10));
    assert_eq!(tiers.host(&first), "munich/a");
    let service = tiers.root.services().next().unwrap().id.clone();
    // Paris has the second, and does not hear of the first in munich.
    tiers.held = Some(Vec::new());
    tiers.command(Command::Scale(service, 2)).unwrap();
    let rows_of_instances = |tiers: &Tiers| {
        let of = |input: &root::Input| {
            let root::Input::Cluster(_, ClusterToRoot::Rows(rows)) = input else {
                return 0;
            };
            let all = rows
                .iter()
                .map(|it| Statement::decode(&it.statement).unwrap());
            all.filter(|it| matches!(it, Statement::Instance(_)))
                .count()
        };
        tiers.held.iter().flatten().map(of).sum::<usize>()
    };
    assert_eq!(rows_of_instances(&tiers), 0);
    tiers.pass(cluster::SETTLE + Duration::from_millis(100));
    assert_eq!(rows_of_instances(&tiers), 1);
}

#[test]
fn what_nobody_takes_in_time_has_failed() {
    let mut tiers = Tiers::new(&[("munich", &[("a", 600, 1000)])]);
    let id = tiers.deploy(draft("shop", 800, 500));
    tiers.pass(Duration::from_secs(301));
    assert_eq!(tiers.phase(&id), Phase::Failed);
    let detail = &tiers.root.instance(&id).unwrap().detail;
    assert!(
        detail.starts_with("no cluster has taken it within 300 s"),
        "{detail}"
    );
}

#[test]
fn netmanagers_are_told_what_they_want_and_may_know() {
    let mut tiers = Tiers::new(&[("munich", &[("a", 1000, 1000)])]);
    tiers.join("munich/a", "shop.prod");
    let told = tiers.told("munich/a");
    assert!(matches!(
        &told[0],
        ClusterToNet::Welcome { node_ip, relay_token, .. }
            if node_ip.v4.is_some() && relay_token == b"munich/a of acme"
    ));
    let welcomes = told
        .iter()
        .filter(|it| matches!(it, ClusterToNet::Welcome { .. }));
    assert_eq!(welcomes.count(), 1, "{told:?}");
    assert!(told.iter().any(|it| matches!(it, ClusterToNet::Grant(_))));
    assert!(told.iter().any(|it| matches!(it, ClusterToNet::Lease(_))));
    let unknown =
        |told: &[ClusterToNet]| told.iter().any(|it| matches!(it, ClusterToNet::Unknown(_)));
    assert!(unknown(&told), "{told:?}");

    let id = tiers.deploy(draft("shop", 500, 400));
    let told = tiers.told("munich/a");
    let lease = told.iter().rev().find_map(|it| {
        let ClusterToNet::Lease(signed) = it else {
            return None;
        };
        Some(Statement::decode(&signed.statement).unwrap())
    });
    let Some(Statement::Lease(lease)) = lease else {
        panic!("no lease in {told:?}");
    };
    assert_eq!(lease.instances[0].instance, id);
    let said = rows(&told);
    assert!(said.iter().any(|it| matches!(it, Statement::Service(_))));
    assert!(said.iter().any(|it| matches!(it, Statement::Node(_))));
    let hosted = |said: &[Statement], gone| {
        said.iter().any(
            |it| matches!(it, Statement::Instance(it) if it.instance == id && it.removed == gone),
        )
    };
    assert!(hosted(&said, false), "{said:?}");

    let service = tiers.root.services().next().unwrap().id.clone();
    tiers.command(Command::Undeploy(service, Some(0))).unwrap();
    let told = tiers.told("munich/a");
    assert!(hosted(&rows(&told), true), "{told:?}");
    // It runs on for a moment: whoever has picked it before is still answered.
    assert_eq!(
        tiers.workers.values().next().unwrap().instances().count(),
        1
    );
    tiers.pass(cluster::DRAIN);
    tiers.pass(Duration::from_millis(200));
    assert_eq!(tiers.root.instances().count(), 0);
}

#[test]
fn names_of_other_organisations_do_not_exist() {
    let mut tiers = Tiers::new(&[("munich", &[("a", 1000, 1000)])]);
    let secret = tiers
        .command(Command::Apply(
            draft("secret", 100, 10),
            organisation("rival"),
        ))
        .unwrap();
    tiers
        .command(Command::Deploy(secret.services[0].clone()))
        .unwrap();
    tiers.deploy(draft("shop", 100, 10));
    // The node hosts the rival's instance as well, so it may know of it; a second one does not.
    let (cluster, other) = (label("munich"), label("b"));
    let input = cluster::Input::NetConnected {
        node: other.clone(),
        key: [8; 32],
        observed: "192.0.2.8:4433".parse().unwrap(),
    };
    tiers.queue.push_back(Event::Cluster(cluster, input));
    tiers.settle();
    tiers.join("munich/b", "secret.prod");
    let told = tiers.told("munich/b");
    assert!(rows(&told).is_empty(), "{told:?}");
    let secret: ApplicationName = "secret.prod".parse().unwrap();
    assert!(told.contains(&ClusterToNet::Unknown(secret)), "{told:?}");
    tiers.join("munich/a", "secret.prod");
    let told = tiers.told("munich/a");
    assert!(!rows(&told).is_empty(), "{told:?}");
}

#[test]
fn a_silent_worker_is_dead_within_5_s_and_out_of_the_tables_within_6() {
    let mut tiers = Tiers::new(&[("munich", &[("a", 1000, 1000), ("b", 100, 100)])]);
    let id = tiers.deploy(draft("shop", 500, 400));
    assert_eq!(tiers.host(&id), "munich/a");
    tiers.join("munich/b", "shop.prod");
    assert!(!rows(&tiers.told("munich/b")).is_empty());
    let standing = |tiers: &Tiers| {
        let (_, _, _, nodes) = tiers.root.clusters().next().unwrap();
        let node = nodes.iter().find(|it| it.node.name == label("a"));
        node.unwrap().standing
    };
    tiers.silent.push("munich/a".parse().unwrap());
    tiers.pass(Duration::from_millis(900));
    assert_eq!(standing(&tiers), Standing::Alive);
    tiers.pass(Duration::from_millis(2100));
    assert_eq!(standing(&tiers), Standing::Suspect);
    assert_eq!(tiers.phase(&id), Phase::Running);
    assert!(rows(&tiers.told("munich/b")).is_empty());
    // The last heartbeat was up to a second old when it fell silent.
    tiers.pass(Duration::from_millis(1500));
    assert_eq!(standing(&tiers), Standing::Dead);
    assert_eq!(tiers.phase(&id), Phase::ClusterScheduled);
    let known = tiers.root.instance(&id).unwrap();
    assert_eq!(
        known.detail,
        "node munich/a is dead: nothing was heard of it for 4.5 s"
    );
    tiers.pass(Duration::from_secs(1));
    assert_eq!(standing(&tiers), Standing::Gone);
    let told = tiers.told("munich/b");
    let gone = rows(&told);
    let is_gone = |it: &Statement| matches!(it, Statement::Instance(it) if it.removed);
    assert!(gone.iter().any(is_gone), "{told:?}");
}

#[test]
fn what_a_user_may_not_see_does_not_exist() {
    let mut tiers = Tiers::new(&[("munich", &[("a", 1000, 1000)])]);
    tiers.deploy(draft("shop", 500, 400));
    let service = tiers.root.services().next().unwrap().id.clone();
    let rival = Scope::Of(organisation("rival"));
    let now = tiers.at();
    for command in [
        Command::Deploy(service.clone()),
        Command::Scale(service.clone(), 0),
        Command::Undeploy(service.clone(), None),
        Command::DeleteService(service.clone()),
    ] {
        let refused = tiers.root.command(command, &rival, now).unwrap_err();
        assert_eq!(
            refused.to_string(),
            format!("there is no service {service}")
        );
    }
    let mut pinned = draft("other", 500, 400);
    let taken = tiers.root.services().next().unwrap().spec.round_robin;
    pinned.services[0].spec.round_robin = Dual { v6: None, ..taken };
    let ip = taken.v4.unwrap();
    let root = Scope::All;
    for (scope, draft, told) in [
        (
            &rival,
            draft("shop", 500, 400),
            "application shop.prod is taken; choose another name or namespace: all organisations \
             share them"
                .to_owned(),
        ),
        (
            &root,
            draft("shop", 500, 400),
            "application shop.prod is taken by organisation acme; choose another name or \
             namespace: all organisations share them"
                .to_owned(),
        ),
        (
            &rival,
            pinned.clone(),
            format!("service other.prod.web.prod: address {ip} is taken; choose another"),
        ),
        (
            &root,
            pinned,
            format!(
                "service other.prod.web.prod: address {ip} belongs to rr of service \
                 shop.prod.web.prod; choose another"
            ),
        ),
    ] {
        let apply = Command::Apply(draft, organisation("rival"));
        let refused = tiers.root.command(apply, scope, now).unwrap_err();
        assert_eq!(refused.to_string(), told);
    }
    assert_eq!(tiers.root.services().count(), 1);
}

#[test]
fn a_name_is_its_owners_until_his_last_instance_has_ended() {
    let mut tiers = Tiers::new(&[("munich", &[("a", 1000, 1000)])]);
    tiers.deploy(draft("shop", 500, 400));
    let application = tiers.root.applications().next().unwrap().id.clone();
    let rival = || Command::Apply(draft("shop", 500, 400), organisation("rival"));
    // Its instance is out of the tables and still runs for a moment.
    tiers
        .command(Command::DeleteApplication(application))
        .unwrap();
    let taken = "application shop.prod is taken; choose another name or namespace: all \
                 organisations share them";
    assert_eq!(tiers.command(rival()).unwrap_err().to_string(), taken);
    // Its owner may have it again at once.
    let own = Command::Apply(draft("shop", 500, 400), organisation("acme"));
    let now = tiers.at();
    let known = tiers
        .root
        .command(own, &Scope::Of(organisation("acme")), now);
    assert!(known.is_ok(), "{known:?}");
    let application = tiers.root.applications().next().unwrap().id.clone();
    tiers
        .command(Command::DeleteApplication(application))
        .unwrap();
    tiers.pass(Duration::from_secs(10));
    assert!(tiers.command(rival()).is_ok());
}

#[test]
fn applying_twice_changes_nothing() {
    let mut tiers = Tiers::new(&[("munich", &[("a", 1000, 1000)])]);
    let apply =
        |tiers: &mut Tiers, draft| tiers.command(Command::Apply(draft, organisation("acme")));
    let first = apply(&mut tiers, draft("shop", 500, 400)).unwrap();
    assert_eq!(apply(&mut tiers, draft("shop", 500, 400)), Ok(first));
    let other = apply(&mut tiers, draft("shop", 600, 400)).unwrap_err();
    assert_eq!(
        other.to_string(),
        "service shop.prod.web.prod exists already; delete it first if it is to be another"
    );
}
