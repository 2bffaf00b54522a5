//! Opens flows: who may talk to whom, which instance, which lane.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use weald_proto::name::Policy;
use weald_proto::table::LanePolicy;

use super::DataPlane;
use super::check::{Refusal, has_port_zero, sender};
use crate::balance::{Balancer, Family, MAX_ATTEMPTS, PickError};
use crate::dataplane::Reachability;
use crate::flow::lane::{self, PathFacts};
use crate::flow::{FlowId, FlowKey, FlowState, Lane, LaneReason, OpenError, Opening, TcpState};
use crate::packet::PacketInfo;
use crate::reject::Reject;
use crate::table::{Host, Owner, ServiceIndex, Snapshot};
use crate::verdict::DropReason;

impl DataPlane {
    /// Opens the flow that a packet begins which belongs to none.
    pub(super) fn open(
        &mut self,
        from: Host,
        key: FlowKey,
        info: &PacketInfo,
        now: Instant,
    ) -> Result<FlowId, Refusal> {
        let Some(table) = self.table.clone() else {
            return Err(sender(None, from, info)
                .err()
                .unwrap_or(Refusal::Drop(DropReason::DestinationUnknown)));
        };
        let client = sender(Some(&table), from, info)?;
        if has_port_zero(&info.l4) {
            return Err(Refusal::Drop(DropReason::PortZero));
        }
        let Some(state) = FlowState::opened_by(&info.l4) else {
            return Err(Refusal::Drop(DropReason::UnsupportedProtocol));
        };
        let new = NewFlow {
            key,
            opener: from,
            state,
        };
        if let Some((service, policy)) = table.service_at(info.dst) {
            return self.open_to_service(&table, client, service, policy, new, now);
        }
        if let Some(responder) = table.owner(info.dst) {
            return self.open_to_address(&table, client, responder, info, new, now);
        }
        if table.pools().contains(info.dst) {
            let (reason, why) = (DropReason::DestinationUnknown, Reject::PeerUnreachable);
            return Err(Refusal::Reject(reason, why));
        }
        Err(Refusal::Drop(DropReason::UnroutableAddress))
    }

    /// From a local opener to an address that stands for a service.
    fn open_to_service(
        &mut self,
        table: &Snapshot,
        client: &Owner,
        service: ServiceIndex,
        policy: Policy,
        new: NewFlow,
        now: Instant,
    ) -> Result<FlowId, Refusal> {
        if client.organisation != table.service(service).organisation {
            let (reason, why) = (DropReason::PolicyDenied, Reject::Prohibited);
            return Err(Refusal::Reject(reason, why));
        }
        if matches!(new.state, FlowState::Tcp(state) if state != TcpState::SynSent)
            || new.is_answer()
        {
            return self.resume(table, service, policy, new, now);
        }
        self.ask_for_lost(table, service);
        if policy == Policy::Closest {
            self.ask_for_distances(table, service);
        }
        let family = Family::of(new.key.destination());
        let at = |ip| SocketAddr::new(ip, new.key.destination_port());
        for force in [false, true] {
            for attempt in 0..MAX_ATTEMPTS {
                let pick =
                    match self
                        .balancer
                        .pick(table, &self.peers, service, policy, family, attempt)
                    {
                        Ok(pick) => pick,
                        Err(PickError::Exhausted) => break,
                        Err(PickError::NoInstance) => {
                            let (reason, why) = (DropReason::NoInstance, Reject::NoInstance);
                            return Err(Refusal::Reject(reason, why));
                        }
                        Err(PickError::AllDown) => return Err(PEER_UNREACHABLE),
                    };
                if self.openings.has_tried(pick.ip) {
                    continue;
                }
                let asked = table.service(service);
                let (lane, lane_reason) = if self.openings.is_again() {
                    // Its client has waited long enough.
                    self.lane(pick.host, Some(asked.lane), new.state)
                } else {
                    self.lane_of_new(pick.host, Some(asked.lane), new.state)?
                };
                let opening = Opening {
                    key: new.key,
                    opener: new.opener,
                    responder_ip: pick.ip,
                    responder: pick.host,
                    state: new.state,
                    policy: Some(policy),
                    lane,
                    lane_reason,
                    stream: self.near_end(lane, pick.host, asked.accept, at(pick.ip)),
                };
                match self.flows.open(opening, force, now) {
                    Ok(flow) => {
                        self.balancer.commit(table, service, policy, &pick);
                        self.keep_choice(&new, lane, pick.ip);
                        let begins = new.state == FlowState::Tcp(TcpState::SynSent);
                        if begins && asked.instances.len() > 1 {
                            self.openings.note(flow);
                        }
                        *self.lanes.entry((lane, lane_reason)).or_default() += 1;
                        return Ok(flow);
                    }
                    Err(OpenError::Collision) => {}
                    Err(OpenError::Full) => return Err(refused(OpenError::Full)),
                }
            }
        }
        Err(refused(OpenError::Collision))
    }

    /// Goes on with a connection to a service that a former process has opened.
    fn resume(
        &mut self,
        table: &Snapshot,
        service: ServiceIndex,
        policy: Policy,
        new: NewFlow,
        now: Instant,
    ) -> Result<FlowId, Refusal> {
        // Any other instance than the one that has had the conversation would not know it.
        const UNKNOWN: Refusal = Refusal::Reject(DropReason::FlowUnknown, Reject::NoInstance);
        let asked = table.service(service);
        let chosen = self.choices.find(&new.key).and_then(|ip| {
            let owner = table.owner(ip)?;
            let is_its = table.instance(owner.instance?).service == service;
            is_its.then_some((ip, owner.host))
        });
        let (ip, host) = chosen.ok_or(UNKNOWN)?;
        if self.is_lost(host) {
            return Err(PEER_UNREACHABLE);
        }
        let (lane, lane_reason) = self.lane(host, Some(asked.lane), new.state);
        let opening = Opening {
            key: new.key,
            opener: new.opener,
            responder_ip: ip,
            responder: host,
            state: new.state,
            policy: Some(policy),
            lane,
            lane_reason,
            stream: None,
        };
        let opened = self.flows.open(opening, true, now).map_err(refused)?;
        *self.lanes.entry((lane, lane_reason)).or_default() += 1;
        Ok(opened)
    }

    /// Has the next process know where a connection goes, unless it ends with this one.
    fn keep_choice(&mut self, new: &NewFlow, lane: Lane, responder: IpAddr) {
        match (new.state, lane) {
            (FlowState::Tcp(_), Lane::L3 | Lane::Local) => self.choices.note(&new.key, responder),
            (FlowState::Tcp(_), Lane::L4) => self.choices.forget(&new.key),
            (FlowState::Udp { .. } | FlowState::Echo, _) => {}
        }
    }

    /// To an instance's or node's own address, from here or from a peer.
    fn open_to_address(
        &mut self,
        table: &Snapshot,
        client: &Owner,
        responder: &Owner,
        info: &PacketInfo,
        new: NewFlow,
        now: Instant,
    ) -> Result<FlowId, Refusal> {
        if client.organisation != responder.organisation {
            return Err(match new.opener {
                Host::Local => Refusal::Reject(DropReason::PolicyDenied, Reject::Prohibited),
                Host::Peer(_) => Refusal::Drop(DropReason::PolicyDenied),
            });
        }
        if new.is_answer() {
            return Err(Refusal::Drop(DropReason::FlowUnknown));
        }
        if self.is_lost(responder.host) {
            return Err(PEER_UNREACHABLE);
        }
        if new.state == FlowState::Tcp(TcpState::SynSent) && table.drains(info.dst) {
            // Whoever has not heard yet that it is out of the tables asks another one.
            let (reason, why) = (DropReason::InstanceDrains, Reject::NoInstance);
            return Err(Refusal::Reject(reason, why));
        }
        let service = responder
            .instance
            .map(|index| table.service(table.instance(index).service));
        let (lane, lane_reason) = match new.opener {
            Host::Local => {
                let lane_policy = service.map(|service| service.lane);
                self.lane_of_new(responder.host, lane_policy, new.state)?
            }
            Host::Peer(_) => (Lane::L3, LaneReason::OpenersChoice),
        };
        let accept = service.map(|service| service.accept).unwrap_or_default();
        let target = SocketAddr::new(info.dst, new.key.destination_port());
        let opening = Opening {
            key: new.key,
            opener: new.opener,
            responder_ip: info.dst,
            responder: responder.host,
            state: new.state,
            policy: service
                .filter(|_| new.opener == Host::Local)
                .map(|_| Policy::Instance),
            lane,
            lane_reason,
            stream: self.near_end(lane, responder.host, accept, target),
        };
        let opened = self.flows.open(opening, true, now).map_err(refused)?;
        *self.lanes.entry((lane, lane_reason)).or_default() += 1;
        Ok(opened)
    }

    /// The lane of a flow that is about to be opened here, which it keeps: so it is not decided
    /// while the way to the peer is about to be known.
    fn lane_of_new(
        &self,
        to: Host,
        policy: Option<LanePolicy>,
        state: FlowState,
    ) -> Result<(Lane, LaneReason), Refusal> {
        let depends =
            policy == Some(LanePolicy::Auto) && state == FlowState::Tcp(TcpState::SynSent);
        match to {
            Host::Peer(peer)
                if depends && self.peers.get(&peer).is_some_and(|state| state.measuring) =>
            {
                Err(Refusal::Await(peer))
            }
            Host::Peer(_) | Host::Local => Ok(self.lane(to, policy, state)),
        }
    }

    /// The lane of a flow from here to that place.
    pub(super) fn lane(
        &self,
        to: Host,
        policy: Option<LanePolicy>,
        state: FlowState,
    ) -> (Lane, LaneReason) {
        match to {
            Host::Local => (Lane::Local, LaneReason::SameNode),
            Host::Peer(peer) => {
                let path = self
                    .peers
                    .get(&peer)
                    .map_or_else(PathFacts::default, |state| state.path());
                lane::decide(policy, state, path, self.has_stack)
            }
        }
    }

    /// Whether a host is a peer that is down. If so, the shell is asked to try again: as no packet
    /// goes there any more, nothing else would.
    fn is_lost(&mut self, host: Host) -> bool {
        let Host::Peer(peer) = host else {
            return false;
        };
        let lost = self
            .peers
            .get(&peer)
            .is_some_and(|state| state.reachable == Reachability::Down);
        if lost {
            self.interests.insert(peer);
        }
        lost
    }

    /// Has the shell try the nodes of a service again that are down.
    fn ask_for_lost(&mut self, table: &Snapshot, service: ServiceIndex) {
        for index in &table.service(service).instances {
            self.is_lost(table.instance(*index).host);
        }
    }

    /// Has the shell measure how far the nodes of a service are, where that is not being done.
    pub(super) fn ask_for_distances(&mut self, table: &Snapshot, service: ServiceIndex) {
        for peer in Balancer::measured_nodes(table, service) {
            let measured = self.peers.get(&peer).is_some_and(|state| {
                state.reachable == Reachability::Up && state.min_rtt.is_some()
            });
            if !measured {
                self.interests.insert(peer);
            }
        }
    }
}

/// A flow that is about to be opened.
#[derive(Debug, Clone, Copy)]
struct NewFlow {
    key: FlowKey,
    opener: Host,
    state: FlowState,
}

impl NewFlow {
    /// Whether it is an echo reply that nobody here has asked for.
    const fn is_answer(&self) -> bool {
        matches!(self.state, FlowState::Echo) && self.key.source_port() == 0
    }
}

const PEER_UNREACHABLE: Refusal =
    Refusal::Reject(DropReason::PeerUnreachable, Reject::PeerUnreachable);

const fn refused(error: OpenError) -> Refusal {
    let reason = match error {
        OpenError::Collision => DropReason::FlowCollision,
        OpenError::Full => DropReason::FlowTableFull,
    };
    Refusal::Reject(reason, Reject::PeerUnreachable)
}
