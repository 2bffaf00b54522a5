//! The clusters: their connections, their grants, what they report.

use std::collections::BTreeSet;

use weald_proto::control::{ClusterToRoot, Phase, RootToCluster, Standing, VERSION};
use weald_proto::id::{Label, Organisation};
use weald_proto::name::InstanceId;
use weald_proto::statement::{Grant, Statement};

use super::{ClusterState, Effect, GRANT_LIFE, Root, Step, signed_or_fault, state};
use crate::Now;
use crate::addresses::BlockKind;
use crate::record::{RecordError, Write};

impl Root {
    /// When what is known of a cluster last changed or was confirmed, in seconds since 1970: by what it
    /// said, or, if it has said nothing since root was started, by its grant.
    #[must_use]
    pub fn last_known(&self, cluster: &ClusterState) -> u64 {
        let side = self.sides.get(&cluster.name);
        let said = side.and_then(|it| it.said);
        said.unwrap_or_else(|| cluster.expires.saturating_sub(GRANT_LIFE.as_secs()))
    }

    pub(super) fn connect(&mut self, cluster: &Label) {
        let side = self.sides.entry(cluster.clone()).or_default();
        side.connected = true;
        side.greeted = false;
        side.wants.connected();
        self.leave_rows(cluster);
    }

    /// Tells a cluster no rows until it has greeted: whatever grants they need come first.
    pub(super) fn leave_rows(&mut self, cluster: &Label) {
        self.rows.leave(cluster);
        self.interests.remove(cluster);
    }

    pub(super) fn disconnect(&mut self, cluster: &Label) {
        if let Some(side) = self.sides.get_mut(cluster) {
            side.connected = false;
            side.greeted = false;
            side.wants.disconnected();
        }
        self.leave_rows(cluster);
    }

    pub(super) fn handle_cluster(
        &mut self,
        cluster: &Label,
        message: ClusterToRoot,
        now: Now,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let known = self.clusters.contains_key(cluster);
        let Some(side) = self.sides.get_mut(cluster).filter(|it| it.connected) else {
            return Ok(());
        };
        let hello = matches!(message, ClusterToRoot::Hello { .. });
        if !known || (!side.greeted && !hello) {
            let text = if known {
                "the first message of a cluster must be Hello".to_owned()
            } else {
                format!("root does not know cluster {cluster}; have it join first")
            };
            step.effects
                .push(Effect::CloseCluster(cluster.clone(), text));
            return Ok(());
        }
        self.members.heard(cluster.clone(), now);
        match message {
            ClusterToRoot::Hello {
                version,
                place,
                grant: _,
                revocations: _,
            } => {
                if version != VERSION {
                    let text = format!(
                        "cluster {cluster} speaks version {version} of the control protocol, root \
                         {VERSION}; run the same release on both"
                    );
                    step.effects
                        .push(Effect::CloseCluster(cluster.clone(), text));
                    return Ok(());
                }
                side.greeted = true;
                if let Some(known) = self.clusters.get_mut(cluster)
                    && known.place != place
                {
                    known.place = place;
                    self.keep_cluster(cluster, step)?;
                }
                self.welcome(cluster, step);
            }
            ClusterToRoot::Heartbeat {
                sequence: _,
                aggregate,
            } => {
                side.aggregate = Some(aggregate);
                side.said = Some(now.unix);
                // What was answered is in the sums; what was not may not be yet.
                let waiting = &self.attempts;
                side.offered
                    .retain(|instance, _| waiting.contains_key(instance));
            }
            ClusterToRoot::Report {
                sequence,
                complete,
                instances,
            } => {
                let heard = side.wants.handle_report(sequence, complete, &instances);
                for report in &heard.changed {
                    self.take_report(cluster, report, now, step)?;
                }
                for instance in &heard.gone {
                    self.forget_gone(cluster, instance, step);
                    self.end_if_gone(instance, step);
                }
                for instance in &heard.lost {
                    self.note_lost(cluster, instance, step)?;
                }
                if heard.acknowledge {
                    step.tell(cluster, RootToCluster::Acknowledged { sequence });
                }
            }
            ClusterToRoot::Refused {
                instance,
                generation,
                refusals,
            } => self.handle_refused(cluster, &instance, generation, refusals, now, step)?,
            ClusterToRoot::NeedAddresses { grant } => {
                self.handle_need(cluster, grant, now, step)?;
            }
            ClusterToRoot::Rows(rows) => self.take_rows(cluster, rows, now, step),
            ClusterToRoot::Interests(interests) => {
                let interests = interests.into_iter().collect();
                self.interests.insert(cluster.clone(), interests);
            }
            ClusterToRoot::Nodes(nodes) => {
                side.nodes = nodes;
                side.said = Some(now.unix);
            }
            ClusterToRoot::Logs { request, lines } => {
                if self.logs.get(&request) == Some(cluster) {
                    self.logs.remove(&request);
                    step.effects.push(Effect::Logs { request, lines });
                }
            }
            // Certificates are the shell's, which answers before this is heard.
            ClusterToRoot::Renew(_) => {}
        }
        Ok(())
    }

    fn welcome(&mut self, cluster: &Label, step: &mut Step) {
        step.tell(cluster, RootToCluster::Welcome { version: VERSION });
        let all: Vec<_> = self.clusters.keys().cloned().collect();
        for other in all {
            if let Some(grant) = self.sign_grant(&other, step) {
                step.tell(cluster, RootToCluster::Grant(grant));
            }
        }
        if self.revocations.epoch > 0 {
            let statement = Statement::Revocations(self.revocations.list());
            if let Some(signed) = signed_or_fault(self.trust.sign(&statement), step) {
                step.tell(cluster, RootToCluster::Revocations(signed));
            }
        }
        self.rows.listen(cluster.clone(), []);
    }

    /// The organisations whose instances a cluster may host.
    pub(super) fn organisations_of(&self, state: &ClusterState) -> BTreeSet<Organisation> {
        match &state.organisations {
            Some(some) => some.clone(),
            None => self.organisations.clone(),
        }
    }

    fn sign_grant(
        &self,
        cluster: &Label,
        step: &mut Step,
    ) -> Option<weald_proto::statement::Signed> {
        let state = self.clusters.get(cluster)?;
        if self.has_revoked(&state.key) {
            return None;
        }
        let grant = Grant {
            cluster: cluster.clone(),
            key: state.key,
            generation: state.generation,
            blocks: state.blocks.iter().copied().collect(),
            organisations: state.granted.iter().cloned().collect(),
            owner: state.owner.clone(),
            expires: state.expires,
        };
        signed_or_fault(self.trust.sign(&Statement::Grant(grant)), step)
    }

    /// Gives a cluster a new grant, which says what it has now, and lets everybody know.
    pub(super) fn regrant(
        &mut self,
        cluster: &Label,
        now: Now,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let generation = self.next_generation();
        let granted = self.clusters.get(cluster);
        let granted = granted.map(|state| self.organisations_of(state));
        let Some(state) = self.clusters.get_mut(cluster) else {
            return Ok(());
        };
        state.granted = granted.unwrap_or_default();
        state.generation = generation;
        state.expires = now.unix + GRANT_LIFE.as_secs();
        self.keep_cluster(cluster, step)?;
        let Some(signed) = self.sign_grant(cluster, step) else {
            return Ok(());
        };
        self.tell_greeted(&RootToCluster::Grant(signed), step);
        Ok(())
    }

    /// Has nobody believe any more that a cluster has what it was granted.
    pub(super) fn withdraw_grant(&mut self, cluster: &Label, now: Now, step: &mut Step) {
        let generation = self.next_generation();
        let Some(state) = self.clusters.get_mut(cluster) else {
            return;
        };
        state.blocks.clear();
        state.granted.clear();
        state.generation = generation;
        state.expires = now.unix + GRANT_LIFE.as_secs();
        if let Some(signed) = self.sign_grant(cluster, step) {
            self.tell_greeted(&RootToCluster::Grant(signed), step);
        }
    }

    pub(super) fn tell_greeted(&self, message: &RootToCluster, step: &mut Step) {
        for (cluster, side) in &self.sides {
            if side.connected && side.greeted {
                step.tell(cluster, message.clone());
            }
        }
    }

    /// Every grant says which organisations there are: a new one needs new grants.
    pub(super) fn know_organisation(
        &mut self,
        organisation: &Organisation,
        now: Now,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        if !self.organisations.insert(organisation.clone()) {
            return Ok(());
        }
        let open: Vec<_> = self
            .clusters
            .values()
            .filter(|it| it.organisations.is_none())
            .map(|it| it.name.clone())
            .collect();
        for cluster in open {
            self.regrant(&cluster, now, step)?;
        }
        Ok(())
    }

    pub(super) fn renew_grants(&mut self, now: Now, step: &mut Step) -> Result<(), RecordError> {
        let half = now.unix + GRANT_LIFE.as_secs() / 2;
        let old: Vec<_> = self
            .clusters
            .values()
            .filter(|it| it.expires < half && !self.has_revoked(&it.key))
            .map(|it| it.name.clone())
            .collect();
        for cluster in old {
            self.regrant(&cluster, now, step)?;
        }
        Ok(())
    }

    /// A cluster has used up the blocks of a grant: it gets one more of each kind that there is.
    fn handle_need(
        &mut self,
        cluster: &Label,
        grant: u64,
        now: Now,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let current = self.clusters.get(cluster).map(|it| it.generation);
        if current != Some(grant) {
            return Ok(());
        }
        if self.add_blocks(cluster, now) {
            return self.regrant(cluster, now, step);
        }
        let text = format!("no block of addresses is left for cluster {cluster}");
        step.effects.push(Effect::Fault(text));
        Ok(())
    }

    pub(super) fn add_blocks(&mut self, cluster: &Label, now: Now) -> bool {
        let mut added = false;
        for kind in BlockKind::ALL {
            if let Some(block) = self.addresses.grant(cluster, kind, now)
                && let Some(state) = self.clusters.get_mut(cluster)
            {
                state.blocks.insert(block);
                added = true;
            }
        }
        added
    }

    pub(super) fn keep_cluster(&self, cluster: &Label, step: &mut Step) -> Result<(), RecordError> {
        if let Some(state) = self.clusters.get(cluster) {
            let stored = Write::put(state::CLUSTER, cluster.to_string(), state)?;
            step.writes.push(stored);
        }
        Ok(())
    }

    /// Forgets an instance that shall be gone, once no cluster has it any more that could still be
    /// heard of.
    pub(super) fn end_if_gone(&mut self, id: &InstanceId, step: &mut Step) {
        let withdrawn = self.instances.get(id).is_some_and(|it| it.withdrawn);
        // A dead cluster still shall end it, and is told so when it comes back; nobody waits for that.
        let waits = self
            .gone
            .keys()
            .any(|(cluster, it)| it == id && self.standing(cluster) < Standing::Dead);
        if withdrawn && !waits {
            self.instances.remove(id);
            step.writes
                .push(Write::delete(state::INSTANCE, id.to_string()));
        }
    }

    /// A cluster had an instance and has lost it; it is offered it again.
    fn note_lost(
        &mut self,
        cluster: &Label,
        id: &InstanceId,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let Some(instance) = self.instances.get_mut(id) else {
            return Ok(());
        };
        if instance.cluster.as_ref() == Some(cluster) && instance.phase() == Phase::Running {
            instance.detail = format!("cluster {cluster} had lost it");
            let generation = instance.life.generation();
            // From Running back to where a cluster has it and no node.
            let _ = instance.life.hear(generation, Phase::ClusterScheduled);
            self.keep_instance(id, step)?;
        }
        Ok(())
    }

    /// Nothing was heard of a cluster for so long that nobody waits for it.
    pub(super) fn handle_dead(
        &mut self,
        cluster: &Label,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let waiting: Vec<_> = self
            .gone
            .keys()
            .filter(|(it, _)| it == cluster)
            .map(|(_, instance)| instance.clone())
            .collect();
        for instance in waiting {
            self.end_if_gone(&instance, step);
        }
        Ok(())
    }
}
