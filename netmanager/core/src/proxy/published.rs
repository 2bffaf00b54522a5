//! Which addresses of the overlay lead to local servers.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use weald_proto::id::NodeId;
use weald_proto::name::InstanceId;

use super::Publish;
use crate::table::{Host, Snapshot};

/// Where connections to published instances end: the server at each address and port.
pub type Servers = BTreeMap<SocketAddr, SocketAddr>;

/// Why a published instance is not reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotPublished {
    /// The table does not have it.
    #[error("the table has no instance {0}")]
    Unknown(InstanceId),
    /// The table has it elsewhere.
    #[error("the table has instance {0} on node {1}, not here")]
    Elsewhere(InstanceId, NodeId),
}

/// The servers that the table lets this node publish, and what it does not.
#[must_use]
pub fn published(wanted: &[Publish], table: &Snapshot) -> (Servers, Vec<NotPublished>) {
    let mut servers = Servers::new();
    let mut missing = Vec::new();
    for publish in wanted {
        let found = table.instance_by_id(&publish.instance);
        let Some(instance) = found.map(|index| table.instance(index)) else {
            missing.push(NotPublished::Unknown(publish.instance.clone()));
            continue;
        };
        match (instance.host, table.node_of(instance.host)) {
            (Host::Local, _) => {
                let addresses = instance.instance_ip.iter();
                servers.extend(
                    addresses.map(|ip| (SocketAddr::new(ip, publish.port), publish.server)),
                );
            }
            (Host::Peer(_), Some(node)) => {
                let elsewhere = NotPublished::Elsewhere(publish.instance.clone(), node.clone());
                missing.push(elsewhere);
            }
            // Peers of instances are in the table.
            (Host::Peer(_), None) => {
                missing.push(NotPublished::Unknown(publish.instance.clone()));
            }
        }
    }
    (servers, missing)
}
