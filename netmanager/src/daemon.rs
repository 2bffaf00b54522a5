//! The daemon: puts everything together, keeps it in step with the table, and takes it down.
//!
//! Order of the start: state, identity, table, ground, data socket, packet thread, names, API.
//! Only then is it ready. From there the calling thread waits for events: the table's file has
//! changed, the set of active peers has changed, a signal. The packet thread is a plain thread;
//! names and the API run on a small tokio runtime, which no packet ever waits for.
//!
//! The ground is an overlay namespace with a TUN, or userspace mode (`ground`).
//!
//! Stopping leaves the overlay in place, with `unreachable` routes instead of the TUN, so that
//! instances live on and nothing leaves unencrypted; `Overlay::down` is what removes it.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::Context;
use netmanager_core::dns::{ClientLimits, TableStatus};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use tokio::runtime::Runtime;
use weald_metrics::{Bound, Port};
use weald_proto::id::NodeId;
use weald_proto::name::ApplicationName;

use crate::api::hosting::Hosting;
use crate::api::server::ApiServer;
use crate::api::{About, ApiContext};
use crate::config::{NetConfig, RowSource};
use crate::dns_server::{DnsCounters, DnsServer, upstreams_of};
use crate::driver::{Heard, RunningDriver};
use crate::env::EnvConfig;
use crate::socket::{Batching, DataSocket};
use crate::state::StateDir;
use crate::userspace::{Bound as Doors, UserspaceConfig};

mod addresses;
mod bench;
mod certificate;
mod ground;
mod hosting;
mod identified;
mod links;
mod packets;
mod ports;
mod rows_source;
mod session;
mod signals;
mod table_keeper;
mod watch;

#[cfg(test)]
mod tests;

pub use identified::Identified;

use bench::Benches;
use ground::Ground;
use hosting::HostHandle;
use ports::Ports;
use session::ClusterSession;
use table_keeper::{Candidate, TableKeeper};

/// Threads for names and the API: neither computes much, and packets need the processors.
const RUNTIME_THREADS: usize = 2;

/// How often the packet thread is looked after.
const CARE_INTERVAL: Duration = Duration::from_secs(1);

/// Events that are taken in before anything follows from them.
const MAX_EVENTS_AT_ONCE: usize = 256;

/// How long names and the API may take to end.
const RUNTIME_STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Open files that the daemon asks for.
const DESCRIPTORS: u64 = 1 << 18;

/// Where the host's resolvers are named.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What is said once when the daemon is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ready {
    /// Always true.
    pub ready: bool,
    /// Who the node is, as `cluster/name`.
    pub node: String,
    /// The overlay's name.
    pub overlay: String,
    /// Where the API answers.
    pub socket: PathBuf,
    /// Where figures are read; none unless that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<SocketAddr>,
    /// What programs connect to in userspace mode; none with a TUN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub userspace: Option<Doors>,
    /// How long the start took.
    pub start_ms: u64,
}

/// What the daemon waits for.
#[derive(Debug)]
enum Event {
    /// The table's file may have changed.
    Table,
    /// Somebody wants instances to be hosted, or to know which are.
    Host(Hosting),
    /// The packet thread has heard something from the cluster or from a peer.
    Heard(Heard),
    /// Somebody asks for a name of this application.
    Ask(ApplicationName),
    /// Other peers than before have a session.
    Peers(Vec<NodeId>),
    /// A signal asks it to stop.
    Stop,
}

/// Runs the daemon until a signal stops it, and calls `on_ready` when it is up. Figures are served
/// at `metrics`, a TCP address of loopback, if there is one. With `userspace` it needs no
/// privileges, and makes no namespace and no TUN.
///
/// # Errors
/// It cannot start, or the packet thread is gone. What was started is stopped again.
pub fn run(
    config: NetConfig,
    metrics: Option<SocketAddr>,
    userspace: Option<UserspaceConfig>,
    on_ready: impl FnOnce(&Ready) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let started = Instant::now();
    let metrics = metrics.map(Bound::take).transpose()?;
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let (events, inbox) = mpsc::channel();
    signals::watch(&runtime, &events)?;
    let mut daemon = Daemon::start(config, userspace, &runtime, &events, started)?;
    daemon.serve_figures(&runtime, metrics)?;
    let result = on_ready(&daemon.ready(started)).and_then(|()| daemon.run(&inbox));
    runtime.shutdown_timeout(RUNTIME_STOP_TIMEOUT);
    result
}

/// Asks for as many descriptors as there may be: every connection of the L4 lane has one, and the
/// usual 1024 are for programs that use `select`.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = |maximum| Rlimit {
        current: maximum,
        maximum,
    };
    let wanted = limit.maximum.map(|most| most.max(DESCRIPTORS));
    // More than the present maximum is for the privileged.
    let result = setrlimit(Resource::Nofile, raised(wanted))
        .or_else(|_| setrlimit(Resource::Nofile, raised(limit.maximum)));
    if let Err(error) = result {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// Everything that runs.
#[derive(Debug)]
struct Daemon {
    config: NetConfig,
    identified: Identified,
    keeper: TableKeeper,
    session: ClusterSession,
    benches: Benches,
    names: Option<DnsServer>,
    ground: Ground,
    packets: RunningDriver,
    /// None if no router is asked for a port.
    ports: Option<Ports>,
    listen: SocketAddr,
    /// What the API answers from, once it does.
    context: Option<Arc<ApiContext>>,
    figures: Option<Port>,
}

impl Daemon {
    fn start(
        config: NetConfig,
        userspace: Option<UserspaceConfig>,
        runtime: &Runtime,
        events: &Sender<Event>,
        started: Instant,
    ) -> anyhow::Result<Self> {
        let state = StateDir::open(&config.state_dir)?;
        let identified = Identified::of(&config)?;
        let keeper = match &config.source {
            RowSource::File(file) => TableKeeper::load(file, state, &identified.node)?,
            RowSource::Cluster(addresses) => {
                let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                let from = format!("cluster at {}", addresses.join(", "));
                let credentials = &identified.credentials;
                TableKeeper::from_cluster(state, &identified.node, credentials, from)
            }
        };
        let (ground, footing) = Ground::make(&config, userspace, &identified, &keeper)?;
        let batching = Batching {
            gso: config.data_plane.udp_gso,
            gro: config.data_plane.udp_gro,
        };
        let socket = DataSocket::bind(config.listen, batching)?;
        let listen = socket.local_address()?;
        let packets = packets::start(&config, &identified, &keeper, footing, socket, events)?;
        // Without punching, peers are told no addresses.
        let maps = config.paths.port_mapping && config.paths.punch;
        let ports = || {
            let (table, packets) = (keeper.snapshot(), packets.handle().clone());
            Ports::start(listen, keeper.reset_key()?, table, packets)
        };
        let ports = maps.then(ports).transpose()?;
        let mut daemon = Self {
            config,
            identified,
            keeper,
            session: ClusterSession::default(),
            benches: Benches::default(),
            names: None,
            ground,
            packets,
            ports,
            listen,
            context: None,
            figures: None,
        };
        let handle = daemon.packets.handle();
        daemon.ground.start(&daemon.keeper, handle, events)?;
        daemon.serve(runtime, events, started)?;
        let (table, packets) = (daemon.keeper.snapshot(), daemon.packets.handle().clone());
        let ports = daemon.ports.as_ref().map(|ports| ports.handle().clone());
        links::watch(listen, table, packets, ports)?;
        if let RowSource::File(file) = &daemon.config.source {
            watch::watch(runtime, file, events);
        }
        Ok(daemon)
    }

    /// Starts names and the API.
    fn serve(
        &mut self,
        runtime: &Runtime,
        events: &Sender<Event>,
        started: Instant,
    ) -> anyhow::Result<()> {
        let _entered = runtime.enter();
        let names = Arc::new(DnsCounters::default());
        self.serve_names(runtime, &names, events)?;
        let server = ApiServer::bind(&self.config.socket)?;
        let context = ApiContext {
            about: About {
                node: self.identified.node.clone(),
                overlay: self.identified.overlay.to_string(),
                listen: self.listen,
                started,
            },
            snapshot: self.keeper.snapshot(),
            table: self.keeper.report(),
            cluster: matches!(self.config.source, RowSource::Cluster(_))
                .then(|| self.session.report()),
            gateways: self.ports.as_ref().map(Ports::reports),
            inspector: Arc::new(self.packets.handle().clone()),
            host: Arc::new(HostHandle(events.clone())),
            names,
            nft: self.ground.nft_counters()?,
            userspace: self.ground.userspace().cloned(),
        };
        let context = Arc::new(context);
        self.context = Some(Arc::clone(&context));
        runtime.spawn(server.serve(context));
        Ok(())
    }

    fn serve_figures(&mut self, runtime: &Runtime, metrics: Option<Bound>) -> anyhow::Result<()> {
        let Some((bound, context)) = metrics.zip(self.context.clone()) else {
            return Ok(());
        };
        let runtime = runtime.handle().clone();
        let port = bound.serve(move || Some(runtime.block_on(context.figures())))?;
        self.figures = Some(port);
        Ok(())
    }

    fn serve_names(
        &mut self,
        runtime: &Runtime,
        counters: &Arc<DnsCounters>,
        events: &Sender<Event>,
    ) -> anyhow::Result<()> {
        let Some(sockets) = self.ground.dns_sockets()? else {
            return Ok(());
        };
        let server = DnsServer::new(
            self.keeper.snapshot(),
            upstreams(&self.config),
            ClientLimits::default(),
            Arc::clone(counters),
        );
        let packets = self.packets.handle().clone();
        // Without a packet thread nobody is left to measure anything.
        server.on_closest(move |service| {
            let _ = packets.note_interest(service);
        });
        let events = events.clone();
        // Whoever ends the daemon asks for nothing more.
        server.on_application(move |application| drop(events.send(Event::Ask(application))));
        self.names = Some(server.clone());
        self.tell_names();
        runtime.spawn(async move {
            if let Err(error) = server.serve(sockets).await {
                tracing::error!("names are not served any more: {error:#}");
            }
        });
        Ok(())
    }

    fn ready(&self, started: Instant) -> Ready {
        Ready {
            ready: true,
            node: self.identified.node.to_string(),
            overlay: self.identified.overlay.to_string(),
            socket: self.config.socket.clone(),
            metrics: self.figures.as_ref().map(Port::address),
            userspace: self.ground.userspace().map(|it| it.bound().clone()),
            start_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Waits for events until one asks to stop.
    fn run(mut self, inbox: &Receiver<Event>) -> anyhow::Result<()> {
        tracing::info!("ready");
        let result = loop {
            let due = self.waiting_deadline().into_iter();
            let due = due.chain(self.bench_deadline()).min();
            let wait = due.map_or(CARE_INTERVAL, |at| {
                at.saturating_duration_since(Instant::now())
                    .min(CARE_INTERVAL)
            });
            let first = match inbox.recv_timeout(wait) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Disconnected) => break Ok(()),
                Err(RecvTimeoutError::Timeout) => None,
            };
            let more = inbox.try_iter().take(MAX_EVENTS_AT_ONCE);
            let events: Vec<Event> = first.into_iter().chain(more).collect();
            if events.into_iter().any(|event| self.handle(event)) {
                break Ok(());
            }
            self.settle();
            self.handle_bench_timeouts(Instant::now());
            if self.packets.is_finished() {
                break Err(anyhow::anyhow!("the packet thread has ended by itself"));
            }
            if self.ground.is_finished() {
                break Err(anyhow::anyhow!("the netstack thread has ended by itself"));
            }
        };
        // First, so that nobody is led here any more when nobody is here.
        if let Some(ports) = self.ports {
            ports.end();
        }
        self.ground.stop();
        self.packets.shutdown();
        result
    }

    /// Handles one event; true if it asks to stop.
    fn handle(&mut self, event: Event) -> bool {
        match event {
            Event::Table => self.reload(),
            Event::Host(request) => self.host(request),
            Event::Heard(heard) => self.hear(heard),
            Event::Ask(application) => self.ask_for(&application),
            Event::Peers(peers) => self.keeper.keep_peers(&peers),
            Event::Stop => return true,
        }
        false
    }

    /// Says to whoever serves names whether the cluster can be asked for more.
    fn tell_names(&self) {
        if let (Some(names), RowSource::Cluster(_)) = (&self.names, &self.config.source) {
            names.set_status(if self.session.observed.is_some() {
                TableStatus::Authoritative
            } else {
                TableStatus::CutOff
            });
        }
    }

    /// Takes up the table's file if it has changed and is valid; else says what is wrong with it.
    fn reload(&mut self) {
        if matches!(self.config.source, RowSource::Cluster(_)) {
            return;
        }
        let Some(candidate) = self.keeper.read_change() else {
            return;
        };
        if let Err(error) = self.update_overlay(&candidate) {
            self.keeper.refuse(candidate, &error);
            return;
        }
        self.use_table(candidate);
    }

    fn update_overlay(&mut self, candidate: &Candidate) -> anyhow::Result<()> {
        self.ground
            .update(&self.config, &self.identified, candidate)
    }

    fn use_table(&mut self, candidate: Candidate) {
        let snapshot = self.keeper.accept(candidate);
        // Without a packet thread the daemon ends soon.
        if let Some(names) = &self.names {
            names.note_table();
        }
        self.ground.follow(&snapshot);
        if self.packets.handle().set_table(snapshot).is_ok() {
            tracing::info!(epoch = self.keeper.epoch(), "the table has changed");
        }
    }
}

/// Who is asked for names that are not the overlay's: as configured, else the host's resolvers.
fn upstreams(config: &NetConfig) -> Vec<SocketAddr> {
    if !config.dns.upstreams.is_empty() {
        return config.dns.upstreams.clone();
    }
    match fs::read_to_string(RESOLV_CONF) {
        Ok(text) => upstreams_of(&text),
        Err(error) => {
            tracing::warn!(%error, "{RESOLV_CONF} cannot be read; only the overlay's names resolve");
            Vec::new()
        }
    }
}

/// What the overlay is to look like with a table.
fn env_config(
    config: &NetConfig,
    identified: &Identified,
    candidate: &Candidate,
) -> anyhow::Result<EnvConfig> {
    let (table, attached) = (candidate.table(), candidate.attached());
    let (me, name) = (&identified.node, identified.overlay.clone());
    let egress = config.overlay.egress;
    Ok(match candidate.node_ip() {
        Some(node_ip) => EnvConfig::of(table, me, node_ip, attached, name, egress),
        None => EnvConfig::from_table(table, me, attached, name, egress)?,
    })
}
