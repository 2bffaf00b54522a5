//! Packets of our own making, waiting to be polled, and how many a sender may cause.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Target;

/// Answers that one source may cause at once. A program that tries every port of a dead service
/// hears of most at once.
const BURST: u32 = 200;
/// One more answer per source after this long: 200 a second, what a test of a dead service causes,
/// and far below what would make answers worth causing.
const REFILL: Duration = Duration::from_millis(5);
/// Sources share this many rates by their hash, so the memory does not grow with them.
const BUCKETS: usize = 256;

/// The queue of answers.
#[derive(Debug)]
pub(super) struct Answers {
    queue: VecDeque<(Target, Vec<u8>)>,
    limit: usize,
    buckets: Vec<Bucket>,
    hasher: foldhash::fast::FixedState,
}

/// Until when the answers caused so far are paid for (a virtual schedule, as in GCRA).
#[derive(Debug, Clone, Copy, Default)]
struct Bucket(Option<Instant>);

impl Answers {
    pub(super) fn new(limit: usize, seed: u64) -> Self {
        Self {
            queue: VecDeque::new(),
            limit,
            buckets: vec![Bucket::default(); BUCKETS],
            hasher: foldhash::fast::FixedState::with_seed(seed),
        }
    }

    /// Whether a packet from that source may be answered now. If so, it counts.
    pub(super) fn admit(&mut self, source: IpAddr, now: Instant) -> bool {
        if self.queue.len() >= self.limit {
            return false;
        }
        let position = self.hasher.hash_one(source) as usize % BUCKETS;
        let Some(bucket) = self.buckets.get_mut(position) else {
            return false;
        };
        let paid = bucket.0.map_or(now, |paid| paid.max(now));
        let allowed = paid.saturating_duration_since(now) < REFILL * BURST;
        if allowed {
            bucket.0 = Some(paid + REFILL);
        }
        allowed
    }

    /// Puts an answer into the queue, unless that is full.
    pub(super) fn push(&mut self, target: Target, packet: Vec<u8>) {
        if self.queue.len() < self.limit {
            self.queue.push_back((target, packet));
        }
    }

    pub(super) fn pop(&mut self) -> Option<(Target, Vec<u8>)> {
        self.queue.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_may_cause_a_burst_and_then_a_rate() {
        #[expect(clippy::disallowed_methods, reason = "a test's clock starts somewhere")]
        let now = Instant::now();
        let source = IpAddr::from([10, 30, 0, 1]);
        let mut answers = Answers::new(8, 1);
        let admitted = (0..1000).filter(|_| answers.admit(source, now)).count();
        assert_eq!(admitted, 200);
        let later = now + Duration::from_millis(50);
        let admitted = (0..1000).filter(|_| answers.admit(source, later)).count();
        assert_eq!(admitted, 10);
        let much_later = now + Duration::from_secs(60);
        assert!(answers.admit(source, much_later));
    }

    #[test]
    fn a_full_queue_admits_nothing() {
        #[expect(clippy::disallowed_methods, reason = "a test's clock starts somewhere")]
        let now = Instant::now();
        let mut answers = Answers::new(1, 1);
        answers.push(Target::Tun, vec![1]);
        answers.push(Target::Tun, vec![2]);
        assert!(!answers.admit(IpAddr::from([10, 30, 0, 1]), now));
        assert_eq!(answers.pop(), Some((Target::Tun, vec![1])));
        assert_eq!(answers.pop(), None);
    }
}
