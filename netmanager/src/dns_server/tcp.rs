//! Queries on streams, each with its length before it (RFC 7766).
//!
//! The queries of one connection are answered one after the other.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use netmanager_core::dns::{MAX_QUERY_LEN, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{ConnectionPermit, Shared, Step};

/// How long accepting rests after an error: they are of the kind that lasts, as too many files.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Prepares a bound listener.
pub(super) fn prepare(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Accepts connections for ever.
pub(super) async fn serve(shared: Arc<Shared>, listener: TcpListener) -> anyhow::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "cannot accept a DNS connection");
                tokio::time::sleep(ACCEPT_REST).await;
                continue;
            }
        };
        if let Some(permit) = shared.open(client.ip()) {
            connections.spawn(async move {
                if let Err(error) = serve_connection(stream, client, &permit).await {
                    tracing::debug!(%client, %error, "DNS connection ended");
                }
            });
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve_connection(
    mut stream: TcpStream,
    client: SocketAddr,
    permit: &ConnectionPermit,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let shared = &permit.shared;
    let idle = shared.timing.idle;
    let mut query = Vec::new();
    let mut answer = Vec::new();
    loop {
        let Some(whole) = timeout(idle, read_query(&mut stream, &mut query)).await?? else {
            return Ok(());
        };
        match shared.handle(&query, Transport::Tcp, client.ip(), &mut answer) {
            Step::Send => {}
            Step::Nothing => return Ok(()),
            Step::Wait(waiting) => {
                let source = client.ip();
                let waited = shared.answer_later(&query, Transport::Tcp, source, &mut answer);
                waited.await;
                drop(waiting);
            }
            Step::Forward(waiting) => {
                shared.forward(&query, Transport::Tcp, &mut answer).await;
                drop(waiting);
            }
        }
        let Ok(len) = u16::try_from(answer.len()) else {
            return Ok(());
        };
        let framed = [&len.to_be_bytes(), answer.as_slice()].concat();
        timeout(idle, stream.write_all(&framed)).await??;
        if !whole {
            return Ok(());
        }
    }
}

/// Reads one query; none at the end of the stream. One that is longer than any query may be is
/// read far enough to be turned down, and not whole.
async fn read_query(stream: &mut TcpStream, query: &mut Vec<u8>) -> io::Result<Option<bool>> {
    let len = match stream.read_u16().await {
        Ok(len) => usize::from(len),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    query.resize(len.min(MAX_QUERY_LEN + 1), 0);
    stream.read_exact(query).await?;
    Ok(Some(len <= MAX_QUERY_LEN))
}
