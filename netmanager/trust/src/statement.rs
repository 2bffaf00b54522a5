//! Statements of root and clusters: signing them, and judging what others have signed.
//!
//! | statement | who may sign it | within what |
//! |---|---|---|
//! | grant, revocations, service | root | anything |
//! | instance, node, relay, lease | the cluster of the node or relay | its newest grant |
//!
//! What was signed travels as the bytes that were signed. The same statement and key make the same
//! bytes. A [`Judge`] needs the root's certificate and nothing else, and remembers enough to refuse
//! what is replayed. What becomes of a statement that is believed, its receiver decides; the
//! layouts are `weald_proto`'s.

mod fault;
mod judge;
mod memory;

#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};
use weald_proto::codec::{MAX_TEXT_LEN, Message};
use weald_proto::id::{Label, NodeId, RelayId};
use weald_proto::name::{InstanceId, ServiceName};
use weald_proto::statement::{Signed, Statement};

use crate::pki::{ClusterAuthority, RootAuthority};

pub use fault::{MemoryFault, SignFault, SignerFault, StatementFault};
pub use judge::{Judge, Judged, News};
pub use memory::{MAX_CLUSTERS, MAX_SUBJECTS, MAX_SUBJECTS_PER_SIGNER, Memory};

/// Bytes of the longest statement: what one field of a message may have.
pub const MAX_STATEMENT_LEN: usize = MAX_TEXT_LEN;

/// Who has signed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Signer {
    /// Root.
    Root,
    /// A cluster.
    Cluster(Label),
}

impl Signer {
    /// Who claims to have signed.
    #[must_use]
    pub fn of(signed: &Signed) -> Self {
        signed.cluster.clone().map_or(Self::Root, Self::Cluster)
    }
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("root"),
            Self::Cluster(cluster) => write!(f, "cluster {cluster}"),
        }
    }
}

/// What a statement is about; of two statements on one subject the higher generation counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// What a cluster may claim.
    Grant(Label),
    /// Who is revoked.
    Revocations,
    /// A service.
    Service(ServiceName),
    /// An instance.
    Instance(InstanceId),
    /// A node.
    Node(NodeId),
    /// A relay.
    Relay(RelayId),
    /// What a node may send from.
    Lease(NodeId),
}

impl Subject {
    /// What a statement is about.
    #[must_use]
    pub fn of(statement: &Statement) -> Self {
        match statement {
            Statement::Grant(grant) => Self::Grant(grant.cluster.clone()),
            Statement::Revocations(_) => Self::Revocations,
            Statement::Service(service) => Self::Service(service.name.clone()),
            Statement::Instance(instance) => Self::Instance(instance.instance.clone()),
            Statement::Node(node) => Self::Node(node.node.clone()),
            Statement::Relay(relay) => Self::Relay(relay.relay.clone()),
            Statement::Lease(lease) => Self::Lease(lease.node.clone()),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grant(cluster) => write!(f, "the grant of cluster {cluster}"),
            Self::Revocations => f.write_str("the list of the revoked"),
            Self::Service(name) => write!(f, "service {name}"),
            Self::Instance(instance) => write!(f, "instance {instance}"),
            Self::Node(node) => write!(f, "node {node}"),
            Self::Relay(relay) => write!(f, "relay {relay}"),
            Self::Lease(node) => write!(f, "the lease of node {node}"),
        }
    }
}

/// Signs a statement in the name of root.
///
/// # Errors
/// It is a cluster's to sign, or longer than anybody could pass on.
pub fn sign_root(root: &RootAuthority, statement: &Statement) -> Result<Signed, SignFault> {
    sign(Signer::Root, statement, |message| root.sign(message))
}

/// Signs a statement in the name of a cluster. Whether its grant allows it is not known here.
///
/// # Errors
/// It is root's or another cluster's to sign, or longer than anybody could pass on.
pub fn sign_cluster(
    cluster: &ClusterAuthority,
    statement: &Statement,
) -> Result<Signed, SignFault> {
    let signer = Signer::Cluster(cluster.name().clone());
    sign(signer, statement, |message| cluster.sign(message))
}

fn sign(
    signer: Signer,
    statement: &Statement,
    key: impl FnOnce(&[u8]) -> anyhow::Result<Vec<u8>>,
) -> Result<Signed, SignFault> {
    check_signer(statement, &signer)?;
    let bytes = statement.encode()?;
    if bytes.len() > MAX_STATEMENT_LEN {
        let subject = Subject::of(statement);
        let len = bytes.len();
        return Err(SignFault::TooLong { subject, len });
    }
    let signature = key(&Signed::signed_bytes(&bytes));
    Ok(Signed {
        signature: signature.map_err(|_| SignFault::Key(signer.clone()))?,
        statement: bytes,
        cluster: match signer {
            Signer::Root => None,
            Signer::Cluster(cluster) => Some(cluster),
        },
    })
}

/// Whose word a statement has to be.
fn check_signer(statement: &Statement, signer: &Signer) -> Result<(), SignerFault> {
    let of_cluster = match statement {
        Statement::Grant(_) | Statement::Revocations(_) | Statement::Service(_) => None,
        Statement::Instance(instance) => Some(&instance.node.cluster),
        Statement::Node(node) => Some(&node.node.cluster),
        Statement::Relay(relay) => Some(&relay.relay.cluster),
        Statement::Lease(lease) => Some(&lease.node.cluster),
    };
    let subject = Subject::of(statement);
    match (of_cluster, signer) {
        (None, Signer::Root) => Ok(()),
        (None, Signer::Cluster(signer)) => {
            let signer = signer.clone();
            Err(SignerFault::RootsAlone { subject, signer })
        }
        (Some(_), Signer::Root) => Err(SignerFault::ClustersAlone { subject }),
        (Some(cluster), Signer::Cluster(signer)) if cluster == signer => Ok(()),
        (Some(cluster), Signer::Cluster(signer)) => Err(SignerFault::ForeignCluster {
            subject,
            cluster: cluster.clone(),
            signer: signer.clone(),
        }),
    }
}
