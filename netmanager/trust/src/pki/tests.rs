//! Certificates for keys that somebody else holds.

use std::time::SystemTime;

use proptest::prelude::*;
use rcgen::{CertificateParams, IsCa, PKCS_ECDSA_P256_SHA256, SanType, SigningKey};
use weald_proto::id::{Identity, Label, NodeId};

use super::*;
use crate::tls::Facts;

#[test]
fn a_cluster_that_made_its_own_key_issues() {
    let now = SystemTime::now();
    let root = RootAuthority::create(&label("main"), now).unwrap();
    let key = new_key().unwrap();
    let csr = request(&key).unwrap();
    assert!(csr.len() < 200, "{}", csr.len());
    let certificate = root.cluster_for(&label("munich"), &csr, now).unwrap();
    let munich = ClusterAuthority::from_parts(root.trust().clone(), certificate, key).unwrap();

    let node = Identity::Node(NodeId::new(label("munich"), label("a1")));
    for identity in [node, Identity::Control(label("munich"))] {
        let key = new_key().unwrap();
        let chain = munich
            .issue_for_csr(&identity, &request(&key).unwrap(), now)
            .unwrap();
        let facts = Facts::parse(&chain.certificate().der).unwrap();
        let end = unix_time(now + NODE_LIFE);
        assert_eq!(facts.not_after.as_secs(), end.as_secs());
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let trust = root.trust().clone();
        let credentials =
            Credentials::new(trust, chain.ders(), key, None, Clock::system()).unwrap();
        assert_eq!(credentials.check().unwrap().identity, identity);
    }
}

#[test]
fn nothing_but_the_key_is_taken_from_a_request() {
    let (munich, now) = munich();
    let key = new_key().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let uri = "weald://main/cluster/munich/node/admin";
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    let csr = params.serialize_request(&key).unwrap();
    let node = Identity::Node(NodeId::new(label("munich"), label("a1")));
    let chain = munich.issue_for_csr(&node, csr.der(), now).unwrap();
    let facts = Facts::parse(&chain.certificate().der).unwrap();
    assert!(!facts.authority);
    assert_eq!(facts.identity().unwrap().1, node);
    assert_eq!(facts.public_key, key.public_key_raw());
}

#[test]
fn a_cluster_issues_for_its_own_only() {
    let (munich, now) = munich();
    let csr = request(&new_key().unwrap()).unwrap();
    for (identity, text) in [
        (Identity::Root, "cluster munich cannot issue for root"),
        (
            Identity::Control(label("paris")),
            "cluster munich cannot issue for control of cluster paris",
        ),
        (
            Identity::Node(NodeId::new(label("paris"), label("a1"))),
            "cluster munich cannot issue for node paris/a1",
        ),
        (
            Identity::Cluster(label("munich")),
            "a cluster's intermediate is issued by root, not by a cluster",
        ),
    ] {
        let fault = munich.issue_for_csr(&identity, &csr, now).unwrap_err();
        assert_eq!(fault.to_string(), text);
        assert_eq!(munich.issue(&identity, now).unwrap_err().to_string(), text);
    }
}

#[test]
fn faults_of_requests_are_told() {
    let ours = request(&new_key().unwrap()).unwrap();
    assert_eq!(
        fault(&vec![0x30; MAX_REQUEST_LEN + 1]),
        "the certificate request has 4097 bytes, at most 4096 are read"
    );
    let malformed = "the certificate request is not a readable PKCS#10 request";
    let longer = [&ours[..], &[0]].concat();
    for bytes in [&b""[..], b"x", &ours[..ours.len() - 1], &longer] {
        assert_eq!(fault(bytes), malformed);
    }
    let p256 = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    assert_eq!(
        fault(&request(&p256).unwrap()),
        "the certificate request is not for an Ed25519 key"
    );
    // Somebody asks for a certificate for a key that is not his.
    let theirs = CertificateParams::default();
    let thief = Thief {
        claimed: new_key().unwrap(),
        own: new_key().unwrap(),
    };
    let stolen = theirs.serialize_request(&thief).unwrap();
    assert_eq!(
        fault(stolen.der()),
        "the certificate request is not signed by the key that it is for"
    );
}

proptest! {
    /// What stands around the signed part is not signed, and some of it is not read.
    #[test]
    fn no_change_of_a_request_yields_a_certificate_for_another_key(
        at in any::<prop::sample::Index>(),
        change in 1_u8..,
    ) {
        let (munich, now) = munich();
        let key = new_key().unwrap();
        let mut csr = request(&key).unwrap();
        let at = at.index(csr.len());
        csr[at] ^= change;
        let node = Identity::Node(NodeId::new(label("munich"), label("a1")));
        if let Ok(chain) = munich.issue_for_csr(&node, &csr, now) {
            let facts = Facts::parse(&chain.certificate().der).unwrap();
            prop_assert_eq!(facts.public_key, key.public_key_raw());
        }
    }
}

/// Shows another's public key and signs with its own.
struct Thief {
    claimed: KeyPair,
    own: KeyPair,
}

impl rcgen::PublicKeyData for Thief {
    fn der_bytes(&self) -> &[u8] {
        self.claimed.der_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.claimed.algorithm()
    }
}

impl SigningKey for Thief {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.own.sign(message)
    }
}

fn fault(csr: &[u8]) -> String {
    let now = SystemTime::now();
    let root = RootAuthority::create(&label("main"), now).unwrap();
    let fault = root.cluster_for(&label("munich"), csr, now).unwrap_err();
    fault.to_string()
}

fn munich() -> (ClusterAuthority, SystemTime) {
    let now = SystemTime::now();
    let root = RootAuthority::create(&label("main"), now).unwrap();
    (root.cluster(&label("munich"), now).unwrap(), now)
}

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}
