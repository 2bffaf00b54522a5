//! What the schedulers' tests share: services, nodes and clusters with few words.

mod constraints;
mod placement;
mod reservations;

use std::collections::BTreeSet;

use weald_proto::control::NodeCapacity;
use weald_proto::id::Organisation;
use weald_proto::name::InstanceId;
use weald_proto::spec::{Constraint, Place, Runtime};

use super::*;
use crate::samples::{self, label};

fn amount(millicpus: u32, memory_mib: u32) -> Resources {
    Resources {
        millicpus,
        memory_mib,
        ..Resources::default()
    }
}

fn spec(resources: Resources) -> ServiceSpec {
    samples::spec(samples::service("web", "front"), resources)
}

fn constrained(constraints: Vec<Constraint>) -> ServiceSpec {
    ServiceSpec {
        constraints,
        ..spec(amount(100, 100))
    }
}

fn instance(number: u32) -> InstanceId {
    InstanceId {
        service: spec(Resources::default()).name,
        number,
    }
}

fn capacity(total: Resources) -> NodeCapacity {
    NodeCapacity {
        total,
        runtimes: vec![Runtime::Process],
        addons: vec![],
        place: None,
    }
}

fn place(latitude: f64, longitude: f64, radius_km: f64) -> Place {
    Place {
        latitude,
        longitude,
        radius_km,
    }
}

/// A cluster `munich` whose nodes have these thousandths of processors and MiB.
fn inventory(nodes: &[(&str, u32, u32)]) -> Inventory {
    let mut inventory = Inventory::new(label("munich"), None);
    for (name, millicpus, memory_mib) in nodes {
        inventory.set_node(label(name), capacity(amount(*millicpus, *memory_mib)));
    }
    inventory
}

fn candidate(name: &str, inventory: &Inventory) -> Candidate {
    Candidate {
        name: label(name),
        place: inventory.place(),
        organisations: BTreeSet::from([Organisation(label("acme"))]),
        aggregate: inventory.aggregate(),
        unavailable: None,
    }
}

fn insufficient(by: &str, resource: &str, needed: u64, free: u64) -> Refusal {
    Refusal {
        by: by.to_owned(),
        reason: Reason::Insufficient {
            resource: resource.to_owned(),
            needed,
            free,
        },
    }
}

/// The texts of refusals that are all constraints.
fn texts(refusals: &[Refusal]) -> Vec<String> {
    let text = |refusal: &Refusal| {
        let Reason::Constraint { text } = &refusal.reason else {
            panic!("{:?} is no constraint", refusal.reason);
        };
        format!("{}: {text}", refusal.by)
    };
    refusals.iter().map(text).collect()
}
