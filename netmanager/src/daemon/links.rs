//! Watches the host's links, addresses and routes, and tells the packet thread and whoever asks for
//! port mappings what follows.
//!
//! One plain thread. Netlink only wakes it: what there is now is read anew. It also notices that
//! the host has been away, and has the NATs of this site counted after every change ([`hops`]).

use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use netmanager_core::awake::{Awake, Clocks, LOOK};
use netmanager_core::peer::candidates::Interface;
use netmanager_core::table::Snapshot;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{ClockId, clock_gettime};

use super::addresses;
use super::ports::PortsHandle;
use crate::driver::DriverHandle;
use crate::env;

mod hops;

/// How long there must be quiet before changes are looked at: a link that comes up makes a dozen
/// messages.
const SETTLE: Duration = Duration::from_millis(50);
/// How long changes are collected at the most: a link that flaps is looked at between its changes.
const SETTLE_MAX: Duration = Duration::from_millis(150);

/// Starts to watch on a thread of its own, which ends with the packet thread; so does the one that
/// counts hops.
///
/// # Errors
/// The kernel does not give a netlink socket, or no thread.
pub(super) fn watch(
    listen: SocketAddr,
    table: Arc<ArcSwap<Snapshot>>,
    packets: DriverHandle,
    ports: Option<PortsHandle>,
) -> anyhow::Result<()> {
    let changes = open().context("cannot watch the host's links")?;
    let told = packets.clone();
    let targets = hops::count(move |hops| {
        tracing::debug!(hops, "hops out of this site's NATs");
        // The watcher notices that the packet thread is gone.
        let _ = told.set_opening_hops(hops);
    })
    .context("cannot start a thread")?;
    let run = move || {
        loop {
            let snapshot = table.load_full();
            let pools = snapshot.pools();
            let interfaces = addresses::interfaces(listen, |ip| pools.contains(ip));
            if let Some(ports) = &ports {
                let gateways = env::default_gateways().unwrap_or_else(|error| {
                    tracing::warn!(%error, "the host's gateways cannot be listed");
                    Vec::new()
                });
                ports.network_changed(interfaces.clone(), gateways);
            }
            if packets.network_changed(interfaces.clone()).is_err() {
                return;
            }
            let mut counted = target(&snapshot, &interfaces);
            hops::ask(&targets, counted);
            wait(&changes, || {
                // Another relay, or the first one, may be a better one to count towards.
                let better = target(&table.load(), &interfaces);
                if better != counted {
                    counted = better;
                    hops::ask(&targets, counted);
                }
            });
        }
    };
    let thread = thread::Builder::new().name("links".to_owned());
    thread.spawn(run).context("cannot start a thread")?;
    Ok(())
}

/// Where hops are counted to.
fn target(table: &Snapshot, interfaces: &[Interface]) -> Option<SocketAddr> {
    let relays = table.relays().iter().flat_map(|relay| &relay.addresses);
    hops::target(relays.copied(), interfaces)
}

fn open() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let kernel = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        flags,
        SockProtocol::NetlinkRoute,
    )?;
    let groups = libc::RTMGRP_LINK
        | libc::RTMGRP_IPV4_IFADDR
        | libc::RTMGRP_IPV4_ROUTE
        | libc::RTMGRP_IPV6_IFADDR
        | libc::RTMGRP_IPV6_ROUTE;
    let groups = u32::try_from(groups).unwrap_or(0);
    bind(
        std::os::fd::AsRawFd::as_raw_fd(&kernel),
        &NetlinkAddr::new(0, groups),
    )?;
    Ok(kernel)
}

/// Returns when something has changed or the host has been away; until then it calls `look` now and
/// then.
fn wait(changes: &OwnedFd, mut look: impl FnMut()) {
    let mut awake = Awake::at(clocks());
    loop {
        look();
        if awake.look(clocks()) {
            tracing::info!("this host has been away: its networks may be others now");
            return;
        }
        if is_readable(changes, LOOK) {
            settle(changes);
            return;
        }
    }
}

/// Takes in changes until there are no more, or for long enough.
fn settle(changes: &OwnedFd) {
    let end = Instant::now() + SETTLE_MAX;
    loop {
        drain(changes);
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || !is_readable(changes, SETTLE.min(left)) {
            return;
        }
    }
}

fn is_readable(changes: &OwnedFd, within: Duration) -> bool {
    let timeout = Timespec {
        tv_sec: i64::try_from(within.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(within.subsec_nanos()),
    };
    let mut fds = [PollFd::from_borrowed_fd(changes.as_fd(), PollFlags::IN)];
    matches!(poll(&mut fds, Some(&timeout)), Ok(1..))
}

/// Empties the socket; what the messages say is read elsewhere.
fn drain(changes: &OwnedFd) {
    let mut messages = [0; 16 << 10];
    // An overrun is reported as an error and clears itself: then something has changed for sure.
    while matches!(rustix::io::read(changes, &mut messages), Ok(1..)) {}
}

fn clocks() -> Clocks {
    let since_start = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
    Clocks {
        with_sleep: since_start(ClockId::Boottime),
        without_sleep: since_start(ClockId::Monotonic),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_link_that_never_comes_to_rest_is_looked_at_all_the_same() {
        let (kernel, here) = UnixDatagram::pair().unwrap();
        here.set_nonblocking(true).unwrap();
        kernel.set_nonblocking(true).unwrap();
        let (settled, told) = mpsc::channel();
        let watcher = thread::spawn(move || {
            settle(&OwnedFd::from(here));
            let _ = settled.send(());
        });
        // Far more often than there would have to be quiet; the pair is cut if it takes for ever.
        let give_up = Instant::now() + Duration::from_secs(20);
        let mut returned = false;
        while !returned && Instant::now() < give_up {
            // What is full has not been read yet.
            let _ = kernel.send(b"change");
            returned = told.recv_timeout(SETTLE / 10).is_ok();
        }
        drop(kernel);
        watcher.join().unwrap();
        assert!(returned, "changes that never end are never looked at");
    }
}
