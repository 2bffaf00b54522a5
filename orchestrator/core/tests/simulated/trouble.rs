//! What befalls the processes: they die, links break, instances end, nodes lose their disks.

use std::collections::BTreeSet;
use std::time::Duration;

use orchestrator_core::worker;
use weald_proto::name::InstanceId;

use super::links::{End, links_of};
use super::process::{Disk, Effect, Input, Machine};
use super::site::{Who, everybody, millis};
use super::tables::session;
use super::world::World;

impl World {
    pub(super) fn trouble(&mut self) {
        if self.random.one_in(10) {
            self.users_ask();
        }
        self.operators_ask();
        for who in everybody() {
            for (link, end) in links_of(who) {
                let present = self.links.present(link, end);
                if end == End::Lower
                    && let Some(connection) = present
                    && self.random.one_in(150)
                {
                    let random = &mut self.random;
                    self.links.cut((link, connection), self.now, None, random);
                }
            }
            if self.random.one_in(500) {
                self.crash(who);
            }
        }
        if self.random.one_in(120) {
            let nodes = self.runtimes.values_mut();
            let which = usize::try_from(self.random.below(4)).unwrap();
            for runtime in nodes.skip(which).take(1) {
                let ended = runtime.exit_one(self.now, &mut self.random);
                self.ended.extend(ended);
            }
        }
        if self.random.one_in(600) {
            self.lose_node();
        }
    }

    /// A node loses its disk, and may be another machine altogether.
    fn lose_node(&mut self) {
        let site = usize::try_from(self.random.below(2)).unwrap();
        let at = usize::try_from(self.random.below(2)).unwrap();
        self.crash(Who::Worker(site, at));
        if let Some(process) = self.processes.get_mut(&Who::Worker(site, at)) {
            process.disk = Disk::default();
        }
        if self.random.one_in(2)
            && let Some(runtime) = self.runtimes.get_mut(&(site, at))
        {
            runtime.replace();
        }
    }

    /// A process dies; in chaos it may take a while until it is started again.
    pub(super) fn crash(&mut self, who: Who) {
        self.crashes += 1;
        self.note(|| format!("{who:?} dies"));
        let away = match self.random.below(4) {
            0 | 1 => Duration::ZERO,
            2 => millis(&mut self.random, 2_000),
            _ => millis(&mut self.random, 9_000),
        };
        let until = self.now + away;
        if let Some(process) = self.processes.get_mut(&who) {
            process.die(until);
        }
        self.links.end_all_of(who, self.now, &mut self.random);
        if let Who::Worker(site, at) = who
            && let Some(runtime) = self.runtimes.get_mut(&(site, at))
        {
            runtime.worker_died();
        }
    }

    pub(super) fn start_again(&mut self) {
        for who in everybody() {
            let now = self.at();
            let Some(process) = self.processes.get_mut(&who) else {
                continue;
            };
            if process.down.is_none_or(|until| until > now.elapsed) {
                continue;
            }
            let effects = process.start(now);
            if let (Who::Worker(site, at), Machine::Worker(worker)) = (who, &process.machine) {
                let known = worker.instances().map(|it| it.instance.clone());
                let ordered = effects.iter().filter_map(|(effect, _)| ordered(effect));
                let wanted: BTreeSet<_> = known.chain(ordered).collect();
                if let Some(runtime) = self.runtimes.get_mut(&(site, at)) {
                    runtime.readopt(&wanted, self.now, &mut self.random);
                }
            }
            self.carry_out(who, effects);
            self.begin_session(who);
        }
    }

    /// The netmanager of a cluster connects to it.
    pub(super) fn begin_session(&mut self, who: Who) {
        if let Who::Cluster(_) = who {
            for input in session() {
                self.tell(who, Input::Cluster(input), None);
            }
        }
    }
}

/// The instance that a new worker orders something for.
fn ordered(effect: &Effect) -> Option<InstanceId> {
    match effect {
        Effect::Worker(
            worker::Effect::Start { instance, .. } | worker::Effect::Stop { instance, .. },
        ) => Some(instance.clone()),
        Effect::Worker(
            worker::Effect::Await { .. }
            | worker::Effect::Send(_)
            | worker::Effect::ReadLogs { .. }
            | worker::Effect::Incompatible { .. },
        )
        | Effect::Root(_)
        | Effect::Answer(..)
        | Effect::Cluster(_) => None,
    }
}
