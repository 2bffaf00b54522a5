//! What the daemon's threads and the netstack thread share: what wakes it, and what it counts.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// What wakes the thread on the daemon's behalf.
#[derive(Debug)]
pub(super) struct Waker {
    event: OwnedFd,
    table: AtomicBool,
    stop: AtomicBool,
}

impl Waker {
    pub(super) fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self {
            event: eventfd(0, flags)?,
            table: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        })
    }

    pub(super) fn table_changed(&self) {
        self.table.store(true, Ordering::SeqCst);
        self.ring();
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.ring();
    }

    pub(super) fn wake(&self) {
        self.ring();
    }

    fn ring(&self) {
        // A full counter means that it has been rung already.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// Has the next call wake again.
    pub(super) fn silence(&self) {
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
    }

    /// Whether the table has changed since this was asked.
    pub(super) fn take_table_change(&self) -> bool {
        self.table.swap(false, Ordering::SeqCst)
    }

    /// Whether it is over.
    pub(super) fn is_over(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// What the thread counts.
#[derive(Debug, Default)]
pub(super) struct Counters {
    open: AtomicU64,
    opened: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
}

impl Counters {
    pub(super) fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    pub(super) fn set_open(&self, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.open.store(count, Ordering::Relaxed);
    }

    pub(super) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    pub(super) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub(super) fn count_opened(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }
}
