//! The TCP/IP stack behind the pipe: smoltcp, and all that knows it.
//!
//! It has no addresses of its own to speak of: whatever the packet thread delivers is for here, and
//! every connection names the address that it is from. Which connections there are is `run`'s
//! business; the stack sends, repeats, acknowledges and times out.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use netmanager_core::lane::{STACK_V4, STACK_V6};
use netmanager_core::reject::{Reject, reject};
use smoltcp::iface::{Config, Interface, PollIngressSingleResult, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{CongestionControl, RecvError, Socket, SocketBuffer, State};
use smoltcp::wire::{HardwareAddress, IpCidr, IpEndpoint, IpListenEndpoint};

pub(super) use self::phy::Incoming;

use self::phy::Phy;
use crate::pipe::StackEnd;

mod phy;

/// What is kept of a connection in each direction: 200 Mbit/s over 20 ms. Memory is taken as it is
/// used.
const BUFFER_BYTES: usize = 512 << 10;
/// Silence after which the other end is asked whether it is still there, as the host's programs are.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
/// How long the other end may be silent then, or with bytes to acknowledge.
const SILENCE: Duration = Duration::from_secs(90);
/// How long the end of a connection may take that nobody looks at any more.
const LINGER: Duration = Duration::from_secs(30);
/// Ports of connections that begin here, as of programs on Linux.
const FIRST_PORT: u16 = 32_768;
const LAST_PORT: u16 = 60_999;

/// One end of a connection in the overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Port {
    handle: SocketHandle,
    /// Its address in the overlay.
    pub(super) local: SocketAddr,
    /// The other end's.
    pub(super) remote: SocketAddr,
}

/// How a connection in the overlay stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is being made.
    Opening,
    /// It is there, in one direction at least.
    Open,
    /// It is refused, reset, or silent for too long; or ended in order.
    Closed,
}

/// What can be read of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readable {
    /// So many bytes were taken.
    Taken(usize),
    /// Nothing now.
    Nothing,
    /// Nothing any more: the other end has closed its direction.
    End,
    /// Nothing any more: the connection is cut.
    Reset,
}

/// The stack.
pub(super) struct Stack {
    phy: Phy,
    iface: Interface,
    sockets: SocketSet<'static>,
    began: Instant,
    next_port: u16,
    /// Ends of connections that begin here.
    taken: BTreeSet<SocketAddr>,
    /// Connections that end by themselves, and when they are cut.
    lingering: Vec<(Port, Instant)>,
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Stack");
        shown.field("lingering", &self.lingering);
        shown.finish_non_exhaustive()
    }
}

impl Stack {
    /// A stack behind a pipe. The seed should differ from start to start.
    pub(super) fn new(pipe: StackEnd, seed: u64, now: Instant) -> Self {
        let mut phy = Phy::new(pipe);
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut iface = Interface::new(config, &mut phy, smoltcp::time::Instant::ZERO);
        // Everything is routed to addresses that are its own, so it takes and sends whatever comes.
        iface.set_any_ip(true);
        iface.update_ip_addrs(|addresses| {
            addresses.clear();
            for ip in [IpAddr::V4(STACK_V4), IpAddr::V6(STACK_V6)] {
                let bits = if ip.is_ipv4() { 32 } else { 128 };
                // There is room for two.
                let _ = addresses.push(IpCidr::new(ip.into(), bits));
            }
        });
        let routes = iface.routes_mut();
        let _ = routes.add_default_ipv4_route(STACK_V4);
        let _ = routes.add_default_ipv6_route(STACK_V6);
        let ports = u64::from(LAST_PORT - FIRST_PORT) + 1;
        Self {
            phy,
            iface,
            sockets: SocketSet::new(Vec::new()),
            began: now,
            next_port: FIRST_PORT + u16::try_from(seed % ports).unwrap_or(0),
            taken: BTreeSet::new(),
            lingering: Vec::new(),
        }
    }

    /// The next packet that has come. When there is none, the descriptor tells of the next.
    pub(super) fn next_packet(&mut self) -> Option<Incoming> {
        self.phy.next_packet()
    }

    /// Takes in a packet.
    pub(super) fn take_in(&mut self, packet: Incoming, now: Instant) {
        let at = self.at(now);
        self.phy.take_in(packet);
        let (iface, phy, sockets) = (&mut self.iface, &mut self.phy, &mut self.sockets);
        while iface.poll_ingress_single(at, phy, sockets) != PollIngressSingleResult::None {}
    }

    /// Answers a packet as if nobody listened where it goes.
    pub(super) fn refuse(&mut self, packet: &[u8]) {
        if let Some(answer) = reject(packet, Reject::NoInstance) {
            self.phy.send(&answer);
        }
    }

    /// Sends a packet that is none of its own.
    pub(super) fn send(&mut self, packet: &[u8]) {
        self.phy.send(packet);
    }

    /// Sends what is due, and ends connections that nobody looks at any more.
    pub(super) fn poll(&mut self, now: Instant) {
        let at = self.at(now);
        self.phy.flush();
        self.iface.poll_egress(at, &mut self.phy, &mut self.sockets);
        let lingering = std::mem::take(&mut self.lingering);
        for (port, until) in lingering {
            let socket = self.sockets.get_mut::<Socket<'_>>(port.handle);
            let is_over = matches!(socket.state(), State::Closed | State::TimeWait);
            if !is_over && until <= now {
                socket.abort();
                // It is cut at the next time.
                self.lingering.push((port, until));
            } else if is_over && socket.send_queue() == 0 || socket.state() == State::Closed {
                self.forget(port);
            } else {
                self.lingering.push((port, until));
            }
        }
    }

    /// When [`Stack::poll`] has something to do; not before there is room for packets.
    pub(super) fn poll_at(&mut self, now: Instant) -> Option<Instant> {
        let lingering = self.lingering.iter().map(|(_, until)| *until).min();
        if self.phy.is_full() {
            return lingering;
        }
        let at = self.at(now);
        let due = self.iface.poll_delay(at, &self.sockets);
        let due = due.map(|delay| now + Duration::from_micros(delay.total_micros()));
        due.into_iter().chain(lingering).min()
    }

    /// Begins to connect; none if all ports are taken.
    pub(super) fn connect(&mut self, from: IpAddr, to: SocketAddr) -> Option<Port> {
        let local = self.take_port(from)?;
        let mut socket = new_socket();
        let connected = socket.connect(self.iface.context(), endpoint(to), endpoint(local));
        if connected.is_err() {
            self.taken.remove(&local);
            return None;
        }
        let handle = self.sockets.add(socket);
        Some(Port {
            handle,
            local,
            remote: to,
        })
    }

    /// Accepts the connection that a packet asks for: it goes to `local`, from `remote`.
    pub(super) fn accept(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
        packet: Incoming,
        now: Instant,
    ) -> Option<Port> {
        let mut socket = new_socket();
        let at: IpListenEndpoint = endpoint(local).into();
        socket.listen(at).ok()?;
        let handle = self.sockets.add(socket);
        self.take_in(packet, now);
        let socket = self.sockets.get_mut::<Socket<'_>>(handle);
        if socket.remote_endpoint() != Some(endpoint(remote)) {
            // The packet was not what it seemed.
            self.sockets.remove(handle);
            return None;
        }
        Some(Port {
            handle,
            local,
            remote,
        })
    }

    /// How a connection stands.
    pub(super) fn standing(&self, port: Port) -> Standing {
        match self.sockets.get::<Socket<'_>>(port.handle).state() {
            State::Listen | State::SynSent | State::SynReceived => Standing::Opening,
            State::Closed => Standing::Closed,
            State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::Closing
            | State::LastAck
            | State::TimeWait => Standing::Open,
        }
    }

    /// Whether everything that was handed to a connection has been acknowledged.
    pub(super) fn is_sent(&self, port: Port) -> bool {
        self.sockets.get::<Socket<'_>>(port.handle).send_queue() == 0
    }

    /// Lets `fill` write what is to be sent, as far as there is room; it says how much it has
    /// written. None if there is no room.
    pub(super) fn fill<R>(
        &mut self,
        port: Port,
        fill: impl FnOnce(&mut [u8]) -> (usize, R),
    ) -> Option<R> {
        let socket = self.sockets.get_mut::<Socket<'_>>(port.handle);
        if socket.can_send() {
            socket.send(fill).ok()
        } else {
            None
        }
    }

    /// Lets `take` read what has come; it says how much it has taken.
    pub(super) fn drain(&mut self, port: Port, take: impl FnOnce(&[u8]) -> usize) -> Readable {
        let socket = self.sockets.get_mut::<Socket<'_>>(port.handle);
        let taken = socket.recv(|bytes| {
            let taken = if bytes.is_empty() { 0 } else { take(bytes) };
            (taken, taken)
        });
        match taken {
            Ok(0) => Readable::Nothing,
            Ok(count) => Readable::Taken(count),
            Err(RecvError::Finished) => Readable::End,
            Err(RecvError::InvalidState) if socket.state() == State::Closed => Readable::Reset,
            Err(RecvError::InvalidState) => Readable::Nothing,
        }
    }

    /// Whether a connection has bytes that were not read.
    pub(super) fn has_unread(&self, port: Port) -> bool {
        self.sockets.get::<Socket<'_>>(port.handle).recv_queue() > 0
    }

    /// Closes this direction of a connection, behind what is still to be sent.
    pub(super) fn close(&mut self, port: Port) {
        self.sockets.get_mut::<Socket<'_>>(port.handle).close();
    }

    /// Lets a connection end by itself whose both directions are closed.
    pub(super) fn linger(&mut self, port: Port, now: Instant) {
        self.lingering.push((port, now + LINGER));
    }

    /// Resets a connection.
    pub(super) fn abort(&mut self, port: Port, now: Instant) {
        self.sockets.get_mut::<Socket<'_>>(port.handle).abort();
        // The reset has yet to be sent.
        self.lingering.push((port, now + LINGER));
    }

    /// Resets every connection, and sends that.
    pub(super) fn abort_all(&mut self, now: Instant) {
        for (_, socket) in self.sockets.iter_mut() {
            let smoltcp::socket::Socket::Tcp(socket) = socket;
            socket.abort();
        }
        self.poll(now);
    }

    fn forget(&mut self, port: Port) {
        self.sockets.remove(port.handle);
        self.taken.remove(&port.local);
    }

    fn take_port(&mut self, ip: IpAddr) -> Option<SocketAddr> {
        for _ in FIRST_PORT..=LAST_PORT {
            let local = SocketAddr::new(ip, self.next_port);
            self.next_port = match self.next_port {
                LAST_PORT => FIRST_PORT,
                port => port + 1,
            };
            if self.taken.insert(local) {
                return Some(local);
            }
        }
        None
    }

    fn at(&self, now: Instant) -> smoltcp::time::Instant {
        let since = now.saturating_duration_since(self.began).as_micros();
        smoltcp::time::Instant::from_micros(i64::try_from(since).unwrap_or(i64::MAX))
    }
}

impl AsFd for Stack {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.phy.as_fd()
    }
}

fn new_socket() -> Socket<'static> {
    let buffer = || SocketBuffer::new(vec![0; BUFFER_BYTES]);
    let mut socket = Socket::new(buffer(), buffer());
    socket.set_congestion_control(CongestionControl::Cubic);
    // Bytes come as programs have written them; whoever reads is told at once.
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket.set_keep_alive(Some(KEEPALIVE_TIME.into()));
    socket.set_timeout(Some(SILENCE.into()));
    socket
}

fn endpoint(address: SocketAddr) -> IpEndpoint {
    IpEndpoint::new(address.ip().into(), address.port())
}
