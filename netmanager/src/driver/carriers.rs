//! UDP or TCP to each relay: does what netmanager-core's `peer::carrier` wants, and tells it what
//! comes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use bytes::BytesMut;
use netmanager_core::peer::carrier::{Carrier, CarrierAction, CarrierReason};
use netmanager_core::peer::paths::{Path, RelayIndex};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use weald_proto::datagram::TCP_ALPN;
use weald_proto::frame::{Knock, Knocked, RelayHeader};
use weald_proto::id::Identity;
use weald_trust::tls::SERVER_NAME;

use super::Driver;
use super::drive::CloseCode;
use super::session::With;
use super::tunnels::Arrival;

impl Driver {
    /// Reads what has come over TCP.
    pub(super) fn receive_tunnels(&mut self) {
        for arrival in self.io.tunnels.receive() {
            match arrival {
                Arrival::Open(relay) => {
                    let now = self.now;
                    if let Some(entry) = self.relay_mut(relay) {
                        entry.carriers.handle_open(now);
                    }
                    self.drive_carriers(relay);
                }
                Arrival::Datagram(relay, datagram) => {
                    if let Some(address) = self.relay_address(relay) {
                        self.arrived_over_tcp = true;
                        self.handle_datagram(address, BytesMut::from(datagram.as_slice()));
                        self.arrived_over_tcp = false;
                    }
                }
                Arrival::Ended(relay, error) => self.tunnel_ended(relay, &error.to_string()),
            }
        }
        self.take_in_touched();
    }

    /// Sends what waits in the connections.
    pub(super) fn flush_tunnels(&mut self) {
        for (relay, error) in self.io.tunnels.flush() {
            self.tunnel_ended(relay, &error.to_string());
        }
    }

    fn tunnel_ended(&mut self, relay: RelayIndex, why: &str) {
        let now = self.now;
        if let Some(entry) = self.relay_mut(relay) {
            tracing::debug!(relay = %entry.id, why, "no TCP connection to the relay");
            entry.carriers.handle_closed(now);
        }
        self.drive_carriers(relay);
    }

    /// Notes that something authentic has come from a relay that is being read.
    pub(super) fn heard_relay(&mut self, relay: RelayIndex) {
        let now = self.now;
        let over_udp = !self.arrived_over_tcp;
        if let Some(entry) = self.relay_mut(relay).filter(|_| over_udp) {
            entry.carriers.handle_heard(now);
        }
    }

    /// Takes a datagram of no kind that a peer sends: the answer to a knock, or nothing.
    pub(super) fn handle_knocked(&mut self, from: SocketAddr, datagram: &[u8]) -> bool {
        let answer = Knocked::decode(datagram);
        let Some(answer) = answer.filter(|_| !self.arrived_over_tcp) else {
            return false;
        };
        let now = self.now;
        let mut relays = self.relays.iter_mut();
        let asked =
            relays.find(|entry| entry.address() == Some(from) && entry.knock == Some(answer.tag));
        let Some(entry) = asked else {
            return false;
        };
        entry.knock = None;
        entry.carriers.handle_heard(now);
        true
    }

    /// Does what has become due, and what follows from what has come.
    pub(super) fn handle_carrier_timeouts(&mut self) {
        for at in 0..self.relays.len() {
            let now = self.now;
            let Some(entry) = self.relays.get_mut(at) else {
                return;
            };
            entry.carriers.handle_timeout(now);
            let relay = entry.index;
            self.drive_carriers(relay);
        }
    }

    pub(super) fn carrier_deadline(&self) -> Option<Instant> {
        let relays = self.relays.iter();
        relays
            .filter_map(|entry| entry.carriers.poll_timeout())
            .min()
    }

    fn drive_carriers(&mut self, relay: RelayIndex) {
        while let Some(action) = self
            .relay_mut(relay)
            .and_then(|entry| entry.carriers.poll_action())
        {
            match action {
                CarrierAction::Open => {
                    if let Err(error) = self.open_tunnel(relay) {
                        let now = self.now;
                        tracing::debug!("no TCP connection to a relay: {error:#}");
                        if let Some(entry) = self.relay_mut(relay) {
                            entry.carriers.handle_closed(now);
                        }
                    }
                }
                CarrierAction::Close => self.io.tunnels.close(relay),
                CarrierAction::Knock => self.knock(relay),
                CarrierAction::Use(carrier, reason) => self.carry(relay, carrier, reason),
            }
        }
    }

    fn open_tunnel(&mut self, relay: RelayIndex) -> anyhow::Result<()> {
        let entry = self.relays.iter().find(|entry| entry.index == relay);
        let entry = entry.context("there is no such relay")?;
        let to = entry.tcp_address().context("the relay has no address")?;
        let expected = Identity::Relay(entry.id.clone());
        let config = self.credentials.tcp_client_config(&expected, TCP_ALPN)?;
        let name = ServerName::try_from(SERVER_NAME).context("not a name")?;
        let tls = ClientConnection::new(Arc::new(config), name)?;
        self.io
            .tunnels
            .open(relay, to, tls)
            .with_context(|| format!("{to}/tcp"))
    }

    /// Asks a relay for an answer over UDP. Without a registration there is nothing to ask with.
    fn knock(&mut self, relay: RelayIndex) {
        let Some(entry) = self.relays.iter_mut().find(|entry| entry.index == relay) else {
            return;
        };
        let Some(address) = entry.address() else {
            return;
        };
        let Some((link, keys)) = entry.sending() else {
            return;
        };
        let knock = Knock {
            link,
            port: 0,
            from_other_port: false,
        };
        let mut frame = knock.encode(0);
        if keys.sealer.seal(&mut frame, RelayHeader::TAG).is_ok() {
            let tag = frame.get(RelayHeader::TAG);
            entry.knock = tag.and_then(|tag| tag.try_into().ok());
            self.io.send_udp(address, &frame, frame.len());
        }
    }

    /// Sends everything to a relay over another carrier from now on. Sessions stay; what they know
    /// of the way, its rate and its packets' size, does not.
    fn carry(&mut self, relay: RelayIndex, carrier: Carrier, reason: CarrierReason) {
        let Some(entry) = self.relays.iter_mut().find(|entry| entry.index == relay) else {
            return;
        };
        tracing::info!(relay = %entry.id, over = ?carrier, why = reason.word(), "relay carried");
        let towards = entry.address().filter(|_| carrier == Carrier::Tcp);
        self.io.tunnels.lead(relay, towards);
        let session = entry.session;
        let stands = session
            .and_then(|slot| self.sessions.of(slot))
            .is_some_and(|session| session.established.is_some());
        if let Some(slot) = session.filter(|_| !stands) {
            // The relay may have seen a part of it, and answered the other way.
            entry.session = None;
            self.close(slot, CloseCode::Superseded);
            self.dial_relay(relay);
        }
        for slot in self.sessions.slots() {
            let Some(session) = self.sessions.of_mut(slot) else {
                continue;
            };
            let over = matches!(session.path, Some(Path::Relay { relay: of, .. }) if of == relay);
            if session.established.is_some() && (over || session.with == With::Relay(relay)) {
                session.connection.path_changed(self.now);
                session.connection.ping();
                session.paths.probe_all(self.now);
                self.touched.insert(slot);
            }
        }
        if carrier == Carrier::Udp {
            self.ask_observers(relay);
        }
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            if self
                .session_with(peer)
                .and_then(|session| session.path)
                .is_some_and(|path| matches!(path, Path::Relay { relay: of, .. } if of == relay))
            {
                self.lane_path_changed(peer);
            }
        }
    }
}
