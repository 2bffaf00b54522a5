//! Counts the NATs of this site: how many hops a packet has to live to get out, and no further.
//!
//! As traceroute does, on a socket of its own. Routers inside have private addresses; the first one
//! that has not is outside. Who does not answer is taken for outside, too. It is done on a thread of
//! its own, because it takes as long as routers are silent, and the next change of networks must not
//! wait for that.

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use netmanager_core::peer::candidates::{Interface, is_private};
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

/// The relay to count towards: one outside, if there is one. Towards one inside, no NAT is passed.
pub(super) fn target(
    relays: impl Iterator<Item = SocketAddr>,
    interfaces: &[Interface],
) -> Option<SocketAddr> {
    let is_inside = |relay: &SocketAddr| {
        let is_near = interfaces.iter().any(|one| one.is_on_link(relay.ip()));
        (is_near, is_private(relay.ip()))
    };
    // Of equal ones, the first.
    relays.filter(SocketAddr::is_ipv4).min_by_key(is_inside)
}

/// Starts a thread that counts towards each target that it is sent, and tells of the last one. It
/// ends when nobody can send any more.
///
/// # Errors
/// The kernel does not give a thread.
pub(super) fn count(tell: impl FnMut(u8) + Send + 'static) -> io::Result<Sender<SocketAddr>> {
    let (targets, wanted) = channel();
    let thread = thread::Builder::new().name("hops".to_owned());
    thread.spawn(move || serve(&wanted, to_the_outside, tell))?;
    Ok(targets)
}

/// Has the hops towards a target counted, if there is one.
pub(super) fn ask(targets: &Sender<SocketAddr>, target: Option<SocketAddr>) {
    if let Some(target) = target {
        // Without the thread, what it has told last stays.
        let _ = targets.send(target);
    }
}

fn serve(
    wanted: &Receiver<SocketAddr>,
    mut count: impl FnMut(SocketAddr) -> Option<u8>,
    mut tell: impl FnMut(u8),
) {
    while let Ok(first) = wanted.recv() {
        let newest = || wanted.try_iter().last();
        let mut target = newest().unwrap_or(first);
        let hops = loop {
            let hops = count(target);
            match newest() {
                // The networks have changed meanwhile.
                Some(newer) => target = newer,
                None => break hops,
            }
        };
        if let Some(hops) = hops {
            tell(hops);
        }
    }
}

/// The hops after which a packet towards `target` has left the NATs of this site; none if that
/// cannot be found out.
fn to_the_outside(target: SocketAddr) -> Option<u8> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn hops_are_counted_towards_a_relay_outside_if_there_is_one() {
        let interfaces = [Interface {
            address: at("198.51.100.7:10260"),
            prefix_len: 24,
        }];
        let (v6, near, inside) = ("[2001:db8::1]:1", "198.51.100.1:1", "10.1.2.3:1");
        let (outside, other) = ("203.0.113.1:1", "192.0.2.1:1");
        for (relays, expected) in [
            (&[][..], None),
            (&[v6], None),
            (&[near], Some(near)),
            (&[near, inside], Some(inside)),
            (&[inside, v6, outside, other], Some(outside)),
            (&[near, other, inside, outside], Some(other)),
        ] {
            let target = target(relays.iter().map(|relay| at(relay)), &interfaces);
            assert_eq!(target, expected.map(at), "{relays:?}");
        }
    }

    #[test]
    fn only_the_newest_target_is_told_of() {
        let (targets, wanted) = channel();
        for port in 1..=3 {
            targets
                .send(SocketAddr::from(([192, 0, 2, 1], port)))
                .unwrap();
        }
        let mut targets = Some(targets);
        let (mut counted, mut told) = (Vec::new(), Vec::new());
        let count = |target: SocketAddr| {
            counted.push(target.port());
            // While it is counted towards the third, two more come, and no others.
            if let Some(targets) = targets.take() {
                for port in [4, 5] {
                    targets
                        .send(SocketAddr::from(([192, 0, 2, 1], port)))
                        .unwrap();
                }
            }
            u8::try_from(target.port()).ok()
        };
        serve(&wanted, count, |hops| told.push(hops));
        assert_eq!((counted, told), (vec![3, 5], vec![5]));
    }
}
