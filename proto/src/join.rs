//! How somebody new is admitted: a secret and a key against a certificate; and how a member gets its
//! next certificate.
//!
//! Clusters join at root, workers and relays at their cluster. Whoever joins dials, over a
//! connection on which only the dialled one has a certificate, says one [`JoinRequest`] and hears
//! one [`JoinResponse`]. A [`RenewRequest`] and its [`RenewResponse`] travel on the links that
//! members have anyway. What the token is that it was given, and who is let in, is weald-trust's
//! `join`; the layout as bytes is [`crate::codec`]'s.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::Label;

/// The ALPN of the port where one joins.
pub const ALPN: &[u8] = b"weald-join/1";
/// Bytes of the longest message there: the peer is a stranger.
pub const MAX_MESSAGE_LEN: usize = 16 << 10;

/// As what one joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JoinRole {
    /// A cluster orchestrator, at root.
    Cluster,
    /// A worker with its netmanager, at its cluster.
    Worker,
    /// A relay, at its cluster.
    Relay,
}

impl fmt::Display for JoinRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cluster => "cluster",
            Self::Worker => "worker",
            Self::Relay => "relay",
        })
    }
}

/// What proves that one was invited; never shown in logs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct JoinSecret(pub [u8; 32]);

impl fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinSecret(..)")
    }
}

/// What one who joins says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinRequest {
    /// The token's secret.
    pub secret: JoinSecret,
    /// As what.
    pub role: JoinRole,
    /// The name of the new cluster, or of the new node or relay within its cluster.
    pub name: Label,
    /// A PKCS#10 request for the key that was made for this, DER.
    pub csr: Vec<u8>,
}

/// What one who joins hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinResponse {
    /// It is admitted.
    Admitted {
        /// The certificate that was issued, then that of its issuer unless that is root; DER.
        chain: Vec<Vec<u8>>,
        /// Root's certificate, DER.
        ca: Vec<u8>,
    },
    /// It is not.
    Refused {
        /// Why, and what to do.
        text: String,
    },
}

/// What a member says to whoever has issued its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenewRequest {
    /// As what it has joined.
    pub role: JoinRole,
    /// Its own name: the cluster's, or the node's within its cluster.
    pub name: Label,
    /// A PKCS#10 request for the key that it has, DER: grants, rows and revocations name keys, so a
    /// renewal keeps its key.
    pub csr: Vec<u8>,
}

/// What it hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RenewResponse {
    /// It goes on.
    Renewed {
        /// The new certificate, then that of its issuer unless that is root; DER.
        chain: Vec<Vec<u8>>,
    },
    /// It does not.
    Refused {
        /// Why, and what to do.
        text: String,
    },
}
