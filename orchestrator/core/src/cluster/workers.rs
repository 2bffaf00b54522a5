//! The workers: what they report, and what becomes of a node that is silent.

use std::time::Duration;

use weald_proto::control::{
    ClusterToRoot, ClusterToWorker, InstanceReport, NodeCapacity, Phase, Reason, Standing, VERSION,
    WorkerToCluster,
};
use weald_proto::id::{Label, NodeId};
use weald_proto::name::InstanceId;

use super::state::{self, NodeState};
use super::{Attempt, Cluster, Effect, Step};
use crate::Now;
use crate::addresses::Holder;
use crate::lifecycle::is_over;
use crate::record::{RecordError, Write};
use crate::sync::Want;
use crate::words;
use crate::worker::Work;

/// How often at most it is said of one worker that it says what is not so.
const LIES_EVERY: Duration = Duration::from_secs(10);

/// A want, as a worker is told of it.
pub(super) fn told(instance: InstanceId, want: Want<Work>) -> ClusterToWorker {
    match want {
        Want::Run { generation, what } => ClusterToWorker::Deploy {
            instance,
            generation,
            spec: Box::new(what.spec),
            instance_ip: what.instance_ip,
        },
        Want::Gone { generation } => ClusterToWorker::Stop {
            instance,
            generation,
        },
    }
}

impl Cluster {
    pub(super) fn connect_worker(&mut self, node: &Label, key: [u8; 32]) {
        let worker = self.workers.entry(node.clone()).or_default();
        worker.key = key;
        worker.connected = true;
        worker.greeted = false;
        worker.wants.connected();
    }

    pub(super) fn disconnect_worker(&mut self, node: &Label) {
        if let Some(worker) = self.workers.get_mut(node) {
            worker.connected = false;
            worker.greeted = false;
            worker.wants.disconnected();
        }
        let why = "its worker is not connected".to_owned();
        self.inventory.set_unavailable(node, Some(why));
    }

    pub(super) fn handle_worker(
        &mut self,
        node: &Label,
        message: WorkerToCluster,
        now: Now,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let Some(worker) = self.workers.get_mut(node).filter(|it| it.connected) else {
            return Ok(());
        };
        if !worker.greeted && !matches!(message, WorkerToCluster::Hello { .. }) {
            let text = "the first message of a worker must be Hello".to_owned();
            step.effects.push(Effect::CloseWorker(node.clone(), text));
            return Ok(());
        }
        match message {
            WorkerToCluster::Hello { version, capacity } => {
                self.greet_worker(node, version, capacity, now, step)?;
            }
            WorkerToCluster::Heartbeat {
                sequence: _,
                cpu_percent,
                memory_mib,
            } => {
                worker.load = (cpu_percent, memory_mib);
                self.inventory.set_load(node, cpu_percent, memory_mib);
                self.hear_worker(node, now, step)?;
            }
            WorkerToCluster::Report {
                sequence,
                complete,
                instances,
            } => self.handle_report(node, sequence, complete, &instances, now, step)?,
            WorkerToCluster::Rejected {
                instance,
                generation,
                reason,
            } => self.handle_rejected(node, &instance, generation, reason, now, step)?,
            WorkerToCluster::Logs { request, lines } => {
                self.handle_logs(node, request, lines, now, step);
            }
            // Certificates are the shell's, which answers before this is heard.
            WorkerToCluster::Renew(_) => {}
        }
        Ok(())
    }

    fn greet_worker(
        &mut self,
        node: &Label,
        version: u32,
        capacity: NodeCapacity,
        now: Now,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        if version != VERSION {
            let text = format!(
                "node {} speaks version {version} of the control protocol, this cluster {VERSION}; \
                 run the same release on both",
                self.id(node)
            );
            step.effects.push(Effect::CloseWorker(node.clone(), text));
            return Ok(());
        }
        let capacity = words::capacity(capacity);
        let mut key = None;
        if let Some(worker) = self.workers.get_mut(node) {
            worker.greeted = true;
            key = Some(worker.key);
        }
        let known = self.nodes.entry(node.clone());
        let known = known.or_insert_with(|| NodeState::new(node.clone()));
        let key = key.unwrap_or(known.key);
        if known.capacity.as_ref() != Some(&capacity) || known.key != key {
            known.capacity = Some(capacity.clone());
            known.key = key;
            let stored = Write::put(state::NODE, node.to_string(), known)?;
            step.writes.push(stored);
        }
        self.inventory.set_node(node.clone(), capacity);
        self.inventory.set_unavailable(node, None);
        self.address_nodes(now, step)?;
        self.hear_worker(node, now, step)?;
        // After a restart of this cluster it counts as alive, whatever its row says.
        self.change_node_row(node, now, step)?;
        step.tell_worker(node, ClusterToWorker::Welcome { version: VERSION });
        self.tell_of_nodes();
        Ok(())
    }

    /// Has root told at once what there is now, one by one and in sum.
    const fn tell_of_nodes(&mut self) {
        self.last_nodes = None;
        self.last_heartbeat = None;
    }

    fn hear_worker(&mut self, node: &Label, now: Now, step: &mut Step) -> Result<(), RecordError> {
        match self.members.heard(node.clone(), now) {
            Some(change) => self.handle_standing(node, change.to, now, step),
            None => Ok(()),
        }
    }

    /// Gives every node the addresses that it lacks.
    pub(super) fn address_nodes(&mut self, now: Now, step: &mut Step) -> Result<(), RecordError> {
        let lacking: Vec<_> = self
            .nodes
            .values()
            .filter(|node| node.node_ip.v4.is_none() || node.node_ip.v6.is_none())
            .map(|node| node.name.clone())
            .collect();
        for name in lacking {
            let holder = Holder::Node(NodeId::new(self.settings.name.clone(), name.clone()));
            // Without any left it stays without; root is asked for more.
            let Ok(node_ip) = self.addresses.assign(&holder, now) else {
                continue;
            };
            let Some(node) = self.nodes.get_mut(&name) else {
                continue;
            };
            if node.node_ip != node_ip {
                node.node_ip = node_ip;
                step.writes
                    .push(Write::put(state::NODE, name.to_string(), node)?);
                self.stale_leases.insert(name.clone());
                self.change_node_row(&name, now, step)?;
                self.welcome_net(&name, now, step);
            }
        }
        Ok(())
    }

    fn handle_report(
        &mut self,
        node: &Label,
        sequence: u64,
        complete: bool,
        instances: &[InstanceReport],
        now: Now,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let Some(worker) = self.workers.get_mut(node) else {
            return Ok(());
        };
        let heard = worker.wants.handle_report(sequence, complete, instances);
        self.refused_reports += heard.refused;
        if let Some((instance, generation)) = &heard.lie {
            let what = format!(
                "reports {instance} in generation {generation}, which it shall not have: that is \
                 not believed"
            );
            self.note_lie(node, &what, now, step);
        }
        for report in &heard.changed {
            self.take_report(node, report, now, step)?;
        }
        for instance in &heard.gone {
            if let Some(ended) = self.gone.get(&(node.clone(), instance.clone())) {
                // What has moved since has its place elsewhere by now.
                self.inventory.release_at(node, instance, *ended);
            }
            self.forget_gone(node, instance, step);
            self.end_if_gone(instance, now, step)?;
        }
        for instance in &heard.lost {
            // It is deployed there once more, in the same life, and may be rejected.
            if let Some(placement) = self.placements.get_mut(instance) {
                placement.accepted = false;
                self.attempts
                    .entry(instance.clone())
                    .or_insert_with(|| Attempt::new(now.elapsed));
            }
            self.note_phase(instance, Phase::NodeScheduled, "the node had lost it", step)?;
        }
        if heard.acknowledge {
            step.tell_worker(node, ClusterToWorker::Acknowledged { sequence });
        }
        Ok(())
    }

    /// A worker answers with a log; only the one that was asked is heard.
    fn handle_logs(
        &mut self,
        node: &Label,
        request: u64,
        lines: Result<Vec<String>, String>,
        now: Now,
        step: &mut Step,
    ) {
        match self.logs.get(&request) {
            Some(asked) if asked.node == *node => {
                let request = asked.of_root;
                // A worker may send more than this cluster could pass on.
                let lines = words::log(lines);
                step.tell_root(ClusterToRoot::Logs { request, lines });
            }
            Some(asked) => {
                self.refused_reports += 1;
                let asked = self.id(&asked.node);
                let what =
                    format!("answers with a log that {asked} was asked for: it is not shown");
                return self.note_lie(node, &what, now, step);
            }
            // It was asked too long ago.
            None => {}
        }
        self.logs.remove(&request);
    }

    /// A worker says what is not so. One that goes on with it does not fill the log.
    fn note_lie(&mut self, node: &Label, what: &str, now: Now, step: &mut Step) {
        let id = self.id(node);
        let Some(worker) = self.workers.get_mut(node) else {
            return;
        };
        let recent = |at: Duration| now.elapsed < at + LIES_EVERY;
        if !worker.lied.is_some_and(recent) {
            worker.lied = Some(now.elapsed);
            step.effects.push(Effect::Lie(format!(
                "node {id} {what}; nothing else has changed. Once it may be late news over a broken \
                 link; if that goes on, look at that node, or have nobody trust it any more: weald \
                 revoke node {id}"
            )));
        }
    }

    /// A worker says how an instance is that it shall run.
    fn take_report(
        &mut self,
        node: &Label,
        report: &InstanceReport,
        now: Now,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let instance = &report.instance;
        if report.phase == Phase::Terminated {
            return self.handle_ended(node, report, now, step);
        }
        let Some(placement) = self.placements.get_mut(instance) else {
            return Ok(());
        };
        if placement.node != *node || placement.generation != report.generation {
            return Ok(());
        }
        let before = placement.clone();
        placement.accepted = true;
        placement.phase = report.phase;
        placement.detail.clone_from(&report.detail);
        placement.exit_status = report.exit_status;
        if *placement != before {
            step.writes.push(Write::put(
                state::PLACEMENT,
                instance.to_string(),
                placement,
            )?);
        }
        let mut told = placement.report(&self.settings.name);
        (told.cpu_percent, told.memory_mib) = (report.cpu_percent, report.memory_mib);
        self.reporter.set(told);
        self.attempts.remove(instance);
        self.publish(instance, step)
    }

    /// A node has ended a life that it shall run: it was told to once, by a cluster that has
    /// forgotten that it was. It does not begin the same life again, so that another node has to.
    fn handle_ended(
        &mut self,
        node: &Label,
        report: &InstanceReport,
        now: Now,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let (instance, generation) = (&report.instance, report.generation);
        let here = self.placements.get(instance).is_some_and(|it| {
            // What is over has ended before, and nobody is to do it again.
            it.node == *node && it.generation == generation && !is_over(it.phase)
        });
        if !here {
            return Ok(());
        }
        if let Some(worker) = self.workers.get_mut(node) {
            // With this life every earlier one has ended there.
            let _ = worker.wants.withdraw(instance, generation);
        }
        let text = "it has ended this life before".to_owned();
        self.try_next(instance, Reason::Failed { text }, now, step)
    }

    /// Says by itself how an instance is, because its node does not.
    fn note_phase(
        &mut self,
        instance: &InstanceId,
        phase: Phase,
        detail: &str,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let Some(placement) = self.placements.get_mut(instance) else {
            return Ok(());
        };
        detail.clone_into(&mut placement.detail);
        placement.phase = phase;
        step.writes.push(Write::put(
            state::PLACEMENT,
            instance.to_string(),
            placement,
        )?);
        let report = placement.report(&self.settings.name);
        self.reporter.set(report);
        self.publish(instance, step)
    }

    /// Says of an instance what its node's standing means for it. How it was when it was last heard of
    /// stays known: a node that comes back need not say it again.
    fn tell_standing(&mut self, instance: &InstanceId, dead: bool, silent: String) {
        let Some(placement) = self.placements.get(instance) else {
            return;
        };
        let mut report = placement.report(&self.settings.name);
        if dead {
            report.phase = Phase::ClusterScheduled;
            report.detail = format!("node {} is dead: {silent}", self.id(&placement.node));
        }
        self.reporter.set(report);
    }

    /// A node has come to stand differently.
    pub(super) fn handle_standing(
        &mut self,
        node: &Label,
        to: Standing,
        now: Now,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        self.tell_of_nodes();
        let silent = |after: Duration| {
            let seconds = after.as_secs_f32();
            format!("nothing was heard of it for {seconds} s")
        };
        let after = match to {
            Standing::Alive => None,
            Standing::Suspect => Some(crate::membership::SUSPECT),
            Standing::Dead => Some(crate::membership::DEAD),
            Standing::Gone => Some(crate::membership::GONE),
        };
        if let Some(after) = after {
            self.inventory.set_unavailable(node, Some(silent(after)));
        } else if self.workers.get(node).is_some_and(|it| it.greeted) {
            self.inventory.set_unavailable(node, None);
        }
        let here: Vec<_> = self
            .placements
            .values()
            .filter(|it| it.node == *node)
            .map(|it| (it.instance.clone(), it.accepted, it.phase))
            .collect();
        for (instance, accepted, phase) in here {
            let over = is_over(phase);
            if accepted && !over && (to == Standing::Dead || to == Standing::Alive) {
                let why = silent(crate::membership::DEAD);
                self.tell_standing(&instance, to == Standing::Dead, why);
            }
            // Out of the tables with its node, and back with it.
            self.publish(&instance, step)?;
        }
        if to >= Standing::Dead {
            self.stop_waiting(node, now, step)?;
        }
        self.change_node_row(node, now, step)
    }

    /// Nobody waits any more for a node to end what it shall have no longer, wherever that is by now.
    fn stop_waiting(&mut self, node: &Label, now: Now, step: &mut Step) -> Result<(), RecordError> {
        let waiting = self.gone.keys().filter(|(it, _)| it == node);
        let waiting: Vec<_> = waiting.map(|(_, instance)| instance.clone()).collect();
        for instance in waiting {
            self.end_if_gone(&instance, now, step)?;
        }
        Ok(())
    }
}
