//! Which path is used, and why: the shortest of those that carry full packets, where loss makes a path longer,
//! and with hysteresis.

use std::time::{Duration, Instant};

use super::candidate::{Candidate, LOSSES_FORGIVEN};
use super::doubt::BOTH_MAX;
use super::{Path, PathEvent, Paths};

/// How long packets go over both paths of a change, in round trips, and at least.
const BOTH_ROUND_TRIPS: u32 = 2;
/// See [`BOTH_ROUND_TRIPS`]: on a LAN, the peer's own change of path takes longer than round trips.
const BOTH_MIN: Duration = Duration::from_millis(40);

/// Why a path is in use, from a fixed catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The handshake came over it.
    Handshake,
    /// It answers and is markedly shorter than the one before.
    Shorter,
    /// It answers, and the one before loses too many packets.
    LessLoss,
    /// It answers, is direct, and about as long as the relayed one before.
    DirectPreferred,
    /// The one before does not answer any more.
    FormerLost,
    /// The one before answers small probes, and swallows full packets.
    FormerNarrow,
    /// The one before was withdrawn.
    FormerWithdrawn,
    /// The peer's packets come from this address now, and no more from the one before: its NAT has
    /// forgotten the old one, or it has another network.
    PeerMoved,
}

impl Reason {
    /// The stable word that stands in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Shorter => "shorter",
            Self::LessLoss => "less_loss",
            Self::DirectPreferred => "direct_preferred",
            Self::FormerLost => "former_lost",
            Self::FormerNarrow => "former_narrow",
            Self::FormerWithdrawn => "former_withdrawn",
            Self::PeerMoved => "peer_moved",
        }
    }
}

impl Paths {
    /// Chooses again; `forced` says why the path in use cannot stay.
    pub(super) fn choose(&mut self, now: Instant, forced: Option<Reason>) {
        let active = self.active().filter(|_| forced.is_none());
        let active = self.candidate(active);
        let usable = self
            .candidates
            .iter()
            .filter(|c| c.answers() && !c.withdrawn);
        let in_use = self.active();
        let length = |one: &Candidate| {
            let forgiven = if Some(one.path) == in_use {
                LOSSES_FORGIVEN
            } else {
                0
            };
            one.length(forgiven, now)
        };
        let rank = |one: &Candidate| one.rank(Some(one.path) == in_use);
        let best = usable.min_by_key(|one| (rank(one), length(one), one.path));
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
            // It waits until a padded probe is answered.
            Some(_) if !best.width.is_wide() => None,
            Some(active) if active.width.is_narrow() => Some(Reason::FormerNarrow),
            Some(active) => best.beats(active, now),
        };
        let to = best.path;
        if let Some(reason) = reason {
            self.switch(to, reason, now);
        }
    }

    pub(super) fn switch(&mut self, to: Path, reason: Reason, now: Instant) {
        let from = self.active();
        let rtt = self.candidate(Some(to)).and_then(|one| one.min_rtt(now));
        let both = rtt.map_or(BOTH_MIN, |rtt| rtt * BOTH_ROUND_TRIPS);
        let until = now + both.clamp(BOTH_MIN, BOTH_MAX);
        // Over one that is gone nothing arrives.
        let moved = reason == Reason::PeerMoved;
        let lives = self
            .candidate(from)
            .filter(|from| !from.is_dead() && !moved);
        self.second = lives.map(|from| (from.path, until));
        let busy_since = self.candidate(from).and_then(|from| from.busy_since);
        let taking = self.candidates.iter_mut().find(|one| one.path == to);
        if let (Some(busy_since), Some(taking)) = (busy_since, taking) {
            taking.expect_packets(busy_since, now);
        }
        self.candidates
            .retain(|candidate| !candidate.withdrawn || candidate.path == to);
        self.active = Some((to, reason));
        if from != Some(to) {
            self.events
                .push_back(PathEvent::Switched { from, to, reason });
        }
    }
}
