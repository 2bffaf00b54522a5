//! The limits of what is remembered, and who suffers when they are reached.

use super::*;
use crate::statement::memory::{Digest, Seen, Subjects};

#[test]
fn a_signer_fills_its_own_share_only() {
    let mut subjects = Subjects::default();
    let munich = Signer::Cluster(label("munich"));
    for number in 0..u32::try_from(MAX_SUBJECTS_PER_SIGNER).unwrap() {
        admit(&mut subjects, &munich, &row(number, false)).unwrap();
    }
    let next = row(1_000_000, false);
    let fault = admit(&mut subjects, &munich, &next).unwrap_err();
    assert_eq!(
        fault.to_string(),
        "cluster munich has signed for 16384 subjects; more are not remembered"
    );
    // What is remembered may still change.
    let mut changed = instance(9);
    changed.instance.number = 0;
    admit(&mut subjects, &munich, &Statement::Instance(changed)).unwrap();
    admit(
        &mut subjects,
        &Signer::Root,
        &Statement::Service(service(1)),
    )
    .unwrap();
    admit(&mut subjects, &Signer::Cluster(label("paris")), &next).unwrap();
    // A subject that another signer takes over frees the place of the first.
    let mut moved = instance(9);
    moved.instance.number = 1;
    let paris = Signer::Cluster(label("paris"));
    admit(&mut subjects, &paris, &Statement::Instance(moved)).unwrap();
    admit(&mut subjects, &munich, &row(1_000_001, false)).unwrap();
    assert!(admit(&mut subjects, &munich, &row(1_000_002, false)).is_err());
}

#[test]
fn the_oldest_removals_and_what_is_over_are_forgotten_first() {
    let mut subjects = Subjects::default();
    let munich = Signer::Cluster(label("munich"));
    let count = u32::try_from(MAX_SUBJECTS_PER_SIGNER).unwrap();
    for number in 0..count - 1 {
        let removed = number == 5 || number == 3000;
        admit(&mut subjects, &munich, &row(number, removed)).unwrap();
    }
    let mut over = lease(1);
    over.expires = NOW;
    admit(&mut subjects, &munich, &Statement::Lease(over)).unwrap();
    let remembered = |subjects: &Subjects| {
        let list = subjects.list();
        let has = |number| {
            let subject = Subject::of(&row(number, false));
            list.iter().any(|(it, _)| *it == subject)
        };
        let leases = list.iter();
        let leases = leases.filter(|(it, _)| matches!(it, Subject::Lease(_)));
        (leases.count(), has(5), has(3000), list.len())
    };
    assert_eq!(
        remembered(&subjects),
        (1, true, true, MAX_SUBJECTS_PER_SIGNER)
    );
    for (number, expected) in [
        (count, (0, true, true)),
        (count + 1, (0, false, true)),
        (count + 2, (0, false, false)),
    ] {
        admit(&mut subjects, &munich, &row(number, false)).unwrap();
        let (leases, fifth, later, len) = remembered(&subjects);
        assert_eq!((leases, fifth, later), expected);
        assert_eq!(len, MAX_SUBJECTS_PER_SIGNER);
    }
    assert!(admit(&mut subjects, &munich, &row(count + 3, false)).is_err());
}

#[test]
fn all_together_are_bounded_and_restored_as_they_were() {
    let mut subjects = Subjects::default();
    let share = u32::try_from(MAX_SUBJECTS_PER_SIGNER).unwrap();
    for cluster in 0..4 {
        let signer = Signer::Cluster(label(&format!("c{cluster}")));
        for number in 0..share {
            admit(
                &mut subjects,
                &signer,
                &row(cluster * share + number, false),
            )
            .unwrap();
        }
    }
    let late = Signer::Cluster(label("late"));
    let fault = admit(&mut subjects, &late, &row(u32::MAX, false)).unwrap_err();
    assert_eq!(
        fault.to_string(),
        "65536 subjects are remembered; more are not"
    );
    let mut list = subjects.list();
    let restored = Subjects::restore(list.clone());
    assert_eq!(restored.list(), list);
    // A file that was made longer by hand is cut.
    let extra = Subject::of(&row(u32::MAX, false));
    let seen = list[0].1.clone();
    list.push((extra, seen));
    assert_eq!(Subjects::restore(list).list().len(), MAX_SUBJECTS);
}

/// A node has at most 256 instances, whatever their names: its lease is signed. What is longer than
/// anybody could pass on is not.
#[test]
fn the_lease_of_a_full_node_is_signed_and_a_longer_one_is_not() {
    let world = World::new();
    let part = "n".repeat(30);
    let leased = |number: u32| LeasedInstance {
        instance: format!("{part}.{part}.{part}.{part}.{}", u32::MAX - number)
            .parse()
            .unwrap(),
        organisation: organisation(&"o".repeat(63)),
        generation: u64::MAX,
        instance_ip: Dual {
            v4: Some([10, 30, 1, 7].into()),
            v6: Some([0xff; 16].into()),
        },
    };
    let of = |count: u32| {
        Statement::Lease(Lease {
            node: format!("munich/{}", "a".repeat(63)).parse().unwrap(),
            epoch: u64::MAX,
            expires: u64::MAX,
            instances: (0..count).map(leased).collect(),
            ..lease(1)
        })
    };
    let signed = sign_cluster(&world.munich, &of(256)).unwrap();
    assert!(signed.statement.len() <= MAX_STATEMENT_LEN);
    let fault = sign_cluster(&world.munich, &of(512)).unwrap_err();
    assert!(matches!(fault, SignFault::TooLong { .. }), "{fault}");
    assert!(fault.to_string().contains("at most 65536 can be passed on"));
}

fn row(number: u32, removed: bool) -> Statement {
    let mut row = instance(1);
    row.instance.number = number;
    row.removed = removed;
    Statement::Instance(row)
}

fn admit(
    subjects: &mut Subjects,
    signer: &Signer,
    statement: &Statement,
) -> Result<News, StatementFault> {
    let seen = Seen::of(statement, Digest::default(), signer).unwrap();
    subjects.admit(Subject::of(statement), seen, NOW)
}
