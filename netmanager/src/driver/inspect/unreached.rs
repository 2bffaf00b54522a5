//! What is told of the ways to a peer that has no session: which were tried, and why others were not. How
//! paths of a session do is [`super`]'s.

use netmanager_core::peer::paths::Path;
use netmanager_core::table::PeerId;

use crate::api::report::{PathCandidate, PathReport};
use crate::driver::Driver;
use crate::driver::peers::PeerEntry;
use crate::driver::relays::RelayEntry;

impl Driver {
    /// Every relay and every address of the peer's row, and what became of it.
    pub(super) fn ways_without_session(
        &self,
        peer: PeerId,
        entry: &PeerEntry,
    ) -> Vec<PathCandidate> {
        let relays = self.relays.iter();
        let relayed = relays.map(|relay| self.relay_without_session(relay, peer, entry));
        let direct = entry.addresses.iter().map(|address| {
            let path = Path::Direct(*address);
            let (state, reason) = match self.judge_dial(*address) {
                Ok(()) => self.fate(path, entry),
                Err(word) => ("refused", Some(word)),
            };
            candidate(self.path_report(Some(path)), state, reason)
        });
        relayed.chain(direct).collect()
    }

    fn relay_without_session(
        &self,
        relay: &RelayEntry,
        peer: PeerId,
        entry: &PeerEntry,
    ) -> PathCandidate {
        let (state, reason) = match relay.path_to(peer) {
            Some(path) => self.fate(path, entry),
            None if !relay.is_registered() => ("refused", Some("relay_down")),
            None if relay.lacks(peer) => ("refused", Some("peer_not_registered")),
            None => ("untried", None),
        };
        // The report names the relay, whoever is behind it.
        let path = Path::Relay {
            relay: relay.index,
            peer: 0,
        };
        candidate(self.path_report(Some(path)), state, reason)
    }

    fn fate(&self, path: Path, entry: &PeerEntry) -> (&'static str, Option<&'static str>) {
        if entry.is_refused(path, self.now) {
            ("refused", Some("handshake_failed"))
        } else if !entry.dialled.contains(&path) {
            ("untried", None)
        } else if entry.dialling.is_some() {
            ("dialling", None)
        } else {
            ("no_answer", None)
        }
    }
}

fn candidate(path: PathReport, state: &str, reason: Option<&str>) -> PathCandidate {
    PathCandidate {
        path,
        state: state.to_owned(),
        reason: reason.map(str::to_owned),
        ..PathCandidate::default()
    }
}
