//! A session that nobody uses costs little, and is all there when somebody does again.

use super::*;

/// Bytes of a probe, or its reply, with headers of UDP and IPv4.
const PROBE_BYTES: u64 = 31 + 28;
/// What a relay adds to each.
const RELAY_BYTES: u64 = 23;

/// Probes on each path within `time`.
fn sent_within(wire: &mut Wire, time: Duration, paths: &[Path]) -> Vec<u64> {
    let before: Vec<u64> = paths.iter().map(|path| wire.sent(*path)).collect();
    wire.run(time);
    let after = paths.iter().map(|path| wire.sent(*path));
    after
        .zip(before)
        .map(|(after, before)| after - before)
        .collect()
}

fn quiet() -> Wire {
    let mut wire = Wire::new(&[
        (relay(), Some(40)),
        (direct(1), Some(20)),
        (direct(2), None),
    ]);
    for path in [relay(), direct(1), direct(2)] {
        wire.paths.add(path, wire.now);
    }
    wire.run(Duration::from_secs(60));
    assert_eq!(wire.paths.active(), Some(direct(1)));
    wire.paths.set_quiet(true, wire.now);
    wire.run(Duration::from_secs(10));
    wire
}

#[test]
fn probes_of_a_session_that_nobody_uses_are_less_than_a_kilobit() {
    let mut wire = quiet();
    let switches = wire.switches.len();
    let time = Duration::from_secs(240);
    let sent = sent_within(&mut wire, time, &[direct(1), relay(), direct(2)]);
    assert_eq!(sent, [24, 12, 4]);
    // Of both ends, each probe with its reply.
    let bytes = 4 * (sent[0] * PROBE_BYTES + sent[1] * (PROBE_BYTES + RELAY_BYTES));
    let rate = 8 * (bytes + 2 * sent[2] * PROBE_BYTES) / time.as_secs();
    assert!(
        rate < 600,
        "{rate} bit/s, and keep-alives of QUIC are still to come"
    );
    assert_eq!(wire.switches.len(), switches, "{:?}", wire.switches);
}

#[test]
fn who_uses_it_again_has_all_paths_asked_at_once() {
    let mut wire = quiet();
    wire.paths.set_quiet(false, wire.now);
    assert_eq!(
        wire.paths.second(wire.now),
        Some(relay()),
        "until it is known"
    );
    let asked = sent_within(&mut wire, Duration::ZERO, &[direct(1), relay()]);
    assert_eq!(asked, [1, 1]);
    wire.run(Duration::from_millis(20));
    assert_eq!(wire.paths.second(wire.now), None);
    assert_eq!(wire.paths.active(), Some(direct(1)));
    let asked = sent_within(&mut wire, Duration::from_secs(10), &[direct(1), relay()]);
    assert_eq!(asked, [10, 5]);
}

#[test]
fn a_path_that_died_meanwhile_is_left_within_a_round_trip_and_a_half() {
    let mut wire = quiet();
    wire.set(direct(1), None);
    wire.run(Duration::from_secs(2));
    wire.paths.set_quiet(false, wire.now);
    let woken = wire.now;
    wire.run(Duration::from_millis(100));
    let (at, to, reason) = *wire.switches.last().unwrap();
    assert_eq!((to, reason), (relay(), Reason::FormerLost));
    assert!(at - woken <= Duration::from_millis(60), "{:?}", at - woken);
}

#[test]
fn a_path_that_dies_while_nobody_uses_it_is_left_all_the_same() {
    let mut wire = quiet();
    wire.set(direct(1), None);
    wire.run(Duration::from_secs(15));
    assert_eq!(wire.paths.active(), Some(relay()));
}
