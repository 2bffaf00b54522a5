//! What root keeps on disk, record by record, and shows to those who ask.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use weald_proto::addr::Dual;
use weald_proto::control::{Generation, Phase, Reason};
use weald_proto::id::{Label, NodeId, Organisation};
use weald_proto::name::{ApplicationName, InstanceId, ServiceName};
use weald_proto::sla::Microservice;
use weald_proto::spec::{Place, ServiceSpec};
use weald_proto::statement::Revocations;

use crate::explain::History;
use crate::lifecycle::Life;
use crate::record::{Record, RecordError, Write};
use crate::sla::Link;

/// The one record of [`Counters`], under the key [`ONLY`].
pub(super) const COUNTERS: &str = "counters";
pub(super) const ONLY: &str = "all";
pub(super) const APPLICATION: &str = "application";
pub(super) const SERVICE: &str = "service";
pub(super) const INSTANCE: &str = "instance";
/// What clusters shall have no longer.
pub(super) const GONE: &str = "gone";
pub(super) const CLUSTER: &str = "cluster";
/// Blocks of clusters that were removed, until no lease can name them.
pub(super) const RESTING: &str = "resting-block";
/// Services that are gone, for as long as an older row could come back.
pub(super) const REMOVED: &str = "removed";
/// The one record of the revocations.
pub(super) const REVOCATIONS: &str = "revocations";

/// What only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Counters {
    /// The largest generation that was given to anything.
    pub(super) generation: Generation,
    /// The number in the last id that was given.
    pub(super) id: u64,
}

/// An application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Application {
    /// 24 hexadecimal digits.
    pub id: String,
    /// Its name and namespace.
    pub name: ApplicationName,
    /// The tenant.
    pub organisation: Organisation,
    /// What it is, for people.
    pub description: String,
    /// Who made it, as the user's id.
    pub customer: String,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// 24 hexadecimal digits.
    pub id: String,
    /// The id of its application.
    pub application: String,
    /// What it is, with the addresses that it has.
    pub spec: ServiceSpec,
    /// What the ways to other services should satisfy.
    pub connectivity: Vec<Link>,
    /// URLs of files that were added.
    pub added_files: Vec<String>,
    /// What its user wrote of it.
    #[serde(default)]
    pub written: Microservice,
    /// The generation of its row.
    pub generation: Generation,
    /// The number that its next instance gets.
    pub next_instance: u32,
}

/// An instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// Which one.
    pub id: InstanceId,
    /// Where it is in which life.
    pub life: Life,
    /// The cluster that it was offered to or that has it.
    pub cluster: Option<Label>,
    /// Whether it shall be gone.
    pub withdrawn: bool,
    /// Why it is as it is, in words.
    pub detail: String,
    /// Where it is.
    pub node: Option<NodeId>,
    /// Its addresses.
    pub instance_ip: Dual,
    /// Its exit status, once it has one.
    pub exit_status: Option<i32>,
    /// The attempts at placing it.
    pub history: History,
    /// Per cent of one processor and MiB that it uses; not kept.
    #[serde(skip)]
    pub usage: (f32, u32),
}

impl Instance {
    pub(super) fn new(id: InstanceId) -> Self {
        Self {
            id,
            life: Life::registered(),
            cluster: None,
            withdrawn: false,
            detail: String::new(),
            node: None,
            instance_ip: Dual::default(),
            exit_status: None,
            history: History::default(),
            usage: (0.0, 0),
        }
    }

    /// The phase that a user sees.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.life.phase()
    }

    /// Whether it waits although it fits nowhere: since it was taken last, everybody who refused it
    /// did so for what there is, not for what may pass.
    #[must_use]
    pub fn fits_nowhere(&self) -> bool {
        let waits = self.phase() == Phase::Requested && self.cluster.is_none();
        let attempts = self.history.attempts().rev();
        let mut refusals = attempts
            .take_while(|it| it.taken.is_none())
            .flat_map(|it| &it.refusals)
            .peekable();
        !self.withdrawn
            && waits
            && refusals.peek().is_some()
            && refusals.all(|refusal| match refusal.reason {
                Reason::Insufficient { .. }
                | Reason::Runtime { .. }
                | Reason::Constraint { .. }
                | Reason::PortTaken { .. } => true,
                Reason::Unavailable { .. }
                | Reason::NoAddress
                | Reason::Deadline { .. }
                | Reason::Failed { .. } => false,
            })
    }
}

/// A cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterState {
    /// Its name.
    pub name: Label,
    /// The Ed25519 public key of its intermediate.
    pub key: [u8; 32],
    /// The organisations whose instances it may host; none means all.
    pub organisations: Option<BTreeSet<Organisation>>,
    /// The organisation that owns it.
    pub owner: Organisation,
    /// The organisations that its grant names: the same grant must always say the same.
    pub granted: BTreeSet<Organisation>,
    /// The blocks that it was granted.
    pub blocks: BTreeSet<IpNetwork>,
    /// The generation of its grant.
    pub generation: Generation,
    /// Until when the grant is good, in seconds since 1970.
    pub expires: u64,
    /// Where it last said that it is.
    pub place: Option<Place>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StoredGone {
    pub(super) cluster: Label,
    pub(super) instance: InstanceId,
    pub(super) generation: Generation,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StoredResting {
    pub(super) block: IpNetwork,
    /// Who had it.
    pub(super) cluster: Label,
}

pub(super) fn no_longer_resting(block: &IpNetwork) -> Write {
    Write::delete(RESTING, block.to_string())
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Removed {
    pub(super) name: ServiceName,
    pub(super) organisation: Organisation,
    pub(super) generation: Generation,
    pub(super) round_robin: Dual,
    pub(super) closest: Dual,
    /// Seconds since 1970.
    pub(super) at: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct StoredRevocations {
    pub(super) epoch: u64,
    pub(super) keys: Vec<[u8; 32]>,
    pub(super) organisations: Vec<Organisation>,
}

impl StoredRevocations {
    pub(super) fn list(&self) -> Revocations {
        Revocations {
            epoch: self.epoch,
            keys: self.keys.clone(),
            organisations: self.organisations.clone(),
        }
    }
}

/// What was read back.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) counters: Counters,
    pub(super) applications: Vec<Application>,
    pub(super) services: Vec<Service>,
    pub(super) instances: Vec<Instance>,
    pub(super) gone: Vec<StoredGone>,
    pub(super) clusters: Vec<ClusterState>,
    pub(super) resting: Vec<StoredResting>,
    pub(super) removed: Vec<Removed>,
    pub(super) revocations: StoredRevocations,
}

impl Loaded {
    pub(super) fn read(records: &[Record]) -> Result<Self, RecordError> {
        let mut loaded = Self::default();
        for record in records {
            match record.kind.as_str() {
                COUNTERS => loaded.counters = record.read()?,
                APPLICATION => loaded.applications.push(record.read()?),
                SERVICE => loaded.services.push(record.read()?),
                INSTANCE => loaded.instances.push(record.read()?),
                GONE => loaded.gone.push(record.read()?),
                CLUSTER => loaded.clusters.push(record.read()?),
                RESTING => loaded.resting.push(record.read()?),
                REMOVED => loaded.removed.push(record.read()?),
                REVOCATIONS => loaded.revocations = record.read()?,
                // Other parts of the process keep records in the same store.
                _ => {}
            }
        }
        Ok(loaded)
    }
}
