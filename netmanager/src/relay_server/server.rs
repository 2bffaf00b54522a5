//! The relay's loop: reads sockets, feeds sessions and core, sends what they say, sleeps.
//!
//! One turn reads at most [`MAX_READS`] batches per socket before it sends, so that the fair queue
//! has something to choose from, and sends at most [`MAX_TURN_BYTES`] before it reads again.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::Context;
use aws_lc_rs::rand;
use netmanager_core::relay::{Relay, RelayTransmit};
use quinn_udp::Transmit;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::{debug, info};
use weald_proto::frame::FrameKind;
use weald_trust::tls::Credentials;

use super::report::{self, RelayReport};
use super::sessions::Sessions;
use super::socket::{ReceiveBuffers, UdpPort};
use super::{RelayConfig, Request};

/// Batches read from a socket before something is sent: some 8 MiB at the most.
const MAX_READS: usize = 8;
/// Bytes sent before the sockets are read again.
const MAX_TURN_BYTES: usize = 4 << 20;
/// How long to sleep at the most while a socket is full: timers of the core wait no longer.
const FULL_SOCKET_SLEEP: Duration = Duration::from_millis(20);

/// Everything that the relay's thread owns.
#[derive(Debug)]
pub(super) struct Server {
    relay: Relay,
    sessions: Sessions,
    ports: Vec<UdpPort>,
    buffers: ReceiveBuffers,
    out: Vec<u8>,
    /// A batch, in `out`, that the socket has refused because it is full.
    refused: Option<RelayTransmit>,
    requests: Receiver<Request>,
    wake: Arc<OwnedFd>,
    identity: String,
    rate_bits_per_second: u64,
    started: Instant,
}

impl Server {
    pub(super) fn new(
        config: &RelayConfig,
        credentials: Arc<Credentials>,
        requests: Receiver<Request>,
        wake: Arc<OwnedFd>,
    ) -> anyhow::Result<Self> {
        let started = Instant::now();
        let mut seed = [0; 32];
        rand::fill(&mut seed).ok().context("no randomness")?;
        let ports = config.listen.iter().map(|at| UdpPort::bind(*at));
        Ok(Self {
            relay: Relay::new(config.rate_bits_per_second, seed, started),
            ports: ports.collect::<anyhow::Result<_>>()?,
            identity: credentials.identity().to_string(),
            sessions: Sessions::new(credentials)?,
            buffers: ReceiveBuffers::new(),
            out: Vec::new(),
            refused: None,
            requests,
            wake,
            rate_bits_per_second: config.rate_bits_per_second,
            started,
        })
    }

    pub(super) fn addresses(&self) -> anyhow::Result<Vec<SocketAddr>> {
        Ok(self.ports.iter().map(|port| port.address).collect())
    }

    /// Runs until it is told to stop.
    pub(super) fn run(&mut self) -> anyhow::Result<()> {
        while self.answer_requests() {
            let now = Instant::now();
            self.sessions.handle_timeout(now);
            self.relay.handle_timeout(now);
            let more = self.receive(now)?;
            self.settle(now);
            self.transmit(now);
            self.sleep(more)?;
        }
        self.sessions
            .close(&mut self.relay, Instant::now(), &mut |transmit, bytes| {
                send_quic(&self.ports, transmit, bytes);
            });
        info!("the relay has ended");
        Ok(())
    }

    /// False if the relay is to stop.
    fn answer_requests(&self) -> bool {
        while let Ok(request) = self.requests.try_recv() {
            match request {
                Request::Stop => return false,
                // Who has asked may have gone meanwhile.
                Request::Report(answer) => drop(answer.try_send(self.report())),
            }
        }
        true
    }

    fn report(&self) -> RelayReport {
        RelayReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            relay: self.identity.clone(),
            listen: self.ports.iter().map(|port| port.address).collect(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            rate_bits_per_second: self.rate_bits_per_second,
            registrations: self.relay.links(),
            unregistered_sessions: self.sessions.unregistered(),
            handshakes_refused: self.sessions.handshakes_refused,
            tokens_refused: self.sessions.tokens_refused,
            total: (&self.relay.total()).into(),
            organisations: report::organisations(&self.relay),
        }
    }

    /// Reads the sockets; true if there may be more to read.
    fn receive(&mut self, now: Instant) -> anyhow::Result<bool> {
        let mut more = false;
        let (relay, sessions, ports) = (&mut self.relay, &mut self.sessions, &self.ports);
        for port in ports {
            more |= (0..MAX_READS)
                .map(|_| {
                    self.buffers.receive(port, |mut received| {
                        let bytes = std::mem::take(&mut received.bytes);
                        if bytes.is_empty() {
                            return relay.handle_frame(received.from, bytes, now);
                        }
                        for datagram in bytes.chunks_mut(received.stride) {
                            match FrameKind::of(datagram) {
                                FrameKind::Quic => {
                                    let send = &mut |transmit: &_, bytes: &_| {
                                        send_quic(ports, transmit, bytes);
                                    };
                                    sessions.handle_datagram(&received, datagram, now, send);
                                }
                                FrameKind::Probe | FrameKind::RelayData | FrameKind::Unknown => {
                                    relay.handle_frame(received.from, datagram, now);
                                }
                            }
                        }
                    })
                })
                .find(|read| !matches!(read, Ok(1..)))
                .transpose()
                .with_context(|| format!("cannot read from {}/udp", port.address))?
                .is_none();
        }
        Ok(more)
    }

    /// Looks after the sessions until neither they nor the core have anything left to say.
    fn settle(&mut self, now: Instant) {
        let ports = &self.ports;
        let send = &mut |transmit: &_, bytes: &_| send_quic(ports, transmit, bytes);
        loop {
            let driven = self.sessions.drive(&mut self.relay, now, send);
            let mut noticed = false;
            while let Some(notice) = self.relay.poll_notice() {
                noticed = true;
                self.sessions.handle_notice(notice, now);
            }
            if !driven && !noticed {
                return;
            }
        }
    }

    /// Sends what the core has queued until the rate is used up or a socket is full.
    fn transmit(&mut self, now: Instant) {
        let segments = self.ports.iter().map(UdpPort::max_segments).min();
        let mut sent = 0;
        while sent < MAX_TURN_BYTES {
            let transmit = self.refused.take().or_else(|| {
                self.out.clear();
                self.relay
                    .poll_transmit(now, segments.unwrap_or(1), &mut self.out)
            });
            let Some(transmit) = transmit else {
                return;
            };
            sent += transmit.size;
            match self.send_batch(&transmit) {
                Ok(true) => {}
                Ok(false) => {
                    self.refused = Some(transmit);
                    return;
                }
                Err(error) => {
                    debug!(to = %transmit.to, %error, "cannot send");
                    self.relay.handle_send_failed(&transmit);
                }
            }
        }
    }

    fn send_batch(&self, transmit: &RelayTransmit) -> std::io::Result<bool> {
        let port =
            port_for(&self.ports, transmit.to).ok_or(std::io::ErrorKind::AddrNotAvailable)?;
        let batched = transmit.size > transmit.segment_size;
        port.send(&Transmit {
            destination: transmit.to,
            ecn: None,
            contents: &self.out,
            segment_size: batched.then_some(transmit.segment_size),
            src_ip: None,
        })
    }

    /// Sleeps until there is something to do.
    fn sleep(&self, more: bool) -> anyhow::Result<()> {
        let now = Instant::now();
        let full = self.refused.is_some();
        let rate = self.relay.poll_timeout().filter(|_| !full);
        let wake_up = [
            more.then_some(now),
            full.then_some(now + FULL_SOCKET_SLEEP),
            rate.map(|(at, _)| at),
            self.sessions.poll_timeout(),
        ];
        let wake_up = wake_up.into_iter().flatten().min();
        let timeout = wake_up.map(|at| at.saturating_duration_since(now));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let refused = self.refused.map(|transmit| transmit.to.is_ipv4());
        let mut ready: Vec<PollFd<'_>> = self
            .ports
            .iter()
            .map(|port| {
                let mut events = PollFlags::IN;
                events.set(PollFlags::OUT, refused == Some(port.address.is_ipv4()));
                PollFd::new(port, events)
            })
            .collect();
        ready.push(PollFd::new(&*self.wake, PollFlags::IN));
        match poll(&mut ready, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for the sockets"),
        }
        // Nothing to read is the usual case.
        let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
        Ok(())
    }
}

fn port_for(ports: &[UdpPort], to: SocketAddr) -> Option<&UdpPort> {
    ports
        .iter()
        .find(|port| port.address.is_ipv4() == to.is_ipv4())
}

/// Sends a datagram of a session. If it cannot be sent it is lost, and QUIC repeats it.
fn send_quic(ports: &[UdpPort], transmit: &quinn_proto::Transmit, bytes: &[u8]) {
    let Some(port) = port_for(ports, transmit.destination) else {
        return;
    };
    let ecn = transmit
        .ecn
        .and_then(|ecn| quinn_udp::EcnCodepoint::from_bits(ecn as u8));
    let result = port.send(&Transmit {
        destination: transmit.destination,
        ecn,
        contents: bytes,
        segment_size: transmit.segment_size,
        src_ip: transmit.src_ip,
    });
    if let Err(error) = result {
        debug!(to = %transmit.destination, %error, "cannot send");
    }
}
