//! The conversation with a relay on its stream: bytes in, bytes out, and what was said.

use netmanager_core::peer::carrier::Carrier;
use netmanager_core::peer::paths::{Path, RelayIndex};
use netmanager_core::peer::relay_link::{LinkEvent, RelayLink, Revoked};
use netmanager_core::seal::{Opener, SealKey, Sealer};
use quinn_proto::{Dir, ReadError, WriteError};
use weald_proto::relay::{EXPORTER_DOWN, EXPORTER_LABEL, EXPORTER_UP};
use weald_trust::tls;

use super::{Driver, LinkKeys};
use crate::driver::cluster::Heard;
use crate::driver::drive::CloseCode;
use crate::driver::session::With;
use crate::quic::Slot;

impl Driver {
    /// The handshake with a relay is done: derive the keys, open the stream, show the token.
    pub(in crate::driver) fn start_relay_link(&mut self, slot: Slot, index: RelayIndex) {
        if !self.is_to_stay(slot, index) {
            // It was measured, and closed with that.
            return;
        }
        let token = self.relay_token().unwrap_or_default().to_vec();
        let revoked = self.revoked.clone();
        let Some(entry) = self.relays.iter_mut().find(|entry| entry.index == index) else {
            self.close(slot, CloseCode::UnknownNode);
            return;
        };
        let Some(session) = self.sessions.of_mut(slot) else {
            return;
        };
        let key = |context: &[u8]| {
            let mut key = [0; 16];
            let label = std::str::from_utf8(EXPORTER_LABEL).unwrap_or_default();
            let session = session.connection.crypto_session();
            tls::export(session, label, context, &mut key)
                .ok()
                .map(|()| SealKey::new(key))
        };
        let (Some(up), Some(down)) = (key(EXPORTER_UP), key(EXPORTER_DOWN)) else {
            self.close(slot, CloseCode::Protocol);
            return;
        };
        entry.keys = Some(LinkKeys {
            sealer: Sealer::new(up),
            opener: Opener::new(down),
        });
        entry.link = Some(RelayLink::new(token, revoked));
        session.stream = session.connection.streams().open(Dir::Bi);
        self.drive_relay(index);
    }

    /// Takes the newest list of the revoked, and tells it to the relays that have an older one.
    pub(in crate::driver) fn tell_relays(&mut self, revoked: Revoked) {
        let up: Vec<RelayIndex> = self.relays.iter().map(|entry| entry.index).collect();
        for index in up {
            if let Some(link) = self.relay_mut(index).and_then(|entry| entry.link.as_mut()) {
                link.set_revoked(revoked.clone());
                self.drive_relay(index);
            }
        }
        self.revoked = Some(revoked);
    }

    /// Moves bytes between the link's conversation and its stream, and acts on what was said.
    pub(super) fn drive_relay(&mut self, index: RelayIndex) {
        loop {
            let Some(entry) = self.relays.iter_mut().find(|entry| entry.index == index) else {
                return;
            };
            let (Some(link), Some(slot)) = (entry.link.as_mut(), entry.session) else {
                return;
            };
            if let Some(session) = self.sessions.of_mut(slot)
                && let Some(stream) = session.stream
            {
                while let Some(message) = link.poll_send() {
                    match session.connection.send_stream(stream).write(&message) {
                        Ok(written) if written < message.len() => {
                            link.unsend(message.get(written..).unwrap_or_default().to_vec());
                            break;
                        }
                        Ok(_) => {}
                        Err(WriteError::Blocked) => {
                            link.unsend(message);
                            break;
                        }
                        Err(error) => {
                            tracing::debug!(%error, relay = %entry.id, "stream to the relay");
                            break;
                        }
                    }
                }
                self.touched.insert(slot);
            }
            let Some(event) = link.poll_event() else {
                return;
            };
            self.handle_link_event(index, event);
        }
    }

    fn handle_link_event(&mut self, index: RelayIndex, event: LinkEvent) {
        let Some(entry) = self.relays.iter_mut().find(|entry| entry.index == index) else {
            return;
        };
        match event {
            LinkEvent::Registered {
                link,
                observed,
                observe_port,
            } => {
                tracing::info!(relay = %entry.id, %observed, "registered at the relay");
                entry.link_id = Some(link);
                entry.observe_port = observe_port;
                let over_udp = entry.carriers.in_use() == Carrier::Udp;
                // Over TCP the relay does not see the data socket.
                entry.observed = over_udp.then_some(observed);
                if let Some(address) = entry.address().filter(|_| over_udp) {
                    self.surroundings.observe(address, observed);
                }
                entry.failures = 0;
                entry.retry_at = None;
                entry.reason = None;
                for peer in self.peers_in_need() {
                    self.ask_relay(index, peer);
                }
                self.tell_surroundings();
                self.ask_observers(index);
            }
            LinkEvent::Reachable { peer, .. } => self.offer_paths(peer),
            LinkEvent::Observed { asked_port, seen } => {
                let mut asked = entry.observers();
                if let Some(observer) = asked.find(|at| at.port() == asked_port) {
                    self.observed(observer, seen);
                }
            }
            LinkEvent::Gone { id } => {
                let gone = Path::Relay {
                    relay: index,
                    peer: id,
                };
                self.withdraw_paths(|path| path == gone);
            }
            LinkEvent::Revocations(list) => {
                (self.heard)(Heard::Relay(entry.id.clone(), Box::new(list)));
            }
            LinkEvent::Ended(reason) => {
                tracing::warn!(relay = %entry.id, %reason, "the relay ended the session");
                self.drop_relay(index, &reason);
            }
        }
    }

    /// Reads what a relay has said.
    pub(in crate::driver) fn read_relay_stream(&mut self, slot: Slot) {
        let Some(session) = self.sessions.of_mut(slot) else {
            return;
        };
        let (With::Relay(index), Some(stream)) = (session.with, session.stream) else {
            return;
        };
        let Some(entry) = self.relays.iter_mut().find(|entry| entry.index == index) else {
            return;
        };
        let Some(link) = entry.link.as_mut() else {
            return;
        };
        let mut fault = None;
        if let Ok(mut chunks) = session.connection.recv_stream(stream).read(true) {
            loop {
                match chunks.next(usize::MAX) {
                    Ok(Some(chunk)) => {
                        if let Err(error) = link.handle_stream(&chunk.bytes, self.now) {
                            fault = Some(error.to_string());
                            break;
                        }
                    }
                    Ok(None) => {
                        fault = Some("the relay closed the stream".to_owned());
                        break;
                    }
                    Err(ReadError::Blocked) => break,
                    Err(ReadError::Reset(code)) => {
                        fault = Some(format!("the relay reset the stream ({code})"));
                        break;
                    }
                }
            }
            let _ = chunks.finalize();
        }
        self.drive_relay(index);
        if let Some(fault) = fault {
            self.drop_relay(index, &fault);
        }
    }

    /// The stream to a relay takes more: go on with what waited.
    pub(in crate::driver) fn write_relay_stream(&mut self, slot: Slot) {
        if let Some(With::Relay(index)) = self.sessions.of(slot).map(|session| session.with) {
            self.drive_relay(index);
        }
    }
}
