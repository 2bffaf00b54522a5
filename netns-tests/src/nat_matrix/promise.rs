//! What the project promises of nodes behind NATs, and whether it was kept: run by run, and for each
//! case over all of its runs.
//!
//! Which path a case should have is [`Expected`]'s; how results look on paper is `report`'s.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::case::{Case, Expected};
use super::report::Row;
use super::trial::{Outcome, Way};

/// The longest from the first fetch, with nothing sent between the nodes before, to its first byte:
/// through the relay if need be, and over TCP where no UDP gets through.
pub const FIRST_BYTE_LIMIT: Duration = Duration::from_millis(1500);
/// Of a hundred runs of a sprayed pair, so many get direct in time.
pub const SPRAYED_PERCENT: usize = 90;
/// So many runs of a sprayed pair say whether that is so; fewer say little.
pub const ENOUGH_RUNS: usize = 10;

/// What one run says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// All that is promised.
    Yes,
    /// A sprayed pair was connected, but not directly in time: some runs may end so.
    Missed,
    /// Not what is promised.
    No,
}

impl Kept {
    /// Judges one run of a case.
    #[must_use]
    pub fn of(case: Case, outcome: &Outcome) -> Self {
        let soon = outcome.first_byte.is_some_and(|at| at <= FIRST_BYTE_LIMIT);
        if !soon || outcome.fault.is_some() {
            return Self::No;
        }
        let expected = case.expected();
        let in_time = match (outcome.direct, expected.limit()) {
            (Some(took), Some(limit)) => took <= limit,
            (None, _) | (Some(_), None) => false,
        };
        match (outcome.path, expected) {
            (Way::Mixed | Way::None, _) | (Way::Relay, Expected::Direct) => Self::No,
            (Way::Direct | Way::Relay, Expected::Relayed) => Self::Yes,
            (Way::Direct, Expected::Direct) if in_time => Self::Yes,
            (Way::Direct, Expected::Direct) => Self::No,
            (Way::Direct, Expected::Sprayed) if in_time => Self::Yes,
            (Way::Direct | Way::Relay, Expected::Sprayed) => Self::Missed,
        }
    }

    /// The word in tables.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Yes => "kept",
            Self::Missed => "missed",
            Self::No => "not kept",
        }
    }
}

/// What all runs of a case say together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// The case.
    pub case: Case,
    /// Its runs.
    pub runs: usize,
    /// Those that kept the promise.
    pub kept: usize,
    /// Those that broke it; what is in neither was missed by a sprayed pair.
    pub broken: usize,
}

/// What becomes of a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// It was kept.
    Kept,
    /// It was not.
    Broken,
    /// It is one about many runs, and there were few.
    Open,
}

impl Promise {
    /// The word in lists for programs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Broken => "not kept",
            Self::Open => "open",
        }
    }
}

impl Verdict {
    /// Whether the promise was kept.
    #[must_use]
    pub fn promise(&self) -> Promise {
        if self.broken > 0 || self.runs == 0 {
            return Promise::Broken;
        }
        match self.case.expected() {
            Expected::Direct | Expected::Relayed => Promise::Kept,
            Expected::Sprayed if self.runs < ENOUGH_RUNS => Promise::Open,
            Expected::Sprayed if self.kept * 100 >= self.runs * SPRAYED_PERCENT => Promise::Kept,
            Expected::Sprayed => Promise::Broken,
        }
    }

    /// The part of the runs that kept the promise.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.kept as f64 / self.runs.max(1) as f64
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (runs, kept) = (self.runs, self.kept);
        match self.promise() {
            Promise::Open => write!(f, "{kept} of {runs}"),
            said @ (Promise::Kept | Promise::Broken) => {
                write!(f, "{}: {kept} of {runs}", said.word())
            }
        }
    }
}

/// The verdict on each case, in the order of the first run of each.
#[must_use]
pub fn verdicts(rows: &[Row]) -> Vec<Verdict> {
    let mut places: BTreeMap<Case, usize> = BTreeMap::new();
    let mut verdicts: Vec<Verdict> = Vec::new();
    for row in rows {
        let at = *places.entry(row.case).or_insert(verdicts.len());
        if at == verdicts.len() {
            verdicts.push(Verdict {
                case: row.case,
                runs: 0,
                kept: 0,
                broken: 0,
            });
        }
        let Some(verdict) = verdicts.get_mut(at) else {
            continue;
        };
        verdict.runs += 1;
        match Kept::of(row.case, &row.outcome) {
            Kept::Yes => verdict.kept += 1,
            Kept::Missed => {}
            Kept::No => verdict.broken += 1,
        }
    }
    verdicts
}

/// The cases whose promise was not kept; empty if all is as promised, or still open.
#[must_use]
pub fn broken(rows: &[Row]) -> Vec<Verdict> {
    let mut verdicts = verdicts(rows);
    verdicts.retain(|verdict| verdict.promise() == Promise::Broken);
    verdicts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat_matrix::report::tests::row;

    fn kept(pair: &str, path: Way, direct: Option<u64>) -> Kept {
        let row = row(pair, path, direct);
        Kept::of(row.case, &row.outcome)
    }

    #[test]
    fn one_run_keeps_its_promise_or_not() {
        assert_eq!(kept("port:port", Way::Direct, Some(4999)), Kept::Yes);
        assert_eq!(kept("port:port", Way::Direct, Some(5001)), Kept::No);
        assert_eq!(kept("port:port", Way::Relay, None), Kept::No);
        assert_eq!(kept("port:symmetric", Way::Direct, Some(14_000)), Kept::Yes);
        assert_eq!(
            kept("port:symmetric", Way::Direct, Some(15_001)),
            Kept::Missed
        );
        assert_eq!(kept("port:symmetric", Way::Relay, None), Kept::Missed);
        assert_eq!(kept("port:symmetric", Way::Mixed, None), Kept::No);
        assert_eq!(kept("blocked:port", Way::Relay, None), Kept::Yes);
        assert_eq!(kept("blocked:port", Way::None, None), Kept::No);
    }

    #[test]
    fn a_late_first_byte_or_a_fault_breaks_every_promise() {
        let paths = [
            ("port:port", Way::Direct, Some(1000)),
            ("port:symmetric", Way::Relay, None),
            ("blocked:port", Way::Relay, None),
        ];
        for (pair, path, direct) in paths {
            let mut row = row(pair, path, direct);
            row.outcome.first_byte = Some(FIRST_BYTE_LIMIT);
            assert_ne!(Kept::of(row.case, &row.outcome), Kept::No, "{pair}");
            let late = FIRST_BYTE_LIMIT + Duration::from_millis(1);
            for first_byte in [Some(late), None] {
                row.outcome.first_byte = first_byte;
                assert_eq!(Kept::of(row.case, &row.outcome), Kept::No, "{pair}");
            }
            row.outcome.first_byte = Some(FIRST_BYTE_LIMIT);
            row.outcome.fault = Some("the rate could not be measured".to_owned());
            assert_eq!(Kept::of(row.case, &row.outcome), Kept::No, "{pair}");
        }
    }

    /// So many runs of a sprayed pair, of which so many were relayed.
    fn sprayed(runs: usize, relayed: usize) -> Vec<Row> {
        let row = |run: usize| match run < relayed {
            true => row("port:symmetric", Way::Relay, None),
            false => row("port:symmetric", Way::Direct, Some(9000)),
        };
        (0..runs).map(row).collect()
    }

    #[test]
    fn sprayed_pairs_are_judged_by_their_rate_over_enough_runs() {
        for (runs, relayed, promise, shown) in [
            (20, 2, Promise::Kept, "kept: 18 of 20"),
            (20, 3, Promise::Broken, "not kept: 17 of 20"),
            (10, 1, Promise::Kept, "kept: 9 of 10"),
            (10, 2, Promise::Broken, "not kept: 8 of 10"),
            (9, 9, Promise::Open, "0 of 9"),
            (1, 0, Promise::Open, "1 of 1"),
        ] {
            let rows = sprayed(runs, relayed);
            let verdicts = verdicts(&rows);
            assert_eq!(verdicts.len(), 1);
            assert_eq!(verdicts[0].promise(), promise, "{shown}");
            assert_eq!(verdicts[0].to_string(), shown);
            assert_eq!(broken(&rows).len(), usize::from(promise == Promise::Broken));
        }
    }

    #[test]
    fn one_broken_run_breaks_the_promise_of_its_case_only() {
        let mut rows = sprayed(20, 0);
        rows.push(row("port:port", Way::Direct, Some(1000)));
        rows.push(row("port:port", Way::Relay, None));
        assert_eq!(broken(&rows).len(), 1);
        assert_eq!(broken(&rows)[0].to_string(), "not kept: 1 of 2");
        rows.push(row("port:symmetric", Way::None, None));
        assert_eq!(broken(&rows).len(), 2);
        assert!(broken(&[]).is_empty());
    }
}
