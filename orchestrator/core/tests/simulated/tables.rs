//! A netmanager of each cluster, and the table that it makes of what it is told.
//!
//! Its session is ideal: only the cluster's end of it dies, with the cluster. What is wrong in the
//! table, the tiers have said wrong.

use std::collections::BTreeMap;

use orchestrator_core::cluster;
use weald_proto::codec::Message as _;
use weald_proto::control::Generation;
use weald_proto::name::InstanceId;
use weald_proto::session::{ClusterToNet, NetToCluster, VERSION};
use weald_proto::statement::{InstanceStatement, Statement};

use super::site::{NODES, draft, label};

/// The instances that may be picked, as one netmanager knows them.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: BTreeMap<InstanceId, InstanceStatement>,
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
                // All rows are of one application.
                if !complete.is_empty() {
                    self.rows.clear();
                }
                for signed in rows {
                    if let Ok(Statement::Instance(row)) = Statement::decode(&signed.statement) {
                        self.put(row);
                    }
                }
            }
            ClusterToNet::Unknown(_) => self.rows.clear(),
            ClusterToNet::Welcome { .. }
            | ClusterToNet::Lease(_)
            | ClusterToNet::Grant(_)
            | ClusterToNet::Revocations(_)
            | ClusterToNet::Renewed(_) => {}
        }
    }

    fn put(&mut self, row: InstanceStatement) {
        let known = self.rows.get(&row.instance);
        if known.is_none_or(|known| known.generation < row.generation) {
            self.rows.insert(row.instance.clone(), row);
        }
    }

    /// Each instance with the generation of its row, its node and its addresses, in words.
    pub(crate) fn instances(&self) -> BTreeMap<InstanceId, (Generation, String)> {
        let there = self.rows.values().filter(|row| !row.removed);
        there
            .map(|row| {
                let place = format!("{} {:?}", row.node, row.instance_ip);
                (row.instance.clone(), (row.generation, place))
            })
            .collect()
    }
}

/// What a cluster is told of a new session of its first node.
pub(crate) fn session() -> Vec<cluster::Input> {
    let node = label(NODES[0]);
    let hello = NetToCluster::Hello {
        version: VERSION,
        addresses: vec!["192.0.2.1:4433".parse().unwrap()],
        lease: 0,
        revocations: 0,
    };
    let interests = NetToCluster::Interests(vec![draft().name]);
    vec![
        cluster::Input::NetConnected {
            node: node.clone(),
            key: [0; 32],
            observed: "192.0.2.1:4433".parse().unwrap(),
        },
        cluster::Input::Net(node.clone(), hello),
        cluster::Input::Net(node, interests),
    ]
}
