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
use netmanager_core::relay::{KnockAnswer, Relay, RelayDrop, RelayTransmit};
use quinn_udp::Transmit;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::{debug, info};
use weald_proto::datagram::{DEFAULT_TCP_PORT, TCP_ALPN};
use weald_proto::frame::FrameKind;
use weald_trust::tls::Credentials;

use super::report::{self, RelayReport};
use super::sessions::Sessions;
use super::socket::{ReceiveBuffers, Received, UdpPort};
use super::tcp::{TcpPorts, is_made_up};
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
    /// The same addresses with the next port: nodes ask there where they come from, which tells
    /// them how their NAT maps ports. Without them a relay is as good a relay.
    observers: Vec<UdpPort>,
    /// For nodes whose networks let no UDP through.
    tcp: TcpPorts,
    buffers: ReceiveBuffers,
    out: Vec<u8>,
    /// A batch, in `out`, that the socket has refused because it is full.
    refused: Option<RelayTransmit>,
    /// What has come over TCP and is looked at.
    arrived: Vec<(SocketAddr, Vec<u8>)>,
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
        let ports: Vec<UdpPort> = ports.collect::<anyhow::Result<_>>()?;
        let observers = bind_observers(&ports);
        let tcp = bind_tcp(config, &ports, &credentials)?;
        let identity = credentials.identity().to_string();
        let mut sessions = Sessions::new(credentials, &config.pki_dir)?;
        sessions.observe_port = observers.first().map(|port| port.address.port());
        Ok(Self {
            relay: Relay::new(config.rate_bits_per_second, seed, started),
            ports,
            observers,
            tcp,
            identity,
            sessions,
            buffers: ReceiveBuffers::new(),
            out: Vec::new(),
            refused: None,
            arrived: Vec::new(),
            requests,
            wake,
            rate_bits_per_second: config.rate_bits_per_second,
            started,
        })
    }

    pub(super) fn addresses(&self) -> anyhow::Result<Vec<SocketAddr>> {
        Ok(self.ports.iter().map(|port| port.address).collect())
    }

    pub(super) fn tcp_addresses(&self) -> Vec<SocketAddr> {
        self.tcp.report().listen
    }

    /// Runs until it is told to stop.
    pub(super) fn run(&mut self) -> anyhow::Result<()> {
        let mut asked = true;
        while self.answer_requests() {
            let now = Instant::now();
            self.sessions.handle_timeout(now);
            self.relay.handle_timeout(now);
            self.tcp
                .handle_timeout(now, || self.sessions.registered_at());
            let more = self.receive_tcp(now) | self.receive(now)?;
            if asked {
                self.observe(now);
            }
            self.settle(now);
            self.transmit(now);
            self.tcp.flush();
            asked = self.sleep(more)?;
        }
        let (ports, tcp) = (&self.ports, &mut self.tcp);
        self.sessions
            .close(&mut self.relay, Instant::now(), &mut |transmit, bytes| {
                send_quic(ports, tcp, transmit, bytes);
            });
        self.tcp.flush();
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
            certificate_expires: self.sessions.certificate_end(),
            listen: self.ports.iter().map(|port| port.address).collect(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            rate_bits_per_second: self.rate_bits_per_second,
            registrations: self.relay.links(),
            unregistered_sessions: self.sessions.unregistered(),
            handshakes_refused: self.sessions.handshakes_refused,
            tokens_refused: self.sessions.counts.tokens_refused,
            certificates_refused: self.sessions.counts.certificates_refused,
            last_certificate_refused: self.sessions.counts.last_certificate_refused.clone(),
            revocations: self.sessions.revocations.counted,
            tcp: self.tcp.report(),
            total: (&self.relay.total()).into(),
            organisations: report::organisations(&self.relay),
        }
    }

    /// Reads the sockets; true if there may be more to read.
    fn receive(&mut self, now: Instant) -> anyhow::Result<bool> {
        let mut more = false;
        let (relay, sessions, ports) = (&mut self.relay, &mut self.sessions, &self.ports);
        let (observers, tcp) = (&self.observers, &mut self.tcp);
        for port in ports {
            more |= (0..MAX_READS)
                .map(|_| {
                    self.buffers.receive(port, |mut received| {
                        let bytes = std::mem::take(&mut received.bytes);
                        if is_made_up(received.from) {
                            return;
                        }
                        if bytes.is_empty() {
                            return relay.handle_frame(received.from, bytes, now);
                        }
                        for datagram in bytes.chunks_mut(received.stride) {
                            match FrameKind::of(datagram) {
                                FrameKind::Quic => {
                                    let send = &mut |transmit: &_, bytes: &_| {
                                        send_quic(ports, tcp, transmit, bytes);
                                    };
                                    sessions.handle_datagram(&received, datagram, now, send);
                                }
                                FrameKind::RelayQuestion => {
                                    let asked = port.address.port();
                                    relay.handle_question(received.from, asked, datagram);
                                }
                                FrameKind::RelayKnock => {
                                    let answer = relay.handle_knock(received.from, datagram, now);
                                    send_knocked([ports, observers], answer);
                                }
                                FrameKind::Probe
                                | FrameKind::RelayData
                                | FrameKind::Fast
                                | FrameKind::Unknown => {
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

    /// Reads what has come over TCP; true if there may be more to read. Where a node comes from is
    /// no question to be asked there.
    fn receive_tcp(&mut self, now: Instant) -> bool {
        let mut more = false;
        let (relay, sessions) = (&mut self.relay, &mut self.sessions);
        let (ports, tcp) = (&self.ports, &mut self.tcp);
        for id in tcp.ready(now) {
            let arrived = &mut self.arrived;
            more |= tcp.read(id, now, &mut |from, datagram| {
                arrived.push((from, datagram.to_vec()));
            });
            for (from, mut datagram) in arrived.drain(..) {
                if FrameKind::of(&datagram) == FrameKind::Quic {
                    let received = Received {
                        from,
                        to: None,
                        ecn: None,
                        stride: datagram.len(),
                        bytes: &mut [],
                    };
                    let send = &mut |transmit: &_, bytes: &_| {
                        send_quic(ports, tcp, transmit, bytes);
                    };
                    sessions.handle_datagram(&received, &datagram, now, send);
                } else {
                    relay.handle_frame(from, &mut datagram, now);
                }
            }
        }
        more
    }

    /// Reads the observing ports; what is left makes them ready again.
    fn observe(&mut self, now: Instant) {
        let (relay, ports) = (&mut self.relay, &self.ports);
        for port in &self.observers {
            let read = self.buffers.receive(port, |received| {
                for question in received.bytes.chunks_mut(received.stride) {
                    if FrameKind::of(question) == FrameKind::RelayKnock {
                        let answer = relay.handle_knock(received.from, question, now);
                        send_knocked([&self.observers, ports], answer);
                    } else {
                        relay.handle_question(received.from, port.address.port(), question);
                    }
                }
            });
            if let Err(error) = read {
                debug!(port = %port.address, %error, "cannot read");
            }
        }
    }

    /// Looks after the sessions until neither they nor the core have anything left to say.
    fn settle(&mut self, now: Instant) {
        let (ports, tcp) = (&self.ports, &mut self.tcp);
        let send = &mut |transmit: &_, bytes: &_| send_quic(ports, tcp, transmit, bytes);
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
            if is_made_up(transmit.to) {
                self.send_over_tcp(&transmit);
                continue;
            }
            match self.send_batch(&transmit) {
                Ok(true) => {}
                Ok(false) => {
                    self.refused = Some(transmit);
                    return;
                }
                Err(error) => {
                    debug!(to = %transmit.to, %error, "cannot send");
                    let frames = transmit.size.div_ceil(transmit.segment_size.max(1));
                    let failed = RelayDrop::SendFailed;
                    self.relay
                        .handle_lost(&transmit, frames, transmit.size, failed);
                }
            }
        }
    }

    /// Hands frames to a connection, and counts those that its node does not read fast enough.
    fn send_over_tcp(&mut self, transmit: &RelayTransmit) {
        let (mut frames, mut bytes) = (0, 0);
        let out = self.out.get(..transmit.size).unwrap_or_default();
        for frame in out.chunks(transmit.segment_size.max(1)) {
            if !self.tcp.send(transmit.to, frame) {
                frames += 1;
                bytes += frame.len();
            }
        }
        if frames > 0 {
            self.relay
                .handle_lost(transmit, frames, bytes, RelayDrop::SlowReader);
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

    /// Sleeps until there is something to do; true if that may be at the observing ports.
    fn sleep(&self, more: bool) -> anyhow::Result<bool> {
        let now = Instant::now();
        let full = self.refused.is_some();
        let rate = self.relay.poll_timeout().filter(|_| !full);
        let wake_up = [
            more.then_some(now),
            full.then_some(now + FULL_SOCKET_SLEEP),
            rate.map(|(at, _)| at),
            self.sessions.poll_timeout(),
            self.tcp.poll_timeout(),
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
        ready.extend(
            self.observers
                .iter()
                .map(|port| PollFd::new(port, PollFlags::IN)),
        );
        ready.push(PollFd::new(&*self.wake, PollFlags::IN));
        ready.push(PollFd::new(self.tcp.descriptor(), PollFlags::IN));
        let asked = match poll(&mut ready, timeout.as_ref()) {
            Ok(_) => {
                let observers = ready.iter().skip(self.ports.len());
                let mut observers = observers.take(self.observers.len());
                observers.any(|port| !port.revents().is_empty())
            }
            Err(rustix::io::Errno::INTR) => true,
            Err(error) => return Err(error).context("cannot wait for the sockets"),
        };
        // Nothing to read is the usual case.
        let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
        Ok(asked)
    }
}

/// The port after the first one, on all addresses or on none: nodes are told one number.
fn bind_observers(ports: &[UdpPort]) -> Vec<UdpPort> {
    let number = ports
        .first()
        .and_then(|port| port.address.port().checked_add(1));
    let Some(number) = number else {
        return Vec::new();
    };
    let bound = ports
        .iter()
        .map(|port| UdpPort::bind(SocketAddr::new(port.address.ip(), number)));
    match bound.collect::<anyhow::Result<Vec<_>>>() {
        Ok(bound) => bound,
        Err(error) => {
            info!("nodes are not told how their NATs map ports: {error:#}");
            Vec::new()
        }
    }
}

/// Listens for TLS. What the configuration names must be had; the usual port may be somebody else's.
fn bind_tcp(
    config: &RelayConfig,
    ports: &[UdpPort],
    credentials: &Credentials,
) -> anyhow::Result<TcpPorts> {
    let tls = || credentials.tcp_server_config(&[TCP_ALPN]);
    if let Some(named) = &config.tcp_listen {
        return TcpPorts::bind(named, tls()?);
    }
    let usual = ports
        .iter()
        .map(|port| SocketAddr::new(port.address.ip(), DEFAULT_TCP_PORT));
    let usual: Vec<SocketAddr> = usual.collect();
    TcpPorts::bind(&usual, tls()?).or_else(|error| {
        info!("nodes whose networks let no UDP through cannot use this relay: {error:#}");
        TcpPorts::bind(&[], tls()?)
    })
}

fn port_for(ports: &[UdpPort], to: SocketAddr) -> Option<&UdpPort> {
    ports
        .iter()
        .find(|port| port.address.is_ipv4() == to.is_ipv4())
}

/// Answers a knock from the ports that it has come to, or from the other ones. Nothing repeats it.
fn send_knocked([these, others]: [&[UdpPort]; 2], answer: Option<KnockAnswer>) {
    let Some(answer) = answer else {
        return;
    };
    let ports = if answer.from_other_port {
        others
    } else {
        these
    };
    let sent = port_for(ports, answer.to).map(|port| {
        port.send(&Transmit {
            destination: answer.to,
            ecn: None,
            contents: &answer.bytes,
            segment_size: None,
            src_ip: None,
        })
    });
    if let Some(Err(error)) = sent {
        debug!(to = %answer.to, %error, "cannot send");
    }
}

/// Sends a datagram of a session. If it cannot be sent it is lost, and QUIC repeats it.
fn send_quic(
    ports: &[UdpPort],
    tcp: &mut TcpPorts,
    transmit: &quinn_proto::Transmit,
    bytes: &[u8],
) {
    if is_made_up(transmit.destination) {
        let segment_size = transmit.segment_size.unwrap_or(bytes.len());
        for datagram in bytes.chunks(segment_size.max(1)) {
            tcp.send(transmit.destination, datagram);
        }
        return;
    }
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
