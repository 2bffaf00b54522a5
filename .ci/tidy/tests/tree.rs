//! What holds for every file of the tree and for the arrows between crates.

#![allow(
    clippy::expect_used,
    reason = "helpers of tests may fail loudly; clippy exempts only the tests themselves"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines of non-test code that a file may have; at 300 one should think of splitting.
const MAX_LINES: usize = 500;

/// Files that may be longer, up to so many lines, and why.
const LONGER: [(&str, usize, &str); 0] = [];

/// The packages that decide: they do no I/O and have no runtime.
const CORES: [&str; 2] = ["netmanager-core", "orchestrator-core"];

/// What must not reach a core, at any depth.
const NOT_IN_A_CORE: [&str; 9] = [
    "tokio",
    "quinn",
    "quinn-proto",
    "quinn-udp",
    "socket2",
    "mio",
    "rtnetlink",
    "rusqlite",
    "tun-rs",
];

/// Which packages of ours each package of ours may depend on, tests included.
const ARROWS: [(&str, &[&str]); 13] = [
    ("weald-proto", &[]),
    ("netmanager-core", &["weald-proto"]),
    ("weald-trust", &["weald-proto"]),
    ("weald-metrics", &[]),
    ("weald-measure", &[]),
    ("weald-memory", &[]),
    (
        "netmanager",
        &[
            "weald-proto",
            "netmanager-core",
            "weald-trust",
            "weald-metrics",
            "weald-measure",
            "weald-memory",
            "weald-fuzz",
            "netns-tests",
        ],
    ),
    ("orchestrator-core", &["weald-proto"]),
    (
        "orchestrator",
        &[
            "weald-proto",
            "orchestrator-core",
            "weald-trust",
            "weald-metrics",
            "weald-memory",
            "netns-tests",
        ],
    ),
    (
        "weald-fuzz",
        &["weald-proto", "netmanager-core", "weald-trust"],
    ),
    (
        "netns-tests",
        &[
            "weald-proto",
            "netmanager-core",
            "netmanager",
            "weald-trust",
            "weald-metrics",
            "weald-measure",
        ],
    ),
    (
        "bench",
        &[
            "weald-proto",
            "netmanager-core",
            "netmanager",
            "netns-tests",
            "weald-measure",
            "weald-fuzz",
        ],
    ),
    ("tidy", &[]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the workspace's folder")
}

/// Every Rust file that is ours, with its text.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the tree") {
            let path = entry.expect("an entry").path();
            let name = path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned());
            let name = name.unwrap_or_default();
            if path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                if name != "target" && (name == ".ci" || !name.starts_with('.')) {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source file");
                found.push((path, text));
            }
        }
    }
    assert!(found.len() > 50, "the tree was not found");
    found.sort();
    found
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root())
        .unwrap_or(path)
        .display()
        .to_string()
}

/// Tests, which may be as long as they need.
fn is_test(path: &Path) -> bool {
    let shown = shown(path);
    shown.contains("/tests/") || shown.ends_with("/tests.rs") || shown.contains("/benches/")
}

fn must_be_empty(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_file_says_what_it_is() {
    let faults: Vec<String> = sources()
        .iter()
        .filter(|(_, text)| !text.starts_with("//! "))
        .map(|(path, _)| format!("{}: begin with `//! What it is`", shown(path)))
        .collect();
    must_be_empty(&faults);
}

/// An emptied script succeeds and does nothing, so that nobody notices.
#[test]
fn every_script_of_ci_does_something() {
    let scripts = [".ci/run", ".ci/packages", ".ci/count"];
    let faults: Vec<String> = scripts
        .iter()
        .filter(|script| {
            let text = fs::read_to_string(root().join(script)).unwrap_or_default();
            !text.starts_with("#!") || !text.contains("\nset -euo pipefail\n")
        })
        .map(|script| format!("{script}: no script, or one that goes on after a failure"))
        .collect();
    must_be_empty(&faults);
}

#[test]
fn no_file_is_too_long() {
    let faults: Vec<String> = sources()
        .iter()
        .filter(|(path, _)| !is_test(path))
        .filter_map(|(path, text)| {
            let code = text
                .split("\n#[cfg(test)]\nmod tests {")
                .next()
                .unwrap_or_default();
            let lines = code.lines().count();
            let longer = LONGER.iter().find(|(file, ..)| *file == shown(path));
            let limit = longer.map_or(MAX_LINES, |(_, limit, _)| *limit);
            (lines > limit).then(|| format!("{}: {lines} lines, at most {limit}", shown(path)))
        })
        .collect();
    must_be_empty(&faults);
}

#[test]
fn allowed_lints_have_reasons() {
    let mut faults = Vec::new();
    for (path, text) in sources() {
        if is_test(&path) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let attribute = line.trim_start();
            let allows = ["#[allow(", "#![allow(", "#[expect(", "#![expect("];
            let starts = allows.iter().any(|allow| attribute.starts_with(allow));
            let whole: String = text.lines().skip(number).take(6).collect();
            let end = whole.find(")]").unwrap_or(whole.len());
            if starts && !whole.get(..end).unwrap_or_default().contains("reason =") {
                faults.push(format!(
                    "{}:{}: say why: `reason = \"...\"`",
                    shown(&path),
                    number + 1
                ));
            }
        }
    }
    must_be_empty(&faults);
}

#[test]
fn modules_are_files_beside_their_folder() {
    let faults: Vec<String> = sources()
        .iter()
        .filter(|(path, _)| path.ends_with("mod.rs"))
        .map(|(path, _)| format!("{}: name it after its folder, beside it", shown(path)))
        .collect();
    must_be_empty(&faults);
}

/// The names of all packages that `package` needs, ours or not.
fn dependencies(package: &str, edges: &str, depth: Option<&str>) -> BTreeSet<String> {
    let mut command = Command::new(env!("CARGO"));
    command
        .current_dir(root())
        .args([
            "tree",
            "--locked",
            "--offline",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .args(["-p", package, "-e", edges]);
    if let Some(depth) = depth {
        command.args(["--depth", depth]);
    }
    let output = command.output().expect("cargo tree");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| *name != package && !name.is_empty())
        .map(ToOwned::to_owned)
        .collect()
}

/// Names of figures stand in code as whole literals, and all of them in one list.
#[test]
fn every_figure_is_listed() {
    let list = fs::read_to_string(root().join("docs/metrics.md")).expect("docs/metrics.md");
    let is_listed = |name: &str| list.contains(&format!("`{name}`"));
    let mut known = BTreeSet::new();
    for (path, text) in sources() {
        let code = text.split("\n#[cfg(test)]\nmod tests {").next();
        let is_shell = !is_test(&path) && !shown(&path).starts_with(".ci/");
        for literal in code.unwrap_or_default().split('"').filter(|_| is_shell) {
            let rest = literal.strip_prefix("weald_").unwrap_or_default();
            let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
            if !rest.is_empty() && rest.chars().all(is_name) {
                known.insert(literal.to_owned());
            }
        }
    }
    assert!(known.len() > 30, "{known:?}");
    let faults: Vec<String> = known
        .iter()
        .filter(|name| !is_listed(name))
        .map(|name| format!("{name}: put it into docs/metrics.md"))
        .collect();
    must_be_empty(&faults);
}

#[test]
fn nothing_that_is_denied_is_depended_on() {
    let deny = fs::read_to_string(root().join("deny.toml")).expect("deny.toml");
    let names = deny.lines().filter_map(|line| {
        let rest = line.trim().strip_prefix("{ crate = \"")?;
        rest.split('"').next()
    });
    let denied: Vec<&str> = names.collect();
    assert!(denied.len() >= 5, "{denied:?}");
    for (package, _) in ARROWS {
        let found = dependencies(package, "normal,build,dev", None);
        for name in &denied {
            assert!(!found.contains(*name), "{package} depends on {name}");
        }
    }
}

#[test]
fn the_cores_do_no_io() {
    for core in CORES {
        let found = dependencies(core, "normal", None);
        assert!(found.contains("weald-proto"), "{found:?}");
        for package in NOT_IN_A_CORE {
            assert!(!found.contains(package), "{core} depends on {package}");
        }
    }
}

#[test]
fn packages_of_ours_depend_in_one_direction() {
    let ours: BTreeSet<&str> = ARROWS.iter().map(|(package, _)| *package).collect();
    for (package, allowed) in ARROWS {
        for found in dependencies(package, "normal,build,dev", Some("1")) {
            assert!(
                !ours.contains(found.as_str()) || allowed.contains(&found.as_str()),
                "{package} depends on {found}"
            );
        }
    }
}
