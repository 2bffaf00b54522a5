//! Networks that let no UDP through: relays over TLS on TCP port 443, and the way back to UDP and to
//! a direct path, while a connection runs that must notice nothing.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netns_tests::pair::{self, NODES, ON_ALPHA, ON_BETA, TABLE};
use netns_tests::{Fleet, Lab, Machine, Namespace, wait};
use serde_json::Value;

/// Longer than anything takes that comes at all.
const SOON: Duration = Duration::from_secs(30);
/// What a first byte may take.
const FIRST_BYTE: Duration = Duration::from_millis(1500);

const BLOCK: &str = "table inet no-udp {\n\
    chain forward { type filter hook forward priority -10; meta l4proto udp drop; }\n}";

/// Two sites behind NATs, and their nodes' table without addresses.
fn lab() -> Result<Lab> {
    Lab::new(
        &pair::behind_nats("192.168.8.0/24")
            .machine(Machine::host("alpha").at("site-a", 11))
            .machine(Machine::host("beta").at("site-b", 12)),
    )
}

fn block(lab: &Lab, router: &str) -> Result<()> {
    lab.node(router).nft(BLOCK)
}

fn unblock(lab: &Lab, router: &str) -> Result<()> {
    lab.node(router).nft("delete table inet no-udp")
}

/// How the node's one relay is.
fn relay(fleet: &Fleet<'_>, machine: &str) -> Result<Value> {
    let status = fleet.tool_json(machine, &["status"])?;
    let relays = status.first().context("no status")?;
    Ok(relays["packets"]["relays"][0].clone())
}

fn wait_carrier(fleet: &Fleet<'_>, machine: &str, carrier: &str, reason: &str) -> Result<()> {
    wait::until("the relay is carried so", SOON, || {
        let relay = relay(fleet, machine)?;
        ensure!(relay["state"] == "up", "{machine}: {relay}");
        ensure!(relay["carrier"] == carrier, "{machine}: {relay}");
        ensure!(relay["carrier_reason"] == reason, "{machine}: {relay}");
        Ok(())
    })
}

fn start(lab: &Lab) -> Result<Fleet<'_>> {
    // No addresses: every way is the relay's, or found.
    let table = TABLE
        .replace("addresses = [\"192.168.7.1:10260\"]\n", "")
        .replace("addresses = [\"192.168.7.2:10260\"]\n", "");
    pair::start_nodes(lab, &table, &NODES, "")
}

fn first_echo(from: &Namespace) -> Result<Duration> {
    let started = Instant::now();
    wait::until("an echo comes back", SOON, || {
        let patience = Duration::from_millis(500);
        let echoed = from.udp_exchange(pair::at("10.30.1.2"), b"first", patience)?;
        ensure!(echoed == b"first");
        Ok(())
    })?;
    Ok(started.elapsed())
}

/// Sends numbered bytes and checks what comes back, until it is told to stop; returns how many came.
fn converse(mut stream: TcpStream, stop: &AtomicBool, exchanged: &AtomicU64) -> Result<()> {
    stream.set_read_timeout(Some(SOON))?;
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let block: Vec<u8> = (0..512_u64)
            .flat_map(|n| (number + n).to_be_bytes())
            .collect();
        stream.write_all(&block)?;
        let mut back = vec![0; block.len()];
        stream.read_exact(&mut back)?;
        ensure!(back == block, "other bytes came back than were sent");
        number += 512;
        exchanged.store(number, Ordering::Relaxed);
    }
    Ok(())
}

/// Waits until the conversation has gone on, which shows that it goes over what there is now.
fn wait_progress(exchanged: &AtomicU64) -> Result<()> {
    let before = exchanged.load(Ordering::Relaxed);
    wait::until("the conversation goes on", SOON, || {
        let now = exchanged.load(Ordering::Relaxed);
        ensure!(now > before + 4 * 512, "{before}, then {now}");
        Ok(())
    })
}

#[test]
fn nodes_without_udp_meet_over_tcp_and_go_back_to_udp_without_a_reset() -> Result<()> {
    let lab = lab()?;
    block(&lab, "router-a")?;
    block(&lab, "router-b")?;
    let fleet = start(&lab)?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    let beta = fleet.instance("beta", ON_BETA)?;
    let _udp = beta.udp_echo(pair::anywhere())?;
    for (machine, _) in NODES {
        wait_carrier(&fleet, machine, "tcp", "udp_silent")?;
    }
    let took = first_echo(&alpha)?;
    println!("first echo after {took:?}, both without UDP");
    ensure!(took <= FIRST_BYTE, "the first echo took {took:?}");
    ensure!(pair::path_kind(&fleet)? == "relay-tcp");
    let why = fleet.tool("alpha", &["why", "home/beta"])?;
    ensure!(why.contains("relay-tcp hub/r1"), "{why}");
    let text = fleet.tool("alpha", &["status"])?;
    ensure!(text.contains("relay-tcp because: udp_silent"), "{text}");
    let check = fleet.tool_json("alpha", &["netcheck"])?;
    let check = check.first().context("no netcheck")?;
    ensure!(check["udp"] == "blocked", "{check}");
    ensure!(check["relays"][0]["way"] == "relay-tcp", "{check}");

    let _tcp = beta.tcp_echo(pair::anywhere())?;
    let stream = alpha.tcp_connect(pair::at("10.30.1.2"), SOON)??;
    let (stop, exchanged) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let talk = scope.spawn(|| converse(stream, &stop, &exchanged));
        let changes = || -> Result<()> {
            wait_progress(&exchanged)?;
            unblock(&lab, "router-b")?;
            wait_carrier(&fleet, "beta", "udp", "udp_answers")?;
            ensure!(relay(&fleet, "alpha")?["carrier"] == "tcp");
            wait_progress(&exchanged)?;
            unblock(&lab, "router-a")?;
            wait_carrier(&fleet, "alpha", "udp", "udp_answers")?;
            wait_progress(&exchanged)?;
            pair::wait_path(&fleet, "direct", SOON)?;
            wait_progress(&exchanged)?;
            block(&lab, "router-a")?;
            wait_carrier(&fleet, "alpha", "tcp", "udp_silent")?;
            pair::wait_path(&fleet, "relay-tcp", SOON)?;
            wait_progress(&exchanged)
        };
        let changed = changes();
        stop.store(true, Ordering::Relaxed);
        let talked = talk.join();
        changed?;
        talked.map_err(|_| anyhow::anyhow!("the conversation has panicked"))?
    })?;
    println!("{} numbers came back", exchanged.load(Ordering::Relaxed));
    Ok(())
}
