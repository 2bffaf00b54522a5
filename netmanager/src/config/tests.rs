//! Faults of configuration files: their texts and places.

use std::path::Path;

use weald_proto::table::{AcceptPolicy, LanePolicy, Table};

use super::*;

fn table(text: &str) -> Result<Table, Vec<String>> {
    parse_table(Path::new("shop.toml"), text).map_err(lines)
}

fn net(text: &str) -> Result<NetConfig, Vec<String>> {
    NetConfig::parse(Path::new("/etc/weald/net.toml"), text).map_err(lines)
}

fn lines(errors: ConfigErrors) -> Vec<String> {
    errors.to_string().lines().map(ToOwned::to_owned).collect()
}

/// A correct table of one node and one service with one instance.
const SMALL: &str = r#"
[[node]]
id = "site-a/a1"
organisation = "acme"
addresses = ["192.168.1.11:10260"]
ipv4 = "10.30.0.1"
ipv6 = "fdff::1"

[[service]]
application = "shop.prod"
name = "web.prod"
organisation = "acme"
rr = { ipv4 = "10.30.100.1", ipv6 = "fdff:2000::1" }
closest = { ipv4 = "10.30.101.1" }
lane = "l3"
accept = "early"

[[service.instance]]
number = 0
node = "site-a/a1"
ipv4 = "10.30.1.1"
ports = ["8080:80/tcp", "53:53/udp"]
"#;

#[test]
fn a_correct_table_is_read() {
    let table = table(SMALL).unwrap();
    assert_eq!(table.nodes.len(), 1);
    assert_eq!(table.zones.len(), 2);
    assert_eq!(table.services[0].name.to_string(), "shop.prod.web.prod");
    assert_eq!(table.services[0].lane, LanePolicy::L3);
    assert_eq!(table.services[0].accept, AcceptPolicy::Early);
    assert_eq!(table.services[0].closest.v6, None);
    assert_eq!(table.instances[0].id.to_string(), "shop.prod.web.prod.0");
    assert_eq!(table.instances[0].ports[1].to_string(), "53:53/udp");
}

#[test]
fn the_examples_are_read() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let config = NetConfig::load(&examples.join("net.toml")).unwrap();
    let RowSource::File(file) = &config.source else {
        panic!("the example has a table");
    };
    let table = load_table(file).unwrap();
    assert_eq!(table.nodes.len(), 4);
    assert_eq!(table.instances.len(), 4);
}

/// `SMALL` with one text replaced, and all that is to be said about it.
#[test]
fn each_fault_of_a_table_has_its_text_and_place() {
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "organisation = \"acme\"\naddresses",
            "organization = \"acme\"\naddresses",
            &[
                "shop.toml:2:1: [[node]] needs the key \"organisation\"",
                "shop.toml:4:1: unknown key \"organization\" in [[node]]; did you mean \"organisation\"? (allowed: id, organisation, addresses, ipv4, ipv6)",
            ],
        ),
        (
            "number = 0",
            "number = \"0\"",
            &[
                "shop.toml:19:10: number in [[service.instance]] must be a whole number from 0 to 4294967295",
            ],
        ),
        (
            "number = 0",
            "number = -1",
            &[
                "shop.toml:19:10: number in [[service.instance]] must be a whole number from 0 to 4294967295",
            ],
        ),
        (
            "\"web.prod\"",
            "\"web\\\".prod\"",
            &[
                "shop.toml:11:8: name: name \"web\\\"\" has '\"'; only letters a-z, digits and '-' are allowed",
            ],
        ),
        (
            "\"web.prod\"",
            "\"web\\n.prod\"",
            &[
                "shop.toml:11:8: name: name \"web\\n\" has '\\n'; only letters a-z, digits and '-' are allowed",
            ],
        ),
        (
            "\"web.prod\"",
            "\"*.prod\"",
            &[
                "shop.toml:11:8: name: name \"*\" has '*'; only letters a-z, digits and '-' are allowed",
            ],
        ),
        (
            "\"web.prod\"",
            "\"web\"",
            &[
                "shop.toml:11:8: name: \"web\" is not of the form name.namespace, as in \"web.prod\"",
            ],
        ),
        (
            "\"web.prod\"",
            "\"any.prod\"",
            &[
                "shop.toml:9:1: service shop.prod.any.prod: \"any\" is reserved (policy words, numbers, \"any\" and the labels of zones are); choose another",
            ],
        ),
        (
            "\"l3\"",
            "\"l5\"",
            &[
                "shop.toml:15:8: lane: unknown lane \"l5\"; did you mean \"l3\"? (allowed: auto, l3, l4)",
            ],
        ),
        (
            "\"early\"",
            "\"soon\"",
            &[
                "shop.toml:16:10: accept: unknown time of acceptance \"soon\"; allowed are late, early",
            ],
        ),
        (
            "\"8080:80/tcp\"",
            "\"0:80/tcp\"",
            &[
                "shop.toml:22:10: ports: \"0:80/tcp\" is not a port mapping; write HOST:INSTANCE or HOST:INSTANCE/tcp|udp with ports 1 to 65535, as in \"8080:80/tcp\"",
            ],
        ),
        (
            "node = \"site-a/a1\"",
            "node = \"site-a/a9\"",
            &[
                "shop.toml:18:1: instance shop.prod.web.prod.0: node site-a/a9 is not in the table; known are site-a/a1",
            ],
        ),
        (
            "ipv4 = \"10.30.1.1\"",
            "ipv4 = \"10.30.0.1\"",
            &[
                "shop.toml:21:8: address 10.30.0.1 belongs to both node site-a/a1 and instance shop.prod.web.prod.0; give each its own",
            ],
        ),
        (
            "ipv4 = \"10.30.1.1\"",
            "ipv4 = \"192.168.0.1\"",
            &[
                "shop.toml:21:8: instance shop.prod.web.prod.0: address 192.168.0.1 is outside the pools 10.30.0.0/16 and fdff::/16",
            ],
        ),
        (
            "ipv4 = \"10.30.1.1\"",
            "",
            &[
                "shop.toml:18:1: instance shop.prod.web.prod.0 has neither an IPv4 nor an IPv6 address; give it at least one",
            ],
        ),
        (
            "\"192.168.1.11:10260\"",
            "\"192.168.1.11\", \"0.0.0.0:1\"",
            &[
                "shop.toml:5:14: addresses: \"192.168.1.11\" is not an address with a port, as in \"192.0.2.1:10260\"",
                "shop.toml:5:30: addresses: 0.0.0.0:1 cannot be dialled; write the address at which others reach it",
            ],
        ),
        (
            "closest = { ipv4 = \"10.30.101.1\" }",
            "closest = \"10.30.101.1\"",
            &[
                "shop.toml:9:1: service shop.prod.web.prod (closest) has neither an IPv4 nor an IPv6 address; give it at least one",
                "shop.toml:14:11: closest must be a table, not a string",
            ],
        ),
        (
            "[[service]]",
            "[pools]\nipv4 = \"10.30.0.1/16\"\nipv6 = \"fdff::\"\n[[service]]",
            &[
                "shop.toml:10:8: ipv4: 10.30.0.1/16 has bits set beyond its prefix length",
                "shop.toml:11:8: ipv6: \"fdff::\" is not a prefix of this family, as in \"fdff::/16\"",
            ],
        ),
    ];
    for (from, to, expected) in cases {
        assert!(SMALL.contains(from), "{from}");
        let found = table(&SMALL.replacen(from, to, 1)).unwrap_err();
        assert_eq!(found, *expected, "{to}");
    }
}

#[test]
fn rows_that_differ_only_in_case_collide() {
    let twice = format!(
        "{SMALL}\n[[node]]\nid = \"Site-A/A1\"\norganisation = \"acme\"\nipv4 = \"10.30.0.2\"\n"
    );
    assert_eq!(
        table(&twice),
        Err(vec![
            "shop.toml:25:6: node site-a/a1 is listed twice; keep one of them".to_owned()
        ])
    );
}

#[test]
fn one_host_port_leads_to_one_instance() {
    let text = format!(
        "{SMALL}\n[[service.instance]]\nnumber = 1\nnode = \"site-a/a1\"\nipv4 = \"10.30.1.2\"\nports = [\"8080:81\"]\n"
    );
    assert_eq!(
        table(&text),
        Err(vec!["shop.toml:24:1: port 8080/tcp of node site-a/a1 is mapped by both shop.prod.web.prod.0 and shop.prod.web.prod.1".to_owned()])
    );
}

#[test]
fn broken_syntax_does_not_hide_other_faults() {
    let found = table("zones = [\"local\"\nnode = 5\n\n[[relay]]\nid = \"r1\"\ncolour = 1\n");
    let found = found.unwrap_err();
    assert!(found.len() >= 2, "{found:#?}");
    assert!(found.iter().all(|line| line.starts_with("shop.toml:")));
}

#[test]
fn rows_come_from_a_table_or_from_a_cluster() {
    let cluster = net("[cluster]\naddresses = [\"192.0.2.1:10300\", \"[2001:db8::1]:10300\"]");
    let addresses = ["192.0.2.1:10300", "[2001:db8::1]:10300"];
    let addresses = addresses.map(|at| at.parse().unwrap()).to_vec();
    assert_eq!(cluster.unwrap().source, RowSource::Cluster(addresses));
    for (text, fault) in [
        ("[cluster]", "1:1: [cluster] has no addresses"),
        (
            "[cluster]\naddresses = [\"home:10300\", \"0.0.0.0:1\"]",
            "2:14: addresses: \"home:10300\" is not an address",
        ),
        (
            "table = \"shop.toml\"\n[cluster]\naddresses = [\"192.0.2.1:1\"]",
            "1:9: both table and [cluster] are there",
        ),
    ] {
        let faults = net(text).unwrap_err();
        let first = faults.first().unwrap();
        assert!(first.contains(fault), "{first}");
    }
}

#[test]
fn a_configuration_has_defaults_and_relative_paths() {
    let config = net("table = \"shop.toml\"").unwrap();
    let file = RowSource::File("/etc/weald/shop.toml".into());
    assert_eq!(config.source, file);
    assert_eq!(config.socket, Path::new(DEFAULT_SOCKET));
    assert_eq!(config.pki.dir, Path::new("/etc/weald/pki"));
    assert_eq!(config.listen, "0.0.0.0:10260".parse().unwrap());
    assert_eq!(config.overlay.name, None);
    assert!(config.overlay.egress);
    assert!(config.dns.upstreams.is_empty());
    assert_eq!(config.bench, BenchConfig::default());
}

#[test]
fn benches_are_answered_only_if_that_is_said() {
    let config = net("table = \"shop.toml\"\n[bench]\nrespond = true").unwrap();
    let BenchConfig { respond, bare } = config.bench;
    assert!(respond && !bare);
}

#[test]
fn every_fault_of_a_configuration_is_reported_at_once() {
    let text = r#"
listen = "10260"
tabel = "shop.toml"
socket = 5
[overlay]
name = "no spaces"
egress = "yes"
[dns]
upstreams = ["192.0.2.1", "dns.example", "0.0.0.0"]
[pki]
dir = ""
"#;
    assert_eq!(
        net(text),
        Err([
            "/etc/weald/net.toml:1:1: neither table nor [cluster] is there; name a table's file, or the cluster's addresses",
            "/etc/weald/net.toml:2:10: listen: \"10260\" is not an address with a port, as in \"0.0.0.0:10260\"",
            "/etc/weald/net.toml:3:1: unknown key \"tabel\" in the top level; did you mean \"table\"? (allowed: table, cluster, state_dir, socket, listen, pki, overlay, dns, data_plane, paths, bench)",
            "/etc/weald/net.toml:4:10: socket in the top level must be a text in quotes, not an integer",
            "/etc/weald/net.toml:6:8: name: name \"no spaces\" has ' '; only letters a-z, digits and '-' are allowed",
            "/etc/weald/net.toml:7:10: egress in [overlay] must be true or false, not a string",
            "/etc/weald/net.toml:9:27: upstreams: \"dns.example\" is not an address, as in \"192.0.2.1\" or \"192.0.2.1:53\"",
            "/etc/weald/net.toml:9:42: upstreams: 0.0.0.0:53 cannot be asked; name a resolver's address",
            "/etc/weald/net.toml:11:7: dir: the path is empty",
        ]
        .map(ToOwned::to_owned)
        .to_vec())
    );
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let missing = load_table(Path::new("/nowhere/shop.toml")).map_err(lines);
    assert_eq!(
        missing,
        Err(vec![
            "/nowhere/shop.toml: cannot be read: No such file or directory (os error 2)".to_owned()
        ])
    );
    let folder = load_table(Path::new("/")).map_err(lines);
    assert!(folder.unwrap_err()[0].starts_with("/: cannot be read: "));
}

#[test]
fn addresses_that_routers_forward_are_named_in_the_configuration() {
    let with = |list: &str| format!("table = \"shop.toml\"\n[paths]\nadvertise = [{list}]\n");
    let config = net(&with("\"203.0.113.7:443\", \"[2001:db8::7]:10260\"")).unwrap();
    let expected = ["203.0.113.7:443", "[2001:db8::7]:10260"].map(|at| at.parse().unwrap());
    assert_eq!(config.paths.advertise, expected);
    assert_eq!(
        net(&with(
            "\"203.0.113.7\", \"127.0.0.1:10260\", \"203.0.113.7:0\""
        ))
        .unwrap_err(),
        [
            "/etc/weald/net.toml:3:14: advertise: \"203.0.113.7\" is not an address with a port, as in \"192.0.2.1:10260\"",
            "/etc/weald/net.toml:3:29: advertise: no peer sends to 127.0.0.1:10260; name the address that a router forwards to this node",
            "/etc/weald/net.toml:3:48: advertise: no peer sends to 203.0.113.7:0; name the address that a router forwards to this node",
        ]
    );
    let many: Vec<String> = (1..=9)
        .map(|port| format!("\"203.0.113.7:{port}\""))
        .collect();
    let [fault] = &net(&with(&many.join(", "))).unwrap_err()[..] else {
        panic!("one fault is expected");
    };
    assert!(
        fault.ends_with("advertise: 9 addresses are too many; name at most 8"),
        "{fault}"
    );
}
