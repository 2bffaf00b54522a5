//! Queries in datagrams. Every answer leaves from the address that was asked.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use netmanager_core::dns::{MAX_QUERY_LEN, Transport};
use nix::libc;
use nix::sys::socket::sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo, RcvBuf, RcvBufForce};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage,
    recvmsg, sendmsg, setsockopt,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use super::{Shared, Step};

/// Datagrams that are read before other tasks of the thread get their turn.
const BATCH: usize = 64;

/// Bytes of queries that the kernel keeps for us: what all clients may ask in a burst must not be
/// lost behind one that floods. The default keeps fewer than 300 small datagrams.
const RECEIVE_BUFFER: usize = 2 << 20;

/// Receive errors in a row after which a socket is given up; single ones happen.
const MAX_ERRORS: u32 = 16;

/// A socket that knows which of its addresses a datagram came to.
#[derive(Debug)]
pub(super) struct Socket {
    inner: UdpSocket,
}

/// Where a datagram came from, and where it came to.
#[derive(Debug, Clone, Copy)]
struct Route {
    client: SocketAddr,
    own: Option<OwnAddress>,
}

/// The address that a datagram came to, in the form in which it is given back to the kernel.
#[derive(Debug, Clone, Copy)]
enum OwnAddress {
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
}

/// Answers queries until the socket fails.
pub(super) async fn serve(shared: Arc<Shared>, socket: Arc<Socket>) -> io::Result<()> {
    // One byte more than any query may have, so that longer ones show.
    let mut query = vec![0; MAX_QUERY_LEN + 1];
    let mut answer = Vec::new();
    let mut forwards = JoinSet::new();
    let mut errors = 0;
    loop {
        socket.inner.readable().await?;
        for _ in 0..BATCH {
            let (len, route) = match socket.receive(&mut query) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if errors >= MAX_ERRORS => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, "cannot receive a DNS query");
                    errors += 1;
                    continue;
                }
            };
            errors = 0;
            let query = query.get(..len).unwrap_or_default();
            match shared.handle(query, Transport::Udp, route.client.ip(), &mut answer) {
                Step::Send => socket.send(&answer, route),
                Step::Nothing => {}
                Step::Wait(permit) => {
                    let (socket, query) = (Arc::clone(&socket), query.to_vec());
                    let source = route.client.ip();
                    forwards.spawn(async move {
                        let mut answer = Vec::new();
                        let shared = &permit.shared;
                        let waited =
                            shared.answer_later(&query, Transport::Udp, source, &mut answer);
                        waited.await;
                        socket.send(&answer, route);
                    });
                }
                Step::Forward(permit) => {
                    let (socket, query) = (Arc::clone(&socket), query.to_vec());
                    forwards.spawn(async move {
                        let mut answer = Vec::new();
                        let shared = &permit.shared;
                        shared.forward(&query, Transport::Udp, &mut answer).await;
                        socket.send(&answer, route);
                    });
                }
            }
        }
        while forwards.try_join_next().is_some() {}
        tokio::task::yield_now().await;
    }
}

impl Socket {
    pub(super) fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        match socket.local_addr()? {
            SocketAddr::V4(_) => setsockopt(&socket, Ipv4PacketInfo, &true)?,
            SocketAddr::V6(_) => setsockopt(&socket, Ipv6RecvPacketInfo, &true)?,
        }
        // Beyond the system's limit only with privileges; less than asked for is no fault.
        if setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER).is_err() {
            setsockopt(&socket, RcvBuf, &RECEIVE_BUFFER)?;
        }
        socket.set_nonblocking(true)?;
        Ok(Self {
            inner: UdpSocket::from_std(socket)?,
        })
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Route)> {
        self.inner.try_io(Interest::READABLE, || {
            let mut control = nix::cmsg_space!(libc::in6_pktinfo);
            let mut slices = [IoSliceMut::new(buffer)];
            let message = recvmsg::<SockaddrStorage>(
                self.inner.as_raw_fd(),
                &mut slices,
                Some(&mut control),
                MsgFlags::MSG_DONTWAIT,
            )?;
            let client = message
                .address
                .as_ref()
                .and_then(socket_address)
                .ok_or(io::ErrorKind::InvalidData)?;
            let own = message.cmsgs()?.find_map(|control| own_address(&control));
            Ok((message.bytes, Route { client, own }))
        })
    }

    /// Sends an answer, or forgets it: whoever asked by datagram asks again.
    fn send(&self, answer: &[u8], route: Route) {
        if answer.is_empty() {
            return;
        }
        let sent = self.inner.try_io(Interest::WRITABLE, || {
            let slices = [IoSlice::new(answer)];
            let control: Option<ControlMessage<'_>> = route.own.as_ref().map(|own| match own {
                OwnAddress::V4(info) => ControlMessage::Ipv4PacketInfo(info),
                OwnAddress::V6(info) => ControlMessage::Ipv6PacketInfo(info),
            });
            let client = SockaddrStorage::from(route.client);
            let flags = MsgFlags::MSG_DONTWAIT;
            let fd = self.inner.as_raw_fd();
            Ok(sendmsg(
                fd,
                &slices,
                control.as_slice(),
                flags,
                Some(&client),
            )?)
        });
        if let Err(error) = sent {
            tracing::debug!(client = %route.client, %error, "cannot send a DNS answer");
        }
    }
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = |address: &SockaddrIn| SocketAddr::V4(SocketAddrV4::from(*address));
    let v6 = |address: &SockaddrIn6| SocketAddr::V6(SocketAddrV6::from(*address));
    address
        .as_sockaddr_in()
        .map(v4)
        .or_else(|| address.as_sockaddr_in6().map(v6))
}

/// What the answer is to be sent from. The way back is the routing table's to choose, but for
/// link-local addresses, which mean nothing without their interface.
fn own_address(control: &ControlMessageOwned) -> Option<OwnAddress> {
    if let ControlMessageOwned::Ipv4PacketInfo(info) = control {
        return Some(OwnAddress::V4(libc::in_pktinfo {
            ipi_ifindex: 0,
            ..*info
        }));
    }
    if let ControlMessageOwned::Ipv6PacketInfo(info) = control {
        let mut info = *info;
        let ip = std::net::Ipv6Addr::from(info.ipi6_addr.s6_addr);
        if !ip.is_unicast_link_local() {
            info.ipi6_ifindex = 0;
        }
        return Some(OwnAddress::V6(info));
    }
    None
}
