//! A token bucket: when a sender that is given a rate may send.
//!
//! The balance may go below zero by what was sent last, so that packets need not be counted before
//! they are made.

use std::time::{Duration, Instant};

/// What a sender that wakes up late may catch up on; also the longest burst.
const DEPTH: Duration = Duration::from_millis(4);
/// How much is sent at once when the sender sleeps between bursts: more costs queue, less costs
/// wake-ups.
const QUANTUM: Duration = Duration::from_millis(1);
/// The least depth and quantum in bytes: two large packets.
const MIN_BURST: f64 = 3000.0;
/// The most that is waited for.
const MAX_QUANTUM: f64 = 65_536.0;

/// The bucket.
#[derive(Debug, Clone, Copy)]
pub struct TokenBucket {
    balance: f64,
    filled: Instant,
}

impl TokenBucket {
    /// An empty bucket.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self {
            balance: 0.0,
            filled: now,
        }
    }

    /// The bytes that may be sent now at a rate of that many bytes per second; 0 until the bucket
    /// holds something.
    pub fn budget(&mut self, rate: u64, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = self.filled.max(now);
        let depth = (rate as f64 * DEPTH.as_secs_f64()).max(MIN_BURST);
        self.balance = (self.balance + rate as f64 * elapsed).min(depth);
        self.balance.max(0.0) as u64
    }

    /// Takes out what was sent.
    pub fn spend(&mut self, bytes: u64) {
        self.balance -= bytes as f64;
    }

    /// When there is enough for a burst again.
    #[must_use]
    pub fn ready_at(&self, rate: u64) -> Instant {
        let rate = (rate as f64).max(1.0);
        let quantum = (rate * QUANTUM.as_secs_f64()).clamp(MIN_BURST, MAX_QUANTUM);
        let missing = (quantum - self.balance).max(0.0);
        // An hour is for ever here, and keeps the sum in range.
        self.filled + Duration::from_secs_f64((missing / rate).min(3600.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_whatever_the_wake_ups() {
        #[expect(clippy::disallowed_methods, reason = "a test's clock starts somewhere")]
        let start = Instant::now();
        let (rate, mut now) = (10_000_000, start);
        let mut bucket = TokenBucket::new(now);
        let mut sent = 0;
        while now < start + Duration::from_secs(1) {
            let budget = bucket.budget(rate, now);
            // Packets are whole, so the last one may overdraw.
            let packets = budget.div_ceil(1400);
            bucket.spend(packets * 1400);
            sent += packets * 1400;
            now = bucket.ready_at(rate).max(now + Duration::from_micros(300));
        }
        let error = (sent as f64 - 1e7).abs();
        assert!(error < 50_000.0, "{sent}");
    }

    #[test]
    fn only_so_much_is_caught_up_on() {
        #[expect(clippy::disallowed_methods, reason = "a test's clock starts somewhere")]
        let start = Instant::now();
        let mut bucket = TokenBucket::new(start);
        assert_eq!(bucket.budget(1_000_000, start), 0);
        assert_eq!(
            bucket.budget(1_000_000, start + Duration::from_secs(60)),
            4000
        );
        bucket.spend(10_000);
        assert_eq!(
            bucket.ready_at(1_000_000),
            start + Duration::from_secs(60) + Duration::from_millis(9)
        );
    }
}
