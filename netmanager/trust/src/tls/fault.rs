//! Why a peer is refused, in words for whoever reads the log.
//!
//! The texts are part of the interface: tests assert them. None holds more than what the peer
//! itself presented, the root's name, the time, and, towards a peer with a valid certificate,
//! whom it was taken for.

use std::fmt;

use rustls::pki_types::UnixTime;
use weald_proto::id::{IdError, Identity, Label};

use super::day;

/// How many certificates a peer may present beside its own.
///
/// One is needed; a few more may come during a change of intermediates. The bound keeps the
/// search for a path short.
pub(crate) const MAX_PRESENTED: usize = 8;

/// How error texts call the peer's own certificate.
pub(crate) const OWN: &str = "it";
/// How error texts call the intermediate.
pub(crate) const ISSUER: &str = "its issuer's certificate";

/// Why a peer is refused: who it claims to be and which check failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("certificate of {claim}: {fault}")]
pub struct PeerError {
    /// Who the peer claims to be; not believed.
    pub claim: Claim,
    /// The check that failed.
    pub fault: PeerFault,
}

/// Who a certificate claims to speak for, if that can be read at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim(pub Option<Identity>);

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(identity) => identity.fmt(f),
            None => f.write_str("an unnamed peer"),
        }
    }
}

/// Which check of a certificate chain failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerFault {
    /// The certificate cannot be read.
    #[error("it is not a readable X.509 certificate")]
    Encoding,
    /// More certificates than a chain of ours can use.
    #[error("{0} certificates presented, at most {max} are read", max = MAX_PRESENTED + 1)]
    TooMany(usize),
    /// No chain leads to the root.
    #[error(
        "no chain leads to root {0} (it is self-signed, of another root, or its intermediate was not presented)"
    )]
    Unanchored(Label),
    /// A signature in the chain is wrong.
    #[error("a signature in its chain is not by the key of root {0} or of its intermediate")]
    Signature(Label),
    /// Its life, or that of its issuer, is over.
    #[error("{what} expired on {not_after}; it is now {now}")]
    Expired {
        /// Which certificate.
        what: &'static str,
        /// When its life ended.
        not_after: String,
        /// What this process takes for the current time.
        now: String,
    },
    /// Its life, or that of its issuer, has not begun.
    #[error("{what} is not valid before {not_before}; it is now {now}, check both clocks")]
    NotYetValid {
        /// Which certificate.
        what: &'static str,
        /// When its life begins.
        not_before: String,
        /// What this process takes for the current time.
        now: String,
    },
    /// A CA presents itself.
    #[error("it is a CA's, which is not a peer's")]
    Authority,
    /// Something that is no CA issued it.
    #[error("its issuer is not a CA")]
    IssuerNotAuthority,
    /// Not exactly one intermediate stands between it and the root.
    #[error("{0} intermediates stand between it and the root, exactly one must")]
    Intermediates(usize),
    /// Its issuer might let others issue.
    #[error("its issuer's certificate has not path length 0")]
    PathLength,
    /// It may not be used this way.
    #[error("its extended key usage does not allow {0}")]
    ExtendedUsage(&'static str),
    /// A key usage is missing.
    #[error("{what} lacks key usage {usage}")]
    KeyUsage {
        /// Which certificate.
        what: &'static str,
        /// The usage that it lacks.
        usage: &'static str,
    },
    /// It has none or several URI names.
    #[error("it has {0} URI names, exactly one must be there")]
    NameCount(usize),
    /// Its URI name does not name anybody.
    #[error("its URI name is wrong: {0}")]
    Uri(IdError),
    /// The issuer's URI name does not name a cluster.
    #[error("its issuer is {0}, not a cluster")]
    IssuerName(String),
    /// It claims to be root, but a cluster has issued it.
    #[error("it names root, but cluster {0} signed it")]
    NotByRoot(Label),
    /// The issuer is another cluster than it claims.
    #[error("it names cluster {named}, but cluster {signer} signed it")]
    ForeignCluster {
        /// The cluster in its own URI name.
        named: Label,
        /// The cluster in the URI name of the intermediate that signed it.
        signer: Label,
    },
    /// A URI name has the name of another root.
    #[error("{what} names root {named}, not {ours}")]
    ForeignRoot {
        /// Which certificate.
        what: &'static str,
        /// The root that it names.
        named: Label,
        /// The root that is trusted.
        ours: Label,
    },
    /// Somebody else answered than was dialled.
    #[error("{0} was dialled, this is somebody else")]
    Unexpected(Identity),
    /// Something that is no node dials.
    #[error("only nodes may dial here")]
    NotANode,
    /// Something that is no cluster's orchestrator dials.
    #[error("only orchestrators of clusters may dial here")]
    NotControl,
    /// Something that is no member of the cluster dials.
    #[error("only nodes and relays of cluster {0} may dial here")]
    NotAMember(Label),
    /// It, or its issuer, is revoked.
    #[error("{0} is revoked")]
    Revoked(&'static str),
    /// Anything else that webpki finds.
    #[error("{0}")]
    Other(String),
}

impl PeerFault {
    pub(crate) fn expired(what: &'static str, not_after: UnixTime, now: UnixTime) -> Self {
        Self::Expired {
            what,
            not_after: day(not_after),
            now: day(now),
        }
    }

    pub(crate) fn not_yet_valid(what: &'static str, not_before: UnixTime, now: UnixTime) -> Self {
        Self::NotYetValid {
            what,
            not_before: day(not_before),
            now: day(now),
        }
    }
}
