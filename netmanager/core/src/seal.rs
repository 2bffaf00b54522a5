//! Authenticates probes and relay frames: keys, counters and the window against replays.
//!
//! A frame is sealed with AES-128-GMAC: AES-128-GCM over an empty plaintext with the whole frame as
//! associated data, its tag field zero; the nonce is the frame's counter. Nothing is encrypted:
//! what the frames carry is sealed already, or no secret. The layouts and where the tag stands are
//! weald-proto's `frame`; keys come from the TLS exporter of the session and so live as long as it.
//!
//! GMAC falls with the first nonce that is used twice under one key. Hence [`Sealer`] owns its
//! counter and is no `Clone`; every direction of every session has a key of its own.
//!
//! The peer machine seals probes with it, the relay and its clients seal data frames.

use std::fmt;
use std::ops::Range;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::constant_time;
use weald_proto::frame::{MAX_COUNTER, TAG_LEN};

pub use window::ReplayWindow;

mod window;

/// Bytes of a [`SealKey`], as the TLS exporter is asked for them.
pub const KEY_LEN: usize = 16;

/// Where the counter stands in every frame: probes and relay data frames agree on it.
const COUNTER: Range<usize> = 9..15;

/// A key that seals or opens the frames of one direction of one session.
pub struct SealKey(LessSafeKey);

impl SealKey {
    /// Makes a key of exported bytes.
    #[must_use]
    pub fn new(bytes: [u8; KEY_LEN]) -> Self {
        match UnboundKey::new(&AES_128_GCM, &bytes) {
            Ok(key) => Self(LessSafeKey::new(key)),
            // The only error is a wrong length, and the array has the right one.
            Err(_) => unreachable!("AES-128 keys have {KEY_LEN} bytes"),
        }
    }

    /// Writes the tag of a frame. False, and nothing written, if `tag` is not within the frame or
    /// not [`TAG_LEN`] long.
    ///
    /// A counter must never be used twice with one key: that duty is [`Sealer`]'s.
    fn seal(&self, frame: &mut [u8], tag: Range<usize>, counter: u64) -> bool {
        let Some(field) = frame.get_mut(tag.clone()).filter(|f| f.len() == TAG_LEN) else {
            return false;
        };
        field.fill(0);
        let computed = self.tag(frame, counter);
        if let Some(field) = frame.get_mut(tag) {
            field.copy_from_slice(&computed);
        }
        true
    }

    /// Whether the tag of a frame is right. The frame is the same afterwards.
    #[must_use]
    fn open(&self, frame: &mut [u8], tag: Range<usize>, counter: u64) -> bool {
        let Some(field) = frame.get_mut(tag.clone()) else {
            return false;
        };
        let Ok(claimed) = <[u8; TAG_LEN]>::try_from(&*field) else {
            return false;
        };
        field.fill(0);
        let computed = self.tag(frame, counter);
        if let Some(field) = frame.get_mut(tag) {
            field.copy_from_slice(&claimed);
        }
        constant_time::verify_slices_are_equal(&computed, &claimed).is_ok()
    }

    /// The tag over a frame whose tag field is zero.
    fn tag(&self, frame: &[u8], counter: u64) -> [u8; TAG_LEN] {
        let mut nonce = [0; NONCE_LEN];
        nonce[NONCE_LEN - 8..].copy_from_slice(&counter.to_be_bytes());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let full = self
            .0
            .seal_in_place_separate_tag(nonce, Aad::from(frame), &mut []);
        match full {
            Ok(full) => match full.as_ref().first_chunk() {
                Some(tag) => *tag,
                None => unreachable!("a GCM tag has 16 bytes"),
            },
            // Only a plaintext beyond 64 GiB or associated data beyond 2^61 bytes fails.
            Err(_) => unreachable!("an empty plaintext can be sealed"),
        }
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(..)")
    }
}

/// The sealing end of one direction: the key and the next counter.
#[derive(Debug)]
pub struct Sealer {
    key: SealKey,
    next: u64,
}

/// Why a frame cannot be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The counters of the direction are used up; the session has to be made anew.
    #[error("all {MAX_COUNTER} counters of the session's key are used")]
    Exhausted,
    /// The frame is shorter than its layout.
    #[error("the frame is too short to hold counter and tag")]
    Short,
}

impl Sealer {
    /// Starts a direction; its first counter is 1, as 0 is where replay windows start.
    #[must_use]
    pub const fn new(key: SealKey) -> Self {
        Self { key, next: 1 }
    }

    /// Takes the next counter, writes it into the frame, and writes the tag. Returns the counter.
    ///
    /// # Errors
    /// All counters are used, or the frame is shorter than its layout; it must not be sent.
    pub fn seal(&mut self, frame: &mut [u8], tag: Range<usize>) -> Result<u64, SealError> {
        if self.next > MAX_COUNTER {
            return Err(SealError::Exhausted);
        }
        let counter = self.next;
        let field = frame.get_mut(COUNTER).ok_or(SealError::Short)?;
        field.copy_from_slice(&counter.to_be_bytes()[2..]);
        self.next += 1;
        if self.key.seal(frame, tag, counter) {
            Ok(counter)
        } else {
            Err(SealError::Short)
        }
    }
}

/// The opening end of one direction: the key and the counters that were seen.
#[derive(Debug)]
pub struct Opener {
    key: SealKey,
    window: ReplayWindow<WORDS>,
}

/// Why a frame was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The frame is shorter than its layout.
    #[error("the frame is too short to hold counter and tag")]
    Short,
    /// The counter was seen before, or is too old to know.
    #[error("a counter that was seen before or is too old to know")]
    Replayed,
    /// The tag is wrong: another key, or the frame was changed.
    #[error("the tag does not match")]
    Tag,
}

/// An accepted frame's place among the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Newer than every frame before it: its source address is the sender's latest.
    Newest,
    /// A late one.
    Late,
}

impl Opener {
    /// Starts a direction.
    #[must_use]
    pub fn new(key: SealKey) -> Self {
        Self {
            key,
            window: ReplayWindow::default(),
        }
    }

    /// Checks the counter and the tag of a frame, and remembers the counter if both are good.
    ///
    /// The frame is borrowed mutably because its tag field is blanked meanwhile; it is the same
    /// afterwards.
    ///
    /// # Errors
    /// Says what is wrong with the frame; the window is as before.
    pub fn open(&mut self, frame: &mut [u8], tag: Range<usize>) -> Result<Order, OpenError> {
        let counter = counter_of(frame).ok_or(OpenError::Short)?;
        if !self.window.is_fresh(counter) {
            return Err(OpenError::Replayed);
        }
        if !self.key.open(frame, tag, counter) {
            return Err(OpenError::Tag);
        }
        let newest = counter > self.window.highest();
        self.window.insert(counter);
        Ok(if newest { Order::Newest } else { Order::Late })
    }
}

/// How many counters below the highest one are remembered: 20 ms of reordering at 100,000 frames
/// per second.
pub const REPLAY_WINDOW: u64 = 2048;
const WORDS: usize = (REPLAY_WINDOW / 64) as usize;

/// The counter that stands in a frame.
fn counter_of(frame: &[u8]) -> Option<u64> {
    let field = frame.get(COUNTER)?;
    Some(
        field
            .iter()
            .fold(0, |value, byte| value << 8 | u64::from(*byte)),
    )
}

#[cfg(test)]
mod tests;
