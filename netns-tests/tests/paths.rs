//! Sessions under change: relays that restart, addresses that two sites share, refused certificates.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netns_tests::pair::{self, ON_ALPHA, ON_BETA, TABLE};
use netns_tests::{Fleet, Impairment, Lab, Loss, Machine, Namespace, wait};

const SOON: Duration = Duration::from_secs(15);

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
    wait::until("the session is relayed", SOON, || {
        ensure!(pair::path_kind(&fleet)? == "relay");
        Ok(())
    })?;
    fleet.relay("relay").kill()?;
    fleet.start_relay("relay", "hub/r1", "")?;
    let took = time_to_echo(&alpha)?;
    ensure!(
        took < Duration::from_secs(8),
        "relayed packets are back after {took:?} only"
    );

    pair::set_lan(&lab, Impairment::default());
    wait::until("the session is direct", SOON, || {
        ensure!(pair::path_kind(&fleet)? == "direct");
        Ok(())
    })?;
    fleet.relay("relay").kill()?;
    for _ in 0..20 {
        let echoed = alpha.udp_exchange(pair::at("10.30.1.2"), b"echo", Duration::from_secs(1))?;
        ensure!(echoed == b"echo");
    }
    Ok(())
}

#[test]
fn an_address_that_another_node_has_at_this_site_is_not_taken_for_the_peers() -> Result<()> {
    // Both sites use the same private addresses: beta's address is that of gamma at alpha's site.
    let lab = Lab::new(
        &pair::behind_nats("192.168.7.0/24")
            .machine(Machine::host("alpha").at("site-a", 11))
            .machine(Machine::host("gamma").at("site-a", 12))
            .machine(Machine::host("beta").at("site-b", 12)),
    )?;
    let table = TABLE
        .replace("192.168.7.1:", "192.168.7.11:")
        .replace("192.168.7.2:", "192.168.7.12:")
        .replace(
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
    let ages = |machine: &str, id: &str| -> Result<u64> {
        fleet.peer(machine, id)?["session_ms"]
            .as_u64()
            .context("no session")
    };
    let before = (ages("alpha", "home/beta")?, ages("beta", "home/alpha")?);
    time_to_echo(&alpha)?;
    let after = (ages("alpha", "home/beta")?, ages("beta", "home/alpha")?);
    ensure!(
        after.0 >= before.0 && after.1 >= before.1,
        "{before:?} then {after:?}"
    );
    Ok(())
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
    let log = fleet.daemon("alpha").shown();
    let sessions = log
        .lines()
        .filter(|line| line.contains("session up"))
        .count();
    ensure!(
        (1..=5).contains(&sessions),
        "{sessions} sessions in 4 s\n{log}"
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
