//! What is counted of a node, each with its name and unit, and sums and differences of it.
//!
//! Who may have how much is decided where it is asked: `schedule` and `worker`.

use weald_proto::spec::{Resources, Runtime};

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

/// The runtime's word in an SLA.
pub(crate) const fn word(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Process => "process",
        Runtime::Container => "container",
        Runtime::Unikernel => "unikernel",
        Runtime::Microvm => "microvm",
        Runtime::Wasm => "wasm",
    }
}
