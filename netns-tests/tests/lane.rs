//! The L4 lane between two nodes, with real kernels: bytes, ends, refusals, resets, bounds.
//!
//! What a program sees, and nothing of how it is done.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use netns_tests::pair::{self, ON_ALPHA, ON_BETA};
use netns_tests::transfer::{
    hears_a_reset, is_refused, join, read_all, spawn_reader, write_pattern,
};
use netns_tests::{Fleet, Lab, wait};

const SOON: Duration = Duration::from_secs(15);
/// No timeout of ours or of the kernel is as short.
const AT_ONCE: Duration = Duration::from_millis(500);

#[test]
fn bytes_cross_both_ways_and_the_server_sees_the_client() -> Result<()> {
    const BYTES: usize = 20_000_000;
    let lab = pair::lab()?;
    let fleet = start(&lab, "l4")?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    let beta = fleet.instance("beta", ON_BETA)?;
    let listener = beta.tcp_listen(pair::anywhere())?;
    for (address, client, seed) in [("10.30.1.2", "10.30.1.1", 1), ("fdff::1:2", "fdff::1:1", 2)] {
        let accepting = listener.try_clone()?;
        let server = thread::spawn(move || -> Result<SocketAddr> {
            let (stream, from) = accepting.accept()?;
            let reader = spawn_reader(stream.try_clone()?, BYTES, seed);
            write_pattern(stream, BYTES, seed + 10)?;
            join(reader)?;
            Ok(from)
        });
        let stream = alpha.tcp_connect(pair::at(address), SOON)??;
        let own = stream.local_addr()?;
        let reader = spawn_reader(stream.try_clone()?, BYTES, seed + 10);
        write_pattern(stream, BYTES, seed)?;
        join(reader)?;
        let from = join(server)?;
        let seen = from.ip().to_canonical();
        ensure!(seen.to_string() == client, "the server saw {from}");
        ensure!(from.port() == own.port(), "the port is {from}, not {own}");
    }
    let flows = fleet.tool_json("alpha", &["flows"])?;
    let flow = &flows[0][0];
    let lane = flow["lane"] == "l4" && flow["lane_reason"] == "policy of the service";
    ensure!(lane && flow["node"] == "home/beta", "{flows:?}");
    let status = fleet.tool_json("beta", &["status"])?;
    let accepted = &status[0]["packets"]["streams"]["accepted"];
    ensure!(accepted == 2, "{status:?}");
    Ok(())
}

#[test]
fn the_host_reaches_a_service_by_its_address() -> Result<()> {
    let lab = pair::lab()?;
    let fleet = start(&lab, "l4")?;
    let beta = fleet.instance("beta", ON_BETA)?;
    let echo = beta.tcp_echo(pair::anywhere())?;
    // In turn: the other instance is here, has no server, and is passed over.
    for _ in 0..2 {
        for address in ["10.30.100.1", "fdff:2000::1"] {
            let host = lab.node("alpha");
            let answer = host.tcp_exchange(pair::at(address), b"hello from the host", SOON)?;
            ensure!(answer == b"hello from the host", "{answer:?}");
        }
    }
    ensure!(echo.requests() == 4, "{}", echo.requests());
    Ok(())
}

#[test]
fn either_end_may_close_its_direction_first() -> Result<()> {
    let lab = pair::lab()?;
    let fleet = start(&lab, "l4")?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    let beta = fleet.instance("beta", ON_BETA)?;
    let listener = beta.tcp_listen(pair::anywhere())?;
    // The client closes first, and then hears everything.
    let mut client = alpha.tcp_connect(pair::at("10.30.1.2"), SOON)??;
    let (mut server, _) = listener.accept()?;
    client.write_all(b"question")?;
    client.shutdown(Shutdown::Write)?;
    ensure!(read_all(&mut server)? == b"question");
    server.write_all(b"an answer after the end")?;
    drop(server);
    ensure!(read_all(&mut client)? == b"an answer after the end");
    // The server closes first, and then hears everything.
    let mut client = alpha.tcp_connect(pair::at("10.30.1.2"), SOON)??;
    let (mut server, _) = listener.accept()?;
    server.write_all(b"banner")?;
    server.shutdown(Shutdown::Write)?;
    ensure!(read_all(&mut client)? == b"banner");
    client.write_all(b"more, after the end")?;
    drop(client);
    ensure!(read_all(&mut server)? == b"more, after the end");
    drop(server);
    pair::wait_no_streams(&fleet, SOON)
}

#[test]
fn a_closed_port_is_refused_and_what_policy_forbids_as_well() -> Result<()> {
    let lab = pair::lab()?;
    let fleet = start(&lab, "l4")?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    let beta = fleet.instance("beta", ON_BETA)?;
    let echo = beta.tcp_echo(pair::anywhere())?;
    ensure!(alpha.tcp_exchange(pair::at("10.30.1.2"), b"warm", SOON)? == b"warm");
    drop(echo);
    for address in [
        SocketAddr::new("10.30.1.2".parse()?, 9),
        SocketAddr::new("fdff::1:2".parse()?, 9),
        // The bank's instance on beta.
        pair::at("10.30.1.4"),
    ] {
        is_refused(&alpha, address, AT_ONCE)?;
    }
    let status = fleet.tool_json("beta", &["status"])?;
    let refused = &status[0]["packets"]["streams"]["refused"];
    ensure!(refused["port_closed"] == 2, "{status:?}");
    Ok(())
}

#[test]
fn an_instance_that_refuses_is_passed_over() -> Result<()> {
    let lab = pair::lab()?;
    let fleet = start(&lab, "l4")?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    let echo = alpha.tcp_echo(pair::anywhere())?;
    let services = ["10.30.100.1", "fdff:2000::1"].map(pair::at);
    for service in services {
        // At least every third turn is beta's, where nobody listens.
        for _ in 0..6 {
            ensure!(alpha.tcp_exchange(service, b"answered", SOON)? == b"answered");
        }
    }
    let refused = |reason| -> Result<Option<u64>> {
        let status = fleet.tool_json("beta", &["status"])?;
        Ok(status[0]["packets"]["streams"]["refused"][reason].as_u64())
    };
    let passed_over = refused("port_closed")?;
    ensure!(passed_over >= Some(4), "{passed_over:?}");
    drop(echo);
    for service in services {
        for _ in 0..2 {
            is_refused(&alpha, service, AT_ONCE)?;
        }
    }
    Ok(())
}

#[test]
fn a_reset_crosses_in_both_directions() -> Result<()> {
    let lab = pair::lab()?;
    let fleet = start(&lab, "l4")?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    let beta = fleet.instance("beta", ON_BETA)?;
    let listener = beta.tcp_listen(pair::anywhere())?;
    for server_resets in [true, false] {
        let mut client = alpha.tcp_connect(pair::at("10.30.1.2"), SOON)??;
        let (mut server, _) = listener.accept()?;
        client.write_all(b"x")?;
        server.read_exact(&mut [0])?;
        let (gone, mut stays) = if server_resets {
            (server, client)
        } else {
            (client, server)
        };
        let linger = Some(Duration::ZERO);
        socket2::SockRef::from(&gone).set_linger(linger)?;
        drop(gone);
        hears_a_reset(&mut stays, AT_ONCE * 4)?;
    }
    pair::wait_no_streams(&fleet, SOON)
}

#[test]
fn when_the_far_node_dies_the_connection_is_reset() -> Result<()> {
    let lab = pair::lab()?;
    let mut fleet = start(&lab, "l4")?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    let beta = fleet.instance("beta", ON_BETA)?;
    let listener = beta.tcp_listen(pair::anywhere())?;
    let mut client = alpha.tcp_connect(pair::at("10.30.1.2"), SOON)??;
    let (mut server, _) = listener.accept()?;
    client.write_all(b"x")?;
    server.read_exact(&mut [0])?;
    fleet.crash("beta")?;
    // The lane's sessions live for 20 s without a sign of life.
    hears_a_reset(&mut client, Duration::from_secs(30))?;
    // Stopped in order, the near node says so at once.
    let mut fleet = fleet;
    fleet.start("beta")?;
    let mut client = wait::until("it connects again", SOON, || {
        Ok(alpha.tcp_connect(pair::at("10.30.1.2"), SOON)??)
    })?;
    client.write_all(b"x")?;
    fleet.stop("alpha")?;
    hears_a_reset(&mut client, AT_ONCE * 4)
}

#[test]
fn a_reader_that_stops_bounds_what_is_accepted() -> Result<()> {
    /// What the client's own socket grows to (4 MiB), the lane's two (2 MiB each), and a stream's
    /// window, which is small on a link as short as this one, with room for a slow handshake.
    const BOUND: usize = 48 << 20;
    let lab = pair::lab()?;
    let fleet = start(&lab, "l4")?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    let beta = fleet.instance("beta", ON_BETA)?;
    let listener = beta.tcp_listen(pair::anywhere())?;
    let client = alpha.tcp_connect(pair::at("10.30.1.2"), SOON)??;
    let (server, _) = listener.accept()?;
    // A second without progress is a sender that is held back.
    client.set_write_timeout(Some(Duration::from_secs(1)))?;
    let mut accepted = 0;
    let block = vec![7; 1 << 16];
    let mut writer = &client;
    loop {
        match writer.write(&block) {
            Ok(count) => accepted += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error.into()),
        }
        ensure!(accepted < BOUND, "{accepted} bytes and no end");
    }
    println!("{accepted} bytes were accepted before the sender was held back");
    // Another connection is not held back by it.
    let echo_client = alpha.tcp_connect(pair::at("10.30.1.2"), SOON)??;
    let (echo_server, _) = listener.accept()?;
    let reader = spawn_reader(echo_server, 1_000_000, 3);
    write_pattern(echo_client, 1_000_000, 3)?;
    join(reader)?;
    // And when the reader goes on, everything is there.
    drop(client);
    let mut server = server;
    let got = io::copy(&mut server, &mut io::sink())?;
    ensure!(got == accepted as u64, "{got} of {accepted}");
    Ok(())
}

/// Starts the two nodes and the relay, with every service on that lane.
fn start<'a>(lab: &'a Lab, lane: &str) -> Result<Fleet<'a>> {
    let mut fleet = Fleet::new(lab)?;
    fleet.start_relay("relay", "hub/r1", "")?;
    start_nodes(fleet, lane)
}

fn start_nodes<'a>(mut fleet: Fleet<'a>, lane: &str) -> Result<Fleet<'a>> {
    fleet.write_table(&pair::table_of(lane))?;
    for (machine, id) in pair::NODES {
        fleet.add_node(machine, id, "acme", "")?;
        fleet.start(machine)?;
    }
    Ok(fleet)
}
