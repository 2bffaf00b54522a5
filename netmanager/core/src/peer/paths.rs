//! The ways to one peer: which there are, what was measured on each, and which one is used.
//!
//! A candidate becomes usable only by authenticated two-way probes on it, a small one and one as long
//! as the shortest full packet. The choice is by measured round-trip time and loss with hysteresis; a direct path is preferred over a relayed one
//! of about the same length. Keys and frames are the shell's business:
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
/// The same three while nobody uses the session: with what else goes on, less than 1 kbit/s in both
/// directions together. Whoever uses it again has all paths asked at once.
pub const QUIET_INTERVALS: [Duration; 3] = [
    Duration::from_secs(10),
    Duration::from_secs(20),
    Duration::from_secs(60),
];
/// How long after its own handshake a node that has dialled waits with the first probes: what comes to
/// the peer together with the end of the handshake meets no keys there.
const PEER_DONE: Duration = Duration::from_millis(10);
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
mod choice;
mod doubt;
#[cfg(test)]
mod tests;
mod width;

use self::candidate::Candidate;

pub use self::choice::Reason;
pub use self::doubt::{BOTH_MAX, BUSY, SILENCE};
pub use self::width::PADDED_LEN;

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

/// What the shell has to do or to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathEvent {
    /// Send a probe with this nonce on this path.
    Probe {
        /// Where to.
        path: Path,
        /// Comes back in the reply.
        nonce: u64,
        /// Whether it is to have [`PADDED_LEN`] bytes; its reply is as long.
        padded: bool,
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
    /// Whether its small probes are answered and its padded ones are not.
    pub narrow: bool,
    /// The last measured round-trip time.
    pub last_rtt: Option<Duration>,
    /// The least round-trip time of the last [`RTT_WINDOW`].
    pub min_rtt: Option<Duration>,
    /// Probes sent.
    pub sent: u64,
    /// Probes whose answer did not come in time.
    pub lost: u64,
    /// How many of the last 32 those are.
    pub lost_lately: u32,
}

/// The ways to one peer while a session is up.
#[derive(Debug)]
pub struct Paths {
    candidates: Vec<Candidate>,
    active: Option<(Path, Reason)>,
    /// A second path that packets go over as well, and until when.
    second: Option<(Path, Instant)>,
    events: VecDeque<PathEvent>,
    nonce: u64,
    said_dead: bool,
    /// Nobody uses the session.
    quiet: bool,
    /// The peer has no keys for probes before.
    probes_from: Option<Instant>,
}

impl Paths {
    /// No candidates yet; `seed` makes the nonces.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            candidates: Vec::new(),
            active: None,
            second: None,
            events: VecDeque::new(),
            nonce: seed,
            said_dead: false,
            quiet: false,
            probes_from: None,
        }
    }

    /// This node has dialled, and its handshake is done: the peer's is in a moment.
    pub fn hold_probes(&mut self, now: Instant) {
        self.probes_from = Some(now + PEER_DONE);
    }

    /// Notes whether anybody uses the session. When somebody does again, packets go over two paths
    /// until the one in use has shown that it works.
    pub fn set_quiet(&mut self, quiet: bool, now: Instant) {
        let was_quiet = std::mem::replace(&mut self.quiet, quiet);
        if was_quiet && !quiet {
            self.doubt(now);
            let soon = now + SILENT_INTERVAL;
            for candidate in &mut self.candidates {
                candidate.next_probe = candidate.next_probe.min(soon);
            }
        }
    }

    /// Adds a candidate, to be probed at once. Known ones and those beyond the bound are ignored.
    pub fn add(&mut self, path: Path, now: Instant) {
        self.add_candidate(path, false, now);
    }

    /// Adds a path that an authenticated packet has come over. It is forgotten when it dies, unless
    /// it was also [added](Self::add): to go on sending to where the peer's NAT had a mapping is
    /// what keeps the next attempt to open one from working.
    pub fn add_learned(&mut self, path: Path, now: Instant) {
        self.add_candidate(path, !path.is_relayed(), now);
    }

    fn add_candidate(&mut self, path: Path, learned: bool, now: Instant) {
        if let Some(known) = self.candidates.iter_mut().find(|c| c.path == path) {
            known.withdrawn = false;
            known.learned &= learned;
            return;
        }
        if self.candidates.len() == MAX_CANDIDATES && !self.evict() {
            return;
        }
        let first = self.probes_from.map_or(now, |from| from.max(now));
        self.candidates.push(Candidate::new(path, learned, first));
    }

    /// Whether a path is among the candidates.
    #[must_use]
    pub fn knows(&self, path: Path) -> bool {
        self.candidates.iter().any(|known| known.path == path)
    }

    /// Whether a path has ever answered, or the handshake has come over it.
    #[must_use]
    pub fn is_proven(&self, path: Path) -> bool {
        let candidate = self.candidate(Some(path));
        candidate.is_some_and(|candidate| candidate.proven)
    }

    /// Whether a direct path answers, in use or not.
    #[must_use]
    pub fn has_direct(&self) -> bool {
        self.candidates
            .iter()
            .any(|candidate| !candidate.path.is_relayed() && candidate.answers())
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
            .any(|candidate| candidate.path != path && candidate.answers());
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
        self.switch(path, Reason::Handshake, now);
    }

    /// Takes what the handshake says of a path's round-trip time: how long answers are waited for, until
    /// one has come.
    pub fn estimate(&mut self, path: Path, rtt: Duration) {
        if let Some(candidate) = self.candidates.iter_mut().find(|c| c.path == path) {
            candidate.smoothed.get_or_insert(rtt);
        }
    }

    /// Takes an authenticated reply that came over `path`.
    pub fn handle_reply(&mut self, path: Path, nonce: u64, now: Instant) {
        let active = self.active();
        let heard = self.candidate(active).and_then(|active| active.heard);
        let Some(candidate) = self.candidates.iter_mut().find(|c| c.path == path) else {
            return;
        };
        let is_first = !candidate.proven;
        if candidate.width.take_reply(nonce, now) {
            candidate.hear(now);
            self.end_doubt(path);
            self.choose(now, None);
            return;
        }
        let Some(sent) = candidate.take_reply(nonce, self.quiet, now) else {
            return;
        };
        candidate.hear(now);
        let carries = is_first && candidate.carried && !path.is_relayed();
        self.said_dead = false;
        self.end_doubt(path);
        // Nothing has come over the old path for the whole round trip, and the peer's packets do
        // come over this one.
        let was_direct = active.is_some_and(|active| active != path && !active.is_relayed());
        if carries && was_direct && heard.is_none_or(|at| at < sent) {
            self.switch(path, Reason::PeerMoved, now);
        } else {
            self.choose(now, None);
            self.hear_other(now);
        }
    }

    /// Counts lost probes and sends those that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let active = self.active();
        if self.is_silent(now) {
            self.doubt(now);
        }
        self.settle_doubt(now);
        let (mut active_died, mut active_narrowed) = (false, false);
        let quiet = self.quiet;
        for candidate in &mut self.candidates {
            let is_active = Some(candidate.path) == active;
            let was_dead = candidate.is_dead();
            candidate.count_lost(is_active, now);
            active_died |= is_active && candidate.is_dead() && !was_dead;
            active_narrowed |= candidate.count_padded(now) && is_active;
            let path = candidate.path;
            let mut probe = |padded| {
                self.nonce = next_nonce(self.nonce);
                let nonce = self.nonce;
                self.events.push_back(PathEvent::Probe {
                    path,
                    nonce,
                    padded,
                });
                nonce
            };
            if candidate.next_probe <= now {
                candidate.send(probe(false), is_active, quiet, now);
            }
            if candidate.width.is_due(now) {
                candidate.width.note_sent(probe(true), now);
            }
        }
        if active_died {
            self.choose(now, Some(Reason::FormerLost));
        } else if active_narrowed {
            self.choose(now, None);
        }
        let active = self.active();
        self.candidates.retain(|candidate| {
            !(candidate.learned && candidate.is_dead()) || Some(candidate.path) == active
        });
    }

    /// Probes every path at once: the network of this node may be another one. Packets go over a second
    /// path as well until the one in use has answered.
    pub fn probe_all(&mut self, now: Instant) {
        let (active, quiet) = (self.active(), self.quiet);
        if !quiet {
            self.doubt(now);
        }
        for candidate in &mut self.candidates {
            let carries = !quiet && Some(candidate.path) == active;
            candidate.network_changed(carries, now);
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let candidates = self.candidates.iter().map(Candidate::deadline);
        candidates.chain(self.doubt_deadline()).min()
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

    /// Whether the last probe of the path in use was not answered in time, or it has gone silent.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        let active = self.candidate(self.active());
        active.is_some_and(|candidate| candidate.lost_in_row > 0 || candidate.doubted.is_some())
    }

    /// Why the path in use is in use.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.active.map(|(_, reason)| reason)
    }

    /// The least round-trip time of the last [`RTT_WINDOW`] on the path in use.
    #[must_use]
    pub fn min_rtt(&self, now: Instant) -> Option<Duration> {
        self.candidate(self.active())?.min_rtt(now)
    }

    /// Thousandths of the last 32 probes of the path in use that were lost, if that was more than
    /// one: a single one may be an accident.
    #[must_use]
    pub fn probe_loss_permille(&self) -> Option<u16> {
        let losses = self.candidate(self.active())?.losses();
        let share = u16::try_from(losses * 1000 / u32::BITS).ok();
        share.filter(|_| losses > 1)
    }

    /// Every candidate and what is known of it.
    pub fn views(&self, now: Instant) -> impl Iterator<Item = PathView> + '_ {
        let active = self.active();
        self.candidates.iter().map(move |candidate| PathView {
            path: candidate.path,
            active: Some(candidate.path) == active,
            answers: candidate.answers(),
            narrow: candidate.width.is_narrow(),
            last_rtt: candidate.samples.back().map(|(_, rtt)| *rtt),
            min_rtt: candidate.min_rtt(now),
            sent: candidate.sent,
            lost: candidate.lost,
            lost_lately: candidate.losses(),
        })
    }

    fn candidate(&self, path: Option<Path>) -> Option<&Candidate> {
        let path = path?;
        self.candidates
            .iter()
            .find(|candidate| candidate.path == path)
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): nonces only have to differ, the tag authenticates them.
pub(super) const fn next_nonce(state: u64) -> u64 {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
