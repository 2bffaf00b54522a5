//! What was returned and by whom, until no lease can name it any more.
//!
//! It runs on time since the start: a wall clock that is set forward frees nothing early. After a
//! restart the whole time begins again.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::Now;

#[derive(Debug, Clone)]
pub(super) struct Quarantine<K, O> {
    lifetime: Duration,
    held: BTreeMap<K, (O, Duration)>,
}

impl<K: Ord + Copy, O: PartialEq> Quarantine<K, O> {
    pub(super) const fn new(lifetime: Duration) -> Self {
        Self {
            lifetime,
            held: BTreeMap::new(),
        }
    }

    pub(super) fn hold(&mut self, key: K, owner: O, now: Now) {
        self.held.insert(key, (owner, now.elapsed + self.lifetime));
    }

    /// Who had it, and for how long it is held yet.
    pub(super) fn get(&self, key: &K, now: Now) -> Option<(&O, Duration)> {
        let (owner, until) = self.held.get(key)?;
        let left = until.checked_sub(now.elapsed)?;
        (!left.is_zero()).then_some((owner, left))
    }

    pub(super) fn take(&mut self, key: &K) {
        self.held.remove(key);
    }

    /// What is held of an owner, who may have it back at once.
    pub(super) fn of<'a>(&'a self, owner: &'a O, now: Now) -> impl Iterator<Item = K> + 'a {
        self.iter(now)
            .filter(move |(_, it)| *it == owner)
            .map(|(key, _)| key)
    }

    /// All that is held.
    pub(super) fn iter(&self, now: Now) -> impl Iterator<Item = (K, &O)> {
        let held = self.held.iter();
        held.filter(move |(_, (_, until))| *until > now.elapsed)
            .map(|(key, (owner, _))| (*key, owner))
    }

    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        self.held.values().map(|(_, until)| *until).min()
    }

    /// Forgets what has rested long enough, and says what that was.
    pub(super) fn handle_timeout(&mut self, now: Now) -> Vec<K> {
        let over = self
            .held
            .extract_if(.., |_, (_, until)| *until <= now.elapsed);
        over.map(|(key, _)| key).collect()
    }
}
