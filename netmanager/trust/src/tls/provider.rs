//! The cryptography that is offered: few algorithms, the same on every node.

use std::sync::{Arc, LazyLock};

use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::{self, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};

/// How certificates and handshakes are signed: with Ed25519, which is all that `pki` makes.
pub(crate) static SIGNATURES: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[webpki::aws_lc_rs::ED25519],
    mapping: &[(SignatureScheme::ED25519, &[webpki::aws_lc_rs::ED25519])],
};

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let aes = match faster_aes() {
        AesLibrary::AwsLc => aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        AesLibrary::Ring => ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
    };
    let mut cipher_suites = vec![aes, aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256];
    if !has_aes() {
        cipher_suites.reverse();
    }
    Arc::new(CryptoProvider {
        cipher_suites,
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519],
        signature_verification_algorithms: SIGNATURES,
        ..default_provider()
    })
});

/// The provider for both directions.
///
/// AES-128-GCM comes first, since every QUIC implementation has it for its Initial packets and
/// CPUs have instructions for it; on those that have not, ChaCha20 does. The key exchange is
/// hybrid, so that recorded traffic stays closed to later quantum computers.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

/// Whose AES-128-GCM protects packets; everything else is aws-lc's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AesLibrary {
    /// aws-lc's.
    AwsLc,
    /// ring's.
    Ring,
}

/// The library that is faster on this CPU. Both use instructions on four blocks at once (VAES), but
/// aws-lc only together with AVX-512; where that is missing, as on Zen 3 and on most CPUs of
/// desktops, ring takes little more than half of aws-lc's time (decision 0014).
#[must_use]
pub fn faster_aes() -> AesLibrary {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("vaes")
        && std::arch::is_x86_feature_detected!("vpclmulqdq")
        && !std::arch::is_x86_feature_detected!("avx512vl")
    {
        return AesLibrary::Ring;
    }
    AesLibrary::AwsLc
}

/// Whether this CPU has instructions for AES.
#[must_use]
pub fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

/// The methods by which a verifier of either direction checks what a handshake is signed with.
macro_rules! tls13_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _cert: &rustls::pki_types::CertificateDer<'_>,
            _dss: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            Err(rustls::Error::General("TLS 1.2 is not spoken".to_owned()))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &rustls::pki_types::CertificateDer<'_>,
            dss: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            let algorithms = &$crate::tls::provider::SIGNATURES;
            rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            $crate::tls::provider::SIGNATURES.supported_schemes()
        }
    };
}

pub(crate) use tls13_signatures;

#[cfg(test)]
mod tests {
    use rustls::CipherSuite;

    use super::*;

    #[test]
    fn aes_comes_first_where_the_cpu_has_it() {
        let provider = provider();
        let suites = provider.cipher_suites.iter().map(|suite| suite.suite());
        let mut expected = [
            CipherSuite::TLS13_AES_128_GCM_SHA256,
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        ];
        if !has_aes() {
            expected.reverse();
        }
        assert!(suites.eq(expected));
    }
}
