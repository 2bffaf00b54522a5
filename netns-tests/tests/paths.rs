//! Sessions under change: relays that restart, addresses that two sites share, refused certificates.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netns_tests::pair::{self, ON_ALPHA, ON_BETA, TABLE};
use netns_tests::{Fleet, Impairment, Lab, Loss, Machine, Namespace, wait};

const SOON: Duration = Duration::from_secs(15);
/// Two sessions that both nodes have dialled at once come up within this time of each other
/// (`TIE_WINDOW` of the netmanager); then one of them is left.
const TIE_WINDOW: Duration = Duration::from_secs(2);

/// Waits until a datagram comes back, and says how long that took.
fn time_to_echo(from: &Namespace) -> Result<Duration> {
    let started = Instant::now();
    wait::until("an echo comes back", SOON, || {
        let echoed =
            from.udp_exchange(pair::at("10.30.1.2"), b"echo", Duration::from_millis(200))?;
        ensure!(echoed == b"echo");
        Ok(())
    })?;
    Ok(started.elapsed())
}

#[test]
fn a_relay_that_restarts_costs_relayed_flows_seconds_and_direct_ones_nothing() -> Result<()> {
    let lab = pair::lab()?;
    let mut fleet = pair::start(&lab)?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    let _echo = fleet
        .instance("beta", ON_BETA)?
        .udp_echo(pair::anywhere())?;
    pair::set_lan(&lab, Impairment::loss(Loss::Random(1.0)));
    time_to_echo(&alpha)?;
    pair::wait_path(&fleet, "relay", SOON)?;
    fleet.relay("relay").kill()?;
    fleet.start_relay("relay", "hub/r1", "")?;
    let took = time_to_echo(&alpha)?;
    ensure!(
        took < Duration::from_secs(8),
        "relayed packets are back after {took:?} only"
    );

    pair::set_lan(&lab, Impairment::default());
    pair::wait_path(&fleet, "direct", SOON)?;
    fleet.relay("relay").kill()?;
    for _ in 0..20 {
        let echoed = alpha.udp_exchange(pair::at("10.30.1.2"), b"echo", Duration::from_secs(1))?;
        ensure!(echoed == b"echo");
    }
    Ok(())
}

/// Both sites use the same private addresses: beta's address is that of gamma at alpha's site.
fn twin_sites() -> Result<Lab> {
    Lab::new(
        &pair::behind_nats("192.168.7.0/24")
            .machine(Machine::host("alpha").at("site-a", 11))
            .machine(Machine::host("gamma").at("site-a", 12))
            .machine(Machine::host("beta").at("site-b", 12)),
    )
}

fn table_of_twin_sites() -> String {
    TABLE
        .replace("192.168.7.1:", "192.168.7.11:")
        .replace("192.168.7.2:", "192.168.7.12:")
}

#[test]
fn an_address_that_another_node_has_at_this_site_is_not_taken_for_the_peers() -> Result<()> {
    let lab = twin_sites()?;
    let table = table_of_twin_sites().replace(
        "id = \"home/gamma\"\norganisation = \"acme\"",
        "id = \"home/gamma\"\norganisation = \"acme\"\naddresses = [\"192.168.7.12:10260\"]",
    );
    let nodes = [
        ("alpha", "home/alpha"),
        ("gamma", "home/gamma"),
        ("beta", "home/beta"),
    ];
    let fleet = pair::start_nodes(&lab, &table, &nodes, "")?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    let _beta_echo = fleet
        .instance("beta", ON_BETA)?
        .udp_echo(pair::anywhere())?;
    let ghost = fleet.instance("gamma", "home.lab.ghost.lab.0")?;
    let _gamma_echo = ghost.udp_echo(pair::anywhere())?;
    time_to_echo(&alpha)?;
    // Relayed at first, directly between the routers then, but never to gamma.
    let to_beta = fleet.peer("alpha", "home/beta")?;
    ensure!(
        to_beta["path"]["kind"] == "relay" || to_beta["path"]["address"] == "203.0.113.2:10260",
        "{to_beta}"
    );
    let to_gamma = pair::at("10.30.1.3");
    ensure!(alpha.udp_exchange(to_gamma, b"near", SOON)? == b"near");
    Ok(())
}

/// Answers every QUIC packet that opens a connection with what fits its ids and is else nothing.
fn answer_with_rubbish(socket: &UdpSocket, ended: &AtomicBool) -> Result<usize> {
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut answered = 0;
    let mut packet = [0; 2048];
    while !ended.load(Ordering::Relaxed) {
        let Ok((len, from)) = socket.recv_from(&mut packet) else {
            continue;
        };
        // RFC 9000, section 17.2: first byte, version, then both ids behind their lengths.
        let packet = packet.get(..len).filter(|packet| packet[0] & 0x80 != 0);
        let ids = packet.and_then(|packet| packet.get(5..)).unwrap_or(&[0]);
        let source = ids.get(1 + usize::from(ids[0])..).unwrap_or_default();
        let Some((source_len, rest)) = source.split_first() else {
            continue;
        };
        let id = rest.get(..usize::from(*source_len)).unwrap_or_default();
        for first in [0x40, 0x41, 0x5f] {
            let rubbish = [&[first], id, &[0x5a; 40]].concat();
            socket.send_to(&rubbish, from)?;
            answered += 1;
        }
    }
    Ok(answered)
}

#[test]
fn rubbish_from_an_address_of_a_peer_does_not_make_it_the_way_there() -> Result<()> {
    let lab = twin_sites()?;
    let table = table_of_twin_sites();
    let nodes = [("alpha", "home/alpha"), ("beta", "home/beta")];
    let mut fleet = pair::start_nodes(&lab, &table, &nodes, "")?;
    let socket = lab.node("gamma").udp_bind("192.168.7.12:10260".parse()?)?;
    let ended = AtomicBool::new(false);
    let answered = std::thread::scope(|scope| {
        let stranger = scope.spawn(|| answer_with_rubbish(&socket, &ended));
        let echoed = (|| {
            let alpha = fleet.instance("alpha", ON_ALPHA)?;
            let _beta_echo = fleet
                .instance("beta", ON_BETA)?
                .udp_echo(pair::anywhere())?;
            time_to_echo(&alpha)
        })();
        ended.store(true, Ordering::Relaxed);
        let answered = stranger
            .join()
            .map_err(|_| anyhow::anyhow!("the stranger has panicked"))??;
        echoed.map(|_| answered)
    })?;
    ensure!(answered > 0, "nothing was sent to the stranger");
    let log = fleet.daemon("alpha").shown();
    let mut up = log
        .lines()
        .filter(|line| line.contains("session up peer=home/beta"));
    let first = up.next().unwrap_or_default();
    ensure!(first.contains("path=relay"), "{first}");
    ensure!(!log.contains("peer unreachable"), "{log}");
    Ok(())
}

#[test]
fn a_direct_way_that_swallows_full_packets_is_left_to_the_relay() -> Result<()> {
    let lab = pair::lab()?;
    // A probe is 73 bytes long there, a full packet of QUIC 1,242 at least.
    let narrow = Impairment::longest(1100);
    pair::set_lan(&lab, narrow);
    let fleet = pair::start(&lab)?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    let beta = fleet.instance("beta", ON_BETA)?;
    let _echo = beta.udp_echo(pair::anywhere())?;
    time_to_echo(&alpha)?;
    let state_of_lan = |fleet: &Fleet<'_>| -> Result<(String, String)> {
        let peer = fleet.peer("alpha", "home/beta")?;
        let all = peer["candidates"].as_array().context("no candidates")?;
        let lan = all
            .iter()
            .find(|one| one["path"]["address"] == "192.168.7.2:10260");
        let lan = lan.context("no candidate on the LAN")?;
        Ok((peer["path"]["kind"].to_string(), lan["state"].to_string()))
    };
    wait::until("the LAN is known to be narrow", SOON, || {
        let (kind, lan) = state_of_lan(&fleet)?;
        ensure!(
            kind.contains("relay") && lan.contains("narrow"),
            "{kind}, LAN {lan}"
        );
        Ok(())
    })?;
    // A transfer of full packets goes through at once, over the relay.
    let _server = beta.tcp_echo(pair::anywhere())?;
    let sent = vec![7; 1 << 18];
    ensure!(alpha.tcp_exchange(pair::at("10.30.1.2"), &sent, SOON)? == sent);
    // Once they pass it is used, which a change of the own networks has looked at at once.
    pair::set_lan(&lab, Impairment::default());
    lab.node("alpha")
        .ip_batch("link set eth1 down\nlink set eth1 up\n")?;
    wait::until("the LAN is used", SOON, || {
        let (kind, lan) = state_of_lan(&fleet)?;
        ensure!(kind.contains("direct"), "{kind}, LAN {lan}");
        Ok(())
    })?;
    Ok(())
}

#[test]
fn two_nodes_that_dial_each_other_at_once_agree_on_one_session() -> Result<()> {
    let lab = pair::lab()?;
    let fleet = pair::start(&lab)?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    let beta = fleet.instance("beta", ON_BETA)?;
    let _alpha_echo = alpha.udp_echo(pair::anywhere())?;
    let _beta_echo = beta.udp_echo(pair::anywhere())?;
    let alpha_address = pair::at("10.30.1.1");
    std::thread::scope(|scope| {
        let there = scope.spawn(|| alpha.udp_exchange(pair::at("10.30.1.2"), b"there", SOON));
        let back = scope.spawn(|| beta.udp_exchange(alpha_address, b"back", SOON));
        for (echo, expected) in [(there, &b"there"[..]), (back, b"back")] {
            let echoed = echo
                .join()
                .map_err(|_| anyhow::anyhow!("a sender has panicked"))??;
            ensure!(echoed == expected);
        }
        Ok(())
    })?;
    wait::until("the tie is over", SOON, || {
        for (machine, peer) in [("alpha", "home/beta"), ("beta", "home/alpha")] {
            let age = fleet.peer(machine, peer)?["session_ms"].as_u64();
            let age = age.map(Duration::from_millis);
            ensure!(age > Some(TIE_WINDOW), "{machine}: {age:?}");
        }
        Ok(())
    })?;
    let begun = pair::sessions(&fleet)?;
    // One was dialled by either node at most.
    ensure!(begun.iter().all(|count| *count <= 2), "{begun:?}");
    for _ in 0..10 {
        time_to_echo(&alpha)?;
    }
    pair::ensure_same_session(&fleet, begun)
}

#[test]
fn a_dialler_whose_certificate_is_refused_backs_off() -> Result<()> {
    let lab = pair::lab()?;
    let mut fleet = Fleet::new(&lab)?;
    fleet.write_table(TABLE)?;
    for (machine, id) in pair::NODES {
        fleet.add_node(machine, id, "acme", "")?;
    }
    // Beta has no row for alpha: it ends alpha's sessions when they have just come up.
    let stranger = TABLE.replace("home/alpha", "home/other");
    ensure!(stranger != TABLE);
    fleet.write_table_of("beta", &stranger)?;
    fleet.start("alpha")?;
    fleet.start("beta")?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(4) {
        let _ = alpha.udp_exchange(pair::at("10.30.1.2"), b"hello", Duration::from_millis(50));
    }
    let sessions = fleet.sessions_begun("alpha")?;
    ensure!(
        (1..=5).contains(&sessions),
        "{sessions} sessions in 4 s\n{}",
        fleet.daemon("alpha").shown()
    );
    let peer = fleet.peer("alpha", "home/beta")?;
    ensure!(
        peer["reason"]
            .as_str()
            .is_some_and(|why| why.contains("not in the table")),
        "{peer}"
    );
    Ok(())
}
