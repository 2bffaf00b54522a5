//! What all tiers say once there was calm for long enough: the same, in books, leases and tables.

use std::collections::{BTreeMap, BTreeSet};

use orchestrator_core::addresses::Holder;
use weald_proto::addr::Dual;
use weald_proto::id::NodeId;

use super::site::{CLUSTERS, NODES, Who, label, node};
use super::tables::There;
use super::world::World;

impl World {
    /// Everybody who is trusted says the same.
    pub(super) fn check_agreed(&self) -> Result<(), String> {
        self.check_service_addresses()?;
        let there = self.there();
        for site in (0..CLUSTERS.len()).filter(|site| self.is_trusted(*site)) {
            self.check_books(site)?;
            self.check_addresses(site)?;
            self.check_leases(site)?;
            self.check_revoked(site)?;
            self.check_table(site, &there)?;
        }
        Ok(())
    }

    /// Services that are gone have given their addresses back, and others have theirs.
    fn check_service_addresses(&self) -> Result<(), String> {
        let owned = self.root().service_addresses();
        let owned: BTreeSet<_> = owned
            .map(|(ip, owner)| (owner.service.clone(), ip))
            .collect();
        let services = self.root().services().flat_map(|it| {
            let all = it.spec.round_robin.iter().chain(it.spec.closest.iter());
            all.map(|ip| (it.spec.name.clone(), ip)).collect::<Vec<_>>()
        });
        let had: BTreeSet<_> = services.collect();
        if owned != had {
            return Err(format!(
                "services have {had:?}, and root has given {owned:?}"
            ));
        }
        Ok(())
    }

    /// A tier has taken on nothing that the one above does not know of, and says of it the same.
    fn check_books(&self, site: usize) -> Result<(), String> {
        let name = CLUSTERS[site];
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
        for at in (0..NODES.len()).filter(|at| self.is_trusted_node(site, *at)) {
            for report in self.worker((site, at)).instances() {
                let known = reports.get(&report.instance);
                let known = known.filter(|it| it.node == report.node);
                let known = known.map(|it| (it.generation, it.phase));
                if known != Some((report.generation, report.phase)) {
                    return Err(format!("cluster {name} knows {known:?} of {report:?}"));
                }
            }
        }
        Ok(())
    }

    /// Whoever is not there any more has given its addresses back.
    fn check_addresses(&self, site: usize) -> Result<(), String> {
        let name = label(CLUSTERS[site]);
        for (ip, holder) in self.cluster(site).owners_of_addresses() {
            let is_there = match holder {
                Holder::Instance(id) => {
                    let known = self.root().instance(id);
                    known.is_some_and(|it| it.cluster.as_ref() == Some(&name))
                }
                Holder::Node(node) => node.cluster == name,
            };
            if !is_there {
                return Err(format!("{ip} is still of {holder}"));
            }
        }
        Ok(())
    }

    /// What runs is leased, and nothing is that root does not know there.
    fn check_leases(&self, site: usize) -> Result<(), String> {
        for (at, name) in NODES.into_iter().enumerate() {
            let lease = self.cluster(site).lease(&label(name));
            let leased = lease.map(|it| it.instances).unwrap_or_default();
            let leased: BTreeMap<_, _> = leased
                .into_iter()
                .map(|it| (it.instance, it.instance_ip))
                .collect();
            for instance in leased.keys() {
                let known = self.root().instance(instance);
                if known.and_then(|it| it.node.as_ref()) != Some(&node(site, at)) {
                    return Err(format!("{instance} is leased, and root knows {known:?}"));
                }
            }
            let here = self.running().filter(|(which, ..)| *which == (site, at));
            for (_, instance, life) in here {
                if leased.get(instance) != Some(&life.instance_ip) {
                    return Err(format!("{instance} runs, the lease says {leased:?}"));
                }
            }
        }
        Ok(())
    }

    /// Who is revoked is known to everybody.
    fn check_revoked(&self, site: usize) -> Result<(), String> {
        let revoked: BTreeSet<_> = self.root().revocations().keys.into_iter().collect();
        let cluster = self.processes[&Who::Cluster(site)].beliefs.revoked();
        let net = self.tables[site].revoked();
        if cluster != revoked || net != revoked {
            return Err(format!(
                "{revoked:?} are revoked; cluster {site} knows {cluster:?}, a netmanager {net:?}"
            ));
        }
        Ok(())
    }

    /// Every netmanager knows what runs and where, the services, and the nodes that it needs.
    fn check_table(&self, site: usize, there: &There) -> Result<(), String> {
        let mut known = self.tables[site].there();
        // What nobody needs any more may be known still.
        let needed: BTreeSet<_> = known.instances.values().map(|it| it.0.clone()).collect();
        known.nodes.retain(|node, _| needed.contains(node));
        let (known, there) = (known.lines(), there.lines());
        if known != there {
            let name = CLUSTERS[site];
            let wrong: Vec<_> = known.difference(&there).collect();
            let lacks: Vec<_> = there.difference(&known).collect();
            return Err(format!(
                "the table of {name} has {wrong:?} and lacks {lacks:?}"
            ));
        }
        Ok(())
    }

    /// What every table should say.
    fn there(&self) -> There {
        let mut there = There::default();
        for service in self.root().services() {
            let spec = &service.spec;
            let addresses = (spec.round_robin, spec.closest);
            there.services.insert(spec.name.clone(), addresses);
        }
        for ((site, at), instance, life) in self.running() {
            let node = node(site, at);
            there.nodes.insert(node.clone(), self.node_ip(&node));
            let place = (node, life.instance_ip);
            there.instances.insert(instance.clone(), place);
        }
        there
    }

    /// The addresses of a node, as root was told.
    fn node_ip(&self, node: &NodeId) -> Dual {
        let mut clusters = self.root().clusters();
        let nodes = clusters.find(|(it, ..)| it.name == node.cluster);
        let nodes = nodes.map_or(&[][..], |(.., nodes)| nodes);
        let known = nodes.iter().find(|it| it.node == *node);
        known.map(|it| it.node_ip).unwrap_or_default()
    }
}
