//! What root says to the cluster, and what root is told.

use std::time::Duration;

use weald_proto::control::{ClusterToRoot, RootToCluster, VERSION};
use weald_proto::session::ClusterToNet;
use weald_proto::statement::{Signed, Statement};

use super::state;
use super::{ASK_AGAIN, Cluster, Effect, HEARTBEAT, NODES_EVERY, Step};
use crate::Now;
use crate::interests::in_messages;
use crate::record::{RecordError, Write};

impl Cluster {
    pub(super) fn connect_root(&mut self, step: &mut Step) {
        self.root_connected = true;
        self.welcomed = false;
        self.reporter.disconnected();
        self.duties.connected();
        self.told_interests.clear();
        self.partial.clear();
        self.asked_addresses = None;
        step.tell_root(ClusterToRoot::Hello {
            version: VERSION,
            place: self.settings.place,
            grant: self.grant.as_ref().map_or(0, |it| it.generation),
            revocations: self.revocations.as_ref().map_or(0, |(epoch, _)| *epoch),
        });
    }

    pub(super) fn handle_root(
        &mut self,
        message: RootToCluster,
        now: Now,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        match message {
            // One that comes twice says nothing new.
            RootToCluster::Welcome { .. } if self.welcomed => {}
            RootToCluster::Welcome { version } if version == VERSION => {
                self.welcomed = true;
                self.heartbeats = 0;
                self.last_heartbeat = None;
                self.last_nodes = None;
                self.reporter.connected();
                self.new_rows = self.own_rows();
            }
            RootToCluster::Welcome { version } => {
                let text = format!(
                    "root speaks version {version} of the control protocol, this cluster \
                     {VERSION}; run the same release on both"
                );
                step.effects.push(Effect::CloseRoot(text));
            }
            RootToCluster::Grant(signed) | RootToCluster::Revocations(signed) => {
                self.take_signed(signed, now, step)?;
            }
            RootToCluster::Offer {
                instance,
                generation,
                spec,
                within_ms: _,
            } => self.handle_offer(instance, generation, *spec, now, step)?,
            RootToCluster::Withdraw {
                instance,
                generation,
            } => self.handle_withdraw(instance, generation, now, step)?,
            // Meant for an earlier connection. All of them come again, behind the grants that they need.
            RootToCluster::Rows { .. } | RootToCluster::Unknown(_) if !self.welcomed => {}
            RootToCluster::Rows {
                complete,
                rows,
                more,
            } => self.take_rows(&complete, rows, more, now, step),
            RootToCluster::Unknown(application) => self.take_unknown(application),
            RootToCluster::ReadLogs {
                request,
                instance,
                lines,
            } => self.read_logs(request, instance, lines, step),
            RootToCluster::Acknowledged { sequence } => {
                for (ended, generation) in self.reporter.handle_acknowledged(sequence) {
                    if self.duties.handle_known_end(&ended, generation) {
                        step.writes
                            .push(Write::delete(state::DUTY, ended.to_string()));
                    }
                }
            }
            // Certificates are the shell's, which takes them before this is heard.
            RootToCluster::Renewed(_) => {}
        }
        Ok(())
    }

    /// Takes up a grant or the revocations, of which only the newest count.
    pub(super) fn take_signed(
        &mut self,
        signed: Signed,
        now: Now,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let statement = match self.trust.judge(&signed, now.unix) {
            Ok(statement) => statement,
            Err(why) => {
                let text = format!("a statement of root is not believed: {why}");
                step.effects.push(Effect::Fault(text));
                return Ok(());
            }
        };
        match statement {
            Statement::Grant(grant) => {
                let known = self.grants.get(&grant.cluster);
                if known.is_some_and(|(generation, _)| *generation >= grant.generation) {
                    return Ok(());
                }
                let (cluster, generation) = (grant.cluster.clone(), grant.generation);
                let key = cluster.to_string();
                step.writes.push(Write::put(state::SIGNED, key, &signed)?);
                self.tell_nets(&ClusterToNet::Grant(signed.clone()), step);
                self.grants.insert(cluster, (generation, signed));
                if grant.cluster == self.settings.name {
                    self.addresses.take_grant(&grant);
                    self.grant = Some(grant);
                    self.address_nodes(now, step)?;
                }
            }
            Statement::Revocations(list) => {
                if self
                    .revocations
                    .as_ref()
                    .is_some_and(|(epoch, _)| *epoch >= list.epoch)
                {
                    return Ok(());
                }
                let key = state::REVOCATIONS.to_owned();
                step.writes.push(Write::put(state::SIGNED, key, &signed)?);
                let told = ClusterToNet::Revocations(signed.clone());
                self.tell_nets(&told, step);
                self.revocations = Some((list.epoch, signed));
            }
            Statement::Service(_)
            | Statement::Instance(_)
            | Statement::Node(_)
            | Statement::Relay(_)
            | Statement::Lease(_) => {
                let text = "root sent another statement for a grant or revocations".to_owned();
                step.effects.push(Effect::Fault(text));
            }
        }
        Ok(())
    }

    pub(super) fn speak_to_root(&mut self, now: Now, step: &mut Step) {
        if !self.welcomed {
            return;
        }
        let due =
            |last: Option<Duration>, every| last.is_none_or(|last| now.elapsed >= last + every);
        for rows in in_messages(std::mem::take(&mut self.new_rows)) {
            step.tell_root(ClusterToRoot::Rows(rows));
        }
        let interests = self.interests();
        if interests != self.told_interests {
            let all = interests.iter().cloned().collect();
            step.tell_root(ClusterToRoot::Interests(all));
            // Root says no more of the others, and all of it when they are asked about again.
            self.answered.retain(|it| interests.contains(it));
            self.told_interests = interests;
        }
        if let Some(sent) = self.reporter.poll(now.elapsed) {
            step.tell_root(ClusterToRoot::Report {
                sequence: sent.sequence,
                complete: sent.complete,
                instances: sent.instances,
            });
        }
        if due(self.last_heartbeat, HEARTBEAT) {
            self.heartbeats += 1;
            self.last_heartbeat = Some(now.elapsed);
            step.tell_root(ClusterToRoot::Heartbeat {
                sequence: self.heartbeats,
                aggregate: self.inventory.aggregate(),
            });
        }
        if due(self.last_nodes, NODES_EVERY) {
            self.last_nodes = Some(now.elapsed);
            step.tell_root(ClusterToRoot::Nodes(self.node_reports().collect()));
        }
        self.ask_for_addresses(now, step);
    }

    fn ask_for_addresses(&mut self, now: Now, step: &mut Step) {
        let Some(grant) = self.grant.as_ref().map(|it| it.generation) else {
            return;
        };
        let asked = self
            .asked_addresses
            .is_some_and(|(generation, at)| generation == grant && now.elapsed < at + ASK_AGAIN);
        if !asked && !self.addresses.used_up(now).is_empty() {
            self.asked_addresses = Some((grant, now.elapsed));
            step.tell_root(ClusterToRoot::NeedAddresses { grant });
        }
    }
}
