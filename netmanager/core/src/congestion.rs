//! A congestion controller that goes by what a path delivers and not by what it loses.
//!
//! It is for QUIC connections whose streams carry other people's TCP over long or lossy paths. It
//! models the path by two figures, the highest delivery rate of the last rounds and the smallest
//! round-trip time of the last seconds, and sends at that rate, now and then a little faster to see
//! whether there is more, then slower until the queue that this has made is gone. A lost packet
//! says nothing by itself: up to [`LOSS_TOLERANCE`] of a round may be lost before it slows down.
//!
//! Sources: "BBR: Congestion-Based Congestion Control" (Cardwell et al., ACM Queue 14(5), 2016),
//! draft-cardwell-iccrg-bbr-congestion-control and draft-cheng-iccrg-delivery-rate-estimation of
//! the IETF. The state machine is the papers' (start, drain, probe the rate, probe the round trip);
//! where it differs, and why, stands in `docs/decisions/0010-congestion-control-by-delivery-rate.md`.
//!
//! It sees no packets: whoever sends tells it what was sent, acknowledged and lost, and asks for
//! [`RateControl::window`] and [`RateControl::pacing_rate`], which a [`TokenBucket`] keeps. `delivery`
//! measures, `phase` says what is tried, this file is the model.

use std::time::{Duration, Instant};

pub use self::bucket::TokenBucket;

use self::delivery::{Delivery, Sample};
use self::filter::MaxFilter;
use self::losses::Losses;
use self::phase::Phase;

mod bucket;
mod delivery;
mod filter;
mod losses;
mod phase;
#[cfg(test)]
mod tests;

pub use self::losses::LOSS_TOLERANCE;

/// Packets in the first flight, and after an outage: what browsers' servers use, so that a small
/// answer is there after one round trip.
const INITIAL_PACKETS: u64 = 32;
/// Packets that may be in flight on the slowest path: fewer than acknowledgements need to be
/// regular.
const MIN_PACKETS: u64 = 4;
/// What may be in flight, in products of rate and round-trip time: as much again for
/// acknowledgements that come late and in bunches.
const WINDOW_GAIN: f64 = 2.0;
/// And for hosts that are late themselves: on a LAN their schedulers are slower than the network.
const HOST_DELAY: Duration = Duration::from_millis(4);
/// How far below the estimate is sent, so that queues drain that nobody has meant to fill.
const MARGIN: f64 = 0.99;
/// How long the smallest round-trip time is believed.
const MIN_RTT_LIFETIME: Duration = Duration::from_secs(10);
/// Rounds in which no packet came back within what the window allows for, after which the smallest
/// round-trip time is taken for that of a path that has become longer: fewer than the rate is
/// remembered for.
const LONGER_ROUNDS: u32 = 5;
/// And how long after a look at it that is not believed again: somebody else's queue looks alike.
const LONGER_PAUSE: Duration = Duration::from_secs(5);
/// Below that a round-trip time gives no rate: hosts are slower.
const LEAST_RTT: Duration = Duration::from_micros(100);
/// A round-trip time this close to the smallest confirms it.
const NEAR_MIN_RTT: f64 = 1.02;

/// The controller of one path.
#[derive(Debug, Clone)]
pub struct RateControl {
    packet: u64,
    delivery: Delivery,
    rate: MaxFilter,
    min_rtt: Option<Duration>,
    min_rtt_at: Instant,
    /// The smallest of this round, and how many rounds in a row had only far longer ones.
    round_rtt: Option<Duration>,
    longer_rounds: u32,
    probed_at: Option<Instant>,
    round: u64,
    round_ends: u64,
    losses: Losses,
    phase: Phase,
    in_flight: u64,
    acked: u64,
    window: u64,
    seed: u64,
}

impl RateControl {
    /// A controller for packets of up to that many bytes. The seed keeps flows that start together
    /// from probing together.
    #[must_use]
    pub const fn new(packet: u16, seed: u64, now: Instant) -> Self {
        let packet = packet as u64;
        Self {
            packet,
            delivery: Delivery::new(),
            rate: MaxFilter::new(),
            min_rtt: None,
            min_rtt_at: now,
            round_rtt: None,
            longer_rounds: 0,
            probed_at: None,
            round: 0,
            round_ends: 0,
            losses: Losses::new(),
            phase: Phase::start(),
            in_flight: 0,
            acked: 0,
            window: INITIAL_PACKETS * packet,
            seed,
        }
    }

    /// Packets are sent now.
    pub fn handle_sent(&mut self, bytes: u64, now: Instant) {
        self.delivery.note_sent(now, self.in_flight == 0);
        self.in_flight += bytes;
    }

    /// A packet sent then has arrived.
    pub fn handle_acked(&mut self, sent: Instant, bytes: u64, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(bytes);
        self.acked += bytes;
        self.delivery.note_acked(now, sent, bytes);
        self.losses.note_delivered(bytes);
    }

    /// That were all the packets of one batch of acknowledgements. `in_flight` is what is left,
    /// `limited` whether the sender has nothing more to send.
    pub fn handle_acks_end(&mut self, in_flight: u64, limited: bool, now: Instant) {
        self.in_flight = in_flight;
        let acked = std::mem::take(&mut self.acked);
        if limited || self.phase.holds_back() {
            self.delivery.note_limited(in_flight);
        }
        if let Some(sample) = self.delivery.sample(now) {
            self.take(sample, now);
        }
        self.grow_window(acked);
    }

    /// That many bytes were lost.
    pub fn handle_lost(&mut self, bytes: u64) {
        self.in_flight = self.in_flight.saturating_sub(bytes);
        self.losses.note_lost(bytes);
    }

    /// Nothing has arrived for long: what was known of the path is void.
    pub fn handle_outage(&mut self, now: Instant) {
        let (packet, seed) = (self.packet, self.next_seed());
        let packet = u16::try_from(packet).unwrap_or(u16::MAX);
        let (in_flight, delivery) = (self.in_flight, self.delivery.clone());
        *self = Self::new(packet, seed, now);
        self.in_flight = in_flight;
        self.round_ends = delivery.delivered();
        self.delivery = delivery;
    }

    /// Packets may have that many bytes now.
    pub const fn set_packet(&mut self, packet: u16) {
        self.packet = packet as u64;
    }

    /// Bytes that may be in flight.
    #[must_use]
    pub fn window(&self) -> u64 {
        let ceiling = self.losses.ceiling().unwrap_or(u64::MAX);
        let window = match self.phase.window_gain() {
            Some(gain) => self.window.min(self.product(gain)),
            None => self.window,
        };
        window.min(ceiling).max(self.min_window())
    }

    /// Bytes in the first flight.
    #[must_use]
    pub const fn initial_window(&self) -> u64 {
        INITIAL_PACKETS * self.packet
    }

    /// Bytes per second at which packets should leave.
    #[must_use]
    pub fn pacing_rate(&self) -> u64 {
        let gain = self.phase.pacing_gain();
        // What is lost on the way has to be sent as well, or each round would be a little slower.
        let sent = self.rate.max() as f64 / (1.0 - self.losses.expected());
        let estimate = (gain * MARGIN * sent) as u64;
        // A first sample of two packets says nothing against the first flight's rate, and there is
        // always a window to be sent in a round trip.
        let least = if self.phase.is_filling() {
            self.per_round_trip(gain, self.initial_window())
        } else {
            self.per_round_trip(1.0, self.min_window())
        };
        estimate.max(least)
    }

    /// Bytes per second that send so much in a round trip, times a gain.
    fn per_round_trip(&self, gain: f64, bytes: u64) -> u64 {
        let rtt = self.min_rtt.unwrap_or(Duration::from_millis(1));
        (gain * bytes as f64 / rtt.max(LEAST_RTT).as_secs_f64()) as u64
    }

    /// The highest delivery rate of the last rounds, in bytes per second.
    #[cfg(test)]
    fn delivery_rate(&self) -> u64 {
        self.rate.max()
    }

    /// The smallest round-trip time of the last seconds.
    #[cfg(test)]
    const fn min_rtt(&self) -> Option<Duration> {
        self.min_rtt
    }

    fn take(&mut self, sample: Sample, now: Instant) {
        let new_round = sample.delivered_before >= self.round_ends;
        let before = self.rate.max();
        if new_round {
            self.round += 1;
            self.round_ends = self.delivery.delivered();
        }
        if !sample.limited || sample.rate > before {
            self.rate.add(self.round, sample.rate);
        }
        self.note_rtt(sample.rtt, now);
        let longer = self.is_longer(sample.rtt, new_round, now);
        let excess = new_round && self.losses.end_round(self.in_flight, 8 * self.packet);
        let seen = phase::Seen {
            now,
            new_round,
            limited: sample.limited,
            rate: self.rate.max(),
            excess,
            rtt: sample.rtt,
            min_rtt: self.min_rtt.unwrap_or(sample.rtt),
            rtt_expired: longer
                || now.saturating_duration_since(self.min_rtt_at) > MIN_RTT_LIFETIME,
            in_flight: self.in_flight,
            product: self.product(1.0),
            min_window: self.min_window(),
        };
        let seed = self.seed;
        match self.phase.after(&seen, seed) {
            Some(phase::Change::Probed) => {
                self.losses.raise_ceiling(self.product(WINDOW_GAIN));
                self.next_seed();
            }
            Some(phase::Change::RttProbed(rtt)) => {
                self.min_rtt = Some(rtt);
                self.min_rtt_at = now;
                self.probed_at = Some(now);
            }
            None => {}
        }
    }

    /// Whether the path seems to have become longer: what the window allows to be in flight takes
    /// its time, and for some rounds nothing has come back within it.
    fn is_longer(&mut self, rtt: Duration, new_round: bool, now: Instant) -> bool {
        if !new_round {
            self.round_rtt = Some(self.round_rtt.map_or(rtt, |least| least.min(rtt)));
            return false;
        }
        let least = self.round_rtt.replace(rtt);
        let allowed = self
            .min_rtt
            .map(|min| min.mul_f64(WINDOW_GAIN) + HOST_DELAY);
        self.longer_rounds = match least.zip(allowed) {
            Some((least, allowed)) if least > allowed => self.longer_rounds + 1,
            Some(_) | None => 0,
        };
        let paused = self
            .probed_at
            .is_some_and(|at| now.saturating_duration_since(at) < LONGER_PAUSE);
        if self.longer_rounds < LONGER_ROUNDS || paused {
            return false;
        }
        self.longer_rounds = 0;
        true
    }

    fn note_rtt(&mut self, rtt: Duration, now: Instant) {
        match self.min_rtt {
            Some(min) if rtt >= min => {
                if rtt.as_secs_f64() <= min.as_secs_f64() * NEAR_MIN_RTT {
                    self.min_rtt_at = now;
                }
            }
            Some(_) | None => {
                self.min_rtt = Some(rtt);
                self.min_rtt_at = now;
            }
        }
    }

    /// While the path is not known yet the window grows with what arrives; afterwards up to its
    /// target only.
    fn grow_window(&mut self, acked: u64) {
        let target = self.target();
        if self.phase.is_filling() {
            if self.window < target || self.rate.max() == 0 {
                self.window += acked;
            }
        } else {
            self.window = (self.window + acked).min(target);
        }
        self.window = self.window.max(self.min_window());
    }

    /// What may be in flight on a path that is known.
    fn target(&self) -> u64 {
        let late = self.rate.max() as f64 * HOST_DELAY.as_secs_f64();
        self.product(WINDOW_GAIN) + late as u64 + 3 * self.packet
    }

    /// The product of rate and round-trip time, times a gain.
    fn product(&self, gain: f64) -> u64 {
        let Some(rtt) = self.min_rtt.filter(|_| self.rate.max() > 0) else {
            return self.initial_window();
        };
        (gain * self.rate.max() as f64 * rtt.as_secs_f64()) as u64
    }

    const fn min_window(&self) -> u64 {
        MIN_PACKETS * self.packet
    }

    const fn next_seed(&mut self) -> u64 {
        self.seed = self
            .seed
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        self.seed
    }
}
