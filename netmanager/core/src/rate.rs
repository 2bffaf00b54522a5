//! How often something may be caused: a bucket that refills with time, as in GCRA.
//!
//! For counting events of others: queries, answers, probes, lists. Pacing of what this node sends is
//! [`crate::congestion::TokenBucket`]'s, which may overdraw.

use std::time::{Duration, Instant};

/// So many at once, and one more after each interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    interval: Duration,
    burst: u32,
}

impl Rate {
    /// `burst` at once, and one more after every `interval`.
    #[must_use]
    pub const fn every(interval: Duration, burst: u32) -> Self {
        Self { interval, burst }
    }

    /// So many a second, and `burst` at once; 0 a second are none at all.
    #[must_use]
    pub const fn per_second(count: u32, burst: u32) -> Self {
        match 1_000_000_000_u32.checked_div(count) {
            Some(nanos) => Self::every(Duration::from_nanos(nanos as u64), burst),
            None => Self::every(Duration::from_secs(1), 0),
        }
    }
}

/// What is left of a rate; the default is a full bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bucket {
    /// When the bucket is full again; each event taken moves that on.
    full_at: Option<Instant>,
}

impl Bucket {
    /// Whether one more is within the rate; it counts then.
    pub fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + rate.interval;
        let fits = full_at.saturating_duration_since(now) <= rate.interval * rate.burst;
        if fits {
            self.full_at = Some(full_at);
        }
        fits
    }

    /// When one more will be within the rate, unless none ever is.
    #[must_use]
    pub fn ready_at(&self, rate: Rate, now: Instant) -> Instant {
        let full_at = self.full_at.map_or(now, |at| at.max(now));
        let depth = rate.interval * rate.burst.saturating_sub(1);
        full_at.checked_sub(depth).map_or(now, |at| at.max(now))
    }

    /// Whether forgetting the bucket changes nothing.
    #[must_use]
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "a test needs some first instant")]
        Instant::now()
    }

    #[test]
    fn a_burst_is_followed_by_the_rate() {
        let now = start();
        let rate = Rate::per_second(10, 4);
        let mut bucket = Bucket::default();
        let taken = |bucket: &mut Bucket, now| (0..100).filter(|_| bucket.take(rate, now)).count();
        assert_eq!(taken(&mut bucket, now), 4);
        assert!(!bucket.is_full(now));
        let next = bucket.ready_at(rate, now);
        assert_eq!(next, now + Duration::from_millis(100));
        assert!(!bucket.take(rate, next - Duration::from_millis(1)));
        assert!(bucket.take(rate, next));
        let later = now + Duration::from_secs(60);
        assert!(bucket.is_full(later));
        assert_eq!(bucket.ready_at(rate, later), later);
        assert_eq!(taken(&mut bucket, later), 4);
    }

    #[test]
    fn a_rate_of_nothing_lets_nothing_pass() {
        let now = start();
        assert!(!Bucket::default().take(Rate::per_second(0, 9), now));
    }
}
