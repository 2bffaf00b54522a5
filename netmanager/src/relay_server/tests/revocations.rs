//! Who is revoked: nodes bring root's list, the relay cuts and refuses those who are in it, tells the
//! others, and keeps it; what root has not signed, or has signed before, changes nothing.

use std::fs;

use weald_proto::relay::MAX_LONG_MESSAGE_LEN;
use weald_proto::statement::{Grant, Revocations, Signed, Statement};
use weald_trust::statement::sign_root;

use super::*;

/// A relay of a cluster whose root is at hand.
struct Revoking {
    root: RootAuthority,
    world: World,
    folder: tempfile::TempDir,
}

impl Revoking {
    fn new() -> Self {
        let root = RootAuthority::create(&label("main"), SystemTime::now()).unwrap();
        let cluster = root.cluster(&label("munich"), SystemTime::now()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let world = World::of(cluster, folder.path(), 0, None);
        Self {
            root,
            world,
            folder,
        }
    }

    /// The relay ends, and another one begins in the same folder.
    fn restart(self) -> Self {
        let World {
            cluster, server, ..
        } = self.world;
        server.stop().unwrap();
        let world = World::of(cluster, self.folder.path(), 0, None);
        Self { world, ..self }
    }

    fn list(&self, epoch: u64, keys: &[KeyHash]) -> Signed {
        list(&self.root, epoch, keys)
    }

    /// A node that is registered and takes lists.
    fn join(&self, name: &str, epoch: u64) -> (Client, Issued) {
        let issued = self.world.issue(name);
        let mut client = self.world.client(&issued);
        client.epoch = Some(epoch);
        let answer = client.hello(&self.world.token(name, &issued, "shop"));
        assert!(matches!(answer, RelayMessage::Welcome(_)), "{answer:?}");
        (client, issued)
    }

    /// What the relay shows of its lists, once that is so.
    fn shows(&self, epoch: u64, lists_refused: u64, sessions_cut: u64) -> RelayReport {
        let wanted = RevocationsReport {
            epoch,
            lists_refused,
            sessions_cut,
        };
        self.world
            .report_when(|report| report.revocations == wanted)
    }
}

fn list(root: &RootAuthority, epoch: u64, keys: &[KeyHash]) -> Signed {
    let list = Revocations {
        epoch,
        keys: keys.iter().map(|key| key.0).collect(),
        organisations: Vec::new(),
    };
    sign_root(root, &Statement::Revocations(list)).unwrap()
}

fn key(issued: &Issued) -> KeyHash {
    let credentials = issued.credentials(None, Clock::system()).unwrap();
    credentials.spki_sha256()
}

fn bring(client: &mut Client, list: &Signed) {
    client.say_all(&NodeMessage::Revocations(list.clone()).encode());
}

/// The node's session ends with these words.
fn is_cut(client: &mut Client, expected: &str) {
    let refused = refusal(client.message());
    assert_eq!(refused.reason, HelloRefusal::Revoked);
    assert_eq!(refused.text, expected);
    client.wait(|client| client.lost.is_some());
    let lost = client.lost.clone().unwrap();
    assert!(lost.contains(expected), "{lost}");
}

/// The next that a node hears answers its own question: nothing was said before.
fn hears_nothing(client: &mut Client) {
    let refused = Err(OpenRefusal::UnknownNode);
    assert_eq!(client.open(&node("nobody")).result, refused);
}

#[test]
fn a_revoked_node_is_cut_and_refused_and_the_others_are_told() {
    let revoking = Revoking::new();
    let (mut victim, issued) = revoking.join("a1", 0);
    let (mut bringer, _) = revoking.join("b1", 0);
    let (mut other, _) = revoking.join("c1", 0);
    // A node with a static table, or of an older release, takes no lists.
    let mut alone = revoking.world.join("d1", "shop");
    let gone = bringer.open(&node("a1")).result.unwrap();
    let list = revoking.list(1, &[key(&issued)]);
    bring(&mut bringer, &list);
    is_cut(&mut victim, "node munich/a1 is cut: its key is revoked");
    assert_eq!(other.message(), RelayMessage::Revocations(list));
    assert_eq!(bringer.message(), RelayMessage::Gone { peer: gone });
    for client in [&mut bringer, &mut other, &mut alone] {
        hears_nothing(client);
    }
    let report = revoking.shows(1, 0, 1);
    assert_eq!(report.registrations, 3);
    assert_eq!(report.certificates_refused, 0);

    // Nothing of it is forwarded any more, and it does not come in again.
    let before = report.total.dropped_by_reason["unknown_link"].frames;
    victim.send(bringer.link, b"still there");
    revoking
        .world
        .report_when(|it| it.total.dropped_by_reason["unknown_link"].frames == before + 1);
    let mut again = revoking.world.client(&issued);
    again.wait(|client| client.lost.is_some());
    let text = "certificate of node munich/a1: it is revoked";
    let lost = again.lost.unwrap();
    assert!(lost.contains(text), "{lost}");
    let report = revoking.world.report_when(|it| it.certificates_refused > 0);
    assert_eq!(report.certificates_refused, 1);
    let shown = report.last_certificate_refused.unwrap();
    assert!(shown.contains(text), "{shown}");
    assert_eq!(report.registrations, 3);

    // Those who stay can still talk.
    let peer = bringer.open(&node("c1")).result.unwrap();
    bringer.send(peer, b"hello");
    assert_eq!(other.receive(), (bringer.link, b"hello".to_vec()));
}

#[test]
fn nodes_of_a_revoked_cluster_are_cut_and_their_tokens_refused() {
    let revoking = Revoking::new();
    let now = SystemTime::now();
    let paris = revoking.root.cluster(&label("paris"), now).unwrap();
    let id = NodeId::new(label("paris"), label("p1"));
    let issued = paris.issue(&Identity::Node(id.clone()), now).unwrap();
    let shop = Organisation(label("shop"));
    let life = Duration::from_secs(3600);
    let token = token::issue(&paris, &id, key(&issued), &shop, now, life).unwrap();
    let mut foreign = revoking.world.client(&issued);
    assert!(matches!(foreign.hello(&token), RelayMessage::Welcome(_)));
    // One that has not registered yet is cut as well.
    let mut silent = revoking.world.client(&issued);
    silent.wait(Client::is_connected);
    let (mut own, _) = revoking.join("a1", 0);
    let cluster = paris.certificate().public_key().unwrap();
    bring(
        &mut own,
        &revoking.list(1, &[KeyHash::of_ed25519(&cluster)]),
    );
    is_cut(
        &mut foreign,
        "node paris/p1 is cut: the key of its cluster is revoked",
    );
    silent.wait(|client| client.lost.is_some());
    hears_nothing(&mut own);
    let mut again = revoking.world.client(&issued);
    again.wait(|client| client.lost.is_some());
    let lost = again.lost.unwrap();
    let text = "certificate of node paris/p1: its issuer's certificate is revoked";
    assert!(lost.contains(text), "{lost}");
    assert_eq!(revoking.world.report().registrations, 1);
}

#[test]
fn a_registration_ends_with_the_key_that_its_token_was_signed_with() {
    let revoking = Revoking::new();
    let now = SystemTime::now();
    // The cluster has changed its key since: the certificate is by one, the token by the other.
    let former = revoking.root.cluster(&label("munich"), now).unwrap();
    let issued = revoking.world.issue("a1");
    let by_former = token(&former, "a1", &issued, "shop", now);
    let mut node = revoking.world.client(&issued);
    assert!(matches!(node.hello(&by_former), RelayMessage::Welcome(_)));
    let (mut bringer, _) = revoking.join("b1", 0);
    let key = KeyHash::of_ed25519(&former.certificate().public_key().unwrap());
    bring(&mut bringer, &revoking.list(1, &[key]));
    is_cut(
        &mut node,
        "node munich/a1 is cut: the key of its cluster is revoked",
    );
    let text = revoking.world.refuse(&issued, &by_former);
    assert_eq!(
        text,
        "the relay token's issuer is refused: its issuer's certificate is revoked"
    );
    // With a token of now it comes in again.
    let mut again = revoking.world.client(&issued);
    let by_present = revoking.world.token("a1", &issued, "shop");
    assert!(matches!(again.hello(&by_present), RelayMessage::Welcome(_)));
}

#[test]
fn what_is_old_forged_or_no_list_changes_nothing_and_is_counted() {
    let revoking = Revoking::new();
    let (mut victim, issued) = revoking.join("a1", 7);
    let (mut liar, _) = revoking.join("b1", 0);
    let key = key(&issued);
    bring(&mut liar, &revoking.list(5, &[]));
    revoking.shows(5, 0, 0);
    let now = SystemTime::now();
    let foreign = RootAuthority::create(&label("main"), now).unwrap();
    let mut changed = revoking.list(6, &[]);
    let last = changed.statement.len() - 1;
    changed.statement[last] ^= 1;
    let mut forged = revoking.list(6, &[key]);
    forged.signature[7] ^= 1;
    let cluster = &revoking.world.cluster;
    let grant = Grant {
        cluster: label("munich"),
        key: cluster.certificate().public_key().unwrap(),
        generation: 9,
        blocks: Vec::new(),
        organisations: Vec::new(),
        owner: Organisation(label("shop")),
        expires: u64::MAX,
    };
    let garbage = Signed {
        statement: b"who is revoked".to_vec(),
        ..forged.clone()
    };
    let lies = [
        ("a lower epoch", revoking.list(4, &[key])),
        ("none at all", revoking.list(0, &[key])),
        ("another list of that epoch", revoking.list(5, &[key])),
        ("another root's", list(&foreign, 6, &[key])),
        ("a changed list", changed),
        ("a wrong signature", forged),
        (
            "no list",
            sign_root(&revoking.root, &Statement::Grant(grant)).unwrap(),
        ),
        ("no statement", garbage),
    ];
    let mut refused = 0;
    for (what, lie) in lies {
        bring(&mut liar, &lie);
        refused += 1;
        let report = revoking.shows(5, refused, 0);
        assert_eq!(report.registrations, 2, "{what}");
        hears_nothing(&mut victim);
        hears_nothing(&mut liar);
    }
    // The same again is no fault.
    bring(&mut liar, &revoking.list(5, &[]));
    hears_nothing(&mut liar);
    revoking.shows(5, refused, 0);
}

#[test]
fn a_list_that_is_too_long_or_comes_too_early_ends_the_session_only() {
    let revoking = Revoking::new();
    let (mut other, _) = revoking.join("a1", 0);
    let (mut long, _) = revoking.join("b1", 0);
    let len = u32::try_from(MAX_LONG_MESSAGE_LEN + 1).unwrap();
    long.say_all(&len.to_be_bytes());
    let refused = refusal(long.message());
    assert_eq!(refused.reason, HelloRefusal::Protocol);
    assert!(refused.text.contains("at most 66560"), "{}", refused.text);
    long.wait(|client| client.lost.is_some());

    let issued = revoking.world.issue("c1");
    let list = revoking.list(1, &[key(&issued)]);
    let mut early = revoking.world.client(&issued);
    let answer = early.say_first(&NodeMessage::Revocations(list).encode());
    assert_eq!(refusal(answer).text, "the first message must be Hello");
    hears_nothing(&mut other);
    revoking.shows(0, 0, 0);
}

#[test]
fn a_node_that_knows_less_is_told_and_the_longest_list_goes_both_ways() {
    let revoking = Revoking::new();
    let (mut bringer, _) = revoking.join("a1", 3);
    let (mut other, _) = revoking.join("b1", 3);
    let keys: Vec<KeyHash> = (0..1900_u16)
        .map(|number| KeyHash([number.to_be_bytes(); 16].concat().try_into().unwrap()))
        .collect();
    let list = revoking.list(4, &keys);
    assert!(list.statement.len() > 60_000);
    bring(&mut bringer, &list);
    // What else is said meanwhile does not get into it.
    let opened = bringer.open(&node("b1")).result.unwrap();
    assert_eq!(other.message(), RelayMessage::Revocations(list.clone()));
    bringer.send(opened, b"hello");
    assert_eq!(other.receive(), (bringer.link, b"hello".to_vec()));
    for (name, epoch, told) in [("c1", 0, true), ("d1", 3, true), ("e1", 4, false)] {
        let (mut late, _) = revoking.join(name, epoch);
        if told {
            assert_eq!(late.message(), RelayMessage::Revocations(list.clone()));
        }
        hears_nothing(&mut late);
    }
    // Whoever knows more brings it, without being told.
    let (mut newer, _) = revoking.join("f1", 9);
    hears_nothing(&mut newer);
}

#[test]
fn the_list_outlives_a_restart_and_so_does_its_epoch() {
    let revoking = Revoking::new();
    let (mut bringer, _) = revoking.join("b1", 0);
    let victim = revoking.world.issue("a1");
    bring(&mut bringer, &revoking.list(8, &[key(&victim)]));
    revoking.shows(8, 0, 0);
    drop(bringer);

    let revoking = revoking.restart();
    assert_eq!(revoking.world.report().revocations.epoch, 8);
    let mut again = revoking.world.client(&victim);
    again.wait(|client| client.lost.is_some());
    let lost = again.lost.unwrap();
    assert!(lost.contains("it is revoked"), "{lost}");
    let (mut bringer, _) = revoking.join("b1", 8);
    bring(&mut bringer, &revoking.list(7, &[]));
    revoking.shows(8, 1, 0);

    // One that is damaged, or another root's, is not used; nodes bring it again.
    let file = revoking.folder.path().join("revoked.json");
    fs::write(&file, "{").unwrap();
    let revoking = revoking.restart();
    assert_eq!(revoking.world.report().revocations.epoch, 0);
    let (mut bringer, _) = revoking.join("b1", 8);
    bring(&mut bringer, &revoking.list(8, &[key(&victim)]));
    revoking.shows(8, 0, 0);
    let foreign = Revoking::new();
    fs::copy(&file, foreign.folder.path().join("revoked.json")).unwrap();
    let foreign = foreign.restart();
    assert_eq!(foreign.world.report().revocations.epoch, 0);
}

#[test]
fn without_a_folder_to_write_to_it_is_known_until_the_end() {
    let revoking = Revoking::new();
    let folder = revoking.folder.path().to_owned();
    fs::remove_dir(&folder).unwrap();
    let (mut victim, issued) = revoking.join("a1", 0);
    let (mut bringer, _) = revoking.join("b1", 0);
    bring(&mut bringer, &revoking.list(1, &[key(&issued)]));
    is_cut(&mut victim, "node munich/a1 is cut: its key is revoked");
    let revoking = revoking.restart();
    revoking.shows(0, 0, 0);
}
