//! What a capture says about the way that packets take, whatever the nodes say of themselves.
//!
//! Between nodes stand QUIC packets; those with a short header (RFC 9000, section 17.3) exist only
//! once keys are agreed on, so one in each direction between two addresses that are neither the
//! relay's nor the cluster's is a session that works there. Probes and handshakes prove nothing.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use crate::capture::{Capture, Captured, Datagram, UdpFlow};

/// The two highest bits of a QUIC packet's first byte, and what they are in a short header.
const FORM_BITS: u8 = 0xc0;
const SHORT_HEADER: u8 = 0x40;

/// Tells direct packets from others.
#[derive(Debug, Clone)]
pub struct Judge {
    /// The addresses of relay and cluster.
    others: Vec<IpAddr>,
}

impl Judge {
    /// Makes a judge to whom packets from and to these addresses are not direct.
    #[must_use]
    pub const fn new(others: Vec<IpAddr>) -> Self {
        Self { others }
    }

    fn is_direct(&self, datagram: &Datagram<'_>) -> bool {
        let UdpFlow {
            source,
            destination,
        } = datagram.flow;
        let between_nodes =
            !self.others.contains(&source.ip()) && !self.others.contains(&destination.ip());
        let first = datagram.payload.first();
        between_nodes && first.is_some_and(|first| first & FORM_BITS == SHORT_HEADER)
    }

    /// When packets of a session had first gone direct in both directions.
    #[must_use]
    pub fn direct_since(&self, captured: &Captured) -> Option<SystemTime> {
        let mut first: BTreeMap<UdpFlow, SystemTime> = BTreeMap::new();
        let direct = captured.datagrams().filter(|one| self.is_direct(one));
        for datagram in direct {
            let seen = first.entry(datagram.flow).or_insert(datagram.time);
            *seen = datagram.time.min(*seen);
        }
        let both_ways = first.iter().filter_map(|(flow, there)| {
            let back = first.get(&reverse(*flow))?;
            Some(*there.max(back))
        });
        both_ways.min()
    }

    /// Waits until packets of a session go direct in both directions.
    ///
    /// # Errors
    /// They do not within `patience`.
    pub fn wait_direct(&self, capture: &Capture, patience: Duration) -> anyhow::Result<()> {
        let seen = RefCell::new(BTreeMap::new());
        capture
            .wait_for("a direct session", patience, |packet| {
                let Some(datagram) = Datagram::of_frame(packet) else {
                    return false;
                };
                if !self.is_direct(&datagram) {
                    return false;
                }
                let mut seen = seen.borrow_mut();
                seen.insert(datagram.flow, ());
                seen.contains_key(&reverse(datagram.flow))
            })
            .map(drop)
    }

    /// The bytes of sessions' packets that went direct from a time on.
    #[must_use]
    pub fn direct_bytes(&self, captured: &Captured, from: SystemTime) -> u64 {
        captured
            .datagrams()
            .filter(|one| one.time >= from && self.is_direct(one))
            .map(|one| one.payload.len() as u64)
            .sum()
    }
}

const fn reverse(flow: UdpFlow) -> UdpFlow {
    UdpFlow {
        source: flow.destination,
        destination: flow.source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELAY: &str = "203.0.113.10";

    fn judge() -> Judge {
        Judge::new(vec![RELAY.parse().unwrap()])
    }

    fn is_direct(source: &str, destination: &str, first: u8) -> bool {
        judge().is_direct(&Datagram {
            time: SystemTime::UNIX_EPOCH,
            flow: UdpFlow {
                source: format!("{source}:1").parse().unwrap(),
                destination: format!("{destination}:2").parse().unwrap(),
            },
            payload: &[first, 0, 0],
        })
    }

    #[test]
    fn only_packets_of_sessions_between_nodes_are_direct() {
        assert!(is_direct("198.51.100.1", "198.51.100.2", 0x4f));
        assert!(!is_direct("198.51.100.1", RELAY, 0x4f));
        assert!(!is_direct(RELAY, "198.51.100.1", 0x4f));
        // A handshake, a probe and a relay frame.
        for first in [0xc3, 0x01, 0x10] {
            assert!(!is_direct("198.51.100.1", "198.51.100.2", first));
        }
    }
}
