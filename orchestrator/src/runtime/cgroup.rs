//! Control groups of all three layouts behind one face: found, made, limited, measured, killed
//! and removed.
//!
//! Which group belongs to whom, and when it goes, is the runtimes' affair.

mod group;
mod layout;
mod v2;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use group::{Group, Limits, Usage};
pub use layout::{Hierarchy, Layout};

/// The controllers that limits need.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// The hierarchies of version 1 that a group is made in, where they are mounted.
const V1: [&str; 5] = ["cpu", "cpuacct", "memory", "pids", "freezer"];

/// Why a group cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A limit is asked for that nothing here can hold.
    #[error(
        "this node cannot limit {what}: the cgroup controller `{controller}` is not at hand ({why})"
    )]
    Missing {
        /// What was to be limited, in words.
        what: &'static str,
        /// The controller that it takes.
        controller: &'static str,
        /// What is at hand instead.
        why: String,
    },
    /// The kernel refused something.
    #[error("cannot write {value:?} to {path:?}: {error}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What was to be written.
        value: String,
        /// Why not.
        error: io::Error,
    },
    /// A folder of a group cannot be made.
    #[error("cannot make the cgroup {path:?}: {error}")]
    Make {
        /// The folder.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

/// The groups that this process may make others below.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cgroups {
    /// By controller, the folder of version 1 to make groups in.
    v1: Vec<(String, PathBuf)>,
    /// The folder of version 2 to make groups in.
    v2: Option<PathBuf>,
    /// The controllers that groups in the folder of version 2 have.
    v2_controllers: Vec<String>,
    /// Why version 2 lends no controllers, if it does not.
    v2_fault: Option<String>,
}

impl Cgroups {
    /// Finds the groups of this process, or those called `parent` (as in `/weald`) from the root
    /// of each hierarchy on, which are made.
    ///
    /// Under version 2 a group with controllers for its children holds no process itself, so the
    /// calling process is moved into one called `weald.worker` beside them if it must be, unless it
    /// is there already (systemd: `DelegateSubgroup=weald.worker`). Where others are in the way,
    /// groups are made at the root of the hierarchy.
    ///
    /// # Errors
    /// The kernel does not tell what is mounted, or `parent` cannot be made.
    pub fn find(parent: Option<&Path>) -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        Self::of_layout(&Layout::parse(&mounts, &own), parent)
    }

    /// The groups of a layout, as [`Cgroups::find`] makes them of the machine's.
    ///
    /// # Errors
    /// `parent` cannot be made.
    pub fn of_layout(layout: &Layout, parent: Option<&Path>) -> io::Result<Self> {
        let mut found = Self::default();
        for controller in V1 {
            if let Some(hierarchy) = layout.v1.get(controller) {
                found
                    .v1
                    .push((controller.to_owned(), base(hierarchy, parent)?));
            }
        }
        if let Some(hierarchy) = &layout.v2 {
            let candidates = match parent {
                Some(_) => vec![v2::above_worker(base(hierarchy, parent)?)],
                None => v2::candidates(hierarchy),
            };
            v2::choose(&mut found, &candidates);
        }
        Ok(found)
    }

    /// What cannot be limited here, in words; empty where everything can.
    #[must_use]
    pub fn shortcomings(&self) -> Vec<String> {
        CONTROLLERS
            .iter()
            .filter(|controller| !self.has(controller))
            .map(|controller| format!("no cgroup controller `{controller}`: {}", self.at_hand()))
            .collect()
    }

    /// Makes a group called `name` with its limits. A group of that name that was left is taken
    /// over, after everything in it is killed.
    ///
    /// # Errors
    /// A limit cannot be held here, or the kernel refuses; then nothing is left of the group.
    pub fn create(&self, name: &str, limits: &Limits) -> Result<Group, CgroupError> {
        for (needed, controller, what) in [
            (limits.memory_mib > 0, "memory", "memory"),
            (limits.millicpus > 0, "cpu", "processor time"),
        ] {
            if needed && !self.has(controller) {
                return Err(CgroupError::Missing {
                    what,
                    controller,
                    why: self.at_hand(),
                });
            }
        }
        let needed = |controller: &str| match controller {
            "memory" => limits.memory_mib > 0,
            "cpu" => limits.millicpus > 0,
            _ => false,
        };
        let mut group = Group::default();
        let made = self.make_folders(name, needed, &mut group);
        if let Err(error) = made.and_then(|()| group.limit(limits)) {
            // The first error is the one to tell.
            let _ = group.remove();
            return Err(error);
        }
        Ok(group)
    }

    /// The names of all groups here that begin with `prefix`, with what they are made of.
    ///
    /// # Errors
    /// A folder cannot be read.
    pub fn list(&self, prefix: &str) -> io::Result<Vec<(String, Group)>> {
        let mut names = std::collections::BTreeSet::new();
        for folder in self.folders() {
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                if let Ok(name) = entry.file_name().into_string()
                    && name.starts_with(prefix)
                    && entry.file_type()?.is_dir()
                {
                    names.insert(name);
                }
            }
        }
        Ok(names
            .into_iter()
            .map(|name| {
                let group = self.named(&name);
                (name, group)
            })
            .collect())
    }

    /// The group called `name`, there or not.
    #[must_use]
    pub fn named(&self, name: &str) -> Group {
        let mut group = Group::default();
        for (controller, folder) in &self.v1 {
            group.v1.insert(controller.clone(), folder.join(name));
        }
        group.v2 = self.v2.as_ref().map(|folder| folder.join(name));
        group.v2_controllers.clone_from(&self.v2_controllers);
        group
    }

    fn make_folders(
        &self,
        name: &str,
        needed: impl Fn(&str) -> bool,
        group: &mut Group,
    ) -> Result<(), CgroupError> {
        let whole = self.named(name);
        whole.kill_leftovers();
        for (controller, path) in whole.v1 {
            match make(&path) {
                Ok(()) => {
                    group.v1.insert(controller, path);
                }
                Err(error) if needed(&controller) => {
                    return Err(CgroupError::Make { path, error });
                }
                // Where nothing may be made, nothing is asked for either.
                Err(_) => {}
            }
        }
        if let Some(path) = whole.v2 {
            match make(&path) {
                Ok(()) => {
                    group.v2 = Some(path);
                    group.v2_controllers = whole.v2_controllers;
                }
                Err(error) if whole.v2_controllers.iter().any(|name| needed(name)) => {
                    return Err(CgroupError::Make { path, error });
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn has(&self, controller: &str) -> bool {
        self.v1.iter().any(|(name, _)| name == controller)
            || self.v2_controllers.iter().any(|name| name == controller)
    }

    fn at_hand(&self) -> String {
        let v1 = self.v1.iter().map(|(name, _)| name.as_str());
        let mut names: Vec<&str> = v1
            .chain(self.v2_controllers.iter().map(String::as_str))
            .collect();
        names.sort_unstable();
        let names = if names.is_empty() {
            "there are none".to_owned()
        } else {
            format!("there are {}", names.join(", "))
        };
        match &self.v2_fault {
            Some(fault) => format!("{names}; {fault}"),
            None => names,
        }
    }

    /// Every folder to make groups in, each once.
    fn folders(&self) -> Vec<&Path> {
        let mut folders: Vec<&Path> = self.v1.iter().map(|(_, path)| path.as_path()).collect();
        folders.extend(self.v2.as_deref());
        folders.sort_unstable();
        folders.dedup();
        folders
    }
}

/// The groups of version 2 that [`Cgroups::find`] may make and move its process into, for this
/// process and for those that it starts.
///
/// # Errors
/// The kernel does not tell what is mounted.
pub fn worker_groups() -> io::Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let hierarchy = Layout::parse(&mounts, &own).v2;
    Ok(hierarchy.map_or_else(Vec::new, |it| v2::worker_groups(&it)))
}

/// The folder of a hierarchy to make groups in.
fn base(hierarchy: &Hierarchy, parent: Option<&Path>) -> io::Result<PathBuf> {
    let Some(parent) = parent else {
        return Ok(hierarchy.own.clone());
    };
    let inside = parent.strip_prefix("/").unwrap_or(parent);
    let folder = hierarchy.mount.join(inside);
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn make(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        // Left by a life that did not come to run, or another controller of the same hierarchy.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
