//! What our checks need to know of a certificate, read from its DER.
//!
//! Signatures are not checked here and nothing is judged: the verifier does the one with webpki
//! and the other with these facts. webpki ignores key usage and skips names that it cannot read,
//! hence a second reader.

use std::time::Duration;

use rustls::pki_types::UnixTime;
use weald_proto::id::{Identity, Label};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use super::{KeyHash, PeerFault};

/// What a certificate says, believed or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Its URI names.
    pub(crate) uris: Vec<String>,
    /// Whether it may issue certificates (basic constraints).
    pub(crate) authority: bool,
    /// How many further issuers may stand below it.
    pub(crate) path_length: Option<u32>,
    /// Key usage: certificates.
    pub(crate) signs_certificates: bool,
    /// Key usage: anything else, TLS and tokens among it.
    pub(crate) signs: bool,
    /// Extended key usage: TLS servers.
    pub(crate) server: bool,
    /// Extended key usage: TLS clients.
    pub(crate) client: bool,
    /// When its life begins.
    pub(crate) not_before: UnixTime,
    /// When its life ends.
    pub(crate) not_after: UnixTime,
    /// Its serial number, as it is encoded.
    pub(crate) serial: Vec<u8>,
    /// The hash of its key with the key's algorithm.
    pub(crate) spki_sha256: KeyHash,
    /// The bits of its key.
    pub(crate) public_key: Vec<u8>,
}

impl Facts {
    /// Reads the DER of one certificate.
    pub(crate) fn parse(der: &[u8]) -> Result<Self, PeerFault> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| PeerFault::Encoding)?;
        if !rest.is_empty() {
            return Err(PeerFault::Encoding);
        }
        Self::of(&certificate)
    }

    /// Reads a parsed certificate.
    pub(crate) fn of(certificate: &X509Certificate<'_>) -> Result<Self, PeerFault> {
        let malformed = |_| PeerFault::Encoding;
        let basic = certificate.basic_constraints().map_err(malformed)?;
        let usage = certificate.key_usage().map_err(malformed)?;
        let extended = certificate.extended_key_usage().map_err(malformed)?;
        let validity = certificate.validity();
        let spki = certificate.public_key();
        Ok(Self {
            uris: uris(certificate)?,
            authority: basic.as_ref().is_some_and(|basic| basic.value.ca),
            path_length: basic.and_then(|basic| basic.value.path_len_constraint),
            signs_certificates: usage
                .as_ref()
                .is_some_and(|usage| usage.value.key_cert_sign()),
            signs: usage.is_some_and(|usage| usage.value.digital_signature()),
            server: extended
                .as_ref()
                .is_some_and(|usage| usage.value.server_auth),
            client: extended.is_some_and(|usage| usage.value.client_auth),
            not_before: unix_time(validity.not_before),
            not_after: unix_time(validity.not_after),
            serial: certificate.raw_serial().to_vec(),
            spki_sha256: KeyHash::of_spki(spki.raw),
            public_key: spki.subject_public_key.data.to_vec(),
        })
    }

    /// The root's name and the identity that the one URI name says.
    pub(crate) fn identity(&self) -> Result<(Label, Identity), PeerFault> {
        match self.uris.as_slice() {
            [uri] => Identity::from_uri(uri).map_err(PeerFault::Uri),
            uris => Err(PeerFault::NameCount(uris.len())),
        }
    }
}

fn uris(certificate: &X509Certificate<'_>) -> Result<Vec<String>, PeerFault> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| PeerFault::Encoding)?;
    let mut uris = Vec::new();
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        if let GeneralName::URI(uri) = name {
            uris.push((*uri).to_owned());
        } else if let GeneralName::Invalid(..) = name {
            return Err(PeerFault::Encoding);
        }
    }
    Ok(uris)
}

fn unix_time(time: ASN1Time) -> UnixTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

/// Writes a time for people.
#[must_use]
pub fn day(time: UnixTime) -> String {
    i64::try_from(time.as_secs())
        .ok()
        .and_then(|seconds| ASN1Time::from_timestamp(seconds).ok())
        .map_or_else(|| format!("{} s", time.as_secs()), |time| time.to_string())
}
