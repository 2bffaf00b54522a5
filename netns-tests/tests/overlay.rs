//! The overlay between two nodes: paths, refusals, leases, tenants and junk, with real kernels.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netns_tests::pair::{self, ON_ALPHA, ON_BETA, TABLE};
use netns_tests::{Fleet, Impairment, Loss, wait};

const SOON: Duration = Duration::from_secs(10);
/// "At once": no timeout of ours or of the kernel is as short.
const AT_ONCE: Duration = Duration::from_millis(500);

#[test]
fn a_path_switch_keeps_the_session_and_a_transfer() -> Result<()> {
    const BYTES: usize = 30_000_000;
    let lab = pair::lab()?;
    let fleet = pair::start(&lab)?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    let beta = fleet.instance("beta", ON_BETA)?;
    pair::set_lan(
        &lab,
        Impairment::rate(60_000_000, Duration::from_millis(50)),
    );

    let listener = beta.tcp_listen(pair::anywhere())?;
    let sender = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.read_exact(&mut [0])?;
        let block: Vec<u8> = (0..=255).cycle().take(1 << 16).collect();
        let mut left = BYTES;
        while left > 0 {
            let now = left.min(block.len());
            stream.write_all(&block[..now])?;
            left -= now;
        }
        Ok(())
    });
    let mut stream = alpha.tcp_connect(pair::at("10.30.1.2"), SOON)??;
    pair::wait_path(&fleet, "direct", SOON)?;
    stream.write_all(b"!")?;
    stream.set_read_timeout(Some(SOON))?;
    let mut received = 0;
    let mut buffer = vec![0; 1 << 16];
    let mut until = |share: f64, received: &mut usize| -> Result<()> {
        while (*received as f64) < BYTES as f64 * share {
            let read = stream
                .read(&mut buffer)
                .context("the transfer was reset or stalled")?;
            ensure!(read > 0, "the transfer ended after {received} bytes");
            let right = buffer[..read]
                .iter()
                .enumerate()
                .all(|(i, byte)| usize::from(*byte) == (*received + i) % (1 << 16) % 256);
            ensure!(right, "wrong bytes after {received}");
            *received += read;
        }
        Ok(())
    };
    until(0.2, &mut received)?;
    ensure!(
        pair::path_kind(&fleet)? == "direct",
        "{}",
        fleet.peer("alpha", "home/beta")?
    );
    let begun = pair::sessions(&fleet)?;

    pair::set_lan(&lab, Impairment::loss(Loss::Random(1.0)));
    until(0.5, &mut received)?;
    // Each end chooses for itself: what beta sends may come by the relay before alpha, which has
    // little to send, has lost as many probes as it takes.
    pair::wait_path(&fleet, "relay", SOON)?;

    pair::set_lan(
        &lab,
        Impairment::rate(60_000_000, Duration::from_millis(50)),
    );
    pair::wait_path(&fleet, "direct", SOON)?;
    until(1.0, &mut received)?;
    match sender.join() {
        Ok(sent) => sent?,
        Err(panic) => std::panic::resume_unwind(panic),
    }
    pair::ensure_same_session(&fleet, begun)
}

#[test]
fn what_is_dead_or_unknown_is_refused_at_once() -> Result<()> {
    let lab = pair::lab()?;
    let fleet = pair::start(&lab)?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    let beta = fleet.instance("beta", ON_BETA)?;
    let echo = beta.tcp_echo(pair::anywhere())?;
    ensure!(alpha.tcp_exchange(pair::at("10.30.1.2"), b"warm", SOON)? == b"warm");
    ensure!(echo.requests() == 1);
    let cases = [
        (
            "a service without instances",
            "10.30.100.2",
            ErrorKind::ConnectionRefused,
        ),
        (
            "a service without instances, v6",
            "fdff:2000::2",
            ErrorKind::ConnectionRefused,
        ),
        (
            "a pool address of nobody",
            "10.30.77.77",
            ErrorKind::ConnectionRefused,
        ),
        (
            "a pool address of nobody, v6",
            "fdff::77:77",
            ErrorKind::ConnectionRefused,
        ),
    ];
    for (what, ip, expected) in cases {
        let started = Instant::now();
        let outcome = alpha.tcp_connect(pair::at(ip), SOON)?;
        let took = started.elapsed();
        let kind = outcome.map(drop).map_err(|error| error.kind());
        ensure!(kind == Err(expected), "{what}: {kind:?}, not {expected:?}");
        ensure!(took < AT_ONCE, "{what}: refused after {took:?} only");
    }
    // A live instance's own kernel refuses a closed port, across the tunnel.
    let started = Instant::now();
    let closed = SocketAddr::new("10.30.1.2".parse()?, 7999);
    let outcome = alpha
        .tcp_connect(closed, SOON)?
        .map_err(|error| error.kind());
    ensure!(
        matches!(outcome, Err(ErrorKind::ConnectionRefused)),
        "{outcome:?}"
    );
    ensure!(started.elapsed() < AT_ONCE);
    Ok(())
}

#[test]
fn other_tenants_cannot_be_reached_or_named() -> Result<()> {
    let lab = pair::lab()?;
    let fleet = pair::start(&lab)?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    let vault = fleet.instance("beta", "bank.lab.vault.lab.0")?;
    let server = vault.udp_echo(pair::anywhere())?;
    for ip in ["10.30.100.4", "10.30.1.4", "fdff:2000::4", "fdff::1:4"] {
        let short = Duration::from_millis(300);
        ensure!(
            alpha.udp_exchange(pair::at(ip), b"hello", short).is_err(),
            "{ip} answers"
        );
    }
    ensure!(server.requests() == 0, "the vault heard something");
    ensure!(fleet.drops("alpha", "policy_denied")? >= 4);
    let dig = |name: &str| {
        let program = ["dig", "+noall", "+comments", name];
        fleet.run_in("alpha", ON_ALPHA, &program, SOON)
    };
    let (foreign, missing) = (
        dig("bank.lab.vault.lab.any.rr.local")?,
        dig("bank.lab.nosuch.lab.any.rr.local")?,
    );
    for answer in [&foreign, &missing] {
        ensure!(answer.contains("NXDOMAIN"), "{answer}");
    }
    Ok(())
}

#[test]
fn what_a_peer_does_not_own_or_this_node_does_not_host_is_dropped() -> Result<()> {
    let lab = pair::lab()?;
    let mut fleet = Fleet::new(&lab)?;
    fleet.write_table(TABLE)?;
    fleet.start_relay("relay", "hub/r1", "")?;
    for (machine, id) in pair::NODES {
        fleet.add_node(machine, id, "acme", "")?;
    }
    // Beta believes that it hosts gamma's ghost, and that alpha hosts an instance that it does not.
    let lie = TABLE
        .replace("node = \"home/gamma\"", "node = \"home/beta\"")
        .replace(
            "[[service]]\napplication = \"bank.lab\"",
            "[[service.instance]]\nnumber = 1\nnode = \"home/alpha\"\nipv4 = \"10.30.1.9\"\n\
         ipv6 = \"fdff::1:9\"\n\n[[service]]\napplication = \"bank.lab\"",
        );
    ensure!(lie != TABLE);
    fleet.write_table_of("beta", &lie)?;
    fleet.start("alpha")?;
    fleet.start("beta")?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    let server = alpha.udp_echo(pair::anywhere())?;
    let ghost = fleet.instance("beta", "home.lab.ghost.lab.0")?;
    let honest = fleet.instance("beta", ON_BETA)?;
    ensure!(honest.udp_exchange(pair::at("10.30.1.1"), b"honest", SOON)? == b"honest");

    let short = Duration::from_millis(300);
    for ip in ["10.30.1.1", "fdff::1:1"] {
        ensure!(
            ghost.udp_exchange(pair::at(ip), b"stolen", short).is_err(),
            "{ip} answers"
        );
    }
    ensure!(fleet.drops("alpha", "source_not_leased")? == 2);
    for ip in ["10.30.1.9", "fdff::1:9"] {
        let _ = honest.udp_exchange(pair::at(ip), b"nobody", short);
    }
    ensure!(fleet.drops("alpha", "destination_not_hosted")? == 2);
    ensure!(
        server.requests() == 1,
        "the instance heard what was not for it"
    );
    Ok(())
}

#[test]
fn junk_on_the_data_socket_is_counted_and_harms_nobody() -> Result<()> {
    let lab = pair::lab()?;
    let fleet = pair::start(&lab)?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    let beta = fleet.instance("beta", ON_BETA)?;
    let _echo = beta.udp_echo(pair::anywhere())?;
    ensure!(alpha.udp_exchange(pair::at("10.30.1.2"), b"warm", SOON)? == b"warm");

    let before = fleet.all_drops("alpha")?;
    let begun = pair::sessions(&fleet)?;
    let socket = lab.node("relay").udp_bind(SocketAddr::from(([0; 4], 0)))?;
    let target = SocketAddr::from(([203, 0, 113, 1], netns_tests::fleet::DATA_PORT));
    let unknown: [&[u8]; 4] = [&[], &[0x00; 100], &[0x3f], &[0x01; 20]];
    let forged: [&[u8]; 3] = [&[0x01; 49], &[0x02; 1200], &[0x10; 60]];
    let quic: [&[u8]; 4] = [
        &[0x40],
        &[0xff; 1200],
        &[0x55; 40],
        &[0xc0, 0, 0, 0, 1, 255],
    ];
    for datagram in unknown.iter().chain(&forged).chain(&quic) {
        socket.send_to(datagram, target)?;
    }
    // One of the QUIC ones may be of a former session: it is answered by a stateless reset.
    let counts = [
        ("unknown_frame", unknown.len()),
        ("frame_unauthenticated", forged.len()),
    ];
    let mut drops = before;
    for (reason, count) in counts.into_iter().chain([("quic_unknown", 3)]) {
        *drops.entry(reason.to_owned()).or_default() += count as u64;
    }
    wait::until("all of it is counted, and nothing else", SOON, || {
        let found = fleet.all_drops("alpha")?;
        ensure!(found == drops, "{found:?}, not {drops:?}");
        Ok(())
    })?;
    ensure!(alpha.udp_exchange(pair::at("10.30.1.2"), b"well", SOON)? == b"well");
    pair::ensure_same_session(&fleet, begun)
}
