//! The processes as the shells make them: a queue of inputs, a machine, a disk, and what is done once
//! the disk has it.
//!
//! A thread takes what is there, at most so much, commits what follows from all of it, and then
//! carries the effects out one by one. It may die before the commit, behind it, and between any two
//! effects; and the commit may take long, while connections come and go.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use orchestrator_core::Now;
use orchestrator_core::addresses::Plan;
use orchestrator_core::cluster::{self, Cluster};
use orchestrator_core::record::{Record, Write};
use orchestrator_core::root::{self, Command, CommandError, Root, Scope};
use orchestrator_core::worker::{self, Worker};

use super::links::{End, Link};
use super::site::{
    CLUSTERS, Who, capacity, cluster_key, node, node_of, settings, site_of, worker_key,
};
use super::trust::{Beliefs, Signer};

#[derive(Debug, Default, Clone)]
pub(crate) struct Disk(BTreeMap<(String, String), Record>);

impl Disk {
    pub(crate) fn commit(&mut self, writes: Vec<Write>) {
        for write in writes {
            match write {
                Write::Put(record) => {
                    let key = (record.kind.clone(), record.key.clone());
                    self.0.insert(key, record);
                }
                Write::Delete { kind, key } => {
                    self.0.remove(&(kind, key));
                }
            }
        }
    }

    fn records(&self) -> Vec<Record> {
        self.0.values().cloned().collect()
    }
}

/// What a process is told.
#[derive(Debug)]
pub(crate) enum Input {
    Root(root::Input),
    /// A user's, under a number for the answer.
    Command(u64, Command),
    Cluster(cluster::Input),
    Worker(worker::Input),
}

/// What an input says of a connection: that it is the present one, or with none that there is none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct News {
    pub(crate) link: Link,
    pub(crate) end: End,
    pub(crate) connection: Option<u64>,
}

/// What a process does.
#[derive(Debug)]
pub(crate) enum Effect {
    Root(root::Effect),
    /// The user is told that the command of this number is done, or that nothing was.
    Answer(u64, bool),
    Cluster(cluster::Effect),
    Worker(worker::Effect),
}

/// An effect with the connection of its link when it was decided on, if it is one that is said.
pub(crate) type Decided = (Effect, Option<u64>);

pub(crate) enum Machine {
    Root(Box<Root>),
    Cluster(Box<Cluster>),
    Worker(Box<Worker>),
}

pub(crate) struct Process {
    who: Who,
    /// What it proves to hold on its link; root has none.
    pub(crate) key: [u8; 32],
    /// What it believes of whom to trust.
    pub(crate) beliefs: Beliefs,
    /// The keys that its links refuse.
    pub(crate) refused: BTreeSet<[u8; 32]>,
    pub(crate) machine: Machine,
    pub(crate) disk: Disk,
    pub(crate) inbox: VecDeque<(Input, Option<News>)>,
    /// The connections that the machine knows of.
    knows: BTreeMap<(Link, End), u64>,
    /// What is done when the commit is through, and when that is.
    pub(crate) committing: Option<(Duration, Vec<Decided>)>,
    /// When it is started again.
    pub(crate) down: Option<Duration>,
}

impl Process {
    pub(crate) fn new(who: Who, now: Now) -> Self {
        let key = match who {
            Who::Root => [0; 32],
            Who::Cluster(site) => cluster_key(site, 0),
            Who::Worker(site, at) => worker_key(site, at, 0),
        };
        let beliefs = Beliefs::default();
        let (machine, writes, _) = restore((who, key), &beliefs, &[], now);
        let mut disk = Disk::default();
        disk.commit(writes);
        Self {
            who,
            key,
            beliefs,
            refused: BTreeSet::new(),
            machine,
            disk,
            inbox: VecDeque::new(),
            knows: BTreeMap::new(),
            committing: None,
            down: None,
        }
    }

    /// It dies: all that is left is the disk.
    pub(crate) fn die(&mut self, until: Duration) {
        self.inbox.clear();
        self.knows.clear();
        self.committing = None;
        self.down = Some(until);
    }

    /// It is started again from its disk; returns what it does first of all.
    pub(crate) fn start(&mut self, now: Now) -> Vec<Decided> {
        self.down = None;
        self.beliefs = Beliefs::default();
        let identity = (self.who, self.key);
        let (machine, writes, effects) =
            restore(identity, &self.beliefs, &self.disk.records(), now);
        self.refused = self.beliefs.revoked();
        self.machine = machine;
        self.disk.commit(writes);
        effects.into_iter().map(|effect| (effect, None)).collect()
    }

    /// What it would be if it was started from its disk.
    pub(crate) fn kept(&self, now: Now) -> Machine {
        let identity = (self.who, self.key);
        restore(identity, &Beliefs::default(), &self.disk.records(), now).0
    }

    pub(crate) fn next_due(&self) -> Option<Duration> {
        match &self.machine {
            Machine::Root(root) => root.next_due(),
            Machine::Cluster(cluster) => cluster.next_due(),
            Machine::Worker(worker) => worker.next_due(),
        }
    }

    /// Lets the machine take in the next of its inputs, or that time has passed.
    pub(crate) fn handle_next(&mut self, now: Now) -> (Vec<Write>, Vec<Decided>) {
        let (input, news) = match self.inbox.pop_front() {
            Some((input, news)) => (Some(input), news),
            None => (None, None),
        };
        if let Some(news) = news {
            let line = (news.link, news.end);
            match news.connection {
                Some(connection) => self.knows.insert(line, connection),
                None => self.knows.remove(&line),
            };
        }
        let (writes, effects) = match &mut self.machine {
            Machine::Root(root) => tell_root(root, input, now),
            Machine::Cluster(cluster) => {
                let input = match input {
                    Some(Input::Cluster(input)) => input,
                    None => cluster::Input::Tick,
                    Some(other) => panic!("{other:?} to a cluster"),
                };
                let step = cluster.handle(input, now).unwrap();
                let effects = step.effects.into_iter().map(Effect::Cluster).collect();
                (step.writes, effects)
            }
            Machine::Worker(worker) => {
                let input = match input {
                    Some(Input::Worker(input)) => input,
                    None => worker::Input::Tick,
                    Some(other) => panic!("{other:?} to a worker"),
                };
                let step = worker.handle(input, now).unwrap();
                let effects = step.effects.into_iter().map(Effect::Worker).collect();
                (step.writes, effects)
            }
        };
        let decided = |effect: Effect| {
            let line = line_of(self.who, &effect);
            let knows = line.and_then(|line| self.knows.get(&line).copied());
            (effect, knows)
        };
        (writes, effects.into_iter().map(decided).collect())
    }
}

fn tell_root(root: &mut Root, input: Option<Input>, now: Now) -> (Vec<Write>, Vec<Effect>) {
    let (step, answer) = match input {
        Some(Input::Command(number, command)) => {
            // What it is about may be gone by now.
            let (step, done) = match root.command(command, &Scope::All, now) {
                Ok((step, _)) => (step, true),
                Err(
                    CommandError::Unknown { .. }
                    | CommandError::Exists { .. }
                    | CommandError::Revoked { .. },
                ) => (root::Step::default(), false),
                Err(error) => panic!("{error}"),
            };
            (step, Some(Effect::Answer(number, done)))
        }
        Some(Input::Root(input)) => (root.handle(input, now).unwrap(), None),
        None => (root.handle(root::Input::Tick, now).unwrap(), None),
        Some(other) => panic!("{other:?} to root"),
    };
    let effects = step.effects.into_iter().map(Effect::Root);
    (step.writes, effects.chain(answer).collect())
}

fn restore(
    (who, key): (Who, [u8; 32]),
    beliefs: &Beliefs,
    records: &[Record],
    now: Now,
) -> (Machine, Vec<Write>, Vec<Effect>) {
    let signer = |cluster| {
        let beliefs = beliefs.clone();
        Box::new(Signer { cluster, beliefs })
    };
    match who {
        Who::Root => {
            let restored = Root::restore(Plan::default(), signer(None), records, now);
            let (root, step) = restored.unwrap();
            // The shell keeps what it has judged.
            beliefs.take_up(&root);
            let effects = step.effects.into_iter().map(Effect::Root).collect();
            (Machine::Root(Box::new(root)), step.writes, effects)
        }
        Who::Cluster(site) => {
            let trust = signer(Some((CLUSTERS[site], key)));
            let restored = Cluster::restore(settings(site), trust, records, now);
            let (cluster, step) = restored.unwrap();
            let effects = step.effects.into_iter().map(Effect::Cluster).collect();
            (Machine::Cluster(Box::new(cluster)), step.writes, effects)
        }
        Who::Worker(site, at) => {
            let restored = Worker::restore(node(site, at), capacity(), records);
            let (worker, step) = restored.unwrap();
            let effects = step.effects.into_iter().map(Effect::Worker).collect();
            (Machine::Worker(Box::new(worker)), step.writes, effects)
        }
    }
}

/// On which link something is said, and from which end.
fn line_of(who: Who, effect: &Effect) -> Option<(Link, End)> {
    match (effect, who) {
        (Effect::Root(root::Effect::ToCluster(cluster, _)), _) => {
            Some((Link::Cluster(site_of(cluster)), End::Upper))
        }
        (Effect::Cluster(cluster::Effect::ToRoot(_)), Who::Cluster(site)) => {
            Some((Link::Cluster(site), End::Lower))
        }
        (Effect::Cluster(cluster::Effect::ToWorker(node, _)), Who::Cluster(site)) => {
            Some((Link::Worker(site, node_of(node)), End::Upper))
        }
        (Effect::Worker(worker::Effect::Send(_)), Who::Worker(site, at)) => {
            Some((Link::Worker(site, at), End::Lower))
        }
        (
            Effect::Root(_) | Effect::Answer(..) | Effect::Cluster(_) | Effect::Worker(_),
            Who::Root | Who::Cluster(_) | Who::Worker(..),
        ) => None,
    }
}
