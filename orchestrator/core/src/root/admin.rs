//! What operators want: clusters that come and go, and who is not to be trusted any more.

use std::collections::BTreeSet;

use weald_proto::control::RootToCluster;
use weald_proto::id::{Label, Organisation};
use weald_proto::statement::Statement;

use super::{ClusterState, CommandError, Effect, ONLY, Root, Step, signed_or_fault, state};
use crate::Now;

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
        if self.clusters.remove(name).is_none() {
            return Err(CommandError::unknown("cluster", name));
        }
        step.writes
            .push(state::delete(state::CLUSTER, name.to_string()));
        self.addresses.release_cluster(name, now);
        self.members.forget(name);
        self.rows.leave(name);
        self.interests.remove(name);
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
            .filter(|it| it.cluster.as_ref() == Some(name) && !it.withdrawn)
            .map(|it| it.id.clone())
            .collect();
        for id in here {
            self.request(&id, now, step)?;
        }
        Ok(())
    }

    pub(super) fn revoke(
        &mut self,
        keys: Vec<[u8; 32]>,
        organisations: Vec<Organisation>,
        step: &mut Step,
    ) -> Result<(), CommandError> {
        self.revocations.epoch += 1;
        for key in keys {
            if !self.revocations.keys.contains(&key) {
                self.revocations.keys.push(key);
            }
        }
        for organisation in organisations {
            if !self.revocations.organisations.contains(&organisation) {
                self.revocations.organisations.push(organisation);
            }
        }
        let key = ONLY.to_owned();
        let stored = state::put(state::REVOCATIONS, key, &self.revocations)?;
        step.writes.push(stored);
        let statement = Statement::Revocations(self.revocations.list());
        if let Some(signed) = signed_or_fault(self.trust.sign(&statement), step) {
            for (cluster, side) in &self.sides {
                if side.connected && side.greeted {
                    step.tell(cluster, RootToCluster::Revocations(signed.clone()));
                }
            }
        }
        Ok(())
    }
}
