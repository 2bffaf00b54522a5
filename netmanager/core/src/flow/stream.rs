//! Where a connection of the L4 lane really goes: its own packets only lead to this node's stack.

use std::net::SocketAddr;

use weald_proto::table::AcceptPolicy;

use super::{FlowKey, Side};
use crate::packet::PROTOCOL_TCP;
use crate::table::PeerId;

/// The end of a flow on the L4 lane that is not a program on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamEnd {
    /// The opener is here. Its packets go to the stack's listener, from a phantom.
    Near {
        /// The node of the target.
        peer: PeerId,
        /// The instance's address and port.
        target: SocketAddr,
        /// The stack's listener.
        listener: SocketAddr,
        /// Who the listener sees.
        phantom: SocketAddr,
        /// When the client hears that it is connected.
        accept: AcceptPolicy,
        /// Whether the client may hear so; until then packets wait.
        ready: bool,
    },
    /// The responder is here. The stack's packets to a phantom go to it, from the client.
    Far {
        /// The client's node.
        peer: PeerId,
        /// The client's address and port.
        client: SocketAddr,
        /// The instance's address and port.
        target: SocketAddr,
    },
}

impl StreamEnd {
    /// The key of packets against the direction in which the flow was opened: from the listener to
    /// the phantom, or from the target to the client. Both come from the TUN.
    pub(super) fn reply_key(&self) -> FlowKey {
        let (source, destination) = match self {
            Self::Near {
                listener, phantom, ..
            } => (*listener, *phantom),
            Self::Far { client, target, .. } => (*target, *client),
        };
        FlowKey::between(PROTOCOL_TCP, Side::Tun, source, destination)
    }
}
