//! Join tokens: how somebody who has nothing yet gets a certificate.
//!
//! Whoever admits (root: clusters; a cluster: workers and relays) keeps a [`JoinBook`], gives out a
//! [`JoinToken`] as text, and listens on a port of its own with [`server_config`]. Whoever joins
//! dials with [`client_config`], sends the token's secret with a request for its key, and checks
//! the answer with [`member`] or [`cluster`]. The token's fingerprint of root's certificate is what
//! makes the dialled one trusted, so the secret is shown to nobody else. Connections and disks are
//! the caller's: it keeps the book before it answers.

mod answer;
mod base32;
mod book;
mod config;
mod token;

#[cfg(test)]
mod tests;

use anyhow::Context;
use aws_lc_rs::{digest, rand};
use rustls::pki_types::CertificateDer;
use weald_proto::id::Identity;
use weald_proto::join::{JoinRole, JoinSecret};

pub use answer::{Member, cluster, member};
pub use book::{Admission, Entry, JoinBook, JoinFault, MAX_LIFE, MAX_TOKENS, TokenId};
pub use config::{client_config, server_config};
pub use token::{DialAddress, JoinToken, JoinTokenFault, MAX_ADDRESSES, MAX_TEXT_LEN, PREFIX};

/// Makes a new secret.
///
/// # Errors
/// The system gives no randomness.
pub fn new_secret() -> anyhow::Result<JoinSecret> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).ok().context("no randomness")?;
    Ok(JoinSecret(bytes))
}

/// SHA-256 of a certificate, as tokens name root's.
#[must_use]
pub fn fingerprint(certificate: &CertificateDer<'_>) -> [u8; 32] {
    sha256(certificate)
}

impl JoinToken {
    /// Whom the token lets one dial: root, or the orchestrator of the token's cluster.
    #[must_use]
    pub fn dialled(&self) -> Identity {
        match self.role {
            JoinRole::Cluster => Identity::Root,
            JoinRole::Worker | JoinRole::Relay => Identity::Control(self.cluster.clone()),
        }
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}
