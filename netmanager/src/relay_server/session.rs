//! One session with a node: what it says on its stream and what it is answered.
//!
//! It reads and writes the stream of one connection and calls the core; datagrams and timers are
//! `sessions`'.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use netmanager_core::relay::{MAX_PACKET, Registration, Relay};
use netmanager_core::seal::SealKey;
use quinn_proto::{Connection, ConnectionError, Dir, Event, StreamEvent, StreamId, VarInt};
use tracing::{debug, info, warn};
use weald_proto::relay::{
    EXPORTER_DOWN, EXPORTER_UP, Hello, HelloRefusal, Limits, MAX_LONG_MESSAGE_LEN, MAX_MESSAGE_LEN,
    NodeMessage, Opened, Refused, RelayMessage, VERSION, Welcome,
};
use weald_proto::statement::Signed;
use weald_proto::stream::Deframer;
use weald_trust::tls::{self, Credentials, KeyHash, RevocationSet};

use super::revocations::Revocations;

/// After this time without a packet from a node its session and registration end; nodes keep it
/// alive more than twice as often.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a session may take to register: several round trips of the worst path.
pub(super) const HELLO_TIME: Duration = Duration::from_secs(10);
/// How long a node has to read why its session ends.
const LAST_WORDS_TIME: Duration = Duration::from_secs(1);
/// Bytes of answers that wait for a node to read them before its requests are read any further.
const OUTBOX_PAUSE: usize = 16 << 10;
/// Bytes of answers and notices beyond which a node that does not read is given up.
const OUTBOX_MAX: usize = 256 << 10;
/// Bytes taken from the stream at a time.
const READ_LEN: usize = 4096;
/// The name of the exported keys, as the TLS library wants it.
const EXPORTER_LABEL: &str = "weald relay";

/// What a session acts on beside itself.
#[derive(Debug)]
pub(super) struct Host<'a> {
    pub(super) relay: &'a mut Relay,
    pub(super) credentials: &'a Credentials,
    pub(super) counts: &'a mut Counts,
    pub(super) revocations: &'a mut Revocations,
    /// Set once a list of the revoked is news: then every session is to be looked at.
    pub(super) list_is_new: bool,
    pub(super) observe_port: Option<u16>,
    pub(super) now: Instant,
}

/// What is counted of all sessions.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) tokens_refused: u64,
    pub(super) certificates_refused: u64,
    pub(super) last_certificate_refused: Option<String>,
}

/// A session with a node.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) connection: Connection,
    /// The registration, as long as there is one.
    pub(super) link: Option<u32>,
    /// When the session ends, unless it is registered by then.
    pub(super) deadline: Option<Instant>,
    stream: Option<StreamId>,
    inbox: Deframer,
    outbox: Vec<u8>,
    /// A list of the revoked, or what is left of it to be said: shared, because all nodes get the
    /// same at the same time. It begins when all else was said.
    list: Bytes,
    /// A newer list that waits for that one.
    next_list: Option<Bytes>,
    /// The newest list that the node has or is told; none if it takes no lists.
    knows: Option<u64>,
    /// Keys that the registration depends on: the node's, and those of its cluster.
    keys: Vec<KeyHash>,
    /// Whether the handshake is complete.
    connected: bool,
    /// Whether a list of this node was refused: more of them are not told to anybody.
    has_lied: bool,
    remote: SocketAddr,
    /// Why it ends, once that is decided; nothing is read any more.
    last_words: Option<String>,
}

impl Session {
    pub(super) fn new(connection: Connection, now: Instant) -> Self {
        Self {
            remote: connection.remote_address(),
            connection,
            link: None,
            deadline: Some(now + HELLO_TIME),
            stream: None,
            inbox: Deframer::new(MAX_MESSAGE_LEN),
            outbox: Vec::new(),
            list: Bytes::new(),
            next_list: None,
            knows: None,
            keys: Vec::new(),
            connected: false,
            has_lied: false,
            last_words: None,
        }
    }

    /// Acts on everything that has arrived and on the deadline.
    pub(super) fn advance(&mut self, host: &mut Host<'_>) {
        while let Some(event) = self.connection.poll() {
            self.handle_event(event, host);
        }
        let remote = self.connection.remote_address();
        if let Some(link) = self.link
            && remote != self.remote
        {
            host.relay.set_address(link, remote);
        }
        self.remote = remote;
        while self.may_read() && self.read() {
            self.handle_messages(host);
        }
        self.flush();
        if self.outbox.len() > OUTBOX_MAX {
            self.close(host, "the node does not read its stream");
        }
        if self.deadline.is_some_and(|deadline| deadline <= host.now) {
            let words = self.last_words.take();
            self.close(host, words.as_deref().unwrap_or("no Hello in time"));
        }
    }

    /// Puts a message into the stream.
    pub(super) fn say(&mut self, message: &RelayMessage) {
        self.outbox.extend_from_slice(&message.encode());
    }

    /// Ends the session after one more message, once the node had time to read it.
    pub(super) fn end_with(&mut self, message: &RelayMessage, why: String, now: Instant) {
        self.say(message);
        self.last_words = Some(why);
        self.deadline = Some(now + LAST_WORDS_TIME);
    }

    /// Tells the node the newest list, if its own is older and it takes lists.
    pub(super) fn tell_list(&mut self, revocations: &Revocations) {
        let epoch = revocations.epoch();
        let (Some(knows), Some(told)) = (self.knows, revocations.told()) else {
            return;
        };
        if self.link.is_some() && knows < epoch {
            self.knows = Some(epoch);
            self.next_list = Some(told.clone());
        }
    }

    /// Ends registration and session if the node's key or that of its cluster is revoked; counts it, and is
    /// true, if so.
    pub(super) fn cut_if_revoked(&mut self, revoked: &RevocationSet, host: &mut Host<'_>) -> bool {
        if self.last_words.is_some() || self.connection.is_closed() {
            return false;
        }
        if self.keys.is_empty() {
            self.keys = self.shown_keys();
        }
        // Who is not connected yet is looked at once it is.
        let Some(key) = self.keys.iter().find(|key| revoked.keys.contains(key)) else {
            return false;
        };
        let Some(peer) = tls::peer_identity(self.connection.crypto_session()) else {
            return false;
        };
        let whose = if *key == peer.spki_sha256 {
            "its key"
        } else {
            "the key of its cluster"
        };
        let text = format!("{} is cut: {whose} is revoked", peer.identity);
        info!(epoch = host.revocations.epoch(), "{text}");
        host.revocations.counted.sessions_cut += 1;
        self.refuse(HelloRefusal::Revoked, text, host);
        true
    }

    /// Ends registration and session at once.
    pub(super) fn close(&mut self, host: &mut Host<'_>, why: &str) {
        self.deadline = None;
        self.unregister(host);
        let why = Bytes::copy_from_slice(why.as_bytes());
        self.connection.close(host.now, VarInt::from_u32(0), why);
    }

    fn handle_event(&mut self, event: Event, host: &mut Host<'_>) {
        match event {
            Event::ConnectionLost { reason } => {
                debug!(remote = %self.remote, %reason, "session ended");
                // What we have found ourselves; the rest is the node's word, or nobody's.
                if let (false, ConnectionError::TransportError(fault)) = (self.connected, reason) {
                    host.counts.certificates_refused += 1;
                    host.counts.last_certificate_refused = Some(fault.reason);
                }
                self.deadline = None;
                self.unregister(host);
            }
            Event::Stream(StreamEvent::Opened { dir: Dir::Bi }) if self.stream.is_none() => {
                self.stream = self.connection.streams().accept(Dir::Bi);
            }
            Event::Connected => {
                self.connected = true;
                // Its certificate was judged when it came; a list may have come since.
                let revoked = host.credentials.revoked();
                self.cut_if_revoked(&revoked, host);
            }
            // Reading and writing are tried whatever the event.
            Event::Stream(_)
            | Event::HandshakeDataReady
            | Event::DatagramReceived
            | Event::DatagramsUnblocked => {}
        }
    }

    fn unregister(&mut self, host: &mut Host<'_>) {
        if let Some(link) = self.link.take() {
            host.relay.unregister(link);
        }
    }

    fn may_read(&self) -> bool {
        self.last_words.is_none()
            && self.outbox.len() < OUTBOX_PAUSE
            && !self.connection.is_closed()
    }

    /// Takes some bytes from the stream; false if there are none.
    fn read(&mut self) -> bool {
        let Some(id) = self.stream else {
            return false;
        };
        let mut stream = self.connection.recv_stream(id);
        let Ok(mut chunks) = stream.read(true) else {
            return false;
        };
        let chunk = chunks.next(READ_LEN).ok().flatten();
        // What it would have sent is sent with everything else.
        let _ = chunks.finalize();
        let Some(chunk) = chunk else {
            return false;
        };
        self.inbox.feed(&chunk.bytes);
        true
    }

    fn handle_messages(&mut self, host: &mut Host<'_>) {
        while self.last_words.is_none() {
            let message = match self.inbox.next_message() {
                Ok(None) => return,
                Ok(Some(message)) => NodeMessage::decode(message),
                Err(error) => Err(error.into()),
            };
            match (message, self.link) {
                (Err(error), _) => self.refuse(HelloRefusal::Protocol, error.to_string(), host),
                (Ok(NodeMessage::Hello(hello)), None) => self.hello(&hello, host),
                (Ok(NodeMessage::Hello(_)), Some(_)) => {
                    let text = "Hello was said before".to_owned();
                    self.refuse(HelloRefusal::Protocol, text, host);
                }
                (Ok(NodeMessage::Open(open)), Some(link)) => {
                    let result = host.relay.open(link, &open.node);
                    let request = open.request;
                    self.say(&RelayMessage::Opened(Opened { request, result }));
                }
                (Ok(NodeMessage::Revocations(signed)), Some(_)) => self.hear_list(&signed, host),
                (Ok(NodeMessage::Open(_) | NodeMessage::Revocations(_)), None) => {
                    let text = "the first message must be Hello".to_owned();
                    self.refuse(HelloRefusal::Protocol, text, host);
                }
            }
        }
    }

    fn hello(&mut self, hello: &Hello, host: &mut Host<'_>) {
        if hello.version != VERSION {
            let text = format!(
                "this relay speaks version {VERSION}, not {}; install the same release on both",
                hello.version
            );
            return self.refuse(HelloRefusal::Version, text, host);
        }
        let session = self.connection.crypto_session();
        let Some(peer) = tls::peer_identity(session) else {
            let text = "no certificate was presented".to_owned();
            return self.refuse(HelloRefusal::Protocol, text, host);
        };
        let admission = match host.credentials.admit_to_relay(&hello.token, &peer) {
            Ok(admission) => admission,
            Err(error) => {
                host.counts.tokens_refused += 1;
                return self.refuse(HelloRefusal::Token, error.to_string(), host);
            }
        };
        let (mut up, mut down) = ([0; 16], [0; 16]);
        if tls::export(session, EXPORTER_LABEL, EXPORTER_UP, &mut up).is_err()
            || tls::export(session, EXPORTER_LABEL, EXPORTER_DOWN, &mut down).is_err()
        {
            let text = "the session has no keys yet".to_owned();
            return self.refuse(HelloRefusal::Protocol, text, host);
        }
        let life = admission
            .expires
            .as_secs()
            .saturating_sub(host.credentials.clock().now().as_secs());
        self.keys = self.shown_keys();
        self.keys.push(admission.issuer);
        self.knows = hello.revocations;
        debug!(node = %admission.node, organisation = %admission.organisation, "registered");
        let registered = host.relay.register(Registration {
            node: admission.node,
            organisation: admission.organisation,
            address: self.remote,
            up: SealKey::new(up),
            down: SealKey::new(down),
            expires: host.now + Duration::from_secs(life.min(MAX_TOKEN_SECONDS)),
        });
        match registered {
            Ok(link) => self.welcome(link, host),
            Err(full) => self.refuse(HelloRefusal::Full, full.to_string(), host),
        }
    }

    /// The keys of the node's certificate and of those behind it; none before the handshake is done.
    fn shown_keys(&self) -> Vec<KeyHash> {
        let session = self.connection.crypto_session();
        let chain = session
            .peer_identity()
            .filter(|_| !session.is_handshaking());
        chain.map_or_else(Vec::new, |chain| tls::keys_of_verified(chain.as_ref()))
    }

    fn welcome(&mut self, link: u32, host: &Host<'_>) {
        self.link = Some(link);
        self.inbox.set_max(MAX_LONG_MESSAGE_LEN);
        self.deadline = None;
        let max_packet = u32::try_from(MAX_PACKET).unwrap_or(u32::MAX);
        self.say(&RelayMessage::Welcome(Welcome {
            link,
            observed: self.remote,
            limits: Limits {
                max_packet,
                idle_timeout: IDLE_TIMEOUT,
            },
            observe_port: host.observe_port,
            revocations: Some(host.revocations.epoch()),
        }));
        self.tell_list(host.revocations);
    }

    fn hear_list(&mut self, signed: &Signed, host: &mut Host<'_>) {
        match host.revocations.take(signed) {
            Ok(is_new) => {
                host.list_is_new |= is_new;
                // It has that list, or an equal one, so it need not be told.
                self.knows = self.knows.max(Some(host.revocations.epoch()));
            }
            // Another node was faster.
            Err(fault) if fault.is_old() => debug!(%fault, "a list changes nothing"),
            Err(fault) if self.has_lied => debug!(%fault, "a list changes nothing"),
            Err(fault) => {
                let who = tls::peer_identity(self.connection.crypto_session());
                let who = who.map(|peer| peer.identity.to_string());
                warn!(who, %fault, "a list of the revoked that a node has brought changes nothing");
                self.has_lied = true;
            }
        }
    }

    fn refuse(&mut self, reason: HelloRefusal, text: String, host: &mut Host<'_>) {
        debug!(remote = %self.remote, %text, "refused");
        self.unregister(host);
        let message = RelayMessage::Refused(Refused {
            reason,
            text: text.clone(),
        });
        self.end_with(&message, text, host.now);
    }

    fn flush(&mut self) {
        let Some(id) = self.stream else {
            return;
        };
        let mut stream = self.connection.send_stream(id);
        loop {
            // What has begun is said to its end.
            let written = if !self.list.is_empty() {
                let written = stream.write_chunks(&mut [self.list.clone()]);
                written.map(|written| self.list.advance(written.bytes))
            } else if !self.outbox.is_empty() {
                let written = stream.write(&self.outbox);
                written.map(|written| drop(self.outbox.drain(..written)))
            } else if let Some(list) = self.next_list.take() {
                self.list = list;
                Ok(())
            } else {
                return;
            };
            // Blocked: later. Stopped or closed: the session ends by itself.
            if written.is_err() {
                return;
            }
        }
    }
}

/// A bound for the sum with the clock, which must not overflow; no token lives as long.
const MAX_TOKEN_SECONDS: u64 = 10 * 365 * 24 * 3600;
