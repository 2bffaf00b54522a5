//! Makes the certificates of the root, of clusters, of nodes and of relays.
//!
//! The authorities here live in memory, so that tests and a control plane can use them as they
//! are; `store` keeps them in a directory for `netmanager pki`. Judging certificates is `tls`'s.
//!
//! ```text
//! root          10 years   weald://<root>                              path length 1
//!   cluster      5 years   weald://<root>/cluster/<c>                  path length 0
//!     node      30 days    weald://<root>/cluster/<c>/node/<n>         serverAuth, clientAuth
//!     relay     30 days    weald://<root>/cluster/<c>/relay/<r>        serverAuth, clientAuth
//! ```
//!
//! All keys are Ed25519. A certificate never outlives its issuer's.

pub(crate) mod files;
pub mod store;
pub(crate) mod template;

use std::time::{Duration, SystemTime};

use anyhow::{Context, bail, ensure};
use rcgen::{Issuer, KeyPair, PKCS_ED25519, SigningKey};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use weald_proto::id::{Identity, Label};

use crate::tls::{Clock, Credentials, Facts, TrustRoot};

/// How long a root lives: longer than anybody wants to distribute a new one.
pub const ROOT_LIFE: Duration = Duration::from_hours(10 * 365 * 24);
/// How long a cluster's intermediate lives.
pub const CLUSTER_LIFE: Duration = Duration::from_hours(5 * 365 * 24);
/// How long a node's or relay's certificate lives: a partition of days does no harm.
pub const NODE_LIFE: Duration = Duration::from_hours(30 * 24);
/// How long before its issue a certificate's life begins: by so much clocks may differ.
pub const BACKDATE: Duration = Duration::from_mins(5);

/// A certificate with its PEM text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The certificate's DER.
    pub der: CertificateDer<'static>,
    /// The same as PEM.
    pub pem: String,
}

impl Certificate {
    /// Reads the first certificate of a PEM text.
    ///
    /// # Errors
    /// There is none.
    pub fn from_pem(pem: String) -> anyhow::Result<Self> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).context("no PEM certificate")?;
        Ok(Self { der, pem })
    }
}

impl From<rcgen::Certificate> for Certificate {
    fn from(certificate: rcgen::Certificate) -> Self {
        let pem = certificate.pem();
        Self {
            der: certificate.into(),
            pem,
        }
    }
}

/// The root CA with its private key.
#[derive(Debug)]
pub struct RootAuthority {
    trust: TrustRoot,
    certificate: Certificate,
    key: KeyPair,
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
        })
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

    /// Makes the intermediate of a cluster.
    ///
    /// # Errors
    /// The root's life is over, or no key can be made.
    pub fn cluster(&self, name: &Label, now: SystemTime) -> anyhow::Result<ClusterAuthority> {
        let key = new_key()?;
        let end = end_of_life(&self.certificate, now, CLUSTER_LIFE)
            .with_context(|| format!("root {} can issue no more", self.name()))?;
        let params = template::cluster(self.name(), name, now, end)?;
        let issuer = Issuer::from_ca_cert_der(&self.certificate.der, &self.key)
            .context("cannot use the root")?;
        let certificate = params
            .signed_by(&key, &issuer)
            .with_context(|| format!("cannot sign cluster {name}"))?;
        ClusterAuthority::from_parts(self.trust.clone(), certificate.into(), key)
    }
}

/// The intermediate CA of a cluster with its private key.
#[derive(Debug)]
pub struct ClusterAuthority {
    trust: TrustRoot,
    name: Label,
    certificate: Certificate,
    key: KeyPair,
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
            key,
        })
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

    /// Makes key and certificate of a node or relay of this cluster.
    ///
    /// # Errors
    /// The identity belongs to another cluster or is a cluster itself, the intermediate's life
    /// is over, or no key can be made.
    pub fn issue(&self, identity: &Identity, now: SystemTime) -> anyhow::Result<Issued> {
        self.issue_for(identity, new_key()?, now)
    }

    /// Makes the certificate of a node or relay that has a key already.
    ///
    /// # Errors
    /// As [`ClusterAuthority::issue`].
    pub fn issue_for(
        &self,
        identity: &Identity,
        key: KeyPair,
        now: SystemTime,
    ) -> anyhow::Result<Issued> {
        ensure!(
            *identity.cluster() == self.name,
            "cluster {} cannot issue for {identity}",
            self.name
        );
        ensure!(
            !matches!(identity, Identity::Cluster(_)),
            "a cluster's intermediate is issued by root, not by a cluster"
        );
        let end = end_of_life(&self.certificate, now, NODE_LIFE)
            .with_context(|| format!("cluster {} can issue no more", self.name))?;
        let params = template::leaf(self.trust.name(), identity, now, end)?;
        let issuer = Issuer::from_ca_cert_der(&self.certificate.der, &self.key)
            .with_context(|| format!("cannot use cluster {}", self.name))?;
        let certificate = params
            .signed_by(&key, &issuer)
            .with_context(|| format!("cannot sign {identity}"))?;
        Ok(Issued {
            trust: self.trust.clone(),
            certificate: certificate.into(),
            intermediate: self.certificate.clone(),
            key,
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

/// Key and certificate of a node or relay, as issued.
#[derive(Debug)]
pub struct Issued {
    trust: TrustRoot,
    certificate: Certificate,
    intermediate: Certificate,
    key: KeyPair,
}

impl Issued {
    /// Own certificate and intermediate, as PEM.
    #[must_use]
    pub fn chain_pem(&self) -> String {
        format!("{}{}", self.certificate.pem, self.intermediate.pem)
    }

    /// The private key, as PEM.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// The own certificate.
    #[must_use]
    pub const fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Makes usable credentials of it, in memory.
    ///
    /// # Errors
    /// The TLS library refuses the key; not to be expected.
    pub fn credentials(
        &self,
        relay_token: Option<Vec<u8>>,
        clock: Clock,
    ) -> anyhow::Result<Credentials> {
        let chain = vec![self.certificate.der.clone(), self.intermediate.der.clone()];
        let key = PrivateKeyDer::Pkcs8(self.key.serialize_der().into());
        Credentials::new(self.trust.clone(), chain, key, relay_token, clock)
    }
}

/// Makes a new Ed25519 key.
///
/// # Errors
/// The system gives no randomness.
pub fn new_key() -> anyhow::Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ED25519).context("cannot make a key")
}

/// The seconds since 1970 of a system time; 0 for times before.
#[must_use]
pub fn unix_time(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(
        time.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default(),
    )
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
