//! Paths that come, go and come back: none of them waits for the next probe that is due.

use super::*;

fn up() -> Wire {
    let mut wire = Wire::new(&[(relay(), Some(20)), (direct(1), Some(5))]);
    wire.paths.handle_handshake(direct(1), wire.now);
    wire.paths.add(relay(), wire.now);
    // No probe is under way.
    wire.run(10 * SECOND + SECOND / 2);
    assert_eq!(wire.paths.active(), Some(direct(1)));
    wire
}

fn all_answer(wire: &Wire) {
    let views: Vec<PathView> = wire.paths.views(wire.now).collect();
    assert!(views.iter().all(|view| view.answers), "{views:?}");
}

#[test]
fn a_path_that_went_with_a_link_is_left_at_once() {
    let mut wire = up();
    wire.set(direct(1), None);
    wire.paths.probe_all(wire.now);
    assert_eq!(wire.paths.second(wire.now), Some(relay()), "both meanwhile");
    wire.run(SECOND / 10);
    let last = *wire.switches.last().unwrap();
    assert_eq!((last.1, last.2), (relay(), Reason::FormerLost));
    assert_eq!((wire.switches.len(), wire.dead), (2, 0));
}

#[test]
fn a_change_that_does_not_concern_the_path_in_use_changes_nothing() {
    let mut wire = up();
    wire.paths.probe_all(wire.now);
    wire.run(SECOND / 100);
    assert_eq!(wire.paths.second(wire.now), None, "it has answered");
    wire.run(10 * SECOND);
    assert_eq!(wire.switches.len(), 1, "{:?}", wire.switches);
}

#[test]
fn what_was_lost_while_the_own_link_was_away_makes_no_lossy_path() {
    let mut wire = up();
    // Too short for it to be dead, and the relay is a way meanwhile.
    wire.set(direct(1), None);
    wire.paths.probe_all(wire.now);
    wire.run(SECOND);
    assert_eq!(wire.paths.active(), Some(relay()));
    wire.set(direct(1), Some(5));
    wire.paths.probe_all(wire.now);
    wire.run(SECOND / 10);
    assert_eq!(wire.paths.active(), Some(direct(1)));
}

#[test]
fn a_path_that_breaks_right_after_the_handshake_is_left_as_soon_as_its_length_allows() {
    let mut wire = Wire::new(&[(relay(), Some(20)), (direct(1), None)]);
    wire.paths.handle_handshake(direct(1), wire.now);
    wire.paths.estimate(direct(1), 5 * MS);
    wire.paths.add(relay(), wire.now);
    wire.run(SECOND);
    assert_eq!(wire.paths.active(), Some(relay()));
}

#[test]
fn the_first_probe_of_a_path_may_be_lost() {
    let mut wire = Wire::new(&[(relay(), None), (direct(1), Some(5))]);
    wire.paths.handle_handshake(direct(1), wire.now);
    wire.paths.add(relay(), wire.now);
    // The peer has no keys yet.
    wire.run(50 * MS);
    wire.set(relay(), Some(20));
    wire.run(SECOND / 2);
    all_answer(&wire);
    // What was lost before the first answer is not held against it, then or later.
    wire.run(2 * SECOND);
    let lost = wire.paths.views(wire.now).map(|view| view.lost_lately);
    assert_eq!(lost.sum::<u32>(), 0);
}

#[test]
fn a_silent_path_that_something_comes_over_is_asked_at_once_and_not_each_time() {
    let mut wire = Wire::new(&[(relay(), None), (direct(1), Some(5))]);
    wire.paths.handle_handshake(direct(1), wire.now);
    wire.paths.add(relay(), wire.now);
    wire.run(21 * SECOND);
    let before = wire.sent(relay());
    for _ in 0..100 {
        wire.paths.note_packet(relay(), wire.now);
        wire.run(10 * MS);
    }
    let asked = wire.sent(relay()) - before;
    assert!((3..=4).contains(&asked), "{asked} probes in a second");
    wire.set(relay(), Some(20));
    wire.paths.note_packet(relay(), wire.now);
    wire.run(SECOND / 2);
    all_answer(&wire);
}

#[test]
fn who_has_dialled_lets_the_peer_finish_before_it_asks() {
    let mut wire = Wire::new(&[(relay(), Some(20)), (direct(1), Some(5))]);
    wire.paths.hold_probes(wire.now);
    wire.paths.handle_handshake(direct(1), wire.now);
    wire.paths.add(relay(), wire.now);
    wire.run(9 * MS);
    assert_eq!((wire.sent(direct(1)), wire.sent(relay())), (0, 0));
    wire.run(MS);
    assert_eq!((wire.sent(direct(1)), wire.sent(relay())), (1, 1));
}
