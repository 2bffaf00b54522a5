//! The rows of the overlay as a cluster sends them, and the table that they make.
//!
//! A [`RowStore`] takes statements that somebody else has judged (signature, grant and expiry are
//! not looked at here), keeps the newest of each subject whatever order they come in, and builds a
//! checked `weald_proto::table::Table`. It knows of which applications it has all rows, so that a
//! name can be told from one that nobody has asked for yet. [`Interests`] says which applications
//! those should be. [`Attached`] instances are what the node itself hosts; they join the rows of a
//! cluster and those of a static table alike.
//!
//! No session, no file and no clock is here: those are the daemon's.

use std::collections::{BTreeMap, BTreeSet};

use weald_proto::addr::{Dual, Pools};
use weald_proto::id::{Label, NodeId, Organisation, RelayId};
use weald_proto::name::{ApplicationName, InstanceId, ServiceName, Zone};
use weald_proto::statement::{
    Grant, InstanceStatement, Lease, NodeStatement, RelayStatement, ServiceStatement, Signed,
    Statement, UnixSeconds,
};

pub use self::attached::{AttachError, Attached, with_attached};
pub use self::build::{Built, Leased};
pub use self::interests::{INTEREST_TIMEOUT, Interests, MAX_ASKED};

use self::newest::Newest;

mod attached;
mod build;
mod interests;
mod newest;

#[cfg(test)]
mod tests;

/// Most nodes without a row that may have sessions: each was authenticated under the same root.
pub const MAX_GUESTS: usize = 1024;

/// A statement whose signature and grant hold, with the bytes that prove it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// What is stated.
    pub statement: Statement,
    /// The same as it travelled, to be kept on disk and passed on.
    pub signed: Signed,
}

/// What a cluster says of the overlay when it welcomes a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Basics {
    /// The prefixes that belong to the overlay.
    pub pools: Pools,
    /// The zones that semantic names end in.
    pub zones: Vec<Zone>,
    /// The node's own addresses in the overlay.
    pub node_ip: Dual,
}

/// What is known of an application as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Knowledge {
    /// All of its rows are here.
    Complete,
    /// It does not exist, or not for this node.
    Unknown,
}

/// The newest row of everything that a node has been told of.
#[derive(Debug, Clone)]
pub struct RowStore {
    me: NodeId,
    basics: Option<Basics>,
    applications: BTreeMap<ApplicationName, Knowledge>,
    grants: Newest<Label, Grant>,
    services: Newest<ServiceName, ServiceStatement>,
    instances: Newest<InstanceId, InstanceStatement>,
    nodes: Newest<NodeId, NodeStatement>,
    relays: Newest<RelayId, RelayStatement>,
    /// What other nodes have shown that they may send from.
    leases: Newest<NodeId, Lease>,
}

impl RowStore {
    /// A store of the node `me` that knows nothing yet.
    #[must_use]
    pub const fn new(me: NodeId) -> Self {
        Self {
            me,
            basics: None,
            applications: BTreeMap::new(),
            grants: Newest::new(),
            services: Newest::new(),
            instances: Newest::new(),
            nodes: Newest::new(),
            relays: Newest::new(),
            leases: Newest::new(),
        }
    }

    /// Takes what the cluster says of the overlay; the last word counts.
    pub fn set_basics(&mut self, basics: Basics) {
        self.basics = Some(basics);
    }

    /// What the cluster has said of the overlay; none before it was reached for the first time.
    #[must_use]
    pub const fn basics(&self) -> Option<&Basics> {
        self.basics.as_ref()
    }

    /// Takes the rows of one message. Those of the applications in `complete` that are neither among
    /// them nor among the `stale` ones, of which something newer is known, are gone; until the same
    /// or a newer one comes again.
    pub fn handle_rows(
        &mut self,
        complete: &[ApplicationName],
        rows: Vec<Judged>,
        stale: &[Statement],
    ) {
        let mut services = BTreeSet::new();
        let mut instances = BTreeSet::new();
        for statement in rows.iter().map(|row| &row.statement).chain(stale) {
            match statement {
                Statement::Service(row) => drop(services.insert(row.name.clone())),
                Statement::Instance(row) => drop(instances.insert(row.instance.clone())),
                Statement::Grant(_)
                | Statement::Revocations(_)
                | Statement::Node(_)
                | Statement::Relay(_)
                | Statement::Lease(_) => {}
            }
        }
        let whole: BTreeSet<&ApplicationName> = complete.iter().collect();
        self.services
            .withdraw(|name| whole.contains(&name.application) && !services.contains(name));
        self.instances
            .withdraw(|id| whole.contains(&id.service.application) && !instances.contains(id));
        for application in complete {
            self.applications
                .insert(application.clone(), Knowledge::Complete);
        }
        for row in rows {
            self.handle(row);
        }
    }

    /// Takes one row, the grant of a cluster, or the lease that another node has shown; false if a
    /// newer one is known or it is none of these.
    pub fn handle(&mut self, row: Judged) -> bool {
        let Judged { statement, signed } = row;
        match statement {
            Statement::Grant(row) => {
                let key = row.cluster.clone();
                self.grants.put(key, row.generation, false, row, signed)
            }
            Statement::Service(row) => {
                let key = row.name.clone();
                self.services
                    .put(key, row.generation, row.removed, row, signed)
            }
            Statement::Instance(row) => {
                let key = row.instance.clone();
                self.instances
                    .put(key, row.generation, row.removed, row, signed)
            }
            Statement::Node(row) => {
                let key = row.node.clone();
                self.nodes
                    .put(key, row.generation, row.removed, row, signed)
            }
            Statement::Relay(row) => {
                let key = row.relay.clone();
                self.relays
                    .put(key, row.generation, row.removed, row, signed)
            }
            // The own lease is for others; what is hosted here is known from what is attached.
            Statement::Lease(row) if row.node == self.me => false,
            Statement::Lease(row) => {
                let key = row.node.clone();
                self.leases.put(key, row.epoch, false, row, signed)
            }
            Statement::Revocations(_) => false,
        }
    }

    /// Takes note that an application does not exist for this node. Its rows are gone.
    pub fn handle_unknown(&mut self, application: ApplicationName) {
        self.withdraw(&application);
        self.applications.insert(application, Knowledge::Unknown);
    }

    /// Forgets all about the applications that are not wanted any more.
    pub fn keep_only(&mut self, wanted: &BTreeSet<ApplicationName>) {
        self.applications.retain(|name, _| wanted.contains(name));
        self.services
            .forget(|name| !wanted.contains(&name.application));
        self.instances
            .forget(|id| !wanted.contains(&id.service.application));
    }

    /// Forgets the leases that have run out; true if there were any.
    pub fn expire_leases(&mut self, now: UnixSeconds) -> bool {
        let over = |lease: &&Lease| lease.expires <= now;
        let over: BTreeSet<NodeId> = self
            .leases
            .iter()
            .filter(over)
            .map(|lease| lease.node.clone())
            .collect();
        self.leases.forget(|node| over.contains(node));
        !over.is_empty()
    }

    /// Takes rows and leases for gone that do not hold any more, as after another grant or when
    /// somebody is revoked. Grants stay: a newer one is what replaces them.
    pub fn withdraw_unless(&mut self, mut holds: impl FnMut(&Signed) -> bool) {
        self.services.withdraw_unless(&mut holds);
        self.instances.withdraw_unless(&mut holds);
        self.nodes.withdraw_unless(&mut holds);
        self.relays.withdraw_unless(&mut holds);
        self.leases.withdraw_unless(&mut holds);
    }

    /// What is known of an application; none if nobody has said yet.
    #[must_use]
    pub fn knowledge(&self, application: &ApplicationName) -> Option<Knowledge> {
        self.applications.get(application).copied()
    }

    /// Every application of which something is known as a whole.
    pub fn applications(&self) -> impl Iterator<Item = (&ApplicationName, Knowledge)> {
        self.applications.iter().map(|(name, known)| (name, *known))
    }

    /// The organisation that owns a cluster's nodes, by the newest grant.
    #[must_use]
    pub fn owner_of(&self, cluster: &Label) -> Option<&Organisation> {
        self.grants.get(cluster).map(|grant| &grant.owner)
    }

    /// Everything that is there as it travelled, grants first, then what they are needed for.
    pub fn signed(&self) -> impl Iterator<Item = &Signed> {
        self.grants
            .signed()
            .chain(self.nodes.signed())
            .chain(self.relays.signed())
            .chain(self.services.signed())
            .chain(self.instances.signed())
            .chain(self.leases.signed())
    }

    fn withdraw(&mut self, application: &ApplicationName) {
        self.services
            .withdraw(|name| name.application == *application);
        self.instances
            .withdraw(|id| id.service.application == *application);
    }
}
