//! The desk: tokens on disk, names that are taken, and many who want the same one.

use std::sync::{Arc, Barrier};

use weald_proto::join::JoinSecret;
use weald_trust::pki::new_key;

use super::*;

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

fn issue(desk: &JoinDesk, uses: u32) -> JoinSecret {
    let life = Duration::from_secs(3600);
    let addresses = ["192.0.2.1:10111".to_owned()];
    let (_, text) = desk
        .issue(
            JoinRole::Worker,
            label("munich"),
            [1; 32],
            &addresses,
            (uses, life),
        )
        .unwrap();
    text.parse::<JoinToken>().unwrap().secret
}

/// A request for a certificate of a new key.
fn new_csr() -> Vec<u8> {
    weald_trust::pki::request(&new_key().unwrap()).unwrap()
}

fn request(secret: JoinSecret, name: &str, csr: &[u8]) -> JoinRequest {
    JoinRequest {
        secret,
        role: JoinRole::Worker,
        name: label(name),
        csr: csr.to_vec(),
    }
}

/// There is nothing else in the way.
#[expect(clippy::unnecessary_wraps, reason = "it stands for what may fail")]
fn freely() -> anyhow::Result<()> {
    Ok(())
}

#[test]
fn one_of_a_thousand_gets_the_one_use() {
    let folder = tempfile::tempdir().unwrap();
    let desk = Arc::new(JoinDesk::open(folder.path()).unwrap());
    let secret = issue(&desk, 1);
    let start = Arc::new(Barrier::new(1000));
    let csr = new_csr();
    let threads: Vec<_> = (0..1000)
        .map(|number| {
            let (desk, start) = (Arc::clone(&desk), Arc::clone(&start));
            let wanted = request(secret, &format!("n{number}"), &csr);
            std::thread::spawn(move || {
                start.wait();
                desk.redeem(&wanted, freely).is_ok()
            })
        })
        .collect();
    let let_in = threads.into_iter().map(|it| it.join().unwrap());
    let let_in = let_in.filter(|let_in| *let_in).count();
    assert_eq!(let_in, 1);
    // And it stays so after a restart.
    let desk = JoinDesk::open(folder.path()).unwrap();
    let refused = desk
        .redeem(&request(secret, "late", &new_csr()), freely)
        .unwrap_err();
    assert!(matches!(
        refused,
        DeskError::Fault(JoinFault::UsedUp { .. })
    ));
    assert_eq!(desk.list()[0].used, 1);
}

#[test]
fn a_name_is_given_to_one_key_only() {
    let folder = tempfile::tempdir().unwrap();
    let desk = JoinDesk::open(folder.path()).unwrap();
    let secret = issue(&desk, 5);
    let (own, other) = (new_csr(), new_csr());
    desk.redeem(&request(secret, "a1", &own), freely).unwrap();
    desk.redeem(&request(secret, "a1", &own), freely).unwrap();
    assert_eq!(desk.list()[0].used, 1);
    let refused = desk
        .redeem(&request(secret, "a1", &other), freely)
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "worker a1 has joined already with another key; choose another name, or remove it first"
    );
    assert_eq!(desk.list()[0].used, 1);
    desk.forget(JoinRole::Worker, &label("a1")).unwrap();
    desk.redeem(&request(secret, "a1", &other), freely).unwrap();
}

/// As a cluster that was removed and asks again with the key that was revoked with it: another key
/// may have the name, and the use.
#[test]
fn who_is_not_let_in_takes_neither_a_use_nor_a_name() {
    let folder = tempfile::tempdir().unwrap();
    let desk = JoinDesk::open(folder.path()).unwrap();
    let secret = issue(&desk, 1);
    let refused = desk.redeem(&request(secret, "a1", &new_csr()), || {
        anyhow::bail!("its key is revoked") as anyhow::Result<()>
    });
    assert_eq!(refused.unwrap_err().to_string(), "its key is revoked");
    assert_eq!(desk.list()[0].used, 0);
    desk.redeem(&request(secret, "a1", &new_csr()), freely)
        .unwrap();
    assert_eq!(desk.list()[0].used, 1);
}

/// Whoever listens everywhere has to say where others dial.
#[test]
fn a_token_says_where_to_dial() {
    let folder = tempfile::tempdir().unwrap();
    let desk = JoinDesk::open(folder.path()).unwrap();
    for address in ["[::]:10101", "0.0.0.0:10101", "192.0.2.1:0"] {
        let (role, cluster, terms) = (
            JoinRole::Worker,
            label("munich"),
            (1, Duration::from_secs(60)),
        );
        let addresses = ["192.0.2.1:10101".to_owned(), address.to_owned()];
        let refused = desk.issue(role, cluster, [1; 32], &addresses, terms);
        let told = refused.unwrap_err().to_string();
        assert!(
            told.starts_with(address) && told.contains("--advertise"),
            "{told}"
        );
        assert!(desk.list().is_empty());
    }
}

#[test]
fn what_is_revoked_lets_nobody_in() {
    let folder = tempfile::tempdir().unwrap();
    let desk = JoinDesk::open(folder.path()).unwrap();
    let secret = issue(&desk, 5);
    desk.revoke(desk.list()[0].id).unwrap();
    let refused = desk
        .redeem(&request(secret, "a1", &new_csr()), freely)
        .unwrap_err();
    assert!(matches!(refused, DeskError::Fault(JoinFault::Unknown)));
    fs::write(folder.path().join("join.json"), "{").unwrap();
    let error = JoinDesk::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("is no book of join tokens"), "{error}");
}
