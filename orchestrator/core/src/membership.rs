//! Who is alive, by heartbeats: suspect after 2 s of silence, dead after 4.5 s, out of the tables after
//! 5.5 s. Half a second less than is promised is left for telling it: to root, and to every table.
//!
//! Kept by a cluster of its workers and by root of its clusters. It only tells; moving instances
//! away and rows out is their machines'. It runs on time since the start, never on the wall clock.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::Now;

pub use weald_proto::control::Standing;

/// Silence after which a member is suspect: nothing new is placed there.
pub const SUSPECT: Duration = Duration::from_secs(2);
/// Silence after which a member is dead: what it had is placed elsewhere.
pub const DEAD: Duration = Duration::from_millis(4500);
/// Silence after which a member's rows are out of the tables.
pub const GONE: Duration = Duration::from_millis(5500);
/// If we ourselves are later than this at a timer, the time that we missed is held against nobody:
/// a paused machine has heard nothing, which says nothing about the others.
pub const OURSELVES: Duration = Duration::from_secs(1);

/// The next standing of a silent member, when it comes, and the timer's name.
const fn worse(standing: Standing) -> Option<(Standing, Duration, &'static str)> {
    match standing {
        Standing::Alive => Some((Standing::Suspect, SUSPECT, "member suspect")),
        Standing::Suspect => Some((Standing::Dead, DEAD, "member dead")),
        Standing::Dead => Some((Standing::Gone, GONE, "member out of tables")),
        Standing::Gone => None,
    }
}

/// A member stands differently than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change<M> {
    /// Who.
    pub member: M,
    /// How it stood; none if it was not known.
    pub from: Option<Standing>,
    /// How it stands.
    pub to: Standing,
}

#[derive(Debug, Clone, Copy)]
struct State {
    heard: Duration,
    standing: Standing,
}

/// The members and how each stands.
#[derive(Debug, Clone)]
pub struct Membership<M> {
    members: BTreeMap<M, State>,
}

impl<M> Default for Membership<M> {
    fn default() -> Self {
        Self {
            members: BTreeMap::new(),
        }
    }
}

impl<M: Ord + Clone> Membership<M> {
    /// Nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A heartbeat, or any other sign of life: the member is alive at once, whatever it was.
    pub fn heard(&mut self, member: M, now: Now) -> Option<Change<M>> {
        let known = self.members.get(&member).copied();
        let heard = known.map_or(now.elapsed, |it| it.heard.max(now.elapsed));
        let from = known.map(|it| it.standing);
        let to = Standing::Alive;
        let state = State {
            heard,
            standing: to,
        };
        self.members.insert(member.clone(), state);
        (from != Some(to)).then_some(Change { member, from, to })
    }

    /// Forgets a member that was removed on purpose; says whether it was known.
    pub fn forget(&mut self, member: &M) -> bool {
        self.members.remove(member).is_some()
    }

    /// Takes up a member that is known from before a restart, as if it had just been heard of, so that
    /// it has the whole time to come back. One that is known already stays as it is.
    pub fn expect(&mut self, member: M, now: Now) {
        self.members.entry(member).or_insert(State {
            heard: now.elapsed,
            standing: Standing::Alive,
        });
    }

    /// How a member stands; none if it is not known.
    #[must_use]
    pub fn standing(&self, member: &M) -> Option<Standing> {
        self.members.get(member).map(|it| it.standing)
    }

    /// For how long a member has been silent, as an explanation needs it.
    #[must_use]
    pub fn silence(&self, member: &M, now: Now) -> Option<Duration> {
        let state = self.members.get(member)?;
        Some(now.elapsed.saturating_sub(state.heard))
    }

    /// Every member with its standing, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&M, Standing)> {
        self.members
            .iter()
            .map(|(member, it)| (member, it.standing))
    }

    /// When [`Self::handle_timeout`] is due, and for what.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Duration, &'static str)> {
        let due = |it: &State| {
            let (_, after, name) = worse(it.standing)?;
            Some((it.heard + after, name))
        };
        self.members.values().filter_map(due).min()
    }

    /// Lets time pass: every standing that a member came to, one after the other.
    pub fn handle_timeout(&mut self, now: Now) -> Vec<Change<M>> {
        if let Some((due, _)) = self.poll_timeout() {
            let late = now.elapsed.saturating_sub(due);
            if late > OURSELVES {
                for state in self.members.values_mut() {
                    state.heard = state.heard.max((state.heard + late).min(now.elapsed));
                }
            }
        }
        let mut changes = Vec::new();
        for (member, state) in &mut self.members {
            while let Some((to, after, _)) = worse(state.standing) {
                if now.elapsed < state.heard + after {
                    break;
                }
                changes.push(Change {
                    member: member.clone(),
                    from: Some(state.standing),
                    to,
                });
                state.standing = to;
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests;
