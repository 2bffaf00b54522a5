//! The running daemon between two nodes: host programs, tools, reloads, fragments, queues.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use netns_tests::fleet::{METRICS, Pick, RELAY_METRICS};
use netns_tests::pair::{self, ON_ALPHA, ON_BETA, TABLE};
use netns_tests::{Namespace, command, transfer, wait};
use nix::sys::socket::{setsockopt, sockopt};

const SOON: Duration = Duration::from_secs(10);
/// "At once": no timeout of ours or of the kernel is as short.
const AT_ONCE: Duration = Duration::from_millis(500);
/// How long the first contact with a node may take until it is given up (the netmanager's
/// `CONNECT_TIMEOUT`): so long a first packet waits, and with it whoever has sent it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// How long it may take until a node that has crashed is known to be down.
const DOWN_TIME: Duration = Duration::from_secs(30);
const BETA: [&str; 2] = ["10.30.1.2", "fdff::1:2"];

#[test]
fn programs_of_the_host_reach_services_and_names() -> Result<()> {
    let lab = pair::lab()?;
    let fleet = pair::start(&lab)?;
    let _echo = fleet
        .instance("beta", ON_BETA)?
        .tcp_echo(pair::anywhere())?;
    let host = lab.node("alpha");
    for ip in BETA {
        ensure!(
            host.tcp_exchange(pair::at(ip), b"host", SOON)? == b"host",
            "{ip}"
        );
    }
    let ask = "dig +short @169.254.1.1 home.lab.echo.lab.any.rr.local A";
    ensure!(host.run_ok(command(ask), SOON)?.trim() == "10.30.100.1");
    Ok(())
}

#[test]
fn ping_by_name_tells_instance_and_path() -> Result<()> {
    let lab = pair::lab()?;
    let fleet = pair::start(&lab)?;
    let cases = [
        ("0", "home/alpha", &["local"][..]),
        ("1", "home/beta", &["direct", "relay"][..]),
    ];
    for (number, node, kinds) in cases {
        let name = format!("home.lab.echo.lab.{number}.instance.local");
        for family in [&[][..], &["-6"][..]] {
            let arguments = [&["ping", &name, "-c", "1", "-W", "10"][..], family].concat();
            let said = fleet.tool_json("alpha", &arguments)?;
            let echo = said.first().context("no echo")?;
            ensure!(echo["node"] == node, "{echo}");
            let kind = echo["path"]["kind"].as_str().unwrap_or_default();
            ensure!(kinds.contains(&kind), "{echo}");
        }
    }
    let closest = ["dig", "home.lab.echo.lab.any.closest.local"];
    for tool in [&["status"][..], &["peers"], &["flows"], &closest] {
        ensure!(!fleet.tool_json("alpha", tool)?.is_empty(), "{tool:?}");
    }
    Ok(())
}

#[test]
fn dig_says_what_the_next_connection_gets() -> Result<()> {
    let lab = pair::lab()?;
    let fleet = pair::start(&lab)?;
    let mut servers = Vec::new();
    for (machine, instance) in [("alpha", ON_ALPHA), ("beta", ON_BETA)] {
        let namespace = fleet.instance(machine, instance)?;
        servers.push((instance, namespace.tcp_echo(pair::anywhere())?));
    }
    let requests = || -> Vec<u64> { servers.iter().map(|(_, it)| it.requests()).collect() };
    let client = fleet.instance("alpha", ON_ALPHA)?;
    // Connects as dig says, and fails unless the instance that it has picked answers.
    let follow = |machine: &str, from: &Namespace, name: &str, family: &str| -> Result<Pick> {
        let pick = fleet.pick(machine, name, family)?;
        let before = requests();
        let to = SocketAddr::new(pick.address, pair::PORT);
        ensure!(from.tcp_exchange(to, b"as dig says", SOON)? == b"as dig says");
        let answered: Vec<&str> = servers
            .iter()
            .zip(before.iter().zip(requests()))
            .filter(|(_, (before, after))| **before < *after)
            .map(|((instance, _), _)| *instance)
            .collect();
        ensure!(answered == [&pick.instance], "{answered:?}, but {pick:?}");
        Ok(pick)
    };
    for family in ["ipv4", "ipv6"] {
        let name = "home.lab.echo.lab.any.rr.local";
        let mut picked = Vec::new();
        for _ in 0..4 {
            let pick = follow("alpha", &client, name, family)?;
            ensure!(pick.reason == "next in turn", "{pick:?}");
            picked.push(pick.instance);
        }
        let in_turn = picked[0] != picked[1] && picked[..2] == picked[2..];
        ensure!(in_turn, "{family}: {picked:?}");
        // What is closest to alpha is not what is closest to beta.
        let name = "home.lab.echo.lab.any.closest.local";
        for (machine, instance) in [("alpha", ON_ALPHA), ("beta", ON_BETA)] {
            let pick = follow(machine, lab.node(machine), name, family)?;
            ensure!(
                pick.instance == instance && pick.reason == "on this node",
                "{machine}: {pick:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn figures_are_scraped_of_daemons_and_relays() -> Result<()> {
    let lab = pair::lab()?;
    let fleet = pair::start(&lab)?;
    let _echo = fleet
        .instance("beta", ON_BETA)?
        .tcp_echo(pair::anywhere())?;
    let host = lab.node("alpha");
    ensure!(host.tcp_exchange(pair::at(BETA[0]), b"host", SOON)? == b"host");
    let lookup = "dig +short @169.254.1.1 home.lab.echo.lab.any.rr.local A";
    host.run_ok(command(lookup), SOON)?;
    // Nothing is counted anew for being read, and at the relay both are registered by then.
    let relay = wait::until("both nodes are at the relay", SOON, || {
        let figures = fleet.scrape("relay", RELAY_METRICS)?;
        let up = figures.get("weald_links_up{peer=\"netmanager\"}");
        ensure!(up == Some(&2.0), "{figures:?}");
        Ok(figures)
    })?;
    ensure!(
        relay.get("weald_tokens_refused_total") == Some(&0.0),
        "{relay:?}"
    );
    let daemon = fleet.scrape("alpha", METRICS)?;
    let value = |name: &str| {
        let value = daemon.get(name).copied();
        value.with_context(|| format!("no {name}: {daemon:?}"))
    };
    for (name, expected) in [
        ("weald_links_up{peer=\"cluster\"}", 0.0),
        ("weald_links_up{peer=\"netmanager\"}", 1.0),
        ("weald_links_up{peer=\"relay\"}", 1.0),
        ("weald_instances_hosted", 1.0),
        ("weald_table_rows{kind=\"services\"}", 4.0),
        ("weald_name_queries_total{outcome=\"answered\"}", 1.0),
    ] {
        ensure!(value(name)? == expected, "{name}: {daemon:?}");
    }
    for direction in ["in", "out"] {
        for what in [
            "tun_packets",
            "tun_bytes",
            "socket_datagrams",
            "socket_bytes",
        ] {
            let name = format!("weald_{what}_total{{direction=\"{direction}\"}}");
            ensure!(value(&name)? > 0.0, "{name}: {daemon:?}");
        }
    }
    // Every reason is told, also those that nothing was dropped for.
    let drops = daemon
        .keys()
        .filter(|it| it.starts_with("weald_dropped_packets_total{"));
    ensure!(drops.count() > 10, "{daemon:?}");
    // A port that others could reach is refused.
    let beyond = fleet.tool_command("alpha", &["up", "--metrics", "0.0.0.0:9103"])?;
    let output = host.run(beyond, SOON)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success() && said.contains("loopback"),
        "{said}"
    );
    Ok(())
}

#[test]
fn a_changed_table_acts_without_a_restart_and_a_wrong_one_does_not() -> Result<()> {
    let lab = pair::lab()?;
    let mut fleet = pair::start(&lab)?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    ensure!(alpha.tcp_connect(pair::at("10.30.100.2"), SOON)?.is_err());
    let closest = "closest = { ipv4 = \"10.30.101.2\", ipv6 = \"fdff:1000::2\" }\n";
    let more = format!(
        "{closest}\n[[service.instance]]\nnumber = 0\nnode = \"home/beta\"\n\
         ipv4 = \"10.30.1.5\"\nipv6 = \"fdff::1:5\"\n"
    );
    let more = TABLE.replace(closest, &more);
    ensure!(more != TABLE);
    fleet.write_table(&more)?;
    let beta = wait::until("beta hosts it", SOON, || {
        let namespace = fleet.instance("beta", "home.lab.empty.lab.0")?;
        // Its file is there a moment before the namespace is.
        namespace.in_ns(|| Ok(()))?;
        Ok(namespace)
    })?;
    let _echo = beta.tcp_echo(pair::anywhere())?;
    for ip in ["10.30.100.2", "fdff:2000::2"] {
        wait::until("alpha reaches it", SOON, || {
            ensure!(alpha.tcp_exchange(pair::at(ip), b"new", SOON)? == b"new");
            Ok(())
        })?;
    }
    fleet.write_table("tabel = 1\n")?;
    let error = wait::until("the fault is shown", SOON, || {
        let status = fleet.tool_json("alpha", &["status"])?;
        let error = status
            .first()
            .and_then(|status| status["table"]["error"].as_str());
        error.map(str::to_owned).context("no fault yet")
    })?;
    ensure!(
        error.contains("table.toml:1:1") && error.contains("tabel"),
        "{error}"
    );
    ensure!(alpha.tcp_exchange(pair::at("10.30.100.2"), b"still", SOON)? == b"still");
    Ok(())
}

#[test]
fn fragments_and_errors_cross_both_kernels() -> Result<()> {
    let lab = pair::lab()?;
    let fleet = pair::start(&lab)?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    let _echo = fleet
        .instance("beta", ON_BETA)?
        .udp_echo(pair::anywhere())?;
    let large = vec![7; 8000];
    for ip in BETA.iter().chain(&["10.30.100.1", "fdff:2000::1"]) {
        // `rr` may choose alpha's own instance, which has no server; a second flow goes on.
        let tried = (0..2).find_map(|_| alpha.udp_exchange(pair::at(ip), &large, SOON / 10).ok());
        ensure!(tried.as_ref() == Some(&large), "fragments to {ip}");
    }
    for ip in BETA {
        let closed = SocketAddr::new(ip.parse()?, 7999);
        let Err(error) = alpha.udp_exchange(closed, b"x", SOON) else {
            bail!("{closed} answers");
        };
        let kind = error
            .downcast_ref::<std::io::Error>()
            .map(std::io::Error::kind);
        ensure!(kind == Some(ErrorKind::ConnectionRefused), "{error:?}");
    }
    Ok(())
}

#[test]
fn what_waits_for_a_peer_is_bounded_and_its_end_is_counted() -> Result<()> {
    let lab = pair::lab()?;
    let fleet = pair::start(&lab)?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    let socket = alpha.udp_bind(SocketAddr::from(([0; 4], 0)))?;
    let sent = 700;
    for _ in 0..sent {
        socket.send_to(b"x", pair::at("10.30.1.3"))?;
    }
    let drops = wait::until("what waited for gamma is counted", SOON, || {
        let expired = fleet.drops("alpha", "peer_queue_expired")?;
        ensure!(expired > 0, "nothing yet");
        Ok((fleet.drops("alpha", "peer_queue_full")?, expired))
    })?;
    let (full, expired) = drops;
    ensure!(
        full > 0 && full + expired == sent,
        "{full} + {expired} of {sent}"
    );
    // From now on the peer is known to be down.
    ensure_refused_at_once(&alpha, ["10.30.1.3", "fdff::1:3"])
}

#[test]
fn a_dead_node_is_refused_at_once_when_it_is_known_to_be_dead() -> Result<()> {
    let lab = pair::lab()?;
    let mut fleet = pair::start(&lab)?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    // Gamma never ran. Whoever wants it first hears so when the dial is given up.
    transfer::is_refused(&alpha, pair::at("10.30.1.3"), CONNECT_TIMEOUT + AT_ONCE)?;
    ensure_refused_at_once(&alpha, ["10.30.1.3", "fdff::1:3"])?;
    ensure_refused_at_once(lab.node("alpha"), ["10.30.1.3", "fdff::1:3"])?;
    for service in ["10.30.100.3", "fdff:2000::3", "10.30.101.3", "fdff:1000::3"] {
        transfer::is_refused(&alpha, pair::at(service), AT_ONCE)?;
    }

    // Beta ran and has crashed. Its session has to be found dead first, and a dial to be given up.
    let echo = fleet
        .instance("beta", ON_BETA)?
        .tcp_echo(pair::anywhere())?;
    ensure!(alpha.tcp_exchange(pair::at(BETA[0]), b"alive", SOON)? == b"alive");
    fleet.crash("beta")?;
    wait::until("beta is known to be down", DOWN_TIME, || {
        let nobody_hears = alpha.udp_bind(SocketAddr::from(([0; 4], 0)))?;
        nobody_hears.send_to(b"x", pair::at(BETA[0]))?;
        let peer = fleet.peer("alpha", "home/beta")?;
        ensure!(peer["state"] == "down", "{peer}");
        Ok(())
    })?;
    ensure_refused_at_once(&alpha, BETA)?;
    ensure!(echo.requests() == 1, "the crashed node was reached");
    Ok(())
}

/// Fails unless TCP is reset and UDP hears "host unreachable" at once, at addresses of both families.
fn ensure_refused_at_once(from: &Namespace, addresses: [&str; 2]) -> Result<()> {
    for ip in addresses {
        let to = pair::at(ip);
        transfer::is_refused(from, to, AT_ONCE)?;
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = from.udp_bind(any.parse()?)?;
        // Without this the kernel keeps to itself what may pass.
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
        if to.is_ipv6() {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
        }
        socket.set_read_timeout(Some(SOON))?;
        socket.connect(to)?;
        let began = Instant::now();
        socket.send(b"x")?;
        let heard = socket.recv(&mut [0; 16]).map_err(|error| error.kind());
        let took = began.elapsed();
        ensure!(
            heard == Err(ErrorKind::HostUnreachable) && took < AT_ONCE,
            "udp {to}: {heard:?} after {took:?}"
        );
    }
    Ok(())
}
