//! AF_PACKET sockets inside a namespace, for captures and for raw sending.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockType, SockaddrLike as _, bind, setsockopt, socket,
    sockopt,
};

use crate::namespace::Namespace;

/// The receive buffer of a capture: a burst of tens of thousands of packets while the capturing
/// thread waits for a core.
const RECEIVE_BUFFER_BYTES: usize = 128 << 20;

/// Opens a socket that receives every packet of an interface, also those for others.
pub(crate) fn open_capture(namespace: &Namespace, interface: &str) -> Result<OwnedFd> {
    namespace.in_ns(|| {
        let context = || format!("capture on {interface} in {}", namespace.name());
        let index = if_nametoindex(interface).with_context(context)?;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags(), None)?;
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES)?;
        bind(
            socket.as_raw_fd(),
            &link_address(index, libc::ETH_P_ALL as u16, None)?,
        )?;
        be_promiscuous(&socket, index).with_context(context)?;
        Ok(socket)
    })
}

/// Opens a socket that sends but does not receive, and the index of its interface.
pub(crate) fn open_sender(
    namespace: &Namespace,
    interface: &str,
    kind: SockType,
) -> Result<(OwnedFd, u32)> {
    namespace.in_ns(|| {
        let index = if_nametoindex(interface)
            .with_context(|| format!("send on {interface} in {}", namespace.name()))?;
        Ok((socket(AddressFamily::Packet, kind, flags(), None)?, index))
    })
}

/// The address of an interface, and of a neighbour on it for packets without a frame header.
pub(crate) fn link_address(
    index: u32,
    ethertype: u16,
    neighbour: Option<[u8; 6]>,
) -> io::Result<LinkAddr> {
    // SAFETY: a sockaddr_ll of zeros is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ethertype.to_be();
    address.sll_ifindex = index.cast_signed();
    if let Some(mac) = neighbour {
        address.sll_halen = 6;
        address.sll_addr[..6].copy_from_slice(&mac);
    }
    let length = size_of::<libc::sockaddr_ll>() as u32;
    // SAFETY: the pointer is to a whole sockaddr_ll of the given length, which is copied.
    unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(length)) }
        .ok_or_else(|| io::Error::other("not a link address"))
}

/// How many packets the kernel dropped because a capture was too slow, since the last call.
pub(crate) fn dropped(socket: &OwnedFd) -> io::Result<u32> {
    let mut statistics = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut length = size_of::<libc::tpacket_stats>() as u32;
    // SAFETY: the kernel writes at most `length` bytes to a value of that size.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(statistics.tp_drops)
    }
}

fn be_promiscuous(socket: &OwnedFd, index: u32) -> io::Result<()> {
    let request = libc::packet_mreq {
        mr_ifindex: index.cast_signed(),
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    // SAFETY: the kernel reads one packet_mreq of the given size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            (&raw const request).cast(),
            size_of::<libc::packet_mreq>() as u32,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn flags() -> SockFlag {
    SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK
}
