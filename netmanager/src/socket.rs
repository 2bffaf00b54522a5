//! The data socket: one UDP socket that carries QUIC, probes and relay frames.
//!
//! Batches in both directions through UDP GSO and GRO. It knows addresses only; which path or
//! session a datagram belongs to is `driver`'s business.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use bytes::BytesMut;
use nix::sys::socket::{setsockopt, sockopt};
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Kernel buffers of the socket: 7 MB hold 50 ms at 1 Gbit/s, and gave wireguard-go 29 %.
const KERNEL_BUFFER_BYTES: usize = 7 << 20;
/// Receive buffers of one call; each holds what GRO has put together.
pub const RECEIVE_BUFFERS: usize = 16;
/// The most that one GRO batch holds.
const RECEIVE_BUFFER_BYTES: usize = 65_535;
/// Batches below this are copied out of their buffer: that is cheaper than to make it whole again,
/// and whoever keeps a datagram keeps no more than eight times its batch.
const COPY_BYTES: usize = 8 << 10;
/// The most that one GSO call carries: what an IPv4 datagram can hold besides its headers.
pub const MAX_BATCH_BYTES: usize = 65_507;

/// Which batches of datagrams the kernel is asked to cut and to put together.
///
/// Whatever is on, a kernel or card that refuses it when it comes to sending gets single datagrams
/// from then on; switching it off is for those that take it and do it wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batching {
    /// UDP GSO: one call sends many datagrams.
    pub gso: bool,
    /// UDP GRO: one buffer receives many datagrams.
    pub gro: bool,
}

impl Default for Batching {
    fn default() -> Self {
        Self {
            gso: true,
            gro: true,
        }
    }
}

/// A bound data socket.
#[derive(Debug)]
pub struct DataSocket {
    socket: UdpSocket,
    state: UdpSocketState,
    batching: Batching,
    is_v6: bool,
    resent_unbatched: AtomicU64,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The kernel has it, or it can never be sent and is dropped as the network might have.
    Done,
    /// The kernel's buffer is full: it took this many bytes, whole datagrams; try again with the
    /// rest when the socket is writable.
    Blocked(usize),
}

/// Sets what the kernel keeps of what comes and goes, in bytes each; without CAP_NET_ADMIN it grants
/// what its `rmem_max` and `wmem_max` allow.
///
/// # Errors
/// What the kernel refuses of an ordinary size.
pub(crate) fn set_kernel_buffers(socket: &impl AsFd, bytes: usize) -> io::Result<()> {
    let ordinary = SockRef::from(socket);
    if setsockopt(socket, sockopt::RcvBufForce, &bytes).is_err() {
        ordinary.set_recv_buffer_size(bytes)?;
    }
    if setsockopt(socket, sockopt::SndBufForce, &bytes).is_err() {
        ordinary.set_send_buffer_size(bytes)?;
    }
    Ok(())
}

impl DataSocket {
    /// Binds the socket; an IPv6 wildcard address also carries IPv4.
    ///
    /// # Errors
    /// Fails when the address cannot be bound, and says which.
    pub fn bind(address: SocketAddr, batching: Batching) -> anyhow::Result<Self> {
        let socket = Self::open(address)
            .with_context(|| format!("cannot bind the data socket to {address}/udp"))?;
        set_kernel_buffers(&socket, KERNEL_BUFFER_BYTES)?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        if !batching.gro {
            // The state has switched it on if the kernel knows it; if not, there is nothing to do.
            if let Err(error) = setsockopt(&socket, sockopt::UdpGroSegment, &false) {
                tracing::debug!(%error, "UDP GRO was not on");
            }
        }
        let is_v6 = address.is_ipv6();
        Ok(Self {
            socket,
            state,
            batching,
            is_v6,
            resent_unbatched: AtomicU64::new(0),
        })
    }

    fn open(address: SocketAddr) -> io::Result<UdpSocket> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::DGRAM,
            Some(Protocol::UDP),
        )?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        Ok(socket.into())
    }

    /// Which batches the socket asks the kernel for.
    pub(crate) fn batching(&self) -> Batching {
        self.batching
    }

    /// The address that the socket is bound to.
    ///
    /// # Errors
    /// Fails when the kernel does not say.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Whether packets can be sent to `address` from this socket.
    #[must_use]
    pub const fn reaches(&self, address: SocketAddr) -> bool {
        self.is_v6 || address.is_ipv4()
    }

    /// How many batches were resent packet by packet because the kernel refused GSO.
    pub fn resent_unbatched(&self) -> u64 {
        self.resent_unbatched.load(Ordering::Relaxed)
    }

    /// Datagrams of one size that one call may carry.
    #[must_use]
    pub fn max_segments(&self) -> usize {
        if self.batching.gso {
            self.state.max_gso_segments()
        } else {
            1
        }
    }

    /// Receives up to [`RECEIVE_BUFFERS`] batches; returns how many came.
    ///
    /// # Errors
    /// Fails with `WouldBlock` when nothing is there, and with what the kernel says otherwise.
    pub fn receive(&self, buffers: &mut ReceiveBuffers) -> io::Result<usize> {
        buffers.refill();
        let mut slices = buffers
            .storage
            .each_mut()
            .map(|buffer| IoSliceMut::new(buffer));
        self.state.recv(
            UdpSockRef::from(&self.socket),
            &mut slices,
            &mut buffers.metas,
        )
    }

    /// Sends `contents`, cut into datagrams of `segment_size` bytes, to `destination`.
    ///
    /// Datagrams that are larger than the path allows are dropped silently, as MTU discovery
    /// expects; a kernel that refuses GSO gets the batch packet by packet.
    pub fn send(&self, destination: SocketAddr, contents: &[u8], segment_size: usize) -> Sent {
        if contents.len() > segment_size && self.max_segments() == 1 {
            return self.send_each(destination, contents, segment_size);
        }
        let batched = segment_size < contents.len();
        let segment = batched.then_some(segment_size);
        let Err(error) = self.try_send(destination, contents, segment) else {
            return Sent::Done;
        };
        if error.kind() == io::ErrorKind::WouldBlock {
            return Sent::Blocked(0);
        }
        if !batched {
            tracing::trace!(%destination, %error, "datagram not sent");
            return Sent::Done;
        }
        self.resent_unbatched.fetch_add(1, Ordering::Relaxed);
        self.send_each(destination, contents, segment_size)
    }

    fn send_each(&self, destination: SocketAddr, contents: &[u8], segment_size: usize) -> Sent {
        let mut taken = 0;
        for datagram in contents.chunks(segment_size) {
            match self.try_send(destination, datagram, None) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Sent::Blocked(taken);
                }
                Err(error) => tracing::trace!(%destination, %error, "datagram not sent"),
                Ok(()) => {}
            }
            taken += datagram.len();
        }
        Sent::Done
    }

    /// Sends one datagram that routers drop after `hops` hops; what cannot be sent is lost.
    pub fn send_short_lived(&self, destination: SocketAddr, datagram: &[u8], hops: u8) {
        // Lifetimes are the socket's: it has one sender, and the next call finds the usual one.
        if self.set_hops(destination, Some(hops)).is_ok() {
            self.send(destination, datagram, datagram.len());
        }
        if let Err(error) = self.set_hops(destination, None) {
            tracing::error!(%error, "the data socket's packets live for {hops} hops only");
        }
    }

    /// Sets how many hops packets live; none is as many as the host's packets usually do.
    fn set_hops(&self, destination: SocketAddr, hops: Option<u8>) -> nix::Result<()> {
        let hops = hops.map_or(-1, i32::from);
        if destination.is_ipv4() {
            setsockopt(&self.socket, sockopt::Ipv4Ttl, &hops)
        } else {
            setsockopt(&self.socket, sockopt::Ipv6Ttl, &hops)
        }
    }

    fn try_send(
        &self,
        destination: SocketAddr,
        contents: &[u8],
        segment_size: Option<usize>,
    ) -> io::Result<()> {
        let destination = self.for_family(destination);
        let transmit = Transmit {
            destination,
            ecn: None,
            contents,
            segment_size,
            src_ip: None,
        };
        self.state
            .try_send(UdpSockRef::from(&self.socket), &transmit)
    }

    const fn for_family(&self, address: SocketAddr) -> SocketAddr {
        match address {
            SocketAddr::V4(v4) if self.is_v6 => {
                let mapped = v4.ip().to_ipv6_mapped();
                SocketAddr::V6(SocketAddrV6::new(mapped, v4.port(), 0, 0))
            }
            SocketAddr::V4(_) | SocketAddr::V6(_) => address,
        }
    }
}

impl AsFd for DataSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Buffers for [`DataSocket::receive`]. Large batches are handed out where the kernel has put
/// them, and their memory is used again when all of it has been dropped.
#[derive(Debug)]
pub struct ReceiveBuffers {
    storage: [BytesMut; RECEIVE_BUFFERS],
    metas: [RecvMeta; RECEIVE_BUFFERS],
}

impl ReceiveBuffers {
    /// Fresh buffers.
    #[must_use]
    pub fn new() -> Self {
        Self {
            storage: std::array::from_fn(|_| fresh()),
            metas: std::array::from_fn(|_| RecvMeta::default()),
        }
    }

    /// The datagrams of the batch at `index`: their source and the bytes, cut apart.
    ///
    /// Empty datagrams are among them only when the batch is one empty datagram.
    /// They are handed out once; a second call for the same batch finds other bytes or none.
    pub fn take_datagrams(&mut self, index: usize) -> Option<(SocketAddr, BytesMut, usize)> {
        let meta = self.metas.get(index)?;
        let buffer = self.storage.get_mut(index)?;
        let bytes = buffer.get(..meta.len)?;
        let bytes = if meta.len < COPY_BYTES {
            BytesMut::from(bytes)
        } else {
            buffer.split_to(meta.len)
        };
        Some((canonical(meta.addr), bytes, meta.stride.max(1)))
    }

    /// Makes buffers whole again of which a batch was handed out.
    fn refill(&mut self) {
        for buffer in &mut self.storage {
            if buffer.len() == RECEIVE_BUFFER_BYTES {
                continue;
            }
            buffer.clear();
            if buffer.try_reclaim(RECEIVE_BUFFER_BYTES) && buffer.capacity() == RECEIVE_BUFFER_BYTES
            {
                // To write zeros over it again took 2 % of a receiver's time.
                // SAFETY: the buffer's memory is what `fresh` has made, of this very length and
                // zero throughout: of it, a capacity of the whole length can only be all, and what
                // was written since was initialised too.
                unsafe { buffer.set_len(RECEIVE_BUFFER_BYTES) };
            } else {
                *buffer = fresh();
            }
        }
    }
}

fn fresh() -> BytesMut {
    BytesMut::zeroed(RECEIVE_BUFFER_BYTES)
}

impl Default for ReceiveBuffers {
    fn default() -> Self {
        Self::new()
    }
}

/// IPv4 addresses that a dual-stack socket shows as IPv6 are IPv4 addresses.
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether an address may be probed or dialled as a peer's: never special ones.
#[must_use]
pub const fn is_dialable(address: SocketAddr) -> bool {
    if address.port() == 0 {
        return false;
    }
    match address.ip() {
        IpAddr::V4(ip) => !(ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast()),
        IpAddr::V6(ip) => !(ip.is_unspecified() || ip.is_multicast() || is_mapped(ip)),
    }
}

const fn is_mapped(ip: Ipv6Addr) -> bool {
    ip.to_ipv4_mapped().is_some()
}

#[cfg(test)]
mod tests;
