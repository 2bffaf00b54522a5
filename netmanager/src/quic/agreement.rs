//! QUIC connections that carry nothing: handshakes by which two nodes agree on keys of the fast
//! lane.
//!
//! Each is an mTLS handshake like any other, over the path of the peers' session, and is forgotten
//! seconds later together with all that its keys could be derived from. Which keys, and when, is
//! netmanager-core's `fast`; this is how quinn-proto is set up for it.

use std::sync::Arc;
use std::time::Duration;

use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::{ClientConfig, ConnectionId, IdleTimeout, ServerConfig, TransportConfig, VarInt};

/// The application protocol of such a handshake.
pub const FAST_ALPN: &[u8] = b"weald-fast/1";
/// How the first connection id of such a connection begins, and its length, which no id of ours
/// has.
const MARK: &[u8] = b"fast";
const ID_LEN: usize = 20;
/// How long such a connection lasts without a packet: it is there to be made.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Client settings around the TLS part.
#[must_use]
pub fn client_config(crypto: QuicClientConfig) -> ClientConfig {
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport()));
    config.initial_dst_cid_provider(Arc::new(first_id));
    config
}

/// Server settings around the TLS part.
#[must_use]
pub fn server_config(crypto: QuicServerConfig) -> ServerConfig {
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config.migration(false);
    config.transport_config(Arc::new(transport()));
    config
}

/// Whether the first connection id of a dial says that it is for such an agreement. What it may do
/// is settled by the protocol that TLS agrees on.
#[must_use]
pub fn is_meant_by(first_id: &[u8]) -> bool {
    first_id.len() == ID_LEN && first_id.starts_with(MARK)
}

fn first_id() -> ConnectionId {
    let mut id = [0; ID_LEN];
    if aws_lc_rs::rand::fill(&mut id).is_err() {
        tracing::error!("no randomness for a connection id");
    }
    id[..MARK.len()].copy_from_slice(MARK);
    ConnectionId::new(&id)
}

/// No streams, no datagrams, no search for a larger MTU.
fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport.max_concurrent_bidi_streams(VarInt::from_u32(0));
    transport.max_concurrent_uni_streams(VarInt::from_u32(0));
    transport.datagram_receive_buffer_size(None);
    transport.mtu_discovery_config(None);
    // Five thousand milliseconds fit a QUIC varint.
    let idle = VarInt::from_u32(IDLE_TIMEOUT.as_secs() as u32 * 1000);
    transport.max_idle_timeout(Some(IdleTimeout::from(idle)));
    transport
}
