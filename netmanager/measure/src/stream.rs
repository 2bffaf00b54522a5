//! UDP load: a paced sender and a counting receiver, and the search of the rate that arrives
//! without loss.
//!
//! iperf3 sends one datagram per call and caps small ones at about 100,000 a second; this sender
//! can also hand the kernel a batch at a time (UDP GSO), as programs with QUIC do. Sockets, and how
//! a sender learns what has arrived, are the caller's.

use std::io::{ErrorKind, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;

/// Between two bursts of the sender: as short as timers are exact.
const TICK: Duration = Duration::from_micros(200);
/// After the last datagram, how long the receiver waits for more.
const DRAIN: Duration = Duration::from_millis(60);
/// The kernel's buffers at both ends, as any fast receiver has them.
const BUFFER_BYTES: usize = 8 << 20;
/// The most that a batch may carry.
const MAX_BATCH_BYTES: usize = 60_000;
/// What counts as without loss: a stall of the machine may cost one datagram in a thousand.
const LOST_SHARE: f64 = 0.001;
/// How much of the rate that was asked for a sender must reach for a try to count.
const REACHED_SHARE: f64 = 0.9;
/// The search's first rate, in bits per second.
const FIRST_RATE: f64 = 100e6;
/// Steps of halving the range once it is known.
const HALVINGS: usize = 4;
/// The most that rates are doubled or halved to find the range.
const DOUBLINGS: usize = 10;

/// A stream of datagrams.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stream {
    /// Bytes of payload of each.
    pub size: usize,
    /// Whether the kernel is given batches.
    pub batched: bool,
    /// How long it lasts.
    pub time: Duration,
}

/// What became of a stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Passed {
    /// Datagrams that the kernel took.
    pub sent: u64,
    /// Datagrams that arrived.
    pub received: u64,
    /// Seconds that sending took.
    pub seconds: f64,
}

impl Passed {
    /// Bits of payload that arrived per second of sending.
    #[must_use]
    pub fn bits_per_second(&self, size: usize) -> f64 {
        self.received as f64 * size as f64 * 8.0 / self.seconds
    }

    /// Whether the stream had its rate and arrived.
    fn is_lossless(&self, stream: &Stream, rate: f64) -> bool {
        let (sent, received) = (self.sent as f64, self.received as f64);
        let asked = rate / 8.0 / stream.size as f64 * self.seconds;
        sent >= asked * REACHED_SHARE && received >= sent * (1.0 - LOST_SHARE)
    }
}

/// Gives a socket buffers as any fast sender or receiver has them.
///
/// # Errors
/// The socket is none any more. Without the privilege to have more than the system's limit, the
/// limit is what it gets.
pub fn set_buffers(socket: &UdpSocket) -> Result<()> {
    if sockopt::set_socket_send_buffer_size_force(socket, BUFFER_BYTES).is_err() {
        sockopt::set_socket_send_buffer_size(socket, BUFFER_BYTES)?;
    }
    if sockopt::set_socket_recv_buffer_size_force(socket, BUFFER_BYTES).is_err() {
        sockopt::set_socket_recv_buffer_size(socket, BUFFER_BYTES)?;
    }
    Ok(())
}

/// The highest rate, in bits of payload per second, at which a stream arrived without loss; `pass`
/// sends it at a rate and says what became of it.
///
/// # Errors
/// What `pass` returns, or not even the slowest stream arrived whole.
pub fn search(stream: &Stream, mut pass: impl FnMut(f64) -> Result<Passed>) -> Result<f64> {
    let mut best = 0.0_f64;
    let mut attempt = |rate: f64| -> Result<bool> {
        // One stall of a shared machine must not decide: a failure is tried once more.
        for _ in 0..2 {
            let passed = pass(rate)?;
            if passed.is_lossless(stream, rate) {
                best = best.max(passed.bits_per_second(stream.size));
                return Ok(true);
            }
        }
        Ok(false)
    };
    let (mut works, mut fails) = (0.0, f64::INFINITY);
    let mut rate = FIRST_RATE;
    for _ in 0..DOUBLINGS {
        if attempt(rate)? {
            works = rate;
        } else {
            fails = rate;
        }
        if works > 0.0 && fails.is_finite() {
            break;
        }
        rate *= if fails.is_finite() { 0.5 } else { 2.0 };
    }
    ensure!(works > 0.0, "even {rate:.0} bit/s do not arrive whole");
    if fails.is_finite() {
        for _ in 0..HALVINGS {
            let middle = f64::midpoint(works, fails);
            if attempt(middle)? {
                works = middle;
            } else {
                fails = middle;
            }
        }
    }
    Ok(best)
}

/// Sends for the stream's time, at `rate` bits of payload per second, datagrams that begin with
/// `head`; returns how many the kernel took, and the seconds.
///
/// # Errors
/// The kernel refuses to send.
pub fn send(
    socket: &UdpSocket,
    destination: SocketAddr,
    stream: &Stream,
    rate: f64,
    head: &[u8],
) -> Result<(u64, f64)> {
    let state = UdpSocketState::new(UdpSockRef::from(socket))?;
    let most = if stream.batched {
        (MAX_BATCH_BYTES / stream.size).min(state.max_gso_segments())
    } else {
        1
    };
    let mut one = vec![0x5a; stream.size];
    for (byte, of_head) in one.iter_mut().zip(head) {
        *byte = *of_head;
    }
    let payload = one.repeat(most);
    let per_second = rate / 8.0 / stream.size as f64;
    let begin = Instant::now();
    let mut sent = 0_u64;
    loop {
        let elapsed = begin.elapsed();
        if elapsed >= stream.time {
            return Ok((sent, elapsed.as_secs_f64()));
        }
        let due = (elapsed.as_secs_f64() * per_second) as u64 + 1;
        if due <= sent {
            thread::sleep(TICK);
            continue;
        }
        let owed = usize::try_from(due - sent).unwrap_or(usize::MAX).min(most);
        let contents = &payload[..owed * stream.size];
        let transmit = Transmit {
            destination,
            ecn: None,
            contents,
            segment_size: (owed > 1).then_some(stream.size),
            src_ip: None,
        };
        match state.try_send(UdpSockRef::from(socket), &transmit) {
            Ok(()) => sent += owed as u64,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                wait(socket, PollFlags::OUT, TICK)?;
            }
            Err(error) => return Err(error).context("send a datagram"),
        }
    }
}

/// Counts datagrams until none comes any more after `done`.
///
/// # Errors
/// The kernel refuses to receive.
pub fn count(socket: &UdpSocket, size: usize, done: &AtomicBool) -> Result<u64> {
    let state = UdpSocketState::new(UdpSockRef::from(socket))?;
    let mut buffers = vec![vec![0; 65_535]; quinn_udp::BATCH_SIZE];
    let mut metas = [RecvMeta::default(); quinn_udp::BATCH_SIZE];
    let mut received = 0;
    loop {
        let mut slices: Vec<IoSliceMut<'_>> =
            buffers.iter_mut().map(|b| IoSliceMut::new(b)).collect();
        match state.recv(UdpSockRef::from(socket), &mut slices, &mut metas) {
            Ok(batches) => {
                let bytes: usize = metas.iter().take(batches).map(|meta| meta.len).sum();
                received += (bytes / size) as u64;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let was_done = done.load(Ordering::Acquire);
                if !wait(socket, PollFlags::IN, DRAIN)? && was_done {
                    return Ok(received);
                }
            }
            Err(error) => return Err(error).context("receive datagrams"),
        }
    }
}

/// Waits until the socket is ready; whether it is.
///
/// # Errors
/// The kernel refuses to wait.
pub fn wait(socket: &impl AsFd, what: PollFlags, time: Duration) -> Result<bool> {
    let mut entries = [PollFd::new(socket, what)];
    let time = Timespec::try_from(time)?;
    match poll(&mut entries, Some(&time)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: Stream = Stream {
        size: 1250,
        batched: false,
        time: Duration::from_secs(1),
    };

    fn passed(sent: u64, received: u64) -> Passed {
        Passed {
            sent,
            received,
            seconds: 1.0,
        }
    }

    #[test]
    fn lossless_means_sent_and_arrived() {
        // 10^8 bit/s are 10,000 datagrams of 1,250 B.
        assert!(passed(10_000, 10_000).is_lossless(&STREAM, 1e8));
        assert!(passed(10_000, 9_995).is_lossless(&STREAM, 1e8));
        assert!(!passed(10_000, 9_900).is_lossless(&STREAM, 1e8));
        assert!(!passed(5_000, 5_000).is_lossless(&STREAM, 1e8));
        assert_eq!(passed(10_000, 10_000).bits_per_second(1250), 1e8);
    }

    #[test]
    fn the_search_comes_near_what_passes() {
        for limit in [3e6, 7e8] {
            let pass = |rate: f64| {
                let sent = (rate / 8.0 / 1250.0) as u64;
                let through = (limit / 8.0 / 1250.0) as u64;
                Ok(passed(sent, sent.min(through)))
            };
            let found = search(&STREAM, pass).unwrap();
            assert!(found <= limit && found > limit * 0.9, "{found} of {limit}");
        }
        let nothing = search(&STREAM, |rate| Ok(passed((rate / 1e4) as u64, 0)));
        assert!(nothing.is_err());
    }
}
