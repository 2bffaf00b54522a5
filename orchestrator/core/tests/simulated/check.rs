//! What must hold: at every moment, and of what was promised once there was calm for long enough.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use orchestrator_core::addresses::Holder;
use orchestrator_core::cluster::Cluster;
use orchestrator_core::root::{Instance, Root};
use orchestrator_core::worker::Worker;
use weald_proto::control::{Generation, Phase};
use weald_proto::name::InstanceId;

use super::fault::{Broken, Fault};
use super::process::Machine;
use super::runtime::Life;
use super::site::{CLUSTERS, Who, capacity, label, needs, node, node_of, site_of};
use super::world::World;

impl World {
    pub(super) fn root(&self) -> &Root {
        match &self.processes[&Who::Root].machine {
            Machine::Root(root) => root,
            Machine::Cluster(_) | Machine::Worker(_) => panic!("root is another"),
        }
    }

    pub(super) fn cluster(&self, site: usize) -> &Cluster {
        match &self.processes[&Who::Cluster(site)].machine {
            Machine::Cluster(cluster) => cluster,
            Machine::Root(_) | Machine::Worker(_) => panic!("a cluster is another"),
        }
    }

    pub(super) fn worker(&self, (site, at): (usize, usize)) -> &Worker {
        match &self.processes[&Who::Worker(site, at)].machine {
            Machine::Worker(worker) => worker,
            Machine::Root(_) | Machine::Cluster(_) => panic!("a worker is another"),
        }
    }

    /// No address has two owners, in the books or on the nodes.
    pub(super) fn check_now(&mut self) {
        let fault = self.check_owners().err();
        let fault = fault.map(|why| Fault::new(Broken::Owner, why));
        self.fault = self.fault.take().or(fault);
    }

    /// Root knows what it was asked for, and has on its disk what it knows of instances: whatever it has
    /// acknowledged, and why each is where it is.
    pub(super) fn check_root(&self) -> Result<(), Fault> {
        let process = &self.processes[&Who::Root];
        if process.down.is_some() {
            return Ok(());
        }
        let asked = self.users.check(self.root());
        asked.map_err(|why| Fault::new(Broken::Promise, why))?;
        self.compare_root_disk()
            .map_err(|why| Fault::new(Broken::Agreement, why))
    }

    fn compare_root_disk(&self) -> Result<(), String> {
        let kept = self.processes[&Who::Root].kept(self.at());
        let Machine::Root(kept) = &kept else {
            return Err("root's disk is another's".to_owned());
        };
        // Usage is not kept.
        let known = |root: &Root| -> Vec<Instance> {
            let instances = root.instances().cloned();
            let without = instances.map(|it| Instance {
                usage: (0.0, 0),
                ..it
            });
            without.collect()
        };
        let (told, kept) = (known(self.root()), known(kept));
        if told.len() != kept.len() {
            let (told, kept) = (told.len(), kept.len());
            return Err(format!("root knows {told} instances, and keeps {kept}"));
        }
        for (told, kept) in told.iter().zip(&kept) {
            if told != kept {
                return Err(format!("root knows {told:?}, and keeps {kept:?}"));
            }
        }
        Ok(())
    }

    fn check_owners(&self) -> Result<(), String> {
        let mut owners: BTreeMap<IpAddr, &Holder> = BTreeMap::new();
        for site in 0..CLUSTERS.len() {
            for (ip, holder) in self.cluster(site).owners_of_addresses() {
                if let Some(other) = owners.insert(ip, holder) {
                    return Err(format!("{ip} belongs to {other} and to {holder}"));
                }
            }
        }
        let mut services = BTreeMap::new();
        for (ip, owner) in self.root().service_addresses() {
            let other = services.insert(ip, owner).is_some();
            if other || owners.contains_key(&ip) {
                return Err(format!("{ip} of {owner} is somebody else's as well"));
            }
        }
        let mut used: BTreeMap<IpAddr, &InstanceId> = BTreeMap::new();
        for (instance, life) in self.runtimes.values().flat_map(|it| it.running()) {
            for ip in life.instance_ip.iter() {
                // Two lives of one instance may have the same, on a node that nobody hears of.
                let other = used.insert(ip, instance).filter(|it| *it != instance);
                if let Some(other) = other {
                    return Err(format!("{instance} runs with {ip}, and so does {other}"));
                }
                let holder = owners.get(&ip);
                if holder.is_some_and(|it| **it != Holder::Instance(instance.clone())) {
                    return Err(format!("{instance} runs with {ip}, which is of {holder:?}"));
                }
            }
        }
        Ok(())
    }

    /// Everything that was acknowledged runs, once, and nothing else does; everybody says so.
    pub(super) fn check_end(&self) -> Result<(), Fault> {
        self.check_promises()
            .map_err(|why| Fault::new(Broken::Promise, why))?;
        self.check_agreed()
            .map_err(|why| Fault::new(Broken::Agreement, why))
    }

    fn check_promises(&self) -> Result<(), String> {
        let mut expected: BTreeMap<InstanceId, (Generation, String)> = BTreeMap::new();
        for instance in self.root().instances() {
            if instance.withdrawn {
                return Err(format!("{} is still being removed", instance.id));
            }
            if let Some(cluster) = &instance.cluster
                && !self.is_trusted(site_of(cluster))
            {
                // Root has its last word of a cluster that is revoked until that is removed.
                if self.root().clusters().any(|it| it.0.name == *cluster) {
                    continue;
                }
                return Err(format!("{} is where nobody is", instance.id));
            }
            if self.check_phase(instance)? {
                let node = instance.node.as_ref().map(ToString::to_string);
                let life = (instance.life.generation(), node.unwrap_or_default());
                expected.insert(instance.id.clone(), life);
            }
        }
        self.check_running(&expected)
    }

    /// An instance of a cluster that is trusted is as it should be; says whether it runs.
    fn check_phase(&self, instance: &Instance) -> Result<bool, String> {
        let lost = instance.node.as_ref().is_some_and(|node| {
            let (site, at) = (site_of(&node.cluster), node_of(&node.name));
            !self.is_trusted_node(site, at)
        });
        let phase = instance.phase();
        let right = match phase {
            Phase::Running => !lost,
            // Nothing but its own end may be why.
            Phase::Failed => {
                let life = (instance.id.clone(), instance.life.generation());
                self.ended.contains(&life)
            }
            // It waits for its node, which will not come again.
            Phase::ClusterScheduled => lost,
            Phase::Requested => instance.cluster.is_none() && !self.has_room(instance),
            Phase::Registered
            | Phase::NodeScheduled
            | Phase::Creating
            | Phase::Completed
            | Phase::Terminated => false,
        };
        if !right {
            let (id, detail) = (&instance.id, &instance.detail);
            let last = instance.history.attempts().next_back();
            return Err(format!("{id} is {phase:?}: {detail}; at last {last:?}"));
        }
        Ok(phase == Phase::Running)
    }

    /// Whether an instance fits on a node beside what root knows to be there.
    fn has_room(&self, instance: &Instance) -> bool {
        let wanted = needs(instance.id.service.name.as_str());
        self.runtimes.keys().any(|(site, at)| {
            let node = node(*site, *at);
            let there = self.root().instances();
            let there = there.filter(|it| it.node.as_ref() == Some(&node));
            let mut free = capacity().total;
            for taken in there.map(|it| needs(it.id.service.name.as_str())) {
                free.millicpus = free.millicpus.saturating_sub(taken.millicpus);
                free.memory_mib = free.memory_mib.saturating_sub(taken.memory_mib);
            }
            self.is_trusted_node(*site, *at)
                && free.millicpus >= wanted.millicpus
                && free.memory_mib >= wanted.memory_mib
        })
    }

    /// Whether root knows the cluster of a site by its key, and has not revoked that.
    pub(super) fn is_trusted(&self, site: usize) -> bool {
        let key = self.processes[&Who::Cluster(site)].key;
        let name = label(CLUSTERS[site]);
        let known = self.root().clusters();
        known
            .into_iter()
            .any(|(it, ..)| it.name == name && it.key == key)
            && !self.root().revocations().keys.contains(&key)
    }

    /// Whether a node is not revoked, nor its cluster.
    pub(super) fn is_trusted_node(&self, site: usize, at: usize) -> bool {
        let key = self.processes[&Who::Worker(site, at)].key;
        self.is_trusted(site) && !self.root().revocations().keys.contains(&key)
    }

    /// What runs where somebody hears of it. What runs elsewhere nobody can end.
    pub(super) fn running(&self) -> impl Iterator<Item = ((usize, usize), &InstanceId, &Life)> {
        let heard = self.runtimes.iter();
        let heard = heard.filter(|((site, at), _)| self.is_trusted_node(*site, *at));
        heard.flat_map(|(which, runtime)| {
            let running = runtime.running();
            running.map(|(instance, life)| (*which, instance, life))
        })
    }

    fn check_running(
        &self,
        expected: &BTreeMap<InstanceId, (Generation, String)>,
    ) -> Result<(), String> {
        let mut running = BTreeMap::new();
        for ((site, at), instance, life) in self.running() {
            let place = (life.generation, node(site, at).to_string());
            if let Some(other) = running.insert(instance.clone(), place) {
                return Err(format!("{instance} runs twice, also as {other:?}"));
            }
            let mut services = self.root().services();
            let service = services.find(|it| it.spec.name == instance.service);
            if service.is_none_or(|it| it.spec.command != life.command) {
                let wanted = service.map(|it| &it.spec.command);
                return Err(format!("{instance} is {life:?}, and should be {wanted:?}"));
            }
        }
        if running != *expected {
            let (run, known): (BTreeSet<_>, BTreeSet<_>) =
                (running.iter().collect(), expected.iter().collect());
            let extra: Vec<_> = run.difference(&known).collect();
            let lacking: Vec<_> = known.difference(&run).collect();
            return Err(format!(
                "runs and is not known: {extra:?}; is known and does not run: {lacking:?}"
            ));
        }
        Ok(())
    }
}
