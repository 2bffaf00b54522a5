//! What a bench found, in the one form that all of them write: a JSON list of
//! `{round, system, metric, value, unit}`, and beside it what it was measured with.
//!
//! `NAME.json` holds the list, one record a line, so that files can be compared by any tool;
//! `NAME.about.json` the commit, the command, the machine and what could not be measured and why.
//! `netmanager bench` prints both as one value instead, [`Results::value_of_all`]. It measures nothing and
//! draws nothing itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use time::OffsetDateTime;

/// One number that was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The round, from 1; systems of one round were measured one after the other.
    pub round: u32,
    /// What was measured, such as `weald` or `raw`.
    pub system: String,
    /// Which of its properties, such as `tcp1`.
    pub metric: String,
    /// The number.
    pub value: f64,
    /// What it counts, such as `Gbit/s`.
    pub unit: String,
}

/// The records of a run, in the order of measuring, and how they came about.
#[derive(Debug, Clone)]
pub struct Results {
    about: About,
    records: Vec<Record>,
}

/// How a run came about.
#[derive(Debug, Clone)]
pub struct About {
    /// The commit that was measured, and `+` at its end says that files were changed; or the
    /// program and its version.
    pub commit: String,
    /// The command that repeats the run.
    pub command: String,
    /// The machine: processor, cores, kernel, memory.
    pub machine: BTreeMap<String, String>,
    /// When it began, in UTC as RFC 3339 has it.
    pub started: String,
    /// What was asked for and could not be measured, with the reason.
    pub missing: BTreeMap<String, String>,
    /// What a reader should know, such as versions of peers.
    pub notes: BTreeMap<String, String>,
}

/// The median of some values and how far they spread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The median; of an even number, the mean of the middle two.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
    /// How many there were.
    pub count: usize,
}

impl Results {
    /// An empty list of the tree in the working directory; `command` is what repeats the run,
    /// without paths of this machine.
    #[must_use]
    pub fn new(command: &str) -> Self {
        Self::of(&commit(), command)
    }

    /// An empty list of what `measured` names: a commit, or a program and its version.
    #[must_use]
    pub fn of(measured: &str, command: &str) -> Self {
        Self {
            about: About {
                commit: measured.to_owned(),
                command: command.to_owned(),
                machine: machine(),
                started: utc(SystemTime::now()),
                missing: BTreeMap::new(),
                notes: BTreeMap::new(),
            },
            records: Vec::new(),
        }
    }

    /// Adds a number.
    pub fn add(&mut self, round: u32, system: &str, metric: &str, value: f64, unit: &str) {
        self.records.push(Record {
            round,
            system: system.to_owned(),
            metric: metric.to_owned(),
            value,
            unit: unit.to_owned(),
        });
    }

    /// Says why a system, or one of its metrics, could not be measured.
    pub fn add_missing(&mut self, what: &str, reason: &str) {
        let reason = reason.to_owned();
        self.about.missing.insert(what.to_owned(), reason);
    }

    /// Says something that a reader should know.
    pub fn add_note(&mut self, what: &str, note: &str) {
        self.about.notes.insert(what.to_owned(), note.to_owned());
    }

    /// The records, in the order of measuring.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The systems, in the order of their first record.
    #[must_use]
    pub fn systems(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for record in &self.records {
            if !names.contains(&record.system.as_str()) {
                names.push(&record.system);
            }
        }
        names
    }

    /// The metrics of a system, in the order of their first record.
    #[must_use]
    pub fn metrics(&self, system: &str) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for record in &self.records {
            if record.system == system && !names.contains(&record.metric.as_str()) {
                names.push(&record.metric);
            }
        }
        names
    }

    /// What a metric counts; none if nothing has it.
    #[must_use]
    pub fn unit(&self, metric: &str) -> Option<&str> {
        let record = self.records.iter().find(|record| record.metric == metric)?;
        Some(&record.unit)
    }

    /// The whole as one value: `about` and `records`.
    #[must_use]
    pub fn value_of_all(&self) -> Value {
        let records: Vec<Value> = self.records.iter().map(Record::value).collect();
        json!({ "about": self.about.value(), "records": records })
    }

    /// How the run came about.
    #[must_use]
    pub fn about(&self) -> &About {
        &self.about
    }

    /// The value of a metric of a system in a round.
    #[must_use]
    pub fn value(&self, round: u32, system: &str, metric: &str) -> Option<f64> {
        let is_it = |record: &&Record| {
            record.round == round && record.system == system && record.metric == metric
        };
        self.records.iter().find(is_it).map(|record| record.value)
    }

    /// The rounds' values of a metric of a system.
    #[must_use]
    pub fn values(&self, system: &str, metric: &str) -> Vec<f64> {
        let is_it = |record: &&Record| record.system == system && record.metric == metric;
        self.records
            .iter()
            .filter(is_it)
            .map(|record| record.value)
            .collect()
    }

    /// The list as JSON text, one record a line.
    #[must_use]
    pub fn list(&self) -> String {
        let lines: Vec<String> = self.records.iter().map(Record::line).collect();
        format!("[\n{}\n]\n", lines.join(",\n"))
    }

    /// Writes the list to `path`, and how it came about beside it; returns the latter's path.
    ///
    /// # Errors
    /// A file or its folder cannot be written.
    pub fn write(&self, path: &Path) -> Result<PathBuf> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("make {folder:?}"))?;
        }
        fs::write(path, self.list()).with_context(|| format!("write {path:?}"))?;
        let beside = path.with_extension("about.json");
        let about = serde_json::to_string_pretty(&self.about.value())?;
        fs::write(&beside, about + "\n").with_context(|| format!("write {beside:?}"))?;
        Ok(beside)
    }
}

impl Record {
    fn line(&self) -> String {
        self.value().to_string()
    }

    fn value(&self) -> Value {
        let Self {
            round,
            system,
            metric,
            value,
            unit,
        } = self;
        json!({
            "round": round, "system": system, "metric": metric, "value": value, "unit": unit,
        })
    }
}

impl About {
    fn value(&self) -> Value {
        json!({
            "commit": self.commit,
            "command": self.command,
            "started": self.started,
            "machine": self.machine,
            "missing": self.missing,
            "notes": self.notes,
        })
    }
}

/// Reads a list of records, as [`Results::write`] leaves it, or as it is in
/// [`Results::value_of_all`].
///
/// # Errors
/// The text is no such list; the error names the first record that is none.
pub fn parse_list(text: &str) -> Result<Vec<Record>> {
    let mut value: Value = serde_json::from_str(text).context("not JSON")?;
    if let Some(records) = value.get_mut("records") {
        value = records.take();
    }
    let list: Vec<Value> = serde_json::from_value(value).context("not a list of records")?;
    let records = list.iter().map(|value| {
        let word = |key: &str| value[key].as_str().map(ToOwned::to_owned);
        let round = value["round"]
            .as_u64()
            .and_then(|round| round.try_into().ok());
        let record = || {
            Some(Record {
                round: round?,
                system: word("system")?,
                metric: word("metric")?,
                value: value["value"].as_f64()?,
                unit: word("unit")?,
            })
        };
        record().with_context(|| format!("no record: {value}"))
    });
    records.collect()
}

/// The median and the spread of some values; `None` of none.
#[must_use]
pub fn spread(values: &[f64]) -> Option<Spread> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (least, most) = (*sorted.first()?, *sorted.last()?);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get((sorted.len() - 1) / 2)?;
    Some(Spread {
        median: f64::midpoint(lower, upper),
        least,
        most,
        count: sorted.len(),
    })
}

/// A number with about three digits that matter.
#[must_use]
pub fn shown(value: f64) -> String {
    let digits = match value.abs() {
        large if large >= 100.0 => 0,
        middle if middle >= 10.0 => 1,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// The commit of the working directory's tree, with `+` where files were changed.
#[must_use]
pub fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(text)
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".to_owned();
    };
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if changes.is_empty() => commit,
        _ => commit + "+",
    }
}

/// What figures depend on; nothing that tells whose machine it is.
fn machine() -> BTreeMap<String, String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let after = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key));
        let value = line.and_then(|line| line.split_once(':'));
        value.map_or_else(
            || "unknown".to_owned(),
            |(_, value)| value.trim().to_owned(),
        )
    };
    let cpuinfo = read("/proc/cpuinfo");
    let flags = after(&cpuinfo, "flags");
    let known = ["aes", "vaes", "avx512f", "hypervisor"];
    let flags: Vec<&str> = flags
        .split_whitespace()
        .filter(|flag| known.contains(flag))
        .collect();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    BTreeMap::from([
        ("cpu".to_owned(), after(&cpuinfo, "model name")),
        ("cpu flags".to_owned(), flags.join(" ")),
        ("cores".to_owned(), cores.to_string()),
        (
            "kernel".to_owned(),
            read("/proc/sys/kernel/osrelease").trim().to_owned(),
        ),
        (
            "memory".to_owned(),
            after(&read("/proc/meminfo"), "MemTotal"),
        ),
        (
            "load before".to_owned(),
            read("/proc/loadavg")
                .split_whitespace()
                .next()
                .unwrap_or("unknown")
                .to_owned(),
        ),
    ])
}

/// A time as `2026-01-31T12:00:00Z`.
fn utc(time: SystemTime) -> String {
    let at = OffsetDateTime::from(time);
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second) = at.to_hms();
    let month = u8::from(month);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_list_is_read_as_it_was_written() -> Result<()> {
        let mut results = Results::new("make bench");
        results.add(1, "raw", "tcp1", 20.5, "Gbit/s");
        results.add(2, "we\"ald", "tcp1", 9.25, "Gbit/s");
        let read = parse_list(&results.list())?;
        assert_eq!(read, results.records());
        assert_eq!(parse_list(&results.value_of_all().to_string())?, read);
        assert_eq!(results.systems(), ["raw", "we\"ald"]);
        assert_eq!(results.metrics("raw"), ["tcp1"]);
        assert_eq!(results.unit("tcp1"), Some("Gbit/s"));
        assert_eq!(results.value(2, "we\"ald", "tcp1"), Some(9.25));
        assert_eq!(results.value(3, "raw", "tcp1"), None);
        assert_eq!(results.values("raw", "tcp1"), [20.5]);
        Ok(())
    }

    #[test]
    fn both_files_are_written() -> Result<()> {
        let folder = std::env::temp_dir().join(format!("results-{}", std::process::id()));
        let mut results = Results::new("make bench");
        results.add(1, "raw", "tcp1", 20.5, "Gbit/s");
        results.add_missing("peer", "not to be had");
        results.add_note("iperf3", "3.12");
        let beside = results.write(&folder.join("deep/run.json"))?;
        let about: Value = serde_json::from_str(&fs::read_to_string(&beside)?)?;
        fs::remove_dir_all(&folder)?;
        assert!(beside.ends_with("deep/run.about.json"), "{beside:?}");
        assert_eq!(about["command"], "make bench");
        assert_eq!(about["missing"]["peer"], "not to be had");
        assert_eq!(about["notes"]["iperf3"], "3.12");
        assert!(about["machine"]["cores"] != "0", "{about}");
        Ok(())
    }

    #[test]
    fn what_is_no_record_is_named() {
        let error = parse_list(r#"[{"round": 1, "system": "raw"}]"#).unwrap_err();
        assert!(error.to_string().contains(r#""system":"raw""#), "{error}");
        assert!(parse_list("{}").is_err());
    }

    #[test]
    fn medians_and_spreads() {
        assert_eq!(spread(&[]), None);
        let odd = spread(&[3.0, 1.0, 2.0]).unwrap();
        assert_eq!(
            (odd.median, odd.least, odd.most, odd.count),
            (2.0, 1.0, 3.0, 3)
        );
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
    }

    #[test]
    fn times_are_utc() {
        let at = |seconds| utc(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_825_599), "2000-02-29T11:59:59Z");
        assert_eq!(at(1_735_689_599), "2024-12-31T23:59:59Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00Z");
    }
}
