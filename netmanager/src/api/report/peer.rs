//! What the local API tells of one peer: how it is reached, which other ways there are, and what is
//! in the way of a direct one.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{FastReport, PathReport};

/// One peer: another node of the table.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PeerReport {
    /// Which node, as `cluster/name`.
    pub node: String,
    /// `unknown` (nothing has been wanted of it), `connecting`, `up` or `down`.
    pub state: String,
    /// The path in use.
    pub path: PathReport,
    /// Why this path and no other, or why there is none.
    pub reason: String,
    /// The last round-trip time.
    pub rtt_us: Option<u64>,
    /// The smallest round-trip time of late on the path in use: what `closest` compares.
    pub min_rtt_us: Option<u64>,
    /// Thousandths of the packets that were lost lately on the path in use, by QUIC's count or that of
    /// the probes, whichever is more; none without a session, or before enough was sent.
    #[serde(default)]
    pub loss_permille: Option<u16>,
    /// How long the session has lasted.
    pub session_ms: Option<u64>,
    /// The bytes that one datagram of the session may have on the path in use.
    pub mtu: Option<u16>,
    /// Every way that is known or was tried.
    pub candidates: Vec<PathCandidate>,
    /// What stands between this node and a direct path; none without a session.
    pub direct: Option<DirectReport>,
    /// Bytes sent to it.
    pub sent_bytes: u64,
    /// Bytes received from it.
    pub received_bytes: u64,
    /// TCP in sealed frames beside QUIC; none if this node's configuration has it not.
    pub fast_lane: Option<FastReport>,
}

/// One way to a peer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PathCandidate {
    /// The way.
    pub path: PathReport,
    /// What became of it: `untried`, `probing`, `working`, `active`, `failed`, or `narrow` if it answers but
    /// does not carry full packets. Without a session: `untried`, `dialling`, `no_answer`, or `refused`.
    pub state: String,
    /// Why it is not tried, if it is `refused`: `relay_down`, `peer_not_registered` (the relay does not have the
    /// peer), `handshake_failed` (whoever answered there was not the peer), `not_dialable`, or the word of the
    /// rule that forbids to send to the address.
    #[serde(default)]
    pub reason: Option<String>,
    /// The last round-trip time over it.
    pub rtt_us: Option<u64>,
    /// Probes sent over it.
    pub probes_sent: u64,
    /// Probes whose answer did not come in time.
    pub probes_lost: u64,
}

/// What is done to reach a peer directly, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DirectReport {
    /// How it stands: `direct`, `trying`, or what is in the way, in one of the words of the core's `Standing`.
    pub standing: String,
    /// What an operator could change; empty if nothing is wrong.
    pub advice: String,
    /// How this site's NAT gives out ports: `unknown`, `independent`, `sequential` or `random`.
    pub mapping_here: String,
    /// The same of the peer's site.
    pub mapping_there: String,
    /// Rounds of attempts so far.
    pub rounds: u32,
    /// Hops after which opening probes die.
    pub opening_hops: u8,
    /// Where this node is reached, as it has told the peer.
    pub own: Vec<String>,
    /// Every address that the peer has named.
    pub targets: Vec<TargetReport>,
}

/// One address that a peer has named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetReport {
    /// The address.
    pub address: SocketAddr,
    /// `interface`, `reflexive`, `configured` or `mapped`; none if it is not tried.
    pub kind: Option<String>,
    /// Probes sent to it.
    pub probes_sent: u64,
    /// Whether a path to it works.
    pub answers: bool,
    /// Why it is not tried.
    pub refused: Option<String>,
}
