//! The command line: what parses, how names of instances are found, what tables look like.

use clap::CommandFactory;
use weald_proto::id::Label;
use weald_proto::name::{ApplicationName, InstanceId, ServiceName};

use super::failure::Kind;
use super::*;
use crate::api::report::{CandidateReport, Explanation, PolicyExplanation};

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split(' '))
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn options_stand_anywhere() {
    let cli = parse("netmanager status --json --socket /tmp/s").unwrap();
    assert!(cli.options.json);
    assert_eq!(
        cli.options
            .socket()
            .map_err(|failure| failure.error.to_string()),
        Ok("/tmp/s".into())
    );
    assert!(parse("netmanager --json --config net.toml up").is_ok());
}

#[test]
fn a_program_needs_its_dashes() {
    let cli = parse("netmanager run --instance web.prod.0 -- curl -4 http://x").unwrap();
    let Command::Run(args) = cli.command else {
        panic!("another command")
    };
    assert_eq!(args.command, ["curl", "-4", "http://x"]);
    assert!(parse("netmanager run --instance web.prod.0").is_err());
    assert!(parse("netmanager run -- true").is_err());
}

#[test]
fn nonsense_is_refused() {
    for line in [
        "netmanager",
        "netmanager destroy",
        "netmanager ping",
        "netmanager ping x -c 0",
        "netmanager ping x -i 0",
        "netmanager ping x -W nan",
        "netmanager flows --protocol sctp",
        "netmanager flows --source here",
        "netmanager status extra",
    ] {
        let error = parse(line).unwrap_err();
        assert!(error.exit_code() == 2, "{line}: {error}");
    }
    assert!(parse("netmanager ping web.prod.rr -c 6 -6 -i 0.2").is_ok());
}

#[test]
fn a_missing_daemon_is_exit_code_3() {
    let cli = parse("netmanager status --socket /nowhere/s").unwrap();
    let failure = dispatch(&cli).unwrap_err();
    assert_eq!(failure.kind, Kind::NotRunning);
    assert!(failure.error.to_string().contains("netmanager up"));
}

#[test]
fn a_wrong_configuration_is_exit_code_6() {
    let cli = parse("netmanager down --config /nowhere/net.toml").unwrap();
    let failure = dispatch(&cli).unwrap_err();
    assert_eq!(failure.kind, Kind::Config);
    assert_eq!(
        failure.error.to_string(),
        "/nowhere/net.toml: cannot be read: No such file or directory (os error 2)"
    );
}

fn instance(name: &str, number: u32) -> InstanceId {
    let label = |text: &str| Label::new(text).unwrap();
    InstanceId {
        service: ServiceName {
            application: ApplicationName {
                name: label("shop"),
                namespace: label("prod"),
            },
            name: label(name),
            namespace: label("prod"),
        },
        number,
    }
}

#[test]
fn instances_are_found_by_what_is_unique() {
    let all = [
        instance("web", 0),
        instance("web", 1),
        instance("client", 0),
    ];
    let local: Vec<&InstanceId> = all.iter().collect();
    let find = |wanted: &str| {
        run::find(wanted, &local)
            .map(ToString::to_string)
            .map_err(|failure| failure.error.to_string())
    };
    for (wanted, found) in [
        ("shop.prod.web.prod.0", "shop.prod.web.prod.0"),
        ("web.prod.1", "shop.prod.web.prod.1"),
        ("Client.Prod.0", "shop.prod.client.prod.0"),
        ("shop.prod.client", "shop.prod.client.prod.0"),
    ] {
        assert_eq!(find(wanted), Ok(found.to_owned()));
    }
    assert_eq!(
        find("shop.prod.web"),
        Err("\"shop.prod.web\" could be shop.prod.web.prod.0, shop.prod.web.prod.1; write more of it".to_owned())
    );
    assert_eq!(
        find("eb.prod.0"),
        Err("this node has no instance \"eb.prod.0\"; it has shop.prod.web.prod.0, shop.prod.web.prod.1, shop.prod.client.prod.0".to_owned())
    );
    assert_eq!(run::find("x", &[]).unwrap_err().kind, Kind::NotFound);
}

#[test]
fn dig_shows_who_is_picked_and_why() {
    let candidate = |number: u32, picked: bool, reason: &str| CandidateReport {
        instance: format!("shop.prod.web.prod.{number}"),
        instance_ip: None,
        node: format!("site-a/a{number}"),
        local: false,
        reachability: "up".into(),
        min_rtt_us: Some(u64::from(number) * 1500),
        picked,
        reason: reason.into(),
    };
    let explanation = Explanation {
        name: "shop.prod.web.prod.any.rr".into(),
        service: "shop.prod.web.prod".into(),
        policy: "rr".into(),
        instance: None,
        addresses: vec!["10.30.100.1".parse().unwrap()],
        policies: vec![PolicyExplanation {
            policy: "rr".into(),
            family: "ipv4".into(),
            service_ip: None,
            candidates: vec![
                candidate(0, false, "had its turn"),
                candidate(1, true, "next"),
            ],
        }],
    };
    let expected = "\
shop.prod.web.prod.any.rr
  A    10.30.100.1

rr ipv4, this name's policy
  PICK  INSTANCE              NODE       STATE  MIN RTT   REASON
        shop.prod.web.prod.0  site-a/a0  up     0.000 ms  had its turn
  ->    shop.prod.web.prod.1  site-a/a1  up     1.500 ms  next
";
    assert_eq!(dig::text(&explanation), expected);
}
