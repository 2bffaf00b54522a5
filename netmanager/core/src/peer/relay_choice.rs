//! Which relays of the table a node keeps a session with, and which one it measures next.
//!
//! A pair can be relayed only where both are registered, and being reachable must not cost a session
//! with every relay there is. So the first rows of the table are common ground, kept by every node; what
//! room is left belongs to the nearest of the others. Those that are not kept are measured in turns: one
//! handshake, no registration, so that nobody is led there meanwhile. The whole thought is
//! docs/decisions/0022.
//!
//! Pure: the shell dials, and tells this machine round-trip times and losses. How a peer is reached over
//! the relays that are kept is [`super::paths`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use weald_proto::id::RelayId;

/// Relays that a node keeps a session with.
pub const MAX_KEPT: usize = 4;
/// Of those, the first rows of the table: where any two nodes meet.
pub const COMMON: usize = 2;
/// Between two measurements while some relay has not been measured on the present network.
pub const QUICK_TURN: Duration = Duration::from_secs(5);
/// Between two measurements otherwise: relays seldom move.
pub const SLOW_TURN: Duration = Duration::from_secs(600);
/// How long a measurement may take: a handshake over UDP, then one over TCP.
pub const MEASURE_TIME: Duration = Duration::from_secs(6);
/// A near relay that is silent for so long gives way to any that answers. One that restarts is back
/// before.
pub const LOST_AFTER: Duration = Duration::from_secs(10);
/// How long a relay that gives way is kept: until peers have paths over the one in its place.
pub const LEAVE_AFTER: Duration = Duration::from_secs(10);
/// Another one has to be that much shorter, in percent of the one that gives way.
const SHORTER_PERCENT: u32 = 80;
/// And by at least so much: less is chance.
const MIN_GAIN: Duration = Duration::from_millis(2);

/// A relay that is kept because it is near.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Near {
    id: RelayId,
    heard: Heard,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Answers(Duration),
    SilentSince(Instant),
}

/// The choice. With no more than [`MAX_KEPT`] rows all are kept, and nothing is measured.
#[derive(Debug, Default)]
pub struct RelayChoice {
    rows: Vec<RelayId>,
    near: Vec<Near>,
    /// All the others; the front is measured next.
    waiting: VecDeque<RelayId>,
    /// Of those, how many are measured at the quick pace.
    hurried: usize,
    measured: Option<(RelayId, Instant)>,
    leaving: Option<(RelayId, Instant)>,
    /// When the last measurement began.
    last_turn: Option<Instant>,
    changed: bool,
}

impl RelayChoice {
    /// Takes the rows of the table, in its order.
    pub fn set_rows(&mut self, rows: &[RelayId], now: Instant) {
        if self.rows == rows {
            return;
        }
        self.changed = true;
        self.last_turn.get_or_insert(now);
        rows.clone_into(&mut self.rows);
        let common = rows.iter().take(COMMON);
        let is_other = |id: &RelayId| rows.contains(id) && !common.clone().any(|it| it == id);
        self.near.retain(|one| is_other(&one.id));
        self.waiting.retain(is_other);
        self.measured.take_if(|(id, _)| !is_other(id));
        self.leaving.take_if(|(id, _)| !is_other(id));
        for id in rows.iter().skip(COMMON) {
            let is_known = self.near.iter().any(|one| one.id == *id) || self.waiting.contains(id);
            let is_measured = self.measured.as_ref().is_some_and(|(one, _)| one == id);
            if !is_known && !is_measured {
                self.waiting.push_back(id.clone());
                self.hurried += 1;
            }
        }
        while self.near.len() < MAX_KEPT - COMMON
            && let Some(id) = self.waiting.pop_front()
        {
            self.leaving.take_if(|(leaving, _)| *leaving == id);
            let heard = Heard::SilentSince(now);
            self.near.push(Near { id, heard });
        }
        self.hurried = self.hurried.min(self.waiting.len());
    }

    /// Whether a relay is to have a session: it is kept, measured or about to leave.
    #[must_use]
    pub fn wants(&self, id: &RelayId) -> bool {
        self.is_kept(id) || self.measured.as_ref().is_some_and(|(one, _)| one == id)
    }

    /// Whether this node is to be registered at a relay.
    #[must_use]
    pub fn is_kept(&self, id: &RelayId) -> bool {
        self.rows.iter().take(COMMON).any(|one| one == id)
            || self.near.iter().any(|one| one.id == *id)
            || self.leaving.as_ref().is_some_and(|(one, _)| one == id)
    }

    /// Whether what [`Self::wants`] says has changed since this was asked last.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Notes how far a relay is that answers. If it is the one that is measured, that ends it.
    pub fn handle_rtt(&mut self, id: &RelayId, rtt: Duration, now: Instant) {
        if let Some(near) = self.near.iter_mut().find(|one| one.id == *id) {
            near.heard = Heard::Answers(rtt);
        } else if self.measured.take_if(|(one, _)| one == id).is_some() {
            self.changed = true;
            match self.who_gives_way(rtt, now) {
                Some(place) => self.replace(place, id.clone(), rtt, now),
                None => self.waiting.push_back(id.clone()),
            }
        }
    }

    /// Notes that a relay does not answer, or not any more.
    pub fn handle_silent(&mut self, id: &RelayId, now: Instant) {
        if let Some(near) = self.near.iter_mut().find(|one| one.id == *id) {
            if matches!(near.heard, Heard::Answers(_)) {
                near.heard = Heard::SilentSince(now);
            }
        } else if self.measured.take_if(|(one, _)| one == id).is_some() {
            self.changed = true;
            self.waiting.push_back(id.clone());
        }
    }

    /// The host's networks have changed, and with them how far everything is.
    pub fn network_changed(&mut self) {
        self.hurried = self.waiting.len();
    }

    /// Ends what has lasted long enough, and begins the next measurement when it is time.
    pub fn handle_timeout(&mut self, now: Instant) {
        let left = self.leaving.take_if(|(_, until)| *until <= now);
        self.changed |= left.is_some();
        if let Some((id, _)) = self.measured.take_if(|(_, until)| *until <= now) {
            self.waiting.push_back(id);
            self.changed = true;
        }
        if self.turn_at().is_some_and(|at| at <= now)
            && let Some(id) = self.waiting.pop_front()
        {
            self.hurried = self.hurried.saturating_sub(1);
            self.last_turn = Some(now);
            self.measured = Some((id, now + MEASURE_TIME));
            self.changed = true;
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let measured = self.measured.as_ref().map(|(_, until)| *until);
        let leaving = self.leaving.as_ref().map(|(_, until)| *until);
        [measured, leaving, self.turn_at()]
            .into_iter()
            .flatten()
            .min()
    }

    fn turn_at(&self) -> Option<Instant> {
        if self.waiting.is_empty() || self.measured.is_some() || self.leaving.is_some() {
            return None;
        }
        let last = self.last_turn?;
        if self.hurried > 0 {
            return Some(last + QUICK_TURN);
        }
        let lost = self.near.iter().filter_map(|one| match one.heard {
            Heard::Answers(_) => None,
            Heard::SilentSince(since) => Some(since + LOST_AFTER),
        });
        let lost = lost.min().map(|at| at.max(last + QUICK_TURN));
        Some(lost.map_or(last + SLOW_TURN, |at| at.min(last + SLOW_TURN)))
    }

    /// The place of the near relay that one with this round-trip time takes, if any.
    fn who_gives_way(&self, rtt: Duration, now: Instant) -> Option<usize> {
        let mut farthest: Option<(usize, Duration)> = None;
        for (place, near) in self.near.iter().enumerate() {
            let length = match near.heard {
                Heard::Answers(length) => length,
                Heard::SilentSince(since) if since + LOST_AFTER <= now => Duration::MAX,
                // It may answer any moment.
                Heard::SilentSince(_) => continue,
            };
            if farthest.is_none_or(|(_, most)| length > most) {
                farthest = Some((place, length));
            }
        }
        let (place, length) = farthest?;
        let is_shorter = rtt.saturating_mul(100) < length.saturating_mul(SHORTER_PERCENT)
            && rtt.saturating_add(MIN_GAIN) <= length;
        (length == Duration::MAX || is_shorter).then_some(place)
    }

    fn replace(&mut self, place: usize, id: RelayId, rtt: Duration, now: Instant) {
        let heard = Heard::Answers(rtt);
        let Some(near) = self.near.get_mut(place) else {
            return;
        };
        let former = std::mem::replace(near, Near { id, heard });
        self.waiting.push_back(former.id.clone());
        match former.heard {
            Heard::Answers(_) => self.leaving = Some((former.id, now + LEAVE_AFTER)),
            // It may come back, and be nearer than what is kept for want of it.
            Heard::SilentSince(_) => self.hurried = self.waiting.len(),
        }
    }
}

#[cfg(test)]
mod tests;
