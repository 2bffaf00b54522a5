//! One history: everybody, what happens to them, and what the user was told.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use orchestrator_core::Now;
use orchestrator_core::worker;
use weald_proto::control::Generation;
use weald_proto::name::InstanceId;

use super::fault::{Broken, Fault};
use super::links::{Carrier, Links};
use super::operators::Operators;
use super::process::{Decided, Input, News, Process};
use super::runtime::Runtime;
use super::site::{CLUSTERS, SERVICES, Who, everybody, millis};
use super::tables::Table;
use super::user::{Ask, Users};
use crate::support::random::Random;

/// The shortest and the longest chaos, in milliseconds: what is broken at its end is not mended by
/// what breaks later.
const CHAOS_MS: (u64, u64) = (5_000, 75_000);
const CALM: Duration = Duration::from_secs(45);
/// How often it is looked what root knows, and has on its disk.
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
    pub(super) users: Users,
    pub(super) operators: Operators,
    /// The lives that have ended by themselves.
    pub(super) ended: BTreeSet<(InstanceId, Generation)>,
    pub(super) crashes: u32,
    /// All that has arrived and was done, hashed, if somebody wants to compare it.
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
    /// All that arrived and was done, and when, if that was asked for.
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
            users: Users::new(),
            operators: Operators::default(),
            ended: BTreeSet::new(),
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
        for site in 0..CLUSTERS.len() {
            world.ask(Ask::Join(site, 0));
        }
        let services = SERVICES.into_iter().map(|it| (it.0, 0));
        world.ask(Ask::Apply(services.collect(), 0));
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
                let fault = self.check_root().err();
                self.fault = self.fault.take().or(fault);
            }
            if let Some(fault) = self.fault.take() {
                return Err(fault.at(self.now));
            }
        }
        self.check_root()?;
        self.check_end()?;
        Ok(Lived {
            crashes: self.crashes,
            commands: self.users.asked(),
            trace: self.trace.map(|trace| trace.finish()),
        })
    }

    pub(super) fn note(&mut self, what: impl FnOnce() -> String) {
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
        self.cut_revoked();
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

    pub(super) fn is_up(&self, who: Who) -> bool {
        self.processes[&who].down.is_none()
    }

    pub(super) fn tell(&mut self, who: Who, input: Input, news: Option<News>) {
        if let Some(process) = self.processes.get_mut(&who)
            && process.down.is_none()
        {
            process.inbox.push_back((input, news));
        }
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
