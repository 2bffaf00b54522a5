//! Which node and which cluster is chosen, and what is said of the others.

use super::*;

fn chosen(spec: &ServiceSpec, inventory: &Inventory) -> String {
    BestFit.place(spec, inventory).unwrap().node.to_string()
}

#[test]
fn the_node_with_most_left_is_chosen_and_the_first_of_equal_ones() {
    let service = spec(amount(500, 500));
    let nodes = inventory(&[
        ("a", 2_000, 2_000),
        ("b", 4_000, 4_000),
        ("c", 4_000, 4_000),
    ]);
    assert_eq!(chosen(&service, &nodes), "munich/b");
    let turned = inventory(&[
        ("c", 4_000, 4_000),
        ("b", 4_000, 4_000),
        ("a", 2_000, 2_000),
    ]);
    assert_eq!(chosen(&service, &turned), "munich/b");
}

#[test]
fn neither_processors_nor_memory_outweigh_the_other() {
    // In plain sums c's memory would win over everything; measured by the most, b has 1 + 0.6.
    let nodes = inventory(&[
        ("a", 1_000, 32_000),
        ("b", 8_000, 38_400),
        ("c", 2_000, 64_000),
    ]);
    assert_eq!(chosen(&spec(Resources::default()), &nodes), "munich/b");
}

#[test]
fn what_is_reserved_decides_not_what_is_there() {
    let mut nodes = inventory(&[("a", 4_000, 4_000), ("b", 3_000, 3_000)]);
    let service = spec(amount(1_500, 1_500));
    assert_eq!(chosen(&service, &nodes), "munich/a");
    nodes
        .reserve(&label("a"), &instance(0), 1, &service)
        .unwrap();
    assert_eq!(chosen(&service, &nodes), "munich/b");
    nodes
        .reserve(&label("b"), &instance(1), 1, &service)
        .unwrap();
    assert_eq!(chosen(&service, &nodes), "munich/a");
}

#[test]
fn every_node_that_cannot_says_every_figure() {
    let mut nodes = inventory(&[("a", 100, 64), ("b", 4_000, 4_000), ("c", 4_000, 4_000)]);
    nodes.set_unavailable(&label("c"), Some("silent for 3 s".to_owned()));
    nodes
        .reserve(&label("b"), &instance(0), 1, &spec(amount(3_900, 0)))
        .unwrap();
    let mut service = spec(amount(200, 128));
    service.runtime = Runtime::Wasm;
    service.resources.gpus = 1;
    let runtime = Reason::Runtime {
        needed: "wasm".to_owned(),
        available: vec!["process".to_owned()],
    };
    let refusal = |by: &str, reason: &Reason| Refusal {
        by: by.to_owned(),
        reason: reason.clone(),
    };
    assert_eq!(
        BestFit.place(&service, &nodes),
        Err(vec![
            refusal("munich/a", &runtime),
            insufficient("munich/a", "processors (1/1000)", 200, 100),
            insufficient("munich/a", "memory (MiB)", 128, 64),
            insufficient("munich/a", "GPUs", 1, 0),
            refusal("munich/b", &runtime),
            insufficient("munich/b", "processors (1/1000)", 200, 100),
            insufficient("munich/b", "GPUs", 1, 0),
            refusal(
                "munich/c",
                &Reason::Unavailable {
                    text: "silent for 3 s".to_owned()
                }
            ),
        ])
    );
    assert_eq!(
        BestFit.place(&service, &inventory(&[])),
        Err(vec![]),
        "a cluster without nodes has nobody to refuse"
    );
}

#[test]
fn a_placement_tells_why_the_others_were_not() {
    let nodes = inventory(&[("a", 100, 64), ("b", 4_000, 4_000)]);
    let placement = BestFit.place(&spec(amount(100, 65)), &nodes).unwrap();
    assert_eq!(placement.node.to_string(), "munich/b");
    assert_eq!(
        placement.refusals,
        [insufficient("munich/a", "memory (MiB)", 65, 64)]
    );
}

#[test]
fn a_scheduler_is_chosen_by_name() {
    assert_eq!(choose(None, DEFAULT).unwrap().name(), "best-fit");
    let found = choose(Some(&label("best-fit")), DEFAULT).unwrap();
    assert_eq!(found.name(), "best-fit");
    assert_eq!(
        choose(Some(&label("best-fti")), DEFAULT).unwrap_err(),
        Reason::Constraint {
            text: "scheduler best-fti is unknown; known: best-fit".to_owned()
        }
    );
}

#[test]
fn clusters_are_ordered_by_what_they_have_left() {
    let clusters = [
        candidate("vienna", &inventory(&[("a", 2_000, 2_000)])),
        candidate(
            "munich",
            &inventory(&[("a", 3_000, 3_000), ("b", 3_000, 3_000)]),
        ),
        // As much in sum as munich, on one node.
        candidate("zurich", &inventory(&[("a", 6_000, 6_000)])),
        candidate("aachen", &inventory(&[("a", 2_000, 2_000)])),
    ];
    let ranking = rank(&spec(amount(500, 500)), &clusters);
    let order = ["zurich", "munich", "aachen", "vienna"].map(label);
    assert_eq!(ranking.order, order);
    assert_eq!(ranking.refusals, []);
}

#[test]
fn clusters_that_cannot_are_left_out_with_their_figures() {
    let mut silent = candidate("a-silent", &inventory(&[("a", 4_000, 4_000)]));
    silent.unavailable = Some("silent for 6 s".to_owned());
    let mut foreign = candidate("b-foreign", &inventory(&[("a", 4_000, 4_000)]));
    foreign.organisations.clear();
    let clusters = [
        candidate(
            "d-small",
            &inventory(&[("a", 400, 4_000), ("b", 400, 4_000)]),
        ),
        silent,
        candidate("c-empty", &inventory(&[])),
        foreign,
        candidate("e-fits", &inventory(&[("a", 500, 500)])),
    ];
    let ranking = rank(&spec(amount(500, 500)), &clusters);
    assert_eq!(ranking.order, [label("e-fits")]);
    let unavailable = |by: &str, text: &str| Refusal {
        by: by.to_owned(),
        reason: Reason::Unavailable {
            text: text.to_owned(),
        },
    };
    assert_eq!(
        ranking.refusals,
        [
            unavailable("a-silent", "silent for 6 s"),
            Refusal {
                by: "b-foreign".to_owned(),
                reason: Reason::Constraint {
                    text: "it may not host organisation acme".to_owned()
                }
            },
            unavailable("c-empty", "it has 0 live nodes"),
            insufficient("d-small", "processors (1/1000) on one node", 500, 400),
        ]
    );
}
