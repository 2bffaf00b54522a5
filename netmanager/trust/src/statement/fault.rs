//! Why a statement is not signed, not believed or not remembered, in words for whoever reads the log.

use std::net::IpAddr;

use weald_proto::codec::CodecError;
use weald_proto::control::Generation;
use weald_proto::id::{Label, Organisation};
use weald_proto::statement::UnixSeconds;

use super::{
    MAX_CLUSTERS, MAX_STATEMENT_LEN, MAX_SUBJECTS, MAX_SUBJECTS_PER_SIGNER, Signer, Subject,
};

/// A statement is another's to sign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignerFault {
    /// A cluster signs what is root's.
    #[error("{subject} is root's to sign, not cluster {signer}'s")]
    RootsAlone {
        /// What the statement is about.
        subject: Subject,
        /// The cluster that signs.
        signer: Label,
    },
    /// Root signs what is a cluster's.
    #[error("{subject} is its cluster's to sign, not root's")]
    ClustersAlone {
        /// What the statement is about.
        subject: Subject,
    },
    /// A cluster signs what is another's.
    #[error("{subject} belongs to cluster {cluster}, but cluster {signer} signs it")]
    ForeignCluster {
        /// What the statement is about.
        subject: Subject,
        /// The cluster of the node or relay.
        cluster: Label,
        /// The cluster that signs.
        signer: Label,
    },
}

/// Why a statement is not signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignFault {
    /// It is another's to sign.
    #[error(transparent)]
    Signer(#[from] SignerFault),
    /// It cannot be laid out as bytes.
    #[error("the statement cannot be written: {0}")]
    Codec(#[from] CodecError),
    /// Nobody could pass it on.
    #[error(
        "the statement on {subject} has {len} bytes, at most {MAX_STATEMENT_LEN} can be passed on"
    )]
    TooLong {
        /// What the statement is about.
        subject: Subject,
        /// Its bytes.
        len: usize,
    },
    /// The key cannot sign.
    #[error("the key of {0} cannot sign")]
    Key(Signer),
}

/// Why a signed statement is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatementFault {
    /// The signature is not by the key that it has to be by.
    #[error("the statement was changed, or not signed by {0}'s key")]
    Signature(Signer),
    /// It is signed, but cannot be read.
    #[error("the statement of {signer} cannot be read: {fault}")]
    Unreadable {
        /// Who signed.
        signer: Signer,
        /// What is wrong.
        fault: CodecError,
    },
    /// It is another's to sign.
    #[error(transparent)]
    Signer(#[from] SignerFault),
    /// No grant of the signer is known.
    #[error("no grant of root for cluster {0} is known here")]
    NoGrant(Label),
    /// The signer's newest grant is over.
    #[error(
        "grant {generation} of cluster {cluster} expired at {expired}; it is now {now} (seconds since 1970)"
    )]
    GrantExpired {
        /// The signer.
        cluster: Label,
        /// The grant's generation.
        generation: Generation,
        /// When its life ended.
        expired: UnixSeconds,
        /// What this process takes for the current time.
        now: UnixSeconds,
    },
    /// The key that the signer's grant names is revoked.
    #[error("the key of cluster {cluster} is revoked since epoch {epoch} or before")]
    ClusterRevoked {
        /// The signer.
        cluster: Label,
        /// The epoch of the list that has it.
        epoch: u64,
    },
    /// An address is outside the signer's grant.
    #[error(
        "{subject} claims address {address}, which is in none of the {blocks} blocks of grant {generation} of cluster {cluster}"
    )]
    ForeignAddress {
        /// What the statement is about.
        subject: Box<Subject>,
        /// The address.
        address: IpAddr,
        /// The signer.
        cluster: Label,
        /// The generation of its newest grant.
        generation: Generation,
        /// How many blocks that has.
        blocks: usize,
    },
    /// An organisation is outside the signer's grant.
    #[error(
        "{subject} is of organisation {organisation}, whose instances cluster {cluster} may not host by grant {generation}"
    )]
    ForeignOrganisation {
        /// What the statement is about.
        subject: Subject,
        /// The organisation.
        organisation: Organisation,
        /// The signer.
        cluster: Label,
        /// The generation of its newest grant.
        generation: Generation,
    },
    /// An instance is said to be of another organisation than its service.
    #[error(
        "{subject} is said to be of organisation {says}, but root says that its service is of {is}"
    )]
    OtherTenant {
        /// What the statement is about.
        subject: Subject,
        /// The organisation in the statement.
        says: Organisation,
        /// The service's.
        is: Organisation,
    },
    /// The organisation is revoked.
    #[error(
        "{subject} is of organisation {organisation}, which is revoked since epoch {epoch} or before"
    )]
    OrganisationRevoked {
        /// What the statement is about.
        subject: Subject,
        /// The organisation.
        organisation: Organisation,
        /// The epoch of the list that has it.
        epoch: u64,
    },
    /// Something that is not removed has no address.
    #[error("{0} is not removed, but has no address")]
    NoAddress(Subject),
    /// Something that is removed has an address.
    #[error("{subject} is removed, but has address {address}")]
    RemovedWithAddress {
        /// What the statement is about.
        subject: Subject,
        /// Its first address.
        address: IpAddr,
    },
    /// The statement's own life is over.
    #[error("{subject} expired at {expired}; it is now {now} (seconds since 1970)")]
    Expired {
        /// What the statement is about.
        subject: Subject,
        /// When its life ended.
        expired: UnixSeconds,
        /// What this process takes for the current time.
        now: UnixSeconds,
    },
    /// Something newer was believed before.
    #[error("{subject} has generation {generation}, but generation {seen} was seen before")]
    Stale {
        /// What the statement is about.
        subject: Subject,
        /// Its generation or epoch.
        generation: u64,
        /// The highest that was believed.
        seen: u64,
    },
    /// Something else was believed under the same generation.
    #[error("{subject} was said to be something else under the same generation {generation}")]
    Contradiction {
        /// What the statement is about.
        subject: Subject,
        /// Its generation or epoch.
        generation: u64,
    },
    /// A signer has more subjects than are remembered.
    #[error("{0} has signed for {MAX_SUBJECTS_PER_SIGNER} subjects; more are not remembered")]
    TooManySubjects(Signer),
    /// All signers together have more subjects than are remembered.
    #[error("{MAX_SUBJECTS} subjects are remembered; more are not")]
    Full,
    /// More clusters than are remembered.
    #[error("{MAX_CLUSTERS} clusters are remembered; more are not")]
    TooManyClusters,
}

/// Why a memory cannot be restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemoryFault {
    /// Something in it was not signed by this root.
    #[error("what is remembered is not this root's word: {0}")]
    Statement(#[from] StatementFault),
    /// A statement in it is of the wrong kind.
    #[error("{0} is remembered where a grant or the list of the revoked has to be")]
    Kind(Subject),
}
