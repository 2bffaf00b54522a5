//! A node's end of a relay session over a real socket, as small as it can be.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use netmanager_core::seal::{Opener, SealKey, Sealer};
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig,
    Event, StreamId, VarInt, WriteError,
};
use weald_proto::frame::{FrameKind, RELAY_HEADER_LEN, RelayHeader};
use weald_proto::id::{Identity, NodeId};
use weald_proto::relay::{
    ALPN, EXPORTER_DOWN, EXPORTER_UP, Hello, MAX_LONG_MESSAGE_LEN, NodeMessage, Open, Opened,
    RelayMessage, VERSION,
};
use weald_proto::stream::Deframer;
use weald_trust::tls::{self, Credentials, SERVER_NAME};

/// Longer than anything takes on the busiest machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A node.
pub(super) struct Client {
    pub(super) socket: UdpSocket,
    relay: SocketAddr,
    endpoint: Endpoint,
    handle: ConnectionHandle,
    connection: Connection,
    stream: Option<StreamId>,
    inbox: Deframer,
    messages: VecDeque<RelayMessage>,
    frames: VecDeque<Vec<u8>>,
    keys: Option<(Sealer, Opener)>,
    pub(super) link: u32,
    pub(super) lost: Option<String>,
    connected: bool,
    /// What it says of the list of the revoked that it has.
    pub(super) epoch: Option<u64>,
    /// It talks to a bridge, so the relay does not see its socket.
    pub(super) over_tcp: bool,
}

impl Client {
    /// Starts to dial; nothing is sent yet.
    pub(super) fn new(relay: SocketAddr, id: &Identity, credentials: &Credentials) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut config = EndpointConfig::default();
        config.grease_quic_bit(false);
        let mut endpoint = Endpoint::new(Arc::new(config), None, false, None);
        let crypto = credentials.client_config(id, ALPN).unwrap();
        let config = ClientConfig::new(Arc::new(crypto));
        let (handle, connection) = endpoint
            .connect(Instant::now(), config, relay, SERVER_NAME)
            .unwrap();
        Self {
            socket,
            relay,
            endpoint,
            handle,
            connection,
            stream: None,
            inbox: Deframer::new(MAX_LONG_MESSAGE_LEN),
            messages: VecDeque::new(),
            frames: VecDeque::new(),
            keys: None,
            link: 0,
            lost: None,
            connected: false,
            epoch: None,
            over_tcp: false,
        }
    }

    /// Dials, opens the stream, says Hello and returns the answer.
    pub(super) fn hello(&mut self, token: &[u8]) -> RelayMessage {
        let hello = NodeMessage::Hello(Hello {
            version: VERSION,
            token: token.to_vec(),
            revocations: self.epoch,
        });
        self.say_first(&hello.encode())
    }

    /// Dials, opens the stream, says these bytes and returns the answer.
    pub(super) fn say_first(&mut self, bytes: &[u8]) -> RelayMessage {
        self.wait(|client| client.connected || client.lost.is_some());
        assert_eq!(self.lost, None);
        self.stream = self.connection.streams().open(Dir::Bi);
        let session = self.connection.crypto_session();
        let (mut up, mut down) = ([0; 16], [0; 16]);
        tls::export(session, "weald relay", EXPORTER_UP, &mut up).unwrap();
        tls::export(session, "weald relay", EXPORTER_DOWN, &mut down).unwrap();
        self.keys = Some((
            Sealer::new(SealKey::new(up)),
            Opener::new(SealKey::new(down)),
        ));
        self.say(bytes);
        let answer = self.message();
        if let RelayMessage::Welcome(welcome) = &answer {
            self.link = welcome.link;
            let observed = self.socket.local_addr().unwrap();
            assert!(self.over_tcp || welcome.observed == observed);
        }
        answer
    }

    pub(super) fn say(&mut self, bytes: &[u8]) {
        let mut stream = self.connection.send_stream(self.stream.unwrap());
        assert_eq!(stream.write(bytes).unwrap(), bytes.len());
    }

    /// Says bytes that the stream may take in parts only.
    pub(super) fn say_all(&mut self, mut bytes: &[u8]) {
        let id = self.stream.unwrap();
        self.wait(|client| {
            match client.connection.send_stream(id).write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) => assert_eq!(error, WriteError::Blocked),
            }
            bytes.is_empty()
        });
        self.flush();
    }

    /// Whether the handshake is complete on this side.
    pub(super) const fn is_connected(&mut self) -> bool {
        self.connected
    }

    pub(super) fn open(&mut self, node: &NodeId) -> Opened {
        let open = NodeMessage::Open(Open {
            request: 7,
            node: node.clone(),
        });
        self.say(&open.encode());
        let answer = self.message();
        let RelayMessage::Opened(opened) = answer else {
            panic!("{answer:?}");
        };
        opened
    }

    /// The next message of the relay.
    pub(super) fn message(&mut self) -> RelayMessage {
        self.wait(|client| !client.messages.is_empty());
        self.messages.pop_front().unwrap()
    }

    pub(super) fn frame(&mut self, peer: u32, packet: &[u8]) -> Vec<u8> {
        let header = RelayHeader {
            link: self.link,
            peer,
            counter: 0,
        };
        let mut frame = [&header.encode()[..], packet].concat();
        let (sealer, _) = self.keys.as_mut().unwrap();
        sealer.seal(&mut frame, RelayHeader::TAG).unwrap();
        frame
    }

    pub(super) fn send(&mut self, peer: u32, packet: &[u8]) {
        let frame = self.frame(peer, packet);
        self.socket.send_to(&frame, self.relay).unwrap();
    }

    /// The next packet: from whom, and its bytes.
    pub(super) fn receive(&mut self) -> (u32, Vec<u8>) {
        self.wait(|client| !client.frames.is_empty());
        let mut frame = self.frames.pop_front().unwrap();
        let (_, opener) = self.keys.as_mut().unwrap();
        opener.open(&mut frame, RelayHeader::TAG).unwrap();
        let header = RelayHeader::decode(&frame).unwrap();
        assert_eq!(header.link, self.link);
        (header.peer, frame[RELAY_HEADER_LEN..].to_vec())
    }

    /// Ends the session.
    pub(super) fn close(mut self) {
        let zero = VarInt::from_u32(0);
        let now = Instant::now();
        self.connection.close(now, zero, bytes::Bytes::new());
        self.flush();
    }

    /// Sends what QUIC has to say.
    pub(super) fn flush(&mut self) {
        let mut out = Vec::new();
        while let Some(sent) = self.connection.poll_transmit(Instant::now(), 1, &mut out) {
            self.socket.send_to(&out[..sent.size], self.relay).unwrap();
            out.clear();
        }
    }

    /// Exchanges datagrams until something is so.
    pub(super) fn wait(&mut self, mut until: impl FnMut(&mut Self) -> bool) {
        let started = Instant::now();
        loop {
            self.turn();
            if until(self) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "lost: {:?}", self.lost);
            let now = Instant::now();
            let wake_up = self.connection.poll_timeout();
            let sleep = wake_up.map_or(PATIENCE, |at| at.saturating_duration_since(now));
            let sleep = sleep.clamp(Duration::from_millis(1), Duration::from_millis(100));
            self.socket.set_read_timeout(Some(sleep)).unwrap();
            let mut buffer = [0; 2048];
            match self.socket.recv_from(&mut buffer) {
                Ok((size, _)) => self.datagram(&buffer[..size]),
                Err(error) => assert!(
                    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
                    "{error}"
                ),
            }
        }
    }

    fn datagram(&mut self, bytes: &[u8]) {
        match FrameKind::of(bytes) {
            FrameKind::RelayData => self.frames.push_back(bytes.to_vec()),
            FrameKind::Quic => {
                let mut out = Vec::new();
                let now = Instant::now();
                let bytes = BytesMut::from(bytes);
                let event = self
                    .endpoint
                    .handle(now, self.relay, None, None, bytes, &mut out);
                if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
                    self.connection.handle_event(event);
                }
            }
            FrameKind::Probe
            | FrameKind::RelayQuestion
            | FrameKind::RelayKnock
            | FrameKind::Fast
            | FrameKind::Unknown => panic!("{bytes:?}"),
        }
    }

    fn turn(&mut self) {
        let now = Instant::now();
        if self.connection.poll_timeout().is_some_and(|at| at <= now) {
            self.connection.handle_timeout(now);
        }
        while let Some(event) = self.connection.poll() {
            match event {
                Event::Connected => self.connected = true,
                Event::ConnectionLost { reason } => self.lost = Some(reason.to_string()),
                Event::Stream(_)
                | Event::HandshakeDataReady
                | Event::DatagramReceived
                | Event::DatagramsUnblocked => {}
            }
        }
        self.read();
        while let Some(event) = self.connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(self.handle, event) {
                self.connection.handle_event(event);
            }
        }
        self.flush();
    }

    fn read(&mut self) {
        let Some(id) = self.stream else { return };
        let mut stream = self.connection.recv_stream(id);
        let Ok(mut chunks) = stream.read(true) else {
            return;
        };
        while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
            self.inbox.feed(&chunk.bytes);
            while let Some(message) = self.inbox.next_message().unwrap() {
                self.messages
                    .push_back(RelayMessage::decode(message).unwrap());
            }
        }
        let _ = chunks.finalize();
    }
}
