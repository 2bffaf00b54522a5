//! One connection: a socket of the host on one side, one of the stack on the other.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use netmanager_core::proxy::Target;
use socket2::Socket;

use super::listen::Door;
use super::stack::{Incoming, Port};

/// How long a client may take to say where it wants to go.
pub(super) const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the rows of an application may take to come.
pub(super) const ROWS_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long a target in the overlay, or a published server, may take to accept: less than programs
/// wait.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Names a connection; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ConnId(pub(super) u64);

/// Whose connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A client of SOCKS5.
    Socks,
    /// A client of HTTP CONNECT.
    Http,
    /// A client of a forwarded port.
    Forward,
    /// A peer's, to a published server.
    Published,
}

impl Kind {
    pub(super) const fn of(door: &Door) -> Self {
        match door {
            Door::Socks => Self::Socks,
            Door::Http => Self::Http,
            Door::Forward(_) => Self::Forward,
        }
    }
}

/// How far a connection has come.
#[derive(Debug)]
pub(super) enum Stage {
    /// A SOCKS5 client has yet to greet.
    Greeting,
    /// The client has yet to say where it wants to go.
    Asking,
    /// The cluster has been asked for the target's application.
    Locating(Target),
    /// The stack connects to the target, an address of the overlay.
    Connecting(SocketAddr),
    /// The host's socket connects to the published server; the packet that asked for it waits.
    Dialling(Box<Incoming>),
    /// The server has accepted; the peer has yet to hear it.
    Admitted,
    /// Bytes flow.
    Open,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) kind: Kind,
    pub(super) stage: Stage,
    /// The host's side.
    pub(super) socket: Socket,
    /// Whether it may have something to read, and take something.
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The overlay's side; none before it is wanted.
    pub(super) port: Option<Port>,
    pub(super) deadline: Option<Instant>,
    /// The host's program has closed its direction, and the stack knows.
    pub(super) local_end: bool,
    /// The overlay's end has closed its direction, and the host's program knows.
    pub(super) remote_end: bool,
}

impl Conn {
    pub(super) const fn new(kind: Kind, stage: Stage, socket: Socket, deadline: Instant) -> Self {
        Self {
            kind,
            stage,
            socket,
            readable: false,
            writable: false,
            port: None,
            deadline: Some(deadline),
            local_end: false,
            remote_end: false,
        }
    }

    /// Whether both directions are closed and everything was passed on.
    pub(super) const fn is_done(&self) -> bool {
        self.local_end && self.remote_end
    }
}

impl AsFd for Conn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
