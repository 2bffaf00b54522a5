//! Flows: what has been decided about the packets of one conversation.
//!
//! A flow has two keys, one for each direction, made together: a packet with either is handled by
//! one hash lookup. [`Flow`] is what stands behind them, [`FlowTable`] keeps them, `key`, `state`,
//! `tcp` and `lane` are its parts. Which instance a new flow gets is `balance`'s, rewriting
//! packets `translate`'s, and everything about peers and leases the data plane's.

use std::net::IpAddr;
use std::time::Instant;

use weald_proto::name::Policy;

pub use self::choices::{CHOICES_LEN, Choices, PLACE_LEN};
pub use self::key::{FlowKey, Side};
pub use self::lane::{Lane, LaneReason};
pub use self::state::{FlowState, Usefulness};
pub use self::stream::StreamEnd;
pub use self::table::{FlowId, FlowTable, OpenError};
pub use self::tcp::{TcpEnd, TcpState};
pub use self::view::FlowView;

use crate::packet::{L4, PacketInfo};
use crate::table::Host;

mod choices;
mod key;
pub(crate) mod lane;
mod order;
mod state;
mod stream;
mod table;
pub(crate) mod tcp;
mod view;

/// Which way a packet of a flow goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the opener to the responder.
    Forward,
    /// Back.
    Reply,
}

impl Direction {
    /// Both directions.
    pub const BOTH: [Self; 2] = [Self::Forward, Self::Reply];

    /// The other direction.
    #[must_use]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Forward => Self::Reply,
            Self::Reply => Self::Forward,
        }
    }
}

/// What a flow has carried in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Packets; a super-packet counts once.
    pub packets: u64,
    /// Bytes of those packets, inner headers included.
    pub bytes: u64,
}

/// Everything that is decided when a flow is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// The key of the packet that opens it.
    pub key: FlowKey,
    /// Where the opener is.
    pub opener: Host,
    /// The address that answers: the destination asked for, or the instance behind it.
    pub responder_ip: IpAddr,
    /// Where that is.
    pub responder: Host,
    /// What the first packet has shown.
    pub state: FlowState,
    /// By which policy the responder was chosen: `instance` if it was asked for by its own
    /// address, none for a node's address and for what a peer has opened.
    pub policy: Option<Policy>,
    /// How its bytes travel.
    pub lane: Lane,
    /// Why so.
    pub lane_reason: LaneReason,
    /// Where it really goes, on the L4 lane: the keys are those of packets to and from this node's
    /// stack then.
    pub stream: Option<StreamEnd>,
}

/// A flow.
///
/// Invariant: at most one of its two ends is on another node. Only a flow whose opener is here is
/// translated, and one of the L4 lane, of which both ends are here: a program and the stack.
#[derive(Debug, Clone)]
pub struct Flow {
    keys: PerDirection<FlowKey>,
    ends: PerDirection<Host>,
    translated: bool,
    state: FlowState,
    policy: Option<Policy>,
    lane: Lane,
    lane_reason: LaneReason,
    /// Few flows have one, and it is larger than all the rest.
    stream: Option<Box<StreamEnd>>,
    created: Instant,
    last_used: Instant,
    expires: Instant,
    traffic: PerDirection<Traffic>,
    tcp: PerDirection<TcpEnd>,
    generation: u32,
    link: order::Link,
}

/// One value for each direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct PerDirection<T> {
    forward: T,
    reply: T,
}

impl<T> PerDirection<T> {
    const fn of(&self, direction: Direction) -> &T {
        match direction {
            Direction::Forward => &self.forward,
            Direction::Reply => &self.reply,
        }
    }

    const fn of_mut(&mut self, direction: Direction) -> &mut T {
        match direction {
            Direction::Forward => &mut self.forward,
            Direction::Reply => &mut self.reply,
        }
    }
}

/// The two addresses of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The source.
    pub source: IpAddr,
    /// The destination.
    pub destination: IpAddr,
}

impl Opening {
    /// The key of the answers. An instance that reaches itself through its own service would hear
    /// from its own address, which no kernel accepts, so it hears from the service's: there the
    /// source is translated as well.
    fn reply_key(&self) -> FlowKey {
        if let Some(stream) = &self.stream {
            return stream.reply_key();
        }
        let reply = self.key.reversed(Side::of(self.responder));
        if self.responder_ip == self.key.source() {
            return reply.with_addresses(self.responder_ip, self.key.destination());
        }
        reply.with_addresses(self.responder_ip, self.key.source())
    }

    /// The flow that this opens, not in a table yet.
    fn into_flow(self, now: Instant) -> Flow {
        let ends = match self.stream {
            Some(_) => [Host::Local; 2],
            None => [self.opener, self.responder],
        };
        let [opener, responder] = ends;
        Flow {
            keys: PerDirection {
                forward: self.key,
                reply: self.reply_key(),
            },
            ends: PerDirection {
                forward: opener,
                reply: responder,
            },
            translated: self.stream.is_some() || self.responder_ip != self.key.destination(),
            state: self.state,
            policy: self.policy,
            lane: self.lane,
            lane_reason: self.lane_reason,
            stream: self.stream.map(Box::new),
            created: now,
            last_used: now,
            expires: now + self.state.lifetime(),
            traffic: PerDirection::default(),
            tcp: PerDirection::default(),
            generation: 0,
            link: order::Link::default(),
        }
    }
}

impl Flow {
    /// The key of packets in that direction, as they arrive.
    #[must_use]
    pub const fn key(&self, direction: Direction) -> &FlowKey {
        self.keys.of(direction)
    }

    /// Where packets in that direction come from.
    #[must_use]
    pub const fn source(&self, direction: Direction) -> Host {
        *self.ends.of(direction)
    }

    /// Where packets in that direction go.
    #[must_use]
    pub const fn destination(&self, direction: Direction) -> Host {
        self.source(direction.opposite())
    }

    /// Where it really goes, on the L4 lane.
    #[must_use]
    pub fn stream(&self) -> Option<&StreamEnd> {
        self.stream.as_deref()
    }

    /// Where the program is that has opened it.
    #[must_use]
    pub fn opener(&self) -> Host {
        match self.stream() {
            Some(StreamEnd::Far { peer, .. }) => Host::Peer(*peer),
            Some(StreamEnd::Near { .. }) => Host::Local,
            None => self.ends.forward,
        }
    }

    /// Where the program is that answers.
    #[must_use]
    pub fn answerer(&self) -> Host {
        match self.stream() {
            Some(StreamEnd::Near { peer, .. }) => Host::Peer(*peer),
            Some(StreamEnd::Far { .. }) => Host::Local,
            None => self.ends.reply,
        }
    }

    /// The opener's address and port, or the identifier of its echo requests.
    #[must_use]
    pub fn client_end(&self) -> (IpAddr, u16) {
        match self.stream() {
            Some(StreamEnd::Far { client, .. }) => (client.ip(), client.port()),
            Some(StreamEnd::Near { .. }) | None => {
                let key = &self.keys.forward;
                (key.source(), key.source_port())
            }
        }
    }

    /// The address and port that the opener asked for: a service's, an instance's or a node's.
    #[must_use]
    pub fn asked_end(&self) -> (IpAddr, u16) {
        match self.stream() {
            Some(StreamEnd::Far { target, .. }) => (target.ip(), target.port()),
            Some(StreamEnd::Near { .. }) | None => {
                let key = &self.keys.forward;
                (key.destination(), key.destination_port())
            }
        }
    }

    /// The opener's address.
    #[must_use]
    pub fn client(&self) -> IpAddr {
        self.client_end().0
    }

    /// The address that the opener asked for: a service's, an instance's or a node's.
    #[must_use]
    pub fn asked(&self) -> IpAddr {
        self.asked_end().0
    }

    /// The address that answers.
    #[must_use]
    pub fn responder(&self) -> IpAddr {
        match self.stream() {
            Some(StreamEnd::Near { target, .. } | StreamEnd::Far { target, .. }) => target.ip(),
            None => self.keys.reply.source(),
        }
    }

    /// Whether addresses are rewritten.
    #[must_use]
    pub const fn is_translated(&self) -> bool {
        self.translated
    }

    /// The addresses of packets in that direction when they arrive.
    #[must_use]
    pub fn arriving(&self, direction: Direction) -> Addresses {
        let key = self.key(direction);
        Addresses {
            source: key.source(),
            destination: key.destination(),
        }
    }

    /// The addresses of packets in that direction when they leave: what the other end answers to.
    #[must_use]
    pub fn leaving(&self, direction: Direction) -> Addresses {
        let answer = self.key(direction.opposite());
        Addresses {
            source: answer.destination(),
            destination: answer.source(),
        }
    }

    /// What its packets have shown.
    #[must_use]
    pub const fn state(&self) -> FlowState {
        self.state
    }

    /// By which policy the responder was chosen.
    #[must_use]
    pub const fn policy(&self) -> Option<Policy> {
        self.policy
    }

    /// How its bytes travel, and why.
    #[must_use]
    pub const fn lane(&self) -> (Lane, LaneReason) {
        (self.lane, self.lane_reason)
    }

    /// What the source of that direction has sent last over TCP.
    #[must_use]
    pub const fn tcp_end(&self, direction: Direction) -> &TcpEnd {
        self.tcp.of(direction)
    }

    /// When it is forgotten unless another packet comes.
    #[must_use]
    pub const fn expires(&self) -> Instant {
        self.expires
    }

    /// What it has carried in that direction.
    #[must_use]
    pub const fn traffic(&self, direction: Direction) -> Traffic {
        *self.traffic.of(direction)
    }

    /// Takes note of a packet in that direction. `bytes` is the packet.
    fn note(&mut self, direction: Direction, info: &PacketInfo, bytes: &[u8], now: Instant) {
        let traffic = self.traffic.of_mut(direction);
        traffic.packets += 1;
        traffic.bytes += u64::from(info.total_len);
        let mut tcp_flags = None;
        if let L4::Tcp { flags, .. } = info.l4 {
            tcp_flags = Some(flags);
            if let Some(l4) = bytes.get(usize::from(info.l4_offset)..) {
                self.tcp
                    .of_mut(direction)
                    .note(l4, flags, info.payload_len());
            }
        }
        self.state = self.state.after(direction, tcp_flags);
        self.last_used = now;
        self.expires = now + self.state.lifetime();
    }
}
