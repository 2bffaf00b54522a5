//! TCP load between the near end and a responder: how much passes, and what that costs.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use weald_measure::prober::{self, RoundTrips};
use weald_measure::usage;

use super::far::Far;
use super::wire::{Counts, Datagram, Purpose};

/// What is written or read at once.
const BLOCK: usize = 128 << 10;
/// How much of its time a load runs before it is measured.
const LEAD_SHARE: f64 = 0.3;
/// The shortest lead.
const LEAST_LEAD: Duration = Duration::from_millis(100);

/// How many open connections at once.
const OPENERS: usize = 8;

/// Which way load goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the responder.
    Up,
    /// From it.
    Down,
    /// Both at once.
    Both,
}

/// What a load came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moved {
    /// Bits per second that arrived, at both ends in sum.
    pub bits_per_second: f64,
    /// Seconds of CPU for each byte: at the near end and at the far end, the daemons and the load
    /// itself together.
    pub ends: [f64; 2],
    /// Of these the two daemons alone, in sum.
    pub daemons: f64,
}

/// How far both ends have come.
#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    received: u64,
    daemon_cpu: f64,
    load_cpu: f64,
    far: Counts,
}

/// Loads `streams` connections each way that `way` names, and measures for `time`; `daemon` is the
/// process of the near end's daemon.
///
/// # Errors
/// A connection breaks, or nothing arrives.
pub fn tcp(far: &mut Far, way: Way, streams: usize, time: Duration, daemon: u32) -> Result<Moved> {
    beside(far, way, streams, time, |far, received| {
        let before = Look::take(far, received, daemon)?;
        thread::sleep(time);
        Moved::between(&before, &Look::take(far, received, daemon)?)
    })
}

/// Round trips beside one connection upwards.
///
/// # Errors
/// As [`tcp`], or hardly any probe is answered.
pub fn round_trips_under_load(far: &mut Far, time: Duration) -> Result<RoundTrips> {
    beside(far, Way::Up, 1, time, |far, _| round_trips(far, time))
}

/// Round trips of small datagrams.
///
/// # Errors
/// Hardly any is answered.
pub fn round_trips(far: &Far, time: Duration) -> Result<RoundTrips> {
    let (socket, head) = far.datagrams(Datagram::Echo)?;
    prober::probe(&socket, time, &head)
}

/// Connections per second, each opened, answered by one byte and closed, by [`OPENERS`] at once.
///
/// # Errors
/// One cannot be opened, or is not answered.
pub fn connections(far: &Far, time: Duration) -> Result<f64> {
    let begin = Instant::now();
    let open = || -> Result<u32> {
        let mut count = 0;
        while begin.elapsed() < time {
            let mut stream = far.open(Purpose::Touch)?;
            stream.read_exact(&mut [0])?;
            count += 1;
        }
        Ok(count)
    };
    let counts: Vec<Result<u32>> = thread::scope(|scope| {
        let openers: Vec<_> = (0..OPENERS).map(|_| scope.spawn(open)).collect();
        openers.into_iter().map(joined).collect()
    });
    let seconds = begin.elapsed().as_secs_f64();
    let count: u32 = counts.into_iter().sum::<Result<u32>>()?;
    Ok(f64::from(count) / seconds)
}

/// Does `work` while connections carry load; it is told how many bytes have come down.
fn beside<T>(
    far: &mut Far,
    way: Way,
    streams: usize,
    time: Duration,
    work: impl FnOnce(&mut Far, &AtomicU64) -> Result<T>,
) -> Result<T> {
    let open = |purpose, wanted: bool| -> Result<Vec<TcpStream>> {
        let count = if wanted { streams } else { 0 };
        (0..count).map(|_| far.open(purpose)).collect()
    };
    let ups = open(Purpose::Sink, way != Way::Down)?;
    let downs = open(Purpose::Source, way != Way::Up)?;
    let (stop, received) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let (stop, received) = (&stop, &received);
        let up = ups.iter().map(|stream| scope.spawn(|| push(stream, stop)));
        let mut threads: Vec<_> = up.collect();
        let pull = |stream| scope.spawn(move || pull(stream, stop, received));
        threads.extend(downs.iter().map(pull));
        thread::sleep(time.mul_f64(LEAD_SHARE).max(LEAST_LEAD));
        let result = work(far, received);
        stop.store(true, Ordering::Relaxed);
        for stream in ups.iter().chain(&downs) {
            // One that is broken already is told below.
            let _ = stream.shutdown(Shutdown::Both);
        }
        for thread in threads {
            joined(thread)?;
        }
        result
    })
}

/// Writes until told to stop.
fn push(mut stream: &TcpStream, stop: &AtomicBool) -> Result<()> {
    let block = vec![0x5a; BLOCK];
    while !stop.load(Ordering::Relaxed) {
        let written = stream.write(&block);
        check(written, stop)?;
    }
    Ok(())
}

/// Reads until told to stop, and counts.
fn pull(mut stream: &TcpStream, stop: &AtomicBool, received: &AtomicU64) -> Result<()> {
    let mut block = vec![0; BLOCK];
    while !stop.load(Ordering::Relaxed) {
        let read = stream.read(&mut block);
        received.fetch_add(check(read, stop)? as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// Bytes that were moved; when it is to stop, connections may break.
fn check(moved: std::io::Result<usize>, stop: &AtomicBool) -> Result<usize> {
    match moved {
        _ if stop.load(Ordering::Relaxed) => Ok(0),
        Ok(0) => bail!("the responder has closed a connection of the load"),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(error).context("a connection of the load has broken"),
    }
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

impl Look {
    fn take(far: &mut Far, received: &AtomicU64, daemon: u32) -> Result<Self> {
        Ok(Self {
            far: far.counts()?,
            at: Instant::now(),
            received: received.load(Ordering::Relaxed),
            daemon_cpu: usage::cpu_seconds(daemon)?,
            load_cpu: usage::own_seconds(),
        })
    }
}

impl Moved {
    fn between(before: &Look, after: &Look) -> Result<Self> {
        let up = (after.far.sink_bytes - before.far.sink_bytes) as f64;
        let down = (after.received - before.received) as f64;
        let bytes = up + down;
        ensure!(bytes > 0.0, "no byte of the load has arrived");
        let nanoseconds = |what: fn(&Counts) -> u64| {
            what(&after.far).saturating_sub(what(&before.far)) as f64 / 1e9
        };
        let far_time = nanoseconds(|counts| counts.nanoseconds);
        let near_time = (after.at - before.at).as_secs_f64();
        let far_daemon = nanoseconds(|counts| counts.daemon_cpu);
        let far_load = nanoseconds(|counts| counts.load_cpu);
        let near_daemon = after.daemon_cpu - before.daemon_cpu;
        let near_load = after.load_cpu - before.load_cpu;
        Ok(Self {
            bits_per_second: (up / far_time + down / near_time) * 8.0,
            ends: [
                (near_daemon + near_load) / bytes,
                (far_daemon + far_load) / bytes,
            ],
            daemons: (near_daemon + far_daemon) / bytes,
        })
    }
}
