//! A node with good papers and no manners: QUIC connections with a daemon, and streams of the L4
//! lane whose bytes the test chooses.
//!
//! It answers no probes and hosts nothing; what its streams say is laid out here by hand, so that
//! the layout of the wire is held as well.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::BytesMut;
use netmanager::quic::{LANE_ALPN, lane_client_config, peer_client_config};
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig,
    Event, ReadError, StreamId, VarInt,
};
use weald_proto::id::Identity;
use weald_trust::tls::{Credentials, PEER_ALPN, SERVER_NAME};

/// The longest pause between two looks at the clock.
const LOOK: Duration = Duration::from_millis(5);
/// How long a handshake may take.
const SOON: Duration = Duration::from_secs(10);

/// What has become of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// These bytes came.
    Bytes(Vec<u8>),
    /// It ended in order.
    End,
    /// It was reset with that code.
    Reset(u64),
}

/// The node.
pub(super) struct Rogue {
    socket: UdpSocket,
    to: SocketAddr,
    endpoint: Endpoint,
    /// The datagram session and the lane's.
    connections: Vec<(ConnectionHandle, Connection)>,
    lost: Option<String>,
}

impl Rogue {
    /// Dials a daemon twice: as a peer, because that is what its lease is judged by, and for the
    /// lane.
    ///
    /// # Errors
    /// It does not let us in.
    pub(super) fn dial(
        socket: UdpSocket,
        to: SocketAddr,
        papers: &Credentials,
        expected: &Identity,
    ) -> Result<Self> {
        let mut config = EndpointConfig::default();
        config.grease_quic_bit(false);
        let mut rogue = Self {
            socket,
            to,
            endpoint: Endpoint::new(Arc::new(config), None, false, None),
            connections: Vec::new(),
            lost: None,
        };
        let peer = peer_client_config(papers.client_config(expected, PEER_ALPN)?);
        rogue.connect(peer)?;
        let lane = papers.client_config(expected, LANE_ALPN)?;
        rogue.connect(lane_client_config(lane, Duration::from_millis(1)))?;
        Ok(rogue)
    }

    fn connect(&mut self, config: ClientConfig) -> Result<()> {
        let (now, to) = (Instant::now(), self.to);
        let dialled = self.endpoint.connect(now, config, to, SERVER_NAME)?;
        self.connections.push(dialled);
        let is_up = |rogue: &mut Self| {
            let last = rogue.connections.last();
            let handshaking = last.is_none_or(|(_, it)| it.is_handshaking());
            Ok((!handshaking).then_some(()))
        };
        self.until("the handshake is done", SOON, is_up)
    }

    fn lane(&mut self) -> Result<&mut Connection> {
        let (_, lane) = self.connections.last_mut().context("no connection")?;
        Ok(lane)
    }

    /// Opens a stream that says this.
    ///
    /// # Errors
    /// The daemon allows no more streams.
    pub(super) fn open(&mut self, first: &[u8]) -> Result<StreamId> {
        let stream = self.lane()?.streams().open(Dir::Bi);
        let stream = stream.context("no more streams are allowed")?;
        self.say(stream, first)?;
        Ok(stream)
    }

    /// Says more on a stream.
    ///
    /// # Errors
    /// It was stopped, or does not take it.
    pub(super) fn say(&mut self, stream: StreamId, bytes: &[u8]) -> Result<()> {
        let written = self.lane()?.send_stream(stream).write(bytes);
        let written = written.with_context(|| format!("{stream} takes nothing"))?;
        ensure!(written == bytes.len(), "{stream} took {written} bytes");
        self.turn(Duration::ZERO)
    }

    /// Resets a stream.
    ///
    /// # Errors
    /// It is over already.
    pub(super) fn reset(&mut self, stream: StreamId, code: u32) -> Result<()> {
        let code = VarInt::from_u32(code);
        let reset = self.lane()?.send_stream(stream).reset(code);
        reset.with_context(|| format!("{stream} is over"))?;
        self.turn(Duration::ZERO)
    }

    /// Says that nothing more of a stream is wanted.
    ///
    /// # Errors
    /// It is over already.
    pub(super) fn stop(&mut self, stream: StreamId, code: u32) -> Result<()> {
        let code = VarInt::from_u32(code);
        let stopped = self.lane()?.recv_stream(stream).stop(code);
        stopped.with_context(|| format!("{stream} is over"))?;
        self.turn(Duration::ZERO)
    }

    /// Waits for news of a stream.
    ///
    /// # Errors
    /// There is none within `patience`.
    pub(super) fn outcome(&mut self, stream: StreamId, patience: Duration) -> Result<Outcome> {
        self.until(&format!("news of {stream}"), patience, |rogue| {
            let mut receiving = rogue.lane()?.recv_stream(stream);
            let Ok(mut chunks) = receiving.read(true) else {
                bail!("{stream} is over already");
            };
            let read = chunks.next(usize::MAX);
            let _ = chunks.finalize();
            Ok(match read {
                Ok(Some(chunk)) => Some(Outcome::Bytes(chunk.bytes.to_vec())),
                Ok(None) => Some(Outcome::End),
                Err(ReadError::Reset(code)) => Some(Outcome::Reset(code.into_inner())),
                Err(ReadError::Blocked) => None,
            })
        })
    }

    /// Lets the connections live until something is so.
    fn until<T>(
        &mut self,
        what: &str,
        patience: Duration,
        mut look: impl FnMut(&mut Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let deadline = Instant::now() + patience;
        loop {
            self.turn(LOOK)?;
            if let Some(found) = look(self)? {
                return Ok(found);
            }
            let lost = self.lost.as_deref();
            ensure!(
                Instant::now() < deadline,
                "{what}: not within {patience:?}; {lost:?}"
            );
        }
    }

    /// Takes in what has come, for at most so long, and sends what there is to be sent.
    fn turn(&mut self, wait: Duration) -> Result<()> {
        self.drive()?;
        let mut buffer = [0; 2048];
        let mut waits = wait > Duration::ZERO;
        loop {
            self.socket.set_nonblocking(!waits)?;
            if waits {
                self.socket.set_read_timeout(Some(wait))?;
            }
            match self.socket.recv_from(&mut buffer) {
                Ok((len, from)) => self.receive(&buffer[..len], from)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
            // The shortest timeout is a tick of the kernel's.
            waits = false;
        }
        self.drive()
    }

    fn receive(&mut self, datagram: &[u8], from: SocketAddr) -> Result<()> {
        let (now, mut answer) = (Instant::now(), Vec::new());
        let bytes = BytesMut::from(datagram);
        let handled = self
            .endpoint
            .handle(now, from, None, None, bytes, &mut answer);
        match handled {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                let mut all = self.connections.iter_mut();
                if let Some((_, connection)) = all.find(|(one, _)| *one == handle) {
                    connection.handle_event(event);
                }
            }
            Some(DatagramEvent::Response(response)) => {
                self.socket.send_to(&answer[..response.size], from)?;
            }
            // Probes are not QUIC.
            Some(DatagramEvent::NewConnection(_)) | None => {}
        }
        Ok(())
    }

    fn drive(&mut self) -> Result<()> {
        let now = Instant::now();
        let mut buffer = Vec::new();
        for (handle, connection) in &mut self.connections {
            if connection.poll_timeout().is_some_and(|at| at <= now) {
                connection.handle_timeout(now);
            }
            while let Some(event) = connection.poll_endpoint_events() {
                if let Some(event) = self.endpoint.handle_event(*handle, event) {
                    connection.handle_event(event);
                }
            }
            while let Some(event) = connection.poll() {
                if let Event::ConnectionLost { reason } = event {
                    self.lost = Some(reason.to_string());
                }
            }
            while let Some(transmit) = connection.poll_transmit(now, 1, &mut buffer) {
                let packet = &buffer[..transmit.size];
                self.socket.send_to(packet, transmit.destination)?;
                buffer.clear();
            }
        }
        Ok(())
    }
}

/// The opening of a stream of IPv4: version, family, client's port and address, target's.
pub(super) fn hello(client: (Ipv4Addr, u16), target: (Ipv4Addr, u16)) -> Vec<u8> {
    let mut bytes = vec![1, 4];
    for (ip, port) in [client, target] {
        bytes.extend(port.to_be_bytes());
        bytes.extend(ip.octets());
    }
    bytes
}
