//! What root has acknowledged is on its disk: another that takes it up knows as much.

use orchestrator_core::root::Distrusted;
use weald_proto::control::RootToCluster;

use super::*;

fn explained(tiers: &Tiers, root: &Root, instance: &InstanceId) -> String {
    let known = root.instance(instance).unwrap();
    known.history.explain(instance, tiers.at())
}

#[test]
fn a_phase_that_changes_alone_is_kept() {
    let mut tiers = Tiers::new(&[("munich", &[("a", 4000, 4000)])]);
    let mut draft = draft("shop", 500, 400);
    draft.services[0].spec.listens = vec![80];
    let instance = tiers.deploy(draft);
    let phases = |tiers: &Tiers| {
        let kept = tiers.restored_root();
        [&tiers.root, &kept].map(|root| root.instance(&instance).unwrap().phase())
    };
    assert_eq!(phases(&tiers), [Phase::Creating; 2]);
    // Its detail, node and addresses stay as they are.
    tiers.say_of_ports(RuntimeEvent::Listens);
    assert_eq!(phases(&tiers), [Phase::Running; 2]);
}

#[test]
fn reasons_that_change_while_it_waits_are_kept() {
    let mut tiers = Tiers::new(&[("munich", &[("a", 4000, 4000)])]);
    let large = tiers.deploy(draft("large", 5000, 400));
    assert_eq!(tiers.phase(&large), Phase::Requested);
    tiers.pass(Duration::from_secs(3));
    // It goes on waiting, for more.
    tiers.deploy(draft("shop", 1000, 400));
    tiers.pass(Duration::from_secs(3));
    assert_eq!(tiers.phase(&large), Phase::Requested);
    let text = explained(&tiers, &tiers.root, &large);
    let figures = "processors (1/1000) on one node: 5000 needed, 3000 free";
    assert!(text.contains(figures), "{text}");
    assert_eq!(explained(&tiers, &tiers.restored_root(), &large), text);
}

#[test]
fn a_node_takes_as_many_instances_as_its_lease_can_name() {
    let mut tiers = Tiers::new(&[("munich", &[("a", 4000, 4000)])]);
    let done = Command::Apply(draft("shop", 1, 1), organisation("acme"));
    let service = tiers.command(done).unwrap().services[0].clone();
    let scale = Command::Scale(service.clone(), 257);
    tiers.command(scale).unwrap();
    tiers.pass(Duration::from_secs(3));
    let waiting = |tiers: &Tiers| {
        let all = tiers.root.instances();
        let waiting = all.filter(|it| it.phase() != Phase::Running);
        waiting.map(|it| it.id.clone()).collect::<Vec<_>>()
    };
    let [last] = waiting(&tiers).try_into().unwrap();
    let text = explained(&tiers, &tiers.root, &last);
    let figures = "  munich/a: instances (256 per node): 1 needed, 0 free\n";
    assert!(text.contains(figures), "{text}");
    let lease = tiers.clusters[&label("munich")].lease(&label("a")).unwrap();
    assert_eq!(lease.instances.len(), 256);
    // Another one ends, and it goes there.
    let first = tiers.root.instances().find(|it| it.id != last).unwrap();
    let end = Command::Undeploy(service, Some(first.id.number));
    tiers.command(end).unwrap();
    tiers.pass(Duration::from_secs(10));
    assert_eq!(waiting(&tiers), []);
}

#[test]
fn who_cannot_be_told_of_is_not_revoked() {
    let mut tiers = Tiers::new(&[("munich", &[("a", 4000, 4000)])]);
    let of = |number: u32| {
        let mut key = [1; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        key
    };
    let revoke = |tiers: &mut Tiers, who| tiers.command(Command::Revoke(who)).map(drop);
    let same = |tiers: &Tiers| {
        let kept = tiers.restored_root().revocations();
        assert_eq!(kept, tiers.root.revocations());
        kept
    };
    for number in 0..1500 {
        revoke(&mut tiers, Distrusted::Key(of(number))).unwrap();
    }
    let error = revoke(&mut tiers, Distrusted::Key(of(1500))).unwrap_err();
    assert!(matches!(error, CommandError::TooManyRevoked(1500)));
    assert_eq!(same(&tiers).keys.len(), 1500);
    // Twice is once, and there is room for those that stand for many.
    revoke(&mut tiers, Distrusted::Key(of(0))).unwrap();
    let long = (0..1000).map(|number| format!("{number:063}"));
    let short = (0..1000).map(|number| number.to_string());
    let mut why = None;
    for name in long.chain(short) {
        let who = Distrusted::Organisation(organisation(&name));
        let refused = revoke(&mut tiers, who).err();
        why = refused.filter(|_| name.len() < 63).or(why);
    }
    let text = why.unwrap().to_string();
    let start = "nobody more can be revoked, nothing was changed: ";
    assert!(text.starts_with(start), "{text}");
    let list = same(&tiers);
    assert!(list.organisations.len() > 200);
    // What was not told has not begun: the cluster is still there.
    let remove = Command::RemoveCluster(label("munich"));
    assert!(matches!(
        tiers.command(remove),
        Err(CommandError::Untold(_))
    ));
    let revoke = Command::Revoke(Distrusted::Cluster(label("munich")));
    assert!(matches!(
        tiers.command(revoke),
        Err(CommandError::Untold(_))
    ));
    assert_eq!(same(&tiers), list);
    let shop = tiers.deploy(draft("shop", 500, 400));
    assert_eq!(tiers.host(&shop), "munich/a");
}

/// Nobody takes up a grant whose key is revoked: what takes the addresses away has to come before.
#[test]
fn the_grant_of_a_removed_cluster_is_withdrawn_before_its_key_is_revoked() {
    let mut tiers = Tiers::new(&[("munich", &[]), ("ulm", &[])]);
    let remove = Command::RemoveCluster(label("munich"));
    let now = tiers.at();
    let (step, _) = tiers.root.command(remove, &Scope::All, now).unwrap();
    let told = step.effects.iter().filter_map(|effect| match effect {
        root::Effect::ToCluster(name, RootToCluster::Grant(_)) if *name == label("ulm") => {
            Some("grant")
        }
        root::Effect::ToCluster(name, RootToCluster::Revocations(_)) if *name == label("ulm") => {
            Some("revocations")
        }
        root::Effect::ToCluster(..)
        | root::Effect::CloseCluster(..)
        | root::Effect::Fault(_)
        | root::Effect::Logs { .. } => None,
    });
    assert_eq!(Vec::from_iter(told), ["grant", "revocations"]);
}
