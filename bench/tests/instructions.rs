//! How many instructions the core's operations take, held against a committed baseline.
//!
//! Instructions do not depend on what else the machine does, so a bound on them does not flake.
//! They do depend on compiler and profile: the baseline (`instructions.json`) names both, and is
//! held only where they are the same; the program is the release build that `WEALD_OPS` names, as
//! in `make test`. `WEALD_OPS_BASELINE=write` writes a new one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use netns_tests::require;
use serde_json::{Value, json};

/// The two counts whose difference is looked at.
const COUNTS: [u64; 2] = [200, 1_200];
/// How much more than the baseline an operation may take.
const TOLERANCE: f64 = 1.10;

#[test]
fn no_operation_takes_a_tenth_more_than_it_did() -> Result<()> {
    require::programs(&["valgrind"])?;
    let named = std::env::var_os("WEALD_OPS").map(PathBuf::from);
    let is_release = named.is_some();
    let program = named.unwrap_or_else(|| env!("CARGO_BIN_EXE_weald-ops").into());
    let list = Command::new(&program).arg("--list").output();
    let list = list.with_context(|| format!("start {}", program.display()))?;
    let list = String::from_utf8(list.stdout)?;
    let mut measured = BTreeMap::new();
    for operation in list.split_whitespace() {
        let [few, many] = COUNTS.map(|count| instructions(&program, operation, count));
        let each = (many? - few?) / (COUNTS[1] - COUNTS[0]) as f64;
        println!("{operation:<20} {each:>10.0} instructions");
        ensure!(
            each >= 10.0,
            "{operation} takes {each} instructions: it does nothing"
        );
        measured.insert(operation.to_owned(), each.round());
    }
    ensure!(measured.len() >= 8, "{measured:?}");

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.json");
    let compiler = compiler()?;
    if std::env::var_os("WEALD_OPS_BASELINE").is_some_and(|value| value == "write") {
        ensure!(
            is_release,
            "a baseline is of the release build: name it by WEALD_OPS"
        );
        let baseline = json!({ "compiler": compiler, "instructions": measured });
        fs::write(&path, serde_json::to_string_pretty(&baseline)? + "\n")?;
        return Ok(());
    }
    let text = fs::read_to_string(&path).with_context(|| format!("read {path:?}"))?;
    let baseline: Value = serde_json::from_str(&text)?;
    if !is_release || baseline["compiler"] != json!(compiler) {
        println!(
            "not held against the baseline, which is of a release build by {}; this is {}{compiler}",
            baseline["compiler"],
            if is_release {
                ""
            } else {
                "another profile by "
            }
        );
        return Ok(());
    }
    let mut faults = Vec::new();
    for (operation, each) in &measured {
        let before = baseline["instructions"][operation].as_f64();
        let before = before.with_context(|| format!("no baseline for {operation}"))?;
        if *each > before * TOLERANCE {
            faults.push(format!("{operation}: {each} instructions, {before} before"));
        }
    }
    ensure!(
        faults.is_empty(),
        "over 10 % more than the baseline:\n{}\nif that is meant: \
         WEALD_OPS_BASELINE=write WEALD_OPS=$PWD/target/release/weald-ops \
         cargo test --workspace --test instructions",
        faults.join("\n")
    );
    Ok(())
}

/// The instructions of a whole run, as valgrind counts them.
fn instructions(program: &Path, operation: &str, count: u64) -> Result<f64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args([operation, &count.to_string()])
        .output()
        .context("start valgrind")?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{operation}: {text}");
    let collected = text
        .lines()
        .find_map(|line| line.split_once("Collected : "));
    let (_, number) = collected.with_context(|| format!("no count in {text}"))?;
    Ok(number.trim().parse()?)
}

fn compiler() -> Result<String> {
    let output = Command::new("rustc").arg("--version").output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
