//! Root's offers and withdrawals: placing an instance on a node, trying the next one, giving up.

use std::collections::BTreeSet;
use std::time::Duration;

use weald_proto::addr::Dual;
use weald_proto::control::{
    ClusterToRoot, ClusterToWorker, Generation, InstanceReport, Phase, Reason, Refusal, Standing,
};
use weald_proto::id::Label;
use weald_proto::name::InstanceId;
use weald_proto::spec::ServiceSpec;

use super::state::{self, Placement};
use super::{ANSWER, Attempt, Cluster, DRAIN, LogRequest, Step, repeats};
use crate::Now;
use crate::addresses::Holder;
use crate::record::{RecordError, Write};
use crate::schedule::{self, ReserveError};
use crate::sync::{Duty, Want};
use crate::words::refused;
use crate::worker::Work;

/// How many logs are waited for: more than users read at once. Then the oldest is not waited for.
const MAX_LOG_REQUESTS: usize = 1024;

impl Attempt {
    pub(super) const fn new(now: Duration) -> Self {
        Self {
            deadline: now.saturating_add(ANSWER),
            refusals: Vec::new(),
            excluded: BTreeSet::new(),
        }
    }
}

/// What root is told of an instance that is gone.
pub(super) fn terminated(instance: &InstanceId, generation: Generation) -> InstanceReport {
    InstanceReport::new(instance.clone(), generation, Phase::Terminated)
}

impl Cluster {
    /// Root wants an instance to run here.
    pub(super) fn handle_offer(
        &mut self,
        instance: InstanceId,
        generation: Generation,
        spec: ServiceSpec,
        now: Now,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        if !self.duties.is_new(&instance, generation) {
            let outcome = self.duties.handle_run(instance, generation, spec);
            for known in repeats(outcome.actions) {
                self.reporter.repeat(&known);
            }
            return Ok(());
        }
        let mut attempt = Attempt::new(now.elapsed);
        let placed = self.place(&instance, generation, &spec, &mut attempt, now);
        let Some((node, instance_ip)) = placed else {
            step.tell_root(refused(instance, generation, attempt.refusals));
            return Ok(());
        };
        self.leave_former(&instance, &node, step)?;
        self.owners
            .insert(spec.name.application.clone(), spec.organisation.clone());
        self.duties.handle_run(instance.clone(), generation, spec);
        self.keep_duty(&instance, step)?;
        self.settle(&instance, generation, node, instance_ip, step)?;
        self.attempts.insert(instance, attempt);
        Ok(())
    }

    /// Root wants an instance gone.
    pub(super) fn handle_withdraw(
        &mut self,
        instance: InstanceId,
        generation: Generation,
        now: Now,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let outcome = self.duties.handle_end(instance.clone(), generation);
        if outcome.keep.is_none() {
            for known in repeats(outcome.actions) {
                self.reporter.repeat(&known);
            }
            return Ok(());
        }
        self.keep_duty(&instance, step)?;
        self.attempts.remove(&instance);
        if self
            .placements
            .get(&instance)
            .is_some_and(|it| it.published)
        {
            self.unpublish(&instance, step)?;
            self.draining.insert(instance, now.elapsed + DRAIN);
            return Ok(());
        }
        self.end_drained(&instance, now, step)
    }

    /// Has the node end an instance that nobody picks any more.
    pub(super) fn end_drained(
        &mut self,
        instance: &InstanceId,
        now: Now,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        self.draining.remove(instance);
        let generation = match self.duties.get(instance) {
            Some(kept) if kept.duty == Duty::End => kept.generation,
            Some(_) | None => return Ok(()),
        };
        if let Some(placement) = self.placements.get(instance) {
            let node = placement.node.clone();
            self.want_gone(&node, instance, generation, step)?;
            self.stale_leases.insert(node);
        }
        self.end_if_gone(instance, now, step)
    }

    /// A worker does not take an instance: the next one is asked.
    pub(super) fn handle_rejected(
        &mut self,
        node: &Label,
        instance: &InstanceId,
        generation: Generation,
        reason: Reason,
        now: Now,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let worker = self.workers.get_mut(node);
        // What it had accepted before a restart of this cluster it may have lost meanwhile.
        let has_it = worker
            .as_ref()
            .is_some_and(|it| it.wants.is_answered(instance));
        let meant = self
            .placements
            .get(instance)
            .is_some_and(|it| it.node == *node && it.generation == generation && !has_it);
        if !meant {
            return Ok(());
        }
        let former = worker.and_then(|it| it.wants.withdraw(instance, generation));
        if let Some(former) = former {
            self.want_gone(node, instance, former, step)?;
        }
        self.try_next(instance, reason, now, step)
    }

    /// A worker has not answered in time: it shall not have the instance, and the next one is asked.
    pub(super) fn handle_late(
        &mut self,
        instance: &InstanceId,
        now: Now,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let Some((node, generation)) = self
            .placements
            .get(instance)
            .map(|it| (it.node.clone(), it.generation))
        else {
            self.attempts.remove(instance);
            return Ok(());
        };
        self.want_gone(&node, instance, generation, step)?;
        let after_ms = u64::try_from(ANSWER.as_millis()).unwrap_or(u64::MAX);
        self.try_next(instance, Reason::Deadline { after_ms }, now, step)
    }

    /// The placement's node does not take the instance.
    pub(super) fn try_next(
        &mut self,
        instance: &InstanceId,
        reason: Reason,
        now: Now,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let Some(former) = self.placements.get(instance) else {
            return Ok(());
        };
        let (generation, node) = (former.generation, former.node.clone());
        self.stale_leases.insert(node.clone());
        self.inventory.release(instance, generation);
        let attempt = self.attempts.remove(instance);
        let mut attempt = attempt.unwrap_or_else(|| Attempt::new(now.elapsed));
        attempt.deadline = now.elapsed + ANSWER;
        attempt.refusals.push(Refusal {
            by: self.id(&node).to_string(),
            reason,
        });
        attempt.excluded.insert(node);
        let spec = match self.duties.get(instance).map(|kept| &kept.duty) {
            Some(Duty::Run(spec)) => spec.clone(),
            Some(Duty::End) | None => return Ok(()),
        };
        if let Some((node, ip)) = self.place(instance, generation, &spec, &mut attempt, now) {
            self.settle(instance, generation, node, ip, step)?;
            self.attempts.insert(instance.clone(), attempt);
            return Ok(());
        }
        self.duties.give_up(instance, generation);
        let said = self.reporter.get(instance);
        if said.is_some_and(|said| said.generation == generation) {
            // Root counts it as taken, and must hear of this whatever becomes of the refusal.
            self.reporter.set(terminated(instance, generation));
        }
        step.writes
            .push(Write::delete(state::DUTY, instance.to_string()));
        self.forget_placement(instance, now, step)?;
        step.tell_root(refused(instance.clone(), generation, attempt.refusals));
        Ok(())
    }

    /// Chooses a node, reserves there and assigns addresses; the reasons of those that do not fit go
    /// into the attempt.
    fn place(
        &mut self,
        instance: &InstanceId,
        generation: Generation,
        spec: &ServiceSpec,
        attempt: &mut Attempt,
        now: Now,
    ) -> Option<(Label, Dual)> {
        let cluster = self.settings.name.to_string();
        let refuse = |reason| Refusal {
            by: cluster.clone(),
            reason,
        };
        let scheduler = match schedule::choose(spec.scheduler.as_ref(), schedule::DEFAULT) {
            Ok(scheduler) => scheduler,
            Err(reason) => {
                attempt.refusals.push(refuse(reason));
                return None;
            }
        };
        let mut snapshot = self.inventory.clone();
        for node in &attempt.excluded {
            // Its own reason stands in the attempt already.
            snapshot.remove_node(node);
        }
        for ((node, it), ended) in &self.gone {
            // A node that was told to end this life does not begin it again.
            if it == instance && *ended >= generation {
                snapshot.remove_node(node);
            }
        }
        let node = match scheduler.place(spec, &snapshot) {
            Ok(placement) => placement.node.name,
            Err(refusals) => {
                if refusals.is_empty() && attempt.refusals.is_empty() {
                    let text = "it has no nodes".to_owned();
                    attempt.refusals.push(refuse(Reason::Unavailable { text }));
                }
                attempt.refusals.extend(refusals);
                return None;
            }
        };
        if let Err(error) = self.inventory.reserve(&node, instance, generation, spec) {
            let by = self.id(&node).to_string();
            let reason = match error {
                ReserveError::Refused(reason) => reason,
                ReserveError::UnknownNode { .. } | ReserveError::Stale { .. } => Reason::Failed {
                    text: error.to_string(),
                },
            };
            attempt.refusals.push(Refusal { by, reason });
            return None;
        }
        match self
            .addresses
            .assign(&Holder::Instance(instance.clone()), now)
        {
            Ok(ip) => Some((node, ip)),
            Err(_) => {
                self.inventory.release(instance, generation);
                attempt.refusals.push(refuse(Reason::NoAddress));
                None
            }
        }
    }

    /// An earlier life on another node than the new one ends there.
    fn leave_former(
        &mut self,
        instance: &InstanceId,
        node: &Label,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let Some(former) = self.placements.get(instance) else {
            return Ok(());
        };
        let (former_node, generation) = (former.node.clone(), former.generation);
        if former_node != *node {
            self.want_gone(&former_node, instance, generation, step)?;
            self.stale_leases.insert(former_node);
        }
        Ok(())
    }

    /// Writes down where an instance goes, and has the node run it.
    fn settle(
        &mut self,
        instance: &InstanceId,
        generation: Generation,
        node: Label,
        instance_ip: Dual,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let Some(Duty::Run(spec)) = self.duties.get(instance).map(|kept| kept.duty.clone()) else {
            return Ok(());
        };
        // A row of an earlier life stands until one of this life takes its place. That it was taken out
        // is known from the record that is replaced here, or that rests no more, and may not have been
        // told: this life says it again.
        let former = self.placements.get(instance);
        let (changes, published) = match former {
            Some(former) if former.generation == generation => (former.changes, former.published),
            Some(former) if former.published => (0, true),
            Some(former) => (former.changes.min(1), false),
            // It may have given this life up before.
            None => {
                let ended = u32::from(self.has_taken_out(instance));
                (self.row_changes(instance, generation).max(ended), false)
            }
        };
        let placement = Placement {
            instance: instance.clone(),
            generation,
            organisation: Some(spec.organisation.clone()),
            node: node.clone(),
            instance_ip,
            accepted: false,
            phase: Phase::NodeScheduled,
            detail: String::new(),
            exit_status: None,
            changes,
            published,
        };
        let key = instance.to_string();
        step.writes
            .push(Write::put(state::PLACEMENT, key, &placement)?);
        for ip in instance_ip.iter() {
            // What it had before and gets back rests no more.
            step.writes
                .push(Write::delete(state::RESTING, ip.to_string()));
        }
        self.placements.insert(instance.clone(), placement);
        if published {
            self.unpublish(instance, step)?;
        } else {
            self.sign_row(instance, step);
        }
        self.forget_gone(&node, instance, step);
        let what = Work { spec, instance_ip };
        let worker = self.workers.entry(node.clone()).or_default();
        worker
            .wants
            .set(instance.clone(), Want::Run { generation, what });
        self.stale_leases.insert(node);
        Ok(())
    }

    /// Says that an instance is gone which root wants gone, once no node has it any more that
    /// could still be heard of.
    pub(super) fn end_if_gone(
        &mut self,
        instance: &InstanceId,
        now: Now,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let generation = match self.duties.get(instance) {
            Some(kept) if kept.duty == Duty::End => kept.generation,
            Some(_) | None => return Ok(()),
        };
        // A dead node still shall end it, and is told so when it comes back; nobody waits for that.
        let waits = self.draining.contains_key(instance)
            || self
                .gone
                .keys()
                .any(|(node, it)| it == instance && self.standing(node) < Standing::Dead);
        if !waits {
            self.forget_placement(instance, now, step)?;
            self.reporter.set(terminated(instance, generation));
        }
        Ok(())
    }

    /// Gives back everything that an instance had.
    fn forget_placement(
        &mut self,
        instance: &InstanceId,
        now: Now,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        self.attempts.remove(instance);
        self.unpublish(instance, step)?;
        let Some(placement) = self.placements.remove(instance) else {
            return Ok(());
        };
        let row = self.removed_row(&placement);
        self.stale_leases.insert(placement.node);
        self.inventory.release(instance, Generation::MAX);
        let holder = Holder::Instance(instance.clone());
        for ip in self.addresses.release(&holder, now).iter() {
            let (holder, row) = (holder.clone(), row.clone());
            let resting = state::StoredResting { ip, holder, row };
            step.writes
                .push(Write::put(state::RESTING, ip.to_string(), &resting)?);
        }
        step.writes
            .push(Write::delete(state::PLACEMENT, instance.to_string()));
        Ok(())
    }

    /// Forgets on disk the addresses that have rested long enough.
    pub(super) fn forget_rested(&mut self, now: Now, step: &mut Step) {
        for ip in self.addresses.handle_timeout(now) {
            step.writes
                .push(Write::delete(state::RESTING, ip.to_string()));
        }
    }

    /// Asks the worker that has an instance for its log.
    pub(super) fn read_logs(
        &mut self,
        request: u64,
        instance: InstanceId,
        lines: u32,
        step: &mut Step,
    ) {
        let node = self.placements.get(&instance).map(|it| it.node.clone());
        let connected = |node: &Label| self.workers.get(node).is_some_and(|it| it.connected);
        let refusal = match &node {
            None => format!("cluster {} does not have {instance}", self.settings.name),
            Some(node) if !connected(node) => {
                format!("node {} is not connected", self.id(node))
            }
            Some(node) => {
                self.requests += 1;
                if self.logs.len() >= MAX_LOG_REQUESTS {
                    self.logs.pop_first();
                }
                let asked = LogRequest {
                    of_root: request,
                    node: node.clone(),
                };
                self.logs.insert(self.requests, asked);
                let message = ClusterToWorker::ReadLogs {
                    request: self.requests,
                    instance,
                    lines,
                };
                step.tell_worker(node, message);
                return;
            }
        };
        step.tell_root(ClusterToRoot::Logs {
            request,
            lines: Err(refusal),
        });
    }
}
