//! The way to a responder: connections and datagrams that show its token, and its counts.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use weald_measure::stream::{self, Passed, Stream};

use super::responder::CONTROL;
use super::wire::{COUNTS_BYTES, Counts, Datagram, Purpose, Token};

/// How long a connection may take to be there, and an answer to come: loss may cost a SYN or two.
const PATIENCE: Duration = Duration::from_secs(10);
/// After the last datagram of a stream, how long its count must stay as it is.
const DRAIN: Duration = Duration::from_millis(60);
/// How long a stream may take to drain.
const MAX_DRAIN: Duration = Duration::from_secs(2);

/// A responder, as the near end sees it.
#[derive(Debug)]
pub struct Far {
    to: SocketAddr,
    from: Option<IpAddr>,
    token: Token,
    report: TcpStream,
}

impl Far {
    /// Goes to a responder, from an address of this host if one is named. The bench lasts until this
    /// is dropped.
    ///
    /// # Errors
    /// It cannot be reached, or does not take the token.
    pub fn reach(to: SocketAddr, from: Option<IpAddr>, token: Token) -> Result<Self> {
        let report = open(to, from, &token, Purpose::Report)?;
        let mut far = Self {
            to,
            from,
            token,
            report,
        };
        far.counts()?;
        Ok(far)
    }

    /// What it has taken and used so far.
    ///
    /// # Errors
    /// It does not answer.
    pub fn counts(&mut self) -> Result<Counts> {
        let mut bytes = [0; COUNTS_BYTES];
        let mut ask = || {
            self.report.write_all(&[0])?;
            self.report.read_exact(&mut bytes)
        };
        ask().with_context(|| format!("the responder at {} does not answer", self.to))?;
        Ok(Counts::decode(&bytes))
    }

    /// Opens a connection for load.
    ///
    /// # Errors
    /// It cannot be reached.
    pub fn open(&self, purpose: Purpose) -> Result<TcpStream> {
        open(self.to, self.from, &self.token, purpose)
    }

    /// A socket for datagrams to it, and what they begin with.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn datagrams(&self, kind: Datagram) -> Result<(UdpSocket, Vec<u8>)> {
        let from = self.from.unwrap_or_else(|| any(self.to));
        let socket = UdpSocket::bind((from, 0))?;
        socket.connect(self.to)?;
        Ok((socket, kind.head(&self.token).to_vec()))
    }

    /// Sends a stream of datagrams at a rate, in bits of payload per second, and hears what became
    /// of it.
    ///
    /// # Errors
    /// The kernel refuses to send, or the responder does not answer.
    pub fn pass(&mut self, stream: &Stream, rate: f64) -> Result<Passed> {
        // Not connected: an answer of the network to one datagram is no fault of the next.
        let from = self.from.unwrap_or_else(|| any(self.to));
        let socket = UdpSocket::bind((from, 0))?;
        stream::set_buffers(&socket)?;
        let head = Datagram::Count.head(&self.token);
        let before = self.counts()?.datagram_bytes;
        let (sent, seconds) = stream::send(&socket, self.to, stream, rate, &head)?;
        let expected = before + sent * stream.size as u64;
        let end = Instant::now() + MAX_DRAIN;
        let mut counted = self.counts()?.datagram_bytes;
        while counted < expected && Instant::now() < end {
            thread::sleep(DRAIN);
            let now = self.counts()?.datagram_bytes;
            if now == counted {
                break;
            }
            counted = now;
        }
        Ok(Passed {
            sent,
            received: counted.saturating_sub(before) / stream.size as u64,
            seconds,
        })
    }
}

/// Every address of this host, of the other's family.
fn any(to: SocketAddr) -> IpAddr {
    match to {
        SocketAddr::V4(_) => IpAddr::from([0; 4]),
        SocketAddr::V6(_) => IpAddr::from([0_u16; 8]),
    }
}

fn open(
    to: SocketAddr,
    from: Option<IpAddr>,
    token: &Token,
    purpose: Purpose,
) -> Result<TcpStream> {
    let open = || -> Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        // Where the module is missing the default remains.
        let _ = socket.set_tcp_congestion(CONTROL.as_bytes());
        if let Some(from) = from {
            socket.bind(&SockAddr::from(SocketAddr::new(from, 0)))?;
        }
        socket.connect_timeout(&to.into(), PATIENCE)?;
        let mut stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(&purpose.head(token))?;
        Ok(stream)
    };
    open().with_context(|| format!("no connection to the responder at {to}"))
}
