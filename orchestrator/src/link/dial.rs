//! The side that dials, again and again.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream};
use weald_trust::tls::SERVER_NAME;

/// The shortest and the longest pause between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long one address may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// A connection that was dialled, with its one stream.
#[derive(Debug)]
pub struct Dialled {
    /// The connection.
    pub connection: Connection,
    /// The stream that was opened.
    pub streams: (SendStream, RecvStream),
}

/// Tries every address of `names` (`address:port` or `name:port`) once.
///
/// # Errors
/// Why each did not answer.
pub async fn dial_once(
    endpoint: &Endpoint,
    names: &[String],
    config: &ClientConfig,
) -> anyhow::Result<Dialled> {
    let mut faults = Vec::new();
    for name in names {
        let addresses: Vec<SocketAddr> = match tokio::net::lookup_host(name.as_str()).await {
            Ok(addresses) => addresses.collect(),
            Err(error) => {
                faults.push(format!("{name}: {error}"));
                continue;
            }
        };
        for address in addresses {
            let dialled = tokio::time::timeout(PATIENCE, dial(endpoint, address, config)).await;
            match dialled.context("no answer") {
                Ok(Ok(dialled)) => return Ok(dialled),
                Ok(Err(error)) | Err(error) => faults.push(format!("{address}: {error:#}")),
            }
        }
    }
    if faults.is_empty() {
        bail!("no address to dial");
    }
    bail!("{}", faults.join("; "))
}

async fn dial(
    endpoint: &Endpoint,
    address: SocketAddr,
    config: &ClientConfig,
) -> anyhow::Result<Dialled> {
    let connecting = endpoint.connect_with(config.clone(), address, SERVER_NAME)?;
    let connection = connecting.await?;
    let streams = connection.open_bi().await?;
    Ok(Dialled {
        connection,
        streams,
    })
}

/// Dials for ever: `serve` has the connection until it ends and says why it did.
pub async fn dial_forever<F: Future<Output = String>>(
    endpoint: &Endpoint,
    what: &str,
    names: &[String],
    config: impl Fn() -> anyhow::Result<ClientConfig>,
    serve: impl Fn(Dialled) -> F,
) {
    let mut pause = PAUSES.0;
    loop {
        let dialled = match config() {
            Ok(config) => dial_once(endpoint, names, &config).await,
            Err(error) => Err(error),
        };
        match dialled {
            Ok(dialled) => {
                tracing::info!(to = what, address = %dialled.connection.remote_address(), "connected");
                let since = std::time::Instant::now();
                let why = serve(dialled).await;
                tracing::info!(to = what, %why, "connection lost");
                if since.elapsed() > PAUSES.1 {
                    pause = PAUSES.0;
                }
            }
            Err(error) => tracing::info!(to = what, "cannot connect: {error:#}"),
        }
        tokio::time::sleep(jittered(pause)).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Between half of a pause and all of it, so that many that were cut off do not come back at once.
fn jittered(pause: Duration) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one(pause) % 1024;
    pause / 2 + pause.mul_f64(0.5) * u32::try_from(random).unwrap_or(0) / 1024
}
