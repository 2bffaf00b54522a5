//! What a stranger shows who dials, and what it is told.

use std::net::Ipv4Addr;
use std::sync::Arc;

use orchestrator::link::{self, Dialled};
use quinn::Endpoint;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::crypto::aws_lc_rs::{default_provider, sign::any_supported_type};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use weald_proto::id::Identity;
use weald_trust::pki::{Issued, RootAuthority, new_key};
use weald_trust::tls::{Clock, Credentials, Expected, TrustRoot, Verifier};

use super::site::SOON;

/// A port: who is there, what is spoken, and its end.
pub(super) type Port<'a> = (&'a Identity, &'a [u8], &'a Endpoint);

/// What somebody shows who dials.
pub(super) enum Shown {
    /// A certificate, with its key.
    Own(Credentials),
    /// A certificate and a key that need not be its own, nor of the root that is trusted.
    Forged(TrustRoot, CertifiedKey),
    /// No certificate.
    Nothing(TrustRoot),
}

pub(super) fn shown(issued: &Issued) -> Shown {
    Shown::Own(issued.credentials(None, Clock::system()).unwrap())
}

/// A certificate that others have seen, with another key.
pub(super) fn stolen(issued: &Issued, root: &RootAuthority) -> Shown {
    let key = PrivateKeyDer::Pkcs8(new_key().unwrap().serialize_der().into());
    showing(issued, &key, root)
}

/// A certificate of another root, of somebody who takes this root's port for what it is.
pub(super) fn forged(issued: &Issued, root: &RootAuthority) -> Shown {
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem().as_bytes()).unwrap();
    showing(issued, &key, root)
}

fn showing(issued: &Issued, key: &PrivateKeyDer<'_>, root: &RootAuthority) -> Shown {
    let key = any_supported_type(key).unwrap();
    let certified = CertifiedKey::new(issued.chain().ders(), key);
    Shown::Forged(root.trust().clone(), certified)
}

impl Shown {
    fn config(&self, upper: &Identity, alpn: &[u8]) -> anyhow::Result<QuicClientConfig> {
        let (trust, certified) = match self {
            Self::Own(own) => return own.client_config(upper, alpn),
            Self::Forged(trust, certified) => (trust, Some(certified.clone())),
            Self::Nothing(trust) => (trust, None),
        };
        let expected = Expected::Exactly(upper.clone());
        let trust = Arc::new(trust.clone());
        let verifier = Verifier::new(trust, expected, Clock::system(), Arc::default());
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match certified {
            Some(certified) => {
                config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        Ok(QuicClientConfig::try_from(config)?)
    }
}

pub(super) async fn dial(own: &Shown, upper: Port<'_>) -> anyhow::Result<Dialled> {
    let (identity, alpn, endpoint) = upper;
    let config = link::client_config(own.config(identity, alpn)?);
    let own = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?;
    link::dial_once(&own, &[endpoint.local_addr()?.to_string()], &config).await
}

/// What is said to somebody who dials, and then says these bytes, before it is cut off.
pub(super) async fn refusal(own: &Shown, upper: Port<'_>, bytes: &[u8]) -> String {
    let met = async {
        // The one who dials has shaken hands before the other one has judged it.
        let mut dialled = dial(own, upper).await?;
        dialled.streams.0.write_all(bytes).await?;
        let closed = tokio::time::timeout(SOON, dialled.connection.closed());
        anyhow::Ok(closed.await?.to_string())
    };
    met.await.unwrap_or_else(|error| format!("{error:#}"))
}
