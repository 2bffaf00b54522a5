//! What a relay tells about itself: plain data with stable field names.
//!
//! Bytes are those of data frames as UDP payload. For the total and for every organisation,
//! received bytes are sent, dropped and queued bytes together.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use netmanager_core::relay::{Relay, RelayCounters, RelayDrop, Tally};
use serde::{Deserialize, Serialize};

/// How a relay is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayReport {
    /// The program's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Who the relay is, as `cluster/name`.
    pub relay: String,
    /// When its certificate ends, in seconds since 1970.
    pub certificate_expires: u64,
    /// What its sockets are bound to.
    pub listen: Vec<SocketAddr>,
    /// How long it has been running.
    pub uptime_ms: u64,
    /// What it sends at most; 0 is unlimited.
    pub rate_bits_per_second: u64,
    /// Nodes that are registered.
    pub registrations: usize,
    /// Sessions that are not registered (yet): half-open, or refused and about to end.
    pub unregistered_sessions: usize,
    /// Handshakes refused because too many were half-open.
    pub handshakes_refused: u64,
    /// Registrations refused because of their tokens.
    pub tokens_refused: u64,
    /// Handshakes refused because of the nodes' certificates.
    #[serde(default)]
    pub certificates_refused: u64,
    /// What was wrong with the last of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_certificate_refused: Option<String>,
    /// Who is revoked, as far as the relay has heard.
    #[serde(default)]
    pub revocations: RevocationsReport,
    /// Its TCP port.
    #[serde(default)]
    pub tcp: TcpReport,
    /// Everything, with frames that belong to nobody.
    pub total: CountersReport,
    /// By the organisation of the sender.
    pub organisations: BTreeMap<String, OrganisationReport>,
}

/// What nodes have told of the revoked, and what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RevocationsReport {
    /// The epoch of the newest list; 0 if there is none.
    pub epoch: u64,
    /// Lists that changed nothing: old ones, and those that root has not signed.
    pub lists_refused: u64,
    /// Sessions that were ended because the node or its cluster is revoked.
    pub sessions_cut: u64,
}

/// What has come to the TCP port, for nodes whose networks let no UDP through.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TcpReport {
    /// What its sockets are bound to; empty if there is no TCP.
    pub listen: Vec<SocketAddr>,
    /// Connections whose nodes have shown their certificates.
    pub connections: usize,
    /// Connections whose nodes have yet to.
    pub handshakes: usize,
    /// Connections that were accepted.
    pub accepted: u64,
    /// Those that were refused or ended because there were too many.
    pub refused: u64,
    /// Those that ended before a certificate was accepted: garbage, none, a wrong one, or too slow.
    pub handshakes_failed: u64,
    /// Those that ended because no node was registered on them.
    pub unregistered: u64,
    /// Those that ended in the middle of something, or spoke something else than datagrams.
    pub broken: u64,
    /// Datagrams that were lost because the node did not read fast enough.
    pub lost: u64,
}

/// One organisation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrganisationReport {
    /// Nodes of it that are registered.
    pub registrations: usize,
    /// What it has sent through the relay.
    #[serde(flatten)]
    pub counters: CountersReport,
}

/// Frames and bytes in, out, waiting, and dropped by reason.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CountersReport {
    /// What came in.
    pub received: TallyReport,
    /// What went out.
    pub sent: TallyReport,
    /// What waits.
    pub queued: TallyReport,
    /// What was dropped, all reasons together.
    pub dropped: TallyReport,
    /// What was dropped, by reason; every reason is listed.
    pub dropped_by_reason: BTreeMap<String, TallyReport>,
}

/// Frames and their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TallyReport {
    /// How many frames.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl From<Tally> for TallyReport {
    fn from(tally: Tally) -> Self {
        Self {
            frames: tally.frames,
            bytes: tally.bytes,
        }
    }
}

impl From<&RelayCounters> for CountersReport {
    fn from(counters: &RelayCounters) -> Self {
        let by_reason = RelayDrop::ALL.map(|reason| {
            let tally = counters.dropped(reason).into();
            (reason.word().to_owned(), tally)
        });
        Self {
            received: counters.received.into(),
            sent: counters.sent.into(),
            queued: counters.queued.into(),
            dropped: counters.all_dropped().into(),
            dropped_by_reason: by_reason.into(),
        }
    }
}

/// The counters of all organisations, by name.
pub(super) fn organisations(relay: &Relay) -> BTreeMap<String, OrganisationReport> {
    relay
        .organisations()
        .map(|(name, registrations, counters)| {
            let report = OrganisationReport {
                registrations,
                counters: counters.into(),
            };
            (name.to_string(), report)
        })
        .collect()
}
