//! Frames against vectors that another implementation has made, hostile frames, and the life of
//! keys with exact deadlines.

use proptest::prelude::*;
use weald_proto::fast::HEADER_LEN;

use super::lane::{FastKeys, FastLane, MAX_OPENERS, PROOF_TIMEOUT, RETRY_PAUSE};
use super::*;

const LIBRARIES: [Library; 2] = [Library::AwsLc, Library::Ring];

fn begin() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "a test needs some first instant")]
    Instant::now()
}

fn secret(seed: u8) -> FastSecret {
    FastSecret {
        key: [seed; KEY_LEN],
        salt: [seed ^ 0x55; KEY_LEN],
        id: u64::from(seed) << 40 | 7,
    }
}

/// The two ends of one agreement: the dialling one's keys, and the other's.
fn agreement(seed: u8, now: Instant) -> [FastKeys; 2] {
    let (up, down) = (secret(seed), secret(seed ^ 0xff));
    let keys = |out: &FastSecret, back: &FastSecret| FastKeys {
        sealer: FastSealer::new(out, Library::Ring, now),
        opener: FastOpener::new(back, Library::AwsLc, now),
    };
    [keys(&up, &down), keys(&down, &up)]
}

fn sealed(sealer: &mut FastSealer, inner: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    sealer.seal(&[inner], &mut frame).unwrap();
    frame
}

fn id_of(frame: &[u8]) -> u64 {
    FastHeader::decode(frame).unwrap().key
}

fn hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.map(byte).collect()
}

#[test]
fn frames_are_those_of_the_vectors() {
    let lines = include_str!("vectors.txt").lines();
    let mut seen = 0;
    for line in lines.filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split(' ').collect();
        let [key, salt, id, counter, inner, frame] = fields[..] else {
            panic!("{line}");
        };
        let (mut padded, frame) = (hex(salt), hex(frame));
        padded.resize(KEY_LEN, 0xee);
        let secret = FastSecret {
            key: hex(key).try_into().unwrap(),
            salt: padded.try_into().unwrap(),
            id: id.parse().unwrap(),
        };
        let inner = if inner == "-" { vec![] } else { hex(inner) };
        for library in LIBRARIES {
            let now = begin();
            let mut sealer = FastSealer::new(&secret, library, now);
            sealer.next = counter.parse().unwrap();
            let (head, tail) = inner.split_at(inner.len() / 3);
            let mut out = b"before".to_vec();
            sealer.seal(&[head, tail], &mut out).unwrap();
            assert_eq!(out.strip_prefix(b"before").unwrap(), frame);
            let mut opener = FastOpener::new(&secret, library, now);
            assert_eq!(opener.open(&mut frame.clone()).unwrap(), inner);
        }
        seen += 1;
    }
    assert_eq!(seen, 4);
}

#[test]
fn a_frame_opens_once_in_any_order_within_the_window() {
    let now = begin();
    let [mut near, mut far] = agreement(1, now);
    let frames: Vec<_> = (0..3_u8).map(|i| sealed(&mut near.sealer, &[i])).collect();
    for i in [2, 0, 1] {
        let mut frame = frames[i].clone();
        assert_eq!(far.opener.open(&mut frame).unwrap(), [i as u8]);
        let again = far.opener.open(&mut frames[i].clone()).map(|_| ());
        assert_eq!(again, Err(OpenError::Replayed));
    }
    // One from before the window is too old to know.
    let old = sealed(&mut near.sealer, b"old");
    near.sealer.next += 64 * WINDOW_WORDS as u64;
    far.opener
        .open(&mut sealed(&mut near.sealer, b"new"))
        .unwrap();
    let opened = far.opener.open(&mut old.clone()).map(|_| ());
    assert_eq!(opened, Err(OpenError::Replayed));
}

#[test]
fn short_and_foreign_frames_are_refused() {
    let now = begin();
    let [mut near, mut far] = agreement(1, now);
    let whole = sealed(&mut near.sealer, b"");
    for len in 0..whole.len() {
        let opened = far.opener.open(&mut whole.clone()[..len]).map(|_| ());
        assert_eq!(opened, Err(OpenError::Short), "{len}");
    }
    let [mut other, _] = agreement(2, now);
    let mut foreign = sealed(&mut other.sealer, b"x");
    assert_eq!(far.opener.open(&mut foreign), Err(OpenError::Tag));
    // Its own direction's frames, sent back.
    let mut own = sealed(&mut far.sealer, b"x");
    assert_eq!(far.opener.open(&mut own), Err(OpenError::Tag));
}

#[test]
fn a_forged_counter_does_not_move_the_window() {
    let now = begin();
    let [mut near, mut far] = agreement(1, now);
    let mut forged = sealed(&mut near.sealer, b"x");
    forged[8] = 0x40;
    let opened = far.opener.open(&mut forged).map(|_| ());
    assert_eq!(opened, Err(OpenError::Tag));
    let mut honest = sealed(&mut near.sealer, b"y");
    assert_eq!(far.opener.open(&mut honest).unwrap(), b"y");
}

#[test]
fn a_key_goes_stale_and_is_used_up() {
    let now = begin();
    let [mut keys, _] = agreement(1, now);
    let moment = Duration::from_nanos(1);
    assert!(!keys.sealer.is_stale(now + STALE_AGE - moment));
    assert!(keys.sealer.is_stale(now + STALE_AGE));
    assert!(!keys.sealer.is_spent(now + MAX_AGE - moment));
    assert!(keys.sealer.is_spent(now + MAX_AGE));

    keys.sealer.next = STALE_FRAMES;
    assert!(!keys.sealer.is_stale(now));
    sealed(&mut keys.sealer, b"");
    assert!(keys.sealer.is_stale(now) && !keys.sealer.is_spent(now));
    keys.sealer.next = MAX_FRAMES;
    sealed(&mut keys.sealer, b"");
    assert!(keys.sealer.is_spent(now));
    let mut out = b"as it was".to_vec();
    assert_eq!(keys.sealer.seal(&[b"x"], &mut out), Err(Exhausted));
    assert_eq!(out, b"as it was");
    assert_eq!(keys.sealer.frames(), MAX_FRAMES);
}

/// A lane at either end that has begun with one agreement, proven.
fn lanes(now: Instant) -> [FastLane; 2] {
    let (mut near, mut far) = (FastLane::default(), FastLane::default());
    assert!(near.wants_keys(now));
    agree(&mut near, &mut far, 1, now);
    prove(&mut near, &mut far, now);
    [near, far]
}

fn agree(near: &mut FastLane, far: &mut FastLane, seed: u8, now: Instant) -> [Option<u64>; 2] {
    let [dialling, other] = agreement(seed, now);
    near.handle_dial();
    let gone = near.handle_keys(dialling, true, now);
    [gone, far.handle_keys(other, false, now)]
}

fn prove(near: &mut FastLane, far: &mut FastLane, now: Instant) {
    let mut frame = sealed(far.sealer(now).unwrap(), b"");
    assert_eq!(near.open(id_of(&frame), &mut frame).unwrap(), b"");
}

fn say(from: &mut FastLane, to: &mut FastLane, now: Instant) {
    let mut frame = sealed(from.sealer(now).unwrap(), b"said");
    assert_eq!(to.open(id_of(&frame), &mut frame).unwrap(), b"said");
}

#[test]
fn the_dialling_end_seals_once_the_other_has_shown_that_it_can_open() {
    let now = begin();
    let (mut near, mut far) = (FastLane::default(), FastLane::default());
    agree(&mut near, &mut far, 1, now);
    assert!(near.sealer(now).is_none() && !near.counters(now).is_up);
    assert!(!near.wants_keys(now), "they are under way");
    prove(&mut near, &mut far, now);
    say(&mut near, &mut far, now);
    say(&mut far, &mut near, now);
    let counters = near.counters(now);
    assert!(counters.is_up);
    assert_eq!((counters.sealed, counters.opened), (1, 2));
}

#[test]
fn keys_are_replaced_while_packets_go_on() {
    let start = begin();
    let [mut near, mut far] = lanes(start);
    let stale = start + STALE_AGE;
    assert!(!near.wants_keys(stale - Duration::from_nanos(1)));
    assert!(near.wants_keys(stale));
    let mut late = sealed(near.sealer(stale).unwrap(), b"late");
    agree(&mut near, &mut far, 2, stale);
    // Until the proof, the old key seals what the dialling end sends.
    say(&mut near, &mut far, stale);
    prove(&mut near, &mut far, stale);
    assert!(!near.wants_keys(stale));
    say(&mut near, &mut far, stale);
    assert_eq!(far.open(id_of(&late), &mut late).unwrap(), b"late");
    assert_eq!(near.counters(stale).agreements, 2);
    assert_eq!(near.counters(stale).sealed, 3);

    // The old keys go when they are too old, the new ones stay.
    assert_eq!(near.poll_timeout(), Some(start + MAX_OPENER_AGE));
    let gone = near.handle_timeout(start + MAX_OPENER_AGE);
    assert_eq!(gone, [secret(1 ^ 0xff).id]);
    say(&mut near, &mut far, start + MAX_OPENER_AGE);
}

#[test]
fn without_new_keys_packets_go_over_quic_again() {
    let start = begin();
    let [mut near, _] = lanes(start);
    let stale = start + STALE_AGE;
    near.handle_dial();
    near.handle_end_of_dial(stale);
    assert!(near.sealer(stale).is_some(), "the old ones still do");
    assert!(!near.wants_keys(stale + RETRY_PAUSE - Duration::from_nanos(1)));
    assert!(near.wants_keys(stale + RETRY_PAUSE));
    assert_eq!(near.poll_timeout(), Some(start + MAX_AGE));
    assert!(near.handle_timeout(start + MAX_AGE).is_empty());
    assert!(near.sealer(start + MAX_AGE).is_none());
}

#[test]
fn a_peer_that_shows_nothing_is_left_alone_for_a_while() {
    let now = begin();
    let (mut near, mut far) = (FastLane::default(), FastLane::default());
    agree(&mut near, &mut far, 1, now);
    assert_eq!(near.poll_timeout(), Some(now + PROOF_TIMEOUT));
    let then = now + PROOF_TIMEOUT;
    near.handle_timeout(then);
    assert!(near.sealer(then).is_none());
    assert!(!near.wants_keys(then) && near.wants_keys(then + RETRY_PAUSE));
}

#[test]
fn keys_of_many_agreements_are_bounded_and_a_reset_forgets_all() {
    let now = begin();
    let [mut near, mut far] = lanes(now);
    let mut gone = Vec::new();
    for seed in 2..=MAX_OPENERS as u8 + 1 {
        let [near_gone, _] = agree(&mut near, &mut far, seed, now);
        gone.extend(near_gone);
        prove(&mut near, &mut far, now);
    }
    assert_eq!(gone, [secret(1 ^ 0xff).id], "the first of them");
    assert_eq!(near.reset().len(), MAX_OPENERS);
    assert!(near.sealer(now).is_none() && near.poll_timeout().is_none());
    let mut frame = sealed(far.sealer(now).unwrap(), b"x");
    let opened = near.open(id_of(&frame), &mut frame).map(|_| ());
    assert_eq!(opened, Err(OpenError::Tag));
    assert!(near.wants_keys(now));
}

proptest! {
    #[test]
    fn any_flipped_bit_is_noticed(
        inner in prop::collection::vec(any::<u8>(), 0..64),
        at in any::<prop::sample::Index>(),
        flip in 0_u8..8,
    ) {
        let now = begin();
        let [mut near, mut far] = agreement(1, now);
        let mut frame = sealed(&mut near.sealer, &inner);
        let at = at.index(frame.len());
        frame[at] ^= 1 << flip;
        let opened = far.opener.open(&mut frame).map(|_| ());
        // Another first byte is another kind of frame; a counter flipped to zero counts as seen.
        let expected = match at {
            0 => matches!(opened, Err(OpenError::Short)),
            8..HEADER_LEN => matches!(opened, Err(OpenError::Tag | OpenError::Replayed)),
            _ => opened == Err(OpenError::Tag),
        };
        prop_assert!(expected, "{at}: {opened:?}");
    }
}
