//! What a cluster keeps on disk, record by record.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use weald_proto::addr::Dual;
use weald_proto::control::{Generation, InstanceReport, NodeCapacity, Phase};
use weald_proto::id::{Label, NodeId, Organisation};
use weald_proto::name::InstanceId;
use weald_proto::spec::ServiceSpec;
use weald_proto::statement::Signed;

use crate::addresses::Holder;
use crate::record::{Record, RecordError};
use crate::sync::Kept;

/// What root has this cluster run or end.
pub(super) const DUTY: &str = "duty";
/// Where instances are.
pub(super) const PLACEMENT: &str = "placement";
/// What nodes shall have no longer.
pub(super) const GONE: &str = "gone";
/// The nodes.
pub(super) const NODE: &str = "node";
/// Addresses that nobody may have yet.
pub(super) const RESTING: &str = "resting";
/// The newest grant of each cluster, and the revocations.
pub(super) const SIGNED: &str = "signed";
/// The key of the revocations among [`SIGNED`]; no label begins with a star.
pub(super) const REVOCATIONS: &str = "*revocations";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StoredDuty {
    pub(super) instance: InstanceId,
    pub(super) kept: Kept<ServiceSpec>,
}

/// Where an instance is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Placement {
    pub(super) instance: InstanceId,
    pub(super) generation: Generation,
    /// Whose it is; none in what earlier releases wrote.
    #[serde(default)]
    pub(super) organisation: Option<Organisation>,
    pub(super) node: Label,
    pub(super) instance_ip: Dual,
    /// Whether the node has said that it has it.
    pub(super) accepted: bool,
    pub(super) phase: Phase,
    pub(super) detail: String,
    pub(super) exit_status: Option<i32>,
    /// Counts the changes of the row in this life.
    pub(super) changes: u32,
    /// Whether the row is in the tables, and not as removed.
    pub(super) published: bool,
}

impl Placement {
    /// What root is told of it.
    pub(super) fn report(&self, cluster: &Label) -> InstanceReport {
        InstanceReport {
            detail: self.detail.clone(),
            node: Some(NodeId::new(cluster.clone(), self.node.clone())),
            instance_ip: self.instance_ip,
            exit_status: self.exit_status,
            ..InstanceReport::new(self.instance.clone(), self.generation, self.phase)
        }
    }
}

/// That a node shall have an instance no longer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StoredGone {
    pub(super) node: Label,
    pub(super) instance: InstanceId,
    pub(super) generation: Generation,
}

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct NodeState {
    pub(super) name: Label,
    /// What it last said that it has; none before its worker was ever heard.
    pub(super) capacity: Option<NodeCapacity>,
    /// SHA-256 of its key's SubjectPublicKeyInfo, as it last connected; zeros before it ever has.
    #[serde(default)]
    pub(super) key: [u8; 32],
    pub(super) node_ip: Dual,
    /// Where its data socket may be dialled.
    pub(super) addresses: Vec<SocketAddr>,
    /// The generation of its row.
    pub(super) row: Generation,
    /// Whether the row is in the tables, and not as removed.
    pub(super) published: bool,
    /// The epoch of its lease.
    pub(super) lease: u64,
    /// Until when the lease is good, in seconds since 1970.
    pub(super) lease_expires: u64,
}

impl NodeState {
    pub(super) const fn new(name: Label) -> Self {
        Self {
            name,
            capacity: None,
            key: [0; 32],
            node_ip: Dual { v4: None, v6: None },
            addresses: Vec::new(),
            row: 0,
            published: false,
            lease: 0,
            lease_expires: 0,
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StoredResting {
    pub(super) ip: IpAddr,
    pub(super) holder: Holder,
    /// The last row of an instance that had it, if it ever was in the tables.
    #[serde(default)]
    pub(super) row: Option<RemovedRow>,
}

/// That an instance is out of the tables: nobody else says so once its placement is forgotten, and
/// whoever was not told yet has to be by the next cluster too.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct RemovedRow {
    pub(super) organisation: Organisation,
    pub(super) generation: Generation,
    pub(super) node: Label,
}

/// What was read back.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) duties: Vec<StoredDuty>,
    pub(super) placements: Vec<Placement>,
    pub(super) gone: Vec<StoredGone>,
    pub(super) nodes: Vec<NodeState>,
    pub(super) resting: Vec<StoredResting>,
    pub(super) signed: Vec<Signed>,
}

impl Loaded {
    pub(super) fn read(records: &[Record]) -> Result<Self, RecordError> {
        let mut loaded = Self::default();
        for record in records {
            match record.kind.as_str() {
                DUTY => loaded.duties.push(record.read()?),
                PLACEMENT => loaded.placements.push(record.read()?),
                GONE => loaded.gone.push(record.read()?),
                NODE => loaded.nodes.push(record.read()?),
                RESTING => loaded.resting.push(record.read()?),
                SIGNED => loaded.signed.push(record.read()?),
                // Other parts of the process keep records in the same store.
                _ => {}
            }
        }
        Ok(loaded)
    }
}

pub(super) fn gone_key(node: &Label, instance: &InstanceId) -> String {
    format!("{node}/{instance}")
}
