//! What stands in each kind of certificate.

use std::time::SystemTime;

use anyhow::Context;
use aws_lc_rs::rand;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType, SerialNumber,
};
use weald_proto::id::{Identity, Label};

use super::{BACKDATE, ROOT_LIFE};

/// Random bytes in a serial number: RFC 5280 wants at most 20, CAs at least 8.
const SERIAL_LEN: usize = 16;

pub(crate) fn root(name: &Label, now: SystemTime) -> anyhow::Result<CertificateParams> {
    let uri = format!("weald://{name}");
    let mut params = common(&uri, name, "root", name, now, now + ROOT_LIFE)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    // DigitalSignature is for statements, which root signs as well.
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    Ok(params)
}

pub(crate) fn cluster(
    root: &Label,
    name: &Label,
    now: SystemTime,
    end: SystemTime,
) -> anyhow::Result<CertificateParams> {
    let uri = Identity::Cluster(name.clone()).uri(root);
    let mut params = common(&uri, root, "cluster", name, now, end)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    // DigitalSignature is for relay tokens and statements, which the cluster signs as well.
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    Ok(params)
}

pub(crate) fn leaf(
    root: &Label,
    identity: &Identity,
    now: SystemTime,
    end: SystemTime,
) -> anyhow::Result<CertificateParams> {
    let (kind, name) = match identity {
        Identity::Root => ("endpoint", root),
        Identity::Cluster(cluster) => ("cluster", cluster),
        Identity::Control(cluster) => ("control", cluster),
        Identity::Node(id) => ("node", &id.name),
        Identity::Relay(id) => ("relay", &id.name),
    };
    let mut params = common(&identity.uri(root), root, kind, name, now, end)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    Ok(params)
}

fn common(
    uri: &str,
    root: &Label,
    kind: &str,
    name: &Label,
    now: SystemTime,
    end: SystemTime,
) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.not_before = now.checked_sub(BACKDATE).unwrap_or(now).into();
    params.not_after = end.into();
    params.serial_number = Some(serial()?);
    let uri = uri.try_into().context("a URI name must be ASCII")?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, root.as_str());
    subject.push(DnType::OrganizationalUnitName, kind);
    subject.push(DnType::CommonName, name.as_str());
    params.distinguished_name = subject;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn serial() -> anyhow::Result<SerialNumber> {
    let mut bytes = [0; SERIAL_LEN];
    rand::fill(&mut bytes).ok().context("no randomness")?;
    // Positive, and never with a leading zero byte.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}
