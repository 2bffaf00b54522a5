//! The life of the session with one peer: when to dial, which of two sessions to keep, when to
//! give up. Which way its packets take is [`paths`]; what relays say is [`relay_link`].
//!
//! Pure: the shell dials, owns the QUIC connection and tells this machine what became of it.
//!
//! ```text
//!          want            session up
//! Idle ----------> Connecting ---------> Up
//!   ^                  | timeout          | lost
//!   |  backoff over    v                  v
//!   +--------------- Backoff <--- (wanted: Connecting at once)
//! ```

use std::time::{Duration, Instant};

pub mod budget;
pub mod candidates;
pub mod carrier;
pub mod loss;
pub mod paths;
pub mod punch;
pub mod relay_choice;
pub mod relay_link;

/// How long a handshake may take before the attempt is given up: a cold relay link, two round
/// trips over an intercontinental path and one retransmission fit in it.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// First pause after a failed attempt; doubled with every further one.
pub const BACKOFF_MIN: Duration = Duration::from_millis(500);
/// Longest pause between attempts, so that a peer that returns is found within it.
pub const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Two sessions that both ends have dialled at the same time come up within this time of each
/// other; then the node ids decide which one stays.
pub const TIE_WINDOW: Duration = Duration::from_secs(2);
/// A session that is lost earlier than this after it came up counts as a failed attempt: in TLS 1.3
/// the dialling end is done before the other one has judged its certificate.
pub const STABLE_AFTER: Duration = Duration::from_secs(1);
/// A session without traffic and without interest is closed after this time, unless the operator
/// says otherwise.
pub const IDLE_TEARDOWN: Duration = Duration::from_secs(300);
/// A session without traffic is quiet after this part of that time: its paths are probed seldom.
const QUIET_PART: u32 = 10;
/// A peer that closes an idle session is dialled again at once only if it was wanted within this
/// time: what was to be sent has met the end of the session.
const WANTED_LATELY: Duration = Duration::from_secs(1);

/// The session with one peer, seen from this node.
#[derive(Debug)]
pub struct Peer {
    we_win_ties: bool,
    teardown: Duration,
    state: State,
    failures: u32,
    last_wanted: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Connecting { until: Instant },
    Up { since: Instant, dialled: bool },
    Backoff { until: Instant },
}

/// What the shell has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start a handshake with the peer on every path there is.
    Dial,
    /// Give up the handshake that is under way.
    GiveUp,
    /// Close the session: nobody has used it for long.
    CloseIdle,
}

/// Which of two sessions with the same peer stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The one that has just come up; close the other, if there is one.
    New,
    /// The one that was there; close the new one.
    Old,
}

/// How a session was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The peer has said that its daemon stops; it may be back any moment.
    Farewell,
    /// The peer has closed it because nobody used it.
    Idle,
    /// In any other way.
    Unforeseen,
}

/// Whether packets for the peer can be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Nobody has tried yet.
    Unknown,
    /// A handshake is under way; packets wait.
    Connecting,
    /// There is a session.
    Up,
    /// The last attempt failed and the next one is not due.
    Down,
}

impl Peer {
    /// A peer nobody has talked to; `we_win_ties` is whether this node's id is the lower one.
    #[must_use]
    pub const fn new(we_win_ties: bool) -> Self {
        Self {
            we_win_ties,
            teardown: IDLE_TEARDOWN,
            state: State::Idle,
            failures: 0,
            last_wanted: None,
        }
    }

    /// Closes sessions that nobody has used for `teardown`.
    #[must_use]
    pub const fn torn_down_after(mut self, teardown: Duration) -> Self {
        self.teardown = teardown;
        self
    }

    /// Whether nobody has used the session for a while.
    #[must_use]
    pub fn is_quiet(&self, now: Instant) -> bool {
        let quiet = self.teardown / QUIET_PART;
        self.last_wanted.is_none_or(|at| at + quiet <= now)
    }

    /// Notes that somebody has packets for the peer, or wants its distance measured.
    pub fn want(&mut self, now: Instant) -> Option<Action> {
        self.last_wanted = Some(now);
        match self.state {
            State::Idle => Some(self.dial(now)),
            State::Connecting { .. } | State::Up { .. } | State::Backoff { .. } => None,
        }
    }

    /// Notes that a session is up, dialled by this node or by the peer, and says which to keep.
    ///
    /// `born` is when its handshake began here. Two sessions are a tie only if the second one was
    /// under way when the first came up; a peer that dials later has lost the first one, by a
    /// restart for instance, and what it dials supersedes it at once.
    pub fn handle_session_up(&mut self, dialled: bool, born: Instant, now: Instant) -> Keep {
        if let State::Up {
            since,
            dialled: old_dialled,
        } = self.state
        {
            let together = born <= since && now.duration_since(since) < TIE_WINDOW;
            let tie = dialled != old_dialled && together;
            // The session that the winner dialled stays: `dialled` says that we dialled the new one.
            if tie && dialled != self.we_win_ties {
                return Keep::Old;
            }
        }
        self.last_wanted = Some(now);
        self.state = State::Up {
            since: now,
            dialled,
        };
        Keep::New
    }

    /// Notes that the peer has sent something: its session is in use.
    pub const fn note_traffic(&mut self, now: Instant) {
        self.last_wanted = Some(now);
    }

    /// Notes that somebody else than the peer answered the handshake under way. It goes on
    /// elsewhere, within the time that the attempt has.
    #[must_use]
    pub const fn retry_elsewhere(&self) -> Option<Action> {
        match self.state {
            State::Connecting { .. } => Some(Action::Dial),
            State::Idle | State::Up { .. } | State::Backoff { .. } => None,
        }
    }

    /// Whether the session that this node dials stays when both dial at once.
    #[must_use]
    pub const fn wins_ties(&self) -> bool {
        self.we_win_ties
    }

    /// Notes that the session is gone, or that its handshake failed.
    pub fn handle_session_lost(&mut self, loss: Loss, now: Instant) -> Option<Action> {
        let young = |since| now.saturating_duration_since(since) < STABLE_AFTER;
        match self.state {
            State::Up { since, .. } if loss == Loss::Unforeseen && young(since) => {
                self.back_off(now);
                None
            }
            State::Up { .. } => {
                self.failures = 0;
                // Both ends have heard the last packet at about the same time, and the first one to
                // close must not wake the other one.
                let counts = match loss {
                    Loss::Idle => WANTED_LATELY.min(self.teardown),
                    Loss::Farewell | Loss::Unforeseen => self.teardown,
                };
                let wanted = self.last_wanted.is_some_and(|at| now < at + counts);
                if wanted {
                    return Some(self.dial(now));
                }
                self.state = State::Idle;
                None
            }
            State::Connecting { .. } => {
                self.back_off(now);
                None
            }
            State::Idle | State::Backoff { .. } => None,
        }
    }

    /// Notes that this node's networks may be others: that the last attempt failed says nothing any
    /// more, and who was wanted of late is dialled at once.
    pub fn network_changed(&mut self, now: Instant) -> Option<Action> {
        let wanted = |at: Instant| now < at + self.teardown;
        let is_wanted = self.last_wanted.is_some_and(wanted);
        let waits = matches!(self.state, State::Backoff { .. });
        (waits && is_wanted).then(|| self.dial(now))
    }

    /// Does what has become due.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Action> {
        match self.state {
            State::Connecting { until } if until <= now => {
                self.back_off(now);
                Some(Action::GiveUp)
            }
            State::Backoff { until } if until <= now => {
                self.state = State::Idle;
                None
            }
            State::Up { .. } if self.idle_deadline().is_some_and(|at| at <= now) => {
                self.state = State::Idle;
                self.failures = 0;
                Some(Action::CloseIdle)
            }
            State::Idle | State::Connecting { .. } | State::Up { .. } | State::Backoff { .. } => {
                None
            }
        }
    }

    /// When [`Self::handle_timeout`] has something to do, and what.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        match self.state {
            State::Idle => None,
            State::Connecting { until } => Some((until, "peer handshake timeout")),
            State::Backoff { until } => Some((until, "peer backoff over")),
            State::Up { .. } => self.idle_deadline().map(|at| (at, "peer idle")),
        }
    }

    /// Whether packets for the peer can be delivered.
    #[must_use]
    pub const fn reach(&self) -> Reach {
        match self.state {
            // A peer whose last attempt failed stays down until a new attempt succeeds.
            State::Idle if self.failures > 0 => Reach::Down,
            State::Idle => Reach::Unknown,
            State::Connecting { .. } if self.failures > 0 => Reach::Down,
            State::Connecting { .. } => Reach::Connecting,
            State::Up { .. } => Reach::Up,
            State::Backoff { .. } => Reach::Down,
        }
    }

    /// Attempts that have failed since the last session.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    fn dial(&mut self, now: Instant) -> Action {
        self.state = State::Connecting {
            until: now + CONNECT_TIMEOUT,
        };
        Action::Dial
    }

    fn back_off(&mut self, now: Instant) {
        let pause = BACKOFF_MIN
            .saturating_mul(1 << self.failures.min(5))
            .min(BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        self.state = State::Backoff { until: now + pause };
    }

    fn idle_deadline(&self) -> Option<Instant> {
        self.last_wanted.map(|at| at + self.teardown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "a test needs some first instant")]
        Instant::now()
    }

    #[test]
    fn wanting_dials_once() {
        let now = start();
        let mut peer = Peer::new(true);
        assert_eq!(peer.reach(), Reach::Unknown);
        assert_eq!(peer.want(now), Some(Action::Dial));
        assert_eq!(peer.want(now), None);
        assert_eq!(peer.reach(), Reach::Connecting);
        assert_eq!(peer.handle_session_up(true, now, now), Keep::New);
        assert_eq!(peer.reach(), Reach::Up);
    }

    #[test]
    fn a_failed_attempt_backs_off_exactly_and_doubles() {
        let mut now = start();
        let mut peer = Peer::new(true);
        for (attempt, pause) in [500, 1000, 2000, 4000, 8000, 10_000, 10_000]
            .iter()
            .enumerate()
        {
            assert_eq!(peer.want(now), Some(Action::Dial), "attempt {attempt}");
            assert_eq!(
                peer.poll_timeout(),
                Some((now + CONNECT_TIMEOUT, "peer handshake timeout"))
            );
            now += CONNECT_TIMEOUT;
            assert_eq!(peer.handle_timeout(now), Some(Action::GiveUp));
            assert_eq!(peer.reach(), Reach::Down);
            assert_eq!(peer.want(now), None);
            let until = now + Duration::from_millis(*pause);
            assert_eq!(peer.poll_timeout(), Some((until, "peer backoff over")));
            now = until;
            assert_eq!(peer.handle_timeout(now), None);
            assert_eq!(peer.reach(), Reach::Down);
        }
    }

    #[test]
    fn another_network_ends_a_pause_for_those_who_are_wanted() {
        let now = start();
        let mut peer = Peer::new(true);
        assert_eq!(peer.network_changed(now), None, "nobody wants it");
        peer.want(now);
        assert_eq!(peer.network_changed(now), None, "a dial is under way");
        let failed = now + CONNECT_TIMEOUT;
        assert_eq!(peer.handle_timeout(failed), Some(Action::GiveUp));
        assert_eq!(peer.network_changed(failed), Some(Action::Dial));
        assert_eq!(
            peer.poll_timeout(),
            Some((failed + CONNECT_TIMEOUT, "peer handshake timeout"))
        );
        // That attempts have failed is not forgotten: nothing may come of this one either.
        let failed = failed + CONNECT_TIMEOUT;
        assert_eq!(peer.handle_timeout(failed), Some(Action::GiveUp));
        let pause = (failed + BACKOFF_MIN * 2, "peer backoff over");
        assert_eq!(peer.poll_timeout(), Some(pause));
        let late = now + IDLE_TEARDOWN;
        assert_eq!(peer.network_changed(late), None, "nobody wants it any more");
    }

    #[test]
    fn both_ends_keep_the_same_one_of_two_simultaneous_sessions() {
        let now = start();
        for first_is_ours in [true, false] {
            let mut winner = Peer::new(true);
            let mut loser = Peer::new(false);
            winner.handle_session_up(first_is_ours, now, now);
            loser.handle_session_up(!first_is_ours, now, now);
            let later = now + Duration::from_millis(100);
            let at_winner = winner.handle_session_up(!first_is_ours, now, later);
            let at_loser = loser.handle_session_up(first_is_ours, now, later);
            // The session that the winner dialled stays at both ends.
            let expected = if first_is_ours { Keep::Old } else { Keep::New };
            assert_eq!((at_winner, at_loser), (expected, expected));
        }
    }

    #[test]
    fn a_session_that_is_refused_at_once_backs_off_like_a_failed_attempt() {
        let mut now = start();
        let mut peer = Peer::new(true);
        for pause in [500, 1000, 2000] {
            assert_eq!(peer.want(now), Some(Action::Dial));
            assert_eq!(peer.handle_session_up(true, now, now), Keep::New);
            assert_eq!(
                peer.handle_session_lost(Loss::Unforeseen, now + STABLE_AFTER / 2),
                None
            );
            assert_eq!(peer.reach(), Reach::Down);
            let until = now + STABLE_AFTER / 2 + Duration::from_millis(pause);
            assert_eq!(peer.poll_timeout(), Some((until, "peer backoff over")));
            now = until;
            assert_eq!(peer.handle_timeout(now), None);
        }
    }

    #[test]
    fn a_peer_that_says_farewell_is_dialled_again_at_once() {
        let now = start();
        let mut peer = Peer::new(true);
        peer.want(now);
        peer.handle_session_up(true, now, now);
        assert_eq!(
            peer.handle_session_lost(Loss::Farewell, now),
            Some(Action::Dial)
        );
        assert_eq!(peer.reach(), Reach::Connecting);
    }

    #[test]
    fn a_session_in_use_by_the_peer_alone_is_not_idle() {
        let now = start();
        let mut peer = Peer::new(true);
        peer.want(now);
        peer.handle_session_up(true, now, now);
        peer.note_traffic(now + IDLE_TEARDOWN / 2);
        assert_eq!(peer.handle_timeout(now + IDLE_TEARDOWN), None);
        let idle = now + IDLE_TEARDOWN / 2 + IDLE_TEARDOWN;
        assert_eq!(peer.handle_timeout(idle), Some(Action::CloseIdle));
        // What comes back later starts anew.
        let back = idle + Duration::from_secs(100);
        assert_eq!(peer.handle_session_up(false, now, back), Keep::New);
        assert_eq!(peer.handle_timeout(back), None);
    }

    #[test]
    fn who_hears_that_a_session_was_idle_does_not_dial_again() {
        let now = start();
        let mut peer = Peer::new(true).torn_down_after(Duration::from_secs(60));
        peer.handle_session_up(true, now, now);
        assert!(!peer.is_quiet(now + Duration::from_secs(5)));
        let idle = now + Duration::from_secs(60);
        let nearly = idle - Duration::from_millis(50);
        assert!(peer.is_quiet(nearly));
        assert_eq!(peer.handle_session_lost(Loss::Idle, nearly), None);
        assert_eq!(peer.reach(), Reach::Unknown);
        // A packet that was on its way to the session that was being closed is delivered.
        assert_eq!(peer.want(idle), Some(Action::Dial));
        peer.handle_session_up(true, idle, idle);
        let later = idle + Duration::from_secs(59);
        assert_eq!(peer.want(later), None);
        assert!(!peer.is_quiet(later));
        let closed = later + Duration::from_millis(20);
        let action = peer.handle_session_lost(Loss::Idle, closed);
        assert_eq!(action, Some(Action::Dial));
    }

    #[test]
    fn a_later_session_supersedes_the_old_one() {
        let now = start();
        let mut peer = Peer::new(true);
        peer.handle_session_up(true, now, now);
        assert_eq!(
            peer.handle_session_up(false, now, now + TIE_WINDOW),
            Keep::New
        );
    }

    #[test]
    fn a_peer_that_dials_again_supersedes_even_a_young_session() {
        let now = start();
        let mut winner = Peer::new(true);
        winner.handle_session_up(true, now, now);
        let dialled_at = now + Duration::from_millis(100);
        let up = dialled_at + Duration::from_millis(20);
        assert_eq!(winner.handle_session_up(false, dialled_at, up), Keep::New);
    }

    #[test]
    fn a_lost_session_is_dialled_again_only_while_wanted() {
        let now = start();
        let mut peer = Peer::new(true);
        peer.want(now);
        peer.handle_session_up(true, now, now);
        assert_eq!(
            peer.handle_session_lost(Loss::Unforeseen, now + Duration::from_secs(1)),
            Some(Action::Dial)
        );
        peer.handle_session_up(true, now, now);
        assert_eq!(
            peer.handle_timeout(now + IDLE_TEARDOWN),
            Some(Action::CloseIdle)
        );
        assert_eq!(
            peer.handle_session_lost(Loss::Unforeseen, now + IDLE_TEARDOWN),
            None
        );
        assert_eq!(peer.reach(), Reach::Unknown);
    }
}
