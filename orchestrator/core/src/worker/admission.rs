//! Whether a node has room for one more instance: the last word, on what the node itself knows.

use std::collections::BTreeSet;

use weald_proto::control::{NodeCapacity, Reason};
use weald_proto::name::InstanceId;
use weald_proto::spec::ServiceSpec;

use crate::resources::{RESOURCES, word};

/// Admits a service beside the others, or says why not.
pub(super) fn admit(
    capacity: &NodeCapacity,
    others: &[(&InstanceId, &ServiceSpec)],
    spec: &ServiceSpec,
) -> Result<(), Reason> {
    if !capacity.runtimes.contains(&spec.runtime) {
        return Err(Reason::Runtime {
            needed: word(spec.runtime).to_owned(),
            available: capacity
                .runtimes
                .iter()
                .map(|it| word(*it).to_owned())
                .collect(),
        });
    }
    let wanted: BTreeSet<_> = spec
        .ports
        .iter()
        .map(|port| (port.host, port.transport))
        .collect();
    for (other, theirs) in others {
        let taken = theirs
            .ports
            .iter()
            .find(|port| wanted.contains(&(port.host, port.transport)));
        if let Some(port) = taken {
            return Err(Reason::PortTaken {
                port: format!("{}/{}", port.host, port.transport.word()),
                by: other.to_string(),
            });
        }
    }
    for (resource, of) in RESOURCES {
        let total = u64::from(of(&capacity.total));
        let used: u64 = others
            .iter()
            .map(|(_, other)| u64::from(of(&other.resources)))
            .sum();
        let (needed, free) = (u64::from(of(&spec.resources)), total.saturating_sub(used));
        if needed > free {
            return Err(Reason::Insufficient {
                resource: resource.to_owned(),
                needed,
                free,
            });
        }
    }
    Ok(())
}
