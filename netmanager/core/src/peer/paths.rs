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

mod candidate;
#[cfg(test)]
mod tests;

use self::candidate::Candidate;

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

/// SplitMix64 (Steele, Lea, Flood 2014): nonces only have to differ, the tag authenticates them.
const fn next_nonce(state: u64) -> u64 {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
