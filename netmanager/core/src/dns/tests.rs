//! Tests of whole queries: every form of a name, every refusal, and the bytes of some answers.
//! hickory reads the answers, as an independent client would.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use proptest::prelude::*;
use weald_proto::addr::{Dual, Pools};
use weald_proto::id::{Label, NodeId, Organisation};
use weald_proto::name::{ApplicationName, InstanceId, ServiceName, Zone};
use weald_proto::table::{AcceptPolicy, InstanceRow, LanePolicy, NodeRow, ServiceRow, Table};

use super::*;
use crate::table::{Nodes, Scope};

/// An instance of `shop.prod.client.prod` on this node.
const CLIENT: &str = "10.30.0.2";
/// The host programs of this node, of the organisation `acme` as well.
const HOST: &str = "10.30.255.1";
/// An instance on this node of another organisation.
const OTHER: &str = "10.30.0.50";

#[test]
fn names_mean_what_the_design_says() {
    let cases = [
        // Every form, from within the application.
        ("shop.prod.web.prod.any.rr.local", "A", "10.30.8.1"),
        ("shop.prod.web.prod.any.rr.local", "AAAA", "fdff:2000::1"),
        ("shop.prod.web.prod.rr.local", "A", "10.30.8.1"),
        ("web.prod.any.rr.local", "A", "10.30.8.1"),
        ("web.prod.rr.local", "A", "10.30.8.1"),
        ("web.prod.rr.local", "ANY", "10.30.8.1 fdff:2000::1"),
        ("web.prod.closest.local", "A", "10.30.9.1"),
        ("web.prod.any.closest.local", "AAAA", "fdff:1000::1"),
        ("shop.prod.web.prod.closest.local", "A", "10.30.9.1"),
        ("web.prod.0.instance.local", "A", "10.30.0.10"),
        ("shop.prod.web.prod.12.instance.local", "A", "10.30.0.12"),
        ("shop.prod.web.prod.12.instance.local", "AAAA", "fdff::12"),
        // Every zone, and none.
        ("web.prod.rr.weald.internal", "A", "10.30.8.1"),
        ("web.prod.rr.mesh.example", "A", "10.30.8.1"),
        ("web.prod.rr", "A", "10.30.8.1"),
        ("shop.prod.web.prod.any.closest", "A", "10.30.9.1"),
        ("web.prod.0.instance", "A", "10.30.0.10"),
        // Letter case does not matter.
        ("WEB.Prod.Rr.LoCaL", "A", "10.30.8.1"),
        ("Web.PROD.aNy.CLOSEST", "A", "10.30.9.1"),
        // Another application of the organisation, by its whole name only.
        ("blog.prod.web.prod.rr.local", "A", "10.30.8.2"),
        ("vault.prod.rr.local", "A", "NXDOMAIN rr.local"),
        // Known, but without such a record.
        ("six.prod.rr.local", "A", "NODATA rr.local"),
        ("six.prod.rr.local", "AAAA", "fdff:2000::6"),
        ("six.prod.rr.local", "ANY", "fdff:2000::6"),
        ("web.prod.rr.local", "MX", "NODATA rr.local"),
        ("web.prod.rr.local", "TXT", "NODATA rr.local"),
        ("web.prod.rr.local", "SRV", "NODATA rr.local"),
        ("web.prod.rr.local", "HTTPS", "NODATA rr.local"),
        ("web.prod.rr.local", "CNAME", "NODATA rr.local"),
        ("web.prod.rr.local", "SOA", "NODATA rr.local"),
        ("web.prod.rr.weald.internal", "NS", "NODATA weald.internal"),
        ("web.prod.rr", "PTR", "NODATA rr"),
        // A service without instances still has its addresses; its instances do not exist.
        ("empty.prod.rr.local", "A", "10.30.8.7"),
        (
            "empty.prod.0.instance.local",
            "A",
            "NXDOMAIN instance.local",
        ),
        ("web.prod.7.instance.local", "A", "NXDOMAIN instance.local"),
        ("web.prod.7.instance.local", "MX", "NXDOMAIN instance.local"),
        // A number with rr or closest; none, or no number, with instance.
        ("web.prod.0.rr.local", "A", "NXDOMAIN rr.local"),
        ("web.prod.5.closest.local", "A", "NXDOMAIN closest.local"),
        (
            "web.prod.any.instance.local",
            "A",
            "NXDOMAIN instance.local",
        ),
        ("web.prod.instance.local", "A", "NXDOMAIN instance.local"),
        ("web.prod.00.instance.local", "A", "NXDOMAIN instance.local"),
        (
            "web.prod.012.instance.local",
            "A",
            "NXDOMAIN instance.local",
        ),
        (
            "web.prod.4294967296.instance.local",
            "A",
            "NXDOMAIN instance.local",
        ),
        (
            "web.prod.99999999999999999999.instance",
            "A",
            "NXDOMAIN instance",
        ),
        // Too few labels, too many, or other ones.
        ("prod.rr.local", "A", "NXDOMAIN rr.local"),
        ("prod.web.prod.rr.local", "A", "NXDOMAIN rr.local"),
        (
            "x.shop.prod.web.prod.any.rr.local",
            "A",
            "NXDOMAIN rr.local",
        ),
        ("any.web.prod.any.rr.local", "A", "NXDOMAIN rr.local"),
        ("web.prod.any.any.rr.local", "A", "NXDOMAIN rr.local"),
        ("nope.prod.rr.local", "A", "NXDOMAIN rr.local"),
        ("web.nope.rr.local", "A", "NXDOMAIN rr.local"),
        ("*.prod.rr.local", "A", "NXDOMAIN rr.local"),
        ("web.prod.rr.rr.local", "A", "NXDOMAIN rr.local"),
        ("web.prod.rr.closest", "A", "NXDOMAIN closest"),
        // The names above the names.
        ("rr.local", "A", "NODATA rr.local"),
        ("rr.local", "SOA", "SOA rr.local"),
        ("any.rr.local", "A", "NODATA rr.local"),
        ("any.closest.weald.internal", "A", "NODATA weald.internal"),
        ("instance", "NS", "NS instance"),
        ("rr.weald.internal", "SOA", "NODATA weald.internal"),
        ("5.instance.local", "A", "NXDOMAIN instance.local"),
        ("weald.internal", "A", "NODATA weald.internal"),
        ("weald.internal", "SOA", "SOA weald.internal"),
        ("weald.internal", "NS", "NS weald.internal"),
        (
            "weald.internal",
            "ANY",
            "SOA weald.internal NS weald.internal",
        ),
        ("mesh.example", "SOA", "SOA mesh.example"),
        // Without a policy word a wholly owned zone has nothing, and `local` is not ours.
        ("web.prod.weald.internal", "A", "NXDOMAIN weald.internal"),
        ("printer.mesh.example", "A", "NXDOMAIN mesh.example"),
        ("printer.local", "A", "forward"),
        ("_ipp._tcp.local", "PTR", "forward"),
        ("local", "SOA", "forward"),
        ("example.com", "A", "forward"),
        ("example", "A", "forward"),
        ("internal", "A", "forward"),
        ("rr.example.com", "A", "forward"),
        ("xrr.local", "A", "forward"),
        (".", "NS", "forward"),
    ];
    for (name, record_type, expected) in cases {
        assert_eq!(
            ask(CLIENT, name, record_type),
            expected,
            "{name} {record_type}"
        );
    }
}

#[test]
fn labels_with_bytes_of_their_own_name_nothing() {
    let table = snapshot();
    let labels: [&[u8]; 8] = [
        b"we\"b",
        b"web\n",
        b"web\0",
        b"web.prod",
        b"*",
        b"we b",
        b"\xff\xfe",
        b"-web",
    ];
    for label in labels {
        let wire = encode(&[label, b"prod", b"rr", b"local"], 1);
        assert_eq!(
            outcome(&wire, CLIENT, &table),
            DnsAction::Answer(Outcome::NameError),
            "{label:?}"
        );
    }
}

#[test]
fn host_programs_have_no_application() {
    for (name, expected) in [
        ("shop.prod.web.prod.any.rr.local", "10.30.8.1"),
        ("shop.prod.web.prod.closest", "10.30.9.1"),
        ("shop.prod.web.prod.0.instance.local", "10.30.0.10"),
        ("web.prod.rr.local", "NXDOMAIN rr.local"),
        ("web.prod.0.instance.local", "NXDOMAIN instance.local"),
    ] {
        assert_eq!(ask(HOST, name, "A"), expected, "{name}");
    }
}

#[test]
fn the_same_answers_go_to_an_ipv6_caller() {
    assert_eq!(ask("fdff::2", "web.prod.rr.local", "AAAA"), "fdff:2000::1");
    assert_eq!(ask("fdff::2", "web.prod.rr.local", "A"), "10.30.8.1");
}

#[test]
fn strangers_are_refused() {
    // Nobody's, another node's instance, another node, a service address, loopback, link-local.
    let strangers = [
        "10.30.0.99",
        "10.30.0.10",
        "10.30.255.2",
        "10.30.8.1",
        "127.0.0.1",
        "fe80::1",
        "::1",
    ];
    for caller in strangers {
        for name in ["web.prod.rr.local", "shop.prod.web.prod.rr", "example.com"] {
            assert_eq!(ask(caller, name, "A"), "REFUSED", "{caller} {name}");
        }
    }
}

#[test]
fn other_organisations_do_not_exist() {
    let table = snapshot();
    // As long as each other, letter for letter, so that only the name may differ.
    let pairs = [
        (
            "bank.prod.vault.prod.rr.local",
            "bank.prod.vaulx.prod.rr.local",
        ),
        (
            "bank.prod.vault.prod.any.closest",
            "bank.prod.vaulx.prod.any.closest",
        ),
        (
            "bank.prod.vault.prod.0.instance.local",
            "bank.prod.vaulx.prod.0.instance.local",
        ),
        (
            "bank.prod.vault.prod.0.instance.local",
            "bank.prod.vault.prod.5.instance.local",
        ),
        (
            "bank.prod.vault.prod.rr.weald.internal",
            "bank.prod.vaulx.prod.rr.weald.internal",
        ),
        ("9.8.30.10.in-addr.arpa", "8.8.30.10.in-addr.arpa"),
        ("50.0.30.10.in-addr.arpa", "51.0.30.10.in-addr.arpa"),
    ];
    for (there, missing) in pairs {
        for record_type in ["A", "AAAA", "ANY", "MX", "PTR"] {
            for status in [TableStatus::Authoritative, TableStatus::CutOff] {
                let reply = |name: &str| {
                    let query = query(name, record_type);
                    let mut out = Vec::new();
                    let caller = Caller { ip: ip(CLIENT) };
                    answer(&query, Transport::Udp, caller, &table, status, &mut out);
                    // Past the name, which starts behind the header and is as long as its text.
                    out.split_off(12 + name.len() + 2)
                };
                assert_eq!(
                    reply(there),
                    reply(missing),
                    "{there} {record_type} {status:?}"
                );
            }
        }
    }
    assert_eq!(
        ask(OTHER, "bank.prod.vault.prod.rr.local", "A"),
        "10.30.8.9"
    );
    assert_eq!(
        ask(OTHER, "shop.prod.web.prod.rr.local", "A"),
        "NXDOMAIN rr.local"
    );
}

#[test]
fn a_missing_name_looks_like_this() {
    let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01\
        \x04Nope\x04prod\x02rr\x05LOCAL\x00\x00\x01\x00\x01\
        \x00\x00\x29\x04\xd0\x00\x00\x80\x00\x00\x00";
    let expected: &[u8] = b"\x12\x34\x85\x83\x00\x01\x00\x00\x00\x01\x00\x01\
        \x04Nope\x04prod\x02rr\x05LOCAL\x00\x00\x01\x00\x01\
        \xc0\x16\x00\x06\x00\x01\x00\x00\x00\x05\x00\x26\
        \xc0\x16\x06nobody\x07invalid\x00\
        \x00\x00\x00\x01\x00\x00\x0e\x10\x00\x00\x04\xb0\x00\x09\x3a\x80\x00\x00\x00\x05\
        \x00\x00\x29\x04\xd0\x00\x00\x80\x00\x00\x00";
    assert_eq!(reply_bytes(query, CLIENT), expected);
}

#[test]
fn an_address_looks_like_this() {
    let query = b"\xab\xcd\x01\x10\x00\x01\x00\x00\x00\x00\x00\x00\
        \x03wEb\x04prod\x02RR\x00\x00\xff\x00\x01";
    let expected: &[u8] = b"\xab\xcd\x85\x90\x00\x01\x00\x02\x00\x00\x00\x00\
        \x03wEb\x04prod\x02RR\x00\x00\xff\x00\x01\
        \xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\x0a\x1e\x08\x01\
        \xc0\x0c\x00\x1c\x00\x01\x00\x00\x00\x05\x00\x10\
        \xfd\xff\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01";
    assert_eq!(reply_bytes(query, CLIENT), expected);
}

#[test]
fn what_is_unknown_while_cut_off_is_not_said_to_be_missing() {
    let table = snapshot();
    let ask = |name: &str| {
        let query = query(name, "A");
        show(
            &query,
            Caller { ip: ip(CLIENT) },
            &table,
            TableStatus::CutOff,
        )
    };
    for (name, expected) in [
        ("web.prod.rr.local", "10.30.8.1"),
        ("six.prod.rr.local", "NODATA rr.local"),
        ("nope.prod.rr.local", "SERVFAIL"),
        ("bank.prod.vault.prod.rr.local", "SERVFAIL"),
        ("web.prod.7.instance.local", "SERVFAIL"),
        ("88.0.30.10.in-addr.arpa", "SERVFAIL"),
        // Whatever the cluster would say, these mean nothing.
        ("web.prod.5.rr.local", "NXDOMAIN rr.local"),
        ("prod.rr.local", "NXDOMAIN rr.local"),
        ("x.weald.internal", "NXDOMAIN weald.internal"),
        ("example.com", "forward"),
    ] {
        assert_eq!(ask(name), expected, "{name}");
    }
    let host = Caller { ip: ip(HOST) };
    assert_eq!(
        show(
            &query("web.prod.rr", "A"),
            host,
            &table,
            TableStatus::CutOff
        ),
        "NXDOMAIN rr"
    );
}

#[test]
fn an_application_that_nobody_was_asked_for_is_not_said_to_be_missing() {
    let shop = service_name("shop.prod.web.prod").application;
    let gone = service_name("gone.prod.web.prod").application;
    let known = Scope::Applications([shop, gone].into());
    let table = snapshot().with_scope(known);
    let caller = Caller { ip: ip(CLIENT) };
    for (name, expected, about) in [
        ("web.prod.rr.local", "10.30.8.1", Some("shop.prod")),
        ("nope.prod.rr.local", "NXDOMAIN rr.local", Some("shop.prod")),
        (
            "gone.prod.web.prod.rr.local",
            "NXDOMAIN rr.local",
            Some("gone.prod"),
        ),
        ("new.prod.web.prod.rr.local", "SERVFAIL", Some("new.prod")),
        ("new.prod.web.prod.3.instance", "SERVFAIL", Some("new.prod")),
        ("prod.rr.local", "NXDOMAIN rr.local", None),
        ("example.com", "forward", None),
    ] {
        let query = query(name, "A");
        let shown = show(&query, caller, &table, TableStatus::Authoritative);
        assert_eq!(shown, expected, "{name}");
        let cut_off = show(&query, caller, &table, TableStatus::CutOff);
        let expected = match name {
            // It may have come since.
            "nope.prod.rr.local" => "SERVFAIL",
            _ => expected,
        };
        assert_eq!(cut_off, expected, "{name} while cut off");
        let asked = asks_about(&query, caller, &table);
        let asked = asked.map(|application| application.to_string());
        assert_eq!(asked.as_deref(), about, "{name}");
        assert_eq!(asks_about(&query, caller, &snapshot()), None);
    }
    let stranger = Caller {
        ip: ip("10.30.0.99"),
    };
    let asked = asks_about(&query("new.prod.web.prod.rr", "A"), stranger, &table);
    assert_eq!(asked, None, "strangers ask for nothing");
}

#[test]
fn reverse_names_of_the_pools_stay_here() {
    let fdff = format!("{}f.f.d.f.ip6.arpa", "0.".repeat(26));
    let cases = [
        (
            "1.8.30.10.in-addr.arpa",
            "PTR",
            "shop.prod.web.prod.any.rr.local.",
        ),
        (
            "1.9.30.10.IN-ADDR.arpa",
            "PTR",
            "shop.prod.web.prod.any.closest.local.",
        ),
        (
            "12.0.30.10.in-addr.arpa",
            "PTR",
            "shop.prod.web.prod.12.instance.local.",
        ),
        (
            "12.0.30.10.in-addr.arpa",
            "ANY",
            "shop.prod.web.prod.12.instance.local.",
        ),
        ("12.0.30.10.in-addr.arpa", "A", "NODATA 30.10.in-addr.arpa"),
        // Nodes have no name, and nobody has no address.
        (
            "1.255.30.10.in-addr.arpa",
            "PTR",
            "NXDOMAIN 30.10.in-addr.arpa",
        ),
        (
            "77.77.30.10.in-addr.arpa",
            "PTR",
            "NXDOMAIN 30.10.in-addr.arpa",
        ),
        (
            "x.77.30.10.in-addr.arpa",
            "PTR",
            "NXDOMAIN 30.10.in-addr.arpa",
        ),
        ("77.30.10.in-addr.arpa", "PTR", "NODATA 30.10.in-addr.arpa"),
        ("30.10.in-addr.arpa", "SOA", "SOA 30.10.in-addr.arpa"),
        ("30.10.in-addr.arpa", "PTR", "NODATA 30.10.in-addr.arpa"),
        ("10.in-addr.arpa", "SOA", "forward"),
        ("1.1.1.1.in-addr.arpa", "PTR", "forward"),
    ];
    for (name, record_type, expected) in cases {
        assert_eq!(
            ask(CLIENT, name, record_type),
            expected,
            "{name} {record_type}"
        );
    }
    assert_eq!(
        ask(CLIENT, &format!("2.1.{fdff}"), "PTR"),
        "shop.prod.web.prod.12.instance.local."
    );
    assert_eq!(
        ask(CLIENT, &format!("3.3.{fdff}"), "PTR"),
        "NXDOMAIN f.f.d.f.ip6.arpa"
    );
}

#[test]
fn what_is_no_plain_question_is_turned_down() {
    let plain = query("web.prod.rr.local", "A");
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut query = plain.clone();
        change(&mut query);
        query
    };
    let cases: Vec<(&str, Vec<u8>, DnsAction)> = vec![
        ("empty", vec![], DnsAction::Ignore),
        ("no header", plain[..11].to_vec(), DnsAction::Ignore),
        ("a response", changed(&|q| q[2] |= 0x80), DnsAction::Ignore),
        (
            "a header alone",
            plain[..12].to_vec(),
            DnsAction::Answer(Outcome::FormatError),
        ),
        (
            "status",
            changed(&|q| q[2] = 0x10),
            DnsAction::Answer(Outcome::NotImplemented),
        ),
        (
            "update",
            changed(&|q| q[2] = 0x28),
            DnsAction::Answer(Outcome::NotImplemented),
        ),
        (
            "opcode 15",
            changed(&|q| q[2] = 0x78),
            DnsAction::Answer(Outcome::NotImplemented),
        ),
        (
            "no question",
            changed(&|q| q[5] = 0),
            DnsAction::Answer(Outcome::FormatError),
        ),
        (
            "two questions",
            changed(&|q| q[5] = 2),
            DnsAction::Answer(Outcome::FormatError),
        ),
        (
            "answers",
            changed(&|q| q[7] = 1),
            DnsAction::Answer(Outcome::FormatError),
        ),
        (
            "records missing",
            changed(&|q| q[10] = 0xff),
            DnsAction::Answer(Outcome::FormatError),
        ),
        (
            "more bytes",
            changed(&|q| q.push(0)),
            DnsAction::Answer(Outcome::FormatError),
        ),
        (
            "oversized",
            changed(&|q| q.resize(MAX_QUERY_LEN + 1, 0)),
            DnsAction::Answer(Outcome::FormatError),
        ),
        (
            "a pointer",
            changed(&|q| q[12] = 0xc0),
            DnsAction::Answer(Outcome::FormatError),
        ),
        (
            "a bit label",
            changed(&|q| q[12] = 0x41),
            DnsAction::Answer(Outcome::FormatError),
        ),
        (
            "chaos",
            changed(&|q| *q.last_mut().unwrap() = 3),
            DnsAction::Answer(Outcome::Refused),
        ),
        (
            "any class",
            changed(&|q| *q.last_mut().unwrap() = 255),
            DnsAction::Answer(Outcome::Refused),
        ),
        (
            "AXFR",
            query("weald.internal", "AXFR"),
            DnsAction::Answer(Outcome::Refused),
        ),
        (
            "IXFR",
            query("example.com", "IXFR"),
            DnsAction::Answer(Outcome::Refused),
        ),
        (
            "TSIG",
            query("example.com", "TSIG"),
            DnsAction::Answer(Outcome::Refused),
        ),
        (
            "OPT",
            query("example.com", "OPT"),
            DnsAction::Answer(Outcome::Refused),
        ),
    ];
    let table = snapshot();
    for (what, query, expected) in cases {
        assert_eq!(outcome(&query, CLIENT, &table), expected, "{what}");
    }
}

#[test]
fn errors_name_the_query_that_they_are_for() {
    let mut query = query("web.prod.rr.local", "A");
    query[5] = 7;
    assert_eq!(
        reply_bytes(&query, CLIENT),
        b"\x30\x39\x81\x81\0\0\0\0\0\0\0\0"
    );
    query[2] = 0x29;
    assert_eq!(
        reply_bytes(&query, CLIENT),
        b"\x30\x39\xa9\x84\0\0\0\0\0\0\0\0"
    );
}

#[test]
fn edns_is_answered_in_kind() {
    let ask = |edns: Option<Edns>| {
        let mut message = question("nope.prod.rr.local", "A");
        message.edns = edns;
        Message::from_vec(&reply_bytes(&message.to_vec().unwrap(), CLIENT)).unwrap()
    };
    assert_eq!(ask(None).edns, None);
    let mut edns = Edns::new();
    edns.set_max_payload(4096).set_dnssec_ok(true);
    let reply = ask(Some(edns.clone())).edns.unwrap();
    assert_eq!(
        (
            reply.version(),
            reply.max_payload(),
            reply.flags().dnssec_ok
        ),
        (0, 1232, true)
    );
    edns.set_version(1);
    let reply = ask(Some(edns));
    // 16 is BADVERS here and BADSIG with signatures.
    assert_eq!(u16::from(reply.metadata.response_code), 16);
    assert_eq!(reply.edns.unwrap().version(), 0);
    assert!(reply.authorities.is_empty());
}

#[test]
fn a_second_opt_record_is_malformed() {
    let mut query = query("web.prod.rr.local", "A");
    query[11] = 2;
    for _ in 0..2 {
        query.extend_from_slice(b"\0\0\x29\x04\xd0\0\0\0\0\0\0");
    }
    assert_eq!(
        outcome(&query, CLIENT, &snapshot()),
        DnsAction::Answer(Outcome::FormatError)
    );
}

#[test]
fn an_answer_too_long_for_the_datagram_sends_to_tcp() {
    let long = "z".repeat(63);
    let zone = format!("{long}.{long}.example");
    let table = snapshot_with(&["local", &zone]);
    // A question of 250 bytes, and its negative answer with the long zone behind it, fit; a small
    // payload of EDNS below the minimum counts as the minimum.
    let name = format!("{}.{}.rr.{zone}", "a".repeat(60), "b".repeat(50));
    let query = query(&name, "A");
    let mut out = Vec::new();
    let caller = Caller { ip: ip(CLIENT) };
    answer(
        &query,
        Transport::Udp,
        caller,
        &table,
        TableStatus::Authoritative,
        &mut out,
    );
    assert!(out.len() <= 512);
    assert!(!Message::from_vec(&out).unwrap().metadata.truncation);

    let parsed = Query::parse(&query).unwrap();
    let many = Reply::Records(vec![Data::Address(ip("10.30.0.1")); 40]);
    response::write(&parsed, &many, Transport::Udp, &mut out);
    let message = Message::from_vec(&out).unwrap();
    assert!(message.metadata.truncation && message.answers.is_empty());
    assert_eq!(message.queries.len(), 1);
    response::write(&parsed, &many, Transport::Tcp, &mut out);
    let message = Message::from_vec(&out).unwrap();
    assert!(!message.metadata.truncation);
    assert_eq!(message.answers.len(), 40);
}

#[test]
fn refusals_of_the_shell_echo_the_question() {
    let query = query("example.com", "A");
    let read = |write: fn(&[u8], &mut Vec<u8>)| {
        let mut out = vec![1, 2, 3];
        write(&query, &mut out);
        Message::from_vec(&out).unwrap()
    };
    for (write, code, truncation) in [
        (
            refuse as fn(&[u8], &mut Vec<u8>),
            ResponseCode::Refused,
            false,
        ),
        (fail, ResponseCode::ServFail, false),
        (truncated, ResponseCode::NoError, true),
    ] {
        let message = read(write);
        assert_eq!(message.metadata.response_code, code);
        assert_eq!(message.metadata.truncation, truncation);
        assert_eq!(message.queries[0].name().to_ascii(), "example.com.");
    }
    let mut out = vec![1];
    refuse(b"nonsense", &mut out);
    assert_eq!(out, []);
}

#[test]
fn a_table_without_zones_still_has_names() {
    let table = snapshot_with(&[]);
    let ask = |name: &str, record_type: &str| {
        let query = query(name, record_type);
        show(
            &query,
            Caller { ip: ip(CLIENT) },
            &table,
            TableStatus::Authoritative,
        )
    };
    assert_eq!(ask("web.prod.rr", "A"), "10.30.8.1");
    assert_eq!(ask("web.prod.rr.local", "A"), "forward");
    assert_eq!(
        ask("1.8.30.10.in-addr.arpa", "PTR"),
        "shop.prod.web.prod.any.rr."
    );
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        check_any(&bytes);
    }

    #[test]
    fn no_changed_query_panics(
        at in 0_usize..80,
        value in any::<u8>(),
        cut in 0_usize..80,
        tail in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut query = query("shop.prod.web.prod.12.instance.local", "ANY");
        if let Some(byte) = query.get_mut(at) {
            *byte = value;
        }
        query.truncate(cut);
        query.extend_from_slice(&tail);
        check_any(&query);
    }

    #[test]
    fn every_question_is_echoed_as_sent(
        labels in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..20), 0..8),
        policy in prop_oneof!["rr", "CLOSEST", "instance"],
        record_type in any::<u16>(),
    ) {
        let mut labels: Vec<&[u8]> = labels.iter().map(Vec::as_slice).collect();
        labels.push(policy.as_bytes());
        let query = encode(&labels, record_type);
        let reply = reply_bytes(&query, CLIENT);
        prop_assert_eq!(reply.get(12..query.len()), query.get(12..));
    }
}

/// Whatever comes, what goes out is a readable response with the same id, or nothing.
fn check_any(bytes: &[u8]) {
    let table = snapshot();
    let mut out = vec![7];
    let caller = Caller { ip: ip(CLIENT) };
    let action = answer(
        bytes,
        Transport::Udp,
        caller,
        &table,
        TableStatus::Authoritative,
        &mut out,
    );
    match action {
        DnsAction::Answer(_) => {
            let message = Message::from_vec(&out).unwrap();
            assert_eq!(message.metadata.message_type, MessageType::Response);
            assert_eq!(out.first_chunk::<2>(), bytes.first_chunk::<2>());
        }
        DnsAction::Forward => {
            assert!(Forwarded::new(bytes, 1).is_ok());
            assert_eq!(out, []);
        }
        DnsAction::Ignore => assert_eq!(out, []),
    }
}

/// Asks and shows the answer in a few words.
fn ask(caller: &str, name: &str, record_type: &str) -> String {
    let query = query(name, record_type);
    show(
        &query,
        Caller { ip: ip(caller) },
        &snapshot(),
        TableStatus::Authoritative,
    )
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "hickory's enums, and a test shows the rest as it is"
)]
fn show(query: &[u8], caller: Caller, table: &Snapshot, status: TableStatus) -> String {
    let mut out = Vec::new();
    match answer(query, Transport::Udp, caller, table, status, &mut out) {
        DnsAction::Forward => return "forward".to_owned(),
        DnsAction::Ignore => return "ignore".to_owned(),
        DnsAction::Answer(_) => {}
    }
    let message = Message::from_vec(&out).unwrap();
    let asked = Message::from_vec(query).unwrap();
    assert_eq!(message.metadata.id, asked.metadata.id);
    assert!(message.metadata.recursion_available && message.metadata.recursion_desired);
    assert!(message.queries[0].name().eq_case(asked.queries[0].name()));
    assert!(message.answers.iter().all(|record| record.ttl == TTL_SECS));
    let zone = || {
        let [authority] = message.authorities.as_slice() else {
            panic!("one SOA in {message:?}");
        };
        let RData::SOA(soa) = &authority.data else {
            panic!("an SOA in {message:?}");
        };
        assert_eq!((authority.ttl, soa.minimum), (5, 5));
        authority
            .name
            .to_ascii()
            .trim_end_matches('.')
            .to_ascii_lowercase()
    };
    match message.metadata.response_code {
        ResponseCode::NXDomain => {
            assert!(message.metadata.authoritative);
            format!("NXDOMAIN {}", zone())
        }
        ResponseCode::NoError if message.answers.is_empty() => {
            assert!(message.metadata.authoritative);
            format!("NODATA {}", zone())
        }
        ResponseCode::NoError => {
            assert!(message.metadata.authoritative && message.authorities.is_empty());
            let records: Vec<String> = message.answers.iter().map(show_record).collect();
            records.join(" ")
        }
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        other => other.to_string(),
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "hickory's enums, and a test shows the rest as it is"
)]
fn show_record(record: &hickory_proto::rr::Record) -> String {
    let name = record.name.to_ascii();
    let name = name.trim_end_matches('.');
    match &record.data {
        RData::A(ip) => ip.to_string(),
        RData::AAAA(ip) => ip.to_string(),
        RData::PTR(name) => name.to_ascii(),
        RData::SOA(_) => format!("SOA {name}"),
        RData::NS(_) => format!("NS {name}"),
        other => other.to_string(),
    }
}

fn outcome(query: &[u8], caller: &str, table: &Snapshot) -> DnsAction {
    let caller = Caller { ip: ip(caller) };
    let mut out = Vec::new();
    answer(
        query,
        Transport::Udp,
        caller,
        table,
        TableStatus::Authoritative,
        &mut out,
    )
}

fn reply_bytes(query: &[u8], caller: &str) -> Vec<u8> {
    let caller = Caller { ip: ip(caller) };
    let mut out = Vec::new();
    answer(
        query,
        Transport::Udp,
        caller,
        &snapshot(),
        TableStatus::Authoritative,
        &mut out,
    );
    out
}

fn question(name: &str, record_type: &str) -> Message {
    let mut message = Message::new(12345, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let record_type = match record_type {
        "OPT" => RecordType::OPT,
        "IXFR" => RecordType::from(251),
        "TSIG" => RecordType::from(250),
        other => other.parse().unwrap(),
    };
    let mut question = Question::query(Name::from_ascii(name).unwrap(), record_type);
    question.set_query_class(DNSClass::IN);
    message.add_query(question);
    message
}

fn query(name: &str, record_type: &str) -> Vec<u8> {
    question(name, record_type).to_vec().unwrap()
}

/// A query with labels that hickory would not let through.
fn encode(labels: &[&[u8]], record_type: u16) -> Vec<u8> {
    let mut query = b"\x30\x39\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
    for label in labels {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend_from_slice(label);
    }
    query.push(0);
    query.extend_from_slice(&record_type.to_be_bytes());
    query.extend_from_slice(&[0, 1]);
    query
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn snapshot() -> Snapshot {
    snapshot_with(&["local", "weald.internal", "mesh.example"])
}

fn snapshot_with(zones: &[&str]) -> Snapshot {
    let table = Table {
        zones: zones.iter().map(|zone| Zone::new(zone).unwrap()).collect(),
        ..table()
    };
    assert_eq!(table.check(), Ok(()));
    Snapshot::build(&table, &node("a1"), &mut Nodes::new(), 1)
}

fn table() -> Table {
    Table {
        pools: Pools::default(),
        zones: Vec::new(),
        nodes: vec![
            node_row("a1", "10.30.255.1", "fdff::ff01"),
            node_row("b1", "10.30.255.2", "fdff::ff02"),
        ],
        relays: Vec::new(),
        services: vec![
            service_row("acme", "shop.prod.web.prod", "10.30.8.1", 1),
            service_row("acme", "shop.prod.client.prod", "10.30.8.3", 3),
            service_row("acme", "blog.prod.web.prod", "10.30.8.2", 2),
            service_row("acme", "shop.prod.six.prod", "", 6),
            service_row("acme", "shop.prod.empty.prod", "10.30.8.7", 7),
            service_row("rival", "bank.prod.vault.prod", "10.30.8.9", 9),
        ],
        instances: vec![
            instance_row("shop.prod.web.prod", 0, "b1", "10.30.0.10", "fdff::10"),
            instance_row("shop.prod.web.prod", 12, "b1", "10.30.0.12", "fdff::12"),
            instance_row("shop.prod.client.prod", 0, "a1", CLIENT, "fdff::2"),
            instance_row("bank.prod.vault.prod", 0, "a1", OTHER, "fdff::50"),
        ],
    }
}

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

fn node(name: &str) -> NodeId {
    NodeId::new(label("munich"), label(name))
}

fn dual(v4: &str, v6: &str) -> Dual {
    Dual {
        v4: v4.parse().ok(),
        v6: v6.parse().ok(),
    }
}

fn node_row(name: &str, v4: &str, v6: &str) -> NodeRow {
    NodeRow {
        id: node(name),
        organisation: Organisation(label("acme")),
        addresses: Vec::new(),
        node_ip: dual(v4, v6),
    }
}

fn service_name(text: &str) -> ServiceName {
    let labels: Vec<Label> = text.split('.').map(label).collect();
    let [application, application_namespace, name, namespace] = labels.try_into().unwrap();
    ServiceName {
        application: ApplicationName {
            name: application,
            namespace: application_namespace,
        },
        name,
        namespace,
    }
}

/// The `closest` address of a service is its `rr` address with another prefix.
fn service_row(organisation: &str, name: &str, v4: &str, number: u16) -> ServiceRow {
    ServiceRow {
        name: service_name(name),
        organisation: Organisation(label(organisation)),
        round_robin: dual(v4, &format!("fdff:2000::{number:x}")),
        closest: dual(&v4.replace(".8.", ".9."), &format!("fdff:1000::{number:x}")),
        lane: LanePolicy::Auto,
        accept: AcceptPolicy::Late,
    }
}

fn instance_row(service: &str, number: u32, host: &str, v4: &str, v6: &str) -> InstanceRow {
    InstanceRow {
        id: InstanceId {
            service: service_name(service),
            number,
        },
        node: node(host),
        instance_ip: dual(v4, v6),
        ports: Vec::new(),
    }
}
