//! Statements that must be refused, each with its fault, and those that must not.

use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use weald_proto::addr::Dual;
use weald_proto::id::Organisation;
use weald_proto::statement::{
    Grant, InstanceStatement, Lease, LeasedInstance, NodeStatement, RelayStatement, Revocations,
    ServiceStatement, UnixSeconds,
};
use weald_proto::table::{AcceptPolicy, LanePolicy};
use weald_proto::token::RelayToken;

use super::*;
use crate::tls::KeyHash;

mod limits;

const NOW: UnixSeconds = 1_000_000;

#[test]
fn what_each_may_sign_is_believed_and_is_news_once() {
    let mut world = World::new();
    let root = [
        Statement::Service(service(3)),
        Statement::Revocations(revocations(1)),
    ];
    let cluster = [
        Statement::Instance(instance(3)),
        Statement::Node(node(3)),
        Statement::Relay(relay(3)),
        Statement::Lease(lease(3)),
    ];
    let signed: Vec<_> = root
        .iter()
        .map(|it| (it, world.by_root(it)))
        .chain(cluster.iter().map(|it| (it, world.by_munich(it))))
        .collect();
    for news in [News::New, News::Same] {
        let before = world.judge.changes();
        for (statement, signed) in &signed {
            let judged = world.judge.judge(signed, NOW).unwrap();
            assert_eq!(&judged.statement, *statement);
            assert_eq!(judged.news, news);
        }
        let grown = if news == News::New { 6 } else { 0 };
        assert_eq!(world.judge.changes() - before, grown);
    }
    let set = world.judge.revocation_set();
    assert!(set.keys.contains(&KeyHash([9; 32])));
    assert_eq!(world.judge.grants().count(), 2);
    let munich = world.judge.grant(&label("munich")).unwrap();
    assert_eq!(munich.owner, organisation("ops"));
}

#[test]
fn a_cluster_that_signs_a_foreign_address_or_organisation_is_refused() {
    let mut world = World::new();
    let mut addressed = instance(1);
    addressed.instance_ip = dual("10.30.2.7");
    assert_eq!(
        world.refuse_munich(&Statement::Instance(addressed)),
        "instance shop.prod.web.prod.3 claims address 10.30.2.7, which is in none of the 2 blocks of grant 5 of cluster munich"
    );
    let mut second = instance(1);
    second.instance_ip.v6 = Some("fdff:2::1".parse().unwrap());
    assert_eq!(
        world.refuse_munich(&Statement::Instance(second)),
        "instance shop.prod.web.prod.3 claims address fdff:2::1, which is in none of the 2 blocks of grant 5 of cluster munich"
    );
    let mut hosted = instance(1);
    hosted.organisation = organisation("beta");
    assert_eq!(
        world.refuse_munich(&Statement::Instance(hosted)),
        "instance shop.prod.web.prod.3 is of organisation beta, whose instances cluster munich may not host by grant 5"
    );
    let mut host = node(1);
    host.node_ip = dual("10.30.2.1");
    assert_eq!(
        world.refuse_munich(&Statement::Node(host)),
        "node munich/a1 claims address 10.30.2.1, which is in none of the 2 blocks of grant 5 of cluster munich"
    );
    let mut leased = lease(1);
    leased.node_ip = dual("10.30.2.1");
    assert_eq!(
        world.refuse_munich(&Statement::Lease(leased)),
        "the lease of node munich/a1 claims address 10.30.2.1, which is in none of the 2 blocks of grant 5 of cluster munich"
    );
    let mut leased = lease(1);
    leased.instances[1].instance_ip = dual("10.30.2.7");
    assert_eq!(
        world.refuse_munich(&Statement::Lease(leased)),
        "instance shop.prod.web.prod.4 claims address 10.30.2.7, which is in none of the 2 blocks of grant 5 of cluster munich"
    );
    let mut leased = lease(1);
    leased.instances[1].organisation = organisation("beta");
    assert_eq!(
        world.refuse_munich(&Statement::Lease(leased)),
        "instance shop.prod.web.prod.4 is of organisation beta, whose instances cluster munich may not host by grant 5"
    );
    // Nor may it remove what is another organisation's.
    let mut removed = removed_instance(1);
    removed.organisation = organisation("beta");
    assert_eq!(
        world.refuse_munich(&Statement::Instance(removed)),
        "instance shop.prod.web.prod.3 is of organisation beta, whose instances cluster munich may not host by grant 5"
    );
}

#[test]
fn an_instance_is_of_its_services_organisation() {
    let mut world = World::new();
    // Before root has said whose the service is, a cluster that hosts both may say either.
    let mut stolen = instance(7);
    stolen.organisation = organisation("second");
    world.believe_munich(&Statement::Instance(stolen.clone()));
    world.believe_root(&Statement::Service(service(1)));
    let text = "instance shop.prod.web.prod.3 is said to be of organisation second, but root says that its service is of acme";
    stolen.generation = 8;
    assert_eq!(world.refuse_munich(&Statement::Instance(stolen)), text);
    let mut leased = lease(1);
    leased.instances[0].organisation = organisation("second");
    assert_eq!(world.refuse_munich(&Statement::Lease(leased)), text);
    // What it had said is forgotten, so that it stands in nobody's way.
    world.believe_munich(&Statement::Instance(instance(1)));
}

#[test]
fn only_root_signs_what_is_roots() {
    let world = World::new();
    for (statement, subject) in [
        (
            Statement::Grant(world.grant("munich", 9)),
            "the grant of cluster munich",
        ),
        (
            Statement::Revocations(revocations(9)),
            "the list of the revoked",
        ),
        (Statement::Service(service(9)), "service shop.prod.web.prod"),
    ] {
        let text = format!("{subject} is root's to sign, not cluster munich's");
        let fault = sign_cluster(&world.munich, &statement).unwrap_err();
        assert_eq!(fault.to_string(), text);
        assert_eq!(World::new().refuse_forged(&statement), text);
    }
}

#[test]
fn only_its_cluster_signs_what_is_a_clusters() {
    let mut world = World::new();
    for (statement, subject) in [
        (
            Statement::Instance(instance(1)),
            "instance shop.prod.web.prod.3",
        ),
        (Statement::Node(node(1)), "node munich/a1"),
        (Statement::Relay(relay(1)), "relay munich/r1"),
        (Statement::Lease(lease(1)), "the lease of node munich/a1"),
    ] {
        let fault = sign_root(&world.root, &statement).unwrap_err();
        let text = format!("{subject} is its cluster's to sign, not root's");
        assert_eq!(fault.to_string(), text);
        let bytes = statement.encode().unwrap();
        let forged = Signed {
            signature: world.root.sign(&Signed::signed_bytes(&bytes)).unwrap(),
            statement: bytes.clone(),
            cluster: None,
        };
        assert_eq!(world.refuse(&forged), text);

        let fault = sign_cluster(&world.paris, &statement).unwrap_err();
        let text = format!("{subject} belongs to cluster munich, but cluster paris signs it");
        assert_eq!(fault.to_string(), text);
        let forged = Signed {
            signature: world.paris.sign(&Signed::signed_bytes(&bytes)).unwrap(),
            statement: bytes,
            cluster: Some(label("paris")),
        };
        assert_eq!(world.refuse(&forged), text);
    }
}

#[test]
fn signatures_are_by_the_signers_key_and_for_nothing_else() {
    let mut world = World::new();
    let statement = Statement::Instance(instance(1));
    let good = world.by_munich(&statement);
    let with = |signature| Signed {
        signature,
        ..good.clone()
    };
    let bytes = &good.statement;
    let text = "the statement was changed, or not signed by cluster munich's key";
    for forged in [
        with(world.paris.sign(&Signed::signed_bytes(bytes)).unwrap()),
        with(world.munich.sign(bytes).unwrap()),
        with(world.munich.sign(&RelayToken::signed_bytes(bytes)).unwrap()),
        with(Vec::new()),
        with(vec![0; 64]),
    ] {
        assert_eq!(world.refuse(&forged), text);
    }
    let claimed = Signed {
        cluster: None,
        ..good.clone()
    };
    assert_eq!(
        world.refuse(&claimed),
        "the statement was changed, or not signed by root's key"
    );
    let unknown = Signed {
        cluster: Some(label("berlin")),
        ..good.clone()
    };
    assert_eq!(
        world.refuse(&unknown),
        "no grant of root for cluster berlin is known here"
    );
    // Another root's grant is worth nothing here.
    let foreign = World::new().by_root(&Statement::Grant(world.grant("munich", 6)));
    assert_eq!(
        world.refuse(&foreign),
        "the statement was changed, or not signed by root's key"
    );
    // Signed, but no statement.
    let junk = Signed {
        signature: world.munich.sign(&Signed::signed_bytes(b"junk")).unwrap(),
        statement: b"junk".to_vec(),
        cluster: Some(label("munich")),
    };
    assert_eq!(
        world.refuse(&junk),
        "the statement of cluster munich cannot be read: not a protobuf message of the expected type"
    );
    world.judge.judge(&good, NOW).unwrap();
}

#[test]
fn lives_end() {
    let mut world = World::new();
    let signed = world.by_munich(&Statement::Instance(instance(1)));
    world.judge.judge(&signed, NOW).unwrap();
    let end = NOW + 1000;
    world.judge.judge(&signed, end - 1).unwrap();
    assert_eq!(
        world.judge.judge(&signed, end).unwrap_err(),
        StatementFault::GrantExpired {
            cluster: label("munich"),
            generation: 5,
            expired: end,
            now: end,
        }
    );
    let lease = world.by_munich(&Statement::Lease(lease(1)));
    world.judge.judge(&lease, NOW + 99).unwrap();
    assert_eq!(
        world
            .judge
            .judge(&lease, NOW + 100)
            .unwrap_err()
            .to_string(),
        "the lease of node munich/a1 expired at 1000100; it is now 1000100 (seconds since 1970)"
    );
    let mut old = world.grant("munich", 6);
    old.expires = NOW;
    let old = world.by_root(&Statement::Grant(old));
    assert_eq!(
        world.refuse(&old),
        "the grant of cluster munich expired at 1000000; it is now 1000000 (seconds since 1970)"
    );
}

#[test]
fn the_newest_grant_counts() {
    let mut world = World::new();
    let row = world.by_munich(&Statement::Instance(instance(1)));
    world.judge.judge(&row, NOW).unwrap();
    let older = world.by_root(&Statement::Grant(world.grant("munich", 4)));
    assert_eq!(
        world.refuse(&older),
        "the grant of cluster munich has generation 4, but generation 5 was seen before"
    );
    let mut other = world.grant("munich", 5);
    other.blocks.push("10.30.9.0/24".parse().unwrap());
    let other = world.by_root(&Statement::Grant(other));
    assert_eq!(
        world.refuse(&other),
        "the grant of cluster munich was said to be something else under the same generation 5"
    );
    let mut narrow = world.grant("munich", 6);
    narrow.organisations = vec![organisation("second")];
    world.believe_root(&Statement::Grant(narrow));
    assert_eq!(
        world.refuse(&row),
        "instance shop.prod.web.prod.3 is of organisation acme, whose instances cluster munich may not host by grant 6"
    );
    // It may take back what it said, and nothing more.
    world.believe_munich(&Statement::Instance(removed_instance(2)));
    let mut other = removed_instance(1);
    other.instance.number = 4;
    assert!(
        world
            .refuse_munich(&Statement::Instance(other))
            .contains("may not host by grant 6")
    );
    // A cluster with a new key.
    let mut rekeyed = world.grant("munich", 7);
    rekeyed.key = [3; 32];
    world.believe_root(&Statement::Grant(rekeyed));
    assert_eq!(
        world.refuse_munich(&Statement::Instance(instance(3))),
        "the statement was changed, or not signed by cluster munich's key"
    );
}

#[test]
fn the_revoked_are_refused() {
    let mut world = World::new();
    let key = world.munich.certificate().public_key().unwrap();
    let mut list = revocations(2);
    list.organisations = vec![organisation("acme")];
    world.believe_root(&Statement::Revocations(list.clone()));
    let revoked = |subject: &str| {
        format!("{subject} is of organisation acme, which is revoked since epoch 2 or before")
    };
    let instance_3 = "instance shop.prod.web.prod.3";
    assert_eq!(
        world.refuse_munich(&Statement::Instance(instance(1))),
        revoked(instance_3)
    );
    assert_eq!(
        world.refuse_munich(&Statement::Lease(lease(1))),
        revoked(instance_3)
    );
    let service = world.by_root(&Statement::Service(service(1)));
    assert_eq!(
        world.refuse(&service),
        revoked("service shop.prod.web.prod")
    );
    world.believe_munich(&Statement::Instance(removed_instance(1)));
    world.believe_munich(&Statement::Node(node(1)));
    let stale = world.by_root(&Statement::Revocations(revocations(1)));
    assert_eq!(
        world.refuse(&stale),
        "the list of the revoked has generation 1, but generation 2 was seen before"
    );

    list.epoch = 3;
    list.organisations = vec![organisation("ops")];
    world.believe_root(&Statement::Revocations(list.clone()));
    for statement in [Statement::Node(node(2)), Statement::Lease(lease(1))] {
        let text = world.refuse_munich(&statement);
        assert!(text.ends_with("of organisation ops, which is revoked since epoch 3 or before"));
    }

    list.epoch = 4;
    list.organisations.clear();
    list.keys.push(KeyHash::of_ed25519(&key).0);
    world.believe_root(&Statement::Revocations(list));
    let text = "the key of cluster munich is revoked since epoch 4 or before";
    assert_eq!(world.refuse_munich(&Statement::Node(node(2))), text);
    let grant = world.by_root(&Statement::Grant(world.grant("munich", 6)));
    assert_eq!(world.refuse(&grant), text);
    // The hash is that of the certificate's key, as the verifier of peers has it.
    let issued = world.munich.certificate().der.clone();
    let facts = crate::tls::Facts::parse(&issued).unwrap();
    assert_eq!(facts.spki_sha256, KeyHash::of_ed25519(&key));
}

#[test]
fn what_is_there_has_addresses_and_what_is_removed_has_none() {
    let mut world = World::new();
    let mut bare = service(1);
    bare.round_robin = Dual::default();
    let bare = world.by_root(&Statement::Service(bare));
    assert_eq!(
        world.refuse(&bare),
        "service shop.prod.web.prod is not removed, but has no address"
    );
    let mut gone = service(1);
    gone.removed = true;
    let gone = world.by_root(&Statement::Service(gone));
    assert_eq!(
        world.refuse(&gone),
        "service shop.prod.web.prod is removed, but has address 10.30.0.1"
    );

    let mut bare = instance(1);
    bare.instance_ip = Dual::default();
    let mut gone = instance(1);
    gone.removed = true;
    let mut bare_node = node(1);
    bare_node.node_ip = Dual::default();
    let mut gone_node = node(1);
    gone_node.removed = true;
    let mut bare_relay = relay(1);
    bare_relay.addresses.clear();
    let mut gone_relay = relay(1);
    gone_relay.removed = true;
    let mut bare_lease = lease(1);
    bare_lease.instances[0].instance_ip = Dual::default();
    for (statement, text) in [
        (
            Statement::Instance(bare),
            "instance shop.prod.web.prod.3 is not removed, but has no address",
        ),
        (
            Statement::Instance(gone),
            "instance shop.prod.web.prod.3 is removed, but has address 10.30.1.7",
        ),
        (
            Statement::Node(bare_node),
            "node munich/a1 is not removed, but has no address",
        ),
        (
            Statement::Node(gone_node),
            "node munich/a1 is removed, but has address 10.30.1.1",
        ),
        (
            Statement::Relay(bare_relay),
            "relay munich/r1 is not removed, but has no address",
        ),
        (
            Statement::Relay(gone_relay),
            "relay munich/r1 is removed, but has address 192.0.2.1",
        ),
        (
            Statement::Lease(bare_lease),
            "instance shop.prod.web.prod.3 is not removed, but has no address",
        ),
    ] {
        assert_eq!(world.refuse_munich(&statement), text);
    }
    let mut idle = lease(1);
    idle.instances.clear();
    world.believe_munich(&Statement::Lease(idle));
}

#[test]
fn replays_lose_across_a_restart() {
    let mut world = World::new();
    let old = world.by_munich(&Statement::Instance(instance(1)));
    let removed = world.by_munich(&Statement::Instance(removed_instance(2)));
    let leases = [1, 2].map(|epoch| world.by_munich(&Statement::Lease(lease(epoch))));
    let services = [1, 2].map(|number| world.by_root(&Statement::Service(service(number))));
    let lists = [1, 2].map(|epoch| world.by_root(&Statement::Revocations(revocations(epoch))));
    let grants = [6, 7].map(|number| {
        let grant = world.grant("munich", number);
        world.by_root(&Statement::Grant(grant))
    });
    for signed in [&old, &removed]
        .into_iter()
        .chain(&leases)
        .chain(&services)
        .chain(&lists)
        .chain(&grants)
    {
        assert_eq!(world.judge.judge(signed, NOW).unwrap().news, News::New);
    }

    let kept = serde_json::to_string(&world.judge.memory()).unwrap();
    let memory: Memory = serde_json::from_str(&kept).unwrap();
    let mut judge = Judge::restore(world.root.trust(), memory.clone()).unwrap();
    assert_eq!(judge.memory(), memory);
    assert_eq!(judge.changes(), 0);
    for stale in [&old, &leases[0], &services[0], &lists[0], &grants[0]] {
        let fault = judge.judge(stale, NOW).unwrap_err();
        assert!(matches!(fault, StatementFault::Stale { .. }), "{fault}");
    }
    for newest in [&removed, &leases[1], &services[1], &lists[1], &grants[1]] {
        assert_eq!(judge.judge(newest, NOW).unwrap().news, News::Same);
    }
    let changed = Statement::Instance(instance(2));
    let changed = sign_cluster(&world.munich, &changed).unwrap();
    assert_eq!(
        judge.judge(&changed, NOW).unwrap_err().to_string(),
        "instance shop.prod.web.prod.3 was said to be something else under the same generation 2"
    );
    let next = sign_cluster(&world.munich, &Statement::Instance(instance(3))).unwrap();
    assert_eq!(judge.judge(&next, NOW).unwrap().news, News::New);
}

#[test]
fn a_memory_is_of_its_root_and_holds_what_it_should() {
    let mut world = World::new();
    let memory = world.judge.memory();
    let other = World::new();
    assert_eq!(
        Judge::restore(other.root.trust(), memory.clone())
            .unwrap_err()
            .to_string(),
        "what is remembered is not this root's word: the statement was changed, or not signed by root's key"
    );
    let mut changed = memory.clone();
    changed.grants[0].statement[5] ^= 1;
    assert!(Judge::restore(world.root.trust(), changed).is_err());
    let mut wrong = memory;
    wrong.revocations = Some(world.by_root(&Statement::Service(service(1))));
    assert_eq!(
        Judge::restore(world.root.trust(), wrong)
            .unwrap_err()
            .to_string(),
        "service shop.prod.web.prod is remembered where a grant or the list of the revoked has to be"
    );
    assert!(serde_json::from_str::<Memory>("{\"grants\":[],\"seen\":[],\"more\":1}").is_err());
    world.believe_munich(&Statement::Node(node(1)));
}

#[test]
fn what_nobody_could_pass_on_is_not_signed() {
    let world = World::new();
    let mut long = lease(1);
    long.instances = vec![long.instances[0].clone(); 2000];
    let fault = sign_cluster(&world.munich, &Statement::Lease(long)).unwrap_err();
    let text = fault.to_string();
    assert!(
        text.starts_with("the statement on the lease of node munich/a1 has ")
            && text.ends_with(" bytes, at most 65536 can be passed on"),
        "{text}"
    );
    // The same statement makes the same bytes.
    let statement = Statement::Node(node(1));
    assert_eq!(world.by_munich(&statement), world.by_munich(&statement));
}

proptest! {
    #[test]
    fn a_changed_byte_never_passes(
        which in 0_usize..8,
        at in any::<prop::sample::Index>(),
        change in 1_u8..,
    ) {
        let mut world = World::new();
        let mut signed = [
            world.by_root(&Statement::Grant(world.grant("munich", 6))),
            world.by_root(&Statement::Revocations(revocations(1))),
            world.by_root(&Statement::Service(service(1))),
            world.by_munich(&Statement::Instance(instance(1))),
            world.by_munich(&Statement::Instance(removed_instance(1))),
            world.by_munich(&Statement::Node(node(1))),
            world.by_munich(&Statement::Relay(relay(1))),
            world.by_munich(&Statement::Lease(lease(1))),
        ][which].clone();
        let whole = signed.statement.len() + signed.signature.len();
        let at = at.index(whole);
        match at.checked_sub(signed.statement.len()) {
            None => signed.statement[at] ^= change,
            Some(at) => signed.signature[at] ^= change,
        }
        let before = world.judge.memory();
        let fault = world.judge.judge(&signed, NOW).unwrap_err();
        prop_assert!(matches!(fault, StatementFault::Signature(_)), "{}", fault);
        prop_assert_eq!(world.judge.memory(), before);
    }
}

/// A root with two clusters, and a judge that knows their grants.
struct World {
    root: RootAuthority,
    munich: ClusterAuthority,
    paris: ClusterAuthority,
    judge: Judge,
}

impl World {
    fn new() -> Self {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
        let root = RootAuthority::create(&label("main"), now).unwrap();
        let munich = root.cluster(&label("munich"), now).unwrap();
        let paris = root.cluster(&label("paris"), now).unwrap();
        let judge = Judge::new(root.trust());
        let mut world = Self {
            root,
            munich,
            paris,
            judge,
        };
        for cluster in ["munich", "paris"] {
            world.believe_root(&Statement::Grant(world.grant(cluster, 5)));
        }
        world
    }

    fn grant(&self, cluster: &str, generation: u64) -> Grant {
        let (authority, blocks, organisations) = match cluster {
            "munich" => (
                &self.munich,
                ["10.30.1.0/24", "fdff:1::/64"],
                &["acme", "second"][..],
            ),
            _ => (&self.paris, ["10.30.2.0/24", "fdff:2::/64"], &["beta"][..]),
        };
        Grant {
            cluster: label(cluster),
            key: authority.certificate().public_key().unwrap(),
            generation,
            blocks: blocks.map(|block| block.parse().unwrap()).to_vec(),
            organisations: organisations.iter().copied().map(organisation).collect(),
            owner: organisation("ops"),
            expires: NOW + 1000,
        }
    }

    fn by_root(&self, statement: &Statement) -> Signed {
        sign_root(&self.root, statement).unwrap()
    }

    fn by_munich(&self, statement: &Statement) -> Signed {
        sign_cluster(&self.munich, statement).unwrap()
    }

    fn believe_root(&mut self, statement: &Statement) {
        let signed = self.by_root(statement);
        assert_eq!(self.judge.judge(&signed, NOW).unwrap().news, News::New);
    }

    fn believe_munich(&mut self, statement: &Statement) {
        let signed = self.by_munich(statement);
        assert_eq!(self.judge.judge(&signed, NOW).unwrap().news, News::New);
    }

    /// What is said of a statement that must be refused, and must leave no trace.
    fn refuse(&mut self, signed: &Signed) -> String {
        let before = self.judge.memory();
        let fault = self.judge.judge(signed, NOW).unwrap_err();
        assert_eq!(self.judge.memory(), before);
        fault.to_string()
    }

    fn refuse_munich(&mut self, statement: &Statement) -> String {
        let signed = self.by_munich(statement);
        self.refuse(&signed)
    }

    /// Refuses what munich has signed although it may not.
    fn refuse_forged(&mut self, statement: &Statement) -> String {
        let bytes = statement.encode().unwrap();
        let forged = Signed {
            signature: self.munich.sign(&Signed::signed_bytes(&bytes)).unwrap(),
            statement: bytes,
            cluster: Some(label("munich")),
        };
        self.refuse(&forged)
    }
}

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

fn organisation(text: &str) -> Organisation {
    Organisation(label(text))
}

fn dual(v4: &str) -> Dual {
    Dual {
        v4: Some(v4.parse().unwrap()),
        v6: None,
    }
}

fn service(generation: u64) -> ServiceStatement {
    ServiceStatement {
        name: "shop.prod.web.prod".parse().unwrap(),
        organisation: organisation("acme"),
        generation,
        removed: false,
        round_robin: dual("10.30.0.1"),
        closest: Dual::default(),
        lane: LanePolicy::Auto,
        accept: AcceptPolicy::Late,
    }
}

fn instance(generation: u64) -> InstanceStatement {
    InstanceStatement {
        instance: "shop.prod.web.prod.3".parse().unwrap(),
        organisation: organisation("acme"),
        generation,
        removed: false,
        node: "munich/a1".parse().unwrap(),
        instance_ip: Dual {
            v4: Some([10, 30, 1, 7].into()),
            v6: Some("fdff:1::7".parse().unwrap()),
        },
    }
}

fn removed_instance(generation: u64) -> InstanceStatement {
    InstanceStatement {
        removed: true,
        instance_ip: Dual::default(),
        ..instance(generation)
    }
}

fn node(generation: u64) -> NodeStatement {
    NodeStatement {
        node: "munich/a1".parse().unwrap(),
        generation,
        removed: false,
        node_ip: dual("10.30.1.1"),
        addresses: Vec::new(),
    }
}

fn relay(generation: u64) -> RelayStatement {
    RelayStatement {
        relay: "munich/r1".parse().unwrap(),
        generation,
        removed: false,
        addresses: vec!["192.0.2.1:4000".parse().unwrap()],
    }
}

fn lease(epoch: u64) -> Lease {
    let leased = |number: u32| LeasedInstance {
        instance: format!("shop.prod.web.prod.{number}").parse().unwrap(),
        organisation: organisation("acme"),
        generation: 1,
        instance_ip: dual(&format!("10.30.1.{}", 4 + number)),
    };
    Lease {
        node: "munich/a1".parse().unwrap(),
        epoch,
        expires: NOW + 100,
        node_ip: dual("10.30.1.1"),
        instances: vec![leased(3), leased(4)],
    }
}

fn revocations(epoch: u64) -> Revocations {
    Revocations {
        epoch,
        keys: vec![[9; 32]],
        organisations: Vec::new(),
    }
}
