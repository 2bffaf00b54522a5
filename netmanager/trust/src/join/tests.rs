//! Joining from end to end, and everybody who must not be joined or admitted.

use std::time::{Duration, SystemTime};

use rcgen::KeyPair;
use rustls::pki_types::PrivateKeyDer;
use weald_proto::id::{Label, NodeId, RelayId};
use weald_proto::statement::UnixSeconds;

use super::*;
use crate::pki::{ClusterAuthority, RootAuthority, new_key, request};
use crate::tls::handshake::{Handshake, shake_hands};
use crate::tls::{Clock, Credentials, Expected};

mod book;
mod token;

#[test]
fn a_worker_and_a_relay_join_their_cluster() {
    let world = World::new();
    for role in [JoinRole::Worker, JoinRole::Relay] {
        let token = world.token(role);
        let met = dial(&token, &world.control());
        assert_eq!((&met.client.lost, &met.server.lost), (&None, &None));
        assert!(met.client.connected && met.server.connected);

        let key = new_key().unwrap();
        let identity = match role {
            JoinRole::Worker => Identity::Node(NodeId::new(label("munich"), label("a1"))),
            JoinRole::Cluster | JoinRole::Relay => {
                Identity::Relay(RelayId::new(label("munich"), label("a1")))
            }
        };
        let (chain, ca) = world.admit(&identity, &key);
        let joined = member(&token, &label("a1"), &key, chain, ca, Clock::system()).unwrap();
        assert_eq!(*joined.credentials.identity(), identity);
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().join("pki");
        for _ in 0..2 {
            joined.save(&own).unwrap();
            let loaded = Credentials::load(&own).unwrap();
            assert_eq!(*loaded.identity(), identity);
            assert_eq!(loaded.spki_sha256(), joined.credentials.spki_sha256());
        }
        let shown = format!("{joined:?}");
        assert!(!shown.contains("PRIVATE"), "{shown}");
    }
}

#[test]
fn a_cluster_joins_root() {
    let world = World::new();
    let token = world.token(JoinRole::Cluster);
    let met = dial(&token, &world.endpoint());
    assert_eq!((&met.client.lost, &met.server.lost), (&None, &None));
    let key = new_key().unwrap();
    let (chain, ca) = world.admit_cluster("munich", &key);
    let clock = Clock::system();
    let authority = cluster(&token, copy(&key), chain, ca, &clock).unwrap();
    assert_eq!(*authority.name(), label("munich"));
    let control = authority
        .issue(&Identity::Control(label("munich")), SystemTime::now())
        .unwrap();
    control.credentials(None, clock).unwrap().check().unwrap();
}

#[test]
fn a_token_is_shown_to_nobody_but_its_issuer() {
    let world = World::new();
    let worker = world.token(JoinRole::Worker);
    for (other, text) in [
        (
            world.control_of("paris"),
            "certificate of control of cluster paris: control of cluster munich was dialled, this is somebody else",
        ),
        (
            world.endpoint(),
            "certificate of root: control of cluster munich was dialled, this is somebody else",
        ),
        (
            world.node(),
            "certificate of node munich/a1: control of cluster munich was dialled, this is somebody else",
        ),
        (
            World::new().control(),
            "its chain does not end in the root certificate that the join token names",
        ),
    ] {
        refused(&dial(&worker, &other), text);
    }
    refused(
        &dial(&world.token(JoinRole::Cluster), &world.control()),
        "certificate of control of cluster munich: root was dialled, this is somebody else",
    );
}

#[test]
fn the_right_root_certificate_lends_nothing_to_another_chain() {
    let world = World::new();
    let foreign = World::new();
    let issued = foreign
        .munich
        .issue(&Identity::Control(label("munich")), SystemTime::now())
        .unwrap();
    let key = KeyPair::from_pem(&issued.key_pem()).unwrap();
    let mut chain = issued.chain().ders();
    chain.push(world.root.certificate().der.clone());
    let liar = world.control().presenting(chain, &key.serialize_der());
    refused(
        &dial(&world.token(JoinRole::Worker), &liar),
        "a signature in its chain is not by the key of root main or of its intermediate",
    );
}

#[test]
fn who_joins_speaks_to_the_port_for_that_only() {
    let world = World::new();
    let token = world.token(JoinRole::Worker);
    let met = shake_hands(
        client_config(&token, Clock::system()).unwrap(),
        world
            .control()
            .server_config_for(
                Expected::MemberOf(label("munich")),
                &[weald_proto::control::CLUSTER_ALPN],
            )
            .unwrap(),
    );
    assert!(!met.client.connected && !met.server.connected);
}

#[test]
fn answers_are_checked() {
    let world = World::new();
    let token = world.token(JoinRole::Worker);
    let key = new_key().unwrap();
    let node = |name: &str| Identity::Node(NodeId::new(label("munich"), label(name)));
    let (chain, ca) = world.admit(&node("a1"), &key);
    let told = |name: &str, key: &KeyPair, chain: &[Vec<u8>], ca: &[u8]| {
        let clock = Clock::system();
        let joined = member(
            &token,
            &label(name),
            key,
            chain.to_vec(),
            ca.to_vec(),
            clock,
        );
        format!("{:#}", joined.unwrap_err())
    };
    assert_eq!(
        told("a2", &key, &chain, &ca),
        "a certificate was issued for node munich/a1, not for node munich/a2"
    );
    let other = World::new();
    assert_eq!(
        told("a1", &key, &chain, &other.root.certificate().der),
        "the root certificate in the answer is not the one that the join token names"
    );
    let text = told("a1", &new_key().unwrap(), &chain, &ca);
    assert!(
        text.contains("the private key does not belong to node munich/a1"),
        "{text}"
    );
    let (foreign, _) = other.admit(&node("a1"), &key);
    let text = told("a1", &key, &foreign, &ca);
    assert!(
        text.starts_with("peers would refuse the certificate that was issued: "),
        "{text}"
    );
    for (chain, text) in [
        (Vec::new(), "0 certificates instead of 1 or 2"),
        (
            vec![chain[0].clone(); 3],
            "3 certificates instead of 1 or 2",
        ),
        (vec![b"x".to_vec()], "cannot read the own certificate"),
    ] {
        let told = told("a1", &key, &chain, &ca);
        assert!(told.contains(text), "{told}");
    }
}

#[test]
fn answers_to_clusters_are_checked() {
    let world = World::new();
    let token = world.token(JoinRole::Cluster);
    let key = new_key().unwrap();
    let (chain, ca) = world.admit_cluster("munich", &key);
    let told = |key: &KeyPair, chain: &[Vec<u8>], ca: &[u8]| {
        let clock = Clock::system();
        let joined = cluster(&token, copy(key), chain.to_vec(), ca.to_vec(), &clock);
        format!("{:#}", joined.unwrap_err())
    };
    let other = World::new();
    assert_eq!(
        told(&key, &chain, &other.root.certificate().der),
        "the root certificate in the answer is not the one that the join token names"
    );
    assert_eq!(
        told(&key, &[], &ca),
        "0 certificates were issued instead of 1"
    );
    let (paris, _) = world.admit_cluster("paris", &key);
    assert_eq!(
        told(&key, &paris, &ca),
        "a certificate was issued for cluster paris, not for munich"
    );
    let text = told(&new_key().unwrap(), &chain, &ca);
    assert!(
        text.contains("the private key does not belong to the certificate"),
        "{text}"
    );
    let (foreign, _) = other.admit_cluster("munich", &key);
    let text = told(&key, &foreign, &ca);
    assert!(
        text.starts_with("peers would refuse the certificate that was issued: "),
        "{text}"
    );
    let worker = world.token(JoinRole::Worker);
    let clock = Clock::system();
    let fault = cluster(&worker, copy(&key), chain.clone(), ca.clone(), &clock).unwrap_err();
    assert_eq!(fault.to_string(), "the join token is a worker's");
    let fault = member(&token, &label("a1"), &key, chain, ca, clock).unwrap_err();
    assert_eq!(fault.to_string(), "the join token is a cluster's");
}

struct World {
    root: RootAuthority,
    munich: ClusterAuthority,
}

impl World {
    fn new() -> Self {
        let now = SystemTime::now();
        let root = RootAuthority::create(&label("main"), now).unwrap();
        let munich = root.cluster(&label("munich"), now).unwrap();
        Self { root, munich }
    }

    fn token(&self, role: JoinRole) -> JoinToken {
        JoinToken {
            role,
            cluster: label("munich"),
            secret: new_secret().unwrap(),
            root: fingerprint(&self.root.certificate().der),
            addresses: vec!["192.0.2.1:7000".parse().unwrap()],
        }
    }

    fn endpoint(&self) -> Credentials {
        let issued = self.root.issue_root(SystemTime::now()).unwrap();
        issued.credentials(None, Clock::system()).unwrap()
    }

    fn control(&self) -> Credentials {
        credentials(&self.munich, &Identity::Control(label("munich")))
    }

    fn control_of(&self, name: &str) -> Credentials {
        let cluster = self.root.cluster(&label(name), SystemTime::now()).unwrap();
        credentials(&cluster, &Identity::Control(label(name)))
    }

    fn node(&self) -> Credentials {
        let node = Identity::Node(NodeId::new(label("munich"), label("a1")));
        credentials(&self.munich, &node)
    }

    /// What an honest cluster answers.
    fn admit(&self, identity: &Identity, key: &KeyPair) -> (Vec<Vec<u8>>, Vec<u8>) {
        let csr = request(key).unwrap();
        let now = SystemTime::now();
        let chain = self.munich.issue_for_csr(identity, &csr, now).unwrap();
        let ders = chain.ders().iter().map(|der| der.to_vec()).collect();
        (ders, self.root.certificate().der.to_vec())
    }

    /// What an honest root answers.
    fn admit_cluster(&self, name: &str, key: &KeyPair) -> (Vec<Vec<u8>>, Vec<u8>) {
        let csr = request(key).unwrap();
        let now = SystemTime::now();
        let certificate = self.root.cluster_for(&label(name), &csr, now).unwrap();
        let ca = self.root.certificate().der.to_vec();
        (vec![certificate.der.to_vec()], ca)
    }
}

fn credentials(cluster: &ClusterAuthority, identity: &Identity) -> Credentials {
    let issued = cluster.issue(identity, SystemTime::now()).unwrap();
    issued.credentials(None, Clock::system()).unwrap()
}

fn dial(token: &JoinToken, server: &Credentials) -> Handshake {
    shake_hands(
        client_config(token, Clock::system()).unwrap(),
        server_config(server).unwrap(),
    )
}

fn refused(met: &Handshake, text: &str) {
    assert!(!met.client.connected, "{text}");
    let lost = met.client.lost.clone().unwrap_or_default();
    assert!(lost.contains(text), "{lost} instead of {text}");
}

fn copy(key: &KeyPair) -> KeyPair {
    KeyPair::try_from(&PrivateKeyDer::Pkcs8(key.serialize_der().into())).unwrap()
}

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}
