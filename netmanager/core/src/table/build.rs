//! From a checked table to a [`Snapshot`].
//!
//! Checking is `Table::check`'s; a row that refers to nothing is left out here instead of failing.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use weald_proto::addr::Dual;
use weald_proto::id::{NodeId, Organisation};
use weald_proto::name::{InstanceId, Policy};
use weald_proto::table::Table;

use crate::rows::Leased;

use super::{
    Host, Instance, InstanceIndex, Nodes, OrganisationIndex, Owner, PeerRow, Scope, Service,
    ServiceIndex, Snapshot, TableHasher,
};

/// Seeds the snapshot's hashers; see [`TableHasher`] for why it may be fixed.
const HASH_SEED: u64 = 0x7765_616c_6474_6162;

impl Snapshot {
    /// Builds the snapshot that the node `me` works with; other nodes are interned in `nodes`.
    ///
    /// `epoch` must be larger than that of every snapshot before.
    #[must_use]
    pub fn build(table: &Table, me: &NodeId, nodes: &mut Nodes, epoch: u64) -> Self {
        let mut builder = Builder::new(table, me, epoch);
        builder.add_nodes(table, nodes);
        builder.add_services(table);
        builder.add_instances(table, nodes);
        builder.snapshot
    }
}

impl Snapshot {
    /// Has nobody pick these instances any more, which go on with the connections that they have;
    /// but the last one of a service stays, because there is no other that could be asked instead.
    /// It may be out of the tables only because nothing was heard of its node.
    #[must_use]
    pub fn with_draining(mut self, draining: &[InstanceId]) -> Self {
        for id in draining {
            let Some(index) = self.instance_by_id(id) else {
                continue;
            };
            let instance = &mut self.instances[index.0 as usize];
            let service = &mut self.services[instance.service.0 as usize];
            if service.instances.len() > 1 {
                instance.drains = true;
                service.instances.retain(|other| *other != index);
            }
        }
        self
    }

    /// Adds nodes that have shown their certificates but have no rows, and what nodes may send from
    /// by their leases. What a row says of an address or a node stays.
    #[must_use]
    pub fn with_leases(self, guests: &[NodeId], leased: &[Leased], nodes: &mut Nodes) -> Self {
        let known = (0..).map(OrganisationIndex);
        let organisations = self.organisations.iter().cloned().zip(known).collect();
        let mut builder = Builder {
            snapshot: self,
            organisations,
        };
        for node in guests
            .iter()
            .chain(leased.iter().map(|leased| &leased.node))
        {
            if let Host::Peer(peer) = builder.host(node, nodes) {
                builder
                    .snapshot
                    .peers
                    .entry(peer)
                    .or_insert_with(|| PeerRow {
                        id: node.clone(),
                        addresses: Vec::new(),
                    });
            }
        }
        for leased in leased {
            builder.add_leased(leased, nodes);
        }
        builder.snapshot
    }
}

struct Builder {
    snapshot: Snapshot,
    organisations: BTreeMap<Organisation, OrganisationIndex>,
}

impl Builder {
    fn new(table: &Table, me: &NodeId, epoch: u64) -> Self {
        let hasher = || TableHasher::with_seed(HASH_SEED);
        let addresses = 2 * (table.instances.len() + table.nodes.len());
        Self {
            snapshot: Snapshot {
                epoch,
                me: me.clone(),
                pools: table.pools.clone(),
                zones: table.zones.clone(),
                scope: Scope::Whole,
                organisations: Vec::new(),
                services: Vec::with_capacity(table.services.len()),
                instances: Vec::with_capacity(table.instances.len()),
                peers: BTreeMap::new(),
                relays: table.relays.clone(),
                local_addresses: Vec::new(),
                owners: HashMap::with_capacity_and_hasher(addresses, hasher()),
                service_addresses: HashMap::with_capacity_and_hasher(
                    4 * table.services.len(),
                    hasher(),
                ),
                services_by_name: HashMap::with_capacity_and_hasher(table.services.len(), hasher()),
                leased: HashMap::with_hasher(hasher()),
            },
            organisations: BTreeMap::new(),
        }
    }

    fn add_nodes(&mut self, table: &Table, nodes: &mut Nodes) {
        for row in &table.nodes {
            let host = self.host(&row.id, nodes);
            if let Host::Peer(peer) = host {
                self.snapshot.peers.insert(
                    peer,
                    PeerRow {
                        id: row.id.clone(),
                        addresses: row.addresses.clone(),
                    },
                );
            }
            let organisation = self.organisation(&row.organisation);
            self.own(
                row.node_ip,
                Owner {
                    host,
                    organisation,
                    instance: None,
                },
            );
        }
    }

    fn add_services(&mut self, table: &Table) {
        for (index, row) in (0..).map(ServiceIndex).zip(&table.services) {
            let organisation = self.organisation(&row.organisation);
            let snapshot = &mut self.snapshot;
            for ip in row.round_robin.iter() {
                snapshot
                    .service_addresses
                    .insert(ip, (index, Policy::RoundRobin));
            }
            for ip in row.closest.iter() {
                snapshot
                    .service_addresses
                    .insert(ip, (index, Policy::Closest));
            }
            snapshot.services_by_name.insert(row.name.clone(), index);
            snapshot.services.push(Service {
                name: row.name.clone(),
                organisation,
                round_robin: row.round_robin,
                closest: row.closest,
                lane: row.lane,
                accept: row.accept,
                instances: Vec::new(),
            });
        }
    }

    fn add_instances(&mut self, table: &Table, nodes: &mut Nodes) {
        for row in &table.instances {
            let Some(service) = self.snapshot.service_by_name(&row.id.service) else {
                continue;
            };
            let index = InstanceIndex(index_of(self.snapshot.instances.len()));
            let host = self.host(&row.node, nodes);
            self.snapshot.instances.push(Instance {
                id: row.id.clone(),
                service,
                host,
                instance_ip: row.instance_ip,
                drains: false,
            });
            let organisation = self.snapshot.service(service).organisation;
            self.snapshot.services[service.0 as usize]
                .instances
                .push(index);
            self.own(
                row.instance_ip,
                Owner {
                    host,
                    organisation,
                    instance: Some(index),
                },
            );
        }
        let instances = &self.snapshot.instances;
        for service in &mut self.snapshot.services {
            service
                .instances
                .sort_by_key(|index| instances[index.0 as usize].id.number);
        }
    }

    fn add_leased(&mut self, leased: &Leased, nodes: &mut Nodes) {
        let host = self.host(&leased.node, nodes);
        let organisation = self.organisation(&leased.organisation);
        for ip in leased.addresses.iter() {
            if self.snapshot.owners.contains_key(&ip) {
                continue;
            }
            let owner = Owner {
                host,
                organisation,
                instance: None,
            };
            self.snapshot.owners.insert(ip, owner);
            if let Some(instance) = &leased.instance {
                self.snapshot.leased.insert(ip, instance.clone());
            }
        }
    }

    fn host(&self, node: &NodeId, nodes: &mut Nodes) -> Host {
        if *node == self.snapshot.me {
            Host::Local
        } else {
            Host::Peer(nodes.intern(node))
        }
    }

    fn own(&mut self, addresses: Dual, owner: Owner) {
        for ip in addresses.iter() {
            self.snapshot.owners.insert(ip, owner);
            if owner.host == Host::Local {
                self.snapshot.local_addresses.push(ip);
            }
        }
    }

    fn organisation(&mut self, name: &Organisation) -> OrganisationIndex {
        if let Some(index) = self.organisations.get(name) {
            return *index;
        }
        let index = OrganisationIndex(index_of(self.snapshot.organisations.len()));
        self.snapshot.organisations.push(name.clone());
        self.organisations.insert(name.clone(), index);
        index
    }
}

/// A position as an index. A table of 2^32 rows does not fit a machine's memory.
fn index_of(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}
