//! Certificates that no authority would make, and those that one would.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use quinn_proto::crypto::rustls::QuicClientConfig;
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::version::TLS13;
use weald_proto::id::{Identity, Label};
use weald_trust::pki::store::Store;
use weald_trust::pki::{ClusterAuthority, RootAuthority, new_key};
use weald_trust::tls::{Clock, Credentials, Expected, PEER_ALPN, TrustRoot, Verifier};

/// How long the certificates live, and how long ago those that are over have ended.
const LIFE: Duration = Duration::from_mins(5);

/// The authorities of a fleet, and one of the same names that is not theirs.
pub(super) struct Papers {
    trust: TrustRoot,
    home: ClusterAuthority,
    hub: ClusterAuthority,
    foreign: ClusterAuthority,
}

/// What is wrong with a certificate.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// Nothing.
    None,
    /// Another cluster than the one that it names has signed it.
    Signer,
    /// It is of a root that has the right name and another key.
    Root,
    /// Its life is over.
    Expired,
}

impl Papers {
    /// Takes up the authorities in a fleet's folder.
    ///
    /// # Errors
    /// There are none.
    pub(super) fn open(authority: &Path) -> Result<Self> {
        let now = SystemTime::now();
        let (home, hub) = (Label::new("home")?, Label::new("hub")?);
        let store = Store::open(authority)?;
        let trust = store.root().trust().clone();
        Ok(Self {
            home: store.cluster(&home, now)?.0,
            hub: store.cluster(&hub, now)?.0,
            foreign: RootAuthority::create(trust.name(), now)?.cluster(&home, now)?,
            trust,
        })
    }

    /// Credentials that trust the fleet's root and show a certificate of this kind.
    ///
    /// # Errors
    /// They cannot be made.
    pub(super) fn forge(&self, identity: &Identity, fault: Fault) -> Result<Credentials> {
        let signer = match fault {
            Fault::None | Fault::Expired => &self.home,
            Fault::Signer => &self.hub,
            Fault::Root => &self.foreign,
        };
        let now = SystemTime::now();
        let is_over = matches!(fault, Fault::Expired);
        let begin = if is_over { now - 2 * LIFE } else { now - LIFE };
        let mut params = CertificateParams::default();
        params.not_before = begin.into();
        params.not_after = (if is_over { now - LIFE } else { now + LIFE }).into();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let uri = identity.uri(self.trust.name());
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into()?)];
        let key = new_key()?;
        let signer_key = KeyPair::from_pem(&signer.key_pem())?;
        let issuer = Issuer::from_ca_cert_der(&signer.certificate().der, &signer_key)?;
        let certificate = params.signed_by(&key, &issuer)?;
        let chain = vec![certificate.der().clone(), signer.certificate().der.clone()];
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Credentials::new(self.trust.clone(), chain, key, None, Clock::system())
    }

    /// A client that dials `expected` and shows no certificate at all.
    ///
    /// # Errors
    /// TLS refuses its own parts.
    pub(super) fn none(&self, expected: &Identity) -> Result<QuicClientConfig> {
        let verifier = Verifier::new(
            Arc::new(self.trust.clone()),
            Expected::Exactly(expected.clone()),
            Clock::system(),
            Arc::default(),
        );
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = vec![PEER_ALPN.to_vec()];
        QuicClientConfig::try_from(config).context("cannot use TLS in QUIC")
    }
}
