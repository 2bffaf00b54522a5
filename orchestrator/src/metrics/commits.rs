//! A store that counts its commits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use orchestrator_core::record::{Record, Write};
use weald_metrics::Text;

use crate::store::{Revision, StateStore, StoreError};

/// Commits since the start.
#[derive(Debug, Default)]
pub struct Commits {
    done: AtomicU64,
    failed: AtomicU64,
    writes: AtomicU64,
    nanoseconds: AtomicU64,
    slowest: AtomicU64,
}

/// A store whose commits are counted.
pub struct Counted {
    store: Box<dyn StateStore>,
    commits: Arc<Commits>,
}

impl std::fmt::Debug for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counted")
            .field("commits", &self.commits)
            .finish_non_exhaustive()
    }
}

impl Counted {
    /// Counts what is committed to a store from now on.
    #[must_use]
    pub fn new(store: Box<dyn StateStore>) -> Self {
        Self {
            store,
            commits: Arc::default(),
        }
    }

    /// The counts.
    #[must_use]
    pub fn commits(&self) -> Arc<Commits> {
        Arc::clone(&self.commits)
    }
}

impl StateStore for Counted {
    fn load(&self) -> Result<Vec<Record>, StoreError> {
        self.store.load()
    }

    fn commit(&mut self, writes: &[Write]) -> Result<Revision, StoreError> {
        let begun = Instant::now();
        let committed = self.store.commit(writes);
        self.commits
            .count(writes.len(), begun.elapsed(), committed.is_ok());
        committed
    }

    fn revision(&self) -> Revision {
        self.store.revision()
    }
}

impl Commits {
    fn count(&self, writes: usize, took: Duration, done: bool) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let add = |counter: &AtomicU64, by: u64| counter.fetch_add(by, Ordering::Relaxed);
        add(if done { &self.done } else { &self.failed }, 1);
        add(&self.writes, u64::try_from(writes).unwrap_or(u64::MAX));
        add(&self.nanoseconds, took);
        self.slowest.fetch_max(took, Ordering::Relaxed);
    }

    /// The figures as text.
    pub(super) fn write(&self, text: &mut Text) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        for (name, help, counter) in [
            ("weald_commits_total", "Commits of the state.", &self.done),
            (
                "weald_commits_failed_total",
                "Commits that failed.",
                &self.failed,
            ),
            (
                "weald_commit_records_total",
                "Records that were committed.",
                &self.writes,
            ),
        ] {
            text.single(name, "counter", help, read(counter));
        }
        for (name, kind, help, counter) in [
            (
                "weald_commit_seconds_total",
                "counter",
                "How long commits took together.",
                &self.nanoseconds,
            ),
            (
                "weald_commit_slowest_seconds",
                "gauge",
                "How long the slowest commit took.",
                &self.slowest,
            ),
        ] {
            let seconds = Duration::from_nanos(read(counter)).as_secs_f64();
            text.single(name, kind, help, seconds);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::SqliteStore;

    #[test]
    fn commits_are_counted_with_their_time() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path(), "a test").unwrap();
        let mut store = Counted::new(Box::new(store));
        let write = Write::put("kind", "key".to_owned(), &1_u32).unwrap();
        store.commit(&[write.clone(), write]).unwrap();
        store
            .commit(&[Write::delete("kind", "key".to_owned())])
            .unwrap();
        assert_eq!(store.revision(), Revision(2));
        assert!(store.load().unwrap().is_empty());
        let mut text = Text::default();
        store.commits().write(&mut text);
        let values = weald_metrics::samples(&text.finish());
        assert_eq!(values["weald_commits_total"], 2.0);
        assert_eq!(values["weald_commit_records_total"], 3.0);
        assert_eq!(values["weald_commits_failed_total"], 0.0);
        let (all, slowest) = (
            values["weald_commit_seconds_total"],
            values["weald_commit_slowest_seconds"],
        );
        assert!(all >= slowest && slowest > 0.0, "{all} {slowest}");
    }
}
