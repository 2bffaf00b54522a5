//! What root decides: what shall run, which cluster is asked, what clusters may claim.
//!
//! Users say what shall run, by [`Command`]s; each answer stands behind what it persisted. Towards
//! each cluster root is the upper side of [`sync`](crate::sync). Clusters are ranked on their sums
//! and asked one after the other, each time with a new generation, so that a late answer to an
//! earlier offer can do no harm; every refusal is recorded. Root signs what it assigns: blocks and
//! organisations of clusters, and the rows of services; it passes rows on to the clusters that
//! want them. Nodes, workers and their certificates are the clusters'.

mod admin;
mod apply;
mod clusters;
mod command;
mod commands;
mod offers;
mod rows;
mod state;
mod step;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use weald_proto::control::{
    Aggregate, Generation, InstanceReport, NodeReport, Phase, RootToCluster, Standing,
};
use weald_proto::id::{Label, Organisation};
use weald_proto::name::{ApplicationName, InstanceId};
use weald_proto::spec::{Resources, ServiceSpec};
use weald_proto::statement::Signed;

use crate::Now;
use crate::addresses::{AddressError, Plan, RootAddresses, ServiceOwner};
use crate::cluster::LEASE_LIFE;
use crate::interests::RowBook;
use crate::lifecycle::is_over;
use crate::membership::Membership;
use crate::record::{Record, RecordError, Write};
use crate::sync::{Want, Wants};
use crate::trust::Trust;

pub use command::{Command, CommandError, Distrusted, Done, MAX_INSTANCES, Scope};
pub use state::{Application, ClusterState, Instance, Service};
use state::{
    COUNTERS, Counters, Loaded, ONLY, Removed, StoredGone, StoredResting, StoredRevocations,
};
pub use step::{Effect, Input, Step};

/// How long a cluster is given to take an instance or to refuse it: it asks several workers.
pub const OFFER: Duration = Duration::from_secs(10);
/// After this time clusters are ranked anew for an instance that nobody could take because somebody
/// was away.
pub const RETRY: Duration = Duration::from_secs(1);
/// For how long a grant is good; it is renewed when half of that is over.
pub const GRANT_LIFE: Duration = Duration::from_hours(60 * 24);

/// A cluster as root sees it.
#[derive(Debug, Default)]
struct ClusterSide {
    wants: Wants<ServiceSpec>,
    connected: bool,
    greeted: bool,
    aggregate: Option<Aggregate>,
    /// When it last said how it is, in seconds since 1970; none since root was started.
    said: Option<u64>,
    /// What was offered to it and does not show in its sums yet.
    offered: BTreeMap<InstanceId, Resources>,
    nodes: Vec<NodeReport>,
}

/// An instance that no cluster has taken yet.
#[derive(Debug)]
struct Attempt {
    /// Who was asked, and has not taken it.
    asked: BTreeSet<Label>,
    /// Who is asked now, and until when.
    offered: Option<(Label, Duration)>,
    /// When clusters are ranked next, while nobody is asked.
    next: Duration,
    /// When it has failed.
    deadline: Duration,
}

/// Root.
#[derive(Debug)]
pub struct Root {
    trust: Box<dyn Trust>,
    counters: Counters,
    stored_counters: Counters,
    addresses: RootAddresses,
    applications: BTreeMap<String, Application>,
    services: BTreeMap<String, Service>,
    instances: BTreeMap<InstanceId, Instance>,
    attempts: BTreeMap<InstanceId, Attempt>,
    /// Persisted wants that something be gone, by cluster and instance.
    gone: BTreeMap<(Label, InstanceId), Generation>,
    clusters: BTreeMap<Label, ClusterState>,
    sides: BTreeMap<Label, ClusterSide>,
    members: Membership<Label>,
    rows: RowBook<Label>,
    interests: BTreeMap<Label, BTreeSet<ApplicationName>>,
    removed: BTreeMap<weald_proto::name::ServiceName, Removed>,
    revocations: StoredRevocations,
    organisations: BTreeSet<Organisation>,
    /// Requests for logs: the cluster that was asked.
    logs: BTreeMap<u64, Label>,
    requests: u64,
}

impl Root {
    /// Takes up root from its records; what stands in the step is to be done first of all.
    ///
    /// # Errors
    /// A record cannot be read.
    pub fn restore(
        plan: Plan,
        trust: Box<dyn Trust>,
        records: &[Record],
        now: Now,
    ) -> Result<(Self, Step), RecordError> {
        let loaded = Loaded::read(records)?;
        let mut root = Self {
            trust,
            counters: loaded.counters,
            stored_counters: loaded.counters,
            addresses: RootAddresses::new(plan, LEASE_LIFE),
            applications: BTreeMap::new(),
            services: BTreeMap::new(),
            instances: BTreeMap::new(),
            attempts: BTreeMap::new(),
            gone: BTreeMap::new(),
            clusters: BTreeMap::new(),
            sides: BTreeMap::new(),
            members: Membership::new(),
            rows: RowBook::default(),
            interests: BTreeMap::new(),
            removed: BTreeMap::new(),
            revocations: StoredRevocations::default(),
            organisations: BTreeSet::new(),
            logs: BTreeMap::new(),
            requests: 0,
        };
        let mut step = Step::default();
        root.take_up(loaded, now, &mut step);
        root.finish(now, &mut step)?;
        Ok((root, step))
    }

    /// Takes in what happened.
    ///
    /// # Errors
    /// A record cannot be written; a fault of the program.
    pub fn handle(&mut self, input: Input, now: Now) -> Result<Step, RecordError> {
        let mut step = Step::default();
        match input {
            Input::ClusterConnected(cluster) => self.connect(&cluster),
            Input::ClusterDisconnected(cluster) => self.disconnect(&cluster),
            Input::Cluster(cluster, message) => {
                self.handle_cluster(&cluster, message, now, &mut step)?;
            }
            Input::Tick => {}
        }
        self.let_time_pass(now, &mut step)?;
        self.finish(now, &mut step)?;
        Ok(step)
    }

    /// When root wants to be told [`Input::Tick`]; none if nothing is waiting.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        let wants = self.sides.values().map(|it| it.wants.next_due());
        let attempts = self.attempts.values().map(Attempt::next_due).min();
        let members = self.members.poll_timeout().map(|(at, _)| at);
        let resting = self.addresses.poll_timeout().map(|(at, _)| at);
        [attempts, members, resting]
            .into_iter()
            .chain(wants)
            .flatten()
            .min()
    }

    /// Every application, by its id.
    pub fn applications(&self) -> impl Iterator<Item = &Application> {
        self.applications.values()
    }

    /// Every service, by its id.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// Every instance, by its name.
    pub fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.instances.values()
    }

    /// An instance.
    #[must_use]
    pub fn instance(&self, id: &InstanceId) -> Option<&Instance> {
        self.instances.get(id)
    }

    /// Every cluster with how it stands and what it last said of its nodes together and one by one.
    pub fn clusters(
        &self,
    ) -> impl Iterator<Item = (&ClusterState, Standing, Option<&Aggregate>, &[NodeReport])> {
        self.clusters.values().map(|state| {
            let side = self.sides.get(&state.name);
            (
                state,
                self.standing(&state.name),
                side.and_then(|it| it.aggregate.as_ref()),
                side.map_or(&[][..], |it| it.nodes.as_slice()),
            )
        })
    }

    /// Every service address with its owner.
    pub fn service_addresses(&self) -> impl Iterator<Item = (std::net::IpAddr, &ServiceOwner)> {
        self.addresses.services()
    }

    fn standing(&self, cluster: &Label) -> Standing {
        self.members.standing(cluster).unwrap_or(Standing::Gone)
    }

    fn next_generation(&mut self) -> Generation {
        self.counters.generation += 1;
        self.counters.generation
    }

    /// 24 hexadecimal digits, as clients of Oakestra expect of an id.
    fn next_id(&mut self, now: Now) -> String {
        self.counters.id += 1;
        format!("{:08x}{:016x}", now.unix & 0xffff_ffff, self.counters.id)
    }

    /// Rebuilds everything from what was read.
    fn take_up(&mut self, loaded: Loaded, now: Now, step: &mut Step) {
        self.revocations = loaded.revocations;
        for cluster in loaded.clusters {
            for block in &cluster.blocks {
                let adopted = self.addresses.adopt_block(*block, &cluster.name, now);
                note(adopted, step);
            }
            self.organisations.extend(cluster.granted.iter().cloned());
            self.members.expect(cluster.name.clone(), now);
            self.sides
                .insert(cluster.name.clone(), ClusterSide::default());
            self.clusters.insert(cluster.name.clone(), cluster);
        }
        for StoredResting { block, cluster } in loaded.resting {
            if self.addresses.hold_block(block, &cluster, now).is_err() {
                // Another has it since, because it had rested.
                step.writes.push(state::no_longer_resting(&block));
            }
        }
        for application in loaded.applications {
            self.organisations.insert(application.organisation.clone());
            self.applications
                .insert(application.id.clone(), application);
        }
        for service in loaded.services {
            let pinned = [
                (service.spec.round_robin, false),
                (service.spec.closest, true),
            ];
            for (dual, closest) in pinned {
                let owner = ServiceOwner {
                    service: service.spec.name.clone(),
                    organisation: service.spec.organisation.clone(),
                    closest,
                };
                for ip in dual.iter() {
                    note(self.addresses.adopt(ip, &owner, now), step);
                }
            }
            self.sign_service(&service, step);
            self.services.insert(service.id.clone(), service);
        }
        for removed in loaded.removed {
            self.take_up_removed(removed, now, step);
        }
        for gone in loaded.gone {
            let side = self.sides.entry(gone.cluster.clone()).or_default();
            let generation = gone.generation;
            side.wants
                .set(gone.instance.clone(), Want::Gone { generation });
            self.gone
                .insert((gone.cluster, gone.instance), gone.generation);
        }
        for instance in loaded.instances {
            self.take_up_instance(&instance, now);
            self.instances.insert(instance.id.clone(), instance);
        }
    }

    fn take_up_removed(&mut self, removed: Removed, now: Now, step: &mut Step) {
        for (dual, closest) in [(removed.round_robin, false), (removed.closest, true)] {
            let owner = ServiceOwner {
                service: removed.name.clone(),
                organisation: removed.organisation.clone(),
                closest,
            };
            for ip in dual.iter() {
                // Another service may have been given it while this one was remembered.
                let _ = self.addresses.hold(ip, owner.clone(), now);
            }
        }
        self.sign_removed(&removed, step);
        self.removed.insert(removed.name.clone(), removed);
    }

    fn take_up_instance(&mut self, instance: &Instance, now: Now) {
        let spec = self.spec_of(&instance.id).cloned();
        if instance.withdrawn {
            return;
        }
        let phase = instance.phase();
        // Former releases left what a cluster gave back in the phase that it had there.
        let waits = phase == Phase::Requested || instance.cluster.is_none() && !is_over(phase);
        if let (Some(cluster), Some(spec)) = (&instance.cluster, &spec) {
            let side = self.sides.entry(cluster.clone()).or_default();
            let want = Want::Run {
                generation: instance.life.generation(),
                what: spec.clone(),
            };
            side.wants.set(instance.id.clone(), want);
            if is_over(phase) {
                side.wants.settle(&instance.id);
            }
        }
        if let (true, Some(spec)) = (waits, spec) {
            let mut attempt = Attempt::new(now.elapsed, spec.convergence);
            if let Some(cluster) = &instance.cluster {
                attempt.offered = Some((cluster.clone(), now.elapsed + OFFER));
            }
            self.attempts.insert(instance.id.clone(), attempt);
        }
    }

    fn spec_of(&self, instance: &InstanceId) -> Option<&ServiceSpec> {
        self.service_named(&instance.service).map(|it| &it.spec)
    }

    fn service_named(&self, name: &weald_proto::name::ServiceName) -> Option<&Service> {
        self.services.values().find(|it| it.spec.name == *name)
    }

    fn let_time_pass(&mut self, now: Now, step: &mut Step) -> Result<(), RecordError> {
        for change in self.members.handle_timeout(now) {
            if change.to == Standing::Dead {
                self.handle_dead(&change.member, step)?;
            }
        }
        let due: Vec<_> = self
            .attempts
            .iter()
            .filter(|(_, it)| it.next_due() <= now.elapsed)
            .map(|(instance, _)| instance.clone())
            .collect();
        for instance in due {
            self.handle_due(&instance, now, step)?;
        }
        let rested = self.addresses.handle_timeout(now);
        step.writes
            .extend(rested.iter().map(state::no_longer_resting));
        self.forget_removed(now, step);
        self.renew_grants(now, step)
    }

    /// What is done at the end of every step: whatever is due is said, and the counters are kept.
    fn finish(&mut self, now: Now, step: &mut Step) -> Result<(), RecordError> {
        for (cluster, side) in &mut self.sides {
            for (instance, want) in side.wants.poll(now.elapsed) {
                step.tell(cluster, told(instance, want));
            }
        }
        self.speak_rows(step);
        if self.counters != self.stored_counters {
            // First of all: nothing may be known to anybody under a number that is given again.
            let stored = Write::put(COUNTERS, ONLY.to_owned(), &self.counters)?;
            step.writes.insert(0, stored);
            self.stored_counters = self.counters;
        }
        Ok(())
    }

    fn keep_instance(&self, id: &InstanceId, step: &mut Step) -> Result<(), RecordError> {
        if let Some(instance) = self.instances.get(id) {
            let stored = Write::put(state::INSTANCE, id.to_string(), instance)?;
            step.writes.push(stored);
        }
        Ok(())
    }

    /// Has a cluster end every life up to `generation`.
    fn want_gone(
        &mut self,
        cluster: &Label,
        instance: &InstanceId,
        generation: Generation,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let side = self.sides.entry(cluster.clone()).or_default();
        if side.wants.set(instance.clone(), Want::Gone { generation }) {
            let gone = StoredGone {
                cluster: cluster.clone(),
                instance: instance.clone(),
                generation,
            };
            let key = format!("{cluster}/{instance}");
            step.writes.push(Write::put(state::GONE, key, &gone)?);
            self.gone
                .insert((cluster.clone(), instance.clone()), generation);
        }
        Ok(())
    }

    fn forget_gone(&mut self, cluster: &Label, instance: &InstanceId, step: &mut Step) {
        let key = (cluster.clone(), instance.clone());
        if self.gone.remove(&key).is_some() {
            let key = format!("{cluster}/{instance}");
            step.writes.push(Write::delete(state::GONE, key));
        }
    }

    /// Takes up what a cluster says of an instance that it shall run.
    fn take_report(
        &mut self,
        cluster: &Label,
        report: &InstanceReport,
        now: Now,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let Some(instance) = self.instances.get_mut(&report.instance) else {
            return Ok(());
        };
        if instance.cluster.as_ref() != Some(cluster) || instance.withdrawn {
            return Ok(());
        }
        let given_back = report.phase == Phase::Terminated;
        if given_back && report.generation == instance.life.generation() {
            return self.take_back(cluster, report, now, step);
        }
        // Usage is not kept: what differs in nothing else is known.
        instance.usage = (report.cpu_percent, report.memory_mib);
        let before = instance.clone();
        if let Err(error) = instance.life.hear(report.generation, report.phase) {
            let text = format!("cluster {cluster}: {}: {error}", report.instance);
            step.effects.push(Effect::Fault(text));
            return Ok(());
        }
        instance.detail.clone_from(&report.detail);
        instance.node.clone_from(&report.node);
        instance.instance_ip = report.instance_ip;
        instance.exit_status = report.exit_status;
        let known = before == *instance;
        let taken = self.attempts.remove(&report.instance).is_some();
        if taken {
            self.record_taken(&report.instance, now);
        }
        if !known || taken {
            self.keep_instance(&report.instance, step)?;
        }
        Ok(())
    }
}

fn told(instance: InstanceId, want: Want<ServiceSpec>) -> RootToCluster {
    match want {
        Want::Run { generation, what } => RootToCluster::Offer {
            instance,
            generation,
            spec: Box::new(what),
            within_ms: u64::try_from(OFFER.as_millis()).unwrap_or(u64::MAX),
        },
        Want::Gone { generation } => RootToCluster::Withdraw {
            instance,
            generation,
        },
    }
}

fn note(adopted: Result<(), AddressError>, step: &mut Step) {
    if let Err(error) = adopted {
        step.effects.push(Effect::Fault(error.to_string()));
    }
}

/// A signed statement, or a fault in the step.
fn signed_or_fault(signed: Result<Signed, String>, step: &mut Step) -> Option<Signed> {
    match signed {
        Ok(signed) => Some(signed),
        Err(why) => {
            step.effects.push(Effect::Fault(why));
            None
        }
    }
}
