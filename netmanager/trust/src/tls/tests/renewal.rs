//! New certificates for keys that stay, under configurations that exist.

use super::*;
use crate::pki::{NODE_LIFE, unix_time};

const DAY: Duration = Duration::from_hours(24);

#[test]
fn a_renewed_certificate_is_shown_by_configurations_that_exist() {
    let old_time = now() - 29 * DAY;
    let root = RootAuthority::create(&label("main"), old_time).unwrap();
    let munich = root.cluster(&label("munich"), old_time).unwrap();
    let issued = munich.issue(&node("munich", "b1"), old_time).unwrap();
    let b1 = issued.credentials(None, Clock::system()).unwrap();
    let before = b1.not_after().unwrap();
    assert!(b1.renewal_due().unwrap() < unix_time(now()));

    let server = b1.server_config(&[PEER_ALPN]).unwrap();
    let client = b1.client_config(&node("munich", "a1"), PEER_ALPN).unwrap();
    let chain = munich.renew(&issued.certificate().der, now()).unwrap();
    b1.clone().renew(chain.ders()).unwrap();
    assert!(b1.not_after().unwrap() > before);
    // When twenty of thirty days have passed, and at most two and a half more.
    let due = b1.renewal_due().unwrap().as_secs();
    let earliest = unix_time(now() + NODE_LIFE * 2 / 3).as_secs();
    let latest = unix_time(now() + NODE_LIFE * 3 / 4).as_secs();
    assert!((earliest - 60..=latest + 60).contains(&due), "{due}");

    // Peers whose clock says that the old one's life is over.
    let later = Clock::fixed(unix_time(now() + 5 * DAY));
    let a1_later = munich.issue(&node("munich", "a1"), now()).unwrap();
    let a1_later = a1_later.credentials(None, later).unwrap();
    let met = shake_hands(
        a1_later
            .client_config(&node("munich", "b1"), PEER_ALPN)
            .unwrap(),
        server,
    );
    assert_eq!((met.client.lost, met.server.lost), (None, None));
    let met = shake_hands(client, a1_later.server_config(&[PEER_ALPN]).unwrap());
    assert_eq!((met.client.lost, met.server.lost), (None, None));
}

#[test]
fn what_is_not_a_renewal_changes_nothing() {
    let world = World::new();
    let b1 = credentials(&world.munich, &node("munich", "b1"));
    let end = b1.not_after().unwrap();
    let told = |chain: Vec<rustls::pki_types::CertificateDer<'static>>| {
        format!("{:#}", b1.renew(chain).unwrap_err())
    };
    assert_eq!(told(Vec::new()), "there is no certificate");
    assert!(told(vec![b"x".to_vec().into()]).starts_with("cannot read the new certificate: "));
    let other = world
        .munich
        .issue(&node("munich", "b1"), now() + DAY)
        .unwrap();
    assert_eq!(
        told(other.chain().ders()),
        "the new certificate is for another key"
    );
    let shown = b1.certified().load().cert.clone();
    assert_eq!(
        told(shown.clone()),
        "the new certificate ends no later than the one that is used"
    );
    // Longer, but another's name on the same key.
    let key = new_key().unwrap();
    let short = template::leaf(&label("main"), &node("munich", "b1"), now(), end_of_day()).unwrap();
    let chain = vec![
        world.munich.sign_anything(&short, &key).der,
        world.munich.certificate().der.clone(),
    ];
    let own = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let trust = world.root.trust().clone();
    let named = Credentials::new(trust, chain, own, None, Clock::system()).unwrap();
    let long = template::leaf(
        &label("main"),
        &node("munich", "c1"),
        now(),
        end_of_day() + DAY,
    );
    let chain = vec![
        world.munich.sign_anything(&long.unwrap(), &key).der,
        world.munich.certificate().der.clone(),
    ];
    assert_eq!(
        format!("{:#}", named.renew(chain).unwrap_err()),
        "peers would refuse the new certificate: certificate of node munich/c1: node munich/b1 was dialled, this is somebody else"
    );
    assert_eq!(b1.not_after().unwrap(), end);
    assert_eq!(b1.certified().load().cert, shown);
}

#[test]
fn a_cluster_renews_what_it_has_issued() {
    let world = World::new();
    let issued = world.munich.issue(&node("munich", "b1"), now()).unwrap();
    let own = &issued.certificate().der;
    let fault = world.garching.renew(own, now()).unwrap_err().to_string();
    assert!(
        fault.starts_with("certificate of node munich/b1: "),
        "{fault}"
    );
    let late = now() + NODE_LIFE + DAY;
    let fault = world.munich.renew(own, late).unwrap_err().to_string();
    assert!(
        fault.starts_with("certificate of node munich/b1: it expired on "),
        "{fault}"
    );
    let fault = world.munich.renew(&world.munich.certificate().der, now());
    assert!(fault.is_err());
}

fn end_of_day() -> SystemTime {
    now() + DAY
}
