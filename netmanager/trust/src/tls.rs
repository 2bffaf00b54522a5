//! Who a process is and whom it talks to: credentials, the one verifier of both directions, keys
//! exported from a session.
//!
//! Every link is QUIC with TLS 1.3 and certificates on both sides. [`Credentials`] are what a
//! process shows; the [`Verifier`] judges what its peer shows, the same way for a dialled and a
//! dialling peer. Nothing is resumed: no tickets, no 0-RTT, so that each session proves its
//! peer's identity anew. Certificates are made by `pki`; what an authenticated peer may do is
//! not decided here. The packet thread and the relay call this.

mod certificate;
mod clock;
mod credentials;
mod fault;
pub(crate) mod provider;
mod revocation;
mod root;
mod shown;
mod verifier;

#[cfg(test)]
pub(crate) mod handshake;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use aws_lc_rs::digest;
use quinn_proto::crypto::{ExportKeyingMaterialError, Session};
use rustls::pki_types::{CertificateDer, UnixTime};
use weald_proto::id::Identity;

pub(crate) use certificate::Facts;
pub use certificate::day;
pub use clock::Clock;
pub use credentials::{CA_FILE, CHAIN_FILE, Credentials, KEY_FILE, TOKEN_FILE};
pub(crate) use credentials::{finish_client, finish_server};
pub use fault::{Claim, PeerError, PeerFault};
pub use provider::{AesLibrary, faster_aes, has_aes};
pub use revocation::RevocationSet;
pub use root::TrustRoot;
pub(crate) use verifier::cluster_of;
pub use verifier::{Expected, Usage, Verifier};

/// The application protocol between two nodes; that of relays is `weald_proto::relay::ALPN`.
pub const PEER_ALPN: &[u8] = b"weald-peer/1";
/// The server name to give to `quinn_proto::Endpoint::connect`.
///
/// It is never sent and never compared: whom a dial means is pinned in the verifier.
pub const SERVER_NAME: &str = "peer.weald.internal";

pub(crate) const fn unix_seconds(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

/// SHA-256 of a public key with its algorithm (the DER of its SubjectPublicKeyInfo).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(pub [u8; 32]);

impl KeyHash {
    /// Hashes the DER of a SubjectPublicKeyInfo.
    #[must_use]
    pub fn of_spki(spki: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, spki).as_ref());
        Self(hash)
    }

    /// Hashes the bits of an Ed25519 key, as its SubjectPublicKeyInfo would be.
    #[must_use]
    pub fn of_ed25519(key: &[u8; 32]) -> Self {
        Self::of_spki(&ed25519_spki(key))
    }
}

/// The DER of the SubjectPublicKeyInfo of an Ed25519 key (RFC 8410).
pub(crate) fn ed25519_spki(key: &[u8; 32]) -> Vec<u8> {
    const HEADER: [u8; 12] = [
        0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
    ];
    [&HEADER[..], key].concat()
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The authenticated other end of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Who the peer is.
    pub identity: Identity,
    /// The hash of the key that it proved to hold.
    pub spki_sha256: KeyHash,
}

/// The peer of an established session; none before the handshake is complete.
///
/// Its certificate chain has been verified during the handshake.
#[must_use]
pub fn peer_identity(session: &dyn Session) -> Option<Peer> {
    if session.is_handshaking() {
        return None;
    }
    of_verified(session.peer_identity()?.as_ref())
}

/// The peer whose chain TLS has verified, as `quinn::Connection::peer_identity` gives it.
#[must_use]
pub fn of_verified(chain: &dyn std::any::Any) -> Option<Peer> {
    let chain = chain.downcast_ref::<Vec<CertificateDer<'static>>>()?;
    let facts = Facts::parse(chain.first()?).ok()?;
    let (_, identity) = facts.identity().ok()?;
    Some(Peer {
        identity,
        spki_sha256: facts.spki_sha256,
    })
}

/// The hashes of the keys of a chain that TLS has verified, the peer's own first: with it go those
/// that its cluster's intermediate is revoked by.
#[must_use]
pub fn keys_of_verified(chain: &dyn std::any::Any) -> Vec<KeyHash> {
    let chain = chain.downcast_ref::<Vec<CertificateDer<'static>>>();
    let certificates = chain.into_iter().flatten();
    let facts = certificates.filter_map(|certificate| Facts::parse(certificate).ok());
    facts.map(|facts| facts.spki_sha256).collect()
}

/// Derives a key that only the two ends of an established session know (RFC 8446, section 7.5).
///
/// Both ends get the same key from the same label and context.
///
/// # Errors
/// The handshake is not complete yet.
pub fn export(
    session: &dyn Session,
    label: &str,
    context: &[u8],
    key: &mut [u8; 16],
) -> Result<(), ExportKeyingMaterialError> {
    session.export_keying_material(key, label.as_bytes(), context)
}
