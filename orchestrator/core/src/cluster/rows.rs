//! The rows: what this cluster signs of its instances, nodes and relays, and what root passes on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use weald_proto::addr::Dual;
use weald_proto::control::{Generation, Phase, Standing};
use weald_proto::id::{Label, NodeId, Organisation, RelayId};
use weald_proto::name::{ApplicationName, InstanceId};
use weald_proto::statement::{
    InstanceStatement, NodeStatement, RelayStatement, Signed, Statement, row_changes,
    row_generation,
};

use super::state::{self, Placement, RemovedRow};
use super::{Cluster, Effect, SETTLE, Step};
use crate::Now;
use crate::interests::{Row, Subject};
use crate::record::{RecordError, Write};
use crate::sync::Duty;
use crate::trust;

/// The generation of the next row of a node or relay, or of a lease: the time of the change. A count would begin anew
/// when a cluster is removed and joins again with an empty disk, and be older than what all others
/// have of its former life.
pub(super) fn next_generation(last: Generation, now: Now) -> Generation {
    (last + 1).max(now.unix)
}

impl Cluster {
    /// Brings the row of an instance in line with how it is: in the tables while it runs on a node
    /// that is not out of them.
    pub(super) fn publish(
        &mut self,
        instance: &InstanceId,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let Some(placement) = self.placements.get(instance) else {
            return Ok(());
        };
        let duty = self.duties.get(instance).map(|kept| &kept.duty);
        let ending = duty == Some(&Duty::End);
        let visible = placement.phase == Phase::Running
            && self.standing(&placement.node) < Standing::Gone
            && !ending;
        if visible && !placement.published && self.settles(instance) {
            let at = self.elapsed + SETTLE;
            let at = *self.settling.entry(instance.clone()).or_insert(at);
            if at > self.elapsed {
                return Ok(());
            }
        }
        self.settling.remove(instance);
        self.set_published(instance, visible, step)
    }

    /// Whether an instance is given time until it is in the tables. One with TCP ports listens by
    /// now; of others nobody knows.
    fn settles(&self, instance: &InstanceId) -> bool {
        let listens = match self.duties.get(instance).map(|kept| &kept.duty) {
            Some(Duty::Run(spec)) => !spec.tcp_ports().is_empty(),
            Some(Duty::End) | None => false,
        };
        !listens && self.others_may_answer(instance)
    }

    /// Whether another instance of the same service may be in the tables: one is, or root has not
    /// said yet which those of other clusters are.
    fn others_may_answer(&self, instance: &InstanceId) -> bool {
        if !self.answered.contains(&instance.service.application) {
            return true;
        }
        let first = InstanceId {
            service: instance.service.clone(),
            number: 0,
        };
        let first = Subject::Instance(first);
        let mut others = self.rows.rows_from(&first);
        others.any(|row| {
            matches!(&row.subject, Subject::Instance(other)
                if other.service == instance.service && other != instance && !row.removed)
        })
    }

    /// Takes an instance out of the tables.
    pub(super) fn unpublish(
        &mut self,
        instance: &InstanceId,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        self.set_published(instance, false, step)
    }

    fn set_published(
        &mut self,
        instance: &InstanceId,
        published: bool,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let Some(placement) = self.placements.get_mut(instance) else {
            return Ok(());
        };
        if placement.published == published {
            return Ok(());
        }
        placement.published = published;
        placement.changes += 1;
        let stored = Write::put(state::PLACEMENT, instance.to_string(), placement)?;
        step.writes.push(stored);
        self.sign_row(instance, step);
        Ok(())
    }

    /// Whose a placement is. An application may have another owner by now.
    pub(super) fn owner_of<'a>(&'a self, placement: &'a Placement) -> Option<&'a Organisation> {
        let known = || self.owners.get(&placement.instance.service.application);
        placement.organisation.as_ref().or_else(known)
    }

    /// Signs the row of an instance as it stands.
    pub(super) fn sign_row(&mut self, instance: &InstanceId, step: &mut Step) {
        let Some(placement) = self.placements.get(instance) else {
            return;
        };
        let (Some(organisation), true) = (self.owner_of(placement), placement.changes > 0) else {
            return;
        };
        let instance_ip = if placement.published {
            placement.instance_ip
        } else {
            Dual::default()
        };
        let statement = Statement::Instance(InstanceStatement {
            instance: instance.clone(),
            organisation: organisation.clone(),
            generation: row_generation(placement.generation, placement.changes),
            removed: !placement.published,
            node: self.id(&placement.node),
            instance_ip,
        });
        self.sign(&statement, step);
    }

    /// What the last row of a placement says that is forgotten.
    pub(super) fn removed_row(&self, placement: &Placement) -> Option<RemovedRow> {
        let owner = self.owner_of(placement)?;
        (placement.changes > 0).then(|| RemovedRow {
            organisation: owner.clone(),
            generation: row_generation(placement.generation, placement.changes),
            node: placement.node.clone(),
        })
    }

    /// How often the row of an instance has changed in a life that this cluster may have had before.
    pub(super) fn row_changes(&self, instance: &InstanceId, life: Generation) -> u32 {
        let row = self.rows.get(&Subject::Instance(instance.clone()));
        row.map_or(0, |row| row_changes(row.generation, life))
    }

    /// Whether this cluster has taken an instance out of the tables, and nobody has said anything since.
    pub(super) fn has_taken_out(&self, instance: &InstanceId) -> bool {
        let row = self.rows.get(&Subject::Instance(instance.clone()));
        row.is_some_and(|row| {
            row.removed && row.signed.cluster.as_ref() == Some(&self.settings.name)
        })
    }

    /// Signs once more that an instance is out of the tables whose placement is forgotten.
    pub(super) fn sign_removed(&mut self, instance: InstanceId, row: RemovedRow, step: &mut Step) {
        let statement = Statement::Instance(InstanceStatement {
            instance,
            organisation: row.organisation,
            generation: row.generation,
            removed: true,
            node: self.id(&row.node),
            instance_ip: Dual::default(),
        });
        self.sign(&statement, step);
    }

    /// Signs a row, and lets everybody know who is to.
    fn sign(&mut self, statement: &Statement, step: &mut Step) {
        match self.trust.sign(statement) {
            Ok(signed) => {
                if let Some(row) = trust::row(statement, signed.clone())
                    && self.rows.put(row)
                {
                    self.new_rows.push(signed);
                }
            }
            Err(why) => step.effects.push(Effect::Fault(why)),
        }
    }

    /// The row of a node has to say something else, or has to go or to come back.
    pub(super) fn change_node_row(
        &mut self,
        node: &Label,
        now: Now,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let standing = self.standing(node);
        let Some(known) = self.nodes.get_mut(node) else {
            return Ok(());
        };
        let published = standing < Standing::Gone && !known.node_ip.is_empty();
        let subject = Subject::Node(NodeId::new(self.settings.name.clone(), node.clone()));
        if published || known.published {
            let before = self.rows.get(&subject).map(|row| row.removed);
            let same = before == Some(!published) && known.published == published;
            // Of a row that stands nothing but its addresses changes, which their writer counts.
            if same && known.row == self.rows.get(&subject).map_or(0, |row| row.generation) {
                return Ok(());
            }
            known.published = published;
            known.row = next_generation(known.row, now);
            step.writes
                .push(Write::put(state::NODE, node.to_string(), known)?);
            self.publish_node(node, step);
        }
        Ok(())
    }

    /// Signs the row of a node as it stands.
    pub(super) fn publish_node(&mut self, node: &Label, step: &mut Step) {
        let id = self.id(node);
        let Some(known) = self.nodes.get(node).filter(|it| it.row > 0) else {
            return;
        };
        let (node_ip, addresses) = if known.published {
            (known.node_ip, known.addresses.clone())
        } else {
            (Dual::default(), Vec::new())
        };
        let statement = Statement::Node(NodeStatement {
            node: id,
            generation: known.row,
            removed: !known.published,
            node_ip,
            addresses,
        });
        self.sign(&statement, step);
    }

    /// Takes up the configured relays.
    pub(super) fn set_relays(
        &mut self,
        relays: Vec<(RelayId, Vec<SocketAddr>)>,
        now: Now,
        step: &mut Step,
    ) {
        let wanted: BTreeMap<_, _> = relays.into_iter().collect();
        let known: BTreeSet<_> = self.relays.keys().chain(wanted.keys()).cloned().collect();
        for relay in known {
            let addresses = wanted.get(&relay).cloned().unwrap_or_default();
            let before = self.relays.get(&relay);
            if before.is_some_and(|(_, before)| *before == addresses) {
                continue;
            }
            let generation = next_generation(before.map_or(0, |(last, _)| *last), now);
            let statement = Statement::Relay(RelayStatement {
                relay: relay.clone(),
                generation,
                removed: addresses.is_empty(),
                addresses: addresses.clone(),
            });
            self.relays.insert(relay, (generation, addresses));
            self.sign(&statement, step);
        }
    }

    /// Every row that this cluster has signed.
    pub(super) fn own_rows(&self) -> Vec<Signed> {
        let own = self.rows.rows().map(|row| &row.signed);
        own.filter(|signed| signed.cluster.as_ref() == Some(&self.settings.name))
            .cloned()
            .collect()
    }

    /// Rows that root passes on; with `more`, its next ones belong to them.
    pub(super) fn take_rows(
        &mut self,
        complete: &[ApplicationName],
        rows: Vec<Signed>,
        more: bool,
        now: Now,
        step: &mut Step,
    ) {
        for signed in rows {
            let statement = match self.trust.judge(&signed, now.unix) {
                Ok(statement) => statement,
                Err(why) => {
                    let text = format!("a row is not believed: {why}");
                    step.effects.push(Effect::Fault(text));
                    continue;
                }
            };
            if let Statement::Service(service) = &statement {
                let application = service.name.application.clone();
                self.owners
                    .insert(application, service.organisation.clone());
            }
            let Some(row) = trust::row(&statement, signed) else {
                continue;
            };
            if more || !complete.is_empty() {
                self.partial.insert(row.subject.clone());
            }
            if row.signed.cluster.as_ref() != Some(&self.settings.name) {
                self.rows.put(row);
            }
        }
        if more {
            return;
        }
        let own = self.settings.name.clone();
        let is_own = |row: &Row| row.signed.cluster.as_ref() == Some(&own);
        let told = std::mem::take(&mut self.partial);
        for application in complete {
            self.rows.complete(application, &told, is_own);
            self.answered.insert(application.clone());
        }
    }

    /// Root says that there is no such application.
    pub(super) fn take_unknown(&mut self, application: ApplicationName) {
        let own = self.settings.name.clone();
        let is_own = |row: &Row| row.signed.cluster.as_ref() == Some(&own);
        self.rows.complete(&application, &BTreeSet::new(), is_own);
        self.answered.insert(application);
    }

    /// Every application whose rows are needed here.
    pub(super) fn interests(&self) -> BTreeSet<ApplicationName> {
        let wanted = self.nets.values().flat_map(|net| net.wanted.iter());
        let hosted = self.duties.iter();
        let hosted = hosted.map(|(instance, _)| &instance.service.application);
        wanted.chain(hosted).cloned().collect()
    }
}
