//! What users and operators may want, and why they do not get it, as values.

use std::collections::BTreeSet;

use weald_proto::codec::MAX_TEXT_LEN;
use weald_proto::id::{Label, NodeId, Organisation};
use weald_proto::name::{InstanceId, ServiceName};

use crate::addresses::AddressError;
use crate::record::RecordError;
use crate::sla::ApplicationDraft;

/// Instances that one service may have.
pub const MAX_INSTANCES: u32 = 1000;

/// Whose things a user may see and change; those of others do not exist for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everybody's.
    All,
    /// Those of one organisation.
    Of(Organisation),
}

impl Scope {
    /// Whether things of an organisation are in it.
    #[must_use]
    pub fn has(&self, organisation: &Organisation) -> bool {
        match self {
            Self::All => true,
            Self::Of(own) => own == organisation,
        }
    }
}

/// What somebody wants.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// These services of this application shall be known; what is known and the same stays.
    Apply(ApplicationDraft, Organisation),
    /// As [`Command::Apply`], for several applications at once: all of them or none.
    ApplyAll {
        /// The applications.
        drafts: Vec<ApplicationDraft>,
        /// The tenant.
        organisation: Organisation,
        /// Whether none of them may be known yet.
        new: bool,
    },
    /// An application shall be described so: the id, and the text for people.
    Describe(String, String),
    /// An application with all of its services shall be gone.
    DeleteApplication(String),
    /// A service with all of its instances shall be gone.
    DeleteService(String),
    /// One more instance of a service shall run.
    Deploy(String),
    /// So many instances of a service shall run.
    Scale(String, u32),
    /// One instance of a service shall be gone, or with none all of them.
    Undeploy(String, Option<u32>),
    /// A cluster may connect, with this public key of its intermediate.
    AddCluster {
        /// Its name.
        name: Label,
        /// The Ed25519 public key of its intermediate.
        key: [u8; 32],
        /// The organisations whose instances it may host; none means all.
        organisations: Option<BTreeSet<Organisation>>,
        /// The organisation that owns it.
        owner: Organisation,
    },
    /// A cluster shall be gone; what it had counts as gone.
    RemoveCluster(Label),
    /// Somebody is not to be trusted any more, for ever.
    Revoke(Distrusted),
}

/// Who is not to be trusted any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Distrusted {
    /// Whoever has this key: SHA-256 of its SubjectPublicKeyInfo.
    Key([u8; 32]),
    /// A node, by the key that its cluster knows of it.
    Node(NodeId),
    /// A cluster, and with it everything that it has signed.
    Cluster(Label),
    /// An organisation: its services, and the nodes of the clusters that it owns.
    Organisation(Organisation),
}

/// What a command has led to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Done {
    /// The ids of the applications that were applied, in the order of the drafts.
    pub applications: Vec<String>,
    /// The ids of the services that were applied, in the order of the drafts.
    pub services: Vec<String>,
    /// The instances that were made.
    pub instances: Vec<InstanceId>,
}

/// Why nothing was done.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CommandError {
    /// There is no such thing, or none that the user may know of.
    #[error("there is no {kind} {id}")]
    Unknown {
        /// What sort of thing.
        kind: &'static str,
        /// Which one was asked for.
        id: String,
    },
    /// Something else has the name.
    #[error("{kind} {name} exists already; {remedy}")]
    Exists {
        /// What sort of thing.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Something of another organisation has the name; whose it is, is for those who see everything.
    #[error(
        "{kind} {name} is taken{}; choose another name or namespace: all organisations share them",
        .owner.as_ref().map(|owner| format!(" by organisation {owner}")).unwrap_or_default()
    )]
    Taken {
        /// What sort of thing.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Whose it is; none if whoever asks may not know.
        owner: Option<Organisation>,
    },
    /// Addresses that a service asks for cannot be had.
    #[error("service {service}: {}", .errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Addresses {
        /// The service.
        service: ServiceName,
        /// Each fault.
        errors: Vec<AddressError>,
    },
    /// More than there may be.
    #[error("{wanted} instances of {service}; at most {MAX_INSTANCES} are allowed")]
    TooMany {
        /// The service.
        service: ServiceName,
        /// How many were asked for.
        wanted: u32,
    },
    /// It is not to be trusted any more.
    #[error("{what} is revoked, and stays so; {remedy}")]
    Revoked {
        /// Who.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// There is no room for more single keys in the list of the revoked.
    #[error(
        "{0} keys are revoked, and more are not taken one by one: the signed list has to fit into one message; nothing was changed. Remove or revoke the cluster instead: that is one key for all of its nodes"
    )]
    TooManyRevoked(usize),
    /// The list of the revoked with somebody more cannot be told.
    #[error(
        "nobody more can be revoked, nothing was changed: the signed list would have {0} bytes, and at most {MAX_TEXT_LEN} can be told; set up a new root"
    )]
    Untold(usize),
    /// A fault of the program.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl CommandError {
    pub(super) fn unknown(kind: &'static str, id: impl ToString) -> Self {
        Self::Unknown {
            kind,
            id: id.to_string(),
        }
    }
}
