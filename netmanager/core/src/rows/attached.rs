//! The instances that this node hosts because somebody attached them, and their place in a table.
//!
//! Making their namespaces is `netmanager::env`'s. A static table's own instances are hosted
//! without being attached.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weald_proto::addr::Dual;
use weald_proto::control::Generation;
use weald_proto::id::{NodeId, Organisation};
use weald_proto::name::{InstanceId, ServiceName};
use weald_proto::table::{InstanceRow, PortMapping, Table};

/// An instance that this node hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Which instance of which service.
    pub instance: InstanceId,
    /// Which of its lives.
    pub generation: Generation,
    /// The addresses of the interface in its namespace.
    pub instance_ip: Dual,
    /// The tenant; none if whoever attached it did not say.
    pub organisation: Option<Organisation>,
    /// Ports of the host that lead to it.
    pub ports: Vec<PortMapping>,
}

/// Why an instance cannot be attached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// A newer life of it is attached.
    #[error("generation {known} of instance {instance} is attached; {generation} is older")]
    Older {
        /// The instance.
        instance: String,
        /// The generation to be attached.
        generation: Generation,
        /// The generation that is attached.
        known: Generation,
    },
    /// The same life of it is attached with other addresses.
    #[error(
        "generation {generation} of instance {instance} is attached with other addresses; an \
         instance keeps its addresses, detach it first or raise the generation"
    )]
    OtherAddress {
        /// The instance.
        instance: String,
        /// The generation.
        generation: Generation,
    },
    /// It has no address.
    #[error("instance {0} has neither an IPv4 nor an IPv6 address; give it at least one")]
    NoAddress(String),
    /// An address outside the pools.
    #[error("instance {instance}: address {ip} is outside the pools {v4} and {v6}")]
    OutsidePools {
        /// The instance.
        instance: String,
        /// The address.
        ip: IpAddr,
        /// The IPv4 pool.
        v4: String,
        /// The IPv6 pool.
        v6: String,
    },
    /// An address that another instance of this node has.
    #[error("address {ip} of instance {instance} belongs to {holder} on this node")]
    AddressTaken {
        /// The instance.
        instance: String,
        /// The address.
        ip: IpAddr,
        /// Who has it.
        holder: String,
    },
}

impl Attached {
    /// Checks that the instance can be attached beside `others`.
    ///
    /// # Errors
    /// The first reason why it cannot.
    pub fn check(&self, others: &[Self], table: &Table) -> Result<(), AttachError> {
        let instance = || self.instance.to_string();
        if self.instance_ip.is_empty() {
            return Err(AttachError::NoAddress(instance()));
        }
        let pools = &table.pools;
        if let Some(ip) = self.instance_ip.iter().find(|ip| !pools.contains(*ip)) {
            return Err(AttachError::OutsidePools {
                instance: instance(),
                ip,
                v4: pools.v4.to_string(),
                v6: pools.v6.to_string(),
            });
        }
        for other in others {
            if other.instance == self.instance {
                self.follows(other)?;
            } else if let Some(ip) = self.shared_address(other) {
                return Err(AttachError::AddressTaken {
                    instance: instance(),
                    ip,
                    holder: other.instance.to_string(),
                });
            }
        }
        Ok(())
    }

    fn follows(&self, before: &Self) -> Result<(), AttachError> {
        if before.generation > self.generation {
            return Err(AttachError::Older {
                instance: self.instance.to_string(),
                generation: self.generation,
                known: before.generation,
            });
        }
        if before.generation == self.generation && before.instance_ip != self.instance_ip {
            return Err(AttachError::OtherAddress {
                instance: self.instance.to_string(),
                generation: self.generation,
            });
        }
        Ok(())
    }

    fn shared_address(&self, other: &Self) -> Option<IpAddr> {
        let mine = self.instance_ip;
        other
            .instance_ip
            .iter()
            .find(|ip| mine.iter().any(|own| own == *ip))
    }

    pub(super) fn row(&self, me: &NodeId) -> InstanceRow {
        InstanceRow {
            id: self.instance.clone(),
            node: me.clone(),
            instance_ip: self.instance_ip,
            ports: self.ports.clone(),
        }
    }
}

/// A static table with the instances that are attached to this node, as far as it has their
/// services. An attached instance counts more than a row of it, or of its address.
#[must_use]
pub fn with_attached(mut table: Table, me: &NodeId, attached: &[Attached]) -> Table {
    let services: BTreeSet<ServiceName> =
        table.services.iter().map(|row| row.name.clone()).collect();
    for instance in attached {
        if !services.contains(&instance.instance.service) {
            continue;
        }
        let row = instance.row(me);
        let taken = |ip: IpAddr| row.instance_ip.iter().any(|own| own == ip);
        table
            .instances
            .retain(|other| other.id != row.id && !other.instance_ip.iter().any(taken));
        table.instances.push(row);
    }
    table
}
