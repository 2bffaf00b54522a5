//! One bottleneck with a queue, a delay and random losses, and the senders that share it.
//!
//! Packets leave in order, so a packet's fate is known when it is sent: when it leaves the queue,
//! or that there was no room in it, or that it is lost behind it. An acknowledgement comes a round
//! trip later; what is three packets behind an acknowledged one is lost.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::super::{RateControl, TokenBucket};

const PACKET: u64 = 1200;

#[derive(Debug)]
pub(super) struct Link {
    rate: u64,
    change: Option<(Duration, u64)>,
    lengthening: Option<(Duration, Duration)>,
    round_trip: Duration,
    queue: Duration,
    loss: f64,
    random: u64,
}

#[derive(Debug)]
pub(super) struct Outcome {
    /// Bytes per second that arrived, of each flow.
    pub(super) rates: Vec<f64>,
    /// Seconds that packets waited, on average.
    pub(super) mean_queue: f64,
    /// And at the most.
    pub(super) max_queue: f64,
    /// The share of packets that found no room.
    pub(super) dropped: f64,
}

#[derive(Debug)]
pub(super) enum Sender {
    Ours(Box<RateControl>),
    Cubic(Cubic),
}

#[derive(Debug)]
pub(super) struct Flow {
    sender: Sender,
    bucket: Option<TokenBucket>,
    sent: VecDeque<Packet>,
    in_flight: u64,
    arrived: u64,
    next_number: u64,
}

#[derive(Debug, Clone, Copy)]
struct Packet {
    number: u64,
    sent: Instant,
    /// When its acknowledgement is here; none if it is lost.
    acked: Option<Instant>,
}

impl Flow {
    pub(super) fn new(sender: Sender) -> Self {
        Self {
            sender,
            bucket: None,
            sent: VecDeque::new(),
            in_flight: 0,
            arrived: 0,
            next_number: 0,
        }
    }

    fn window(&self) -> u64 {
        match &self.sender {
            Sender::Ours(control) => control.window(),
            Sender::Cubic(cubic) => cubic.window as u64,
        }
    }

    /// When the next packet may be sent; none while the window is full.
    fn next_send(&mut self, now: Instant) -> Option<Instant> {
        if self.in_flight + PACKET > self.window() {
            return None;
        }
        match &self.sender {
            Sender::Ours(control) => {
                let rate = control.pacing_rate();
                let bucket = self.bucket.get_or_insert_with(|| TokenBucket::new(now));
                if bucket.budget(rate, now) > 0 {
                    Some(now)
                } else {
                    Some(bucket.ready_at(rate).max(now))
                }
            }
            Sender::Cubic(_) => Some(now),
        }
    }

    fn next_ack(&self) -> Option<Instant> {
        self.sent.iter().find_map(|packet| packet.acked)
    }

    fn take_ack(&mut self, now: Instant) {
        while let Some(at) = self.sent.iter().position(|packet| packet.acked.is_some()) {
            let Some(packet) = self.sent.get(at).copied() else {
                return;
            };
            if packet.acked.is_none_or(|acked| acked > now) {
                return;
            }
            self.sent.remove(at);
            self.in_flight -= PACKET;
            self.arrived += PACKET;
            let mut lost = 0;
            let mut last_lost_sent = None;
            while self
                .sent
                .front()
                .is_some_and(|front| front.number + 3 <= packet.number)
            {
                last_lost_sent = self.sent.pop_front().map(|lost| lost.sent);
                lost += PACKET;
            }
            self.in_flight -= lost;
            match &mut self.sender {
                Sender::Ours(control) => {
                    control.handle_acked(packet.sent, PACKET, now);
                    control.handle_acks_end(self.in_flight + lost, false, now);
                    if lost > 0 {
                        control.handle_lost(lost);
                    }
                }
                Sender::Cubic(cubic) => cubic.take(packet.sent, last_lost_sent, now),
            }
        }
    }
}

impl Link {
    /// A link that delivers `rate` bytes per second; `queue` is what may wait, in time.
    pub(super) const fn new(
        rate: u64,
        round_trip: Duration,
        queue: Duration,
        loss: f64,
        random: u64,
    ) -> Self {
        Self {
            rate,
            change: None,
            lengthening: None,
            round_trip,
            queue,
            loss,
            random,
        }
    }

    /// Goes over to another rate at that time.
    pub(super) const fn change_at(mut self, at: Duration, rate: u64) -> Self {
        self.change = Some((at, rate));
        self
    }

    /// Takes longer from that time on.
    pub(super) const fn lengthen_at(mut self, at: Duration, round_trip: Duration) -> Self {
        self.lengthening = Some((at, round_trip));
        self
    }

    /// Runs until `end`, and counts from `from` on.
    pub(super) fn run(mut self, mut flows: Vec<Flow>, from: Duration, end: Duration) -> Outcome {
        let zero = super::start();
        let (mut now, mut free) = (zero, zero);
        let (mut before, mut waited, mut packets) = (None, 0.0, 0u64);
        let (mut max_queue, mut dropped) = (0.0f64, 0u64);
        while now < zero + end {
            if let Some((at, rate)) = self.change
                && now >= zero + at
            {
                self.rate = rate;
                self.change = None;
            }
            if let Some((at, round_trip)) = self.lengthening
                && now >= zero + at
            {
                self.round_trip = round_trip;
                self.lengthening = None;
            }
            let counting = now >= zero + from;
            if counting && before.is_none() {
                before = Some(flows.iter().map(|flow| flow.arrived).collect::<Vec<_>>());
            }
            for flow in &mut flows {
                flow.take_ack(now);
            }
            // In turn, so that nobody is always first.
            let first = (self.next_random() * flows.len() as f64) as usize;
            let count = flows.len();
            for at in 0..count {
                let Some(flow) = flows.get_mut((first + at) % count) else {
                    continue;
                };
                if flow.next_send(now) != Some(now) {
                    continue;
                }
                let wait = free.saturating_duration_since(now);
                let lost = self.next_random() < self.loss;
                let overflows = wait > self.queue;
                if counting {
                    packets += 1;
                    dropped += u64::from(overflows);
                    waited += wait.as_secs_f64();
                    max_queue = max_queue.max(wait.as_secs_f64());
                }
                let mut acked = None;
                if !overflows {
                    let serial = Duration::from_secs_f64(PACKET as f64 / self.rate as f64);
                    free = free.max(now) + serial;
                    acked = (!lost).then_some(free + self.round_trip);
                }
                flow.send(now, acked);
            }
            now = flows
                .iter_mut()
                .flat_map(|flow| [flow.next_ack(), flow.next_send(now)])
                .flatten()
                .min()
                .unwrap_or(now + Duration::from_millis(1))
                .max(now + Duration::from_nanos(1));
        }
        let time = (end - from).as_secs_f64();
        let rates = flows.iter().zip(before.unwrap_or_default());
        Outcome {
            rates: rates
                .map(|(flow, before)| (flow.arrived - before) as f64 / time)
                .collect(),
            mean_queue: waited / packets.max(1) as f64,
            max_queue,
            dropped: dropped as f64 / packets.max(1) as f64,
        }
    }

    fn next_random(&mut self) -> f64 {
        self.random = self
            .random
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }
}

impl Flow {
    fn send(&mut self, now: Instant, acked: Option<Instant>) {
        self.sent.push_back(Packet {
            number: self.next_number,
            sent: now,
            acked,
        });
        self.next_number += 1;
        self.in_flight += PACKET;
        if let Some(bucket) = &mut self.bucket {
            bucket.spend(PACKET);
        }
        match &mut self.sender {
            Sender::Ours(control) => control.handle_sent(PACKET, now),
            Sender::Cubic(_) => {}
        }
    }
}

/// CUBIC after RFC 9438, as far as it matters here: slow start, the cubic function with its
/// Reno-friendly region, one reduction a round trip.
#[derive(Debug)]
pub(super) struct Cubic {
    packet: f64,
    window: f64,
    threshold: f64,
    max: f64,
    epoch: Option<Instant>,
    reduced: Option<Instant>,
    reno: f64,
}

impl Cubic {
    pub(super) const fn new(packet: u16) -> Self {
        let packet = packet as f64;
        Self {
            packet,
            window: 10.0 * packet,
            threshold: f64::INFINITY,
            max: 0.0,
            epoch: None,
            reduced: None,
            reno: 0.0,
        }
    }

    fn take(&mut self, sent: Instant, lost_sent: Option<Instant>, now: Instant) {
        if let Some(lost) = lost_sent
            && self.reduced.is_none_or(|at| lost > at)
        {
            self.max = self.window;
            self.window = (self.window * 0.7).max(2.0 * self.packet);
            self.threshold = self.window;
            self.reno = self.window;
            self.epoch = Some(now);
            self.reduced = Some(now);
            return;
        }
        if self.window < self.threshold {
            self.window += self.packet;
            return;
        }
        let epoch = *self.epoch.get_or_insert(now);
        let rtt = now.saturating_duration_since(sent).as_secs_f64();
        let t = now.saturating_duration_since(epoch).as_secs_f64() + rtt;
        let max = self.max / self.packet;
        let k = (max * 0.3 / 0.4).cbrt();
        let cubic = (0.4 * (t - k).powi(3) + max) * self.packet;
        self.reno += self.packet * self.packet / self.window * (3.0 * 0.3 / 1.7);
        let target = cubic.max(self.reno);
        if target > self.window {
            self.window +=
                (target - self.window).min(self.window * 0.5) * self.packet / self.window;
        }
    }
}
