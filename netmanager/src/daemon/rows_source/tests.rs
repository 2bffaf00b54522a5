//! What is believed, what is kept on disk, and what a new grant or a revocation takes back.

use std::time::SystemTime;

use weald_proto::addr::Pools;
use weald_proto::id::{Identity, Organisation, RelayId};
use weald_proto::name::Zone;
use weald_proto::statement::{
    Grant, InstanceStatement, LeasedInstance, NodeStatement, Revocations, ServiceStatement,
};
use weald_proto::table::{AcceptPolicy, LanePolicy};
use weald_trust::pki::{ClusterAuthority, RootAuthority, unix_time};
use weald_trust::statement::{sign_cluster, sign_root};
use weald_trust::tls::Clock;

use super::*;

/// A root, its cluster `home`, and the node `home/a` with a state folder.
struct World {
    root: RootAuthority,
    home: ClusterAuthority,
    credentials: Credentials,
    folder: tempfile::TempDir,
    now: u64,
}

impl World {
    fn new() -> Self {
        let now = SystemTime::now();
        let root = RootAuthority::create(&label("lab"), now).unwrap();
        let home = root.cluster(&label("home"), now).unwrap();
        let issued = home.issue(&Identity::Node(node("a")), now).unwrap();
        Self {
            credentials: issued.credentials(None, Clock::system()).unwrap(),
            root,
            home,
            folder: tempfile::tempdir().unwrap(),
            now: unix_time(now).as_secs(),
        }
    }

    fn load(&self) -> (StateDir, RowsSource) {
        let state = StateDir::open(&self.folder.path().join("state")).unwrap();
        let source = RowsSource::load(&state, &node("a"), &self.credentials);
        (state, source)
    }

    fn by_root(&self, statement: Statement) -> Signed {
        sign_root(&self.root, &statement).unwrap()
    }

    fn by_home(&self, statement: Statement) -> Signed {
        sign_cluster(&self.home, &statement).unwrap()
    }

    fn grant(&self, generation: u64, block: &str) -> ClusterToNet {
        ClusterToNet::Grant(self.by_root(Statement::Grant(Grant {
            cluster: label("home"),
            key: self.home.certificate().public_key().unwrap(),
            generation,
            blocks: vec![block.parse().unwrap()],
            organisations: vec![Organisation(label("acme"))],
            owner: Organisation(label("acme")),
            expires: self.now + 600,
        })))
    }

    fn instance(&self, generation: u64) -> Signed {
        self.by_home(Statement::Instance(InstanceStatement {
            instance: "shop.lab.web.lab.1".parse().unwrap(),
            organisation: Organisation(label("acme")),
            generation,
            removed: false,
            node: node("b"),
            instance_ip: dual("10.30.1.1"),
        }))
    }

    fn lease(&self, name: &str, instances: Vec<LeasedInstance>) -> Signed {
        self.lease_in(7, name, instances)
    }

    fn lease_in(&self, epoch: u64, name: &str, instances: Vec<LeasedInstance>) -> Signed {
        self.by_home(Statement::Lease(Lease {
            node: node(name),
            epoch,
            expires: self.now + 600,
            node_ip: dual("10.30.0.9"),
            instances,
        }))
    }

    fn rows(&self) -> ClusterToNet {
        let service = self.by_root(Statement::Service(ServiceStatement {
            name: "shop.lab.web.lab".parse().unwrap(),
            organisation: Organisation(label("acme")),
            generation: 1,
            removed: false,
            round_robin: dual("10.30.9.1"),
            closest: dual("10.30.9.2"),
            lane: LanePolicy::Auto,
            accept: AcceptPolicy::Late,
        }));
        let row = self.by_home(Statement::Node(NodeStatement {
            node: node("b"),
            generation: 1,
            removed: false,
            node_ip: dual("10.30.0.2"),
            addresses: Vec::new(),
        }));
        ClusterToNet::Rows {
            complete: vec!["shop.lab".parse().unwrap()],
            rows: vec![service, row, self.instance(5)],
            more: false,
        }
    }

    /// A source that has heard everything.
    fn fed(&self) -> (StateDir, RowsSource) {
        let (state, mut source) = self.load();
        for message in [
            ClusterToNet::Welcome {
                version: VERSION,
                observed: "192.0.2.1:7".parse().unwrap(),
                pools: Pools::default(),
                zones: Zone::defaults(),
                node_ip: dual("10.30.0.1"),
                relay_token: vec![1, 2, 3],
            },
            self.grant(1, "10.30.0.0/20"),
            ClusterToNet::Lease(self.lease("a", Vec::new())),
            self.rows(),
            ClusterToNet::Unknown("none.lab".parse().unwrap()),
        ] {
            source.hear(message, self.now);
        }
        (state, source)
    }
}

#[test]
fn a_restart_finds_what_was_heard() {
    let world = World::new();
    let (state, mut source) = world.fed();
    let before = source.build(&[]);
    assert_eq!(before.0.instances.len(), 1);
    assert!(source.hear_peer(
        &node("c"),
        PeerToPeer::Lease(world.lease("c", Vec::new())),
        world.now
    ));
    let before = source.build(&[]);
    source.keep_memory(&state);
    source.keep_rows(&state);
    drop(state);

    let (state, mut again) = world.load();
    assert_eq!(again.build(&[]), before);
    assert_eq!(again.relay_token(), Some(&[1, 2, 3][..]));
    assert_eq!(again.epochs(), (7, 0));
    assert_eq!(again.shown(&node("a")), source.shown(&node("a")));

    // What was believed before the restart is not undone by a replay.
    let older = world.instance(4);
    again.hear(
        ClusterToNet::Rows {
            complete: Vec::new(),
            rows: vec![older.clone()],
            more: false,
        },
        world.now,
    );
    again.hear(
        ClusterToNet::Rows {
            complete: vec!["shop.lab".parse().unwrap()],
            rows: vec![older],
            more: false,
        },
        world.now,
    );
    let (table, _) = again.build(&[]);
    assert_eq!((table.services.len(), table.instances.len()), (0, 0));
    drop(state);
}

#[test]
fn rows_in_parts_are_taken_as_one() {
    let world = World::new();
    let (_state, mut source) = world.fed();
    let there = |source: &RowsSource| {
        let table = source.build(&[]).0;
        (table.services.len(), table.instances.len())
    };
    let ClusterToNet::Rows { rows, complete, .. } = world.rows() else {
        unreachable!()
    };
    let mut hear = |rows: &[Signed], more: bool| {
        let message = ClusterToNet::Rows {
            complete: if more { Vec::new() } else { complete.clone() },
            rows: rows.to_vec(),
            more,
        };
        source.hear(message, world.now);
        there(&source)
    };
    // The service, its node, its instance.
    assert_eq!(hear(&rows[..2], true), (1, 1));
    assert_eq!(hear(&rows[2..], false), (1, 1));
    assert_eq!(hear(&rows[..1], true), (1, 1));
    assert_eq!(hear(&rows[1..2], false), (1, 0));
    // Another session begins anew.
    assert_eq!(hear(&rows[2..], true), (1, 0));
    let welcome = source.welcome.clone().unwrap();
    source.hear(welcome, world.now);
    let message = ClusterToNet::Rows {
        complete: complete.clone(),
        rows: rows[..2].to_vec(),
        more: false,
    };
    source.hear(message, world.now);
    assert_eq!(there(&source), (1, 0));
}

#[test]
fn damaged_files_cost_what_they_held_and_no_start() {
    let world = World::new();
    let (state, mut source) = world.fed();
    source.keep_memory(&state);
    source.keep_rows(&state);
    drop(state);
    for name in ["rows", "memory"] {
        let path = world.folder.path().join("state").join(name);
        let bytes = std::fs::read(&path).unwrap();
        for damaged in [
            &bytes[..bytes.len() / 2],
            b"\xff\xff\xff\xff",
            b"\0\0\0\x01x",
        ] {
            std::fs::write(&path, damaged).unwrap();
            let (_state, source) = world.load();
            assert!(source.build(&[]).0.check().is_ok());
        }
        std::fs::write(&path, bytes).unwrap();
    }
    let (_state, source) = world.load();
    assert_eq!(source.build(&[]).0.instances.len(), 1);
}

#[test]
fn a_smaller_grant_and_a_revoked_cluster_take_back_what_was_believed() {
    let world = World::new();
    let (_state, mut source) = world.fed();
    source.hear(world.grant(2, "10.30.0.0/24"), world.now);
    let (table, _) = source.build(&[]);
    assert_eq!((table.nodes.len(), table.instances.len()), (2, 0));

    let key = world.home.certificate().public_key().unwrap();
    let revoked = world.by_root(Statement::Revocations(Revocations {
        epoch: 3,
        keys: vec![KeyHash::of_ed25519(&key).0],
        organisations: Vec::new(),
    }));
    assert!(source.hear_peer(&node("b"), PeerToPeer::Revocations(revoked), world.now));
    assert_eq!(source.revoked_clusters(), [label("home")]);
    assert_eq!(source.build(&[]).0.nodes.len(), 1, "only this node itself");
    assert_eq!(source.epochs().1, 3);
}

#[test]
fn a_peer_that_shows_an_old_lease_gets_nothing_back_not_even_after_a_restart() {
    let world = World::new();
    let (state, mut source) = world.fed();
    let moved = LeasedInstance {
        instance: "shop.lab.web.lab.1".parse().unwrap(),
        organisation: Organisation(label("acme")),
        generation: 6,
        instance_ip: dual("10.30.1.1"),
    };
    let old = || PeerToPeer::Lease(world.lease_in(7, "c", vec![moved.clone()]));
    let new = PeerToPeer::Lease(world.lease_in(8, "c", Vec::new()));
    let here = |source: &RowsSource| {
        let (table, extras) = source.build(&[]);
        let of_c = extras.leased.iter().filter(|it| it.node == node("c"));
        let on_c = table.instances.iter().filter(|it| it.node == node("c"));
        of_c.filter(|it| it.instance.is_some()).count() + on_c.count()
    };
    assert!(source.hear_peer(&node("c"), old(), world.now));
    assert!(here(&source) > 0);
    assert!(source.hear_peer(&node("c"), new, world.now));
    assert_eq!(here(&source), 0);
    assert!(!source.hear_peer(&node("c"), old(), world.now));
    assert_eq!(here(&source), 0);
    source.keep_memory(&state);
    source.keep_rows(&state);
    drop((state, source));
    let (_state, mut again) = world.load();
    assert!(!again.hear_peer(&node("c"), old(), world.now));
    assert_eq!(here(&again), 0);
}

#[test]
fn a_relay_tells_who_is_revoked_and_nothing_else() {
    let world = World::new();
    let (_state, mut source) = world.fed();
    let relay: RelayId = "home/r1".parse().unwrap();
    let list = |epoch| {
        world.by_root(Statement::Revocations(Revocations {
            epoch,
            ..Revocations::default()
        }))
    };
    assert!(source.hear_relay(&relay, &list(3), world.now));
    let newest = source.revoked();
    assert_eq!((newest.epoch, newest.list), (3, Some(list(3))));
    let mut forged = list(4);
    forged.signature[0] ^= 1;
    // The same list once more is nothing to act on.
    for wrong in [list(3), list(2), forged, world.lease("b", Vec::new())] {
        assert!(!source.hear_relay(&relay, &wrong, world.now));
        assert_eq!(source.epochs().1, 3);
    }
    assert_eq!(source.build(&[]).0.nodes.len(), 2);
}

#[test]
fn peers_show_only_what_is_theirs() {
    let world = World::new();
    let (_state, mut source) = world.fed();
    let mut show = |peer: &str, signed: Signed| {
        source.hear_peer(&node(peer), PeerToPeer::Lease(signed), world.now)
    };
    assert!(!show("c", world.lease("b", Vec::new())), "another's lease");
    assert!(!show("c", world.instance(9)), "a row");
    let foreign = LeasedInstance {
        instance: "shop.lab.web.lab.2".parse().unwrap(),
        organisation: Organisation(label("acme")),
        generation: 1,
        instance_ip: dual("10.30.77.1"),
    };
    assert!(
        !show("c", world.lease("c", vec![foreign])),
        "outside the grant"
    );
    let mut forged = world.lease("c", Vec::new());
    forged.signature[0] ^= 1;
    assert!(!show("c", forged), "a wrong signature");
    assert!(show("c", world.lease("c", Vec::new())));
    assert!(!show("c", world.lease("c", Vec::new())), "nothing new");
}

fn node(name: &str) -> NodeId {
    NodeId::new(label("home"), label(name))
}

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

fn dual(v4: &str) -> Dual {
    Dual {
        v4: Some(v4.parse().unwrap()),
        v6: None,
    }
}
