//! What the API tells of userspace mode.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// How userspace mode is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UserspaceReport {
    /// Where SOCKS5 is spoken.
    pub socks: Option<SocketAddr>,
    /// Where HTTP CONNECT is spoken.
    pub http: Option<SocketAddr>,
    /// Local ports that lead into the overlay.
    pub forwards: Vec<ForwardReport>,
    /// Local servers that other nodes reach.
    pub published: Vec<PublishReport>,
    /// Why some of those are not reached, each in words.
    pub not_published: Vec<String>,
    /// Connections that there are now, with those that are being opened.
    pub open: u64,
    /// Opened by programs of the host, whose targets have accepted.
    pub opened: u64,
    /// Opened by other nodes, whose servers have accepted. Those of the L4 lane are counted there.
    pub accepted: u64,
    /// Refused, either way.
    pub refused: u64,
}

/// A local port that leads into the overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardReport {
    /// Where programs connect to.
    pub listen: SocketAddr,
    /// Where that leads, as it was written.
    pub target: String,
}

/// A local server that other nodes reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishReport {
    /// The instance, as `appname.appns.servicename.servicens.number`.
    pub instance: String,
    /// The port at its addresses.
    pub port: u16,
    /// Where the server listens.
    pub server: SocketAddr,
}

/// What became of an echo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EchoReport {
    /// How long its reply took; none without one.
    pub rtt_us: Option<u64>,
    /// Who says that it cannot arrive.
    pub unreachable_by: Option<IpAddr>,
}
