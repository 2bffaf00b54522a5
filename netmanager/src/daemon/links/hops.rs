//! Counts the NATs of this site: how many hops a packet has to live to get out, and no further.
//!
//! As traceroute does, on a socket of its own. Routers inside have private addresses; the first one
//! that has not is outside. Who does not answer is taken for outside, too.

use std::io::IoSliceMut;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::Duration;

use netmanager_core::peer::candidates::is_private;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Hops that are looked at: two NATs of the site, one of the provider, and one beyond.
const MAX_HOPS: u8 = 4;
/// One NAT, or none that shows: the first hop is passed and the second one not.
const MIN_HOPS: u8 = 2;
/// How long an inner router may take to answer.
const PATIENCE: Duration = Duration::from_millis(300);
/// Where traceroute sends to.
const TRACE_PORT: u16 = 33_434;
/// Type of the ICMP message that a packet has lived for long enough (RFC 792).
const TIME_EXCEEDED: u8 = 11;

/// The hops after which a packet towards `target` has left the NATs of this site; none if that
/// cannot be found out.
pub(super) fn to_the_outside(target: SocketAddr) -> Option<u8> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.set_nonblocking(true).ok()?;
    setsockopt(&socket, sockopt::Ipv4RecvErr, &true).ok()?;
    let mut inside = 0;
    for hops in 1..MAX_HOPS {
        socket.set_ttl(u32::from(hops)).ok()?;
        let port = TRACE_PORT + u16::from(hops);
        socket.send_to(&[0], (target.ip(), port)).ok()?;
        match who_dropped(&socket) {
            Some(router) if is_private(router.into()) => inside = hops,
            Some(_) | None => break,
        }
    }
    Some((inside + 1).max(MIN_HOPS))
}

/// The router that says that the last packet has lived for long enough.
fn who_dropped(socket: &UdpSocket) -> Option<Ipv4Addr> {
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: PATIENCE.subsec_nanos().into(),
    };
    let mut fds = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::ERR)];
    if !matches!(poll(&mut fds, Some(&timeout)), Ok(1..)) {
        return None;
    }
    let mut byte = [0; 1];
    let mut slices = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([u8; 64]);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message =
        recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags).ok()?;
    message.cmsgs().ok()?.find_map(|control| {
        let ControlMessageOwned::Ipv4RecvErr(error, Some(router)) = control else {
            return None;
        };
        let ip = Ipv4Addr::from(u32::from_be(router.sin_addr.s_addr));
        (error.ee_type == TIME_EXCEEDED).then_some(ip)
    })
}
