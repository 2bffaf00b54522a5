//! `best-fit`: of the nodes that can take an instance, the one with the most left.
//!
//! The resource-only matching of the Oakestra paper. It knows no distances; what constraints ask
//! is filtered before.

use std::cmp::Reverse;

use weald_proto::control::Refusal;
use weald_proto::spec::ServiceSpec;

use super::{Inventory, Placement, Scheduler, filter, most_left};
use crate::resources::left;

/// The scheduler `best-fit`.
#[derive(Debug, Clone, Copy)]
pub struct BestFit;

impl Scheduler for BestFit {
    fn name(&self) -> &'static str {
        "best-fit"
    }

    fn place(&self, spec: &ServiceSpec, snapshot: &Inventory) -> Result<Placement, Vec<Refusal>> {
        let (mut fitting, mut refusals) = (Vec::new(), Vec::new());
        for (name, node) in snapshot.nodes() {
            let reasons = filter::node(spec, snapshot, name, node);
            let id = snapshot.id(name);
            if reasons.is_empty() {
                fitting.push((id, left(&node.free(), &spec.resources)));
            } else {
                let by = id.to_string();
                refusals.extend(reasons.into_iter().map(|reason| Refusal {
                    by: by.clone(),
                    reason,
                }));
            }
        }
        let score = most_left(&fitting);
        let best = fitting
            .iter()
            .min_by_key(|candidate| Reverse(score(candidate)));
        match best {
            Some((node, _)) => Ok(Placement {
                node: node.clone(),
                refusals,
            }),
            None => Err(refusals),
        }
    }
}
