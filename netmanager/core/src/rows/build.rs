//! From rows to a table that passes its own check.
//!
//! Rows come one by one, so at any time some refer to what has not come yet, and two clusters may
//! contradict each other. What does not fit is left out, and said.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weald_proto::addr::{Dual, Pools};
use weald_proto::control::Generation;
use weald_proto::id::{Label, NodeId, Organisation};
use weald_proto::name::{self, InstanceId, ServiceName, Zone};
use weald_proto::statement::{LeasedInstance, row_life};
use weald_proto::table::{InstanceRow, NodeRow, RelayRow, ServiceRow, Table, TableError};

use super::{Attached, Basics, RowStore};

/// A table, and what is not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// A table that passes its check.
    pub table: Table,
    /// Addresses that other nodes may send from, of which the table has no row.
    pub leased: Vec<Leased>,
    /// Instances of this node that their cluster has taken out of the tables: they go on with the
    /// connections that they have, and nobody is to pick them while there are others.
    pub draining: Vec<InstanceId>,
    /// Why rows were left out. Rows that only wait for others are not mentioned.
    pub faults: Vec<TableError>,
}

/// Addresses that another node may send from by its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leased {
    /// The node.
    pub node: NodeId,
    /// The tenant.
    pub organisation: Organisation,
    /// The instance; none for the node's own addresses.
    pub instance: Option<InstanceId>,
    /// The addresses.
    pub addresses: Dual,
}

/// Where an instance is by the newest word on it.
struct Place<'a> {
    life: Generation,
    node: &'a NodeId,
    organisation: &'a Organisation,
    instance_ip: Dual,
    /// It may send from there; only a row says that it can be picked.
    by_lease: bool,
}

impl RowStore {
    /// The table of what is known, with the instances that are attached to this node.
    ///
    /// An instance that is attached here counts more than a row of an older life.
    /// Rows that say that an instance is here, although it is not attached, are left out: nothing
    /// could be delivered to it. Of a row and the lease of a node the newer life of an instance says
    /// where it is; what a lease alone says may send, and is not picked before its row says so.
    #[must_use]
    pub fn build(&self, attached: &[Attached]) -> Built {
        let basics = self.basics.clone().unwrap_or_else(|| Basics {
            pools: Pools::default(),
            zones: Zone::defaults(),
            node_ip: Dual::default(),
        });
        let mut builder = Builder {
            claims: Claims::new(basics.pools.clone()),
            nodes: BTreeSet::new(),
            services: BTreeSet::new(),
            leased: Vec::new(),
            table: Table {
                pools: basics.pools,
                zones: basics.zones,
                ..Table::default()
            },
        };
        self.add_nodes(&mut builder, basics.node_ip);
        builder.table.relays = self.relay_rows();
        self.add_services(&mut builder);
        self.add_instances(&mut builder, attached);
        self.add_leased_nodes(&mut builder);
        Built {
            table: builder.table,
            leased: builder.leased,
            draining: self.draining(attached),
            faults: builder.claims.faults,
        }
    }

    fn add_nodes(&self, builder: &mut Builder, own: Dual) {
        let stated = self.nodes.iter().filter(|row| row.node != self.me);
        let stated = stated.map(|row| (&row.node, row.node_ip, row.addresses.clone()));
        let me = std::iter::once((&self.me, own, Vec::new()));
        for (id, node_ip, addresses) in me.chain(stated) {
            // Without its cluster's grant nobody knows whose the node's host programs are.
            let Some(organisation) = self.owner_of(&id.cluster) else {
                continue;
            };
            builder.add_node(NodeRow {
                id: id.clone(),
                organisation: organisation.clone(),
                addresses,
                node_ip,
            });
        }
    }

    fn relay_rows(&self) -> Vec<RelayRow> {
        self.relays
            .iter()
            .map(|row| RelayRow {
                id: row.relay.clone(),
                addresses: row.addresses.clone(),
                tcp_addresses: Vec::new(),
            })
            .collect()
    }

    fn add_services(&self, builder: &mut Builder) {
        for row in self.services.iter() {
            builder.add_service(ServiceRow {
                name: row.name.clone(),
                organisation: row.organisation.clone(),
                round_robin: row.round_robin,
                closest: row.closest,
                lane: row.lane,
                accept: row.accept,
            });
        }
    }

    /// The attached instances whose row says of the same life that they are gone. It is this
    /// node's own cluster that may say so.
    fn draining(&self, attached: &[Attached]) -> Vec<InstanceId> {
        let is_out = |it: &&Attached| {
            let removed = self.instances.removed(&it.instance);
            removed.is_some_and(|row| {
                row.node.cluster == self.me.cluster && row_life(row.generation) >= it.generation
            })
        };
        let out = attached.iter().filter(is_out);
        out.map(|it| it.instance.clone()).collect()
    }

    fn add_instances(&self, builder: &mut Builder, attached: &[Attached]) {
        let mut here = BTreeSet::new();
        for instance in attached {
            let stated = self.instances.get(&instance.instance);
            let has_moved = stated.is_some_and(|row| {
                row.node != self.me && row_life(row.generation) >= instance.generation
            });
            if !has_moved {
                here.insert(&instance.instance);
                builder.add_instance(instance.row(&self.me));
            }
        }
        for (id, place) in self.places() {
            if *place.node == self.me || here.contains(id) {
                continue;
            }
            let row = InstanceRow {
                id: id.clone(),
                node: place.node.clone(),
                instance_ip: place.instance_ip,
                ports: Vec::new(),
            };
            if !place.by_lease && builder.has_what_it_needs(&row) {
                builder.add_instance(row);
            } else if self.leases.get(place.node).is_some() {
                builder.add_leased(Leased {
                    node: place.node.clone(),
                    organisation: place.organisation.clone(),
                    instance: Some(id.clone()),
                    addresses: place.instance_ip,
                });
            }
        }
    }

    /// Where every instance is, by rows and leases.
    fn places(&self) -> BTreeMap<&InstanceId, Place<'_>> {
        let rows = self.instances.iter().map(|row| {
            let place = Place {
                life: row_life(row.generation),
                node: &row.node,
                organisation: &row.organisation,
                instance_ip: row.instance_ip,
                by_lease: false,
            };
            (&row.instance, place)
        });
        let mut places: BTreeMap<_, _> = rows.collect();
        for lease in self.leases.iter() {
            for leased in &lease.instances {
                let stated = self.instances.generation(&leased.instance).map(row_life);
                let known = places.get(&leased.instance).map(|place| place.life);
                if stated
                    .max(known)
                    .is_none_or(|known| known < leased.generation)
                {
                    places.insert(&leased.instance, Place::of(&lease.node, leased));
                }
            }
        }
        places
    }

    /// The own addresses of nodes that have a lease but no row.
    fn add_leased_nodes(&self, builder: &mut Builder) {
        for lease in self.leases.iter() {
            let Some(organisation) = self.owner_of(&lease.node.cluster) else {
                continue;
            };
            if builder.nodes.contains(&lease.node) || lease.node_ip.is_empty() {
                continue;
            }
            builder.add_leased(Leased {
                node: lease.node.clone(),
                organisation: organisation.clone(),
                instance: None,
                addresses: lease.node_ip,
            });
        }
    }
}

impl<'a> Place<'a> {
    const fn of(node: &'a NodeId, leased: &'a LeasedInstance) -> Self {
        Self {
            life: leased.generation,
            node,
            organisation: &leased.organisation,
            instance_ip: leased.instance_ip,
            by_lease: true,
        }
    }
}

struct Builder {
    table: Table,
    leased: Vec<Leased>,
    claims: Claims,
    nodes: BTreeSet<NodeId>,
    services: BTreeSet<ServiceName>,
}

impl Builder {
    fn add_node(&mut self, row: NodeRow) {
        if self
            .claims
            .claim(&format!("node {}", row.id), &[row.node_ip])
        {
            self.nodes.insert(row.id.clone());
            self.table.nodes.push(row);
        }
    }

    fn add_service(&mut self, row: ServiceRow) {
        let labels: [&Label; 4] = [
            &row.name.application.name,
            &row.name.application.namespace,
            &row.name.name,
            &row.name.namespace,
        ];
        let zones = &self.table.zones;
        if let Some(label) = labels.iter().find(|label| name::is_reserved(label, zones)) {
            self.claims.faults.push(TableError::Reserved {
                service: row.name.to_string(),
                label: label.to_string(),
            });
            return;
        }
        let owner = format!("service {}", row.name);
        if self.claims.claim(&owner, &[row.round_robin, row.closest]) {
            self.services.insert(row.name.clone());
            self.table.services.push(row);
        }
    }

    fn has_what_it_needs(&self, row: &InstanceRow) -> bool {
        self.services.contains(&row.id.service) && self.nodes.contains(&row.node)
    }

    fn add_leased(&mut self, leased: Leased) {
        let owner = match &leased.instance {
            Some(instance) => format!("instance {instance}"),
            None => format!("node {}", leased.node),
        };
        if self.claims.claim(&owner, &[leased.addresses]) {
            self.leased.push(leased);
        }
    }

    fn add_instance(&mut self, row: InstanceRow) {
        if !self.has_what_it_needs(&row) {
            return;
        }
        let owner = format!("instance {}", row.id);
        if self.claims.claim(&owner, &[row.instance_ip]) {
            self.table.instances.push(row);
        }
    }
}

/// Who has which address. Whoever comes first keeps it.
struct Claims {
    pools: Pools,
    owners: BTreeMap<IpAddr, String>,
    faults: Vec<TableError>,
}

impl Claims {
    const fn new(pools: Pools) -> Self {
        Self {
            pools,
            owners: BTreeMap::new(),
            faults: Vec::new(),
        }
    }

    /// Claims all of the addresses, or none.
    fn claim(&mut self, owner: &str, addresses: &[Dual]) -> bool {
        let fault = addresses.iter().find_map(|dual| {
            if dual.is_empty() {
                let owner = owner.to_owned();
                return Some(TableError::NoAddress { owner });
            }
            dual.iter().find_map(|ip| self.fault_of(owner, ip))
        });
        let all: Vec<IpAddr> = addresses.iter().flat_map(|dual| dual.iter()).collect();
        let distinct: BTreeSet<&IpAddr> = all.iter().collect();
        let twice = (distinct.len() < all.len())
            .then(|| all.first().copied())
            .flatten();
        let twice = twice.map(|ip| TableError::AddressTaken {
            ip,
            first: owner.to_owned(),
            second: owner.to_owned(),
        });
        match fault.or(twice) {
            Some(fault) => {
                self.faults.push(fault);
                false
            }
            None => {
                let claims = all.into_iter().map(|ip| (ip, owner.to_owned()));
                self.owners.extend(claims);
                true
            }
        }
    }

    fn fault_of(&self, owner: &str, ip: IpAddr) -> Option<TableError> {
        if !self.pools.contains(ip) {
            return Some(TableError::OutsidePools {
                owner: owner.to_owned(),
                ip,
                v4: self.pools.v4.to_string(),
                v6: self.pools.v6.to_string(),
            });
        }
        let first = self.owners.get(&ip)?;
        Some(TableError::AddressTaken {
            ip,
            first: first.clone(),
            second: owner.to_owned(),
        })
    }
}
