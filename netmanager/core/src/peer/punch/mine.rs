//! What this node has told the peer of itself, and how often it tells.
//!
//! A list makes the peer begin anew, and all of a node's peers are told of every change. An
//! observer that says something else every second, or a link that goes up and down, must not make
//! that a storm: beyond a few, lists wait, and what they said in between is never said.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use weald_proto::session::{CandidateKind, NatMapping, PeerCandidate, PeerToPeer};

use super::super::candidates::Surroundings;
use super::{Punch, PunchEvent};
use crate::rate::{Bucket, Rate};

/// How often a peer is told something new and attempts begin anew: some changes of one event at
/// once, then one list of at most 400 bytes every five seconds.
pub(super) const RENEWALS: Rate = Rate::every(Duration::from_secs(5), 6);

/// What has been told, and what is to be.
#[derive(Debug, Default)]
pub(super) struct Mine {
    pub(super) generation: u64,
    pub(super) told: List,
    latest: List,
    /// Something must be told though it is the same: it makes the leader begin.
    pub(super) again: bool,
    renewals: Bucket,
    renew_at: Option<Instant>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct List {
    pub(super) mapping: NatMapping,
    candidates: Vec<PeerCandidate>,
}

impl Mine {
    /// Takes what is so now; true if it is not what the peer was told last.
    pub(super) fn set(&mut self, surroundings: &Surroundings) -> bool {
        self.latest = List {
            mapping: surroundings.mapping(),
            candidates: surroundings.candidates(),
        };
        self.generation == 0 || self.latest != self.told
    }

    /// When something waits to be told.
    pub(super) const fn deadline(&self) -> Option<Instant> {
        self.renew_at
    }

    /// Whether a router leads a port to this node, as the peer was told.
    pub(super) fn has_mapping(&self) -> bool {
        let mut kinds = self.told.candidates.iter().map(|one| one.kind);
        kinds.any(|kind| kind == CandidateKind::Mapped)
    }

    /// Which network this node is in, as far as its IPv4 addresses tell.
    pub(super) fn network(&self) -> Vec<IpAddr> {
        let own = self
            .told
            .candidates
            .iter()
            .filter(|one| one.kind == CandidateKind::Interface && one.address.is_ipv4());
        own.map(|one| one.address.ip()).collect()
    }
}

impl Punch {
    /// Tells the peer what is new, and begins anew; later if that has been done often.
    pub(super) fn renew(&mut self, now: Instant) {
        let mine = &mut self.mine;
        if !mine.renewals.take(RENEWALS, now) {
            mine.renew_at = Some(mine.renewals.ready_at(RENEWALS, now));
            return;
        }
        mine.renew_at = None;
        let is_news = mine.generation == 0 || mine.latest != mine.told;
        let gone = |at: &PeerCandidate| !mine.latest.candidates.contains(at);
        let is_elsewhere = mine.told.candidates.iter().any(gone);
        if self.limits.punch && (is_news || mine.again) {
            mine.again = false;
            mine.told = mine.latest.clone();
            mine.generation += 1;
            let list = PeerToPeer::Candidates {
                generation: mine.generation,
                mapping: mine.told.mapping,
                candidates: mine.told.candidates.clone(),
            };
            self.events.push_back(PunchEvent::Say(list));
        }
        self.start_anew(is_elsewhere, now);
    }
}
