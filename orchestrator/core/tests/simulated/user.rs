//! What users have asked for, and what may have come of it: a model of root that knows no more of it
//! than its users do.
//!
//! A command that was answered was done then and there, or not at all; one whose answer is lost was
//! done or was not. So there may be several states that root can be in, and it has to be in one of them.

use std::collections::{BTreeMap, BTreeSet};

use orchestrator_core::root::{Command, Distrusted, Root};
use weald_proto::id::NodeId;

use super::site::{CLUSTERS, SERVICES, cluster_key, draft, label, organisation, service, site_of};

/// A command as a user means it, with the ids that were looked up for it.
#[derive(Debug, Clone)]
pub(crate) enum Ask {
    /// These services in these versions, and the text of the application.
    Apply(BTreeMap<&'static str, u32>, u32),
    Describe(String, u32),
    DeleteApplication(String),
    DeleteService(String, &'static str),
    Deploy(String, &'static str),
    Scale(String, &'static str, u32),
    Undeploy(String, &'static str, Option<u32>),
    /// A site's cluster, for the nth time.
    Join(usize, u8),
    Remove(usize),
    RevokeCluster(usize),
    /// A node and the key that it has.
    RevokeNode(NodeId, [u8; 32]),
}

impl Ask {
    pub(crate) fn command(&self) -> Command {
        match self {
            Self::Apply(services, text) => Command::Apply(draft(services, *text), organisation()),
            Self::Describe(id, text) => Command::Describe(id.clone(), text.to_string()),
            Self::DeleteApplication(id) => Command::DeleteApplication(id.clone()),
            Self::DeleteService(id, _) => Command::DeleteService(id.clone()),
            Self::Deploy(id, _) => Command::Deploy(id.clone()),
            Self::Scale(id, _, to) => Command::Scale(id.clone(), *to),
            Self::Undeploy(id, _, number) => Command::Undeploy(id.clone(), *number),
            Self::Join(site, joined) => Command::AddCluster {
                name: label(CLUSTERS[*site]),
                key: cluster_key(*site, *joined),
                organisations: None,
                owner: organisation(),
            },
            Self::Remove(site) => Command::RemoveCluster(label(CLUSTERS[*site])),
            Self::RevokeCluster(site) => {
                Command::Revoke(Distrusted::Cluster(label(CLUSTERS[*site])))
            }
            Self::RevokeNode(node, _) => Command::Revoke(Distrusted::Node(node.clone())),
        }
    }

    /// Whether a state says for sure that it is done. Otherwise something that was looked up may have
    /// become another, or root may not know a node yet.
    const fn is_certain(&self) -> bool {
        match self {
            Self::Apply(..) | Self::Join(..) | Self::Remove(_) | Self::RevokeCluster(_) => true,
            Self::Describe(..)
            | Self::DeleteApplication(_)
            | Self::DeleteService(..)
            | Self::Deploy(..)
            | Self::Scale(..)
            | Self::Undeploy(..)
            | Self::RevokeNode(..) => false,
        }
    }
}

/// A service as a user knows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Wanted {
    version: u32,
    instances: u32,
    /// The numbers of instances that were removed: no other gets one of them.
    removed: BTreeSet<u32>,
}

/// What root may know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
struct State {
    /// The text of the application, if there is one.
    application: Option<u32>,
    services: BTreeMap<&'static str, Wanted>,
    /// The key of each cluster.
    clusters: BTreeMap<usize, [u8; 32]>,
    revoked: BTreeSet<[u8; 32]>,
}

impl State {
    /// What it is once something is done; none if it is refused.
    fn after(&self, ask: &Ask) -> Option<Self> {
        let mut next = self.clone();
        match ask {
            Ask::Apply(services, text) => {
                for (name, version) in services {
                    let wanted = next.services.entry(*name).or_insert_with(|| Wanted {
                        version: *version,
                        instances: 0,
                        removed: BTreeSet::new(),
                    });
                    if wanted.version != *version {
                        return None;
                    }
                }
                next.application = Some(*text);
            }
            Ask::Describe(_, text) => {
                next.application.replace(*text)?;
            }
            Ask::DeleteApplication(_) => {
                next.application.take()?;
                next.services.clear();
            }
            Ask::DeleteService(_, name) => {
                next.services.remove(name)?;
            }
            Ask::Deploy(_, name) => next.services.get_mut(name)?.instances += 1,
            Ask::Scale(_, name, to) => next.services.get_mut(name)?.instances = *to,
            Ask::Undeploy(_, name, None) => next.services.get_mut(name)?.instances = 0,
            Ask::Undeploy(_, name, Some(number)) => {
                let wanted = next.services.get_mut(name)?;
                wanted.instances = wanted.instances.checked_sub(1)?;
                if !wanted.removed.insert(*number) {
                    return None;
                }
            }
            Ask::Join(site, joined) => {
                let key = cluster_key(*site, *joined);
                let known = next.clusters.get(site);
                if next.revoked.contains(&key) && known.is_none() {
                    return None;
                }
                if *next.clusters.entry(*site).or_insert(key) != key {
                    return None;
                }
            }
            Ask::Remove(site) => {
                let key = next.clusters.remove(site)?;
                next.revoked.insert(key);
            }
            Ask::RevokeCluster(site) => {
                let key = *next.clusters.get(site)?;
                next.revoked.insert(key);
            }
            Ask::RevokeNode(_, key) => {
                next.revoked.insert(*key);
            }
        }
        Some(next)
    }

    /// Whether root is as this says.
    fn is(&self, known: &Known) -> bool {
        self.application == known.application
            && self.clusters == known.clusters
            && self.revoked == known.revoked
            && self.services.keys().eq(known.services.keys())
            && self.services.iter().all(|(name, wanted)| {
                let (version, numbers) = &known.services[name];
                wanted.version == *version
                    && usize::try_from(wanted.instances) == Ok(numbers.len())
                    && wanted.removed.is_disjoint(numbers)
            })
    }
}

/// What root says that it knows, as far as users can compare it.
#[derive(Debug)]
struct Known {
    application: Option<u32>,
    /// Each service with its version and the numbers of its instances.
    services: BTreeMap<&'static str, (u32, BTreeSet<u32>)>,
    clusters: BTreeMap<usize, [u8; 32]>,
    revoked: BTreeSet<[u8; 32]>,
}

impl Known {
    fn of(root: &Root) -> Self {
        let texts = root.applications().map(|it| it.description.parse());
        let services = SERVICES.into_iter().filter_map(|(name, ..)| {
            let known = root.services().find(|it| it.spec.name == service(name))?;
            let instances = root.instances().filter(|it| !it.withdrawn);
            let here = instances.filter(|it| it.id.service == known.spec.name);
            let numbers = here.map(|it| it.id.number).collect();
            Some((name, (version(&known.spec.command), numbers)))
        });
        let clusters = root.clusters();
        Self {
            application: texts.last().map(|text| text.unwrap()),
            services: services.collect(),
            clusters: clusters
                .map(|(it, ..)| (site_of(&it.name), it.key))
                .collect(),
            revoked: root.revocations().keys.into_iter().collect(),
        }
    }
}

/// The version of a service that a command shows.
pub(crate) fn version(command: &[String]) -> u32 {
    command[0].parse().unwrap()
}

/// All users together.
#[derive(Debug)]
pub(crate) struct Users {
    /// What root may have known when it answered last.
    states: BTreeSet<State>,
    /// What was asked since, and may have been heard or not.
    open: Vec<(u64, Ask)>,
    asked: u64,
}

impl Users {
    pub(crate) fn new() -> Self {
        Self {
            states: BTreeSet::from([State::default()]),
            open: Vec::new(),
            asked: 0,
        }
    }

    /// How often something was asked.
    pub(crate) const fn asked(&self) -> u64 {
        self.asked
    }

    /// Something is asked; returns its number.
    pub(crate) fn ask(&mut self, ask: Ask) -> u64 {
        self.asked += 1;
        self.open.push((self.asked, ask));
        self.asked
    }

    /// Root says that something is done, or that nothing was. Returns what it is.
    ///
    /// # Errors
    /// Root cannot have said that.
    pub(crate) fn answer(&mut self, number: u64, done: bool) -> Result<Ask, String> {
        let there = self.open.iter().position(|(it, _)| *it == number);
        let there = there.ok_or_else(|| format!("{number} is answered twice"))?;
        let mut asked: Vec<_> = self.open.drain(..=there).map(|(_, ask)| ask).collect();
        let answered = asked.pop().ok_or("nothing was asked")?;
        let before = may_be(&self.states, &asked);
        let states = before.iter().filter_map(|state| {
            let after = state.after(&answered);
            match (done, after) {
                (true, after) => after,
                (false, Some(_)) if answered.is_certain() => None,
                (false, _) => Some(state.clone()),
            }
        });
        self.states = states.collect();
        if self.states.is_empty() {
            return Err(format!("{answered:?} is answered by {done} in {before:?}"));
        }
        Ok(answered)
    }

    /// Root is in one of the states that it may be in.
    ///
    /// # Errors
    /// It is not.
    pub(crate) fn check(&self, root: &Root) -> Result<(), String> {
        let asked: Vec<_> = self.open.iter().map(|(_, ask)| ask.clone()).collect();
        let known = Known::of(root);
        let states = may_be(&self.states, &asked);
        if states.iter().any(|it| it.is(&known)) {
            return Ok(());
        }
        Err(format!(
            "root knows {known:?}, and was asked for {states:?}"
        ))
    }
}

/// The states after commands each of which was done or not.
fn may_be(states: &BTreeSet<State>, asked: &[Ask]) -> BTreeSet<State> {
    let mut states = states.clone();
    for ask in asked {
        let after: Vec<_> = states.iter().filter_map(|it| it.after(ask)).collect();
        states.extend(after);
    }
    states
}
