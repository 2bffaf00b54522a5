//! What a peer has named: the addresses of its last list, which of them may be tried and why not.
//!
//! They are judged again whenever this node's own surroundings change: an address that was behind
//! another network, or of a family that this node had no interface for, may be near now.

use std::net::SocketAddr;

use weald_proto::addr::Pools;
use weald_proto::session::{CandidateKind, NatMapping, PeerCandidate};

use super::super::candidates::{MAX_PEER_CANDIDATES, Refusal, Surroundings};

/// Addresses of a list that are looked at; what stands beyond is not even told one by one.
const MAX_LISTED: usize = 4 * MAX_PEER_CANDIDATES;

/// The last list of a peer.
#[derive(Debug)]
pub(super) struct Theirs {
    pub(super) generation: u64,
    pub(super) mapping: NatMapping,
    listed: Vec<PeerCandidate>,
    pub(super) targets: Vec<Target>,
    pub(super) refused: Vec<(SocketAddr, Refusal)>,
}

/// An address of it that may be tried.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub(super) candidate: PeerCandidate,
    pub(super) sent: u64,
}

impl Theirs {
    /// Takes a list.
    pub(super) fn judged(
        generation: u64,
        mapping: NatMapping,
        listed: &[PeerCandidate],
        surroundings: &Surroundings,
        pools: &Pools,
    ) -> Self {
        let mut theirs = Self {
            generation,
            mapping,
            listed: listed.iter().take(MAX_LISTED).copied().collect(),
            targets: Vec::new(),
            refused: Vec::new(),
        };
        theirs.judge(surroundings, pools);
        theirs
    }

    /// Judges the list anew; true if other addresses may be tried than before.
    pub(super) fn judge(&mut self, surroundings: &Surroundings, pools: &Pools) -> bool {
        let former = std::mem::take(&mut self.targets);
        let sent_to = |address| {
            let known = |target: &&Target| target.candidate.address == address;
            former.iter().find(known).map_or(0, |target| target.sent)
        };
        self.refused.clear();
        for (place, candidate) in self.listed.iter().enumerate() {
            let address = candidate.address;
            let verdict = if place < MAX_PEER_CANDIDATES {
                surroundings.judge(address, pools)
            } else {
                Err(Refusal::TooMany)
            };
            let is_known = |target: &Target| target.candidate.address == address;
            match verdict {
                Err(refusal) => self.refused.push((address, refusal)),
                Ok(()) if !self.targets.iter().any(is_known) => self.targets.push(Target {
                    candidate: *candidate,
                    sent: sent_to(address),
                }),
                Ok(()) => {}
            }
        }
        let addresses = |targets: &[Target]| -> Vec<SocketAddr> {
            let addresses = targets.iter().map(|target| target.candidate.address);
            addresses.collect()
        };
        addresses(&former) != addresses(&self.targets)
    }

    /// Whether an address of this list is not in the next one: the peer is elsewhere now.
    pub(super) fn is_left_by(&self, next: &Self) -> bool {
        let gone = |at: &PeerCandidate| !next.listed.contains(at);
        self.listed.iter().any(gone)
    }

    /// Whether a router leads a port to the peer, as far as it says.
    pub(super) fn has_mapping(&self) -> bool {
        let mut kinds = self.targets.iter().map(|target| target.candidate.kind);
        kinds.any(|kind| kind == CandidateKind::Mapped)
    }

    /// Where the outside of the peer's NAT was seen last.
    pub(super) fn reflexive_v4(&self) -> Option<SocketAddr> {
        let may_be_tried = |at: SocketAddr| {
            let mut targets = self.targets.iter();
            targets.any(|target| target.candidate.address == at)
        };
        // In the list and not among the targets: it may also be mapped or configured there.
        let seen = self.listed.iter().take(MAX_PEER_CANDIDATES).rev();
        let mut seen = seen.filter(|one| one.kind == CandidateKind::Reflexive);
        let seen = seen.find(|one| one.address.is_ipv4() && may_be_tried(one.address));
        seen.map(|one| one.address)
    }
}
