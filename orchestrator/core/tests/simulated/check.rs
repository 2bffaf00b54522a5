//! What must hold: at every moment, and once there was calm for long enough.

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
use super::site::{CLUSTERS, NODES, Who, label, node};
use super::world::World;

impl World {
    fn root(&self) -> &Root {
        match &self.processes[&Who::Root].machine {
            Machine::Root(root) => root,
            Machine::Cluster(_) | Machine::Worker(_) => panic!("root is another"),
        }
    }

    fn cluster(&self, site: usize) -> &Cluster {
        match &self.processes[&Who::Cluster(site)].machine {
            Machine::Cluster(cluster) => cluster,
            Machine::Root(_) | Machine::Worker(_) => panic!("a cluster is another"),
        }
    }

    fn worker(&self, (site, at): (usize, usize)) -> &Worker {
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

    /// Root has on its disk what it knows of instances: whatever it has acknowledged, and why each is
    /// where it is. Who sends before it persists is found out elsewhere.
    pub(super) fn check_root_disk(&self) -> Result<(), Fault> {
        self.compare_root_disk()
            .map_err(|why| Fault::new(Broken::Agreement, why))
    }

    fn compare_root_disk(&self) -> Result<(), String> {
        let process = &self.processes[&Who::Root];
        if process.down.is_some() {
            return Ok(());
        }
        let kept = process.kept(self.at());
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
            }
        }
        Ok(())
    }

    /// Everything that was acknowledged runs, once, and nothing else does; everybody says so.
    pub(super) fn check_end(&self) -> Result<(), Fault> {
        self.check_promises()
            .map_err(|why| Fault::new(Broken::Promise, why))?;
        let agreed = self.check_books().and_then(|()| self.check_leases());
        let agreed = agreed.and_then(|()| self.check_tables());
        agreed.map_err(|why| Fault::new(Broken::Agreement, why))
    }

    fn check_promises(&self) -> Result<(), String> {
        let mut wanted: BTreeMap<&str, u32> = BTreeMap::new();
        let mut expected: BTreeMap<InstanceId, (Generation, String)> = BTreeMap::new();
        for instance in self.root().instances() {
            if instance.withdrawn {
                return Err(format!("{} is still being removed", instance.id));
            }
            *wanted.entry(instance.id.service.name.as_str()).or_default() += 1;
            match (instance.phase(), &instance.node) {
                (Phase::Running, Some(node)) => {
                    let life = (instance.life.generation(), node.to_string());
                    expected.insert(instance.id.clone(), life);
                }
                // Nothing but its own end may be why.
                (Phase::Failed, _) => {
                    let life = (instance.id.clone(), instance.life.generation());
                    if !self.ended.contains(&life) {
                        return Err(format!("{life:?} has failed: {}", instance.detail));
                    }
                }
                (phase, _) => {
                    let id = &instance.id;
                    return Err(format!("{id} is {phase:?}: {}", instance.detail));
                }
            }
        }
        for (service, asked) in &self.asked {
            let there = wanted.get(service).copied().unwrap_or_default();
            if asked.iter().all(|(_, to)| *to != there) {
                return Err(format!("{there} of {service}, asked for {asked:?}"));
            }
        }
        self.check_running(&expected)
    }

    fn check_running(
        &self,
        expected: &BTreeMap<InstanceId, (Generation, String)>,
    ) -> Result<(), String> {
        let mut running = BTreeMap::new();
        for ((site, at), runtime) in &self.runtimes {
            for (instance, life) in runtime.running() {
                let life = (life.generation, node(*site, *at).to_string());
                if let Some(other) = running.insert(instance.clone(), life) {
                    return Err(format!("{instance} runs twice, also as {other:?}"));
                }
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

    /// A tier has taken on nothing that the one above does not know of, and says of it the same.
    fn check_books(&self) -> Result<(), String> {
        for (site, name) in CLUSTERS.into_iter().enumerate() {
            let mut reports = BTreeMap::new();
            for report in self.cluster(site).instances() {
                let id = &report.instance;
                let known = self.root().instance(id);
                let known = known.filter(|it| it.cluster.as_ref() == Some(&label(name)));
                let known = known.map(|it| (it.life.generation(), it.phase()));
                if known != Some((report.generation, report.phase)) {
                    return Err(format!("root knows {known:?} of {report:?}"));
                }
                reports.insert(id, report);
            }
            for at in 0..NODES.len() {
                for report in self.worker((site, at)).instances() {
                    let known = reports.get(&report.instance);
                    let known = known.filter(|it| it.node == report.node);
                    let known = known.map(|it| (it.generation, it.phase));
                    if known != Some((report.generation, report.phase)) {
                        return Err(format!("cluster {name} knows {known:?} of {report:?}"));
                    }
                }
            }
        }
        Ok(())
    }

    fn check_leases(&self) -> Result<(), String> {
        for (site, at) in self.runtimes.keys().copied() {
            let lease = self.cluster(site).lease(&label(NODES[at]));
            let leased = lease.map(|it| it.instances).unwrap_or_default();
            let leased: BTreeMap<_, _> = leased
                .into_iter()
                .map(|it| (it.instance, it.instance_ip))
                .collect();
            for (instance, life) in self.runtimes[&(site, at)].running() {
                if leased.get(instance) != Some(&life.instance_ip) {
                    return Err(format!("{instance} runs, the lease says {leased:?}"));
                }
            }
        }
        Ok(())
    }

    /// Every netmanager knows what runs, and where.
    fn check_tables(&self) -> Result<(), String> {
        let mut running = BTreeMap::new();
        for ((site, at), runtime) in &self.runtimes {
            for (instance, life) in runtime.running() {
                let place = format!("{} {:?}", node(*site, *at), life.instance_ip);
                running.insert(instance.clone(), place);
            }
        }
        for (site, table) in self.tables.iter().enumerate() {
            let known = table.instances();
            for instance in known.keys().chain(running.keys()) {
                let (row, runs) = (known.get(instance), running.get(instance));
                if row.map(|(_, place)| place) != runs {
                    let site = CLUSTERS[site];
                    return Err(format!(
                        "{instance} runs at {runs:?}; in the table of {site}: {row:?}"
                    ));
                }
            }
        }
        Ok(())
    }
}
