//! The netmanagers: what each may know, and the lease that says what it may send from.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use weald_proto::id::{Label, Organisation};
use weald_proto::name::ApplicationName;
use weald_proto::session::{ClusterToNet, NetToCluster, VERSION};
use weald_proto::statement::{Lease, LeasedInstance, Statement};

use super::rows::next_generation;
use super::state::{self, NodeState};
use super::{Cluster, Effect, LEASE_LIFE, Net, Step};
use crate::Now;
use crate::record::{RecordError, Write};

impl Cluster {
    pub(super) fn connect_net(&mut self, node: Label, key: [u8; 32], observed: SocketAddr) {
        let net = Net {
            key,
            observed,
            greeted: false,
            wanted: BTreeSet::new(),
            denied: BTreeSet::new(),
        };
        self.rows.leave(&node);
        self.nets.insert(node, net);
    }

    pub(super) fn handle_net(
        &mut self,
        node: &Label,
        message: NetToCluster,
        now: Now,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let Some(net) = self.nets.get_mut(node) else {
            return Ok(());
        };
        if !net.greeted && !matches!(message, NetToCluster::Hello { .. }) {
            let text = "the first message of a netmanager must be Hello".to_owned();
            step.effects.push(Effect::CloseNet(node.clone(), text));
            return Ok(());
        }
        match message {
            NetToCluster::Hello { version, .. } if version != VERSION => {
                let text = format!(
                    "node {} speaks version {version} of the session protocol, this cluster \
                     {VERSION}; run the same release on both",
                    self.id(node)
                );
                step.effects.push(Effect::CloseNet(node.clone(), text));
            }
            NetToCluster::Hello {
                version: _,
                addresses,
                lease: _,
                revocations: _,
            } => {
                let known = self.nodes.entry(node.clone());
                known.or_insert_with(|| NodeState::new(node.clone()));
                self.rows.listen(node.clone(), []);
                self.set_addresses(node, addresses, now, step)?;
                // Whoever was greeted before is welcomed with its first addresses: this one below.
                self.address_nodes(now, step)?;
                if let Some(net) = self.nets.get_mut(node) {
                    net.greeted = true;
                }
                self.welcome_net(node, now, step);
            }
            NetToCluster::Interests(applications) => {
                net.wanted = applications.into_iter().collect();
                net.denied.clear();
            }
            NetToCluster::Addresses(addresses) => {
                self.set_addresses(node, addresses, now, step)?;
            }
            // Certificates are the shell's, which answers before this is heard.
            NetToCluster::KeepAlive | NetToCluster::Renew(_) => {}
        }
        Ok(())
    }

    fn set_addresses(
        &mut self,
        node: &Label,
        addresses: Vec<SocketAddr>,
        now: Now,
        step: &mut Step,
    ) -> Result<(), RecordError> {
        let Some(known) = self.nodes.get_mut(node) else {
            return Ok(());
        };
        if known.addresses != addresses {
            known.addresses = addresses;
            known.row = next_generation(known.row, now);
            step.writes
                .push(Write::put(state::NODE, node.to_string(), known)?);
            self.publish_node(node, step);
        }
        Ok(())
    }

    /// Answers a netmanager's Hello with everything but rows, once the node has addresses.
    pub(super) fn welcome_net(&mut self, node: &Label, now: Now, step: &mut Step) {
        let (Some(net), Some(known)) = (self.nets.get(node), self.nodes.get(node)) else {
            return;
        };
        let Some(grant) = &self.grant else {
            return;
        };
        if !net.greeted || known.node_ip.is_empty() {
            return;
        }
        let id = self.id(node);
        let token = self
            .trust
            .relay_token(&id, &net.key, &grant.owner, now.unix);
        let relay_token = match token {
            Ok(token) => token,
            Err(why) => {
                step.effects.push(Effect::Fault(why));
                Vec::new()
            }
        };
        let welcome = ClusterToNet::Welcome {
            version: VERSION,
            observed: net.observed,
            pools: self.settings.pools.clone(),
            zones: self.settings.zones.clone(),
            node_ip: known.node_ip,
            relay_token,
        };
        step.tell_net(node, welcome);
        for (_, signed) in self.grants.values() {
            step.tell_net(node, ClusterToNet::Grant(signed.clone()));
        }
        if let Some((_, signed)) = &self.revocations {
            step.tell_net(node, ClusterToNet::Revocations(signed.clone()));
        }
        if known.lease_expires > now.unix && !self.stale_leases.contains(node) {
            self.send_lease(node, step);
        } else {
            self.stale_leases.insert(node.clone());
        }
    }

    /// Says the same to every netmanager that was welcomed.
    pub(super) fn tell_nets(&self, message: &ClusterToNet, step: &mut Step) {
        for (node, net) in &self.nets {
            if net.greeted {
                step.tell_net(node, message.clone());
            }
        }
    }

    /// Makes the leases anew that say something else than before, or are half over.
    pub(super) fn renew_leases(&mut self, now: Now, step: &mut Step) -> Result<(), RecordError> {
        let half = now.unix + LEASE_LIFE.as_secs() / 2;
        let old = self.nets.keys().filter(|node| {
            let known = self.nodes.get(*node);
            known.is_some_and(|it| it.lease > 0 && it.lease_expires < half)
        });
        let old: Vec<_> = old.cloned().collect();
        self.stale_leases.extend(old);
        for node in std::mem::take(&mut self.stale_leases) {
            let Some(known) = self.nodes.get_mut(&node) else {
                continue;
            };
            if known.node_ip.is_empty() {
                continue;
            }
            known.lease = next_generation(known.lease, now);
            known.lease_expires = now.unix + LEASE_LIFE.as_secs();
            step.writes
                .push(Write::put(state::NODE, node.to_string(), known)?);
            self.send_lease(&node, step);
        }
        Ok(())
    }

    fn send_lease(&self, node: &Label, step: &mut Step) {
        let greeted = self.nets.get(node).is_some_and(|net| net.greeted);
        let (Some(lease), true) = (self.lease(node), greeted) else {
            return;
        };
        match self.trust.sign(&Statement::Lease(lease)) {
            Ok(signed) => step.tell_net(node, ClusterToNet::Lease(signed)),
            Err(why) => step.effects.push(Effect::Fault(why)),
        }
    }

    /// What a node may send from, as it stands.
    #[must_use]
    pub fn lease(&self, node: &Label) -> Option<Lease> {
        let known = self.nodes.get(node)?;
        let here = self.placements.values().filter(|it| {
            let ending = (node.clone(), it.instance.clone());
            it.node == *node && !self.gone.contains_key(&ending)
        });
        let instances = here.filter_map(|it| {
            let organisation = self.owner_of(it)?;
            Some(LeasedInstance {
                instance: it.instance.clone(),
                organisation: organisation.clone(),
                generation: it.generation,
                instance_ip: it.instance_ip,
            })
        });
        Some(Lease {
            node: self.id(node),
            epoch: known.lease,
            expires: known.lease_expires,
            node_ip: known.node_ip,
            instances: instances.collect(),
        })
    }

    /// The organisations whose names a node may resolve: those that it hosts, and its own.
    fn visible(&self, node: &Label) -> BTreeSet<Organisation> {
        let hosted = self.placements.values().filter(|it| it.node == *node);
        let hosted = hosted.filter_map(|it| self.owner_of(it));
        let own = self.grant.as_ref().map(|grant| &grant.owner);
        hosted.chain(own).cloned().collect()
    }

    /// Tells every netmanager what has changed of what it wants and may know.
    pub(super) fn speak_to_nets(&mut self, step: &mut Step) {
        let nodes: Vec<_> = self.nets.keys().cloned().collect();
        for node in nodes {
            let visible = self.visible(&node);
            let Some(net) = self.nets.get_mut(&node).filter(|net| net.greeted) else {
                continue;
            };
            let (allowed, foreign): (Vec<ApplicationName>, Vec<_>) = net
                .wanted
                .iter()
                .filter(|application| self.answered.contains(*application))
                .cloned()
                .partition(|application| {
                    let owner = self.owners.get(application);
                    owner.is_none_or(|owner| visible.contains(owner))
                });
            // Names of other organisations do not exist.
            for application in &foreign {
                if net.denied.insert(application.clone()) {
                    step.tell_net(&node, ClusterToNet::Unknown(application.clone()));
                }
            }
            net.denied
                .retain(|application| foreign.contains(application));
            self.rows.set_interests(&node, allowed);
            if !self.rows.is_due(&node) {
                continue;
            }
            let mut update = self.rows.poll(&node);
            for application in std::mem::take(&mut update.unknown) {
                step.tell_net(&node, ClusterToNet::Unknown(application));
            }
            for part in update.into_parts() {
                let rows = ClusterToNet::Rows {
                    complete: part.complete,
                    rows: part.rows,
                    more: part.more,
                };
                step.tell_net(&node, rows);
            }
        }
    }
}
