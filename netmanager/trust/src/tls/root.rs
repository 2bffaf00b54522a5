//! The root that all trust comes from: its name, its certificate, its key.

use anyhow::{Context, ensure};
use rustls::pki_types::{CertificateDer, TrustAnchor};
use weald_proto::id::Label;

use super::{Facts, KeyHash};

/// What the URI name of a root's certificate starts with; the root's name follows.
pub(crate) const ROOT_URI_PREFIX: &str = "weald://";

/// A root CA that is trusted.
#[derive(Debug, Clone)]
pub struct TrustRoot {
    name: Label,
    certificate: CertificateDer<'static>,
    anchor: TrustAnchor<'static>,
    public_key: Vec<u8>,
    spki_sha256: KeyHash,
}

impl TrustRoot {
    /// Trusts a root's certificate, after checking that it is one.
    ///
    /// # Errors
    /// It cannot be read, is no CA, or does not name a root.
    pub fn new(certificate: CertificateDer<'static>) -> anyhow::Result<Self> {
        let facts = Facts::parse(&certificate).context("cannot read the root's certificate")?;
        ensure!(
            facts.authority && facts.signs_certificates,
            "the root's certificate is not that of a CA"
        );
        let name = match facts.uris.as_slice() {
            [uri] => uri.strip_prefix(ROOT_URI_PREFIX).map(Label::new),
            _ => None,
        };
        let name = name
            .context("the root's certificate has no URI name of the form weald://<root>")?
            .context("the root's certificate has a bad URI name")?;
        let anchor = webpki::anchor_from_trusted_cert(&certificate)
            .context("cannot use the root's certificate")?
            .to_owned();
        Ok(Self {
            name,
            certificate,
            anchor,
            public_key: facts.public_key,
            spki_sha256: facts.spki_sha256,
        })
    }

    /// The root's name.
    #[must_use]
    pub const fn name(&self) -> &Label {
        &self.name
    }

    /// The root's certificate.
    #[must_use]
    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub(crate) const fn anchor(&self) -> &TrustAnchor<'static> {
        &self.anchor
    }

    /// The hash of the root's public key.
    #[must_use]
    pub const fn spki_sha256(&self) -> KeyHash {
        self.spki_sha256
    }

    /// The bits of the root's public key.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }
}
