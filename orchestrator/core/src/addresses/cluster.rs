//! A cluster's addresses: of its instances and nodes, from what root granted.
//!
//! It knows nothing of service addresses; those are root's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use weald_proto::addr::Dual;
use weald_proto::control::Generation;
use weald_proto::id::NodeId;
use weald_proto::name::InstanceId;
use weald_proto::statement::Grant;

use super::{AddressError, BlockKind, Owner, Plan, Quarantine, addresses};
use crate::Now;

/// Who has an address of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Holder {
    /// An instance.
    Instance(InstanceId),
    /// A node, for its host's programs.
    Node(NodeId),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance(id) => write!(f, "instance {id}"),
            Self::Node(id) => write!(f, "node {id}"),
        }
    }
}

/// The addresses that a cluster assigns.
#[derive(Debug, Clone)]
pub struct ClusterAddresses {
    plan: Plan,
    generation: Generation,
    blocks: BTreeSet<IpNetwork>,
    owners: BTreeMap<IpAddr, Holder>,
    held: Quarantine<IpAddr, Holder>,
}

impl ClusterAddresses {
    /// A cluster that was granted nothing yet; returned addresses rest for `lease_lifetime`.
    #[must_use]
    pub const fn new(plan: Plan, lease_lifetime: Duration) -> Self {
        Self {
            plan,
            generation: 0,
            blocks: BTreeSet::new(),
            owners: BTreeMap::new(),
            held: Quarantine::new(lease_lifetime),
        }
    }

    /// Takes up a grant; says whether it is newer than the one before. What is assigned from blocks
    /// that are granted no more stays so until it is released, but nothing new is assigned there.
    pub fn take_grant(&mut self, grant: &Grant) -> bool {
        if grant.generation <= self.generation {
            return false;
        }
        self.generation = grant.generation;
        self.blocks = grant.blocks.iter().copied().collect();
        true
    }

    /// The addresses that somebody has.
    #[must_use]
    pub fn of(&self, holder: &Holder) -> Dual {
        let mut dual = Dual::default();
        for (ip, _) in self.owners.iter().filter(|(_, it)| *it == holder) {
            put(&mut dual, *ip);
        }
        dual
    }

    /// Every address with its owner.
    pub fn owners(&self) -> impl Iterator<Item = (IpAddr, &Holder)> {
        self.owners.iter().map(|(ip, holder)| (*ip, holder))
    }

    /// Every address that rests, with who had it; to be given to [`Self::hold`] after a restart.
    pub fn held(&self, now: Now) -> impl Iterator<Item = (IpAddr, &Holder)> {
        self.held.iter(now)
    }

    /// The addresses of a new or known instance or node: one of each family of which any is left. It
    /// keeps what it has, and gets back what it returned and nobody has had since.
    ///
    /// # Errors
    /// None of either family is left.
    pub fn assign(&mut self, holder: &Holder, now: Now) -> Result<Dual, AddressError> {
        let mut dual = self.of(holder);
        let v6 = match holder {
            Holder::Instance(_) => BlockKind::Instances,
            Holder::Node(_) => BlockKind::Nodes,
        };
        for (kind, missing) in [(BlockKind::V4, dual.v4.is_none()), (v6, dual.v6.is_none())] {
            let found = missing.then(|| self.find(kind, holder, now)).flatten();
            if let Some(ip) = found {
                self.held.take(&ip);
                self.owners.insert(ip, holder.clone());
                put(&mut dual, ip);
            }
        }
        if dual.is_empty() {
            return Err(AddressError::Exhausted(holder.to_string()));
        }
        Ok(dual)
    }

    /// Takes up what was assigned before a restart.
    ///
    /// # Errors
    /// Somebody else has the address, or it rests.
    pub fn adopt(&mut self, ip: IpAddr, holder: Holder, now: Now) -> Result<(), AddressError> {
        if let Some(owner) = self.owners.get(&ip).filter(|it| **it != holder) {
            let owner = Owner::Told(owner.to_string(), None);
            return Err(AddressError::Taken { ip, owner });
        }
        if let Some((owner, left)) = self.held.get(&ip, now).filter(|(it, _)| **it != holder) {
            let owner = Owner::Told(owner.to_string(), None);
            return Err(AddressError::Quarantined { ip, owner, left });
        }
        self.held.take(&ip);
        self.owners.insert(ip, holder);
        Ok(())
    }

    /// Lets an address rest that rested before a restart, for the whole time again.
    ///
    /// # Errors
    /// Somebody has the address.
    pub fn hold(&mut self, ip: IpAddr, holder: Holder, now: Now) -> Result<(), AddressError> {
        if let Some(owner) = self.owners.get(&ip) {
            let owner = Owner::Told(owner.to_string(), None);
            return Err(AddressError::Taken { ip, owner });
        }
        self.held.hold(ip, holder, now);
        Ok(())
    }

    /// Takes back what somebody has; it rests until no lease can name it. Says what it was.
    pub fn release(&mut self, holder: &Holder, now: Now) -> Dual {
        let dual = self.of(holder);
        for ip in dual.iter() {
            self.owners.remove(&ip);
            self.held.hold(ip, holder.clone(), now);
        }
        dual
    }

    /// The kinds of blocks of which another is needed, as no address is left in those that are there.
    #[must_use]
    pub fn used_up(&self, now: Now) -> Vec<BlockKind> {
        let left = |kind: &BlockKind| self.fresh(*kind, now).is_none();
        BlockKind::ALL.into_iter().filter(left).collect()
    }

    /// When [`Self::handle_timeout`] is due, and for what.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Duration, &'static str)> {
        self.held.poll_timeout().map(|at| (at, "address rested"))
    }

    /// Forgets what has rested long enough, and says what that was.
    pub fn handle_timeout(&mut self, now: Now) -> Vec<IpAddr> {
        self.held.handle_timeout(now)
    }

    fn find(&self, kind: BlockKind, holder: &Holder, now: Now) -> Option<IpAddr> {
        let mut own = self.held.of(holder, now);
        let back = own.find(|ip| self.granted(kind).any(|block| block.contains(*ip)));
        back.or_else(|| self.fresh(kind, now))
    }

    fn granted(&self, kind: BlockKind) -> impl Iterator<Item = IpNetwork> {
        let blocks = self.blocks.iter().copied();
        blocks.filter(move |block| self.plan.kind(*block) == Some(kind))
    }

    fn fresh(&self, kind: BlockKind, now: Now) -> Option<IpAddr> {
        self.granted(kind).flat_map(addresses).find(|ip| {
            !self.plan.is_edge(*ip)
                && !self.owners.contains_key(ip)
                && self.held.get(ip, now).is_none()
        })
    }
}

const fn put(dual: &mut Dual, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => dual.v4 = Some(ip),
        IpAddr::V6(ip) => dual.v6 = Some(ip),
    }
}
