//! The lab's tools: captures, raw packets, snapshots of the machine, sweeping and own mounts.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use netns_tests::{
    BRIDGE, Description, Lab, Machine, MachineState, Scope, Segment, UdpFlow, command, leftovers,
    raw,
};

const SECOND: Duration = Duration::from_secs(1);

/// Set for the process that dies with a lab: see `the_lab_of_a_dead_owner_is_swept`.
const DIE: &str = "WEALD_LAB_TEST_DIE";

fn routed() -> Description {
    Description::new()
        .segment(Segment::new("near").v4("10.1.0.0/24").v6("fd01::/64"))
        .segment(Segment::new("far").v4("10.2.0.0/24").v6("fd02::/64"))
        .machine(Machine::router("router", "near", "far"))
        .machine(Machine::host("a").on("near"))
        .machine(Machine::host("b").on("near"))
        .machine(Machine::host("c").on("far"))
}

#[test]
fn a_capture_finds_plaintext_and_counts_flows() -> Result<()> {
    let lab = Lab::new(&routed())?;
    let (a, c) = (lab.node("a"), lab.node("c"));
    for address in c.addresses() {
        let capture = lab.segment("far").capture(BRIDGE)?;
        let echo = c.udp_echo(SocketAddr::new(address, 7777))?;
        let payload = b"the-secret-pattern".repeat(10);
        for _ in 0..3 {
            a.udp_exchange(echo.address(), &payload, SECOND)?;
        }
        let captured = capture.stop()?;
        captured.ensure_complete()?;
        assert_eq!(captured.count_containing(b"the-secret-pattern"), 6);
        assert_eq!(captured.count_containing(b"another-pattern"), 0);
        assert_eq!(captured.udp_bytes_of(echo.address()), (540, 540));
        assert_eq!(captured.udp_flows().len(), 6);
        let path = c.write_file("capture.pcap", "")?;
        captured.write_pcap(&path)?;
        let shown = c.run_ok(command(&format!("tcpdump -nr {}", path.display())), SECOND)?;
        assert_eq!(shown.matches("UDP, length 180").count(), 6, "{shown}");
    }
    Ok(())
}

#[test]
fn raw_packets_carry_the_addresses_they_claim() -> Result<()> {
    let lab = Lab::new(&routed())?;
    let (a, router, c) = (lab.node("a"), lab.node("router"), lab.node("c"));
    let gateway = router.interfaces()[0].clone();
    for v6 in [false, true] {
        let (spoofed, to, via): (IpAddr, IpAddr, IpAddr) = if v6 {
            (
                "fd99::1".parse()?,
                c.v6().into(),
                gateway.v6.context("no v6")?.into(),
            )
        } else {
            (
                "10.99.0.1".parse()?,
                c.v4().into(),
                gateway.v4.context("no v4")?.into(),
            )
        };
        let senders = [
            a.raw_routed()?,
            a.raw_link("eth0", Some(a.neighbour("eth0", via)?))?,
        ];
        for (port, sender) in (5000..).zip(senders) {
            let capture = c.capture("eth0")?;
            let (source, destination) = (SocketAddr::new(spoofed, port), SocketAddr::new(to, 6000));
            sender.send(&raw::udp(source, destination, b"spoofed payload"))?;
            capture.wait_for("the spoofed packet", 5 * SECOND, |packet| {
                netns_tests::capture::contains(packet, b"spoofed payload")
            })?;
            let flows = capture.stop()?.udp_flows();
            assert_eq!(
                flows[&UdpFlow {
                    source,
                    destination
                }]
                    .payload_bytes,
                15
            );
        }
    }
    let error = a.raw_link("nothing", None).unwrap_err();
    assert!(
        format!("{error:#}").starts_with("send on nothing in wlab-"),
        "{error:#}"
    );
    Ok(())
}

#[test]
fn tcp_and_udp_echo_whole_payloads() -> Result<()> {
    let lab = Lab::new(&routed())?;
    let (a, c) = (lab.node("a"), lab.node("c"));
    let big = vec![7; 3 << 20];
    for address in c.addresses() {
        let tcp = c.tcp_echo(SocketAddr::new(address, 7001))?;
        assert!(a.tcp_exchange(tcp.address(), &big, 5 * SECOND)? == big);
        let to = tcp.address();
        drop(tcp);
        let refused = a.tcp_connect(to, SECOND)?.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    }
    Ok(())
}

#[test]
fn a_snapshot_names_everything_that_was_left() -> Result<()> {
    let lab = Lab::new(&routed())?;
    let a = lab.node("a");
    let scope = Scope {
        namespaces: vec![a.name().to_owned()],
        names: vec![lab.name().to_owned()],
        paths: vec![a.dir()?.to_owned()],
    };
    let before = MachineState::take(&scope)?;
    before.wait_restored(&scope, SECOND)?;

    a.ip_batch(
        "link add left0 type veth peer name left1\nlink set left0 up\n\
         route add unreachable 10.77.0.0/16\nrule add pref 77 lookup 77\n",
    )?;
    a.nft("table inet left { chain forgotten { type filter hook input priority 0; }; }")?;
    let sleeper = a.spawn(command("sleep 1000"))?;
    a.write_file("left", "")?;
    let extra = format!("{}-extra", lab.name());
    a.run_ok(command(&format!("ip netns add {extra}")), 5 * SECOND)?;

    let difference = before.difference(&MachineState::take(&scope)?);
    let shown = difference.to_string();
    let inside = a.name();
    for line in [
        format!("+ {inside}: link left0@left1 "),
        format!("+ {inside}: route unreachable 10.77.0.0/16"),
        format!("+ {inside}: rule 77: from all lookup 77"),
        format!("+ {inside}: nft table inet left {{"),
        format!("+ {inside}: nft table inet left {{ chain forgotten {{ type filter"),
        format!("+ {inside}: program sleep 1000"),
        format!("+ namespace {extra}"),
        format!("+ mount /run/netns/{extra} nsfs"),
        format!("+ path {}", a.dir()?.join("left").display()),
    ] {
        assert!(shown.contains(&line), "no {line:?} in\n{shown}");
    }
    assert_eq!(difference.removed, Vec::<String>::new());

    drop(sleeper);
    a.ip_batch("link del left0\nroute del unreachable 10.77.0.0/16\nrule del pref 77\n")?;
    a.nft("delete table inet left")?;
    std::fs::remove_file(a.dir()?.join("left"))?;
    a.run_ok(command(&format!("ip netns del {extra}")), 5 * SECOND)?;
    before.wait_restored(&scope, 5 * SECOND)
}

#[test]
fn the_lab_of_a_dead_owner_is_swept() -> Result<()> {
    if std::env::var_os(DIE).is_some() {
        let lab = Lab::new(&routed())?;
        let sleeper = lab.node("a").spawn(command("sleep 1000"))?;
        println!("\nlab {} sleeper {} made", lab.name(), sleeper.pid());
        std::process::abort();
    }
    let output = Command::new(std::env::current_exe()?)
        .args(["the_lab_of_a_dead_owner_is_swept", "--exact", "--nocapture"])
        .env(DIE, "1")
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text
        .lines()
        .find(|line| line.starts_with("lab "))
        .context("no lab was made")?;
    let words: Vec<&str> = line.split(' ').collect();
    let _next = Lab::new(&routed())?;
    assert_eq!(leftovers(words[1]), Vec::<String>::new());
    let left = std::fs::read_to_string(format!("/proc/{}/cmdline", words[3])).unwrap_or_default();
    assert!(
        !left.starts_with("sleep"),
        "the program of a dead lab still runs"
    );
    Ok(())
}

#[test]
fn programs_that_left_their_group_die_with_the_lab() -> Result<()> {
    let lab = Lab::new(&routed())?;
    let mut shell = Command::new("sh");
    // A daemon: in a session and a namespace of its own, with its parent gone.
    let daemon = "setsid unshare -n sleep 1000 >/dev/null 2>&1 & echo $!";
    shell.args(["-c", daemon]);
    let pid = lab.node("a").run_ok(shell, 5 * SECOND)?.trim().to_owned();
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    drop(lab);
    let state = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    assert_eq!(state, "", "the daemon still runs");
    Ok(())
}

#[test]
fn a_machine_with_own_dirs_makes_namespaces_unseen() -> Result<()> {
    let mut description = routed();
    for name in ["x", "y"] {
        let host = Machine::host(name).on("near").own_dir("/run/netns");
        description = description.machine(host);
    }
    let lab = Lab::new(&description)?;
    for name in ["x", "y"] {
        let host = lab.node(name);
        host.run_ok(command("ip netns add same-name"), 5 * SECOND)?;
        assert_eq!(
            host.run_ok(command("ip netns list"), SECOND)?.trim(),
            "same-name"
        );
        let inner = host.open_inner("same-name")?;
        inner.ip_batch("link add only-here type veth peer name other\n")?;
    }
    assert!(!Path::new("/run/netns/same-name").exists());
    let ping = command(&format!("ping -c1 -W2 {}", lab.node("c").v4()));
    lab.node("x").run_ok(ping, 5 * SECOND)?;
    Ok(())
}

#[test]
fn a_description_with_a_fault_leaves_nothing() {
    let error = Lab::new(&routed().machine(Machine::host("a").on("near"))).unwrap_err();
    assert_eq!(error.to_string(), "name \"a\" is used twice");
    // Refused by the kernel half way: the address is not a host's.
    let broken = routed().machine(
        Machine::host("z").attach(netns_tests::Attachment::to("near").interface("bad/name")),
    );
    let error = format!("{:#}", Lab::new(&broken).unwrap_err());
    let lab = error
        .split_whitespace()
        .find(|word| word.starts_with("wlab-"))
        .unwrap();
    assert_eq!(leftovers(lab.trim_end_matches(':')), Vec::<String>::new());
    assert!(error.contains("bad/name"), "{error}");
}
