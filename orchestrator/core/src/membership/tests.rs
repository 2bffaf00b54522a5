//! Silence, return, and our own pauses, on exact times.

use proptest::prelude::*;

use super::Standing::{Alive, Dead, Gone, Suspect};
use super::*;

fn at(ms: u64) -> Now {
    Now {
        elapsed: Duration::from_millis(ms),
        // The wall clock jumps about; nothing may depend on it.
        unix: ms.wrapping_mul(7_919) % 1_000,
    }
}

fn change(member: &'static str, from: Standing, to: Standing) -> Change<&'static str> {
    Change {
        member,
        from: Some(from),
        to,
    }
}

#[test]
fn silence_makes_suspect_dead_and_gone_to_the_millisecond() {
    let mut members = Membership::new();
    let first = members.heard("a1", at(100));
    assert_eq!(first.map(|it| (it.from, it.to)), Some((None, Alive)));
    for (ms, name, from, to) in [
        (2_100, "member suspect", Alive, Suspect),
        (4_600, "member dead", Suspect, Dead),
        (5_600, "member out of tables", Dead, Gone),
    ] {
        assert_eq!(
            members.poll_timeout(),
            Some((Duration::from_millis(ms), name))
        );
        assert_eq!(members.handle_timeout(at(ms - 1)), []);
        assert_eq!(members.handle_timeout(at(ms)), [change("a1", from, to)]);
        assert_eq!(members.standing(&"a1"), Some(to));
    }
    assert_eq!(members.poll_timeout(), None);
    assert_eq!(
        members.silence(&"a1", at(9_100)),
        Some(Duration::from_secs(9))
    );
}

#[test]
fn who_comes_back_is_alive_at_once() {
    for silent_ms in [2_000, 4_500, 5_500] {
        let mut members = Membership::new();
        members.heard("a1", at(0));
        for ms in (0..=silent_ms).step_by(500) {
            members.handle_timeout(at(ms));
        }
        let was = members.standing(&"a1").unwrap();
        assert_ne!(was, Alive);
        assert_eq!(
            members.heard("a1", at(silent_ms)),
            Some(change("a1", was, Alive))
        );
        assert_eq!(members.heard("a1", at(silent_ms + 1)), None);
    }
}

#[test]
fn each_member_has_its_own_time() {
    let mut members = Membership::new();
    members.heard("a1", at(0));
    members.heard("a2", at(1_500));
    assert_eq!(
        members.handle_timeout(at(2_000)),
        [change("a1", Alive, Suspect)]
    );
    members.heard("a2", at(2_500));
    assert_eq!(
        members.handle_timeout(at(4_900)),
        [change("a1", Suspect, Dead), change("a2", Alive, Suspect)]
    );
    let standings: Vec<_> = members.iter().map(|(_, standing)| standing).collect();
    assert_eq!(standings, [Dead, Suspect]);
    assert!(members.forget(&"a1"));
    assert!(!members.forget(&"a1"));
    assert_eq!(members.standing(&"a1"), None);
}

#[test]
fn our_own_pause_is_held_against_nobody() {
    let mut members = Membership::new();
    members.heard("a1", at(0));
    members.heard("a2", at(0));
    // A pause of a minute; one heartbeat is read before the timer, the other after it.
    members.heard("a1", at(62_000));
    assert_eq!(
        members.handle_timeout(at(62_000)),
        [change("a2", Alive, Suspect)]
    );
    assert_eq!(
        members.heard("a2", at(62_100)),
        Some(change("a2", Suspect, Alive))
    );
    // Who is really away is found out after the pause.
    assert_eq!(
        members.handle_timeout(at(64_000)),
        [change("a1", Alive, Suspect)]
    );
    assert_eq!(
        members.handle_timeout(at(64_100)),
        [change("a2", Alive, Suspect)]
    );
    assert_eq!(
        members.handle_timeout(at(66_500)),
        [change("a1", Suspect, Dead)]
    );
}

#[test]
fn a_restart_gives_everybody_the_whole_time() {
    let mut members = Membership::new();
    members.expect("a1", at(10));
    members.handle_timeout(at(2_010));
    members.expect("a1", at(2_020));
    assert_eq!(members.standing(&"a1"), Some(Suspect));
    assert_eq!(
        members.poll_timeout(),
        Some((Duration::from_millis(4_510), "member dead"))
    );
}

proptest! {
    /// With timers kept on time, a standing depends on the silence alone, and every change is told.
    #[test]
    fn standing_is_silence(heartbeats in proptest::collection::vec((0_u8..3, 0_u64..4_000), 1..40)) {
        let mut members = Membership::new();
        let (mut time, mut last, mut told) = (0, BTreeMap::new(), BTreeMap::new());
        for (member, pause) in heartbeats {
            let until = time + pause;
            while let Some((due, _)) = members.poll_timeout().filter(|(due, _)| *due <= at(until).elapsed) {
                for change in members.handle_timeout(Now { elapsed: due, unix: 0 }) {
                    prop_assert_eq!(told.insert(change.member, change.to), change.from);
                }
            }
            time = until;
            if let Some(change) = members.heard(member, at(time)) {
                prop_assert_eq!(told.insert(member, change.to), change.from);
            }
            last.insert(member, time);
            for (member, heard) in &last {
                let expected = match time - heard {
                    0..2_000 => Alive,
                    2_000..4_500 => Suspect,
                    4_500..5_500 => Dead,
                    5_500.. => Gone,
                };
                prop_assert_eq!(members.standing(member), Some(expected));
                prop_assert_eq!(told.get(member).copied(), Some(expected));
            }
        }
    }
}
