//! The TCP connections to relays that do not answer over UDP.
//!
//! While one is in use, whatever is sent to its relay's UDP address goes into it; the rest of the
//! driver does not know. When that is so is netmanager-core's `peer::carrier`.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;

use rustix::event::{Timespec, epoll};
use rustls::ClientConnection;
use socket2::{Domain, Protocol, Socket, Type};

use netmanager_core::peer::paths::RelayIndex;

use crate::tunnel::{Tunnel, TunnelError};

/// Connections looked at in one turn; a node uses no more relays than that.
const MAX_READY: usize = 16;
/// Reads from one connection in one turn: 4 KiB each.
const MAX_READS: usize = 32;

/// All of them.
#[derive(Debug)]
pub(super) struct Tunnels {
    epoll: OwnedFd,
    all: Vec<RelayTunnel>,
}

#[derive(Debug)]
struct RelayTunnel {
    relay: RelayIndex,
    /// What is sent to this address goes in here; none while it is not in use.
    towards: Option<SocketAddr>,
    tunnel: Tunnel,
    was_open: bool,
    waits_to_write: bool,
}

/// What has come over a connection.
#[derive(Debug)]
pub(super) enum Arrival {
    /// The handshake is done.
    Open(RelayIndex),
    /// A datagram.
    Datagram(RelayIndex, Vec<u8>),
    /// It has ended.
    Ended(RelayIndex, TunnelError),
}

impl Tunnels {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            all: Vec::new(),
        })
    }

    /// The descriptor that is readable when one of them is.
    pub(super) const fn descriptor(&self) -> &OwnedFd {
        &self.epoll
    }

    /// Begins to connect to a relay; one that there was before is closed.
    pub(super) fn open(
        &mut self,
        relay: RelayIndex,
        to: SocketAddr,
        tls: ClientConnection,
    ) -> io::Result<()> {
        self.close(relay);
        let tunnel = Tunnel::new(connect(to)?, tls.into())?;
        let events = epoll::EventFlags::IN | epoll::EventFlags::OUT;
        epoll::add(&self.epoll, &tunnel, data_of(relay), events)?;
        self.all.push(RelayTunnel {
            relay,
            towards: None,
            tunnel,
            was_open: false,
            waits_to_write: true,
        });
        Ok(())
    }

    pub(super) fn close(&mut self, relay: RelayIndex) {
        let Some(at) = self.all.iter().position(|one| one.relay == relay) else {
            return;
        };
        let mut ended = self.all.remove(at);
        let _ = epoll::delete(&self.epoll, &ended.tunnel);
        // Farewells may be among what waits.
        let _ = ended.tunnel.flush();
    }

    /// Leads what is sent to this address into the connection, or nothing any more.
    pub(super) fn lead(&mut self, relay: RelayIndex, towards: Option<SocketAddr>) {
        if let Some(one) = self.all.iter_mut().find(|one| one.relay == relay) {
            one.towards = towards;
        }
    }

    /// Takes datagrams to an address whose connection is in use; false if there is none. What waits
    /// too long in it is lost, as in the network.
    pub(super) fn send(&mut self, to: SocketAddr, bytes: &[u8], segment_size: usize) -> bool {
        let Some(one) = self.all.iter_mut().find(|one| one.towards == Some(to)) else {
            return false;
        };
        for datagram in bytes.chunks(segment_size.max(1)) {
            one.tunnel.send(datagram);
        }
        true
    }

    /// Reads what has come, some of it if it is much.
    pub(super) fn receive(&mut self) -> Vec<Arrival> {
        let mut events = Vec::with_capacity(MAX_READY);
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let buffer = rustix::buffer::spare_capacity(&mut events);
        if let Err(error) = epoll::wait(&self.epoll, buffer, Some(&at_once)) {
            tracing::debug!(%error, "epoll");
        }
        let mut arrivals = Vec::new();
        for event in &events {
            let number = event.data.u64();
            let one = self.all.iter_mut();
            let Some(one) = one.into_iter().find(|one| number_of(one.relay) == number) else {
                continue;
            };
            if let Err(error) = one.read(&mut arrivals) {
                let relay = one.relay;
                self.close(relay);
                arrivals.push(Arrival::Ended(relay, error));
            }
        }
        arrivals
    }

    /// Hands the kernel what it takes; returns the connections that have ended.
    pub(super) fn flush(&mut self) -> Vec<(RelayIndex, TunnelError)> {
        let mut ended = Vec::new();
        for one in &mut self.all {
            if let Err(error) = one.tunnel.flush() {
                ended.push((one.relay, error));
                continue;
            }
            let waits = one.tunnel.has_unsent() || !one.was_open;
            if waits != one.waits_to_write {
                one.waits_to_write = waits;
                let mut events = epoll::EventFlags::IN;
                events.set(epoll::EventFlags::OUT, waits);
                let _ = epoll::modify(&self.epoll, &one.tunnel, data_of(one.relay), events);
            }
        }
        for (relay, _) in &ended {
            self.close(*relay);
        }
        ended
    }
}

impl RelayTunnel {
    fn read(&mut self, arrivals: &mut Vec<Arrival>) -> Result<(), TunnelError> {
        for _ in 0..MAX_READS {
            let more = self.tunnel.read()?;
            if !self.was_open && self.tunnel.is_open() {
                self.was_open = true;
                arrivals.push(Arrival::Open(self.relay));
            }
            while let Some(datagram) = self.tunnel.next_datagram()? {
                arrivals.push(Arrival::Datagram(self.relay, datagram.to_vec()));
            }
            if !more {
                break;
            }
        }
        Ok(())
    }
}

/// Begins to connect, without waiting.
fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(IN_PROGRESS) => Err(error),
        Ok(()) | Err(_) => Ok(socket.into()),
    }
}

/// What the kernel says of a connection that is being made.
const IN_PROGRESS: i32 = rustix::io::Errno::INPROGRESS.raw_os_error();

fn number_of(relay: RelayIndex) -> u64 {
    u64::from(relay.0)
}

fn data_of(relay: RelayIndex) -> epoll::EventData {
    epoll::EventData::new_u64(number_of(relay))
}
