//! Teardown: kills what still runs in a lab's namespaces and removes them, also for labs whose
//! owner died without.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::namespace::{self, MARKER, path_of};

/// What the names of all labs, and of nothing else, start with.
pub(crate) const LAB_PREFIX: &str = "wlab";

/// How long killed programs may take to be gone.
const KILL_TIME: Duration = Duration::from_secs(5);

/// The pause between two looks at killed programs.
const KILL_POLL: Duration = Duration::from_millis(2);

/// Names a lab so that another process can tell whether its owner lives: by process id and the
/// start time of that process.
pub(crate) fn lab_name(counter: u32) -> Result<String> {
    let pid = std::process::id();
    let start = start_time(pid).context("read the own start time from /proc")?;
    Ok(format!("{LAB_PREFIX}-{pid}-{start}-{counter}"))
}

/// Where a lab keeps its files.
pub(crate) fn lab_dir(lab: &str) -> PathBuf {
    std::env::temp_dir().join(lab)
}

/// Removes everything that belongs to a lab: programs, namespaces, files.
pub(crate) fn remove_lab(lab: &str, extra_prefixes: &[String]) {
    let mut names = namespace::names_with_prefix(&format!("{lab}-"));
    for prefix in extra_prefixes {
        names.extend(namespace::names_with_prefix(prefix));
    }
    kill_inside(lab, &names);
    for name in &names {
        namespace::remove(name);
    }
    // Fails if it was never made.
    let _ = fs::remove_dir_all(lab_dir(lab));
}

/// Removes all labs whose owners are dead.
pub(crate) fn remove_dead_labs() {
    let mut labs: BTreeSet<String> = namespace::names_with_prefix(&format!("{LAB_PREFIX}-"))
        .iter()
        .filter_map(|name| lab_of(name))
        .collect();
    let files = fs::read_dir(std::env::temp_dir())
        .into_iter()
        .flatten()
        .flatten();
    labs.extend(files.filter_map(|entry| lab_of(entry.file_name().to_str()?)));
    for lab in labs.iter().filter(|lab| !owner_lives(lab)) {
        remove_lab(lab, &[]);
    }
}

/// The lab's name at the start of a namespace's or directory's name.
fn lab_of(name: &str) -> Option<String> {
    let parts: Vec<&str> = name.splitn(5, '-').collect();
    let numbers = parts.get(1..4)?;
    let is_lab = parts[0] == LAB_PREFIX && numbers.iter().all(|part| part.parse::<u64>().is_ok());
    is_lab.then(|| parts[..4].join("-"))
}

fn owner_lives(lab: &str) -> bool {
    let mut parts = lab.split('-').skip(1);
    let pid = parts.next().and_then(|part| part.parse().ok());
    let start = parts.next().and_then(|part| part.parse().ok());
    start.is_some() && pid.and_then(start_time) == start
}

/// When a process started, in clock ticks since boot.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; field 22 counts from before it.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

/// Kills every process inside the namespaces or marked with the lab's name, except this one.
fn kill_inside(lab: &str, names: &[String]) {
    let inodes: BTreeSet<u64> = names
        .iter()
        .filter_map(|name| Some(fs::metadata(path_of(name)).ok()?.ino()))
        .collect();
    let mark = format!("{MARKER}={lab}");
    let deadline = Instant::now() + KILL_TIME;
    // Again until none is left: a program may fork while it is looked for.
    loop {
        let found: Vec<i32> = processes()
            .filter(|pid| belongs(*pid, &inodes, mark.as_bytes()))
            .collect();
        if found.is_empty() || Instant::now() > deadline {
            return;
        }
        for pid in found {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        thread::sleep(KILL_POLL);
    }
}

fn processes() -> impl Iterator<Item = i32> {
    let own = std::process::id().cast_signed();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(move |pid| *pid != own)
}

fn belongs(pid: i32, inodes: &BTreeSet<u64>, mark: &[u8]) -> bool {
    // The dead that their parents have not waited for have neither of the two files.
    let inside = fs::metadata(format!("/proc/{pid}/ns/net"))
        .is_ok_and(|namespace| inodes.contains(&namespace.ino()));
    inside
        || fs::read(format!("/proc/{pid}/environ")).is_ok_and(|all| {
            all.split(|byte| *byte == 0)
                .any(|variable| variable == mark)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_is_recognised_by_its_name_and_lives_with_its_owner() {
        let lab = lab_name(7).unwrap();
        assert_eq!(lab_of(&format!("{lab}-site-a")), Some(lab.clone()));
        assert!(owner_lives(&lab));
        assert_eq!(lab_of("wlab-notes"), None);
        assert_eq!(lab_of("other-1-2-3-x"), None);
        let (pid, start) = (std::process::id(), start_time(std::process::id()).unwrap());
        assert!(!owner_lives(&format!("{LAB_PREFIX}-{pid}-{}-7", start + 1)));
    }
}
