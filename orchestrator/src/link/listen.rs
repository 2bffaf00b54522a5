//! The side that is dialled.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use aws_lc_rs::hmac;
use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, Endpoint, EndpointConfig, Incoming, RecvStream, SendStream};
use quinn::{ServerConfig, TokioRuntime, VarInt};
use quinn_proto::HashedConnectionIdGenerator;
use weald_trust::tls::{Peer, of_verified};

/// How long a peer may take to shake hands and to open its stream.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections that may be shaking hands before others are asked to prove their address.
const MAX_UNPROVEN: usize = 64;

/// A connection with its one stream and who is at its other end.
#[derive(Debug)]
pub struct Accepted {
    /// Who is at the other end; none where no certificate is asked for.
    pub peer: Option<Peer>,
    /// The application protocol that was agreed on.
    pub alpn: Vec<u8>,
    /// The connection.
    pub connection: Connection,
    /// The stream that the peer has opened.
    pub streams: (SendStream, RecvStream),
}

/// Opens a port. With the same `reset` as before a restart, peers of that time learn of it with
/// their next packet (RFC 9000, section 10.3) instead of after a silence.
///
/// # Errors
/// It cannot be opened.
pub fn listen(
    address: SocketAddr,
    config: ServerConfig,
    reset: &[u8; 32],
) -> anyhow::Result<Endpoint> {
    let open = || {
        let socket = UdpSocket::bind(address)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, reset);
        let mut own = EndpointConfig::new(Arc::new(key));
        // Ids that were given before the restart have to look like our own.
        let ids = u64::from_be_bytes(*reset.first_chunk().unwrap_or(&[0; 8]));
        own.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
        Endpoint::new(own, Some(config), socket, Arc::new(TokioRuntime))
    };
    open().with_context(|| format!("cannot listen on UDP {address}; is it taken?"))
}

/// Accepts connections until the endpoint is closed; each is handed on, on a task of its own, once
/// its peer has shaken hands and opened its stream.
pub async fn accept<F, S>(endpoint: &Endpoint, serve: S)
where
    F: Future<Output = ()> + Send + 'static,
    S: Fn(Accepted) -> F + Clone + Send + 'static,
{
    while let Some(incoming) = endpoint.accept().await {
        // Whoever has not proven its address yet costs memory only up to a bound.
        if !incoming.remote_address_validated() && endpoint.open_connections() > MAX_UNPROVEN {
            // An error means that it was validated after all, which it was not.
            let _ = incoming.retry();
            continue;
        }
        let serve = serve.clone();
        tokio::spawn(async move {
            let from = incoming.remote_address();
            match greet(incoming).await {
                Ok(accepted) => serve(accepted).await,
                Err(error) => tracing::info!(%from, "refused: {error:#}"),
            }
        });
    }
}

async fn greet(incoming: Incoming) -> anyhow::Result<Accepted> {
    let connection = tokio::time::timeout(PATIENCE, incoming)
        .await
        .context("no handshake in time")??;
    let streams = tokio::time::timeout(PATIENCE, connection.accept_bi()).await;
    let streams = match streams {
        Ok(streams) => streams?,
        Err(_) => {
            connection.close(VarInt::from_u32(1), b"no stream in time");
            anyhow::bail!("no stream in time");
        }
    };
    let peer = connection.peer_identity();
    let alpn = connection.handshake_data();
    let alpn = alpn.and_then(|data| data.downcast::<HandshakeData>().ok());
    Ok(Accepted {
        peer: peer.and_then(|chain| of_verified(chain.as_ref())),
        alpn: alpn.and_then(|data| data.protocol).unwrap_or_default(),
        connection,
        streams,
    })
}
