//! Whether the host has been away: asleep, or stopped with everything on it, as virtual machines are.
//!
//! Nobody says so. It shows in two clocks, of which only one goes on while the host sleeps, and in
//! looks that come far later than they should. Where it has been away, its networks may be others
//! now, and NATs have forgotten it.

use std::time::Duration;

/// How often it is to be looked.
pub const LOOK: Duration = Duration::from_secs(1);
/// Looks that come later than this, and clocks that drift apart by more, have had the host away:
/// longer than a busy machine takes, shorter than NATs remember.
pub const AWAY: Duration = Duration::from_secs(2);

/// The two clocks at a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// Time since the start of the host, with its sleep (`CLOCK_BOOTTIME`).
    pub with_sleep: Duration,
    /// The same without (`CLOCK_MONOTONIC`).
    pub without_sleep: Duration,
}

impl Clocks {
    fn asleep(self) -> Duration {
        self.with_sleep.saturating_sub(self.without_sleep)
    }
}

/// Remembers the last look.
#[derive(Debug, Clone, Copy)]
pub struct Awake {
    last: Clocks,
}

impl Awake {
    /// Awake at these clocks.
    #[must_use]
    pub const fn at(clocks: Clocks) -> Self {
        Self { last: clocks }
    }

    /// Takes what the clocks say now, at most [`LOOK`] after the last time; true if the host has been
    /// away in between.
    pub fn look(&mut self, now: Clocks) -> bool {
        let last = std::mem::replace(&mut self.last, now);
        let slept = now.asleep().saturating_sub(last.asleep());
        let passed = now.without_sleep.saturating_sub(last.without_sleep);
        slept >= AWAY || passed >= LOOK + AWAY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clocks(with_sleep: u64, without_sleep: u64) -> Clocks {
        Clocks {
            with_sleep: Duration::from_millis(with_sleep),
            without_sleep: Duration::from_millis(without_sleep),
        }
    }

    #[test]
    fn sleep_is_what_one_clock_has_and_the_other_has_not() {
        // It had slept for an hour before the first look.
        let mut awake = Awake::at(clocks(3_605_000, 5000));
        assert!(!awake.look(clocks(3_606_000, 6000)));
        assert!(awake.look(clocks(3_610_000, 7000)), "three seconds");
        assert!(!awake.look(clocks(3_611_000, 8000)), "it is told once");
        assert!(!awake.look(clocks(3_613_500, 9000)), "a second and a half");
        assert!(awake.look(clocks(90_000_000, 10_000)), "a day");
    }

    #[test]
    fn looks_that_do_not_come_were_not_made_by_anybody() {
        let mut awake = Awake::at(clocks(5000, 5000));
        assert!(!awake.look(clocks(7900, 7900)), "a busy machine");
        assert!(
            awake.look(clocks(10_900, 10_900)),
            "a machine that was stopped"
        );
        assert!(!awake.look(clocks(10_900, 10_900)));
        // Clocks that go back, which they do not, are no sleep.
        assert!(!awake.look(clocks(0, 0)));
    }
}
