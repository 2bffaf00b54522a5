//! The exact text, for every reason, and its bounds.

use std::time::Duration;

use super::*;
use crate::samples;

fn instance() -> InstanceId {
    InstanceId {
        service: samples::service("web", "front"),
        number: 0,
    }
}

fn at(unix: u64) -> Now {
    Now {
        elapsed: Duration::ZERO,
        unix,
    }
}

fn refusal(by: &str, reason: Reason) -> Refusal {
    Refusal {
        by: by.to_owned(),
        reason,
    }
}

fn attempt(generation: Generation, refusals: Vec<Refusal>, taken: Option<&str>) -> Attempt {
    Attempt {
        generation,
        at: 1_000,
        refusals,
        taken: taken.map(str::to_owned),
    }
}

#[test]
fn three_refusals_say_their_figures() {
    let mut history = History::default();
    history.record(attempt(
        4,
        vec![
            refusal(
                "munich/a1",
                Reason::Insufficient {
                    resource: "memory (MiB)".to_owned(),
                    needed: 512,
                    free: 128,
                },
            ),
            refusal(
                "munich/a2",
                Reason::Runtime {
                    needed: "container".to_owned(),
                    available: vec!["process".to_owned(), "wasm".to_owned()],
                },
            ),
            refusal(
                "vienna",
                Reason::Constraint {
                    text: "geo: 355 km from 48.14, 11.58; at most 50 km".to_owned(),
                },
            ),
        ],
        None,
    ));
    assert_eq!(
        history.explain(&instance(), at(1_012)),
        "shop.prod.web.front.0: 1 attempt\n\
         attempt 1, generation 4, 12 s ago: taken by nobody, 3 refusals\n\
         \x20 munich/a1: memory (MiB): 512 needed, 128 free\n\
         \x20 munich/a2: runtime: container needed, process, wasm there\n\
         \x20 vienna: constraint: geo: 355 km from 48.14, 11.58; at most 50 km\n"
    );
}

#[test]
fn the_newest_attempt_comes_first_and_every_reason_has_words() {
    let mut history = History::default();
    let text = "x".to_owned();
    history.record(attempt(
        1,
        vec![
            refusal(
                "a/1",
                Reason::Runtime {
                    needed: "wasm".to_owned(),
                    available: vec![],
                },
            ),
            refusal("a/2", Reason::Unavailable { text: text.clone() }),
            refusal(
                "a/3",
                Reason::PortTaken {
                    port: "80/tcp".to_owned(),
                    by: "s".to_owned(),
                },
            ),
            refusal("a/4", Reason::NoAddress),
            refusal("b", Reason::Deadline { after_ms: 500 }),
            refusal("c", Reason::Failed { text }),
        ],
        None,
    ));
    history.record(attempt(2, vec![], Some("munich/a1")));
    assert_eq!(
        // A wall clock that was set back makes no negative age.
        history.explain(&instance(), at(900)),
        "shop.prod.web.front.0: 2 attempts\n\
         attempt 2, generation 2, 0 s ago: taken by munich/a1\n\
         attempt 1, generation 1, 0 s ago: taken by nobody, 6 refusals\n\
         \x20 a/1: runtime: wasm needed, none there\n\
         \x20 a/2: not available: x\n\
         \x20 a/3: port 80/tcp is taken by s\n\
         \x20 a/4: no address is left\n\
         \x20 b: no answer within 500 ms\n\
         \x20 c: tried and failed: x\n"
    );
}

#[test]
fn of_what_somebody_may_not_know_nothing_is_said() {
    let taken = |by: &str| Reason::PortTaken {
        port: "80/tcp".to_owned(),
        by: by.to_owned(),
    };
    let mut history = History::default();
    history.record(attempt(
        1,
        vec![
            refusal("munich/a1", taken("shop.prod.web.front.1")),
            refusal("munich/a2", taken("bank.prod.vault.front.0")),
            refusal("munich/a3", taken("no instance")),
            refusal("berlin/b1", Reason::NoAddress),
            refusal("berlin", Reason::NoAddress),
            refusal("berlin-2", Reason::NoAddress),
        ],
        None,
    ));
    let told = history.told_to(
        |cluster| cluster == "munich",
        |id| id.service.application.name.as_str() == "shop",
    );
    assert_eq!(
        told.explain(&instance(), at(1_000)),
        "shop.prod.web.front.0: 1 attempt\n\
         attempt 1, generation 1, 0 s ago: taken by nobody, 3 refusals\n\
         \x20 munich/a1: port 80/tcp is taken by shop.prod.web.front.1\n\
         \x20 munich/a2: port 80/tcp is taken\n\
         \x20 munich/a3: port 80/tcp is taken\n"
    );
    assert_eq!(history.told_to(|_| true, |_| false).attempts().count(), 1);
}

#[test]
fn without_an_attempt_it_says_so() {
    assert_eq!(
        History::default().explain(&instance(), at(0)),
        "shop.prod.web.front.0: no attempt to place it has been made\n"
    );
}

#[test]
fn what_a_node_says_cannot_command_a_terminal_or_forge_lines() {
    let mut history = History::default();
    let text = "\u{1b}[2J\nmunich/a9: fine".to_owned();
    history.record(attempt(
        1,
        vec![refusal("munich/a1", Reason::Failed { text })],
        None,
    ));
    let shown = history.explain(&instance(), at(1_000));
    assert_eq!(
        shown.lines().last(),
        Some("  munich/a1: tried and failed: \\u{1b}[2J\\nmunich/a9: fine")
    );
}

#[test]
fn only_the_last_attempts_are_kept_and_their_numbers_stay() {
    let mut history = History::default();
    for generation in 1..=20 {
        history.record(attempt(generation, vec![], None));
    }
    assert_eq!(history.attempts().count(), KEPT);
    let text = history.explain(&instance(), at(1_000));
    assert!(
        text.contains(": 20 attempts\nattempt 20, generation 20,"),
        "{text}"
    );
    assert!(
        text.ends_with("attempt 5, generation 5, 0 s ago: taken by nobody\nearlier attempts are no longer kept\n"),
        "{text}"
    );
    let json = serde_json::to_vec(&history).unwrap();
    assert_eq!(serde_json::from_slice::<History>(&json).unwrap(), history);
}
