//! What is being tried: the states of the controller and what ends each.
//!
//! ```text
//! Start --pipe full--> Drain --queue gone--> Cruise -> Up -> Down -> Cruise ...
//!                                 any but Start --round-trip time is old--> Rtt --> Cruise
//! ```

use std::time::{Duration, Instant};

/// The least gain that doubles the rate each round (4 ln 2, of the draft).
const START_GAIN: f64 = 2.77;
/// Its inverse, about.
const DRAIN_GAIN: f64 = 0.35;
/// How much faster than the estimate a probe is.
const UP_GAIN: f64 = 1.25;
/// How much slower the round after it is.
const DOWN_GAIN: f64 = 0.75;
/// The window while the round-trip time is probed.
const RTT_GAIN: f64 = 0.5;
/// How long that lasts once so little is in flight; flows that share a queue see it empty.
const RTT_TIME: Duration = Duration::from_millis(200);
/// Rounds between probes, and how many more at random.
const CRUISE_ROUNDS: u64 = 4;
const CRUISE_SPREAD: u64 = 3;
/// The growth of the estimate that makes a probe or the start go on.
const GROWTH: f64 = 1.2;
/// How long a probe waits to see growth, in round trips.
const UP_ROUNDS: f64 = 2.25;
/// The round-trip time, in smallest ones, that shows that a probe only makes a queue.
const QUEUED: f64 = 1.125;
/// Rounds without growth that end the start.
const FULL_ROUNDS: u32 = 3;

/// Rounds after which a queue that does not go is not ours.
const MAX_DRAIN_ROUNDS: u32 = 8;
const DRAIN: Phase = Phase::Drain { rounds: 0 };
const DOWN: Phase = Phase::Down { rounds: 0 };

/// A state.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Phase {
    /// The rate is doubled each round.
    Start {
        /// The best rate so far that was growth.
        best: u64,
        /// Rounds without growth since.
        flat: u32,
    },
    /// The queue that the start has made drains.
    Drain {
        /// Rounds so far.
        rounds: u32,
    },
    /// At the estimate, for some more rounds.
    Cruise {
        /// How many.
        rounds: u64,
    },
    /// Faster than the estimate.
    Up {
        /// Since then.
        since: Instant,
        /// From that rate.
        from: u64,
    },
    /// Slower, until the queue is gone.
    Down {
        /// Rounds so far.
        rounds: u32,
    },
    /// Little in flight, to see the round-trip time of an empty queue.
    Rtt {
        /// Until then, once little enough is in flight.
        until: Option<Instant>,
        /// The smallest seen meanwhile.
        min: Option<Duration>,
    },
}

/// What a batch of acknowledgements has shown.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) now: Instant,
    pub(super) new_round: bool,
    pub(super) limited: bool,
    /// The estimate.
    pub(super) rate: u64,
    /// Whether the round that has ended lost too much.
    pub(super) excess: bool,
    pub(super) rtt: Duration,
    pub(super) min_rtt: Duration,
    pub(super) rtt_expired: bool,
    pub(super) in_flight: u64,
    /// Rate times round-trip time, in bytes.
    pub(super) product: u64,
    pub(super) min_window: u64,
}

/// What the end of a phase means for the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// A probe of the rate is done, and did not lose too much.
    Probed,
    /// The smallest round-trip time is known anew.
    RttProbed(Duration),
}

impl Phase {
    pub(super) const fn start() -> Self {
        Self::Start { best: 0, flat: 0 }
    }

    /// Whether the path's rate is still being found.
    pub(super) const fn is_filling(self) -> bool {
        matches!(self, Self::Start { .. })
    }

    pub(super) const fn pacing_gain(self) -> f64 {
        match self {
            Self::Start { .. } => START_GAIN,
            Self::Drain { .. } => DRAIN_GAIN,
            Self::Cruise { .. } | Self::Rtt { .. } => 1.0,
            Self::Up { .. } => UP_GAIN,
            Self::Down { .. } => DOWN_GAIN,
        }
    }

    /// Whether less is sent than the path would take, so that what arrives says nothing of it.
    pub(super) const fn holds_back(self) -> bool {
        matches!(self, Self::Rtt { .. })
    }

    /// A window, in products, that is smaller than usual.
    pub(super) const fn window_gain(self) -> Option<f64> {
        match self {
            Self::Rtt { .. } => Some(RTT_GAIN),
            Self::Start { .. }
            | Self::Drain { .. }
            | Self::Cruise { .. }
            | Self::Up { .. }
            | Self::Down { .. } => None,
        }
    }

    /// Goes on to the next state if it is time.
    pub(super) fn after(&mut self, seen: &Seen, seed: u64) -> Option<Change> {
        if seen.rtt_expired && !matches!(self, Self::Start { .. } | Self::Rtt { .. }) {
            *self = Self::Rtt {
                until: None,
                min: None,
            };
        }
        match *self {
            Self::Start { best, flat } => {
                *self = start(best, flat, seen);
                None
            }
            Self::Drain { rounds } => {
                *self = match drained(rounds, seen) {
                    Some(rounds) => Self::Drain { rounds },
                    None => cruise(seed),
                };
                None
            }
            Self::Down { rounds } => {
                *self = match drained(rounds, seen) {
                    Some(rounds) => Self::Down { rounds },
                    None => cruise(seed),
                };
                None
            }
            Self::Cruise { rounds } => {
                if seen.new_round {
                    *self = match rounds.checked_sub(1) {
                        Some(rounds) => Self::Cruise { rounds },
                        None => up(seen),
                    };
                }
                None
            }
            Self::Up { since, from } => self.probe(since, from, seen),
            Self::Rtt { until, min } => self.probe_rtt(until, min, seen, seed),
        }
    }

    fn probe(&mut self, since: Instant, from: u64, seen: &Seen) -> Option<Change> {
        if seen.excess {
            *self = DOWN;
            return None;
        }
        let elapsed = seen.now.saturating_duration_since(since);
        if seen.rate as f64 >= from as f64 * GROWTH {
            *self = up(seen);
            return None;
        }
        let full = seen.in_flight as f64 >= UP_GAIN * seen.product as f64;
        let queued = seen.rtt.as_secs_f64() >= QUEUED * seen.min_rtt.as_secs_f64();
        // What is sent faster is acknowledged a round trip later, and a rate is one over a round
        // trip: without a queue that long is waited for it.
        let over = elapsed >= seen.min_rtt && full && queued
            || elapsed.as_secs_f64() >= UP_ROUNDS * seen.min_rtt.as_secs_f64();
        if !over {
            return None;
        }
        *self = DOWN;
        Some(Change::Probed)
    }

    fn probe_rtt(
        &mut self,
        until: Option<Instant>,
        min: Option<Duration>,
        seen: &Seen,
        seed: u64,
    ) -> Option<Change> {
        let little = ((seen.product as f64 * RTT_GAIN) as u64).max(seen.min_window);
        let until = until
            .or_else(|| (seen.in_flight <= little).then(|| seen.now + RTT_TIME.max(seen.min_rtt)));
        // The minimum before it got empty counts as well: it was really seen.
        let min = Some(min.map_or(seen.rtt, |min| min.min(seen.rtt)));
        *self = Self::Rtt { until, min };
        if until.is_some_and(|until| seen.now >= until) {
            *self = cruise(seed);
            return min.map(Change::RttProbed);
        }
        None
    }
}

fn start(best: u64, flat: u32, seen: &Seen) -> Phase {
    if seen.excess {
        return DRAIN;
    }
    if !seen.new_round || seen.limited {
        return Phase::Start { best, flat };
    }
    if seen.rate as f64 >= best as f64 * GROWTH {
        return Phase::Start {
            best: seen.rate,
            flat: 0,
        };
    }
    if flat + 1 >= FULL_ROUNDS {
        return DRAIN;
    }
    Phase::Start {
        best,
        flat: flat + 1,
    }
}

/// The rounds of draining so far, or nothing when it is over.
fn drained(rounds: u32, seen: &Seen) -> Option<u32> {
    let rounds = rounds + u32::from(seen.new_round);
    let gone = seen.in_flight <= seen.product.max(seen.min_window);
    (!gone && rounds < MAX_DRAIN_ROUNDS).then_some(rounds)
}

const fn up(seen: &Seen) -> Phase {
    Phase::Up {
        since: seen.now,
        from: seen.rate,
    }
}

const fn cruise(seed: u64) -> Phase {
    Phase::Cruise {
        rounds: CRUISE_ROUNDS + (seed >> 33) % (CRUISE_SPREAD + 1),
    }
}
