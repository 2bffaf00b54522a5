//! What a worker is told and what it answers, as values. What it makes of them is its parent's.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use weald_proto::addr::Dual;
use weald_proto::control::{ClusterToWorker, Generation, WorkerToCluster};
use weald_proto::name::InstanceId;
use weald_proto::spec::ServiceSpec;

use crate::record::Write;

/// What an instance is to a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// What it is.
    pub spec: ServiceSpec,
    /// Its addresses.
    pub instance_ip: Dual,
}

/// What a runtime did, of its own accord or as it was told.
#[derive(Debug, Clone, PartialEq)]
pub enum RuntimeEvent {
    /// It runs, newly started or taken up again.
    Running,
    /// Of those ports that were asked about, it listens on all.
    Listens,
    /// It runs, and does not listen on all ports that were asked about yet; why it is said now.
    Quiet(String),
    /// It could not be started.
    NotStarted(String),
    /// It has ended by itself.
    Exited {
        /// Its exit status; 128 + n after signal n.
        status: i32,
        /// What else is known, as in "it used more memory than its limit of 64 MiB".
        detail: Option<String>,
    },
    /// Nothing of it is left, as it was told.
    Stopped,
    /// What it uses.
    Usage {
        /// Per cent of one processor.
        cpu_percent: f32,
        /// MiB of memory.
        memory_mib: u32,
    },
}

/// What a worker is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A new connection with the cluster.
    Connected,
    /// The connection is gone.
    Disconnected,
    /// The cluster said something on the present connection.
    Message(ClusterToWorker),
    /// A runtime did something with one life of an instance.
    Runtime {
        /// Which instance.
        instance: InstanceId,
        /// Which life.
        generation: Generation,
        /// What it did.
        event: RuntimeEvent,
    },
    /// How busy the node is.
    Load {
        /// Per cent of all processors in use.
        cpu_percent: f32,
        /// MiB of memory in use.
        memory_mib: u32,
    },
    /// Time has passed.
    Tick,
}

/// What the shell does, after the writes of the same step are committed.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Says something to the cluster; dropped when there is no connection.
    Send(WorkerToCluster),
    /// Starts a life, in place of any earlier one of the instance; takes up one that runs.
    Start {
        /// Which instance.
        instance: InstanceId,
        /// Which life.
        generation: Generation,
        /// What it is.
        work: Box<Work>,
    },
    /// Says when a life that runs listens on all these TCP ports, and now and then that it does not.
    Await {
        /// Which instance.
        instance: InstanceId,
        /// Which life.
        generation: Generation,
        /// The ports, as the instance has them.
        ports: BTreeSet<u16>,
    },
    /// Ends every life up to this one, and says Stopped of this one, also when nothing ran.
    Stop {
        /// Which instance.
        instance: InstanceId,
        /// The last life that ends.
        generation: Generation,
    },
    /// Reads the end of an instance's log and answers the cluster.
    ReadLogs {
        /// Repeated in the answer.
        request: u64,
        /// Which instance.
        instance: InstanceId,
        /// At most so many lines.
        lines: u32,
    },
    /// The cluster speaks another version: say so, and close the connection.
    Incompatible {
        /// The version that it speaks.
        version: u32,
    },
}

/// What follows from an input.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Step {
    /// To be committed, as one, before any effect.
    pub writes: Vec<Write>,
    /// To be carried out then, in order.
    pub effects: Vec<Effect>,
}
