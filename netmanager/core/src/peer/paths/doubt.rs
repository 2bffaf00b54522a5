//! A path in use that falls silent: packets go over a second one as well until it is known why.
//!
//! A NAT that forgets a port takes both directions away without a word, and probes notice it after
//! a second. While packets come all the time, their absence tells sooner.

use std::time::{Duration, Instant};

use super::candidate::Candidate;
use super::{LOST_PROBES_DEAD, Path, Paths, Reason};

/// A path that packets of the peer have come over without a pause is in doubt after this silence: a
/// path that is gone must be left within 300 ms and a round trip. Acknowledgements come every 25 ms.
pub const SILENCE: Duration = Duration::from_millis(150);
/// How long packets must have come without such a pause before silence says anything.
pub const BUSY: Duration = Duration::from_millis(300);
/// How long packets go over a second path as well at the most: until a silent path has answered or
/// its probes are lost.
pub const BOTH_MAX: Duration = Duration::from_secs(2);
/// Answers of a peer that was busy come over all paths within this time.
const TOGETHER: Duration = Duration::from_millis(10);

impl Paths {
    /// Notes that a packet of the session, no probe, has come over `path`; who is not a candidate is
    /// ignored.
    pub fn note_packet(&mut self, path: Path, now: Instant) {
        if let Some(candidate) = self.candidates.iter_mut().find(|c| c.path == path) {
            candidate.carried = true;
            candidate.hear(now);
        }
        self.end_doubt(path);
    }

    /// Notes that a probe of the peer has come over `path`. A padded one shows that full packets pass one
    /// way, and is reason to ask again whether they pass both.
    pub fn note_probe(&mut self, path: Path, padded: bool, now: Instant) {
        if let Some(candidate) = self.candidates.iter_mut().find(|c| c.path == path) {
            candidate.hear(now);
            if padded && candidate.width.is_narrow() {
                candidate.width.doubt(now);
            }
        }
        self.end_doubt(path);
    }

    /// The path that packets go over besides the one in use: while that one is silent, and for a
    /// moment when it has just taken over.
    #[must_use]
    pub fn second(&self, now: Instant) -> Option<Path> {
        let (path, until) = self.second?;
        (now < until && self.active() != Some(path)).then_some(path)
    }

    /// The path in use has gone silent: asks all that work, and has packets take another one too.
    pub(super) fn doubt(&mut self, now: Instant) {
        let active = self.active();
        for candidate in &mut self.candidates {
            let is_active = Some(candidate.path) == active;
            if is_active {
                candidate.doubt(now);
            }
            if is_active || candidate.answers() {
                candidate.next_probe = now;
            }
        }
        let others = self.candidates.iter().filter(|one| {
            Some(one.path) != active && one.answers() && !one.withdrawn && !one.width.is_narrow()
        });
        let second = others.min_by_key(|one| (one.length(0, now), one.path));
        self.second = second.map(|second| (second.path, now + BOTH_MAX));
    }

    /// Something has come over `path`: if it is the one in use, nothing needs to take another one.
    pub(super) fn end_doubt(&mut self, path: Path) {
        if self.active() == Some(path)
            && let Some(active) = self.candidates.iter_mut().find(|c| c.path == path)
            && active.doubted.take().is_some()
        {
            active.judge_at = None;
            self.second = None;
        }
    }

    /// Leaves a path in use that has not answered in time why it is silent, if another one has.
    pub(super) fn settle_doubt(&mut self, now: Instant) {
        let active = self.active();
        let Some(silent) = self.candidates.iter_mut().find(|c| Some(c.path) == active) else {
            return;
        };
        if silent.judge_at.is_none_or(|at| now < at) {
            return;
        }
        silent.judge_at = None;
        let Some(since) = silent.doubted else {
            return;
        };
        let others = self.candidates.iter().filter(|c| Some(c.path) != active);
        let mut others = others.filter(|one| one.answers() && !one.withdrawn);
        if others.any(|one| one.has_answered_since(since)) {
            if let Some(silent) = self.candidates.iter_mut().find(|c| Some(c.path) == active) {
                silent.lost_in_row = LOST_PROBES_DEAD;
                silent.doubted = None;
            }
            self.choose(now, Some(Reason::FormerLost));
        }
    }

    /// Notes that another path has answered. If the one in use should have by then, it is judged in a
    /// moment: when the peer was busy, both answers come together.
    pub(super) fn hear_other(&mut self, now: Instant) {
        let active = self.active();
        let silent = self.candidates.iter_mut().find(|c| Some(c.path) == active);
        if let Some(silent) = silent.filter(|one| one.doubted.is_some()) {
            silent.judge_at.get_or_insert(now + TOGETHER);
        }
    }

    /// Whether the path in use must be asked why it is silent.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        let active = self.candidate(self.active());
        let silence = active.and_then(Candidate::silence_at);
        silence.is_some_and(|at| at <= now)
    }

    /// When the path in use is to be asked, or should have answered.
    pub(super) fn doubt_deadline(&self) -> Option<Instant> {
        let active = self.candidate(self.active())?;
        active.silence_at().or(active.judge_at)
    }
}
