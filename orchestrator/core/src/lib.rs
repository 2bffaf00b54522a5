//! What Weald's root, clusters and workers decide, without any I/O.
//!
//! Checks SLAs, ranks clusters and nodes, keeps every instance's life, and says what to persist
//! and what to send. It has no clock, no socket and no store: the shells in `orchestrator` carry
//! out what is decided here, persisting before sending.

/// When something happens, as the shell tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Time since the process started; every timer runs on it.
    pub elapsed: std::time::Duration,
    /// Seconds since 1970, for what is written down and signed; it may jump.
    pub unix: u64,
}

pub mod sla;

pub mod lifecycle;
pub mod membership;

pub mod addresses;
mod resources;
pub mod schedule;

pub mod explain;
pub mod words;

pub mod interests;

pub mod record;
pub mod sync;

pub mod trust;

pub mod worker;

pub mod cluster;

pub mod root;

pub mod accounts;

#[cfg(test)]
mod samples;
