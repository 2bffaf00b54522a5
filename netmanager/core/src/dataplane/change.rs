//! What a new table, or a peer that is lost, means for flows that are open.

use std::net::IpAddr;
use std::time::Instant;

use weald_proto::name::{Policy, ServiceName};

use super::reset::segment_of_end;
use super::{DataPlane, Target};
use crate::balance::Family;
use crate::flow::{Direction, Flow, FlowId, FlowState, TcpState};
use crate::reject::{Reject, reject};
use crate::table::{Host, Owner, PeerId, Snapshot};

/// What becomes of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Keep,
    Move { opener: Host, responder: Host },
    End,
}

impl DataPlane {
    /// Lets every flow follow its ends from the old table to the new one, or ends it.
    pub(super) fn follow_table(&mut self, old: &Snapshot, new: &Snapshot, now: Instant) {
        let fates: Vec<(FlowId, Fate)> = self
            .flows
            .iter(now)
            .map(|(id, flow)| (id, fate(flow, old, new)))
            .filter(|(_, fate)| *fate != Fate::Keep)
            .collect();
        for (id, fate) in fates {
            match fate {
                Fate::Keep => {}
                Fate::Move { opener, responder } => self.move_flow(id, opener, responder, new),
                Fate::End => {
                    if let Some(flow) = self.flows.remove(id) {
                        self.reset(&flow, new);
                    }
                }
            }
        }
    }

    fn move_flow(&mut self, id: FlowId, opener: Host, responder: Host, table: &Snapshot) {
        let Some(flow) = self.flows.flow(id).cloned() else {
            return;
        };
        let lane = match opener {
            Host::Local => {
                let service = table
                    .owner(flow.responder())
                    .and_then(|owner| owner.instance)
                    .map(|index| table.instance(index).service);
                let policy = service.map(|service| table.service(service).lane);
                self.lane(responder, policy, flow.state())
            }
            Host::Peer(_) => flow.lane(),
        };
        if !self.flows.move_ends(id, opener, responder, lane) {
            self.reset(&flow, table);
        }
    }

    /// Ends what cannot wait for a lost peer to come back: connections that it has not answered
    /// yet, so that their openers hear of it or find another instance at their next try, and what
    /// needs no connection. Established connections wait.
    pub(super) fn follow_loss(&mut self, peer: PeerId, now: Instant) {
        let Some(table) = self.table.clone() else {
            return;
        };
        let lost: Vec<FlowId> = self
            .flows
            .iter(now)
            .filter(|(_, flow)| {
                flow.source(Direction::Forward) == Host::Local
                    && flow.destination(Direction::Forward) == Host::Peer(peer)
                    && cannot_wait(flow.state())
            })
            .map(|(id, _)| id)
            .collect();
        for id in lost {
            if let Some(flow) = self.flows.remove(id)
                && !self.has_alternative(&table, &flow)
            {
                self.reset(&flow, &table);
            }
        }
    }

    /// Whether another instance could be picked for a flow.
    fn has_alternative(&self, table: &Snapshot, flow: &Flow) -> bool {
        table
            .service_at(flow.asked())
            .is_some_and(|(service, policy)| {
                let family = Family::of(flow.asked());
                self.balancer
                    .pick(table, &self.peers, service, policy, family, 0)
                    .is_ok()
            })
    }

    /// Resets a TCP connection at those of its ends that are here.
    fn reset(&mut self, flow: &Flow, table: &Snapshot) {
        for toward in Direction::BOTH {
            let end = flow.leaving(toward).destination;
            let is_here = |ip: IpAddr| {
                table
                    .owner(ip)
                    .is_some_and(|owner| owner.host == Host::Local)
            };
            if flow.destination(toward) != Host::Local || !is_here(end) {
                continue;
            }
            if let Some(packet) = segment_of_end(flow, toward)
                .and_then(|segment| reject(&segment, Reject::NoInstance))
            {
                self.answers.push(Target::Tun, packet);
            }
        }
    }
}

const fn cannot_wait(state: FlowState) -> bool {
    match state {
        FlowState::Tcp(state) => match state {
            TcpState::SynSent => true,
            TcpState::SynReceived
            | TcpState::Established
            | TcpState::HalfClosed(_)
            | TcpState::Closed
            | TcpState::PickedUp(_) => false,
        },
        FlowState::Udp { .. } | FlowState::Echo => true,
    }
}

fn fate(flow: &Flow, old: &Snapshot, new: &Snapshot) -> Fate {
    let (Some(client), Some(responder)) = (
        same_owner(flow.client(), old, new),
        same_owner(flow.responder(), old, new),
    ) else {
        return Fate::End;
    };
    let allowed = client.organisation == responder.organisation;
    let still_asked = !flow.is_translated()
        || service_behind(flow.asked(), old) == service_behind(flow.asked(), new);
    if !allowed || !still_asked {
        return Fate::End;
    }
    match (client.host, responder.host) {
        (Host::Peer(_), Host::Peer(_)) => Fate::End,
        // Only the opener's node translates, and that is another one now.
        (Host::Peer(_), Host::Local) if flow.is_translated() => Fate::End,
        (opener, responder)
            if opener == flow.source(Direction::Forward)
                && responder == flow.destination(Direction::Forward) =>
        {
            Fate::Keep
        }
        (opener, responder) => Fate::Move { opener, responder },
    }
}

/// The owner of an address in the new table, if it is the instance or node that had it in the old.
fn same_owner<'a>(ip: IpAddr, old: &Snapshot, new: &'a Snapshot) -> Option<&'a Owner> {
    let (before, after) = (old.owner(ip)?, new.owner(ip)?);
    let same = match (old.instance_id_at(ip), new.instance_id_at(ip)) {
        (Some(before), Some(after)) => before == after,
        (None, None) => old.node_of(before.host) == new.node_of(after.host),
        (Some(_), None) | (None, Some(_)) => false,
    };
    same.then_some(after)
}

fn service_behind(ip: IpAddr, table: &Snapshot) -> Option<(&ServiceName, Policy)> {
    let (service, policy) = table.service_at(ip)?;
    Some((&table.service(service).name, policy))
}
