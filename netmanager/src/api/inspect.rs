//! The questions that the packet thread answers about itself.
//!
//! The API server makes an [`Inspect`], the packet thread takes it between two batches of packets,
//! and the answer goes back through the [`Reply`] inside. Neither waits for the other's locks.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use weald_proto::name::{Policy, ServiceName};

use super::report::{
    DropCounter, FlowReport, NetworkReport, PacketStatus, PeerReport, PolicyExplanation,
};

/// The most flows that one answer lists: 4096 of about 600 bytes fit into one line of the API.
pub const MAX_FLOWS_PER_ANSWER: usize = 4096;

/// A question to the packet thread.
#[derive(Debug)]
pub enum Inspect {
    /// How is the packet thread?
    Status(Reply<PacketStatus>),
    /// Which peers are known, and over which paths?
    Peers(Reply<Vec<PeerReport>>),
    /// Which flows are open? At most [`MAX_FLOWS_PER_ANSWER`].
    Flows(FlowFilter, Reply<Vec<FlowReport>>),
    /// Which instance of this service would each policy pick now, and why? One element per policy
    /// and address family asked for; empty if the table has no such service.
    Explain(ExplainQuery, Reply<Vec<PolicyExplanation>>),
    /// How many packets were dropped, by reason? Every reason, also those with a count of 0.
    Counters(Reply<Vec<DropCounter>>),
    /// Which network is this node in?
    Network(Reply<Box<NetworkReport>>),
    /// A sealed knock; none if the relay is not up.
    Knock(KnockQuery, Reply<Option<Vec<u8>>>),
}

/// What [`Inspect::Knock`] asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnockQuery {
    /// Which relay, as `cluster/name`.
    pub relay: String,
    /// The port of this node's own outside address that is to be sent to; 0 is where the knock comes
    /// from.
    pub port: u16,
    /// Whether the relay is to send from its other port.
    pub from_other_port: bool,
    /// Bytes of the knock, at least; at most 2000.
    pub length: u16,
}

/// Which flows to list; an empty filter means all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlowFilter {
    /// Only flows of this protocol: `tcp`, `udp` or `icmp`.
    pub protocol: Option<String>,
    /// Only flows from this address.
    pub source: Option<IpAddr>,
    /// Only flows from this port, or with this ICMP id.
    pub source_port: Option<u16>,
    /// Only flows to this address, be it the service's or the instance's.
    pub destination: Option<IpAddr>,
}

impl FlowFilter {
    /// Whether `flow` is to be listed.
    #[must_use]
    pub fn accepts(&self, flow: &FlowReport) -> bool {
        let is = |wanted: Option<IpAddr>, found: IpAddr| wanted.is_none_or(|ip| ip == found);
        self.protocol
            .as_ref()
            .is_none_or(|protocol| *protocol == flow.protocol)
            && is(self.source, flow.source)
            && self.source_port.is_none_or(|port| port == flow.source_port)
            && (is(self.destination, flow.destination) || is(self.destination, flow.instance_ip))
    }
}

/// What [`Inspect::Explain`] asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainQuery {
    /// The service.
    pub service: ServiceName,
    /// The policies to explain, in this order.
    pub policies: Vec<Policy>,
}

/// Where the answer to a question goes.
///
/// Dropping it unanswered tells the asker that there will be none.
#[derive(Debug)]
pub struct Reply<T>(oneshot::Sender<T>);

impl<T> Reply<T> {
    /// A reply and what receives it.
    #[must_use]
    pub fn channel() -> (Self, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (Self(sender), receiver)
    }

    /// Sends the answer. Never blocks; an asker who has gone does not matter.
    pub fn send(self, answer: T) {
        drop(self.0.send(answer));
    }
}

/// The packet thread is gone, or has too many questions waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the packet thread does not answer")]
pub struct Unavailable;

/// Takes questions to the packet thread; its handle implements this.
pub trait Inspector: Send + Sync + 'static {
    /// Queues a question and wakes the packet thread. Never blocks.
    ///
    /// # Errors
    /// The packet thread cannot take it.
    fn submit(&self, question: Inspect) -> Result<(), Unavailable>;
}
