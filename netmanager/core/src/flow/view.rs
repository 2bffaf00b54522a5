//! A flow as an operator sees it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use weald_proto::name::{InstanceId, Policy, ServiceName};
use weald_proto::table::AcceptPolicy;

use super::{Direction, Flow, FlowState, Lane, LaneReason, StreamEnd, Traffic};
use crate::table::{Host, PeerId, Snapshot};

/// Everything about one flow, for `netmanager flows`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowView {
    /// The protocol number: TCP, UDP, ICMP or ICMPv6.
    pub protocol: u8,
    /// The opener's address.
    pub client: IpAddr,
    /// The opener's port, or the identifier of its echo requests.
    pub client_port: u16,
    /// The address that the opener asked for.
    pub asked: IpAddr,
    /// The port that it asked for; 0 for an echo.
    pub asked_port: u16,
    /// The service that it asked for, or that the instance asked for belongs to.
    pub service: Option<ServiceName>,
    /// The policy that chose the instance: `instance` if it was asked for by its own
    /// address, none for a node's address and for what a peer has opened.
    pub policy: Option<Policy>,
    /// The instance that answers; none for a node's own address.
    pub instance: Option<InstanceId>,
    /// The address that answers.
    pub instance_ip: IpAddr,
    /// Where the opener is.
    pub opener: Host,
    /// Where the instance is.
    pub responder: Host,
    /// The other node, if one end is not here.
    pub peer: Option<PeerId>,
    /// How its bytes travel.
    pub lane: Lane,
    /// Why so.
    pub lane_reason: LaneReason,
    /// When its opener hears that it is connected, if it begins here on the L4 lane.
    pub accept: Option<AcceptPolicy>,
    /// What its packets have shown.
    pub state: FlowState,
    /// Time since it was opened.
    pub age: Duration,
    /// Time since its last packet.
    pub idle: Duration,
    /// From the opener.
    pub sent: Traffic,
    /// To the opener.
    pub received: Traffic,
}

impl FlowView {
    pub(crate) fn new(flow: &Flow, table: Option<&Snapshot>, now: Instant) -> Self {
        let key = flow.key(Direction::Forward);
        let instance = table.and_then(|table| {
            let index = table.owner(flow.responder())?.instance?;
            Some(table.instance(index).id.clone())
        });
        let (lane, lane_reason) = flow.lane();
        let (opener, responder) = (flow.opener(), flow.answerer());
        let (client, client_port) = flow.client_end();
        let (asked, asked_port) = flow.asked_end();
        Self {
            protocol: key.protocol(),
            client,
            client_port,
            asked,
            asked_port,
            service: instance.as_ref().map(|id| id.service.clone()),
            policy: flow.policy(),
            instance,
            instance_ip: flow.responder(),
            opener,
            responder,
            peer: peer(opener).or_else(|| peer(responder)),
            lane,
            lane_reason,
            accept: match flow.stream() {
                Some(StreamEnd::Near { accept, .. }) => Some(*accept),
                Some(StreamEnd::Far { .. }) | None => None,
            },
            state: flow.state(),
            age: now.saturating_duration_since(flow.created),
            idle: now.saturating_duration_since(flow.last_used),
            sent: flow.traffic(Direction::Forward),
            received: flow.traffic(Direction::Reply),
        }
    }
}

const fn peer(host: Host) -> Option<PeerId> {
    match host {
        Host::Local => None,
        Host::Peer(peer) => Some(peer),
    }
}
