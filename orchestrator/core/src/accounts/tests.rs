//! Accounts over their life: the first one, those that it makes, what each may, and restarts.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::root::Scope;

const NOW: Now = Now {
    elapsed: Duration::ZERO,
    unix: 1_800_000_000,
};

fn new(name: &str, organisation: &str, roles: &[Role]) -> NewUser {
    NewUser {
        name: name.to_owned(),
        email: String::new(),
        password: "hash".to_owned(),
        roles: roles.iter().copied().collect(),
        organisation: organisation.to_owned(),
    }
}

/// Accounts with an Admin `ada` of root, an organisation `acme` and its admin `olaf`.
fn accounts() -> (Accounts, Vec<Write>) {
    let (mut accounts, mut writes) = Accounts::restore(&[], NOW).unwrap();
    writes.extend(accounts.offer_first([7; 32]).unwrap());
    let (more, _) = accounts
        .take_first(&[7; 32], new("ada", "elsewhere", &[]), NOW)
        .unwrap();
    writes.extend(more);
    let ada = accounts.caller("ada").unwrap();
    writes.extend(accounts.add_organisation(&ada, "acme", &[], NOW).unwrap().0);
    let olaf = new("olaf", "acme", &[Role::OrganizationAdmin]);
    writes.extend(accounts.register(&ada, olaf, NOW).unwrap().0);
    (accounts, writes)
}

#[test]
fn the_one_time_secret_is_good_once() {
    let (mut accounts, _) = Accounts::restore(&[], NOW).unwrap();
    assert!(!accounts.waits_for_first());
    let take = |accounts: &mut Accounts, hash| accounts.take_first(&hash, new("ada", "", &[]), NOW);
    assert_eq!(take(&mut accounts, [7; 32]), Err(AccountError::WrongSecret));
    accounts.offer_first([7; 32]).unwrap();
    assert_eq!(take(&mut accounts, [8; 32]), Err(AccountError::WrongSecret));
    let (_, ada) = take(&mut accounts, [7; 32]).unwrap();
    assert_eq!(ada.roles.len(), 4);
    assert_eq!(ada.organisation.0.as_str(), ROOT);
    assert!(accounts.had_first() && !accounts.waits_for_first());
    assert_eq!(take(&mut accounts, [7; 32]), Err(AccountError::WrongSecret));
}

#[test]
fn a_name_that_is_none_leaves_the_secret_good() {
    let (mut accounts, _) = Accounts::restore(&[], NOW).unwrap();
    accounts.offer_first([7; 32]).unwrap();
    for name in ["", "a b", "ä", &"x".repeat(65), "a/b"] {
        let taken = accounts.take_first(&[7; 32], new(name, "", &[]), NOW);
        assert!(matches!(taken, Err(AccountError::UserName(_))), "{name:?}");
    }
    assert!(accounts.waits_for_first());
}

#[test]
fn everything_is_there_again_after_a_restart() {
    let (before, writes) = accounts();
    let mut stored = std::collections::BTreeMap::new();
    for write in writes {
        match write {
            Write::Put(record) => stored.insert((record.kind.clone(), record.key.clone()), record),
            Write::Delete { kind, key } => stored.remove(&(kind, key)),
        };
    }
    let records: Vec<_> = stored.into_values().collect();
    let (mut after, writes) = Accounts::restore(&records, NOW).unwrap();
    assert_eq!(writes, []);
    assert!(after.users().eq(before.users()));
    assert!(after.organisations().eq(before.organisations()));
    assert!(after.had_first());
    // No id is given twice.
    let ada = after.caller("ada").unwrap();
    let (_, eve) = after.register(&ada, new("eve", "acme", &[]), NOW).unwrap();
    assert!(before.users().all(|it| it.id != eve.id));
    assert_eq!(eve.id.len(), 24);
}

#[test]
fn an_organisations_admin_rules_there_and_nowhere_else() {
    let (mut accounts, _) = accounts();
    let ada = accounts.caller("ada").unwrap();
    let olaf = accounts.caller("olaf").unwrap();
    assert_eq!(ada.scope(), Scope::All);
    assert_eq!(olaf.scope(), Scope::Of(olaf.tenant().name.clone()));
    assert!(olaf.may_deploy() && !olaf.may_operate());
    let provider = new("pia", "acme", &[Role::ApplicationProvider]);
    accounts.register(&olaf, provider, NOW).unwrap();
    let pia = accounts.caller("pia").unwrap();
    assert!(pia.may_deploy() && !pia.may_manage_some());

    let unknown = |kind| move |error: &AccountError| matches!(error, AccountError::Unknown(it, _) if *it == kind);
    let elsewhere = accounts.register(&olaf, new("x", "root", &[]), NOW);
    assert!(unknown("organisation")(&elsewhere.unwrap_err()));
    let admin = accounts.register(&olaf, new("x", "acme", &[Role::Admin]), NOW);
    assert!(unknown("organisation")(&admin.unwrap_err()));
    let by_pia = accounts.register(&pia, new("x", "acme", &[]), NOW);
    assert!(unknown("organisation")(&by_pia.unwrap_err()));
    assert!(unknown("user")(&accounts.remove(&olaf, "ada").unwrap_err()));
    let moved = UserChange {
        organisation: Some("root".to_owned()),
        ..UserChange::default()
    };
    let moved = accounts.change(&olaf, "pia", moved);
    assert!(unknown("organisation")(&moved.unwrap_err()));
    let raised = UserChange {
        roles: Some([Role::Admin].into()),
        ..UserChange::default()
    };
    assert!(unknown("role")(
        &accounts.change(&olaf, "olaf", raised).unwrap_err()
    ));
    assert!(unknown("organisation")(
        &accounts
            .add_organisation(&olaf, "other", &[], NOW)
            .unwrap_err()
    ));
}

#[test]
fn the_last_admin_stays() {
    let (mut accounts, _) = accounts();
    let ada = accounts.caller("ada").unwrap();
    let last =
        |error: AccountError| matches!(error, AccountError::LastAdmin(name) if name == "ada");
    assert!(last(accounts.remove(&ada, "ada").unwrap_err()));
    let lowered = UserChange {
        roles: Some(BTreeSet::new()),
        ..UserChange::default()
    };
    assert!(last(accounts.change(&ada, "ada", lowered).unwrap_err()));
    let member = Member {
        user: "ada".to_owned(),
        roles: None,
    };
    let moved = accounts.change_organisation(&ada, "acme", None, &[member]);
    assert!(last(moved.unwrap_err()));
    // One that has no password does not count.
    accounts.ensure("Admin", NOW).unwrap();
    assert!(last(accounts.remove(&ada, "ada").unwrap_err()));
    accounts
        .register(&ada, new("ann", "root", &[Role::Admin]), NOW)
        .unwrap();
    accounts.remove(&ada, "ada").unwrap();
    assert!(accounts.user("ada").is_none() && accounts.caller("ada").is_none());
}

#[test]
fn an_organisation_goes_when_it_is_empty() {
    let (mut accounts, _) = accounts();
    let ada = accounts.caller("ada").unwrap();
    let remove =
        |accounts: &mut Accounts, id: &str, owns| accounts.remove_organisation(&ada, id, |_| owns);
    let has = |what| AccountError::NotEmpty("acme".to_owned(), what);
    assert_eq!(remove(&mut accounts, "acme", None), Err(has("users")));
    accounts.remove(&ada, "olaf").unwrap();
    let owned = remove(&mut accounts, "acme", Some("applications"));
    assert_eq!(owned, Err(has("applications")));
    assert_eq!(
        remove(&mut accounts, "root", None),
        Err(AccountError::RootStays)
    );
    let renamed = accounts.change_organisation(&ada, "acme", Some("emca"), &[]);
    assert_eq!(
        renamed.unwrap_err(),
        AccountError::Renamed("acme".to_owned())
    );
    remove(&mut accounts, "acme", None).unwrap();
    assert!(accounts.organisation("acme").is_none());
}

#[test]
fn a_new_password_ends_sessions() {
    let (mut accounts, _) = accounts();
    accounts.set_password("olaf", "other".to_owned()).unwrap();
    let olaf = accounts.user("olaf").unwrap();
    assert_eq!((olaf.epoch, olaf.password.as_str()), (1, "other"));
    let unknown = accounts.set_password("nobody", String::new());
    assert!(matches!(unknown, Err(AccountError::Unknown("user", _))));
}

#[test]
fn secrets_are_not_printed() {
    let (mut accounts, _) = accounts();
    accounts.keep_session_key(Secret([250; 32])).unwrap();
    let (_, kept) = accounts.keep_session_key(Secret([1; 32])).unwrap();
    assert_eq!(kept, Secret([250; 32]));
    let text = format!("{accounts:?}");
    assert!(!text.contains("250") && !text.contains("hash"), "{text}");
}
