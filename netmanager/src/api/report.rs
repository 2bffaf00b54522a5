//! What the API tells: plain data with stable field names, the same for `--json` and tables.
//!
//! Times are in microseconds or milliseconds as the names say; ids, names and words are those that
//! stand in the table and in names. Fields may be added, none is renamed.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

pub use self::userspace::{EchoReport, ForwardReport, PublishReport, UserspaceReport};
pub use fast::FastReport;
pub use peer::{DirectReport, PathCandidate, PeerReport, TargetReport};

mod fast;
mod peer;
mod userspace;

/// How a netmanager is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Who the node is, as `cluster/name`.
    pub node: String,
    /// The organisation of the node's host programs, as the table says.
    pub organisation: Option<String>,
    /// The name of the overlay namespace and its links.
    pub overlay: String,
    /// What the data socket is bound to.
    pub listen: SocketAddr,
    /// How long the daemon has been running.
    pub uptime_ms: u64,
    /// Which table is in use.
    pub table: TableReport,
    /// How the session with the cluster is; none with a static table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterReport>,
    /// The instances that this node hosts, as `appname.appns.servicename.servicens.number`.
    pub instances: Vec<String>,
    /// How queries for names ended; only outcomes with a count.
    pub names: Vec<QueryCounter>,
    /// How many packets the overlay's own nft rules have dropped, by counter: `spoofed` (a source
    /// that is not the instance's), `refused`, `host refused`, and what is never let through and means
    /// nothing: `link_local` (of instances' own links), `multicast` (of the kernel, to the TUN).
    pub nft_drops: Vec<DropCounter>,
    /// What the host's default gateways say to port mappings; none if they are not asked.
    #[serde(default)]
    pub gateways: Option<Vec<GatewayReport>>,
    /// The packet thread; none if it does not answer.
    pub packets: Option<PacketStatus>,
    /// Userspace mode; none with a TUN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub userspace: Option<UserspaceReport>,
}

/// Which table is in use.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TableReport {
    /// The file that it is read from.
    pub file: String,
    /// Whether the copy that was kept on disk is in use, because the file is missing or invalid.
    pub from_kept_copy: bool,
    /// Counts the tables that this daemon has used, from 1.
    pub epoch: u64,
    /// How many nodes it has, this one among them.
    pub nodes: usize,
    /// How many relays it has.
    pub relays: usize,
    /// How many services it has.
    pub services: usize,
    /// How many instances it has.
    pub instances: usize,
    /// What is wrong with the file as it is now, line by line; none if it is what is in use.
    pub error: Option<String>,
}

/// How the session with the cluster is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClusterReport {
    /// Where the cluster was reached; none while it is not.
    pub reached: Option<SocketAddr>,
    /// This node's address as the cluster sees it; none before it has welcomed the node.
    pub observed: Option<SocketAddr>,
    /// Why it is not reached.
    pub reason: Option<String>,
}

/// How the packet thread is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PacketStatus {
    /// Flows that are open.
    pub flows: usize,
    /// Peers with a session.
    pub peers_up: usize,
    /// Peers that are known.
    pub peers: usize,
    /// Every relay of the table, and how the session with it is.
    pub relays: Vec<RelayReport>,
    /// Handshakes of others with this node that came to nothing: refused certificates above all,
    /// and those that were given up.
    pub refused_handshakes: u64,
    /// The connections of the L4 lane.
    pub streams: StreamReport,
    /// How many flows were opened, by lane and the reason for it.
    #[serde(default)]
    pub lanes: Vec<LaneCounter>,
    /// What was read and written.
    pub traffic: Traffic,
    /// How many packets were dropped, by reason; only reasons with a count.
    pub drops: Vec<DropCounter>,
}

/// How many flows took a lane for one reason since the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneCounter {
    /// `local`, `l3` or `l4`.
    pub lane: String,
    /// Why.
    pub reason: String,
    /// How many.
    pub flows: u64,
}

/// Connections of the L4 lane since the start.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StreamReport {
    /// Those that there are now, with those that are being opened.
    pub open: usize,
    /// Opened by this node's programs, whose targets have accepted.
    pub opened: u64,
    /// Opened by other nodes, whose targets have accepted.
    pub accepted: u64,
    /// Those that ended otherwise than by both ends' closing, by reason.
    pub refused: BTreeMap<String, u64>,
}

/// What was read and written since the start. Packets may be super-packets of up to 64 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Traffic {
    /// Packets read from the TUN.
    pub tun_in_packets: u64,
    /// Bytes read from the TUN.
    pub tun_in_bytes: u64,
    /// Packets written to the TUN.
    pub tun_out_packets: u64,
    /// Bytes written to the TUN.
    pub tun_out_bytes: u64,
    /// Datagrams read from the data socket.
    pub socket_in_datagrams: u64,
    /// Bytes read from the data socket.
    pub socket_in_bytes: u64,
    /// Datagrams written to the data socket.
    pub socket_out_datagrams: u64,
    /// Bytes written to the data socket.
    pub socket_out_bytes: u64,
}

/// The session with one relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayReport {
    /// Which relay, as `cluster/name`.
    pub relay: String,
    /// Where it is reached.
    pub address: Option<SocketAddr>,
    /// `connecting`, `up` or `down`.
    pub state: String,
    /// The smoothed round-trip time to it, as QUIC measures it (RFC 9002, section 5.3).
    pub rtt_us: Option<u64>,
    /// This node's address as the relay sees it.
    pub observed_address: Option<SocketAddr>,
    /// Why it is down.
    pub reason: Option<String>,
    /// What carries datagrams to it: `udp`, or `tcp` where it does not answer over UDP.
    pub carrier: String,
    /// Why: `udp_preferred`, `udp_silent`, `udp_answers` or `tcp_lost`.
    pub carrier_reason: String,
}

/// The network around this node, as the daemon sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NetworkReport {
    /// The data socket's addresses on the host's own networks, with the lengths of their prefixes.
    pub own: Vec<(SocketAddr, u8)>,
    /// How the site's NAT gives out ports, as observers tell: `unknown`, `independent`, `sequential`
    /// or `random`.
    pub mapping: String,
    /// Every relay of the table that this node uses.
    pub relays: Vec<RelayDoor>,
    /// What the host's default gateways say to port mappings; none if they are not asked.
    #[serde(default)]
    pub gateways: Option<Vec<GatewayReport>>,
}

/// A default gateway that is asked to lead a port to the data socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayReport {
    /// The gateway.
    pub gateway: IpAddr,
    /// This node's address towards it.
    pub own: IpAddr,
    /// What it has spoken: `pcp`, `nat_pmp`, `upnp`.
    pub speaks: Vec<String>,
    /// `asking`, `wanting`, `mapped` or `resting`.
    pub state: String,
    /// By which protocol there is a mapping.
    pub protocol: Option<String>,
    /// Where the gateway leads packets from.
    pub external: Option<SocketAddr>,
    /// For how many seconds it was granted last.
    pub granted_s: Option<u64>,
    /// Why peers are not told of it, such as `private_address`.
    pub refused: Option<String>,
    /// Why there is no mapping, or why it was not renewed.
    pub reason: Option<String>,
    /// What was sent.
    pub requests: u64,
    /// Mappings that were granted, renewals among them.
    pub grants: u64,
    /// Those that were refused.
    pub refusals: u64,
    /// What came and was not looked at: from others, or not asked for.
    pub ignored: u64,
    /// How often the gateway had forgotten everything.
    pub restarts: u64,
}

impl std::fmt::Display for GatewayReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.gateway)?;
        if !self.speaks.is_empty() {
            write!(f, ", speaks {}", self.speaks.join(", "))?;
        }
        match (self.external, &self.protocol) {
            (Some(external), Some(protocol)) => write!(f, ": {external} by {protocol}")?,
            _ => write!(f, ": {}", self.state)?,
        }
        for why in self.refused.iter().chain(&self.reason) {
            write!(f, ", {why}")?;
        }
        Ok(())
    }
}

/// How a relay is asked about this node's network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RelayDoor {
    /// Which relay, as `cluster/name`.
    pub relay: String,
    /// `connecting`, `up` or `down`.
    pub state: String,
    /// The address in use.
    pub address: Option<SocketAddr>,
    /// All of its addresses.
    pub addresses: Vec<SocketAddr>,
    /// Its second port.
    pub observe_port: Option<u16>,
    /// What carries datagrams to it: `udp` or `tcp`.
    pub carrier: String,
    /// Why it is down.
    pub reason: Option<String>,
}

/// How many queries for names ended in one way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryCounter {
    /// The outcome's stable word.
    pub outcome: String,
    /// How many queries.
    pub queries: u64,
}

/// How many packets were dropped for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropCounter {
    /// The reason's stable word.
    pub reason: String,
    /// How many packets.
    pub packets: u64,
}

/// Which way packets take.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PathReport {
    /// There is none yet.
    #[default]
    None,
    /// Both ends are on this node.
    Local,
    /// Straight to the peer.
    Direct {
        /// The peer's address.
        address: SocketAddr,
    },
    /// Through a relay.
    Relay {
        /// Which relay, as `cluster/name`.
        relay: String,
        /// The relay's address.
        address: Option<SocketAddr>,
    },
    /// Through a relay that this node reaches over TCP only.
    #[serde(rename = "relay-tcp")]
    RelayTcp {
        /// Which relay, as `cluster/name`.
        relay: String,
        /// The relay's address for TCP.
        address: Option<SocketAddr>,
    },
}

impl std::fmt::Display for PathReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Local => f.write_str("local"),
            Self::Direct { address } => write!(f, "direct {address}"),
            Self::Relay { relay, .. } => write!(f, "relay {relay}"),
            Self::RelayTcp { relay, .. } => write!(f, "relay-tcp {relay}"),
        }
    }
}

/// One flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowReport {
    /// `tcp`, `udp` or `icmp`.
    pub protocol: String,
    /// Who opened it.
    pub source: IpAddr,
    /// From which port, or with which ICMP id.
    pub source_port: u16,
    /// What the opener addressed: a service IP, or an instance IP.
    pub destination: IpAddr,
    /// To which port; 0 for ICMP.
    pub destination_port: u16,
    /// Whether it was opened on this node; if not, a peer opened it to an instance here.
    pub opened_here: bool,
    /// The policy that chose the instance: `rr`, `closest`, or `instance` if it was asked for by its
    /// own address; none for a node's address and for what a peer has opened.
    pub policy: Option<String>,
    /// The instance that answers, as `appname.appns.servicename.servicens.number`; none for a
    /// node's address.
    pub instance: Option<String>,
    /// What stands on the wire in place of the service IP.
    pub instance_ip: IpAddr,
    /// The node at the other end, as `cluster/name`; this one if both ends are here.
    pub node: String,
    /// The protocol's state, such as `syn_sent`, `established` or `new`.
    pub state: String,
    /// `local`, `l3` or `l4`.
    pub lane: String,
    /// Why this lane.
    pub lane_reason: String,
    /// `late` or `early`: when the opener hears that it is connected; only of what begins here on
    /// the L4 lane.
    #[serde(default)]
    pub accept: Option<String>,
    /// The way its packets take now.
    pub path: PathReport,
    /// The last round-trip time of that path.
    pub rtt_us: Option<u64>,
    /// How long it has been open.
    pub age_ms: u64,
    /// How long it has been silent.
    pub idle_ms: u64,
}

/// Which instance one policy would pick for one address family now, and why.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PolicyExplanation {
    /// `rr`, `closest` or `instance`.
    pub policy: String,
    /// `ipv4` or `ipv6`.
    pub family: String,
    /// What names with this policy resolve to; none for `instance`, whose candidates have it.
    pub service_ip: Option<IpAddr>,
    /// Every instance of the service, by number.
    pub candidates: Vec<CandidateReport>,
}

/// One instance that a policy could pick.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CandidateReport {
    /// Which instance, as `appname.appns.servicename.servicens.number`.
    pub instance: String,
    /// Its address.
    pub instance_ip: Option<IpAddr>,
    /// The node that hosts it, as `cluster/name`.
    pub node: String,
    /// Whether that is this node.
    pub local: bool,
    /// `unknown`, `connecting`, `up` or `down`; `up` for local ones.
    pub reachability: String,
    /// The smallest measured round-trip time to the node.
    pub min_rtt_us: Option<u64>,
    /// Whether the next new flow goes there.
    pub picked: bool,
    /// Why, or why not.
    pub reason: String,
}

/// What a name means on this node, and what the policies of its service would pick now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Explanation {
    /// The name with everything spelled out, without a zone.
    pub name: String,
    /// The service, as `appname.appns.servicename.servicens`.
    pub service: String,
    /// The name's policy.
    pub policy: String,
    /// The instance that the name asks for; only with policy `instance`.
    pub instance: Option<String>,
    /// What the name resolves to.
    pub addresses: Vec<IpAddr>,
    /// What `rr` and `closest` would pick, for each address family.
    pub policies: Vec<PolicyExplanation>,
}
