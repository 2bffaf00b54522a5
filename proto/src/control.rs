//! What the tiers say to one another: root and clusters, clusters and workers.
//!
//! Every message may be lost, doubled or late, so each says what is wanted or what is, never a
//! difference: an instance is named with its generation, and a higher generation wins. What is done
//! about them is orchestrator-core's; their layout as bytes is [`crate::codec`]'s. What a netmanager
//! and its cluster say to each other is [`crate::session`]'s.

use serde::{Deserialize, Serialize};

use crate::addr::Dual;
use crate::id::NodeId;
use crate::join::{RenewRequest, RenewResponse};
use crate::name::{ApplicationName, InstanceId};
use crate::spec::{Place, Resources, Runtime, ServiceSpec};
use crate::statement::Signed;

/// The version of the control protocol.
pub const VERSION: u32 = 1;
/// The ALPN between a cluster and root.
pub const ROOT_ALPN: &[u8] = b"weald-root/1";
/// The ALPN between a worker and its cluster.
pub const CLUSTER_ALPN: &[u8] = b"weald-cluster/1";

/// Orders the lives of one instance: root gives a larger one to every new placement and removal.
pub type Generation = u64;

/// Where an instance is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Known, nothing is wanted yet.
    Registered,
    /// Wanted; no cluster has it.
    Requested,
    /// A cluster has it.
    ClusterScheduled,
    /// A node has it.
    NodeScheduled,
    /// The node prepares it.
    Creating,
    /// It runs.
    Running,
    /// It has ended well.
    Completed,
    /// It could not be placed or started, or ended badly.
    Failed,
    /// It was removed.
    Terminated,
}

/// An instance as it is, told upwards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceReport {
    /// Which one.
    pub instance: InstanceId,
    /// Of which life.
    pub generation: Generation,
    /// Where it is in it.
    pub phase: Phase,
    /// Why, in words.
    pub detail: String,
    /// Where it is; none while no node has it.
    pub node: Option<NodeId>,
    /// Its addresses; empty while it has none.
    pub instance_ip: Dual,
    /// Its exit status, once it has one; 128 + n after signal n.
    pub exit_status: Option<i32>,
    /// Per cent of one processor that it uses.
    pub cpu_percent: f32,
    /// MiB of memory that it uses.
    pub memory_mib: u32,
}

impl InstanceReport {
    /// A life's phase and nothing more: on no node, without addresses, using nothing.
    #[must_use]
    pub fn new(instance: InstanceId, generation: Generation, phase: Phase) -> Self {
        Self {
            instance,
            generation,
            phase,
            detail: String::new(),
            node: None,
            instance_ip: Dual::default(),
            exit_status: None,
            cpu_percent: 0.0,
            memory_mib: 0,
        }
    }
}

/// Why somebody does not take an instance: a figure beside the figure that it fails.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Refusal {
    /// Who refuses: a cluster's name, or `cluster/node`.
    pub by: String,
    /// Why.
    pub reason: Reason,
}

/// Why a cluster or node does not take an instance.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Reason {
    /// Less is free than is needed.
    Insufficient {
        /// The resource, with its unit, as in `memory (MiB)`.
        resource: String,
        /// What is needed.
        needed: u64,
        /// What is free.
        free: u64,
    },
    /// The runtime is not there.
    Runtime {
        /// What is needed.
        needed: String,
        /// What is there.
        available: Vec<String>,
    },
    /// A constraint excludes it.
    Constraint {
        /// The constraint and the figure that fails it.
        text: String,
    },
    /// It is not reachable, or not alive.
    Unavailable {
        /// Since when or why.
        text: String,
    },
    /// A port of the host is taken.
    PortTaken {
        /// Port and transport, as in `8080/tcp`.
        port: String,
        /// Who has it.
        by: String,
    },
    /// No address is left.
    NoAddress,
    /// No answer came in time.
    Deadline {
        /// How long it was given, in ms.
        after_ms: u64,
    },
    /// The node tried and failed.
    Failed {
        /// What failed.
        text: String,
    },
}

/// What a node has, and what of it is free.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeCapacity {
    /// All that instances may have.
    pub total: Resources,
    /// What runs instances there.
    pub runtimes: Vec<Runtime>,
    /// Addons that are there.
    pub addons: Vec<String>,
    /// Where the node is.
    pub place: Option<Place>,
}

/// The sum over a cluster's live nodes, as root ranks clusters by it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Aggregate {
    /// Live nodes.
    pub nodes: u32,
    /// All that they have.
    pub total: Resources,
    /// What is not reserved, summed.
    pub free: Resources,
    /// The most that one node has free, each resource for itself.
    pub largest_free: Resources,
    /// Mean and standard deviation of the nodes' free processors, in thousandths.
    pub free_millicpus_mean_deviation: (f64, f64),
    /// Mean and standard deviation of the nodes' free memory, in MiB.
    pub free_memory_mean_deviation: (f64, f64),
    /// Mean use of processors, per cent.
    pub cpu_percent: f32,
    /// Mean use of memory, per cent.
    pub memory_percent: f32,
    /// What runs instances somewhere in the cluster.
    pub runtimes: Vec<Runtime>,
    /// Addons that are somewhere in the cluster.
    pub addons: Vec<String>,
}

/// How somebody stands who says every second that it is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Heard of lately.
    Alive,
    /// Silent for some seconds: nothing new is placed there.
    Suspect,
    /// Silent for longer: what it had counts as lost.
    Dead,
    /// Out of the tables.
    Gone,
}

/// A node as its cluster knows it, for people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Which node.
    pub node: NodeId,
    /// How it stands.
    pub standing: Standing,
    /// What it has.
    pub capacity: NodeCapacity,
    /// What of that is reserved.
    pub reserved: Resources,
    /// Its own addresses in the overlay; empty while it has none.
    pub node_ip: Dual,
    /// Per cent of all processors in use.
    pub cpu_percent: f32,
    /// MiB of memory in use.
    pub memory_mib: u32,
    /// SHA-256 of its key's SubjectPublicKeyInfo, by which it is revoked.
    pub key: [u8; 32],
}

/// What a cluster says to root.
#[derive(Debug, Clone, PartialEq)]
pub enum ClusterToRoot {
    /// The first message of a connection.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// Where the cluster is.
        place: Option<Place>,
        /// The generation of the newest grant that it has; 0 for none.
        grant: Generation,
        /// The epoch of the newest revocation list that it has; 0 for none.
        revocations: u64,
    },
    /// Sent every second: alive, and what there is.
    Heartbeat {
        /// Counts the heartbeats of a connection.
        sequence: u64,
        /// The cluster's nodes together.
        aggregate: Aggregate,
    },
    /// Instances as they are: all of them after [`RootToCluster::Welcome`], then whatever changed.
    /// Repeated until acknowledged.
    Report {
        /// Repeated in the acknowledgement.
        sequence: u64,
        /// Whether these are all instances that the cluster has.
        complete: bool,
        /// The instances.
        instances: Vec<InstanceReport>,
    },
    /// An offer is refused, with everybody's reason.
    Refused {
        /// Which instance.
        instance: InstanceId,
        /// The generation that was offered.
        generation: Generation,
        /// Every node's reason.
        refusals: Vec<Refusal>,
    },
    /// A block or more addresses are needed.
    NeedAddresses {
        /// The generation of the grant that is used up.
        grant: Generation,
    },
    /// Rows that this cluster signed, for other clusters.
    Rows(Vec<Signed>),
    /// All applications whose rows the cluster wants.
    Interests(Vec<ApplicationName>),
    /// All nodes of the cluster, when one has come to stand differently and every few seconds.
    Nodes(Vec<NodeReport>),
    /// Answers [`RootToCluster::ReadLogs`].
    Logs {
        /// The number in the request.
        request: u64,
        /// The last lines, oldest first; or why there are none.
        lines: Result<Vec<String>, String>,
    },
    /// The cluster's certificate is to live on.
    Renew(RenewRequest),
}

/// What root says to a cluster.
#[derive(Debug, Clone, PartialEq)]
pub enum RootToCluster {
    /// Answers Hello.
    Welcome {
        /// [`VERSION`].
        version: u32,
    },
    /// What the cluster may claim (a signed `statement::Grant`), its own or another cluster's.
    Grant(Signed),
    /// Who is revoked (a signed `statement::Revocations`).
    Revocations(Signed),
    /// The cluster is to run this. Repeated until reported or refused.
    Offer {
        /// Which instance.
        instance: InstanceId,
        /// Of which life.
        generation: Generation,
        /// What it is.
        spec: Box<ServiceSpec>,
        /// How long the cluster may try, in ms.
        within_ms: u64,
    },
    /// The cluster is to have this no longer. Repeated until reported as Terminated.
    Withdraw {
        /// Which instance.
        instance: InstanceId,
        /// Every life up to this one ends.
        generation: Generation,
    },
    /// Rows of applications that the cluster is interested in, of the nodes that host them, and of
    /// relays.
    Rows {
        /// The applications that these rows, and those that went before with `more`, are all of;
        /// rows of them that are not here are gone.
        complete: Vec<ApplicationName>,
        /// The rows.
        rows: Vec<Signed>,
        /// Whether the next such message goes on with them.
        more: bool,
    },
    /// An application whose rows were asked for does not exist.
    Unknown(ApplicationName),
    /// Asks for the end of an instance's log.
    ReadLogs {
        /// Repeated in the answer.
        request: u64,
        /// Which instance.
        instance: InstanceId,
        /// At most so many lines.
        lines: u32,
    },
    /// A report has been persisted.
    Acknowledged {
        /// The report's sequence.
        sequence: u64,
    },
    /// Answers [`ClusterToRoot::Renew`].
    Renewed(RenewResponse),
}

/// What a worker says to its cluster.
#[derive(Debug, Clone, PartialEq)]
pub enum WorkerToCluster {
    /// The first message of a connection.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// What the node has.
        capacity: NodeCapacity,
    },
    /// Sent every second: alive, and how busy.
    Heartbeat {
        /// Counts the heartbeats of a connection.
        sequence: u64,
        /// Per cent of all processors in use.
        cpu_percent: f32,
        /// MiB of memory in use.
        memory_mib: u32,
    },
    /// Instances as they are: all of them after [`ClusterToWorker::Welcome`], then whatever changed.
    /// Repeated until acknowledged.
    Report {
        /// Repeated in the acknowledgement.
        sequence: u64,
        /// Whether these are all instances that the worker has.
        complete: bool,
        /// The instances.
        instances: Vec<InstanceReport>,
    },
    /// A deployment is refused.
    Rejected {
        /// Which instance.
        instance: InstanceId,
        /// The generation that was to be deployed.
        generation: Generation,
        /// Why.
        reason: Reason,
    },
    /// Answers [`ClusterToWorker::ReadLogs`].
    Logs {
        /// The number in the request.
        request: u64,
        /// The last lines, oldest first; or why there are none.
        lines: Result<Vec<String>, String>,
    },
    /// The node's certificate is to live on.
    Renew(RenewRequest),
}

/// What a cluster says to a worker.
#[derive(Debug, Clone, PartialEq)]
pub enum ClusterToWorker {
    /// Answers Hello.
    Welcome {
        /// [`VERSION`].
        version: u32,
    },
    /// The worker is to run this. Repeated until reported or rejected.
    Deploy {
        /// Which instance.
        instance: InstanceId,
        /// Of which life.
        generation: Generation,
        /// What it is.
        spec: Box<ServiceSpec>,
        /// Its addresses.
        instance_ip: Dual,
    },
    /// The worker is to have this no longer. Repeated until reported as Terminated.
    Stop {
        /// Which instance.
        instance: InstanceId,
        /// Every life up to this one ends.
        generation: Generation,
    },
    /// Asks for the end of an instance's log.
    ReadLogs {
        /// Repeated in the answer.
        request: u64,
        /// Which instance.
        instance: InstanceId,
        /// At most so many lines.
        lines: u32,
    },
    /// A report has been persisted.
    Acknowledged {
        /// The report's sequence.
        sequence: u64,
    },
    /// Answers [`WorkerToCluster::Renew`].
    Renewed(RenewResponse),
}
