//! The L4 lane on a clean LAN: its rate beside the L3 lane's, and connections in quick succession.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netns_tests::{EchoServer, Namespace, wait};
use weald_measure::usage;

use super::cell::{Ends, Figure};
use crate::systems::Tunnel;

/// The figure that the ratio is made of, and the ratio.
pub(super) const RATE: &str = "tcp1_lan";
pub(super) const RATIO: &str = "tcp1_lan_ratio";
/// The systems that are compared, the second with the first.
pub(super) const LANES: [&str; 2] = ["weald-l3", "weald-l4"];

const PORT: u16 = 8089;
/// What a connection carries there and back.
const BYTES: usize = 1 << 10;
/// Threads for each client address: a connection takes a few milliseconds.
const THREADS: usize = 4;
/// How long one connection may take before it has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// The ports that a client's connections begin at. A kernel looks at every second port of its range
/// first, and takes tens of milliseconds for each connection once those are taken; of the usual
/// range those are 14,116, fewer than a minute takes, and a port is free again after a minute.
const CLIENT_PORTS: &str = "1024 65535";

/// How many connections, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crowd {
    /// Connections per second.
    pub per_second: u32,
    /// For how long.
    pub time: Duration,
}

/// One TCP connection.
pub(super) fn rate(system: &str, tunnel: &Tunnel, time: Duration) -> Result<Vec<Figure>> {
    let rate = Ends::of(system, tunnel).bulk(time)?;
    Ok(vec![Figure::new(RATE, rate, "Mbit/s")])
}

/// Connections that are opened at a fixed rate from several addresses, carry [`BYTES`] there and
/// back and are closed: how many a second that were, how many failed, and what both daemons hold
/// afterwards that they did not before.
pub(super) fn connections(tunnel: &Tunnel, crowd: Crowd) -> Result<(Vec<Figure>, Vec<String>)> {
    let ways = tunnel.by_service.as_ref().context("no services")?;
    let [client, server] = ways.namespaces.each_ref();
    let clients: Vec<&Namespace> = [client].into_iter().chain(&ways.clients).collect();
    let to = SocketAddr::new(ways.addresses[1], PORT);
    for client in &clients {
        client.in_ns(|| {
            let setting = "/proc/sys/net/ipv4/ip_local_port_range";
            std::fs::write(setting, CLIENT_PORTS).context(setting)
        })?;
    }
    let _echo: EchoServer = server.tcp_echo((IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT).into())?;
    let answer = client.tcp_exchange(to, b"warm", PATIENCE)?;
    ensure!(answer == b"warm", "{answer:?} came back");
    let daemons = tunnel.daemons.context("no daemons")?;
    let before = descriptors(daemons)?;
    let (failures, began) = (Mutex::new(Vec::new()), Instant::now());
    let done = drive(&clients, to, crowd, &failures)?;
    let seconds = began.elapsed().as_secs_f64();
    let failures = failures
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    let failed = failures.len();
    // What is closed is given back in a moment; what is not by then is a leak.
    let left = wait::until("descriptors are given back", PATIENCE, || {
        let now = descriptors(daemons)?;
        let more: u64 = now
            .iter()
            .zip(before)
            .map(|(now, then)| now.saturating_sub(then))
            .sum();
        ensure!(more == 0, "{more} more than before");
        Ok(more)
    });
    let left = match left {
        Ok(left) => left,
        Err(_) => {
            let now = descriptors(daemons)?;
            now.iter()
                .zip(before)
                .map(|(now, then)| now.saturating_sub(then))
                .sum()
        }
    };
    let [near, far] = daemons.map(usage::memory);
    let memory = near?[0].max(far?[0]);
    let figures = vec![
        Figure::new("connections_per_second", done as f64 / seconds, "1/s"),
        Figure::new("connections_failed", failed as f64, "connections"),
        Figure::new("connections_left", left as f64, "descriptors"),
        Figure::new("connections_rss", memory, "MB"),
    ];
    // The first of them says what is wrong with all.
    Ok((figures, failures.into_iter().take(1).collect()))
}

/// Opens connections from all clients in turn, each at its time; returns how many were done.
fn drive(
    clients: &[&Namespace],
    to: SocketAddr,
    crowd: Crowd,
    failures: &Mutex<Vec<String>>,
) -> Result<u64> {
    let threads = clients.len() * THREADS;
    let pause = Duration::from_secs(1) / crowd.per_second;
    let total = crowd.time.as_secs_f64() * f64::from(crowd.per_second);
    // A count of connections fits.
    let total = total as u32;
    let (began, next) = (Instant::now(), AtomicU64::new(0));
    let one_thread = || -> Result<u64> {
        let mut done = 0;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(number) = u32::try_from(number).ok().filter(|number| *number < total) else {
                return Ok(done);
            };
            let at = began + pause * number;
            thread::sleep(at.saturating_duration_since(Instant::now()));
            match exchange(to) {
                Ok(()) => done += 1,
                Err(error) => {
                    let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
                    failures.push(format!("connection {number}: {error:#}"));
                }
            }
        }
    };
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|number| {
                let client = clients[number % clients.len()];
                scope.spawn(move || client.in_ns(one_thread))
            })
            .collect();
        let mut done = 0;
        for thread in running {
            match thread.join() {
                Ok(count) => done += count?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(done)
    })
}

/// One connection; called inside a client's namespace.
fn exchange(to: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[7; BYTES])?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::with_capacity(BYTES);
    stream.read_to_end(&mut answer)?;
    ensure!(answer.len() == BYTES, "{} bytes came back", answer.len());
    Ok(())
}

/// How many files each daemon has open.
fn descriptors(daemons: [u32; 2]) -> Result<[u64; 2]> {
    let of = |daemon| -> Result<u64> {
        let folder = format!("/proc/{daemon}/fd");
        let files = std::fs::read_dir(&folder).with_context(|| folder.clone())?;
        Ok(files.count() as u64)
    };
    Ok([of(daemons[0])?, of(daemons[1])?])
}
