//! Datagrams between the two ends of a tunnel: sockets in both namespaces, at either end of what
//! [`weald_measure`] sends, counts and times.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use netns_tests::Namespace;
use weald_measure::prober::{self, RoundTrips};
use weald_measure::stream::{self, Passed, Stream};

/// Sends `stream` at `rate` bits of payload per second and counts what arrives.
///
/// # Errors
/// A socket cannot be opened, or the kernel refuses to send.
pub fn pass(
    [client, server]: [&Namespace; 2],
    [from, to]: [IpAddr; 2],
    stream: &Stream,
    rate: f64,
) -> Result<Passed> {
    let near = client.udp_bind(SocketAddr::new(from, 0))?;
    let far = server.udp_bind(SocketAddr::new(to, 0))?;
    stream::set_buffers(&near)?;
    stream::set_buffers(&far)?;
    let destination = far.local_addr()?;
    let done = AtomicBool::new(false);
    let (sent, received) = thread::scope(|scope| {
        let counting = scope.spawn(|| stream::count(&far, stream.size, &done));
        let sent = stream::send(&near, destination, stream, rate, &[]);
        done.store(true, Ordering::Release);
        (sent, counting.join())
    });
    let (sent, seconds) = sent?;
    let received = match received {
        Ok(received) => received?,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    Ok(Passed {
        sent,
        received,
        seconds,
    })
}

/// The highest rate, in bits of payload per second, at which a stream arrived without loss.
///
/// # Errors
/// As [`pass`], or not even the slowest stream arrived whole.
pub fn search(namespaces: [&Namespace; 2], addresses: [IpAddr; 2], stream: &Stream) -> Result<f64> {
    stream::search(stream, |rate| pass(namespaces, addresses, stream, rate))
}

/// Probes for a while.
///
/// # Errors
/// A socket cannot be opened, or hardly any answer came.
pub fn probe(
    namespaces: [&Namespace; 2],
    addresses: [IpAddr; 2],
    time: Duration,
) -> Result<RoundTrips> {
    probe_at(namespaces, addresses, addresses[1], time)
}

/// The same where the server's address is not the one that is `bound` there.
///
/// # Errors
/// As [`probe`].
pub fn probe_at(
    [client, server]: [&Namespace; 2],
    [from, to]: [IpAddr; 2],
    bound: IpAddr,
    time: Duration,
) -> Result<RoundTrips> {
    let near = client.udp_bind(SocketAddr::new(from, 0))?;
    let far = server.udp_bind(SocketAddr::new(bound, 0))?;
    near.connect((to, far.local_addr()?.port()))?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let echoing = scope.spawn(|| prober::echo(&far, &stop));
        let probed = prober::probe(&near, time, &[]);
        stop.store(true, Ordering::Relaxed);
        match echoing.join() {
            Ok(echoed) => echoed.and(probed),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
