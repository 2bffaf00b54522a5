//! The highest of the figures of the last rounds.

use std::collections::VecDeque;

/// Rounds that a figure counts for: longer than one cycle of probing, so that what the last probe
/// has found is not forgotten before the next.
const ROUNDS: u64 = 10;

/// A maximum over a window of rounds.
#[derive(Debug, Clone)]
pub(super) struct MaxFilter {
    /// By round, rising; the figures fall.
    figures: VecDeque<(u64, u64)>,
}

impl MaxFilter {
    pub(super) const fn new() -> Self {
        Self {
            figures: VecDeque::new(),
        }
    }

    pub(super) fn add(&mut self, round: u64, figure: u64) {
        while self.figures.back().is_some_and(|(_, last)| *last <= figure) {
            self.figures.pop_back();
        }
        // One figure for each round is enough.
        if self.figures.back().is_none_or(|(last, _)| *last != round) {
            self.figures.push_back((round, figure));
        }
        while self
            .figures
            .front()
            .is_some_and(|(oldest, _)| *oldest + ROUNDS < round)
        {
            self.figures.pop_front();
        }
    }

    pub(super) fn max(&self) -> u64 {
        self.figures.front().map_or(0, |(_, figure)| *figure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_maximum_of_the_window() {
        let figures = [5u64, 9, 2, 2, 8, 1, 1, 1, 1, 1, 1, 1, 3, 1, 1, 1, 7];
        let mut filter = MaxFilter::new();
        for (round, figure) in figures.iter().enumerate() {
            filter.add(round as u64, *figure);
            let window = &figures[round.saturating_sub(ROUNDS as usize)..=round];
            assert_eq!(filter.max(), *window.iter().max().unwrap(), "{round}");
        }
    }
}
