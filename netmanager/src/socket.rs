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
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rustix::net::sockopt;
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

/// A bound data socket.
#[derive(Debug)]
pub struct DataSocket {
    socket: UdpSocket,
    state: UdpSocketState,
    is_v6: bool,
    resent_unbatched: AtomicU64,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The kernel has it, or it can never be sent and is dropped as the network might have.
    Done,
    /// The kernel's buffer is full; try again when the socket is writable.
    WouldBlock,
}

impl DataSocket {
    /// Binds the socket; an IPv6 wildcard address also carries IPv4.
    ///
    /// # Errors
    /// Fails when the address cannot be bound, and says which.
    pub fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let socket = Self::open(address)
            .with_context(|| format!("cannot bind the data socket to {address}/udp"))?;
        // Without CAP_NET_ADMIN the kernel grants what its rmem_max and wmem_max allow.
        if sockopt::set_socket_recv_buffer_size_force(&socket, KERNEL_BUFFER_BYTES).is_err() {
            SockRef::from(&socket).set_recv_buffer_size(KERNEL_BUFFER_BYTES)?;
        }
        if sockopt::set_socket_send_buffer_size_force(&socket, KERNEL_BUFFER_BYTES).is_err() {
            SockRef::from(&socket).set_send_buffer_size(KERNEL_BUFFER_BYTES)?;
        }
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let is_v6 = address.is_ipv6();
        Ok(Self {
            socket,
            state,
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
        self.state.max_gso_segments()
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
        let batched = segment_size < contents.len();
        let segment = batched.then_some(segment_size);
        let Err(error) = self.try_send(destination, contents, segment) else {
            return Sent::Done;
        };
        if error.kind() == io::ErrorKind::WouldBlock {
            return Sent::WouldBlock;
        }
        if !batched {
            tracing::trace!(%destination, %error, "datagram not sent");
            return Sent::Done;
        }
        self.resent_unbatched.fetch_add(1, Ordering::Relaxed);
        for datagram in contents.chunks(segment_size) {
            if let Err(error) = self.try_send(destination, datagram, None) {
                tracing::trace!(%destination, %error, "datagram not sent");
            }
        }
        Sent::Done
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
            storage: std::array::from_fn(|_| BytesMut::zeroed(RECEIVE_BUFFER_BYTES)),
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
            if buffer.try_reclaim(RECEIVE_BUFFER_BYTES) {
                buffer.resize(RECEIVE_BUFFER_BYTES, 0);
            } else {
                *buffer = BytesMut::zeroed(RECEIVE_BUFFER_BYTES);
            }
        }
    }
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
mod tests {
    use super::*;

    #[test]
    fn a_batch_arrives_whole_and_in_order() {
        let one = DataSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let two = DataSocket::bind("[::]:0".parse().unwrap()).unwrap();
        let port = two.local_address().unwrap().port();
        let contents: Vec<u8> = (0..10u8).flat_map(|i| [i; 1200]).chain([10; 7]).collect();
        let to = SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(one.send(to, &contents, 1200), Sent::Done);

        let mut buffers = ReceiveBuffers::new();
        let mut got = Vec::new();
        while got.len() < 11 {
            let mut fds = [rustix::event::PollFd::new(
                &two,
                rustix::event::PollFlags::IN,
            )];
            rustix::event::poll(&mut fds, None).unwrap();
            for i in 0..two.receive(&mut buffers).unwrap() {
                let (from, mut bytes, stride) = buffers.take_datagrams(i).unwrap();
                assert_eq!(from, one.local_address().unwrap());
                while !bytes.is_empty() {
                    got.push(bytes.split_to(stride.min(bytes.len())));
                }
            }
        }
        assert!(
            got[..10]
                .iter()
                .enumerate()
                .all(|(i, d)| **d == [u8::try_from(i).unwrap(); 1200])
        );
        assert_eq!(*got[10], [10; 7]);
    }

    #[test]
    fn datagrams_outlive_the_next_call_and_free_their_buffer_when_they_go() {
        let one = DataSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let two = DataSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let to = two.local_address().unwrap();
        let mut buffers = ReceiveBuffers::new();
        let mut receive = |byte: u8, len: usize| {
            assert_eq!(one.send(to, &vec![byte; len], len), Sent::Done);
            let mut fds = [rustix::event::PollFd::new(
                &two,
                rustix::event::PollFlags::IN,
            )];
            rustix::event::poll(&mut fds, None).unwrap();
            assert_eq!(two.receive(&mut buffers).unwrap(), 1);
            buffers.take_datagrams(0).unwrap().1
        };
        let large = 4 * COPY_BYTES;
        let kept = receive(1, large);
        let memory = kept.as_ptr();
        let second = receive(2, large);
        assert_ne!(second.as_ptr(), memory, "the first one is still there");
        assert_eq!(*kept, vec![1; large]);
        assert_eq!(*second, vec![2; large]);

        let memory = second.as_ptr();
        drop(second);
        let third = receive(3, large);
        assert_eq!(third.as_ptr(), memory, "nobody needs the second one");
        assert_eq!(*third, vec![3; large]);
        let small = receive(4, 100);
        assert_eq!(*small, [4; 100]);
        assert!(small.capacity() < COPY_BYTES);
    }

    #[test]
    fn special_addresses_are_not_dialable() {
        for bad in [
            "0.0.0.0:1",
            "224.0.0.1:1",
            "255.255.255.255:1",
            "[::]:1",
            "[ff02::1]:1",
            "1.2.3.4:0",
        ] {
            assert!(!is_dialable(bad.parse().unwrap()), "{bad}");
        }
        assert!(is_dialable("192.168.1.1:10260".parse().unwrap()));
    }
}
