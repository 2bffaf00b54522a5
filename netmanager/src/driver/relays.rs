//! The relays of the table: a session and a registration with each of those that are kept. Which these are
//! is netmanager-core's `peer::relay_choice`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use netmanager_core::peer::carrier::{Carrier, Carriers};
use netmanager_core::peer::paths::{Path, RelayIndex};
use netmanager_core::peer::relay_link::RelayLink;
use netmanager_core::seal::{Opener, Sealer};
use netmanager_core::table::PeerId;
use weald_proto::datagram::DEFAULT_TCP_PORT;
use weald_proto::frame::TAG_LEN;
use weald_proto::id::{Identity, RelayId};
use weald_proto::relay::ALPN;

use super::Driver;
use super::drive::CloseCode;
use super::session::With;
use crate::quic::{self, Slot};

mod choice;
mod stream;

pub(super) use self::choice::Plan;

/// First pause after a relay was lost; doubled with every failure.
const RETRY_MIN: Duration = Duration::from_millis(250);
/// Longest pause between attempts to reach a relay.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// How long a relay may take to answer and to register this node before the next attempt.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);

/// What the driver keeps of one relay.
#[derive(Debug)]
pub(super) struct RelayEntry {
    pub(super) index: RelayIndex,
    pub(super) id: RelayId,
    addresses: Vec<SocketAddr>,
    /// Where it is reached over TCP; empty means the usual port.
    tcp_addresses: Vec<SocketAddr>,
    /// Which of the addresses is tried or used.
    turn: usize,
    pub(super) session: Option<Slot>,
    link: Option<RelayLink>,
    keys: Option<LinkKeys>,
    link_id: Option<u32>,
    pub(super) observed: Option<SocketAddr>,
    /// The relay's port at which it tells what it sees there.
    observe_port: Option<u16>,
    retry_at: Option<Instant>,
    failures: u32,
    pub(super) carriers: Carriers,
    /// The tag of the last knock, until it is answered.
    pub(super) knock: Option<[u8; TAG_LEN]>,
    pub(super) reason: Option<String>,
}

/// The keys of data frames, exported from the session with the relay.
#[derive(Debug)]
pub(super) struct LinkKeys {
    pub(super) sealer: Sealer,
    pub(super) opener: Opener,
}

impl RelayEntry {
    /// The address that is tried or used.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.addresses
            .get(self.turn % self.addresses.len().max(1))
            .copied()
    }

    /// Where it is tried over TCP.
    pub(super) fn tcp_address(&self) -> Option<SocketAddr> {
        let usual = self
            .address()
            .map(|at| SocketAddr::new(at.ip(), DEFAULT_TCP_PORT));
        let named = self.turn % self.tcp_addresses.len().max(1);
        self.tcp_addresses.get(named).copied().or(usual)
    }

    /// Where the relay tells what it sees, if it does: at its own port and at another one.
    pub(super) fn observers(&self) -> impl Iterator<Item = SocketAddr> + use<> {
        let both = self.address().zip(self.observe_port);
        let both = both.map(|(at, second)| [at, SocketAddr::new(at.ip(), second)]);
        both.into_iter().flatten()
    }

    /// The keys of data frames with this link id.
    pub(super) fn keys_of(&mut self, link: u32) -> Option<&mut LinkKeys> {
        (self.link_id == Some(link))
            .then_some(self.keys.as_mut())
            .flatten()
    }

    /// What data frames to the relay are made with, once registered.
    pub(super) fn sending(&mut self) -> Option<(u32, &mut LinkKeys)> {
        Some((self.link_id?, self.keys.as_mut()?))
    }

    /// The path to a peer through this relay, if the relay has named one.
    pub(super) fn path_to(&self, peer: PeerId) -> Option<Path> {
        self.link_id?;
        let id = self.link.as_ref()?.id_of(peer)?;
        Some(Path::Relay {
            relay: self.index,
            peer: id,
        })
    }

    /// Whether the relay has said that it does not have the peer.
    pub(super) fn lacks(&self, peer: PeerId) -> bool {
        self.link.as_ref().is_some_and(|link| link.lacks(peer))
    }

    /// All of its addresses.
    pub(super) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The relay's port at which it tells what it sees there.
    pub(super) const fn observe_port(&self) -> Option<u16> {
        self.observe_port
    }

    /// How it is, in a word that stands in JSON.
    pub(super) const fn state_word(&self) -> &'static str {
        match (self.is_registered(), self.session) {
            (true, _) => "up",
            (false, Some(_)) => "connecting",
            (false, None) => "down",
        }
    }

    /// Whether data frames can be sent.
    pub(super) const fn is_registered(&self) -> bool {
        self.link_id.is_some()
    }

    fn forget_session(&mut self) {
        self.session = None;
        self.link = None;
        self.keys = None;
        self.link_id = None;
        self.knock = None;
        self.carriers.handle_forgotten();
    }
}

impl Driver {
    /// Brings the relays in line with the table.
    pub(super) fn update_relays(&mut self) {
        let rows = self.wanted_relays();
        let gone: Vec<RelayIndex> = self
            .relays
            .iter()
            .filter(|entry| !rows.iter().any(|row| row.id == entry.id))
            .map(|entry| entry.index)
            .collect();
        let left = self
            .relays
            .iter()
            .filter(|entry| gone.contains(&entry.index));
        let mut left: Vec<SocketAddr> = left.flat_map(RelayEntry::observers).collect();
        for index in gone {
            self.drop_relay(index, "not in the table any more, or others are nearer");
            self.io.tunnels.close(index);
            self.relays.retain(|entry| entry.index != index);
        }
        let mut moved = Vec::new();
        for row in rows {
            if let Some(entry) = self.relays.iter_mut().find(|entry| entry.id == row.id) {
                entry.tcp_addresses = row.tcp_addresses;
                if entry.addresses != row.addresses {
                    let (used, observers) = (entry.address(), entry.observers());
                    entry.addresses = row.addresses;
                    entry.turn = 0;
                    let still = entry.addresses.iter().position(|at| Some(*at) == used);
                    match still {
                        Some(at) => entry.turn = at,
                        None => {
                            moved.push(entry.index);
                            left.extend(observers);
                        }
                    }
                }
                continue;
            }
            let index = self.relay_plan.next_index();
            self.relays.push(RelayEntry {
                index,
                id: row.id,
                addresses: row.addresses,
                tcp_addresses: row.tcp_addresses,
                turn: 0,
                session: None,
                link: None,
                keys: None,
                link_id: None,
                observed: None,
                observe_port: None,
                retry_at: Some(self.now),
                failures: 0,
                carriers: Carriers::default(),
                knock: None,
                reason: None,
            });
        }
        for index in moved {
            self.drop_relay(index, "its address has changed");
            self.io.tunnels.close(index);
            if let Some(entry) = self.relays.iter_mut().find(|entry| entry.index == index) {
                entry.turn = 0;
                entry.carriers = Carriers::default();
                entry.retry_at = Some(self.now);
            }
        }
        // Nobody will say again what they saw.
        let mut is_news = false;
        for observer in left {
            is_news |= self.surroundings.forget_observer(observer);
        }
        if is_news {
            self.tell_surroundings();
        }
    }

    /// The token that relays ask for: what the cluster has given, else what stands beside the
    /// certificate.
    pub(super) fn relay_token(&self) -> Option<&[u8]> {
        self.relay_token
            .as_deref()
            .or_else(|| self.credentials.relay_token())
    }

    pub(super) fn dial_relay(&mut self, index: RelayIndex) {
        let has_token = self.relay_token().is_some();
        let Some(entry) = self.relays.iter_mut().find(|entry| entry.index == index) else {
            return;
        };
        // Whatever goes wrong below is tried again, on the next address.
        entry.retry_at = Some(self.now + RETRY_MAX);
        let Some(address) = entry.address().filter(|at| self.io.socket.reaches(*at)) else {
            entry.reason = Some("no address that this node's data socket reaches".into());
            entry.turn = entry.turn.wrapping_add(1);
            return;
        };
        if !has_token {
            entry.reason = Some("this node has no relay token; issue one".into());
            return;
        }
        let expected = Identity::Relay(entry.id.clone());
        let crypto = self.credentials.client_config(&expected, ALPN);
        let dialled = crypto.and_then(|crypto| {
            let config = quic::relay_client_config(crypto);
            self.connect(config, With::Relay(index), |session| {
                session.path = Some(Path::Direct(address));
            })
        });
        let Some(entry) = self.relays.iter_mut().find(|entry| entry.index == index) else {
            return;
        };
        match dialled {
            Ok(slot) => {
                entry.session = Some(slot);
                entry.carriers.handle_asked(self.now);
                entry.retry_at = Some(self.now + ANSWER_TIMEOUT);
            }
            Err(error) => entry.reason = Some(error.to_string()),
        }
    }

    pub(super) fn handle_relay_lost(&mut self, slot: Slot, index: RelayIndex, reason: &str) {
        let entry = self.relays.iter().find(|entry| entry.index == index);
        if entry.is_some_and(|entry| entry.session == Some(slot)) {
            self.drop_relay(index, reason);
        }
    }

    /// Ends the session with a relay, withdraws the paths through it, and plans the next attempt.
    fn drop_relay(&mut self, index: RelayIndex, reason: &str) {
        let Some(entry) = self.relays.iter_mut().find(|entry| entry.index == index) else {
            return;
        };
        if entry.is_registered() {
            tracing::info!(relay = %entry.id, why = reason, "relay lost");
        }
        let slot = entry.session;
        self.relay_plan.choice.handle_silent(&entry.id, self.now);
        for observer in entry.observers() {
            self.surroundings.lose_observer(observer, self.now);
        }
        entry.forget_session();
        entry
            .reason
            .get_or_insert_with(String::new)
            .clone_from(&reason.to_owned());
        let pause = RETRY_MIN
            .saturating_mul(1 << entry.failures.min(8))
            .min(RETRY_MAX);
        entry.retry_at = Some(self.now + pause);
        entry.failures = entry.failures.saturating_add(1);
        if entry.carriers.in_use() == Carrier::Udp {
            entry.turn = entry.turn.wrapping_add(1);
        }
        self.withdraw_paths(|path| matches!(path, Path::Relay { relay, .. } if relay == index));
        if let Some(slot) = slot {
            self.close(slot, CloseCode::Shutdown);
        }
    }

    /// Dials at once those relays that were to be dialled after a pause, and anew those that have not
    /// answered.
    pub(super) fn redial_relays(&mut self) {
        let sessions = self.relays.iter().map(|entry| entry.session);
        for (at, slot) in sessions.collect::<Vec<_>>().into_iter().enumerate() {
            let in_vain = slot.filter(|slot| self.is_unanswered(*slot));
            if (slot.is_none() || in_vain.is_some())
                && let Some(entry) = self.relays.get_mut(at)
            {
                entry.session = None;
                entry.retry_at = Some(self.now);
            }
            if let Some(slot) = in_vain {
                self.close(slot, CloseCode::Superseded);
            }
        }
    }

    /// Packets through a relay do not come back: make it show whether it still knows this node. One
    /// that has restarted answers with a stateless reset.
    pub(super) fn doubt_relay(&mut self, index: RelayIndex) {
        let now = self.now;
        let Some(entry) = self.relay_mut(index) else {
            return;
        };
        let Some(slot) = entry.session else {
            return;
        };
        entry.carriers.handle_asked(now);
        if let Some(session) = self.sessions.of_mut(slot) {
            session.connection.ping();
            self.touched.insert(slot);
        }
    }

    pub(super) fn relay_mut(&mut self, index: RelayIndex) -> Option<&mut RelayEntry> {
        self.relays.iter_mut().find(|entry| entry.index == index)
    }

    /// Forgets a peer that is in the table no more.
    pub(super) fn forget_at_relays(&mut self, peer: PeerId) {
        for link in self
            .relays
            .iter_mut()
            .filter_map(|entry| entry.link.as_mut())
        {
            link.forget(peer);
        }
    }

    /// Asks every relay how the peer is reached.
    pub(super) fn ask_relays(&mut self, peer: PeerId) {
        let relays: Vec<RelayIndex> = self.relays.iter().map(|entry| entry.index).collect();
        for index in relays {
            self.ask_relay(index, peer);
        }
    }

    /// Asks one relay how the peer is reached.
    fn ask_relay(&mut self, index: RelayIndex, peer: PeerId) {
        let Some(node) = self.peers.get(&peer).map(|entry| entry.node.clone()) else {
            return;
        };
        let entry = self.relays.iter_mut().find(|entry| entry.index == index);
        if let Some(link) = entry.and_then(|entry| entry.link.as_mut()) {
            link.want(peer, &node, self.now);
            self.drive_relay(index);
        }
    }

    /// Peers that are dialled or connected: a relay that has come up may be a way to them.
    fn peers_in_need(&self) -> Vec<PeerId> {
        let needs = self.peers.iter().filter(|(_, entry)| {
            entry.session.is_some() || entry.dialling.is_some() || entry.dial_pending
        });
        needs.map(|(peer, _)| *peer).collect()
    }

    fn withdraw_paths(&mut self, gone: impl Fn(Path) -> bool) {
        for slot in self.sessions.slots() {
            let Some(session) = self.sessions.of_mut(slot) else {
                continue;
            };
            if session.established.is_none() || !matches!(session.with, With::Peer(_)) {
                continue;
            }
            let paths: Vec<Path> = session
                .paths
                .views(self.now)
                .map(|view| view.path)
                .collect();
            for path in paths.into_iter().filter(|path| gone(*path)) {
                session.paths.remove(path, self.now);
                self.touched.insert(slot);
            }
        }
    }

    pub(super) fn handle_relay_timeouts(&mut self) {
        for index in self
            .relays
            .iter()
            .map(|entry| entry.index)
            .collect::<Vec<_>>()
        {
            let Some(entry) = self.relays.iter_mut().find(|entry| entry.index == index) else {
                continue;
            };
            if entry.retry_at.is_some_and(|at| at <= self.now) {
                if entry.session.is_some() {
                    self.drop_relay(index, "the relay did not answer");
                } else {
                    self.dial_relay(index);
                }
            } else if let Some(link) = entry.link.as_mut()
                && link.poll_timeout().is_some_and(|at| at <= self.now)
            {
                link.handle_timeout(self.now);
                self.drive_relay(index);
            }
        }
        self.choose_relays();
    }

    pub(super) fn relay_deadline(&self) -> Option<Instant> {
        let links = self
            .relays
            .iter()
            .filter_map(|entry| entry.link.as_ref()?.poll_timeout());
        self.relays
            .iter()
            .filter_map(|entry| entry.retry_at)
            .chain(links)
            .chain(self.relay_plan.choice.poll_timeout())
            .min()
    }
}
