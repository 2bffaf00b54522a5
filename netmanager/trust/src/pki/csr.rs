//! Requests for a certificate (PKCS#10), which prove that their sender holds a key.
//!
//! Only the key is taken from a request: who its holder is, is for whoever issues to know.

use anyhow::Context;
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData, SubjectPublicKeyInfo};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::OID_SIG_ED25519;
use x509_parser::prelude::FromDer;

use crate::tls::KeyHash;

/// Bytes of the longest request that is read; one of ours has under 200.
pub const MAX_REQUEST_LEN: usize = 4096;

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestFault {
    /// More bytes than any request needs.
    #[error("the certificate request has {0} bytes, at most {MAX_REQUEST_LEN} are read")]
    TooLong(usize),
    /// The bytes are no PKCS#10 request.
    #[error("the certificate request is not a readable PKCS#10 request")]
    Malformed,
    /// Its key is of another kind than ours are.
    #[error("the certificate request is not for an Ed25519 key")]
    Algorithm,
    /// It was not signed with the key that it is for.
    #[error("the certificate request is not signed by the key that it is for")]
    Signature,
}

/// Makes the request for a certificate of a key that its holder keeps, as DER.
///
/// # Errors
/// The key cannot sign; not to be expected.
pub fn request(key: &KeyPair) -> anyhow::Result<Vec<u8>> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params
        .serialize_request(key)
        .context("cannot sign a certificate request")?;
    Ok(request.der().to_vec())
}

/// The hash of the key that a request is for, after its sender has proved to hold it.
///
/// # Errors
/// Why the request is refused.
pub fn key_hash(csr: &[u8]) -> Result<KeyHash, RequestFault> {
    Ok(KeyHash::of_spki(&key_of(csr)?.subject_public_key_info()))
}

/// The key that a request is for, after its sender has proved to hold it.
pub(super) fn key_of(csr: &[u8]) -> Result<SubjectPublicKeyInfo, RequestFault> {
    if csr.len() > MAX_REQUEST_LEN {
        return Err(RequestFault::TooLong(csr.len()));
    }
    let (rest, request) =
        X509CertificationRequest::from_der(csr).map_err(|_| RequestFault::Malformed)?;
    if !rest.is_empty() {
        return Err(RequestFault::Malformed);
    }
    let info = &request.certification_request_info;
    let key = &info.subject_pki;
    if request.signature_algorithm.algorithm != OID_SIG_ED25519
        || key.algorithm.algorithm != OID_SIG_ED25519
    {
        return Err(RequestFault::Algorithm);
    }
    UnparsedPublicKey::new(&ED25519, &key.subject_public_key.data)
        .verify(info.raw, &request.signature_value.data)
        .map_err(|_| RequestFault::Signature)?;
    SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| RequestFault::Malformed)
}
