//! Offers: which cluster is asked next, and when an instance has failed.

use std::collections::BTreeSet;
use std::time::Duration;

use weald_proto::control::{Generation, InstanceReport, Phase, Reason, Refusal, Standing};
use weald_proto::id::Label;
use weald_proto::name::InstanceId;
use weald_proto::spec::ServiceSpec;

use super::{Attempt, Instance, OFFER, RETRY, Root, Step};
use crate::Now;
use crate::explain;
use crate::record::RecordError;
use crate::resources::left;
use crate::schedule::{Candidate, Ranking, rank};
use crate::sync::Want;

impl Attempt {
    pub(super) const fn new(now: Duration, convergence: Duration) -> Self {
        Self {
            asked: BTreeSet::new(),
            offered: None,
            next: now,
            deadline: now.saturating_add(convergence),
        }
    }

    pub(super) fn next_due(&self) -> Duration {
        let next = self.offered.as_ref().map_or(self.next, |(_, until)| *until);
        next.min(self.deadline)
    }
}

impl Root {
    /// Begins to look for a cluster.
    pub(super) fn request(
        &mut self,
        id: &InstanceId,
        now: Now,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let Some(spec) = self.spec_of(id).cloned() else {
            return Ok(());
        };
        let generation = self.next_generation();
        if let Some(instance) = self.instances.get_mut(id) {
            // Generations only grow, so this one is larger than any that it had.
            let _ = instance.life.renew(generation);
        }
        let attempt = Attempt::new(now.elapsed, spec.convergence);
        self.attempts.insert(id.clone(), attempt);
        self.offer_next(id, &spec, now, step)
    }

    /// The time of an attempt's offer, pause or whole has come.
    pub(super) fn handle_due(
        &mut self,
        id: &InstanceId,
        now: Now,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let Some(spec) = self.spec_of(id).cloned() else {
            self.attempts.remove(id);
            return Ok(());
        };
        let Some(attempt) = self.attempts.get_mut(id) else {
            return Ok(());
        };
        let over = attempt.deadline <= now.elapsed;
        let due = attempt
            .offered
            .take_if(|(_, until)| over || *until <= now.elapsed);
        if let Some((cluster, _)) = due {
            attempt.asked.insert(cluster.clone());
            let generation = self.generation(id);
            self.want_gone(&cluster, id, generation, step)?;
            if let Some(side) = self.sides.get_mut(&cluster) {
                side.offered.remove(id);
            }
            let reason = Reason::Deadline {
                after_ms: u64::try_from(OFFER.as_millis()).unwrap_or(u64::MAX),
            };
            let by = cluster.to_string();
            self.record(id, vec![Refusal { by, reason }], None, now);
        } else if let Some(attempt) = self.attempts.get_mut(id) {
            // Whoever could not take it before may be able to now.
            attempt.asked.clear();
        }
        if over {
            let after = spec.convergence.as_secs();
            return self.fail(
                id,
                &format!("no cluster has taken it within {after} s"),
                step,
            );
        }
        self.offer_next(id, &spec, now, step)
    }

    /// A cluster does not take an instance.
    pub(super) fn handle_refused(
        &mut self,
        cluster: &Label,
        id: &InstanceId,
        generation: Generation,
        refusals: Vec<Refusal>,
        now: Now,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let asked = self.instances.get(id).is_some_and(|instance| {
            !instance.withdrawn
                && instance.cluster.as_ref() == Some(cluster)
                && instance.life.generation() == generation
        });
        let (Some(spec), true) = (self.spec_of(id).cloned(), asked) else {
            return Ok(());
        };
        let mut former = None;
        if let Some(side) = self.sides.get_mut(cluster) {
            former = side.wants.withdraw(id, generation);
            side.offered.remove(id);
        }
        if let Some(former) = former {
            self.want_gone(cluster, id, former, step)?;
        }
        self.record(id, refusals, None, now);
        // It may also have had it and have lost it, as when its node rejected it after all.
        let attempt = self.attempts.entry(id.clone());
        let attempt = attempt.or_insert_with(|| Attempt::new(now.elapsed, spec.convergence));
        attempt.offered = None;
        attempt.asked.insert(cluster.clone());
        self.offer_next(id, &spec, now, step)
    }

    /// A cluster says that a life has ended that it is to run: it had taken it, and gives it back. It
    /// has refused it as well, which may be lost.
    pub(super) fn take_back(
        &mut self,
        cluster: &Label,
        report: &InstanceReport,
        now: Now,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let by = cluster.to_string();
        let text = "it could not keep it".to_owned();
        let refusals = vec![Refusal {
            by,
            reason: Reason::Failed { text },
        }];
        let (id, generation) = (&report.instance, report.generation);
        self.handle_refused(cluster, id, generation, refusals, now, step)
    }

    /// Asks the best cluster that was not asked yet, or waits: a node may come back, or something end.
    fn offer_next(
        &mut self,
        id: &InstanceId,
        spec: &ServiceSpec,
        now: Now,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let asked = self.attempts.get(id).map(|it| it.asked.clone());
        let asked = asked.unwrap_or_default();
        let left: Vec<_> = self
            .candidates()
            .into_iter()
            .filter(|it| !asked.contains(&it.name))
            .collect();
        let Ranking { order, refusals } = rank(spec, &left);
        let Some(cluster) = order.into_iter().next() else {
            let news = !refusals.is_empty() && self.record(id, refusals, None, now);
            if let Some(attempt) = self.attempts.get_mut(id) {
                attempt.next = now.elapsed + RETRY;
            }
            return self.let_wait(id, news, step);
        };
        let generation = self.next_generation();
        let Some(instance) = self.instances.get_mut(id) else {
            return Ok(());
        };
        // A new life for every offer: what an earlier one still leads to counts no more.
        let _ = instance.life.renew(generation);
        instance.cluster = Some(cluster.clone());
        instance.detail = format!("offered to cluster {cluster}");
        instance.node = None;
        self.keep_instance(id, step)?;
        if let Some(attempt) = self.attempts.get_mut(id) {
            attempt.offered = Some((cluster.clone(), now.elapsed + OFFER));
        }
        self.forget_gone(&cluster, id, step);
        let side = self.sides.entry(cluster).or_default();
        side.offered.insert(id.clone(), spec.resources);
        let what = spec.clone();
        side.wants.set(id.clone(), Want::Run { generation, what });
        Ok(())
    }

    /// No cluster is asked for now. With `news` there are reasons that are not kept yet.
    fn let_wait(
        &mut self,
        id: &InstanceId,
        news: bool,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let had = self.instances.get(id).map(Instance::phase);
        // One that a cluster had and has given back waits in a new life: whoever takes root up again
        // knows by its phase that somebody is to be asked.
        let generation = (had != Some(Phase::Requested)).then(|| self.next_generation());
        let Some(instance) = self.instances.get_mut(id) else {
            return Ok(());
        };
        let waits = "no cluster can take it now; it waits for one that can";
        if let Some(generation) = generation {
            // Generations only grow, so this one is larger than any that it had.
            let _ = instance.life.renew(generation);
            instance.node = None;
        } else if !news && instance.detail == waits && instance.cluster.is_none() {
            return Ok(());
        }
        instance.cluster = None;
        waits.clone_into(&mut instance.detail);
        self.keep_instance(id, step)
    }

    /// Nobody takes it: it has failed.
    fn fail(&mut self, id: &InstanceId, why: &str, step: &mut Step) -> Result<(), RecordError> {
        self.attempts.remove(id);
        let Some(instance) = self.instances.get_mut(id) else {
            return Ok(());
        };
        instance.detail = format!("{why}; `weald explain {id}` shows every reason");
        instance.cluster = None;
        // Requested is followed by Failed.
        let _ = instance.life.step(Phase::Failed);
        self.keep_instance(id, step)
    }

    fn generation(&self, id: &InstanceId) -> Generation {
        self.instances
            .get(id)
            .map_or(0, |instance| instance.life.generation())
    }

    /// Records what became of an attempt; says whether that is to be kept.
    fn record(
        &mut self,
        id: &InstanceId,
        refusals: Vec<Refusal>,
        taken: Option<String>,
        now: Now,
    ) -> bool {
        let Some(instance) = self.instances.get_mut(id) else {
            return false;
        };
        let last = instance.history.attempts().last();
        let same = last.is_some_and(|it| it.refusals == refusals && it.taken == taken);
        // The same reasons once more say nothing new.
        let news = !same || taken.is_some();
        if news {
            instance.history.record(explain::Attempt {
                generation: instance.life.generation(),
                at: now.unix,
                refusals,
                taken,
            });
        }
        news
    }

    pub(super) fn record_taken(&mut self, id: &InstanceId, now: Now) {
        let Some(instance) = self.instances.get(id) else {
            return;
        };
        let cluster = instance.cluster.as_ref().map(ToString::to_string);
        let node = instance.node.as_ref().map(ToString::to_string);
        self.record(id, Vec::new(), node.or(cluster), now);
    }

    /// Every cluster as it is ranked.
    fn candidates(&self) -> Vec<Candidate> {
        let candidate = |state: &super::ClusterState| {
            let side = self.sides.get(&state.name);
            let greeted = side.is_some_and(|it| it.connected && it.greeted);
            let mut aggregate = side.and_then(|it| it.aggregate.clone());
            if let (Some(sums), Some(side)) = (&mut aggregate, side) {
                // Otherwise all of a burst would go to the cluster that was the best before it.
                for resources in side.offered.values() {
                    sums.free = left(&sums.free, resources);
                }
            }
            let unavailable = if !greeted {
                Some("it is not connected".to_owned())
            } else if self.standing(&state.name) != Standing::Alive {
                Some("nothing was heard of it for seconds".to_owned())
            } else if aggregate.is_none() {
                Some("it has not said yet what it has".to_owned())
            } else {
                None
            };
            Candidate {
                name: state.name.clone(),
                place: state.place,
                organisations: self.organisations_of(state),
                aggregate: aggregate.unwrap_or_default(),
                unavailable,
            }
        };
        self.clusters.values().map(candidate).collect()
    }
}
