//! The rows: what root signs of services, what clusters have signed, and who is told.

use std::collections::BTreeSet;

use weald_proto::addr::Dual;
use weald_proto::control::RootToCluster;
use weald_proto::id::{Label, Organisation};
use weald_proto::name::ServiceName;
use weald_proto::statement::{ServiceStatement, Signed, Statement};
use weald_proto::table::{AcceptPolicy, LanePolicy};

use super::state::{self, Removed};
use super::{Effect, Root, Service, Step, signed_or_fault};
use crate::Now;
use crate::cluster::LEASE_LIFE;
use crate::interests::Subject;
use crate::record::Write;
use crate::trust;

impl Root {
    /// Whose service it is, or was while its instances are being stopped.
    #[must_use]
    pub fn owner_of(&self, service: &ServiceName) -> Option<&Organisation> {
        let known = self.service_named(service);
        let removed = || self.removed.get(service).map(|it| &it.organisation);
        known.map(|it| &it.spec.organisation).or_else(removed)
    }

    /// Signs the row of a service.
    pub(super) fn sign_service(&mut self, service: &Service, step: &mut Step) {
        let spec = &service.spec;
        let statement = Statement::Service(ServiceStatement {
            name: spec.name.clone(),
            organisation: spec.organisation.clone(),
            generation: service.generation,
            removed: false,
            round_robin: spec.round_robin,
            closest: spec.closest,
            lane: spec.lane,
            accept: spec.accept,
        });
        self.sign(&statement, step);
    }

    /// Signs that a service is gone.
    pub(super) fn sign_removed(&mut self, removed: &Removed, step: &mut Step) {
        let statement = Statement::Service(ServiceStatement {
            name: removed.name.clone(),
            organisation: removed.organisation.clone(),
            generation: removed.generation,
            removed: true,
            round_robin: Dual::default(),
            closest: Dual::default(),
            lane: LanePolicy::Auto,
            accept: AcceptPolicy::Late,
        });
        self.sign(&statement, step);
    }

    fn sign(&mut self, statement: &Statement, step: &mut Step) {
        if let Some(signed) = signed_or_fault(self.trust.sign(statement), step)
            && let Some(row) = trust::row(statement, signed)
        {
            self.rows.put(row);
        }
    }

    /// Rows that a cluster signed.
    pub(super) fn take_rows(
        &mut self,
        cluster: &Label,
        rows: Vec<Signed>,
        now: Now,
        step: &mut Step,
    ) {
        for signed in rows {
            match self.trust.judge(&signed, now.unix) {
                Ok(statement) => {
                    if let Some(row) = trust::row(&statement, signed) {
                        self.rows.put(row);
                    }
                }
                Err(why) => {
                    let text = format!("a row from cluster {cluster} is not believed: {why}");
                    step.effects.push(Effect::Fault(text));
                }
            }
        }
    }

    /// Tells every cluster what has changed of what it wants and may know.
    pub(super) fn speak_rows(&mut self, step: &mut Step) {
        let listeners: Vec<_> = self.rows.listeners().cloned().collect();
        for cluster in listeners {
            let Some(state) = self.clusters.get(&cluster) else {
                continue;
            };
            let hosted = self.organisations_of(state);
            let wanted = self.interests.get(&cluster).cloned().unwrap_or_default();
            // Names of organisations that it does not host do not exist for it.
            let visible = wanted.into_iter().filter(|application| {
                let mut owners = self.applications.values();
                let owner = owners.find(|it| it.name == *application);
                owner.is_none_or(|it| hosted.contains(&it.organisation))
            });
            let visible: BTreeSet<_> = visible.collect();
            let interests = self.interests.get(&cluster);
            let foreign: Vec<_> = interests
                .into_iter()
                .flatten()
                .filter(|application| !visible.contains(*application))
                .cloned()
                .collect();
            self.rows.set_interests(&cluster, visible);
            if let Some(interests) = self.interests.get_mut(&cluster) {
                for application in foreign {
                    interests.remove(&application);
                    step.tell(&cluster, RootToCluster::Unknown(application));
                }
            }
            if !self.rows.is_due(&cluster) {
                continue;
            }
            let mut update = self.rows.poll(&cluster);
            for application in std::mem::take(&mut update.unknown) {
                step.tell(&cluster, RootToCluster::Unknown(application));
            }
            for part in update.into_parts() {
                let rows = RootToCluster::Rows {
                    complete: part.complete,
                    rows: part.rows,
                    more: part.more,
                };
                step.tell(&cluster, rows);
            }
        }
    }

    /// Forgets the services that are gone, and what clusters have said of their own that is, once no
    /// older row can come back.
    pub(super) fn forget_removed(&mut self, now: Now, step: &mut Step) {
        let life = LEASE_LIFE.as_secs();
        let old: Vec<_> = self
            .removed
            .values()
            .filter(|it| it.at + life <= now.unix)
            .map(|it| it.name.clone())
            .collect();
        for name in old {
            self.removed.remove(&name);
            step.writes
                .push(Write::delete(state::REMOVED, name.to_string()));
            self.rows.forget(&Subject::Service(name));
        }
        self.rows.forget_old(now.elapsed, LEASE_LIFE);
    }
}
