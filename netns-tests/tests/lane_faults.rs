//! What programs hear on the L4 lane when something at the other end fails: held against what plain
//! TCP between the same two kernels says, where plain TCP has such a case.
//!
//! Refusals and ordinary ends are `lane`'s, streams that break rules `lane_rogue`'s.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use netns_tests::emulator::{Impairment, Queue};
use netns_tests::pair::{self, NO_PUNCHING, ON_ALPHA, ON_BETA};
use netns_tests::{Fleet, Lab, Namespace, Process, require, wait};
use socket2::SockRef;

const SOON: Duration = Duration::from_secs(15);
/// How long news may take that only has to cross the link.
const AT_ONCE: Duration = Duration::from_secs(2);
/// How long the lane's sessions live without a sign of life, and room for a busy machine.
const SILENCE: Duration = Duration::from_secs(30);
/// How long a reader stands still, in seconds: longer than a session without keep-alives lives.
const ZERO_WINDOW: &str = "WEALD_ZERO_WINDOW_SECONDS";
const ZERO_WINDOW_SECONDS: u64 = 25;
const TARGET: &str = "10.30.1.2";
/// The instance of `ghost`, where the table says that it is on beta.
const GHOST_ON_BETA: &str = "home.lab.ghost.lab.0";

/// When an end resets the connection.
#[derive(Debug, Clone, Copy)]
enum When {
    Accepted,
    Talked,
    ClientClosed,
    ServerClosed,
}

/// A connection between the same programs on either way.
struct Way {
    client: Namespace,
    listener: TcpListener,
    to: SocketAddr,
}

#[test]
fn a_reset_in_every_state_is_what_plain_tcp_says() -> Result<()> {
    let lab = pair::lab()?;
    let fleet = start(&lab)?;
    let ways = [bare(&lab)?, lane(&fleet)?];
    for when in [
        When::Accepted,
        When::Talked,
        When::ClientClosed,
        When::ServerClosed,
    ] {
        for by_client in [true, false] {
            let heard = ways
                .iter()
                .map(|way| way.reset(when, by_client))
                .collect::<Result<Vec<_>>>()?;
            println!("{when:?}, by the client: {by_client}: {heard:?}");
            ensure!(heard[0] == heard[1], "{when:?} {by_client}: {heard:?}");
            ensure!(
                heard[1].contains("Reset") || heard[1].contains("Pipe"),
                "{heard:?}"
            );
        }
    }
    pair::wait_no_streams(&fleet, SOON)
}

#[test]
fn a_client_that_gives_up_before_it_is_connected_leaves_nothing() -> Result<()> {
    let lab = pair::lab()?;
    let fleet = start(&lab)?;
    let way = lane(&fleet)?;
    way.connect()?;
    pair::wait_no_streams(&fleet, SOON)?;
    // Half of the round trip is each machine's link's.
    pair::set_lan(&lab, Impairment::delay(Duration::from_millis(100)));
    for _ in 0..5 {
        let given_up = way.client.tcp_connect(way.to, Duration::from_millis(50))?;
        ensure!(
            given_up.is_err(),
            "connected within a quarter of a round trip"
        );
    }
    pair::set_lan(&lab, Impairment::default());
    pair::wait_no_streams(&fleet, SOON)?;
    // Whoever accepted one of them meanwhile hears that nobody is there.
    way.listener.set_nonblocking(true)?;
    while let Ok((mut server, _)) = way.listener.accept() {
        server.set_nonblocking(false)?;
        server.set_read_timeout(Some(SOON))?;
        let heard = server.read(&mut [0]).map_err(|error| error.kind());
        ensure!(heard == Err(ErrorKind::ConnectionReset), "{heard:?}");
    }
    way.listener.set_nonblocking(false)?;
    way.connect().map(drop)
}

#[test]
fn a_program_that_is_killed_in_mid_transfer_is_what_plain_tcp_says() -> Result<()> {
    require::programs(&["python3"])?;
    let lab = pair::lab()?;
    let fleet = start(&lab)?;
    let (host, alpha) = (
        lab.open_namespace(lab.node("beta").name())?,
        lab.node("alpha"),
    );
    let bare_to = SocketAddr::new(IpAddr::V4(LAN_BETA.parse()?), SERVED);
    let lane_to = SocketAddr::new(TARGET.parse()?, SERVED);
    let near = [
        lab.open_namespace(alpha.name())?,
        fleet.instance("alpha", ON_ALPHA)?,
    ];
    let far = [host, fleet.instance("beta", ON_BETA)?];
    for uploads in [true, false] {
        let mut heard = Vec::new();
        for ((near, far), to) in near.iter().zip(&far).zip([bare_to, lane_to]) {
            heard.push(transfer_and_kill(near, far, to, uploads)?);
        }
        println!("uploads {uploads}: {heard:?}");
        ensure!(heard[0] == heard[1], "{heard:?}");
    }
    pair::wait_no_streams(&fleet, SOON)
}

#[test]
fn an_instance_that_is_gone_from_the_table_resets_its_clients_in_mid_transfer() -> Result<()> {
    let lab = pair::lab()?;
    let mut fleet = start(&lab)?;
    let way = lane(&fleet)?;
    let (client, server) = way.connect()?;
    let sending = client.try_clone()?;
    let sender = thread::spawn(move || send_until_error(&sending));
    let mut server = server;
    server.read_exact(&mut [0; 1 << 16])?;
    let table = pair::table_of("l4");
    let row = "[[service.instance]]\nnumber = 1\nnode = \"home/beta\"\nipv4 = \"10.30.1.2\"\nipv6 = \"fdff::1:2\"\n";
    let without = table.replace(row, "");
    ensure!(without != table, "no such row");
    fleet.write_table(&without)?;
    let began = Instant::now();
    let heard = sender.join().map_err(|_| anyhow::anyhow!("panicked"))?;
    ensure!(
        heard == ErrorKind::ConnectionReset || heard == ErrorKind::BrokenPipe,
        "{heard:?}"
    );
    println!("the client heard of it after {:?}", began.elapsed());
    drop(server);
    pair::wait_no_streams(&fleet, SOON)
}

#[test]
fn when_the_clients_netmanager_dies_or_restarts_both_ends_are_reset() -> Result<()> {
    let lab = pair::lab()?;
    let mut fleet = start(&lab)?;
    // By the instance's own address nothing but the flow table knows of the lane.
    for to in [TARGET, "fdff::1:2"] {
        let way = lane_to(&fleet, ON_BETA, to)?;
        let (mut client, mut server) = way.connect()?;
        fleet.crash("alpha")?;
        // As programs do that wait for an answer.
        client.write_all(b"lost")?;
        fleet.start("alpha")?;
        let (heard, _) = read_to_error(&mut client, SILENCE)?;
        ensure!(
            heard == ErrorKind::ConnectionReset,
            "{to}: the client heard {heard:?}"
        );
        let (heard, bytes) = read_to_error(&mut server, SILENCE)?;
        ensure!(
            heard == ErrorKind::ConnectionReset,
            "{to}: the server heard {heard:?}"
        );
        ensure!(bytes.is_empty(), "{to}: the server got {bytes:?}");
        // Both ends dial anew; for a moment neither session may be the one that stays.
        wait::until("it connects again", SOON, || {
            way.connect().with_context(|| to.to_owned())
        })?;
    }
    // Dead for good: the other end's session ends for want of a sign of life.
    let way = lane(&fleet)?;
    let (_client, mut server) = way.connect()?;
    fleet.crash("alpha")?;
    let began = Instant::now();
    let (heard, _) = read_to_error(&mut server, SILENCE)?;
    ensure!(
        heard == ErrorKind::ConnectionReset,
        "the server heard {heard:?}"
    );
    println!(
        "the server heard of a dead node after {:?}",
        began.elapsed()
    );
    Ok(())
}

/// Unlike those of the L4 lane, whose two halves end with the daemon that held them.
#[test]
fn connections_of_the_l3_lane_go_on_after_a_restart_of_either_end() -> Result<()> {
    let lab = pair::lab()?;
    let table = pair::table_of("l3").replace("node = \"home/gamma\"", "node = \"home/beta\"");
    let mut fleet = pair::start_nodes(&lab, &table, &pair::NODES, NO_PUNCHING)?;
    // By the instance's own address, and by its service's, which only the flow table translates.
    for (instance, to) in [
        (ON_BETA, TARGET),
        (ON_BETA, "fdff::1:2"),
        (GHOST_ON_BETA, "10.30.100.3"),
        (GHOST_ON_BETA, "fdff:1000::3"),
    ] {
        let way = lane_to(&fleet, instance, to)?;
        let (mut client, mut server) = way.connect().context(to)?;
        for machine in ["alpha", "beta"] {
            fleet.crash(machine)?;
            client.write_all(b"sent meanwhile")?;
            fleet.start(machine)?;
            let what = || format!("{to}, {machine}");
            server.read_exact(&mut [0; 14]).with_context(what)?;
            server.write_all(b"answered")?;
            client.read_exact(&mut [0; 8]).with_context(what)?;
        }
    }
    Ok(())
}

#[test]
fn an_urgent_byte_comes_in_its_place_as_any_other() -> Result<()> {
    let lab = pair::lab()?;
    let fleet = start(&lab)?;
    let way = lane(&fleet)?;
    let (mut client, mut server) = way.connect()?;
    client.write_all(b"before ")?;
    SockRef::from(&client).send_out_of_band(b"!")?;
    client.write_all(b" after")?;
    client.shutdown(Shutdown::Write)?;
    let mut all = Vec::new();
    server.read_to_end(&mut all)?;
    ensure!(
        all == b"before ! after",
        "{:?}",
        String::from_utf8_lossy(&all)
    );
    Ok(())
}

#[test]
fn a_reader_that_stands_still_for_long_loses_nothing() -> Result<()> {
    let seconds = std::env::var(ZERO_WINDOW).ok();
    let seconds = seconds.map_or(Ok(ZERO_WINDOW_SECONDS), |text| text.parse())?;
    let lab = pair::lab()?;
    let fleet = start(&lab)?;
    let way = lane(&fleet)?;
    let (client, mut server) = way.connect()?;
    client.set_write_timeout(Some(Duration::from_secs(1)))?;
    let until = Instant::now() + Duration::from_secs(seconds);
    let (mut accepted, mut writer) = (0, &client);
    let block = vec![7; 1 << 16];
    while Instant::now() < until {
        match writer.write(&block) {
            Ok(count) => accepted += count,
            // Held back, and still connected.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("while the reader stands still"),
        }
    }
    let open = way.connect()?;
    drop((client, open));
    server.set_read_timeout(Some(SOON))?;
    let got = io::copy(&mut server, &mut io::sink())?;
    ensure!(got == accepted as u64, "{got} of {accepted}");
    println!("{accepted} bytes waited for {seconds} s");
    Ok(())
}

#[test]
fn a_reader_that_stops_leaves_two_products_of_the_path_on_the_way() -> Result<()> {
    /// The rate that windows are made for.
    const RATE: f64 = 125e6;
    const ROUND_TRIP: Duration = Duration::from_millis(60);
    /// The lane's own sockets, 2 MiB each, and the programs' below.
    const SOCKETS: usize = (4 << 20) + (1 << 20);
    let lab = pair::lab()?;
    let fleet = start(&lab)?;
    pair::set_lan(
        &lab,
        Impairment {
            delay: ROUND_TRIP / 4,
            rate_bits_per_sec: Some(200_000_000),
            queue: Queue {
                time: Duration::from_millis(40),
                ..Queue::default()
            },
            ..Impairment::default()
        },
    );
    let way = lane(&fleet)?;
    // Accepted sockets have what their listener has.
    SockRef::from(&way.listener).set_recv_buffer_size(1 << 17)?;
    let (client, server) = way.connect()?;
    SockRef::from(&client).set_send_buffer_size(1 << 17)?;
    client.set_write_timeout(Some(Duration::from_secs(2)))?;
    let bound = (2.0 * RATE * ROUND_TRIP.as_secs_f64()) as usize + SOCKETS;
    let (mut accepted, mut writer) = (0, &client);
    let block = vec![7; 1 << 16];
    loop {
        match writer.write(&block) {
            Ok(count) => accepted += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error.into()),
        }
        ensure!(accepted <= bound, "{accepted} bytes, at most {bound}");
    }
    println!("{accepted} bytes were accepted, at most {bound}");
    drop(server);
    Ok(())
}

/// The address of beta's host on the LAN.
const LAN_BETA: &str = "192.168.7.2";
/// The port of the program that is killed.
const SERVED: u16 = 7001;

/// The two nodes, with every service on the lane and no path but the LAN's.
fn start(lab: &Lab) -> Result<Fleet<'_>> {
    pair::start_on_lan(lab, &pair::table_of("l4"))
}

/// From instance to instance on the lane.
fn lane(fleet: &Fleet<'_>) -> Result<Way> {
    lane_to(fleet, ON_BETA, TARGET)
}

fn lane_to(fleet: &Fleet<'_>, instance: &str, target: &str) -> Result<Way> {
    let listener = fleet
        .instance("beta", instance)?
        .tcp_listen(pair::anywhere())?;
    Ok(Way {
        client: fleet.instance("alpha", ON_ALPHA)?,
        listener,
        to: pair::at(target),
    })
}

/// From host to host over the LAN, without any of ours.
fn bare(lab: &Lab) -> Result<Way> {
    let beta = lab.open_namespace(lab.node("beta").name())?;
    Ok(Way {
        client: lab.open_namespace(lab.node("alpha").name())?,
        listener: beta.tcp_listen(pair::anywhere())?,
        to: pair::at(LAN_BETA),
    })
}

impl Way {
    fn connect(&self) -> Result<(TcpStream, TcpStream)> {
        let client = self.client.tcp_connect(self.to, SOON)??;
        let (server, _) = self.listener.accept()?;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(SOON))?;
            stream.set_write_timeout(Some(SOON))?;
        }
        Ok((client, server))
    }

    /// Has one end reset a connection; what the other one reads and then writes.
    fn reset(&self, when: When, by_client: bool) -> Result<String> {
        let (mut client, mut server) = self.connect()?;
        match when {
            When::Accepted => {}
            When::Talked => {
                client.write_all(b"ping")?;
                server.read_exact(&mut [0; 4])?;
                server.write_all(b"pong")?;
                client.read_exact(&mut [0; 4])?;
            }
            When::ClientClosed => {
                client.shutdown(Shutdown::Write)?;
                ensure!(server.read(&mut [0])? == 0, "no end");
            }
            When::ServerClosed => {
                server.shutdown(Shutdown::Write)?;
                ensure!(client.read(&mut [0])? == 0, "no end");
            }
        }
        let (gone, stays) = if by_client {
            (client, server)
        } else {
            (server, client)
        };
        SockRef::from(&gone).set_linger(Some(Duration::ZERO))?;
        drop(gone);
        let error = wait::until("the other end hears of it", AT_ONCE, || {
            // The kernel keeps it until it is asked for, once.
            SockRef::from(&stays).take_error()?.context("nothing yet")
        })?;
        let written = (&stays).write(b"x").map_err(|error| error.kind());
        Ok(format!("{:?}, then {written:?}", error.kind()))
    }
}

/// A server of one connection that reads a little, or sends without end, until it is killed.
fn killable(far: &Namespace, uploads: bool) -> Result<Process> {
    let work = if uploads {
        // What it looks at last is there when it dies: that, and only that, makes its end a reset.
        "c.recv(1)\nc.recv(1, socket.MSG_PEEK)\nprint('busy', flush=True)\ntime.sleep(600)"
    } else {
        "print('busy', flush=True)\nwhile True: c.sendall(b'x' * 65536)"
    };
    let script = format!(
        "import socket, time\n\
         s = socket.create_server(('', {SERVED}))\n\
         c, _ = s.accept()\n{work}\n"
    );
    let mut command = Command::new("python3");
    command.args(["-c", &script]);
    let process = far.spawn(command)?;
    far.wait_tcp_listening(SERVED, SOON)?;
    Ok(process)
}

/// What a client hears whose server is killed in the middle of a transfer.
fn transfer_and_kill(
    near: &Namespace,
    far: &Namespace,
    to: SocketAddr,
    uploads: bool,
) -> Result<String> {
    let mut process = killable(far, uploads)?;
    let mut client = near.tcp_connect(to, SOON)??;
    client.set_read_timeout(Some(SOON))?;
    if uploads {
        client.write_all(&[7; 1 << 18])?;
    } else {
        client.read_exact(&mut [0; 1 << 16])?;
    }
    process.wait_for_line("busy", SOON)?;
    process.kill()?;
    let mut block = vec![0; 1 << 16];
    loop {
        match client.read(&mut block) {
            Ok(0) => return Ok("an end".to_owned()),
            Ok(count) => ensure!(
                block[..count].iter().all(|byte| *byte == b'x'),
                "wrong bytes"
            ),
            Err(error) => return Ok(format!("{:?}", error.kind())),
        }
    }
}

fn send_until_error(mut client: &TcpStream) -> ErrorKind {
    let block = vec![5; 1 << 16];
    loop {
        if let Err(error) = client.write_all(&block) {
            return error.kind();
        }
    }
}

/// Reads until there is an error, and says what came before; an ordinary end is a failure.
fn read_to_error(stream: &mut TcpStream, patience: Duration) -> Result<(ErrorKind, Vec<u8>)> {
    stream.set_read_timeout(Some(patience))?;
    let (mut all, mut block) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        match stream.read(&mut block) {
            Ok(0) => bail!("an ordinary end after {} bytes", all.len()),
            Ok(count) => all.extend_from_slice(&block[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                bail!("nothing within {patience:?}")
            }
            Err(error) => return Ok((error.kind(), all)),
        }
    }
}
