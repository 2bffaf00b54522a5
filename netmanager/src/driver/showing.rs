//! What nodes show each other at the start of a session: whose they are, and what they may send
//! from. Judging it is the daemon's thread's.
//!
//! Each opens one unidirectional stream; without a cluster only [`super::punching`] uses it. Packets
//! of a new session wait until what the peer shows has been judged, for a moment at most, so that
//! the first of a flow is not refused and sent again a second later. A node that the table does not
//! have is a guest: its session waits for a table that has it.

use std::time::{Duration, Instant};

use netmanager_core::peer::Loss;
use netmanager_core::table::PeerId;
use quinn_proto::Dir;
use weald_proto::codec::Message as _;
use weald_proto::id::{Label, NodeId};
use weald_proto::session::PeerToPeer;
use weald_trust::tls;

use super::Driver;
use super::cluster::Heard;
use super::drive::CloseCode;
use super::session::With;
use crate::quic::Slot;

/// How long packets of a new session wait for the lease that they are judged by: a few round trips
/// of most links, and less than TCP waits before it sends its first packet again.
const MAX_HOLD: Duration = Duration::from_millis(500);
/// Most guests at once; each is an authenticated node under the same root.
const MAX_GUESTS: usize = 64;

impl Driver {
    /// Shows a new peer what this node has.
    pub(super) fn begin_showing(&mut self, slot: Slot) {
        let has_cluster = self.cluster.is_some();
        let Some(session) = self.sessions.of_mut(slot) else {
            return;
        };
        session.held_until = has_cluster.then(|| self.now + MAX_HOLD);
        session.stream = session.connection.streams().open(Dir::Uni);
        let shown = std::mem::take(&mut self.shown);
        session.say(&shown);
        self.shown = shown;
        self.touched.insert(slot);
    }

    /// Takes what this node has now, and shows it to every peer.
    pub(super) fn show(&mut self, shown: Vec<u8>) {
        if shown == self.shown {
            return;
        }
        self.shown = shown;
        for slot in self.sessions.slots() {
            let shown = std::mem::take(&mut self.shown);
            if let Some((_, session)) = self.sessions.with_peer(slot)
                && session.established.is_some()
            {
                session.say(&shown);
                self.touched.insert(slot);
            }
            self.shown = shown;
        }
    }

    /// Says something to one peer. Without a session it is not said, but one is made.
    pub(super) fn tell_peer(&mut self, node: &NodeId, message: &[u8]) {
        let found = self.peers.iter().find(|(_, entry)| entry.node == *node);
        let Some((peer, session)) = found.map(|(peer, entry)| (*peer, entry.session)) else {
            return;
        };
        let Some(slot) = session else {
            self.want(peer);
            return;
        };
        if let Some(session) = self.sessions.of_mut(slot) {
            session.say(message);
            self.touched.insert(slot);
        }
    }

    /// Reads what a peer shows. Who breaks the protocol shows nothing more; its packets are judged
    /// by what is known.
    pub(super) fn hear_peer(&mut self, slot: Slot) {
        let Some((peer, session)) = self.sessions.with_peer(slot) else {
            return;
        };
        if session.incoming.is_none() {
            session.incoming = session.connection.streams().accept(Dir::Uni);
        }
        let Some(stream) = session.incoming else {
            return;
        };
        let heard = session.hear(stream);
        if let Some(fault) = heard.fault {
            tracing::debug!(peer = %self.name_of(peer), %fault, "a peer shows nothing any more");
        }
        let Some(node) = self.peers.get(&peer).map(|entry| entry.node.clone()) else {
            return;
        };
        for message in heard.messages {
            match PeerToPeer::decode(&message) {
                Ok(
                    message @ (PeerToPeer::Candidates { .. }
                    | PeerToPeer::Punch { .. }
                    | PeerToPeer::PunchOpened { .. }),
                ) => self.hear_punch(slot, &message),
                Ok(message) => (self.heard)(Heard::Peer(node.clone(), Box::new(message))),
                Err(error) => tracing::debug!(peer = %node, %error, "not understood"),
            }
        }
    }

    /// What a peer has shown is judged: its packets need not wait any more.
    pub(super) fn release(&mut self, node: &NodeId) {
        let found = self.peers.iter().find(|(_, entry)| entry.node == *node);
        let Some(slot) = found.and_then(|(_, entry)| entry.session) else {
            return;
        };
        if let Some(session) = self.sessions.of_mut(slot) {
            session.held_until = None;
            self.touched.insert(slot);
        }
    }

    /// Lets a node wait that the table does not have; false if it is not to.
    pub(super) fn take_guest(&mut self, slot: Slot, node: &NodeId) -> bool {
        self.guests
            .retain(|slot, _| self.sessions.of(*slot).is_some());
        if self.cluster.is_none() || self.guests.len() >= MAX_GUESTS {
            return false;
        }
        self.guests.insert(slot, node.clone());
        (self.heard)(Heard::Guest(node.clone()));
        true
    }

    /// Ends the sessions with those whose keys, or whose clusters', are revoked. Those that come
    /// again are refused in the handshake.
    pub(super) fn cut_revoked(&mut self, clusters: &[Label]) {
        let revoked = self.credentials.revoked();
        for slot in self.sessions.slots() {
            let Some(session) = self.sessions.of(slot) else {
                continue;
            };
            let shown = tls::peer_identity(session.connection.crypto_session());
            let is_revoked = shown.is_some_and(|peer| {
                let cluster = peer.identity.cluster();
                revoked.keys.contains(&peer.spki_sha256)
                    || cluster.is_some_and(|cluster| clusters.contains(cluster))
            });
            if !is_revoked || session.connection.is_closed() {
                continue;
            }
            let with = session.with;
            self.end_revoked(slot, with);
        }
    }

    /// Ends a session with somebody who is revoked.
    pub(super) fn end_revoked(&mut self, slot: Slot, with: With) {
        self.close(slot, CloseCode::Revoked);
        match with {
            With::Peer(peer) => self.handle_peer_lost(slot, peer, Loss::Unforeseen, "revoked"),
            With::Relay(relay) => self.handle_relay_lost(slot, relay, "revoked"),
            With::Cluster => self.handle_cluster_lost(slot, "revoked"),
            // Closing it has told the lane.
            With::Stranger | With::Lane(_) | With::Agreement(_) => {}
        }
    }

    /// Goes on with the guests that the table has now. The others end as half-open sessions do.
    pub(super) fn seat_guests(&mut self) {
        let guests = std::mem::take(&mut self.guests);
        for (slot, node) in guests {
            let waits = self.sessions.of(slot).is_some_and(|session| {
                session.with == With::Stranger && !session.connection.is_closed()
            });
            if !waits {
                continue;
            }
            let peer: Option<PeerId> = self
                .table
                .peers()
                .find(|(_, row)| row.id == node)
                .map(|(peer, _)| peer);
            match peer {
                Some(peer) => {
                    self.establish_peer(slot, peer);
                    self.hear_peer(slot);
                    self.touched.insert(slot);
                }
                None => {
                    self.guests.insert(slot, node);
                }
            }
        }
    }

    /// When a session's packets have waited long enough.
    pub(super) fn is_held(held_until: Option<Instant>, now: Instant) -> bool {
        held_until.is_some_and(|until| now < until)
    }
}
