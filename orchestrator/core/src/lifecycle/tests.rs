//! Every transition and every illegal one, and which generations count.

use proptest::prelude::*;

use super::*;

/// What may follow what, written down a second time: a row per phase, in the order of [`PHASES`].
const LEGAL: [&str; 9] = [
    ".x......x", // Registered
    "..x....xx", // Requested
    "...x...xx", // ClusterScheduled
    "..x.x..xx", // NodeScheduled
    "..x..x.xx", // Creating
    "..x.x.xxx", // Running
    "........x", // Completed
    "........x", // Failed
    ".........", // Terminated
];

fn life(generation: Generation, phase: Phase) -> Life {
    Life { generation, phase }
}

#[test]
fn exactly_the_legal_transitions_are_taken() {
    for (from, row) in PHASES.into_iter().zip(LEGAL) {
        for (to, mark) in PHASES.into_iter().zip(row.chars()) {
            let mut it = life(3, from);
            let stepped = it.step(to);
            if mark == 'x' {
                assert_eq!(stepped, Ok(()), "{from:?} to {to:?}");
                assert_eq!(it, life(3, to));
            } else {
                assert_eq!(
                    stepped,
                    Err(IllegalTransition {
                        from,
                        to,
                        generation: 3
                    })
                );
                assert_eq!(it, life(3, from), "a refused step changes nothing");
            }
        }
    }
}

#[test]
fn an_error_names_both_phases() {
    let error = life(7, Phase::Completed).step(Phase::Running).unwrap_err();
    assert_eq!(
        error.to_string(),
        "an instance cannot go from Completed to Running in generation 7; a new life needs a larger generation"
    );
}

#[test]
fn lost_reports_may_be_skipped_but_nothing_comes_back_to_life() {
    let mut it = life(2, Phase::Requested);
    assert_eq!(it.hear(2, Phase::Running), Ok(Heard::Changed));
    assert_eq!(it.hear(2, Phase::Running), Ok(Heard::Same));
    assert_eq!(it.hear(2, Phase::Failed), Ok(Heard::Changed));
    let error = it.hear(2, Phase::Running).unwrap_err();
    assert_eq!((error.from, error.to), (Phase::Failed, Phase::Running));
    assert!(it.hear(2, Phase::Requested).is_err());
    assert_eq!(it, life(2, Phase::Failed));
}

#[test]
fn a_larger_generation_wins_and_a_smaller_one_is_ignored() {
    let mut it = life(2, Phase::Terminated);
    assert_eq!(it.hear(3, Phase::Creating), Ok(Heard::Changed));
    assert_eq!(it.hear(2, Phase::Running), Ok(Heard::Stale));
    assert_eq!(it.hear(2, Phase::Terminated), Ok(Heard::Stale));
    assert_eq!(it, life(3, Phase::Creating));
    assert_eq!(it.renew(4), Ok(()));
    assert_eq!(it, life(4, Phase::Requested));
    let error = it.renew(4).unwrap_err();
    assert_eq!(
        error.to_string(),
        "generation 4 is not larger than 4, which the instance already has"
    );
}

#[test]
fn what_is_withdrawn_stays_as_it_is_until_its_end_is_heard() {
    let mut it = life(2, Phase::Running);
    assert_eq!(it.withdraw(3), Ok(()));
    assert_eq!(it.phase(), Phase::Running);
    assert_eq!(it.hear(2, Phase::Failed), Ok(Heard::Stale));
    assert_eq!(it.hear(3, Phase::Terminated), Ok(Heard::Changed));
    assert!(it.withdraw(1).is_err());
}

#[test]
fn every_phase_ends_and_an_end_leads_only_to_terminated() {
    for phase in PHASES {
        assert_eq!(
            reaches(phase, Phase::Terminated),
            phase != Phase::Terminated
        );
        if is_over(phase) {
            assert!(next(phase).iter().all(|to| *to == Phase::Terminated));
        }
    }
    assert!(!reaches(Phase::Running, Phase::Requested));
}

proptest! {
    /// Whatever order reports come in, doubled or late: the generation never falls, and a life
    /// that is over stays so.
    #[test]
    fn generations_never_fall_and_ends_are_final(
        reports in proptest::collection::vec((0_u64..5, 0_usize..9), 0..40)
    ) {
        let mut it = Life::registered();
        for (generation, phase) in reports {
            let before = it;
            let heard = it.hear(generation, PHASES[phase]);
            prop_assert!(it.generation() >= before.generation());
            prop_assert_eq!(it != before, heard == Ok(Heard::Changed));
            if it.generation() == before.generation() && is_over(before.phase()) {
                prop_assert!(is_over(it.phase()));
            }
            if generation > before.generation() {
                prop_assert_eq!(it, life(generation, PHASES[phase]));
            }
        }
    }
}
