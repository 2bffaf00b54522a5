//! Paths that answer small probes and swallow full packets.

use super::*;

fn view(wire: &Wire, path: Path) -> PathView {
    let mut views = wire.paths.views(wire.now);
    views.find(|view| view.path == path).unwrap()
}

#[test]
fn a_path_that_swallows_full_packets_is_not_moved_to() {
    let mut wire = Wire::new(&[(relay(), Some(40)), (direct(1), Some(5))]);
    wire.narrow = vec![direct(1)];
    wire.paths.handle_handshake(relay(), wire.now);
    wire.paths.add(direct(1), wire.now);
    wire.run(100 * SECOND);
    assert_eq!(wire.switches.len(), 1, "{:?}", wire.switches);
    let narrow = view(&wire, direct(1));
    assert!(
        narrow.answers && narrow.narrow && narrow.lost == 0,
        "{narrow:?}"
    );
    // Once they pass it is found out within a minute, and the answer of a small one.
    wire.narrow.clear();
    wire.run(62 * SECOND);
    assert_eq!(wire.paths.active(), Some(direct(1)));
    assert!(!view(&wire, direct(1)).narrow);
}

#[test]
fn another_network_may_carry_what_the_former_one_swallowed() {
    let mut wire = Wire::new(&[(relay(), Some(40)), (direct(1), Some(5))]);
    wire.narrow = vec![direct(1)];
    wire.paths.handle_handshake(relay(), wire.now);
    wire.paths.add(direct(1), wire.now);
    wire.run(10 * SECOND);
    assert!(view(&wire, direct(1)).narrow);
    wire.narrow.clear();
    wire.paths.probe_all(wire.now);
    wire.run(SECOND);
    assert_eq!(wire.paths.active(), Some(direct(1)));
}

#[test]
fn a_path_in_use_that_turns_out_narrow_is_left_for_one_that_is_not() {
    let mut wire = Wire::new(&[(relay(), Some(40)), (direct(1), Some(5))]);
    wire.narrow = vec![direct(1)];
    wire.paths.handle_handshake(direct(1), wire.now);
    wire.paths.add(relay(), wire.now);
    wire.run(2 * SECOND);
    let last = *wire.switches.last().unwrap();
    assert_eq!((last.1, last.2), (relay(), Reason::FormerNarrow));
    wire.run(300 * SECOND);
    assert_eq!((wire.switches.len(), wire.dead), (2, 0));
}

#[test]
fn a_narrow_path_without_another_is_kept() {
    let mut wire = Wire::new(&[(relay(), Some(40)), (direct(1), Some(5))]);
    wire.narrow = vec![direct(1), relay()];
    wire.paths.handle_handshake(direct(1), wire.now);
    wire.paths.add(relay(), wire.now);
    wire.run(200 * SECOND);
    assert_eq!(wire.paths.active(), Some(direct(1)));
    assert_eq!((wire.switches.len(), wire.dead), (1, 0));
}

#[test]
fn a_route_that_narrows_is_noticed_at_once_if_it_is_ones_own_and_else_in_a_minute() {
    for own in [true, false] {
        let mut wire = Wire::new(&[(relay(), Some(40)), (direct(1), Some(5))]);
        wire.paths.handle_handshake(direct(1), wire.now);
        wire.paths.add(relay(), wire.now);
        wire.run(10 * SECOND);
        wire.narrow = vec![direct(1)];
        if own {
            wire.paths.probe_all(wire.now);
        }
        wire.run(if own { 2 } else { 62 } * SECOND);
        let last = *wire.switches.last().unwrap();
        assert_eq!((last.1, last.2), (relay(), Reason::FormerNarrow), "{own}");
    }
}

#[test]
fn one_or_two_full_packets_may_be_lost() {
    let mut wire = Wire::new(&[(relay(), Some(40)), (direct(1), Some(5))]);
    wire.narrow = vec![direct(1)];
    wire.paths.handle_handshake(direct(1), wire.now);
    wire.paths.add(relay(), wire.now);
    wire.run(SECOND / 2);
    wire.narrow.clear();
    wire.run(10 * SECOND);
    assert_eq!(wire.switches.len(), 1, "{:?}", wire.switches);
}

#[test]
fn a_padded_probe_of_the_peer_has_a_narrow_path_asked_again() {
    let mut wire = Wire::new(&[(relay(), Some(40)), (direct(1), Some(5))]);
    wire.narrow = vec![direct(1)];
    wire.paths.handle_handshake(relay(), wire.now);
    wire.paths.add(direct(1), wire.now);
    wire.run(10 * SECOND);
    wire.narrow.clear();
    wire.paths.note_probe(direct(1), false, wire.now);
    wire.run(SECOND);
    assert!(view(&wire, direct(1)).narrow, "a small one says nothing");
    wire.paths.note_probe(direct(1), true, wire.now);
    wire.run(SECOND);
    assert_eq!(wire.paths.active(), Some(direct(1)));
}
