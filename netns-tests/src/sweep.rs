//! Teardown: kills what still runs in a lab's namespaces and removes them, also for labs whose
//! owner died without.

use std::collections::{BTreeMap, BTreeSet};
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

/// What the name of an instance's cgroup begins with, whichever worker made it.
const GROUP_PREFIX: &str = "weald.";

/// Where the hierarchies of cgroups are, or the only one.
const CGROUPS: &str = "/sys/fs/cgroup";

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
    let inodes = inodes(names);
    let mark = format!("{MARKER}={lab}");
    let deadline = Instant::now() + KILL_TIME;
    let mut groups = BTreeSet::new();
    // Again until none is left: a program may fork while it is looked for.
    loop {
        let found: BTreeSet<i32> = processes()
            .filter(|pid| belongs(*pid, &inodes, mark.as_bytes()))
            .collect();
        if found.is_empty() || Instant::now() > deadline {
            break;
        }
        for pid in with_descendants(found) {
            groups.extend(instance_groups(pid));
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        thread::sleep(KILL_POLL);
    }
    while groups.iter().any(|group| !remove_group(group)) && Instant::now() < deadline {
        thread::sleep(KILL_POLL);
    }
}

/// Processes and all that they have started, directly or not: some, as nginx does, write over the
/// variables that mark them, and their overlay's namespaces are gone by now.
fn with_descendants(mut found: BTreeSet<i32>) -> BTreeSet<i32> {
    let parents: Vec<(i32, i32)> = processes()
        .filter_map(|pid| Some((pid, parent(pid)?)))
        .collect();
    loop {
        let before = found.len();
        let children = parents.iter().filter(|(_, parent)| found.contains(parent));
        let children: Vec<i32> = children.map(|(pid, _)| *pid).collect();
        found.extend(children);
        if found.len() == before {
            return found;
        }
    }
}

fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok()
}

/// The processes in a namespace that a worker has put into a cgroup of an instance's, by id, with when
/// each was started.
pub(crate) fn instance_processes(namespace: &str) -> BTreeMap<i32, u64> {
    let inodes = inodes(&[namespace.to_owned()]);
    let inside = processes().filter(|pid| is_inside(*pid, &inodes));
    let ours = inside.filter(|pid| !instance_groups(*pid).is_empty());
    ours.filter_map(|pid| Some((pid, start_time(pid.cast_unsigned())?)))
        .collect()
}

/// What the names of cgroups begin with that workers of a lab have made for their instances: it stays
/// the same for all of one worker's.
pub(crate) fn group_prefixes(lab: &str, extra_prefixes: &[String]) -> BTreeSet<String> {
    let prefixes = extra_prefixes.iter();
    let names = prefixes.flat_map(|prefix| namespace::names_with_prefix(prefix));
    let inodes = inodes(&names.collect::<Vec<_>>());
    let mark = format!("{MARKER}={lab}");
    let ours = processes().filter(|pid| belongs(*pid, &inodes, mark.as_bytes()));
    let groups = ours.flat_map(instance_groups);
    let prefix = |group: String| {
        let (worker, _) = group.strip_prefix(GROUP_PREFIX)?.split_once('.')?;
        Some(format!("{GROUP_PREFIX}{worker}."))
    };
    groups.filter_map(prefix).collect()
}

fn inodes(namespaces: &[String]) -> BTreeSet<u64> {
    let inode = |name: &String| Some(fs::metadata(path_of(name)).ok()?.ino());
    namespaces.iter().filter_map(inode).collect()
}

/// The names of the cgroups that a worker has made for an instance which a process is of.
fn instance_groups(pid: i32) -> Vec<String> {
    let lines = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let names = lines.lines().filter_map(|line| line.rsplit('/').next());
    let names = names.filter(|name| name.starts_with(GROUP_PREFIX));
    names.map(str::to_owned).collect()
}

/// Removes a cgroup from every hierarchy; false if a process is still in it.
fn remove_group(name: &str) -> bool {
    let root = PathBuf::from(CGROUPS);
    let hierarchies = fs::read_dir(&root).into_iter().flatten().flatten();
    let hierarchies = hierarchies.map(|entry| entry.path());
    let groups = hierarchies.chain([root]).map(|folder| folder.join(name));
    groups.fold(true, |gone, group| {
        let _ = fs::remove_dir(&group);
        gone && !group.exists()
    })
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
    is_inside(pid, inodes)
        || fs::read(format!("/proc/{pid}/environ")).is_ok_and(|all| {
            all.split(|byte| *byte == 0)
                .any(|variable| variable == mark)
        })
}

fn is_inside(pid: i32, inodes: &BTreeSet<u64>) -> bool {
    fs::metadata(format!("/proc/{pid}/ns/net"))
        .is_ok_and(|namespace| inodes.contains(&namespace.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_marked_have_started_is_found_without_a_mark() {
        let mut shell = std::process::Command::new("/bin/sh");
        shell.args(["-c", "env -i /bin/sleep 1000 & echo $!; wait"]);
        shell.stdout(std::process::Stdio::piped());
        let mut shell = shell.spawn().unwrap();
        let mut line = String::new();
        let out = shell.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
        let (own, child) = (shell.id().cast_signed(), line.trim().parse().unwrap());
        let found = with_descendants(BTreeSet::from([own]));
        for pid in &found {
            kill(Pid::from_raw(*pid), Signal::SIGKILL).unwrap();
        }
        shell.wait().unwrap();
        assert_eq!(found, BTreeSet::from([own, child]));
    }

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
