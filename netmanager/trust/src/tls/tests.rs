//! Peers that must be refused, and those that must not.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quinn_proto::crypto::rustls::QuicClientConfig;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};

use weald_proto::id::{Identity, Label, NodeId, RelayId};
use weald_proto::relay::ALPN as RELAY_ALPN;

use super::handshake::shake_hands;
use super::*;
use crate::pki::{Certificate, ClusterAuthority, RootAuthority, SignAnything, new_key, template};

mod renewal;
mod roles;

#[test]
fn nodes_of_two_clusters_meet_and_derive_the_same_keys() {
    let root = RootAuthority::create(&label("main"), SystemTime::now()).unwrap();
    let munich = credentials(&cluster(&root, "munich"), &node("munich", "a1"));
    let garching = credentials(&cluster(&root, "garching"), &node("garching", "b1"));
    munich.check().unwrap();

    let met = shake_hands(
        munich
            .client_config(&node("garching", "b1"), PEER_ALPN)
            .unwrap(),
        garching.server_config(&[RELAY_ALPN, PEER_ALPN]).unwrap(),
    );

    assert_eq!((met.client.lost, met.server.lost), (None, None));
    assert!(met.client.connected && met.server.connected);
    let (client, server) = (
        met.client.connection.unwrap(),
        met.server.connection.unwrap(),
    );
    let (client, server) = (client.crypto_session(), server.crypto_session());
    assert_eq!(
        peer_identity(client),
        Some(Peer {
            identity: node("garching", "b1"),
            spki_sha256: garching.spki_sha256(),
        })
    );
    assert_eq!(
        peer_identity(server),
        Some(Peer {
            identity: node("munich", "a1"),
            spki_sha256: munich.spki_sha256(),
        })
    );
    let mut keys = [[0; 16]; 3];
    export(client, "weald probe", b"up", &mut keys[0]).unwrap();
    export(server, "weald probe", b"up", &mut keys[1]).unwrap();
    export(server, "weald probe", b"down", &mut keys[2]).unwrap();
    assert_eq!(keys[0], keys[1]);
    assert_ne!(keys[1], keys[2]);
    assert_ne!(keys[0], [0; 16]);
}

#[test]
fn a_node_dials_a_relay() {
    let root = RootAuthority::create(&label("main"), SystemTime::now()).unwrap();
    let munich = cluster(&root, "munich");
    let met = shake_hands(
        credentials(&munich, &node("munich", "a1"))
            .client_config(&relay("munich", "r1"), RELAY_ALPN)
            .unwrap(),
        credentials(&munich, &relay("munich", "r1"))
            .server_config(&[RELAY_ALPN])
            .unwrap(),
    );
    assert_eq!((met.client.lost, met.server.lost), (None, None));
}

#[test]
fn order_and_decoys_do_not_matter() {
    let world = World::new();
    let leaf = world.leaf(|_| {});
    let foreign = World::new();
    let decoys = [
        &leaf.certificate,
        world.garching.certificate(),
        foreign.munich.certificate(),
        world.root.certificate(),
        world.munich.certificate(),
        foreign.root.certificate(),
    ];
    let met = world.dial(&leaf.showing(&decoys));
    assert_eq!(met.client.lost, None);
    let met = world.be_dialled(&leaf.showing(&decoys));
    assert_eq!(met.server.lost, None);
    let session = met.server.connection.unwrap();
    assert_eq!(
        peer_identity(session.crypto_session()).unwrap().identity,
        node("munich", "b1")
    );
}

#[test]
fn decoys_do_not_lend_their_cluster() {
    let world = World::new();
    let key = new_key().unwrap();
    let params = params(&node("garching", "b1"));
    let liar = Party {
        certificate: world.munich.sign_anything(&params, &key),
        key,
    };
    let chain = [
        &liar.certificate,
        world.garching.certificate(),
        world.munich.certificate(),
    ];
    world.refuse(
        &liar.showing(&chain),
        "certificate of node garching/b1: it names cluster garching, but cluster munich signed it",
    );
}

#[test]
fn a_peer_without_certificate_is_refused() {
    let world = World::new();
    let verifier = Verifier::new(
        Arc::new(world.root.trust().clone()),
        Expected::Exactly(node("munich", "a1")),
        Clock::system(),
        Arc::default(),
    );
    let mut config = rustls::ClientConfig::builder_with_provider(provider::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![PEER_ALPN.to_vec()];
    let met = shake_hands(
        QuicClientConfig::try_from(config).unwrap(),
        world.honest.server_config(&[PEER_ALPN]).unwrap(),
    );
    assert!(!met.server.connected);
    let lost = met.server.lost.unwrap();
    assert!(lost.ends_with("peer sent no certificates"), "{lost}");
}

#[test]
fn chains_that_do_not_lead_to_the_root_are_refused() {
    let world = World::new();
    let unanchored = "certificate of node munich/b1: no chain leads to root main (it is self-signed, of another root, or its intermediate was not presented)";

    let key = new_key().unwrap();
    let certificate = params(&node("munich", "b1")).self_signed(&key).unwrap();
    let own = Party {
        certificate: certificate.into(),
        key,
    };
    world.refuse(&own.showing(&[&own.certificate]), unanchored);

    let leaf = world.leaf(|_| {});
    world.refuse(&leaf.showing(&[&leaf.certificate]), unanchored);

    let other = World::of("other");
    let leaf = other.leaf(|_| {});
    let chain = [&leaf.certificate, other.munich.certificate()];
    world.refuse(&leaf.showing(&chain), unanchored);

    let namesake = World::new();
    let leaf = namesake.leaf(|_| {});
    let signature = "certificate of node munich/b1: a signature in its chain is not by the key of root main or of its intermediate";
    let chain = [&leaf.certificate, namesake.munich.certificate()];
    world.refuse(&leaf.showing(&chain), signature);
    let chain = [&leaf.certificate, world.munich.certificate()];
    world.refuse(&leaf.showing(&chain), signature);
}

#[test]
fn times_are_kept() {
    let world = World::new();
    let now = SystemTime::now();
    let hour = Duration::from_hours(1);
    let expired = world.leaf(|params| {
        params.not_before = (now - 2 * hour).into();
        params.not_after = (now - hour).into();
    });
    world.refuse_leaf(&expired, "certificate of node munich/b1: it expired on ");
    let early = world.leaf(|params| params.not_before = (now + hour).into());
    world.refuse_leaf(
        &early,
        "certificate of node munich/b1: it is not valid before ",
    );

    let cluster = world.cluster(|params| {
        params.not_before = (now - 2 * hour).into();
        params.not_after = (now - hour).into();
    });
    world.refuse_below(
        &cluster,
        "certificate of node munich/b1: its issuer's certificate expired on ",
    );
}

#[test]
fn only_the_dialled_one_may_answer() {
    let world = World::new();
    for (answering, claim) in [
        (node("munich", "b2"), "node munich/b2"),
        (relay("munich", "b1"), "relay munich/b1"),
    ] {
        let other = credentials(&world.munich, &answering);
        let met = world.dial(&Shown(other));
        assert!(!met.client.connected);
        let text =
            format!("certificate of {claim}: node munich/b1 was dialled, this is somebody else");
        let lost = met.client.lost.unwrap();
        assert!(lost.ends_with(&text), "{lost}");
    }
}

#[test]
fn only_nodes_dial() {
    let world = World::new();
    let met = world.be_dialled(&Shown(credentials(&world.munich, &relay("munich", "r1"))));
    assert!(!met.server.connected);
    let lost = met.server.lost.unwrap();
    assert!(
        lost.ends_with("certificate of relay munich/r1: only nodes may dial here"),
        "{lost}"
    );
}

#[test]
fn nodes_are_no_authorities() {
    let world = World::new();
    let a1 = world.leaf(|_| {});
    let key = new_key().unwrap();
    let certificate =
        (a1.key, a1.certificate.clone()).sign_anything(&params(&node("munich", "b1")), &key);
    let child = Party { certificate, key };
    let chain = [
        &child.certificate,
        &a1.certificate,
        world.munich.certificate(),
    ];
    world.refuse(
        &child.showing(&chain),
        "certificate of node munich/b1: its issuer is not a CA",
    );
}

#[test]
fn exactly_one_intermediate_is_allowed() {
    let world = World::new();
    let key = new_key().unwrap();
    let params = params(&node("munich", "b1"));
    let certificate = world.root.sign_anything(&params, &key);
    let none = Party { certificate, key };
    world.refuse_leaf(
        &none,
        "certificate of node munich/b1: 0 intermediates stand between it and the root, exactly one must",
    );

    // A cluster that may have others below it, and one that may not but has.
    let wide = world.cluster(|params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    world.refuse_below(
        &wide,
        "certificate of node munich/b1: its issuer's certificate has not path length 0",
    );
    for top in [wide, world.cluster(|_| {})] {
        let sub_key = new_key().unwrap();
        let name = label("sub");
        let sub = template::cluster(&label("main"), &name, now(), end()).unwrap();
        let sub = top.sign_anything(&sub, &sub_key);
        let below = (sub_key, sub);
        let key = new_key().unwrap();
        let certificate = below.sign_anything(&params, &key);
        let leaf = Party { certificate, key };
        let chain = [&leaf.certificate, &below.1, &top.1];
        world.refuse(
            &leaf.showing(&chain),
            "certificate of node munich/b1: 2 intermediates stand between it and the root, exactly one must",
        );
    }
}

#[test]
fn an_authority_is_no_peer() {
    let world = World::new();
    let (key, certificate) = world.cluster(|_| {});
    let party = Party { certificate, key };
    world.refuse(
        &party.showing(&[&party.certificate]),
        "certificate of cluster munich: it is a CA's, which is not a peer's",
    );
    // The same without being a CA.
    let leaf = world.leaf(|params| {
        *params = self::params(&Identity::Cluster(label("munich")));
    });
    let met = world.dial(&leaf.showing(&[&leaf.certificate, world.munich.certificate()]));
    assert!(!met.client.connected);
}

#[test]
fn usages_are_required() {
    let world = World::new();
    let only = |usage: Option<ExtendedKeyUsagePurpose>| {
        world.leaf(|params| params.extended_key_usages = usage.into_iter().collect())
    };
    let text = |usage: &str| {
        format!("certificate of node munich/b1: its extended key usage does not allow {usage}")
    };
    let client = world.showing(&only(Some(ExtendedKeyUsagePurpose::ClientAuth)));
    world.refuse_server(&client, &text("serverAuth"));
    assert_eq!(world.be_dialled(&client).server.lost, None);
    let server = world.showing(&only(Some(ExtendedKeyUsagePurpose::ServerAuth)));
    world.refuse_client(&server, &text("clientAuth"));
    assert_eq!(world.dial(&server).client.lost, None);
    let neither = world.showing(&only(None));
    world.refuse_server(&neither, &text("serverAuth"));
    world.refuse_client(&neither, &text("clientAuth"));

    let leaf = world.leaf(|params| params.key_usages = vec![KeyUsagePurpose::KeyAgreement]);
    world.refuse_leaf(
        &leaf,
        "certificate of node munich/b1: it lacks key usage digitalSignature",
    );
    let cluster = world.cluster(|params| {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    });
    world.refuse_below(
        &cluster,
        "certificate of node munich/b1: its issuer's certificate lacks key usage keyCertSign",
    );
}

#[test]
fn exactly_one_uri_name_is_allowed() {
    let world = World::new();
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let two = world.leaf(|params| {
        params
            .subject_alt_names
            .push(uri("weald://main/cluster/munich/node/a1"));
    });
    world.refuse_leaf(
        &two,
        "certificate of an unnamed peer: it has 2 URI names, exactly one must be there",
    );
    let none = world.leaf(|params| {
        params.subject_alt_names = vec![SanType::DnsName("b1.munich".try_into().unwrap())];
    });
    world.refuse_leaf(
        &none,
        "certificate of an unnamed peer: it has 0 URI names, exactly one must be there",
    );
    let web = world.leaf(|params| params.subject_alt_names = vec![uri("https://b1.munich/")]);
    world.refuse_leaf(
        &web,
        "certificate of an unnamed peer: its URI name is wrong: \"https://b1.munich/\" is not of the form weald://<root>/root or weald://<root>/cluster/<cluster>[/control, /node/<node> or /relay/<relay>]",
    );
    let root = world.leaf(|params| {
        params.subject_alt_names = vec![uri("weald://other/cluster/munich/node/b1")];
    });
    world.refuse_leaf(
        &root,
        "certificate of node munich/b1: it names root other, not main",
    );
    let cluster = world.cluster(|params| {
        params.subject_alt_names = vec![uri("weald://main/cluster/munich/node/b1")];
    });
    world.refuse_below(
        &cluster,
        "certificate of node munich/b1: its issuer is node munich/b1, not a cluster",
    );
}

#[test]
fn certificates_are_nothing_without_their_key() {
    let world = World::new();
    let leaf = world.leaf(|_| {});
    let thief = Party {
        certificate: leaf.certificate,
        key: new_key().unwrap(),
    };
    world.refuse_leaf(&thief, "invalid peer certificate: BadSignature");
}

#[test]
fn what_is_no_certificate_is_refused() {
    let world = World::new();
    let leaf = world.leaf(|_| {});
    let key = leaf.key.serialize_der();
    for bytes in [&b""[..], &b"x"[..], &leaf.certificate.der[..100]] {
        let chain = vec![
            bytes.to_vec().into(),
            world.munich.certificate().der.clone(),
        ];
        world.refuse(
            &Shown(world.honest.presenting(chain, &key)),
            "certificate of an unnamed peer: it is not a readable X.509 certificate",
        );
    }
    let many = [world.munich.certificate(); 9];
    let chain: Vec<_> = [&leaf.certificate].into_iter().chain(many).collect();
    world.refuse(
        &leaf.showing(&chain),
        "certificate of node munich/b1: 10 certificates presented, at most 9 are read",
    );
}

#[test]
fn revoked_keys_are_refused() {
    let world = World::new();
    let leaf = world.leaf(|_| {});
    let shown = world.showing(&leaf);
    let own = Facts::parse(&leaf.certificate.der).unwrap();
    let issuer = Facts::parse(&world.munich.certificate().der).unwrap();
    assert_eq!(world.dial(&shown).client.lost, None);
    let by_serial = (issuer.spki_sha256, own.serial);
    for (revoked, text) in [
        (
            RevocationSet {
                keys: [own.spki_sha256].into(),
                ..RevocationSet::default()
            },
            "it is revoked",
        ),
        (
            RevocationSet {
                serials: [by_serial].into(),
                ..RevocationSet::default()
            },
            "it is revoked",
        ),
        (
            RevocationSet {
                keys: [issuer.spki_sha256].into(),
                ..RevocationSet::default()
            },
            "its issuer's certificate is revoked",
        ),
    ] {
        world.honest.set_revoked(revoked);
        world.refuse_server(&shown, &format!("certificate of node munich/b1: {text}"));
    }
    world.honest.set_revoked(RevocationSet::default());
    assert_eq!(world.dial(&shown).client.lost, None);
}

#[test]
fn protocols_must_match() {
    let world = World::new();
    let b1 = credentials(&world.munich, &node("munich", "b1"));
    let met = shake_hands(
        world
            .honest
            .client_config(&node("munich", "b1"), PEER_ALPN)
            .unwrap(),
        b1.server_config(&[RELAY_ALPN]).unwrap(),
    );
    assert!(!met.client.connected && !met.server.connected);
}

/// Two clusters and an honest node, who meets all the others.
struct World {
    root: RootAuthority,
    munich: ClusterAuthority,
    garching: ClusterAuthority,
    honest: Credentials,
}

/// A key with a certificate that may be wrong.
struct Party {
    certificate: Certificate,
    key: KeyPair,
}

/// Credentials that show whatever they were told to.
struct Shown(Credentials);

impl Party {
    fn showing(&self, chain: &[&Certificate]) -> Shown {
        let chain = chain.iter().map(|one| one.der.clone()).collect();
        Shown(WORLD.with(|world| world.honest.presenting(chain, &self.key.serialize_der())))
    }
}

thread_local! {
    static WORLD: World = World::new();
}

impl World {
    fn new() -> Self {
        Self::of("main")
    }

    fn of(root: &str) -> Self {
        let root = RootAuthority::create(&label(root), SystemTime::now()).unwrap();
        let munich = cluster(&root, "munich");
        let garching = cluster(&root, "garching");
        let honest = credentials(&munich, &node("munich", "a1"));
        Self {
            root,
            munich,
            garching,
            honest,
        }
    }

    /// A node certificate for munich/b1, signed by munich, with something changed.
    fn leaf(&self, change: impl FnOnce(&mut CertificateParams)) -> Party {
        let key = new_key().unwrap();
        let mut params =
            template::leaf(self.root.name(), &node("munich", "b1"), now(), end()).unwrap();
        change(&mut params);
        Party {
            certificate: self.munich.sign_anything(&params, &key),
            key,
        }
    }

    /// An intermediate for munich, signed by the root, with something changed.
    fn cluster(&self, change: impl FnOnce(&mut CertificateParams)) -> (KeyPair, Certificate) {
        let key = new_key().unwrap();
        let certificate = self.root.sign_anything(&cluster_params(self, change), &key);
        (key, certificate)
    }

    fn showing(&self, leaf: &Party) -> Shown {
        let chain = [&leaf.certificate, self.munich.certificate()];
        let chain = chain.iter().map(|one| one.der.clone()).collect();
        Shown(self.honest.presenting(chain, &leaf.key.serialize_der()))
    }

    fn dial(&self, shown: &Shown) -> handshake::Handshake {
        shake_hands(
            self.honest
                .client_config(&node("munich", "b1"), PEER_ALPN)
                .unwrap(),
            self.trusting(shown).server_config(&[PEER_ALPN]).unwrap(),
        )
    }

    fn be_dialled(&self, shown: &Shown) -> handshake::Handshake {
        shake_hands(
            self.trusting(shown)
                .client_config(&node("munich", "a1"), PEER_ALPN)
                .unwrap(),
            self.honest.server_config(&[PEER_ALPN]).unwrap(),
        )
    }

    /// The other end accepts the honest one, so that only the honest one's verdict shows.
    fn trusting(&self, shown: &Shown) -> Credentials {
        shown.0.trusting(self.root.trust().clone())
    }

    fn refuse(&self, shown: &Shown, text: &str) {
        self.refuse_server(shown, text);
        self.refuse_client(shown, text);
    }

    fn refuse_server(&self, shown: &Shown, text: &str) {
        let met = self.dial(shown);
        assert!(!met.client.connected, "dialled {text}");
        let lost = met.client.lost.unwrap_or_default();
        assert!(lost.contains(text), "dialled: {lost}");
    }

    fn refuse_client(&self, shown: &Shown, text: &str) {
        let met = self.be_dialled(shown);
        assert!(!met.server.connected, "was dialled by {text}");
        let lost = met.server.lost.unwrap_or_default();
        assert!(lost.contains(text), "was dialled: {lost}");
    }

    fn refuse_leaf(&self, leaf: &Party, text: &str) {
        self.refuse(&self.showing(leaf), text);
    }

    fn refuse_below(&self, cluster: &(KeyPair, Certificate), text: &str) {
        let key = new_key().unwrap();
        let certificate = cluster.sign_anything(&params(&node("munich", "b1")), &key);
        let leaf = Party { certificate, key };
        self.refuse(&leaf.showing(&[&leaf.certificate, &cluster.1]), text);
    }
}

fn params(identity: &Identity) -> CertificateParams {
    template::leaf(&label("main"), identity, now(), end()).unwrap()
}

fn cluster_params(world: &World, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = template::cluster(world.root.name(), &label("munich"), now(), end()).unwrap();
    change(&mut params);
    params
}

fn now() -> SystemTime {
    SystemTime::now()
}

fn end() -> SystemTime {
    now() + Duration::from_hours(24)
}

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

fn node(cluster: &str, name: &str) -> Identity {
    Identity::Node(NodeId::new(label(cluster), label(name)))
}

fn relay(cluster: &str, name: &str) -> Identity {
    Identity::Relay(RelayId::new(label(cluster), label(name)))
}

fn cluster(root: &RootAuthority, name: &str) -> ClusterAuthority {
    root.cluster(&label(name), SystemTime::now()).unwrap()
}

fn credentials(cluster: &ClusterAuthority, identity: &Identity) -> Credentials {
    cluster
        .issue(identity, SystemTime::now())
        .unwrap()
        .credentials(None, Clock::system())
        .unwrap()
}
