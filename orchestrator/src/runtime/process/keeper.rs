//! The task of one instance: carries out what is asked of it, one thing after the other, and says
//! when its life has ended.
//!
//! It remembers nothing that its lives' folders do not say, so it goes when nothing runs and
//! nothing is asked.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use orchestrator_core::worker::RuntimeEvent;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::mpsc::error::TryRecvError;
use weald_proto::control::Generation;
use weald_proto::name::InstanceId;

use super::life::{Life, Outcome};
use super::spawn::{self, Started};
use super::supervised::{self, Running, Standing, Watched};
use super::usage::{self, Sample};
use super::{Keepers, Shared};
use crate::runtime::Launch;
use crate::runtime::listening::{Looking, Seen};

/// How much longer than the instance's grace a supervisor may take to end it before it is killed
/// itself: it waits for what it killed, and writes files.
const SUPERVISOR_TIME: Duration = Duration::from_secs(10);

/// How long to wait before ending a life is tried again that does not end, as when a process is
/// stuck in the kernel.
const RETRY_TIME: Duration = Duration::from_secs(2);

/// The status of a life whose end is not known; its detail says so.
const UNKNOWN_STATUS: i32 = 1;

/// What is asked of an instance.
#[derive(Debug)]
pub(super) enum Task {
    Start(Box<Launch>),
    Await(Generation, BTreeSet<u16>),
    Stop(Generation),
    TakeUp(Generation),
    Measure,
}

/// The task of one instance.
#[derive(Debug)]
pub(super) struct Keeper {
    shared: Arc<Shared>,
    /// Gone when the runtime is.
    keepers: Weak<Keepers>,
    instance: InstanceId,
    current: Option<Current>,
}

/// The life that runs.
#[derive(Debug)]
struct Current {
    generation: Generation,
    running: Arc<Running>,
    watched: Watched,
    sample: Sample,
    /// While it is looked whether it listens.
    looking: Option<Looking>,
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>, keepers: Weak<Keepers>, instance: InstanceId) -> Self {
        Self {
            shared,
            keepers,
            instance,
            current: None,
        }
    }

    /// Works until there is nothing to do any more, or the runtime is gone.
    pub(super) async fn run(mut self, mut tasks: UnboundedReceiver<Task>) {
        loop {
            let task = match &self.current {
                Some(current) => tokio::select! {
                    task = tasks.recv() => task,
                    ended = current.watched.ended() => match ended {
                        Ok(()) => {
                            self.handle_end().await;
                            continue;
                        }
                        // The worker is on its way out; the instance goes on.
                        Err(_) => None,
                    }
                },
                None => match tasks.try_recv() {
                    Ok(task) => Some(task),
                    Err(TryRecvError::Disconnected) => None,
                    Err(TryRecvError::Empty) => match self.keepers.upgrade() {
                        Some(keepers) if !keepers.retire(&self.instance, &tasks) => continue,
                        Some(_) | None => None,
                    },
                },
            };
            match task {
                Some(task) => self.handle(task).await,
                None => return,
            }
        }
    }

    async fn handle(&mut self, task: Task) {
        match task {
            Task::Start(launch) => self.start(*launch).await,
            Task::Await(generation, ports) => self.await_listening(generation, &ports).await,
            Task::Stop(generation) => {
                self.end_lives(|present| present <= generation).await;
                self.say(generation, RuntimeEvent::Stopped);
            }
            Task::TakeUp(generation) => {
                self.end_lives(|present| present < generation).await;
                self.take_up(generation).await;
            }
            Task::Measure => self.measure().await,
        }
    }

    async fn start(&mut self, launch: Launch) {
        let generation = launch.generation;
        let newest = self.lives().await.pop().map(|(generation, _)| generation);
        if newest.is_some_and(|newest| newest > generation) {
            return;
        }
        self.end_lives(|present| present < generation).await;
        if newest == Some(generation) && self.take_up(generation).await {
            return;
        }
        let shared = Arc::clone(&self.shared);
        match blocking(move || Ok(spawn::start(&shared, &launch))).await {
            Ok(Ok(Started::Running(running))) => {
                let sample = Sample::new(Instant::now(), Duration::ZERO);
                self.watch(generation, running, sample).await;
            }
            Ok(Ok(Started::Over(outcome))) => {
                self.say(generation, RuntimeEvent::Running);
                self.say(generation, event(outcome));
            }
            Ok(Err(why)) => self.say(generation, RuntimeEvent::NotStarted(why)),
            // The worker is on its way out; the next one looks what has become of it.
            Err(error) => tracing::warn!("cannot start {}: {error}", self.instance),
        }
    }

    /// Watches a life that was started before, or says how it ended; whether it was to be seen to.
    /// What has not run is removed.
    async fn take_up(&mut self, generation: Generation) -> bool {
        match self.look(generation).await {
            Some((Standing::Running(running), sample)) => {
                self.watch(generation, running, sample).await;
                true
            }
            Some((Standing::Over(outcome @ Outcome::Exited { .. }), _)) => {
                self.say(generation, event(outcome));
                true
            }
            Some((Standing::Over(Outcome::NotStarted(_)) | Standing::Nothing, _)) | None => {
                self.remove(generation).await;
                false
            }
        }
    }

    /// How a life stands, and what it has used if it runs; none if what is written of it is
    /// damaged.
    async fn look(&self, generation: Generation) -> Option<(Standing, Sample)> {
        loop {
            let life = self.life(generation);
            let looked = blocking(move || {
                let standing = supervised::look(&life)?;
                let used = match &standing {
                    Standing::Running(running) => usage::measure(running).processor,
                    Standing::Over(_) | Standing::Nothing => Duration::ZERO,
                };
                Ok((standing, Sample::new(Instant::now(), used)))
            });
            match looked.await {
                Ok(found) => return Some(found),
                Err(error) => self.trouble("read how it stands", &error).await?,
            }
        }
    }

    async fn watch(&mut self, generation: Generation, running: Arc<Running>, sample: Sample) {
        let watched = loop {
            match Watched::new(&running) {
                Ok(watched) => break watched,
                Err(error) => self.trouble("watch it", &error).await.unwrap_or(()),
            }
        };
        self.current = Some(Current {
            generation,
            running,
            watched,
            sample,
            looking: None,
        });
        self.say(generation, RuntimeEvent::Running);
    }

    async fn await_listening(&mut self, generation: Generation, ports: &BTreeSet<u16>) {
        let current = self.current.as_ref();
        let Some(current) = current.filter(|it| it.generation == generation) else {
            return;
        };
        let netns = current.running.order.netns.clone();
        let looking = loop {
            let (events, instance) = (self.shared.events.clone(), self.instance.clone());
            let say = move |seen| {
                let event = match seen {
                    Seen::All => RuntimeEvent::Listens,
                    Seen::Missing(why) => RuntimeEvent::Quiet(why),
                };
                // Nobody listens when the worker is on its way out.
                let _ = events.send((instance.clone(), generation, event));
            };
            match Looking::start(netns.clone(), ports.clone(), say) {
                Ok(looking) => break looking,
                Err(error) => self
                    .trouble("look whether it listens", &error)
                    .await
                    .unwrap_or(()),
            }
        };
        if let Some(current) = &mut self.current {
            current.looking = Some(looking);
        }
    }

    async fn handle_end(&mut self) {
        let Some(current) = self.current.take() else {
            return;
        };
        let outcome = loop {
            let life = self.life(current.generation);
            let running = Arc::clone(&current.running);
            match blocking(move || supervised::conclude(&life, &running.order)).await {
                Ok(outcome) => break outcome,
                Err(error) => {
                    if self.trouble("read how it ended", &error).await.is_none() {
                        break Outcome::Exited {
                            status: UNKNOWN_STATUS,
                            detail: Some(format!("it has ended; how is damaged: {error}")),
                        };
                    }
                }
            }
        };
        self.say(current.generation, event(outcome));
    }

    /// Waits before another try of what may work then, as when descriptors are short; none if it
    /// never will.
    async fn trouble(&self, what: &str, error: &io::Error) -> Option<()> {
        tracing::warn!("{}: cannot {what}: {error}", self.instance);
        if error.kind() == io::ErrorKind::InvalidData {
            return None;
        }
        tokio::time::sleep(RETRY_TIME).await;
        Some(())
    }

    /// Ends every life that `which` says, and removes what is left of it. Comes back when nothing
    /// is.
    async fn end_lives(&mut self, which: impl Fn(Generation) -> bool) {
        self.current = self
            .current
            .take()
            .filter(|current| !which(current.generation));
        loop {
            let lives = self.lives().await;
            let Some((generation, _)) = lives.into_iter().find(|(present, _)| which(*present))
            else {
                return;
            };
            self.remove(generation).await;
        }
    }

    /// Ends a life and removes what is left of it, and tries until it has.
    async fn remove(&self, generation: Generation) {
        let life = self.life(generation);
        while let Err(error) = end(&self.shared, &life).await {
            tracing::warn!("{} does not end: {error}", life.name());
            tokio::time::sleep(RETRY_TIME).await;
        }
    }

    async fn measure(&mut self) {
        let Some(current) = &mut self.current else {
            return;
        };
        let running = Arc::clone(&current.running);
        let Ok(usage) = blocking(move || Ok(usage::measure(&running))).await else {
            return;
        };
        let cpu_percent = current.sample.advance(Instant::now(), usage.processor);
        let memory_mib = u32::try_from(usage.memory_bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX);
        let generation = current.generation;
        self.say(
            generation,
            RuntimeEvent::Usage {
                cpu_percent,
                memory_mib,
            },
        );
    }

    fn say(&self, generation: Generation, event: RuntimeEvent) {
        // Nobody listens when the worker is on its way out.
        let _ = self
            .shared
            .events
            .send((self.instance.clone(), generation, event));
    }

    fn life(&self, generation: Generation) -> Life {
        Life::of(&self.shared.config.folder, &self.instance, generation)
    }

    /// Every life that there is anything of, the earliest first.
    async fn lives(&self) -> Vec<(Generation, Life)> {
        loop {
            match Life::of_instance(&self.shared.config.folder, &self.instance) {
                Ok(lives) => return lives,
                Err(error) => self.trouble("list its lives", &error).await.unwrap_or(()),
            }
        }
    }
}

/// Ends a life and removes what is left of it.
async fn end(shared: &Arc<Shared>, life: &Life) -> io::Result<()> {
    let looked = {
        let life = life.clone();
        blocking(move || supervised::look(&life)).await
    };
    if let Ok(Standing::Running(running)) = &looked {
        let grace = Duration::from_millis(running.order.grace_ms);
        let watched = Watched::new(running)?;
        watched.end(grace.saturating_add(SUPERVISOR_TIME)).await?;
    }
    let (shared, life) = (Arc::clone(shared), life.clone());
    blocking(move || {
        let group = match life.order() {
            Ok(Some(order)) => order.group,
            // It may have been made all the same.
            Ok(None) | Err(_) => shared.config.cgroups.named(&shared.group_name(&life)),
        };
        group.kill()?;
        group.remove()?;
        life.remove()
    })
    .await
}

fn event(outcome: Outcome) -> RuntimeEvent {
    match outcome {
        Outcome::NotStarted(why) => RuntimeEvent::NotStarted(why),
        Outcome::Exited { status, detail } => RuntimeEvent::Exited { status, detail },
    }
}

/// Runs what reads files or waits on a thread for such things.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // It panicked, or the worker is on its way out.
        Err(error) => Err(io::Error::other(error)),
    }
}
