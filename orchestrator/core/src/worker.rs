//! What a worker decides: what it takes on, what it starts and stops, and what it reports.
//!
//! A [`Worker`] is told what arrives and what its runtimes did, and answers with a [`Step`]:
//! writes that are to be committed first, then effects. It starts nothing itself; a runtime that
//! is told to start what runs already takes it up again, so that a restarted worker starts
//! everything that it has taken on.
//!
//! One whose service has TCP ports is Running once it listens on them, so that nobody is led to a
//! server that does not answer yet.

mod admission;
mod step;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use weald_proto::addr::Dual;
use weald_proto::control::{
    ClusterToWorker, Generation, InstanceReport, NodeCapacity, Phase, Reason, VERSION,
    WorkerToCluster,
};
use weald_proto::id::NodeId;
use weald_proto::name::InstanceId;
use weald_proto::spec::ServiceSpec;

use crate::Now;
use crate::record::{Record, RecordError, Write};
use crate::sync::{Action, Duties, Duty, Kept, Outcome, Reporter};
use crate::words::{MAX_DETAIL, cut};

pub use step::{Effect, Input, RuntimeEvent, Step, Work};

/// How often a connected worker says that it is alive.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

/// The kind of record that holds a duty.
const DUTY: &str = "duty";
/// The kind of record that holds how a life has ended by itself.
const ENDED: &str = "ended";

/// How a life has ended by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Ended {
    instance: InstanceId,
    generation: Generation,
    phase: Phase,
    status: Option<i32>,
    detail: String,
}

#[derive(Serialize, Deserialize)]
struct StoredDuty {
    instance: InstanceId,
    kept: Kept<Work>,
}

/// One worker.
#[derive(Debug)]
pub struct Worker {
    node: NodeId,
    capacity: NodeCapacity,
    duties: Duties<Work>,
    ended: BTreeMap<InstanceId, Ended>,
    reporter: Reporter,
    connected: bool,
    load: (f32, u32),
    heartbeats: u64,
    last_heartbeat: Option<Duration>,
}

impl Worker {
    /// Takes up a worker from its records; what stands in the step is to be done first of all.
    ///
    /// # Errors
    /// A record cannot be read.
    pub fn restore(
        node: NodeId,
        capacity: NodeCapacity,
        records: &[Record],
    ) -> Result<(Self, Step), RecordError> {
        let mut kept = Vec::new();
        let mut ended = BTreeMap::new();
        for record in records {
            match record.kind.as_str() {
                DUTY => {
                    let stored: StoredDuty = record.read()?;
                    kept.push((stored.instance, stored.kept));
                }
                ENDED => {
                    let stored: Ended = record.read()?;
                    ended.insert(stored.instance.clone(), stored);
                }
                // Other parts of the process keep records in the same store.
                _ => {}
            }
        }
        let (duties, actions) = Duties::restore(kept);
        let mut worker = Self {
            node,
            capacity,
            duties,
            ended,
            reporter: Reporter::default(),
            connected: false,
            load: (0.0, 0),
            heartbeats: 0,
            last_heartbeat: None,
        };
        let mut step = Step::default();
        for action in actions {
            worker.act(action, &mut step);
        }
        Ok((worker, step))
    }

    /// Takes in what happened.
    ///
    /// # Errors
    /// A record cannot be written; a fault of the program.
    pub fn handle(&mut self, input: Input, now: Now) -> Result<Step, RecordError> {
        let mut step = Step::default();
        match input {
            Input::Connected => self.connect(&mut step),
            Input::Disconnected => {
                self.connected = false;
                self.reporter.disconnected();
            }
            Input::Message(message) => self.handle_message(message, &mut step)?,
            Input::Runtime {
                instance,
                generation,
                event,
            } => self.handle_runtime(&instance, generation, event, &mut step)?,
            Input::Load {
                cpu_percent,
                memory_mib,
            } => self.load = (cpu_percent, memory_mib),
            Input::Tick => {}
        }
        self.speak(now, &mut step);
        Ok(step)
    }

    /// When the worker wants to be told [`Input::Tick`]; none while it is not connected.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        let heartbeat = self.connected.then(|| {
            self.last_heartbeat
                .map_or(Duration::ZERO, |last| last + HEARTBEAT)
        });
        [heartbeat, self.reporter.next_due()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Every instance that the worker has taken on, with what is said of it.
    pub fn instances(&self) -> impl Iterator<Item = &InstanceReport> {
        self.duties
            .iter()
            .filter_map(|(instance, _)| self.reporter.get(instance))
    }

    fn connect(&mut self, step: &mut Step) {
        self.connected = true;
        self.reporter.disconnected();
        self.heartbeats = 0;
        self.last_heartbeat = None;
        self.duties.connected();
        let hello = WorkerToCluster::Hello {
            version: VERSION,
            capacity: self.capacity.clone(),
        };
        step.effects.push(Effect::Send(hello));
    }

    fn handle_message(
        &mut self,
        message: ClusterToWorker,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        match message {
            ClusterToWorker::Welcome { version } if version == VERSION => self.reporter.connected(),
            ClusterToWorker::Welcome { version } => {
                step.effects.push(Effect::Incompatible { version });
            }
            ClusterToWorker::Deploy {
                instance,
                generation,
                spec,
                instance_ip,
            } => {
                let work = Work {
                    spec: *spec,
                    instance_ip,
                };
                self.deploy(instance, generation, work, step)?;
            }
            ClusterToWorker::Stop {
                instance,
                generation,
            } => {
                let outcome = self.duties.handle_end(instance, generation);
                self.take_on(outcome, step)?;
            }
            ClusterToWorker::ReadLogs {
                request,
                instance,
                lines,
            } => step.effects.push(Effect::ReadLogs {
                request,
                instance,
                lines,
            }),
            ClusterToWorker::Acknowledged { sequence } => {
                for (gone, generation) in self.reporter.handle_acknowledged(sequence) {
                    if self.duties.handle_known_end(&gone, generation) {
                        step.writes.push(Write::delete(DUTY, gone.to_string()));
                        self.forget_end(&gone, step);
                    }
                }
            }
            // Certificates are the shell's, which takes them before this is heard.
            ClusterToWorker::Renewed(_) => {}
        }
        Ok(())
    }

    fn deploy(
        &mut self,
        instance: InstanceId,
        generation: Generation,
        work: Work,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let present = self.duties.get(&instance).map(|kept| kept.generation);
        if present.is_none_or(|present| present < generation)
            && let Err(reason) = self.admit(&instance, &work.spec)
        {
            step.effects.push(Effect::Send(WorkerToCluster::Rejected {
                instance,
                generation,
                reason,
            }));
            return Ok(());
        }
        let outcome = self.duties.handle_run(instance, generation, work);
        self.take_on(outcome, step)
    }

    fn admit(&self, instance: &InstanceId, spec: &ServiceSpec) -> Result<(), Reason> {
        let others = self.duties.iter().filter_map(|(other, kept)| {
            let over = self.is_over(other, kept.generation);
            match &kept.duty {
                Duty::Run(work) if other != instance && !over => Some((other, &work.spec)),
                Duty::Run(_) | Duty::End => None,
            }
        });
        admission::admit(&self.capacity, &others.collect::<Vec<_>>(), spec)
    }

    /// Whether a life has ended by itself.
    fn is_over(&self, instance: &InstanceId, generation: Generation) -> bool {
        let ended = self.ended.get(instance);
        ended.is_some_and(|ended| ended.generation == generation)
    }

    fn take_on(&mut self, outcome: Outcome<Work>, step: &mut Step) -> Result<(), RecordError> {
        if let Some((instance, kept)) = outcome.keep {
            let key = instance.to_string();
            self.forget_end(&instance, step);
            let record = Record::new(DUTY, key, &StoredDuty { instance, kept })?;
            step.writes.push(Write::Put(record));
        }
        for action in outcome.actions {
            self.act(action, step);
        }
        Ok(())
    }

    fn act(&mut self, action: Action<Work>, step: &mut Step) {
        match action {
            Action::Start {
                instance,
                generation,
                what,
            } => {
                let ended = self.ended.get(&instance);
                if let Some(ended) = ended.filter(|ended| ended.generation == generation) {
                    let mut report = self.report(&instance, generation, ended.phase, &ended.detail);
                    report.exit_status = ended.status;
                    self.reporter.set(report);
                    return;
                }
                let report = self.report(&instance, generation, Phase::Creating, "");
                self.reporter.set(report);
                step.effects.push(Effect::Start {
                    instance,
                    generation,
                    work: Box::new(what),
                });
            }
            Action::End {
                instance,
                generation,
            } => step.effects.push(Effect::Stop {
                instance,
                generation,
            }),
            Action::Repeat(instance) => self.reporter.repeat(&instance),
        }
    }

    fn handle_runtime(
        &mut self,
        instance: &InstanceId,
        generation: Generation,
        event: RuntimeEvent,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let Some(kept) = self.duties.get(instance) else {
            return Ok(());
        };
        if kept.generation != generation {
            // Of a life that has been replaced.
            return Ok(());
        }
        let (ends, one_shot, ports) = match &kept.duty {
            Duty::End => (true, false, BTreeSet::new()),
            Duty::Run(work) => (false, work.spec.one_shot, work.spec.tcp_ports()),
        };
        let over = self.is_over(instance, generation);
        match event {
            RuntimeEvent::Stopped if ends => {
                let report = self.report(instance, generation, Phase::Terminated, "");
                self.reporter.set(report);
            }
            // While it is being ended, how it ends by itself is of no interest.
            _ if ends => {}
            // Said by another than who said that it has ended, and late.
            RuntimeEvent::Listens | RuntimeEvent::Quiet(_) if over => {}
            RuntimeEvent::Running if !ports.is_empty() => step.effects.push(Effect::Await {
                instance: instance.clone(),
                generation,
                ports,
            }),
            RuntimeEvent::Running | RuntimeEvent::Listens => {
                let report = self.report(instance, generation, Phase::Running, "");
                self.reporter.set(report);
            }
            RuntimeEvent::Quiet(why) => {
                let report = self.report(instance, generation, Phase::Creating, &why);
                self.reporter.set(report);
            }
            RuntimeEvent::Stopped => {
                let detail = "it was stopped by somebody else".to_owned();
                self.end(instance, generation, (Phase::Failed, None, detail), step)?;
            }
            RuntimeEvent::NotStarted(text) => {
                self.end(instance, generation, (Phase::Failed, None, text), step)?;
            }
            RuntimeEvent::Exited { status, detail } => {
                let phase = if one_shot && status == 0 {
                    Phase::Completed
                } else {
                    Phase::Failed
                };
                let detail = detail.unwrap_or_else(|| match (phase, status) {
                    (Phase::Completed, _) => String::new(),
                    (_, 0) => "it ended with status 0, but is not one_shot".to_owned(),
                    _ => format!("it ended with status {status}"),
                });
                self.end(instance, generation, (phase, Some(status), detail), step)?;
            }
            RuntimeEvent::Usage {
                cpu_percent,
                memory_mib,
            } => self.note_usage(instance, cpu_percent, memory_mib),
        }
        Ok(())
    }

    fn end(
        &mut self,
        instance: &InstanceId,
        generation: Generation,
        (phase, status, detail): (Phase, Option<i32>, String),
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let detail = cut(detail, MAX_DETAIL);
        let mut report = self.report(instance, generation, phase, &detail);
        report.exit_status = status;
        let ended = Ended {
            instance: instance.clone(),
            generation,
            phase,
            status,
            detail,
        };
        let record = Record::new(ENDED, instance.to_string(), &ended)?;
        step.writes.push(Write::Put(record));
        self.ended.insert(instance.clone(), ended);
        self.reporter.set(report);
        Ok(())
    }

    fn note_usage(&mut self, instance: &InstanceId, cpu_percent: f32, memory_mib: u32) {
        let Some(report) = self.reporter.get(instance) else {
            return;
        };
        // A report for every flicker would be traffic for nothing.
        let moved = (report.cpu_percent - cpu_percent).abs() >= 1.0
            || report.memory_mib.abs_diff(memory_mib) > report.memory_mib / 20;
        if moved && report.phase == Phase::Running {
            let report = InstanceReport {
                cpu_percent,
                memory_mib,
                ..report.clone()
            };
            self.reporter.set(report);
        }
    }

    fn forget_end(&mut self, instance: &InstanceId, step: &mut Step) {
        if self.ended.remove(instance).is_some() {
            step.writes.push(Write::delete(ENDED, instance.to_string()));
        }
    }

    fn report(
        &self,
        instance: &InstanceId,
        generation: Generation,
        phase: Phase,
        detail: &str,
    ) -> InstanceReport {
        let instance_ip = match self.duties.get(instance).map(|kept| &kept.duty) {
            Some(Duty::Run(work)) => work.instance_ip,
            Some(Duty::End) | None => Dual::default(),
        };
        InstanceReport {
            detail: detail.to_owned(),
            node: Some(self.node.clone()),
            instance_ip,
            ..InstanceReport::new(instance.clone(), generation, phase)
        }
    }

    fn speak(&mut self, now: Now, step: &mut Step) {
        if let Some(sent) = self.reporter.poll(now.elapsed) {
            step.effects.push(Effect::Send(WorkerToCluster::Report {
                sequence: sent.sequence,
                complete: sent.complete,
                instances: sent.instances,
            }));
        }
        let due = self
            .last_heartbeat
            .is_none_or(|last| now.elapsed >= last + HEARTBEAT);
        if self.connected && due {
            self.heartbeats += 1;
            self.last_heartbeat = Some(now.elapsed);
            let (cpu_percent, memory_mib) = self.load;
            step.effects.push(Effect::Send(WorkerToCluster::Heartbeat {
                sequence: self.heartbeats,
                cpu_percent,
                memory_mib,
            }));
        }
    }
}

#[cfg(test)]
mod tests;
