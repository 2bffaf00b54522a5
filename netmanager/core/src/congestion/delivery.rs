//! How fast a path delivers: a rate sample for every batch of acknowledgements.
//!
//! After the IETF draft on delivery rate estimation (draft-cheng-iccrg-delivery-rate-estimation):
//! what was acknowledged since a packet was sent, over the longer of the time in which that was
//! sent and the time in which it was acknowledged, so that bunched acknowledgements do not look
//! like a fast path. It is told when packets were sent, by instant: bursts share a record.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Most bursts in flight that have a record of their own; later ones share the last. One burst is a
/// millisecond at the least when paced, so this is 8 s of them.
const MAX_RECORDS: usize = 8192;

/// What one batch of acknowledgements says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample {
    /// Bytes per second that were delivered.
    pub(super) rate: u64,
    /// Whether the sender had less to send than the path would have taken.
    pub(super) limited: bool,
    /// The round-trip time of the newest packet acknowledged.
    pub(super) rtt: Duration,
    /// Bytes delivered when that packet was sent.
    pub(super) delivered_before: u64,
}

/// Sees packets go and come, and says how fast.
#[derive(Debug, Clone)]
pub(super) struct Delivery {
    delivered: u64,
    delivered_at: Option<Instant>,
    first_sent: Option<Instant>,
    /// Packets sent before this much was delivered were sent while there was too little to send.
    limited_until: u64,
    records: VecDeque<Record>,
    newest: Option<Record>,
    newest_sent: Option<Instant>,
}

/// The state at the time when a burst was sent.
#[derive(Debug, Clone, Copy)]
struct Record {
    sent: Instant,
    delivered: u64,
    delivered_at: Instant,
    first_sent: Instant,
    limited: bool,
}

impl Delivery {
    pub(super) const fn new() -> Self {
        Self {
            delivered: 0,
            delivered_at: None,
            first_sent: None,
            limited_until: 0,
            records: VecDeque::new(),
            newest: None,
            newest_sent: None,
        }
    }

    /// Bytes delivered so far.
    pub(super) const fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Takes note that packets are sent now; `idle` is whether nothing was in flight.
    pub(super) fn note_sent(&mut self, now: Instant, idle: bool) {
        if idle {
            self.first_sent = Some(now);
            self.delivered_at = Some(now);
        }
        let shared = self.records.back().is_some_and(|last| last.sent == now);
        if shared || self.records.len() == MAX_RECORDS {
            return;
        }
        self.records.push_back(Record {
            sent: now,
            delivered: self.delivered,
            delivered_at: self.delivered_at.unwrap_or(now),
            first_sent: self.first_sent.unwrap_or(now),
            limited: self.limited_until > self.delivered,
        });
    }

    /// Takes note that a packet which was sent then has arrived.
    pub(super) fn note_acked(&mut self, now: Instant, sent: Instant, bytes: u64) {
        self.delivered += bytes;
        self.delivered_at = Some(now);
        if self.newest_sent.is_some_and(|newest| newest > sent) {
            return;
        }
        let after = self.records.partition_point(|record| record.sent <= sent);
        if let Some(record) = after.checked_sub(1).and_then(|at| self.records.get(at)) {
            self.newest = Some(*record);
            self.newest_sent = Some(sent);
        }
    }

    /// Takes note that the sender has nothing more to send, with that much in flight.
    pub(super) fn note_limited(&mut self, in_flight: u64) {
        self.limited_until = self.delivered + in_flight.max(1);
    }

    /// What the acknowledgements since the last call say; nothing if they were of packets that are
    /// forgotten.
    pub(super) fn sample(&mut self, now: Instant) -> Option<Sample> {
        let (record, sent) = (self.newest.take()?, self.newest_sent.take()?);
        while self
            .records
            .front()
            .is_some_and(|front| front.sent < record.sent)
        {
            self.records.pop_front();
        }
        self.first_sent = Some(sent);
        let send_elapsed = sent.saturating_duration_since(record.first_sent);
        let ack_elapsed = now.saturating_duration_since(record.delivered_at);
        let interval = send_elapsed.max(ack_elapsed);
        let rtt = now.saturating_duration_since(sent);
        if interval.is_zero() {
            return None;
        }
        let bytes = self.delivered - record.delivered;
        Some(Sample {
            rate: (bytes as f64 / interval.as_secs_f64()) as u64,
            limited: record.limited,
            rtt,
            delivered_before: record.delivered,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn start() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "a test's clock starts somewhere")]
        Instant::now()
    }

    #[test]
    fn a_steady_flow_is_measured_exactly() {
        let (t, mut delivery) = (start(), Delivery::new());
        let mut last = None;
        // One packet a millisecond, acknowledged 10 ms later.
        for at in 0..100u32 {
            let now = t + MS * at;
            if at >= 10 {
                delivery.note_acked(now, t + MS * (at - 10), 1000);
                last = delivery.sample(now);
            }
            delivery.note_sent(now, at == 0);
        }
        let last = last.expect("a sample");
        assert_eq!(last.rate, 1_000_000);
        assert_eq!(last.rtt, MS * 10);
        assert!(!last.limited);
    }

    #[test]
    fn bunched_acknowledgements_do_not_look_like_a_fast_path() {
        let (t, mut delivery) = (start(), Delivery::new());
        let mut rates = Vec::new();
        for at in 0..200u32 {
            let now = t + MS * at;
            // All that was sent up to 10 ms ago is acknowledged at once, every 20 ms.
            if at >= 20 && at % 20 == 0 {
                for sent in at.saturating_sub(30)..at - 10 {
                    delivery.note_acked(now, t + MS * sent, 1000);
                }
                rates.extend(delivery.sample(now).map(|sample| sample.rate));
            }
            delivery.note_sent(now, at == 0);
        }
        assert!(rates.iter().all(|rate| *rate <= 1_010_000), "{rates:?}");
    }

    #[test]
    fn packets_sent_for_want_of_more_are_marked() {
        let (t, mut delivery) = (start(), Delivery::new());
        delivery.note_sent(t, true);
        delivery.note_limited(1000);
        delivery.note_sent(t + MS, false);
        delivery.note_acked(t + MS * 10, t, 1000);
        assert!(!delivery.sample(t + MS * 10).expect("a sample").limited);
        delivery.note_acked(t + MS * 11, t + MS, 1000);
        assert!(delivery.sample(t + MS * 11).expect("a sample").limited);
    }

    #[test]
    fn what_is_forgotten_counts_and_says_nothing() {
        let (t, mut delivery) = (start(), Delivery::new());
        delivery.note_acked(t + MS, t, 700);
        assert_eq!(delivery.sample(t + MS), None);
        assert_eq!(delivery.delivered(), 700);
    }
}
