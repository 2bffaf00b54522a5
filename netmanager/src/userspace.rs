//! Userspace mode: a node without a TUN, namespaces or privileges.
//!
//! In the TUN's place stands a [`pipe`](crate::pipe), and behind it a thread of its own with a
//! TCP/IP stack (smoltcp) at the node's addresses. The packet thread does not know the difference:
//! flows of the host's programs have the node's address as their source, so leases, policies and
//! balancing apply as with a TUN.
//!
//! ```text
//! programs -- SOCKS5, HTTP CONNECT, forwarded ports --> netstack thread == pipe == packet thread
//! servers  <-- published instances ------------------- netstack thread == pipe == packet thread
//! ```
//!
//! What clients say and where it leads is decided by `netmanager_core::proxy`; `listen` binds what
//! clients connect to, `run` is the thread's loop, `front` hears clients, `back` leads peers to
//! published servers, `echo` serves `ping`, `pump` moves bytes, `stack` is what knows smoltcp.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use netmanager_core::proxy::{Forward, NotPublished, Publish, Servers, published};
use netmanager_core::table::Snapshot;
use weald_proto::name::{ApplicationName, ServiceName};

use crate::api::inspect::Reply;
use crate::api::report::{EchoReport, ForwardReport, PublishReport, UserspaceReport};
use crate::pipe::{PacketEnd, StackEnd, pipe};

pub use self::echo::Echo;
pub use self::listen::Bound;

use self::echo::EchoQueue;
use self::listen::Listeners;
use self::run::Runner;
use self::wake::{Counters, Waker};

mod back;
mod conn;
mod echo;
mod front;
mod listen;
mod pump;
mod run;
mod stack;
mod wake;

#[cfg(test)]
mod tests;

/// What an operator wants of userspace mode.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UserspaceConfig {
    /// Where SOCKS5 is spoken.
    pub socks: Option<SocketAddr>,
    /// Where HTTP CONNECT is spoken.
    pub http: Option<SocketAddr>,
    /// Local ports that lead into the overlay.
    pub forwards: Vec<Forward>,
    /// Local servers that other nodes reach.
    pub publish: Vec<Publish>,
    /// The application that short names mean.
    pub application: Option<ApplicationName>,
    /// Whether others than this machine's programs may connect.
    pub open_to_network: bool,
}

/// Whom the thread tells what it needs.
pub struct Tell {
    /// Somebody asks for the nearest instance of a service.
    pub closest: Box<dyn Fn(ServiceName) + Send>,
    /// Somebody asks for an application, whose rows should be known.
    pub application: Box<dyn Fn(ApplicationName) + Send>,
}

impl std::fmt::Debug for Tell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tell").finish_non_exhaustive()
    }
}

/// What userspace mode shares with the daemon: what is configured, published and counted.
#[derive(Debug)]
pub struct Shared {
    config: UserspaceConfig,
    bound: Bound,
    servers: Arc<ArcSwap<Servers>>,
    missing: ArcSwap<Vec<NotPublished>>,
    counters: Counters,
    waker: Waker,
    echos: EchoQueue,
}

/// Userspace mode of a daemon; its thread ends when this is dropped.
#[derive(Debug)]
pub struct Userspace {
    shared: Arc<Shared>,
    parts: Option<(Listeners, StackEnd)>,
    thread: Option<JoinHandle<()>>,
}

impl Userspace {
    /// Binds what clients connect to, and makes the device for the packet thread. Nobody is served
    /// yet.
    ///
    /// # Errors
    /// An address cannot be bound, or is not loopback's although it must be.
    pub fn prepare(config: UserspaceConfig, table: &Snapshot) -> anyhow::Result<(Self, PacketEnd)> {
        let listeners = Listeners::bind(&config)?;
        let (packets, stack) = pipe().context("cannot make a pipe for packets")?;
        let shared = Arc::new(Shared {
            bound: listeners.bound(),
            config,
            servers: Arc::default(),
            missing: ArcSwap::default(),
            counters: Counters::default(),
            waker: Waker::new().context("cannot make an eventfd")?,
            echos: EchoQueue::default(),
        });
        let userspace = Self {
            shared,
            parts: Some((listeners, stack)),
            thread: None,
        };
        userspace.publish(table);
        Ok((userspace, packets))
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// The kernel has no thread or descriptor for it.
    pub fn start(&mut self, table: Arc<ArcSwap<Snapshot>>, tell: Tell) -> anyhow::Result<()> {
        let Some((listeners, stack)) = self.parts.take() else {
            return Ok(());
        };
        let shared = Arc::clone(&self.shared);
        let mut runner = Runner::new(listeners, stack, table, tell, shared)?;
        let thread = thread::Builder::new()
            .name("netstack".to_owned())
            .spawn(move || runner.run())
            .context("cannot start the netstack thread")?;
        self.thread = Some(thread);
        Ok(())
    }

    /// What it shares with the local API.
    #[must_use]
    pub const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The servers that are published, at their addresses in the overlay.
    #[must_use]
    pub fn servers(&self) -> Arc<ArcSwap<Servers>> {
        Arc::clone(&self.shared.servers)
    }

    /// Goes over to another table, which is in its `ArcSwap` already.
    pub fn use_table(&self, table: &Snapshot) {
        self.publish(table);
        self.shared.waker.table_changed();
    }

    fn publish(&self, table: &Snapshot) {
        let (servers, missing) = published(&self.shared.config.publish, table);
        if missing != **self.shared.missing.load() {
            for one in &missing {
                tracing::warn!("not published: {one}");
            }
        }
        self.shared.servers.store(Arc::new(servers));
        self.shared.missing.store(Arc::new(missing));
    }

    /// Whether the thread has ended by itself.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Resets every connection and ends the thread; the packet thread should still run, so that
    /// peers hear of it.
    pub fn shutdown(&mut self) {
        self.shared.waker.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the netstack thread has panicked");
        }
    }
}

impl Drop for Userspace {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl Shared {
    /// Where clients connect to.
    #[must_use]
    pub const fn bound(&self) -> &Bound {
        &self.bound
    }

    /// Has an echo sent; who is not answered has waited in vain.
    pub fn send_echo(&self, echo: Echo, reply: Reply<EchoReport>) {
        self.echos.push(echo, reply);
        self.waker.wake();
    }

    /// How it is.
    #[must_use]
    pub fn report(&self) -> UserspaceReport {
        let forwards = self.config.forwards.iter().zip(&self.bound.forwards);
        let publish = self.config.publish.iter();
        let counters = &self.counters;
        UserspaceReport {
            socks: self.bound.socks,
            http: self.bound.http,
            forwards: forwards
                .map(|(forward, listen)| ForwardReport {
                    listen: *listen,
                    target: forward.target.to_string(),
                })
                .collect(),
            published: publish
                .map(|publish| PublishReport {
                    instance: publish.instance.to_string(),
                    port: publish.port,
                    server: publish.server,
                })
                .collect(),
            not_published: self
                .missing
                .load()
                .iter()
                .map(ToString::to_string)
                .collect(),
            open: counters.open(),
            opened: counters.opened(),
            accepted: counters.accepted(),
            refused: counters.refused(),
        }
    }
}
