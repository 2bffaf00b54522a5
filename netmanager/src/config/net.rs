//! `net.toml`: what a netmanager needs to know besides the table.
//!
//! It is the same file on every node, because who a node is stands in its certificate. Relative
//! paths are relative to the file's own folder.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use weald_proto::id::Label;

use super::document::{Placed, Reader, Section, read_file, shorten};
use super::{ConfigErrors, DEFAULT_DATA_PORT, DEFAULT_SOCKET, DEFAULT_STATE_DIR};

/// The longest path that a unix socket can have (`sun_path` less its closing zero).
const MAX_SOCKET_PATH: usize = 107;

/// The port of a resolver that is written without one.
const DNS_PORT: u16 = 53;

/// The configuration of one netmanager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetConfig {
    /// Where rows come from.
    pub source: RowSource,
    /// Where state is kept that must outlive the daemon.
    pub state_dir: PathBuf,
    /// The unix socket of the local API.
    pub socket: PathBuf,
    /// What the data socket is bound to.
    pub listen: SocketAddr,
    /// Certificates.
    pub pki: PkiConfig,
    /// The overlay namespace.
    pub overlay: OverlayConfig,
    /// The resolver.
    pub dns: DnsConfig,
}

/// Where a netmanager has its rows from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowSource {
    /// A static table in this file.
    File(PathBuf),
    /// The cluster of the node's certificate, which is dialled at one of these addresses.
    Cluster(Vec<SocketAddr>),
}

/// Where the node's certificates are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PkiConfig {
    /// The folder with `ca.pem`, `node.pem`, `node.key` and `relay.token`.
    pub dir: PathBuf,
}

/// The overlay namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayConfig {
    /// Names the namespace, links and nft tables; none means `weald-` and the node's name.
    pub name: Option<Label>,
    /// Whether instances reach the outside, by masquerade through the host.
    pub egress: bool,
    /// Whether the kernel leaves checksums and segmentation to us. Some kernels refuse it.
    pub offloads: bool,
}

/// The resolver that instances use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DnsConfig {
    /// Who answers names that are not the overlay's; empty means those of `/etc/resolv.conf`.
    pub upstreams: Vec<SocketAddr>,
}

impl NetConfig {
    /// Reads the configuration at `path`.
    ///
    /// # Errors
    /// Every fault of the file.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        Self::parse(path, &read_file(path)?)
    }

    /// Reads `text`, which stands in the file `path`.
    ///
    /// # Errors
    /// Every fault of the text.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigErrors> {
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        let mut reader = Reader::new(path, text);
        let document = reader.parse();
        let top = reader.section(
            document.get_ref(),
            0,
            "the top level",
            &[
                "table",
                "cluster",
                "state_dir",
                "socket",
                "listen",
                "pki",
                "overlay",
                "dns",
            ],
        );
        let config = Self {
            source: source(&mut reader, &top, folder),
            state_dir: reader
                .value_with(&top, "state_dir", path_in(folder))
                .map_or_else(|| DEFAULT_STATE_DIR.into(), |path| path.value),
            socket: socket(&mut reader, &top, folder),
            listen: reader
                .value_with(&top, "listen", listen_address)
                .map_or_else(
                    || SocketAddr::from((Ipv4Addr::UNSPECIFIED, DEFAULT_DATA_PORT)),
                    |listen| listen.value,
                ),
            pki: pki(&mut reader, &top, folder),
            overlay: overlay(&mut reader, &top),
            dns: dns(&mut reader, &top),
        };
        reader.finish(config)
    }
}

/// Exactly one of `table` and `[cluster]`.
fn source(reader: &mut Reader<'_>, top: &Section<'_>, folder: &Path) -> RowSource {
    let table = reader.value_with(top, "table", path_in(folder));
    let cluster = reader.subsection(top, "cluster", "[cluster]", &["addresses"]);
    match (table, cluster) {
        (None, Some(section)) => {
            let was_faultless = reader.is_faultless();
            let addresses = reader.list_with(&section, "addresses", cluster_address);
            // Wrong ones have been complained of already.
            if addresses.is_empty() && was_faultless == reader.is_faultless() {
                reader.fault(
                    section.at,
                    "[cluster] has no addresses; name one at least, as in \"192.0.2.1:10300\"",
                );
            }
            RowSource::Cluster(addresses.into_iter().map(|at| at.value).collect())
        }
        (Some(Placed { value, at }), cluster) => {
            if cluster.is_some() {
                reader.fault(
                    at,
                    "both table and [cluster] are there; a netmanager has its rows from one of them",
                );
            }
            RowSource::File(value)
        }
        (None, None) => {
            reader.fault(
                top.at,
                "neither table nor [cluster] is there; name a table's file, or the cluster's \
                 addresses",
            );
            RowSource::File(PathBuf::new())
        }
    }
}

fn socket(reader: &mut Reader<'_>, top: &Section<'_>, folder: &Path) -> PathBuf {
    let Some(Placed { value, at }) = reader.value_with(top, "socket", path_in(folder)) else {
        return DEFAULT_SOCKET.into();
    };
    let length = value.as_os_str().len();
    if length > MAX_SOCKET_PATH {
        reader.fault(
            at,
            format!(
                "socket: the path has {length} bytes; a unix socket's may have {MAX_SOCKET_PATH}"
            ),
        );
    }
    value
}

fn pki(reader: &mut Reader<'_>, top: &Section<'_>, folder: &Path) -> PkiConfig {
    let dir = reader
        .subsection(top, "pki", "[pki]", &["dir"])
        .and_then(|section| reader.value_with(&section, "dir", path_in(folder)));
    PkiConfig {
        dir: dir.map_or_else(|| folder.join("pki"), |dir| dir.value),
    }
}

fn overlay(reader: &mut Reader<'_>, top: &Section<'_>) -> OverlayConfig {
    let section = reader.subsection(top, "overlay", "[overlay]", &["name", "egress", "offloads"]);
    let name = section.and_then(|section| reader.value::<Label>(&section, "name"));
    let egress = section.and_then(|section| reader.flag(&section, "egress"));
    let offloads = section.and_then(|section| reader.flag(&section, "offloads"));
    OverlayConfig {
        name: name.map(|name| name.value),
        egress: egress.unwrap_or(true),
        offloads: offloads.unwrap_or(true),
    }
}

fn dns(reader: &mut Reader<'_>, top: &Section<'_>) -> DnsConfig {
    let upstreams = reader
        .subsection(top, "dns", "[dns]", &["upstreams"])
        .map(|section| reader.list_with(&section, "upstreams", upstream));
    DnsConfig {
        upstreams: upstreams
            .unwrap_or_default()
            .into_iter()
            .map(|upstream| upstream.value)
            .collect(),
    }
}

/// Takes a path as relative to `folder`.
fn path_in(folder: &Path) -> impl Fn(&str) -> Result<PathBuf, String> + '_ {
    |text| {
        if text.is_empty() {
            Err("the path is empty".to_owned())
        } else if text.contains('\0') {
            Err("the path contains a zero byte".to_owned())
        } else {
            Ok(folder.join(text))
        }
    }
}

fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        let shown = shorten(text);
        format!("{shown:?} is not an address with a port, as in \"0.0.0.0:{DEFAULT_DATA_PORT}\"")
    })
}

fn cluster_address(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| {
        let shown = shorten(text);
        format!("{shown:?} is not an address with a port, as in \"192.0.2.1:10300\"")
    })?;
    if address.port() == 0 || address.ip().is_unspecified() {
        return Err(format!(
            "{address} cannot be dialled; name the cluster's address"
        ));
    }
    Ok(address)
}

fn upstream(text: &str) -> Result<SocketAddr, String> {
    let alone = text.parse::<IpAddr>().map(|ip| (ip, DNS_PORT).into());
    let address: SocketAddr = alone.or_else(|_| text.parse()).map_err(|_| {
        let shown = shorten(text);
        format!("{shown:?} is not an address, as in \"192.0.2.1\" or \"192.0.2.1:53\"")
    })?;
    if address.port() == 0 || address.ip().is_unspecified() {
        return Err(format!(
            "{address} cannot be asked; name a resolver's address"
        ));
    }
    Ok(address)
}
