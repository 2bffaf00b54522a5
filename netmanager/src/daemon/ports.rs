//! Asks the host's default gateways for a port that leads to the data socket, and tells the packet
//! thread under which outside addresses peers reach it then.
//!
//! One plain thread with a socket of its own per gateway; [`links`](super::links) says which there
//! are. What is asked and when is netmanager-core's `portmap`. Gateways are asked only where the own
//! address is private: else there is no NAT that they could see to.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use netmanager_core::peer::candidates::{Interface, MAX_MAPPED, Refusal, Surroundings, is_private};
use netmanager_core::portmap::mapper::Event;
use netmanager_core::portmap::{Gateway, MAPPING_PORT, Mapper};
use netmanager_core::table::Snapshot;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::api::report::GatewayReport;
use crate::driver::DriverHandle;
use crate::state::RESET_KEY_LEN;

mod fetch;
mod report;

/// The longest sleep, so that a timer that was forgotten shows as a delay and not as a hang.
const MAX_SLEEP: Duration = Duration::from_secs(60);
/// Datagrams that are read before anything else is done.
const MAX_READ: usize = 32;
/// How long mappings may take to be removed at the end.
const END_TIME: Duration = Duration::from_secs(1);
/// Bytes of the longest datagram that is looked at: PCP's are shorter, SSDP's fit an Ethernet.
const MAX_DATAGRAM: usize = 1500;

/// What there is to tell of gateways.
pub(super) type Reports = Arc<ArcSwap<Vec<GatewayReport>>>;

/// The running thread.
#[derive(Debug)]
pub(super) struct Ports {
    handle: PortsHandle,
    reports: Reports,
    thread: JoinHandle<()>,
}

/// Talks to the thread.
#[derive(Debug, Clone)]
pub(super) struct PortsHandle {
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
}

/// What others say to the thread.
#[derive(Debug)]
enum Command {
    Network(Vec<Interface>, Vec<Ipv4Addr>),
    End,
}

impl Ports {
    /// Starts to map the port of `listen`; `key` is secret and outlives the daemon.
    pub(super) fn start(
        listen: SocketAddr,
        key: [u8; RESET_KEY_LEN],
        table: Arc<ArcSwap<Snapshot>>,
        packets: DriverHandle,
    ) -> anyhow::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let wake = Arc::new(wake);
        let (commands, receiver) = mpsc::channel();
        let reports = Reports::default();
        let mut thread = Thread {
            port: listen.port(),
            key,
            table,
            packets,
            surroundings: Surroundings::default(),
            asked: Vec::new(),
            told: Vec::new(),
            reports: Arc::clone(&reports),
            commands: receiver,
            wake: Arc::clone(&wake),
        };
        let named = thread::Builder::new().name("ports".to_owned());
        let thread = named.spawn(move || thread.run());
        Ok(Self {
            handle: PortsHandle { commands, wake },
            reports,
            thread: thread.context("cannot start a thread")?,
        })
    }

    pub(super) const fn handle(&self) -> &PortsHandle {
        &self.handle
    }

    /// What there is to tell, always the latest.
    pub(super) fn reports(&self) -> Reports {
        Arc::clone(&self.reports)
    }

    /// Removes the mappings, stops the thread and waits for it.
    pub(super) fn end(self) {
        self.handle.send(Command::End);
        if self.thread.join().is_err() {
            tracing::error!("the thread of port mappings has panicked");
        }
    }
}

impl PortsHandle {
    /// Says that links, addresses or routes may have changed, and what there is now.
    pub(super) fn network_changed(&self, interfaces: Vec<Interface>, gateways: Vec<Ipv4Addr>) {
        self.send(Command::Network(interfaces, gateways));
    }

    fn send(&self, command: Command) {
        // Without the thread, the daemon ends.
        let _ = self.commands.send(command);
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

/// A gateway that is asked.
#[derive(Debug)]
struct Asked {
    mapper: Mapper,
    socket: UdpSocket,
}

/// The state of the thread.
struct Thread {
    port: u16,
    key: [u8; RESET_KEY_LEN],
    table: Arc<ArcSwap<Snapshot>>,
    packets: DriverHandle,
    /// What gateways say is judged by.
    surroundings: Surroundings,
    asked: Vec<Asked>,
    told: Vec<SocketAddr>,
    reports: Reports,
    commands: Receiver<Command>,
    wake: Arc<OwnedFd>,
}

impl Thread {
    fn run(&mut self) {
        loop {
            self.sleep(MAX_SLEEP);
            if !self.handle_commands() {
                break;
            }
            self.turn();
            if self.tell().is_err() {
                break;
            }
        }
        self.finish();
    }

    /// Reads what has come, does what is due, and sends what follows.
    fn turn(&mut self) {
        for one in &mut self.asked {
            one.read();
            one.mapper.handle_timeout(Instant::now());
            one.act();
        }
    }

    fn finish(&mut self) {
        let end = Instant::now() + END_TIME;
        for one in &mut self.asked {
            one.mapper.end(Instant::now());
        }
        loop {
            self.turn();
            self.asked.retain(|one| !one.mapper.is_ended());
            let left = end.saturating_duration_since(Instant::now());
            if self.asked.is_empty() || left.is_zero() {
                return;
            }
            self.sleep(left);
        }
    }

    /// Sleeps until something has come or is due.
    fn sleep(&self, longest: Duration) {
        let due = self
            .asked
            .iter()
            .filter_map(|one| one.mapper.poll_timeout());
        let due = due.min().map_or(longest, |at| {
            at.saturating_duration_since(Instant::now()).min(longest)
        });
        let timeout = Timespec {
            tv_sec: due.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: due.subsec_nanos().into(),
        };
        let wake = PollFd::new(&*self.wake, PollFlags::IN);
        let sockets = self.asked.iter();
        let sockets =
            sockets.map(|one| PollFd::from_borrowed_fd(one.socket.as_fd(), PollFlags::IN));
        let mut fds: Vec<PollFd<'_>> = sockets.chain([wake]).collect();
        // After EINTR and the like everything is looked at.
        let _ = poll(&mut fds, Some(&timeout));
    }

    /// Does what others have said; false if that is to end.
    fn handle_commands(&mut self) -> bool {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.wake, &mut count);
        loop {
            match self.commands.try_recv() {
                Ok(Command::Network(interfaces, gateways)) => {
                    self.network_changed(interfaces, &gateways);
                }
                Ok(Command::End) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    fn network_changed(&mut self, interfaces: Vec<Interface>, gateways: &[Ipv4Addr]) {
        self.surroundings.set_interfaces(interfaces);
        let own: Vec<IpAddr> = self
            .surroundings
            .interfaces()
            .map(|one| one.address.ip())
            .collect();
        let towards = gateways.iter().filter_map(|ip| towards(*ip).ok());
        let gateways: Vec<Gateway> = towards
            .filter(|gateway| own.contains(&gateway.client.into()))
            .filter(|gateway| is_private(gateway.client.into()))
            .take(MAX_MAPPED)
            .collect();
        // What was granted to an address that is gone ends by itself: nobody can remove it from here.
        self.asked
            .retain(|one| gateways.contains(&one.mapper.gateway()));
        for gateway in gateways {
            let known = self
                .asked
                .iter_mut()
                .find(|one| one.mapper.gateway() == gateway);
            match known {
                Some(one) => one.mapper.handle_network_change(Instant::now()),
                None => match self.ask(gateway) {
                    Ok(one) => self.asked.push(one),
                    Err(error) => tracing::warn!(%error, gateway = %gateway.ip, "cannot be asked"),
                },
            }
        }
    }

    fn ask(&self, gateway: Gateway) -> std::io::Result<Asked> {
        let socket = UdpSocket::bind((gateway.client, 0))?;
        socket.set_nonblocking(true)?;
        let nonce = nonce(&self.key, gateway);
        Ok(Asked {
            mapper: Mapper::new(gateway, self.port, nonce, Instant::now()),
            socket,
        })
    }

    /// Tells everybody what has changed; an error if the packet thread is gone.
    fn tell(&mut self) -> Result<(), crate::api::inspect::Unavailable> {
        let table = self.table.load();
        let judged = |one: &Asked| {
            let mapped = one.mapper.view().mapped?;
            let verdict = self
                .surroundings
                .judge_mapping(mapped.external, table.pools());
            Some((mapped.external, verdict))
        };
        let verdicts: Vec<Option<(SocketAddr, Result<(), Refusal>)>> =
            self.asked.iter().map(judged).collect();
        let views = self.asked.iter().zip(&verdicts);
        let reports: Vec<GatewayReport> = views
            .map(|(one, verdict)| {
                let refusal = verdict.and_then(|(_, verdict)| verdict.err());
                report::of(&one.mapper.view(), refusal)
            })
            .collect();
        let is_news = **self.reports.load() != reports;
        if is_news {
            self.reports.store(Arc::new(reports));
        }
        let fit = verdicts.into_iter().flatten();
        let fit = fit.filter(|(_, verdict)| verdict.is_ok());
        let mapped: Vec<SocketAddr> = fit.map(|(external, _)| external).collect();
        if mapped == self.told {
            return Ok(());
        }
        tracing::info!(?mapped, "ports that gateways lead here");
        self.told.clone_from(&mapped);
        self.packets.set_mapped(mapped)
    }
}

impl Asked {
    fn read(&mut self) {
        let mut buffer = [0; MAX_DATAGRAM];
        for _ in 0..MAX_READ {
            match self.socket.recv_from(&mut buffer) {
                Ok((length, from)) => {
                    let datagram = buffer.get(..length).unwrap_or_default();
                    let now = Instant::now();
                    if let Err(why) = self.mapper.handle_datagram(from, datagram, now) {
                        tracing::debug!(%from, ?why, "no answer of a gateway");
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                // Such as an ICMP error of something sent before.
                Err(error) => tracing::trace!(%error, "socket towards a gateway"),
            }
        }
    }

    fn act(&mut self) {
        let gateway = self.mapper.gateway();
        while let Some(event) = self.mapper.poll_event() {
            match event {
                Event::Send { port, datagram } => {
                    // What the host does not send is as lost as what the network drops.
                    if let Err(error) = self.socket.send_to(&datagram, (gateway.ip, port)) {
                        tracing::debug!(%error, gateway = %gateway.ip, "not sent");
                    }
                }
                Event::Fetch { port, request } => {
                    let fetched = fetch::fetch(gateway, port, &request);
                    if let Err(error) = &fetched {
                        tracing::debug!(%error, gateway = %gateway.ip, port, "no answer over TCP");
                    }
                    let answer = fetched.ok();
                    self.mapper
                        .handle_fetched(answer.as_deref(), Instant::now());
                }
            }
        }
    }
}

/// The gateway, with the address that the kernel sends to it from.
fn towards(ip: Ipv4Addr) -> std::io::Result<Gateway> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((ip, MAPPING_PORT))?;
    match socket.local_addr()?.ip() {
        IpAddr::V4(client) => Ok(Gateway { ip, client }),
        IpAddr::V6(_) => Err(std::io::ErrorKind::AddrNotAvailable.into()),
    }
}

/// What makes a mapping this node's: the same after a restart, and unknown to everybody else.
fn nonce(key: &[u8; RESET_KEY_LEN], gateway: Gateway) -> [u8; 12] {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key);
    let [ip, client] = [gateway.ip.octets(), gateway.client.octets()];
    let tag = aws_lc_rs::hmac::sign(&key, &[b"port mapping", &ip[..], &client[..]].concat());
    tag.as_ref().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_the_same_after_a_restart_and_another_ones_is_not() {
        let gateway = |client| Gateway {
            ip: Ipv4Addr::new(192, 168, 1, 1),
            client: Ipv4Addr::new(192, 168, 1, client),
        };
        let mine = nonce(&[7; RESET_KEY_LEN], gateway(7));
        assert_eq!(mine, nonce(&[7; RESET_KEY_LEN], gateway(7)));
        assert_ne!(mine, nonce(&[8; RESET_KEY_LEN], gateway(7)));
        assert_ne!(mine, nonce(&[7; RESET_KEY_LEN], gateway(8)));
        assert_ne!(mine, [0; 12]);
    }
}
