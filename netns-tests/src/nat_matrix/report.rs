//! The matrix on paper: a table for people and a list for programs, both with where they come from.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::case::Case;
use super::promise::{Kept, Promise, Verdict, verdicts};
use super::trial::{Outcome, Way};

/// Where results come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The command that measures this again.
    pub command: String,
    /// The commit that was measured; ends with `+` if the tree had changes besides.
    pub commit: String,
}

/// A case, which run of it this is, and what came out.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The case.
    pub case: Case,
    /// Counts the runs of a case, from 1.
    pub run: u32,
    /// What came out.
    pub outcome: Outcome,
}

impl Row {
    /// Whether this is what the project promises.
    #[must_use]
    pub fn kept(&self) -> Kept {
        Kept::of(self.case, &self.outcome)
    }

    fn json(&self, origin: &Origin) -> Value {
        let outcome = &self.outcome;
        json!({
            "pair": self.case.pair.to_string(),
            "router": self.case.router.word(),
            "ip": self.case.ip.word(),
            "path": outcome.path.word(),
            "seconds_to_first_byte": seconds(outcome.first_byte),
            "seconds_to_direct": seconds(outcome.direct),
            "rate": outcome.rate_bits_per_sec.map(megabits),
            "run": self.run,
            "fault": outcome.fault,
            "command": origin.command,
            "commit": origin.commit,
        })
    }

    /// The row of a table, columns as in [`HEADER`].
    #[must_use]
    pub fn line(&self) -> String {
        let outcome = &self.outcome;
        let number = |number: Option<f64>| {
            number.map_or_else(|| "-".to_owned(), |number| format!("{number:.2}"))
        };
        let rate = outcome.rate_bits_per_sec.map(megabits);
        format!(
            "| {:<24} | {:<7} | {:<7} | {:<6} | {:>10} | {:>9} | {:>8} | {:<8} |",
            self.case.pair.to_string(),
            self.case.router.word(),
            self.case.ip.word(),
            outcome.path.word(),
            number(seconds(outcome.first_byte)),
            number(seconds(outcome.direct)),
            rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}")),
            self.kept().word(),
        )
    }
}

/// The head of the table. Times are seconds from the first fetch, rates Mbit/s.
pub const HEADER: &str = "\
| pair                     | router  | ip      | path   | first byte | to direct | Mbit/s   | promise  |
|--------------------------|---------|---------|--------|------------|-----------|----------|----------|";

/// The list for programs.
#[must_use]
pub fn list(rows: &[Row], origin: &Origin) -> Value {
    rows.iter().map(|row| row.json(origin)).collect()
}

/// The head of the table of cases. The rate is the part of the runs that were as promised.
pub const CASES_HEADER: &str = "\
| pair                     | router  | ip      | rate | promise            |
|--------------------------|---------|---------|------|--------------------|";

/// The verdict on each case, for programs.
#[must_use]
pub fn cases(rows: &[Row], origin: &Origin) -> Value {
    let verdicts = verdicts(rows);
    let case = |verdict: &Verdict| {
        json!({
            "pair": verdict.case.pair.to_string(),
            "router": verdict.case.router.word(),
            "ip": verdict.case.ip.word(),
            "expected": verdict.case.expected().word(),
            "runs": verdict.runs,
            "kept": verdict.kept,
            "broken": verdict.broken,
            "rate": rounded(verdict.rate()),
            "promise": verdict.promise().word(),
            "command": origin.command,
            "commit": origin.commit,
        })
    };
    verdicts.iter().map(case).collect()
}

/// The row of the table of cases.
fn case_line(verdict: &Verdict) -> String {
    format!(
        "| {:<24} | {:<7} | {:<7} | {:>4.2} | {:<18} |",
        verdict.case.pair.to_string(),
        verdict.case.router.word(),
        verdict.case.ip.word(),
        rounded(verdict.rate()),
        verdict.to_string(),
    )
}

/// The table as a page, with what was counted over all rows.
#[must_use]
pub fn page(rows: &[Row], origin: &Origin) -> String {
    let mut page = format!(
        "# Pairs of nodes behind NATs\n\n`{}` at commit {}.\n\n{HEADER}\n",
        origin.command, origin.commit
    );
    // Writing to a String cannot fail.
    for row in rows {
        let _ = writeln!(page, "{}", row.line());
    }
    let _ = writeln!(page, "\n{}", summary(rows));
    for row in rows {
        if let Some(fault) = &row.outcome.fault {
            let case = row.case;
            let (router, ip) = (case.router.word(), case.ip.word());
            let fault = fault.lines().next().unwrap_or_default();
            let _ = writeln!(page, "\n* {} {router} {ip}: {fault}", case.pair);
        }
    }
    page
}

/// How many rows and cases there are of each kind; and the cases one by one, if any has several runs or
/// is not as promised.
#[must_use]
pub fn summary(rows: &[Row]) -> String {
    let count = |holds: &dyn Fn(&Row) -> bool| rows.iter().filter(|row| holds(row)).count();
    let connected = count(&|row| row.outcome.first_byte.is_some());
    let direct = count(&|row| row.outcome.path == Way::Direct);
    let relayed = count(&|row| row.outcome.path == Way::Relay);
    let kept = count(&|row| row.kept() == Kept::Yes);
    let verdicts = verdicts(rows);
    let of = |promise| verdicts.iter().filter(move |it| it.promise() == promise);
    let mut text = format!(
        "{} runs: {connected} connected, {direct} direct, {relayed} relayed, {kept} as promised.\n\
         {} cases: {} kept, {} not kept, {} with too few runs to say.",
        rows.len(),
        verdicts.len(),
        of(Promise::Kept).count(),
        of(Promise::Broken).count(),
        of(Promise::Open).count(),
    );
    let told = |verdict: &&Verdict| verdict.runs > 1 || verdict.promise() == Promise::Broken;
    let lines: Vec<String> = verdicts.iter().filter(told).map(case_line).collect();
    if !lines.is_empty() {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n\n{CASES_HEADER}\n{}", lines.join("\n"));
    }
    text
}

fn rounded(rate: f64) -> f64 {
    (rate * 100.0).round() / 100.0
}

fn seconds(time: Option<Duration>) -> Option<f64> {
    time.map(|time| (time.as_secs_f64() * 1000.0).round() / 1000.0)
}

fn megabits(bits: f64) -> f64 {
    (bits / 1e5).round() / 10.0
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::nat_matrix::case::{Families, Flavour};

    pub(in super::super) fn row(pair: &str, path: Way, direct: Option<u64>) -> Row {
        Row {
            case: Case {
                pair: pair.parse().unwrap(),
                router: Flavour::Drops,
                ip: Families::V4,
            },
            run: 1,
            outcome: Outcome {
                path,
                first_byte: Some(Duration::from_millis(321)),
                direct: direct.map(Duration::from_millis),
                rate_bits_per_sec: Some(123_456_789.0),
                fault: None,
            },
        }
    }

    #[test]
    fn the_list_has_the_fields_that_are_promised() {
        let origin = Origin {
            command: "make nat-matrix".to_owned(),
            commit: "abc".to_owned(),
        };
        let list = list(&[row("cone:symmetric", Way::Direct, Some(1500))], &origin);
        let expected = json!([{
            "pair": "cone:symmetric", "router": "drops", "ip": "v4", "path": "direct",
            "seconds_to_first_byte": 0.321, "seconds_to_direct": 1.5, "rate": 123.5,
            "run": 1, "fault": null, "command": "make nat-matrix", "commit": "abc",
        }]);
        assert_eq!(list, expected);
    }

    #[test]
    fn cases_are_told_with_their_rates() {
        let origin = Origin {
            command: "make nat-matrix".to_owned(),
            commit: "abc".to_owned(),
        };
        let mut rows: Vec<Row> = (0..10)
            .map(|_| row("port:symmetric", Way::Direct, Some(9000)))
            .collect();
        rows.push(row("port:symmetric", Way::Relay, None));
        rows.push(row("port:port", Way::Direct, Some(5001)));
        let list = cases(&rows, &origin);
        assert_eq!(
            list[0],
            json!({
                "pair": "port:symmetric", "router": "drops", "ip": "v4", "expected": "sprayed",
                "runs": 11, "kept": 10, "broken": 0, "rate": 0.91, "promise": "kept",
                "command": "make nat-matrix", "commit": "abc",
            })
        );
        assert_eq!(list[1]["promise"], "not kept");
        let page = page(&rows, &origin);
        for told in [
            "12 runs: 12 connected, 11 direct, 1 relayed, 10 as promised.",
            "2 cases: 1 kept, 1 not kept, 0 with too few runs to say.",
            "| port:symmetric           | drops   | v4      | 0.91 | kept: 10 of 11     |",
            "| port:port                | drops   | v4      | 0.00 | not kept: 0 of 1   |",
        ] {
            assert!(page.contains(told), "no {told:?} in:\n{page}");
        }
    }
}
