//! The links: connections that come up at one end before the other, break, and are noticed late.
//!
//! As the shells make them. The lower end dials once it knows that it has no connection; the upper
//! end learns of one with the first message that arrives on it, which takes the place of any earlier
//! one. Each end has a board with its present connection: what is heard on another is dropped, and
//! what is said goes to the one that is present when it is said, whichever it was decided on. Of what
//! is under way when a connection breaks the beginning arrives, in each direction as much as chance
//! has it, and each end notices in its own time; until then what it says is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use weald_proto::control::{ClusterToRoot, ClusterToWorker, RootToCluster, WorkerToCluster};

use super::site::{Who, millis};
use crate::support::random::Random;

/// A silent connection is given up after this time.
const IDLE_MS: u64 = 6_000;

/// A link by its lower end: a cluster's to root, or a worker's to its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Link {
    Cluster(usize),
    Worker(usize, usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    Lower,
    Upper,
}

impl End {
    const fn other(self) -> Self {
        match self {
            Self::Lower => Self::Upper,
            Self::Upper => Self::Lower,
        }
    }
}

impl Link {
    /// The process at an end.
    pub(crate) const fn who(self, end: End) -> Who {
        match (self, end) {
            (Self::Cluster(site), End::Lower) | (Self::Worker(site, _), End::Upper) => {
                Who::Cluster(site)
            }
            (Self::Worker(site, at), End::Lower) => Who::Worker(site, at),
            (Self::Cluster(_), End::Upper) => Who::Root,
        }
    }
}

/// Every link that a process has, and which end it is.
pub(crate) fn links_of(who: Who) -> Vec<(Link, End)> {
    let all = super::site::everybody().into_iter();
    let all = all.filter_map(|it| match it {
        Who::Root => None,
        Who::Cluster(site) => Some(Link::Cluster(site)),
        Who::Worker(site, at) => Some(Link::Worker(site, at)),
    });
    all.flat_map(|link| [(link, End::Lower), (link, End::Upper)])
        .filter(|(link, end)| link.who(*end) == who)
        .collect()
}

#[derive(Debug, Clone)]
pub(crate) enum Said {
    ClusterToRoot(ClusterToRoot),
    RootToCluster(RootToCluster),
    WorkerToCluster(WorkerToCluster),
    ClusterToWorker(ClusterToWorker),
}

impl Said {
    /// Hellos and welcomes are what a connection begins with, and rows, grants, the revoked and
    /// interests are said once: a connection without them is none.
    const fn begins(&self) -> bool {
        matches!(
            self,
            Self::ClusterToRoot(
                ClusterToRoot::Hello { .. } | ClusterToRoot::Rows(_) | ClusterToRoot::Interests(_)
            ) | Self::RootToCluster(
                RootToCluster::Welcome { .. }
                    | RootToCluster::Grant(_)
                    | RootToCluster::Revocations(_)
                    | RootToCluster::Rows { .. }
                    | RootToCluster::Unknown(_)
            ) | Self::WorkerToCluster(WorkerToCluster::Hello { .. })
                | Self::ClusterToWorker(ClusterToWorker::Welcome { .. })
        )
    }

    /// Rows that are all of an application would undo what came after them.
    const fn needs_order(&self) -> bool {
        matches!(
            self,
            Self::ClusterToRoot(ClusterToRoot::Rows(_) | ClusterToRoot::Interests(_))
                | Self::RootToCluster(RootToCluster::Rows { .. } | RootToCluster::Unknown(_))
        )
    }
}

/// What becomes of messages while a connection lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// A stream of QUIC: everything arrives, in order. What was decided on an earlier connection may
    /// be said on a later one, in front of everything that was decided there.
    Stream,
    /// What orchestrator-core's `sync` promises to bear: messages are lost, doubled and overtaken, and
    /// none is of an earlier connection.
    Lossy,
}

#[derive(Debug)]
pub(crate) struct Flying {
    at: Duration,
    /// Counts what was said.
    number: u64,
    pub(crate) link: Link,
    pub(crate) to: End,
    pub(crate) connection: u64,
    pub(crate) said: Said,
}

impl Flying {
    /// When it arrives; of what arrives at one time, what was said first comes first.
    const fn place(&self) -> (Duration, u64) {
        (self.at, self.number)
    }
}

/// An end learns that a connection is gone.
#[derive(Debug)]
struct Notice {
    at: Duration,
    link: Link,
    end: End,
    connection: u64,
}

#[derive(Debug)]
pub(crate) struct Links {
    carrier: Carrier,
    connections: u64,
    /// The present connection of each end.
    boards: BTreeMap<(Link, End), u64>,
    /// The last connection that an upper end has had.
    accepted: BTreeMap<Link, u64>,
    broken: BTreeSet<u64>,
    said: u64,
    flying: Vec<Flying>,
    /// When the last message arrives that the next one must not overtake.
    last: BTreeMap<(u64, End), Duration>,
    notices: Vec<Notice>,
    /// Connections that will break soon after they came up.
    doomed: Vec<(Duration, Link, u64)>,
}

impl Links {
    pub(crate) fn new(carrier: Carrier) -> Self {
        Self {
            carrier,
            connections: 0,
            boards: BTreeMap::new(),
            accepted: BTreeMap::new(),
            broken: BTreeSet::new(),
            said: 0,
            flying: Vec::new(),
            last: BTreeMap::new(),
            notices: Vec::new(),
            doomed: Vec::new(),
        }
    }

    pub(crate) fn present(&self, link: Link, end: End) -> Option<u64> {
        self.boards.get(&(link, end)).copied()
    }

    /// A lower end has dialled; the upper one knows nothing of it yet.
    pub(crate) fn dial(&mut self, link: Link) -> u64 {
        self.connections += 1;
        self.boards.insert((link, End::Lower), self.connections);
        self.connections
    }

    /// Has a connection break at a time.
    pub(crate) fn doom(&mut self, at: Duration, link: Link, connection: u64) {
        self.doomed.push((at, link, connection));
    }

    pub(crate) fn take_doomed(&mut self, now: Duration) -> Vec<(Link, u64)> {
        let due = self.doomed.extract_if(.., |(at, ..)| *at <= now);
        due.map(|(_, link, connection)| (link, connection))
            .collect()
    }

    /// Says something on the present connection of an end. `decided` is the connection that the
    /// machine knew of when it decided to.
    pub(crate) fn say(
        &mut self,
        (link, from): (Link, End),
        decided: Option<u64>,
        said: Said,
        (now, chaos): (Duration, bool),
        random: &mut Random,
    ) {
        let Some(connection) = self.present(link, from) else {
            return;
        };
        let to = from.other();
        let lossy = self.carrier == Carrier::Lossy;
        if self.broken.contains(&connection) || (lossy && decided != Some(connection)) {
            return;
        }
        let ordered = !lossy || said.begins();
        let mut copies = 1;
        if !ordered && chaos && random.one_in(6) {
            return;
        }
        if lossy && chaos && !said.needs_order() {
            copies += u32::from(random.one_in(10));
        }
        for copy in 0..copies {
            let ordered = ordered && copy == 0;
            let most = match (chaos, ordered) {
                (true, true) => 250,
                (true, false) => 800,
                (false, _) => 50,
            };
            let last = self.last.entry((connection, to)).or_default();
            let at = (now + millis(random, most)).max(*last);
            if ordered {
                *last = at;
            }
            self.said += 1;
            self.flying.push(Flying {
                at,
                number: self.said,
                link,
                to,
                connection,
                said: said.clone(),
            });
        }
    }

    /// What arrives now, in order.
    pub(crate) fn take_due(&mut self, now: Duration) -> Vec<Flying> {
        let mut due: Vec<_> = self.flying.extract_if(.., |it| it.at <= now).collect();
        due.sort_by_key(Flying::place);
        due
    }

    /// Whether an end hears what arrives, and whether that is news of a connection.
    pub(crate) fn hears(&mut self, it: &Flying) -> (bool, bool) {
        let present = self.present(it.link, it.to) == Some(it.connection);
        let accepted = self.accepted.get(&it.link).copied().unwrap_or_default();
        let new = it.to == End::Upper && it.connection > accepted;
        if new {
            self.accepted.insert(it.link, it.connection);
            self.boards.insert((it.link, it.to), it.connection);
        }
        (present || new, new)
    }

    /// A connection breaks. The ends notice within `most` milliseconds, or, if there are none, some
    /// soon and some when they have heard nothing for long.
    pub(crate) fn cut(
        &mut self,
        (link, connection): (Link, u64),
        now: Duration,
        most: Option<u64>,
        random: &mut Random,
    ) {
        if !self.broken.insert(connection) {
            return;
        }
        for end in [End::Lower, End::Upper] {
            self.lose_some((connection, end), random);
            let late = if random.one_in(2) { 300 } else { IDLE_MS };
            let most = most.unwrap_or(late);
            // An upper end may not know of it yet, and learn both.
            self.notices.push(Notice {
                at: now + millis(random, most),
                link,
                end,
                connection,
            });
        }
    }

    /// What is under way towards an end is lost from some message on.
    fn lose_some(&mut self, (connection, to): (u64, End), random: &mut Random) {
        let toward = |it: &Flying| it.connection == connection && it.to == to;
        let flying = self.flying.iter().filter(|it| toward(it));
        let mut places: Vec<_> = flying.map(Flying::place).collect();
        places.sort_unstable();
        let kept = usize::try_from(random.below(places.len() as u64 + 1)).unwrap();
        if let Some(lost) = places.get(kept) {
            self.flying.retain(|it| !toward(it) || it.place() < *lost);
        }
    }

    /// A process has died: its ends are gone at once, and the others notice.
    pub(crate) fn end_all_of(&mut self, who: Who, now: Duration, random: &mut Random) {
        for (link, end) in links_of(who) {
            let own = self.boards.remove(&(link, end));
            let other = self.present(link, end.other());
            for connection in own.into_iter().chain(other) {
                self.cut((link, connection), now, None, random);
            }
            self.flying.retain(|it| (it.link, it.to) != (link, end));
        }
    }

    /// The ends that learn now that their present connection is gone.
    pub(crate) fn take_noticed(&mut self, now: Duration) -> Vec<(Link, End)> {
        let due: Vec<_> = self.notices.extract_if(.., |it| it.at <= now).collect();
        let mut noticed = Vec::new();
        for it in due {
            if self.present(it.link, it.end) == Some(it.connection) {
                self.boards.remove(&(it.link, it.end));
                noticed.push((it.link, it.end));
            } else if it.end == End::Upper {
                // Nothing of it arrives any more.
                let accepted = self.accepted.entry(it.link).or_default();
                *accepted = (*accepted).max(it.connection);
            }
        }
        noticed
    }
}
