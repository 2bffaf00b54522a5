//! The role `root`: the machine on its thread, and the handle by which everything else speaks to it.
//!
//! The links of clusters, the REST API and the port at which others join all hold a
//! [`RootHandle`]. What is decided is orchestrator-core's `root`.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};

use orchestrator_core::Now;
use orchestrator_core::accounts::Accounts;
use orchestrator_core::addresses::Plan;
use orchestrator_core::record::{Record, RecordError, Write};
use orchestrator_core::root::{Command, CommandError, Done, Effect, Input, Root, Scope, Step};
use quinn::Endpoint;
use tokio::sync::oneshot;
use weald_proto::control::{ClusterToRoot, RootToCluster};
use weald_proto::id::{Identity, Label};
use weald_proto::name::InstanceId;

use crate::keys::Keys;
use crate::link::{self, Accepted, Switchboard};
use crate::machine::{self, Clock, Machine, MachineError};
use crate::renewal::Issuer;
use crate::store::StateStore;

/// How a command ends.
type Answer = Result<Done, CommandError>;
/// How a request for a log ends.
type Lines = Result<Vec<String>, String>;
/// Something that is asked of the machine as it stands.
type Look = Box<dyn FnOnce(&Root, Now) + Send>;
/// What is told once everything is persisted.
type Telling = Box<dyn FnOnce() + Send>;
/// Something that is done with accounts: what is to be persisted, and what is told then.
type Change = Box<dyn FnOnce(&mut Accounts, &Root, Now) -> (Vec<Write>, Telling) + Send>;

/// What the thread is told.
pub enum Request {
    /// Something happened on a link.
    Input(Input),
    /// Somebody wants something.
    Command(Box<Command>, Scope, oneshot::Sender<Answer>),
    /// Somebody wants to see how things are.
    Look(Look),
    /// Somebody changes accounts, or looks at them.
    Accounts(Change),
    /// Somebody wants to read a log.
    Logs(InstanceId, u32, oneshot::Sender<Lines>),
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(input) => f.debug_tuple("Input").field(input).finish(),
            Self::Command(command, scope, _) => f
                .debug_tuple("Command")
                .field(command)
                .field(scope)
                .finish(),
            Self::Look(_) => f.write_str("Look"),
            Self::Accounts(_) => f.write_str("Accounts"),
            Self::Logs(instance, lines, _) => {
                f.debug_tuple("Logs").field(instance).field(lines).finish()
            }
        }
    }
}

/// Root has stopped, and answers nobody any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("root is stopping")]
pub struct Stopping;

/// Why a command came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Root does not do it.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// Root has stopped.
    #[error(transparent)]
    Stopping(#[from] Stopping),
}

/// Speaks to root's thread from anywhere.
#[derive(Debug, Clone)]
pub struct RootHandle {
    requests: Sender<Request>,
}

impl RootHandle {
    /// Has something done; when it returns, that is persisted.
    ///
    /// # Errors
    /// Why it was not done.
    pub async fn command(&self, command: Command, scope: Scope) -> Result<Done, CallError> {
        let (sender, answer) = oneshot::channel();
        self.ask(Request::Command(Box::new(command), scope, sender))?;
        Ok(answer.await.map_err(|_| Stopping)??)
    }

    /// Looks at how things are. The closure runs on root's thread and must be quick; what it sees is
    /// persisted.
    ///
    /// # Errors
    /// Root has stopped.
    pub async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Root, Now) -> T + Send + 'static,
    ) -> Result<T, Stopping> {
        let (sender, answer) = oneshot::channel();
        let look: Look = Box::new(move |root, now| {
            // Whoever asked may have gone away.
            let _ = sender.send(look(root, now));
        });
        self.ask(Request::Look(look))?;
        answer.await.map_err(|_| Stopping)
    }

    /// Changes accounts, or looks at them; when it returns, the writes that the closure returned are
    /// persisted. The closure runs on root's thread and
    /// must be quick.
    ///
    /// # Errors
    /// Root has stopped.
    pub async fn accounts<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Accounts, &Root, Now) -> (Vec<Write>, T) + Send + 'static,
    ) -> Result<T, Stopping> {
        let (sender, answer) = oneshot::channel();
        let change: Change = Box::new(move |accounts, root, now| {
            let (writes, told) = change(accounts, root, now);
            // Whoever asked may have gone away.
            let tell: Telling = Box::new(move || drop(sender.send(told)));
            (writes, tell)
        });
        self.ask(Request::Accounts(change))?;
        answer.await.map_err(|_| Stopping)
    }

    /// The last lines of an instance's log, oldest first. The caller bounds how long it waits: the
    /// node that has the instance may be out of reach.
    ///
    /// # Errors
    /// Why there are none, in words.
    pub async fn logs(&self, instance: InstanceId, lines: u32) -> Result<Vec<String>, String> {
        let (sender, answer) = oneshot::channel();
        let asked = self.ask(Request::Logs(instance, lines, sender));
        asked.map_err(|error| error.to_string())?;
        answer.await.map_err(|_| Stopping.to_string())?
    }

    /// Tells root what happened on a link.
    ///
    /// # Errors
    /// Root has stopped.
    pub fn tell(&self, input: Input) -> Result<(), Stopping> {
        self.ask(Request::Input(input))
    }

    fn ask(&self, request: Request) -> Result<(), Stopping> {
        self.requests.send(request).map_err(|_| Stopping)
    }
}

/// What the thread has others do.
pub enum Told {
    /// Say this to a cluster.
    Say(Label, RootToCluster),
    /// Close a cluster's connection, saying why.
    Close(Label, String),
    /// Answer whoever asked.
    Answer(Telling),
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Say(cluster, message) => {
                f.debug_tuple("Say").field(cluster).field(message).finish()
            }
            Self::Close(cluster, why) => f.debug_tuple("Close").field(cluster).field(why).finish(),
            Self::Answer(_) => f.write_str("Answer"),
        }
    }
}

struct RootMachine {
    root: Root,
    keys: Keys,
    accounts: Accounts,
    logs: HashMap<u64, oneshot::Sender<Lines>>,
}

impl RootMachine {
    fn take(&mut self, step: Step, writes: &mut Vec<Write>, effects: &mut Vec<Told>) {
        writes.extend(step.writes);
        for effect in step.effects {
            match effect {
                Effect::ToCluster(cluster, message) => effects.push(Told::Say(cluster, message)),
                Effect::CloseCluster(cluster, why) => effects.push(Told::Close(cluster, why)),
                Effect::Logs { request, lines } => {
                    if let Some(sender) = self.logs.remove(&request) {
                        // Whoever asked may have gone away.
                        let _ = sender.send(lines);
                    }
                }
                Effect::Fault(text) => tracing::warn!("{text}"),
            }
        }
    }
}

impl Machine for RootMachine {
    type Input = Request;
    type Effect = Told;

    fn handle(
        &mut self,
        input: Option<Request>,
        now: Now,
        writes: &mut Vec<Write>,
        effects: &mut Vec<Told>,
    ) -> Result<(), RecordError> {
        match input {
            None => {
                let step = self.root.handle(Input::Tick, now)?;
                self.take(step, writes, effects);
            }
            Some(Request::Input(input)) => {
                let step = self.root.handle(input, now)?;
                self.take(step, writes, effects);
            }
            Some(Request::Command(command, scope, sender)) => {
                let answer = match self.root.command(*command, &scope, now) {
                    Ok((step, done)) => {
                        self.take(step, writes, effects);
                        Ok(done)
                    }
                    Err(error) => Err(error),
                };
                // Behind the commit: what is answered is persisted.
                effects.push(Told::Answer(Box::new(move || {
                    let _ = sender.send(answer);
                })));
            }
            Some(Request::Look(look)) => look(&self.root, now),
            Some(Request::Accounts(change)) => {
                let (more, tell) = change(&mut self.accounts, &self.root, now);
                writes.extend(more);
                effects.push(Told::Answer(tell));
            }
            Some(Request::Logs(instance, lines, sender)) => {
                self.logs.retain(|request, waiting| {
                    let gone = waiting.is_closed();
                    if gone {
                        self.root.forget_logs(*request);
                    }
                    !gone
                });
                match self.root.read_logs(&instance, lines) {
                    Ok((step, request)) => {
                        self.logs.insert(request, sender);
                        self.take(step, writes, effects);
                    }
                    Err(error) => {
                        let _ = sender.send(Err(error.to_string()));
                    }
                }
            }
        }
        Ok(())
    }

    fn next_due(&self) -> Option<std::time::Duration> {
        self.root.next_due()
    }

    fn add_writes(&mut self, writes: &mut Vec<Write>) -> Result<(), RecordError> {
        writes.extend(self.keys.write()?);
        Ok(())
    }
}

/// Starts root's thread; `carry_out` is called there for what it has others do, and must not block.
/// The thread ends when every handle is gone, or with an error that is returned by its join handle.
/// `records` are those of the store.
///
/// # Errors
/// The state cannot be read.
pub fn start(
    keys: Keys,
    mut store: Box<dyn StateStore>,
    records: &[Record],
    mut carry_out: impl FnMut(Told) + Send + 'static,
) -> anyhow::Result<(
    RootHandle,
    std::thread::JoinHandle<Result<(), MachineError>>,
)> {
    let clock = Clock::start();
    let trust = Box::new(keys.clone());
    let (root, step) = Root::restore(Plan::default(), trust, records, clock.now())?;
    let (accounts, mut writes) = Accounts::restore(records, clock.now())?;
    let mut machine = RootMachine {
        root,
        keys,
        accounts,
        logs: HashMap::new(),
    };
    let mut effects = Vec::new();
    machine.take(step, &mut writes, &mut effects);
    machine.add_writes(&mut writes)?;
    store.commit(&writes)?;
    let (requests, receiver) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("root".to_owned())
        .spawn(move || {
            effects.into_iter().for_each(&mut carry_out);
            let ended = machine::run(&mut machine, store.as_mut(), clock, &receiver, carry_out);
            if let Err(error) = &ended {
                tracing::error!(%error, "root stops");
            }
            ended
        })?;
    Ok((RootHandle { requests }, thread))
}

/// Serves the clusters, until the endpoint is closed.
pub async fn serve_clusters(
    endpoint: &Endpoint,
    root: RootHandle,
    lines: Arc<Switchboard<Label>>,
    issuer: Issuer,
) {
    link::accept(endpoint, move |accepted| {
        let (root, lines, issuer) = (root.clone(), Arc::clone(&lines), issuer.clone());
        async move { serve_cluster(accepted, &root, &lines, &issuer).await }
    })
    .await;
}

async fn serve_cluster(
    accepted: Accepted,
    root: &RootHandle,
    lines: &Switchboard<Label>,
    issuer: &Issuer,
) {
    let Some((peer, cluster)) = accepted.peer.and_then(|peer| match &peer.identity {
        Identity::Control(cluster) => Some((peer.clone(), cluster.clone())),
        Identity::Root | Identity::Cluster(_) | Identity::Node(_) | Identity::Relay(_) => None,
    }) else {
        let why = b"only clusters are served here";
        accepted.connection.close(quinn::VarInt::from_u32(1), why);
        return;
    };
    let (outbox, waiting) = link::outbox();
    let connection = accepted.connection.clone();
    // Once the thread has ended its process ends as well.
    let tell = |input| {
        let _ = root.tell(input);
    };
    let number = lines.connect(&cluster, outbox, connection, || {
        tell(Input::ClusterConnected(cluster.clone()));
    });
    let hear = |message: ClusterToRoot| {
        if let ClusterToRoot::Renew(request) = &message {
            let answer = issuer.answer(&peer, request);
            lines.say(&cluster, &RootToCluster::Renewed(answer));
            return true;
        }
        let told = || tell(Input::Cluster(cluster.clone(), message));
        lines.hear(&cluster, number, told)
    };
    let why = link::converse(&accepted.connection, accepted.streams, waiting, hear).await;
    tracing::info!(%cluster, %why, "cluster disconnected");
    lines.disconnect(&cluster, number, || {
        tell(Input::ClusterDisconnected(cluster.clone()));
    });
}

/// Carries out on a board what root has others do.
pub fn carry_out(lines: &Switchboard<Label>, told: Told) {
    match told {
        Told::Say(cluster, message) => lines.say(&cluster, &message),
        Told::Close(cluster, why) => lines.close(&cluster, &why),
        Told::Answer(answer) => answer(),
    }
}
