//! A cluster's nodes and what of them is reserved: the exact data that schedulers see.
//!
//! Reserving is what counts, not measured use: what is promised is never more than what a node has.
//! Who is placed where and why is `cluster`'s and the schedulers'.

use std::collections::BTreeMap;

use weald_proto::control::{Aggregate, Generation, NodeCapacity, Reason};
use weald_proto::id::{Label, NodeId};
use weald_proto::name::InstanceId;
use weald_proto::spec::{Place, Resources, ServiceSpec};
use weald_proto::table::PortMapping;

use crate::resources::{self, combine, left, sum};
use crate::words::MAX_CLUSTER_ADDONS;

/// Why nothing was reserved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReserveError {
    /// The cluster has no such node.
    #[error("cluster {cluster} has no node {node}")]
    UnknownNode {
        /// The cluster.
        cluster: Label,
        /// The node that was asked for.
        node: Label,
    },
    /// A later life of the instance has a reservation there.
    #[error("{instance} is reserved in generation {known}, which is later than {wanted}")]
    Stale {
        /// The instance.
        instance: InstanceId,
        /// The generation that was to be reserved for.
        wanted: Generation,
        /// The generation that has a reservation.
        known: Generation,
    },
    /// The node cannot take it.
    #[error("the node cannot take it: {0:?}")]
    Refused(Reason),
}

#[derive(Debug, Clone)]
struct Reservation {
    generation: Generation,
    resources: Resources,
    ports: Vec<PortMapping>,
}

/// A node with what is reserved of it.
#[derive(Debug, Clone)]
pub struct Node {
    capacity: NodeCapacity,
    unavailable: Option<String>,
    /// Per cent of all processors, and MiB of memory, in use.
    load: (f32, u32),
    reserved: BTreeMap<InstanceId, Reservation>,
}

impl Node {
    /// What the node has.
    #[must_use]
    pub const fn capacity(&self) -> &NodeCapacity {
        &self.capacity
    }

    /// Why nothing is placed there now; none if it can be.
    #[must_use]
    pub fn unavailable(&self) -> Option<&str> {
        self.unavailable.as_deref()
    }

    /// What is reserved, summed.
    #[must_use]
    pub fn reserved(&self) -> Resources {
        self.reserved_beside(None)
    }

    /// What is not reserved; nothing where the node has come to have less than was reserved.
    #[must_use]
    pub fn free(&self) -> Resources {
        left(&self.capacity.total, &self.reserved())
    }

    fn release(&mut self, instance: &InstanceId, generation: Generation) -> Option<Reservation> {
        let has = self.reserved.get(instance);
        has.filter(|it| it.generation <= generation)?;
        self.reserved.remove(instance)
    }

    fn reserved_beside(&self, own: Option<&InstanceId>) -> Resources {
        let others = self.reserved.iter().filter(|(it, _)| Some(*it) != own);
        others.fold(Resources::default(), |all, (_, it)| {
            sum(&all, &it.resources)
        })
    }

    /// Whether as many others than `own` are here as may be.
    pub(super) fn crowded(&self, own: Option<&InstanceId>) -> Option<Reason> {
        let others = self.reserved.keys().filter(|it| Some(*it) != own);
        resources::crowded(others.count())
    }

    /// The first port of the service that another instance than `own` has here.
    pub(super) fn port_taken(
        &self,
        spec: &ServiceSpec,
        own: Option<&InstanceId>,
    ) -> Option<Reason> {
        let others = self.reserved.iter().filter(|(it, _)| Some(*it) != own);
        resources::port_taken(
            spec,
            others.map(|(it, theirs)| (it, theirs.ports.as_slice())),
        )
    }
}

/// The nodes of one cluster: what a scheduler sees, and where its advice is reserved.
#[derive(Debug, Clone)]
pub struct Inventory {
    cluster: Label,
    place: Option<Place>,
    nodes: BTreeMap<Label, Node>,
}

impl Inventory {
    /// A cluster without nodes. Nodes that do not say where they are, are where the cluster is.
    #[must_use]
    pub const fn new(cluster: Label, place: Option<Place>) -> Self {
        Self {
            cluster,
            place,
            nodes: BTreeMap::new(),
        }
    }

    /// The cluster.
    #[must_use]
    pub const fn cluster(&self) -> &Label {
        &self.cluster
    }

    /// Where the cluster is.
    #[must_use]
    pub const fn place(&self) -> Option<Place> {
        self.place
    }

    /// Every node, in the order of names.
    pub fn nodes(&self) -> impl Iterator<Item = (&Label, &Node)> {
        self.nodes.iter()
    }

    /// A node.
    #[must_use]
    pub fn node(&self, name: &Label) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// The id of a node of this cluster.
    #[must_use]
    pub fn id(&self, name: &Label) -> NodeId {
        NodeId::new(self.cluster.clone(), name.clone())
    }

    /// Takes up a node, or what it has now; its reservations stay.
    pub fn set_node(&mut self, name: Label, capacity: NodeCapacity) {
        if let Some(node) = self.nodes.get_mut(&name) {
            node.capacity = capacity;
            return;
        }
        let node = Node {
            capacity,
            unavailable: None,
            load: (0.0, 0),
            reserved: BTreeMap::new(),
        };
        self.nodes.insert(name, node);
    }

    /// Says why nothing can be placed on a node, or with none that it can; says whether it is known.
    pub fn set_unavailable(&mut self, name: &Label, why: Option<String>) -> bool {
        let node = self.nodes.get_mut(name);
        node.map(|node| node.unavailable = why).is_some()
    }

    /// Says how busy a node is: per cent of all its processors, and MiB; says whether it is known.
    pub fn set_load(&mut self, name: &Label, cpu_percent: f32, memory_mib: u32) -> bool {
        let node = self.nodes.get_mut(name);
        node.map(|node| node.load = (cpu_percent, memory_mib))
            .is_some()
    }

    /// Forgets a node with all its reservations; says whether it was known.
    pub fn remove_node(&mut self, name: &Label) -> bool {
        self.nodes.remove(name).is_some()
    }

    /// Reserves what the service asks for on a node.
    ///
    /// On one node a later life of an instance takes the place of an earlier one; on others earlier
    /// lives keep theirs until they are released, so that a move is made before it breaks. The
    /// same life is on one node only: it moves, and doing it twice is doing it once.
    ///
    /// # Errors
    /// Says why not; nothing has changed.
    pub fn reserve(
        &mut self,
        name: &Label,
        instance: &InstanceId,
        generation: Generation,
        spec: &ServiceSpec,
    ) -> Result<(), ReserveError> {
        let known = self
            .nodes
            .values()
            .filter_map(|it| it.reserved.get(instance));
        let known = known.map(|it| it.generation).max();
        if let Some(known) = known.filter(|known| *known > generation) {
            return Err(ReserveError::Stale {
                instance: instance.clone(),
                wanted: generation,
                known,
            });
        }
        let Some(node) = self.nodes.get_mut(name) else {
            return Err(ReserveError::UnknownNode {
                cluster: self.cluster.clone(),
                node: name.clone(),
            });
        };
        let free = left(&node.capacity.total, &node.reserved_beside(Some(instance)));
        let lacking = resources::insufficient(&spec.resources, &free, "").next();
        let refused = lacking
            .or_else(|| node.crowded(Some(instance)))
            .or_else(|| node.port_taken(spec, Some(instance)));
        if let Some(reason) = refused {
            return Err(ReserveError::Refused(reason));
        }
        let reservation = Reservation {
            generation,
            resources: spec.resources,
            ports: spec.ports.clone(),
        };
        node.reserved.insert(instance.clone(), reservation);
        for (other, node) in &mut self.nodes {
            let same = node.reserved.get(instance);
            if other != name && same.is_some_and(|it| it.generation == generation) {
                node.reserved.remove(instance);
            }
        }
        Ok(())
    }

    /// Releases what every life of an instance up to `generation` has, on every node; says whether
    /// anything was.
    pub fn release(&mut self, instance: &InstanceId, generation: Generation) -> bool {
        let nodes = self.nodes.values_mut();
        let released = nodes.filter_map(|node| node.release(instance, generation));
        released.count() > 0
    }

    /// Releases what the lives of an instance up to `generation` have on one node: it has ended them.
    pub fn release_at(&mut self, name: &Label, instance: &InstanceId, generation: Generation) {
        let node = self.nodes.get_mut(name);
        node.and_then(|node| node.release(instance, generation));
    }

    /// The sum over the nodes on which something can be placed, as root ranks by it.
    #[must_use]
    pub fn aggregate(&self) -> Aggregate {
        let live = || self.nodes.values().filter(|it| it.unavailable.is_none());
        let mut all = Aggregate::default();
        for node in live() {
            let free = node.free();
            all.nodes = all.nodes.saturating_add(1);
            all.total = sum(&all.total, &node.capacity.total);
            all.free = sum(&all.free, &free);
            all.largest_free = combine(&all.largest_free, &free, u32::max);
            all.runtimes.extend(&node.capacity.runtimes);
            all.addons.extend(node.capacity.addons.iter().cloned());
        }
        all.runtimes.sort_unstable();
        all.runtimes.dedup();
        all.addons.sort_unstable();
        all.addons.dedup();
        all.addons.truncate(MAX_CLUSTER_ADDONS);
        all.free_millicpus_mean_deviation = mean_deviation(live().map(|it| it.free().millicpus));
        all.free_memory_mean_deviation = mean_deviation(live().map(|it| it.free().memory_mib));
        // Weighted by size: a busy small node does not make a large cluster busy.
        all.cpu_percent =
            weighted(live().map(|it| (f64::from(it.load.0), it.capacity.total.millicpus)));
        all.memory_percent = weighted(live().map(|it| {
            let total = it.capacity.total.memory_mib;
            (
                100.0 * f64::from(it.load.1) / f64::from(total.max(1)),
                total,
            )
        }));
        all
    }
}

fn mean_deviation(amounts: impl Iterator<Item = u32> + Clone) -> (f64, f64) {
    let (mut count, mut total) = (0.0, 0.0);
    for amount in amounts.clone() {
        count += 1.0;
        total += f64::from(amount);
    }
    if count == 0.0 {
        return (0.0, 0.0);
    }
    let mean = total / count;
    let squares: f64 = amounts.map(|it| (f64::from(it) - mean).powi(2)).sum();
    (mean, (squares / count).sqrt())
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a percentage for people to read, told as an f32"
)]
fn weighted(shares: impl Iterator<Item = (f64, u32)>) -> f32 {
    let (mut of, mut total) = (0.0, 0.0);
    for (percent, weight) in shares {
        of += percent * f64::from(weight);
        total += f64::from(weight);
    }
    if total == 0.0 {
        0.0
    } else {
        (of / total) as f32
    }
}
