//! What operators want: clusters that come and go, and who is not to be trusted any more.

use std::collections::BTreeSet;

use weald_proto::codec::{MAX_TEXT_LEN, Message as _};
use weald_proto::control::{Phase, RootToCluster};
use weald_proto::id::{Label, NodeId, Organisation};
use weald_proto::statement::{Revocations, Statement};

use super::state::{self, StoredResting, StoredRevocations};
use super::{ClusterState, CommandError, Distrusted, Effect, ONLY, Root, Step, signed_or_fault};
use crate::Now;
use crate::record::Write;

/// How many keys may be revoked one by one. The signed list has at most 64 KiB, some 1,900 keys; what
/// is left is for clusters and organisations, each of which stands for many.
const MAX_SINGLE_KEYS: usize = 1500;

impl Root {
    pub(super) fn add_cluster(
        &mut self,
        name: Label,
        key: [u8; 32],
        organisations: Option<BTreeSet<Organisation>>,
        owner: Organisation,
        now: Now,
        step: &mut Step,
    ) -> Result<(), CommandError> {
        if let Some(known) = self.clusters.get(&name) {
            if known.key == key {
                return Ok(());
            }
            return Err(CommandError::Exists {
                kind: "cluster",
                name: name.to_string(),
                remedy: "remove it first if another one is to have its name",
            });
        }
        if self.has_revoked(&key) {
            return Err(CommandError::Revoked {
                what: format!("the key of cluster {name}"),
                remedy: "join with a new one, in an empty folder",
            });
        }
        let state = ClusterState {
            name: name.clone(),
            key,
            organisations,
            owner: owner.clone(),
            granted: BTreeSet::new(),
            blocks: BTreeSet::new(),
            generation: 0,
            expires: 0,
            place: None,
        };
        self.clusters.insert(name.clone(), state);
        self.sides.entry(name.clone()).or_default();
        self.add_blocks(&name, now);
        self.know_organisation(&owner, now, step)?;
        self.regrant(&name, now, step)?;
        Ok(())
    }

    pub(super) fn remove_cluster(
        &mut self,
        name: &Label,
        now: Now,
        step: &mut Step,
    ) -> Result<(), CommandError> {
        let known = self.clusters.get(name);
        let known = known.ok_or_else(|| CommandError::unknown("cluster", name))?;
        let key = self.trust.key_hash(&known.key);
        self.with_distrusted(Some(key), None)?;
        // Its blocks will be others', so nobody may believe what it has signed. Nobody takes up a grant
        // of a key that is revoked already, so that comes behind.
        self.withdraw_grant(name, now, step);
        self.distrust(Some(key), None, step)?;
        self.clusters.remove(name);
        step.writes
            .push(Write::delete(state::CLUSTER, name.to_string()));
        for block in self.addresses.release_cluster(name, now) {
            let cluster = name.clone();
            let stored = Write::put(
                state::RESTING,
                block.to_string(),
                &StoredResting { block, cluster },
            );
            step.writes.push(stored?);
        }
        self.members.forget(name);
        self.leave_rows(name);
        self.rows.forget_signed_by(name);
        let text = format!("cluster {name} was removed");
        step.effects.push(Effect::CloseCluster(name.clone(), text));
        self.sides.remove(name);
        let gone: Vec<_> = self
            .gone
            .keys()
            .filter(|(cluster, _)| cluster == name)
            .cloned()
            .collect();
        for (cluster, instance) in gone {
            self.forget_gone(&cluster, &instance, step);
            self.end_if_gone(&instance, step);
        }
        let here: Vec<_> = self
            .instances
            .values()
            // What has done its work does not do it twice.
            .filter(|it| it.cluster.as_ref() == Some(name) && !it.withdrawn)
            .filter(|it| it.phase() != Phase::Completed)
            .map(|it| it.id.clone())
            .collect();
        for id in here {
            self.request(&id, now, step)?;
        }
        Ok(())
    }

    /// Has everybody distrust somebody: clusters and their nodes are told, and cut who it is.
    pub(super) fn revoke(&mut self, who: Distrusted, step: &mut Step) -> Result<(), CommandError> {
        match who {
            Distrusted::Key(key) => self.distrust_one(key, step)?,
            Distrusted::Node(node) => {
                let key = self.key_of(&node)?;
                self.distrust_one(key, step)?;
            }
            Distrusted::Cluster(name) => {
                let known = self.clusters.get(&name);
                let known = known.ok_or_else(|| CommandError::unknown("cluster", &name))?;
                let key = self.trust.key_hash(&known.key);
                self.distrust(Some(key), None, step)?;
                let text = format!("cluster {name} is revoked");
                step.effects.push(Effect::CloseCluster(name, text));
            }
            Distrusted::Organisation(organisation) => {
                self.with_distrusted(None, Some(&organisation))?;
                let services = self.services.values();
                let own = services.filter(|it| it.spec.organisation == organisation);
                let own: Vec<_> = own.map(|it| it.spec.name.clone()).collect();
                for service in own {
                    self.undeploy_all(&service, step)?;
                }
                self.distrust(None, Some(&organisation), step)?;
            }
        }
        Ok(())
    }

    /// The newest list of the revoked.
    #[must_use]
    pub fn revocations(&self) -> Revocations {
        self.revocations.list()
    }

    /// Refuses an organisation that is revoked.
    pub(super) fn must_trust(&self, organisation: &Organisation) -> Result<(), CommandError> {
        if !self.revocations.organisations.contains(organisation) {
            return Ok(());
        }
        Err(CommandError::Revoked {
            what: format!("organisation {organisation}"),
            remedy: "nothing of it is run any more",
        })
    }

    /// Whether a cluster's key is revoked.
    pub(super) fn has_revoked(&self, key: &[u8; 32]) -> bool {
        self.revocations.keys.contains(&self.trust.key_hash(key))
    }

    /// The key of a node, as its cluster has reported it.
    fn key_of(&self, node: &NodeId) -> Result<[u8; 32], CommandError> {
        let side = self.sides.get(&node.cluster);
        let mut nodes = side.into_iter().flat_map(|it| &it.nodes);
        let known = nodes.find(|it| it.node == *node);
        let known = known.ok_or_else(|| CommandError::unknown("node", node))?;
        Ok(known.key)
    }

    /// Distrusts a key that is nobody else's: a node's, or whatever an operator names.
    fn distrust_one(&mut self, key: [u8; 32], step: &mut Step) -> Result<(), CommandError> {
        let known = self.revocations.keys.len();
        if known >= MAX_SINGLE_KEYS && !self.revocations.keys.contains(&key) {
            return Err(CommandError::TooManyRevoked(known));
        }
        self.distrust(Some(key), None, step)
    }

    /// The list of the revoked with somebody more. One that cannot be told is refused: whoever is
    /// revoked in it would be so for root alone.
    fn with_distrusted(
        &self,
        key: Option<[u8; 32]>,
        organisation: Option<&Organisation>,
    ) -> Result<StoredRevocations, CommandError> {
        let mut revocations = self.revocations.clone();
        revocations.epoch += 1;
        if let Some(key) = key
            && !revocations.keys.contains(&key)
        {
            revocations.keys.push(key);
        }
        if let Some(organisation) = organisation
            && !revocations.organisations.contains(organisation)
        {
            revocations.organisations.push(organisation.clone());
        }
        // Whatever is signed is one field of a message. More keys than a list may have are longer, too.
        let list = Statement::Revocations(revocations.list());
        match list.encode().map_or(usize::MAX, |bytes| bytes.len()) {
            ..=MAX_TEXT_LEN => Ok(revocations),
            len => Err(CommandError::Untold(len)),
        }
    }

    /// Adds to the list of the revoked and tells it, or changes nothing.
    fn distrust(
        &mut self,
        key: Option<[u8; 32]>,
        organisation: Option<&Organisation>,
        step: &mut Step,
    ) -> Result<(), CommandError> {
        self.revocations = self.with_distrusted(key, organisation)?;
        let key = ONLY.to_owned();
        let stored = Write::put(state::REVOCATIONS, key, &self.revocations)?;
        step.writes.push(stored);
        let statement = Statement::Revocations(self.revocations.list());
        if let Some(signed) = signed_or_fault(self.trust.sign(&statement), step) {
            self.tell_greeted(&RootToCluster::Revocations(signed), step);
        }
        Ok(())
    }
}
