//! The relay process: sessions with nodes, the UDP sockets, and a status socket around
//! netmanager-core's `relay`.
//!
//! Who may use it is decided by certificates and tokens, which are checked without asking anybody:
//! a relay outlives root and cluster. Whom root has revoked it hears from nodes. What is forwarded and in which order is the core's; here is
//! the I/O. Everything runs on one plain thread that sleeps in `poll(2)`:
//!
//! ```text
//! TLS over TCP -> datagrams, as from a socket (tcp.rs)
//! socket -> FrameKind -> Quic      -> Sessions (quinn-proto) -> register, open, unregister -> Relay
//!                                                            -> lists of the revoked (revocations.rs)
//!                     -> questions -> Relay::handle_question, handle_knock -> a notice, an answer
//!                     -> all else  -> Relay::handle_frame
//! Relay  -> notices   -> Sessions
//!        -> transmits -> socket
//! ```
//!
//! A second thread answers on the status socket, and a third has the certificate live on. `cli::relay` is the command; tests start a
//! [`RelayServer`] in their own process.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender, SyncSender};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use rustix::event::{EventfdFlags, eventfd};
use weald_proto::id::Identity;
use weald_trust::tls::Credentials;

mod config;
mod keeper;
mod report;
mod revocations;
mod server;
mod session;
mod sessions;
mod socket;
mod status;
mod tcp;

pub use config::RelayConfig;
pub use report::{
    CountersReport, OrganisationReport, RelayReport, RevocationsReport, TallyReport, TcpReport,
};
pub use status::ask;

/// How long a question to the relay's thread may take: far longer than one turn of its loop.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// A relay that runs.
#[derive(Debug)]
pub struct RelayServer {
    thread: JoinHandle<anyhow::Result<()>>,
    status: Option<status::StatusThread>,
    keeper: Option<keeper::Keeper>,
    handle: RelayHandle,
    identity: Identity,
    addresses: Vec<SocketAddr>,
    tcp_addresses: Vec<SocketAddr>,
}

/// Talks to the thread of a relay.
#[derive(Debug, Clone)]
pub struct RelayHandle {
    requests: Sender<Request>,
    wake: Arc<OwnedFd>,
}

/// What the relay's thread is asked.
#[derive(Debug)]
enum Request {
    Report(SyncSender<RelayReport>),
    Stop,
}

impl RelayServer {
    /// Starts a relay with the credentials and on the addresses of its configuration.
    ///
    /// # Errors
    /// The credentials cannot be used, or an address is not to be had.
    pub fn start(config: &RelayConfig) -> anyhow::Result<Self> {
        let credentials = Credentials::load(&config.pki_dir)?;
        let mut server = Self::start_with(config, Arc::new(credentials.clone()))?;
        server.keeper = Some(keeper::Keeper::start(config, credentials)?);
        Ok(server)
    }

    /// Starts a relay with given credentials; those that the configuration names are not read, and
    /// nothing renews them.
    ///
    /// # Errors
    /// The credentials are not a relay's, or an address is not to be had.
    pub fn start_with(config: &RelayConfig, credentials: Arc<Credentials>) -> anyhow::Result<Self> {
        let identity = credentials.identity().clone();
        ensure!(
            matches!(identity, Identity::Relay(_)),
            "the certificate is that of {identity}; a relay needs one of its own: netmanager pki issue"
        );
        let (requests, inbox) = mpsc::channel();
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .context("cannot make an eventfd")?;
        let handle = RelayHandle {
            requests,
            wake: Arc::new(wake),
        };
        let mut server = server::Server::new(config, credentials, inbox, Arc::clone(&handle.wake))?;
        let (addresses, tcp_addresses) = (server.addresses()?, server.tcp_addresses());
        let status = config
            .status
            .as_deref()
            .map(|path| status::StatusThread::start(path, handle.clone()))
            .transpose()?;
        let thread = std::thread::Builder::new()
            .name("relay".to_owned())
            .spawn(move || server.run())
            .context("cannot start the relay's thread")?;
        Ok(Self {
            thread,
            status,
            keeper: None,
            handle,
            identity,
            addresses,
            tcp_addresses,
        })
    }

    /// Who the relay is.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What its sockets are bound to.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What its TCP sockets are bound to; none if it has no TCP.
    #[must_use]
    pub fn tcp_addresses(&self) -> &[SocketAddr] {
        &self.tcp_addresses
    }

    /// A handle that can be given away.
    #[must_use]
    pub fn handle(&self) -> RelayHandle {
        self.handle.clone()
    }

    /// Waits until the relay ends, because it is told to stop or because it fails.
    ///
    /// # Errors
    /// Says why it failed.
    pub fn wait(self) -> anyhow::Result<()> {
        let result = self.thread.join();
        drop((self.status, self.keeper));
        result.map_err(|_| anyhow!("the relay's thread has panicked"))?
    }

    /// Tells the nodes that the relay ends, and ends it.
    ///
    /// # Errors
    /// Says why it failed before.
    pub fn stop(self) -> anyhow::Result<()> {
        self.handle.stop();
        self.wait()
    }
}

impl RelayHandle {
    /// What the relay has done so far.
    ///
    /// # Errors
    /// The relay has ended.
    pub fn report(&self) -> anyhow::Result<RelayReport> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let sent = self.requests.send(Request::Report(sender));
        sent.ok().context("the relay has ended")?;
        self.wake();
        receiver
            .recv_timeout(ANSWER_TIME)
            .context("the relay does not answer")
    }

    /// Asks the relay to end.
    pub fn stop(&self) {
        // A relay that has ended already need not be told.
        let _ = self.requests.send(Request::Stop);
        self.wake();
    }

    fn wake(&self) {
        // It fails only when so many wake-ups are pending that one more changes nothing.
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
    }
}

/// Asks the relay whose configuration this is for its report.
///
/// # Errors
/// The configuration is wrong or names no status socket, or no relay answers on it.
pub fn ask_configured(config: &Path) -> anyhow::Result<RelayReport> {
    let config = RelayConfig::load(config)?;
    let socket = config
        .status
        .context("the configuration has no status socket; add status = \"PATH\"")?;
    ask(&socket)
}

#[cfg(test)]
mod tests;
