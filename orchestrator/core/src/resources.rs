//! What is counted of a node, each with its name and unit; sums and differences of it, and what is
//! lacking for one more instance.
//!
//! Against whom it is held is decided where it is asked: `schedule` and `worker`.

use weald_proto::control::Reason;
use weald_proto::name::InstanceId;
use weald_proto::spec::{Resources, Runtime, ServiceSpec};
use weald_proto::table::PortMapping;

/// Reads one amount.
pub(crate) type Amount = fn(&Resources) -> u32;

/// What is counted, each with its unit.
pub(crate) const RESOURCES: [(&str, Amount); 7] = [
    ("processors (1/1000)", |all| all.millicpus),
    ("memory (MiB)", |all| all.memory_mib),
    ("GPUs", |all| all.gpus),
    ("TPUs", |all| all.tpus),
    ("storage (MiB)", |all| all.storage_mib),
    ("bandwidth in (kbit/s)", |all| all.bandwidth_in_kbit),
    ("bandwidth out (kbit/s)", |all| all.bandwidth_out_kbit),
];

/// Applies `with` to each amount of two.
pub(crate) fn combine(a: &Resources, b: &Resources, with: fn(u32, u32) -> u32) -> Resources {
    Resources {
        millicpus: with(a.millicpus, b.millicpus),
        memory_mib: with(a.memory_mib, b.memory_mib),
        gpus: with(a.gpus, b.gpus),
        tpus: with(a.tpus, b.tpus),
        storage_mib: with(a.storage_mib, b.storage_mib),
        bandwidth_in_kbit: with(a.bandwidth_in_kbit, b.bandwidth_in_kbit),
        bandwidth_out_kbit: with(a.bandwidth_out_kbit, b.bandwidth_out_kbit),
    }
}

/// What is left of `free` after `needed`; 0 where nothing is.
pub(crate) fn left(free: &Resources, needed: &Resources) -> Resources {
    combine(free, needed, u32::saturating_sub)
}

/// Both together, at most what the type holds.
pub(crate) fn sum(a: &Resources, b: &Resources) -> Resources {
    combine(a, b, u32::saturating_add)
}

/// Each resource of which less is free than is needed; `where_` follows its name.
pub(crate) fn insufficient<'a>(
    needed: &'a Resources,
    free: &'a Resources,
    where_: &'a str,
) -> impl Iterator<Item = Reason> + 'a {
    RESOURCES.iter().filter_map(move |(resource, of)| {
        let (needed, free) = (of(needed), of(free));
        (needed > free).then(|| Reason::Insufficient {
            resource: format!("{resource}{where_}"),
            needed: needed.into(),
            free: free.into(),
        })
    })
}

/// Whether what runs the service is not there.
pub(crate) fn runtime(spec: &ServiceSpec, there: &[Runtime]) -> Option<Reason> {
    (!there.contains(&spec.runtime)).then(|| Reason::Runtime {
        needed: spec.runtime.word().to_owned(),
        available: there.iter().map(|it| it.word().to_owned()).collect(),
    })
}

/// How many instances one node may have. Its lease names them all and is one statement, whose bytes
/// are bounded; a test signs one of as many with the longest names.
pub(crate) const MAX_PER_NODE: usize = 256;

/// Whether a node has as many other instances as it may have.
pub(crate) fn crowded(others: usize) -> Option<Reason> {
    (others >= MAX_PER_NODE).then(|| Reason::Insufficient {
        resource: format!("instances ({MAX_PER_NODE} per node)"),
        needed: 1,
        free: 0,
    })
}

/// The first port of the service that one of the others has.
pub(crate) fn port_taken<'a>(
    spec: &ServiceSpec,
    others: impl IntoIterator<Item = (&'a InstanceId, &'a [PortMapping])>,
) -> Option<Reason> {
    let wanted = |port: &&PortMapping| {
        let mut ports = spec.ports.iter();
        ports.any(|own| (own.host, own.transport) == (port.host, port.transport))
    };
    others.into_iter().find_map(|(other, theirs)| {
        let port = theirs.iter().find(wanted)?;
        Some(Reason::PortTaken {
            port: format!("{}/{}", port.host, port.transport.word()),
            by: other.to_string(),
        })
    })
}
