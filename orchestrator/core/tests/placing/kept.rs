//! What root has acknowledged is on its disk: another that takes it up knows as much.

use super::*;

/// Root as it would be if it was started now from its disk.
fn restored(tiers: &Tiers) -> Root {
    let trust = Box::new(Names(None));
    let root = Root::restore(Plan::default(), trust, &tiers.disk.records(), tiers.at());
    root.unwrap().0
}

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
        let kept = restored(tiers);
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
    assert_eq!(explained(&tiers, &restored(&tiers), &large), text);
}
