//! Taking a cluster up from its records after a restart.

use std::net::IpAddr;

use super::state::{Loaded, Placement};
use super::{Attempt, Cluster, Effect, Step, WorkerSide, offers};
use crate::Now;
use crate::addresses::Holder;
use crate::lifecycle::is_over;
use crate::record::RecordError;
use crate::sync::{Duty, Want};
use crate::worker::Work;

impl Cluster {
    /// Rebuilds everything from what was read.
    pub(super) fn take_up(
        &mut self,
        loaded: Loaded,
        now: Now,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        for signed in loaded.signed {
            self.take_signed(signed, now, step)?;
        }
        for node in loaded.nodes {
            for ip in node.node_ip.iter() {
                let holder = Holder::Node(self.id(&node.name));
                self.take_up_address(ip, holder, now, step);
            }
            if let Some(capacity) = &node.capacity {
                self.inventory.set_node(node.name.clone(), capacity.clone());
                let why = "its worker is not connected".to_owned();
                self.inventory.set_unavailable(&node.name, Some(why));
                // It has the whole time to come back: it is we who were away.
                self.members.expect(node.name.clone(), now);
            }
            self.workers
                .insert(node.name.clone(), WorkerSide::default());
            self.nodes.insert(node.name.clone(), node);
        }
        for gone in loaded.gone {
            let want = Want::Gone {
                generation: gone.generation,
            };
            let worker = self.workers.entry(gone.node.clone()).or_default();
            worker.wants.set(gone.instance.clone(), want);
            self.gone
                .insert((gone.node, gone.instance), gone.generation);
        }
        for placement in loaded.placements {
            self.take_up_placement(placement, now, step);
        }
        for resting in loaded.resting {
            let (ip, holder) = (resting.ip, resting.holder);
            if let (Holder::Instance(instance), Some(row)) = (&holder, resting.row) {
                self.sign_removed(instance.clone(), row, step);
            }
            if let Err(error) = self.addresses.hold(ip, holder, now) {
                step.effects.push(Effect::Fault(error.to_string()));
            }
        }
        for (instance, kept) in self.duties.iter() {
            let placed = self.placements.contains_key(instance);
            let ending = self.gone.keys().any(|(_, it)| it == instance);
            if kept.duty == Duty::End && !placed && !ending {
                let report = offers::terminated(instance, kept.generation);
                self.reporter.set(report);
            } else if kept.duty == Duty::End && placed && !ending {
                // It was draining, which has taken long enough by now.
                self.draining.insert(instance.clone(), now.elapsed);
            }
        }
        let nodes: Vec<_> = self.nodes.keys().cloned().collect();
        for node in nodes {
            self.publish_node(&node, step);
        }
        Ok(())
    }

    fn take_up_placement(&mut self, placement: Placement, now: Now, step: &mut Step) {
        let instance = placement.instance.clone();
        for ip in placement.instance_ip.iter() {
            self.take_up_address(ip, Holder::Instance(instance.clone()), now, step);
        }
        if let Some(organisation) = &placement.organisation {
            // Of one that shall be gone no duty says whose it is.
            let application = instance.service.application.clone();
            let owner = self.owners.entry(application);
            owner.or_insert_with(|| organisation.clone());
        }
        let duty = self.duties.get(&instance).map(|kept| &kept.duty);
        if let Some(Duty::Run(spec)) = duty {
            self.owners
                .insert(spec.name.application.clone(), spec.organisation.clone());
            let reserved =
                self.inventory
                    .reserve(&placement.node, &instance, placement.generation, spec);
            if let Err(error) = reserved {
                // The worker has the last word; root's books and ours agree again when it speaks.
                step.effects.push(Effect::Fault(error.to_string()));
            }
            let worker = self.workers.entry(placement.node.clone()).or_default();
            let what = Work {
                spec: spec.clone(),
                instance_ip: placement.instance_ip,
            };
            let want = Want::Run {
                generation: placement.generation,
                what,
            };
            worker.wants.set(instance.clone(), want);
            if is_over(placement.phase) {
                worker.wants.settle(&instance);
            }
            if !placement.accepted {
                self.attempts
                    .insert(instance.clone(), Attempt::new(now.elapsed));
            }
        }
        if placement.accepted {
            self.reporter.set(placement.report(&self.settings.name));
        }
        self.placements.insert(instance.clone(), placement);
        self.sign_row(&instance, step);
    }

    fn take_up_address(&mut self, ip: IpAddr, holder: Holder, now: Now, step: &mut Step) {
        if let Err(error) = self.addresses.adopt(ip, holder, now) {
            step.effects.push(Effect::Fault(error.to_string()));
        }
    }
}
