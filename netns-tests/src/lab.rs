//! The lab: builds a description in network namespaces and removes all of it when dropped.
//!
//! A failure while building, a panic of the test and a plain drop all end in the same teardown.

mod build;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};

use crate::description::Description;
use crate::emulator::EmulatedLink;
use crate::namespace::{Namespace, names_with_prefix};
use crate::node::Node;
use crate::plan::Plan;
use crate::require;
use crate::sweep;

/// The name of the bridge inside every segment's namespace.
pub const BRIDGE: &str = "bridge";

/// Counts the labs of this process, for unique names.
static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A running lab.
#[derive(Debug)]
pub struct Lab {
    name: String,
    segments: BTreeMap<String, Namespace>,
    nodes: BTreeMap<String, Node>,
    links: BTreeMap<(String, String), EmulatedLink>,
    extra_prefixes: Mutex<Vec<String>>,
    groups: Mutex<BTreeSet<String>>,
}

impl Lab {
    /// Builds a lab and returns once every link carries packets.
    ///
    /// # Errors
    /// Fails if the description has a fault, without root, or without the programs `ip` and
    /// `nft`; what was built until then is removed.
    pub fn new(description: &Description) -> Result<Self> {
        require::privileges()?;
        require::programs(&["ip", "nft"])?;
        let plan = Plan::new(description)?;
        sweep::remove_dead_labs();
        let mut lab = Self {
            name: sweep::lab_name(COUNTER.fetch_add(1, Ordering::Relaxed))?,
            segments: BTreeMap::new(),
            nodes: BTreeMap::new(),
            links: BTreeMap::new(),
            extra_prefixes: Mutex::new(Vec::new()),
            groups: Mutex::default(),
        };
        build::build(&mut lab, &plan).with_context(|| format!("build lab {}", lab.name))?;
        Ok(lab)
    }

    /// The unique name, which all of the lab's namespaces start with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A directory that is removed with the lab; it may not exist yet.
    pub fn dir(&self) -> PathBuf {
        sweep::lab_dir(&self.name)
    }

    /// All machines, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// A host or router.
    ///
    /// # Panics
    /// Panics if the description has none of this name.
    #[track_caller]
    pub fn node(&self, name: &str) -> &Node {
        match self.nodes.get(name) {
            Some(node) => node,
            None => panic!("the lab has no node {name:?}, only {:?}", self.nodes.keys()),
        }
    }

    /// The namespace of a segment; its switch is the interface [`BRIDGE`].
    ///
    /// # Panics
    /// Panics if the description has none of this name.
    #[track_caller]
    pub fn segment(&self, name: &str) -> &Namespace {
        match self.segments.get(name) {
            Some(segment) => segment,
            None => panic!(
                "the lab has no segment {name:?}, only {:?}",
                self.segments.keys()
            ),
        }
    }

    /// The emulated link between a machine and a segment.
    ///
    /// # Panics
    /// Panics if there is no such link or it is not emulated.
    #[track_caller]
    pub fn link(&self, machine: &str, segment: &str) -> &EmulatedLink {
        match self.links.get(&(machine.to_owned(), segment.to_owned())) {
            Some(link) => link,
            None => panic!(
                "no emulated link {machine:?} - {segment:?}: {:?}",
                self.links.keys()
            ),
        }
    }

    /// Opens a namespace that a program in the lab made.
    ///
    /// # Errors
    /// Fails if there is none of this name.
    pub fn open_namespace(&self, name: &str) -> Result<Namespace> {
        Namespace::open(name, &self.name)
    }

    /// Has teardown remove all namespaces whose names start with `prefix` as well, for those that
    /// a program in the lab makes and may leave behind.
    ///
    /// # Panics
    /// Panics if the prefix is shorter than four characters, which would hit others.
    #[track_caller]
    pub fn own_namespaces(&self, prefix: &str) {
        assert!(
            prefix.len() >= 4,
            "namespace prefix {prefix:?} is too short to be unique"
        );
        let mut prefixes = self
            .extra_prefixes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        prefixes.push(prefix.to_owned());
    }

    /// Has [`Lab::names`] hold what the cgroups of this lab's instances begin with. Workers choose it,
    /// so it is looked up in the kernel, while instances run.
    ///
    /// # Errors
    /// No program of the lab is in such a cgroup.
    pub fn learn_groups(&self) -> Result<()> {
        let own = self.extra_prefixes.lock();
        let own = own.unwrap_or_else(PoisonError::into_inner).clone();
        let found = sweep::group_prefixes(&self.name, &own);
        ensure!(!found.is_empty(), "no instance of lab {} runs", self.name);
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.extend(found);
        Ok(())
    }

    /// What stands in the name of everything that the lab and its programs have made: its own name, the
    /// beginnings of namespaces that programs make, and those of cgroups that were learned.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let own = self.extra_prefixes.lock();
        let own = own.unwrap_or_else(PoisonError::into_inner).clone();
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let all = std::iter::once(self.name.clone()).chain(own);
        all.chain(groups.iter().cloned()).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let prefixes = self
            .extra_prefixes
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        sweep::remove_lab(&self.name, prefixes);
    }
}

/// Whether anything of a lab is left: a namespace, or its directory.
pub fn leftovers(lab: &str) -> Vec<String> {
    let mut left = names_with_prefix(&format!("{lab}-"));
    let dir = sweep::lab_dir(lab);
    if dir.exists() {
        left.push(dir.display().to_string());
    }
    left
}
