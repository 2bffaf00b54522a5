//! Root, the orchestrators of clusters and their members: who may dial whom, and who may be whom.

use weald_proto::control::{CLUSTER_ALPN, ROOT_ALPN};

use super::*;

#[test]
fn clusters_meet_root() {
    let world = World::new();
    let (root, munich) = (world.endpoint(), world.control("munich"));
    root.check().unwrap();
    munich.check().unwrap();
    let met = dial_root(&munich, &root);
    assert_eq!((&met.client.lost, &met.server.lost), (&None, &None));
    let seen = |end: handshake::End| {
        let connection = end.connection.unwrap();
        peer_identity(connection.crypto_session()).unwrap()
    };
    assert_eq!(
        (seen(met.client), seen(met.server)),
        (
            Peer {
                identity: Identity::Root,
                spki_sha256: root.spki_sha256(),
            },
            Peer {
                identity: Identity::Control(label("munich")),
                spki_sha256: munich.spki_sha256(),
            }
        )
    );
}

#[test]
fn only_clusters_dial_root() {
    let world = World::new();
    for other in [
        credentials(&world.munich, &node("munich", "a1")),
        credentials(&world.munich, &relay("munich", "r1")),
        world.endpoint(),
    ] {
        let text = format!(
            "certificate of {}: only orchestrators of clusters may dial here",
            other.identity()
        );
        refused_dial(&dial_root(&other, &world.endpoint()), &text);
    }
}

#[test]
fn members_meet_their_cluster_and_others_do_not() {
    let world = World::new();
    let munich = world.control("munich");
    for member in [node("munich", "a1"), relay("munich", "r1")] {
        let met = dial_munich(&credentials(&world.munich, &member), &munich);
        assert_eq!((met.client.lost, met.server.lost), (None, None));
    }
    for other in [
        credentials(&world.garching, &node("garching", "a1")),
        credentials(&world.garching, &relay("garching", "r1")),
        world.control("garching"),
        world.control("munich"),
        world.endpoint(),
    ] {
        let text = format!(
            "certificate of {}: only nodes and relays of cluster munich may dial here",
            other.identity()
        );
        refused_dial(&dial_munich(&other, &munich), &text);
    }
}

#[test]
fn peers_let_nodes_in_and_no_orchestrators() {
    let world = World::new();
    for other in [world.control("munich"), world.endpoint()] {
        let met = shake_hands(
            other
                .client_config(&node("munich", "a1"), PEER_ALPN)
                .unwrap(),
            world.honest.server_config(&[PEER_ALPN]).unwrap(),
        );
        refused_dial(&met, "only nodes may dial here");
    }
}

#[test]
fn a_node_cannot_pose_as_control_or_root() {
    let world = World::new();
    let a1 = credentials(&world.munich, &node("munich", "a1"));
    refused_answer(
        &dial_munich(&world.honest, &a1),
        "certificate of node munich/a1: control of cluster munich was dialled, this is somebody else",
    );
    refused_answer(
        &dial_root(&world.control("munich"), &a1),
        "certificate of node munich/a1: root was dialled, this is somebody else",
    );
    // It signs itself what it would like to be.
    let a1 = world.leaf(|_| {});
    let a1 = (a1.key, a1.certificate);
    for wish in [Identity::Control(label("munich")), Identity::Root] {
        let key = new_key().unwrap();
        let certificate = a1.sign_anything(&params(&wish), &key);
        let chain = [&certificate, &a1.1, world.munich.certificate()];
        let shown = showing(&world, &chain, &key);
        let text = format!("certificate of {wish}: its issuer is not a CA");
        refused_answer(&dial(&world.honest, &wish, &shown), &text);
    }
}

#[test]
fn a_cluster_cannot_issue_root_or_another_clusters_control() {
    let world = World::new();
    for (wish, text) in [
        (
            Identity::Root,
            "certificate of root: it names root, but cluster munich signed it",
        ),
        (
            Identity::Control(label("garching")),
            "certificate of control of cluster garching: it names cluster garching, but cluster munich signed it",
        ),
    ] {
        let key = new_key().unwrap();
        let certificate = world.munich.sign_anything(&params(&wish), &key);
        for with in [&world.munich, &world.garching] {
            let chain = [
                &certificate,
                with.certificate(),
                world.munich.certificate(),
                world.root.certificate(),
            ];
            let shown = showing(&world, &chain, &key);
            refused_answer(&dial(&world.honest, &wish, &shown), text);
        }
    }
}

#[test]
fn who_is_signed_by_another_cluster_is_let_in_at_no_control_port() {
    let world = World::new();
    for wish in [
        Identity::Control(label("munich")),
        node("munich", "a1"),
        relay("munich", "r1"),
    ] {
        let key = new_key().unwrap();
        let certificate = world.garching.sign_anything(&params(&wish), &key);
        let text = format!(
            "certificate of {wish}: it names cluster munich, but cluster garching signed it"
        );
        for with in [&world.munich, &world.garching] {
            let chain = [
                &certificate,
                with.certificate(),
                world.garching.certificate(),
                world.root.certificate(),
            ];
            let shown = showing(&world, &chain, &key);
            let met = if matches!(wish, Identity::Control(_)) {
                dial_root(&shown, &world.endpoint())
            } else {
                dial_munich(&shown, &world.control("munich"))
            };
            refused_dial(&met, &text);
        }
    }
}

#[test]
fn root_signs_its_own_endpoint_and_no_members() {
    let world = World::new();
    let issued = world.root.issue_root(now()).unwrap();
    assert_eq!(issued.chain().iter().count(), 1);
    for wish in [Identity::Control(label("munich")), node("munich", "b1")] {
        let key = new_key().unwrap();
        let certificate = world.root.sign_anything(&params(&wish), &key);
        let shown = showing(&world, &[&certificate], &key);
        let text = format!(
            "certificate of {wish}: 0 intermediates stand between it and the root, exactly one must"
        );
        refused_answer(&dial(&world.honest, &wish, &shown), &text);
    }
    // An endpoint of a root of the same name.
    let foreign = World::new().endpoint().trusting(world.root.trust().clone());
    refused_answer(
        &dial(&world.honest, &Identity::Root, &foreign),
        "certificate of root: a signature in its chain is not by the key of root main or of its intermediate",
    );
}

#[test]
fn the_root_itself_is_no_peer() {
    let world = World::new();
    let key = KeyPair::from_pem(&world.root.key_pem()).unwrap();
    let chain = vec![world.root.certificate().der.clone()];
    let shown = world.honest.presenting(chain, &key.serialize_der());
    let met = dial(&world.honest, &Identity::Root, &shown);
    assert!(!met.client.connected);
    assert!(met.client.lost.is_some());
}

#[test]
fn a_revoked_endpoint_is_refused() {
    let world = World::new();
    let endpoint = world.endpoint();
    let munich = world.control("munich");
    munich.set_revoked(RevocationSet {
        keys: [endpoint.spki_sha256()].into(),
        ..RevocationSet::default()
    });
    refused_answer(
        &dial_root(&munich, &endpoint),
        "certificate of root: it is revoked",
    );
}

impl World {
    fn endpoint(&self) -> Credentials {
        let issued = self.root.issue_root(now()).unwrap();
        issued.credentials(None, Clock::system()).unwrap()
    }

    fn control(&self, name: &str) -> Credentials {
        let cluster = match name {
            "munich" => &self.munich,
            _ => &self.garching,
        };
        credentials(cluster, &Identity::Control(label(name)))
    }
}

/// Credentials that show this chain, however wrong.
fn showing(world: &World, chain: &[&Certificate], key: &KeyPair) -> Credentials {
    let chain = chain.iter().map(|one| one.der.clone()).collect();
    world.honest.presenting(chain, &key.serialize_der())
}

fn dial_root(client: &Credentials, server: &Credentials) -> handshake::Handshake {
    shake_hands(
        client.client_config(&Identity::Root, ROOT_ALPN).unwrap(),
        server
            .server_config_for(Expected::AnyControl, &[ROOT_ALPN])
            .unwrap(),
    )
}

fn dial_munich(client: &Credentials, server: &Credentials) -> handshake::Handshake {
    shake_hands(
        client
            .client_config(&Identity::Control(label("munich")), CLUSTER_ALPN)
            .unwrap(),
        server
            .server_config_for(Expected::MemberOf(label("munich")), &[CLUSTER_ALPN])
            .unwrap(),
    )
}

/// A node dials whoever is there.
fn dial(client: &Credentials, wanted: &Identity, server: &Credentials) -> handshake::Handshake {
    shake_hands(
        client.client_config(wanted, PEER_ALPN).unwrap(),
        server.server_config(&[PEER_ALPN]).unwrap(),
    )
}

fn refused_dial(met: &handshake::Handshake, text: &str) {
    refused_by(&met.server, text);
}

fn refused_answer(met: &handshake::Handshake, text: &str) {
    refused_by(&met.client, text);
}

fn refused_by(end: &handshake::End, text: &str) {
    assert!(!end.connected, "{text}");
    let lost = end.lost.clone().unwrap_or_default();
    assert!(lost.contains(text), "{lost} instead of {text}");
}
