//! One candidate path: its probes, what they measured, and how it compares with another.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{
    ANSWER_TIMEOUT_MAX, ANSWER_TIMEOUT_MIN, DOUBT_INTERVAL, LOST_PROBES_DEAD, PROBE_INTERVAL, Path,
    RTT_WINDOW, Reason, SILENT_INTERVAL, STANDBY_INTERVAL,
};

/// Probes of one path that may be unanswered at once and are still recognised.
const MAX_OUTSTANDING: usize = 4;
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
    pub(super) next_probe: Instant,
    pub(super) sent: u64,
    pub(super) lost: u64,
}

#[derive(Debug)]
pub(super) struct Outstanding {
    nonce: u64,
    sent: Instant,
    counted_lost: bool,
}

impl Candidate {
    pub(super) const fn new(path: Path, now: Instant) -> Self {
        Self {
            path,
            outstanding: VecDeque::new(),
            samples: VecDeque::new(),
            smoothed: None,
            lost_in_row: 0,
            proven: false,
            withdrawn: false,
            next_probe: now,
            sent: 0,
            lost: 0,
        }
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

    pub(super) fn send(&mut self, nonce: u64, is_active: bool, now: Instant) {
        if self.outstanding.len() == MAX_OUTSTANDING {
            self.outstanding.pop_front();
        }
        self.outstanding.push_back(Outstanding {
            nonce,
            sent: now,
            counted_lost: false,
        });
        self.sent += 1;
        self.next_probe = now + self.interval(is_active);
    }

    pub(super) const fn interval(&self, is_active: bool) -> Duration {
        if is_active {
            // Also when it is dead: nothing else answers then, or it would have been left.
            PROBE_INTERVAL
        } else if self.proven && !self.is_dead() {
            STANDBY_INTERVAL
        } else {
            SILENT_INTERVAL
        }
    }

    pub(super) fn count_lost(&mut self, is_active: bool, now: Instant) {
        let timeout = self.answer_timeout();
        for probe in &mut self.outstanding {
            if !probe.counted_lost && probe.sent + timeout <= now {
                probe.counted_lost = true;
                self.lost += 1;
                self.lost_in_row = self.lost_in_row.saturating_add(1);
                if is_active && self.lost_in_row < LOST_PROBES_DEAD {
                    self.next_probe = self
                        .next_probe
                        .min(probe.sent + timeout.max(DOUBT_INTERVAL));
                }
            }
        }
    }

    pub(super) fn take_reply(&mut self, nonce: u64, now: Instant) -> bool {
        let Some(at) = self
            .outstanding
            .iter()
            .position(|probe| probe.nonce == nonce)
        else {
            return false;
        };
        let Some(probe) = self.outstanding.remove(at) else {
            return false;
        };
        let rtt = now.saturating_duration_since(probe.sent);
        // RFC 6298 smoothing; only the timeout uses it.
        self.smoothed = Some(self.smoothed.map_or(rtt, |old| (old * 7 + rtt) / 8));
        if self.samples.len() == MAX_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((now, rtt));
        self.lost_in_row = 0;
        self.proven = true;
        true
    }

    pub(super) fn min_rtt(&self, now: Instant) -> Option<Duration> {
        let recent = self
            .samples
            .iter()
            .filter(|(at, _)| *at + RTT_WINDOW >= now);
        let least = recent.map(|(_, rtt)| *rtt).min();
        least.or_else(|| self.samples.back().map(|(_, rtt)| *rtt))
    }

    /// What the choice compares. A path that the handshake has proven but no probe has measured
    /// counts as the longest.
    pub(super) fn length(&self, now: Instant) -> Duration {
        match self.min_rtt(now) {
            Some(rtt) if self.path.is_relayed() => rtt * RELAY_PERCENT / 100 + RELAY_SURCHARGE,
            Some(rtt) => rtt,
            None => Duration::MAX,
        }
    }

    pub(super) fn beats(&self, active: &Self, now: Instant) -> Option<Reason> {
        self.min_rtt(now)?;
        let (mine, theirs) = (self.length(now), active.length(now));
        if !self.path.is_relayed() && active.path.is_relayed() {
            return (mine <= theirs).then_some(Reason::DirectPreferred);
        }
        // Nothing measured yet on the path in use: wait for its first answer or its death.
        active.min_rtt(now)?;
        (mine * 100 < theirs * HYSTERESIS_PERCENT).then_some(Reason::Shorter)
    }

    pub(super) fn deadline(&self) -> Instant {
        let timeout = self.answer_timeout();
        let answers = self.outstanding.iter().filter(|probe| !probe.counted_lost);
        answers
            .map(|probe| probe.sent + timeout)
            .fold(self.next_probe, Instant::min)
    }
}
