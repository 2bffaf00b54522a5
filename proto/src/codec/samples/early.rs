//! A service whose connections are accepted early, as both tiers say it.

use super::{both, instance, organisation, spec};
use crate::control::ClusterToWorker;
use crate::spec::ServiceSpec;
use crate::statement::{ServiceStatement, Statement};
use crate::table::{AcceptPolicy, LanePolicy};

pub(in crate::codec) fn accepting_early() -> ([ClusterToWorker; 1], [Statement; 1]) {
    let spec = ServiceSpec {
        accept: AcceptPolicy::Early,
        ..spec()
    };
    let service = ServiceStatement {
        name: instance().service,
        organisation: organisation(),
        generation: 5,
        removed: false,
        round_robin: both(),
        closest: both(),
        lane: LanePolicy::L4,
        accept: AcceptPolicy::Early,
    };
    let deploy = ClusterToWorker::Deploy {
        instance: instance(),
        generation: 7,
        spec: Box::new(spec),
        instance_ip: both(),
    };
    ([deploy], [Statement::Service(service)])
}
