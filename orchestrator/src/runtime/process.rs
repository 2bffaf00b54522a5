//! Runtime `process`: a command on the host, in the instance's namespaces and a cgroup.
//!
//! An instance belongs to a supervisor of its own ([`crate::runtime::supervisor`]) and goes on
//! when the worker dies; the next worker finds it by its folder ([`life`]) and waits for its end
//! like the one before. Nothing here polls: a supervisor's end is an event of the kernel.
//!
//! It runs as the worker's user, with the host's files. What it shares with nobody: its network
//! namespace and /etc/resolv.conf, if it is given any, and what it may use.
//!
//! Each instance with something to do has a task ([`keeper`]), so that one that is slow to end
//! holds up nobody else. A worker that is killed by its service manager must leave the supervisors
//! alone (systemd: `KillMode=process`).

pub(crate) mod identity;
mod keeper;
pub(crate) mod life;
pub(crate) mod preflight;
mod spawn;
mod supervised;
mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::error::SendError;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use weald_proto::control::Generation;
use weald_proto::name::InstanceId;

use self::keeper::{Keeper, Task};
use self::life::Life;
use super::cgroup::Cgroups;
use super::{Events, Launch, LogError, Runtime, logs, supervisor};

pub use self::preflight::LaunchError;

/// How long an instance has from SIGTERM to SIGKILL unless it is configured.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(5);

/// Bytes of log of an instance unless it is configured: both of its files together.
pub const DEFAULT_LOG_BYTES: u64 = 8 << 20;

/// Processes and threads of an instance unless it is configured: enough for every server, and few
/// enough that a fork bomb leaves the node its own.
pub const DEFAULT_PIDS: u32 = 4_096;

/// The pause between two looks whether all lives have ended.
const END_PAUSE: Duration = Duration::from_millis(10);

/// How instances are run.
#[derive(Debug, Clone)]
pub struct Config {
    /// The folder for what is known of them; this worker's alone. It must survive a restart of
    /// the worker, and should survive one of the machine.
    pub folder: PathBuf,
    /// The program to run as supervisor: one that calls [`supervisor::main`] first of all.
    pub supervisor: PathBuf,
    /// Where cgroups are made.
    pub cgroups: Cgroups,
    /// How long an instance has from SIGTERM to SIGKILL.
    pub grace: Duration,
    /// Bytes of log of each instance.
    pub log_bytes: u64,
    /// Processes and threads of each instance, where the controller is at hand; 0 for no limit.
    pub pids: u32,
}

impl Config {
    /// Defaults, with this very program as supervisor.
    #[must_use]
    pub fn new(folder: PathBuf, cgroups: Cgroups) -> Self {
        Self {
            folder,
            supervisor: supervisor::OWN_PROGRAM.into(),
            cgroups,
            grace: DEFAULT_GRACE,
            log_bytes: DEFAULT_LOG_BYTES,
            pids: DEFAULT_PIDS,
        }
    }
}

/// The runtime `process` of one worker. Dropping it ends nothing: instances go on, unwatched.
#[derive(Debug)]
pub struct ProcessRuntime {
    shared: Arc<Shared>,
    keepers: Arc<Keepers>,
    tokio: tokio::runtime::Handle,
}

/// What all keepers need.
#[derive(Debug)]
struct Shared {
    config: Config,
    /// What the cgroups of this worker's instances begin with.
    group_prefix: String,
    events: Events,
}

/// How to reach the task of each instance that has one.
#[derive(Debug, Default)]
struct Keepers {
    tasks: Mutex<BTreeMap<InstanceId, UnboundedSender<Task>>>,
}

impl ProcessRuntime {
    /// Opens the runtime in its folder, which is made if need be. [`Runtime::readopt`] is to be
    /// called before anything is started.
    ///
    /// # Errors
    /// The folder cannot be made.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn open(mut config: Config, events: Events) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&config.folder)?;
        // Supervisors work in another folder.
        config.folder = config.folder.canonicalize()?;
        let hash = life::hash(config.folder.as_os_str().as_encoded_bytes());
        Ok(Self {
            shared: Arc::new(Shared {
                group_prefix: format!("weald.{:08x}.", hash & u64::from(u32::MAX)),
                config,
                events,
            }),
            keepers: Arc::default(),
            tokio: tokio::runtime::Handle::current(),
        })
    }

    /// What the cgroups of this worker's instances begin with; the rest is the instance's name
    /// and generation.
    #[must_use]
    pub fn group_prefix(&self) -> &str {
        &self.shared.group_prefix
    }

    /// Ends every life in the folder and removes what it leaves, where no worker runs any more.
    ///
    /// # Errors
    /// What is there cannot be listed, or has not gone in time.
    pub async fn end_all(&self, patience: Duration) -> io::Result<()> {
        self.readopt(&BTreeSet::new())?;
        let since = tokio::time::Instant::now();
        loop {
            let left = Life::all(&self.shared.config.folder)?;
            if left.is_empty() {
                return Ok(());
            }
            if since.elapsed() >= patience {
                let names: Vec<_> = left.iter().map(Life::name).collect();
                let text = format!("after {} s: {}", patience.as_secs(), names.join(", "));
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            tokio::time::sleep(END_PAUSE).await;
        }
    }

    fn tell(&self, instance: &InstanceId, task: Task) {
        let mut tasks = self.keepers.lock();
        let task = match tasks.get(instance) {
            Some(keeper) => match keeper.send(task) {
                Ok(()) => return,
                // A keeper leaves the table before it stops listening, unless it was torn down.
                Err(SendError(task)) => task,
            },
            None => task,
        };
        let (sender, receiver) = mpsc::unbounded_channel();
        let _ = sender.send(task);
        tasks.insert(instance.clone(), sender);
        let keeper = Keeper::new(
            Arc::clone(&self.shared),
            Arc::downgrade(&self.keepers),
            instance.clone(),
        );
        self.tokio.spawn(keeper.run(receiver));
    }

    /// Removes the groups that no life belongs to.
    fn sweep_groups(&self) {
        let shared = Arc::clone(&self.shared);
        self.tokio.spawn_blocking(move || {
            if let Err(error) = shared.sweep_groups() {
                tracing::warn!("cannot clear up after earlier instances: {error}");
            }
        });
    }
}

impl Runtime for ProcessRuntime {
    fn start(&self, launch: Launch) {
        let instance = launch.instance.clone();
        self.tell(&instance, Task::Start(Box::new(launch)));
    }

    fn await_listening(&self, instance: &InstanceId, generation: Generation, ports: BTreeSet<u16>) {
        self.tell(instance, Task::Await(generation, ports));
    }

    fn stop(&self, instance: &InstanceId, generation: Generation) {
        self.tell(instance, Task::Stop(generation));
    }

    fn measure(&self) {
        for keeper in self.keepers.lock().values() {
            let _ = keeper.send(Task::Measure);
        }
    }

    fn readopt(&self, wanted: &BTreeSet<InstanceId>) -> io::Result<()> {
        for life in Life::all(&self.shared.config.folder)? {
            match life.order() {
                Ok(Some(order)) if wanted.contains(&order.instance) => {
                    self.tell(&order.instance, Task::TakeUp(order.generation));
                }
                Ok(Some(order)) => self.tell(&order.instance, Task::Stop(order.generation)),
                // Of a worker that died before it had ordered anything.
                Ok(None) => life.remove()?,
                Err(error) => {
                    tracing::warn!("removing what is left of {}: {error}", life.name());
                    life.remove()?;
                }
            }
        }
        self.sweep_groups();
        Ok(())
    }

    fn logs(&self, instance: &InstanceId, lines: u32) -> Result<Vec<String>, LogError> {
        let lives = &self.shared.config.folder;
        let unreadable = |path: &std::path::Path, error| LogError::Unreadable {
            path: path.to_owned(),
            error,
        };
        let all = Life::of_instance(lives, instance).map_err(|error| unreadable(lives, error))?;
        let Some((_, life)) = all.last() else {
            return Err(LogError::Unknown(instance.clone()));
        };
        logs::tail(life.folder(), lines).map_err(|error| unreadable(life.folder(), error))
    }
}

impl Shared {
    /// What the group of a life is called.
    fn group_name(&self, life: &Life) -> String {
        format!("{}{}", self.group_prefix, life.name())
    }

    fn sweep_groups(&self) -> io::Result<()> {
        for (name, group) in self.config.cgroups.list(&self.group_prefix)? {
            let life = name.strip_prefix(&self.group_prefix).unwrap_or_default();
            // A life has its folder before its group, and longer.
            if !self.config.folder.join(life).exists() {
                group.kill()?;
                group.remove()?;
            }
        }
        Ok(())
    }
}

impl Keepers {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<InstanceId, UnboundedSender<Task>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an instance's keeper out of the table, unless it has something to do.
    fn retire(&self, instance: &InstanceId, tasks: &UnboundedReceiver<Task>) -> bool {
        let mut present = self.lock();
        if tasks.is_empty() {
            present.remove(instance);
            return true;
        }
        false
    }
}
