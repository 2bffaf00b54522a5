//! Peers that must be refused, and those that must not.

use std::time::SystemTime;

use weald_proto::id::{Identity, Label, NodeId, RelayId};

use super::handshake::shake_hands;
use super::*;
use crate::pki::{ClusterAuthority, RootAuthority};

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
