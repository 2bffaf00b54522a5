//! A node whose cluster root has revoked, and which dials a node of another cluster all the same: it
//! shows the certificate and the key that it has joined with, beside the daemon that would not.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::fleet::{DATA_PORT, elements};
use netns_tests::tiers::Role;
use netns_tests::{Lab, Tiers, two_sites, wait};
use weald_proto::id::{Identity, Label, NodeId};
use weald_trust::tls::{Credentials, PEER_ALPN};

use super::quic::{self, Met};

const SOON: Duration = Duration::from_secs(20);
/// How soon the revoked must be refused.
const CUT_TIME: Duration = Duration::from_secs(5);
/// How long a stranger that is let in stays.
const STAY: Duration = Duration::from_secs(1);
const REFUSED: &str = "certificate of node munich/a2: its issuer's certificate is revoked";

/// Dials the node of paris from its own LAN, with what the node of munich has on disk.
fn dial(lab: &Lab, tiers: &Tiers<'_>) -> Result<Met> {
    let own = Credentials::load(&tiers.folder("a2", Role::Worker)?)?;
    let paris = NodeId::new(Label::new("paris")?, Label::new("b2")?);
    let crypto = own.client_config(&Identity::Node(paris), PEER_ALPN)?;
    let socket = lab.node("b1").udp_bind(SocketAddr::from(([0; 4], 0)))?;
    let to = SocketAddr::new(lab.node("b2").v4().into(), DATA_PORT);
    quic::stay(&socket, to, crypto, Vec::new(), STAY)
}

#[test]
fn a_node_of_a_revoked_cluster_is_refused_by_another_clusters() -> Result<()> {
    let lab = Lab::new(&two_sites::description())?;
    let mut tiers = Tiers::new(&lab, "relay")?;
    tiers.add_cluster("a1", "munich")?;
    tiers.add_cluster("b1", "paris")?;
    tiers.add_relay("b1", "paris/r1")?;
    tiers.add_node("a1", "a2")?;
    tiers.add_node("b1", "b2")?;
    tiers.login("Admin", "Admin")?;
    wait::until("both nodes are alive", SOON, || {
        for node in ["munich/a2", "paris/b2"] {
            let standing = tiers.standing_of(node)?;
            ensure!(standing == "alive", "{node}: {standing}");
        }
        Ok(())
    })?;
    // It is let in, answers no probes, and may be sent away for that.
    let lost = dial(&lab, &tiers)?.lost;
    let is_let_in = lost
        .as_ref()
        .is_none_or(|why| why.contains("no path answers"));
    ensure!(is_let_in, "before it is revoked: {lost:?}");

    tiers.weald_json(&["revoke", "cluster", "munich"])?;
    wait::until("the node of paris refuses it", CUT_TIME, || {
        let lost = dial(&lab, &tiers)?.lost.context("it was let in")?;
        ensure!(lost.contains(REFUSED), "{lost}");
        Ok(())
    })?;
    let line = tiers.fleet.daemon("b2").wait_for_line(REFUSED, SOON)?;
    ensure!(line.contains("handshake failed"), "{line}");
    // It refuses it again, and is none the worse for it.
    let lost = dial(&lab, &tiers)?.lost.context("it was let in")?;
    ensure!(lost.contains(REFUSED), "{lost}");
    let peers = tiers.fleet.tool_json("b2", &["peers"])?;
    let mut peers = peers.iter().flat_map(elements);
    let is_up = peers.any(|it| it["node"] == "munich/a2" && it["state"] == "up");
    ensure!(!is_up, "it has a session with munich/a2");
    let left = tiers.standing_of("paris/b2")?;
    ensure!(left == "alive", "{left}");
    Ok(())
}
