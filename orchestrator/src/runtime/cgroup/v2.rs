//! Where groups of version 2 are made, so that they have controllers. What they hold is the
//! group's affair.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{CONTROLLERS, Cgroups, Hierarchy};

/// The group that the worker moves into when it must leave its own.
const WORKER: &str = "weald.worker";

/// The group above the worker's, if this is the one that it moves into.
pub(super) fn above_worker(own: PathBuf) -> PathBuf {
    match own.parent() {
        Some(above) if own.ends_with(WORKER) => above.to_owned(),
        Some(_) | None => own,
    }
}

/// Where groups may be made unless a parent is named, the first that lends controllers.
pub(super) fn candidates(hierarchy: &Hierarchy) -> Vec<PathBuf> {
    let mut folders = vec![above_worker(hierarchy.own.clone()), hierarchy.mount.clone()];
    folders.dedup();
    folders
}

/// The groups that a worker may have moved into, there or not.
pub(super) fn worker_groups(hierarchy: &Hierarchy) -> Vec<PathBuf> {
    let folders = candidates(hierarchy).into_iter();
    folders.map(|folder| folder.join(WORKER)).collect()
}

/// Takes the first candidate that lends all the controllers it has; or the first at all, which
/// then serves to kill and to count.
pub(super) fn choose(found: &mut Cgroups, candidates: &[PathBuf]) {
    let mut faults = Vec::new();
    for folder in candidates {
        match lend(folder) {
            Ok(controllers) => {
                found.v2 = Some(folder.clone());
                found.v2_controllers = controllers;
                found.v2_fault = None;
                return;
            }
            Err(error) => faults.push(format!("{} lends none: {error}", folder.display())),
        }
    }
    found.v2 = candidates.first().cloned();
    found.v2_fault = Some(format!(
        "{}; run the worker in a cgroup of its own (systemd: Delegate=yes, DelegateSubgroup=weald.worker) or name a parent",
        faults.join(", ")
    ));
}

/// Makes a group lend its children the controllers that limits need, and returns which they are.
fn lend(folder: &Path) -> io::Result<Vec<String>> {
    let there = words(&folder.join("cgroup.controllers"))?;
    let wanted: Vec<&str> = CONTROLLERS
        .into_iter()
        .filter(|name| there.iter().any(|there| there == name))
        .collect();
    let lent = folder.join("cgroup.subtree_control");
    let present = words(&lent)?;
    let missing: Vec<String> = wanted
        .iter()
        .filter(|name| !present.iter().any(|present| present == *name))
        .map(|name| format!("+{name}"))
        .collect();
    if !missing.is_empty() {
        let text = missing.join(" ");
        match fs::write(&lent, &text) {
            // Processes in the group; perhaps it is only ourselves.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                lend_after_moving(folder, &lent, &text)?;
            }
            other => other?,
        }
    }
    Ok(wanted.into_iter().map(ToOwned::to_owned).collect())
}

fn lend_after_moving(folder: &Path, lent: &Path, text: &str) -> io::Result<()> {
    let worker = folder.join(WORKER);
    if let Err(error) = fs::create_dir(&worker)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(error);
    }
    let moved = fs::write(worker.join("cgroup.procs"), "0").and_then(|()| fs::write(lent, text));
    if moved.is_err() {
        // Others are in the group as well: back to where we were.
        let _ = fs::write(folder.join("cgroup.procs"), "0");
        let _ = fs::remove_dir(&worker);
    }
    moved
}

fn words(path: &Path) -> io::Result<Vec<String>> {
    let text = fs::read_to_string(path)?;
    Ok(text.split_whitespace().map(ToOwned::to_owned).collect())
}
