//! Makes the certificates of the root, of clusters, of nodes and of relays.
//!
//! The authorities live in memory, so that tests and a control plane can use them as they are;
//! `store` keeps them in a directory for `netmanager pki`. Judging certificates is `tls`'s.
//!
//! ```text
//! root          10 years   weald://<root>                              path length 1
//!   endpoint    30 days    weald://<root>/root                         serverAuth, clientAuth
//!   cluster      5 years   weald://<root>/cluster/<c>                  path length 0
//!     control   30 days    weald://<root>/cluster/<c>/control          serverAuth, clientAuth
//!     node      30 days    weald://<root>/cluster/<c>/node/<n>         serverAuth, clientAuth
//!     relay     30 days    weald://<root>/cluster/<c>/relay/<r>        serverAuth, clientAuth
//! ```
//!
//! All keys are Ed25519. A certificate never outlives its issuer's.

mod authority;
mod csr;
pub mod files;
pub mod folder;
pub mod store;
pub(crate) mod template;

#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use rcgen::{KeyPair, PKCS_ED25519};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use crate::tls::{Clock, Credentials, Facts, TrustRoot};

#[cfg(test)]
pub(crate) use authority::SignAnything;
pub use authority::{ClusterAuthority, RootAuthority};
pub use csr::{MAX_REQUEST_LEN, RequestFault, key_hash, request};

/// How long a root lives: longer than anybody wants to distribute a new one.
pub const ROOT_LIFE: Duration = Duration::from_hours(10 * 365 * 24);
/// How long a cluster's intermediate lives.
pub const CLUSTER_LIFE: Duration = Duration::from_hours(5 * 365 * 24);
/// How long the certificate of whoever dials or is dialled lives: a partition of days does no harm.
pub const NODE_LIFE: Duration = Duration::from_hours(30 * 24);
/// How long before its issue a certificate's life begins: by so much clocks may differ.
pub const BACKDATE: Duration = Duration::from_mins(5);

/// How long the certificates live that an authority issues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lives {
    /// Of whoever dials or is dialled.
    pub member: Duration,
    /// Of clusters.
    pub cluster: Duration,
}

impl Default for Lives {
    fn default() -> Self {
        Self {
            member: NODE_LIFE,
            cluster: CLUSTER_LIFE,
        }
    }
}

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

    /// Writes a certificate's DER as PEM as well.
    #[must_use]
    pub fn from_der(der: CertificateDer<'static>) -> Self {
        let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        let pem = pem::encode_config(&pem::Pem::new("CERTIFICATE", der.to_vec()), config);
        Self { der, pem }
    }

    /// The bits of its Ed25519 key, as grants name it.
    ///
    /// # Errors
    /// It cannot be read, or its key is of another kind.
    pub fn public_key(&self) -> anyhow::Result<[u8; 32]> {
        let key = Facts::parse(&self.der)?.public_key;
        key.try_into()
            .map_err(|_| anyhow::anyhow!("the certificate's key is not an Ed25519 key"))
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

/// The certificate of whoever dials or is dialled, and that of its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    own: Certificate,
    /// None for root's own endpoint.
    intermediate: Option<Certificate>,
}

impl Chain {
    /// Puts a chain together as it was received: the own certificate first, then that of its
    /// cluster unless root has issued it.
    ///
    /// # Errors
    /// There is none, or there are more than two.
    pub fn from_ders(ders: Vec<Vec<u8>>) -> anyhow::Result<Self> {
        let count = ders.len();
        let mut certificates = ders
            .into_iter()
            .map(|der| Certificate::from_der(der.into()));
        match (certificates.next(), certificates.next(), count) {
            (Some(own), intermediate, 1 | 2) => Ok(Self { own, intermediate }),
            _ => bail!("{count} certificates instead of 1 or 2"),
        }
    }

    /// The own certificate.
    #[must_use]
    pub const fn certificate(&self) -> &Certificate {
        &self.own
    }

    /// Own certificate and intermediate, in this order.
    pub fn iter(&self) -> impl Iterator<Item = &Certificate> {
        std::iter::once(&self.own).chain(&self.intermediate)
    }

    /// Own certificate and intermediate as DER, as [`Credentials::new`] takes them.
    #[must_use]
    pub fn ders(&self) -> Vec<CertificateDer<'static>> {
        self.iter().map(|one| one.der.clone()).collect()
    }

    /// Own certificate and intermediate, as PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.iter().map(|one| one.pem.as_str()).collect()
    }
}

/// Key and certificates of whoever dials or is dialled, as issued.
#[derive(Debug)]
pub struct Issued {
    trust: TrustRoot,
    chain: Chain,
    key: KeyPair,
}

impl Issued {
    /// Own certificate and intermediate, as PEM.
    #[must_use]
    pub fn chain_pem(&self) -> String {
        self.chain.pem()
    }

    /// The private key, as PEM.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// Own certificate and intermediate.
    #[must_use]
    pub const fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The own certificate.
    #[must_use]
    pub const fn certificate(&self) -> &Certificate {
        &self.chain.own
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
        let key = PrivateKeyDer::Pkcs8(self.key.serialize_der().into());
        Credentials::new(
            self.trust.clone(),
            self.chain.ders(),
            key,
            relay_token,
            clock,
        )
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
