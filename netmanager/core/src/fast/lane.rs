//! Which keys of the fast lane are used with a peer, and when others are agreed on.
//!
//! Each agreement is a handshake of the shell's ([`FastLane::handle_dial`] until
//! [`FastLane::handle_keys`]) that gives keys for both directions. The dialling end is the first to
//! have them; the other one may therefore seal with them at once, and the dialling end does so when
//! a frame has come that was sealed with them ([`FastLane::open`]): then the peer can open its own.
//! Without keys, or with keys that are used up, packets go over QUIC as if there were no such lane.
//! It knows no handshakes, sockets or packets.

use std::time::{Duration, Instant};

use super::{FastOpener, FastSealer, MAX_AGE, MAX_OPENER_AGE};
use crate::seal::OpenError;

/// Keys to open with at once: the newest, that before it while frames are on their way, and one of
/// an agreement of the peer's that crossed ours.
pub const MAX_OPENERS: usize = 3;
/// How long a peer may take to show that it has the keys.
pub const PROOF_TIMEOUT: Duration = Duration::from_secs(10);
/// How long after an agreement that failed none is tried: the peer may not have the lane at all.
pub const RETRY_PAUSE: Duration = Duration::from_secs(60);

/// What one handshake gives.
#[derive(Debug)]
pub struct FastKeys {
    /// Seals what goes to the peer.
    pub sealer: FastSealer,
    /// Opens what comes from it.
    pub opener: FastOpener,
}

/// The fast lane with one peer.
#[derive(Debug, Default)]
pub struct FastLane {
    sealer: Option<FastSealer>,
    unproven: Option<Unproven>,
    /// The newest last.
    openers: Vec<FastOpener>,
    is_dialling: bool,
    not_before: Option<Instant>,
    /// Frames that former sealers have sealed.
    sealed: u64,
    opened: u64,
    agreements: u64,
}

/// Not used until a frame comes that its partner opens.
#[derive(Debug)]
struct Unproven {
    opener: u64,
    sealer: FastSealer,
    until: Instant,
}

/// What the lane has done, for reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FastCounters {
    /// Whether packets are sent this way now.
    pub is_up: bool,
    /// Frames sent.
    pub sealed: u64,
    /// Frames received.
    pub opened: u64,
    /// Handshakes that gave keys.
    pub agreements: u64,
}

impl FastLane {
    /// Whether keys should be agreed on before the next packet is sent.
    #[must_use]
    pub fn wants_keys(&self, now: Instant) -> bool {
        let lacks = self.sealer.as_ref().is_none_or(|it| it.is_stale(now));
        lacks
            && !self.is_dialling
            && self.unproven.is_none()
            && self.not_before.is_none_or(|at| at <= now)
    }

    /// Notes that a handshake has begun.
    pub const fn handle_dial(&mut self) {
        self.is_dialling = true;
    }

    /// Notes that a handshake of this end's is over; if it gave no keys, it has failed.
    pub fn handle_end_of_dial(&mut self, now: Instant) {
        if std::mem::take(&mut self.is_dialling) {
            self.not_before = Some(now + RETRY_PAUSE);
        }
    }

    /// Takes the keys of a handshake that this end has dialled, or the peer. Returns the id of a key
    /// that opens nothing any more, if there are too many.
    pub fn handle_keys(&mut self, keys: FastKeys, dialled: bool, now: Instant) -> Option<u64> {
        self.agreements += 1;
        if dialled {
            self.is_dialling = false;
            self.unproven = Some(Unproven {
                opener: keys.opener.id(),
                sealer: keys.sealer,
                until: now + PROOF_TIMEOUT,
            });
        } else {
            self.seal_with(keys.sealer);
        }
        let surplus = self.openers.len() >= MAX_OPENERS;
        let oldest = surplus.then(|| self.openers.remove(0).id());
        self.openers.push(keys.opener);
        oldest
    }

    /// What the next packet is sealed with; none if it must go over QUIC.
    pub fn sealer(&mut self, now: Instant) -> Option<&mut FastSealer> {
        self.sealer.as_mut().filter(|sealer| !sealer.is_spent(now))
    }

    /// Opens a frame that names the key `id`, in place.
    ///
    /// # Errors
    /// Says what is wrong with the frame.
    pub fn open<'a>(&mut self, id: u64, frame: &'a mut [u8]) -> Result<&'a mut [u8], OpenError> {
        let mut newest_first = self.openers.iter_mut().rev();
        let opener = newest_first.find(|opener| opener.id() == id);
        let inner = opener.ok_or(OpenError::Tag)?.open(frame)?;
        self.opened += 1;
        if let Some(proven) = self.unproven.take_if(|unproven| unproven.opener == id) {
            self.seal_with(proven.sealer);
        }
        Ok(inner)
    }

    /// The peer may have lost its keys: its session is another one, or gone. Returns the ids of the
    /// keys that were.
    pub fn reset(&mut self) -> Vec<u64> {
        self.sealed += self.sealer.take().map_or(0, |former| former.frames());
        self.unproven = None;
        self.is_dialling = false;
        self.not_before = None;
        let openers = std::mem::take(&mut self.openers);
        openers.iter().map(FastOpener::id).collect()
    }

    /// Forgets keys that are too old. Returns the ids of those that opened frames.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<u64> {
        let spent = self.sealer.take_if(|it| it.key.since + MAX_AGE <= now);
        self.sealed += spent.map_or(0, |spent| spent.frames());
        if self.unproven.take_if(|it| it.until <= now).is_some() {
            self.not_before = Some(now + RETRY_PAUSE);
        }
        let is_old = |opener: &mut FastOpener| opener.key.since + MAX_OPENER_AGE <= now;
        let gone = self.openers.extract_if(.., is_old);
        gone.map(|opener| opener.id()).collect()
    }

    /// When [`Self::handle_timeout`] is to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let openers = self.openers.iter().map(|it| it.key.since + MAX_OPENER_AGE);
        let sealer = self.sealer.as_ref().map(|it| it.key.since + MAX_AGE);
        let proof = self.unproven.as_ref().map(|it| it.until);
        openers.chain(sealer).chain(proof).min()
    }

    /// What it has done.
    #[must_use]
    pub fn counters(&self, now: Instant) -> FastCounters {
        let sealer = self.sealer.as_ref();
        FastCounters {
            is_up: sealer.is_some_and(|sealer| !sealer.is_spent(now)),
            sealed: self.sealed + sealer.map_or(0, FastSealer::frames),
            opened: self.opened,
            agreements: self.agreements,
        }
    }

    fn seal_with(&mut self, sealer: FastSealer) {
        let former = self.sealer.replace(sealer);
        self.sealed += former.map_or(0, |former| former.frames());
    }
}
