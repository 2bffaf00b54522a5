//! The role `worker`: the machine on its thread, its link to the cluster, and the hands that start
//! and stop what it has taken on.
//!
//! An instance's network is the netmanager's, its process a [`Runtime`]'s. What is decided is
//! orchestrator-core's `worker`.

pub mod load;
mod overlay;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use orchestrator_core::Now;
use orchestrator_core::record::{RecordError, Write};
use orchestrator_core::worker::{Effect, Input, RuntimeEvent, Step, Work, Worker};
use quinn::{ClientConfig, Endpoint};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use weald_proto::control::{ClusterToWorker, Generation, NodeCapacity, WorkerToCluster};
use weald_proto::id::NodeId;
use weald_proto::name::InstanceId;
use weald_trust::renewal::Renewal;

use crate::link::{self, Dialled, Switchboard};
use crate::machine::{self, Clock, Machine, MachineError};
use crate::metrics::Figures;
use crate::renewal;
use crate::runtime::{Launch, Runtime};
use crate::store::StateStore;

/// How often the machine is told how busy the node is.
const LOAD_EVERY: Duration = Duration::from_secs(5);
/// How often instances are measured.
const MEASURE_EVERY: Duration = Duration::from_secs(10);

/// What the machine's thread ends with.
pub type Thread = std::thread::JoinHandle<Result<(), MachineError>>;
/// The events of runtimes.
pub type Events = UnboundedReceiver<(InstanceId, Generation, RuntimeEvent)>;

/// Something that is asked of the machine as it stands.
type Look = Box<dyn FnOnce(&Worker) + Send>;

/// What the thread is told.
enum Request {
    Input(Box<Input>),
    Look(Look),
}

/// Tells the machine's thread what happened.
#[derive(Clone)]
pub struct WorkerHandle {
    requests: Sender<Request>,
}

impl fmt::Debug for WorkerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerHandle").finish_non_exhaustive()
    }
}

impl WorkerHandle {
    /// Tells the worker what happened; nothing once it has stopped.
    pub fn tell(&self, input: Input) {
        // Once the thread has ended its process ends as well.
        let _ = self.requests.send(Request::Input(Box::new(input)));
    }

    /// Looks at how things are; none once the worker has stopped. The closure runs on the worker's
    /// thread and must be quick.
    pub async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Worker) -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, answer) = oneshot::channel();
        let look: Look = Box::new(move |worker| {
            // Whoever asked may have gone away.
            let _ = sender.send(look(worker));
        });
        self.requests.send(Request::Look(look)).ok()?;
        answer.await.ok()
    }
}

/// What is to be done with an instance.
#[derive(Debug)]
enum Order {
    Start(Generation, Box<Work>),
    Stop(Generation),
}

/// The orders of one instance, and the task that carries them out.
type Queue = (UnboundedSender<Order>, JoinHandle<()>);

/// What a worker is started with.
#[derive(Debug)]
pub struct Parts {
    /// Which node it is.
    pub node: NodeId,
    /// What the node has.
    pub capacity: NodeCapacity,
    /// What runs instances.
    pub runtime: Arc<dyn Runtime>,
    /// What the runtime says.
    pub events: Events,
    /// The netmanager's socket; none for instances on the host's own network.
    pub netmanager: Option<PathBuf>,
}

/// The cluster's only place on the worker's board.
const CLUSTER: &str = "cluster";

/// Whom the worker is connected with.
#[derive(Debug, Default)]
pub struct Line {
    board: Switchboard<String>,
    /// Heartbeats since the start.
    heartbeats: AtomicU64,
}

/// What a worker tells of itself to Prometheus; none once it has stopped.
pub async fn figures(worker: &WorkerHandle, line: &Line) -> Option<Figures> {
    let phases = worker.look(|worker| worker.instances().map(|it| it.phase).collect());
    Some(Figures {
        role: "worker",
        nodes: None,
        phases: phases.await?,
        links: vec![("cluster", line.board.figures())],
        counters: vec![(
            "weald_heartbeats_sent_total",
            "Heartbeats to the cluster.",
            line.heartbeats.load(Ordering::Relaxed),
        )],
        gauges: Vec::new(),
    })
}

impl Line {
    /// Says something to the cluster; nothing if it is not connected.
    pub fn say(&self, message: &WorkerToCluster) {
        self.board.say(&CLUSTER.to_owned(), message);
    }
}

struct WorkerMachine(Worker);

impl Machine for WorkerMachine {
    type Input = Request;
    type Effect = Effect;

    fn handle(
        &mut self,
        input: Option<Request>,
        now: Now,
        writes: &mut Vec<Write>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RecordError> {
        let input = match input {
            None => Input::Tick,
            Some(Request::Input(input)) => *input,
            Some(Request::Look(look)) => {
                look(&self.0);
                return Ok(());
            }
        };
        let step = self.0.handle(input, now)?;
        writes.extend(step.writes);
        effects.extend(step.effects);
        Ok(())
    }

    fn next_due(&self) -> Option<Duration> {
        self.0.next_due()
    }

    fn add_writes(&mut self, _: &mut Vec<Write>) -> Result<(), RecordError> {
        Ok(())
    }
}

/// Starts the worker's thread and its hands, on the present tokio runtime. The thread ends when every
/// handle is gone, or with an error.
///
/// # Errors
/// The state cannot be read, or what an earlier worker left running cannot be listed.
pub fn start(
    parts: Parts,
    mut store: Box<dyn StateStore>,
) -> anyhow::Result<(WorkerHandle, Arc<Line>, Thread)> {
    let Parts {
        node,
        capacity,
        runtime,
        events,
        netmanager,
    } = parts;
    let records = store.load()?;
    let clock = Clock::start();
    let (worker, Step { writes, effects }) = Worker::restore(node, capacity, &records)?;
    store.commit(&writes)?;
    let wanted: BTreeSet<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Start { instance, .. } | Effect::Stop { instance, .. } => {
                Some(instance.clone())
            }
            Effect::Await { .. }
            | Effect::Send(_)
            | Effect::ReadLogs { .. }
            | Effect::Incompatible { .. } => None,
        })
        .chain(worker.instances().map(|report| report.instance.clone()))
        .collect();
    runtime.readopt(&wanted)?;
    let (requests, receiver) = mpsc::channel();
    let handle = WorkerHandle { requests };
    let line = Arc::new(Line::default());
    let hands = Hands {
        runtime,
        netmanager,
        worker: handle.clone(),
        line: Arc::clone(&line),
    };
    let orders = hands.start(events);
    let mut machine = WorkerMachine(worker);
    let thread = std::thread::Builder::new()
        .name("worker".to_owned())
        .spawn(move || {
            // The hands are gone only when the process ends.
            let carry_out = |effect| drop(orders.send(effect));
            effects.into_iter().for_each(carry_out);
            let ended = machine::run(&mut machine, store.as_mut(), clock, &receiver, carry_out);
            if let Err(error) = &ended {
                tracing::error!(%error, "the worker stops");
            }
            ended
        })?;
    Ok((handle, line, thread))
}

/// Keeps the link to the cluster, for ever.
pub async fn talk_to_cluster(
    endpoint: &Endpoint,
    names: &[String],
    config: impl Fn() -> anyhow::Result<ClientConfig>,
    worker: &WorkerHandle,
    (line, renewal): (&Line, &Renewal),
) {
    let serve = |dialled: Dialled| async move {
        let cluster = CLUSTER.to_owned();
        let (outbox, waiting) = link::outbox();
        let connection = dialled.connection.clone();
        let number = line.board.connect(&cluster, outbox, connection, || {
            worker.tell(Input::Connected);
        });
        let hear = |message: ClusterToWorker| {
            if let ClusterToWorker::Renewed(answer) = message {
                renewal::heard(renewal, answer);
                return true;
            }
            let tell = || worker.tell(Input::Message(message));
            line.board.hear(&cluster, number, tell)
        };
        let why = link::converse(&dialled.connection, dialled.streams, waiting, hear).await;
        line.board.disconnect(&cluster, number, || {
            worker.tell(Input::Disconnected);
        });
        why
    };
    link::dial_forever(endpoint, "cluster", names, config, serve).await;
}

/// Carries out what the machine has decided.
#[derive(Clone)]
struct Hands {
    runtime: Arc<dyn Runtime>,
    netmanager: Option<PathBuf>,
    worker: WorkerHandle,
    line: Arc<Line>,
}

impl Hands {
    fn start(self, mut events: Events) -> UnboundedSender<Effect> {
        let (orders, mut effects) = unbounded_channel();
        let hands = self.clone();
        tokio::spawn(async move {
            let mut instances = HashMap::new();
            while let Some(effect) = effects.recv().await {
                hands.carry_out(effect, &mut instances);
            }
        });
        let hands = self.clone();
        tokio::spawn(async move {
            while let Some((instance, generation, event)) = events.recv().await {
                hands.handle_event(instance, generation, event).await;
            }
        });
        tokio::spawn(async move { self.measure().await });
        orders
    }

    fn carry_out(&self, effect: Effect, instances: &mut HashMap<InstanceId, Queue>) {
        match effect {
            Effect::Send(message) => self.say(&message),
            Effect::Start {
                instance,
                generation,
                work,
            } => self.order(instance, Order::Start(generation, work), instances),
            Effect::Await {
                instance,
                generation,
                ports,
            } => self.runtime.await_listening(&instance, generation, ports),
            Effect::Stop {
                instance,
                generation,
            } => self.order(instance, Order::Stop(generation), instances),
            Effect::ReadLogs {
                request,
                instance,
                lines,
            } => {
                let hands = self.clone();
                tokio::task::spawn_blocking(move || {
                    let lines = hands.runtime.logs(&instance, lines);
                    let lines = lines.map_err(|error| error.to_string());
                    hands.say(&WorkerToCluster::Logs { request, lines });
                });
            }
            Effect::Incompatible { version } => {
                let own = weald_proto::control::VERSION;
                let why = format!(
                    "the cluster speaks version {version} of the control protocol, this worker \
                     {own}; run the same release on both"
                );
                self.line.board.close(&CLUSTER.to_owned(), &why);
            }
        }
    }

    fn say(&self, message: &WorkerToCluster) {
        if matches!(message, WorkerToCluster::Heartbeat { .. }) {
            self.line.heartbeats.fetch_add(1, Ordering::Relaxed);
        }
        self.line.say(message);
    }

    /// The orders of one instance are carried out in turn, those of different ones side by side.
    fn order(
        &self,
        instance: InstanceId,
        order: Order,
        instances: &mut HashMap<InstanceId, Queue>,
    ) {
        let unsent = match instances.get(&instance) {
            Some((orders, _)) => orders.send(order).err().map(|unsent| unsent.0),
            None => Some(order),
        };
        let Some(order) = unsent else {
            return;
        };
        let former = instances.remove(&instance).map(|(_, task)| task);
        instances.retain(|_, (_, task)| !task.is_finished());
        let (orders, mut waiting) = unbounded_channel();
        // It has a receiver until its task ends.
        let _ = orders.send(order);
        let (hands, id) = (self.clone(), instance.clone());
        let task = tokio::spawn(async move {
            if let Some(former) = former {
                // It has orders left that came before these.
                let _ = former.await;
            }
            while let Some(order) = waiting.recv().await {
                let last = matches!(order, Order::Stop(_));
                hands.obey(&id, order).await;
                if last && waiting.is_empty() {
                    // What comes later finds the channel closed and makes another; what has come in
                    // between is still received.
                    waiting.close();
                }
            }
        });
        instances.insert(instance, (orders, task));
    }

    async fn obey(&self, instance: &InstanceId, order: Order) {
        match order {
            Order::Start(generation, work) => {
                let attached = match &self.netmanager {
                    None => Ok(None),
                    Some(socket) => overlay::attach(socket, instance, generation, &work)
                        .await
                        .map(Some),
                };
                match attached {
                    Ok(attached) => {
                        let (netns, resolv_conf) =
                            attached.map(|it| (it.netns, it.resolv_conf)).unzip();
                        self.runtime.start(Launch {
                            instance: instance.clone(),
                            generation,
                            spec: work.spec,
                            netns,
                            resolv_conf,
                        });
                    }
                    Err(error) => self.worker.tell(Input::Runtime {
                        instance: instance.clone(),
                        generation,
                        event: RuntimeEvent::NotStarted(format!("{error:#}")),
                    }),
                }
            }
            Order::Stop(generation) => self.runtime.stop(instance, generation),
        }
    }

    async fn handle_event(
        &self,
        instance: InstanceId,
        generation: Generation,
        event: RuntimeEvent,
    ) {
        if let (RuntimeEvent::Stopped, Some(socket)) = (&event, &self.netmanager)
            && let Err(error) = overlay::detach(socket, &instance, generation).await
        {
            // The instance has ended; its addresses are in no lease any more.
            tracing::warn!(%instance, "its network stays: {error:#}");
        }
        self.worker.tell(Input::Runtime {
            instance,
            generation,
            event,
        });
    }

    async fn measure(&self) {
        let mut load = load::Load::default();
        let mut ticks = tokio::time::interval(LOAD_EVERY);
        let mut measured = tokio::time::Instant::now();
        loop {
            ticks.tick().await;
            match load.measure() {
                Ok((cpu_percent, memory_mib)) => self.worker.tell(Input::Load {
                    cpu_percent,
                    memory_mib,
                }),
                Err(error) => tracing::warn!("cannot measure the load: {error:#}"),
            }
            if measured.elapsed() >= MEASURE_EVERY {
                measured = tokio::time::Instant::now();
                self.runtime.measure();
            }
        }
    }
}
