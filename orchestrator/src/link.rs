//! Control links: QUIC connections with one stream of framed messages.
//!
//! The lower side dials and opens the stream; the upper side has a [`Switchboard`], at which the
//! present connection of everybody is known. A connection that breaks is dialled again. What is
//! said is the machines'; who the other end is was proven by TLS before anything is read.

mod dial;
mod listen;
mod switchboard;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, IdleTimeout, RecvStream, SendStream, ServerConfig};
use quinn::{TransportConfig, VarInt};
use tokio::sync::mpsc;
use weald_proto::codec::{MAX_MESSAGE_LEN, Message};
use weald_proto::stream::{Deframer, framed};

pub use dial::{Dialled, dial_forever, dial_once};
pub use listen::{Accepted, accept, listen};
pub use switchboard::{LinkFigures, Switchboard};

/// A link that is silent for so long is gone; heartbeats come every second.
const IDLE: Duration = Duration::from_secs(6);
/// Messages that may wait for a peer that does not read; then it is cut off.
const MAX_WAITING: usize = 4096;
/// Bytes of a stream that are read at once.
const READ_LEN: usize = 64 << 10;

/// What is sent to one peer: framed messages.
pub type Outbox = mpsc::Sender<Vec<u8>>;

/// The messages that wait for one peer.
pub type Waiting = mpsc::Receiver<Vec<u8>>;

/// Makes the queue of what is sent to one peer.
#[must_use]
pub fn outbox() -> (Outbox, Waiting) {
    mpsc::channel(MAX_WAITING)
}

/// Puts a message into an outbox.
///
/// # Errors
/// It is beyond what a reader takes, or the peer does not read; in words.
pub fn post(outbox: &Outbox, message: &impl Message) -> Result<(), String> {
    let bytes = message.encode().map_err(|error| error.to_string())?;
    outbox
        .try_send(framed(&bytes))
        .map_err(|_| "it does not read what it is sent".to_owned())
}

/// Reads and writes messages until the connection ends; says why it did.
///
/// `hear` is called for each message, and ends the link by returning false.
pub async fn converse<M: Message>(
    connection: &Connection,
    (mut send, mut recv): (SendStream, RecvStream),
    mut waiting: Waiting,
    mut hear: impl FnMut(M) -> bool,
) -> String {
    let mut deframer = Deframer::new(MAX_MESSAGE_LEN);
    let mut buffer = vec![0; READ_LEN];
    loop {
        tokio::select! {
            message = waiting.recv() => {
                let Some(message) = message else {
                    return close(connection, "closed here");
                };
                if let Err(error) = send.write_all(&message).await {
                    return ended(connection, &error.to_string());
                }
            }
            read = recv.read(&mut buffer) => {
                let len = match read {
                    Ok(Some(len)) => len,
                    Ok(None) => return ended(connection, "the stream was closed"),
                    Err(error) => return ended(connection, &error.to_string()),
                };
                deframer.feed(buffer.get(..len).unwrap_or_default());
                loop {
                    let message = match deframer.next_message() {
                        Ok(Some(message)) => M::decode(message),
                        Ok(None) => break,
                        Err(error) => return close(connection, &error.to_string()),
                    };
                    match message {
                        Ok(message) => {
                            if !hear(message) {
                                return close(connection, "closed here");
                            }
                        }
                        Err(error) => return close(connection, &error.to_string()),
                    }
                }
            }
        }
    }
}

/// Closes a connection and gives the reason back.
fn close(connection: &Connection, why: &str) -> String {
    connection.close(VarInt::from_u32(1), why.as_bytes());
    why.to_owned()
}

/// Why a connection has ended, in the peer's words if it said any.
fn ended(connection: &Connection, otherwise: &str) -> String {
    match connection.close_reason() {
        Some(reason) => reason.to_string(),
        None => close(connection, otherwise),
    }
}

fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    let idle = u32::try_from(IDLE.as_millis()).unwrap_or(u32::MAX);
    transport.max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle))));
    transport.max_concurrent_bidi_streams(VarInt::from_u32(1));
    transport.max_concurrent_uni_streams(VarInt::from_u32(0));
    transport.datagram_receive_buffer_size(None);
    Arc::new(transport)
}

/// How one is dialled.
#[must_use]
pub fn server_config(crypto: QuicServerConfig) -> ServerConfig {
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(transport());
    config.max_incoming(1024);
    config
}

/// How others are dialled.
#[must_use]
pub fn client_config(crypto: QuicClientConfig) -> ClientConfig {
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(transport());
    config
}
