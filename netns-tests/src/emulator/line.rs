//! One direction of an emulated link, without I/O: frames go in, and come out when they are due.
//!
//! Feed with [`Line::handle_frame`], drain with [`Line::poll_frame`], wait until
//! [`Line::poll_timeout`]. Time is an argument and every choice comes from the seed, so the same
//! input gives the same output.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::impairment::{Impairment, Loss};
use super::random::Random;

/// What happened to the frames of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames that came in.
    pub received: u64,
    /// Bytes of frames that came in.
    pub received_bytes: u64,
    /// Frames that went out, copies included.
    pub sent: u64,
    /// Bytes of frames that went out.
    pub sent_bytes: u64,
    /// Frames lost by [`Impairment::loss`].
    pub lost: u64,
    /// Frames that were longer than [`Impairment::longest`].
    pub swallowed: u64,
    /// Frames dropped because the queue was full.
    pub overflowed: u64,
    /// Frames that arrive twice.
    pub duplicated: u64,
    /// Frames held back so that others overtake them.
    pub reordered: u64,
    /// Frames that the receiving end refused, for instance because it is down.
    pub refused: u64,
}

/// At most this many bytes travel on a line at once, whatever its delay: a bound on memory.
const MAX_IN_FLIGHT_BYTES: usize = 256 << 20;

/// The most that a pool of empty buffers keeps.
const MAX_POOLED_BUFFERS: usize = 4096;

/// One direction of a link.
#[derive(Debug)]
pub(crate) struct Line {
    impairment: Impairment,
    random: Random,
    bad_state: bool,
    /// When the last queued frame has left the queue.
    free_at: Option<Instant>,
    /// When the last frame that keeps order arrives.
    last_arrival: Option<Instant>,
    in_flight: BinaryHeap<Reverse<Flight>>,
    in_flight_bytes: usize,
    sequence: u64,
    pool: Vec<Vec<u8>>,
    counters: Counters,
}

/// A frame on its way; ordered by arrival, then by departure.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flight {
    arrival: Instant,
    sequence: u64,
    frame: Vec<u8>,
}

impl Line {
    /// Makes a line.
    pub(crate) fn new(impairment: Impairment, seed: u64) -> Self {
        Self {
            impairment,
            random: Random::new(seed),
            bad_state: false,
            free_at: None,
            last_arrival: None,
            in_flight: BinaryHeap::new(),
            in_flight_bytes: 0,
            sequence: 0,
            pool: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// Changes the impairment for frames that come from now on.
    pub(crate) fn set(&mut self, impairment: Impairment) {
        self.impairment = impairment;
        if impairment.rate_bits_per_sec.is_none() {
            self.free_at = None;
        }
    }

    /// The impairment in force.
    pub(crate) fn impairment(&self) -> Impairment {
        self.impairment
    }

    /// What happened so far.
    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    /// Takes a frame in.
    pub(crate) fn handle_frame(&mut self, frame: &[u8], now: Instant) {
        self.counters.received += 1;
        self.counters.received_bytes += frame.len() as u64;
        let longest = self.impairment.longest.unwrap_or(usize::MAX);
        if frame.len() > longest {
            self.counters.swallowed += 1;
            return;
        }
        let Some(departure) = self.queue(frame.len(), now) else {
            self.counters.overflowed += 1;
            return;
        };
        if self.is_lost() {
            self.counters.lost += 1;
            return;
        }
        let arrival = self.arrival(departure);
        if self.random.happens(self.impairment.duplicate) {
            self.counters.duplicated += 1;
            self.launch(frame, arrival);
        }
        self.launch(frame, arrival);
    }

    /// Takes out a frame that is due, if there is one; give its buffer back with
    /// [`Line::recycle`].
    pub(crate) fn poll_frame(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.poll_timeout()? > now {
            return None;
        }
        let Reverse(flight) = self.in_flight.pop()?;
        self.in_flight_bytes -= flight.frame.len();
        Some(flight.frame)
    }

    /// Counts a frame as sent or refused, and keeps its buffer for later frames.
    pub(crate) fn recycle(&mut self, mut frame: Vec<u8>, sent: bool) {
        if sent {
            self.counters.sent += 1;
            self.counters.sent_bytes += frame.len() as u64;
        } else {
            self.counters.refused += 1;
        }
        if self.pool.len() < MAX_POOLED_BUFFERS {
            frame.clear();
            self.pool.push(frame);
        }
    }

    /// When the next frame is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.in_flight.peek().map(|Reverse(flight)| flight.arrival)
    }

    /// When a frame that comes `now` has left the queue; none when the queue is full.
    fn queue(&mut self, bytes: usize, now: Instant) -> Option<Instant> {
        if self.in_flight_bytes + bytes > MAX_IN_FLIGHT_BYTES {
            return None;
        }
        let Some(rate) = self.impairment.rate_bits_per_sec.filter(|rate| *rate > 0) else {
            return Some(now);
        };
        let start = self.free_at.map_or(now, |free| free.max(now));
        let wait = start - now;
        let waiting_bytes = wait.as_secs_f64() * rate as f64 / 8.0;
        let limit = self.impairment.queue;
        if wait > limit.time || waiting_bytes + bytes as f64 > limit.bytes.max(bytes) as f64 {
            return None;
        }
        let departure = start + Duration::from_secs_f64(bytes as f64 * 8.0 / rate as f64);
        self.free_at = Some(departure);
        Some(departure)
    }

    fn is_lost(&mut self) -> bool {
        match self.impairment.loss {
            Loss::None => false,
            Loss::Random(probability) => self.random.happens(probability),
            Loss::Burst {
                enter,
                leave,
                good,
                bad,
            } => {
                let change = if self.bad_state { leave } else { enter };
                self.bad_state ^= self.random.happens(change);
                self.random.happens(if self.bad_state { bad } else { good })
            }
        }
    }

    fn arrival(&mut self, departure: Instant) -> Instant {
        let Impairment {
            delay,
            jitter,
            reorder,
            reorder_by,
            ..
        } = self.impairment;
        let mut travel = delay;
        if !jitter.is_zero() {
            let spread = jitter.mul_f64(2.0 * self.random.fraction());
            travel = (delay + spread).saturating_sub(jitter);
        }
        if self.random.happens(reorder) {
            self.counters.reordered += 1;
            return departure + travel + reorder_by;
        }
        let in_order = self
            .last_arrival
            .map_or(departure, |last| last.max(departure));
        let arrival = in_order.max(departure + travel);
        self.last_arrival = Some(arrival);
        arrival
    }

    fn launch(&mut self, frame: &[u8], arrival: Instant) {
        let mut buffer = self.pool.pop().unwrap_or_default();
        buffer.extend_from_slice(frame);
        self.in_flight_bytes += buffer.len();
        self.in_flight.push(Reverse(Flight {
            arrival,
            sequence: self.sequence,
            frame: buffer,
        }));
        self.sequence += 1;
    }
}

#[cfg(test)]
mod tests;
