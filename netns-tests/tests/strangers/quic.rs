//! One end of a QUIC connection on a UDP socket, with whatever certificate it was given.
//!
//! It stops at its end's first news: a datagram, or the loss of the connection. It knows nothing of
//! paths, probes or relays; a real node is a daemon.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::{Bytes, BytesMut};
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig,
    Event, ServerConfig, VarInt,
};
use weald_trust::tls::SERVER_NAME;

/// The longest pause between two looks at the clock.
const LOOK: Duration = Duration::from_millis(20);

/// What became of a connection.
#[derive(Debug, Default)]
pub(super) struct Met {
    /// The first QUIC DATAGRAM that came.
    pub(super) datagram: Option<Bytes>,
    /// Why the connection ended.
    pub(super) lost: Option<String>,
}

/// Dials and, once this end takes the connection for established, says something.
///
/// # Errors
/// The socket fails, or nothing is heard in time.
pub(super) fn dial(
    socket: &UdpSocket,
    to: SocketAddr,
    crypto: QuicClientConfig,
    say: Bytes,
    patience: Duration,
) -> Result<Met> {
    let mut end = End::new(socket, None);
    let config = ClientConfig::new(Arc::new(crypto));
    let dialled = end
        .endpoint
        .connect(Instant::now(), config, to, SERVER_NAME)?;
    end.connection = Some(dialled);
    end.say = Some(say);
    end.run(patience)
}

/// Dials, says something on a stream once this end takes the connection for established, and stays
/// for a while, whatever it hears, or until it is sent away.
///
/// # Errors
/// The socket fails.
pub(super) fn stay(
    socket: &UdpSocket,
    to: SocketAddr,
    crypto: QuicClientConfig,
    say: Vec<u8>,
    time: Duration,
) -> Result<Met> {
    let mut end = End::new(socket, None);
    let config = ClientConfig::new(Arc::new(crypto));
    let now = Instant::now();
    let dialled = end.endpoint.connect(now, config, to, SERVER_NAME)?;
    end.connection = Some(dialled);
    end.stream = say;
    end.stays = true;
    end.run(time)
}

/// Waits to be dialled, once.
///
/// # Errors
/// The socket fails, or nothing is heard in time.
pub(super) fn answer(
    socket: &UdpSocket,
    crypto: QuicServerConfig,
    patience: Duration,
) -> Result<Met> {
    End::new(socket, Some(crypto)).run(patience)
}

struct End<'a> {
    socket: &'a UdpSocket,
    endpoint: Endpoint,
    connection: Option<(ConnectionHandle, Connection)>,
    say: Option<Bytes>,
    stream: Vec<u8>,
    stays: bool,
    met: Met,
}

impl<'a> End<'a> {
    fn new(socket: &'a UdpSocket, server: Option<QuicServerConfig>) -> Self {
        let mut config = EndpointConfig::default();
        config.grease_quic_bit(false);
        let server = server.map(|crypto| Arc::new(ServerConfig::with_crypto(Arc::new(crypto))));
        Self {
            socket,
            endpoint: Endpoint::new(Arc::new(config), server, false, None),
            connection: None,
            say: None,
            stream: Vec::new(),
            stays: false,
            met: Met::default(),
        }
    }

    fn run(mut self, patience: Duration) -> Result<Met> {
        let deadline = Instant::now() + patience;
        let mut buffer = [0; 2048];
        loop {
            self.drive()?;
            let has_heard = self.met.datagram.is_some() && !self.stays;
            if self.met.lost.is_some() || has_heard {
                break;
            }
            let left = deadline.checked_duration_since(Instant::now());
            if left.is_none() && self.stays {
                break;
            }
            let left = left.context("nothing was heard in time")?;
            self.socket
                .set_read_timeout(Some(left.min(LOOK).max(Duration::from_millis(1))))?;
            match self.socket.recv_from(&mut buffer) {
                Ok((len, from)) => self.receive(&buffer[..len], from)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        if let Some((_, connection)) = &mut self.connection {
            connection.close(Instant::now(), VarInt::from_u32(0), Bytes::new());
        }
        self.transmit()?;
        Ok(self.met)
    }

    fn receive(&mut self, datagram: &[u8], from: SocketAddr) -> Result<()> {
        let now = Instant::now();
        let mut answer = Vec::new();
        let bytes = BytesMut::from(datagram);
        let event = self
            .endpoint
            .handle(now, from, None, None, bytes, &mut answer);
        match event {
            Some(DatagramEvent::NewConnection(incoming)) => {
                match self.endpoint.accept(incoming, now, &mut answer, None) {
                    Ok(accepted) => self.connection = Some(accepted),
                    Err(error) => self.met.lost = Some(error.cause.to_string()),
                }
            }
            Some(DatagramEvent::ConnectionEvent(_, event)) => {
                if let Some((_, connection)) = &mut self.connection {
                    connection.handle_event(event);
                }
            }
            Some(DatagramEvent::Response(response)) => {
                self.socket.send_to(&answer[..response.size], from)?;
            }
            None => {}
        }
        Ok(())
    }

    fn drive(&mut self) -> Result<()> {
        let now = Instant::now();
        let Some((handle, connection)) = &mut self.connection else {
            return Ok(());
        };
        if connection.poll_timeout().is_some_and(|at| at <= now) {
            connection.handle_timeout(now);
        }
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(*handle, event) {
                connection.handle_event(event);
            }
        }
        while let Some(event) = connection.poll() {
            match event {
                Event::Connected => {
                    if let Some(say) = self.say.take() {
                        connection.datagrams().send(say, false)?;
                    }
                    if !self.stream.is_empty() {
                        let stream = connection.streams().open(Dir::Uni);
                        let stream = stream.context("no stream may be opened")?;
                        connection.send_stream(stream).write(&self.stream)?;
                    }
                }
                Event::ConnectionLost { reason } => self.met.lost = Some(reason.to_string()),
                Event::DatagramReceived => self.met.datagram = connection.datagrams().recv(),
                Event::HandshakeDataReady | Event::Stream(_) | Event::DatagramsUnblocked => {}
            }
        }
        self.transmit()
    }

    fn transmit(&mut self) -> Result<()> {
        let Some((_, connection)) = &mut self.connection else {
            return Ok(());
        };
        let mut buffer = Vec::new();
        while let Some(transmit) = connection.poll_transmit(Instant::now(), 1, &mut buffer) {
            self.socket
                .send_to(&buffer[..transmit.size], transmit.destination)?;
            buffer.clear();
        }
        Ok(())
    }
}
