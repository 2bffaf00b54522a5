//! What runs instances on each node, as the runtime `process` does: lives go on without the worker,
//! one that has ended is not run a second time, and what a dead worker was not told is said to the
//! next one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use orchestrator_core::worker::RuntimeEvent;
use weald_proto::addr::Dual;
use weald_proto::control::Generation;
use weald_proto::name::InstanceId;

use super::site::millis;
use crate::support::random::Random;

/// One life on a node.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) generation: Generation,
    pub(crate) instance_ip: Dual,
    /// What runs.
    pub(crate) command: Vec<String>,
    /// Whether it has ended by itself.
    ended: bool,
}

#[derive(Debug)]
pub(crate) enum Order {
    Start(Generation, Dual, Vec<String>),
    Await(Generation),
    Stop(Generation),
}

/// An event of one life.
pub(crate) type Event = (InstanceId, Generation, RuntimeEvent);

/// The runtime of one node.
#[derive(Debug, Default)]
pub(crate) struct Runtime {
    lives: BTreeMap<InstanceId, Life>,
    orders: Vec<(Duration, InstanceId, Order)>,
    events: Vec<(Duration, Event)>,
}

impl Runtime {
    /// What runs.
    pub(crate) fn running(&self) -> impl Iterator<Item = (&InstanceId, &Life)> {
        self.lives.iter().filter(|(_, life)| !life.ended)
    }

    /// Orders return at once; those of one instance are carried out in turn.
    pub(crate) fn order(
        &mut self,
        instance: InstanceId,
        order: Order,
        (now, chaos): (Duration, bool),
        random: &mut Random,
    ) {
        let before = self.orders.iter().filter(|(_, it, _)| *it == instance);
        let last = before.map(|(at, ..)| *at).max().unwrap_or_default();
        let at = (now + millis(random, if chaos { 400 } else { 50 })).max(last);
        self.orders.push((at, instance, order));
    }

    /// Carries out the orders whose time has come; returns the events whose time has.
    pub(crate) fn step(&mut self, now: Duration, random: &mut Random) -> Vec<Event> {
        let mut due: Vec<_> = self.orders.extract_if(.., |(at, ..)| *at <= now).collect();
        due.sort_by_key(|(at, ..)| *at);
        for (_, instance, order) in due {
            for (generation, event) in self.carry_out(&instance, order, random) {
                self.say(instance.clone(), generation, event, now, random);
            }
        }
        let mut due: Vec<_> = self.events.extract_if(.., |(at, _)| *at <= now).collect();
        due.sort_by_key(|(at, _)| *at);
        due.into_iter().map(|(_, event)| event).collect()
    }

    fn carry_out(
        &mut self,
        instance: &InstanceId,
        order: Order,
        random: &mut Random,
    ) -> Vec<(Generation, RuntimeEvent)> {
        let present = self.lives.get(instance);
        match order {
            Order::Start(generation, instance_ip, command) => match present {
                Some(life) if life.generation > generation => Vec::new(),
                Some(life) if life.generation == generation => {
                    vec![(generation, how(life))]
                }
                Some(_) | None => {
                    let life = Life {
                        generation,
                        instance_ip,
                        command,
                        ended: false,
                    };
                    self.lives.insert(instance.clone(), life);
                    vec![(generation, RuntimeEvent::Running)]
                }
            },
            Order::Await(generation) => match present {
                Some(life) if life.generation == generation && !life.ended => {
                    let mut said = vec![(generation, RuntimeEvent::Listens)];
                    if random.one_in(4) {
                        let quiet = RuntimeEvent::Quiet("it does not listen on 80".to_owned());
                        said.insert(0, (generation, quiet));
                    }
                    said
                }
                Some(_) | None => Vec::new(),
            },
            Order::Stop(generation) => {
                if present.is_some_and(|life| life.generation <= generation) {
                    self.lives.remove(instance);
                }
                vec![(generation, RuntimeEvent::Stopped)]
            }
        }
    }

    /// The events of one instance come in order.
    fn say(
        &mut self,
        instance: InstanceId,
        generation: Generation,
        event: RuntimeEvent,
        now: Duration,
        random: &mut Random,
    ) {
        let before = self.events.iter().filter(|(_, (it, ..))| *it == instance);
        let last = before.map(|(at, _)| *at).max().unwrap_or_default();
        let at = (now + millis(random, 300)).max(last);
        self.events.push((at, (instance, generation, event)));
    }

    /// A process ends by itself; returns whose that was.
    pub(crate) fn exit_one(
        &mut self,
        now: Duration,
        random: &mut Random,
    ) -> Option<(InstanceId, Generation)> {
        let (instance, life) = self.lives.iter_mut().find(|(_, life)| !life.ended)?;
        life.ended = true;
        let (instance, generation) = (instance.clone(), life.generation);
        self.say(instance.clone(), generation, exited(), now, random);
        Some((instance, generation))
    }

    /// The worker has died, and with it what it was to be told and what it had ordered.
    pub(crate) fn worker_died(&mut self) {
        self.orders.clear();
        self.events.clear();
    }

    /// Another worker takes up what runs; what it does not want is ended.
    pub(crate) fn readopt(
        &mut self,
        wanted: &BTreeSet<InstanceId>,
        now: Duration,
        random: &mut Random,
    ) {
        self.lives.retain(|instance, _| wanted.contains(instance));
        let known = self.lives.iter();
        let known: Vec<_> = known
            .map(|(instance, life)| (instance.clone(), life.generation, how(life)))
            .collect();
        for (instance, generation, event) in known {
            self.say(instance, generation, event, now, random);
        }
    }

    /// It is another machine now.
    pub(crate) fn replace(&mut self) {
        *self = Self::default();
    }
}

fn how(life: &Life) -> RuntimeEvent {
    if life.ended {
        exited()
    } else {
        RuntimeEvent::Running
    }
}

const fn exited() -> RuntimeEvent {
    RuntimeEvent::Exited {
        status: 1,
        detail: None,
    }
}
