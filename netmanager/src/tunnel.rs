//! Datagrams in TLS over one TCP connection, at both ends: the relay's and the node's.
//!
//! It never blocks and never grows: whoever reads slower than the other end sends loses datagrams,
//! as on UDP. Which connections there are, and whose, is `relay_server`'s and `driver`'s business.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustls::Connection;
use socket2::SockRef;
use weald_proto::datagram::{self, Datagrams, LENGTH_LEN, NoDatagram, TCP_ALPN};

/// Bytes that wait to be encrypted: 20 ms at 100 Mbit/s.
const OUTBOX_BYTES: usize = 256 << 10;
/// Bytes encrypted at a time: a TLS record (RFC 8446, section 5.1). The next one waits until the
/// kernel has taken it.
const RECORD_BYTES: usize = 16 << 10;
/// Bytes that the TLS library may hold back before and after that.
const TLS_BUFFER_BYTES: usize = 64 << 10;
/// Unsent bytes that the kernel keeps: what it has not sent waits here, where it can be lost.
const UNSENT_BYTES: u32 = 128 << 10;
/// What is sent and not acknowledged for so long ends the connection: its network is gone.
const USER_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a tunnel ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunnelError {
    /// What the socket says.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What the TLS library says; a refused certificate above all.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// What came is no stream of datagrams.
    #[error(transparent)]
    NoDatagram(#[from] NoDatagram),
    /// The other end speaks TLS, and something else in it.
    #[error("the other end does not speak weald-relay-tcp/1")]
    Protocol,
    /// The other end has closed the connection.
    #[error("the other end has closed the connection")]
    Closed,
}

/// One end of a tunnel.
#[derive(Debug)]
pub(crate) struct Tunnel {
    stream: TcpStream,
    tls: Connection,
    inbox: Datagrams,
    outbox: Vec<u8>,
    /// How much of `outbox` is encrypted.
    taken: usize,
}

impl Tunnel {
    /// Takes a connection that does not block, and begins with the handshake.
    ///
    /// # Errors
    /// What the kernel refuses of its settings.
    pub(crate) fn new(stream: TcpStream, mut tls: Connection) -> io::Result<Self> {
        let socket = SockRef::from(&stream);
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
        socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
        tls.set_buffer_limit(Some(TLS_BUFFER_BYTES));
        Ok(Self {
            stream,
            tls,
            inbox: Datagrams::default(),
            outbox: Vec::new(),
            taken: 0,
        })
    }

    /// Whether the handshake is done, and the other end is who it must be.
    pub(crate) fn is_open(&self) -> bool {
        !self.tls.is_handshaking()
    }

    /// Takes one datagram; false if it is lost, because too much waits already.
    pub(crate) fn send(&mut self, datagram: &[u8]) -> bool {
        let waits = self.outbox.len() - self.taken;
        if waits + LENGTH_LEN + datagram.len() > OUTBOX_BYTES {
            return false;
        }
        if self.taken > OUTBOX_BYTES {
            self.outbox.drain(..self.taken);
            self.taken = 0;
        }
        datagram::append(&mut self.outbox, datagram).is_ok()
    }

    /// Whether something waits for the kernel to take it.
    pub(crate) fn has_unsent(&self) -> bool {
        self.tls.wants_write() || (self.is_open() && self.taken < self.outbox.len())
    }

    /// Hands the kernel what it takes.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) fn flush(&mut self) -> Result<(), TunnelError> {
        loop {
            while self.tls.wants_write() {
                match self.tls.write_tls(&mut self.stream) {
                    Ok(0) => return Err(TunnelError::Closed),
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error.into()),
                }
            }
            let rest = self.outbox.get(self.taken..).unwrap_or_default();
            let record = rest.get(..RECORD_BYTES).unwrap_or(rest);
            if record.is_empty() || self.tls.is_handshaking() {
                return Ok(());
            }
            self.taken += self.tls.writer().write(record)?;
            if self.taken == self.outbox.len() {
                self.outbox.clear();
                self.taken = 0;
            }
        }
    }

    /// Reads some of what has come; true if there may be more.
    ///
    /// # Errors
    /// The connection has ended, or must.
    pub(crate) fn read(&mut self) -> Result<bool, TunnelError> {
        match self.tls.read_tls(&mut self.stream) {
            Ok(0) => return Err(TunnelError::Closed),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error.into()),
        }
        let state = match self.tls.process_new_packets() {
            Ok(state) => state,
            Err(error) => {
                // It may have something to say about it.
                let _ = self.tls.write_tls(&mut self.stream);
                return Err(error.into());
            }
        };
        if self.is_open() && self.tls.alpn_protocol() != Some(TCP_ALPN) {
            return Err(TunnelError::Protocol);
        }
        let mut bytes = vec![0; state.plaintext_bytes_to_read()];
        self.tls.reader().read_exact(&mut bytes)?;
        self.inbox.feed(&bytes);
        Ok(true)
    }

    /// The next datagram of what was read.
    ///
    /// # Errors
    /// There is none and will be none.
    pub(crate) fn next_datagram(&mut self) -> Result<Option<&[u8]>, TunnelError> {
        Ok(self.inbox.next_datagram()?)
    }
}

impl AsFd for Tunnel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
