//! Renewal: the next certificate for a key and an identity that stay.
//!
//! Clusters ask root, members ask their cluster, on the links that they have anyway; what they say is
//! `weald_proto::join`'s. Whoever issues [`check`]s that one asks for itself only. Whoever asks keeps
//! showing the old certificate until the new one is on disk. When that is done, and who has joined,
//! is the caller's.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rcgen::KeyPair;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use weald_proto::id::{Identity, Label};
use weald_proto::join::{JoinRole, RenewRequest, RenewResponse};

use crate::pki::files::{self, Existing, PUBLIC};
use crate::pki::folder;
use crate::pki::store::read_key;
use crate::pki::{BACKDATE, Certificate, Chain, ClusterAuthority, RequestFault, key_hash, request};
use crate::tls::{CHAIN_FILE, Clock, Credentials, Facts, KEY_FILE, KeyHash, Peer, RevocationSet};

/// Why somebody gets no new certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenewFault {
    /// It asks for somebody else.
    #[error("{peer} may ask for a new certificate of its own only, not for {role} {name}")]
    Foreign {
        /// Who asks.
        peer: Identity,
        /// As what.
        role: JoinRole,
        /// For whom.
        name: Label,
    },
    /// Its key, or that of the certificate that it asks for, was revoked.
    #[error("the key of {0} was revoked; it may join again, with a new token and a new key")]
    Revoked(Identity),
    /// It asks for another key than it has.
    #[error(
        "{0} asks for a certificate of another key than it has shown; a renewal keeps the key, and \
         for a new one it has to join again"
    )]
    Key(Identity),
    /// The request for its key is not good.
    #[error(transparent)]
    Request(#[from] RequestFault),
}

/// Checks that whoever has proved to be `peer` may have what it asks for; gives the hash of the key
/// that it is for. That a cluster's key is the one with which it has joined, and that a member was
/// not forgotten since, is for the caller to know.
///
/// # Errors
/// Why it may not.
pub fn check(
    peer: &Peer,
    request: &RenewRequest,
    revoked: &RevocationSet,
) -> Result<KeyHash, RenewFault> {
    let is_own = match (&peer.identity, request.role) {
        (Identity::Control(cluster), JoinRole::Cluster) => *cluster == request.name,
        (Identity::Node(node), JoinRole::Worker) => node.name == request.name,
        (Identity::Relay(relay), JoinRole::Relay) => relay.name == request.name,
        _ => false,
    };
    if !is_own {
        return Err(RenewFault::Foreign {
            peer: peer.identity.clone(),
            role: request.role,
            name: request.name.clone(),
        });
    }
    let key = key_hash(&request.csr)?;
    if [key, peer.spki_sha256]
        .iter()
        .any(|key| revoked.keys.contains(key))
    {
        return Err(RenewFault::Revoked(peer.identity.clone()));
    }
    // A cluster's orchestrator shows a key of its own, beside that of the cluster.
    if request.role != JoinRole::Cluster && key != peer.spki_sha256 {
        return Err(RenewFault::Key(peer.identity.clone()));
    }
    Ok(key)
}

/// A member's certificate in its folder, and how it lives on there.
#[derive(Debug, Clone)]
pub struct Renewal {
    credentials: Credentials,
    folder: PathBuf,
}

impl Renewal {
    /// For credentials that were loaded from a folder.
    #[must_use]
    pub const fn new(credentials: Credentials, folder: PathBuf) -> Self {
        Self {
            credentials,
            folder,
        }
    }

    /// Whose certificate it is.
    #[must_use]
    pub const fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// What is to be asked for now; none before that is due, or if a process beside this one has
    /// renewed the certificate in the folder, which is shown from now on then.
    ///
    /// # Errors
    /// The key cannot be read.
    pub fn wanted(&self) -> anyhow::Result<Option<RenewRequest>> {
        let now = self.credentials.clock().now().as_secs();
        if now < self.credentials.renewal_due()?.as_secs() {
            return Ok(None);
        }
        if matches!(self.take_up(), Ok(true)) && now < self.credentials.renewal_due()?.as_secs() {
            return Ok(None);
        }
        let (role, name) = match self.credentials.identity() {
            Identity::Node(node) => (JoinRole::Worker, &node.name),
            Identity::Relay(relay) => (JoinRole::Relay, &relay.name),
            other @ (Identity::Root | Identity::Cluster(_) | Identity::Control(_)) => {
                bail!("the certificate of {other} is not renewed by its cluster")
            }
        };
        let key = read_key(&self.folder.join(KEY_FILE))?;
        request_for(role, name, &key).map(Some)
    }

    /// Takes the answer: a new certificate is on disk before it is shown. Gives the end of its life.
    ///
    /// # Errors
    /// What the issuer says, why the certificate cannot be used, or why it cannot be kept; the old one
    /// is shown then as before.
    pub fn take(&self, answer: RenewResponse) -> anyhow::Result<UnixTime> {
        let chain = Chain::from_ders(renewed(answer)?)?;
        self.credentials.check_renewal(&chain.ders())?;
        let path = self.folder.join(CHAIN_FILE);
        files::write(&path, chain.pem().as_bytes(), PUBLIC, Existing::Replace)?;
        self.credentials.renew(chain.ders())?;
        self.credentials.not_after()
    }

    /// Shows what another process has put into the folder; false if that is what is shown already.
    ///
    /// # Errors
    /// Why it is not shown; what is shown stays.
    pub fn take_up(&self) -> anyhow::Result<bool> {
        let path = self.folder.join(CHAIN_FILE);
        let pem =
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
        let chain = chain.with_context(|| format!("{} holds no certificates", path.display()))?;
        if self.credentials.shows(&chain) {
            return Ok(false);
        }
        self.credentials.renew(chain)?;
        Ok(true)
    }
}

/// Takes root's answer for a cluster: its new certificate is in the folder when this returns. The
/// authority with it takes the place of the old one.
///
/// # Errors
/// What root says, why the certificate cannot be used, or why it cannot be kept.
pub fn take_cluster(
    authority: &ClusterAuthority,
    answer: RenewResponse,
    folder: &std::path::Path,
    clock: &Clock,
) -> anyhow::Result<ClusterAuthority> {
    let chain = renewed(answer)?;
    let count = chain.len();
    let [der] = <[Vec<u8>; 1]>::try_from(chain)
        .map_err(|_| anyhow::anyhow!("{count} certificates were issued instead of 1"))?;
    let renewed = authority.with_certificate(Certificate::from_der(der.into()))?;
    ensure!(
        renewed.not_after()? > authority.not_after()?,
        "the new certificate ends no later than the one that is used"
    );
    // Only the verifier of peers looks at the signature.
    let control = Identity::Control(renewed.name().clone());
    let now = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(clock.now().as_secs());
    let leaf = renewed
        .issue(&control, now)?
        .credentials(None, clock.clone())?;
    let checked = leaf.check();
    checked.context("peers would refuse the new certificate")?;
    folder::save_cluster(&renewed, folder)?;
    Ok(renewed)
}

/// When to ask again after one has asked: often enough before the end, and not all the time.
#[must_use]
pub fn retry(now: UnixTime, not_after: UnixTime) -> Duration {
    const BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(10));
    let left = not_after.as_secs().saturating_sub(now.as_secs());
    if left == 0 {
        // Nobody lets one in any more; only a process beside this one can help.
        return BOUNDS.1;
    }
    Duration::from_secs(left / 8).clamp(BOUNDS.0, BOUNDS.1)
}

/// When a certificate should be renewed: after two thirds of its life, and up to a twelfth of it
/// more, as its key has it.
pub(crate) fn due(facts: &Facts) -> UnixTime {
    let begin = facts.not_before.as_secs() + BACKDATE.as_secs();
    let life = facts.not_after.as_secs().saturating_sub(begin);
    let [scatter, ..] = facts.spki_sha256.0;
    let due = begin + life * 2 / 3 + life / 12 * u64::from(scatter) / 256;
    UnixTime::since_unix_epoch(Duration::from_secs(due))
}

pub(crate) fn request_for(
    role: JoinRole,
    name: &Label,
    key: &KeyPair,
) -> anyhow::Result<RenewRequest> {
    Ok(RenewRequest {
        role,
        name: name.clone(),
        csr: request(key)?,
    })
}

fn renewed(answer: RenewResponse) -> anyhow::Result<Vec<Vec<u8>>> {
    match answer {
        RenewResponse::Renewed { chain } => Ok(chain),
        RenewResponse::Refused { text } => bail!("{text}"),
    }
}

#[cfg(test)]
mod tests;
