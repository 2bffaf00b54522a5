//! Whether full packets pass a path: an answer to a small probe says only that it answers.
//!
//! A tunnel or an uplink with a smaller MTU may swallow what is longer without a word, and QUIC cannot
//! do with less than 1,200 bytes (RFC 9000, section 14). So a path that answers is asked once more by a
//! probe of that length, whose answer is as long; only then may packets be moved to it.

use std::time::{Duration, Instant};

/// Bytes of a padded probe: the UDP payload that every path must carry.
pub const PADDED_LEN: usize = 1200;
/// Padded probes in a row without an answer after which a path that answers small ones is narrow: one
/// or two may be lost by chance.
const LOST_NARROW: u32 = 3;
/// Between padded probes of a path that is narrow, or that a session in use has found wide: routes
/// change. Both directions of one path are 320 bit/s.
const ASKED_AGAIN: Duration = Duration::from_secs(60);

/// What padded probes have shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// Nothing yet.
    Nothing,
    /// They are answered; when the last one was.
    Wide(Instant),
    /// They are not, though small ones are; since when.
    Narrow(Instant),
}

/// The padded probes of one path.
#[derive(Debug)]
pub(super) struct Width {
    shown: Shown,
    /// The one that is not answered yet, and when it was sent.
    asked: Option<(u64, Instant)>,
    /// When the next one is to be sent, if one is.
    due: Option<Instant>,
    lost: u32,
}

impl Width {
    pub(super) const fn new() -> Self {
        Self {
            shown: Shown::Nothing,
            asked: None,
            due: None,
            lost: 0,
        }
    }

    pub(super) const fn is_wide(&self) -> bool {
        matches!(self.shown, Shown::Wide(_))
    }

    pub(super) const fn is_narrow(&self) -> bool {
        matches!(self.shown, Shown::Narrow(_))
    }

    /// Whether a padded probe is to be sent now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|at| at <= now)
    }

    /// A small probe was answered: sees to it that a padded one follows, if that is not known, or not
    /// known any more.
    pub(super) fn note_answer(&mut self, quiet: bool, now: Instant) {
        let is_stale = match self.shown {
            Shown::Nothing => true,
            Shown::Wide(at) => !quiet && at + ASKED_AGAIN <= now,
            Shown::Narrow(at) => at + ASKED_AGAIN <= now,
        };
        if self.asked.is_none() && (is_stale || self.lost > 0) {
            self.due = Some(now);
        }
    }

    /// What was shown is of a network that may be another one now. It counts until it is shown again.
    pub(super) fn doubt(&mut self, now: Instant) {
        self.due = (self.shown != Shown::Nothing).then_some(now);
        self.lost = 0;
    }

    /// The path was dead and is back.
    pub(super) const fn forget(&mut self) {
        *self = Self::new();
    }

    pub(super) const fn note_sent(&mut self, nonce: u64, now: Instant) {
        self.asked = Some((nonce, now));
        self.due = None;
    }

    /// Takes a reply; says whether it is one to a padded probe.
    pub(super) fn take_reply(&mut self, nonce: u64, now: Instant) -> bool {
        let is_it = self.asked.is_some_and(|(asked, _)| asked == nonce);
        if is_it {
            self.asked = None;
            self.lost = 0;
            self.shown = Shown::Wide(now);
        }
        is_it
    }

    /// Counts a padded probe that was not answered in time, unless the path answers nothing at all.
    /// Says whether it is narrow from now on.
    pub(super) fn handle_timeout(
        &mut self,
        timeout: Duration,
        answers: bool,
        now: Instant,
    ) -> bool {
        if self.asked.is_none_or(|(_, sent)| now < sent + timeout) {
            return false;
        }
        self.asked = None;
        if !answers {
            // The next answer of a small one asks again.
            self.lost = self.lost.max(1);
            return false;
        }
        self.lost += 1;
        if self.lost < LOST_NARROW {
            self.due = Some(now);
            return false;
        }
        self.lost = 0;
        let was_narrow = self.is_narrow();
        self.shown = Shown::Narrow(now);
        !was_narrow
    }

    /// When something is to be sent or counted.
    pub(super) fn deadline(&self, timeout: Duration) -> Option<Instant> {
        let answer = self.asked.map(|(_, sent)| sent + timeout);
        answer.into_iter().chain(self.due).min()
    }
}
