//! Which applications a node wants the rows of.
//!
//! Those of its own instances always; those that somebody asks for, for a while after they were
//! asked for last. Fetching the rows is the session's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use weald_proto::name::ApplicationName;

/// How long an application stays of interest after it was asked for last: longer than the pauses
/// of programs that look a name up now and then, and short enough that rows do not pile up.
pub const INTEREST_TIMEOUT: Duration = Duration::from_mins(10);

/// Most applications that are of interest because they were asked for: programs can ask for any
/// name, and each costs rows here and at the cluster.
pub const MAX_ASKED: usize = 256;

/// The applications of interest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interests {
    own: BTreeSet<ApplicationName>,
    /// Those asked for, and when that was last.
    asked: BTreeMap<ApplicationName, Instant>,
}

impl Interests {
    /// Says which applications the node's own instances belong to; true if that is a change.
    pub fn set_own(&mut self, own: BTreeSet<ApplicationName>) -> bool {
        let before = self.all();
        self.own = own;
        before != self.all()
    }

    /// Notes that somebody asks for an application; true if it was of no interest before. The one
    /// asked for longest ago makes room if there are too many.
    pub fn ask(&mut self, application: &ApplicationName, now: Instant) -> bool {
        let is_new = !self.contains(application);
        if !self.asked.contains_key(application) && self.asked.len() >= MAX_ASKED {
            let oldest = self.asked.iter().min_by_key(|(_, at)| **at);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                self.asked.remove(&oldest);
            }
        }
        self.asked.insert(application.clone(), now);
        is_new
    }

    /// Drops what nobody has asked for lately; true if that is a change. Not to be called while the
    /// cluster cannot be asked: what is dropped then cannot be had again.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        let before = self.all();
        self.asked.retain(|_, at| now < *at + INTEREST_TIMEOUT);
        before != self.all()
    }

    /// When [`Interests::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let asked = self.asked.values().map(|at| *at + INTEREST_TIMEOUT);
        asked.min()
    }

    /// Whether an application is of interest.
    #[must_use]
    pub fn contains(&self, application: &ApplicationName) -> bool {
        self.own.contains(application) || self.asked.contains_key(application)
    }

    /// All applications of interest.
    #[must_use]
    pub fn all(&self) -> BTreeSet<ApplicationName> {
        self.own.iter().chain(self.asked.keys()).cloned().collect()
    }
}
