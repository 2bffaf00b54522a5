//! The TLS of the port where one joins: only the dialled one shows a certificate.

use std::sync::Arc;

use anyhow::Context;
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, Error, ServerConfig};
use weald_proto::id::Identity;
use weald_proto::join::ALPN;

use super::{JoinToken, fingerprint};
use crate::tls::provider::{provider, tls13_signatures};
use crate::tls::{Clock, Credentials, Expected, TrustRoot, Verifier, finish_client, finish_server};

/// The configuration for being dialled by whoever wants to join: the own chain is shown, root's
/// certificate at its end, and no certificate is asked for.
///
/// # Errors
/// The TLS library refuses its own parts; not to be expected.
pub fn server_config(credentials: &Credentials) -> anyhow::Result<QuicServerConfig> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .context("TLS 1.3 is not available")?
        .with_no_client_auth()
        .with_cert_resolver(credentials.resolver_with_root());
    finish_server(config, &[ALPN])
}

/// The configuration for dialling whoever has issued a token, and nobody else.
///
/// # Errors
/// The TLS library refuses its own parts; not to be expected.
pub fn client_config(token: &JoinToken, clock: Clock) -> anyhow::Result<QuicClientConfig> {
    let verifier = PinnedRoot {
        root: token.root,
        dialled: token.dialled(),
        clock,
    };
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .context("TLS 1.3 is not available")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    finish_client(config, ALPN)
}

/// Accepts whom a token names, under the root whose certificate has the token's fingerprint.
///
/// Root's certificate comes with the chain; everything else is [`Verifier`]'s.
#[derive(Debug)]
struct PinnedRoot {
    root: [u8; 32],
    dialled: Identity,
    clock: Clock,
}

impl PinnedRoot {
    /// The verifier under the root that was presented, if that is the right one.
    fn verifier(&self, presented: &[CertificateDer<'_>]) -> Result<Verifier, Error> {
        let pinned = presented.iter().find(|one| fingerprint(one) == self.root);
        let root = pinned.ok_or_else(|| {
            Error::General(
                "its chain does not end in the root certificate that the join token names".into(),
            )
        })?;
        let root = TrustRoot::new(root.clone().into_owned())
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        Ok(Verifier::new(
            Arc::new(root),
            Expected::Exactly(self.dialled.clone()),
            self.clock.clone(),
            Arc::default(),
        ))
    }
}

impl ServerCertVerifier for PinnedRoot {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verifier(intermediates)?.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )
    }

    tls13_signatures!();
}
