//! Attaches instances to this node and detaches them, one request after the other.
//!
//! What must hold is checked first, then the overlay is changed, then the change is kept on disk,
//! then it is said. Whoever hears of an attached instance finds it after any crash; what was made
//! but not said is taken away at the next start.

use std::sync::mpsc::Sender;

use netmanager_core::rows::Attached;
use weald_proto::name::InstanceId;

use super::{Daemon, Event};
use crate::api::hosting::{AttachedReport, Attacher, Attachment, Hosting};
use crate::api::inspect::Unavailable;
use crate::api::message::{ApiError, ErrorCode};
use crate::config::RowSource;
use crate::env::config::resolv_conf_path;
use crate::env::instance_netns_path;

/// Most instances that can be attached: each takes a namespace and some ten rules.
const MAX_ATTACHED: usize = 4096;

/// Why nothing is attached in userspace mode.
const NO_NAMESPACES: &str = "in userspace mode there are no namespaces for instances; \
     `netmanager up --userspace --publish INSTANCE:PORT=ADDRESS` makes a server of the host one";

/// Hands requests of the local API to the daemon's thread.
#[derive(Debug)]
pub(super) struct HostHandle(pub(super) Sender<Event>);

impl Attacher for HostHandle {
    fn submit(&self, request: Hosting) -> Result<(), Unavailable> {
        self.0.send(Event::Host(request)).map_err(|_| Unavailable)
    }
}

impl Daemon {
    pub(super) fn host(&mut self, request: Hosting) {
        match request {
            Hosting::Attach(instance, reply) => match self.attach(&instance) {
                Ok(report) => {
                    let application = instance.instance.service.application;
                    self.answer_attached(report, application, reply);
                }
                Err(error) => reply.send(Err(error)),
            },
            Hosting::Detach(instance, generation, reply) => {
                reply.send(self.detach(&instance, generation));
            }
            Hosting::Bench(peer, seconds, reply) => self.ask_for_bench(&peer, seconds, reply),
            Hosting::List(reply) => {
                let attached = self.keeper.attached().iter();
                reply.send(attached.map(|attached| self.report(attached)).collect());
            }
        }
    }

    fn attach(&mut self, instance: &Attached) -> Result<AttachedReport, ApiError> {
        if self.ground.userspace().is_some() {
            return Err(ApiError::new(ErrorCode::Conflict, NO_NAMESPACES));
        }
        let before = self.keeper.attached();
        if before.contains(instance) {
            return Ok(self.report(instance));
        }
        let conflict = |message: String| ApiError::new(ErrorCode::Conflict, message);
        self.check_file(instance)?;
        instance
            .check(before, self.keeper.table())
            .map_err(|error| conflict(error.to_string()))?;
        let others = before
            .iter()
            .filter(|other| other.instance != instance.instance);
        let mut attached: Vec<Attached> = others.cloned().collect();
        if attached.len() >= MAX_ATTACHED {
            return Err(conflict(format!(
                "{MAX_ATTACHED} instances are attached; detach some"
            )));
        }
        attached.push(instance.clone());
        self.set_attached(attached)?;
        tracing::info!(instance = %instance.instance, "instance attached");
        Ok(self.report(instance))
    }

    /// Checks an instance against what the table's file says, which other nodes believe.
    fn check_file(&self, instance: &Attached) -> Result<(), ApiError> {
        let conflict = |message: String| Err(ApiError::new(ErrorCode::Conflict, message));
        let id = &instance.instance;
        if matches!(self.config.source, RowSource::Cluster(_)) {
            return Ok(());
        }
        let (base, me) = (self.keeper.base(), &self.identified.node);
        if !base.services.iter().any(|row| row.name == id.service) {
            return conflict(format!("the table has no service {} for {id}", id.service));
        }
        let row = base.instances.iter().find(|row| row.id == *id);
        match row {
            Some(row) if row.node != *me => {
                conflict(format!("the table has {id} on node {}, not here", row.node))
            }
            Some(row) if row.instance_ip != instance.instance_ip => {
                conflict(format!("the table gives {id} other addresses"))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn detach(&mut self, id: &InstanceId, generation: Option<u64>) -> Result<bool, ApiError> {
        let before = self.keeper.attached();
        let Some(found) = before.iter().find(|attached| attached.instance == *id) else {
            return Ok(false);
        };
        if generation.is_some_and(|generation| generation < found.generation) {
            return Ok(false);
        }
        let others = before.iter().filter(|attached| attached.instance != *id);
        let attached = others.cloned().collect();
        self.set_attached(attached)?;
        tracing::info!(instance = %id, "instance detached");
        Ok(true)
    }

    fn set_attached(&mut self, attached: Vec<Attached>) -> Result<(), ApiError> {
        let candidate = self.keeper.with_attached(attached);
        if let Err(faults) = candidate.table().check() {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            return Err(ApiError::new(ErrorCode::Conflict, faults.join("; ")));
        }
        let failed = |error: anyhow::Error| ApiError::new(ErrorCode::Failed, format!("{error:#}"));
        self.update_overlay(&candidate).map_err(failed)?;
        self.keeper
            .keep_attached(candidate.attached())
            .map_err(failed)?;
        self.use_table(candidate);
        self.follow_attached();
        Ok(())
    }

    fn report(&self, attached: &Attached) -> AttachedReport {
        let overlay = &self.identified.overlay;
        AttachedReport {
            attachment: Attachment::from(attached),
            netns: instance_netns_path(overlay, &attached.instance),
            resolv_conf: resolv_conf_path(overlay, &attached.instance),
        }
    }
}
