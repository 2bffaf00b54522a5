//! Connections of the L4 lane: what the shell asks and says about them.
//!
//! Near, a SYN leads to [`Verdict::Stream`](crate::verdict::Verdict::Stream): the shell keeps the
//! packet and opens a stream to the far node, then either admits the flow and hands the packet in
//! again, or refuses it. Far, the shell asks whether a stream may lead to its target, and gets the
//! phantom to connect to. The flow table does the rest, as for any flow.

use std::net::SocketAddr;
use std::time::Instant;

use weald_proto::table::AcceptPolicy;

use super::DataPlane;
use crate::flow::{
    Direction, Flow, FlowId, FlowKey, FlowState, Lane, LaneReason, OpenError, Opening, Side,
    StreamEnd, TcpState,
};
use crate::lane::{Hello, LISTEN_PORT, stack};
use crate::packet::PROTOCOL_TCP;
use crate::reject::{Reject, reject};
use crate::table::{Host, PeerId};
use crate::verdict::DropReason;

use super::Target;

/// Phantoms tried for one connection: a taken one is a connection older than all others.
const MAX_PHANTOMS: usize = 16;

/// A stream that a flow needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamWanted {
    /// The node to open it to.
    pub peer: PeerId,
    /// What to say on it first.
    pub hello: Hello,
    /// Whether the flow is admitted as soon as the stream is open, or when the target has accepted.
    pub accept: AcceptPolicy,
}

impl DataPlane {
    /// Where the stream of a flow goes whose connection begins here.
    #[must_use]
    pub fn stream_wanted(&self, id: FlowId) -> Option<StreamWanted> {
        let flow = self.flows.flow(id)?;
        let Some(StreamEnd::Near {
            peer,
            target,
            accept,
            ..
        }) = flow.stream()
        else {
            return None;
        };
        let client = flow.key(Direction::Forward);
        let client = SocketAddr::new(client.source(), client.source_port());
        Some(StreamWanted {
            peer: *peer,
            hello: Hello {
                client,
                target: *target,
            },
            accept: *accept,
        })
    }

    /// The flow of a connection that the stack has accepted from that phantom.
    #[must_use]
    pub fn stream_of(&self, phantom: SocketAddr, now: Instant) -> Option<FlowId> {
        let listener = stack(phantom.is_ipv6(), LISTEN_PORT);
        let key = FlowKey::between(PROTOCOL_TCP, Side::Tun, listener, phantom);
        self.flows.find(&key, now).map(|(id, _)| id)
    }

    /// The target has accepted, or the client need not wait for that: the packets of the flow go to
    /// the stack from now on.
    pub fn admit_stream(&mut self, id: FlowId) {
        self.flows.admit_stream(id);
    }

    /// The target has not accepted. With `elsewhere`, another instance of its service is asked if
    /// there is one ([`DataPlane::poll_again`]); else the opener is told, by what its first packet
    /// was, and may try again.
    pub fn refuse_stream(&mut self, id: FlowId, packet: &[u8], elsewhere: bool) {
        if !(elsewhere && self.begin_again(id))
            && self.flows.remove(id).is_some()
            && let Some(answer) = reject(packet, Reject::NoInstance)
        {
            self.answers.push(Target::Tun, answer);
        }
    }

    /// Forgets a flow whose stack end was never made.
    pub fn forget_stream(&mut self, id: FlowId) {
        self.flows.remove(id);
    }

    /// Opens the flow of a stream that a peer has opened; the result is the flow, and the phantom
    /// that the stack connects to, from `port`, which is one of
    /// [`DIAL_PORTS`](crate::lane::DIAL_PORTS).
    ///
    /// # Errors
    /// Why it may not be, which is counted: the client is not in the sender's lease, the target is
    /// not hosted here, policy forbids it, or the flow table has no room for it.
    pub fn accept_stream(
        &mut self,
        from: PeerId,
        hello: &Hello,
        port: u16,
        now: Instant,
    ) -> Result<(FlowId, SocketAddr), DropReason> {
        let result = self.may_begin(from, hello).and_then(|()| {
            let v6 = hello.target.is_ipv6();
            let mut last = DropReason::FlowCollision;
            for _ in 0..MAX_PHANTOMS {
                let phantom = self.phantoms.next(v6);
                match self.flows.open(far(from, hello, port, phantom), true, now) {
                    Ok(id) => return Ok((id, phantom)),
                    Err(OpenError::Collision) => {}
                    Err(OpenError::Full) => {
                        last = DropReason::FlowTableFull;
                        break;
                    }
                }
            }
            Err(last)
        });
        if let Err(reason) = result {
            self.counters.count(reason);
        }
        result
    }

    /// Whether a stream that a peer has opened may lead to its target, where no flow is opened for
    /// it because its end is not at the device. A refusal is counted.
    ///
    /// # Errors
    /// As [`DataPlane::accept_stream`], but for the flow table.
    pub fn check_stream(&mut self, from: PeerId, hello: &Hello) -> Result<(), DropReason> {
        let result = self.may_begin(from, hello);
        if let Err(reason) = result {
            self.counters.count(reason);
        }
        result
    }

    /// Whether [`DataPlane::check_stream`] would still allow a stream; nothing is counted.
    #[must_use]
    pub fn still_allows_stream(&self, from: PeerId, hello: &Hello) -> bool {
        self.may_accept(from, hello).is_ok()
    }

    /// Whether a stream may begin now.
    fn may_begin(&self, from: PeerId, hello: &Hello) -> Result<(), DropReason> {
        self.may_accept(from, hello)?;
        let Some(table) = self.table.as_deref() else {
            return Ok(());
        };
        let owner = table.owner(hello.target.ip());
        let instance = owner.and_then(|owner| owner.instance);
        let instance = instance.map(|index| table.instance(index));
        // Whose connections were accepted early cannot be told to ask another one.
        let refuses = instance
            .is_some_and(|it| it.drains && table.service(it.service).accept == AcceptPolicy::Late);
        if refuses {
            return Err(DropReason::InstanceDrains);
        }
        Ok(())
    }

    fn may_accept(&self, from: PeerId, hello: &Hello) -> Result<(), DropReason> {
        let Some(table) = self.table.as_deref() else {
            return Err(DropReason::SourceNotLeased);
        };
        let client = table
            .owner(hello.client.ip())
            .filter(|owner| owner.host == Host::Peer(from))
            .ok_or(DropReason::SourceNotLeased)?;
        let (owner, ip) = (table.owner(hello.target.ip()), hello.target.ip());
        let target = match owner {
            Some(owner) => {
                (owner.host == Host::Local).then(|| table.organisation(owner.organisation))
            }
            // It is still there for a moment, and the peer may not have heard yet.
            None => (self.departed.iter())
                .find(|(_, departed, _)| *departed == ip)
                .map(|(.., organisation)| organisation),
        };
        let target = target.ok_or(DropReason::DestinationNotHosted)?;
        if table.organisation(client.organisation) != target {
            return Err(DropReason::PolicyDenied);
        }
        if hello.client.port() == 0 || hello.target.port() == 0 {
            return Err(DropReason::PortZero);
        }
        if hello.client.is_ipv6() != hello.target.is_ipv6() {
            return Err(DropReason::Malformed);
        }
        Ok(())
    }

    /// The near end of a new flow, if it is of this lane.
    pub(super) fn near_end(
        &mut self,
        lane: Lane,
        responder: Host,
        accept: AcceptPolicy,
        target: SocketAddr,
    ) -> Option<StreamEnd> {
        let (Lane::L4, Host::Peer(peer)) = (lane, responder) else {
            return None;
        };
        let v6 = target.is_ipv6();
        Some(StreamEnd::Near {
            peer,
            target,
            listener: stack(v6, LISTEN_PORT),
            phantom: self.phantoms.next(v6),
            accept,
            ready: false,
        })
    }
}

/// Whether a packet of the flow has to wait until the far end has connected.
pub(super) fn waits(flow: &Flow) -> bool {
    matches!(flow.stream(), Some(StreamEnd::Near { ready: false, .. }))
}

fn far(from: PeerId, hello: &Hello, port: u16, phantom: SocketAddr) -> Opening {
    let stack = stack(phantom.is_ipv6(), port);
    Opening {
        key: FlowKey::between(PROTOCOL_TCP, Side::Tun, stack, phantom),
        opener: Host::Peer(from),
        responder_ip: hello.target.ip(),
        responder: Host::Local,
        state: FlowState::Tcp(TcpState::SynSent),
        policy: None,
        lane: Lane::L4,
        lane_reason: LaneReason::OpenersChoice,
        stream: Some(StreamEnd::Far {
            peer: from,
            client: hello.client,
            target: hello.target,
        }),
    }
}
