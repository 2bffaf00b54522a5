//! The matrix of NATs: every pair of routers, two real nodes behind them, and how they connect.
//!
//! `make nat-matrix` runs it for people; a test runs a few pairs. It asks nothing of a node but what
//! `status` says, and takes its word for nothing: see [`evidence`].

use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, Result, ensure};

use crate::require;
use weald_measure::results::commit;

pub mod case;

mod sites;
pub mod trial;

pub mod evidence;
pub mod promise;
pub mod report;

pub use sites::{description, prove};

use case::{Case, Families, Flavour, Pair};
use report::{Origin, Row};

/// The programs that a run needs.
const PROGRAMS: [&str; 5] = ["nginx", "curl", "ping", "nft", "ip"];

/// The most runs of each case: a day's worth of them.
const MAX_RUNS: u32 = 100;

/// Which cases are run, how often, and where results go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Every case, in order.
    pub cases: Vec<Case>,
    /// How often each is run.
    pub runs: u32,
    /// Where the list is stored; the table goes beside it, with the ending `.md`, and the verdict on
    /// each case, with the ending `.cases.json`.
    pub out: Option<PathBuf>,
    /// What to write as the command.
    pub command: String,
}

impl Options {
    /// Reads what stands in variables: `PAIRS=cone:symmetric,port:same`, `ROUTER=drops`, `IP=v4`,
    /// `RUNS=20`, `OUT=file.json`. What is missing or empty means all, once, and nowhere.
    ///
    /// # Errors
    /// A value cannot be read; says what could.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let given = |name: &str| variable(name).filter(|value| !value.is_empty());
        let pairs = list(given("PAIRS"), "PAIRS", Pair::all())?;
        let routers = list(given("ROUTER"), "ROUTER", Flavour::ALL.to_vec())?;
        let families = list(given("IP"), "IP", Families::ALL.to_vec())?;
        let runs = given("RUNS").map_or(Ok(1), |runs| runs.parse());
        let runs = runs.context("RUNS is no number")?;
        ensure!(
            (1..=MAX_RUNS).contains(&runs),
            "RUNS may be 1 to {MAX_RUNS}, not {runs}"
        );
        let mut cases = Vec::new();
        for pair in pairs {
            for router in &routers {
                // One site alone cannot have IPv6 on one side.
                let families = families
                    .iter()
                    .filter(|ip| !matches!((pair, ip), (Pair::Same(_), Families::V6OnOne)));
                cases.extend(families.map(|ip| Case {
                    pair,
                    router: *router,
                    ip: *ip,
                }));
            }
        }
        let names = ["PAIRS", "ROUTER", "IP", "RUNS", "OUT"];
        let words = names
            .iter()
            .filter_map(|name| Some(format!(" {name}={}", given(name)?)));
        Ok(Self {
            cases,
            runs,
            out: given("OUT").map(PathBuf::from),
            command: format!("make nat-matrix{}", words.collect::<String>()),
        })
    }
}

/// Runs the matrix, prints a line as each case ends, and stores list and table after each as well,
/// so that an interrupted run leaves what it has.
///
/// # Errors
/// Without root or a needed program, if a lab is not what its case says, or if results cannot be
/// stored.
pub fn run(options: &Options, out: &mut dyn Write) -> Result<Vec<Row>> {
    require::programs(&PROGRAMS)?;
    let origin = Origin {
        command: options.command.clone(),
        commit: commit(),
    };
    writeln!(out, "{}", report::HEADER)?;
    let mut rows = Vec::new();
    for case in &options.cases {
        for run in 1..=options.runs {
            let outcome = trial::run(*case).with_context(|| format!("{case:?}"))?;
            let row = Row {
                case: *case,
                run,
                outcome,
            };
            writeln!(out, "{}", row.line())?;
            rows.push(row);
            store(options, &rows, &origin)?;
        }
    }
    writeln!(out, "\n{}", report::summary(&rows))?;
    Ok(rows)
}

fn store(options: &Options, rows: &[Row], origin: &Origin) -> Result<()> {
    let Some(path) = &options.out else {
        return Ok(());
    };
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder {
        std::fs::create_dir_all(folder).with_context(|| format!("make {folder:?}"))?;
    }
    let list = serde_json::to_string_pretty(&report::list(rows, origin))? + "\n";
    let cases = serde_json::to_string_pretty(&report::cases(rows, origin))? + "\n";
    for (path, text) in [
        (path.clone(), list),
        (path.with_extension("cases.json"), cases),
        (path.with_extension("md"), report::page(rows, origin)),
    ] {
        std::fs::write(&path, text).with_context(|| format!("write {path:?}"))?;
    }
    Ok(())
}

fn list<T: FromStr<Err = anyhow::Error>>(
    given: Option<String>,
    name: &str,
    all: Vec<T>,
) -> Result<Vec<T>> {
    let Some(given) = given else {
        return Ok(all);
    };
    let words = given.split(',').map(str::trim);
    words
        .map(|word| word.parse().with_context(|| name.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Options> {
        Options::read(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn nothing_given_means_every_case_once() {
        let all = read(&[]).unwrap();
        assert_eq!(all.cases.len(), 36 * 6 + 8 * 4);
        assert_eq!((all.runs, all.out), (1, None));
        assert_eq!(all.command, "make nat-matrix");
    }

    #[test]
    fn cases_are_restricted_and_the_command_says_so() {
        let variables = [
            ("PAIRS", "cone:symmetric, port:same"),
            ("ROUTER", "drops"),
            ("IP", "v4,v6-one"),
            ("RUNS", "3"),
            ("OUT", "x/y.json"),
        ];
        let some = read(&variables).unwrap();
        let pairs: Vec<String> = some.cases.iter().map(|it| it.pair.to_string()).collect();
        assert_eq!(pairs, ["cone:symmetric", "cone:symmetric", "port:same"]);
        assert_eq!(some.runs, 3);
        assert_eq!(
            some.command,
            "make nat-matrix PAIRS=cone:symmetric, port:same ROUTER=drops IP=v4,v6-one RUNS=3 OUT=x/y.json"
        );
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for wrong in [
            ("PAIRS", "cone"),
            ("ROUTER", "both"),
            ("IP", "v5"),
            ("RUNS", "0"),
        ] {
            assert!(read(&[wrong]).is_err(), "{wrong:?}");
        }
    }
}
