//! The service table as one checked value: nodes, relays, services and their instances.
//!
//! A static file or, later, a cluster's rows become a [`Table`] only through [`Table::check`],
//! which reports everything that is wrong at once. What netmanager looks up per packet is built
//! from it by netmanager-core's `table`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::addr::{Dual, Pools};
use crate::id::{Label, NodeId, Organisation, RelayId};
use crate::name::{self, InstanceId, ServiceName, Zone};

/// Everything that a node knows of the overlay.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    /// The prefixes that belong to the overlay.
    pub pools: Pools,
    /// The zones that semantic names end in.
    pub zones: Vec<Zone>,
    /// Every node, this one among them.
    pub nodes: Vec<NodeRow>,
    /// Every relay that nodes may use.
    pub relays: Vec<RelayRow>,
    /// Every service.
    pub services: Vec<ServiceRow>,
    /// Every instance of those services.
    pub instances: Vec<InstanceRow>,
}

/// A node of the overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRow {
    /// Who the node is; its certificate says the same.
    pub id: NodeId,
    /// The organisation that owns the node's cluster, and so its host programs.
    pub organisation: Organisation,
    /// Where its data socket can be dialled directly: configured or LAN addresses.
    pub addresses: Vec<SocketAddr>,
    /// The node's own addresses in the overlay.
    pub node_ip: Dual,
}

/// A relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayRow {
    /// Who the relay is; its certificate says the same.
    pub id: RelayId,
    /// Where it is reached, over UDP.
    pub addresses: Vec<SocketAddr>,
    /// Where it is reached in TLS over TCP; empty means at the same addresses, at
    /// [`crate::datagram::DEFAULT_TCP_PORT`].
    pub tcp_addresses: Vec<SocketAddr>,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRow {
    /// The service's name.
    pub name: ServiceName,
    /// The tenant that the service belongs to.
    pub organisation: Organisation,
    /// What its `rr` names resolve to.
    pub round_robin: Dual,
    /// What its `closest` names resolve to.
    pub closest: Dual,
    /// Which lane its flows take.
    pub lane: LanePolicy,
    /// When its connections on the L4 lane are accepted.
    pub accept: AcceptPolicy,
}

/// Which lane the flows of a service take.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum LanePolicy {
    /// Decided per flow by protocol and path.
    #[default]
    Auto,
    /// Always inner packets in QUIC DATAGRAMs.
    L3,
    /// TCP always terminated at the nodes and carried on QUIC streams.
    L4,
}

/// When a connection on the L4 lane is accepted at the client's node.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum AcceptPolicy {
    /// Once the instance has accepted: what is refused is refused exactly.
    #[default]
    Late,
    /// At once, which saves a round trip: what is refused is reset.
    Early,
}

/// An instance of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceRow {
    /// Which instance of which service.
    pub id: InstanceId,
    /// The node that hosts it.
    pub node: NodeId,
    /// The addresses of the interface in its namespace.
    pub instance_ip: Dual,
    /// Ports of the host that lead to the instance.
    pub ports: Vec<PortMapping>,
}

/// A port of the host that leads to a port of an instance, as in `"8080:80/tcp"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortMapping {
    /// The port on the host.
    pub host: u16,
    /// The port of the instance.
    pub instance: u16,
    /// The transport.
    pub transport: Transport,
}

/// A transport protocol that a port can belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// The word in a port mapping and in nft.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl std::fmt::Display for PortMapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}:{}/{}",
            self.host,
            self.instance,
            self.transport.word()
        )
    }
}

/// Why a text is not a [`PortMapping`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a port mapping; write HOST:INSTANCE or HOST:INSTANCE/tcp|udp with ports 1 to 65535, as in \"8080:80/tcp\""
)]
pub struct PortMappingError(String);

impl std::str::FromStr for PortMapping {
    type Err = PortMappingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (ports, transport) = text.split_once('/').unwrap_or((text, "tcp"));
            let (host, instance) = ports.split_once(':')?;
            let port = |text: &str| {
                let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
                digits
                    .then(|| text.parse::<u16>().ok())
                    .flatten()
                    .filter(|port| *port != 0)
            };
            let transport = match transport {
                "tcp" => Transport::Tcp,
                "udp" => Transport::Udp,
                _ => return None,
            };
            Some(Self {
                host: port(host)?,
                instance: port(instance)?,
                transport,
            })
        };
        parse().ok_or_else(|| PortMappingError(text.chars().take(64).collect()))
    }
}

/// What is wrong with a table. Each says where and, if it can, what to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum TableError {
    /// Two rows have the same id.
    #[error("{kind} {id} is listed twice; keep one of them")]
    Duplicate {
        /// Which kind of row.
        kind: &'static str,
        /// The id that stands twice.
        id: String,
    },
    /// A label that would make names ambiguous.
    #[error(
        "service {service}: {label:?} is reserved (policy words, numbers, \"any\" and the labels of zones are); choose another"
    )]
    Reserved {
        /// The service.
        service: String,
        /// The reserved label.
        label: String,
    },
    /// An address outside the pools.
    #[error("{owner}: address {ip} is outside the pools {v4} and {v6}")]
    OutsidePools {
        /// Whose address it is.
        owner: String,
        /// The address.
        ip: IpAddr,
        /// The IPv4 pool.
        v4: String,
        /// The IPv6 pool.
        v6: String,
    },
    /// An address with two owners.
    #[error("address {ip} belongs to both {first} and {second}; give each its own")]
    AddressTaken {
        /// The address.
        ip: IpAddr,
        /// The owner listed first.
        first: String,
        /// The owner listed later.
        second: String,
    },
    /// A row without an address of either family.
    #[error("{owner} has neither an IPv4 nor an IPv6 address; give it at least one")]
    NoAddress {
        /// Whose addresses are missing.
        owner: String,
    },
    /// An instance of a service that has no row.
    #[error("instance {instance} belongs to a service that the table does not have")]
    UnknownService {
        /// The instance.
        instance: String,
    },
    /// An instance on a node that has no row.
    #[error("instance {instance}: node {node} is not in the table; known are {known}")]
    UnknownNode {
        /// The instance.
        instance: String,
        /// The node that is missing.
        node: String,
        /// The nodes that are there.
        known: String,
    },
    /// Two instances on one node want the same port of the host.
    #[error("port {port} of node {node} is mapped by both {first} and {second}")]
    PortTaken {
        /// The node.
        node: String,
        /// Port and transport.
        port: String,
        /// The instance listed first.
        first: String,
        /// The instance listed later.
        second: String,
    },
}

impl Table {
    /// Checks everything that can be checked without a network.
    ///
    /// # Errors
    /// Every fault of the table, in the order of its rows.
    pub fn check(&self) -> Result<(), Vec<TableError>> {
        let mut errors = Vec::new();
        self.check_duplicates(&mut errors);
        self.check_names(&mut errors);
        self.check_references(&mut errors);
        self.check_addresses(&mut errors);
        self.check_ports(&mut errors);
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }

    /// The row of a node.
    #[must_use]
    pub fn node(&self, id: &NodeId) -> Option<&NodeRow> {
        self.nodes.iter().find(|row| row.id == *id)
    }

    fn check_duplicates(&self, errors: &mut Vec<TableError>) {
        let kinds: [(&'static str, Vec<String>); 4] = [
            (
                "node",
                self.nodes.iter().map(|row| row.id.to_string()).collect(),
            ),
            (
                "relay",
                self.relays.iter().map(|row| row.id.to_string()).collect(),
            ),
            (
                "service",
                self.services
                    .iter()
                    .map(|row| row.name.to_string())
                    .collect(),
            ),
            (
                "instance",
                self.instances
                    .iter()
                    .map(|row| row.id.to_string())
                    .collect(),
            ),
        ];
        for (kind, ids) in kinds {
            let mut seen = BTreeSet::new();
            for id in ids {
                if !seen.insert(id.clone()) {
                    errors.push(TableError::Duplicate { kind, id });
                }
            }
        }
    }

    fn check_names(&self, errors: &mut Vec<TableError>) {
        for row in &self.services {
            let labels: [&Label; 4] = [
                &row.name.application.name,
                &row.name.application.namespace,
                &row.name.name,
                &row.name.namespace,
            ];
            for label in labels {
                if name::is_reserved(label, &self.zones) {
                    errors.push(TableError::Reserved {
                        service: row.name.to_string(),
                        label: label.to_string(),
                    });
                }
            }
        }
    }

    fn check_references(&self, errors: &mut Vec<TableError>) {
        let services: BTreeSet<_> = self.services.iter().map(|row| &row.name).collect();
        let nodes: BTreeSet<_> = self.nodes.iter().map(|row| &row.id).collect();
        for row in &self.instances {
            if !services.contains(&row.id.service) {
                errors.push(TableError::UnknownService {
                    instance: row.id.to_string(),
                });
            }
            if !nodes.contains(&row.node) {
                let known: Vec<String> = nodes.iter().map(ToString::to_string).collect();
                errors.push(TableError::UnknownNode {
                    instance: row.id.to_string(),
                    node: row.node.to_string(),
                    known: known.join(", "),
                });
            }
        }
    }

    fn check_addresses(&self, errors: &mut Vec<TableError>) {
        let nodes = self
            .nodes
            .iter()
            .map(|row| (format!("node {}", row.id), row.node_ip));
        let services = self.services.iter().flat_map(|row| {
            [
                (format!("service {} (rr)", row.name), row.round_robin),
                (format!("service {} (closest)", row.name), row.closest),
            ]
        });
        let instances = self
            .instances
            .iter()
            .map(|row| (format!("instance {}", row.id), row.instance_ip));
        let mut owners: BTreeMap<IpAddr, String> = BTreeMap::new();
        for (owner, addresses) in nodes.chain(services).chain(instances) {
            if addresses.is_empty() {
                errors.push(TableError::NoAddress {
                    owner: owner.clone(),
                });
            }
            for ip in addresses.iter() {
                if !self.pools.contains(ip) {
                    errors.push(TableError::OutsidePools {
                        owner: owner.clone(),
                        ip,
                        v4: self.pools.v4.to_string(),
                        v6: self.pools.v6.to_string(),
                    });
                }
                if let Some(first) = owners.get(&ip) {
                    let (first, second) = (first.clone(), owner.clone());
                    errors.push(TableError::AddressTaken { ip, first, second });
                } else {
                    owners.insert(ip, owner.clone());
                }
            }
        }
    }

    fn check_ports(&self, errors: &mut Vec<TableError>) {
        let mut taken: BTreeMap<(&NodeId, u16, Transport), &InstanceId> = BTreeMap::new();
        for row in &self.instances {
            for mapping in &row.ports {
                let key = (&row.node, mapping.host, mapping.transport);
                if let Some(first) = taken.insert(key, &row.id) {
                    errors.push(TableError::PortTaken {
                        node: row.node.to_string(),
                        port: format!("{}/{}", mapping.host, mapping.transport.word()),
                        first: first.to_string(),
                        second: row.id.to_string(),
                    });
                }
            }
        }
    }
}
