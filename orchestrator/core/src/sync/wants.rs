//! The upper side: what the lower one shall have, repeated until it has answered.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use weald_proto::codec::MAX_LIST_LEN;
use weald_proto::control::{Generation, InstanceReport, Phase};
use weald_proto::name::InstanceId;

use super::REPEAT;
use crate::lifecycle::is_over;

/// What shall become of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Want<T> {
    /// It shall run, in this life.
    Run {
        /// Which life.
        generation: Generation,
        /// What it is.
        what: T,
    },
    /// It shall be gone, in every life up to this one.
    Gone {
        /// The last life that ends.
        generation: Generation,
    },
}

impl<T> Want<T> {
    /// The life that is meant.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        match self {
            Self::Run { generation, .. } | Self::Gone { generation } => *generation,
        }
    }
}

/// What a report meant.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Heard {
    /// What is new, and to be persisted before the report is acknowledged.
    pub changed: Vec<InstanceReport>,
    /// Wants that are fulfilled and forgotten: the instances are gone.
    pub gone: Vec<InstanceId>,
    /// Instances that the lower side does not have although it had answered: it has lost them, and
    /// is told again.
    pub lost: Vec<InstanceId>,
    /// Whether to acknowledge the report; stale ones are not.
    pub acknowledge: bool,
    /// Reports that were taken for nothing: of an instance that nobody wants, or of a later life than
    /// was ever wanted.
    pub refused: u64,
    /// The first of them.
    pub lie: Option<(InstanceId, Generation)>,
}

impl Heard {
    fn refuse(&mut self, report: &InstanceReport) {
        self.refused += 1;
        self.lie
            .get_or_insert_with(|| (report.instance.clone(), report.generation));
    }
}

#[derive(Debug, Clone)]
struct Entry<T> {
    want: Want<T>,
    answered: bool,
    /// Whether the life that is wanted has ended by itself: then it is not told again.
    over: bool,
    /// When it was last said on this connection.
    said: Option<Duration>,
    /// The last earlier life that the lower side may have still: it was wanted or shall be gone, or
    /// was heard of. None once this one is answered, which has taken its place.
    former: Option<Generation>,
}

/// What one lower side shall have.
#[derive(Debug, Clone)]
pub struct Wants<T> {
    entries: BTreeMap<InstanceId, Entry<T>>,
    connected: bool,
    /// The sequence of the newest report of this connection.
    heard: u64,
    /// Whether this connection has had its complete report.
    complete: bool,
    /// Of which instances something was said on this connection: it may still arrive.
    spoken: BTreeSet<InstanceId>,
}

impl<T> Default for Wants<T> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            connected: false,
            heard: 0,
            complete: false,
            spoken: BTreeSet::new(),
        }
    }
}

impl<T: Clone> Wants<T> {
    /// Takes up what was persisted.
    #[must_use]
    pub fn restore(wants: impl IntoIterator<Item = (InstanceId, Want<T>)>) -> Self {
        let mut restored = Self::default();
        for (instance, want) in wants {
            restored.set(instance, want);
        }
        restored
    }

    /// Wants something from now on. The caller has persisted it before it sends anything.
    ///
    /// A want of a lower generation than the present one changes nothing, nor does one to run what
    /// shall be gone in the same life; then it returns false.
    pub fn set(&mut self, instance: InstanceId, want: Want<T>) -> bool {
        let mut former = None;
        if let Some(entry) = self.entries.get(&instance) {
            let (old, new) = (entry.want.generation(), want.generation());
            let ends = matches!(want, Want::Gone { .. });
            let present_ends = matches!(entry.want, Want::Gone { .. });
            if new < old || (new == old && (present_ends || !ends)) {
                return false;
            }
            former = Some(old);
        }
        let entry = Entry {
            want,
            answered: false,
            over: false,
            said: None,
            former,
        };
        self.entries.insert(instance, entry);
        true
    }

    /// The life that is wanted has ended by itself, as was heard before a restart: it is not begun
    /// again, whoever has lost it.
    pub fn settle(&mut self, instance: &InstanceId) {
        if let Some(entry) = self.entries.get_mut(instance) {
            entry.answered = true;
            entry.over = true;
        }
    }

    /// Gives a want up, because the lower side has refused it. A later one stays.
    ///
    /// Returns the life before it, if the lower side may have that still: it has refused only what was
    /// to take its place. The caller wants it gone.
    #[must_use]
    pub fn withdraw(
        &mut self,
        instance: &InstanceId,
        generation: Generation,
    ) -> Option<Generation> {
        let entry = self.entries.get(instance)?;
        if entry.want.generation() != generation {
            return None;
        }
        self.entries
            .remove(instance)
            .and_then(|entry| entry.former)
            .filter(|former| *former < generation)
    }

    /// What is wanted of an instance.
    #[must_use]
    pub fn get(&self, instance: &InstanceId) -> Option<&Want<T>> {
        self.entries.get(instance).map(|entry| &entry.want)
    }

    /// Whether the lower side has said of the life that is wanted how it is.
    #[must_use]
    pub fn is_answered(&self, instance: &InstanceId) -> bool {
        let entry = self.entries.get(instance);
        entry.is_some_and(|entry| entry.answered)
    }

    /// Everything that is wanted.
    pub fn iter(&self) -> impl Iterator<Item = (&InstanceId, &Want<T>)> {
        self.entries.iter().map(|(id, entry)| (id, &entry.want))
    }

    /// A new connection; what was said on earlier ones counts for nothing.
    pub fn connected(&mut self) {
        self.connected = true;
        self.complete = false;
        self.heard = 0;
        self.spoken.clear();
        for entry in self.entries.values_mut() {
            entry.said = None;
        }
    }

    /// The connection is gone.
    pub fn disconnected(&mut self) {
        self.connected = false;
    }

    /// What is to be said now. Nothing is, before the complete report of a connection: most of it
    /// would be known already.
    pub fn poll(&mut self, now: Duration) -> Vec<(InstanceId, Want<T>)> {
        if !self.connected || !self.complete {
            return Vec::new();
        }
        let mut due = Vec::new();
        for (instance, entry) in &mut self.entries {
            let waits = entry.said.is_some_and(|said| now < said + REPEAT);
            if !entry.answered && !waits {
                entry.said = Some(now);
                self.spoken.insert(instance.clone());
                due.push((instance.clone(), entry.want.clone()));
            }
        }
        due
    }

    /// When [`Wants::poll`] has something to say next; none if nothing is waiting.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        if !self.connected || !self.complete {
            return None;
        }
        let open = self.entries.values().filter(|entry| !entry.answered);
        open.map(|entry| entry.said.map_or(Duration::ZERO, |said| said + REPEAT))
            .min()
    }

    /// Takes in a report.
    pub fn handle_report(
        &mut self,
        sequence: u64,
        complete: bool,
        instances: &[InstanceReport],
    ) -> Heard {
        // Before the complete one an incremental report would hide what it does not name.
        if sequence <= self.heard || (!complete && !self.complete) {
            return Heard::default();
        }
        self.heard = sequence;
        self.complete |= complete;
        let mut heard = Heard {
            acknowledge: true,
            ..Heard::default()
        };
        if complete {
            self.find_lost(instances, &mut heard);
        }
        for report in instances {
            self.hear(report, &mut heard);
        }
        heard
    }

    /// What the lower side had and has no longer.
    fn find_lost(&mut self, instances: &[InstanceReport], heard: &mut Heard) {
        let named: BTreeSet<_> = instances.iter().map(|report| &report.instance).collect();
        let mut gone = Vec::new();
        for (instance, entry) in &mut self.entries {
            if named.contains(instance) {
                continue;
            }
            match entry.want {
                // The report may be older than what was said, and a want to run it still under way;
                // then only a report of its end will do.
                Want::Gone { .. } if self.spoken.contains(instance) => {}
                Want::Gone { .. } => gone.push(instance.clone()),
                Want::Run { .. } if entry.answered && !entry.over => {
                    entry.answered = false;
                    entry.said = None;
                    heard.lost.push(instance.clone());
                }
                Want::Run { .. } => {}
            }
        }
        for instance in gone {
            self.entries.remove(&instance);
            heard.gone.push(instance);
        }
    }

    fn hear(&mut self, report: &InstanceReport, heard: &mut Heard) {
        let Some(entry) = self.entries.get_mut(&report.instance) else {
            // Nobody wants it: it shall be gone. Its end is no news. More than one side can have it
            // is not kept of it.
            if report.phase != Phase::Terminated {
                heard.refuse(report);
                let generation = report.generation;
                if self.entries.len() < MAX_LIST_LEN {
                    self.set(report.instance.clone(), Want::Gone { generation });
                }
            }
            return;
        };
        match entry.want {
            Want::Gone { generation } => {
                // The end of an earlier life says nothing of a later one that may still start.
                if report.generation == generation && report.phase == Phase::Terminated {
                    self.entries.remove(&report.instance);
                    self.spoken.remove(&report.instance);
                    heard.gone.push(report.instance.clone());
                } else if report.generation > generation {
                    heard.refuse(report);
                    let generation = report.generation;
                    self.set(report.instance.clone(), Want::Gone { generation });
                }
            }
            Want::Run { generation, .. } => {
                if report.generation == generation {
                    entry.answered = true;
                    entry.former = None;
                    entry.over |= is_over(report.phase);
                    heard.changed.push(report.clone());
                    return;
                }
                if report.generation > generation {
                    heard.refuse(report);
                } else if report.phase != Phase::Terminated {
                    // As when it took an offer that was repeated before its refusal was heard.
                    entry.former = entry.former.max(Some(report.generation));
                }
                if !entry.over {
                    // It speaks of another life: it has not heard of this one.
                    entry.answered = false;
                }
            }
        }
    }
}
