//! What makes root's certificate a good one: an authority that the user named, a fingerprint, or the
//! authorities of this machine. Which of them, `weald login` is told and keeps.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use serde::{Deserialize, Serialize};
use weald_trust::join::fingerprint;

/// Where machines keep the authorities that they trust, most usual first.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Says which other file has them, as other programs read it.
const BUNDLE_VARIABLE: &str = "SSL_CERT_FILE";

/// What root's certificate is judged by.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Trust {
    /// The authorities of this machine.
    #[default]
    System,
    /// These authorities, PEM: the file may go.
    Authorities(String),
    /// SHA-256 of the certificate, or of one that has issued it and is shown with it; hexadecimal.
    Fingerprint(String),
}

impl Trust {
    /// What a user has named.
    ///
    /// # Errors
    /// The file has no certificate, or the text is no fingerprint.
    pub(super) fn named(ca: Option<&Path>, pin: Option<&str>) -> anyhow::Result<Self> {
        if let Some(path) = ca {
            let pem = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            authorities(pem.as_bytes()).with_context(|| format!("--ca {}", path.display()))?;
            return Ok(Self::Authorities(pem));
        }
        match pin {
            Some(text) => Ok(Self::Fingerprint(hex(&parse(text)?))),
            None => Ok(Self::System),
        }
    }

    /// The configuration for dialling root.
    ///
    /// # Errors
    /// This machine has no authorities, or what is kept cannot be read.
    pub(super) fn config(&self) -> anyhow::Result<Arc<ClientConfig>> {
        let provider = Arc::new(default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let mut config = match self {
            Self::System => builder
                .with_root_certificates(system()?)
                .with_no_client_auth(),
            Self::Authorities(pem) => builder
                .with_root_certificates(authorities(pem.as_bytes())?)
                .with_no_client_auth(),
            Self::Fingerprint(text) => {
                let pin = parse(text)?;
                builder
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::new(Pinned { pin, provider }))
                    .with_no_client_auth()
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn authorities(pem: &[u8]) -> anyhow::Result<RootCertStore> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let found = found.context("it cannot be read as PEM")?;
    ensure!(!found.is_empty(), "it has no certificate in PEM form");
    let mut store = RootCertStore::empty();
    for certificate in found {
        store
            .add(certificate)
            .context("a certificate in it cannot be used")?;
    }
    Ok(store)
}

fn system() -> anyhow::Result<RootCertStore> {
    let named = std::env::var(BUNDLE_VARIABLE).ok();
    let files = named.iter().map(String::as_str);
    for file in files.chain(
        if named.is_some() {
            &[][..]
        } else {
            &BUNDLES[..]
        }
        .iter()
        .copied(),
    ) {
        let Ok(pem) = std::fs::read(file) else {
            continue;
        };
        let found = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok);
        let mut store = RootCertStore::empty();
        // Authorities of another kind than rustls knows are of no use, and no fault.
        let (used, _) = store.add_parsable_certificates(found);
        if used > 0 {
            return Ok(store);
        }
    }
    bail!(
        "this machine keeps no authorities where they are looked for; name root's with --ca FILE, or \
         its certificate's fingerprint with --fingerprint"
    )
}

/// Accepts the one certificate with a fingerprint, or one that it has issued.
#[derive(Debug)]
struct Pinned {
    pin: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // The very certificate: whatever name it has.
        if fingerprint(end_entity) == self.pin {
            return Ok(ServerCertVerified::assertion());
        }
        let pinned = intermediates.iter().find(|it| fingerprint(it) == self.pin);
        let Some(pinned) = pinned else {
            let shown = hex(&fingerprint(end_entity));
            let text =
                format!("it has the fingerprint {shown}, and none with the one named is shown");
            return Err(Error::General(text));
        };
        let mut store = RootCertStore::empty();
        store.add(pinned.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(&self.provider))
            .build()
            .map_err(|error| Error::General(error.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// Reads 64 hexadecimal digits, as `openssl x509 -fingerprint -sha256` writes them or without colons.
fn parse(text: &str) -> anyhow::Result<[u8; 32]> {
    let digits: Vec<u32> = text
        .chars()
        .filter(|it| *it != ':')
        .map(|it| it.to_digit(16))
        .collect::<Option<_>>()
        .unwrap_or_default();
    let bytes: Vec<u8> = digits
        .chunks_exact(2)
        .filter_map(|pair| u8::try_from(pair.iter().fold(0, |sum, digit| sum * 16 + digit)).ok())
        .collect();
    <[u8; 32]>::try_from(bytes).ok().filter(|_| digits.len() == 64).with_context(|| {
        format!(
            "{text:?} is no fingerprint: 64 hexadecimal digits, the SHA-256 of a certificate, as \
             `openssl x509 -noout -fingerprint -sha256` shows it"
        )
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_as_openssl_writes_them() {
        let plain = "0a".repeat(32);
        let colons = ["0A"; 32].join(":");
        for text in [&plain, &colons] {
            let named = Trust::named(None, Some(text)).unwrap();
            assert_eq!(named, Trust::Fingerprint(plain.clone()));
        }
        for bad in [
            "",
            "0a",
            &plain[1..],
            &format!("{plain}0"),
            &format!("{plain}0a"),
            "x",
        ] {
            let error = Trust::named(None, Some(bad)).unwrap_err().to_string();
            assert!(error.contains("64 hexadecimal digits"), "{bad}: {error}");
        }
    }

    #[test]
    fn an_authority_is_kept_not_only_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let missing = Trust::named(Some(&path), None).unwrap_err();
        assert!(missing.to_string().contains("cannot read"), "{missing}");
        std::fs::write(&path, "nothing").unwrap();
        let empty = format!("{:#}", Trust::named(Some(&path), None).unwrap_err());
        assert!(empty.contains("no certificate"), "{empty}");
        let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
        std::fs::write(&path, made.cert.pem()).unwrap();
        let trust = Trust::named(Some(&path), None).unwrap();
        std::fs::remove_file(&path).unwrap();
        trust.config().unwrap();
    }
}
