//! The relay's TCP port, for nodes whose networks let no UDP through: TLS, and in it the datagrams
//! that would have come to the UDP port.
//!
//! Every connection has a made-up address, by which sessions and core know it as they know a
//! node's address on UDP; so registration, keys and queues are the same, and a node that moves from
//! one to the other keeps them. What strangers may hold is bounded in number and time.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::event::{Timespec, epoll};
use rustls::{ServerConfig, ServerConnection};
use socket2::{Domain, Protocol, Socket, Type};
use tracing::debug;

use super::report::TcpReport;
use crate::tunnel::Tunnel;

/// Connections altogether: at 300 KiB each if all are full, 1.2 GiB at the worst.
const MAX_CONNECTIONS: usize = 4096;
/// Connections that have not shown a certificate: a burst of nodes. A further one ends the oldest.
const MAX_HANDSHAKES: usize = 256;
/// How long a handshake may take: several round trips of the worst path.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// How long a connection may be without a registration: a session and its Hello, and a node that
/// goes back to UDP and keeps the connection for a while.
const UNREGISTERED_TIME: Duration = Duration::from_secs(20);
/// How often that is looked at.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Connections accepted in one turn.
const MAX_ACCEPTS: usize = 16;
/// How long nothing is accepted after the kernel has refused to: it has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);
/// Connections that wait for the relay to accept them.
const BACKLOG: i32 = 256;
/// Connections looked at in one turn; what is left is told again.
const MAX_READY: usize = 64;
/// Reads from one connection in one turn: 4 KiB each.
const MAX_READS: usize = 16;
/// The mark of listening sockets among what the kernel tells.
const LISTENER: u64 = 1 << 32;
/// The port of made-up addresses.
const MADE_UP_PORT: u16 = 1;

/// The listening sockets and the connections.
#[derive(Debug)]
pub(super) struct TcpPorts {
    epoll: OwnedFd,
    listeners: Vec<TcpListener>,
    paused_until: Option<Instant>,
    config: Arc<ServerConfig>,
    connections: BTreeMap<u32, Client>,
    next: u32,
    /// Connections with something to send.
    unsent: BTreeSet<u32>,
    check_at: Option<Instant>,
    counters: TcpReport,
}

/// One connection.
#[derive(Debug)]
struct Client {
    tunnel: Tunnel,
    from: SocketAddr,
    /// When it was accepted, and then when a registration was last seen on it.
    since: Instant,
    is_open: bool,
    waits_to_write: bool,
}

impl TcpPorts {
    /// Listens; without addresses there is nothing to do, ever.
    pub(super) fn bind(addresses: &[SocketAddr], config: ServerConfig) -> anyhow::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("cannot make an epoll")?;
        let listeners = addresses.iter().map(|at| listen(*at));
        let listeners = listeners.collect::<anyhow::Result<Vec<_>>>()?;
        let local = listeners.iter().map(TcpListener::local_addr);
        let ports = Self {
            counters: TcpReport {
                listen: local
                    .collect::<Result<_, _>>()
                    .context("a socket without an address")?,
                ..TcpReport::default()
            },
            epoll,
            listeners,
            paused_until: None,
            config: Arc::new(config),
            connections: BTreeMap::new(),
            next: 0,
            unsent: BTreeSet::new(),
            check_at: None,
        };
        ports.watch_listeners()?;
        Ok(ports)
    }

    fn watch_listeners(&self) -> anyhow::Result<()> {
        for listener in &self.listeners {
            let data = epoll::EventData::new_u64(LISTENER);
            epoll::add(&self.epoll, listener, data, epoll::EventFlags::IN)
                .context("cannot watch a listening socket")?;
        }
        Ok(())
    }

    /// The descriptor that is readable when something has come.
    pub(super) const fn descriptor(&self) -> &OwnedFd {
        &self.epoll
    }

    /// What it has done so far.
    pub(super) fn report(&self) -> TcpReport {
        let open = self.connections.values().filter(|one| one.is_open).count();
        TcpReport {
            connections: open,
            handshakes: self.connections.len() - open,
            ..self.counters.clone()
        }
    }

    /// Accepts what has come, and names the connections that have something to read.
    pub(super) fn ready(&mut self, now: Instant) -> Vec<u32> {
        let mut events = Vec::with_capacity(MAX_READY);
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let buffer = rustix::buffer::spare_capacity(&mut events);
        if let Err(error) = epoll::wait(&self.epoll, buffer, Some(&at_once)) {
            debug!(%error, "epoll");
        }
        let mut connections = Vec::new();
        let mut arrivals = false;
        for event in &events {
            match u32::try_from(event.data.u64()) {
                Ok(connection) => connections.push(connection),
                Err(_) => arrivals = true,
            }
        }
        if arrivals {
            self.accept(now);
        }
        connections
    }

    fn accept(&mut self, now: Instant) {
        for _ in 0..MAX_ACCEPTS {
            let accepted = self.listeners.iter().find_map(|listener| {
                let accepted = listener.accept();
                let nothing = |error: &std::io::Error| error.kind() == ErrorKind::WouldBlock;
                (!accepted.as_ref().is_err_and(nothing)).then_some(accepted)
            });
            match accepted {
                None => return,
                Some(Ok((stream, from))) => {
                    let tls = ServerConnection::new(Arc::clone(&self.config));
                    let tunnel = tls.map_err(anyhow::Error::from);
                    let tunnel = tunnel.and_then(|tls| Ok(Tunnel::new(stream, tls.into())?));
                    match tunnel {
                        Ok(tunnel) => self.admit(tunnel, from, now),
                        Err(error) => debug!(%from, %error, "not accepted"),
                    }
                }
                Some(Err(error)) if error.kind() == ErrorKind::ConnectionAborted => {}
                Some(Err(error)) => {
                    debug!(%error, "nothing is accepted for a while");
                    for listener in &self.listeners {
                        let _ = epoll::delete(&self.epoll, listener);
                    }
                    self.paused_until = Some(now + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    fn admit(&mut self, tunnel: Tunnel, from: SocketAddr, now: Instant) {
        if self.connections.len() >= MAX_CONNECTIONS {
            self.counters.refused += 1;
            return;
        }
        let young = || self.connections.iter().filter(|(_, one)| !one.is_open);
        if young().count() >= MAX_HANDSHAKES {
            let oldest = young().min_by_key(|(_, one)| one.since).map(|(id, _)| *id);
            if let Some(oldest) = oldest {
                self.counters.refused += 1;
                self.end(oldest);
            }
        }
        let id = loop {
            self.next = self.next.wrapping_add(1);
            if !self.connections.contains_key(&self.next) {
                break self.next;
            }
        };
        let data = epoll::EventData::new_u64(u64::from(id));
        if let Err(error) = epoll::add(&self.epoll, &tunnel, data, epoll::EventFlags::IN) {
            debug!(%from, %error, "not accepted");
            return;
        }
        self.counters.accepted += 1;
        self.check_at.get_or_insert(now + CHECK_INTERVAL);
        self.connections.insert(
            id,
            Client {
                tunnel,
                from,
                since: now,
                is_open: false,
                waits_to_write: false,
            },
        );
    }

    /// Reads what has come on a connection and hands over its datagrams, which are shown as from its
    /// made-up address. True if there may be more.
    pub(super) fn read(
        &mut self,
        id: u32,
        now: Instant,
        handle: &mut dyn FnMut(SocketAddr, &[u8]),
    ) -> bool {
        let Some(client) = self.connections.get_mut(&id) else {
            return false;
        };
        self.unsent.insert(id);
        let mut more = true;
        let mut rounds = 0;
        while more && rounds < MAX_READS {
            rounds += 1;
            let read = client.tunnel.read();
            let handed = loop {
                match client.tunnel.next_datagram() {
                    Ok(Some(datagram)) => handle(made_up(id), datagram),
                    Ok(None) => break read,
                    Err(error) => break Err(error),
                }
            };
            match handed {
                Ok(read) => more = read,
                Err(error) => {
                    debug!(from = %client.from, %error, "connection ended");
                    if !client.is_open {
                        self.counters.handshakes_failed += 1;
                    } else if !matches!(error, crate::tunnel::TunnelError::Closed) {
                        self.counters.broken += 1;
                    }
                    self.end(id);
                    return false;
                }
            }
            if !client.is_open && client.tunnel.is_open() {
                client.is_open = true;
                client.since = now;
            }
        }
        more
    }

    /// Sends a datagram to a made-up address; false if it is lost.
    pub(super) fn send(&mut self, to: SocketAddr, datagram: &[u8]) -> bool {
        let id = id_of(to);
        let client = id.and_then(|id| self.connections.get_mut(&id));
        let taken = client.is_some_and(|client| client.tunnel.send(datagram));
        if taken {
            self.unsent.extend(id);
        } else {
            self.counters.lost += 1;
        }
        taken
    }

    /// Hands the kernel what it takes.
    pub(super) fn flush(&mut self) {
        for id in std::mem::take(&mut self.unsent) {
            let Some(client) = self.connections.get_mut(&id) else {
                continue;
            };
            if let Err(error) = client.tunnel.flush() {
                debug!(from = %client.from, %error, "connection ended");
                self.end(id);
                continue;
            }
            let waits = client.tunnel.has_unsent();
            if waits != client.waits_to_write {
                client.waits_to_write = waits;
                let mut events = epoll::EventFlags::IN;
                events.set(epoll::EventFlags::OUT, waits);
                let data = epoll::EventData::new_u64(u64::from(id));
                let _ = epoll::modify(&self.epoll, &client.tunnel, data, events);
            }
        }
    }

    /// When to call [`Self::handle_timeout`].
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.check_at.into_iter().chain(self.paused_until).min()
    }

    /// Ends connections whose handshake takes too long, and those without a registration;
    /// `registered` says which made-up addresses have one.
    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        registered: impl FnOnce() -> BTreeSet<SocketAddr>,
    ) {
        if self.paused_until.is_some_and(|at| at <= now) {
            self.paused_until = None;
            if let Err(error) = self.watch_listeners() {
                debug!("{error:#}");
            }
        }
        if self.check_at.is_none_or(|at| at > now) {
            return;
        }
        let registered = registered();
        let mut ended = Vec::new();
        for (id, client) in &mut self.connections {
            if client.is_open && registered.contains(&made_up(*id)) {
                client.since = now;
            }
            let limit = if client.is_open {
                UNREGISTERED_TIME
            } else {
                HANDSHAKE_TIME
            };
            if client.since + limit <= now {
                ended.push((*id, client.is_open));
            }
        }
        for (id, was_open) in ended {
            if was_open {
                self.counters.unregistered += 1;
            } else {
                self.counters.handshakes_failed += 1;
            }
            self.end(id);
        }
        self.check_at = (!self.connections.is_empty()).then_some(now + CHECK_INTERVAL);
    }

    fn end(&mut self, id: u32) {
        self.unsent.remove(&id);
        if let Some(client) = self.connections.remove(&id) {
            let _ = epoll::delete(&self.epoll, &client.tunnel);
        }
    }
}

fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listen = || -> std::io::Result<Socket> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket)
    };
    let socket = listen().with_context(|| format!("cannot listen on {address}/tcp"))?;
    Ok(socket.into())
}

/// The address that stands for a connection: in the discard prefix (RFC 6666), where no packet comes
/// from.
fn made_up(id: u32) -> SocketAddr {
    let high = 0x0100_u128 << 112;
    let ip = Ipv6Addr::from(high | u128::from(id));
    SocketAddr::new(IpAddr::V6(ip), MADE_UP_PORT)
}

/// Whether an address stands for a connection; nobody else may come from it.
pub(super) fn is_made_up(address: SocketAddr) -> bool {
    match address.ip() {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => ip.octets().starts_with(&[1, 0, 0, 0, 0, 0, 0, 0]),
    }
}

fn id_of(address: SocketAddr) -> Option<u32> {
    let IpAddr::V6(ip) = address.ip() else {
        return None;
    };
    let [.., a, b, c, d] = ip.octets();
    is_made_up(address).then_some(u32::from_be_bytes([a, b, c, d]))
}
