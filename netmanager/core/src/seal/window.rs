//! The window against replays: which counters of a direction have been seen.
//!
//! The idea is that of RFC 6479: a ring of words, so that moving the window on touches only those
//! that counters fall out of. It knows no frames and no keys.

use std::fmt;

/// The counters that were seen, of the last `64 * WORDS`: all above are new, all below too old.
///
/// A counter must be inserted only after its frame has been authenticated, else a forged one could
/// push the window ahead.
#[derive(Clone, PartialEq, Eq)]
pub struct ReplayWindow<const WORDS: usize> {
    highest: u64,
    /// One bit per counter, at its value modulo the window.
    seen: [u64; WORDS],
}

impl<const WORDS: usize> Default for ReplayWindow<WORDS> {
    fn default() -> Self {
        let mut seen = [0; WORDS];
        // Counter 0 is never used.
        if let Some(first) = seen.first_mut() {
            *first = 1;
        }
        Self { highest: 0, seen }
    }
}

impl<const WORDS: usize> ReplayWindow<WORDS> {
    /// How many counters it knows.
    const LEN: u64 = 64 * WORDS as u64;

    /// The highest counter that was inserted, 0 at the start.
    #[must_use]
    pub const fn highest(&self) -> u64 {
        self.highest
    }

    /// Whether the counter is neither seen nor too old.
    #[must_use]
    pub fn is_fresh(&self, counter: u64) -> bool {
        if counter > self.highest {
            return true;
        }
        self.highest - counter < Self::LEN && self.seen[Self::word(counter)] & bit(counter) == 0
    }

    /// Remembers a counter; false if it was not fresh.
    pub fn insert(&mut self, counter: u64) -> bool {
        if !self.is_fresh(counter) {
            return false;
        }
        if counter > self.highest {
            self.advance(counter);
        }
        self.seen[Self::word(counter)] |= bit(counter);
        true
    }

    /// Forgets the counters that fall out of the window when `counter` becomes the highest.
    fn advance(&mut self, counter: u64) {
        if counter - self.highest >= Self::LEN {
            self.seen.fill(0);
        } else {
            for passed in self.highest + 1..=counter {
                self.seen[Self::word(passed)] &= !bit(passed);
            }
        }
        self.highest = counter;
    }

    const fn word(counter: u64) -> usize {
        (counter % Self::LEN / 64) as usize
    }
}

impl<const WORDS: usize> fmt::Debug for ReplayWindow<WORDS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayWindow")
            .field("highest", &self.highest)
            .finish_non_exhaustive()
    }
}

const fn bit(counter: u64) -> u64 {
    1 << (counter % 64)
}
