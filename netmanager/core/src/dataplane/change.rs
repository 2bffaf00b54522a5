//! What a new table, or a peer that is lost, means for flows that are open.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use weald_proto::name::{Policy, ServiceName};

use super::reset::segment_of_end;
use super::{DataPlane, Target};
use crate::flow::{Direction, Flow, FlowId, FlowState, Lane, LaneReason, TcpState};
use crate::reject::{Reject, reject};
use crate::table::{Host, Owner, PeerId, Snapshot};

/// How long a connection goes on whose server is not in the table any more: an instance that shall
/// go still runs for a second, and short requests are answered in that time.
pub const LINGER: Duration = Duration::from_secs(1);

/// What becomes of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Keep,
    Move {
        opener: Host,
        responder: Host,
    },
    /// Its server is gone from the table and nobody else has its address.
    Linger,
    /// So it is, and has not answered yet: another one is asked.
    Retry,
    End,
}

impl DataPlane {
    /// Lets every flow follow its ends from the old table to the new one, or ends it.
    pub(super) fn follow_table(&mut self, old: &Snapshot, new: &Snapshot, now: Instant) {
        let lingering: BTreeSet<FlowId> = self.lingering.iter().map(|(_, id)| *id).collect();
        let fates: Vec<(FlowId, Fate)> = self
            .flows
            .iter(now)
            .map(|(id, flow)| (id, fate(flow, old, new, lingering.contains(&id))))
            .filter(|(_, fate)| *fate != Fate::Keep)
            .collect();
        for (id, fate) in fates {
            match fate {
                Fate::Keep => {}
                Fate::Retry => {
                    if !self.begin_again(id)
                        && let Some(flow) = self.flows.remove(id)
                        && !self.has_another(new, &flow, &[])
                    {
                        self.reset(&flow, new);
                    }
                }
                Fate::Linger if lingering.contains(&id) => {}
                Fate::Linger => self.lingering.push_back((now + LINGER, id)),
                Fate::Move { opener, responder } => self.move_flow(id, opener, responder, new),
                Fate::End => {
                    if let Some(flow) = self.flows.remove(id) {
                        self.reset(&flow, new);
                    }
                }
            }
        }
    }

    /// Notes which instances have been hosted here until now: peers may not know it yet.
    pub(super) fn note_departed(&mut self, old: &Snapshot, new: &Snapshot, now: Instant) {
        let gone = old.hosted_here().filter(|(ip, _)| new.owner(*ip).is_none());
        for (ip, organisation) in gone {
            self.departed
                .push_back((now + LINGER, ip, organisation.clone()));
        }
    }

    /// Ends the connections that have gone on long enough without their servers.
    pub(super) fn end_lingering(&mut self, now: Instant) {
        while self.departed.pop_front_if(|it| it.0 <= now).is_some() {}
        let Some(table) = self.table.clone() else {
            return;
        };
        while let Some((_, id)) = self.lingering.pop_front_if(|(at, _)| *at <= now) {
            if let Some(flow) = self.flows.remove(id) {
                self.reset(&flow, &table);
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
        // What has begun as packets goes on so.
        let lane = match lane {
            (Lane::L4, _) => (Lane::L3, LaneReason::NotFromTheStart),
            other => other,
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
            if !self.begin_again(id)
                && let Some(flow) = self.flows.remove(id)
                && !self.has_another(&table, &flow, &[])
            {
                self.reset(&flow, &table);
            }
        }
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
            let here = flow.stream().is_some() || is_here(end);
            if flow.destination(toward) != Host::Local || !here {
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

fn fate(flow: &Flow, old: &Snapshot, new: &Snapshot, lingers: bool) -> Fate {
    let Some(client) = same_owner(flow.client(), old, new) else {
        return Fate::End;
    };
    let Some(responder) = same_owner(flow.responder(), old, new) else {
        let was_there = lingers || old.owner(flow.responder()).is_some();
        let is_free = new.owner(flow.responder()).is_none();
        let is_begun = flow.state() == FlowState::Tcp(TcpState::SynSent);
        return match was_there && is_free && may_linger(flow.state()) {
            true if is_begun && flow.stream().is_none() => Fate::Retry,
            true => Fate::Linger,
            false => Fate::End,
        };
    };
    let allowed = client.organisation == responder.organisation;
    let still_asked = !flow.is_translated()
        || service_behind(flow.asked(), old) == service_behind(flow.asked(), new);
    if !allowed || !still_asked {
        return Fate::End;
    }
    if flow.is_translated() && !may_linger(flow.state()) && new.drains(flow.responder()) {
        // The next packet finds another one.
        return Fate::End;
    }
    match (client.host, responder.host) {
        (Host::Peer(_), Host::Peer(_)) => Fate::End,
        // Only the opener's node translates, and that is another one now.
        (Host::Peer(_), Host::Local) if flow.is_translated() && flow.stream().is_none() => {
            Fate::End
        }
        (opener, responder) if opener == flow.opener() && responder == flow.answerer() => {
            Fate::Keep
        }
        // The stack's end of it is here and stays here.
        _ if flow.stream().is_some() => Fate::End,
        (opener, responder) => Fate::Move { opener, responder },
    }
}

/// Whether a flow goes on for a while without its server: connections do, all else finds another.
const fn may_linger(state: FlowState) -> bool {
    match state {
        FlowState::Tcp(state) => !matches!(state, TcpState::Closed),
        FlowState::Udp { .. } | FlowState::Echo => false,
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
