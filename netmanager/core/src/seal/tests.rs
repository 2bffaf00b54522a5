//! Sealing against itself and a known answer; the replay window against a naive model.

use std::collections::BTreeSet;

use proptest::prelude::*;
use weald_proto::frame::{Probe, RELAY_HEADER_LEN, RelayHeader};

use super::*;

const TAG: Range<usize> = RelayHeader::TAG;

fn key() -> SealKey {
    SealKey::new(*b"0123456789abcdef")
}

fn frame(counter: u64, payload: &[u8]) -> Vec<u8> {
    let header = RelayHeader {
        link: 1,
        peer: 2,
        counter,
    };
    [&header.encode()[..], payload].concat()
}

fn sealed(sealer: &mut Sealer, payload: &[u8]) -> Vec<u8> {
    let mut out = frame(0, payload);
    let counter = sealer.seal(&mut out, TAG).unwrap();
    assert_eq!(RelayHeader::decode(&out).unwrap().counter, counter);
    out
}

#[test]
fn known_answer_of_gcm() {
    // Test case 1 of the GCM specification (McGrew and Viega): zero key, zero nonce, nothing else.
    let tag = SealKey::new([0; KEY_LEN]).tag(&[], 0);
    assert_eq!(tag, [0x58, 0xe2, 0xfc, 0xce, 0xfa, 0x7e, 0x30, 0x61]);
}

#[test]
fn sealed_frames_open_once_and_stay_the_same() {
    let (mut sealer, mut opener) = (Sealer::new(key()), Opener::new(key()));
    for expected in 1..=3 {
        let mut bytes = sealed(&mut sealer, b"payload");
        assert_eq!(RelayHeader::decode(&bytes).unwrap().counter, expected);
        let before = bytes.clone();
        assert_eq!(opener.open(&mut bytes, TAG), Ok(Order::Newest));
        assert_eq!(bytes, before);
        assert_eq!(opener.open(&mut bytes, TAG), Err(OpenError::Replayed));
    }
}

#[test]
fn probes_have_their_counter_in_the_same_place() {
    let probe = Probe {
        reply: false,
        session: 7,
        counter: 0,
        nonce: 9,
    };
    let mut bytes = probe.encode(1200);
    let counter = Sealer::new(key()).seal(&mut bytes, Probe::TAG).unwrap();
    let expected = Probe { counter, ..probe };
    assert_eq!(Probe::decode(&bytes), Some(expected));
    let mut opener = Opener::new(key());
    assert_eq!(opener.open(&mut bytes, Probe::TAG), Ok(Order::Newest));
}

#[test]
fn late_frames_are_accepted_and_told_apart() {
    let (mut sealer, mut opener) = (Sealer::new(key()), Opener::new(key()));
    let mut early = sealed(&mut sealer, b"a");
    let mut late = sealed(&mut sealer, b"b");
    assert_eq!(opener.open(&mut late, TAG), Ok(Order::Newest));
    assert_eq!(opener.open(&mut early, TAG), Ok(Order::Late));
}

#[test]
fn a_forged_frame_does_not_move_the_window() {
    let (mut sealer, mut opener) = (Sealer::new(key()), Opener::new(key()));
    let mut forged = frame(1 << 40, b"x");
    assert_eq!(opener.open(&mut forged, TAG), Err(OpenError::Tag));
    let mut bytes = sealed(&mut sealer, b"x");
    assert_eq!(opener.open(&mut bytes, TAG), Ok(Order::Newest));
}

#[test]
fn short_frames_are_neither_sealed_nor_opened() {
    for len in [0, 14, 22] {
        let mut bytes = vec![0; len];
        let sealed = Sealer::new(key()).seal(&mut bytes, TAG);
        assert_eq!(sealed, Err(SealError::Short), "{len}");
    }
    let mut opener = Opener::new(key());
    assert_eq!(opener.open(&mut [1; 14], TAG), Err(OpenError::Short));
    assert_eq!(opener.open(&mut [1; 22], TAG), Err(OpenError::Tag));
}

#[test]
fn a_sealer_stops_before_a_counter_repeats() {
    let mut sealer = Sealer {
        key: key(),
        next: MAX_COUNTER,
    };
    let last = sealed(&mut sealer, b"");
    assert_eq!(RelayHeader::decode(&last).unwrap().counter, MAX_COUNTER);
    let refused = sealer.seal(&mut [0; RELAY_HEADER_LEN], TAG);
    assert_eq!(refused, Err(SealError::Exhausted));
}

proptest! {
    #[test]
    fn any_flipped_bit_is_noticed(
        payload in prop::collection::vec(any::<u8>(), 0..64),
        at in any::<prop::sample::Index>(),
        flip in 0_u8..8,
    ) {
        let mut bytes = sealed(&mut Sealer::new(key()), &payload);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << flip;
        let mut opener = Opener::new(key());
        let opened = opener.open(&mut bytes, TAG);
        // A counter flipped to zero counts as seen.
        prop_assert!(matches!(opened, Err(OpenError::Tag | OpenError::Replayed)));
    }

    #[test]
    fn the_window_agrees_with_a_set(
        steps in prop::collection::vec((0_u64..4, 0_u64..3 * REPLAY_WINDOW), 1..400),
    ) {
        let mut window = ReplayWindow::<WORDS>::default();
        let mut seen = BTreeSet::from([0]);
        let mut base = 0;
        for (jump, offset) in steps {
            base += jump * REPLAY_WINDOW / 3;
            let counter = (base + offset).saturating_sub(REPLAY_WINDOW);
            let highest = seen.last().copied().unwrap_or(0);
            let fresh = counter + REPLAY_WINDOW > highest && !seen.contains(&counter);
            prop_assert_eq!(window.insert(counter), fresh, "{} after {}", counter, highest);
            if fresh {
                seen.insert(counter);
            }
            prop_assert_eq!(window.highest(), seen.last().copied().unwrap_or(0));
        }
    }
}
