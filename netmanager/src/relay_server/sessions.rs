//! All sessions with nodes: the QUIC endpoint, its timers, and what unauthenticated peers may cost.
//!
//! Memory for peers that have not registered is bounded: few half-open handshakes are taken at
//! face value, beyond that an address has to prove itself (Retry, without state here), and beyond
//! [`MAX_UNREGISTERED`] new ones are turned away.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use netmanager_core::relay::{Notice, Relay};
use quinn_proto::{
    ConnectionHandle, DatagramEvent, Endpoint, EndpointConfig, IdleTimeout, Incoming,
    RandomConnectionIdGenerator, ServerConfig, Transmit, TransportConfig, VarInt,
};
use weald_proto::relay::{ALPN, HelloRefusal, Refused, RelayMessage};
use weald_trust::tls::Credentials;

use super::revocations::Revocations;
use super::session::{Counts, Host, IDLE_TIMEOUT, Session};
use super::socket::Received;

/// Sessions without a registration that are taken without proof of their address: what a burst of
/// restarting nodes needs.
const UNREGISTERED_BEFORE_RETRY: usize = 64;
/// Sessions without a registration altogether, at some 50 KiB each.
const MAX_UNREGISTERED: usize = 1024;
/// Bytes that a node may send on its stream before they are read: a few messages.
const STREAM_WINDOW: u32 = 16 << 10;
/// Bytes to a node that are kept until it has acknowledged them.
const SEND_WINDOW: u64 = 64 << 10;
/// Bytes of handshake messages that are buffered: a chain of two small certificates.
const CRYPTO_BUFFER: usize = 16 << 10;

/// Sends one datagram of a session.
pub(super) type Send<'a> = dyn FnMut(&Transmit, &[u8]) + 'a;

/// All sessions.
#[derive(Debug)]
pub(super) struct Sessions {
    credentials: Arc<Credentials>,
    endpoint: Endpoint,
    sessions: BTreeMap<usize, Session>,
    /// Which session a registration belongs to.
    links: BTreeMap<u32, usize>,
    timers: BTreeSet<(Instant, usize)>,
    armed: BTreeMap<usize, Instant>,
    /// Sessions to look after before sleeping.
    touched: BTreeSet<usize>,
    buffer: Vec<u8>,
    pub(super) handshakes_refused: u64,
    pub(super) counts: Counts,
    pub(super) revocations: Revocations,
    /// Told to every node in Welcome.
    pub(super) observe_port: Option<u16>,
}

impl Sessions {
    /// No sessions yet; what is kept of the revoked lies in `folder`.
    pub(super) fn new(credentials: Arc<Credentials>, folder: &Path) -> anyhow::Result<Self> {
        let crypto = credentials.server_config(&[ALPN])?;
        let mut server = ServerConfig::with_crypto(Arc::new(crypto));
        server.transport_config(Arc::new(transport_config()));
        server.migration(true);
        // The same after a restart, so that nodes of the former process hear at once that it is gone.
        let secret = credentials.lasting_secret("weald relay stateless reset")?;
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &secret);
        let mut endpoint = EndpointConfig::new(Arc::new(key));
        // Hashed ids would be refused as foreign after a restart, without a reset.
        endpoint.cid_generator(|| Box::new(RandomConnectionIdGenerator::default()));
        // Frames beside QUIC are told apart by that bit.
        endpoint.grease_quic_bit(false);
        Ok(Self {
            revocations: Revocations::load(Arc::clone(&credentials), folder),
            credentials,
            endpoint: Endpoint::new(Arc::new(endpoint), Some(Arc::new(server)), false, None),
            sessions: BTreeMap::new(),
            links: BTreeMap::new(),
            timers: BTreeSet::new(),
            armed: BTreeMap::new(),
            touched: BTreeSet::new(),
            buffer: Vec::new(),
            handshakes_refused: 0,
            counts: Counts::default(),
            observe_port: None,
        })
    }

    /// Sessions without a registration.
    pub(super) fn unregistered(&self) -> usize {
        self.sessions.len().saturating_sub(self.links.len())
    }

    /// When the certificate ends that is shown now, in seconds since 1970.
    pub(super) fn certificate_end(&self) -> u64 {
        // It was read when it was taken up.
        self.credentials.not_after().map_or(0, |end| end.as_secs())
    }

    /// The addresses of the registered nodes.
    pub(super) fn registered_at(&self) -> BTreeSet<SocketAddr> {
        let registered = self.sessions.values().filter(|one| one.link.is_some());
        registered
            .map(|one| one.connection.remote_address())
            .collect()
    }

    /// Takes one QUIC datagram.
    pub(super) fn handle_datagram(
        &mut self,
        received: &Received<'_>,
        datagram: &[u8],
        now: Instant,
        send: &mut Send<'_>,
    ) {
        self.buffer.clear();
        let ecn = received
            .ecn
            .and_then(|ecn| quinn_proto::EcnCodepoint::from_bits(ecn as u8));
        let bytes = BytesMut::from(datagram);
        let (from, to) = (received.from, received.to);
        let event = self
            .endpoint
            .handle(now, from, to, ecn, bytes, &mut self.buffer);
        match event {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(session) = self.sessions.get_mut(&handle.0) {
                    session.connection.handle_event(event);
                    self.touched.insert(handle.0);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                if let Some(answer) = self.welcome_or_not(incoming, now) {
                    self.answer(&answer, send);
                }
            }
            Some(DatagramEvent::Response(answer)) => self.answer(&answer, send),
            None => {}
        }
    }

    /// Says what the core has to say.
    pub(super) fn handle_notice(&mut self, notice: Notice, now: Instant) {
        let (Notice::Gone { link, .. }
        | Notice::Observed { link, .. }
        | Notice::Superseded { link }
        | Notice::Expired { link }) = notice;
        let Some(index) = self.links.get(&link).copied() else {
            return;
        };
        let Some(session) = self.sessions.get_mut(&index) else {
            return;
        };
        match notice {
            Notice::Gone { peer, .. } => session.say(&RelayMessage::Gone { peer }),
            Notice::Observed {
                from, asked_port, ..
            } => session.say(&RelayMessage::Observed {
                asked_port,
                seen: from,
            }),
            Notice::Superseded { .. } => {
                session.link = None;
                let why = "the node has registered again".to_owned();
                session.end_with(&RelayMessage::Superseded, why, now);
            }
            Notice::Expired { .. } => {
                session.link = None;
                let text = "the relay token has expired".to_owned();
                let refused = RelayMessage::Refused(Refused {
                    reason: HelloRefusal::Token,
                    text: text.clone(),
                });
                session.end_with(&refused, text, now);
            }
        }
        if session.link.is_none() {
            self.links.remove(&link);
        }
        self.touched.insert(index);
    }

    /// Lets time pass.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, index)) = self.timers.first().copied() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            self.armed.remove(&index);
            if let Some(session) = self.sessions.get_mut(&index) {
                session.connection.handle_timeout(now);
                self.touched.insert(index);
            }
        }
    }

    /// When to call [`Sessions::handle_timeout`] next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Looks after every session that something has happened to. False if there was none.
    pub(super) fn drive(&mut self, relay: &mut Relay, now: Instant, send: &mut Send<'_>) -> bool {
        let mut driven = false;
        while let Some(index) = self.touched.pop_first() {
            driven = true;
            self.drive_one(index, relay, now, send);
        }
        driven
    }

    /// Ends every session.
    pub(super) fn close(&mut self, relay: &mut Relay, now: Instant, send: &mut Send<'_>) {
        for (index, session) in &mut self.sessions {
            let mut host = Host {
                relay,
                credentials: &self.credentials,
                counts: &mut self.counts,
                revocations: &mut self.revocations,
                list_is_new: false,
                observe_port: self.observe_port,
                now,
            };
            session.close(&mut host, "the relay is shutting down");
            self.touched.insert(*index);
        }
        self.drive(relay, now, send);
    }

    /// Decides about a new handshake; what has to be answered is in the buffer.
    fn welcome_or_not(&mut self, incoming: Incoming, now: Instant) -> Option<Transmit> {
        self.buffer.clear();
        let unregistered = self.unregistered();
        if unregistered >= MAX_UNREGISTERED {
            self.handshakes_refused += 1;
            return Some(self.endpoint.refuse(incoming, &mut self.buffer));
        }
        if unregistered >= UNREGISTERED_BEFORE_RETRY
            && !incoming.remote_address_validated()
            && incoming.may_retry()
        {
            return self.endpoint.retry(incoming, &mut self.buffer).ok();
        }
        let accepted = self.endpoint.accept(incoming, now, &mut self.buffer, None);
        match accepted {
            Ok((handle, connection)) => {
                self.sessions
                    .insert(handle.0, Session::new(connection, now));
                self.touched.insert(handle.0);
                None
            }
            Err(error) => error.response,
        }
    }

    fn answer(&self, answer: &Transmit, send: &mut Send<'_>) {
        if let Some(bytes) = self.buffer.get(..answer.size) {
            send(answer, bytes);
        }
    }

    fn drive_one(&mut self, index: usize, relay: &mut Relay, now: Instant, send: &mut Send<'_>) {
        let Some(session) = self.sessions.get_mut(&index) else {
            return;
        };
        let before = session.link;
        let mut host = Host {
            relay,
            credentials: &self.credentials,
            counts: &mut self.counts,
            revocations: &mut self.revocations,
            list_is_new: false,
            observe_port: self.observe_port,
            now,
        };
        loop {
            session.advance(&mut host);
            self.buffer.clear();
            while let Some(transmit) = session.connection.poll_transmit(now, 1, &mut self.buffer) {
                send(&transmit, &self.buffer);
                self.buffer.clear();
            }
            let mut settled = true;
            while let Some(event) = session.connection.poll_endpoint_events() {
                settled = false;
                let handle = ConnectionHandle(index);
                if let Some(event) = self.endpoint.handle_event(handle, event) {
                    session.connection.handle_event(event);
                }
            }
            if settled {
                break;
            }
        }
        let list_is_new = host.list_is_new;
        if session.link != before {
            before.map(|link| self.links.remove(&link));
            session.link.map(|link| self.links.insert(link, index));
        }
        let drained = session.connection.is_drained();
        let wake_up = session.connection.poll_timeout();
        let wake_up = wake_up.into_iter().chain(session.deadline).min();
        if drained {
            self.sessions.remove(&index);
        }
        self.arm(index, wake_up.filter(|_| !drained));
        if list_is_new {
            self.use_list(relay, now);
        }
    }

    /// Ends the sessions of those whom a new list has, and tells it to the others.
    fn use_list(&mut self, relay: &mut Relay, now: Instant) {
        let revoked = self.credentials.revoked();
        for (index, session) in &mut self.sessions {
            let link = session.link;
            let mut host = Host {
                relay,
                credentials: &self.credentials,
                counts: &mut self.counts,
                revocations: &mut self.revocations,
                list_is_new: false,
                observe_port: self.observe_port,
                now,
            };
            if session.cut_if_revoked(&revoked, &mut host) {
                link.map(|link| self.links.remove(&link));
            } else {
                session.tell_list(&self.revocations);
            }
            self.touched.insert(*index);
        }
    }

    fn arm(&mut self, index: usize, wake_up: Option<Instant>) {
        if let Some(old) = self.armed.remove(&index) {
            self.timers.remove(&(old, index));
        }
        if let Some(at) = wake_up {
            self.armed.insert(index, at);
            self.timers.insert((at, index));
        }
    }
}

fn transport_config() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(STREAM_WINDOW))
        .send_window(SEND_WINDOW)
        .crypto_buffer_size(CRYPTO_BUFFER)
        .datagram_receive_buffer_size(None)
        .mtu_discovery_config(None)
        .max_idle_timeout(IdleTimeout::try_from(IDLE_TIMEOUT).ok());
    transport
}
