//! Two tiers over a link that loses, doubles, delays and breaks, with crashes at every moment.
//!
//! Each seed is one history: some minutes of chaos, then calm. After it everything that was
//! acknowledged to the user must be so, and nothing else may run. `WEALD_SEED=n` replays one.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests may fail loudly; clippy exempts only the tests themselves"
)]

mod support {
    pub(crate) mod random;
}

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use orchestrator_core::sync::{Action, Duties, Duty, Kept, Outcome, Reporter, Want, Wants};
use weald_proto::control::{Generation, InstanceReport, Phase};
use weald_proto::id::Label;
use weald_proto::name::{ApplicationName, InstanceId, ServiceName};

use support::random::Random;

/// Histories per run.
const SEEDS: u64 = 200;
const CHAOS: Duration = Duration::from_secs(120);
const CALM: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_millis(50);
const INSTANCES: u32 = 6;

#[derive(Debug, Clone)]
enum Message {
    Run(InstanceId, Generation, u32),
    End(InstanceId, Generation),
    Report(u64, bool, Vec<InstanceReport>),
    Acknowledged(u64),
}

/// What is done first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    PersistThenSend,
    SendThenPersist,
}

struct History {
    random: Random,
    order: Order,
    chaos: bool,
    now: Duration,
    generation: Generation,
    connection: Option<u64>,
    connections: u64,
    flying: Vec<(Duration, u64, Message)>,
    /// What the user was told: the life that runs, or that it is gone.
    promised: BTreeMap<InstanceId, Option<Generation>>,
    upper_disk: BTreeMap<InstanceId, Want<u32>>,
    wants: Wants<u32>,
    lower_disk: BTreeMap<InstanceId, Kept<u32>>,
    duties: Duties<u32>,
    reporter: Reporter,
    running: BTreeMap<InstanceId, Generation>,
    /// Lives whose process has ended by itself.
    exited: BTreeMap<InstanceId, Generation>,
    /// What the upper side last heard of each instance.
    known: BTreeMap<InstanceId, (Generation, Phase)>,
    /// Lives that the upper side has heard the end of.
    over: BTreeMap<InstanceId, Generation>,
    crashes: u32,
}

fn instance(number: u32) -> InstanceId {
    let label = |text: &str| Label::new(text).unwrap();
    let application = ApplicationName {
        name: label("shop"),
        namespace: label("prod"),
    };
    let service = ServiceName {
        application,
        name: label("web"),
        namespace: label("prod"),
    };
    InstanceId { service, number }
}

impl History {
    fn new(seed: u64, order: Order) -> Self {
        Self {
            random: Random::new(seed),
            order,
            chaos: true,
            now: Duration::ZERO,
            generation: 0,
            connection: None,
            connections: 0,
            flying: Vec::new(),
            promised: BTreeMap::new(),
            upper_disk: BTreeMap::new(),
            wants: Wants::default(),
            lower_disk: BTreeMap::new(),
            duties: Duties::default(),
            reporter: Reporter::default(),
            running: BTreeMap::new(),
            exited: BTreeMap::new(),
            known: BTreeMap::new(),
            over: BTreeMap::new(),
            crashes: 0,
        }
    }

    fn run(mut self) -> Result<u32, String> {
        while self.now < CHAOS {
            self.step()?;
        }
        self.chaos = false;
        while self.now < CHAOS + CALM {
            self.step()?;
        }
        let wanted: BTreeMap<_, _> = self
            .promised
            .iter()
            .filter_map(|(id, life)| life.map(|life| (id.clone(), life)))
            .collect();
        // A life that has ended by itself is not begun again where it was lost.
        let lost: BTreeSet<_> = wanted
            .iter()
            .filter(|(id, life)| {
                self.known.get(*id) == Some(&(**life, Phase::Failed))
                    && !self.lower_disk.contains_key(*id)
            })
            .map(|(id, _)| id.clone())
            .collect();
        let there = || wanted.iter().filter(|(id, _)| !lost.contains(*id));
        let started: BTreeMap<_, _> = self.running.iter().chain(&self.exited).collect();
        if started != there().collect() {
            return Err(format!("started {started:?}, promised {wanted:?}"));
        }
        for (instance, generation) in &wanted {
            let phase = if self.running.contains_key(instance) {
                Phase::Running
            } else {
                Phase::Failed
            };
            let known = self.known.get(instance);
            if known != Some(&(*generation, phase)) {
                return Err(format!("{instance} is {phase:?}, known is {known:?}"));
            }
        }

        let kept: BTreeSet<_> = self.lower_disk.keys().collect();
        if kept != there().map(|(id, _)| id).collect() {
            return Err(format!(
                "the lower side still keeps {kept:?}, promised {wanted:?}"
            ));
        }
        let kept: BTreeSet<_> = self.upper_disk.keys().collect();
        if kept != wanted.keys().collect() {
            return Err(format!(
                "the upper side still keeps {kept:?}, promised {wanted:?}"
            ));
        }
        Ok(self.crashes)
    }

    fn step(&mut self) -> Result<(), String> {
        self.now += TICK;
        if self.chaos {
            self.trouble()?;
        }
        if self.connection.is_none() && (!self.chaos || self.random.one_in(20)) {
            self.connections += 1;
            self.connection = Some(self.connections);
            self.wants.connected();
            self.duties.connected();
            self.reporter.connected();
        }
        self.speak();
        let (due, later) = std::mem::take(&mut self.flying)
            .into_iter()
            .partition::<Vec<_>, _>(|(at, _, _)| *at <= self.now);
        self.flying = later;
        for (_, connection, message) in due {
            if self.connection == Some(connection) {
                self.deliver(message)?;
            }
        }
        Ok(())
    }

    fn trouble(&mut self) -> Result<(), String> {
        if self.random.one_in(20) {
            self.user_asks();
        }
        if self.random.one_in(100) {
            self.exit_one();
        }
        if self.random.one_in(800) {
            // Another machine in its place.
            self.lower_disk.clear();
            self.running.clear();
            self.exited.clear();
            self.crash_lower()?;
        }
        if self.random.one_in(200) {
            self.connection = None;
            self.wants.disconnected();
            self.reporter.disconnected();
        }
        if self.random.one_in(300) {
            self.crash_upper();
        }
        if self.random.one_in(300) {
            self.crash_lower()?;
        }
        Ok(())
    }

    fn user_asks(&mut self) {
        let number = u32::try_from(self.random.below(u64::from(INSTANCES))).unwrap();
        let instance = instance(number);
        self.generation += 1;
        let generation = self.generation;
        let gone = self.random.one_in(2);
        let want = if gone {
            Want::Gone { generation }
        } else {
            Want::Run {
                generation,
                what: number,
            }
        };
        if gone && self.wants.get(&instance).is_none() {
            return;
        }
        let promise = (!gone).then_some(generation);
        match self.order {
            Order::PersistThenSend => {
                self.upper_disk.insert(instance.clone(), want.clone());
                self.wants.set(instance.clone(), want);
                if self.maybe_crash_upper() {
                    // The answer never reached the user, who sees what came of it.
                    self.promised.insert(instance, promise);
                    return;
                }
                self.promised.insert(instance, promise);
            }
            Order::SendThenPersist => {
                self.wants.set(instance.clone(), want.clone());
                self.promised.insert(instance.clone(), promise);
                if !self.maybe_crash_upper() {
                    self.upper_disk.insert(instance, want);
                }
            }
        }
    }

    /// A process ends by itself.
    fn exit_one(&mut self) {
        let Some((instance, generation)) = self.running.pop_first() else {
            return;
        };
        self.reporter.set(InstanceReport::new(
            instance.clone(),
            generation,
            Phase::Failed,
        ));
        self.exited.insert(instance, generation);
    }

    fn maybe_crash_upper(&mut self) -> bool {
        let crash = self.chaos && self.random.one_in(30);
        if crash {
            self.crash_upper();
        }
        crash
    }

    fn crash_upper(&mut self) {
        self.crashes += 1;
        self.connection = None;
        self.reporter.disconnected();
        self.wants = Wants::restore(self.upper_disk.clone());
    }

    fn crash_lower(&mut self) -> Result<(), String> {
        self.crashes += 1;
        self.connection = None;
        self.wants.disconnected();
        let (duties, actions) = Duties::restore(self.lower_disk.clone());
        self.duties = duties;
        self.reporter = Reporter::default();
        let orphans: Vec<_> = self
            .running
            .keys()
            .filter(|id| self.duties.get(id).is_none())
            .cloned()
            .collect();
        if self.order == Order::PersistThenSend && !orphans.is_empty() {
            return Err(format!("{orphans:?} run and nobody has taken them on"));
        }
        for orphan in orphans {
            self.running.remove(&orphan);
        }
        actions.into_iter().try_for_each(|action| self.act(action))
    }

    fn speak(&mut self) {
        for (instance, want) in self.wants.poll(self.now) {
            self.send(match want {
                Want::Run { generation, what } => Message::Run(instance, generation, what),
                Want::Gone { generation } => Message::End(instance, generation),
            });
        }
        if let Some(sent) = self.reporter.poll(self.now) {
            self.send(Message::Report(
                sent.sequence,
                sent.complete,
                sent.instances,
            ));
        }
    }

    fn send(&mut self, message: Message) {
        let Some(connection) = self.connection else {
            return;
        };
        if self.chaos && self.random.one_in(5) {
            return;
        }
        let copies = if self.chaos && self.random.one_in(8) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let delay = Duration::from_millis(self.random.below(800));
            self.flying
                .push((self.now + delay, connection, message.clone()));
        }
    }

    fn deliver(&mut self, message: Message) -> Result<(), String> {
        match message {
            Message::Run(instance, generation, what) => {
                let outcome = self.duties.handle_run(instance, generation, what);
                self.carry_out(outcome)
            }
            Message::End(instance, generation) => {
                let outcome = self.duties.handle_end(instance, generation);
                self.carry_out(outcome)
            }
            Message::Acknowledged(sequence) => {
                for (ended, generation) in self.reporter.handle_acknowledged(sequence) {
                    if self.duties.handle_known_end(&ended, generation) {
                        self.lower_disk.remove(&ended);
                    }
                }
                Ok(())
            }
            Message::Report(sequence, complete, instances) => {
                let heard = self.wants.handle_report(sequence, complete, &instances);
                if self.order == Order::SendThenPersist && heard.acknowledge {
                    self.send(Message::Acknowledged(sequence));
                }
                for gone in &heard.gone {
                    if let Some(want) = self.upper_disk.remove(gone) {
                        self.over.insert(gone.clone(), want.generation());
                    }
                }
                for report in heard.changed {
                    let now = (report.generation, report.phase);
                    self.known.insert(report.instance, now);
                }

                let crashed = heard.acknowledge && self.maybe_crash_upper();
                if self.order == Order::PersistThenSend && heard.acknowledge && !crashed {
                    self.send(Message::Acknowledged(sequence));
                }
                Ok(())
            }
        }
    }

    fn carry_out(&mut self, outcome: Outcome<u32>) -> Result<(), String> {
        let Outcome { keep, actions } = outcome;
        let early = self.order == Order::SendThenPersist;
        if early {
            actions
                .iter()
                .cloned()
                .try_for_each(|action| self.act(action))?;
        } else if let Some((instance, kept)) = keep.clone() {
            self.lower_disk.insert(instance, kept);
        }
        if self.chaos && self.random.one_in(60) {
            return self.crash_lower();
        }
        if early {
            if let Some((instance, kept)) = keep {
                self.lower_disk.insert(instance, kept);
            }
            return Ok(());
        }
        actions.into_iter().try_for_each(|action| self.act(action))
    }

    fn act(&mut self, action: Action<u32>) -> Result<(), String> {
        match action {
            Action::Start {
                instance,
                generation,
                what,
            } => {
                if what != instance.number {
                    return Err(format!("{instance} is started as {what}"));
                }
                if self
                    .over
                    .get(&instance)
                    .is_some_and(|over| generation <= *over)
                {
                    return Err(format!(
                        "{instance}: life {generation} is over and starts again"
                    ));
                }
                let exited = self.exited.get(&instance) == Some(&generation);
                let phase = if exited {
                    Phase::Failed
                } else {
                    self.exited.remove(&instance);
                    let before = self.running.insert(instance.clone(), generation);
                    if before.is_some_and(|before| before > generation) {
                        return Err(format!("{instance}: life {generation} replaces {before:?}"));
                    }
                    Phase::Running
                };
                self.reporter
                    .set(InstanceReport::new(instance.clone(), generation, phase));
            }
            Action::End {
                instance,
                generation,
            } => {
                for lives in [&mut self.running, &mut self.exited] {
                    if lives.get(&instance).is_some_and(|life| *life <= generation) {
                        lives.remove(&instance);
                    }
                }
                self.reporter.set(InstanceReport::new(
                    instance.clone(),
                    generation,
                    Phase::Terminated,
                ));
            }
            Action::Repeat(instance) => {
                if self.reporter.get(&instance).is_none() {
                    return Err(format!("{instance} was taken on and nothing is said of it"));
                }
                self.reporter.repeat(&instance);
            }
        }
        for (instance, kept) in self.duties.iter() {
            let starting = matches!(kept.duty, Duty::Run(_));
            let runs = self.running.get(instance);
            if starting && runs.is_some_and(|runs| *runs > kept.generation) {
                return Err(format!("{instance} runs a life that was not taken on"));
            }
        }
        Ok(())
    }
}

#[test]
fn two_tiers_agree_whatever_is_lost() {
    let seeds = match std::env::var("WEALD_SEED") {
        Ok(seed) => {
            let seed: u64 = seed.parse().expect("WEALD_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 0..SEEDS,
    };
    let mut crashes = 0;
    let histories = seeds.end - seeds.start;
    for seed in seeds {
        match History::new(seed, Order::PersistThenSend).run() {
            Ok(seen) => crashes += seen,
            Err(fault) => panic!("seed {seed} (replay with WEALD_SEED={seed}): {fault}"),
        }
    }
    assert!(u64::from(crashes) >= histories, "only {crashes} crashes");
}

/// The check can fail: whoever tells before it has written loses what it has promised.
#[test]
fn sending_before_persisting_loses_what_was_promised() {
    let failed = (0..SEEDS)
        .filter(|seed| History::new(*seed, Order::SendThenPersist).run().is_err())
        .count();
    assert!(failed > 0, "{SEEDS} histories and nothing was lost");
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let crashes = |seed| History::new(seed, Order::PersistThenSend).run();
    assert_eq!(crashes(7), crashes(7));
}
