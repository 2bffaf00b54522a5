//! The daemon: puts everything together, keeps it in step with the table, and takes it down.
//!
//! Order of the start: state, identity, table, overlay, data socket, packet thread, names, API.
//! Only then is it ready. From there the calling thread waits for events: the table's file has
//! changed, the set of active peers has changed, a signal. The packet thread is a plain thread;
//! names and the API run on a small tokio runtime, which no packet ever waits for.
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
use netmanager_core::dns::ClientLimits;
use netmanager_core::rows::Attached;
use serde::Serialize;
use tokio::runtime::Runtime;
use weald_proto::id::NodeId;
use weald_proto::table::Table;

use crate::api::hosting::Hosting;
use crate::api::server::ApiServer;
use crate::api::{About, ApiContext};
use crate::config::NetConfig;
use crate::dns_server::{DnsCounters, DnsServer, upstreams_of};
use crate::driver::RunningDriver;
use crate::env::{EnvConfig, Overlay};
use crate::socket::DataSocket;
use crate::state::StateDir;

mod hosting;
mod identified;
mod packets;
mod signals;
mod table_keeper;
mod watch;

#[cfg(test)]
mod tests;

pub use identified::Identified;

use hosting::HostHandle;
use table_keeper::{Candidate, TableKeeper};

/// Threads for names and the API: neither computes much, and packets need the processors.
const RUNTIME_THREADS: usize = 2;

/// How often the packet thread is looked after.
const CARE_INTERVAL: Duration = Duration::from_secs(1);

/// How long names and the API may take to end.
const RUNTIME_STOP_TIMEOUT: Duration = Duration::from_secs(2);

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
    /// Other peers than before have a session.
    Peers(Vec<NodeId>),
    /// A signal asks it to stop.
    Stop,
}

/// Runs the daemon until a signal stops it, and calls `on_ready` when it is up.
///
/// # Errors
/// It cannot start, or the packet thread is gone. What was started is stopped again.
pub fn run(
    config: NetConfig,
    on_ready: impl FnOnce(&Ready) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let (events, inbox) = mpsc::channel();
    signals::watch(&runtime, &events)?;
    let daemon = Daemon::start(config, &runtime, &events, started)?;
    let result = on_ready(&daemon.ready(started)).and_then(|()| daemon.run(&inbox));
    runtime.shutdown_timeout(RUNTIME_STOP_TIMEOUT);
    result
}

/// Everything that runs.
#[derive(Debug)]
struct Daemon {
    config: NetConfig,
    identified: Identified,
    keeper: TableKeeper,
    overlay: Overlay,
    packets: RunningDriver,
    listen: SocketAddr,
}

impl Daemon {
    fn start(
        config: NetConfig,
        runtime: &Runtime,
        events: &Sender<Event>,
        started: Instant,
    ) -> anyhow::Result<Self> {
        let state = StateDir::open(&config.state_dir)?;
        let identified = Identified::of(&config)?;
        let keeper = TableKeeper::load(&config.table, state, &identified.node)?;
        let env = env_config(&config, &identified, keeper.table(), keeper.attached())?;
        let overlay = Overlay::up(env).context("cannot make the overlay")?;
        let socket = DataSocket::bind(config.listen)?;
        let listen = socket.local_address()?;
        let packets = packets::start(&config, &identified, &keeper, &overlay, socket, events)?;
        let daemon = Self {
            config,
            identified,
            keeper,
            overlay,
            packets,
            listen,
        };
        daemon.serve(runtime, events, started)?;
        watch::watch(runtime, &daemon.config.table, events);
        Ok(daemon)
    }

    /// Starts names and the API.
    fn serve(
        &self,
        runtime: &Runtime,
        events: &Sender<Event>,
        started: Instant,
    ) -> anyhow::Result<()> {
        let _entered = runtime.enter();
        let names = Arc::new(DnsCounters::default());
        self.serve_names(runtime, &names)?;
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
            inspector: Arc::new(self.packets.handle().clone()),
            host: Arc::new(HostHandle(events.clone())),
            names,
            nft: Some(Arc::new(self.overlay.nft_counters()?)),
        };
        runtime.spawn(server.serve(Arc::new(context)));
        Ok(())
    }

    fn serve_names(&self, runtime: &Runtime, counters: &Arc<DnsCounters>) -> anyhow::Result<()> {
        let sockets = self.overlay.dns_sockets()?;
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
            start_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Waits for events until one asks to stop.
    fn run(mut self, inbox: &Receiver<Event>) -> anyhow::Result<()> {
        tracing::info!("ready");
        let result = loop {
            match inbox.recv_timeout(CARE_INTERVAL) {
                Ok(Event::Table) => self.reload(),
                Ok(Event::Host(request)) => self.host(request),
                Ok(Event::Peers(peers)) => self.keeper.keep_peers(&peers),
                Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => break Ok(()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.packets.is_finished() {
                break Err(anyhow::anyhow!("the packet thread has ended by itself"));
            }
        };
        tracing::info!("stopping; the overlay stays, `netmanager down` removes it");
        self.packets.shutdown();
        result
    }

    /// Takes up the table's file if it has changed and is valid; else says what is wrong with it.
    fn reload(&mut self) {
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
        let (table, attached) = (candidate.table(), candidate.attached());
        let env = env_config(&self.config, &self.identified, table, attached)?;
        self.overlay.update(env)
    }

    fn use_table(&mut self, candidate: Candidate) {
        let snapshot = self.keeper.accept(candidate);
        // Without a packet thread the daemon ends soon.
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

/// What the overlay is to look like with `table`.
fn env_config(
    config: &NetConfig,
    identified: &Identified,
    table: &Table,
    attached: &[Attached],
) -> anyhow::Result<EnvConfig> {
    Ok(EnvConfig::from_table(
        table,
        &identified.node,
        attached,
        identified.overlay.clone(),
        config.overlay.egress,
    )?)
}
