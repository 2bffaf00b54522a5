//! Tests of the form of names: every way to write one, every way to get it wrong.

use proptest::prelude::*;

use super::*;

#[test]
fn names_are_read() {
    for (text, expected) in [
        ("web.prod.rr.local", "web.prod.any.rr"),
        ("web.prod.any.closest.", "web.prod.any.closest"),
        ("shop.prod.web.prod.rr", "shop.prod.web.prod.any.rr"),
        (
            "SHOP.prod.web.PROD.7.Instance.weald.internal",
            "shop.prod.web.prod.7.instance",
        ),
        (
            "web.prod.4294967295.instance",
            "web.prod.4294967295.instance",
        ),
    ] {
        let name = SemanticName::parse(text, &Zone::defaults()).unwrap();
        assert_eq!(name.to_string(), expected);
    }
}

#[test]
fn wrong_names_say_what_is_wrong() {
    for (text, expected) in [
        ("", "a name has 1 to 253 characters"),
        (".", "a name has 1 to 253 characters"),
        (
            "web.prod.local",
            "\"web.prod.local\" has no policy before its zone; a semantic name ends in rr, closest or instance, and then in one of the zones local, weald.internal, or in none",
        ),
        (
            "web.prod.5.rr.local",
            "'5' is a number, policy rr takes 'any' or nothing; for that very instance write '5.instance'",
        ),
        (
            "web.prod.007.closest",
            "'007' is a number, policy closest takes 'any' or nothing; for that very instance write '007.instance'",
        ),
        (
            "web.prod.instance",
            "policy instance needs the instance's number before it, as in '0.instance'; found 'prod'",
        ),
        (
            "web.prod.any.instance",
            "policy instance needs the instance's number before it, as in '0.instance'; found 'any'",
        ),
        (
            "instance.local",
            "policy instance needs the instance's number before it, as in '0.instance'; found nothing",
        ),
        (
            "web.prod.01.instance",
            "'01' is not an instance number; they are written without leading zeros, up to 4294967295",
        ),
        (
            "web.prod.4294967296.instance",
            "'4294967296' is not an instance number; they are written without leading zeros, up to 4294967295",
        ),
        (
            "prod.web.prod.rr.local",
            "expected appname.appns.servicename.servicens, or servicename.servicens within the caller's application, before the instance and the policy; found 3 labels",
        ),
        (
            "we_b.prod.rr",
            "name \"we_b\" has '_'; only letters a-z, digits and '-' are allowed",
        ),
        ("web..rr", "a name must not be empty"),
        (
            "-web.prod.rr",
            "name \"-web\" must not start or end with '-'",
        ),
    ] {
        let error = SemanticName::parse(text, &Zone::defaults()).unwrap_err();
        assert_eq!(error.to_string(), expected, "{text}");
    }
    let long = "a.".repeat(126) + "rr";
    assert_eq!(SemanticName::parse(&long, &[]), Err(NameError::Length));
}

#[test]
fn the_longest_zone_wins() {
    let zones = ["internal", "weald.internal"].map(|zone| Zone::new(zone).unwrap());
    let labels: [&[u8]; 5] = [b"web", b"prod", b"rr", b"weald", b"internal"];
    let domain = Domain::of(&labels, &zones).unwrap();
    assert_eq!((domain.apex, domain.before), (3, 2));
}

#[test]
fn a_zone_may_end_in_a_policy_word() {
    let zones = [Zone::new("my.rr").unwrap()];
    let labels: [&[u8]; 5] = [b"web", b"prod", b"closest", b"my", b"rr"];
    let domain = Domain::of(&labels, &zones).unwrap();
    assert_eq!(
        (domain.apex, domain.before, domain.policy),
        (3, 2, Some(Policy::Closest))
    );
}

fn any_label() -> impl Strategy<Value = Label> {
    let zones = Zone::defaults();
    "[a-z]([a-z0-9-]{0,20}[a-z0-9])?"
        .prop_map(|text| Label::new(&text).unwrap())
        .prop_filter("reserved", move |label| {
            !weald_proto::name::is_reserved(label, &zones)
        })
}

fn any_name() -> impl Strategy<Value = SemanticName> {
    let application = (any_label(), any_label())
        .prop_map(|(name, namespace)| ApplicationName { name, namespace });
    let target = prop_oneof![
        Just(Target::RoundRobin),
        Just(Target::Closest),
        any::<u32>().prop_map(Target::Instance),
    ];
    (
        proptest::option::of(application),
        any_label(),
        any_label(),
        target,
    )
        .prop_map(|(application, service, namespace, target)| SemanticName {
            application,
            service,
            namespace,
            target,
        })
}

proptest! {
    #[test]
    fn what_is_written_reads_back(
        name in any_name(),
        zone in prop::sample::select(vec!["", ".local", ".weald.internal", ".LOCAL."]),
        upper in any::<bool>(),
    ) {
        let mut text = format!("{name}{zone}");
        if upper {
            text.make_ascii_uppercase();
        }
        prop_assert_eq!(SemanticName::parse(&text, &Zone::defaults()), Ok(name));
    }

    #[test]
    fn no_text_panics(text in ".{0,300}") {
        let _ = SemanticName::parse(&text, &Zone::defaults());
    }
}
