//! Who has which address: root's blocks and service addresses, a cluster's instances and nodes.
//!
//! Root grants clusters blocks in advance, so that they assign addresses while root is away. What is
//! returned is quarantined for as long as a lease may still name it. What an owner does with an
//! address, and who is told, is for the machines; so is keeping this across restarts, with `adopt`
//! and `hold`.

mod cluster;
mod quarantine;
mod root;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use weald_proto::id::Organisation;

pub use cluster::{ClusterAddresses, Holder};
use quarantine::Quarantine;
pub use root::{Pins, RootAddresses, ServiceOwner};

/// Prefix length of a cluster's IPv4 blocks: 64 addresses.
pub const BLOCK_V4: u8 = 26;
/// Prefix length of a cluster's IPv6 blocks.
pub const BLOCK_V6: u8 = 64;

/// What a block is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockKind {
    /// IPv4, of instances and nodes.
    V4,
    /// IPv6, of instances.
    Instances,
    /// IPv6, of nodes.
    Nodes,
}

impl BlockKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::V4, Self::Instances, Self::Nodes];
}

/// Which addresses are for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// IPv4, of everything: blocks from the bottom, service addresses from the top.
    pub v4: Ipv4Network,
    /// IPv6 of instances.
    pub instances: Ipv6Network,
    /// IPv6 of services under `closest`.
    pub closest: Ipv6Network,
    /// IPv6 of services under `rr`.
    pub round_robin: Ipv6Network,
    /// IPv6 of nodes.
    pub nodes: Ipv6Network,
}

impl Default for Plan {
    /// As in Oakestra, and nodes beside it: `10.30.0.0/16`, `fdff::/21`, `fdff:1000::/21`,
    /// `fdff:2000::/21` and `fdff:3000::/21`.
    fn default() -> Self {
        let v4 = Ipv4Network::new_checked(Ipv4Addr::new(10, 30, 0, 0), 16);
        let v6 =
            |second| Ipv6Network::new_checked(Ipv6Addr::new(0xfdff, second, 0, 0, 0, 0, 0, 0), 21);
        match (v4, v6(0), v6(0x1000), v6(0x2000), v6(0x3000)) {
            (Some(v4), Some(instances), Some(closest), Some(round_robin), Some(nodes)) => Self {
                v4,
                instances,
                closest,
                round_robin,
                nodes,
            },
            // All prefix lengths are constants within range.
            _ => unreachable!("constant prefixes are valid"),
        }
    }
}

impl Plan {
    const fn pool(&self, kind: BlockKind) -> IpNetwork {
        match kind {
            BlockKind::V4 => IpNetwork::V4(self.v4),
            BlockKind::Instances => IpNetwork::V6(self.instances),
            BlockKind::Nodes => IpNetwork::V6(self.nodes),
        }
    }

    /// What a block is for; none if it is in no pool of blocks.
    #[must_use]
    pub fn kind(&self, block: IpNetwork) -> Option<BlockKind> {
        let inside = |kind: &BlockKind| {
            let pool = self.pool(*kind);
            pool.prefix() <= block.prefix() && pool.contains(block.network())
        };
        BlockKind::ALL.into_iter().find(inside)
    }

    /// Whether an address is the first or the last of a pool, which nobody gets.
    fn is_edge(&self, ip: IpAddr) -> bool {
        let edge = |pool: IpNetwork| ip == pool.network() || ip == pool.broadcast();
        let services = [self.closest, self.round_robin].map(IpNetwork::V6);
        let blocks = BlockKind::ALL.map(|kind| self.pool(kind));
        services.into_iter().chain(blocks).any(edge)
    }
}

/// Why somebody does not get an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It is not of the pool that it would have to be of.
    #[error(
        "address {ip} cannot be assigned from {pool}; choose one inside, not the first or last"
    )]
    OutsidePool {
        /// The address.
        ip: IpAddr,
        /// The pool.
        pool: IpNetwork,
    },
    /// It has an owner.
    #[error("address {ip} {}; choose another", owner.with("belongs to", "is taken"))]
    Taken {
        /// The address.
        ip: IpAddr,
        /// Its owner.
        owner: Owner,
    },
    /// It was returned a short time ago, and a lease may still name it.
    #[error(
        "address {ip} {} and is free in {} s; choose another or wait",
        owner.with("was returned by", "was returned"),
        left.as_secs()
    )]
    Quarantined {
        /// The address.
        ip: IpAddr,
        /// Who had it.
        owner: Owner,
        /// For how long yet.
        left: Duration,
    },
    /// A block overlaps with another, or is in no pool.
    #[error("block {block} cannot be given to cluster {cluster}: {why}")]
    Block {
        /// The block.
        block: IpNetwork,
        /// Who was to have it.
        cluster: String,
        /// Why not.
        why: String,
    },
    /// No address of either family is left.
    #[error("no address is left for {0}; remove something, or configure larger pools")]
    Exhausted(String),
}

impl AddressError {
    /// The same for somebody who may know of these organisations' things only, and of nothing that is
    /// no organisation's, as blocks of clusters are.
    #[must_use]
    pub fn told_to(self, knows: impl Fn(&Organisation) -> bool) -> Self {
        match self {
            Self::Taken { ip, owner } => Self::Taken {
                ip,
                owner: owner.told_to(knows),
            },
            Self::Quarantined { ip, owner, left } => Self::Quarantined {
                ip,
                owner: owner.told_to(knows),
                left,
            },
            same @ (Self::OutsidePool { .. } | Self::Block { .. } | Self::Exhausted(_)) => same,
        }
    }
}

/// Who has an address, as far as whoever asks may know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// In words, and the tenant that it is, if it is one.
    Told(String, Option<Organisation>),
    /// Somebody of whom nothing is said.
    Hidden,
}

impl Owner {
    fn told_to(self, knows: impl Fn(&Organisation) -> bool) -> Self {
        match self {
            Self::Told(words, Some(tenant)) if knows(&tenant) => Self::Told(words, Some(tenant)),
            Self::Told(..) | Self::Hidden => Self::Hidden,
        }
    }

    /// What is said of the owner, or without one.
    fn with(&self, told: &str, hidden: &str) -> String {
        match self {
            Self::Told(words, _) => format!("{told} {words}"),
            Self::Hidden => hidden.to_owned(),
        }
    }
}

/// The address at an offset of a network; none beyond its end.
fn nth(network: IpNetwork, offset: u128) -> Option<IpAddr> {
    let ip = match network.network() {
        IpAddr::V4(first) => {
            let offset = u32::try_from(offset).ok()?;
            IpAddr::V4(u32::from(first).checked_add(offset)?.into())
        }
        IpAddr::V6(first) => IpAddr::V6(u128::from(first).checked_add(offset)?.into()),
    };
    network.contains(ip).then_some(ip)
}

/// The addresses of a network, from the bottom.
fn addresses(network: IpNetwork) -> impl Iterator<Item = IpAddr> {
    (0..).map_while(move |offset| nth(network, offset))
}

/// The blocks of a pool, from the bottom.
fn blocks(pool: IpNetwork) -> impl Iterator<Item = IpNetwork> {
    let (prefix, bits) = match pool {
        IpNetwork::V4(_) => (BLOCK_V4.max(pool.prefix()), 32),
        IpNetwork::V6(_) => (BLOCK_V6.max(pool.prefix()), 128),
    };
    let size = 1_u128
        .checked_shl(bits - u32::from(prefix))
        .unwrap_or(u128::MAX);
    (0_u128..).map_while(move |index| {
        let first = nth(pool, index.checked_mul(size)?)?;
        IpNetwork::new(first, prefix).ok()
    })
}

#[cfg(test)]
mod tests;
