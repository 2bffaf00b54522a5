//! The role `cluster`: the machine on its thread, its link to root, and the port for its nodes.
//!
//! Workers and netmanagers dial the same port and are told apart by the protocol that they speak.
//! What is decided is orchestrator-core's `cluster`.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use orchestrator_core::Now;
use orchestrator_core::cluster::{Cluster, Effect, Input, Settings, Step};
use orchestrator_core::record::{Record, RecordError, Write};
use quinn::{ClientConfig, Endpoint};
use tokio::sync::oneshot;
use weald_proto::control::{
    CLUSTER_ALPN, ClusterToRoot, ClusterToWorker, RootToCluster, WorkerToCluster,
};
use weald_proto::id::{Identity, Label};
use weald_proto::session::{ALPN as SESSION_ALPN, ClusterToNet, NetToCluster};
use weald_trust::tls::{Peer, RevocationSet};

use crate::keys::Keys;
use crate::link::{self, Accepted, Dialled, Switchboard};
use crate::machine::{self, Clock, Machine, MachineError};
use crate::metrics::Figures;
use crate::renewal::{ClusterRenewal, Issuer};
use crate::store::StateStore;

/// Something that is asked of the machine as it stands.
type Look = Box<dyn FnOnce(&Cluster, Now) + Send>;
/// What the machine's thread ends with.
pub type Thread = std::thread::JoinHandle<Result<(), MachineError>>;

/// What the thread is told.
enum Request {
    Input(Box<Input>),
    Look(Look),
}

/// The cluster has stopped, and answers nobody any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cluster is stopping")]
pub struct Stopping;

/// Speaks to the cluster's thread from anywhere.
#[derive(Clone)]
pub struct ClusterHandle {
    requests: Sender<Request>,
}

impl fmt::Debug for ClusterHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterHandle").finish_non_exhaustive()
    }
}

impl ClusterHandle {
    /// Looks at how things are. The closure runs on the cluster's thread and must be quick; what it
    /// sees is persisted.
    ///
    /// # Errors
    /// The cluster has stopped.
    pub async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Cluster, Now) -> T + Send + 'static,
    ) -> Result<T, Stopping> {
        let (sender, answer) = oneshot::channel();
        let look: Look = Box::new(move |cluster, now| {
            // Whoever asked may have gone away.
            let _ = sender.send(look(cluster, now));
        });
        self.requests
            .send(Request::Look(look))
            .map_err(|_| Stopping)?;
        answer.await.map_err(|_| Stopping)
    }

    /// Tells the cluster what happened; nothing once it has stopped.
    pub fn tell(&self, input: Input) {
        // Once the thread has ended its process ends as well.
        let _ = self.requests.send(Request::Input(Box::new(input)));
    }
}

/// Everybody whom the cluster is connected with.
#[derive(Debug, Default)]
pub struct Lines {
    /// Root, under its name.
    root: Switchboard<String>,
    workers: Switchboard<Label>,
    nets: Switchboard<Label>,
    heartbeats: Heartbeats,
}

/// Heartbeats since the start.
#[derive(Debug, Default)]
struct Heartbeats {
    /// To root.
    sent: AtomicU64,
    /// Of workers.
    received: AtomicU64,
}

/// Root's only place on its board.
const ROOT: &str = "root";

impl Lines {
    /// Says something to root; nothing if it is not connected.
    pub fn say_to_root(&self, message: &ClusterToRoot) {
        self.root.say(&ROOT.to_owned(), message);
    }

    /// Closes the connections of nodes whose keys are revoked.
    pub fn cut(&self, revoked: &RevocationSet) {
        self.workers.cut(revoked);
        self.nets.cut(revoked);
    }

    fn carry_out(&self, effect: Effect) {
        let root = ROOT.to_owned();
        match effect {
            Effect::ToRoot(message) => {
                if matches!(message, ClusterToRoot::Heartbeat { .. }) {
                    self.heartbeats.sent.fetch_add(1, Ordering::Relaxed);
                }
                self.root.say(&root, &message);
            }
            Effect::ToWorker(node, message) => self.workers.say(&node, &message),
            Effect::ToNet(node, message) => self.nets.say(&node, &message),
            Effect::CloseRoot(why) => self.root.close(&root, &why),
            Effect::CloseWorker(node, why) => self.workers.close(&node, &why),
            Effect::CloseNet(node, why) => self.nets.close(&node, &why),
            Effect::Fault(text) | Effect::Lie(text) => tracing::warn!("{text}"),
        }
    }
}

/// What a cluster tells of itself to Prometheus.
///
/// # Errors
/// The cluster has stopped.
pub async fn figures(cluster: &ClusterHandle, lines: &Lines) -> Result<Figures, Stopping> {
    let look = |cluster: &Cluster, _| {
        let nodes: Vec<_> = cluster.node_reports().map(|it| it.standing).collect();
        let phases: Vec<_> = cluster.instances().map(|it| it.phase).collect();
        let addresses = cluster.owners_of_addresses().count();
        (nodes, phases, addresses, cluster.refused_reports())
    };
    let (nodes, phases, addresses, refused) = cluster.look(look).await?;
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    Ok(Figures {
        role: "cluster",
        nodes: Some(nodes),
        phases,
        links: vec![
            ("root", lines.root.figures()),
            ("worker", lines.workers.figures()),
            ("netmanager", lines.nets.figures()),
        ],
        counters: vec![
            (
                "weald_heartbeats_sent_total",
                "Heartbeats to root.",
                read(&lines.heartbeats.sent),
            ),
            (
                "weald_heartbeats_received_total",
                "Heartbeats of workers.",
                read(&lines.heartbeats.received),
            ),
            (
                "weald_reports_refused_total",
                "Reports of instances, lives or logs that the worker was not given or asked for.",
                refused,
            ),
        ],
        gauges: vec![(
            "weald_addresses_assigned",
            "Addresses that nodes, services and instances have.",
            addresses as u64,
        )],
    })
}

struct ClusterMachine {
    cluster: Cluster,
    keys: Keys,
}

impl ClusterMachine {
    fn take(step: Step, writes: &mut Vec<Write>, effects: &mut Vec<Effect>) {
        writes.extend(step.writes);
        effects.extend(step.effects);
    }
}

impl Machine for ClusterMachine {
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
                look(&self.cluster, now);
                return Ok(());
            }
        };
        let step = self.cluster.handle(input, now)?;
        Self::take(step, writes, effects);
        Ok(())
    }

    fn next_due(&self) -> Option<Duration> {
        self.cluster.next_due()
    }

    fn add_writes(&mut self, writes: &mut Vec<Write>) -> Result<(), RecordError> {
        writes.extend(self.keys.write()?);
        Ok(())
    }
}

/// Starts the cluster's thread. It ends when every handle is gone, or with an error. `records` are
/// those of the store.
///
/// # Errors
/// The state cannot be read.
pub fn start(
    settings: Settings,
    mut keys: Keys,
    mut store: Box<dyn StateStore>,
    records: &[Record],
) -> anyhow::Result<(ClusterHandle, Arc<Lines>, Thread)> {
    let clock = Clock::start();
    let trust = Box::new(keys.clone());
    let (cluster, step) = Cluster::restore(settings, trust, records, clock.now())?;
    let (mut writes, mut effects) = (Vec::new(), Vec::new());
    ClusterMachine::take(step, &mut writes, &mut effects);
    writes.extend(keys.write()?);
    store.commit(&writes)?;
    let mut machine = ClusterMachine { cluster, keys };
    let (requests, receiver) = mpsc::channel();
    let lines = Arc::new(Lines::default());
    let told = Arc::clone(&lines);
    let thread = std::thread::Builder::new()
        .name("cluster".to_owned())
        .spawn(move || {
            effects
                .into_iter()
                .for_each(|effect| told.carry_out(effect));
            let carry_out = |effect| told.carry_out(effect);
            let ended = machine::run(&mut machine, store.as_mut(), clock, &receiver, carry_out);
            if let Err(error) = &ended {
                tracing::error!(%error, "the cluster stops");
            }
            ended
        })?;
    Ok((ClusterHandle { requests }, lines, thread))
}

/// Keeps the link to root, for ever.
pub async fn talk_to_root(
    endpoint: &Endpoint,
    names: &[String],
    config: impl Fn() -> anyhow::Result<ClientConfig>,
    cluster: &ClusterHandle,
    (lines, renewal): (&Lines, &ClusterRenewal),
) {
    let serve = |dialled: Dialled| async move {
        let root = ROOT.to_owned();
        let (outbox, waiting) = link::outbox();
        let connection = dialled.connection.clone();
        let number = lines.root.connect(&root, outbox, connection, || {
            cluster.tell(Input::RootConnected);
        });
        let hear = |message: RootToCluster| {
            if let RootToCluster::Renewed(answer) = message {
                renewal.heard(answer);
                return true;
            }
            let tell = || cluster.tell(Input::Root(message));
            lines.root.hear(&root, number, tell)
        };
        let why = link::converse(&dialled.connection, dialled.streams, waiting, hear).await;
        lines.root.disconnect(&root, number, || {
            cluster.tell(Input::RootDisconnected);
        });
        why
    };
    link::dial_forever(endpoint, "root", names, config, serve).await;
}

/// Serves the workers and netmanagers of the cluster, until the endpoint is closed.
pub async fn serve_nodes(
    endpoint: &Endpoint,
    cluster: ClusterHandle,
    lines: Arc<Lines>,
    issuer: Issuer,
) {
    link::accept(endpoint, move |accepted| {
        let (cluster, lines, issuer) = (cluster.clone(), Arc::clone(&lines), issuer.clone());
        async move { serve_node(accepted, &cluster, &lines, &issuer).await }
    })
    .await;
}

async fn serve_node(accepted: Accepted, cluster: &ClusterHandle, lines: &Lines, issuer: &Issuer) {
    let (node, peer) = match accepted.peer {
        Some(peer) => match &peer.identity {
            Identity::Node(id) => (id.name.clone(), peer),
            Identity::Relay(_) if accepted.alpn == SESSION_ALPN => {
                return serve_relay(&accepted.connection, accepted.streams, &peer, issuer).await;
            }
            Identity::Root | Identity::Cluster(_) | Identity::Control(_) | Identity::Relay(_) => {
                return refuse(&accepted.connection);
            }
        },
        None => return refuse(&accepted.connection),
    };
    let (outbox, waiting) = link::outbox();
    let connection = accepted.connection.clone();
    if accepted.alpn == CLUSTER_ALPN {
        let board = &lines.workers;
        let number = board.connect(&node, outbox, connection, || {
            let key = peer.spki_sha256.0;
            cluster.tell(Input::WorkerConnected(node.clone(), key));
        });
        let hear = |message: WorkerToCluster| {
            if let WorkerToCluster::Renew(request) = &message {
                let answer = issuer.answer(&peer, request);
                board.say(&node, &ClusterToWorker::Renewed(answer));
                return true;
            }
            if matches!(message, WorkerToCluster::Heartbeat { .. }) {
                let counter = &lines.heartbeats.received;
                counter.fetch_add(1, Ordering::Relaxed);
            }
            let tell = || cluster.tell(Input::Worker(node.clone(), message));
            board.hear(&node, number, tell)
        };
        let why = link::converse(&accepted.connection, accepted.streams, waiting, hear).await;
        tracing::info!(%node, %why, "worker disconnected");
        board.disconnect(&node, number, || {
            cluster.tell(Input::WorkerDisconnected(node.clone()));
        });
    } else if accepted.alpn == SESSION_ALPN {
        let board = &lines.nets;
        // An IPv4 address that came over a socket of both families looks like an IPv6 one.
        let observed = accepted.connection.remote_address();
        let observed = SocketAddr::new(observed.ip().to_canonical(), observed.port());
        let number = board.connect(&node, outbox, connection, || {
            cluster.tell(Input::NetConnected {
                node: node.clone(),
                key: peer.spki_sha256.0,
                observed,
            });
        });
        let hear = |message: NetToCluster| {
            if let NetToCluster::Renew(request) = &message {
                let answer = issuer.answer(&peer, request);
                board.say(&node, &ClusterToNet::Renewed(answer));
                return true;
            }
            let tell = || cluster.tell(Input::Net(node.clone(), message));
            board.hear(&node, number, tell)
        };
        let why = link::converse(&accepted.connection, accepted.streams, waiting, hear).await;
        tracing::info!(%node, %why, "netmanager disconnected");
        board.disconnect(&node, number, || {
            cluster.tell(Input::NetDisconnected(node.clone()));
        });
    } else {
        refuse(&accepted.connection);
    }
}

/// Answers a relay, which dials for a new certificate and for nothing else.
async fn serve_relay(
    connection: &quinn::Connection,
    streams: (quinn::SendStream, quinn::RecvStream),
    peer: &Peer,
    issuer: &Issuer,
) {
    let (outbox, waiting) = link::outbox();
    let hear = |message: NetToCluster| match message {
        NetToCluster::Renew(request) => {
            let answer = ClusterToNet::Renewed(issuer.answer(peer, &request));
            link::post(&outbox, &answer).is_ok()
        }
        NetToCluster::Hello { .. }
        | NetToCluster::Interests(_)
        | NetToCluster::Addresses(_)
        | NetToCluster::KeepAlive => {
            let why = b"a relay may ask for its next certificate here, and for nothing else";
            connection.close(quinn::VarInt::from_u32(1), why);
            false
        }
    };
    let why = link::converse(connection, streams, waiting, hear).await;
    tracing::info!(relay = %peer.identity, %why, "relay disconnected");
}

fn refuse(connection: &quinn::Connection) {
    let why = b"only the cluster's nodes are served here";
    connection.close(quinn::VarInt::from_u32(1), why);
}
