//! Trust as the shells have it, with keys for signatures: whoever signs is believed by the newest grant
//! of its cluster and within that, unless its key is revoked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use ipnetwork::IpNetwork;
use orchestrator_core::root::Root;
use orchestrator_core::trust::Trust;
use weald_proto::addr::Dual;
use weald_proto::id::{Label, NodeId, Organisation};
use weald_proto::statement::{Grant, Revocations, Signed, Statement};

use super::site::label;
use crate::support::names::Names;

/// What somebody believes of what root has signed; the links ask it too.
#[derive(Debug, Clone, Default)]
pub(crate) struct Beliefs(Arc<Mutex<Believed>>);

#[derive(Debug, Default)]
struct Believed {
    grants: BTreeMap<Label, Granted>,
    epoch: u64,
    revoked: BTreeSet<[u8; 32]>,
}

#[derive(Debug)]
struct Granted {
    key: [u8; 32],
    generation: u64,
    blocks: Vec<IpNetwork>,
}

impl Believed {
    fn hold_grant(&mut self, grant: &Grant) {
        let known = self.grants.get(&grant.cluster);
        if known.is_none_or(|known| known.generation < grant.generation) {
            let granted = Granted {
                key: grant.key,
                generation: grant.generation,
                blocks: grant.blocks.clone(),
            };
            self.grants.insert(grant.cluster.clone(), granted);
        }
    }

    fn hold_revocations(&mut self, list: &Revocations) {
        if list.epoch > self.epoch {
            self.epoch = list.epoch;
            self.revoked = list.keys.iter().copied().collect();
        }
    }

    fn judge(&mut self, signed: &Signed, statement: &Statement) -> Result<(), String> {
        match &signed.cluster {
            Some(cluster) => self.judge_cluster(signed, cluster, statement),
            None => self.judge_root(statement),
        }
    }

    fn judge_root(&mut self, statement: &Statement) -> Result<(), String> {
        match statement {
            Statement::Grant(grant) if self.revoked.contains(&grant.key) => {
                return Err(format!("the key of cluster {} is revoked", grant.cluster));
            }
            Statement::Grant(grant) => self.hold_grant(grant),
            Statement::Revocations(list) => self.hold_revocations(list),
            Statement::Service(_)
            | Statement::Instance(_)
            | Statement::Node(_)
            | Statement::Relay(_)
            | Statement::Lease(_) => {}
        }
        Ok(())
    }

    fn judge_cluster(
        &self,
        signed: &Signed,
        cluster: &Label,
        statement: &Statement,
    ) -> Result<(), String> {
        let of = |key: &[u8; 32]| key[..] == signed.signature;
        if self.revoked.iter().any(of) {
            return Err(format!("the key of cluster {cluster} is revoked"));
        }
        let granted = self.grants.get(cluster).filter(|it| of(&it.key));
        let granted = granted.ok_or_else(|| format!("cluster {cluster} has no grant"))?;
        let addresses = match statement {
            Statement::Instance(it) => it.instance_ip,
            Statement::Node(it) => it.node_ip,
            Statement::Service(_)
            | Statement::Relay(_)
            | Statement::Lease(_)
            | Statement::Grant(_)
            | Statement::Revocations(_) => Dual::default(),
        };
        for ip in addresses.iter() {
            if !granted.blocks.iter().any(|block| block.contains(ip)) {
                return Err(format!("{ip} is not granted to cluster {cluster}"));
            }
        }
        Ok(())
    }
}

impl Beliefs {
    /// Believes what root knows, as root itself does once it is started again.
    pub(crate) fn take_up(&self, root: &Root) {
        let mut believed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        believed.hold_revocations(&root.revocations());
        for (state, ..) in root.clusters() {
            let granted = Granted {
                key: state.key,
                generation: state.generation,
                blocks: state.blocks.iter().copied().collect(),
            };
            believed.grants.insert(state.name.clone(), granted);
        }
    }

    pub(crate) fn revoked(&self) -> BTreeSet<[u8; 32]> {
        let believed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        believed.revoked.clone()
    }

    /// Judges a statement, and keeps what root says of whom to believe.
    pub(crate) fn judge(&self, signed: &Signed) -> Result<Statement, String> {
        let statement = Names(None).judge(signed, 0)?;
        let mut believed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        believed.judge(signed, &statement)?;
        Ok(statement)
    }
}

/// Signs as root, or as a cluster with a key.
#[derive(Debug)]
pub(crate) struct Signer {
    pub(crate) cluster: Option<(&'static str, [u8; 32])>,
    pub(crate) beliefs: Beliefs,
}

impl Trust for Signer {
    fn sign(&self, statement: &Statement) -> Result<Signed, String> {
        let names = Names(self.cluster.map(|(name, _)| label(name)));
        let mut signed = names.sign(statement)?;
        match self.cluster {
            Some((_, key)) => signed.signature = key.to_vec(),
            None => {
                self.beliefs.judge(&signed)?;
            }
        }
        Ok(signed)
    }

    fn judge(&mut self, signed: &Signed, _: u64) -> Result<Statement, String> {
        self.beliefs.judge(signed)
    }

    fn key_hash(&self, key: &[u8; 32]) -> [u8; 32] {
        *key
    }

    fn relay_token(
        &self,
        node: &NodeId,
        key: &[u8; 32],
        organisation: &Organisation,
        unix: u64,
    ) -> Result<Vec<u8>, String> {
        Names(None).relay_token(node, key, organisation, unix)
    }
}
