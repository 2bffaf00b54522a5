//! The ways to one peer: which there are, what was measured on each, and which one is used.
//!
//! A candidate becomes usable only by an authenticated two-way probe on it. The choice is by
//! measured round-trip time with hysteresis; a direct path is preferred over a relayed one of about
//! the same length. Keys and frames are the shell's business:
//! it seals the probes that [`Paths::poll_event`] asks for and reports the replies.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Candidates per peer: a few addresses per family and link, and one per relay.
pub const MAX_CANDIDATES: usize = 12;
/// Between probes of the path in use: it is the clock of `closest` and of failure detection.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Between probes of a path that answers but is not in use.
pub const STANDBY_INTERVAL: Duration = Duration::from_secs(2);
/// Between probes of a path that does not answer.
pub const SILENT_INTERVAL: Duration = Duration::from_secs(5);
/// Between probes of a path in use whose last probe was not answered: decide quickly.
pub const DOUBT_INTERVAL: Duration = Duration::from_millis(200);
/// Probes in a row without an answer after which a path counts as dead.
pub const LOST_PROBES_DEAD: u32 = 3;
/// How long measured round-trip times count: `closest` follows a change within this time and one
/// probe more.
pub const RTT_WINDOW: Duration = Duration::from_secs(5);
/// The least time that an answer is waited for, whatever the round-trip time so far.
pub const ANSWER_TIMEOUT_MIN: Duration = Duration::from_millis(300);
/// The time that the first answer of a path is waited for, and the most for any.
pub const ANSWER_TIMEOUT_MAX: Duration = Duration::from_secs(1);
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

/// The index of a relay among those this node uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayIndex(pub u32);

/// One way to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    /// Straight to an address.
    Direct(SocketAddr),
    /// Through a relay, to the registration that the peer has there.
    Relay {
        /// Which relay.
        relay: RelayIndex,
        /// The peer's registration.
        peer: u32,
    },
}

impl Path {
    /// Whether packets pass a relay.
    #[must_use]
    pub const fn is_relayed(self) -> bool {
        matches!(self, Self::Relay { .. })
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct(address) => write!(f, "direct {address}"),
            Self::Relay { relay, .. } => write!(f, "relay {}", relay.0),
        }
    }
}

/// Why a path is in use, from a fixed catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The handshake came over it.
    Handshake,
    /// It answers and is markedly shorter than the one before.
    Shorter,
    /// It answers, is direct, and about as long as the relayed one before.
    DirectPreferred,
    /// The one before does not answer any more.
    FormerLost,
    /// The one before was withdrawn.
    FormerWithdrawn,
}

impl Reason {
    /// The stable word that stands in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Shorter => "shorter",
            Self::DirectPreferred => "direct_preferred",
            Self::FormerLost => "former_lost",
            Self::FormerWithdrawn => "former_withdrawn",
        }
    }
}

/// What the shell has to do or to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathEvent {
    /// Send a probe with this nonce on this path.
    Probe {
        /// Where to.
        path: Path,
        /// Comes back in the reply.
        nonce: u64,
    },
    /// Packets take another path from now on.
    Switched {
        /// The path used until now.
        from: Option<Path>,
        /// The path used from now on.
        to: Path,
        /// Why.
        reason: Reason,
    },
    /// No path answers any more; the session is as good as lost.
    AllDead,
}

/// What is known of one path, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathView {
    /// The path.
    pub path: Path,
    /// Whether it is the one in use.
    pub active: bool,
    /// Whether its probes are answered.
    pub answers: bool,
    /// The last measured round-trip time.
    pub last_rtt: Option<Duration>,
    /// The least round-trip time of the last [`RTT_WINDOW`].
    pub min_rtt: Option<Duration>,
    /// Probes sent.
    pub sent: u64,
    /// Probes whose answer did not come in time.
    pub lost: u64,
}

/// The ways to one peer while a session is up.
#[derive(Debug)]
pub struct Paths {
    candidates: Vec<Candidate>,
    active: Option<(Path, Reason)>,
    events: VecDeque<PathEvent>,
    nonce: u64,
    said_dead: bool,
}

#[derive(Debug)]
struct Candidate {
    path: Path,
    outstanding: VecDeque<Outstanding>,
    samples: VecDeque<(Instant, Duration)>,
    smoothed: Option<Duration>,
    lost_in_row: u32,
    proven: bool,
    withdrawn: bool,
    next_probe: Instant,
    sent: u64,
    lost: u64,
}

#[derive(Debug)]
struct Outstanding {
    nonce: u64,
    sent: Instant,
    counted_lost: bool,
}

impl Paths {
    /// No candidates yet; `seed` makes the nonces.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            candidates: Vec::new(),
            active: None,
            events: VecDeque::new(),
            nonce: seed,
            said_dead: false,
        }
    }

    /// Adds a candidate, to be probed at once. Known ones and those beyond the bound are ignored.
    pub fn add(&mut self, path: Path, now: Instant) {
        if let Some(known) = self.candidates.iter_mut().find(|c| c.path == path) {
            known.withdrawn = false;
            return;
        }
        if self.candidates.len() == MAX_CANDIDATES && !self.evict() {
            return;
        }
        self.candidates.push(Candidate::new(path, now));
    }

    /// Makes room by forgetting the path that has been silent for most probes.
    fn evict(&mut self) -> bool {
        let active = self.active();
        let silent = self.candidates.iter().enumerate().filter(|(_, candidate)| {
            let never_answered = !candidate.proven && candidate.lost > 0;
            Some(candidate.path) != active && (candidate.is_dead() || never_answered)
        });
        let most = silent.max_by_key(|(_, candidate)| candidate.lost_in_row);
        let most = most.map(|(at, _)| at);
        most.map(|at| self.candidates.remove(at)).is_some()
    }

    /// Withdraws a candidate. One in use without which there would be none stays until another one
    /// answers or its own probes are lost: who withdrew it may be about to replace it.
    pub fn remove(&mut self, path: Path, now: Instant) {
        let others = self
            .candidates
            .iter()
            .any(|candidate| candidate.path != path && candidate.proven && !candidate.is_dead());
        if self.active() == Some(path) && !others {
            if let Some(last) = self.candidates.iter_mut().find(|c| c.path == path) {
                last.withdrawn = true;
            }
            return;
        }
        self.candidates.retain(|candidate| candidate.path != path);
        if self.active.is_some_and(|(active, _)| active == path) {
            self.choose(now, Some(Reason::FormerWithdrawn));
        }
    }

    /// Uses the path over which the handshake was completed; TLS has proven it.
    pub fn handle_handshake(&mut self, path: Path, now: Instant) {
        self.add(path, now);
        if let Some(candidate) = self.candidates.iter_mut().find(|c| c.path == path) {
            candidate.proven = true;
        }
        self.switch(path, Reason::Handshake);
    }

    /// Takes an authenticated reply that came over `path`.
    pub fn handle_reply(&mut self, path: Path, nonce: u64, now: Instant) {
        let Some(candidate) = self.candidates.iter_mut().find(|c| c.path == path) else {
            return;
        };
        if candidate.take_reply(nonce, now) {
            self.said_dead = false;
            self.choose(now, None);
        }
    }

    /// Counts lost probes and sends those that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let active = self.active.map(|(path, _)| path);
        let mut active_died = false;
        for candidate in &mut self.candidates {
            let is_active = Some(candidate.path) == active;
            let was_dead = candidate.is_dead();
            candidate.count_lost(is_active, now);
            active_died |= is_active && candidate.is_dead() && !was_dead;
            if candidate.next_probe <= now {
                self.nonce = next_nonce(self.nonce);
                let event = PathEvent::Probe {
                    path: candidate.path,
                    nonce: self.nonce,
                };
                candidate.send(self.nonce, is_active, now);
                self.events.push_back(event);
            }
        }
        if active_died {
            self.choose(now, Some(Reason::FormerLost));
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.candidates.iter().map(Candidate::deadline).min()
    }

    /// The next thing for the shell to do.
    pub fn poll_event(&mut self) -> Option<PathEvent> {
        self.events.pop_front()
    }

    /// The path in use.
    #[must_use]
    pub fn active(&self) -> Option<Path> {
        self.active.map(|(path, _)| path)
    }

    /// Whether the last probe of the path in use was not answered in time.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        let active = self.active();
        let active = self
            .candidates
            .iter()
            .find(|candidate| Some(candidate.path) == active);
        active.is_some_and(|candidate| candidate.lost_in_row > 0)
    }

    /// Why the path in use is in use.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.active.map(|(_, reason)| reason)
    }

    /// The least round-trip time of the last [`RTT_WINDOW`] on the path in use.
    #[must_use]
    pub fn min_rtt(&self, now: Instant) -> Option<Duration> {
        let active = self.active()?;
        self.candidates
            .iter()
            .find(|c| c.path == active)?
            .min_rtt(now)
    }

    /// Every candidate and what is known of it.
    pub fn views(&self, now: Instant) -> impl Iterator<Item = PathView> + '_ {
        let active = self.active();
        self.candidates.iter().map(move |candidate| PathView {
            path: candidate.path,
            active: Some(candidate.path) == active,
            answers: candidate.proven && !candidate.is_dead(),
            last_rtt: candidate.samples.back().map(|(_, rtt)| *rtt),
            min_rtt: candidate.min_rtt(now),
            sent: candidate.sent,
            lost: candidate.lost,
        })
    }

    /// Chooses again; `forced` says why the path in use cannot stay.
    fn choose(&mut self, now: Instant, forced: Option<Reason>) {
        let active = self.active().and_then(|path| {
            self.candidates
                .iter()
                .find(|c| c.path == path && forced.is_none())
        });
        let usable = self
            .candidates
            .iter()
            .filter(|c| c.proven && !c.is_dead() && !c.withdrawn);
        let best = usable.min_by_key(|c| (c.length(now), c.path));
        let Some(best) = best else {
            if forced.is_some() && !self.said_dead {
                self.said_dead = true;
                self.events.push_back(PathEvent::AllDead);
            }
            return;
        };
        let reason = match active {
            None => Some(forced.unwrap_or(Reason::FormerLost)),
            Some(active) if active.path == best.path => None,
            Some(active) if active.is_dead() => Some(Reason::FormerLost),
            Some(active) if active.withdrawn => Some(Reason::FormerWithdrawn),
            Some(active) => best.beats(active, now),
        };
        let to = best.path;
        if let Some(reason) = reason {
            self.switch(to, reason);
        }
    }

    fn switch(&mut self, to: Path, reason: Reason) {
        let from = self.active();
        self.candidates
            .retain(|candidate| !candidate.withdrawn || candidate.path == to);
        self.active = Some((to, reason));
        if from != Some(to) {
            self.events
                .push_back(PathEvent::Switched { from, to, reason });
        }
    }
}

impl Candidate {
    const fn new(path: Path, now: Instant) -> Self {
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

    const fn is_dead(&self) -> bool {
        self.lost_in_row >= LOST_PROBES_DEAD
    }

    fn answer_timeout(&self) -> Duration {
        match self.smoothed {
            Some(rtt) => (rtt * 3).clamp(ANSWER_TIMEOUT_MIN, ANSWER_TIMEOUT_MAX),
            None => ANSWER_TIMEOUT_MAX,
        }
    }

    fn send(&mut self, nonce: u64, is_active: bool, now: Instant) {
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

    const fn interval(&self, is_active: bool) -> Duration {
        if is_active {
            // Also when it is dead: nothing else answers then, or it would have been left.
            PROBE_INTERVAL
        } else if self.proven && !self.is_dead() {
            STANDBY_INTERVAL
        } else {
            SILENT_INTERVAL
        }
    }

    fn count_lost(&mut self, is_active: bool, now: Instant) {
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

    fn take_reply(&mut self, nonce: u64, now: Instant) -> bool {
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

    fn min_rtt(&self, now: Instant) -> Option<Duration> {
        let recent = self
            .samples
            .iter()
            .filter(|(at, _)| *at + RTT_WINDOW >= now);
        let least = recent.map(|(_, rtt)| *rtt).min();
        least.or_else(|| self.samples.back().map(|(_, rtt)| *rtt))
    }

    /// What the choice compares. A path that the handshake has proven but no probe has measured
    /// counts as the longest.
    fn length(&self, now: Instant) -> Duration {
        match self.min_rtt(now) {
            Some(rtt) if self.path.is_relayed() => rtt * RELAY_PERCENT / 100 + RELAY_SURCHARGE,
            Some(rtt) => rtt,
            None => Duration::MAX,
        }
    }

    fn beats(&self, active: &Self, now: Instant) -> Option<Reason> {
        self.min_rtt(now)?;
        let (mine, theirs) = (self.length(now), active.length(now));
        if !self.path.is_relayed() && active.path.is_relayed() {
            return (mine <= theirs).then_some(Reason::DirectPreferred);
        }
        // Nothing measured yet on the path in use: wait for its first answer or its death.
        active.min_rtt(now)?;
        (mine * 100 < theirs * HYSTERESIS_PERCENT).then_some(Reason::Shorter)
    }

    fn deadline(&self) -> Instant {
        let timeout = self.answer_timeout();
        let answers = self.outstanding.iter().filter(|probe| !probe.counted_lost);
        answers
            .map(|probe| probe.sent + timeout)
            .fold(self.next_probe, Instant::min)
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): nonces only have to differ, the tag authenticates them.
const fn next_nonce(state: u64) -> u64 {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests;
