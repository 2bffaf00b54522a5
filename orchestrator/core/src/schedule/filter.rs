//! Who can take an instance: nodes on exact data, clusters on what they tell of themselves.
//!
//! A cluster is refused only for what none of its nodes can have; everything finer is for the
//! cluster to say. Which of those that can is best is the schedulers'.

use weald_proto::control::Reason;
use weald_proto::id::Label;
use weald_proto::spec::{Constraint, Place, ServiceSpec};

use super::inventory::{Inventory, Node};
use super::rank::Candidate;
use crate::resources::{insufficient, runtime};

/// The mean radius of the earth, in km.
const EARTH_KM: f64 = 6_371.008_8;

/// The great-circle distance between the centres of two places, in km (haversine).
#[must_use]
pub fn distance_km(a: &Place, b: &Place) -> f64 {
    let half = |from: f64, to: f64| ((to - from).to_radians() / 2.0).sin().powi(2);
    let parallel = a.latitude.to_radians().cos() * b.latitude.to_radians().cos();
    let chord = half(a.latitude, b.latitude) + parallel * half(a.longitude, b.longitude);
    2.0 * EARTH_KM * chord.clamp(0.0, 1.0).sqrt().asin()
}

/// Every reason why a node cannot take an instance. If it must not be there, no more than that.
pub(super) fn node(
    spec: &ServiceSpec,
    inventory: &Inventory,
    name: &Label,
    node: &Node,
) -> Vec<Reason> {
    if let Some(text) = node.unavailable() {
        let text = text.to_owned();
        return vec![Reason::Unavailable { text }];
    }
    let capacity = node.capacity();
    let place = capacity.place.or_else(|| inventory.place());
    // A node is where its centre is; its own circle widens nothing.
    let place = place.map(|it| Place {
        radius_km: 0.0,
        ..it
    });
    let reasons = constraints(
        spec,
        &Whose {
            cluster: inventory.cluster(),
            node: Some(name),
            place,
            addons: &capacity.addons,
        },
    );
    if !reasons.is_empty() {
        return reasons;
    }
    let mut reasons = Vec::new();
    reasons.extend(runtime(spec, &capacity.runtimes));
    reasons.extend(insufficient(&spec.resources, &node.free(), ""));
    reasons.extend(node.crowded(None));
    reasons.extend(node.port_taken(spec, None));
    reasons
}

/// Every reason why no node of a cluster can take an instance.
pub(super) fn cluster(spec: &ServiceSpec, candidate: &Candidate) -> Vec<Reason> {
    let unavailable = |text: String| vec![Reason::Unavailable { text }];
    if let Some(text) = &candidate.unavailable {
        return unavailable(text.clone());
    }
    let aggregate = &candidate.aggregate;
    if aggregate.nodes == 0 {
        return unavailable("it has 0 live nodes".to_owned());
    }
    if !candidate.organisations.contains(&spec.organisation) {
        return vec![Reason::Constraint {
            text: format!("it may not host organisation {}", spec.organisation),
        }];
    }
    let reasons = constraints(
        spec,
        &Whose {
            cluster: &candidate.name,
            node: None,
            place: candidate.place,
            addons: &aggregate.addons,
        },
    );
    if !reasons.is_empty() {
        return reasons;
    }
    let mut reasons = Vec::new();
    reasons.extend(runtime(spec, &aggregate.runtimes));
    let largest = &aggregate.largest_free;
    reasons.extend(insufficient(&spec.resources, largest, " on one node"));
    reasons
}

/// Whom constraints are held against.
struct Whose<'a> {
    cluster: &'a Label,
    /// None for a cluster, whose nodes root does not know.
    node: Option<&'a Label>,
    /// Reaches as far as its circle.
    place: Option<Place>,
    addons: &'a [String],
}

fn constraints(spec: &ServiceSpec, whose: &Whose<'_>) -> Vec<Reason> {
    let mut texts: Vec<String> = spec
        .constraints
        .iter()
        .filter_map(|constraint| excluded(constraint, whose))
        .collect();
    texts.extend(outside(spec, whose));
    texts
        .into_iter()
        .map(|text| Reason::Constraint { text })
        .collect()
}

/// What of one constraint is not met; geo constraints are judged together, by [`outside`].
fn excluded(constraint: &Constraint, whose: &Whose<'_>) -> Option<String> {
    match constraint {
        Constraint::Direct { cluster, node } => {
            if let Some(only) = cluster.as_ref().filter(|only| *only != whose.cluster) {
                return Some(format!("direct: only cluster {only}"));
            }
            let only = node.as_ref()?;
            (whose.node? != only).then(|| format!("direct: only node {only}"))
        }
        Constraint::Clusters { allowed } => (!allowed.contains(whose.cluster)).then(|| {
            let names: Vec<_> = allowed.iter().map(Label::as_str).collect();
            format!("clusters: only {}", names.join(", "))
        }),
        Constraint::Addons { needs } => {
            let missing: Vec<_> = needs
                .iter()
                .filter(|need| !whose.addons.contains(need))
                .map(String::as_str)
                .collect();
            let there = match whose.addons {
                [] => "none".to_owned(),
                some => some.join(", "),
            };
            (!missing.is_empty()).then(|| {
                let missing = missing.join(", ");
                format!("addons: {missing} missing; there: {there}")
            })
        }
        Constraint::Geo { .. } => None,
        Constraint::Latency { area, threshold_ms } => Some(format!(
            "latency: at most {threshold_ms} ms to {area}, which nothing here has measured; use a geo constraint"
        )),
    }
}

/// What is said of somebody who is near none of the places, if there are any.
fn outside(spec: &ServiceSpec, whose: &Whose<'_>) -> Option<String> {
    let mut wanted: Vec<&Place> = Vec::new();
    let mut asked = false;
    for constraint in &spec.constraints {
        if let Constraint::Geo { places } = constraint {
            asked = true;
            wanted.extend(places);
        }
    }
    if !asked {
        return None;
    }
    let Some(place) = &whose.place else {
        return Some("geo: its place is not known; configure one".to_owned());
    };
    // What is not a number is near nothing: it compares as false.
    let inside = |at: &Place| distance_km(place, at) <= at.radius_km + place.radius_km;
    if wanted.iter().any(|at| inside(at)) {
        return None;
    }
    let beyond = |at: &Place| distance_km(place, at) - at.radius_km;
    let nearest = wanted
        .into_iter()
        .min_by(|a, b| beyond(a).total_cmp(&beyond(b)));
    let Some(at) = nearest else {
        return Some("geo: no place is given".to_owned());
    };
    let reach = match place.radius_km {
        0.0 => String::new(),
        km => format!(", itself {km} km around"),
    };
    Some(format!(
        "geo: {:.1} km from {}, {}{reach}; at most {} km",
        distance_km(place, at),
        at.latitude,
        at.longitude,
        at.radius_km
    ))
}
