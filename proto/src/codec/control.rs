//! What root, clusters and workers say to one another.

use super::parts::{Fault, Wire, fields, list, put, take, variants, words};
use super::{MAX_LIST_LEN, wire};
use crate::control::{
    Aggregate, ClusterToRoot, ClusterToWorker, InstanceReport, NodeCapacity, NodeReport, Phase,
    Reason, Refusal, RootToCluster, Standing, WorkerToCluster,
};

variants!(ClusterToRoot as FromCluster.message(from_cluster::Message):
    {
        Hello as ClusterHello { version: value, place: option, grant: value, revocations: value }
        Heartbeat as ClusterHeartbeat { sequence: value, aggregate: message }
        Report as Report { sequence: value, complete: value, instances: long }
        Refused as Refused { instance: value, generation: value, refusals: long }
        NeedAddresses as NeedAddresses { grant: value }
        Logs as Logs { request: value, lines: message }
    }
    { Rows: rows, Interests: interests, Nodes: nodes, Renew: renew }
);

variants!(RootToCluster as ToCluster.message(to_cluster::Message):
    {
        Welcome as Welcome { version: value }
        Offer as Offer { instance: value, generation: value, spec: message, within_ms: value }
        Withdraw as Withdraw { instance: value, generation: value }
        Rows as Rows { complete: long, rows: long, more: value }
        ReadLogs as ReadLogs { request: value, instance: value, lines: value }
        Acknowledged as Acknowledged { sequence: value }
    }
    { Grant: grant, Revocations: revocations, Unknown: unknown, Renewed: renewed }
);

variants!(WorkerToCluster as FromWorker.message(from_worker::Message):
    {
        Hello as WorkerHello { version: value, capacity: message }
        Heartbeat as WorkerHeartbeat { sequence: value, cpu_percent: value, memory_mib: value }
        Report as Report { sequence: value, complete: value, instances: long }
        Rejected as Rejected { instance: value, generation: value, reason: message }
        Logs as Logs { request: value, lines: message }
    }
    { Renew: renew }
);

variants!(ClusterToWorker as ToWorker.message(to_worker::Message):
    {
        Welcome as Welcome { version: value }
        Deploy as Deploy { instance: value, generation: value, spec: message, instance_ip: message }
        Stop as Withdraw { instance: value, generation: value }
        ReadLogs as ReadLogs { request: value, instance: value, lines: value }
        Acknowledged as Acknowledged { sequence: value }
    }
    { Renewed: renewed }
);

fields!(InstanceReport as InstanceReport {
    instance: value,
    generation: value,
    phase: value,
    detail: value,
    node: option,
    instance_ip: message,
    exit_status: option,
    cpu_percent: value,
    memory_mib: value,
});

words!(Phase as Phase {
    Registered,
    Requested,
    ClusterScheduled,
    NodeScheduled,
    Creating,
    Running,
    Completed,
    Failed,
    Terminated,
});

fields!(Refusal as Refusal { by: value, reason: message });

variants!(Reason as Reason.reason(reason::Reason):
    {
        Insufficient as Insufficient { resource: value, needed: value, free: value }
        Runtime as RuntimeMissing { needed: value, available: list }
        Constraint as ReasonText { text: value }
        Unavailable as ReasonText { text: value }
        PortTaken as PortTaken { port: value, by: value }
        NoAddress as NoAddress {}
        Deadline as Deadline { after_ms: value }
        Failed as ReasonText { text: value }
    }
    {}
);

fields!(NodeReport as NodeReport {
    node: value,
    standing: value,
    capacity: message,
    reserved: message,
    node_ip: message,
    cpu_percent: value,
    memory_mib: value,
    key: value,
});

words!(Standing as Standing { Alive, Suspect, Dead, Gone });

fields!(NodeCapacity as NodeCapacity {
    total: message,
    runtimes: list,
    addons: list,
    place: option,
});

fields!(Aggregate as Aggregate {
    nodes: value,
    total: message,
    free: message,
    largest_free: message,
    free_millicpus_mean_deviation: message,
    free_memory_mean_deviation: message,
    cpu_percent: value,
    memory_percent: value,
    runtimes: list,
    addons: list,
});

/// Lines of a log, or why there are none.
impl Wire for Result<Vec<String>, String> {
    type Message = wire::LogLines;

    fn put(&self) -> Self::Message {
        match self {
            Ok(lines) => wire::LogLines {
                lines: lines.clone(),
                error: None,
            },
            Err(error) => wire::LogLines {
                lines: Vec::new(),
                error: Some(error.clone()),
            },
        }
    }

    fn take(message: Self::Message) -> Result<Self, Fault> {
        match message.error {
            Some(error) => Ok(Err(take!(value error, error)?)),
            None => {
                let lines = list(message.lines, MAX_LIST_LEN);
                Ok(Ok(lines.map_err(|fault| fault.within("lines"))?))
            }
        }
    }
}
