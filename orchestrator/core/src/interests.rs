//! Who wants which rows, and what each is told: the rows of an application go to those who asked
//! for it, whole at first and then as they change.
//!
//! A cluster keeps one [`RowBook`] for its netmanagers, root one for its clusters. A listener's
//! link is reliable and ordered while it lasts; after a reconnection it listens anew and is told
//! everything again. An instance's row brings the row of its node along, because whoever picks the
//! instance must find the node; rows of relays go to everybody. A removed thing stays as a row
//! that says so, for as long as an older one could come back.
//!
//! Rows are passed on as they were signed; who may claim what was judged before they come here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use weald_proto::codec::{MAX_LIST_LEN, MAX_MESSAGE_LEN};
use weald_proto::control::Generation;
use weald_proto::id::{Label, MAX_LABEL_LEN, NodeId, RelayId};
use weald_proto::name::{ApplicationName, InstanceId, ServiceName};
use weald_proto::statement::Signed;

/// What a row is about. Relays are last, which [`RowBook::poll`] relies on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A service.
    Service(ServiceName),
    /// An instance.
    Instance(InstanceId),
    /// A node.
    Node(NodeId),
    /// A relay.
    Relay(RelayId),
}

/// A row with what must be known of it to pass it on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What it is about.
    pub subject: Subject,
    /// Orders the rows about one subject.
    pub generation: Generation,
    /// Whether it says that the subject is gone.
    pub removed: bool,
    /// The node that an instance is on; none for other rows and for removed ones.
    pub host: Option<NodeId>,
    /// The row as it was signed.
    pub signed: Signed,
}

/// What a listener is told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Update {
    /// The applications that the rows are all of.
    pub complete: Vec<ApplicationName>,
    /// The rows: services before instances, nodes before the instances on them.
    pub rows: Vec<Signed>,
    /// Applications that were asked for and do not exist.
    pub unknown: Vec<ApplicationName>,
}

/// What one message says of the rows of an [`Update`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The applications that the rows of all parts are all of; said with the last one.
    pub complete: Vec<ApplicationName>,
    /// Its rows.
    pub rows: Vec<Signed>,
    /// Whether another part follows.
    pub more: bool,
}

/// Rows in one message at most.
const PART_ROWS: usize = MAX_LIST_LEN / 2;
/// Bytes of the rows in one message at most, when there is more than one row; applications that are
/// complete may take the half of the rest.
const PART_BYTES: usize = MAX_MESSAGE_LEN / 4;
/// Bytes that a signed row has beside its statement: a signature (Ed25519), a cluster's name, and
/// what is around them.
const BESIDE_STATEMENT: usize = 64 + MAX_LABEL_LEN + 16;

/// Puts rows into as many lists as there have to be messages.
pub fn in_messages(rows: impl IntoIterator<Item = Signed>) -> Vec<Vec<Signed>> {
    let (mut lists, mut bytes) = (Vec::<Vec<Signed>>::new(), 0);
    for row in rows {
        let length = row.statement.len() + BESIDE_STATEMENT;
        bytes += length;
        match lists.last_mut() {
            Some(list) if bytes <= PART_BYTES && list.len() < PART_ROWS => list.push(row),
            Some(_) | None => {
                bytes = length;
                lists.push(vec![row]);
            }
        }
    }
    lists
}

impl Update {
    /// Whether there is nothing to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.complete.is_empty() && self.rows.is_empty() && self.unknown.is_empty()
    }

    /// What is complete and the rows, as messages in order; none if there is nothing of them.
    #[must_use]
    pub fn into_parts(self) -> Vec<Part> {
        let lists = in_messages(self.rows).into_iter();
        let mut parts: Vec<Part> = lists
            .map(|rows| Part {
                complete: Vec::new(),
                rows,
                more: true,
            })
            .collect();
        if parts.is_empty() && !self.complete.is_empty() {
            parts.push(Part {
                complete: Vec::new(),
                rows: Vec::new(),
                more: true,
            });
        }
        if let Some(last) = parts.last_mut() {
            last.complete = self.complete;
            last.more = false;
        }
        parts
    }
}

#[derive(Debug, Clone)]
struct Entry {
    row: Row,
    /// When it changed, counted in changes of the book.
    changed: u64,
}

#[derive(Debug, Clone, Default)]
struct Listener {
    interests: BTreeSet<ApplicationName>,
    /// Asked for and not told yet.
    fresh: BTreeSet<ApplicationName>,
    /// Told not to exist.
    unknown: BTreeSet<ApplicationName>,
    /// Every change up to this one is told.
    told: u64,
    /// The nodes whose rows are told and kept up to date.
    nodes: BTreeSet<NodeId>,
}

/// All rows, and who listens; `L` names a listener.
#[derive(Debug, Clone)]
pub struct RowBook<L> {
    rows: BTreeMap<Subject, Entry>,
    /// The subjects of each application.
    applications: BTreeMap<ApplicationName, BTreeSet<Subject>>,
    changes: u64,
    listeners: BTreeMap<L, Listener>,
    /// When removed rows are looked through next, and the changes that were old already then.
    sweep: (Duration, u64),
}

impl<L: Ord> Default for RowBook<L> {
    fn default() -> Self {
        Self {
            rows: BTreeMap::new(),
            applications: BTreeMap::new(),
            changes: 0,
            listeners: BTreeMap::new(),
            sweep: (Duration::ZERO, 0),
        }
    }
}

impl Subject {
    /// The application that the subject is of; none for nodes and relays.
    #[must_use]
    pub const fn application(&self) -> Option<&ApplicationName> {
        match self {
            Self::Service(service) => Some(&service.application),
            Self::Instance(instance) => Some(&instance.service.application),
            Self::Node(_) | Self::Relay(_) => None,
        }
    }
}

impl<L: Ord + Clone> RowBook<L> {
    /// Takes in a row; returns false if one of the same or a higher generation is there.
    pub fn put(&mut self, row: Row) -> bool {
        let known = self.rows.get(&row.subject);
        if known.is_some_and(|known| known.row.generation >= row.generation) {
            return false;
        }
        self.changes += 1;
        if let Some(application) = row.subject.application() {
            let subjects = self.applications.entry(application.clone()).or_default();
            subjects.insert(row.subject.clone());
        }
        let entry = Entry {
            changed: self.changes,
            row,
        };
        self.rows.insert(entry.row.subject.clone(), entry);
        true
    }

    /// Forgets a row that says that its subject is gone, once no older one can come back.
    pub fn forget(&mut self, subject: &Subject) -> bool {
        if !self
            .rows
            .get(subject)
            .is_some_and(|known| known.row.removed)
        {
            return false;
        }
        self.rows.remove(subject);
        if let Some(application) = subject.application()
            && let Some(subjects) = self.applications.get_mut(application)
        {
            subjects.remove(subject);
            if subjects.is_empty() {
                self.applications.remove(application);
            }
        }
        true
    }

    /// Forgets every row that says that a service or an instance is gone and has stood for a `life`,
    /// within which an older one could come back; after two lives at the latest. Of nodes and relays,
    /// which are few, no complete list would say the same later. `elapsed` counts from any moment
    /// on, the same one each time.
    pub fn forget_old(&mut self, elapsed: Duration, life: Duration) {
        let (due, old) = self.sweep;
        if elapsed < due {
            return;
        }
        self.sweep = (elapsed + life, self.changes);
        let is_old = |entry: &&Entry| {
            let may_go = entry.row.removed && entry.row.subject.application().is_some();
            may_go && entry.changed <= old
        };
        let gone: Vec<_> = self
            .rows
            .values()
            .filter(is_old)
            .map(|entry| entry.row.subject.clone())
            .collect();
        for subject in gone {
            self.forget(&subject);
        }
    }

    /// Takes in rows that are all of an application, except for those that `keep` is true of: what
    /// is not among them is gone, and whoever listens is told the application whole again.
    /// Returns how many rows were lost.
    pub fn complete(
        &mut self,
        application: &ApplicationName,
        subjects: &BTreeSet<Subject>,
        keep: impl Fn(&Row) -> bool,
    ) -> usize {
        let Some(of_it) = self.applications.get_mut(application) else {
            return 0;
        };
        let rows = &mut self.rows;
        let before = of_it.len();
        of_it.retain(|subject| {
            let kept = subjects.contains(subject)
                || rows.get(subject).is_some_and(|entry| keep(&entry.row));
            if !kept {
                rows.remove(subject);
            }
            kept
        });
        let lost = before - of_it.len();
        if of_it.is_empty() {
            self.applications.remove(application);
        }
        if lost > 0 {
            for listener in self.listeners.values_mut() {
                if listener.interests.contains(application) {
                    listener.fresh.insert(application.clone());
                }
            }
        }
        lost
    }

    /// Forgets all that a cluster has signed, which nobody believes any more: whoever listens to an
    /// application that had some of it is told that whole again.
    pub fn forget_signed_by(&mut self, cluster: &Label) {
        let is_its = |entry: &Entry| entry.row.signed.cluster.as_ref() == Some(cluster);
        let gone = self.rows.extract_if(.., |_, entry| is_its(entry));
        for subject in gone.map(|(subject, _)| subject).collect::<Vec<_>>() {
            let Some(application) = subject.application() else {
                continue;
            };
            if let Some(subjects) = self.applications.get_mut(application) {
                subjects.remove(&subject);
                if subjects.is_empty() {
                    self.applications.remove(application);
                }
            }
            for listener in self.listeners.values_mut() {
                if listener.interests.contains(application) {
                    listener.fresh.insert(application.clone());
                }
            }
        }
    }

    /// Every row, in the order of subjects.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.values().map(|entry| &entry.row)
    }

    /// The rows of a subject's application, of its own kind, from that subject on.
    pub fn rows_from<'a>(&'a self, subject: &'a Subject) -> impl Iterator<Item = &'a Row> {
        let application = subject.application();
        let of_it = application.and_then(|it| self.applications.get(it));
        let of_it = of_it.into_iter().flat_map(move |it| it.range(subject..));
        of_it.filter_map(|it| self.rows.get(it).map(|entry| &entry.row))
    }

    /// The row of a subject.
    #[must_use]
    pub fn get(&self, subject: &Subject) -> Option<&Row> {
        self.rows.get(subject).map(|entry| &entry.row)
    }

    /// Everybody who listens, in order.
    pub fn listeners(&self) -> impl Iterator<Item = &L> {
        self.listeners.keys()
    }

    /// A listener has connected: it is told everything of its interests.
    pub fn listen(&mut self, listener: L, interests: impl IntoIterator<Item = ApplicationName>) {
        self.listeners.insert(listener.clone(), Listener::default());
        self.set_interests(&listener, interests);
    }

    /// A listener wants other applications than before. What it does not want any more it is not
    /// told of any longer.
    pub fn set_interests(
        &mut self,
        listener: &L,
        interests: impl IntoIterator<Item = ApplicationName>,
    ) {
        let Some(listener) = self.listeners.get_mut(listener) else {
            return;
        };
        let interests: BTreeSet<_> = interests.into_iter().collect();
        let fresh: Vec<_> = interests.difference(&listener.interests).cloned().collect();
        listener.fresh.extend(fresh);
        listener
            .fresh
            .retain(|application| interests.contains(application));
        listener
            .unknown
            .retain(|application| interests.contains(application));
        listener.interests = interests;
    }

    /// A listener is gone.
    pub fn leave(&mut self, listener: &L) {
        self.listeners.remove(listener);
    }

    /// Every application that somebody is interested in.
    #[must_use]
    pub fn interests(&self) -> BTreeSet<ApplicationName> {
        let all = self.listeners.values();
        all.flat_map(|listener| listener.interests.iter().cloned())
            .collect()
    }

    /// Whether there is something to tell a listener; cheap, for deciding whom to look after.
    #[must_use]
    pub fn is_due(&self, listener: &L) -> bool {
        let listener = self.listeners.get(listener);
        listener.is_some_and(|it| !it.fresh.is_empty() || it.told < self.changes)
    }

    /// What a listener is to be told now; it counts as told.
    pub fn poll(&mut self, listener: &L) -> Update {
        let Some(listener) = self.listeners.get_mut(listener) else {
            return Update::default();
        };
        let mut update = Update::default();
        let mut subjects = BTreeSet::new();
        let told = std::mem::replace(&mut listener.told, self.changes);
        let fresh = std::mem::take(&mut listener.fresh);
        let (rows, applications) = (&self.rows, &self.applications);
        for application in &listener.interests {
            let Some(of_it) = applications.get(application) else {
                if fresh.contains(application) {
                    update.unknown.push(application.clone());
                    listener.unknown.insert(application.clone());
                }
                continue;
            };
            // What did not exist when it was asked for is told whole once it does.
            let whole = fresh.contains(application) || listener.unknown.remove(application);
            if whole {
                update.complete.push(application.clone());
            }
            let changed =
                |subject: &&Subject| rows.get(subject).is_some_and(|it| it.changed > told);
            subjects.extend(of_it.iter().filter(|subject| whole || changed(subject)));
        }
        listener.tell_hosts(rows, applications, told, &mut subjects);
        // Relays come last in the order of subjects.
        let relays = rows.iter().rev();
        let relays = relays.take_while(|(subject, _)| matches!(subject, Subject::Relay(_)));
        subjects.extend(relays.filter(|(_, it)| it.changed > told).map(|(it, _)| it));
        let order = |subject: &&Subject| match subject {
            Subject::Relay(_) => 0,
            Subject::Node(_) => 1,
            Subject::Service(_) => 2,
            Subject::Instance(_) => 3,
        };
        let mut subjects: Vec<_> = subjects.into_iter().collect();
        subjects.sort_by_key(order);
        let signed = subjects.into_iter().filter_map(|subject| rows.get(subject));
        update.rows = signed.map(|entry| entry.row.signed.clone()).collect();
        update
    }
}

impl Listener {
    /// Adds the rows of the nodes that host what the listener wants: those it has not been told of,
    /// and those that have changed.
    fn tell_hosts<'a>(
        &mut self,
        rows: &'a BTreeMap<Subject, Entry>,
        applications: &BTreeMap<ApplicationName, BTreeSet<Subject>>,
        told: u64,
        subjects: &mut BTreeSet<&'a Subject>,
    ) {
        let wanted = self.interests.iter().filter_map(|it| applications.get(it));
        let hosts: BTreeSet<NodeId> = wanted
            .flatten()
            .filter_map(|subject| rows.get(subject)?.row.host.clone())
            .collect();
        let mut known = BTreeSet::new();
        for host in hosts {
            let Some((subject, entry)) = rows.get_key_value(&Subject::Node(host.clone())) else {
                continue;
            };
            if entry.changed > told || !self.nodes.contains(&host) {
                subjects.insert(subject);
            }
            known.insert(host);
        }
        self.nodes = known;
    }
}

#[cfg(test)]
mod tests;
