//! Root and clusters as issuers: what they hold, and what they sign.
//!
//! What stands in a certificate is `template`'s.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow, bail, ensure};
use rcgen::{CertificateParams, Issuer, KeyPair, PublicKeyData, SigningKey, SubjectPublicKeyInfo};
use rustls::pki_types::{CertificateDer, UnixTime};
use weald_proto::id::{Identity, Label};
use weald_proto::join::{JoinRole, RenewRequest};

use super::{Certificate, Chain, Issued, Lives, csr, new_key, template, unix_time};
use crate::renewal;
use crate::tls::{Clock, Credentials, Expected, Facts, TrustRoot, Usage, Verifier, ed25519_spki};

/// The root CA with its private key.
#[derive(Debug)]
pub struct RootAuthority {
    trust: TrustRoot,
    certificate: Certificate,
    key: KeyPair,
    lives: Lives,
}

impl RootAuthority {
    /// Makes a new root.
    ///
    /// # Errors
    /// No key can be made.
    pub fn create(name: &Label, now: SystemTime) -> anyhow::Result<Self> {
        let key = new_key()?;
        let params = template::root(name, now)?;
        let certificate = params.self_signed(&key).context("cannot sign the root")?;
        Self::from_parts(certificate.into(), key)
    }

    /// Takes up a root that was made before.
    ///
    /// # Errors
    /// The certificate is not that of a root, or the key is another one's.
    pub fn from_parts(certificate: Certificate, key: KeyPair) -> anyhow::Result<Self> {
        let trust = TrustRoot::new(certificate.der.clone())?;
        let facts = Facts::parse(&certificate.der)?;
        ensure_own_key(&facts, &key)?;
        Ok(Self {
            trust,
            certificate,
            key,
            lives: Lives::default(),
        })
    }

    /// The same, but what it issues lives for so long.
    #[must_use]
    pub fn with_lives(self, lives: Lives) -> Self {
        Self { lives, ..self }
    }

    /// The root's name.
    #[must_use]
    pub const fn name(&self) -> &Label {
        self.trust.name()
    }

    /// What others trust.
    #[must_use]
    pub const fn trust(&self) -> &TrustRoot {
        &self.trust
    }

    /// The root's certificate.
    #[must_use]
    pub const fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The root's private key, as PEM.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// Signs a message with the root's key.
    ///
    /// # Errors
    /// The key cannot sign; not to be expected.
    pub fn sign(&self, message: &[u8]) -> anyhow::Result<Vec<u8>> {
        self.key
            .sign(message)
            .with_context(|| format!("root {} cannot sign", self.name()))
    }

    /// Makes key and intermediate of a cluster.
    ///
    /// # Errors
    /// The root's life is over, or no key can be made.
    pub fn cluster(&self, name: &Label, now: SystemTime) -> anyhow::Result<ClusterAuthority> {
        let key = new_key()?;
        let certificate = self.sign_cluster(name, &key, now)?;
        ClusterAuthority::from_parts(self.trust.clone(), certificate, key)
    }

    /// Makes the intermediate of a cluster that has made its own key, of which `csr` tells
    /// (PKCS#10, see [`super::request`]). Nothing else that stands in it counts.
    ///
    /// # Errors
    /// The root's life is over, or the request is a [`super::RequestFault`].
    pub fn cluster_for(
        &self,
        name: &Label,
        csr: &[u8],
        now: SystemTime,
    ) -> anyhow::Result<Certificate> {
        self.sign_cluster(name, &csr::key_of(csr)?, now)
    }

    /// Makes key and certificate of root's own endpoint, which clusters dial.
    ///
    /// # Errors
    /// The root's life is over, or no key can be made.
    pub fn issue_root(&self, now: SystemTime) -> anyhow::Result<Issued> {
        let key = new_key()?;
        Ok(Issued {
            trust: self.trust.clone(),
            chain: self.sign_root(&key, now)?,
            key,
        })
    }

    /// Makes a new certificate for the key of root's own endpoint, expired or not.
    ///
    /// # Errors
    /// The credentials are not those of root's endpoint, or the root's life is over.
    pub fn renew_root(&self, own: &Credentials, now: SystemTime) -> anyhow::Result<Chain> {
        let identity = own.identity();
        ensure!(
            *identity == Identity::Root,
            "root does not issue for {identity}"
        );
        self.sign_root(&own_key(own)?, now)
    }

    fn sign_root(&self, key: &impl PublicKeyData, now: SystemTime) -> anyhow::Result<Chain> {
        let end = self.end_of_life(now, self.lives.member)?;
        let params = template::leaf(self.name(), &Identity::Root, now, end)?;
        let own = sign(&self.certificate, &self.key, &params, key);
        Ok(Chain {
            own: own.context("cannot sign root's endpoint")?,
            intermediate: None,
        })
    }

    fn sign_cluster(
        &self,
        name: &Label,
        key: &impl PublicKeyData,
        now: SystemTime,
    ) -> anyhow::Result<Certificate> {
        let end = self.end_of_life(now, self.lives.cluster)?;
        let params = template::cluster(self.name(), name, now, end)?;
        sign(&self.certificate, &self.key, &params, key)
            .with_context(|| format!("cannot sign cluster {name}"))
    }

    fn end_of_life(&self, now: SystemTime, life: Duration) -> anyhow::Result<SystemTime> {
        end_of_life(&self.certificate, now, life)
            .with_context(|| format!("root {} can issue no more", self.name()))
    }
}

/// The intermediate CA of a cluster with its private key.
#[derive(Debug)]
pub struct ClusterAuthority {
    trust: TrustRoot,
    name: Label,
    certificate: Certificate,
    key: Arc<KeyPair>,
    lives: Lives,
}

impl ClusterAuthority {
    /// Takes up a cluster that was made before.
    ///
    /// # Errors
    /// The certificate is not that of a cluster under this root, or the key is another one's.
    pub fn from_parts(
        trust: TrustRoot,
        certificate: Certificate,
        key: KeyPair,
    ) -> anyhow::Result<Self> {
        let facts = Facts::parse(&certificate.der)?;
        ensure_own_key(&facts, &key)?;
        let (root, identity) = facts.identity()?;
        ensure!(
            root == *trust.name(),
            "the intermediate is of root {root}, not of {}",
            trust.name()
        );
        let Identity::Cluster(name) = identity else {
            bail!("the intermediate is {identity}, not a cluster");
        };
        Ok(Self {
            trust,
            name,
            certificate,
            key: Arc::new(key),
            lives: Lives::default(),
        })
    }

    /// The same, but what it issues lives for so long.
    #[must_use]
    pub fn with_lives(self, lives: Lives) -> Self {
        Self { lives, ..self }
    }

    /// The same authority with a new certificate for its key.
    ///
    /// # Errors
    /// The certificate is another cluster's or another key's.
    pub fn with_certificate(&self, certificate: Certificate) -> anyhow::Result<Self> {
        let facts = Facts::parse(&certificate.der)?;
        ensure_own_key(&facts, &self.key)?;
        let (root, identity) = facts.identity()?;
        ensure!(
            root == *self.trust.name() && identity == Identity::Cluster(self.name.clone()),
            "a certificate was issued for {identity}, not for cluster {}",
            self.name
        );
        Ok(Self {
            trust: self.trust.clone(),
            name: self.name.clone(),
            certificate,
            key: Arc::clone(&self.key),
            lives: self.lives,
        })
    }

    /// When a new certificate should be asked for.
    ///
    /// # Errors
    /// The present one cannot be read; not to be expected.
    pub fn renewal_due(&self) -> anyhow::Result<UnixTime> {
        Ok(renewal::due(&Facts::parse(&self.certificate.der)?))
    }

    /// When the present certificate's life ends.
    ///
    /// # Errors
    /// It cannot be read; not to be expected.
    pub fn not_after(&self) -> anyhow::Result<UnixTime> {
        Ok(Facts::parse(&self.certificate.der)?.not_after)
    }

    /// Asks root for a new certificate.
    ///
    /// # Errors
    /// The key cannot sign; not to be expected.
    pub fn renewal_request(&self) -> anyhow::Result<RenewRequest> {
        renewal::request_for(JoinRole::Cluster, &self.name, &self.key)
    }

    /// Makes a new certificate for a member that this process itself is, expired or not.
    ///
    /// # Errors
    /// As [`ClusterAuthority::issue`].
    pub fn renew_own(&self, own: &Credentials, now: SystemTime) -> anyhow::Result<Chain> {
        self.sign_member(own.identity(), &own_key(own)?, now)
    }

    /// The cluster's name.
    #[must_use]
    pub const fn name(&self) -> &Label {
        &self.name
    }

    /// The root above the cluster.
    #[must_use]
    pub const fn trust(&self) -> &TrustRoot {
        &self.trust
    }

    /// The intermediate's certificate.
    #[must_use]
    pub const fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The intermediate's private key, as PEM.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// Makes key and certificate of a node or relay of this cluster, or of its own orchestrator.
    ///
    /// # Errors
    /// The identity belongs to another cluster or is a cluster itself, the intermediate's life
    /// is over, or no key can be made.
    pub fn issue(&self, identity: &Identity, now: SystemTime) -> anyhow::Result<Issued> {
        self.issue_for(identity, new_key()?, now)
    }

    /// Makes the certificate of a member that has a key already.
    ///
    /// # Errors
    /// As [`ClusterAuthority::issue`].
    pub fn issue_for(
        &self,
        identity: &Identity,
        key: KeyPair,
        now: SystemTime,
    ) -> anyhow::Result<Issued> {
        Ok(Issued {
            trust: self.trust.clone(),
            chain: self.sign_member(identity, &key, now)?,
            key,
        })
    }

    /// Makes the certificate of a member that has made its own key, of which `csr` tells (PKCS#10,
    /// see [`super::request`]). Nothing else that stands in it counts.
    ///
    /// # Errors
    /// As [`ClusterAuthority::issue`], or the request is a [`super::RequestFault`].
    pub fn issue_for_csr(
        &self,
        identity: &Identity,
        csr: &[u8],
        now: SystemTime,
    ) -> anyhow::Result<Chain> {
        self.sign_member(identity, &csr::key_of(csr)?, now)
    }

    /// Makes a new certificate for the identity and key of one that this cluster has issued and
    /// whose life is not over. Whether it is revoked, the caller has to know.
    ///
    /// # Errors
    /// This cluster has not issued it, its life is over, or as [`ClusterAuthority::issue`].
    pub fn renew(&self, own: &CertificateDer<'_>, now: SystemTime) -> anyhow::Result<Chain> {
        let facts = Facts::parse(own)?;
        let (_, identity) = facts.identity()?;
        let verifier = Verifier::new(
            Arc::new(self.trust.clone()),
            Expected::Exactly(identity.clone()),
            Clock::fixed(unix_time(now)),
            Arc::default(),
        );
        let intermediate = self.certificate.der.clone();
        verifier.verify(own, &[intermediate], Usage::Client)?;
        self.sign_member(&identity, &spki(facts)?, now)
    }

    fn sign_member(
        &self,
        identity: &Identity,
        key: &impl PublicKeyData,
        now: SystemTime,
    ) -> anyhow::Result<Chain> {
        ensure!(
            identity.cluster() == Some(&self.name),
            "cluster {} cannot issue for {identity}",
            self.name
        );
        ensure!(
            !matches!(identity, Identity::Cluster(_)),
            "a cluster's intermediate is issued by root, not by a cluster"
        );
        let end = end_of_life(&self.certificate, now, self.lives.member)
            .with_context(|| format!("cluster {} can issue no more", self.name))?;
        let params = template::leaf(self.trust.name(), identity, now, end)?;
        let own = sign(&self.certificate, &self.key, &params, key)
            .with_context(|| format!("cannot sign {identity}"))?;
        Ok(Chain {
            own,
            intermediate: Some(self.certificate.clone()),
        })
    }

    /// Signs a message with the cluster's key.
    ///
    /// # Errors
    /// The key cannot sign; not to be expected.
    pub fn sign(&self, message: &[u8]) -> anyhow::Result<Vec<u8>> {
        self.key
            .sign(message)
            .with_context(|| format!("cluster {} cannot sign", self.name))
    }
}

/// Signs what no authority would, for tests of those who must refuse it.
#[cfg(test)]
pub(crate) trait SignAnything {
    /// The issuer's key and certificate.
    fn parts(&self) -> (&KeyPair, &Certificate);

    /// Signs any parameters for any key.
    fn sign_anything(&self, params: &rcgen::CertificateParams, key: &KeyPair) -> Certificate {
        let (own_key, own) = self.parts();
        let issuer = Issuer::from_ca_cert_der(&own.der, own_key).unwrap();
        params.signed_by(key, &issuer).unwrap().into()
    }
}

#[cfg(test)]
impl SignAnything for RootAuthority {
    fn parts(&self) -> (&KeyPair, &Certificate) {
        (&self.key, &self.certificate)
    }
}

#[cfg(test)]
impl SignAnything for ClusterAuthority {
    fn parts(&self) -> (&KeyPair, &Certificate) {
        (&self.key, &self.certificate)
    }
}

#[cfg(test)]
impl SignAnything for (KeyPair, Certificate) {
    fn parts(&self) -> (&KeyPair, &Certificate) {
        (&self.0, &self.1)
    }
}

fn sign(
    issuer: &Certificate,
    issuer_key: &KeyPair,
    params: &CertificateParams,
    key: &impl PublicKeyData,
) -> anyhow::Result<Certificate> {
    let issuer = Issuer::from_ca_cert_der(&issuer.der, issuer_key)
        .context("cannot use the issuer's certificate")?;
    Ok(params.signed_by(key, &issuer)?.into())
}

/// The key of a process's own certificate.
fn own_key(own: &Credentials) -> anyhow::Result<SubjectPublicKeyInfo> {
    spki(own.own_facts()?)
}

fn spki(facts: Facts) -> anyhow::Result<SubjectPublicKeyInfo> {
    let key = <[u8; 32]>::try_from(facts.public_key);
    let key = key.map_err(|_| anyhow!("the certificate's key is not an Ed25519 key"))?;
    SubjectPublicKeyInfo::from_der(&ed25519_spki(&key)).context("cannot use the certificate's key")
}

fn ensure_own_key(facts: &Facts, key: &KeyPair) -> anyhow::Result<()> {
    ensure!(
        facts.public_key == key.public_key_raw(),
        "the private key does not belong to the certificate"
    );
    Ok(())
}

/// When a certificate issued now ends: after `life`, but not after its issuer.
fn end_of_life(
    issuer: &Certificate,
    now: SystemTime,
    life: Duration,
) -> anyhow::Result<SystemTime> {
    let issuer_end = Facts::parse(&issuer.der)?.not_after;
    let issuer_end = SystemTime::UNIX_EPOCH + Duration::from_secs(issuer_end.as_secs());
    ensure!(now < issuer_end, "its certificate has expired");
    Ok(issuer_end.min(now + life))
}
