//! Many connections of the L4 lane at once: beside bulk transfers, in quick succession, idle, and
//! more than there are descriptors.
//!
//! What one connection sees is `lane`'s, how fast one is `bench/tests/wan.rs`'s.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netns_tests::emulator::{Impairment, Queue};
use netns_tests::pair::{self, ON_ALPHA, ON_BETA};
use netns_tests::{Fleet, Lab, Namespace, Process, require, wait};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

const SOON: Duration = Duration::from_secs(15);
const TARGET: &str = "10.30.1.2";

#[test]
fn beside_two_uploads_that_share_connections_are_opened() -> Result<()> {
    const MEASURED: u64 = 4_000_000;
    let lab = pair::lab()?;
    let fleet = start(&lab)?;
    let (alpha, beta) = ends(&fleet)?;
    let listener = beta.tcp_listen(pair::anywhere())?;
    make_narrow(&lab);
    let mut uploads = Vec::new();
    for _ in 0..2 {
        let client = alpha.tcp_connect(pair::at(TARGET), SOON)??;
        uploads.push((client, listener.accept()?.0));
    }
    let (stop, arrived) = (
        AtomicBool::new(false),
        [AtomicU64::new(0), AtomicU64::new(0)],
    );
    thread::scope(|scope| -> Result<()> {
        for ((client, server), arrived) in uploads.iter().zip(&arrived) {
            let stop = &stop;
            scope.spawn(move || send_until(stop, client));
            scope.spawn(move || count(server, arrived));
        }
        let result = (|| {
            let total = || {
                arrived
                    .iter()
                    .map(|one| one.load(Ordering::Relaxed))
                    .sum::<u64>()
            };
            wait::until("the uploads have begun", SOON, || {
                ensure!(total() > MEASURED / 2, "{arrived:?}");
                Ok(())
            })?;
            for round in 0..10 {
                exchange(&alpha, &listener).with_context(|| format!("connection {round}"))?;
            }
            wait::until("the uploads go on", SOON, || {
                ensure!(total() > 3 * MEASURED, "{arrived:?}");
                Ok(())
            })
        })();
        stop.store(true, Ordering::Relaxed);
        for (client, server) in &uploads {
            let _ = client.shutdown(std::net::Shutdown::Both);
            let _ = server.shutdown(std::net::Shutdown::Both);
        }
        result
    })?;
    let got = arrived.map(AtomicU64::into_inner);
    let (least, most) = (got[0].min(got[1]), got[0].max(got[1]));
    println!("two uploads brought {got:?} bytes");
    ensure!(
        least * 3 > most * 2,
        "one upload holds the other back: {got:?}"
    );
    Ok(())
}

#[test]
fn eight_uploads_share_what_the_path_brings() -> Result<()> {
    const UPLOADS: usize = 8;
    /// Bytes of all of them: about four seconds of the link.
    const MEASURED: u64 = 20_000_000;
    /// Of each of them, before it is measured: what the first wrote ahead alone has arrived.
    const BEGUN: u64 = 1_500_000;
    let lab = pair::lab()?;
    let fleet = start(&lab)?;
    let (alpha, beta) = ends(&fleet)?;
    let listener = beta.tcp_listen(pair::anywhere())?;
    make_narrow(&lab);
    let mut uploads = Vec::new();
    for _ in 0..UPLOADS {
        let client = alpha.tcp_connect(pair::at(TARGET), SOON)??;
        uploads.push((client, listener.accept()?.0));
    }
    let (stop, arrived) = (
        AtomicBool::new(false),
        [const { AtomicU64::new(0) }; UPLOADS],
    );
    let now = || arrived.each_ref().map(|one| one.load(Ordering::Relaxed));
    let shares = thread::scope(|scope| -> Result<[u64; UPLOADS]> {
        for ((client, server), arrived) in uploads.iter().zip(&arrived) {
            let stop = &stop;
            scope.spawn(move || send_until(stop, client));
            scope.spawn(move || count(server, arrived));
        }
        let result = wait::until("all of them have begun", SOON, || {
            let begun = now();
            ensure!(begun.iter().all(|one| *one > BEGUN), "{begun:?}");
            Ok(begun)
        })
        .and_then(|begun| {
            wait::until("they go on", SOON * 2, || {
                let so_far = now();
                let shares = std::array::from_fn(|i| so_far[i] - begun[i]);
                ensure!(shares.iter().sum::<u64>() >= MEASURED, "{shares:?}");
                Ok(shares)
            })
        });
        stop.store(true, Ordering::Relaxed);
        for (client, server) in &uploads {
            let _ = client.shutdown(std::net::Shutdown::Both);
            let _ = server.shutdown(std::net::Shutdown::Both);
        }
        result
    })?;
    let (sum, squares) = shares.iter().fold((0.0, 0.0), |(sum, squares), share| {
        let share = *share as f64;
        (sum + share, squares + share * share)
    });
    let jain = sum * sum / (UPLOADS as f64 * squares);
    println!("eight uploads brought {shares:?} bytes, Jain's index {jain:.4}");
    ensure!(jain >= 0.95, "{shares:?}: {jain:.4}");
    Ok(())
}

#[test]
fn a_thousand_connections_come_and_go_and_ten_thousand_idle_ones_are_cheap() -> Result<()> {
    const CONNECTIONS: usize = 1000;
    const IDLE: usize = 10_000;
    const CLIENTS: usize = 4;
    const IDLE_BYTES: usize = 40 << 10;
    raise_own_limit()?;
    let lab = pair::lab()?;
    let mut fleet = start(&lab)?;
    let daemons = daemons_of(&mut fleet);
    let (alpha, beta) = ends(&fleet)?;
    let echo = beta.tcp_echo(pair::anywhere())?;
    ensure!(alpha.tcp_exchange(pair::at(TARGET), b"warm", SOON)? == b"warm");
    let descriptors = descriptors_of(daemons)?;
    let began = Instant::now();
    thread::scope(|scope| -> Result<()> {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    let block = [7; 1024];
                    for _ in 0..CONNECTIONS / CLIENTS {
                        let answer = alpha.tcp_exchange(pair::at(TARGET), &block, SOON)?;
                        ensure!(answer == block, "{} bytes came back", answer.len());
                    }
                    Ok(())
                })
            })
            .collect();
        for client in clients {
            client
                .join()
                .map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        Ok(())
    })?;
    let rate = CONNECTIONS as f64 / began.elapsed().as_secs_f64();
    println!("{rate:.0} connections of 1 KiB a second, no failure");
    pair::wait_no_streams(&fleet, SOON)?;
    wait::until("the descriptors are given back", SOON, || {
        let now = descriptors_of(daemons)?;
        let back = now
            .iter()
            .zip(&descriptors)
            .all(|(now, then)| *now <= then + 8);
        ensure!(back, "{descriptors:?}, then {now:?}");
        Ok(())
    })?;
    drop(echo);

    let _server = idle_server(&beta)?;
    let (before, kernel_before) = (resident_of(daemons)?, kernel_bytes()?);
    let idle = alpha.in_ns(|| {
        let mut idle = Vec::with_capacity(IDLE);
        for number in 0..IDLE {
            let client = TcpStream::connect_timeout(&pair::at(TARGET), SOON);
            idle.push(client.with_context(|| format!("connection {number}"))?);
        }
        Ok(idle)
    })?;
    let after = resident_of(daemons)?;
    let each: Vec<usize> = after
        .iter()
        .zip(&before)
        .map(|(after, before)| after.saturating_sub(*before) / IDLE)
        .collect();
    // All four sockets of a connection are this kernel's, and whatever else it did meanwhile.
    let kernel = kernel_bytes()?.saturating_sub(kernel_before) / IDLE;
    println!("an idle connection costs {each:?} bytes at its two nodes, {kernel} of the kernel");
    ensure!(each.iter().all(|each| *each <= IDLE_BYTES), "{each:?}");
    ensure!(
        each.iter().sum::<usize>() + kernel <= 2 * IDLE_BYTES,
        "{each:?} {kernel}"
    );
    // Every one of them is there, and the oldest and the youngest still carry bytes.
    let status = fleet.tool_json("alpha", &["status"])?;
    let open = &status[0]["packets"]["streams"]["open"];
    ensure!(open == IDLE, "{open} are open");
    for mut client in idle.iter().step_by(IDLE - 1) {
        client.set_read_timeout(Some(SOON))?;
        client.write_all(b"x")?;
        client.read_exact(&mut [0])?;
    }
    drop(idle);
    pair::wait_no_streams(&fleet, SOON)
}

#[test]
fn out_of_descriptors_connections_are_refused_and_later_not() -> Result<()> {
    raise_own_limit()?;
    let lab = pair::lab()?;
    let mut fleet = start(&lab)?;
    let daemons = daemons_of(&mut fleet);
    let (alpha, beta) = ends(&fleet)?;
    let listener = beta.tcp_listen(pair::anywhere())?;
    exchange(&alpha, &listener)?;
    let [used, _] = descriptors_of(daemons)?;
    let unlimited = limit(daemons[0], 2 * (used as u64 + 40))?;
    let most = getrlimit(Resource::Nofile).maximum;
    ensure!(
        Some(unlimited) >= most,
        "{unlimited} of {most:?} open files"
    );
    let mut open = Vec::new();
    let refused = loop {
        match alpha.tcp_connect(pair::at(TARGET), SOON)? {
            Ok(client) => open.push((client, listener.accept()?.0)),
            Err(error) => break error,
        }
        ensure!(open.len() < used + 100, "{} and no end", open.len());
    };
    ensure!(refused.kind() == ErrorKind::ConnectionRefused, "{refused}");
    println!("{} connections, then: {refused}", open.len());
    let status = fleet.tool_json("alpha", &["status"])?;
    let refused = &status[0]["packets"]["streams"]["refused"]["no_room"];
    ensure!(refused == 1, "{status:?}");
    // Those that are there go on, and room for one is enough for one.
    let (mut client, mut server) = open.pop().context("none was opened")?;
    client.write_all(b"x")?;
    server.read_exact(&mut [0])?;
    drop((client, server));
    wait::until("there is room again", SOON, || exchange(&alpha, &listener))?;
    // Not even one can be accepted: the packet thread looks at the others meanwhile.
    open.truncate(5);
    let used = wait::until("most descriptors are given back", SOON, || {
        let [now, _] = descriptors_of(daemons)?;
        ensure!(now <= used + 8, "{used}, then {now}");
        Ok(now)
    })?;
    limit(daemons[0], used as u64)?;
    let waits = alpha.tcp_connect(pair::at(TARGET), SOON)??;
    let (mut client, mut server) = open.pop().context("none was opened")?;
    server.write_all(b"y")?;
    client.read_exact(&mut [0])?;
    limit(daemons[0], unlimited)?;
    drop((waits, listener));
    let _echo = beta.tcp_echo(pair::anywhere())?;
    wait::until("connections are accepted again", SOON, || {
        ensure!(alpha.tcp_exchange(pair::at(TARGET), b"again", SOON)? == b"again");
        Ok(())
    })
}

/// The two nodes, with every service on the lane and no path but the LAN's.
fn start(lab: &Lab) -> Result<Fleet<'_>> {
    pair::start_on_lan(lab, &pair::table_of("l4"))
}

/// Both instances; alpha's has a connection with beta's node.
fn ends(fleet: &Fleet<'_>) -> Result<(Namespace, Namespace)> {
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    let beta = fleet.instance("beta", ON_BETA)?;
    Ok((alpha, beta))
}

/// A connection that carries a byte each way and ends.
fn exchange(alpha: &Namespace, listener: &TcpListener) -> Result<()> {
    let mut client = alpha.tcp_connect(pair::at(TARGET), SOON)??;
    let (mut server, _) = listener.accept()?;
    client.set_read_timeout(Some(SOON))?;
    server.set_read_timeout(Some(SOON))?;
    client.write_all(b"a")?;
    server.read_exact(&mut [0])?;
    server.write_all(b"b")?;
    Ok(client.read_exact(&mut [0])?)
}

fn send_until(stop: &AtomicBool, mut client: &TcpStream) {
    let block = vec![5; 1 << 16];
    while !stop.load(Ordering::Relaxed) && client.write_all(&block).is_ok() {}
}

fn count(mut server: &TcpStream, arrived: &AtomicU64) {
    let mut block = vec![0; 1 << 16];
    while let Ok(count @ 1..) = server.read(&mut block) {
        arrived.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// Half of the round trip and the rate are each machine's link's.
fn make_narrow(lab: &Lab) {
    let link = Impairment {
        delay: Duration::from_millis(5),
        rate_bits_per_sec: Some(40_000_000),
        queue: Queue {
            time: Duration::from_millis(40),
            ..Queue::default()
        },
        ..Impairment::default()
    };
    pair::set_lan(lab, link);
}

/// A server that holds connections in a process of its own, because there are more than one process
/// may have both ends of.
fn idle_server(beta: &Namespace) -> Result<Process> {
    require::programs(&["python3"])?;
    let script = format!(
        "import asyncio, resource\n\
         limit = resource.RLIMIT_NOFILE\n\
         most = resource.getrlimit(limit)[1]\n\
         resource.setrlimit(limit, (most, most))\n\
         async def serve(reader, writer):\n    \
             while data := await reader.read(4096):\n        \
                 writer.write(data)\n    \
             writer.close()\n\
         async def main():\n    \
             server = await asyncio.start_server(serve, '', {}, backlog=4096)\n    \
             await server.serve_forever()\n\
         asyncio.run(main())\n",
        pair::PORT
    );
    let mut command = Command::new("python3");
    command.args(["-c", &script]);
    let server = beta.spawn(command)?;
    beta.wait_tcp_listening(pair::PORT, SOON)
        .with_context(|| server.shown())?;
    Ok(server)
}

/// This process holds an end of every connection.
fn raise_own_limit() -> Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}

/// The process ids of both daemons.
fn daemons_of(fleet: &mut Fleet<'_>) -> [u32; 2] {
    pair::NODES.map(|(machine, _)| fleet.daemon(machine).pid())
}

/// Limits the open files of a daemon; the result is what the limit was.
fn limit(daemon: u32, current: u64) -> Result<u64> {
    let pid = Pid::from_raw(i32::try_from(daemon)?).context("no process")?;
    let text = fs::read_to_string(format!("/proc/{daemon}/limits"))?;
    let line = text.lines().find(|line| line.starts_with("Max open files"));
    let words = line.context("no limit of open files")?.split_whitespace();
    let maximum = words.filter_map(|word| word.parse().ok()).next_back();
    let limit = Rlimit {
        current: Some(current),
        maximum,
    };
    let before = prlimit(Some(pid), Resource::Nofile, limit)?;
    before.current.context("there was no limit")
}

/// How many files each daemon has open.
fn descriptors_of(daemons: [u32; 2]) -> Result<[usize; 2]> {
    let of = |daemon| -> Result<usize> { Ok(fs::read_dir(format!("/proc/{daemon}/fd"))?.count()) };
    Ok([of(daemons[0])?, of(daemons[1])?])
}

/// Bytes that the kernel itself uses and cannot give back at once.
fn kernel_bytes() -> Result<usize> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("SUnreclaim:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    Ok(kilobytes.context("no SUnreclaim")?.parse::<usize>()? << 10)
}

/// Bytes of memory that each daemon has.
fn resident_of(daemons: [u32; 2]) -> Result<[usize; 2]> {
    let of = |daemon| -> Result<usize> {
        let text = fs::read_to_string(format!("/proc/{daemon}/status"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next());
        Ok(kilobytes.context("no VmRSS")?.parse::<usize>()? << 10)
    };
    Ok([of(daemons[0])?, of(daemons[1])?])
}
