//! The configured rate of the relay as a bucket that is spent by what is sent.
//!
//! It says when the next frame may go; what goes is decided by the fair queue.

use std::time::{Duration, Instant};

/// How far sending may run ahead of the rate: longer than a scheduler's slip, far below what a
/// user notices.
pub(super) const BURST: Duration = Duration::from_millis(5);

/// A bucket of [`BURST`] at a rate.
#[derive(Debug)]
pub(super) struct Pacer {
    /// 0 is unlimited.
    bits_per_second: u64,
    /// When all that was sent would have been sent at exactly the rate.
    paid_until: Instant,
}

impl Pacer {
    pub(super) const fn new(bits_per_second: u64, now: Instant) -> Self {
        Self {
            bits_per_second,
            paid_until: now,
        }
    }

    /// Whether something may be sent.
    pub(super) fn is_ready(&self, now: Instant) -> bool {
        self.bits_per_second == 0 || self.paid_until <= now + BURST
    }

    /// When something may be sent; now or earlier if it may be.
    pub(super) fn ready_at(&self) -> Instant {
        self.paid_until
            .checked_sub(BURST)
            .unwrap_or(self.paid_until)
    }

    /// Pays for what was sent; the last batch may overdraw the bucket.
    pub(super) fn spend(&mut self, bytes: usize, now: Instant) {
        if self.bits_per_second == 0 {
            return;
        }
        let nanos = (bytes as u128) * 8 * 1_000_000_000 / u128::from(self.bits_per_second);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let start = self.paid_until.max(now);
        // A cost beyond what the clock can hold is a century's pause either way.
        self.paid_until = start.checked_add(cost).unwrap_or(start);
    }
}
