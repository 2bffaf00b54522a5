//! Packets of our own making, waiting to be polled, and how many a sender may cause.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::time::Instant;

use super::Target;
use crate::rate::{Bucket, Rate};

/// Answers that one source may cause at once, because a program that tries every port of a dead
/// service hears of most at once; and then 200 a second, what a test of a dead service causes, and
/// far below what would make answers worth causing.
const RATE: Rate = Rate::per_second(200, 200);
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
        let bucket = self.buckets.get_mut(position);
        bucket.is_some_and(|bucket| bucket.take(RATE, now))
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
    use std::time::Duration;

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
