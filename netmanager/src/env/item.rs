//! What an overlay is made of, as data: namespaces, links, addresses, routes, rules, tables.
//!
//! An [`Item`] can be printed, compared, written to the state file, made and removed. It says
//! nothing about how: that is `netlink`'s and `apply`'s.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// A network namespace that items live in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Place {
    /// The namespace that the process was started in.
    Host,
    /// A named namespace, as in `ip netns`.
    Namespace(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Namespace(name) => f.write_str(name),
        }
    }
}

/// A route of ours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Route {
    /// The namespace.
    pub place: Place,
    /// The routing table's number.
    pub table: u32,
    /// What the route is for.
    pub destination: IpNetwork,
    /// The metric; IPv6 knows no 0.
    pub metric: u32,
    /// Where it leads.
    pub target: RouteTarget,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RouteTarget {
    /// Nowhere: the sender hears "host unreachable".
    Unreachable,
    /// To a device, or through it to a gateway.
    Device {
        /// The device's name.
        device: String,
        /// The gateway, reachable on the device whatever other routes say.
        gateway: Option<IpAddr>,
        /// The source address that the kernel picks for what leaves by this route.
        source: Option<IpAddr>,
    },
}

/// A policy rule of ours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rule {
    /// The namespace.
    pub place: Place,
    /// The address family.
    pub family: Family,
    /// Its place among the rules; lower goes first.
    pub priority: u32,
    /// The device that packets came in by; `lo` means that they are from here.
    pub input: String,
    /// Which sources it is for; all if none.
    pub source: Option<IpNetwork>,
    /// What happens.
    pub action: RuleAction,
}

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What a policy rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RuleAction {
    /// The table of this number decides, if it has a route.
    Lookup(u32),
    /// The packet is dropped.
    Blackhole,
}

/// One thing that makes up the overlay.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Item {
    /// A file with its contents.
    File {
        /// Where it is.
        path: PathBuf,
        /// What stands in it.
        contents: String,
    },
    /// A named network namespace.
    Namespace(String),
    /// A pair of virtual Ethernet devices, down when made.
    Veth {
        /// Where the first end is.
        place: Place,
        /// The name of the first end.
        device: String,
        /// Where the second end is.
        peer_place: Place,
        /// The name of the second end.
        peer: String,
    },
    /// A device's MTU, and that it is up.
    Up {
        /// The namespace.
        place: Place,
        /// The device.
        device: String,
        /// The MTU.
        mtu: u32,
    },
    /// An address of a device.
    Address {
        /// The namespace.
        place: Place,
        /// The device.
        device: String,
        /// The address and its prefix length.
        address: IpNetwork,
    },
    /// A route.
    Route(Route),
    /// A policy rule.
    Rule(Rule),
    /// A kernel setting of a namespace.
    Sysctl {
        /// The namespace.
        place: Place,
        /// The path below `/proc/sys`.
        key: String,
        /// The value.
        value: String,
    },
    /// An nft table of family `inet`, whole.
    Nft {
        /// The namespace.
        place: Place,
        /// The table's name.
        table: String,
        /// The table as `nft -f` reads it.
        text: String,
    },
}

impl Item {
    /// Whether both are the same thing, perhaps with other contents.
    ///
    /// Two items that are the same thing cannot exist side by side.
    #[must_use]
    pub fn is_same_thing(&self, other: &Self) -> bool {
        self.key() == other.key()
    }

    /// The namespace that the item lives in, if it lives in one.
    #[must_use]
    pub const fn place(&self) -> Option<&Place> {
        match self {
            Self::File { .. } | Self::Namespace(_) => None,
            Self::Veth { place, .. }
            | Self::Up { place, .. }
            | Self::Address { place, .. }
            | Self::Route(Route { place, .. })
            | Self::Rule(Rule { place, .. })
            | Self::Sysctl { place, .. }
            | Self::Nft { place, .. } => Some(place),
        }
    }

    /// The name of the namespace that this is, if it is one.
    #[must_use]
    pub fn namespace_name(&self) -> Option<&str> {
        if let Self::Namespace(name) = self {
            Some(name)
        } else {
            None
        }
    }

    /// The item without the part that can be changed while it stays the same thing.
    fn key(&self) -> Self {
        let mut key = self.clone();
        match &mut key {
            Self::File { contents, .. } => contents.clear(),
            Self::Sysctl { value, .. } => value.clear(),
            Self::Nft { text, .. } => text.clear(),
            Self::Up { mtu, .. } => *mtu = 0,
            Self::Route(route) => route.target = RouteTarget::Unreachable,
            Self::Veth {
                peer_place, peer, ..
            } => {
                *peer_place = Place::Host;
                peer.clear();
            }
            Self::Namespace(_) | Self::Address { .. } | Self::Rule(_) => {}
        }
        key
    }
}

impl fmt::Display for RouteTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable => f.write_str("unreachable"),
            Self::Device {
                device,
                gateway,
                source,
            } => {
                if let Some(gateway) = gateway {
                    write!(f, "via {gateway} ")?;
                }
                write!(f, "dev {device}")?;
                source.map_or(Ok(()), |source| write!(f, " src {source}"))
            }
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, .. } => write!(f, "file {}", path.display()),
            Self::Namespace(name) => write!(f, "namespace {name}"),
            Self::Veth {
                place,
                device,
                peer_place,
                peer,
            } => write!(f, "veth {device} in {place}, {peer} in {peer_place}"),
            Self::Up { place, device, mtu } => write!(f, "{device} up in {place}, mtu {mtu}"),
            Self::Address {
                place,
                device,
                address,
            } => write!(f, "address {address} dev {device} in {place}"),
            Self::Route(route) => write!(
                f,
                "route {} {} table {} metric {} in {}",
                route.destination, route.target, route.table, route.metric, route.place
            ),
            Self::Rule(rule) => {
                write!(
                    f,
                    "rule {:?} {} iif {}",
                    rule.family, rule.priority, rule.input
                )?;
                if let Some(source) = rule.source {
                    write!(f, " from {source}")?;
                }
                match rule.action {
                    RuleAction::Lookup(table) => write!(f, " lookup {table}")?,
                    RuleAction::Blackhole => write!(f, " blackhole")?,
                }
                write!(f, " in {}", rule.place)
            }
            Self::Sysctl { place, key, value } => write!(f, "sysctl {key} = {value} in {place}"),
            Self::Nft { place, table, .. } => write!(f, "nft table inet {table} in {place}"),
        }
    }
}
