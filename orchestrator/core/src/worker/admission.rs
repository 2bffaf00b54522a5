//! Whether a node has room for one more instance: the last word, on what the node itself knows.

use weald_proto::control::{NodeCapacity, Reason};
use weald_proto::name::InstanceId;
use weald_proto::spec::{Resources, ServiceSpec};

use crate::resources;

/// Admits a service beside the others, or says why not.
pub(super) fn admit(
    capacity: &NodeCapacity,
    others: &[(&InstanceId, &ServiceSpec)],
    spec: &ServiceSpec,
) -> Result<(), Reason> {
    let used = others.iter().fold(Resources::default(), |all, (_, it)| {
        resources::sum(&all, &it.resources)
    });
    let free = resources::left(&capacity.total, &used);
    let ports = others.iter().map(|(id, it)| (*id, it.ports.as_slice()));
    let refused = resources::runtime(spec, &capacity.runtimes)
        .or_else(|| resources::crowded(others.len()))
        .or_else(|| resources::port_taken(spec, ports))
        .or_else(|| resources::insufficient(&spec.resources, &free, "").next());
    refused.map_or(Ok(()), Err)
}
