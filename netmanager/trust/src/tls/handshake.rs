//! Two QUIC connections in memory that shake hands, for tests: no sockets, no waiting.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Endpoint, EndpointConfig, Event,
    ServerConfig,
};

use super::SERVER_NAME;

/// How a handshake went.
pub(crate) struct Handshake {
    /// The end that dialled.
    pub(crate) client: End,
    /// The end that was dialled.
    pub(crate) server: End,
}

/// One end of a handshake.
pub(crate) struct End {
    endpoint: Endpoint,
    address: SocketAddr,
    handle: Option<ConnectionHandle>,
    /// The connection; the server has none if nothing arrived.
    pub(crate) connection: Option<Connection>,
    /// Whether the handshake was completed.
    pub(crate) connected: bool,
    /// Why the connection ended, as told to this end.
    pub(crate) lost: Option<String>,
}

/// More rounds than any handshake takes.
const MAX_ROUNDS: usize = 50;

/// Lets a client dial a server until nothing more is to be said.
pub(crate) fn shake_hands(client: QuicClientConfig, server: QuicServerConfig) -> Handshake {
    let now = Instant::now();
    let server = ServerConfig::with_crypto(Arc::new(server));
    let mut server = End::new("[::1]:1", Some(server));
    let mut client_end = End::new("[::1]:2", None);
    let config = ClientConfig::new(Arc::new(client));
    let (handle, connection) = client_end
        .endpoint
        .connect(now, config, server.address, SERVER_NAME)
        .unwrap();
    client_end.handle = Some(handle);
    client_end.connection = Some(connection);
    for _ in 0..MAX_ROUNDS {
        let sent = client_end.take_datagrams(now);
        let mut quiet = sent.is_empty();
        let answered = server.deliver(sent, client_end.address, now);
        let back: VecDeque<_> = answered
            .into_iter()
            .chain(server.take_datagrams(now))
            .collect();
        quiet &= back.is_empty();
        let answered = client_end.deliver(back, server.address, now);
        assert!(
            answered.is_empty(),
            "a client answers through its connection"
        );
        if quiet {
            break;
        }
    }
    Handshake {
        client: client_end,
        server,
    }
}

impl End {
    fn new(address: &str, server: Option<ServerConfig>) -> Self {
        let config = Arc::new(EndpointConfig::default());
        Self {
            endpoint: Endpoint::new(config, server.map(Arc::new), false, Some([7; 32])),
            address: address.parse().unwrap(),
            handle: None,
            connection: None,
            connected: false,
            lost: None,
        }
    }

    fn take_datagrams(&mut self, now: Instant) -> VecDeque<Vec<u8>> {
        let mut datagrams = VecDeque::new();
        if let Some(connection) = &mut self.connection {
            let mut buffer = Vec::new();
            while let Some(transmit) = connection.poll_transmit(now, 1, &mut buffer) {
                datagrams.push_back(buffer[..transmit.size].to_vec());
                buffer.clear();
            }
        }
        datagrams
    }

    /// Takes datagrams in; returns what the endpoint answers without a connection.
    fn deliver(
        &mut self,
        datagrams: VecDeque<Vec<u8>>,
        from: SocketAddr,
        now: Instant,
    ) -> Vec<Vec<u8>> {
        let mut answers = Vec::new();
        for datagram in datagrams {
            let mut buffer = Vec::new();
            let bytes = BytesMut::from(datagram.as_slice());
            let event = self
                .endpoint
                .handle(now, from, None, None, bytes, &mut buffer);
            match event {
                Some(DatagramEvent::NewConnection(incoming)) => {
                    let mut answer = Vec::new();
                    match self.endpoint.accept(incoming, now, &mut answer, None) {
                        Ok((handle, connection)) => {
                            self.handle = Some(handle);
                            self.connection = Some(connection);
                        }
                        Err(error) => {
                            self.lost = Some(error.cause.to_string());
                            answers.extend(error.response.map(|sent| answer[..sent.size].to_vec()));
                        }
                    }
                }
                Some(DatagramEvent::ConnectionEvent(_, event)) => {
                    if let Some(connection) = &mut self.connection {
                        connection.handle_event(event);
                    }
                }
                Some(DatagramEvent::Response(sent)) => answers.push(buffer[..sent.size].to_vec()),
                None => {}
            }
            self.drain();
        }
        answers
    }

    fn drain(&mut self) {
        let (Some(handle), Some(connection)) = (self.handle, &mut self.connection) else {
            return;
        };
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(handle, event) {
                connection.handle_event(event);
            }
        }
        while let Some(event) = connection.poll() {
            match event {
                Event::Connected => self.connected = true,
                Event::ConnectionLost { reason } => self.lost = Some(reason.to_string()),
                Event::HandshakeDataReady
                | Event::Stream(_)
                | Event::DatagramReceived
                | Event::DatagramsUnblocked => {}
            }
        }
    }
}
