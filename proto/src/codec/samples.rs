//! One value of every kind of message, with every field set and with as few as may be.

mod early;
mod join;
mod parts;
mod peer;
mod statement;

use std::time::Duration;

use crate::addr::{Dual, Pools};
use crate::control::{
    Aggregate, ClusterToRoot, ClusterToWorker, InstanceReport, NodeCapacity, NodeReport, Phase,
    Reason, Refusal, RootToCluster, Standing, VERSION, WorkerToCluster,
};
use crate::id::{Label, NodeId, Organisation};
use crate::name::{ApplicationName, InstanceId, Zone};
use crate::session::{ClusterToNet, NetToCluster};
use crate::spec::{Constraint, Place, Resources, Runtime, ServiceSpec};
use crate::statement::Signed;
use crate::table::{AcceptPolicy, LanePolicy};

pub(super) use early::accepting_early;
pub(super) use join::{join_requests, join_responses, renewed, renewing};
pub(super) use parts::in_parts;
pub(super) use peer::{mapped, peer_to_peer};
pub(super) use statement::statements;

pub(super) fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

fn organisation() -> Organisation {
    Organisation(label("acme"))
}

pub(super) fn instance() -> InstanceId {
    "shop.prod.web.prod.3".parse().unwrap()
}

fn application() -> ApplicationName {
    instance().service.application
}

fn node() -> NodeId {
    "munich/a1".parse().unwrap()
}

fn both() -> Dual {
    Dual {
        v4: Some([10, 30, 1, 2].into()),
        v6: Some("fdff:1::2".parse().unwrap()),
    }
}

fn place() -> Place {
    Place {
        latitude: 48.25,
        longitude: -11.5,
        radius_km: 20.0,
    }
}

fn resources() -> Resources {
    Resources {
        millicpus: 500,
        memory_mib: 128,
        gpus: 1,
        tpus: 2,
        storage_mib: 1000,
        bandwidth_in_kbit: 10,
        bandwidth_out_kbit: 20,
    }
}

pub(super) fn signed() -> Signed {
    Signed {
        statement: vec![1, 2],
        signature: vec![3],
        cluster: Some(label("munich")),
    }
}

pub(super) fn by_root() -> Signed {
    Signed {
        cluster: None,
        ..signed()
    }
}

pub(super) fn spec() -> ServiceSpec {
    ServiceSpec {
        name: instance().service,
        organisation: organisation(),
        round_robin: both(),
        closest: Dual::default(),
        lane: LanePolicy::L4,
        accept: AcceptPolicy::Late,
        runtime: Runtime::Container,
        code: "docker.io/library/nginx:1".to_owned(),
        command: vec!["nginx".to_owned(), "-g".to_owned()],
        environment: vec![("A".to_owned(), "b c".to_owned())],
        resources: resources(),
        ports: vec!["8080:80/tcp".parse().unwrap(), "53:53/udp".parse().unwrap()],
        listens: Vec::new(),
        one_shot: true,
        constraints: vec![
            Constraint::Direct {
                cluster: Some(label("munich")),
                node: None,
            },
            Constraint::Clusters {
                allowed: vec![label("munich"), label("paris")],
            },
            Constraint::Addons {
                needs: vec!["gpu".to_owned()],
            },
            Constraint::Geo {
                places: vec![place()],
            },
            Constraint::Latency {
                area: "munich".to_owned(),
                threshold_ms: 1.5,
            },
        ],
        scheduler: Some(label("best-fit")),
        convergence: Duration::from_millis(1500),
    }
}

fn report(phase: Phase) -> InstanceReport {
    InstanceReport {
        instance: instance(),
        generation: 7,
        phase,
        detail: "it ended with status 1".to_owned(),
        node: Some(node()),
        instance_ip: both(),
        exit_status: Some(-1),
        cpu_percent: 12.5,
        memory_mib: 64,
    }
}

fn empty_report(phase: Phase) -> InstanceReport {
    InstanceReport {
        detail: String::new(),
        node: None,
        instance_ip: Dual::default(),
        exit_status: None,
        cpu_percent: 0.0,
        memory_mib: 0,
        ..report(phase)
    }
}

fn reports() -> Vec<InstanceReport> {
    let phases = [
        Phase::Registered,
        Phase::Requested,
        Phase::ClusterScheduled,
        Phase::NodeScheduled,
        Phase::Creating,
        Phase::Running,
        Phase::Completed,
        Phase::Failed,
        Phase::Terminated,
    ];
    phases
        .into_iter()
        .flat_map(|phase| [report(phase), empty_report(phase)])
        .collect()
}

fn reasons() -> Vec<Reason> {
    let text = || "because".to_owned();
    vec![
        Reason::Insufficient {
            resource: "memory (MiB)".to_owned(),
            needed: 512,
            free: 100,
        },
        Reason::Runtime {
            needed: "container".to_owned(),
            available: vec!["process".to_owned()],
        },
        Reason::Constraint { text: text() },
        Reason::Unavailable { text: text() },
        Reason::PortTaken {
            port: "80/tcp".to_owned(),
            by: text(),
        },
        Reason::NoAddress,
        Reason::Deadline { after_ms: 1000 },
        Reason::Failed { text: text() },
    ]
}

fn refusals() -> Vec<Refusal> {
    let by = || "munich/a1".to_owned();
    let reasons = reasons().into_iter();
    reasons.map(|reason| Refusal { by: by(), reason }).collect()
}

fn capacity() -> NodeCapacity {
    NodeCapacity {
        total: resources(),
        runtimes: vec![Runtime::Process],
        addons: vec!["gpu".to_owned()],
        place: Some(place()),
    }
}

fn nodes() -> Vec<NodeReport> {
    let standings = [
        Standing::Alive,
        Standing::Suspect,
        Standing::Dead,
        Standing::Gone,
    ];
    let report = |standing| NodeReport {
        node: node(),
        standing,
        capacity: capacity(),
        reserved: resources(),
        node_ip: both(),
        cpu_percent: 2.5,
        memory_mib: 300,
        key: [7; 32],
    };
    standings.into_iter().map(report).collect()
}

fn aggregate() -> Aggregate {
    Aggregate {
        nodes: 2,
        total: resources(),
        free: resources(),
        largest_free: resources(),
        free_millicpus_mean_deviation: (250.0, 12.5),
        free_memory_mean_deviation: (64.0, 1.0),
        cpu_percent: 10.0,
        memory_percent: 20.0,
        runtimes: vec![
            Runtime::Process,
            Runtime::Container,
            Runtime::Unikernel,
            Runtime::Microvm,
            Runtime::Wasm,
        ],
        addons: vec!["gpu".to_owned()],
    }
}

pub(super) fn cluster_to_root() -> Vec<ClusterToRoot> {
    vec![
        ClusterToRoot::Hello {
            version: VERSION,
            place: Some(place()),
            grant: 3,
            revocations: 4,
        },
        ClusterToRoot::Hello {
            version: VERSION,
            place: None,
            grant: 0,
            revocations: 0,
        },
        ClusterToRoot::Heartbeat {
            sequence: 9,
            aggregate: aggregate(),
        },
        ClusterToRoot::Heartbeat {
            sequence: 0,
            aggregate: Aggregate::default(),
        },
        ClusterToRoot::Report {
            sequence: 1,
            complete: true,
            instances: reports(),
        },
        ClusterToRoot::Refused {
            instance: instance(),
            generation: 7,
            refusals: refusals(),
        },
        ClusterToRoot::NeedAddresses { grant: 3 },
        ClusterToRoot::Rows(vec![signed(), by_root()]),
        ClusterToRoot::Interests(vec![application()]),
        ClusterToRoot::Nodes(nodes()),
        ClusterToRoot::Logs {
            request: 5,
            lines: Ok(vec!["one".to_owned()]),
        },
    ]
}

pub(super) fn root_to_cluster() -> Vec<RootToCluster> {
    vec![
        RootToCluster::Welcome { version: VERSION },
        RootToCluster::Grant(by_root()),
        RootToCluster::Revocations(by_root()),
        RootToCluster::Offer {
            instance: instance(),
            generation: 7,
            spec: Box::new(spec()),
            within_ms: 2000,
        },
        RootToCluster::Offer {
            instance: instance(),
            generation: 7,
            spec: Box::new(ServiceSpec {
                listens: vec![80, 9000],
                ..spec()
            }),
            within_ms: 2000,
        },
        RootToCluster::Withdraw {
            instance: instance(),
            generation: 8,
        },
        RootToCluster::Rows {
            complete: vec![application()],
            rows: vec![signed()],
            more: false,
        },
        RootToCluster::ReadLogs {
            request: 5,
            instance: instance(),
            lines: 100,
        },
        RootToCluster::Unknown(application()),
        RootToCluster::Acknowledged { sequence: 1 },
    ]
}

pub(super) fn worker_to_cluster() -> Vec<WorkerToCluster> {
    let mut messages = vec![
        WorkerToCluster::Hello {
            version: VERSION,
            capacity: capacity(),
        },
        WorkerToCluster::Heartbeat {
            sequence: 9,
            cpu_percent: 12.5,
            memory_mib: 900,
        },
        WorkerToCluster::Report {
            sequence: 2,
            complete: false,
            instances: reports(),
        },
        WorkerToCluster::Logs {
            request: 5,
            lines: Ok(vec!["one".to_owned(), String::new()]),
        },
        WorkerToCluster::Logs {
            request: 5,
            lines: Err("no such instance".to_owned()),
        },
    ];
    messages.extend(
        reasons()
            .into_iter()
            .map(|reason| WorkerToCluster::Rejected {
                instance: instance(),
                generation: 7,
                reason,
            }),
    );
    messages
}

pub(super) fn cluster_to_worker() -> Vec<ClusterToWorker> {
    vec![
        ClusterToWorker::Welcome { version: VERSION },
        ClusterToWorker::Deploy {
            instance: instance(),
            generation: 7,
            spec: Box::new(spec()),
            instance_ip: both(),
        },
        ClusterToWorker::Stop {
            instance: instance(),
            generation: 8,
        },
        ClusterToWorker::ReadLogs {
            request: 5,
            instance: instance(),
            lines: 100,
        },
        ClusterToWorker::Acknowledged { sequence: 2 },
    ]
}

pub(super) fn net_to_cluster() -> Vec<NetToCluster> {
    let addresses = || {
        vec![
            "192.0.2.1:4433".parse().unwrap(),
            "[2001:db8::1]:4433".parse().unwrap(),
        ]
    };
    vec![
        NetToCluster::Hello {
            version: crate::session::VERSION,
            addresses: addresses(),
            lease: 1,
            revocations: 2,
        },
        NetToCluster::Interests(vec![application()]),
        NetToCluster::Addresses(addresses()),
        NetToCluster::KeepAlive,
    ]
}

pub(super) fn cluster_to_net() -> Vec<ClusterToNet> {
    vec![
        ClusterToNet::Welcome {
            version: crate::session::VERSION,
            observed: "192.0.2.1:4433".parse().unwrap(),
            pools: Pools::default(),
            zones: Zone::defaults(),
            node_ip: both(),
            relay_token: vec![1, 2, 3],
        },
        ClusterToNet::Lease(signed()),
        ClusterToNet::Grant(by_root()),
        ClusterToNet::Revocations(by_root()),
        ClusterToNet::Rows {
            complete: vec![application()],
            rows: vec![signed()],
            more: false,
        },
        ClusterToNet::Unknown(application()),
    ]
}
