//! Whether two runs differ: medians, their ratio with an interval, and a verdict.
//!
//! The interval is a bootstrap's: the rounds of both runs are drawn again, with replacement, as often
//! as [`DRAWS`], from a seed, so that the same files give the same answer. A verdict needs
//! [`LEAST_ROUNDS`] of either run and an interval that leaves out every ratio within [`MARGIN`] of
//! one: two runs of the same on a shared machine differ by some percent, and nobody minds those.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::results::{Record, shown, spread};

/// How often the rounds are drawn.
pub const DRAWS: usize = 4_000;
/// The share of the draws' ratios that the interval holds.
pub const CONFIDENCE: f64 = 0.95;
/// What a difference must be beyond.
pub const MARGIN: f64 = 0.03;
/// Rounds that either run must have: of fewer, all of one run lie above all of the other by chance
/// too often (one time in ten with three).
pub const LEAST_ROUNDS: usize = 4;
/// The name of the figure that is made of all rates.
pub const OVERALL: &str = "all rates";

/// What two runs say of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The second is better.
    Faster,
    /// The second is worse.
    Slower,
    /// The interval does not tell them apart.
    NoDifference,
    /// One of them has too few rounds for an answer.
    TooFewRounds,
}

/// One figure in both runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Of which system.
    pub system: String,
    /// Which figure.
    pub metric: String,
    /// What it counts.
    pub unit: String,
    /// The medians of the first and the second run.
    pub medians: [f64; 2],
    /// How many rounds they have.
    pub rounds: [usize; 2],
    /// The second median as a multiple of the first.
    pub ratio: f64,
    /// The interval of that.
    pub interval: [f64; 2],
    /// What follows.
    pub verdict: Verdict,
}

impl Verdict {
    /// The verdict in words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Faster => "faster",
            Self::Slower => "slower",
            Self::NoDifference => "no difference shown",
            Self::TooFewRounds => "no difference shown: too few rounds",
        }
    }
}

/// Compares every figure that both runs have; at the end all rates of each system together, as the
/// geometric mean of their ratios.
#[must_use]
pub fn compare(first: &[Record], second: &[Record], seed: u64) -> Vec<Difference> {
    let mut random = Random(seed);
    let mut found: Vec<Difference> = Vec::new();
    let mut rates: Vec<(String, Draws)> = Vec::new();
    for record in first {
        let (system, metric) = (&record.system, &record.metric);
        let is_known = |one: &Difference| one.system == *system && one.metric == *metric;
        if found.iter().any(is_known) {
            continue;
        }
        let samples = [values(first, record), values(second, record)];
        let Some(draws) = Draws::of(&samples, &mut random) else {
            continue;
        };
        found.push(draws.difference(record, is_less_better(&record.unit)));
        if is_rate(&record.unit) {
            rates.push((system.clone(), draws));
        }
    }
    let mut systems: Vec<&String> = rates.iter().map(|(system, _)| system).collect();
    systems.dedup();
    let overall: Vec<Difference> = systems
        .into_iter()
        .filter_map(|system| {
            let own = rates.iter().filter(|(of, _)| of == system);
            overall(system, &own.map(|(_, draws)| draws).collect::<Vec<_>>())
        })
        .collect();
    found.extend(overall);
    found
}

/// The comparison as lines of text.
#[must_use]
pub fn table(differences: &[Difference]) -> String {
    let width = differences
        .iter()
        .map(|one| one.system.len() + one.metric.len() + 1)
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for one in differences {
        let name = format!("{} {}", one.system, one.metric);
        let [before, after] = one.medians.map(shown);
        let [low, high] = one.interval.map(percent);
        let _ = writeln!(
            text,
            "{name:<width$}  {before:>10} -> {after:>10} {:<8} {:>8} ({low} .. {high})  {}",
            one.unit,
            percent(one.ratio),
            one.verdict.words()
        );
    }
    text
}

/// The comparison as one value.
#[must_use]
pub fn value(differences: &[Difference]) -> Value {
    let differences = differences.iter().map(|one| {
        json!({
            "system": one.system,
            "metric": one.metric,
            "unit": one.unit,
            "medians": one.medians,
            "rounds": one.rounds,
            "ratio": one.ratio,
            "interval": one.interval,
            "verdict": one.verdict.words(),
        })
    });
    Value::Array(differences.collect())
}

/// Whether less of a unit is better.
#[must_use]
pub fn is_less_better(unit: &str) -> bool {
    !(is_rate(unit) || unit == "x bare")
}

/// Whether a unit counts what passes per second.
fn is_rate(unit: &str) -> bool {
    unit.ends_with("bit/s") || unit.starts_with("1/s")
}

fn values(records: &[Record], like: &Record) -> Vec<f64> {
    let same = |record: &&Record| record.system == like.system && record.metric == like.metric;
    records.iter().filter(same).map(|one| one.value).collect()
}

/// Logarithms of the ratio of two runs' medians: as they are, and of every draw.
#[derive(Debug)]
struct Draws {
    medians: [f64; 2],
    rounds: [usize; 2],
    ratio: f64,
    drawn: Vec<f64>,
}

impl Draws {
    /// None unless both runs have the figure and it is above zero: of zero there is no ratio.
    fn of(samples: &[Vec<f64>; 2], random: &mut Random) -> Option<Self> {
        let [first, second] = samples;
        if samples.iter().flatten().any(|value| *value <= 0.0) {
            return None;
        }
        let medians = [spread(first)?.median, spread(second)?.median];
        let mut drawn = Vec::with_capacity(DRAWS);
        for _ in 0..DRAWS {
            let first = spread(&random.draw(first))?.median;
            let second = spread(&random.draw(second))?.median;
            drawn.push((second / first).ln());
        }
        let [before, after] = medians;
        Some(Self {
            medians,
            rounds: [first.len(), second.len()],
            ratio: (after / before).ln(),
            drawn,
        })
    }

    fn difference(&self, like: &Record, less: bool) -> Difference {
        let mut sorted = self.drawn.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = (share * sorted.len().saturating_sub(1) as f64).round() as usize;
            sorted.get(place).copied().unwrap_or(self.ratio).exp()
        };
        let tail = (1.0 - CONFIDENCE) / 2.0;
        let interval = [at(tail), at(1.0 - tail)];
        Difference {
            system: like.system.clone(),
            metric: like.metric.clone(),
            unit: like.unit.clone(),
            medians: self.medians,
            rounds: self.rounds,
            ratio: self.ratio.exp(),
            interval,
            verdict: verdict(self.rounds, interval, less),
        }
    }
}

fn verdict(rounds: [usize; 2], [low, high]: [f64; 2], less: bool) -> Verdict {
    let (is_more, is_less) = (low > 1.0 + MARGIN, high < 1.0 - MARGIN);
    match (is_more, is_less) {
        _ if rounds.iter().any(|count| *count < LEAST_ROUNDS) => Verdict::TooFewRounds,
        (true, _) if less => Verdict::Slower,
        (true, _) => Verdict::Faster,
        (_, true) if less => Verdict::Faster,
        (_, true) => Verdict::Slower,
        (false, false) => Verdict::NoDifference,
    }
}

/// The geometric mean of all ratios, in every draw.
fn overall(system: &str, rates: &[&Draws]) -> Option<Difference> {
    let first = rates.first()?;
    let count = rates.len() as f64;
    let mean = |of: &dyn Fn(&Draws) -> Option<f64>| -> Option<f64> {
        let sum: Option<f64> = rates.iter().map(|draws| of(draws)).sum();
        Some(sum? / count)
    };
    let ratio = mean(&|draws| Some(draws.ratio))?;
    let drawn: Option<Vec<f64>> = (0..DRAWS)
        .map(|draw| mean(&|draws| draws.drawn.get(draw).copied()))
        .collect();
    let all = Draws {
        medians: [1.0, ratio.exp()],
        rounds: first.rounds,
        ratio,
        drawn: drawn?,
    };
    let like = Record {
        round: 0,
        system: system.to_owned(),
        metric: OVERALL.to_owned(),
        value: 1.0,
        unit: "x".to_owned(),
    };
    Some(all.difference(&like, false))
}

/// How much more or less a ratio is.
fn percent(ratio: f64) -> String {
    format!("{:+.1} %", (ratio - 1.0) * 100.0)
}

/// SplitMix64: enough to draw rounds with.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// As many values as there are, with replacement.
    fn draw(&mut self, values: &[f64]) -> Vec<f64> {
        let count = values.len() as u64;
        (0..count)
            .filter_map(|_| values.get((self.next() % count) as usize).copied())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(metric: &str, unit: &str, values: &[f64]) -> Vec<Record> {
        (1..)
            .zip(values)
            .map(|(round, value)| Record {
                round,
                system: "overlay".to_owned(),
                metric: metric.to_owned(),
                value: *value,
                unit: unit.to_owned(),
            })
            .collect()
    }

    fn verdict_of(unit: &str, first: &[f64], second: &[f64]) -> Verdict {
        let found = compare(&records("m", unit, first), &records("m", unit, second), 7);
        found.first().unwrap().verdict
    }

    const NOISY: [f64; 6] = [10.0, 11.0, 9.0, 10.5, 9.5, 10.2];

    #[test]
    fn what_is_faster_depends_on_the_unit() {
        let half = NOISY.map(|value| value / 2.0);
        assert_eq!(verdict_of("Mbit/s", &NOISY, &half), Verdict::Slower);
        assert_eq!(verdict_of("Mbit/s", &half, &NOISY), Verdict::Faster);
        assert_eq!(verdict_of("us", &NOISY, &half), Verdict::Faster);
        assert_eq!(verdict_of("s/GB", &half, &NOISY), Verdict::Slower);
    }

    #[test]
    fn noise_and_little_are_no_difference() {
        let again = [9.6, 10.1, 10.9, 9.2, 10.0, 10.4];
        assert_eq!(verdict_of("Mbit/s", &NOISY, &again), Verdict::NoDifference);
        // Surely more, and too little to matter.
        let (steady, more) = ([10.0; 6], [10.2; 6]);
        assert_eq!(verdict_of("Mbit/s", &steady, &more), Verdict::NoDifference);
        assert_eq!(
            verdict_of("Mbit/s", &NOISY[..3], &[5.0, 5.1, 5.2]),
            Verdict::TooFewRounds
        );
    }

    #[test]
    fn the_interval_holds_the_ratio_and_follows_from_the_seed() {
        let (first, second) = (
            records("m", "us", &NOISY),
            records("m", "us", &NOISY.map(|value| value * 1.5)),
        );
        let found = compare(&first, &second, 1);
        assert_eq!(found, compare(&first, &second, 1));
        let one = found.first().unwrap();
        let [low, high] = one.interval;
        assert!(low <= one.ratio && one.ratio <= high, "{one:?}");
        assert!((one.ratio - 1.5).abs() < 1e-9, "{one:?}");
        assert!(low > 1.2 && high < 1.9, "{one:?}");
    }

    #[test]
    fn all_rates_together_have_a_line_and_zeros_none() {
        let two = |factor: f64| {
            let mut all = records("up", "Mbit/s", &NOISY.map(|value| value * factor));
            all.extend(records(
                "down",
                "Mbit/s",
                &NOISY.map(|value| value * factor),
            ));
            all.extend(records("lost", "%", &[0.0; 6]));
            all
        };
        let found = compare(&two(1.0), &two(0.25), 3);
        let names: Vec<&str> = found.iter().map(|one| one.metric.as_str()).collect();
        assert_eq!(names, ["up", "down", OVERALL]);
        let all = found.last().unwrap();
        assert!((all.ratio - 0.25).abs() < 1e-9, "{all:?}");
        assert_eq!(all.verdict, Verdict::Slower);
        let text = table(&found);
        assert!(
            text.contains("-75.0 %") && text.contains("slower"),
            "{text}"
        );
        assert_eq!(value(&found)[2]["verdict"], "slower");
    }
}
