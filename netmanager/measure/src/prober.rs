//! Round trips: one small datagram at a time, answered at once.
//!
//! `ping` prints too coarsely for links of tens of microseconds. Both ends sleep in the kernel,
//! so that waking up is part of the figure, as it is for any program. The sockets are the caller's.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// Between two probes: rare enough to be no load.
const PAUSE: Duration = Duration::from_millis(1);
/// When a probe counts as lost.
const LOST: Duration = Duration::from_millis(500);
/// How often the echoing end looks whether it shall stop.
const LOOK: Duration = Duration::from_millis(50);
/// How many times its time a series may last.
const PATIENCE: u32 = 10;
/// How often the kernel may refuse to send.
const REFUSALS: usize = 1_000;
/// The least answers that a figure is made of.
const LEAST: usize = 20;

/// What the probes found, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RoundTrips {
    /// Half of the answers came within this.
    pub p50: f64,
    /// All but one in a hundred.
    pub p99: f64,
    /// All but one in a thousand.
    pub p999: f64,
    /// Probes without an answer.
    pub lost: usize,
}

/// Probes for a while over a connected socket; `head` is what each probe begins with.
///
/// # Errors
/// Hardly any answer came, or the kernel refuses to send.
pub fn probe(socket: &UdpSocket, time: Duration, head: &[u8]) -> Result<RoundTrips> {
    socket.set_read_timeout(Some(LOST))?;
    let (answers, lost) = measure(socket, time, head)?;
    round_trips(answers, lost)
}

/// Answers probes until told to stop.
///
/// # Errors
/// The socket is none any more.
pub fn echo(socket: &UdpSocket, stop: &AtomicBool) -> Result<()> {
    socket.set_read_timeout(Some(LOOK))?;
    let mut buffer = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            // What cannot be answered counts as lost at the other end.
            let _ = socket.send_to(&buffer[..length], from);
        }
    }
    Ok(())
}

/// The round trips in microseconds, and how many were lost.
fn measure(socket: &UdpSocket, time: Duration, head: &[u8]) -> Result<(Vec<f64>, usize)> {
    let (mut answers, mut lost) = (Vec::new(), 0);
    let end = Instant::now() + time;
    // On a busy machine a series goes on until it can be a figure.
    let latest = Instant::now() + time * PATIENCE;
    let (mut number, mut tries) = (0_u64, 0);
    let mut buffer = [0; 64];
    loop {
        let now = Instant::now();
        if now >= latest || now >= end && answers.len() >= LEAST {
            return Ok((answers, lost));
        }
        number += 1;
        let probe = [head, &number.to_be_bytes()].concat();
        let sent = Instant::now();
        if let Err(error) = socket.send(&probe) {
            // A full queue, or an answer of the network to an earlier one.
            tries += 1;
            ensure!(tries < REFUSALS, "probes cannot be sent: {error}");
            thread::sleep(PAUSE);
            continue;
        }
        loop {
            match socket.recv(&mut buffer) {
                // A late answer to a probe that was given up is not this one's.
                Ok(length) if buffer[..length] != probe => {}
                Ok(_) => {
                    answers.push(sent.elapsed().as_secs_f64() * 1e6);
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    lost += 1;
                    break;
                }
            }
        }
        thread::sleep(PAUSE);
    }
}

fn round_trips(mut answers: Vec<f64>, lost: usize) -> Result<RoundTrips> {
    let count = answers.len();
    ensure!(count >= LEAST, "{count} answers, {lost} probes lost");
    answers.sort_by(f64::total_cmp);
    let at = |thousandths: usize| answers[(count - 1) * thousandths / 1_000];
    Ok(RoundTrips {
        p50: at(500),
        p99: at(990),
        p999: at(999),
        lost,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_and_too_few_answers() -> Result<()> {
        let answers = (1..=101).rev().map(f64::from).collect();
        let found = round_trips(answers, 2)?;
        assert_eq!((found.p50, found.p99, found.lost), (51.0, 100.0, 2));
        assert_eq!(found.p999, 100.0);
        assert!(round_trips(vec![1.0; 5], 100).is_err());
        Ok(())
    }
}
