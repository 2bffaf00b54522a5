//! The relay's UDP sockets: one per address family, with batches in both directions.
//!
//! It moves datagrams and knows nothing of their meaning.

use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::Context;
use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use tracing::debug;

use crate::socket::set_kernel_buffers;

/// Bytes of the kernel's buffers: 50 ms of a gigabit, so that a busy moment loses nothing.
const KERNEL_BUFFER_LEN: usize = 7 << 20;
/// Messages read in one call.
const BATCH: usize = 16;
/// Bytes of one message: a coalesced one can have all of UDP's 64 KiB.
const MESSAGE_LEN: usize = 64 << 10;

/// A UDP socket with the kernel's offloads.
#[derive(Debug)]
pub(super) struct UdpPort {
    socket: UdpSocket,
    state: UdpSocketState,
    pub(super) address: SocketAddr,
}

/// Where a received message came from, and the bytes that it may be of several datagrams.
#[derive(Debug)]
pub(super) struct Received<'a> {
    pub(super) from: SocketAddr,
    pub(super) to: Option<IpAddr>,
    pub(super) ecn: Option<EcnCodepoint>,
    /// Bytes of each datagram but the last; never 0.
    pub(super) stride: usize,
    /// Empty for an empty datagram.
    pub(super) bytes: &'a mut [u8],
}

impl UdpPort {
    pub(super) fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let bind = || -> anyhow::Result<Socket> {
            let socket = Socket::new(
                Domain::for_address(address),
                Type::DGRAM,
                Some(Protocol::UDP),
            )?;
            if address.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            socket.bind(&address.into())?;
            Ok(socket)
        };
        let socket = bind().with_context(|| format!("cannot listen on {address}/udp"))?;
        set_kernel_buffers(&socket, KERNEL_BUFFER_LEN)
            .with_context(|| format!("cannot set up {address}/udp"))?;
        let socket = UdpSocket::from(socket);
        let state = UdpSocketState::new(UdpSockRef::from(&socket))
            .with_context(|| format!("cannot set up {address}/udp"))?;
        let address = socket.local_addr().context("a socket without an address")?;
        Ok(Self {
            socket,
            state,
            address,
        })
    }

    /// How many datagrams one message may hold.
    pub(super) fn max_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Sends a message. False if the socket's buffer is full.
    ///
    /// # Errors
    /// The message cannot be sent at all.
    pub(super) fn send(&self, transmit: &Transmit<'_>) -> io::Result<bool> {
        match self.try_send(transmit) {
            Err(error) if transmit.segment_size.is_some() => {
                // Devices that claim to segment may fail to; from now on max_segments is 1.
                debug!(%error, "a batch is sent one by one");
                self.send_one_by_one(transmit)
            }
            result => result,
        }
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<bool> {
        loop {
            match self
                .state
                .try_send(UdpSockRef::from(&self.socket), transmit)
            {
                Ok(()) => return Ok(true),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn send_one_by_one(&self, transmit: &Transmit<'_>) -> io::Result<bool> {
        let segment_size = transmit.segment_size.unwrap_or(transmit.contents.len());
        for contents in transmit.contents.chunks(segment_size.max(1)) {
            let one = Transmit {
                contents,
                segment_size: None,
                ..transmit.clone()
            };
            // A full buffer loses the rest of this one batch, as a router would.
            if !self.try_send(&one)? {
                return Err(ErrorKind::WouldBlock.into());
            }
        }
        Ok(true)
    }
}

impl AsFd for UdpPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The buffers that messages are read into, shared by the sockets.
#[derive(Debug)]
pub(super) struct ReceiveBuffers(Vec<u8>);

impl ReceiveBuffers {
    pub(super) fn new() -> Self {
        Self(vec![0; BATCH * MESSAGE_LEN])
    }

    /// Reads what has arrived, at most one batch. How many messages there were; none if nothing
    /// has arrived.
    ///
    /// # Errors
    /// The socket is broken.
    pub(super) fn receive(
        &mut self,
        port: &UdpPort,
        mut handle: impl FnMut(Received<'_>),
    ) -> io::Result<usize> {
        let mut meta = [RecvMeta::default(); BATCH];
        let mut slices = self.0.chunks_mut(MESSAGE_LEN).map(IoSliceMut::new);
        let mut buffers: [IoSliceMut<'_>; BATCH] =
            std::array::from_fn(|_| slices.next().unwrap_or_else(|| IoSliceMut::new(&mut [])));
        let socket = UdpSockRef::from(&port.socket);
        let count = match port.state.recv(socket, &mut buffers, &mut meta) {
            Ok(count) => count,
            Err(error) if nothing_to_read(&error) => 0,
            Err(error) => return Err(error),
        };
        for (meta, buffer) in meta.iter().zip(&mut buffers).take(count) {
            let bytes = buffer.get_mut(..meta.len).unwrap_or_default();
            handle(Received {
                from: meta.addr,
                to: meta.dst_ip,
                ecn: meta.ecn,
                stride: meta.stride.max(1),
                bytes,
            });
        }
        Ok(count)
    }
}

/// Whether reading may be tried again: nothing is there, or something that was sent before has not
/// been received.
fn nothing_to_read(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock
            | ErrorKind::Interrupted
            | ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
    )
}
