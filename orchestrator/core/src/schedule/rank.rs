//! Root's order of clusters: on sums alone, so an offer may still be refused by the cluster.
//!
//! Clusters that certainly cannot take an instance are left out with their reason; root offers to the
//! others in this order. Nodes are the clusters' own affair.

use std::collections::BTreeSet;

use weald_proto::control::{Aggregate, Refusal};
use weald_proto::id::{Label, Organisation};
use weald_proto::spec::{Place, ServiceSpec};

use super::{filter, most_left};
use crate::resources::left;

/// A cluster as root knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The cluster.
    pub name: Label,
    /// Where it is: a circle around all of its nodes.
    pub place: Option<Place>,
    /// The organisations whose instances it may host.
    pub organisations: BTreeSet<Organisation>,
    /// What it last told of its nodes.
    pub aggregate: Aggregate,
    /// Why nothing is offered to it now; none if it can be.
    pub unavailable: Option<String>,
}

/// Who is asked, and who is not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ranking {
    /// The clusters to offer to, best first.
    pub order: Vec<Label>,
    /// Why the others are not asked, in the order of names.
    pub refusals: Vec<Refusal>,
}

/// Orders clusters for one more instance: most left in sum first; of equal ones the one whose nodes
/// have more free in the mean, then by name, whatever order they come in.
#[must_use]
pub fn rank(spec: &ServiceSpec, candidates: &[Candidate]) -> Ranking {
    let mut sorted: Vec<&Candidate> = candidates.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let mut ranking = Ranking::default();
    let mut fitting = Vec::new();
    for candidate in sorted {
        let reasons = filter::cluster(spec, candidate);
        if reasons.is_empty() {
            fitting.push((candidate, left(&candidate.aggregate.free, &spec.resources)));
        }
        let refusals = reasons.into_iter().map(|reason| Refusal {
            by: candidate.name.to_string(),
            reason,
        });
        ranking.refusals.extend(refusals);
    }
    let score = most_left(&fitting);
    let mut order: Vec<_> = fitting.iter().collect();
    // A stable sort: equal ones stay in the order of names.
    order.sort_by(|a, b| {
        let mean = |it: &Candidate| it.aggregate.free_millicpus_mean_deviation.0;
        score(b)
            .cmp(&score(a))
            .then_with(|| mean(b.0).total_cmp(&mean(a.0)))
    });
    ranking.order = order.into_iter().map(|(it, _)| it.name.clone()).collect();
    ranking
}
