//! Asks upstream servers on behalf of clients.
//!
//! Each attempt has a socket, a port and an id of its own. The next server is asked when one has
//! failed or been silent for a while, and the first good answer counts, whoever it is from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, bail};
use netmanager_core::dns::{Accepted, Forwarded, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::Timing;

/// How often a query is sent at least: a datagram may be lost.
const MIN_ATTEMPTS: usize = 2;

/// How often a query is sent at most.
const MAX_ATTEMPTS: usize = 3;

/// The longest datagram that is passed on; clients are sent to TCP for more. No sensible client
/// says that it takes longer ones.
pub(super) const MAX_DATAGRAM: usize = 4096;

/// Datagrams of one attempt that are not the reply; more of them are an attempt to forge it.
const MAX_STRAY: usize = 16;

/// A reply, and what it is worth.
type Reply = (Accepted, Vec<u8>);

/// Asks the servers in turn. None when nobody replied; a server's failure when nobody had better.
pub(super) async fn ask(
    servers: &[SocketAddr],
    timing: Timing,
    query: &[u8],
    transport: Transport,
) -> Option<Vec<u8>> {
    let attempts = servers.len().clamp(MIN_ATTEMPTS, MAX_ATTEMPTS);
    let mut waiting = servers.iter().copied().cycle().take(attempts).peekable();
    let deadline = Instant::now() + timing.deadline;
    let mut running = JoinSet::new();
    let mut failure = None;
    loop {
        if let Some(server) = waiting.next() {
            running.spawn(attempt(server, query.to_vec(), transport));
        } else if running.is_empty() {
            return failure;
        }
        let until = match waiting.peek() {
            Some(_) => deadline.min(Instant::now() + timing.patience),
            None => deadline,
        };
        match timeout_at(until, running.join_next()).await {
            Ok(Some(Ok(Ok((Accepted::Answer, reply))))) => return Some(reply),
            Ok(Some(Ok(Ok((Accepted::Failure, reply))))) => failure = Some(reply),
            Ok(Some(Ok(Err(error)))) => tracing::debug!(%error, "upstream DNS server failed"),
            Ok(Some(Err(_)) | None) => {}
            Err(_) if until >= deadline => return failure,
            Err(_) => {}
        }
    }
}

async fn attempt(
    server: SocketAddr,
    query: Vec<u8>,
    transport: Transport,
) -> anyhow::Result<Reply> {
    let forwarded = Forwarded::new(&query, random_id()?)?;
    let asked = match transport {
        Transport::Udp => by_datagram(server, &forwarded).await,
        Transport::Tcp => by_stream(server, &forwarded).await,
    };
    asked.with_context(|| format!("asking {server}"))
}

async fn by_datagram(server: SocketAddr, forwarded: &Forwarded) -> anyhow::Result<Reply> {
    let any = match server.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(forwarded.query()).await?;
    // One byte more than is passed on, so that longer replies show.
    let mut reply = vec![0; MAX_DATAGRAM + 1];
    for _ in 0..MAX_STRAY {
        let len = socket.recv(&mut reply).await?;
        let received = reply.get_mut(..len).unwrap_or_default();
        if let Ok(accepted) = forwarded.accept(received) {
            reply.truncate(len);
            return Ok((accepted, reply));
        }
    }
    bail!("{MAX_STRAY} datagrams that are not the reply");
}

async fn by_stream(server: SocketAddr, forwarded: &Forwarded) -> anyhow::Result<Reply> {
    let mut stream = TcpStream::connect(server).await?;
    let len = u16::try_from(forwarded.query().len())?;
    let framed = [&len.to_be_bytes(), forwarded.query()].concat();
    stream.write_all(&framed).await?;
    let len = stream.read_u16().await?;
    let mut reply = vec![0; usize::from(len)];
    stream.read_exact(&mut reply).await?;
    let accepted = forwarded.accept(&mut reply)?;
    Ok((accepted, reply))
}

fn random_id() -> anyhow::Result<u16> {
    let mut id = [0; 2];
    aws_lc_rs::rand::fill(&mut id)
        .ok()
        .context("the system has no random numbers")?;
    Ok(u16::from_be_bytes(id))
}
