//! One history: everybody, what happens to them, and what the user was told.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use orchestrator_core::Now;
use orchestrator_core::cluster;
use orchestrator_core::root::{self, Command};
use orchestrator_core::worker;
use weald_proto::control::Generation;
use weald_proto::name::InstanceId;

use super::fault::{Broken, Fault};
use super::links::{Carrier, End, Flying, Link, Links, Said, links_of};
use super::process::{Decided, Disk, Effect, Input, Machine, News, Process};
use super::runtime::Runtime;
use super::site::{
    CLUSTERS, MOST, NODES, SERVICES, Who, draft, everybody, label, millis, organisation, service,
};
use super::tables::{Table, session};
use crate::support::random::Random;

/// The shortest and the longest chaos, in milliseconds: what is broken at its end is not mended by
/// what breaks later.
const CHAOS_MS: (u64, u64) = (5_000, 75_000);
const CALM: Duration = Duration::from_secs(45);
/// How often it is looked what root has on its disk.
const DISK_EVERY: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(100);
/// Batches of inputs that a process handles in one tick.
const BATCHES: u32 = 20;
/// Inputs that are committed together at most.
const BATCH: u64 = 6;

/// What is done first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    PersistThenSend,
    SendThenPersist,
}

pub(crate) struct World {
    pub(super) random: Random,
    before: Before,
    pub(super) chaos: bool,
    pub(super) now: Duration,
    pub(super) processes: BTreeMap<Who, Process>,
    pub(super) runtimes: BTreeMap<(usize, usize), Runtime>,
    pub(super) links: Links,
    pub(super) tables: [Table; CLUSTERS.len()],
    /// How many instances of each service the user has asked for, under the number of the command:
    /// the last that was answered, and later ones, which may have been heard or not.
    pub(super) asked: BTreeMap<&'static str, Vec<(u64, u32)>>,
    /// The lives that have ended by themselves.
    pub(super) ended: BTreeSet<(InstanceId, Generation)>,
    commands: u64,
    crashes: u32,
    /// All that has arrived and was answered, hashed, if somebody wants to compare it.
    trace: Option<DefaultHasher>,
    /// A fault that was noticed on the way.
    pub(super) fault: Option<Fault>,
}

/// What a history was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lived {
    /// How often a process has died.
    pub(crate) crashes: u32,
    /// How often a user has asked for something.
    pub(crate) commands: u64,
    /// All that was said and heard, if that was asked for.
    pub(crate) trace: Option<u64>,
}

impl World {
    /// Even seeds have streams, odd ones lose messages.
    pub(crate) fn new(seed: u64, before: Before) -> Self {
        let carrier = if seed.is_multiple_of(2) {
            Carrier::Stream
        } else {
            Carrier::Lossy
        };
        let mut world = Self {
            random: Random::new(seed),
            before,
            chaos: false,
            now: Duration::ZERO,
            processes: BTreeMap::new(),
            runtimes: BTreeMap::new(),
            links: Links::new(carrier),
            tables: Default::default(),
            asked: SERVICES
                .into_iter()
                .map(|it| (it.0, vec![(0, 0)]))
                .collect(),
            ended: BTreeSet::new(),
            commands: 0,
            crashes: 0,
            trace: None,
            fault: None,
        };
        for who in everybody() {
            world.processes.insert(who, Process::new(who, world.at()));
            if let Who::Worker(site, at) = who {
                world.runtimes.insert((site, at), Runtime::default());
            }
            world.begin_session(who);
        }
        for (site, name) in CLUSTERS.into_iter().enumerate() {
            world.command(Command::AddCluster {
                name: label(name),
                key: [u8::try_from(site).unwrap(); 32],
                organisations: None,
                owner: organisation(),
            });
        }
        world.command(Command::Apply(draft(), organisation()));
        world.turn(Who::Root);
        world
    }

    pub(super) fn at(&self) -> Now {
        Now {
            elapsed: self.now,
            unix: 1_800_000_000 + self.now.as_secs(),
        }
    }

    /// The time, and whether there is chaos.
    pub(super) const fn moment(&self) -> (Duration, bool) {
        (self.now, self.chaos)
    }

    /// Keeps what happens, for [`Lived::trace`].
    pub(crate) fn traced(mut self) -> Self {
        self.trace = Some(DefaultHasher::new());
        self
    }

    /// Lives through all of it.
    ///
    /// # Errors
    /// What went wrong, and when.
    pub(crate) fn run(mut self) -> Result<Lived, Fault> {
        let chaos = Duration::from_millis(CHAOS_MS.0 + self.random.below(CHAOS_MS.1 - CHAOS_MS.0));
        let mut looked = Duration::ZERO;
        while self.now < chaos + CALM {
            self.chaos = self.now < chaos;
            self.step();
            self.check_now();
            if self.now >= looked + DISK_EVERY {
                looked = self.now;
                let fault = self.check_root_disk().err();
                self.fault = self.fault.take().or(fault);
            }
            if let Some(fault) = self.fault.take() {
                return Err(fault.at(self.now));
            }
        }
        self.check_root_disk()?;
        self.check_end()?;
        Ok(Lived {
            crashes: self.crashes,
            commands: self.commands,
            trace: self.trace.map(|trace| trace.finish()),
        })
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            (self.now, what()).hash(trace);
        }
    }

    /// A process takes something for impossible that it has heard.
    pub(super) fn disbelieve(&mut self, why: String) {
        self.fault = Some(Fault::new(Broken::Belief, why));
    }

    fn step(&mut self) {
        self.now += TICK;
        if self.chaos {
            self.trouble();
        }
        self.start_again();
        self.notice();
        self.dial();
        for it in self.links.take_due(self.now) {
            self.arrive(it);
        }
        self.run_instances();
        for who in everybody() {
            self.turn(who);
        }
    }

    fn trouble(&mut self) {
        if self.random.one_in(10) {
            self.user_asks();
        }
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

    /// A user has other numbers of a service run, removes all of them or the service itself, and
    /// applies the application again, which brings back what was removed and leaves the rest alone.
    fn user_asks(&mut self) {
        let at = usize::try_from(self.random.below(3)).unwrap();
        let name = SERVICES[at].0;
        let Machine::Root(root) = &self.processes[&Who::Root].machine else {
            return;
        };
        let mut services = root.services();
        let found = services.find(|it| it.spec.name == service(name));
        let found = found.map(|it| it.id.clone());
        drop(services);
        let Some(id) = found else {
            self.command(Command::Apply(draft(), organisation()));
            return;
        };
        let to = u32::try_from(self.random.below(MOST + 1)).unwrap();
        let (command, to) = match self.random.below(12) {
            0 => (Command::Undeploy(id, None), 0),
            1 => (Command::DeleteService(id), 0),
            _ => (Command::Scale(id, to), to),
        };
        if let Some(number) = self.command(command) {
            self.asked.entry(name).or_default().push((number, to));
        }
    }

    /// Asks root for something, if it is there.
    fn command(&mut self, command: Command) -> Option<u64> {
        let root = self.processes.get_mut(&Who::Root)?;
        if root.down.is_some() {
            return None;
        }
        self.commands += 1;
        let input = Input::Command(self.commands, command);
        root.inbox.push_back((input, None));
        Some(self.commands)
    }

    /// The user is told that something is done, and what was asked for before is past; or that nothing
    /// was done.
    pub(super) fn answer(&mut self, number: u64, done: bool) {
        self.note(|| format!("{number} {done}"));
        for asked in self.asked.values_mut() {
            if asked.iter().any(|(it, _)| *it == number) {
                asked.retain(|(it, _)| if done { *it >= number } else { *it != number });
            }
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
    fn crash(&mut self, who: Who) {
        self.crashes += 1;
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

    fn start_again(&mut self) {
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
    fn begin_session(&mut self, who: Who) {
        if let Who::Cluster(_) = who {
            for input in session() {
                self.tell(who, Input::Cluster(input), None);
            }
        }
    }

    fn is_up(&self, who: Who) -> bool {
        self.processes[&who].down.is_none()
    }

    fn tell(&mut self, who: Who, input: Input, news: Option<News>) {
        if let Some(process) = self.processes.get_mut(&who)
            && process.down.is_none()
        {
            process.inbox.push_back((input, news));
        }
    }

    fn notice(&mut self) {
        for (link, connection) in self.links.take_doomed(self.now) {
            let random = &mut self.random;
            self.links.cut((link, connection), self.now, None, random);
        }
        for (link, end) in self.links.take_noticed(self.now) {
            let input = match (link, end) {
                (Link::Cluster(site), End::Upper) => {
                    Input::Root(root::Input::ClusterDisconnected(label(CLUSTERS[site])))
                }
                (Link::Cluster(_), End::Lower) => Input::Cluster(cluster::Input::RootDisconnected),
                (Link::Worker(_, at), End::Upper) => {
                    Input::Cluster(cluster::Input::WorkerDisconnected(label(NODES[at])))
                }
                (Link::Worker(..), End::Lower) => Input::Worker(worker::Input::Disconnected),
            };
            let news = News {
                link,
                end,
                connection: None,
            };
            self.tell(link.who(end), input, Some(news));
        }
    }

    fn dial(&mut self) {
        for who in everybody() {
            for (link, end) in links_of(who) {
                let there = self.links.present(link, end).is_some();
                let up = self.is_up(who) && self.is_up(link.who(End::Upper));
                if end == End::Upper || there || !up || (self.chaos && !self.random.one_in(5)) {
                    continue;
                }
                let connection = self.links.dial(link);
                if self.chaos && self.random.one_in(3) {
                    let at = self.now + millis(&mut self.random, 1_200);
                    self.links.doom(at, link, connection);
                }
                self.connected((link, end), connection);
            }
        }
    }

    /// An end has a new connection.
    fn connected(&mut self, (link, end): (Link, End), connection: u64) {
        let input = match (link, end) {
            (Link::Cluster(site), End::Upper) => {
                Input::Root(root::Input::ClusterConnected(label(CLUSTERS[site])))
            }
            (Link::Cluster(_), End::Lower) => Input::Cluster(cluster::Input::RootConnected),
            (Link::Worker(_, at), End::Upper) => {
                let key = [u8::try_from(at).unwrap(); 32];
                Input::Cluster(cluster::Input::WorkerConnected(label(NODES[at]), key))
            }
            (Link::Worker(..), End::Lower) => Input::Worker(worker::Input::Connected),
        };
        let news = News {
            link,
            end,
            connection: Some(connection),
        };
        self.tell(link.who(end), input, Some(news));
    }

    fn arrive(&mut self, it: Flying) {
        self.note(|| format!("{it:?}"));
        let (hears, new) = self.links.hears(&it);
        if new {
            self.connected((it.link, it.to), it.connection);
        }
        if !hears {
            return;
        }
        let input = match (it.link, it.said) {
            (Link::Cluster(site), Said::ClusterToRoot(message)) => {
                Input::Root(root::Input::Cluster(label(CLUSTERS[site]), message))
            }
            (Link::Cluster(_), Said::RootToCluster(message)) => {
                Input::Cluster(cluster::Input::Root(message))
            }
            (Link::Worker(_, at), Said::WorkerToCluster(message)) => {
                Input::Cluster(cluster::Input::Worker(label(NODES[at]), message))
            }
            (Link::Worker(..), Said::ClusterToWorker(message)) => {
                Input::Worker(worker::Input::Message(message))
            }
            (link, said) => {
                return self.disbelieve(format!("{said:?} on the link of {link:?}"));
            }
        };
        self.tell(it.link.who(it.to), input, None);
    }

    fn run_instances(&mut self) {
        let mut events = Vec::new();
        for (which, runtime) in &mut self.runtimes {
            let said = runtime.step(self.now, &mut self.random);
            events.extend(said.into_iter().map(|event| (*which, event)));
        }
        for ((site, at), (instance, generation, event)) in events {
            let input = worker::Input::Runtime {
                instance,
                generation,
                event,
            };
            self.tell(Who::Worker(site, at), Input::Worker(input), None);
        }
    }

    /// Whether a process dies at this moment of a step: more often where it would tell.
    fn dies(&mut self, matters: bool) -> bool {
        self.chaos && self.random.one_in(if matters { 60 } else { 1_000 })
    }

    /// A process goes on with its inputs.
    fn turn(&mut self, who: Who) {
        for _ in 0..BATCHES {
            let now = self.at();
            let Some(process) = self.processes.get_mut(&who) else {
                return;
            };
            if process.down.is_some() {
                return;
            }
            if let Some((until, effects)) = process.committing.take() {
                if until > now.elapsed {
                    process.committing = Some((until, effects));
                    return;
                }
                self.finish(who, effects, true);
                continue;
            }
            let due = process.next_due().is_some_and(|due| due <= now.elapsed);
            if process.inbox.is_empty() && !due {
                return;
            }
            let (mut writes, mut effects) = (Vec::new(), Vec::new());
            for _ in 0..=self.random.below(BATCH) {
                let (more, done) = process.handle_next(now);
                writes.extend(more);
                effects.extend(done);
                if process.inbox.is_empty() {
                    break;
                }
            }
            let early = self.before == Before::SendThenPersist;
            if early {
                self.carry_out(who, effects);
                effects = Vec::new();
            }
            let writes_any = !writes.is_empty();
            if self.dies(writes_any) {
                self.crash(who);
                return;
            }
            if let Some(process) = self.processes.get_mut(&who) {
                process.disk.commit(writes);
            }
            if self.chaos && self.random.one_in(50) {
                let until = self.now + millis(&mut self.random, 3_000);
                if let Some(process) = self.processes.get_mut(&who) {
                    process.committing = Some((until, effects));
                }
                return;
            }
            self.finish(who, effects, writes_any);
        }
    }

    /// Carries out what is committed, or some of it.
    fn finish(&mut self, who: Who, mut effects: Vec<Decided>, written: bool) {
        if self.dies(written) {
            let some = self.random.below(effects.len() as u64 + 1);
            effects.truncate(usize::try_from(some).unwrap());
            self.carry_out(who, effects);
            return self.crash(who);
        }
        self.carry_out(who, effects);
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
