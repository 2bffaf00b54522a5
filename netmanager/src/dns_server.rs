//! The resolver of the overlay: DNS sockets inside the overlay namespace, and what is asked on.
//!
//! What a name means is netmanager-core's `dns`; here are sockets, upstream servers and the
//! counting. The daemon binds the sockets inside the overlay namespace and calls [`DnsServer`].
//! Upstream servers are asked from the threads' own namespace, the host's.
//!
//! Tasks: one per UDP socket, which answers what it knows at once, and one per query that is asked
//! on; one per TCP listener, and one per connection. All of them end when the future of
//! [`DnsServer::serve`] is dropped.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use arc_swap::ArcSwap;
use netmanager_core::dns::{
    self, Admission, Caller, ClientLimits, Clients, DnsAction, Outcome, TableStatus, Transport,
};
use netmanager_core::table::Snapshot;
use tokio::sync::watch;
use tokio::task::JoinSet;
use weald_proto::name::{ApplicationName, ServiceName};

mod counters;
mod resolv_conf;
mod tcp;
mod udp;
mod upstream;

#[cfg(test)]
mod tests;

pub use self::counters::DnsCounters;
pub use self::resolv_conf::upstreams_of;

/// How long nobody is told again of an application that somebody asks for: far less than interest
/// in it lasts, and often enough to start anew when the cluster has come back.
const TELL_AGAIN: Duration = Duration::from_secs(5);
/// Most applications that somebody was told of lately.
const MAX_TOLD: usize = 1024;

/// The sockets that queries come to, bound already, in the overlay namespace.
#[derive(Debug, Default)]
pub struct DnsSockets {
    /// For datagrams. A socket on an unspecified address answers from the address that was asked.
    pub udp: Vec<UdpSocket>,
    /// For streams.
    pub tcp: Vec<TcpListener>,
}

/// The resolver of one overlay.
#[derive(Debug, Clone)]
pub struct DnsServer {
    shared: Arc<Shared>,
}

/// What every task of the resolver uses.
#[derive(Debug)]
struct Shared {
    table: Arc<ArcSwap<Snapshot>>,
    upstreams: Vec<SocketAddr>,
    clients: Mutex<Clients>,
    counters: Arc<DnsCounters>,
    cut_off: AtomicBool,
    on_closest: OnClosest,
    on_application: OnApplication,
    /// Told of every change of the table.
    tables: watch::Sender<()>,
    timing: Timing,
}

/// Who is told of services whose nearest instance somebody asks for.
#[derive(Default)]
struct OnClosest(OnceLock<Box<dyn Fn(ServiceName) + Send + Sync>>);

impl fmt::Debug for OnClosest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OnClosest")
            .field(&self.0.get().is_some())
            .finish()
    }
}

/// Who is told of the applications that somebody asks for, and when they were told last.
#[derive(Default)]
struct OnApplication {
    tell: OnceLock<Box<dyn Fn(ApplicationName) + Send + Sync>>,
    told: Mutex<BTreeMap<ApplicationName, Instant>>,
}

impl fmt::Debug for OnApplication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OnApplication")
            .field(&self.tell.get().is_some())
            .finish()
    }
}

/// How long the resolver waits for whom. Always the default, but in tests.
#[derive(Debug, Clone, Copy)]
struct Timing {
    /// How long an upstream server may be silent before the next one is asked as well.
    patience: Duration,
    /// How long a query may take in all; stub resolvers give up after 5 s and ask again.
    deadline: Duration,
    /// How long a connection may wait for its next whole query, and a client for taking an
    /// answer. Short, so that idle connections do not use up the places of busy ones.
    idle: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(2),
            deadline: Duration::from_secs(6),
            idle: Duration::from_secs(10),
        }
    }
}

impl DnsServer {
    /// A resolver that answers from `table`, whatever it holds at the time of a query, and asks
    /// `upstreams` in that order for all names that are not ours.
    #[must_use]
    pub fn new(
        table: Arc<ArcSwap<Snapshot>>,
        upstreams: Vec<SocketAddr>,
        limits: ClientLimits,
        counters: Arc<DnsCounters>,
    ) -> Self {
        Self::with_timing(table, upstreams, limits, counters, Timing::default())
    }

    fn with_timing(
        table: Arc<ArcSwap<Snapshot>>,
        upstreams: Vec<SocketAddr>,
        limits: ClientLimits,
        counters: Arc<DnsCounters>,
        timing: Timing,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                table,
                upstreams,
                clients: Mutex::new(Clients::new(limits)),
                counters,
                cut_off: AtomicBool::new(false),
                on_closest: OnClosest::default(),
                on_application: OnApplication::default(),
                tables: watch::Sender::new(()),
                timing,
            }),
        }
    }

    /// Says whether what the table does not hold may exist nevertheless. At first it does not.
    pub fn set_status(&self, status: TableStatus) {
        let cut_off = status == TableStatus::CutOff;
        self.shared.cut_off.store(cut_off, Ordering::Relaxed);
    }

    /// Has `tell` told of every service whose nearest instance somebody asks for, so that distances
    /// are measured before the first packet comes. Only the first caller is told.
    pub fn on_closest(&self, tell: impl Fn(ServiceName) + Send + Sync + 'static) {
        // A second caller would be a mistake of ours, and harmless.
        let _ = self.shared.on_closest.0.set(Box::new(tell));
    }

    /// Has `tell` told of the applications that somebody asks for, each again after a while, if the
    /// table does not hold everything. Only the first caller is told.
    pub fn on_application(&self, tell: impl Fn(ApplicationName) + Send + Sync + 'static) {
        let _ = self.shared.on_application.tell.set(Box::new(tell));
    }

    /// Says that the table has changed: queries that wait for rows are looked at again.
    pub fn note_table(&self) {
        self.shared.tables.send_replace(());
    }

    /// Answers until the future is dropped.
    ///
    /// # Errors
    /// When an upstream server is this resolver itself, or a socket fails for good.
    pub async fn serve(&self, sockets: DnsSockets) -> anyhow::Result<()> {
        let mut tasks = JoinSet::new();
        for socket in sockets.udp {
            let own = socket.local_addr().context("DNS socket without address")?;
            self.shared.check_upstreams(own)?;
            let socket = udp::Socket::new(socket)
                .with_context(|| format!("cannot prepare the DNS socket {own}"))?;
            let shared = Arc::clone(&self.shared);
            tasks.spawn(async move {
                let served = udp::serve(shared, Arc::new(socket)).await;
                served.with_context(|| format!("DNS socket {own} failed"))
            });
        }
        for listener in sockets.tcp {
            let own = listener
                .local_addr()
                .context("DNS listener without address")?;
            let listener = tcp::prepare(listener)
                .with_context(|| format!("cannot prepare the DNS listener {own}"))?;
            tasks.spawn(tcp::serve(Arc::clone(&self.shared), listener));
        }
        while let Some(ended) = tasks.join_next().await {
            ended.context("a DNS task failed")??;
        }
        Ok(())
    }
}

/// What the shell does with a query.
enum Step {
    /// Send the bytes that were written.
    Send,
    /// Nothing.
    Nothing,
    /// Wait for the rows of the application that is asked for; the permit says that it may.
    Wait(ForwardPermit),
    /// Ask upstream servers; the permit says that the query may wait.
    Forward(ForwardPermit),
}

impl Shared {
    /// Looks at one query and writes the answer into `out`, if there is one to send now.
    fn handle(
        self: &Arc<Self>,
        query: &[u8],
        transport: Transport,
        source: IpAddr,
        out: &mut Vec<u8>,
    ) -> Step {
        out.clear();
        let caller = Caller {
            ip: source.to_canonical(),
        };
        let table = self.table.load();
        let client = caller.is_known(&table).then_some(caller.ip);
        let now = Instant::now();
        match self.with_clients(|clients| clients.admit(client, now)) {
            Admission::Admitted => {}
            Admission::Refused => return self.refuse(query, Outcome::RateLimited, out),
            Admission::Dropped => {
                self.counters.count(Outcome::Flooding);
                return Step::Nothing;
            }
        }
        if let Some(application) = dns::asks_about(query, caller, &table) {
            let is_known = table.knows(&application);
            self.note_application(&application, now);
            if !is_known
                && self.status() == TableStatus::Authoritative
                && self.with_clients(|clients| clients.begin_forward(client, now))
            {
                return Step::Wait(ForwardPermit {
                    shared: Arc::clone(self),
                    client,
                });
            }
        }
        match dns::answer(query, transport, caller, &table, self.status(), out) {
            DnsAction::Answer(outcome) => {
                self.counters.count(outcome);
                if let Some(service) = dns::asks_for_closest(query, caller, &table) {
                    self.tell(service);
                }
                Step::Send
            }
            DnsAction::Ignore => {
                self.counters.count(Outcome::Ignored);
                Step::Nothing
            }
            DnsAction::Forward => {
                if self.with_clients(|clients| clients.begin_forward(client, now)) {
                    Step::Forward(ForwardPermit {
                        shared: Arc::clone(self),
                        client,
                    })
                } else {
                    self.refuse(query, Outcome::ForwardLimited, out)
                }
            }
        }
    }

    /// Answers a query when the rows of its application have come, or cannot be had in time.
    async fn answer_later(
        &self,
        query: &[u8],
        transport: Transport,
        source: IpAddr,
        out: &mut Vec<u8>,
    ) {
        let caller = Caller {
            ip: source.to_canonical(),
        };
        let mut tables = self.tables.subscribe();
        let deadline = tokio::time::Instant::now() + self.timing.patience;
        loop {
            let table = self.table.load_full();
            let asked = dns::asks_about(query, caller, &table);
            let is_known = asked.is_none_or(|application| table.knows(&application));
            let waited = tokio::time::timeout_at(deadline, tables.changed());
            if !is_known && matches!(waited.await, Ok(Ok(()))) {
                continue;
            }
            // Forwarded it is not: it is about a name of the overlay.
            match dns::answer(query, transport, caller, &table, self.status(), out) {
                DnsAction::Answer(outcome) => self.counters.count(outcome),
                DnsAction::Forward | DnsAction::Ignore => out.clear(),
            }
            if let Some(service) = dns::asks_for_closest(query, caller, &table) {
                self.tell(service);
            }
            return;
        }
    }

    fn note_application(&self, application: &ApplicationName, now: Instant) {
        let Some(tell) = self.on_application.tell.get() else {
            return;
        };
        let told = &self.on_application.told;
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, at| now < *at + TELL_AGAIN);
        if told.contains_key(application) || told.len() >= MAX_TOLD {
            return;
        }
        told.insert(application.clone(), now);
        drop(told);
        tell(application.clone());
    }

    fn tell(&self, service: ServiceName) {
        if let Some(tell) = self.on_closest.0.get() {
            tell(service);
        }
    }

    fn refuse(&self, query: &[u8], outcome: Outcome, out: &mut Vec<u8>) -> Step {
        self.counters.count(outcome);
        dns::refuse(query, out);
        if out.is_empty() {
            Step::Nothing
        } else {
            Step::Send
        }
    }

    /// Asks the upstream servers and writes what the client gets into `out`.
    async fn forward(&self, query: &[u8], transport: Transport, out: &mut Vec<u8>) {
        match upstream::ask(&self.upstreams, self.timing, query, transport).await {
            Some(reply) if reply.len() > upstream::MAX_DATAGRAM && transport == Transport::Udp => {
                self.counters.count(Outcome::Forwarded);
                dns::truncated(query, out);
            }
            Some(reply) => {
                self.counters.count(Outcome::Forwarded);
                *out = reply;
            }
            None => {
                self.counters.count(Outcome::UpstreamFailed);
                dns::fail(query, out);
            }
        }
    }

    /// A client's place among the TCP connections; none when it may not have one more.
    fn open(self: &Arc<Self>, source: IpAddr) -> Option<ConnectionPermit> {
        let caller = Caller {
            ip: source.to_canonical(),
        };
        let client = caller.is_known(&self.table.load()).then_some(caller.ip);
        let now = Instant::now();
        if self.with_clients(|clients| clients.open(client, now)) {
            return Some(ConnectionPermit {
                shared: Arc::clone(self),
                client,
            });
        }
        self.counters.count(Outcome::ConnectionLimited);
        None
    }

    fn status(&self) -> TableStatus {
        if self.cut_off.load(Ordering::Relaxed) {
            TableStatus::CutOff
        } else {
            TableStatus::Authoritative
        }
    }

    /// The lock is held for a few map operations, never over an await.
    fn with_clients<T>(&self, work: impl FnOnce(&mut Clients) -> T) -> T {
        // The table of clients is consistent between any two operations on it.
        work(&mut self.clients.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn check_upstreams(&self, own: SocketAddr) -> anyhow::Result<()> {
        ensure!(
            !self.upstreams.contains(&own),
            "upstream DNS server {own} is this resolver itself; name another one in [dns] upstreams"
        );
        Ok(())
    }
}

/// Gives a client's place among the queries that wait back.
struct ForwardPermit {
    shared: Arc<Shared>,
    client: Option<IpAddr>,
}

impl Drop for ForwardPermit {
    fn drop(&mut self) {
        self.shared
            .with_clients(|clients| clients.end_forward(self.client));
    }
}

/// Gives a client's place among the connections back.
struct ConnectionPermit {
    shared: Arc<Shared>,
    client: Option<IpAddr>,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.shared
            .with_clients(|clients| clients.close(self.client));
    }
}
