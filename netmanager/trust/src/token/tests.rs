//! Tokens that must be refused, and those that must not.

use proptest::prelude::*;
use weald_proto::id::RelayId;
use weald_proto::token::Claims;

use super::*;
use crate::pki::RootAuthority;
use crate::tls::Clock;

struct World {
    root: RootAuthority,
    munich: ClusterAuthority,
    now: SystemTime,
}

#[test]
fn a_token_admits_its_node_for_its_organisation() {
    let world = World::new();
    let peer = world.peer("a1");
    let token = world.token(&peer);
    let admission = world.verify(&token, &peer).unwrap();
    assert_eq!(admission.node, node("a1"));
    assert_eq!(admission.organisation, organisation("shop"));
    assert_eq!(
        admission.expires.as_secs(),
        unix_time(world.now + TOKEN_LIFE).as_secs()
    );
    assert!(token.len() < 1024, "{}", token.len());
}

#[test]
fn the_longest_names_fit() {
    let long = |first: char| Label::new(&format!("{first}{}", "x".repeat(62))).unwrap();
    let now = SystemTime::now();
    let root = RootAuthority::create(&long('r'), now).unwrap();
    let cluster = root.cluster(&long('c'), now).unwrap();
    let id = NodeId::new(long('c'), long('n'));
    let peer = peer_of(&cluster, &id, now);
    let organisation = Organisation(long('o'));
    let token = issue(
        &cluster,
        &id,
        peer.spki_sha256,
        &organisation,
        now,
        TOKEN_LIFE,
    )
    .unwrap();
    let none = RevocationSet::default();
    verify(&token, root.trust(), unix_time(now), &peer, &none).unwrap();
}

#[test]
fn a_stolen_token_is_refused() {
    let world = World::new();
    let token = world.token(&world.peer("a1"));
    assert_eq!(
        world.refuse(&token, &world.peer("a1")),
        "the relay token of munich/a1 was made for another key; fetch a new token"
    );
    assert_eq!(
        world.refuse(&token, &world.peer("a2")),
        "the relay token was made for munich/a1, but node munich/a2 presents it"
    );
    let relay = Peer {
        identity: Identity::Relay(RelayId::new(label("munich"), label("a1"))),
        ..world.peer("a1")
    };
    assert_eq!(
        world.refuse(&token, &relay),
        "the relay token was made for munich/a1, but relay munich/a1 presents it"
    );
}

#[test]
fn a_token_has_a_life() {
    let world = World::new();
    let peer = world.peer("a1");
    let token = world.token(&peer);
    let none = RevocationSet::default();
    let at = |time: SystemTime| verify(&token, world.root.trust(), unix_time(time), &peer, &none);
    let second = Duration::from_secs(1);
    at(world.now - BACKDATE).unwrap();
    at(world.now + TOKEN_LIFE - second).unwrap();
    let early = at(world.now - BACKDATE - second).unwrap_err().to_string();
    assert!(
        early.starts_with(
            "the relay token's issuer is refused: its issuer's certificate is not valid before "
        ),
        "{early}"
    );
    let late = at(world.now + TOKEN_LIFE).unwrap_err().to_string();
    assert!(
        late.starts_with("the relay token of munich/a1 expired on "),
        "{late}"
    );
}

#[test]
fn a_token_from_the_future_is_refused() {
    let world = World::new();
    let peer = world.peer("a1");
    let later = world.now + Duration::from_hours(1);
    let token = issue(
        &world.munich,
        &node("a1"),
        peer.spki_sha256,
        &organisation("shop"),
        later,
        TOKEN_LIFE,
    )
    .unwrap();
    let error = world.refuse(&token, &peer);
    assert!(
        error.starts_with("the relay token of munich/a1 is not valid before "),
        "{error}"
    );
}

#[test]
fn claims_cannot_be_changed() {
    let world = World::new();
    let peer = world.peer("a1");
    let token = RelayToken::decode(world.token(&peer).as_slice()).unwrap();
    let mut claims = Claims::decode(token.claims.as_slice()).unwrap();
    claims.organisation = "rival".to_owned();
    let changed = RelayToken {
        claims: claims.encode_to_vec(),
        ..token
    };
    assert_eq!(
        world.refuse(&changed.encode_to_vec(), &peer),
        "the relay token was changed, or not signed by cluster munich"
    );
}

#[test]
fn another_cluster_cannot_sign() {
    let world = World::new();
    let peer = world.peer("a1");
    let garching = world.root.cluster(&label("garching"), world.now).unwrap();
    let error = issue(
        &garching,
        &node("a1"),
        peer.spki_sha256,
        &organisation("shop"),
        world.now,
        TOKEN_LIFE,
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "cluster garching cannot issue a relay token for munich/a1"
    );

    // Claims as munich makes them, with garching's signature and certificate.
    let claims = RelayToken::decode(world.token(&peer).as_slice())
        .unwrap()
        .claims;
    assert_eq!(
        world.refuse(&sign(&garching, &claims), &peer),
        "cluster garching signed a relay token for munich/a1, which is not its own"
    );
    // The same with munich's certificate.
    let mut token = RelayToken::decode(sign(&garching, &claims).as_slice()).unwrap();
    token.issuer = world.munich.certificate().der.to_vec();
    assert_eq!(
        world.refuse(&token.encode_to_vec(), &peer),
        "the relay token was changed, or not signed by cluster munich"
    );
}

#[test]
fn another_root_cannot_sign() {
    let world = World::new();
    let peer = world.peer("a1");
    let foreign = World::new();
    assert_eq!(
        world.refuse(&foreign.token(&peer), &peer),
        "the relay token's issuer was not signed by root main"
    );
}

#[test]
fn a_node_cannot_sign() {
    let world = World::new();
    let peer = world.peer("a1");
    let mut token = RelayToken::decode(world.token(&peer).as_slice()).unwrap();
    let own = world
        .munich
        .issue(&Identity::Node(node("a1")), world.now)
        .unwrap();
    token.issuer = own.certificate().der.to_vec();
    assert_eq!(
        world.refuse(&token.encode_to_vec(), &peer),
        "the relay token's issuer was not signed by root main"
    );
    token.issuer = world.root.certificate().der.to_vec();
    assert_eq!(
        world.refuse(&token.encode_to_vec(), &peer),
        "the relay token's issuer is refused: its issuer's certificate has not path length 0"
    );
}

#[test]
fn a_revoked_cluster_cannot_sign() {
    let world = World::new();
    let peer = world.peer("a1");
    let token = world.token(&peer);
    let facts = Facts::parse(&world.munich.certificate().der).unwrap();
    let revoked = RevocationSet {
        keys: [facts.spki_sha256].into(),
        ..RevocationSet::default()
    };
    let error = verify(
        &token,
        world.root.trust(),
        unix_time(world.now),
        &peer,
        &revoked,
    );
    assert_eq!(
        error.unwrap_err().to_string(),
        "the relay token's issuer is refused: its issuer's certificate is revoked"
    );
}

#[test]
fn unknown_versions_are_refused() {
    let world = World::new();
    let peer = world.peer("a1");
    let token = RelayToken::decode(world.token(&peer).as_slice()).unwrap();
    let mut claims = Claims::decode(token.claims.as_slice()).unwrap();
    claims.version = 2;
    assert_eq!(
        world.refuse(&sign(&world.munich, &claims.encode_to_vec()), &peer),
        "the relay token has version 2, this relay reads version 1"
    );
}

#[test]
fn truncated_and_flipped_tokens_are_refused() {
    let world = World::new();
    let peer = world.peer("a1");
    let token = world.token(&peer);
    for length in 0..token.len() {
        world.verify(&token[..length], &peer).unwrap_err();
    }
    for index in 0..token.len() {
        let mut flipped = token.clone();
        flipped[index] ^= 1;
        // A flip may only be harmless outside of what is signed; no field is.
        world.verify(&flipped, &peer).unwrap_err();
    }
    assert_eq!(
        world.refuse(&vec![0; MAX_TOKEN_LEN + 1], &peer),
        "the relay token has 2049 bytes, at most 2048 are read"
    );
    assert_eq!(world.refuse(&[], &peer), "the relay token cannot be read");
}

#[test]
fn credentials_admit_with_their_own_root_and_clock() {
    let world = World::new();
    let peer = world.peer("a1");
    let token = world.token(&peer);
    let relay = Identity::Relay(RelayId::new(label("munich"), label("r1")));
    let relay = world.munich.issue(&relay, world.now).unwrap();
    let expired = Clock::fixed(unix_time(world.now + TOKEN_LIFE));
    let credentials = |clock| relay.credentials(None, clock).unwrap();
    credentials(Clock::system())
        .admit_to_relay(&token, &peer)
        .unwrap();
    assert!(matches!(
        credentials(expired).admit_to_relay(&token, &peer),
        Err(TokenError::Expired { .. })
    ));
}

proptest! {
    #[test]
    fn garbage_is_refused_without_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..MAX_TOKEN_LEN),
        issuer in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let world = WORLD.with(Clone::clone);
        let peer = world.peer("a1");
        prop_assert!(world.verify(&bytes, &peer).is_err());
        let token = RelayToken { claims: bytes, signature: vec![0; 64], issuer };
        prop_assert!(world.verify(&token.encode_to_vec(), &peer).is_err());
    }
}

thread_local! {
    static WORLD: std::rc::Rc<World> = std::rc::Rc::new(World::new());
}

impl World {
    fn new() -> Self {
        let now = SystemTime::now();
        let root = RootAuthority::create(&label("main"), now).unwrap();
        let munich = root.cluster(&label("munich"), now).unwrap();
        Self { root, munich, now }
    }

    fn peer(&self, name: &str) -> Peer {
        peer_of(&self.munich, &node(name), self.now)
    }

    fn token(&self, peer: &Peer) -> Vec<u8> {
        let Identity::Node(id) = &peer.identity else {
            panic!("only nodes have tokens");
        };
        issue(
            &self.munich,
            id,
            peer.spki_sha256,
            &organisation("shop"),
            self.now,
            TOKEN_LIFE,
        )
        .unwrap()
    }

    fn verify(&self, token: &[u8], peer: &Peer) -> Result<RelayAdmission, TokenError> {
        let none = RevocationSet::default();
        verify(token, self.root.trust(), unix_time(self.now), peer, &none)
    }

    fn refuse(&self, token: &[u8], peer: &Peer) -> String {
        self.verify(token, peer).unwrap_err().to_string()
    }
}

fn peer_of(cluster: &ClusterAuthority, id: &NodeId, now: SystemTime) -> Peer {
    let identity = Identity::Node(id.clone());
    let issued = cluster.issue(&identity, now).unwrap();
    let spki_sha256 = Facts::parse(&issued.certificate().der).unwrap().spki_sha256;
    Peer {
        identity,
        spki_sha256,
    }
}

fn sign(cluster: &ClusterAuthority, claims: &[u8]) -> Vec<u8> {
    RelayToken {
        claims: claims.to_vec(),
        signature: cluster.sign(&RelayToken::signed_bytes(claims)).unwrap(),
        issuer: cluster.certificate().der.to_vec(),
    }
    .encode_to_vec()
}

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

fn node(name: &str) -> NodeId {
    NodeId::new(label("munich"), label(name))
}

fn organisation(name: &str) -> Organisation {
    Organisation(label(name))
}
