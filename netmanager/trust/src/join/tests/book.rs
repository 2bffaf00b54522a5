//! Tokens issued, redeemed, revoked, kept and restored.

use std::sync::{Barrier, Mutex};
use std::thread;

use proptest::prelude::*;

use super::*;

const NOW: UnixSeconds = 1_000_000;
const HOUR: Duration = Duration::from_hours(1);

#[test]
fn of_a_thousand_redemptions_of_a_single_use_exactly_one_wins() {
    let mut book = JoinBook::default();
    let secret = JoinSecret([1; 32]);
    let id = issue(&mut book, &secret, 1).unwrap();
    let book = Mutex::new(book);
    let start = Barrier::new(10);
    let redeem_some = || {
        start.wait();
        let redeem = |_| book.lock().unwrap().redeem(&secret, JoinRole::Worker, NOW);
        (0..100).map(redeem).collect::<Vec<_>>()
    };
    let outcomes: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..10).map(|_| scope.spawn(redeem_some)).collect();
        let joined = threads.into_iter().map(|thread| thread.join().unwrap());
        joined.flatten().collect()
    });
    assert_eq!(outcomes.len(), 1000);
    let won: Vec<_> = outcomes.iter().filter_map(|it| it.as_ref().ok()).collect();
    assert_eq!(
        won,
        [&Admission {
            token: id,
            role: JoinRole::Worker,
            cluster: label("munich"),
            left: 0,
        }]
    );
    let lost = outcomes.iter().filter_map(|it| it.as_ref().err());
    let used_up = JoinFault::UsedUp { id, uses: 1 };
    assert_eq!(lost.filter(|fault| **fault == used_up).count(), 999);
    assert_eq!(
        used_up.to_string(),
        format!("join token {id} was used 1 of 1 times; ask for a new one")
    );
}

#[test]
fn every_fault_leaves_the_book_as_it_was() {
    let mut book = JoinBook::default();
    let secret = JoinSecret([1; 32]);
    let id = issue(&mut book, &secret, 2).unwrap();
    let before = book.clone();
    for (secret, role, now, fault) in [
        (
            JoinSecret([2; 32]),
            JoinRole::Worker,
            NOW,
            "no such join token was issued here, or it was revoked; ask for a new one".to_owned(),
        ),
        (
            secret,
            JoinRole::Relay,
            NOW,
            format!("join token {id} admits a worker, not a relay"),
        ),
        (
            secret,
            JoinRole::Cluster,
            NOW,
            format!("join token {id} admits a worker, not a cluster"),
        ),
        (
            secret,
            JoinRole::Worker,
            NOW + 3600,
            format!(
                "join token {id} expired at 1003600; it is now 1003600 (seconds since 1970); ask for a new one"
            ),
        ),
    ] {
        assert_eq!(
            book.redeem(&secret, role, now).unwrap_err().to_string(),
            fault
        );
        assert_eq!(book, before);
    }
    let role = JoinRole::Worker;
    assert_eq!(book.redeem(&secret, role, NOW + 3599).unwrap().left, 1);
    assert_eq!(book.redeem(&secret, role, NOW).unwrap().left, 0);
    assert!(book.redeem(&secret, role, NOW).is_err());
}

#[test]
fn what_is_issued_has_bounds() {
    let mut book = JoinBook::default();
    let secret = JoinSecret([1; 32]);
    assert_eq!(issue(&mut book, &secret, 0), Err(JoinFault::NoUses));
    for life in [Duration::ZERO, MAX_LIFE + Duration::from_secs(1)] {
        let role = JoinRole::Relay;
        let fault = book.issue(&secret, role, label("munich"), 1, life, NOW);
        assert_eq!(
            fault.unwrap_err().to_string(),
            format!(
                "a join token may live 1 to 31536000 seconds, not {}",
                life.as_secs()
            )
        );
    }
    issue(&mut book, &secret, 1).unwrap();
    assert_eq!(issue(&mut book, &secret, 1), Err(JoinFault::Repeated));
    assert_eq!(book.list().count(), 1);
}

#[test]
fn tokens_of_no_more_use_make_room() {
    let mut book = JoinBook::default();
    for number in 0..MAX_TOKENS {
        issue(&mut book, &numbered(number), 1).unwrap();
    }
    let next = numbered(MAX_TOKENS);
    let fault = issue(&mut book, &next, 1).unwrap_err();
    assert_eq!(fault.to_string(), "1024 join tokens are open; revoke some");
    book.redeem(&numbered(7), JoinRole::Worker, NOW).unwrap();
    issue(&mut book, &next, 1).unwrap();
    assert_eq!(
        book.redeem(&numbered(7), JoinRole::Worker, NOW),
        Err(JoinFault::Unknown)
    );
    book.redeem(&next, JoinRole::Worker, NOW).unwrap();
    assert_eq!(book.list().count(), MAX_TOKENS);
}

#[test]
fn a_revoked_token_is_unknown() {
    let mut book = JoinBook::default();
    let (first, second) = (numbered(1), numbered(2));
    let id = issue(&mut book, &first, 5).unwrap();
    issue(&mut book, &second, 5).unwrap();
    let text = id.to_string();
    assert_eq!(text.len(), 16);
    assert_eq!(book.revoke(text.parse().unwrap()).unwrap().id, id);
    assert_eq!(
        book.redeem(&first, JoinRole::Worker, NOW),
        Err(JoinFault::Unknown)
    );
    assert_eq!(book.revoke(id), Err(JoinFault::NoSuchId(id)));
    book.redeem(&second, JoinRole::Worker, NOW).unwrap();
    for bad in [
        "",
        "1",
        "+00000000000000a",
        "000000000000000A",
        "00000000000000001",
    ] {
        assert!(bad.parse::<TokenId>().is_err(), "{bad}");
    }
}

#[test]
fn a_book_that_is_kept_has_no_secrets_and_forgets_no_use() {
    let mut book = JoinBook::default();
    let secret = JoinSecret([0xab; 32]);
    let id = issue(&mut book, &secret, 2).unwrap();
    book.redeem(&secret, JoinRole::Worker, NOW).unwrap();
    let kept = serde_json::to_string(&book).unwrap();
    let plain = serde_json::to_string(&secret.0).unwrap();
    assert!(!kept.contains(&plain), "{kept}");
    let mut restored: JoinBook = serde_json::from_str(&kept).unwrap();
    assert_eq!(restored, book);
    let entry = restored.list().next().unwrap();
    assert_eq!((entry.id, entry.uses, entry.used), (id, 2, 1));
    assert!(entry.is_open(NOW) && !entry.is_open(NOW + 3600));
    restored.redeem(&secret, JoinRole::Worker, NOW).unwrap();
    assert_eq!(
        restored.redeem(&secret, JoinRole::Worker, NOW),
        Err(JoinFault::UsedUp { id, uses: 2 })
    );
}

proptest! {
    /// Whatever is issued and redeemed in whatever order, no token is used more often than allowed.
    #[test]
    fn uses_are_never_exceeded(
        uses in prop::collection::vec(1_u32..4, 1..5),
        redeemed in prop::collection::vec((0_usize..6, 0_u64..5000), 0..60),
    ) {
        let mut book = JoinBook::default();
        for (number, uses) in uses.iter().enumerate() {
            issue(&mut book, &numbered(number), *uses).unwrap();
        }
        let mut won = vec![0; 6];
        for (number, late) in redeemed {
            let now = NOW + late;
            if book.redeem(&numbered(number), JoinRole::Worker, now).is_ok() {
                won[number] += 1;
                prop_assert!(late < 3600);
            }
        }
        for (number, won) in won.into_iter().enumerate() {
            prop_assert!(won <= uses.get(number).copied().unwrap_or_default());
        }
    }
}

fn issue(book: &mut JoinBook, secret: &JoinSecret, uses: u32) -> Result<TokenId, JoinFault> {
    book.issue(secret, JoinRole::Worker, label("munich"), uses, HOUR, NOW)
}

fn numbered(number: usize) -> JoinSecret {
    JoinSecret(sha256(&number.to_be_bytes()))
}
