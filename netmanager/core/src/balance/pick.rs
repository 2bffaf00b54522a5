//! What `rr` and `closest` choose.

use std::time::Duration;

use weald_proto::name::Policy;

use super::{Balancer, Family, Peers, Pick, PickError, SWITCH_BELOW_PERCENT};
use crate::dataplane::Reachability;
use crate::table::{Host, InstanceIndex, ServiceIndex, Snapshot};

impl Balancer {
    /// The instance for a new flow; at later attempts others than before.
    ///
    /// Nothing changes until [`Balancer::commit`] says that a pick was used.
    ///
    /// # Errors
    /// When there is nothing to pick.
    pub fn pick(
        &self,
        table: &Snapshot,
        peers: &Peers,
        service: ServiceIndex,
        policy: Policy,
        family: Family,
        attempt: usize,
    ) -> Result<Pick, PickError> {
        let all = &table.service(service).instances;
        let healthy = || {
            all.iter()
                .filter_map(|index| candidate(table, *index, family, attempt))
                .filter(|pick| reachable(peers, pick.host) != Reachability::Down)
        };
        let count = healthy().count();
        if count == 0 {
            let any = all
                .iter()
                .any(|index| candidate(table, *index, family, attempt).is_some());
            return Err(if any {
                PickError::AllDown
            } else {
                PickError::NoInstance
            });
        }
        if attempt >= count {
            return Err(PickError::Exhausted);
        }
        let picked = match policy {
            Policy::RoundRobin | Policy::Instance => {
                let turn = self.memory(service).turn.wrapping_add(attempt as u64);
                healthy().nth((turn % count as u64) as usize)
            }
            Policy::Closest => {
                let nearest = self.closest(table, peers, service, healthy());
                if attempt == 0 {
                    nearest
                } else {
                    let mut others: Vec<Pick> = healthy()
                        .filter(|pick| Some(pick.instance) != nearest.map(|near| near.instance))
                        .collect();
                    // Stable: ties stay in the order of the numbers.
                    others.sort_by_key(|pick| order(distance(peers, pick.host)));
                    others.into_iter().nth(attempt - 1)
                }
            }
        };
        picked.ok_or(PickError::Exhausted)
    }

    /// Takes note that a pick has become a flow.
    pub fn commit(&mut self, table: &Snapshot, service: ServiceIndex, policy: Policy, pick: &Pick) {
        let Some(memory) = self.memories.get_mut(service.position()) else {
            return;
        };
        match policy {
            Policy::RoundRobin => memory.turn = memory.turn.wrapping_add(1 + pick.attempt as u64),
            Policy::Closest if pick.attempt == 0 => {
                memory.closest = Some(table.instance(pick.instance).id.number);
            }
            // A collision sends one flow elsewhere, not those after it.
            Policy::Closest | Policy::Instance => {}
        }
    }

    /// The nearest of the candidates, which come in the order of their numbers, unless the last
    /// pick is among them and not clearly farther.
    pub(super) fn closest(
        &self,
        table: &Snapshot,
        peers: &Peers,
        service: ServiceIndex,
        candidates: impl Iterator<Item = Pick> + Clone,
    ) -> Option<Pick> {
        let nearest = candidates
            .clone()
            .min_by_key(|pick| order(distance(peers, pick.host)))?;
        let last = self.memory(service).closest;
        let last = candidates
            .clone()
            .find(|pick| Some(table.instance(pick.instance).id.number) == last);
        let (Some(last), Some(near)) = (last, distance(peers, nearest.host)) else {
            return Some(nearest);
        };
        let stays =
            distance(peers, last.host).is_some_and(|far| near >= far * SWITCH_BELOW_PERCENT / 100);
        Some(if stays { last } else { nearest })
    }
}

/// The instance as a pick, if it has an address of the family.
pub(super) fn candidate(
    table: &Snapshot,
    index: InstanceIndex,
    family: Family,
    attempt: usize,
) -> Option<Pick> {
    let instance = table.instance(index);
    let ip = match family {
        Family::V4 => instance.instance_ip.v4?.into(),
        Family::V6 => instance.instance_ip.v6?.into(),
    };
    Some(Pick {
        instance: index,
        ip,
        host: instance.host,
        attempt,
    })
}

/// Whether a host can be reached; this one always can.
pub(super) fn reachable(peers: &Peers, host: Host) -> Reachability {
    match host {
        Host::Local => Reachability::Up,
        Host::Peer(peer) => peers
            .get(&peer)
            .map_or(Reachability::Unknown, |state| state.reachable),
    }
}

/// How far a host is, if that was measured; this one is nowhere else.
pub(super) fn distance(peers: &Peers, host: Host) -> Option<Duration> {
    match host {
        Host::Local => Some(Duration::ZERO),
        Host::Peer(peer) => peers.get(&peer)?.min_rtt,
    }
}

/// Orders distances, unknown ones last.
fn order(distance: Option<Duration>) -> (bool, Option<Duration>) {
    (distance.is_none(), distance)
}
