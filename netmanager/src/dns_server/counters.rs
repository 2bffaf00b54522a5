//! How many queries ended how. Written by every task of the resolver, read by the local API.

use std::sync::atomic::{AtomicU64, Ordering};

use netmanager_core::dns::Outcome;

/// One counter for every [`Outcome`].
#[derive(Debug, Default)]
pub struct DnsCounters([AtomicU64; Outcome::ALL.len()]);

impl DnsCounters {
    /// How many queries ended that way.
    #[must_use]
    pub fn of(&self, outcome: Outcome) -> u64 {
        self.0
            .get(outcome as usize)
            .map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    /// Every outcome with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Outcome, u64)> + '_ {
        Outcome::ALL
            .iter()
            .map(|outcome| (*outcome, self.of(*outcome)))
    }

    pub(super) fn count(&self, outcome: Outcome) {
        if let Some(counter) = self.0.get(outcome as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}
