//! How many probes one address may get from this node, whoever named it.
//!
//! Peers name each other's addresses, and several may name the same one: a provider's NAT, or a
//! victim. A bucket per address keeps all of them together harmless.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use crate::rate::{Bucket, Rate};

/// Probes in a second towards one address in the long run: one search ([`super::punch::SPRAY_RATE`])
/// and rounds with a few more peers behind the same NAT. 154 kbit/s on the wire.
pub const PROBES_PER_SECOND: u32 = 250;
/// Probes that may go at once: the opening of rounds with some peers behind one NAT.
pub const PROBE_BURST: u32 = 500;
/// Addresses that are counted at once; beyond it, nothing is sent to new ones.
pub const MAX_ADDRESSES: usize = 4096;

const RATE: Rate = Rate::per_second(PROBES_PER_SECOND, PROBE_BURST);

/// What is left for every address that was sent to of late.
#[derive(Debug, Default)]
pub struct ProbeBudget {
    buckets: BTreeMap<IpAddr, Bucket>,
}

impl ProbeBudget {
    /// Whether one more probe may go to `ip` now; it counts as sent then.
    pub fn take(&mut self, ip: IpAddr, now: Instant) -> bool {
        if self.buckets.len() >= MAX_ADDRESSES {
            self.buckets.retain(|_, bucket| !bucket.is_full(now));
        }
        let is_known = self.buckets.contains_key(&ip);
        if !is_known && self.buckets.len() >= MAX_ADDRESSES {
            return false;
        }
        self.buckets.entry(ip).or_default().take(RATE, now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_is_followed_by_the_rate_and_addresses_are_bounded() {
        #[expect(clippy::disallowed_methods, reason = "a test needs some first instant")]
        let now = Instant::now();
        let mut budget = ProbeBudget::default();
        let ip = |n: u32| IpAddr::from(n.to_be_bytes());
        let sent =
            |budget: &mut ProbeBudget, now| (0..2000).filter(|_| budget.take(ip(7), now)).count();
        assert_eq!(sent(&mut budget, now), PROBE_BURST as usize);
        let later = now + Duration::from_secs(1);
        assert_eq!(sent(&mut budget, later), PROBES_PER_SECOND as usize);
        let others = (100..10_000).filter(|n| budget.take(ip(*n), later)).count();
        assert_eq!(others, MAX_ADDRESSES - 1);
        let full = later + Duration::from_secs(10);
        assert!(
            budget.take(ip(20_000), full),
            "those that are full again make room"
        );
    }
}
