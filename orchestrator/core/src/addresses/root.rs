//! Root's addresses: which block which cluster has, and what services resolve to.
//!
//! Single addresses of instances and nodes are their clusters'.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use weald_proto::addr::Dual;
use weald_proto::id::{Label, Organisation};
use weald_proto::name::ServiceName;

use super::{AddressError, BlockKind, Owner, Plan, Quarantine, addresses, blocks};
use crate::Now;

/// Whose a service address is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceOwner {
    /// The service.
    pub service: ServiceName,
    /// The tenant: another's service of the same name is another service.
    pub organisation: Organisation,
    /// Whether it is for `closest`, or else for `rr`.
    pub closest: bool,
}

impl fmt::Display for ServiceOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let policy = if self.closest { "closest" } else { "rr" };
        write!(f, "{policy} of service {}", self.service)
    }
}

impl ServiceOwner {
    fn told(&self) -> Owner {
        Owner::Told(self.to_string(), Some(self.organisation.clone()))
    }
}

/// The addresses that an SLA asks for, or that a service has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pins {
    /// For `rr`.
    pub round_robin: Dual,
    /// For `closest`.
    pub closest: Dual,
}

/// Every block and every service address.
#[derive(Debug, Clone)]
pub struct RootAddresses {
    plan: Plan,
    blocks: BTreeMap<IpNetwork, Label>,
    services: BTreeMap<IpAddr, ServiceOwner>,
    held: Quarantine<IpAddr, ServiceOwner>,
    held_blocks: Quarantine<IpNetwork, Label>,
}

impl RootAddresses {
    /// Nobody has anything; what is returned rests for `lease_lifetime`.
    #[must_use]
    pub const fn new(plan: Plan, lease_lifetime: Duration) -> Self {
        Self {
            plan,
            blocks: BTreeMap::new(),
            services: BTreeMap::new(),
            held: Quarantine::new(lease_lifetime),
            held_blocks: Quarantine::new(lease_lifetime),
        }
    }

    /// The blocks that a cluster has, in order, for its grant.
    pub fn blocks<'a>(&'a self, cluster: &'a Label) -> impl Iterator<Item = IpNetwork> + 'a {
        let all = self.blocks.iter();
        all.filter(move |(_, it)| *it == cluster)
            .map(|(block, _)| *block)
    }

    /// Every service address with its owner.
    pub fn services(&self) -> impl Iterator<Item = (IpAddr, &ServiceOwner)> {
        self.services.iter().map(|(ip, owner)| (*ip, owner))
    }

    /// Gives a cluster one more block; none when that pool is used up, which for IPv4 means that new
    /// rows are IPv6-only.
    pub fn grant(&mut self, cluster: &Label, kind: BlockKind, now: Now) -> Option<IpNetwork> {
        let found =
            blocks(self.plan.pool(kind)).find(|block| self.block_fault(*block, now).is_none());
        if let Some(block) = found {
            self.held_blocks.take(&block);
            self.blocks.insert(block, cluster.clone());
        }
        found
    }

    /// Takes back all blocks of a cluster that is gone, which are returned; they rest until no lease can
    /// name them.
    pub fn release_cluster(&mut self, cluster: &Label, now: Now) -> Vec<IpNetwork> {
        let gone: Vec<_> = self.blocks(cluster).collect();
        for block in &gone {
            self.blocks.remove(block);
            self.held_blocks.hold(*block, cluster.clone(), now);
        }
        gone
    }

    /// The addresses of a new or changed service: what is pinned, else what it has, else the next that
    /// are free; of IPv4 none when the pool is used up. What it had instead of a new pin rests.
    ///
    /// # Errors
    /// Every pin that it cannot have; or no address is left. Nothing has changed.
    pub fn assign(
        &mut self,
        service: &ServiceName,
        organisation: &Organisation,
        pins: &Pins,
        now: Now,
    ) -> Result<Pins, Vec<AddressError>> {
        let owner = |closest| ServiceOwner {
            service: service.clone(),
            organisation: organisation.clone(),
            closest,
        };
        let wanted = [
            (owner(false), pins.round_robin),
            (owner(true), pins.closest),
        ];
        let mut next = self.clone();
        let mut errors = Vec::new();
        // All pins come first, lest the service itself be given one of them for the other policy.
        for (owner, pinned) in &wanted {
            for ip in pinned.iter() {
                errors.extend(next.pin(ip, owner, now).err());
            }
        }
        let [round_robin, closest] = wanted.map(|(owner, _)| {
            let dual = next.fill(&owner, now);
            if dual.is_empty() {
                errors.push(AddressError::Exhausted(owner.to_string()));
            }
            dual
        });
        if !errors.is_empty() {
            return Err(errors);
        }
        *self = next;
        Ok(Pins {
            round_robin,
            closest,
        })
    }

    /// Takes back the addresses of a service that is gone; they rest until no table can name them,
    /// except for the same service, which may have them back.
    pub fn release(&mut self, service: &ServiceName, now: Now) {
        let gone: Vec<_> = self
            .services
            .iter()
            .filter(|(_, it)| it.service == *service)
            .map(|(ip, _)| *ip)
            .collect();
        for ip in gone {
            self.rest(ip, now);
        }
    }

    /// Takes up a block that was granted before a restart.
    ///
    /// # Errors
    /// It overlaps with what another has, or is in no pool.
    pub fn adopt_block(
        &mut self,
        block: IpNetwork,
        cluster: &Label,
        now: Now,
    ) -> Result<(), AddressError> {
        if self.blocks.get(&block) == Some(cluster) {
            return Ok(());
        }
        self.must_be_free(block, cluster, now)?;
        self.blocks.insert(block, cluster.clone());
        Ok(())
    }

    /// Takes up a service address that was assigned before a restart.
    ///
    /// # Errors
    /// Somebody else has it, or it is outside its pool.
    pub fn adopt(
        &mut self,
        ip: IpAddr,
        owner: &ServiceOwner,
        now: Now,
    ) -> Result<(), AddressError> {
        self.available(ip, owner, now)?;
        self.held.take(&ip);
        self.services.insert(ip, owner.clone());
        Ok(())
    }

    /// Lets a service address rest that rested before a restart, for the whole time again.
    ///
    /// # Errors
    /// Somebody has it, or it is outside its pool.
    pub fn hold(&mut self, ip: IpAddr, owner: ServiceOwner, now: Now) -> Result<(), AddressError> {
        if let Some(has) = self.services.get(&ip) {
            let owner = has.told();
            return Err(AddressError::Taken { ip, owner });
        }
        self.available(ip, &owner, now)?;
        self.held.hold(ip, owner, now);
        Ok(())
    }

    /// Lets a block rest that rested before a restart, for the whole time again.
    ///
    /// # Errors
    /// Somebody has it, be it the same cluster, or it overlaps with what another has, or is in no pool.
    pub fn hold_block(
        &mut self,
        block: IpNetwork,
        cluster: &Label,
        now: Now,
    ) -> Result<(), AddressError> {
        self.must_be_free(block, cluster, now)?;
        self.held_blocks.hold(block, cluster.clone(), now);
        Ok(())
    }

    /// Every service address that rests, with who had it.
    pub fn held(&self, now: Now) -> impl Iterator<Item = (IpAddr, &ServiceOwner)> {
        self.held.iter(now)
    }

    /// Every block that rests, with who had it.
    pub fn held_blocks(&self, now: Now) -> impl Iterator<Item = (IpNetwork, &Label)> {
        self.held_blocks.iter(now)
    }

    /// When [`Self::handle_timeout`] is due, and for what.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Duration, &'static str)> {
        let both = [self.held.poll_timeout(), self.held_blocks.poll_timeout()];
        both.into_iter()
            .flatten()
            .min()
            .map(|at| (at, "address rested"))
    }

    /// Forgets what has rested long enough, and says which blocks that were.
    pub fn handle_timeout(&mut self, now: Now) -> Vec<IpNetwork> {
        self.held.handle_timeout(now);
        self.held_blocks.handle_timeout(now)
    }

    const fn pool(&self, ip: IpAddr, owner: &ServiceOwner) -> IpNetwork {
        match ip {
            IpAddr::V4(_) => IpNetwork::V4(self.plan.v4),
            IpAddr::V6(_) if owner.closest => IpNetwork::V6(self.plan.closest),
            IpAddr::V6(_) => IpNetwork::V6(self.plan.round_robin),
        }
    }

    fn must_be_free(
        &self,
        block: IpNetwork,
        cluster: &Label,
        now: Now,
    ) -> Result<(), AddressError> {
        let Some(why) = self.block_fault(block, now) else {
            return Ok(());
        };
        let cluster = cluster.to_string();
        Err(AddressError::Block {
            block,
            cluster,
            why,
        })
    }

    /// Why a block can be given to nobody now.
    fn block_fault(&self, block: IpNetwork, now: Now) -> Option<String> {
        if self.plan.kind(block).is_none() || block.ip() != block.network() {
            return Some("it is no block of a pool".to_owned());
        }
        // Granted blocks are few, and sizes may have been others in an earlier configuration.
        let overlaps =
            |other: &IpNetwork| other.contains(block.network()) || block.contains(other.network());
        if let Some((other, has)) = self.blocks.iter().find(|(other, _)| overlaps(other)) {
            return Some(format!("{other} belongs to cluster {has}"));
        }
        if let Some((other, had)) = self
            .held_blocks
            .iter(now)
            .find(|(other, _)| overlaps(other))
        {
            return Some(format!("{other} of cluster {had} rests"));
        }
        if let Some((ip, has)) = self
            .services
            .range(block.network()..=block.broadcast())
            .next()
        {
            return Some(format!("{ip} is {has}"));
        }
        let mut resting = self.held.iter(now);
        let resting = resting.find(|(ip, _)| block.contains(*ip));
        resting.map(|(ip, had)| format!("{ip} of {had} rests"))
    }

    /// Whether an owner has an address or can have it.
    fn available(&self, ip: IpAddr, owner: &ServiceOwner, now: Now) -> Result<(), AddressError> {
        let pool = self.pool(ip, owner);
        if !pool.contains(ip) || self.plan.is_edge(ip) {
            return Err(AddressError::OutsidePool { ip, pool });
        }
        if let Some(has) = self.services.get(&ip).filter(|it| *it != owner) {
            let owner = has.told();
            return Err(AddressError::Taken { ip, owner });
        }
        if let Some((block, cluster)) = self.blocks.iter().find(|(block, _)| block.contains(ip)) {
            let owner = Owner::Told(format!("block {block} of cluster {cluster}"), None);
            return Err(AddressError::Taken { ip, owner });
        }
        let block = self
            .held_blocks
            .iter(now)
            .find(|(block, _)| block.contains(ip));
        let block = block.and_then(|(block, had)| {
            let (_, left) = self.held_blocks.get(&block, now)?;
            Some((Owner::Told(format!("cluster {had}"), None), left))
        });
        let single = self.held.get(&ip, now).filter(|(had, _)| *had != owner);
        let single = single.map(|(had, left)| (had.told(), left));
        match block.or(single) {
            Some((owner, left)) => Err(AddressError::Quarantined { ip, owner, left }),
            None => Ok(()),
        }
    }

    /// Gives an owner exactly this address of its family.
    fn pin(&mut self, ip: IpAddr, owner: &ServiceOwner, now: Now) -> Result<(), AddressError> {
        self.available(ip, owner, now)?;
        if let Some(old) = self.of(owner).of_family(ip).filter(|old| *old != ip) {
            self.rest(old, now);
        }
        self.held.take(&ip);
        self.services.insert(ip, owner.clone());
        Ok(())
    }

    fn rest(&mut self, ip: IpAddr, now: Now) {
        if let Some(owner) = self.services.remove(&ip) {
            self.held.hold(ip, owner, now);
        }
    }

    fn of(&self, owner: &ServiceOwner) -> Dual {
        let mut dual = Dual::default();
        for (ip, _) in self.services.iter().filter(|(_, it)| *it == owner) {
            match ip {
                IpAddr::V4(ip) => dual.v4 = Some(*ip),
                IpAddr::V6(ip) => dual.v6 = Some(*ip),
            }
        }
        dual
    }

    /// Gives an owner what it lacks, as far as there is any: what it had before, if it rests.
    fn fill(&mut self, owner: &ServiceOwner, now: Now) -> Dual {
        let has = self.of(owner);
        let v6 = if owner.closest {
            self.plan.closest
        } else {
            self.plan.round_robin
        };
        let free = |ip: &IpAddr| self.available(*ip, owner, now).is_ok();
        let back = |v4: bool| {
            self.held
                .of(owner, now)
                .find(|ip| ip.is_ipv4() == v4 && free(ip))
        };
        let mut found = Vec::new();
        if has.v4.is_none() {
            // From the top, where blocks come last.
            let pool = self.plan.v4;
            let top = u32::from(pool.broadcast());
            let downwards = (u32::from(pool.network())..=top).rev();
            let next = || downwards.map(|bits| IpAddr::V4(bits.into())).find(free);
            found.extend(back(true).or_else(next));
        }
        if has.v6.is_none() {
            let next = || addresses(IpNetwork::V6(v6)).find(free);
            found.extend(back(false).or_else(next));
        }
        for ip in found {
            self.held.take(&ip);
            self.services.insert(ip, owner.clone());
        }
        self.of(owner)
    }
}
