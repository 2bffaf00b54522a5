//! What the two sides must not forget or mistake, step by step; `tests/sync.rs` has the histories.

use weald_proto::control::{Generation, InstanceReport, Phase};
use weald_proto::name::InstanceId;

use super::*;
use crate::samples;

fn instance() -> InstanceId {
    let service = samples::service("web", "prod");
    InstanceId { service, number: 1 }
}

const fn run(generation: Generation) -> Want<()> {
    let what = ();
    Want::Run { generation, what }
}

fn report(generation: Generation, phase: Phase) -> InstanceReport {
    InstanceReport::new(instance(), generation, phase)
}

#[test]
fn who_refuses_a_life_may_still_have_the_one_before() {
    let gone = Want::Gone { generation: 1 };
    for before in [run(1), gone] {
        let mut wants = Wants::default();
        wants.set(instance(), before);
        wants.set(instance(), run(2));
        assert_eq!(wants.withdraw(&instance(), 2), Some(1));
        assert_eq!(wants.get(&instance()), None);
    }
}

#[test]
fn what_was_heard_of_a_life_before_counts_when_the_next_is_refused() {
    let mut wants = Wants::default();
    wants.connected();
    wants.set(instance(), run(2));
    wants.handle_report(1, true, &[report(1, Phase::Running)]);
    assert_eq!(wants.withdraw(&instance(), 2), Some(1));
}

#[test]
fn a_life_that_was_taken_has_replaced_the_one_before() {
    let mut wants = Wants::default();
    wants.connected();
    wants.set(instance(), run(1));
    wants.set(instance(), run(2));
    wants.handle_report(1, true, &[report(2, Phase::Creating)]);
    assert_eq!(wants.withdraw(&instance(), 2), None);
    // And of a later want a refusal of this one says nothing.
    wants.set(instance(), run(3));
    assert_eq!(wants.withdraw(&instance(), 2), None);
    assert_eq!(wants.get(&instance()), Some(&run(3)));
}

#[test]
fn no_number_of_a_report_is_given_twice_on_a_connection() {
    let mut reporter = Reporter::default();
    reporter.connected();
    reporter.set(report(1, Phase::Creating));
    let first = reporter.poll(Duration::ZERO).unwrap();
    // The same connection, once more.
    reporter.connected();
    reporter.set(report(1, Phase::Running));
    let second = reporter.poll(Duration::ZERO).unwrap();
    assert_ne!(first.sequence, second.sequence);
    reporter.handle_acknowledged(first.sequence);
    assert!(reporter.next_due().is_some(), "nobody knows that it runs");
    reporter.handle_acknowledged(second.sequence);
    assert_eq!(reporter.next_due(), None);
}

/// The life before was given up, and root's word that it knows of that comes while the next one is
/// being ended.
#[test]
fn a_later_life_has_not_ended_because_the_end_of_an_earlier_one_is_known() {
    let mut reporter = Reporter::default();
    let mut duties = Duties::<()>::default();
    reporter.connected();
    reporter.set(report(1, Phase::Terminated));
    let sent = reporter.poll(Duration::ZERO).unwrap();
    duties.handle_run(instance(), 2, ());
    duties.handle_end(instance(), 2);
    let known = reporter.handle_acknowledged(sent.sequence);
    assert_eq!(known, [(instance(), 1)]);
    assert!(!duties.handle_known_end(&instance(), 1));
    let kept = duties.get(&instance()).unwrap();
    assert_eq!((kept.generation, &kept.duty), (2, &Duty::End));
    assert!(duties.handle_known_end(&instance(), 2));
    assert!(duties.get(&instance()).is_none());
}

#[test]
fn however_many_say_much_a_report_holds_all_of_it() {
    use weald_proto::codec::Message as _;
    use weald_proto::control::ClusterToRoot;

    let mut reporter = Reporter::default();
    reporter.connected();
    for number in 0..8_000 {
        let instance = InstanceId {
            number,
            ..instance()
        };
        reporter.set(InstanceReport {
            detail: "ü".repeat(100_000),
            ..InstanceReport::new(instance, 1, Phase::Failed)
        });
    }
    let sent = reporter.poll(std::time::Duration::ZERO).unwrap();
    assert_eq!((sent.complete, sent.instances.len()), (true, 8_000));
    assert!(sent.instances.iter().all(|it| it.detail.len() > 100));
    let report = ClusterToRoot::Report {
        sequence: sent.sequence,
        complete: sent.complete,
        instances: sent.instances,
    };
    assert_eq!(ClusterToRoot::decode(&report.encode().unwrap()), Ok(report));
}
