//! A netmanager of each cluster, and the table that it makes of what it is told.
//!
//! Its session is ideal: only the cluster's end of it dies, with the cluster. It believes what a
//! netmanager believes. What is wrong in the table, the tiers have said wrong.

use std::collections::{BTreeMap, BTreeSet};

use orchestrator_core::cluster;
use orchestrator_core::interests::{Row, Subject};
use orchestrator_core::trust;
use weald_proto::addr::Dual;
use weald_proto::id::NodeId;
use weald_proto::name::{InstanceId, ServiceName};
use weald_proto::session::{ClusterToNet, NetToCluster, VERSION};
use weald_proto::statement::{Signed, Statement};

use super::site::{label, service};
use super::trust::Beliefs;

/// The rows that one netmanager knows, the newest of each subject.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: BTreeMap<Subject, Row>,
    beliefs: Beliefs,
}

/// What is there, as a table says.
#[derive(Debug, Default)]
pub(crate) struct There {
    /// Each service with its addresses, those for `rr` first.
    pub(crate) services: BTreeMap<ServiceName, (Dual, Dual)>,
    /// Each instance with its node and its addresses.
    pub(crate) instances: BTreeMap<InstanceId, (NodeId, Dual)>,
    /// Each node with its addresses.
    pub(crate) nodes: BTreeMap<NodeId, Dual>,
}

impl There {
    /// All of it in words.
    pub(crate) fn lines(&self) -> BTreeSet<String> {
        let services = self.services.iter();
        let services = services.map(|(name, addresses)| format!("{name} {addresses:?}"));
        let instances = self.instances.iter();
        let instances = instances.map(|(id, (node, ip))| format!("{id} on {node} {ip:?}"));
        let nodes = self.nodes.iter().map(|(node, ip)| format!("{node} {ip:?}"));
        services.chain(instances).chain(nodes).collect()
    }
}

impl Table {
    pub(crate) fn hear(&mut self, message: ClusterToNet) {
        match message {
            ClusterToNet::Rows {
                complete,
                rows,
                more,
            } => {
                assert!(!more, "so few rows are one message");
                if !complete.is_empty() {
                    self.forget_application();
                }
                for signed in rows {
                    self.put(signed);
                }
            }
            ClusterToNet::Unknown(_) => self.forget_application(),
            ClusterToNet::Grant(signed) | ClusterToNet::Revocations(signed) => {
                // One of a key that is revoked changes nothing.
                let _ = self.beliefs.judge(&signed);
            }
            ClusterToNet::Welcome { .. } | ClusterToNet::Lease(_) | ClusterToNet::Renewed(_) => {}
        }
    }

    /// All rows are of one application, but for those of nodes.
    fn forget_application(&mut self) {
        self.rows
            .retain(|subject, _| subject.application().is_none());
    }

    fn put(&mut self, signed: Signed) {
        let Ok(statement) = self.beliefs.judge(&signed) else {
            return;
        };
        let Some(row) = trust::row(&statement, signed) else {
            return;
        };
        let known = self.rows.get(&row.subject);
        if known.is_none_or(|known| known.generation < row.generation) {
            self.rows.insert(row.subject.clone(), row);
        }
    }

    /// The revoked, as this netmanager knows them.
    pub(crate) fn revoked(&self) -> BTreeSet<[u8; 32]> {
        self.beliefs.revoked()
    }

    /// What is there, judged by the grants and the revoked of now.
    pub(crate) fn there(&self) -> There {
        let mut there = There::default();
        for row in self.rows.values().filter(|row| !row.removed) {
            match self.beliefs.judge(&row.signed) {
                Ok(Statement::Service(it)) => {
                    let addresses = (it.round_robin, it.closest);
                    there.services.insert(it.name, addresses);
                }
                Ok(Statement::Instance(it)) => {
                    let place = (it.node, it.instance_ip);
                    there.instances.insert(it.instance, place);
                }
                Ok(Statement::Node(it)) => {
                    there.nodes.insert(it.node, it.node_ip);
                }
                Ok(
                    Statement::Relay(_)
                    | Statement::Grant(_)
                    | Statement::Revocations(_)
                    | Statement::Lease(_),
                )
                | Err(_) => {}
            }
        }
        there
    }
}

/// What a cluster is told of a new session of a node without a worker.
pub(crate) fn session() -> Vec<cluster::Input> {
    let node = label(NET);
    let hello = NetToCluster::Hello {
        version: VERSION,
        addresses: vec!["192.0.2.1:4433".parse().unwrap()],
        lease: 0,
        revocations: 0,
    };
    let interests = NetToCluster::Interests(vec![service("web").application]);
    vec![
        cluster::Input::NetConnected {
            node: node.clone(),
            key: [255; 32],
            observed: "192.0.2.1:4433".parse().unwrap(),
        },
        cluster::Input::Net(node.clone(), hello),
        cluster::Input::Net(node, interests),
    ]
}

/// The node of each site that has a netmanager and no worker.
const NET: &str = "net";
