//! Rows that are more than one message takes, and those of what is gone for good.

use orchestrator_core::cluster::LEASE_LIFE;
use weald_proto::control::RootToCluster;

use super::*;

/// Munich has no room, and its netmanager wants what runs in ulm.
fn shop_in_ulm() -> (Tiers, InstanceId) {
    let sites: [(&str, &[Host]); 2] = [
        ("munich", &[("a", 100, 100)]),
        ("ulm", &[("b", 4000, 4000)]),
    ];
    let mut tiers = Tiers::new(&sites);
    let instance = tiers.deploy(draft("shop", 500, 400));
    assert_eq!(tiers.host(&instance), "ulm/b");
    tiers.join("munich/a", "shop.prod");
    tiers.pass(Duration::from_secs(1));
    (tiers, instance)
}

/// The rows that munich's netmanager has been told since this was last asked.
fn signed(tiers: &mut Tiers) -> Vec<Signed> {
    signed_rows(&tiers.told("munich/a")).cloned().collect()
}

fn is_instance(row: &Signed) -> bool {
    matches!(
        Statement::decode(&row.statement),
        Ok(Statement::Instance(_))
    )
}

fn part(complete: bool, rows: &[Signed], more: bool) -> cluster::Input {
    let all: ApplicationName = "shop.prod".parse().unwrap();
    cluster::Input::Root(RootToCluster::Rows {
        complete: complete.then_some(all).into_iter().collect(),
        rows: rows.to_vec(),
        more,
    })
}

/// The netmanager is told the application anew, without instances.
#[track_caller]
fn assert_only_others_are_told(tiers: &mut Tiers) {
    let left = signed(tiers);
    assert!(
        !left.is_empty() && !left.iter().any(is_instance),
        "{left:?}"
    );
}

#[test]
fn rows_of_an_application_may_come_in_parts() {
    let (mut tiers, _) = shop_in_ulm();
    let told = signed(&mut tiers);
    let (instances, others): (Vec<_>, Vec<_>) = told.into_iter().partition(is_instance);
    assert_eq!(instances.len(), 1);
    // What is in any of the parts is there still.
    tiers.tell_cluster("munich", part(false, &instances, true));
    tiers.tell_cluster("munich", part(true, &others, false));
    assert_eq!(signed(&mut tiers), []);
    // What is in none of them is gone, and the application is told whole again.
    tiers.tell_cluster("munich", part(false, &others, true));
    assert_eq!(signed(&mut tiers), []);
    tiers.tell_cluster("munich", part(true, &[], false));
    assert_only_others_are_told(&mut tiers);
}

#[test]
fn parts_of_an_earlier_connection_do_not_count() {
    let (mut tiers, _) = shop_in_ulm();
    let told = signed(&mut tiers);
    let instances: Vec<_> = told
        .iter()
        .filter(|row| is_instance(row))
        .cloned()
        .collect();
    tiers.tell_cluster("munich", part(false, &instances, true));
    // Both see the connection go and a new one come.
    let root = |input: fn(Label) -> root::Input| Event::Root(input(label("munich")));
    tiers
        .queue
        .push_back(root(root::Input::ClusterDisconnected));
    tiers.tell_cluster("munich", cluster::Input::RootDisconnected);
    let others: Vec<_> = told.into_iter().filter(|row| !is_instance(row)).collect();
    tiers.held = Some(Vec::new());
    tiers.tell_cluster("munich", cluster::Input::RootConnected);
    // What is said before the welcome was meant for the former one, and the grants come behind that.
    tiers.tell_cluster("munich", part(true, &others, false));
    assert_eq!(signed(&mut tiers), []);
    let welcome = RootToCluster::Welcome {
        version: weald_proto::control::VERSION,
    };
    tiers.tell_cluster("munich", cluster::Input::Root(welcome));
    tiers.tell_cluster("munich", part(true, &others, false));
    assert_only_others_are_told(&mut tiers);
}

#[test]
fn rows_of_what_is_gone_are_forgotten_when_no_older_one_can_come_back() {
    let (mut tiers, instance) = shop_in_ulm();
    let service = tiers.root.services().next().unwrap().id.clone();
    let end = Command::Undeploy(service, Some(instance.number));
    tiers.command(end).unwrap();
    tiers.pass(Duration::from_secs(5));
    let of_instances = |tiers: &mut Tiers| -> usize {
        signed(tiers).iter().filter(|row| is_instance(row)).count()
    };
    // Whoever asks anew is told that it is gone.
    tiers.told("munich/a");
    tiers.join("munich/a", "shop.prod");
    assert_eq!(of_instances(&mut tiers), 1);
    for _ in 0..2 {
        tiers.now += LEASE_LIFE;
        tiers.pass(Duration::from_secs(1));
    }
    tiers.told("munich/a");
    tiers.join("munich/a", "shop.prod");
    assert_eq!(of_instances(&mut tiers), 0);
}
