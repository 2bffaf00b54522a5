//! Says of every instance whether a new flow would go there, and why.

use weald_proto::name::Policy;

use super::pick::{candidate, distance, reachable};
use super::{Balancer, Candidate, Family, Peers, Pick, Reason};
use crate::dataplane::Reachability;
use crate::table::{Host, Instance, ServiceIndex, Snapshot};

impl Balancer {
    /// What a policy makes of each instance of a service, in the order of their numbers.
    #[must_use]
    pub fn explain(
        &self,
        table: &Snapshot,
        peers: &Peers,
        service: ServiceIndex,
        policy: Policy,
        family: Family,
    ) -> Vec<Candidate> {
        let picked = self.pick(table, peers, service, policy, family, 0).ok();
        let instances = table.service(service).instances.iter();
        instances
            .filter_map(|index| {
                let instance = table.instance(*index);
                let pick = candidate(table, *index, family, 0);
                let reason = self.reason(table, peers, service, policy, picked, instance, pick);
                let relayed = match instance.host {
                    Host::Local => false,
                    Host::Peer(peer) => peers.get(&peer).is_some_and(|state| state.relayed),
                };
                Some(Candidate {
                    instance: instance.id.clone(),
                    node: table.node_of(instance.host)?.clone(),
                    host: instance.host,
                    ip: pick.map(|pick| pick.ip),
                    reachable: reachable(peers, instance.host),
                    min_rtt: distance(peers, instance.host),
                    relayed,
                    picked: is_pick(reason),
                    reason,
                })
            })
            .collect()
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one call site, all of it context"
    )]
    fn reason(
        &self,
        table: &Snapshot,
        peers: &Peers,
        service: ServiceIndex,
        policy: Policy,
        picked: Option<Pick>,
        instance: &Instance,
        pick: Option<Pick>,
    ) -> Reason {
        let Some(pick) = pick else {
            return Reason::NoAddress;
        };
        if reachable(peers, instance.host) == Reachability::Down {
            return Reason::NodeDown;
        }
        let chosen = picked.is_some_and(|picked| picked.instance == pick.instance);
        let measured = distance(peers, pick.host).is_some();
        match policy {
            Policy::Instance => Reason::Named,
            Policy::RoundRobin if chosen => Reason::NextInTurn,
            Policy::RoundRobin => Reason::NotItsTurn,
            Policy::Closest if !chosen && measured => Reason::Farther,
            Policy::Closest if !chosen => Reason::NotMeasured,
            Policy::Closest if pick.host == Host::Local => Reason::OnThisNode,
            Policy::Closest if !measured => Reason::LowestNumber,
            Policy::Closest => {
                let nearer = table.service(service).instances.iter().any(|other| {
                    let other = table.instance(*other).host;
                    reachable(peers, other) != Reachability::Down
                        && distance(peers, other)
                            .is_some_and(|near| Some(near) < distance(peers, pick.host))
                });
                if nearer {
                    Reason::StillNearEnough
                } else {
                    Reason::Nearest
                }
            }
        }
    }
}

const fn is_pick(reason: Reason) -> bool {
    match reason {
        Reason::NextInTurn
        | Reason::OnThisNode
        | Reason::Nearest
        | Reason::StillNearEnough
        | Reason::LowestNumber
        | Reason::Named => true,
        Reason::NotItsTurn
        | Reason::Farther
        | Reason::NotMeasured
        | Reason::NodeDown
        | Reason::NoAddress => false,
    }
}
