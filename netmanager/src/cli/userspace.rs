//! The options of `up --userspace`, and how `status` shows it.

use std::net::{Ipv4Addr, SocketAddr};

use clap::Args;
use netmanager_core::proxy::{Forward, Publish};
use weald_proto::name::ApplicationName;

use super::table::or_dash;
use crate::api::report::UserspaceReport;
use crate::userspace::UserspaceConfig;

/// Where SOCKS5 is spoken unless told otherwise.
const SOCKS_PORT: u16 = 1080;
/// Where HTTP CONNECT is spoken unless told otherwise.
const HTTP_PORT: u16 = 1081;

/// A node without TUN, namespaces and privileges, and what programs reach it by.
#[derive(Debug, Args)]
pub(super) struct UserspaceArgs {
    /// Run without a TUN, namespaces or privileges: programs of the host reach the overlay by SOCKS5,
    /// HTTP CONNECT and forwarded ports. Only names and addresses of the overlay are reached
    #[arg(long)]
    userspace: bool,
    /// Where SOCKS5 (CONNECT, without authentication) is spoken; `off` for nowhere
    #[arg(long, value_name = "ADDRESS", requires = "userspace", value_parser = door,
        default_value_t = Door::at(SOCKS_PORT))]
    socks: Door,
    /// Where HTTP CONNECT is spoken; `off` for nowhere
    #[arg(long, value_name = "ADDRESS", requires = "userspace", value_parser = door,
        default_value_t = Door::at(HTTP_PORT))]
    http: Door,
    /// A local port that leads to a name or address of the overlay, as in
    /// `[::1]:8080=shop.prod.web.prod.rr.local:80`; can be repeated
    #[arg(
        long = "forward",
        value_name = "LOCAL=NAME:PORT",
        requires = "userspace"
    )]
    forwards: Vec<Forward>,
    /// A server of the host that other nodes reach as an instance, which the table has on this node,
    /// as in shop.prod.web.prod.0:80=127.0.0.1:8080; can be repeated
    #[arg(long, value_name = "INSTANCE:PORT=SERVER", requires = "userspace")]
    publish: Vec<Publish>,
    /// The application that short names mean, such as web.prod.rr
    #[arg(long, value_name = "APPNAME.APPNS", requires = "userspace")]
    application: Option<ApplicationName>,
    /// Let whoever reaches this machine into the overlay, where an address is not loopback's
    #[arg(long, requires = "userspace")]
    open_to_network: bool,
}

/// Where something is spoken, or nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Door(Option<SocketAddr>);

impl Door {
    fn at(port: u16) -> Self {
        Self(Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
    }
}

impl std::fmt::Display for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("off"),
        }
    }
}

fn door(text: &str) -> Result<Door, String> {
    match text {
        "off" => Ok(Door(None)),
        _ => text.parse().map(|at| Door(Some(at))).map_err(|_| {
            format!("{text:?} is neither an address with a port, as in 127.0.0.1:1080, nor `off`")
        }),
    }
}

impl UserspaceArgs {
    /// What is wanted; none with a TUN.
    pub(super) fn config(&self) -> Option<UserspaceConfig> {
        self.userspace.then(|| UserspaceConfig {
            socks: self.socks.0,
            http: self.http.0,
            forwards: self.forwards.clone(),
            publish: self.publish.clone(),
            application: self.application.clone(),
            open_to_network: self.open_to_network,
        })
    }
}

/// The rows of `status` on userspace mode.
pub(super) fn rows(report: &UserspaceReport, row: &mut impl FnMut(&str, String)) {
    let at =
        |door: Option<SocketAddr>| or_dash(door.map(|at| at.to_string()).as_deref()).to_owned();
    row(
        "userspace",
        format!(
            "SOCKS5 {}, HTTP CONNECT {}",
            at(report.socks),
            at(report.http)
        ),
    );
    for forward in &report.forwards {
        row(
            "forward",
            format!("{} to {}", forward.listen, forward.target),
        );
    }
    for publish in &report.published {
        let (instance, port) = (&publish.instance, publish.port);
        row(
            "published",
            format!("{instance}:{port} at {}", publish.server),
        );
    }
    for missing in &report.not_published {
        row("not published", missing.clone());
    }
    row(
        "connections",
        format!(
            "{} open, {} opened by programs, {} accepted from nodes, {} refused",
            report.open, report.opened, report.accepted, report.refused
        ),
    );
}
