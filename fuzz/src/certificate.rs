//! Target on certificates and requests for them, as strangers show them before anything is believed.

use weald_trust::pki::{Certificate, key_hash};

/// The DER of a certificate, and the same bytes as a request for one: no bytes panic, and a key that
/// was read stands in the bytes.
///
/// # Panics
/// If it does not, or if what is written as PEM is read as something else.
pub fn certificate(bytes: &[u8]) {
    let certificate = Certificate::from_der(bytes.to_vec().into());
    if let Ok(key) = certificate.public_key() {
        assert!(bytes.windows(key.len()).any(|part| part == key));
    }
    if let Ok(again) = Certificate::from_pem(certificate.pem) {
        assert_eq!(again.der, certificate.der);
    }
    if let Err(fault) = key_hash(bytes) {
        let _ = fault.to_string();
    }
}
