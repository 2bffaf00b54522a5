//! The port: connections, TLS and their limits. What is answered is the router's.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use super::ApiState;
use super::peer::Peer;

/// Connections that are served at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 1024;
/// How long a peer may take to shake hands, and to send the head of each request.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a request's head.
const MAX_HEAD: usize = 64 << 10;
/// How long to wait when the system has no more files to give.
const PAUSE: Duration = Duration::from_millis(50);

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Passwords and sessions would travel in clear.
    #[error(
        "the API at {0} would be reached from other machines without TLS; give it a certificate and key, or bind it to 127.0.0.1"
    )]
    Plain(SocketAddr),
    /// The port cannot be had.
    #[error("cannot listen on TCP {address}: {source}; is another root running there?")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

/// A port that is open.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    address: SocketAddr,
}

impl Listener {
    /// Opens the port: with TLS if there is a configuration for it, which there must be for any
    /// address beyond loopback.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn bind(
        address: SocketAddr,
        tls: Option<Arc<ServerConfig>>,
    ) -> Result<Self, ServeError> {
        if tls.is_none() && !address.ip().to_canonical().is_loopback() {
            return Err(ServeError::Plain(address));
        }
        let cannot = |source| ServeError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        Ok(Self {
            listener,
            tls,
            address,
        })
    }

    /// Where it is, with the port that the system chose if none was given.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Serves the API until the future is dropped; requests that are being answered end with it.
pub async fn serve(listener: Listener, state: ApiState) {
    let router = super::router(state);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let (stream, remote) = match listener.listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the API cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let (tls, router) = (listener.tls.clone(), router.clone());
        connections.spawn(async move {
            if let Err(error) = converse(stream, remote, tls, router).await {
                tracing::debug!(%remote, %error, "a connection of the API ended");
            }
            drop(place);
        });
    }
}

async fn converse(
    stream: TcpStream,
    remote: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    router: axum::Router,
) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let peer = Peer {
        remote,
        local: stream.local_addr()?,
        tls: tls.is_some(),
    };
    match tls {
        Some(tls) => {
            let stream = timeout(PATIENCE, TlsAcceptor::from(tls).accept(stream)).await??;
            answer(stream, peer, router).await
        }
        None => answer(stream, peer, router).await,
    }
}

async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    router: axum::Router,
) -> anyhow::Result<()> {
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let router = router.clone();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        router.oneshot(request)
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .await?;
    Ok(())
}
