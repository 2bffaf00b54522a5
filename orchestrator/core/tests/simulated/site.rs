//! What is simulated: two clusters with two nodes each, and one application of three services.

use std::collections::BTreeMap;
use std::time::Duration;

use orchestrator_core::addresses::Plan;
use orchestrator_core::cluster::Settings;
use orchestrator_core::sla::{ApplicationDraft, ServiceDraft};
use weald_proto::addr::{Dual, Pools};
use weald_proto::control::NodeCapacity;
use weald_proto::id::{Label, NodeId, Organisation};
use weald_proto::name::{ServiceName, Zone};
use weald_proto::sla::Microservice;
use weald_proto::spec::{Resources, Runtime, ServiceSpec};
use weald_proto::table::{AcceptPolicy, LanePolicy};

use crate::support::random::Random;

pub(crate) const CLUSTERS: [&str; 2] = ["munich", "paris"];
pub(crate) const NODES: [&str; 2] = ["a", "b"];
/// Each service with the processors and the memory that an instance needs, and whether it listens.
pub(crate) const SERVICES: [(&str, u32, u32, bool); 3] = [
    ("web", 100, 50, true),
    ("db", 500, 400, true),
    ("job", 50, 10, false),
];
/// The most instances of a service that are asked for: all of them together fit.
pub(crate) const MOST: u64 = 4;

/// A process: root, the cluster of a site, or a worker of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    Root,
    Cluster(usize),
    Worker(usize, usize),
}

pub(crate) fn everybody() -> Vec<Who> {
    let mut all = vec![Who::Root];
    for site in 0..CLUSTERS.len() {
        all.push(Who::Cluster(site));
        all.extend((0..NODES.len()).map(|at| Who::Worker(site, at)));
    }
    all
}

/// Some time below so many milliseconds.
pub(crate) fn millis(random: &mut Random, end: u64) -> Duration {
    Duration::from_millis(random.below(end))
}

pub(crate) fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

pub(crate) fn organisation() -> Organisation {
    Organisation(label("acme"))
}

pub(crate) fn service(name: &str) -> ServiceName {
    format!("shop.prod.{name}.prod").parse().unwrap()
}

/// What an instance of a service needs.
pub(crate) fn needs(name: &str) -> Resources {
    let found = SERVICES.into_iter().find(|it| it.0 == name);
    let (_, millicpus, memory_mib, _) = found.unwrap();
    Resources {
        millicpus,
        memory_mib,
        ..Resources::default()
    }
}

/// The application with some of its services, each in a version that its command shows.
pub(crate) fn draft(services: &BTreeMap<&'static str, u32>, text: u32) -> ApplicationDraft {
    let listens = |name| SERVICES.iter().any(|it| it.0 == name && it.3);
    let draft = |(name, version): (&&'static str, &u32)| ServiceDraft {
        spec: ServiceSpec {
            name: service(name),
            organisation: organisation(),
            round_robin: Dual::default(),
            closest: Dual::default(),
            lane: LanePolicy::Auto,
            accept: AcceptPolicy::Late,
            runtime: Runtime::Process,
            code: "/bin/true".to_owned(),
            command: vec![version.to_string()],
            environment: Vec::new(),
            resources: needs(name),
            ports: Vec::new(),
            listens: if listens(*name) { vec![80] } else { Vec::new() },
            one_shot: false,
            constraints: Vec::new(),
            scheduler: None,
            convergence: Duration::from_hours(1),
        },
        connectivity: Vec::new(),
        added_files: Vec::new(),
        written: Microservice::default(),
    };
    ApplicationDraft {
        name: service("web").application,
        id: None,
        description: text.to_string(),
        customer: "admin".to_owned(),
        services: services.iter().map(draft).collect(),
    }
}

/// The key of a site's cluster that has joined for the nth time.
pub(crate) fn cluster_key(site: usize, joined: u8) -> [u8; 32] {
    [1 + u8::try_from(site).unwrap() * 50 + joined; 32]
}

/// The key of a worker of that cluster.
pub(crate) fn worker_key(site: usize, at: usize, joined: u8) -> [u8; 32] {
    [120 + u8::try_from(site * NODES.len() + at).unwrap() * 20 + joined; 32]
}

pub(crate) fn settings(site: usize) -> Settings {
    Settings {
        name: label(CLUSTERS[site]),
        place: None,
        plan: Plan::default(),
        pools: Pools::default(),
        zones: Zone::defaults(),
    }
}

/// All of a node is not enough for every instance, so that some offers are refused.
pub(crate) fn capacity() -> NodeCapacity {
    NodeCapacity {
        total: Resources {
            millicpus: 1400,
            memory_mib: 1100,
            ..Resources::default()
        },
        runtimes: vec![Runtime::Process],
        addons: Vec::new(),
        place: None,
    }
}

pub(crate) fn node(site: usize, at: usize) -> NodeId {
    NodeId::new(label(CLUSTERS[site]), label(NODES[at]))
}

pub(crate) fn site_of(cluster: &Label) -> usize {
    let found = CLUSTERS.iter().position(|name| *name == cluster.as_str());
    found.unwrap()
}

pub(crate) fn node_of(name: &Label) -> usize {
    let found = NODES.iter().position(|node| *node == name.as_str());
    found.unwrap()
}
