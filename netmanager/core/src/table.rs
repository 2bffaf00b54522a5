//! The service table as the packet path looks it up: one immutable snapshot.
//!
//! A [`Snapshot`] answers in one hash lookup who owns an address, which service an address stands
//! for, and where an instance is. It is built from a checked `weald_proto::table::Table`, shared
//! in an `Arc` and replaced whole; indices are valid only within the snapshot that gave them.
//! [`Nodes`] outlives snapshots, so a [`PeerId`] means the same node for the life of the process.
//!
//! It holds no counters, sessions or measurements: those are `balance`'s and `dataplane`'s. The
//! data plane, DNS and the shell read it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use hashbrown::HashMap;
use weald_proto::addr::{Dual, Pools};
use weald_proto::id::{NodeId, Organisation};
use weald_proto::name::{ApplicationName, InstanceId, Policy, ServiceName, Zone};
use weald_proto::table::{AcceptPolicy, LanePolicy, RelayRow};

pub use self::nodes::{Nodes, PeerId};

mod build;
mod nodes;

#[cfg(test)]
mod tests;

/// An organisation of a [`Snapshot`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrganisationIndex(u32);

/// A service of a [`Snapshot`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceIndex(u32);

/// An instance of a [`Snapshot`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceIndex(u32);

/// Where an address lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// On this node.
    Local,
    /// On another node.
    Peer(PeerId),
}

/// Who owns an instance or node address: the static lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The node that hosts the address, the only one that may send from it.
    pub host: Host,
    /// The tenant that the address belongs to.
    pub organisation: OrganisationIndex,
    /// The instance whose address it is; none for a node's own address.
    pub instance: Option<InstanceIndex>,
}

/// Another node, as far as reaching it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerRow {
    /// Who it is; its certificate says the same.
    pub id: NodeId,
    /// Where its data socket can be dialled directly.
    pub addresses: Vec<SocketAddr>,
}

/// A service, with its instances in the order of their numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// The service's name.
    pub name: ServiceName,
    /// The tenant that the service belongs to.
    pub organisation: OrganisationIndex,
    /// What its `rr` names resolve to.
    pub round_robin: Dual,
    /// What its `closest` names resolve to.
    pub closest: Dual,
    /// Which lane its flows take.
    pub lane: LanePolicy,
    /// When its connections on the L4 lane are accepted.
    pub accept: AcceptPolicy,
    /// Its instances that may be picked, ordered by number.
    pub instances: Vec<InstanceIndex>,
}

/// An instance of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Which instance of which service.
    pub id: InstanceId,
    /// The service that it is an instance of.
    pub service: ServiceIndex,
    /// The node that hosts it.
    pub host: Host,
    /// The addresses of the interface in its namespace.
    pub instance_ip: Dual,
    /// Whether it only goes on with the connections that it has: nobody picks it, and it takes no
    /// new ones.
    pub drains: bool,
}

/// How much of the overlay a [`Snapshot`] holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Scope {
    /// Everything, as a static table does.
    #[default]
    Whole,
    /// These applications, whole or known not to exist. Nothing is known of others.
    Applications(BTreeSet<ApplicationName>),
}

/// The hasher of the snapshot's maps. Their keys are the table's, which nobody on the network
/// chooses, so one fixed seed will do; what is looked up can collide with at most one chain.
type TableHasher = foldhash::fast::FixedState;

/// Everything that a node knows of the overlay, indexed. Immutable.
#[derive(Debug, Clone)]
pub struct Snapshot {
    epoch: u64,
    me: NodeId,
    pools: Pools,
    zones: Vec<Zone>,
    scope: Scope,
    organisations: Vec<Organisation>,
    services: Vec<Service>,
    instances: Vec<Instance>,
    peers: BTreeMap<PeerId, PeerRow>,
    relays: Vec<RelayRow>,
    local_addresses: Vec<IpAddr>,
    owners: HashMap<IpAddr, Owner, TableHasher>,
    service_addresses: HashMap<IpAddr, (ServiceIndex, Policy), TableHasher>,
    services_by_name: HashMap<ServiceName, ServiceIndex, TableHasher>,
    /// The instances behind leased addresses, which have no rows.
    leased: HashMap<IpAddr, InstanceId, TableHasher>,
}

impl Snapshot {
    /// Who owns an instance or node address. Service addresses have no owner: nobody sends from
    /// them and no packet between nodes goes to them.
    #[must_use]
    pub fn owner(&self, ip: IpAddr) -> Option<&Owner> {
        self.owners.get(&ip)
    }

    /// The addresses of the instances that this node hosts, in no order, and whose they are.
    pub fn hosted_here(&self) -> impl Iterator<Item = (IpAddr, &Organisation)> {
        let is_ours = |owner: &Owner| owner.host == Host::Local && owner.instance.is_some();
        let ours = self.owners.iter().filter(move |(_, owner)| is_ours(owner));
        ours.map(|(ip, owner)| (*ip, self.organisation(owner.organisation)))
    }

    /// The service whose `rr` or `closest` address `ip` is.
    #[must_use]
    pub fn service_at(&self, ip: IpAddr) -> Option<(ServiceIndex, Policy)> {
        self.service_addresses.get(&ip).copied()
    }

    /// A service of this snapshot.
    ///
    /// # Panics
    /// When the index is of another, larger snapshot.
    #[must_use]
    pub fn service(&self, index: ServiceIndex) -> &Service {
        &self.services[index.0 as usize]
    }

    /// The service of that name.
    #[must_use]
    pub fn service_by_name(&self, name: &ServiceName) -> Option<ServiceIndex> {
        self.services_by_name.get(name).copied()
    }

    /// An instance of this snapshot.
    ///
    /// # Panics
    /// When the index is of another, larger snapshot.
    #[must_use]
    pub fn instance(&self, index: InstanceIndex) -> &Instance {
        &self.instances[index.0 as usize]
    }

    /// The instance of that service and number, if it may be picked.
    #[must_use]
    pub fn instance_by_id(&self, id: &InstanceId) -> Option<InstanceIndex> {
        let service = self.service(self.service_by_name(&id.service)?);
        let position = service
            .instances
            .binary_search_by_key(&id.number, |index| self.instance(*index).id.number)
            .ok()?;
        service.instances.get(position).copied()
    }

    /// An organisation of this snapshot.
    ///
    /// # Panics
    /// When the index is of another, larger snapshot.
    #[must_use]
    pub fn organisation(&self, index: OrganisationIndex) -> &Organisation {
        &self.organisations[index.0 as usize]
    }

    /// Whether the address is of an instance that takes no new connections.
    #[must_use]
    pub fn drains(&self, ip: IpAddr) -> bool {
        let instance = self.owner(ip).and_then(|owner| owner.instance);
        instance.is_some_and(|index| self.instance(index).drains)
    }

    /// The application whose instance has the address; none for nodes and strangers.
    #[must_use]
    pub fn application_of(&self, ip: IpAddr) -> Option<&ApplicationName> {
        let instance = self.owner(ip)?.instance?;
        Some(&self.instance(instance).id.service.application)
    }

    /// The instance that has the address, be it by a row or by a lease; none for nodes and
    /// strangers.
    #[must_use]
    pub fn instance_id_at(&self, ip: IpAddr) -> Option<&InstanceId> {
        match self.owner(ip)?.instance {
            Some(index) => Some(&self.instance(index).id),
            None => self.leased.get(&ip),
        }
    }

    /// The organisation that the instance or node with the address belongs to.
    #[must_use]
    pub fn organisation_of(&self, ip: IpAddr) -> Option<OrganisationIndex> {
        self.owner(ip).map(|owner| owner.organisation)
    }

    /// Every service, in the order of the table.
    pub fn services(&self) -> impl Iterator<Item = (ServiceIndex, &Service)> {
        (0..).map(ServiceIndex).zip(&self.services)
    }

    /// Every instance, in the order of the table.
    pub fn instances(&self) -> impl Iterator<Item = (InstanceIndex, &Instance)> {
        (0..).map(InstanceIndex).zip(&self.instances)
    }

    /// Every other node.
    pub fn peers(&self) -> impl ExactSizeIterator<Item = (PeerId, &PeerRow)> {
        self.peers.iter().map(|(peer, row)| (*peer, row))
    }

    /// The row of another node; none when the table has it no longer.
    #[must_use]
    pub fn peer(&self, peer: PeerId) -> Option<&PeerRow> {
        self.peers.get(&peer)
    }

    /// The name of the node at that place; none when the table has it no longer.
    #[must_use]
    pub fn node_of(&self, host: Host) -> Option<&NodeId> {
        match host {
            Host::Local => Some(&self.me),
            Host::Peer(peer) => self.peers.get(&peer).map(|row| &row.id),
        }
    }

    /// Every relay.
    #[must_use]
    pub fn relays(&self) -> &[RelayRow] {
        &self.relays
    }

    /// The node that this snapshot was built for.
    #[must_use]
    pub const fn me(&self) -> &NodeId {
        &self.me
    }

    /// The number of this snapshot: larger than that of every earlier one.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The prefixes that belong to the overlay.
    #[must_use]
    pub const fn pools(&self) -> &Pools {
        &self.pools
    }

    /// The zones that semantic names end in.
    #[must_use]
    pub fn zones(&self) -> &[Zone] {
        &self.zones
    }

    /// Says how much of the overlay it holds; everything, unless said otherwise.
    #[must_use]
    pub fn with_scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// Whether it holds everything, so that nobody needs to be asked for more.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.scope == Scope::Whole
    }

    /// Whether all is known of an application: what it does not have here does not exist.
    #[must_use]
    pub fn knows(&self, application: &ApplicationName) -> bool {
        match &self.scope {
            Scope::Whole => true,
            Scope::Applications(known) => known.contains(application),
        }
    }

    /// Whether it has any service of an application. Looks at all services, so it is for rare cases.
    #[must_use]
    pub fn has_application(&self, application: &ApplicationName) -> bool {
        let mut services = self.services.iter();
        services.any(|service| service.name.application == *application)
    }

    /// The addresses of this node and of its instances.
    #[must_use]
    pub fn local_addresses(&self) -> &[IpAddr] {
        &self.local_addresses
    }
}

impl ServiceIndex {
    /// The service's place among [`Snapshot::services`].
    pub(crate) const fn position(self) -> usize {
        self.0 as usize
    }
}
