//! One candidate path: its probes, what they measured, and how it compares with another.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::width::Width;
use super::{
    ANSWER_TIMEOUT_MAX, ANSWER_TIMEOUT_MIN, BUSY, DOUBT_INTERVAL, LOST_PROBES_DEAD, PROBE_INTERVAL,
    Path, QUIET_INTERVALS, RTT_WINDOW, Reason, SILENCE, SILENT_INTERVAL, STANDBY_INTERVAL,
};

/// Probes of one path that may be unanswered at once and are still recognised.
const MAX_OUTSTANDING: usize = 4;
/// Probes that follow each other at once on a path that is new: the first one may come before the peer
/// has its keys, and one that is lost must not cost [`SILENT_INTERVAL`].
const EAGER_PROBES: u64 = 4;
/// Lost probes of the last 32, half a minute of a path in use, that are forgiven it: less than a
/// tenth may be chance. One that
/// is not in use must have lost none, so that two lossy paths do not take turns.
pub(super) const LOSSES_FORGIVEN: u32 = 2;
/// What every further one adds to a path's length: a thirtieth of the packets waits for two hundred
/// milliseconds or more until it is sent again, and TCP halves its window each time.
const LOSS_COST: Duration = Duration::from_millis(60);
/// How much longer than a round trip and a half the answer of a silent path may take.
const DOUBT_SLACK: Duration = Duration::from_millis(30);
/// Samples kept per path; more than the window holds at the fastest probing.
const MAX_SAMPLES: usize = 32;
/// A path must be shorter by this ratio (percent) to take over from one that works.
const HYSTERESIS_PERCENT: u32 = 80;
/// A relayed path counts as longer than measured by this ratio (percent) and [`RELAY_SURCHARGE`]:
/// its packets are somebody else's traffic, and it fails with one more machine.
const RELAY_PERCENT: u32 = 110;
/// See [`RELAY_PERCENT`]; on a LAN, round-trip times differ by less than this by chance.
const RELAY_SURCHARGE: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) path: Path,
    pub(super) outstanding: VecDeque<Outstanding>,
    pub(super) samples: VecDeque<(Instant, Duration)>,
    pub(super) smoothed: Option<Duration>,
    pub(super) lost_in_row: u32,
    pub(super) proven: bool,
    pub(super) withdrawn: bool,
    /// Known from a packet only; forgotten when dead.
    pub(super) learned: bool,
    pub(super) next_probe: Instant,
    pub(super) sent: u64,
    pub(super) lost: u64,
    /// When the last packet, probe or reply came over it.
    pub(super) heard: Option<Instant>,
    /// Since when they have come without a pause of [`SILENCE`].
    pub(super) busy_since: Option<Instant>,
    /// Whether packets of the session have come over it, which go where the peer sends.
    pub(super) carried: bool,
    /// When it was asked why it is silent, if it has not answered.
    pub(super) doubted: Option<Instant>,
    /// When that is to be judged, if it is still to come.
    pub(super) judge_at: Option<Instant>,
    /// One bit for each of the last 32 probes: whether it was lost.
    losses: u32,
    /// Whether full packets pass.
    pub(super) width: Width,
    /// Whether this node's networks have changed since it answered last.
    was_cut: bool,
}

#[derive(Debug)]
pub(super) struct Outstanding {
    nonce: u64,
    sent: Instant,
    counted_lost: bool,
}

impl Candidate {
    pub(super) const fn new(path: Path, learned: bool, now: Instant) -> Self {
        Self {
            path,
            outstanding: VecDeque::new(),
            samples: VecDeque::new(),
            smoothed: None,
            lost_in_row: 0,
            proven: false,
            withdrawn: false,
            learned,
            next_probe: now,
            sent: 0,
            lost: 0,
            heard: None,
            busy_since: None,
            carried: false,
            doubted: None,
            judge_at: None,
            losses: 0,
            width: Width::new(),
            was_cut: false,
        }
    }

    /// Notes that something has come over it.
    pub(super) fn hear(&mut self, now: Instant) {
        let paused = self.heard.is_none_or(|at| at + SILENCE < now);
        if paused || self.busy_since.is_none() {
            self.busy_since = Some(now);
        }
        self.heard = Some(now);
        if !self.answers() {
            // The other direction works; but what comes all the time must not be answered each time.
            let last = self.outstanding.back().map(|probe| probe.sent);
            let soon = last.map_or(now, |sent| now.max(sent + ANSWER_TIMEOUT_MIN));
            self.next_probe = self.next_probe.min(soon);
        }
    }

    /// Notes that it is asked now why it is silent, and until when it should have answered, by what it
    /// did before.
    pub(super) fn doubt(&mut self, now: Instant) {
        let rtt = self.smoothed.unwrap_or(ANSWER_TIMEOUT_MIN);
        let patience = (rtt * 3 / 2 + DOUBT_SLACK).min(ANSWER_TIMEOUT_MIN);
        self.doubted = Some(now);
        self.judge_at = Some(now + patience);
    }

    /// Notes that this node's networks may be others; if packets go over it, or would if it carried
    /// them, full ones are asked for.
    pub(super) fn network_changed(&mut self, carries: bool, now: Instant) {
        self.next_probe = now;
        self.was_cut |= self.lost_in_row > 0;
        if carries || self.width.is_narrow() {
            self.width.doubt(now);
        }
    }

    /// Whether it has answered since then.
    pub(super) fn has_answered_since(&self, since: Instant) -> bool {
        self.samples.back().is_some_and(|(at, _)| *at > since)
    }

    /// Takes over from a path that packets came over all the time: they are to come over this one now.
    pub(super) fn expect_packets(&mut self, busy_since: Instant, now: Instant) {
        self.busy_since = Some(busy_since);
        self.heard = Some(now);
    }

    /// When it has been silent for so long that it must be asked why; never if it is not busy.
    pub(super) fn silence_at(&self) -> Option<Instant> {
        let (since, last) = (self.busy_since?, self.heard?);
        let is_busy = last.saturating_duration_since(since) >= BUSY && self.doubted.is_none();
        is_busy.then(|| last + SILENCE)
    }

    /// Whether it has answered, and does still.
    pub(super) const fn answers(&self) -> bool {
        self.proven && !self.is_dead()
    }

    pub(super) const fn is_dead(&self) -> bool {
        self.lost_in_row >= LOST_PROBES_DEAD
    }

    pub(super) fn answer_timeout(&self) -> Duration {
        match self.smoothed {
            Some(rtt) => (rtt * 3).clamp(ANSWER_TIMEOUT_MIN, ANSWER_TIMEOUT_MAX),
            None => ANSWER_TIMEOUT_MAX,
        }
    }

    pub(super) fn send(&mut self, nonce: u64, is_active: bool, quiet: bool, now: Instant) {
        if self.outstanding.len() == MAX_OUTSTANDING {
            self.outstanding.pop_front();
        }
        self.outstanding.push_back(Outstanding {
            nonce,
            sent: now,
            counted_lost: false,
        });
        self.sent += 1;
        let interval = self.interval(is_active);
        let is_known = self.proven || self.sent > EAGER_PROBES;
        self.next_probe = now
            + if quiet && is_known {
                self.quiet_interval(is_active)
            } else {
                interval
            };
    }

    pub(super) const fn interval(&self, is_active: bool) -> Duration {
        if is_active {
            // Also when it is dead: nothing else answers then, or it would have been left.
            PROBE_INTERVAL
        } else if self.answers() {
            STANDBY_INTERVAL
        } else if !self.proven && self.sent <= EAGER_PROBES {
            ANSWER_TIMEOUT_MIN
        } else {
            SILENT_INTERVAL
        }
    }

    const fn quiet_interval(&self, is_active: bool) -> Duration {
        let [active, standby, silent] = QUIET_INTERVALS;
        if is_active {
            active
        } else if self.answers() {
            standby
        } else {
            silent
        }
    }

    pub(super) fn count_lost(&mut self, is_active: bool, now: Instant) {
        let timeout = self.answer_timeout();
        for probe in &mut self.outstanding {
            if !probe.counted_lost && probe.sent + timeout <= now {
                probe.counted_lost = true;
                self.lost += 1;
                self.losses = self.losses << 1 | 1;
                self.lost_in_row = self.lost_in_row.saturating_add(1);
                if is_active && self.lost_in_row < LOST_PROBES_DEAD {
                    self.next_probe = self
                        .next_probe
                        .min(probe.sent + timeout.max(DOUBT_INTERVAL));
                }
            }
        }
    }

    /// Counts a padded probe that was lost; says whether the path is narrow from now on.
    pub(super) fn count_padded(&mut self, now: Instant) -> bool {
        let (timeout, answers) = (self.answer_timeout(), self.lost_in_row == 0);
        self.width.handle_timeout(timeout, answers, now)
    }

    /// Takes a reply; returns when its probe was sent, if it is one.
    pub(super) fn take_reply(&mut self, nonce: u64, quiet: bool, now: Instant) -> Option<Instant> {
        let mut outstanding = self.outstanding.iter();
        let at = outstanding.position(|probe| probe.nonce == nonce)?;
        let probe = self.outstanding.remove(at)?;
        let rtt = now.saturating_duration_since(probe.sent);
        // RFC 6298 smoothing; only the timeout uses it.
        self.smoothed = Some(self.smoothed.map_or(rtt, |old| (old * 7 + rtt) / 8));
        if self.samples.len() == MAX_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((now, rtt));
        // What was lost while it was away, or had yet to be opened, does not make it a lossy path.
        let is_back = self.is_dead() || !self.proven || self.was_cut;
        self.was_cut = false;
        if is_back {
            // Those before it were lost for the same reason.
            self.outstanding.retain(|other| other.sent > probe.sent);
        }
        self.losses = if is_back { 0 } else { self.losses << 1 };
        if self.is_dead() {
            self.width.forget();
        }
        self.width.note_answer(quiet, now);
        self.lost_in_row = 0;
        self.proven = true;
        Some(probe.sent)
    }

    pub(super) fn min_rtt(&self, now: Instant) -> Option<Duration> {
        let recent = self
            .samples
            .iter()
            .filter(|(at, _)| *at + RTT_WINDOW >= now);
        let least = recent.map(|(_, rtt)| *rtt).min();
        least.or_else(|| self.samples.back().map(|(_, rtt)| *rtt))
    }

    /// How many of the last 32 probes were lost.
    pub(super) const fn losses(&self) -> u32 {
        self.losses.count_ones()
    }

    /// What the choice compares: the round-trip time, and what loss adds to it. A path that the
    /// handshake has proven but no probe has measured counts as the longest.
    pub(super) fn length(&self, forgiven: u32, now: Instant) -> Duration {
        let lossless = self.lossless_length(now);
        lossless.saturating_add(LOSS_COST * self.losses().saturating_sub(forgiven))
    }

    fn lossless_length(&self, now: Instant) -> Duration {
        match self.min_rtt(now) {
            Some(rtt) if self.path.is_relayed() => rtt * RELAY_PERCENT / 100 + RELAY_SURCHARGE,
            Some(rtt) => rtt,
            None => Duration::MAX,
        }
    }

    /// What goes before length: that full packets are known to pass, or at least not known not to. The
    /// path in use has what it needs until the contrary is shown.
    pub(super) const fn rank(&self, in_use: bool) -> u8 {
        if self.width.is_wide() || in_use && !self.width.is_narrow() {
            0
        } else if self.width.is_narrow() {
            2
        } else {
            1
        }
    }

    pub(super) fn beats(&self, active: &Self, now: Instant) -> Option<Reason> {
        self.min_rtt(now)?;
        let (mine, theirs) = (self.length(0, now), active.length(LOSSES_FORGIVEN, now));
        if !self.path.is_relayed() && active.path.is_relayed() {
            return (mine <= theirs).then_some(Reason::DirectPreferred);
        }
        // Nothing measured yet on the path in use: wait for its first answer or its death.
        active.min_rtt(now)?;
        let is_shorter = |mine: Duration, theirs: Duration| {
            mine.saturating_mul(100) < theirs.saturating_mul(HYSTERESIS_PERCENT)
        };
        let by_length = is_shorter(self.lossless_length(now), active.lossless_length(now));
        let reason = if by_length {
            Reason::Shorter
        } else {
            Reason::LessLoss
        };
        is_shorter(mine, theirs).then_some(reason)
    }

    pub(super) fn deadline(&self) -> Instant {
        let timeout = self.answer_timeout();
        let answers = self.outstanding.iter().filter(|probe| !probe.counted_lost);
        let answers = answers.map(|probe| probe.sent + timeout);
        let padded = self.width.deadline(timeout);
        answers.chain(padded).fold(self.next_probe, Instant::min)
    }
}
