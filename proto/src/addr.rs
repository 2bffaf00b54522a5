//! The overlay's address plan: instance, service and node addresses, and the pools they are from.
//!
//! An [`InstanceIp`] is what stands in packets; a [`ServiceIp`] is what names resolve to, and only
//! the opener's node translates it; a [`NodeIp`] is a node's own address, for its host programs.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{Ipv4Network, Ipv6Network};
use serde::{Deserialize, Serialize};

macro_rules! address_kind {
    ($(#[$doc:meta])* $kind:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $kind(pub IpAddr);

        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

address_kind!(
    /// The address of one instance: that of the interface inside its namespace.
    InstanceIp
);
address_kind!(
    /// The address of a service under one policy; no interface has it.
    ServiceIp
);
address_kind!(
    /// The address of a node in the overlay, used by the programs of its host.
    NodeIp
);

/// One IPv4 and one IPv6 address of the same thing; at least one of them is there.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Dual {
    /// The IPv4 address; none when the IPv4 pool has run out.
    pub v4: Option<Ipv4Addr>,
    /// The IPv6 address.
    pub v6: Option<Ipv6Addr>,
}

impl Dual {
    /// Both families, IPv4 first.
    pub fn iter(self) -> impl Iterator<Item = IpAddr> {
        self.v4
            .map(IpAddr::V4)
            .into_iter()
            .chain(self.v6.map(IpAddr::V6))
    }

    /// Whether neither address is there.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }

    /// The address of the same family as `like`.
    #[must_use]
    pub fn of_family(self, like: IpAddr) -> Option<IpAddr> {
        match like {
            IpAddr::V4(_) => self.v4.map(IpAddr::V4),
            IpAddr::V6(_) => self.v6.map(IpAddr::V6),
        }
    }
}

/// The prefixes that belong to the overlay. Whatever is inside never leaves a node unencrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pools {
    /// All IPv4 addresses: instances, services and nodes.
    pub v4: Ipv4Network,
    /// All IPv6 addresses: instances, services and nodes.
    pub v6: Ipv6Network,
}

impl Pools {
    /// Whether `ip` belongs to the overlay.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.v4.contains(ip),
            IpAddr::V6(ip) => self.v6.contains(ip),
        }
    }
}

impl Default for Pools {
    /// `10.30.0.0/16` and `fdff::/16`, as in Oakestra.
    fn default() -> Self {
        let v4 = Ipv4Network::new_checked(Ipv4Addr::new(10, 30, 0, 0), 16);
        let v6 = Ipv6Network::new_checked(Ipv6Addr::new(0xfdff, 0, 0, 0, 0, 0, 0, 0), 16);
        match (v4, v6) {
            (Some(v4), Some(v6)) => Self { v4, v6 },
            // Both prefix lengths are constants within range.
            _ => unreachable!("constant prefixes are valid"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_pools_hold_what_the_design_names() {
        let pools = Pools::default();
        for inside in [
            "10.30.0.1",
            "10.30.255.255",
            "fdff::1",
            "fdff:1000::1",
            "fdff:2000::4001",
        ] {
            assert!(pools.contains(inside.parse().unwrap()), "{inside}");
        }
        for outside in [
            "10.29.255.255",
            "10.31.0.0",
            "fdfe::1",
            "fe80::1",
            "127.0.0.1",
        ] {
            assert!(!pools.contains(outside.parse().unwrap()), "{outside}");
        }
    }

    #[test]
    fn dual_picks_the_family() {
        let dual = Dual {
            v4: Some(Ipv4Addr::LOCALHOST),
            v6: None,
        };
        assert_eq!(
            dual.of_family("1.2.3.4".parse().unwrap()),
            Some("127.0.0.1".parse().unwrap())
        );
        assert_eq!(dual.of_family("::1".parse().unwrap()), None);
        assert_eq!(dual.iter().count(), 1);
    }
}
