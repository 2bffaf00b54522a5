//! What operators do: they revoke nodes and clusters, remove clusters, and have them join again.
//!
//! One site stays but for a node of it, so that there always is somewhere to run.

use std::time::Duration;

use super::fault::{Broken, Fault};
use super::process::{Disk, Input};
use super::site::{NODES, Who, cluster_key, millis, node, worker_key};
use super::tables::Table;
use super::user::Ask;
use super::world::World;

/// The site whose cluster is removed, and that of which a node is revoked.
const LEAVES: usize = 1;
const STAYS: usize = 0;

#[derive(Debug, Default)]
pub(crate) struct Operators {
    /// The node that is to be revoked, once that was asked for.
    distrusted: Option<usize>,
    /// How often the site that is removed has joined again.
    joined: u8,
    /// When it is to join again.
    joins: Option<Duration>,
}

impl World {
    pub(super) fn operators_ask(&mut self) {
        if self.operators.joins.is_some_and(|at| at <= self.now) {
            let again = self.now + Duration::from_secs(3);
            self.operators.joins = Some(again);
            self.ask(Ask::Join(LEAVES, self.operators.joined + 1));
        }
        if !self.random.one_in(250) {
            return;
        }
        match self.random.below(4) {
            0 => {
                let any = usize::try_from(self.random.below(NODES.len() as u64)).unwrap();
                let at = *self.operators.distrusted.get_or_insert(any);
                self.ask(Ask::RevokeNode(node(STAYS, at), worker_key(STAYS, at, 0)));
            }
            1 => self.ask(Ask::RevokeCluster(LEAVES)),
            _ => self.ask(Ask::Remove(LEAVES)),
        }
    }

    /// A user asks root for something, if it is there.
    pub(super) fn ask(&mut self, ask: Ask) {
        let Some(root) = self.processes.get_mut(&Who::Root) else {
            return;
        };
        if root.down.is_none() {
            let command = ask.command();
            let input = Input::Command(self.users.ask(ask), command);
            root.inbox.push_back((input, None));
        }
    }

    /// A user is told that something is done, or that nothing was.
    pub(super) fn answer(&mut self, number: u64, done: bool) {
        match self.users.answer(number, done) {
            // If nothing was done, it was before.
            Ok(Ask::Remove(_)) => {
                let at = self.now + millis(&mut self.random, 12_000);
                self.operators.joins.get_or_insert(at);
            }
            Ok(Ask::Join(LEAVES, joined)) if done && joined > self.operators.joined => {
                self.join_again(joined);
            }
            Ok(_) => {}
            Err(why) => self.fault = Some(Fault::new(Broken::Promise, why)),
        }
    }

    /// All of a site is set up anew, with other keys; what ran there may run on until its worker is
    /// there again.
    fn join_again(&mut self, joined: u8) {
        self.operators.joined = joined;
        self.operators.joins = None;
        self.tables[LEAVES] = Table::default();
        let workers = (0..NODES.len()).map(|at| (Who::Worker(LEAVES, at), Some(at)));
        let all: Vec<_> = [(Who::Cluster(LEAVES), None)]
            .into_iter()
            .chain(workers)
            .collect();
        for (who, at) in all {
            self.crash(who);
            if let Some(process) = self.processes.get_mut(&who) {
                process.disk = Disk::default();
                process.key = at.map_or_else(
                    || cluster_key(LEAVES, joined),
                    |at| worker_key(LEAVES, at, joined),
                );
            }
            if let Some(at) = at
                && self.random.one_in(2)
                && let Some(runtime) = self.runtimes.get_mut(&(LEAVES, at))
            {
                runtime.replace();
            }
        }
    }
}
