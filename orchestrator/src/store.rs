//! Where root, clusters and workers keep what must survive a crash: records under keys.
//!
//! A [`StateStore`] commits a batch of writes as one: after [`StateStore::commit`] has returned,
//! all of them survive a kill and a power cut; before, none of them may be acknowledged to
//! anybody. What a record means is its writer's affair: the store sees kinds, keys and bytes, and
//! has no queries, because every role holds its state in memory and reads the store once, at its
//! start. [`SqliteStore`] is the implementation; another database needs the same few methods.

mod sqlite;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use orchestrator_core::record::{Record, Write};

pub use sqlite::SqliteStore;

/// Counts the commits of a store: larger after each one, and kept over restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file or its folder cannot be opened or made.
    #[error("cannot open the state in {path}: {reason}; check the path, its owner and the disk")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system or the database says.
        reason: String,
    },
    /// Another process has it.
    #[error("the state in {path} is in use by another process; stop that one first")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is not a state of ours, or damaged.
    #[error(
        "{path} is not a state of weald or is damaged: {reason}; move it away or restore a copy"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A later release wrote it.
    #[error(
        "the state in {path} has schema {found}, this release knows up to {known}; run the newer release"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest that is known here.
        known: i64,
    },
    /// The state of another role or cluster.
    #[error("the state in {path} belongs to {found}, not to {wanted}; give each its own folder")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who wanted to use it.
        wanted: String,
    },
    /// Nothing was written.
    #[error("cannot write the state, nothing was changed: {reason}")]
    Commit {
        /// What the database says.
        reason: String,
    },
}

/// Keeps records over crashes. Calls block; they belong on a thread of their own.
pub trait StateStore: Send {
    /// Every record, ordered by kind and key.
    ///
    /// # Errors
    /// The store cannot be read.
    fn load(&self) -> Result<Vec<Record>, StoreError>;

    /// Carries out all writes, in order, or none of them; they are durable when it returns.
    ///
    /// # Errors
    /// The store cannot be written; it is then as it was.
    fn commit(&mut self, writes: &[Write]) -> Result<Revision, StoreError>;

    /// The revision of the last commit.
    fn revision(&self) -> Revision;
}
