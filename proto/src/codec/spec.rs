//! Services as they are handed down.

use super::parts::{fields, put, take, variants};
use crate::spec::{Constraint, ServiceSpec};

fields!(ServiceSpec as ServiceSpec {
    name: value,
    organisation: value,
    round_robin: message,
    closest: message,
    lane: value,
    accept: value,
    runtime: value,
    code: value,
    command: list,
    environment: list,
    resources: message,
    ports: list,
    one_shot: value,
    constraints: list,
    scheduler: option,
    convergence: value,
    listens: list,
});

variants!(Constraint as Constraint.constraint(constraint::Constraint):
    {
        Direct as Direct { cluster: option, node: option }
        Clusters as Clusters { allowed: list }
        Addons as Addons { needs: list }
        Geo as Geo { places: list }
        Latency as Latency { area: value, threshold_ms: value }
    }
    {}
);
