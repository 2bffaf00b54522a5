//! The L4 lane: what the two nodes say about a connection, and where it ends on this one.
//!
//! A TCP connection on this lane ends at the kernel of the overlay namespace: its packets are
//! rewritten to a listener there and written back to the TUN, and what the kernel answers comes out
//! of the TUN and is rewritten again. Each connection has a made-up counterpart, a phantom, by
//! whose address and port the two are told apart. This module has those addresses and the opening
//! of a stream; the flow table has the connections, the shell moves the bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

pub use self::hello::{Hello, HelloError, MAX_HELLO_LEN};
pub use self::outcome::{CONNECTED, Refused};

mod hello;
mod outcome;

/// The IPv4 address of the kernel's end of every connection, on the TUN.
pub const STACK_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 2, 1);
/// Bits of the network of [`STACK_V4`], in which the phantoms are.
pub const STACK_PREFIX_V4: u8 = 24;
/// The IPv6 address of the kernel's end of every connection, on the TUN.
pub const STACK_V6: Ipv6Addr = Ipv6Addr::new(0xfdfe, 0xffff, 0, 2, 0, 0, 0, 1);
/// Bits of the network of [`STACK_V6`], in which the phantoms are.
pub const STACK_PREFIX_V6: u8 = 64;
/// Where connections that begin on this node are accepted.
pub const LISTEN_PORT: u16 = 4004;
/// Where connections that end on this node begin, in turn. Phantoms tell them apart already; but the
/// kernel may look at every other socket of a port when one is bound to it, those that it keeps for
/// a minute after their end among them, so they are spread.
pub const DIAL_PORTS: RangeInclusive<u16> = 8192..=12_287;

/// The last byte of the first phantom's address.
const FIRST_PHANTOM: u32 = 16;
/// How many phantoms there are: with their ports twelve million connections, so that one is used
/// again long after the kernel has forgotten the last that had it.
const PHANTOMS: u32 = 192;
/// The first port of a phantom.
const FIRST_PORT: u32 = 1024;
/// Ports of a phantom.
const PORTS: u32 = 65_536 - FIRST_PORT;

/// The kernel's end of connections of that family, at that port.
#[must_use]
pub fn stack(v6: bool, port: u16) -> SocketAddr {
    let ip: IpAddr = if v6 { STACK_V6.into() } else { STACK_V4.into() };
    SocketAddr::new(ip, port)
}

/// Hands out phantoms, each once before any is used again.
#[derive(Debug, Default)]
pub(crate) struct Phantoms {
    next: u32,
}

impl Phantoms {
    pub(crate) fn next(&mut self, v6: bool) -> SocketAddr {
        let number = self.next;
        self.next = (number + 1) % (PHANTOMS * PORTS);
        // Both fit: 16 to 207, and at most 65535.
        let host = (FIRST_PHANTOM + number / PORTS) as u16;
        let port = (FIRST_PORT + number % PORTS) as u16;
        let ip: IpAddr = if v6 {
            let [a, b, c, d, ..] = STACK_V6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, host).into()
        } else {
            let [a, b, c, _] = STACK_V4.octets();
            Ipv4Addr::new(a, b, c, host as u8).into()
        };
        SocketAddr::new(ip, port)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn phantoms_differ_and_stay_in_their_network() {
        let mut phantoms = Phantoms::default();
        let mut seen = BTreeSet::new();
        for _ in 0..200_000 {
            assert!(seen.insert(phantoms.next(false)));
        }
        phantoms.next = PHANTOMS * PORTS - 1;
        assert_eq!(
            phantoms.next(false),
            SocketAddr::from(([169, 254, 2, 207], 65535))
        );
        let first = phantoms.next(true);
        assert_eq!(first.to_string(), "[fdfe:ffff:0:2::10]:1024");
        assert!(!seen.contains(&stack(false, LISTEN_PORT)));
    }
}
