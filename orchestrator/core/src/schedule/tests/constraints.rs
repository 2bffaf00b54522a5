//! Every kind of constraint, held against nodes and clusters.

use super::*;

const MUNICH: (f64, f64) = (48.137, 11.575);
const VIENNA: (f64, f64) = (48.208, 16.372);

fn at((latitude, longitude): (f64, f64), radius_km: f64) -> Place {
    place(latitude, longitude, radius_km)
}

fn geo(places: Vec<Place>) -> Constraint {
    Constraint::Geo { places }
}

/// Nodes `m` in Munich, `v` in Vienna and `x`, which does not say where it is.
fn located(cluster: Option<Place>) -> Inventory {
    let mut inventory = Inventory::new(label("munich"), cluster);
    let places = [("m", Some(MUNICH)), ("v", Some(VIENNA)), ("x", None)];
    for (name, coordinates) in places {
        let mut capacity = capacity(amount(1_000, 1_000));
        capacity.place = coordinates.map(|it| at(it, 500.0));
        inventory.set_node(label(name), capacity);
    }
    inventory
}

#[test]
fn distances_follow_the_great_circle() {
    let km = |a, b| distance_km(&at(a, 0.0), &at(b, 0.0));
    assert!(
        (km(MUNICH, VIENNA) - 355.75).abs() < 0.05,
        "{}",
        km(MUNICH, VIENNA)
    );
    // A quarter of the equator, half around over the pole, and across the date line.
    assert!((km((0.0, 0.0), (0.0, 90.0)) - 10_007.557).abs() < 0.01);
    assert!((km((90.0, 0.0), (-90.0, 77.0)) - 20_015.115).abs() < 0.01);
    assert!((km((0.0, 179.5), (0.0, -179.5)) - 111.195).abs() < 0.01);
    assert!(km(MUNICH, MUNICH).abs() < 1e-9);
}

#[test]
fn direct_and_clusters_leave_one_place() {
    let nodes = inventory(&[("a", 1_000, 1_000), ("b", 2_000, 2_000)]);
    let direct = |cluster: Option<&str>, node: Option<&str>| {
        constrained(vec![Constraint::Direct {
            cluster: cluster.map(label),
            node: node.map(label),
        }])
    };
    let placement = BestFit
        .place(&direct(Some("munich"), Some("a")), &nodes)
        .unwrap();
    assert_eq!(placement.node.to_string(), "munich/a");
    assert_eq!(
        texts(&placement.refusals),
        ["munich/b: direct: only node a"]
    );
    let refusals = BestFit
        .place(&direct(Some("vienna"), None), &nodes)
        .unwrap_err();
    assert_eq!(
        texts(&refusals),
        [
            "munich/a: direct: only cluster vienna",
            "munich/b: direct: only cluster vienna"
        ]
    );
    // Root does not know nodes; it only leaves out the other clusters.
    let clusters = ["munich", "vienna"].map(|name| candidate(name, &nodes));
    let ranking = rank(&direct(Some("munich"), Some("a")), &clusters);
    assert_eq!(ranking.order, [label("munich")]);
    assert_eq!(
        texts(&ranking.refusals),
        ["vienna: direct: only cluster munich"]
    );

    let allowed = |names: &[&str]| {
        constrained(vec![Constraint::Clusters {
            allowed: names.iter().map(|name| label(name)).collect(),
        }])
    };
    assert!(
        BestFit
            .place(&allowed(&["vienna", "munich"]), &nodes)
            .is_ok()
    );
    let ranking = rank(&allowed(&["vienna", "zurich"]), &clusters);
    assert_eq!(ranking.order, [label("vienna")]);
    assert_eq!(
        texts(&ranking.refusals),
        ["munich: clusters: only vienna, zurich"]
    );
}

#[test]
fn all_addons_must_be_on_one_node() {
    let mut nodes = inventory(&[]);
    let nodes_addons: [(&str, &[&str]); 3] =
        [("a", &["gpu-driver"]), ("b", &["cache"]), ("c", &[])];
    for (name, addons) in nodes_addons {
        let mut capacity = capacity(amount(1_000, 1_000));
        capacity.addons = addons.iter().map(|&it| it.to_owned()).collect();
        nodes.set_node(label(name), capacity);
    }
    let needs = |addons: &[&str]| {
        constrained(vec![Constraint::Addons {
            needs: addons.iter().map(|&it| it.to_owned()).collect(),
        }])
    };
    let placement = BestFit.place(&needs(&["cache"]), &nodes).unwrap();
    assert_eq!(placement.node.to_string(), "munich/b");
    let both = needs(&["cache", "gpu-driver"]);
    assert_eq!(
        texts(&BestFit.place(&both, &nodes).unwrap_err()),
        [
            "munich/a: addons: cache missing; there: gpu-driver",
            "munich/b: addons: gpu-driver missing; there: cache",
            "munich/c: addons: cache, gpu-driver missing; there: none"
        ]
    );
    // Somewhere in the cluster both are, so root must ask it.
    assert_eq!(rank(&both, &[candidate("munich", &nodes)]).order.len(), 1);
    let ranking = rank(&needs(&["lidar"]), &[candidate("munich", &nodes)]);
    assert_eq!(
        texts(&ranking.refusals),
        ["munich: addons: lidar missing; there: cache, gpu-driver"]
    );
}

#[test]
fn geo_constraints_are_alternatives_and_say_the_distance() {
    let nodes = located(None);
    let near_munich = geo(vec![place(48.0, 11.5, 50.0)]);
    let placement = BestFit
        .place(&constrained(vec![near_munich.clone()]), &nodes)
        .unwrap();
    assert_eq!(placement.node.to_string(), "munich/m");
    assert_eq!(
        texts(&placement.refusals),
        [
            "munich/v: geo: 362.4 km from 48, 11.5; at most 50 km",
            "munich/x: geo: its place is not known; configure one"
        ]
    );
    let elsewhere = geo(vec![place(0.0, 0.0, 10.0)]);
    assert_eq!(
        BestFit
            .place(&constrained(vec![elsewhere.clone(), near_munich]), &nodes)
            .unwrap()
            .node
            .to_string(),
        "munich/m"
    );
    let everywhere = constrained(vec![elsewhere]);
    assert_eq!(BestFit.place(&everywhere, &nodes).unwrap_err().len(), 3);
}

#[test]
fn a_node_without_a_place_is_where_its_cluster_is() {
    let nodes = located(Some(at(VIENNA, 100.0)));
    let mut only_x = constrained(vec![geo(vec![at(VIENNA, 1.0)])]);
    only_x.constraints.push(Constraint::Direct {
        cluster: None,
        node: Some(label("x")),
    });
    assert_eq!(
        BestFit.place(&only_x, &nodes).unwrap().node.to_string(),
        "munich/x"
    );
}

#[test]
fn a_cluster_reaches_as_far_as_its_circle() {
    let near_munich = constrained(vec![geo(vec![at(MUNICH, 50.0)])]);
    let mut wide = candidate("wide", &located(Some(at(VIENNA, 310.0))));
    assert_eq!(rank(&near_munich, &[wide.clone()]).order.len(), 1);
    wide.place = Some(at(VIENNA, 300.0));
    assert_eq!(
        texts(&rank(&near_munich, &[wide.clone()]).refusals),
        ["wide: geo: 355.8 km from 48.137, 11.575, itself 300 km around; at most 50 km"]
    );
    wide.place = None;
    assert_eq!(
        texts(&rank(&near_munich, &[wide]).refusals),
        ["wide: geo: its place is not known; configure one"]
    );
}

#[test]
fn what_is_no_number_is_near_nothing() {
    let nodes = located(None);
    for bad in [
        place(f64::NAN, 0.0, 1e9),
        place(0.0, f64::INFINITY, 1e9),
        at(MUNICH, f64::NAN),
    ] {
        let service = constrained(vec![geo(vec![bad])]);
        assert!(BestFit.place(&service, &nodes).is_err(), "{bad:?}");
    }
    let none = BestFit.place(&constrained(vec![geo(vec![])]), &nodes);
    assert_eq!(
        texts(&none.unwrap_err())[0],
        "munich/m: geo: no place is given"
    );
}

#[test]
fn latency_is_refused_as_long_as_nothing_measures_it() {
    let service = constrained(vec![Constraint::Latency {
        area: "munich".to_owned(),
        threshold_ms: 12.5,
    }]);
    let nodes = inventory(&[("a", 1_000, 1_000)]);
    assert_eq!(
        texts(&BestFit.place(&service, &nodes).unwrap_err()),
        [
            "munich/a: latency: at most 12.5 ms to munich, which nothing here has measured; use a geo constraint"
        ]
    );
    assert_eq!(rank(&service, &[candidate("munich", &nodes)]).order, []);
}
