//! What losses say: nothing below a threshold, that there is too much in flight above it.

/// The share of a round that may be lost without consequence. Radio links lose a few percent for
/// reasons of their own; a queue that overflows because of us loses as much as we send too much,
/// which is a quarter while probing.
pub const LOSS_TOLERANCE: f64 = 0.10;
/// The most loss that is made up for by sending more.
const MAX_EXPECTED: f64 = 0.05;
/// How much of the average a new round is.
const AVERAGING: f64 = 0.125;
/// What is left in flight of what lost too much.
const BACK_OFF: f64 = 0.85;
/// What a probe without too much loss adds to the ceiling.
const RAISE: f64 = 1.25;

/// Losses round by round.
#[derive(Debug, Clone)]
pub(super) struct Losses {
    delivered: u64,
    lost: u64,
    average: f64,
    ceiling: Option<u64>,
}

impl Losses {
    pub(super) const fn new() -> Self {
        Self {
            delivered: 0,
            lost: 0,
            average: 0.0,
            ceiling: None,
        }
    }

    pub(super) const fn note_delivered(&mut self, bytes: u64) {
        self.delivered += bytes;
    }

    pub(super) const fn note_lost(&mut self, bytes: u64) {
        self.lost += bytes;
    }

    /// Closes a round; whether too much was lost in it. Less than `least` lost bytes are chance.
    pub(super) fn end_round(&mut self, in_flight: u64, least: u64) -> bool {
        let (delivered, lost) = (self.delivered, self.lost);
        (self.delivered, self.lost) = (0, 0);
        if delivered + lost == 0 {
            return false;
        }
        let share = lost as f64 / (delivered + lost) as f64;
        let excess = share > LOSS_TOLERANCE && lost >= least;
        if excess {
            let carried = in_flight.max(delivered);
            let ceiling = (carried as f64 * BACK_OFF) as u64;
            self.ceiling = Some(self.ceiling.map_or(ceiling, |old| old.min(ceiling)));
        } else {
            self.average += AVERAGING * (share - self.average);
        }
        excess
    }

    /// A probe has found no excess: more may be in flight, until `enough` may be anyway.
    pub(super) fn raise_ceiling(&mut self, enough: u64) {
        self.ceiling = self
            .ceiling
            .map(|ceiling| (ceiling as f64 * RAISE) as u64 + 1)
            .filter(|ceiling| *ceiling < enough);
    }

    /// What may be in flight, if losses have shown it.
    pub(super) const fn ceiling(&self) -> Option<u64> {
        self.ceiling
    }

    /// The share that is lost on the way whatever is sent.
    pub(super) const fn expected(&self) -> f64 {
        self.average.min(MAX_EXPECTED)
    }
}
