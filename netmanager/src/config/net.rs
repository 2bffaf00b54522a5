//! `net.toml`: what a netmanager needs to know besides the table.
//!
//! It is the same file on every node, because who a node is stands in its certificate. Relative
//! paths are relative to the file's own folder.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use netmanager_core::peer::IDLE_TEARDOWN;
use netmanager_core::peer::candidates::{MAX_PEER_CANDIDATES, is_special};
use weald_proto::id::Label;

use super::document::{Placed, Reader, Section, read_file, shorten};
use super::{ConfigErrors, DEFAULT_DATA_PORT, DEFAULT_SOCKET, DEFAULT_STATE_DIR};

/// The longest path that a unix socket can have (`sun_path` less its closing zero).
const MAX_SOCKET_PATH: usize = 107;

/// Addresses that an operator may name: half of what peers are told, so that those which change by
/// themselves have room.
const MAX_ADVERTISED: usize = MAX_PEER_CANDIDATES / 2;

/// Seconds after which idle sessions may be closed at the earliest: a handshake costs some packets.
const MIN_TEARDOWN: u32 = 10;

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
    /// How packets go over the data socket.
    pub data_plane: DataPlaneConfig,
    /// How peers are reached.
    pub paths: PathsConfig,
    /// Whether benches of peers are answered.
    pub bench: BenchConfig,
}

/// Whether this node answers load when a peer asks for a bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BenchConfig {
    /// Whether at all: at its overlay address, for the asking node.
    pub respond: bool,
    /// Whether at the host's other addresses as well, for comparison: for whoever has the token that
    /// the asking node was told, and in the clear.
    pub bare: bool,
}

/// How peers are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathsConfig {
    /// Whether direct ways are opened through NATs.
    pub punch: bool,
    /// Whether ports are searched for if one of the NATs gives out random ones.
    pub spray: bool,
    /// After how long a session with a peer is closed that nobody uses; at least ten seconds.
    pub idle_teardown: Duration,
    /// Whether routers are asked to lead a port to this node.
    pub port_mapping: bool,
    /// Addresses at which this node is reached besides those that it finds out: ports that routers
    /// forward to it. At most eight.
    pub advertise: Vec<SocketAddr>,
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

/// How packets go over the data socket. What it asks of the kernel is switched off for kernels and
/// cards that do it wrong; refusals are noticed without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataPlaneConfig {
    /// Whether many datagrams are sent by one call (UDP GSO).
    pub udp_gso: bool,
    /// Whether many datagrams are received in one buffer (UDP GRO).
    pub udp_gro: bool,
    /// Whether TCP goes in sealed frames beside QUIC to peers whose configuration has this as well.
    pub fast_lane: bool,
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
                "data_plane",
                "paths",
                "bench",
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
            data_plane: data_plane(&mut reader, &top),
            paths: paths(&mut reader, &top),
            bench: bench(&mut reader, &top),
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

fn data_plane(reader: &mut Reader<'_>, top: &Section<'_>) -> DataPlaneConfig {
    let keys = &["udp_gso", "udp_gro", "fast_lane"];
    let section = reader.subsection(top, "data_plane", "[data_plane]", keys);
    let mut switch = |key, unless_said| {
        let value = section.and_then(|section| reader.flag(&section, key));
        value.unwrap_or(unless_said)
    };
    DataPlaneConfig {
        udp_gso: switch("udp_gso", true),
        udp_gro: switch("udp_gro", true),
        fast_lane: switch("fast_lane", false),
    }
}

fn paths(reader: &mut Reader<'_>, top: &Section<'_>) -> PathsConfig {
    let keys = &[
        "punch",
        "spray",
        "port_mapping",
        "idle_teardown",
        "advertise",
    ];
    let section = reader.subsection(top, "paths", "[paths]", keys);
    let punch = section.and_then(|section| reader.flag(&section, "punch"));
    let spray = section.and_then(|section| reader.flag(&section, "spray"));
    let port_mapping = section.and_then(|section| reader.flag(&section, "port_mapping"));
    let teardown = section.and_then(|section| reader.number(&section, "idle_teardown"));
    if let Some(short) = teardown.as_ref().filter(|it| it.value < MIN_TEARDOWN) {
        let (seconds, at) = (short.value, short.at);
        reader.fault(
            at,
            format!("idle_teardown: {seconds} seconds are too few; name at least {MIN_TEARDOWN}"),
        );
    }
    let advertise = section
        .map(|section| reader.list_with(&section, "advertise", advertised))
        .unwrap_or_default();
    if let Some(beyond) = advertise.get(MAX_ADVERTISED) {
        let count = advertise.len();
        reader.fault(
            beyond.at,
            format!("advertise: {count} addresses are too many; name at most {MAX_ADVERTISED}"),
        );
    }
    PathsConfig {
        punch: punch.unwrap_or(true),
        spray: spray.unwrap_or(true),
        port_mapping: port_mapping.unwrap_or(true),
        idle_teardown: teardown.map_or(IDLE_TEARDOWN, |it| Duration::from_secs(it.value.into())),
        advertise: advertise.into_iter().map(|at| at.value).collect(),
    }
}

fn bench(reader: &mut Reader<'_>, top: &Section<'_>) -> BenchConfig {
    let section = reader.subsection(top, "bench", "[bench]", &["respond", "bare"]);
    let mut switch = |key| {
        let value = section.and_then(|section| reader.flag(&section, key));
        value.unwrap_or(false)
    };
    BenchConfig {
        respond: switch("respond"),
        bare: switch("bare"),
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

fn advertised(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| {
        let shown = shorten(text);
        format!("{shown:?} is not an address with a port, as in \"192.0.2.1:{DEFAULT_DATA_PORT}\"")
    })?;
    if is_special(address) {
        return Err(format!(
            "no peer sends to {address}; name the address that a router forwards to this node"
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
