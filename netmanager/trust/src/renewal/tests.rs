//! Who gets a new certificate, and what one keeps who does not.

use std::time::SystemTime;

use weald_proto::id::NodeId;

use super::*;
use crate::join::{self, JoinToken, fingerprint, new_secret};
use crate::pki::{Lives, RootAuthority, new_key, request};

const HOUR: Duration = Duration::from_hours(1);

#[test]
fn one_asks_for_oneself_and_with_the_key_that_one_has() {
    let world = World::new();
    let (key, member) = world.member(&world.munich);
    let peer = peer(&member);
    let asked = |role, name: &str, key: &KeyPair| RenewRequest {
        role,
        name: label(name),
        csr: request(key).unwrap(),
    };
    let nobody = RevocationSet::default();
    let told = |request: &RenewRequest, revoked: &RevocationSet| {
        check(&peer, request, revoked).unwrap_err().to_string()
    };
    let good = asked(JoinRole::Worker, "a1", &key);
    assert_eq!(check(&peer, &good, &nobody), Ok(peer.spki_sha256));
    assert_eq!(
        told(&asked(JoinRole::Worker, "a2", &key), &nobody),
        "node munich/a1 may ask for a new certificate of its own only, not for worker a2"
    );
    assert_eq!(
        told(&asked(JoinRole::Cluster, "munich", &key), &nobody),
        "node munich/a1 may ask for a new certificate of its own only, not for cluster munich"
    );
    assert_eq!(
        told(&asked(JoinRole::Worker, "a1", &new_key().unwrap()), &nobody),
        "node munich/a1 asks for a certificate of another key than it has shown; a renewal keeps \
         the key, and for a new one it has to join again"
    );
    let mut forged = good.clone();
    *forged.csr.last_mut().unwrap() ^= 1;
    assert_eq!(told(&forged, &nobody), RequestFault::Signature.to_string());
    let mut revoked = RevocationSet::default();
    revoked.keys.insert(peer.spki_sha256);
    assert_eq!(
        told(&good, &revoked),
        "the key of node munich/a1 was revoked; it may join again, with a new token and a new key"
    );
}

#[test]
fn a_cluster_asks_for_itself_and_may_be_revoked() {
    let world = World::new();
    let control = world.control(&world.munich);
    let own = peer(&control);
    let wanted = world.munich.renewal_request().unwrap();
    let key = check(&own, &wanted, &RevocationSet::default()).unwrap();
    let mut revoked = RevocationSet::default();
    revoked.keys.insert(key);
    assert_eq!(
        check(&own, &wanted, &revoked),
        Err(RenewFault::Revoked(own.identity.clone()))
    );
    let paris = world
        .root
        .cluster(&label("paris"), SystemTime::now())
        .unwrap();
    let foreign = check(
        &own,
        &paris.renewal_request().unwrap(),
        &RevocationSet::default(),
    );
    assert!(
        matches!(foreign, Err(RenewFault::Foreign { .. })),
        "{foreign:?}"
    );
}

#[test]
fn a_new_certificate_is_on_disk_before_it_is_shown() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("pki");
    let short = world.issuing(Duration::from_secs(2));
    let (_, member) = world.joined(&short, &directory);
    let renewal = Renewal::new(member.clone(), directory.clone());
    let first = member.not_after().unwrap();
    // Its life is nearly over: an issuer's clock is in whole seconds.
    while renewal.wanted().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let wanted = renewal.wanted().unwrap().unwrap();
    let identity = member.identity().clone();
    let issue = |from: &ClusterAuthority, identity: &Identity| {
        let chain = from
            .issue_for_csr(identity, &wanted.csr, SystemTime::now())
            .unwrap();
        let chain = chain.ders().iter().map(|der| der.to_vec()).collect();
        RenewResponse::Renewed { chain }
    };
    let before = std::fs::read(directory.join(CHAIN_FILE)).unwrap();
    let text = "no".to_owned();
    let refused = renewal.take(RenewResponse::Refused { text });
    assert_eq!(refused.unwrap_err().to_string(), "no");
    let other = Identity::Node(NodeId::new(label("munich"), label("a2")));
    assert!(renewal.take(issue(&world.munich, &other)).is_err());
    let nothing = RenewResponse::Renewed { chain: Vec::new() };
    assert_eq!(
        renewal.take(nothing).unwrap_err().to_string(),
        "0 certificates instead of 1 or 2"
    );
    assert_eq!(std::fs::read(directory.join(CHAIN_FILE)).unwrap(), before);
    assert_eq!(member.not_after().unwrap(), first);

    // Where it cannot be kept, it is not shown either.
    let gone = Renewal::new(member.clone(), folder.path().join("gone"));
    assert!(gone.take(issue(&world.munich, &identity)).is_err());
    assert_eq!(member.not_after().unwrap(), first);

    let end = renewal.take(issue(&world.munich, &identity)).unwrap();
    assert!(end > first);
    assert_eq!(member.not_after().unwrap(), end);
    assert_eq!(
        Credentials::load(&directory).unwrap().not_after().unwrap(),
        end
    );
    assert_eq!(renewal.wanted().unwrap(), None);
}

/// A worker and its netmanager show the same certificate; one of them is enough to ask.
#[test]
fn what_a_process_beside_has_renewed_is_taken_up() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let short = world.issuing(Duration::from_secs(2));
    let (_, member) = world.joined(&short, folder.path());
    let beside = Credentials::load(folder.path()).unwrap();
    let (first, second) = [&member, &beside]
        .map(|one| Renewal::new(one.clone(), folder.path().to_owned()))
        .into();
    let wanted = loop {
        match first.wanted().unwrap() {
            Some(wanted) => break wanted,
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let identity = member.identity();
    let chain = world
        .munich
        .issue_for_csr(identity, &wanted.csr, SystemTime::now());
    let chain = chain
        .unwrap()
        .ders()
        .iter()
        .map(|der| der.to_vec())
        .collect();
    let end = first.take(RenewResponse::Renewed { chain }).unwrap();
    assert_eq!(second.wanted().unwrap(), None);
    assert_eq!(beside.not_after().unwrap(), end);
}

#[test]
fn a_cluster_goes_on_with_its_key() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let lives = Lives {
        cluster: HOUR,
        ..Lives::default()
    };
    let root = world.root.with_lives(lives);
    let clock = Clock::system();
    let short = root.cluster(&label("munich"), SystemTime::now()).unwrap();
    let root = root.with_lives(Lives::default());
    let answer = |name: &str, cluster: &ClusterAuthority| {
        let csr = cluster.renewal_request().unwrap().csr;
        let issued = root
            .cluster_for(&label(name), &csr, SystemTime::now())
            .unwrap();
        let chain = vec![issued.der.to_vec()];
        RenewResponse::Renewed { chain }
    };
    let told = |answer| {
        format!(
            "{:#}",
            take_cluster(&short, answer, folder.path(), &clock).unwrap_err()
        )
    };
    assert_eq!(
        told(answer("paris", &short)),
        "a certificate was issued for cluster paris, not for cluster munich"
    );
    let paris = root.cluster(&label("paris"), SystemTime::now()).unwrap();
    assert_eq!(
        told(answer("munich", &paris)),
        "the private key does not belong to the certificate"
    );
    let same = RenewResponse::Renewed {
        chain: vec![short.certificate().der.to_vec()],
    };
    assert_eq!(
        told(same),
        "the new certificate ends no later than the one that is used"
    );
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none());

    let renewed = take_cluster(&short, answer("munich", &short), folder.path(), &clock).unwrap();
    assert!(renewed.not_after().unwrap() > short.not_after().unwrap());
    let kept = folder::load_cluster(folder.path()).unwrap();
    assert_eq!(kept.certificate(), renewed.certificate());
    assert_eq!(kept.key_pem(), short.key_pem());
    // Its orchestrator shows the new one beside the key that it has.
    let own = short
        .issue(&Identity::Control(label("munich")), SystemTime::now())
        .unwrap();
    let own = own.credentials(None, clock).unwrap();
    let before = own.not_after().unwrap();
    own.renew(renewed.renew_own(&own, SystemTime::now()).unwrap().ders())
        .unwrap();
    assert!(own.not_after().unwrap() > before);
    own.check().unwrap();
}

#[test]
fn roots_endpoint_goes_on_with_its_key() {
    let world = World::new();
    let root = world.root.with_lives(Lives {
        member: HOUR,
        ..Lives::default()
    });
    let own = root.issue_root(SystemTime::now()).unwrap();
    let own = own.credentials(None, Clock::system()).unwrap();
    let before = own.not_after().unwrap();
    let root = root.with_lives(Lives::default());
    own.renew(root.renew_root(&own, SystemTime::now()).unwrap().ders())
        .unwrap();
    assert!(own.not_after().unwrap() > before);
    own.check().unwrap();
    let munich = root.cluster(&label("munich"), SystemTime::now()).unwrap();
    let member = munich.issue(&Identity::Control(label("munich")), SystemTime::now());
    let member = member.unwrap().credentials(None, Clock::system()).unwrap();
    let refused = root.renew_root(&member, SystemTime::now()).unwrap_err();
    assert!(
        refused.to_string().starts_with("root does not issue for "),
        "{refused}"
    );
}

#[test]
fn one_asks_again_more_often_as_the_end_comes_near() {
    let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    for (left, pause) in [(0, 600), (1, 1), (80, 10), (864_000, 600)] {
        assert_eq!(retry(at(1000), at(1000 + left)), Duration::from_secs(pause));
    }
    assert_eq!(retry(at(2000), at(1000)), Duration::from_secs(600));
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

    /// The same cluster, whose members live for so long.
    fn issuing(&self, member: Duration) -> ClusterAuthority {
        let same = self
            .munich
            .with_certificate(self.munich.certificate().clone());
        same.unwrap().with_lives(Lives {
            member,
            ..Lives::default()
        })
    }

    fn member(&self, cluster: &ClusterAuthority) -> (KeyPair, Credentials) {
        let folder = tempfile::tempdir().unwrap();
        self.joined(cluster, folder.path())
    }

    /// A worker that has joined and kept that in a folder.
    fn joined(
        &self,
        cluster: &ClusterAuthority,
        folder: &std::path::Path,
    ) -> (KeyPair, Credentials) {
        let key = new_key().unwrap();
        let token = JoinToken {
            role: JoinRole::Worker,
            cluster: label("munich"),
            secret: new_secret().unwrap(),
            root: fingerprint(&self.root.certificate().der),
            addresses: vec!["192.0.2.1:7000".parse().unwrap()],
        };
        let identity = Identity::Node(NodeId::new(label("munich"), label("a1")));
        let csr = request(&key).unwrap();
        let chain = cluster
            .issue_for_csr(&identity, &csr, SystemTime::now())
            .unwrap();
        let chain = chain.ders().iter().map(|der| der.to_vec()).collect();
        let ca = self.root.certificate().der.to_vec();
        let joined = join::member(&token, &label("a1"), &key, chain, ca, Clock::system()).unwrap();
        joined.save(folder).unwrap();
        (key, Credentials::load(folder).unwrap())
    }

    fn control(&self, cluster: &ClusterAuthority) -> Credentials {
        let identity = Identity::Control(cluster.name().clone());
        let issued = cluster.issue(&identity, SystemTime::now()).unwrap();
        issued.credentials(None, Clock::system()).unwrap()
    }
}

fn peer(credentials: &Credentials) -> Peer {
    Peer {
        identity: credentials.identity().clone(),
        spki_sha256: credentials.spki_sha256(),
    }
}

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}
