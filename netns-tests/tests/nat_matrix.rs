//! A short form of the matrix of NATs (`make nat-matrix` is the whole): a few pairs of routers whose
//! nodes must get the path that the project promises for them, and whose first byte must come within
//! its figure.

use anyhow::{Context as _, Result, ensure};
use netns_tests::nat_matrix::promise::{FIRST_BYTE_LIMIT, Kept};
use netns_tests::nat_matrix::trial::Way;
use netns_tests::nat_matrix::{self, Options};
use serde_json::Value;

/// The pairs, each with the flavour of its routers and the families.
const CASES: [(&str, &str, &str); 5] = [
    ("port:port", "drops", "v4"),
    ("cone:double", "answers", "v6-one"),
    ("symmetric:symmetric", "drops", "v4"),
    ("port:same", "answers", "v4"),
    ("blocked:port", "drops", "v4"),
];

#[test]
fn nodes_connect_behind_nats_of_all_sorts() -> Result<()> {
    let mut printed = Vec::new();
    for (pair, router, ip) in CASES {
        let out = std::env::temp_dir().join(format!("nat-matrix-{}.json", std::process::id()));
        let options = Options::read(|name| match name {
            "PAIRS" => Some(pair.to_owned()),
            "ROUTER" => Some(router.to_owned()),
            "IP" => Some(ip.to_owned()),
            "OUT" => out.to_str().map(str::to_owned),
            _ => None,
        })?;
        let rows = nat_matrix::run(&options, &mut printed)?;
        let stored: Value = serde_json::from_str(&std::fs::read_to_string(&out)?)?;
        let table = std::fs::read_to_string(out.with_extension("md"))?;
        let cases = std::fs::read_to_string(out.with_extension("cases.json"))?;
        let cases: Value = serde_json::from_str(&cases)?;
        for ending in ["json", "cases.json", "md"] {
            std::fs::remove_file(out.with_extension(ending))?;
        }
        let row = rows.first().context("no row")?;
        let (line, outcome) = (row.line(), &row.outcome);
        ensure!(outcome.fault.is_none(), "{line}\n{:?}", outcome.fault);
        let first_byte = outcome.first_byte.context("no first byte")?;
        ensure!(first_byte <= FIRST_BYTE_LIMIT, "{line}");
        ensure!(matches!(outcome.path, Way::Direct | Way::Relay), "{line}");
        ensure!(outcome.rate_bits_per_sec > Some(0.0), "{line}");
        ensure!(row.kept() == Kept::Yes, "{line}");
        ensure!(stored[0]["pair"] == pair && stored[0]["path"] == outcome.path.word());
        ensure!(table.contains(&line), "{table}");
        ensure!(
            cases[0]["pair"] == pair && cases[0]["promise"] == "kept",
            "{cases}"
        );
        println!("{line}");
    }
    Ok(())
}
