//! What one who joins makes of the answer, after checking it against the token.

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail, ensure};
use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use weald_proto::id::{Identity, Label, NodeId, RelayId};
use weald_proto::join::JoinRole;

use super::{JoinToken, fingerprint};
use crate::pki::files::{self, Existing, PUBLIC, SECRET};
use crate::pki::{Certificate, Chain, ClusterAuthority};
use crate::tls::{CA_FILE, CHAIN_FILE, Clock, Credentials, KEY_FILE, TrustRoot};

/// A worker or relay that was admitted.
pub struct Member {
    /// What it shows from now on.
    pub credentials: Credentials,
    chain: Chain,
    key_pem: String,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key is not for logs.
        let credentials = &self.credentials;
        f.debug_struct("Member")
            .field("credentials", credentials)
            .finish_non_exhaustive()
    }
}

impl Member {
    /// Writes root's certificate, the own chain and the key to a directory, as
    /// [`Credentials::load`] reads them. What is there is replaced.
    ///
    /// # Errors
    /// Something cannot be written.
    pub fn save(&self, directory: &Path) -> anyhow::Result<()> {
        files::make_directory(directory)?;
        let ca = Certificate::from_der(self.credentials.root().certificate().clone());
        for (name, text, mode) in [
            (KEY_FILE, &self.key_pem, SECRET),
            (CA_FILE, &ca.pem, PUBLIC),
            (CHAIN_FILE, &self.chain.pem(), PUBLIC),
        ] {
            let path = directory.join(name);
            files::write(&path, text.as_bytes(), mode, Existing::Replace)?;
        }
        Ok(())
    }
}

/// What a worker or relay has that was admitted under a name.
///
/// # Errors
/// Root's certificate is not the token's, the certificates are not for this name and key, or peers
/// would refuse them.
pub fn member(
    token: &JoinToken,
    name: &Label,
    key: &KeyPair,
    chain: Vec<Vec<u8>>,
    ca: Vec<u8>,
    clock: Clock,
) -> anyhow::Result<Member> {
    let (cluster, name) = (token.cluster.clone(), name.clone());
    let wanted = match token.role {
        JoinRole::Worker => Identity::Node(NodeId::new(cluster, name)),
        JoinRole::Relay => Identity::Relay(RelayId::new(cluster, name)),
        JoinRole::Cluster => bail!("the join token is a cluster's"),
    };
    let trust = pinned(token, ca)?;
    let chain = Chain::from_ders(chain).context("cannot use the certificates that were issued")?;
    let der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let credentials = Credentials::new(trust, chain.ders(), der, None, clock)
        .context("cannot use the certificates that were issued")?;
    ensure!(
        *credentials.identity() == wanted,
        "a certificate was issued for {}, not for {wanted}",
        credentials.identity()
    );
    let checked = credentials.check();
    checked.context("peers would refuse the certificate that was issued")?;
    Ok(Member {
        credentials,
        chain,
        key_pem: key.serialize_pem(),
    })
}

/// The authority of a cluster that was admitted.
///
/// # Errors
/// Root's certificate is not the token's, there is not exactly one certificate, it is not for this
/// cluster and key, or peers would refuse what it issues.
pub fn cluster(
    token: &JoinToken,
    key: KeyPair,
    chain: Vec<Vec<u8>>,
    ca: Vec<u8>,
    clock: &Clock,
) -> anyhow::Result<ClusterAuthority> {
    let role = token.role;
    ensure!(role == JoinRole::Cluster, "the join token is a {role}'s");
    let trust = pinned(token, ca)?;
    let count = chain.len();
    let [certificate] = <[Vec<u8>; 1]>::try_from(chain)
        .map_err(|_| anyhow::anyhow!("{count} certificates were issued instead of 1"))?;
    let certificate = Certificate::from_der(certificate.into());
    let authority = ClusterAuthority::from_parts(trust, certificate, key)
        .context("cannot use the certificate that was issued")?;
    ensure!(
        *authority.name() == token.cluster,
        "a certificate was issued for cluster {}, not for {}",
        authority.name(),
        token.cluster
    );
    // Only the verifier of peers looks at the signature.
    let control = Identity::Control(token.cluster.clone());
    let now = system_time(clock.now());
    let checked = authority
        .issue(&control, now)?
        .credentials(None, clock.clone())?
        .check();
    checked.context("peers would refuse the certificate that was issued")?;
    Ok(authority)
}

fn pinned(token: &JoinToken, ca: Vec<u8>) -> anyhow::Result<TrustRoot> {
    let ca = CertificateDer::from(ca);
    ensure!(
        fingerprint(&ca) == token.root,
        "the root certificate in the answer is not the one that the join token names"
    );
    TrustRoot::new(ca)
}

fn system_time(time: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs())
}
