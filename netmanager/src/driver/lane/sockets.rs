//! Sockets of the overlay namespace, made where the packet thread cannot go.
//!
//! A socket belongs to the namespace of the thread that makes it, and the packet thread must not
//! change its own. One thread per family, inside the overlay, keeps a few sockets ready to be
//! connected; it sleeps until one is taken, and tries again when there is none to be had.
//!
//! Without an overlay namespace there are no such sockets: connections that peers open end at the
//! servers that the node publishes, over sockets of the host.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use netmanager_core::lane::{DIAL_PORTS, LISTEN_PORT, stack};
use netmanager_core::proxy::Servers;
use socket2::{Domain, Protocol, Socket, Type};

use crate::env::Overlay;
use crate::program_socket::configure;
use crate::socket::set_kernel_buffers;

/// Sockets that are ready: a burst of connections within the time that it takes to make one.
const READY: usize = 32;
/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;
/// What the kernel keeps of a connection towards and from a program, in bytes each: a millisecond
/// at 8 Gbit/s, which is more than the way through the TUN takes. Left alone it grows to 32 MiB for
/// a program that writes faster than the path carries.
const LOCAL_BUFFER: usize = 1 << 20;
/// How long after a socket that could not be made the next is tried.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Where connections of the lane end on this node.
#[derive(Debug)]
pub struct LaneSockets {
    /// Of IPv4 and of IPv6; none without an overlay namespace.
    pub(super) listeners: Vec<TcpListener>,
    source: Source,
}

/// Whether, and where, the local end of a peer's stream can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ready {
    /// In a moment.
    Soon,
    /// A socket of the stack, bound to that port, can be connected to a phantom.
    Stack(u16),
    /// A socket towards a published server can be made at once.
    Published,
}

/// A socket of the stack, and the port that it is bound to.
type Dialler = (Socket, u16);

#[derive(Debug)]
enum Source {
    /// The overlay namespace.
    Overlay {
        /// Sockets of IPv4 and of IPv6 that are ready to be connected.
        ready: [Receiver<Dialler>; 2],
        /// The next one to be taken.
        next: [Option<Dialler>; 2],
        /// Whether the last socket could not be made: it is no use waiting for the next.
        short: Arc<AtomicBool>,
    },
    /// The servers that this node publishes.
    Published(Arc<ArcSwap<Servers>>),
}

impl LaneSockets {
    /// Opens the listeners and starts the threads that make sockets. The TUN must be there, with
    /// the stack's addresses.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn open(overlay: &Overlay) -> anyhow::Result<Self> {
        let listen = |v6| {
            overlay
                .inside(|| listener(v6))
                .with_context(|| format!("cannot listen at {}", stack(v6, LISTEN_PORT)))
        };
        let short = Arc::new(AtomicBool::new(false));
        let dial = |v6| -> anyhow::Result<Receiver<Dialler>> {
            let (sender, receiver) = sync_channel(READY);
            let short = Arc::clone(&short);
            overlay
                .spawn_inside("lane-sockets", move || fill(v6, &sender, &short))
                .context("cannot start a thread for sockets")?;
            Ok(receiver)
        };
        Ok(Self {
            listeners: vec![listen(false)?, listen(true)?],
            source: Source::Overlay {
                ready: [dial(false)?, dial(true)?],
                next: [None, None],
                short,
            },
        })
    }

    /// Without an overlay namespace: peers reach `servers`, and no connection begins here.
    #[must_use]
    pub const fn published(servers: Arc<ArcSwap<Servers>>) -> Self {
        Self {
            listeners: Vec::new(),
            source: Source::Published(servers),
        }
    }

    /// Whether connections can end at the kernel's stack in the overlay.
    pub(in crate::driver) const fn has_stack(&self) -> bool {
        matches!(self.source, Source::Overlay { .. })
    }

    /// Where a server listens that is published at an address.
    pub(super) fn server_at(&self, target: SocketAddr) -> Option<SocketAddr> {
        match &self.source {
            Source::Overlay { .. } => None,
            Source::Published(servers) => servers.load().get(&target).copied(),
        }
    }

    /// Whether a socket is ready that can be connected to a phantom, or to a published server.
    ///
    /// # Errors
    /// None can be made.
    pub(super) fn ready(&mut self, v6: bool) -> io::Result<Ready> {
        let Source::Overlay { ready, next, short } = &mut self.source else {
            return Ok(Ready::Published);
        };
        let family = usize::from(v6);
        let (Some(next), Some(ready)) = (next.get_mut(family), ready.get(family)) else {
            return Ok(Ready::Soon);
        };
        if next.is_none() {
            *next = match ready.try_recv() {
                Ok(dialler) => Some(dialler),
                Err(TryRecvError::Empty) if short.load(Ordering::Relaxed) => {
                    return Err(io::Error::other("no socket can be made"));
                }
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => {
                    return Err(io::Error::other("nobody makes sockets any more"));
                }
            };
        }
        let port = next.as_ref().map(|(_, port)| *port);
        Ok(port.map_or(Ready::Soon, Ready::Stack))
    }

    /// The socket that is ready.
    ///
    /// # Errors
    /// None is, or none can be made.
    pub(super) fn take(&mut self, v6: bool) -> io::Result<Socket> {
        let Source::Overlay { next, .. } = &mut self.source else {
            let socket = new(v6)?;
            configure(&socket)?;
            return Ok(socket);
        };
        let next = next.get_mut(usize::from(v6)).and_then(Option::take);
        let (socket, _) = next.ok_or(io::ErrorKind::WouldBlock)?;
        Ok(socket)
    }
}

/// Keeps sockets ready until nobody takes them any more.
fn fill(v6: bool, ready: &SyncSender<Dialler>, short: &AtomicBool) {
    for port in DIAL_PORTS.cycle() {
        match dialler(v6, port) {
            Ok(socket) => {
                short.store(false, Ordering::Relaxed);
                if ready.send((socket, port)).is_err() {
                    return;
                }
            }
            Err(error) => {
                // Descriptors or memory; both come back.
                if !short.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, v6, "no socket for the L4 lane; connections are refused");
                }
                thread::sleep(RETRY_PAUSE);
            }
        }
    }
}

fn listener(v6: bool) -> io::Result<TcpListener> {
    let socket = new(v6)?;
    socket.bind(&stack(v6, LISTEN_PORT).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn dialler(v6: bool, port: u16) -> io::Result<Socket> {
    let socket = new(v6)?;
    socket.bind(&stack(v6, port).into())?;
    configure(&socket)?;
    Ok(socket)
}

fn new(v6: bool) -> io::Result<Socket> {
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // An urgent byte is one of the stream's here, and is not lost; accepted sockets inherit this.
    socket.set_out_of_band_inline(true)?;
    // Before the handshake, which settles how a window is scaled; accepted sockets inherit it.
    set_kernel_buffers(&socket, LOCAL_BUFFER)?;
    Ok(socket)
}
