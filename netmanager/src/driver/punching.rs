//! Direct ways through NATs: tells the core where this node is, sends the probes that it asks for.
//!
//! When and where probes go is netmanager-core's `peer::punch`; what is proven is its `peer::paths`.

use netmanager_core::peer::candidates::Refusal;
use netmanager_core::peer::carrier::Carrier;
use netmanager_core::peer::paths::{Path, RelayIndex};
use netmanager_core::peer::punch::{From, Punch, PunchEvent};
use netmanager_core::rate::Rate;
use netmanager_core::table::PeerId;
use netmanager_core::verdict::DropReason;
use std::net::SocketAddr;
use std::time::Duration;
use weald_proto::codec::Message as _;
use weald_proto::frame::RelayHeader;
use weald_proto::session::PeerToPeer;
use weald_proto::stream::framed;

use super::Driver;
use super::relays::RelayEntry;
use crate::quic::Slot;

/// How often silent paths make a node ask where it is, all of them together. One that is silent makes
/// it ask some times, with each probe that is lost; the last time is what counts.
const MAPPING_DOUBTS: Rate = Rate::every(Duration::from_millis(500), 8);
/// Hops of opening probes until the NATs of this site have been counted: through one router.
pub(super) const OPENING_HOPS: u8 = 2;

impl Driver {
    /// Starts to look for a direct way beside a new session.
    pub(super) fn begin_punching(&mut self, slot: Slot, peer: PeerId) {
        let seed = self.next_seed();
        let Some(entry) = self.peers.get(&peer) else {
            return;
        };
        let leads = entry.machine.wins_ties();
        let mut punch = Punch::new(leads, self.punch_limits, seed, entry.searches.clone());
        punch.set_local(&self.surroundings, self.table.pools(), self.now);
        if let Some(session) = self.sessions.of_mut(slot) {
            session.punch = Some(punch);
            self.touched.insert(slot);
        }
    }

    /// Takes the outside addresses that gateways lead to the data socket.
    pub(super) fn mappings_changed(&mut self, mapped: Vec<SocketAddr>) {
        if self.surroundings.set_mapped(mapped) {
            self.tell_surroundings();
        }
    }

    /// Tells every peer where this node may be reached, if that has changed.
    pub(super) fn tell_surroundings(&mut self) {
        for slot in self.sessions.slots() {
            let session = self.sessions.of_mut(slot);
            if let Some(punch) = session.and_then(|session| session.punch.as_mut()) {
                punch.set_local(&self.surroundings, self.table.pools(), self.now);
                self.touched.insert(slot);
            }
        }
    }

    /// A direct path is silent: the NAT in front of this node may have forgotten its ports, and give
    /// others now.
    pub(super) fn doubt_mapping(&mut self) {
        if !self.doubts.take(MAPPING_DOUBTS, self.now) {
            return;
        }
        self.ask_all_observers();
        // They answer in their sessions, and have to learn where those go now.
        let relays: Vec<RelayIndex> = self.relays.iter().map(|entry| entry.index).collect();
        for relay in relays {
            self.doubt_relay(relay);
        }
    }

    pub(super) fn ask_all_observers(&mut self) {
        let relays: Vec<RelayIndex> = self.relays.iter().map(|entry| entry.index).collect();
        for relay in relays {
            self.ask_observers(relay);
        }
    }

    /// Asks a relay what it sees at both of its ports: together they tell how the NAT maps them.
    pub(super) fn ask_observers(&mut self, relay: RelayIndex) {
        let entry = self.relays.iter_mut().find(|entry| entry.index == relay);
        let Some(entry) = entry else {
            return;
        };
        let observers = entry.observers();
        if entry.carriers.in_use() == Carrier::Tcp {
            // The answer would be of the TCP connection.
            return;
        }
        let Some((link, keys)) = entry.sending() else {
            return;
        };
        let mut question = RelayHeader::encode_observe(link);
        for observer in observers {
            self.surroundings.ask(observer, self.now);
            // Twice, because nothing repeats it; the second answer is no news.
            for _ in 0..2 {
                if keys.sealer.seal(&mut question, RelayHeader::TAG).is_ok() {
                    self.io.send(observer, &question, question.len());
                }
            }
        }
    }

    /// Takes what one of a relay's ports sees.
    pub(super) fn observed(&mut self, observer: SocketAddr, seen: SocketAddr) {
        let is_news = self.surroundings.observe(observer, seen);
        // While others have yet to say the same, what is known looks like another kind of NAT.
        if (is_news || self.has_untold) && self.surroundings.is_settled() {
            self.has_untold = false;
            self.tell_surroundings();
        } else {
            self.has_untold |= is_news;
        }
    }

    /// Forgets what observers have not said again.
    pub(super) fn handle_observer_timeouts(&mut self) {
        if self.surroundings.handle_timeout(self.now) {
            self.has_untold = false;
            self.tell_surroundings();
        }
    }

    /// Takes what a peer says about reaching it.
    pub(super) fn hear_punch(&mut self, slot: Slot, message: &PeerToPeer) {
        let pools = self.table.pools();
        let session = self.sessions.of_mut(slot);
        let Some(punch) = session.and_then(|session| session.punch.as_mut()) else {
            return;
        };
        let refused = punch.handle_message(message, &self.surroundings, pools, self.now);
        for (address, refusal) in refused {
            tracing::debug!(%address, why = refusal.word(), "a candidate is not probed");
            self.counters.count(match refusal {
                Refusal::TooMany => DropReason::CandidateListTooLong,
                Refusal::Special
                | Refusal::Overlay
                | Refusal::Own
                | Refusal::ForeignPrivate
                | Refusal::Private
                | Refusal::Family => DropReason::CandidateRefused,
            });
        }
        self.touched.insert(slot);
    }

    /// Does what the core wants for a direct way.
    pub(super) fn drive_punch(&mut self, slot: Slot) {
        let is_blocked = self.is_udp_blocked();
        let Some((peer, session)) = self.sessions.with_peer(slot) else {
            return;
        };
        let is_direct = session.paths.has_direct();
        let Some(punch) = session.punch.as_mut() else {
            return;
        };
        punch.set_udp_blocked(is_blocked);
        punch.set_direct(is_direct, self.now);
        punch.handle_timeout(self.now);
        let mut is_news = false;
        while let Some(event) = self.next_punch_event(slot) {
            is_news = true;
            match event {
                PunchEvent::Say(message) => self.say_to_peer(slot, &message),
                PunchEvent::Probe {
                    to,
                    short_lived,
                    from,
                } => self.send_punch_probe(slot, to, short_lived, from),
                PunchEvent::EndSpray => self.keep_met_sockets(slot),
            }
        }
        // Without anything to do, nothing has begun either; every packet comes by here.
        if is_news
            && let Some(entry) = self.peers.get_mut(&peer)
            && let Some(punch) = self.sessions.of(slot).and_then(|s| s.punch.as_ref())
        {
            entry.searches.clone_from(punch.searches());
        }
    }

    /// Closes sockets of a search over which there is no path, unless the search goes on.
    pub(super) fn keep_met_sockets(&mut self, slot: Slot) {
        if self.io.extra.is_empty() {
            return;
        }
        let Some(session) = self.sessions.of(slot) else {
            return;
        };
        if session.punch.as_ref().is_some_and(Punch::is_searching) {
            return;
        }
        let paths = &session.paths;
        let is_path = |at| {
            paths
                .views(self.now)
                .any(|view| view.path == Path::Direct(at))
        };
        self.io.extra.keep_only(slot, is_path);
    }

    /// Whether this node reaches its relays, and all of them over TCP only.
    fn is_udp_blocked(&self) -> bool {
        let mut registered = self.relays.iter().filter(|relay| relay.is_registered());
        let over_tcp = |relay: &RelayEntry| relay.carriers.in_use() == Carrier::Tcp;
        registered.clone().next().is_some() && registered.all(over_tcp)
    }

    fn next_punch_event(&mut self, slot: Slot) -> Option<PunchEvent> {
        self.sessions.of_mut(slot)?.punch.as_mut()?.poll_event()
    }

    fn say_to_peer(&mut self, slot: Slot, message: &PeerToPeer) {
        match message.encode() {
            Ok(bytes) => {
                if let Some(session) = self.sessions.of_mut(slot) {
                    session.say(&framed(&bytes));
                }
            }
            Err(error) => tracing::error!(%error, "cannot say something to a peer"),
        }
    }

    fn send_punch_probe(&mut self, slot: Slot, to: SocketAddr, short_lived: bool, from: From) {
        if !self.io.socket.reaches(to) {
            return;
        }
        if !self.probe_budget.take(to.ip(), self.now) {
            self.counters.count(DropReason::ProbeOverBudget);
            return;
        }
        let nonce = self.next_seed();
        let Some(bytes) = self.sessions.sealed_probe(slot, nonce, 0) else {
            return;
        };
        let extra = match from {
            From::Main => None,
            From::Extra(number) => Some((slot, number)),
        };
        match (short_lived, extra) {
            (false, None) => self.io.send(to, &bytes, bytes.len()),
            (_, extra) => {
                self.io
                    .send_short_lived(to, &bytes, self.opening_hops, extra);
            }
        }
    }
}
