//! What a node and a relay say on their QUIC stream: token, registration, whom to reach.
//!
//! The node opens the session and one bidirectional stream on it, says [`Hello`] and is told its
//! link id in [`Welcome`]; from then on it may send relay data frames ([`crate::frame`]) to peers
//! whose ids it has asked for with [`Open`]. The stream carries no packets.
//!
//! ```text
//! node                                     relay
//!   Hello {version, token, epoch} ->
//!                                 <-  Welcome {link, observed, limits, epoch}
//!                                     or  Refused, then close
//!   Open {request, node}          ->
//!                                 <-  Opened {request, peer or refusal}
//!                                 <-  Gone {peer}        whenever a registration ends
//!                                 <-  Observed {asked_port, seen}    for each question
//!                                 <-  Superseded         then close: the node registered again
//!   Revocations                   <->   from the end with the newer list of the revoked
//! ```
//!
//! What root says of the revoked passes between both ends so that no one of them can withhold it
//! from the other. Either end takes a list only after it has shown, by the epoch in its first words,
//! that it knows of lists at all; whether a list is believed is not decided here.
//!
//! The types here are the checked ones: what `proto/relay.proto` describes becomes them only
//! through [`NodeMessage::decode`] and [`RelayMessage::decode`]. What the relay does about a message
//! is netmanager-core's `relay`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use prost::Message;

use crate::codec;
use crate::id::{IdError, NodeId};
use crate::statement::Signed;
use crate::stream::{self, TooLong};
use crate::token::MAX_TOKEN_LEN;

/// The version that a node says in [`Hello`], and the only one that a relay accepts.
pub const VERSION: u32 = 1;
/// The ALPN of a session between a node and a relay.
pub const ALPN: &[u8] = b"weald-relay/1";
/// Bytes of the longest message but [`NodeMessage::Revocations`] and [`RelayMessage::Revocations`]: a
/// token of a few hundred bytes and two labels fit many times.
pub const MAX_MESSAGE_LEN: usize = 4096;
/// Bytes of the longest statement on the revoked: what root signs at the most.
pub const MAX_REVOCATIONS_LEN: usize = codec::MAX_TEXT_LEN;
/// Bytes of the longest message of all: such a statement and its signature.
pub const MAX_LONG_MESSAGE_LEN: usize = MAX_REVOCATIONS_LEN + 1024;
/// Bytes of the longest text of a refusal; longer ones are cut when encoded.
pub const MAX_TEXT_LEN: usize = 512;
/// The TLS exporter label of the keys of relay data frames.
pub const EXPORTER_LABEL: &[u8] = b"weald relay";
/// The TLS exporter context of the key for frames from the node to the relay.
pub const EXPORTER_UP: &[u8] = b"up";
/// The TLS exporter context of the key for frames from the relay to the node.
pub const EXPORTER_DOWN: &[u8] = b"down";

#[allow(
    unreachable_pub,
    missing_docs,
    clippy::all,
    clippy::use_self,
    reason = "generated code: public within its private module, and not ours to lint"
)]
mod wire {
    include!(concat!(env!("OUT_DIR"), "/weald.relay.v1.rs"));
}

mod list;

/// What a node says to a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeMessage {
    /// The first message.
    Hello(Hello),
    /// Asks for the id of a peer.
    Open(Open),
    /// Who is revoked, by root (a signed `statement::Revocations`): the relay's list is older.
    Revocations(Signed),
}

/// The first message of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The version of the protocol that the node speaks.
    pub version: u32,
    /// The signed relay token, at most [`MAX_TOKEN_LEN`] bytes.
    pub token: Vec<u8>,
    /// The epoch of the newest list of the revoked that the node has, 0 for none; absent if it takes
    /// no lists.
    pub revocations: Option<u64>,
}

/// Asks how to address another node in data frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// Repeated in the answer.
    pub request: u32,
    /// Whom the node wants to reach.
    pub node: NodeId,
}

/// What a relay says to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelayMessage {
    /// The node is registered.
    Welcome(Welcome),
    /// Answers [`Open`].
    Opened(Opened),
    /// The registration with this id has ended; frames to it are dropped.
    Gone {
        /// The id that [`Opened`] or a data frame has named before.
        peer: u32,
    },
    /// Where a question came from.
    Observed {
        /// To which of the relay's ports it came.
        asked_port: u16,
        /// From where.
        seen: SocketAddr,
    },
    /// The same node has registered on another session; this one ends.
    Superseded,
    /// The node is not registered; the session ends.
    Refused(Refused),
    /// Who is revoked, by root (a signed `statement::Revocations`): the node's list is older.
    Revocations(Signed),
}

/// A registration, as the node needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The link id that stands in all data frames of this node; never zero.
    pub link: u32,
    /// The node's address as the relay sees it.
    pub observed: SocketAddr,
    /// What the relay allows.
    pub limits: Limits,
    /// A second port of the relay, at which it tells whether the node's NAT shows it another
    /// address than here; none if the relay has none.
    pub observe_port: Option<u16>,
    /// The epoch of the newest list of the revoked that the relay has, 0 for none; absent if it takes
    /// no lists.
    pub revocations: Option<u64>,
}

/// What a relay allows a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the largest packet that a data frame may carry.
    pub max_packet: u32,
    /// After this time without a packet on the session the registration ends.
    pub idle_timeout: Duration,
}

/// Answers [`Open`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The number in the request.
    pub request: u32,
    /// The peer's id in data frames, never zero, or why there is none.
    pub result: Result<u32, OpenRefusal>,
}

/// Why a relay does not name a peer's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenRefusal {
    /// No such node is registered here, or none that the asking node may know of: the two look
    /// alike.
    #[error("no such node is registered at this relay")]
    UnknownNode,
    /// The node has opened as many peers as the relay allows.
    #[error("too many peers opened at this relay")]
    TooManyPeers,
}

/// Why a node is not registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refused {
    /// The kind of reason, for programs.
    pub reason: HelloRefusal,
    /// The reason, for people.
    pub text: String,
}

/// The kinds of reasons for which a node is not registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HelloRefusal {
    /// The relay does not speak the node's version.
    Version,
    /// The token is not valid for this node.
    Token,
    /// The relay has as many registrations as it may have.
    Full,
    /// The node did not keep to the protocol.
    Protocol,
    /// The node's key or that of its cluster is revoked.
    Revoked,
}

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The message is longer than [`MAX_MESSAGE_LEN`], or [`MAX_LONG_MESSAGE_LEN`] for a list.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// The bytes are no protobuf of the expected type.
    #[error("not a protobuf message of the relay protocol")]
    Encoding,
    /// A message of no kind, or of one that this version does not know.
    #[error("a message without a kind that this version knows")]
    Kind,
    /// A field is missing or out of range.
    #[error("field {0} is missing or out of range")]
    Field(&'static str),
    /// The node's id is not well-formed.
    #[error("not a node id: {0}")]
    Node(#[from] IdError),
}

impl NodeMessage {
    /// The message behind its length, ready for the stream.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        use wire::from_node::Message as Kind;
        let kind = match self {
            Self::Hello(hello) => Kind::Hello(wire::Hello {
                version: hello.version,
                token: hello.token.clone(),
                revocations: hello.revocations,
            }),
            Self::Open(open) => Kind::Open(wire::Open {
                request: open.request,
                node: open.node.to_string(),
            }),
            Self::Revocations(signed) => Kind::Revocations(list::to_wire(signed)),
        };
        framed(&wire::FromNode {
            message: Some(kind),
        })
    }

    /// Reads one message, without its length.
    ///
    /// # Errors
    /// Says what is wrong with the bytes.
    pub fn decode(message: &[u8]) -> Result<Self, MessageError> {
        use wire::from_node::Message as Kind;
        let decoded = wire::FromNode::decode(message).map_err(|_| MessageError::Encoding)?;
        let kind = decoded.message.ok_or(MessageError::Kind)?;
        list::check_len(message.len(), matches!(kind, Kind::Revocations(_)))?;
        match kind {
            Kind::Hello(hello) if hello.token.len() > MAX_TOKEN_LEN => {
                Err(MessageError::Field("token"))
            }
            Kind::Hello(hello) => Ok(Self::Hello(Hello {
                version: hello.version,
                token: hello.token,
                revocations: hello.revocations,
            })),
            Kind::Open(open) => Ok(Self::Open(Open {
                request: open.request,
                node: open.node.parse()?,
            })),
            Kind::Revocations(list) => list.try_into().map(Self::Revocations),
        }
    }
}

impl RelayMessage {
    /// The message behind its length, ready for the stream.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        use wire::from_relay::Message as Kind;
        let kind = match self {
            Self::Welcome(welcome) => Kind::Welcome(welcome.to_wire()),
            Self::Opened(opened) => Kind::Opened(opened.to_wire()),
            Self::Gone { peer } => Kind::Gone(wire::Gone { peer: *peer }),
            Self::Observed { asked_port, seen } => Kind::Observed(wire::Observed {
                ip: ip_bytes(seen.ip()),
                port: u32::from(seen.port()),
                asked_port: u32::from(*asked_port),
            }),
            Self::Superseded => Kind::Superseded(wire::Superseded {}),
            Self::Refused(refused) => Kind::Refused(refused.to_wire()),
            Self::Revocations(signed) => Kind::Revocations(list::to_wire(signed)),
        };
        framed(&wire::FromRelay {
            message: Some(kind),
        })
    }

    /// Reads one message, without its length.
    ///
    /// # Errors
    /// Says what is wrong with the bytes.
    pub fn decode(message: &[u8]) -> Result<Self, MessageError> {
        use wire::from_relay::Message as Kind;
        let decoded = wire::FromRelay::decode(message).map_err(|_| MessageError::Encoding)?;
        let kind = decoded.message.ok_or(MessageError::Kind)?;
        list::check_len(message.len(), matches!(kind, Kind::Revocations(_)))?;
        match kind {
            Kind::Welcome(welcome) => welcome.try_into().map(Self::Welcome),
            Kind::Opened(opened) => opened.try_into().map(Self::Opened),
            Kind::Gone(gone) => nonzero(gone.peer, "peer").map(|peer| Self::Gone { peer }),
            Kind::Observed(told) => {
                let ip = ip_of(&told.ip).ok_or(MessageError::Field("ip"))?;
                let port = port_of(told.port).ok_or(MessageError::Field("port"))?;
                let asked = port_of(told.asked_port).ok_or(MessageError::Field("asked_port"))?;
                Ok(Self::Observed {
                    asked_port: asked,
                    seen: SocketAddr::new(ip, port),
                })
            }
            Kind::Superseded(_) => Ok(Self::Superseded),
            Kind::Refused(refused) => refused.try_into().map(Self::Refused),
            Kind::Revocations(list) => list.try_into().map(Self::Revocations),
        }
    }
}

impl Welcome {
    fn to_wire(&self) -> wire::Welcome {
        wire::Welcome {
            link: self.link,
            observed_ip: ip_bytes(self.observed.ip()),
            observed_port: u32::from(self.observed.port()),
            max_packet: self.limits.max_packet,
            idle_timeout_ms: u32::try_from(self.limits.idle_timeout.as_millis())
                .unwrap_or(u32::MAX),
            observe_port: self.observe_port.map_or(0, u32::from),
            revocations: self.revocations,
        }
    }
}

fn ip_bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|ip| Ipv4Addr::from(ip).into());
    let v6 = || <[u8; 16]>::try_from(bytes).map(|ip| Ipv6Addr::from(ip).into());
    v4.or_else(|_| v6()).ok()
}

fn port_of(number: u32) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}

impl TryFrom<wire::Welcome> for Welcome {
    type Error = MessageError;

    fn try_from(welcome: wire::Welcome) -> Result<Self, MessageError> {
        let ip = ip_of(&welcome.observed_ip).ok_or(MessageError::Field("observed_ip"))?;
        let port = port_of(welcome.observed_port).ok_or(MessageError::Field("observed_port"))?;
        Ok(Self {
            link: nonzero(welcome.link, "link")?,
            observed: SocketAddr::new(ip, port),
            limits: Limits {
                max_packet: nonzero(welcome.max_packet, "max_packet")?,
                idle_timeout: Duration::from_millis(u64::from(nonzero(
                    welcome.idle_timeout_ms,
                    "idle_timeout_ms",
                )?)),
            },
            observe_port: port_of(welcome.observe_port),
            revocations: welcome.revocations,
        })
    }
}

impl Opened {
    fn to_wire(&self) -> wire::Opened {
        use wire::opened::Result as Outcome;
        let result = match self.result {
            Ok(peer) => Outcome::Peer(peer),
            Err(OpenRefusal::UnknownNode) => {
                Outcome::Refusal(wire::OpenRefusal::UnknownNode.into())
            }
            Err(OpenRefusal::TooManyPeers) => {
                Outcome::Refusal(wire::OpenRefusal::TooManyPeers.into())
            }
        };
        wire::Opened {
            request: self.request,
            result: Some(result),
        }
    }
}

impl TryFrom<wire::Opened> for Opened {
    type Error = MessageError;

    fn try_from(opened: wire::Opened) -> Result<Self, MessageError> {
        use wire::opened::Result as Outcome;
        let result = match opened.result.ok_or(MessageError::Field("result"))? {
            Outcome::Peer(peer) => Ok(nonzero(peer, "peer")?),
            Outcome::Refusal(refusal) => match wire::OpenRefusal::try_from(refusal) {
                Ok(wire::OpenRefusal::UnknownNode) => Err(OpenRefusal::UnknownNode),
                Ok(wire::OpenRefusal::TooManyPeers) => Err(OpenRefusal::TooManyPeers),
                Ok(wire::OpenRefusal::Unspecified) | Err(_) => {
                    return Err(MessageError::Field("refusal"));
                }
            },
        };
        Ok(Self {
            request: opened.request,
            result,
        })
    }
}

impl Refused {
    fn to_wire(&self) -> wire::Refused {
        let reason = match self.reason {
            HelloRefusal::Version => wire::HelloRefusal::Version,
            HelloRefusal::Token => wire::HelloRefusal::Token,
            HelloRefusal::Full => wire::HelloRefusal::Full,
            HelloRefusal::Protocol => wire::HelloRefusal::Protocol,
            HelloRefusal::Revoked => wire::HelloRefusal::Revoked,
        };
        let cut = self.text.floor_char_boundary(MAX_TEXT_LEN);
        wire::Refused {
            reason: reason.into(),
            text: self.text[..cut].to_owned(),
        }
    }
}

impl TryFrom<wire::Refused> for Refused {
    type Error = MessageError;

    fn try_from(refused: wire::Refused) -> Result<Self, MessageError> {
        let reason = match wire::HelloRefusal::try_from(refused.reason) {
            Ok(wire::HelloRefusal::Version) => HelloRefusal::Version,
            Ok(wire::HelloRefusal::Token) => HelloRefusal::Token,
            Ok(wire::HelloRefusal::Full) => HelloRefusal::Full,
            Ok(wire::HelloRefusal::Protocol) => HelloRefusal::Protocol,
            Ok(wire::HelloRefusal::Revoked) => HelloRefusal::Revoked,
            Ok(wire::HelloRefusal::Unspecified) | Err(_) => {
                return Err(MessageError::Field("reason"));
            }
        };
        Ok(Self {
            reason,
            text: refused.text,
        })
    }
}

fn nonzero(value: u32, field: &'static str) -> Result<u32, MessageError> {
    if value == 0 {
        return Err(MessageError::Field(field));
    }
    Ok(value)
}

/// A message behind its length. Ours are below the limits: ids, texts, tokens and statements are
/// bounded.
fn framed(message: &impl Message) -> Vec<u8> {
    debug_assert!(
        message.encoded_len() <= MAX_LONG_MESSAGE_LEN,
        "a message of {} bytes",
        message.encoded_len()
    );
    stream::framed(&message.encode_to_vec())
}

#[cfg(test)]
mod tests;
