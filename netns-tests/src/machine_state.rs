//! A snapshot of what software leaves in a machine, for tests that teardown leaves nothing.
//!
//! A [`Scope`] says where to look, because other programs on the machine make namespaces and
//! mounts of their own: inside the given namespaces everything counts, elsewhere only what
//! carries one of the given names.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::namespace::{Namespace, names_with_prefix, path_of};
use crate::process::command;
use crate::wait;

/// How long one listing may take.
const LISTING_TIME: Duration = Duration::from_secs(10);

/// The most paths that one snapshot lists: a bound against a scope of `/`.
const MAX_PATHS: usize = 10_000;

/// What is listed inside a namespace: a word for the diff, and the program.
const LISTINGS: [(&str, &str); 7] = [
    ("link", "ip -br link"),
    ("address", "ip -br address"),
    ("route", "ip -4 route show table all"),
    ("route", "ip -6 route show table all"),
    ("rule", "ip -4 rule"),
    ("rule", "ip -6 rule"),
    ("nft", "nft -s list ruleset"),
];

/// Where a [`MachineState`] looks.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// Namespaces whose links, addresses, routes, rules, nft tables and programs all count.
    pub namespaces: Vec<String>,
    /// Namespaces, mounts and cgroups whose names contain one of these count.
    pub names: Vec<String>,
    /// Files and directories, listed with all below them.
    pub paths: Vec<PathBuf>,
}

/// What was there at one moment, one line a thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineState {
    lines: BTreeSet<String>,
}

/// What one state has and the other has not; empty when they are equal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Difference {
    /// Only in the later state.
    pub added: Vec<String>,
    /// Only in the earlier state.
    pub removed: Vec<String>,
}

impl MachineState {
    /// Looks at everything in the scope.
    ///
    /// # Errors
    /// Fails if a namespace of the scope is gone or a listing fails.
    pub fn take(scope: &Scope) -> Result<Self> {
        let mut lines = BTreeSet::new();
        for name in &scope.namespaces {
            inside(name, &mut lines).with_context(|| format!("look into {name}"))?;
        }
        for name in scope.names.iter().filter(|name| !name.is_empty()) {
            lines.extend(names_with_prefix("").into_iter().filter_map(|found| {
                found
                    .contains(name.as_str())
                    .then(|| format!("namespace {found}"))
            }));
            let mounts = fs::read_to_string("/proc/self/mountinfo")?;
            lines.extend(
                mounts
                    .lines()
                    .filter(|line| line.contains(name.as_str()))
                    .map(mount),
            );
            cgroups(Path::new("/sys/fs/cgroup"), name, &mut lines);
        }
        for path in &scope.paths {
            paths(path, &mut lines)?;
        }
        Ok(Self { lines })
    }

    /// Compares this state with a later one.
    pub fn difference(&self, later: &Self) -> Difference {
        Difference {
            added: later.lines.difference(&self.lines).cloned().collect(),
            removed: self.lines.difference(&later.lines).cloned().collect(),
        }
    }

    /// Waits until the scope looks as it does here: the kernel removes some things after the
    /// call that asked for it.
    ///
    /// # Errors
    /// Fails when `timeout` has passed; the error shows the difference.
    pub fn wait_restored(&self, scope: &Scope, timeout: Duration) -> Result<()> {
        wait::until("the machine looks as before", timeout, || {
            let difference = self.difference(&Self::take(scope)?);
            if !difference.is_empty() {
                bail!("{difference}");
            }
            Ok(())
        })
    }

    /// The lines, each beginning with the kind of thing.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}

impl Difference {
    /// Whether the two states were equal.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.added {
            writeln!(f, "+ {line}")?;
        }
        for line in &self.removed {
            writeln!(f, "- {line}")?;
        }
        Ok(())
    }
}

fn inside(name: &str, lines: &mut BTreeSet<String>) -> Result<()> {
    let namespace = Namespace::open(name, "")?;
    for (kind, listing) in LISTINGS {
        let text = namespace.run_ok(command(listing), LISTING_TIME)?;
        // An nft rule means something only with the chain that it stands in.
        let mut above: Vec<&str> = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if line == "}" {
                above.pop();
                continue;
            }
            let place: String = above.iter().map(|part| format!("{part} ")).collect();
            lines.insert(format!("{name}: {kind} {place}{}", words.join(" ")));
            if kind == "nft" && line.ends_with('{') {
                above.push(line);
            }
        }
    }
    programs(name, lines);
    Ok(())
}

/// Lists the programs inside a namespace.
fn programs(name: &str, lines: &mut BTreeSet<String>) {
    let Ok(namespace) = fs::metadata(path_of(name)) else {
        return;
    };
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = entry.path();
        let is_inside = fs::metadata(path.join("ns/net"))
            .is_ok_and(|other| (other.dev(), other.ino()) == (namespace.dev(), namespace.ino()));
        if is_inside {
            let words = fs::read(path.join("cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            lines.insert(format!("{name}: program {}", words.trim()));
        }
    }
}

/// A line of mountinfo without the numbers that change.
fn mount(line: &str) -> String {
    let fields: Vec<&str> = line.split(' ').collect();
    let kind = fields
        .iter()
        .skip_while(|field| **field != "-")
        .nth(1)
        .unwrap_or(&"?");
    format!("mount {} {kind}", fields.get(4).unwrap_or(&"?"))
}

/// Lists cgroups whose own name contains `name`.
fn cgroups(dir: &Path, name: &str, lines: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name().to_string_lossy().contains(name) {
            lines.insert(format!("cgroup {}", entry.path().display()));
        }
        cgroups(&entry.path(), name, lines);
    }
}

/// Lists a path and everything below it; what is not there adds nothing.
fn paths(path: &Path, lines: &mut BTreeSet<String>) -> Result<()> {
    let Ok(metadata) = path.symlink_metadata() else {
        return Ok(());
    };
    if lines.len() > MAX_PATHS {
        bail!("the scope has more than {MAX_PATHS} paths");
    }
    lines.insert(format!("path {}", path.display()));
    if metadata.is_dir() {
        for entry in fs::read_dir(path).with_context(|| format!("list {path:?}"))? {
            paths(&entry?.path(), lines)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_reads_like_a_patch() {
        let state = |lines: &[&str]| MachineState {
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        };
        let difference = state(&["a", "b"]).difference(&state(&["b", "c"]));
        assert_eq!(difference.to_string(), "+ c\n- a\n");
        assert!(!difference.is_empty());
    }

    #[test]
    fn mounts_are_named_by_place_and_kind() {
        let line = "36 35 98:0 / /run/netns/x rw shared:1 - nsfs nsfs rw";
        assert_eq!(mount(line), "mount /run/netns/x nsfs");
    }
}
