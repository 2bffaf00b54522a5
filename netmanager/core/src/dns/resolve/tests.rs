//! Tests of what `dig` is told: the meaning of a name, or why it has none.

use super::super::tests::{ip, snapshot};
use super::*;

const CLIENT: &str = "10.30.0.2";
const HOST: &str = "10.30.255.1";

fn resolve_as(caller: &str, name: &str) -> Result<Resolved, NotResolved> {
    resolve(name, &Caller { ip: ip(caller) }, &snapshot())
}

#[test]
fn a_name_resolves_to_what_queries_get() {
    let table = snapshot();
    let resolved = resolve_as(CLIENT, "web.prod.12.instance.local").unwrap();
    assert_eq!(resolved.policy, Policy::Instance);
    assert_eq!(resolved.canonical, "shop.prod.web.prod.12.instance");
    assert_eq!(resolved.addresses.v4, Some([10, 30, 0, 12].into()));
    assert_eq!(table.instance(resolved.instance.unwrap()).id.number, 12);
    assert_eq!(
        table.service(resolved.service).name.to_string(),
        "shop.prod.web.prod"
    );

    let resolved = resolve_as(HOST, "blog.prod.web.prod.closest").unwrap();
    assert_eq!(resolved.canonical, "blog.prod.web.prod.any.closest");
    assert_eq!(
        (resolved.policy, resolved.instance),
        (Policy::Closest, None)
    );
    assert_eq!(resolved.addresses.v4, Some([10, 30, 9, 2].into()));
}

#[test]
fn what_does_not_resolve_says_why() {
    for (caller, name, expected) in [
        (
            "10.30.0.10",
            "web.prod.rr",
            "10.30.0.10 is not the address of an instance of this node, nor this node's own",
        ),
        (
            HOST,
            "web.prod.rr",
            "'web.prod' leaves out the application, and the caller belongs to none; write appname.appns.web.prod",
        ),
        (
            CLIENT,
            "wbe.prod.rr.local",
            "there is no service shop.prod.wbe.prod; did you mean shop.prod.web.prod?",
        ),
        (
            CLIENT,
            "quite.different.other.name.rr",
            "there is no service quite.different.other.name",
        ),
        (
            CLIENT,
            "web.prod.7.instance",
            "service shop.prod.web.prod has no instance 7; it has 0, 12",
        ),
        (
            CLIENT,
            "empty.prod.0.instance",
            "service shop.prod.empty.prod has no instance 0; it has none",
        ),
        (
            CLIENT,
            "web.prod.7.rr",
            "'7' is a number, policy rr takes 'any' or nothing; for that very instance write '7.instance'",
        ),
    ] {
        let error = resolve_as(caller, name).unwrap_err();
        assert_eq!(error.to_string(), expected, "{name}");
    }
}

#[test]
fn names_of_other_organisations_are_not_suggested() {
    assert_eq!(
        resolve_as(CLIENT, "bank.prod.vaults.prod.rr"),
        Err(NotResolved::UnknownService {
            service: "bank.prod.vaults.prod".into(),
            nearest: None,
        })
    );
    assert_eq!(
        resolve_as(CLIENT, "bank.prod.vault.prod.rr"),
        Err(NotResolved::UnknownService {
            service: "bank.prod.vault.prod".into(),
            nearest: None,
        })
    );
}

#[test]
fn long_lists_of_instances_are_cut() {
    let numbers: Vec<u32> = (0..20).collect();
    assert!(list(&numbers).ends_with("14, 15 and 4 more"));
}
