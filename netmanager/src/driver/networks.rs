//! What the daemon does when the host's networks have changed: a link is back, an address is another
//! one, the host has slept.
//!
//! All paths are asked at once, and what was tried in vain on the former networks is tried again,
//! whatever pause it was to make. How the changes are seen is `daemon::links`.

use std::time::Duration;

use netmanager_core::peer::candidates::Interface;
use netmanager_core::table::PeerId;

use super::Driver;
use crate::quic::Slot;

/// A handshake with a relay or the cluster that is as young may have been begun on the new networks.
const YOUNG: Duration = Duration::from_millis(250);

impl Driver {
    /// Takes the addresses of the host's interfaces, none of the overlay's among them, and looks at
    /// once which paths still work.
    pub(super) fn network_changed(&mut self, interfaces: Vec<Interface>) {
        if self.surroundings.set_interfaces(interfaces) {
            self.tell_surroundings();
            // Which addresses of peers may be sent to follows from this node's own.
            for peer in self.peers.keys().copied().collect::<Vec<PeerId>>() {
                self.offer_paths(peer);
            }
        }
        self.ask_all_observers();
        for slot in self.sessions.slots() {
            if let Some((_, session)) = self.sessions.with_peer(slot)
                && session.established.is_some()
            {
                session.paths.probe_all(self.now);
                self.touched.insert(slot);
            }
        }
        self.measure_relays_anew();
        self.redial_relays();
        self.redial_cluster();
        self.redial_peers();
    }

    /// Ends the pauses after failed attempts, and repeats what has been said to peers in vain.
    fn redial_peers(&mut self) {
        for slot in self.sessions.slots() {
            let repeat = self.sessions.of(slot).map(|session| session.unanswered());
            for (path, datagram) in repeat.unwrap_or_default() {
                self.send_untried(path, &datagram, datagram.len());
            }
        }
        for peer in self.peers.keys().copied().collect::<Vec<PeerId>>() {
            let entry = self.peers.get_mut(&peer);
            let action = entry.and_then(|entry| entry.machine.network_changed(self.now));
            if action.is_some() {
                self.act(peer, action);
            }
        }
    }

    /// Whether a session that is being dialled has had no answer for a while.
    pub(super) fn is_unanswered(&self, slot: Slot) -> bool {
        self.sessions.of(slot).is_some_and(|session| {
            session.established.is_none() && session.born + YOUNG <= self.now
        })
    }
}
