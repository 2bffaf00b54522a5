//! Where an instance goes: the schedulers, what they see, and root's order of clusters.
//!
//! A scheduler is a value's function: a spec and a snapshot in, a node or everybody's reason out. It
//! keeps nothing and reserves nothing; whoever takes its advice reserves in the [`Inventory`], and
//! the node itself has the last word (`worker::admission`).

mod best_fit;
mod filter;
mod inventory;
mod rank;

use std::fmt;

use weald_proto::control::{Reason, Refusal};
use weald_proto::id::{Label, NodeId};
use weald_proto::spec::{Resources, ServiceSpec};

pub use best_fit::BestFit;
pub use filter::distance_km;
pub use inventory::{Inventory, Node, ReserveError};
pub use rank::{Candidate, Ranking, rank};

/// The scheduler of clusters and services that name none.
pub const DEFAULT: &dyn Scheduler = &BestFit;

/// Every scheduler that can be named.
const SCHEDULERS: [&dyn Scheduler; 1] = [&BestFit];

/// The names of the schedulers that an SLA may ask for.
pub fn names() -> impl Iterator<Item = &'static str> {
    SCHEDULERS.iter().map(|it| it.name())
}

/// A way to choose a node.
pub trait Scheduler: fmt::Debug + Send + Sync {
    /// The name in an SLA and in a cluster's configuration.
    fn name(&self) -> &'static str;

    /// Chooses a node of the snapshot for one more instance.
    ///
    /// # Errors
    /// No node can take it; every node's reasons, in the order of the nodes.
    fn place(&self, spec: &ServiceSpec, snapshot: &Inventory) -> Result<Placement, Vec<Refusal>>;
}

/// A node that was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The node.
    pub node: NodeId,
    /// Why other nodes were not, for the record.
    pub refusals: Vec<Refusal>,
}

/// The scheduler that a service names, or `default` if it names none.
///
/// # Errors
/// There is none of that name; the reason lists those that there are.
pub fn choose<'a>(
    named: Option<&Label>,
    default: &'a dyn Scheduler,
) -> Result<&'a dyn Scheduler, Reason> {
    let Some(named) = named else {
        return Ok(default);
    };
    let found = SCHEDULERS.iter().find(|it| it.name() == named.as_str());
    found.copied().ok_or_else(|| {
        let names: Vec<_> = SCHEDULERS.iter().map(|it| it.name()).collect();
        Reason::Constraint {
            text: format!("scheduler {named} is unknown; known: {}", names.join(", ")),
        }
    })
}

/// The one with the most left, of processors and memory together; of equal ones the first.
///
/// Each is measured by the most that any candidate has left, so that neither unit outweighs the
/// other. `left` is what stays free after the placement.
fn most_left<'a, T>(
    candidates: &'a [(T, Resources)],
) -> impl Fn(&'a (T, Resources)) -> u128 + use<'a, T> {
    let most = |of: fn(&Resources) -> u32| {
        let amounts = candidates.iter().map(|(_, left)| of(left));
        u128::from(amounts.max().unwrap_or_default().max(1))
    };
    let (processors, memory) = (most(|it| it.millicpus), most(|it| it.memory_mib));
    move |(_, left)| u128::from(left.millicpus) * memory + u128::from(left.memory_mib) * processors
}

#[cfg(test)]
mod tests;
