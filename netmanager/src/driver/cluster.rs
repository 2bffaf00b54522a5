//! The session with the own cluster, dialled from the data socket so that the cluster sees the
//! address that peers would see.
//!
//! It is kept up here: dialled, dialled again with growing and scattered pauses, kept alive. What
//! is said on it is the daemon's thread's ([`Heard`]), and so is all that follows. Losing it
//! changes nothing for packets.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use netmanager_core::peer::paths::Path;
use quinn_proto::Dir;
use weald_proto::codec::{MAX_MESSAGE_LEN, Message as _};
use weald_proto::id::{Identity, NodeId, RelayId};
use weald_proto::session::{ALPN, ClusterToNet, NetToCluster, PeerToPeer};
use weald_proto::statement::Signed;
use weald_proto::stream::{Deframer, framed};

use super::Driver;
use super::drive::CloseCode;
use super::session::With;
use crate::quic::{self, Slot};

/// First pause after the session was lost; doubled with every failure.
const RETRY_MIN: Duration = Duration::from_millis(250);
/// Longest pause between attempts, before it is scattered: a cluster that returns is found soon.
const RETRY_MAX: Duration = Duration::from_secs(4);
/// How long the cluster may take to answer a handshake.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a session stays silent on this side; NATs keep mappings for longer.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// What the packet thread has heard and leaves to the daemon's thread.
#[derive(Debug)]
pub enum Heard {
    /// The session with the cluster is up; it waits for a Hello.
    ClusterUp(SocketAddr),
    /// The cluster says something.
    Cluster(Box<ClusterToNet>),
    /// There is no session with the cluster, and why.
    ClusterDown(String),
    /// A node that the table does not have has shown its certificate.
    Guest(NodeId),
    /// Another node shows what it has.
    Peer(NodeId, Box<PeerToPeer>),
    /// A relay says who is revoked.
    Relay(RelayId, Box<Signed>),
}

/// The session with the cluster, or the attempts to have one.
#[derive(Debug)]
pub(super) struct ClusterLink {
    addresses: Vec<SocketAddr>,
    /// Which of the addresses is tried or used.
    turn: usize,
    session: Option<Slot>,
    is_up: bool,
    retry_at: Option<Instant>,
    failures: u32,
    /// When the next keep-alive is due.
    silent_until: Instant,
}

impl ClusterLink {
    /// A link that is dialled at once.
    pub(super) const fn new(addresses: Vec<SocketAddr>, now: Instant) -> Self {
        Self {
            addresses,
            turn: 0,
            session: None,
            is_up: false,
            retry_at: Some(now),
            failures: 0,
            silent_until: now,
        }
    }

    fn address(&self) -> Option<SocketAddr> {
        self.addresses
            .get(self.turn % self.addresses.len().max(1))
            .copied()
    }

    fn deadline(&self) -> Option<Instant> {
        let keep_alive = self.is_up.then_some(self.silent_until);
        self.retry_at.into_iter().chain(keep_alive).min()
    }
}

impl Driver {
    fn dial_cluster(&mut self) {
        let Identity::Node(node) = self.credentials.identity().clone() else {
            return;
        };
        let expected = Identity::Control(node.cluster);
        let Some(link) = self.cluster.as_mut() else {
            return;
        };
        link.retry_at = Some(self.now + ANSWER_TIMEOUT);
        let Some(address) = link.address().filter(|at| self.io.socket.reaches(*at)) else {
            self.lose_cluster("no address that this node's data socket reaches");
            return;
        };
        let crypto = self.credentials.client_config(&expected, ALPN);
        let dialled = crypto.and_then(|crypto| {
            let config = quic::cluster_client_config(crypto);
            self.connect(config, With::Cluster, |session| {
                session.path = Some(Path::Direct(address));
                session.deframer = Deframer::new(MAX_MESSAGE_LEN);
            })
        });
        match dialled {
            Ok(slot) => {
                if let Some(link) = self.cluster.as_mut() {
                    link.session = Some(slot);
                }
            }
            Err(error) => self.lose_cluster(&error.to_string()),
        }
    }

    /// Dials at once instead of after a pause, and anew what has had no answer.
    pub(super) fn redial_cluster(&mut self) {
        let slot = self.cluster.as_ref().and_then(|link| link.session);
        let in_vain = slot.filter(|slot| self.is_unanswered(*slot));
        let Some(link) = self.cluster.as_mut().filter(|link| !link.is_up) else {
            return;
        };
        if slot.is_none() || in_vain.is_some() {
            link.session = None;
            link.retry_at = Some(self.now);
        }
        if let Some(slot) = in_vain {
            self.close(slot, CloseCode::Superseded);
        }
    }

    /// The handshake with the cluster is done.
    pub(super) fn start_cluster(&mut self, slot: Slot) {
        let (Some(link), Some(session)) = (self.cluster.as_mut(), self.sessions.of_mut(slot))
        else {
            return;
        };
        session.stream = session.connection.streams().open(Dir::Bi);
        link.is_up = true;
        link.retry_at = None;
        link.silent_until = self.now + KEEP_ALIVE;
        if let Some(address) = link.address() {
            (self.heard)(Heard::ClusterUp(address));
        }
    }

    /// Says something to the cluster, if there is a session; else it is not said.
    pub(super) fn say_to_cluster(&mut self, message: &[u8]) {
        let Some(link) = self.cluster.as_mut().filter(|link| link.is_up) else {
            return;
        };
        link.silent_until = self.now + KEEP_ALIVE;
        let Some(slot) = link.session else {
            return;
        };
        let Some(session) = self.sessions.of_mut(slot) else {
            return;
        };
        if session.say(message) {
            self.touched.insert(slot);
        } else {
            self.lose_cluster("the cluster takes nothing any more");
        }
    }

    /// Reads what the cluster has said.
    pub(super) fn hear_cluster(&mut self, slot: Slot) {
        let Some(session) = self.sessions.of_mut(slot) else {
            return;
        };
        let Some(stream) = session.stream else {
            return;
        };
        let heard = session.hear(stream);
        for message in heard.messages {
            match ClusterToNet::decode(&message) {
                Ok(message) => {
                    if let Some(link) = self.cluster.as_mut() {
                        link.failures = 0;
                    }
                    (self.heard)(Heard::Cluster(Box::new(message)));
                }
                // A newer cluster may say what this version does not know.
                Err(error) => tracing::warn!(%error, "the cluster says what is not understood"),
            }
        }
        if let Some(fault) = heard.fault {
            self.lose_cluster(&fault);
        }
    }

    pub(super) fn handle_cluster_lost(&mut self, slot: Slot, reason: &str) {
        if self.cluster.as_ref().and_then(|link| link.session) == Some(slot) {
            self.lose_cluster(reason);
        }
    }

    fn lose_cluster(&mut self, reason: &str) {
        let scatter = self.next_seed() >> 32;
        let Some(link) = self.cluster.as_mut() else {
            return;
        };
        let pause = RETRY_MIN
            .saturating_mul(1 << link.failures.min(6))
            .min(RETRY_MAX);
        // Between half and one and a half of it, so that a cluster's nodes do not come at once.
        let scatter = pause.saturating_mul(u32::try_from(scatter % 1024).unwrap_or(0)) / 1024;
        link.retry_at = Some(self.now + pause / 2 + scatter);
        link.failures = link.failures.saturating_add(1);
        link.turn = link.turn.wrapping_add(1);
        link.is_up = false;
        let slot = link.session.take();
        (self.heard)(Heard::ClusterDown(reason.to_owned()));
        if let Some(slot) = slot {
            self.close(slot, CloseCode::Shutdown);
        }
    }

    pub(super) fn handle_cluster_timeouts(&mut self) {
        let Some(link) = self.cluster.as_ref() else {
            return;
        };
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= self.now);
        if due(link.retry_at) {
            if link.session.is_some() {
                self.lose_cluster("the cluster does not answer");
            } else {
                self.dial_cluster();
            }
        } else if link.is_up && due(Some(link.silent_until)) {
            // A keep-alive has no field that a reader could refuse.
            if let Ok(message) = NetToCluster::KeepAlive.encode() {
                self.say_to_cluster(&framed(&message));
            }
        }
    }

    pub(super) fn cluster_deadline(&self) -> Option<Instant> {
        self.cluster.as_ref().and_then(ClusterLink::deadline)
    }
}
