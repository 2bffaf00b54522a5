//! What users and operators want: each command is checked whole before anything changes.

use weald_proto::control::{Phase, RootToCluster};
use weald_proto::name::{InstanceId, ServiceName};

use super::state::{self, Removed};
use super::{Command, CommandError, Done, Instance, MAX_INSTANCES, Root, Scope, Service, Step};
use crate::Now;
use crate::record::{RecordError, Write};

impl Root {
    /// Does what somebody wants; the answer may be told once the step is committed.
    ///
    /// # Errors
    /// Why nothing was done.
    pub fn command(
        &mut self,
        command: Command,
        scope: &Scope,
        now: Now,
    ) -> Result<(Step, Done), CommandError> {
        let mut step = Step::default();
        let done = match command {
            Command::Apply(draft, organisation) => {
                self.apply(vec![draft], &organisation, false, scope, now, &mut step)?
            }
            Command::ApplyAll {
                drafts,
                organisation,
                new,
            } => self.apply(drafts, &organisation, new, scope, now, &mut step)?,
            Command::Describe(id, description) => {
                self.describe(&id, description, scope, &mut step)?;
                Done::default()
            }
            Command::DeleteApplication(id) => {
                self.delete_application(&id, scope, now, &mut step)?;
                Done::default()
            }
            Command::DeleteService(id) => {
                let service = self.scoped_service(&id, scope)?.clone();
                self.delete_service(&service, now, &mut step)?;
                Done::default()
            }
            Command::Deploy(id) => {
                let service = self.scoped_service(&id, scope)?.clone();
                let there = self.instances_of(&service.spec.name).len();
                check_number(
                    &service,
                    u32::try_from(there).unwrap_or(u32::MAX).saturating_add(1),
                )?;
                self.add(&service, 1, now, &mut step)?
            }
            Command::Scale(id, to) => {
                let service = self.scoped_service(&id, scope)?.clone();
                self.scale(&service, to, now, &mut step)?
            }
            Command::Undeploy(id, number) => {
                let service = self.scoped_service(&id, scope)?.clone();
                self.undeploy(&service, number, &mut step)?;
                Done::default()
            }
            Command::AddCluster {
                name,
                key,
                organisations,
                owner,
            } => {
                self.add_cluster(name, key, organisations, owner, now, &mut step)?;
                Done::default()
            }
            Command::RemoveCluster(name) => {
                self.remove_cluster(&name, now, &mut step)?;
                Done::default()
            }
            Command::Revoke(who) => {
                self.revoke(who, &mut step)?;
                Done::default()
            }
        };
        self.finish(now, &mut step)?;
        Ok((step, done))
    }

    /// Asks for the end of an instance's log; the answer comes as
    /// [`Effect::Logs`](super::Effect::Logs) with the number that is returned.
    ///
    /// # Errors
    /// There is no such instance, or no cluster has it.
    pub fn read_logs(&mut self, id: &InstanceId, lines: u32) -> Result<(Step, u64), CommandError> {
        let cluster = self.instances.get(id).and_then(|it| it.cluster.clone());
        let cluster = cluster.ok_or_else(|| CommandError::unknown("log of", id))?;
        self.requests += 1;
        let request = self.requests;
        self.logs.insert(request, cluster.clone());
        let mut step = Step::default();
        let instance = id.clone();
        step.tell(
            &cluster,
            RootToCluster::ReadLogs {
                request,
                instance,
                lines,
            },
        );
        Ok((step, request))
    }

    /// Forgets a request for a log whose answer nobody waits for any more.
    pub fn forget_logs(&mut self, request: u64) {
        self.logs.remove(&request);
    }

    fn delete_application(
        &mut self,
        id: &str,
        scope: &Scope,
        now: Now,
        step: &mut Step,
    ) -> Result<(), CommandError> {
        let known = self.applications.get(id);
        known
            .filter(|it| scope.has(&it.organisation))
            .ok_or_else(|| CommandError::unknown("application", id))?;
        let services: Vec<_> = self
            .services
            .values()
            .filter(|it| it.application == id)
            .cloned()
            .collect();
        for service in services {
            self.delete_service(&service, now, step)?;
        }
        self.applications.remove(id);
        step.writes
            .push(Write::delete(state::APPLICATION, id.to_owned()));
        Ok(())
    }

    fn delete_service(
        &mut self,
        service: &Service,
        now: Now,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        self.undeploy_all(&service.spec.name, step)?;
        let removed = Removed {
            name: service.spec.name.clone(),
            organisation: service.spec.organisation.clone(),
            generation: self.next_generation(),
            round_robin: service.spec.round_robin,
            closest: service.spec.closest,
            at: now.unix,
        };
        let key = removed.name.to_string();
        step.writes.push(Write::put(state::REMOVED, key, &removed)?);
        step.writes
            .push(Write::delete(state::SERVICE, service.id.clone()));
        self.addresses.release(&removed.name, now);
        self.sign_removed(&removed, step);
        self.removed.insert(removed.name.clone(), removed);
        self.services.remove(&service.id);
        Ok(())
    }

    fn scoped_service(&self, id: &str, scope: &Scope) -> Result<&Service, CommandError> {
        let known = self.services.get(id);
        known
            .filter(|it| scope.has(&it.spec.organisation))
            .ok_or_else(|| CommandError::unknown("service", id))
    }

    fn instances_of(&self, service: &ServiceName) -> Vec<InstanceId> {
        let all = self.instances.values();
        all.filter(|it| it.id.service == *service && !it.withdrawn)
            .map(|it| it.id.clone())
            .collect()
    }

    fn scale(
        &mut self,
        service: &Service,
        to: u32,
        now: Now,
        step: &mut Step,
    ) -> Result<Done, CommandError> {
        let name = &service.spec.name;
        check_number(service, to)?;
        let has_failed = |id: &InstanceId| {
            let known = self.instances.get(id);
            known.is_some_and(|it| it.phase() == Phase::Failed)
        };
        // What has failed does not run, and others take its place.
        let all = self.instances_of(name);
        let (failed, there): (Vec<_>, Vec<_>) = all.into_iter().partition(has_failed);
        for id in &failed {
            self.withdraw(id, step)?;
        }
        let count = u32::try_from(there.len()).unwrap_or(u32::MAX);
        // The newest go first.
        let excess = usize::try_from(count.saturating_sub(to)).unwrap_or(usize::MAX);
        for id in there.iter().rev().take(excess) {
            self.withdraw(id, step)?;
        }
        self.add(service, to.saturating_sub(count), now, step)
    }

    /// Has more instances of a service run.
    fn add(
        &mut self,
        service: &Service,
        number: u32,
        now: Now,
        step: &mut Step,
    ) -> Result<Done, CommandError> {
        let name = &service.spec.name;
        let mut done = Done::default();
        if number > 0 {
            self.must_trust(&service.spec.organisation)?;
        }
        for _ in 0..number {
            let Some(known) = self.services.get_mut(&service.id) else {
                break;
            };
            let id = InstanceId {
                service: name.clone(),
                number: known.next_instance,
            };
            known.next_instance += 1;
            let stored = Write::put(state::SERVICE, service.id.clone(), known)?;
            step.writes.push(stored);
            self.instances.insert(id.clone(), Instance::new(id.clone()));
            self.request(&id, now, step)?;
            done.instances.push(id);
        }
        Ok(done)
    }

    fn undeploy(
        &mut self,
        service: &Service,
        number: Option<u32>,
        step: &mut Step,
    ) -> Result<(), CommandError> {
        let Some(number) = number else {
            return Ok(self.undeploy_all(&service.spec.name, step)?);
        };
        let id = InstanceId {
            service: service.spec.name.clone(),
            number,
        };
        if self.instances.get(&id).is_none_or(|it| it.withdrawn) {
            return Err(CommandError::unknown("instance", id));
        }
        Ok(self.withdraw(&id, step)?)
    }

    pub(super) fn undeploy_all(
        &mut self,
        service: &ServiceName,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        for id in self.instances_of(service) {
            self.withdraw(&id, step)?;
        }
        Ok(())
    }

    /// An instance shall be gone.
    fn withdraw(&mut self, id: &InstanceId, step: &mut Step) -> Result<(), RecordError> {
        let generation = self.next_generation();
        self.attempts.remove(id);
        let Some(instance) = self.instances.get_mut(id) else {
            return Ok(());
        };
        instance.withdrawn = true;
        "it is being removed".clone_into(&mut instance.detail);
        // Generations only grow, so this one is larger than any that it had.
        let _ = instance.life.withdraw(generation);
        let cluster = instance.cluster.clone();
        self.keep_instance(id, step)?;
        if let Some(cluster) = cluster {
            self.want_gone(&cluster, id, generation, step)?;
        }
        self.end_if_gone(id, step);
        Ok(())
    }
}

fn check_number(service: &Service, wanted: u32) -> Result<(), CommandError> {
    if wanted > MAX_INSTANCES {
        return Err(CommandError::TooMany {
            service: service.spec.name.clone(),
            wanted,
        });
    }
    Ok(())
}
