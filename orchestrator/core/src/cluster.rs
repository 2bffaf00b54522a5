//! What a cluster decides: where each instance goes that root has it run, and who is told what.
//!
//! Upwards it is the lower side of [`sync`](crate::sync): it takes on what root wants and reports
//! what is. Downwards, towards each worker, it is the upper side. Between the two it schedules,
//! assigns addresses from what root granted, and signs: rows of its instances and nodes, and for
//! each node the lease that says what it may send from. It goes on while root is away.
//!
//! An offer is answered only when a worker has taken the instance, or with everybody's reasons when
//! none has; until then root repeats it. What a worker does is the worker's; links, keys and
//! certificates are the shell's.

mod nets;
mod offers;
mod restore;
mod rows;
mod state;
mod step;
mod upwards;
mod workers;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use weald_proto::addr::Pools;
use weald_proto::control::{Generation, InstanceReport, NodeReport, Refusal, Standing};
use weald_proto::id::{Label, NodeId, Organisation, RelayId};
use weald_proto::name::{ApplicationName, InstanceId, Zone};
use weald_proto::spec::{Place, ServiceSpec};
use weald_proto::statement::{Grant, Signed};

use crate::Now;
use crate::addresses::{ClusterAddresses, Holder, Plan};
use crate::interests::{RowBook, Subject};
use crate::membership::Membership;
use crate::record::{Record, RecordError, Write};
use crate::schedule::Inventory;
use crate::sync::{Action, Duties, Reporter, Want, Wants};
use crate::trust::Trust;
use crate::worker::Work;

use state::{Loaded, NodeState, Placement, StoredDuty, gone_key};
pub use step::{Effect, Input, Step};

/// How often root is told that the cluster is alive, and what there is.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// How often root is told of all nodes when none has come to stand differently.
pub const NODES_EVERY: Duration = Duration::from_secs(5);
/// How long a worker is given to take an instance or to reject it.
pub const ANSWER: Duration = Duration::from_secs(3);
/// How long an instance without TCP ports runs before it is in the tables, if others of its service
/// may be there: by then a server most likely answers. The first one is there at once, since nobody
/// else answers. One with TCP ports runs only once it listens on them, and is there at once.
pub const SETTLE: Duration = Duration::from_millis(500);
/// How long an instance that shall be gone still runs once it is out of the tables: by then nobody
/// picks it any more, and short requests have been answered.
pub const DRAIN: Duration = Duration::from_secs(1);
/// For how long a lease is good: days of partition do no harm.
pub const LEASE_LIFE: Duration = Duration::from_hours(7 * 24);
/// After this time without an answer root is asked for addresses again.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// What a cluster is, as it is configured.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its name.
    pub name: Label,
    /// Where it is.
    pub place: Option<Place>,
    /// Which addresses are for what.
    pub plan: Plan,
    /// The prefixes that belong to the overlay.
    pub pools: Pools,
    /// The zones that semantic names end in.
    pub zones: Vec<Zone>,
}

/// A worker as the cluster sees it.
#[derive(Debug, Default)]
struct WorkerSide {
    wants: Wants<Work>,
    /// SHA-256 of the SubjectPublicKeyInfo that it proved to hold.
    key: [u8; 32],
    connected: bool,
    /// Whether it has said Hello on this connection.
    greeted: bool,
    load: (f32, u32),
    /// When it was last said that it says what is not so.
    lied: Option<Duration>,
}

/// A log that root has asked for.
#[derive(Debug)]
struct LogRequest {
    /// The number that root gave.
    of_root: u64,
    /// Whose answer counts.
    node: Label,
}

/// A netmanager as the cluster sees it.
#[derive(Debug)]
struct Net {
    key: [u8; 32],
    observed: SocketAddr,
    greeted: bool,
    wanted: BTreeSet<ApplicationName>,
    /// What it was told not to exist.
    denied: BTreeSet<ApplicationName>,
}

/// A placement that no worker has taken yet.
#[derive(Debug)]
struct Attempt {
    /// When the worker has had its time.
    deadline: Duration,
    refusals: Vec<Refusal>,
    excluded: BTreeSet<Label>,
}

/// One cluster.
#[derive(Debug)]
pub struct Cluster {
    settings: Settings,
    trust: Box<dyn Trust>,
    duties: Duties<ServiceSpec>,
    reporter: Reporter,
    root_connected: bool,
    /// Whether root has welcomed this connection.
    welcomed: bool,
    heartbeats: u64,
    last_heartbeat: Option<Duration>,
    last_nodes: Option<Duration>,
    /// Reports of workers that were taken for nothing.
    refused_reports: u64,
    asked_addresses: Option<(Generation, Duration)>,
    grant: Option<Grant>,
    /// The newest grant of each cluster, this one's among them.
    grants: BTreeMap<Label, (Generation, Signed)>,
    revocations: Option<(u64, Signed)>,
    addresses: ClusterAddresses,
    inventory: Inventory,
    members: Membership<Label>,
    nodes: BTreeMap<Label, NodeState>,
    workers: BTreeMap<Label, WorkerSide>,
    /// Persisted wants that something be gone, by node and instance.
    gone: BTreeMap<(Label, InstanceId), Generation>,
    placements: BTreeMap<InstanceId, Placement>,
    attempts: BTreeMap<InstanceId, Attempt>,
    /// Instances that run and are not in the tables yet, with when they will be.
    settling: BTreeMap<InstanceId, Duration>,
    /// When the present input came.
    elapsed: Duration,
    /// Instances that are out of the tables and end when everybody has heard so.
    draining: BTreeMap<InstanceId, Duration>,
    rows: RowBook<Label>,
    relays: BTreeMap<RelayId, (Generation, Vec<SocketAddr>)>,
    /// Whose applications are.
    owners: BTreeMap<ApplicationName, Organisation>,
    /// Applications of which root has told all rows, or that there are none.
    answered: BTreeSet<ApplicationName>,
    told_interests: BTreeSet<ApplicationName>,
    /// Of which subjects root has told rows that it goes on with.
    partial: BTreeSet<Subject>,
    nets: BTreeMap<Label, Net>,
    /// Nodes whose lease is to be made anew.
    stale_leases: BTreeSet<Label>,
    /// Rows of this cluster that root is to be told.
    new_rows: Vec<Signed>,
    /// Requests for logs, by the number that the worker has.
    logs: BTreeMap<u64, LogRequest>,
    requests: u64,
}

impl Cluster {
    /// Takes up a cluster from its records; what stands in the step is to be done first of all.
    ///
    /// # Errors
    /// A record cannot be read.
    pub fn restore(
        settings: Settings,
        trust: Box<dyn Trust>,
        records: &[Record],
        now: Now,
    ) -> Result<(Self, Step), RecordError> {
        let loaded = Loaded::read(records)?;
        let kept = |it: &StoredDuty| (it.instance.clone(), it.kept.clone());
        // What is to be done about each is in the placements, the wants, or said below.
        let (duties, _) = Duties::restore(loaded.duties.iter().map(kept));
        let addresses = ClusterAddresses::new(settings.plan.clone(), LEASE_LIFE);
        let inventory = Inventory::new(settings.name.clone(), settings.place);
        let mut cluster = Self {
            settings,
            trust,
            duties,
            reporter: Reporter::default(),
            root_connected: false,
            welcomed: false,
            heartbeats: 0,
            last_heartbeat: None,
            last_nodes: None,
            refused_reports: 0,
            asked_addresses: None,
            grant: None,
            grants: BTreeMap::new(),
            revocations: None,
            addresses,
            inventory,
            members: Membership::new(),
            nodes: BTreeMap::new(),
            workers: BTreeMap::new(),
            gone: BTreeMap::new(),
            placements: BTreeMap::new(),
            attempts: BTreeMap::new(),
            settling: BTreeMap::new(),
            elapsed: now.elapsed,
            draining: BTreeMap::new(),
            rows: RowBook::default(),
            relays: BTreeMap::new(),
            owners: BTreeMap::new(),
            answered: BTreeSet::new(),
            told_interests: BTreeSet::new(),
            partial: BTreeSet::new(),
            nets: BTreeMap::new(),
            stale_leases: BTreeSet::new(),
            new_rows: Vec::new(),
            logs: BTreeMap::new(),
            requests: 0,
        };
        let mut step = Step::default();
        cluster.take_up(loaded, now, &mut step)?;
        cluster.finish(now, &mut step)?;
        Ok((cluster, step))
    }

    /// Takes in what happened.
    ///
    /// # Errors
    /// A record cannot be written; a fault of the program.
    pub fn handle(&mut self, input: Input, now: Now) -> Result<Step, RecordError> {
        let mut step = Step::default();
        self.elapsed = now.elapsed;
        match input {
            Input::RootConnected => self.connect_root(&mut step),
            Input::RootDisconnected => {
                self.root_connected = false;
                self.welcomed = false;
                self.reporter.disconnected();
            }
            Input::Root(message) => self.handle_root(message, now, &mut step)?,
            Input::WorkerConnected(node, key) => self.connect_worker(&node, key),
            Input::WorkerDisconnected(node) => self.disconnect_worker(&node),
            Input::Worker(node, message) => self.handle_worker(&node, message, now, &mut step)?,
            Input::NetConnected {
                node,
                key,
                observed,
            } => self.connect_net(node, key, observed),
            Input::NetDisconnected(node) => {
                self.nets.remove(&node);
                self.rows.leave(&node);
            }
            Input::Net(node, message) => self.handle_net(&node, message, now, &mut step)?,
            Input::Relays(relays) => self.set_relays(relays, now, &mut step),
            Input::Tick => {}
        }
        self.let_time_pass(now, &mut step)?;
        self.finish(now, &mut step)?;
        Ok(step)
    }

    /// When the cluster wants to be told [`Input::Tick`]; none if nothing is waiting.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        let due = |last: Option<Duration>, every| {
            let at = last.map_or(Duration::ZERO, |last| last + every);
            self.welcomed.then_some(at)
        };
        let wants = self.workers.values().map(|it| it.wants.next_due());
        let attempts = self.attempts.values().map(|it| Some(it.deadline)).min();
        let drained = self.draining.values().min().copied();
        let settled = self.settling.values().min().copied();
        let members = self.members.poll_timeout().map(|(at, _)| at);
        let resting = self.addresses.poll_timeout().map(|(at, _)| at);
        [
            due(self.last_heartbeat, HEARTBEAT),
            due(self.last_nodes, NODES_EVERY),
            self.reporter.next_due(),
            attempts.flatten(),
            drained,
            settled,
            members,
            resting,
        ]
        .into_iter()
        .chain(wants)
        .flatten()
        .min()
    }

    /// The cluster's name.
    #[must_use]
    pub const fn name(&self) -> &Label {
        &self.settings.name
    }

    /// Every node as root is told of it.
    pub fn node_reports(&self) -> impl Iterator<Item = NodeReport> {
        self.nodes.values().filter_map(|node| {
            let known = self.inventory.node(&node.name)?;
            let load = self.workers.get(&node.name).map_or((0.0, 0), |it| it.load);
            Some(NodeReport {
                node: self.id(&node.name),
                standing: self.standing(&node.name),
                capacity: known.capacity().clone(),
                reserved: known.reserved(),
                node_ip: node.node_ip,
                cpu_percent: load.0,
                memory_mib: load.1,
                key: node.key,
            })
        })
    }

    /// Every instance that the cluster has taken on, with what is said of it.
    pub fn instances(&self) -> impl Iterator<Item = &InstanceReport> {
        self.duties
            .iter()
            .filter_map(|(instance, _)| self.reporter.get(instance))
    }

    /// How many reports of workers were taken for nothing since the start: of instances, or of lives,
    /// that they were not given. One that has forgotten something may have said so honestly.
    #[must_use]
    pub const fn refused_reports(&self) -> u64 {
        self.refused_reports
    }

    /// Every address that the cluster has assigned, with its owner.
    pub fn owners_of_addresses(&self) -> impl Iterator<Item = (std::net::IpAddr, &Holder)> {
        self.addresses.owners()
    }

    fn id(&self, node: &Label) -> NodeId {
        NodeId::new(self.settings.name.clone(), node.clone())
    }

    fn standing(&self, node: &Label) -> Standing {
        self.members.standing(node).unwrap_or(Standing::Gone)
    }

    fn let_time_pass(&mut self, now: Now, step: &mut Step) -> Result<(), RecordError> {
        for change in self.members.handle_timeout(now) {
            self.handle_standing(&change.member, change.to, now, step)?;
        }
        let settled: Vec<_> = self
            .settling
            .iter()
            .filter(|(_, at)| **at <= now.elapsed)
            .map(|(instance, _)| instance.clone())
            .collect();
        for instance in settled {
            self.publish(&instance, step)?;
        }
        let drained: Vec<_> = self
            .draining
            .iter()
            .filter(|(_, until)| **until <= now.elapsed)
            .map(|(instance, _)| instance.clone())
            .collect();
        for instance in drained {
            self.end_drained(&instance, now, step)?;
        }
        let late: Vec<_> = self
            .attempts
            .iter()
            .filter(|(_, it)| it.deadline <= now.elapsed)
            .map(|(instance, _)| instance.clone())
            .collect();
        for instance in late {
            self.handle_late(&instance, now, step)?;
        }
        self.forget_rested(now, step);
        self.rows.forget_old(now.elapsed, LEASE_LIFE);
        Ok(())
    }

    /// What is done at the end of every step: leases, rows, and whatever is due to be said.
    fn finish(&mut self, now: Now, step: &mut Step) -> Result<(), RecordError> {
        self.renew_leases(now, step)?;
        self.speak_to_root(now, step);
        for (node, worker) in &mut self.workers {
            for (instance, want) in worker.wants.poll(now.elapsed) {
                step.tell_worker(node, workers::told(instance, want));
            }
        }
        self.speak_to_nets(step);
        Ok(())
    }

    /// Takes on what a duty of root asks for.
    fn keep_duty(&mut self, instance: &InstanceId, step: &mut Step) -> Result<(), RecordError> {
        if let Some(kept) = self.duties.get(instance) {
            let stored = StoredDuty {
                instance: instance.clone(),
                kept: kept.clone(),
            };
            step.writes
                .push(Write::put(state::DUTY, instance.to_string(), &stored)?);
        }
        Ok(())
    }

    /// Has a node end every life up to `generation`.
    fn want_gone(
        &mut self,
        node: &Label,
        instance: &InstanceId,
        generation: Generation,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let worker = self.workers.entry(node.clone()).or_default();
        if worker
            .wants
            .set(instance.clone(), Want::Gone { generation })
        {
            let stored = state::StoredGone {
                node: node.clone(),
                instance: instance.clone(),
                generation,
            };
            let key = gone_key(node, instance);
            step.writes.push(Write::put(state::GONE, key, &stored)?);
            self.gone
                .insert((node.clone(), instance.clone()), generation);
        }
        Ok(())
    }

    fn forget_gone(&mut self, node: &Label, instance: &InstanceId, step: &mut Step) {
        let key = (node.clone(), instance.clone());
        if self.gone.remove(&key).is_some() {
            step.writes
                .push(Write::delete(state::GONE, gone_key(node, instance)));
        }
    }
}

/// What a repeated want of root leads to.
fn repeats(actions: Vec<Action<ServiceSpec>>) -> impl Iterator<Item = InstanceId> {
    actions.into_iter().filter_map(|action| match action {
        Action::Repeat(instance) => Some(instance),
        Action::Start { .. } | Action::End { .. } => None,
    })
}
