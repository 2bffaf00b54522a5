//! Relay tokens: a cluster's word, verified offline, that a node may use relays.
//!
//! A token is bound to the node's key, so that a stolen one is worth nothing, and says which
//! organisation the node's traffic is accounted to. It carries the cluster's intermediate
//! certificate; a relay needs the root's certificate and nothing else to verify it. How much
//! traffic is forwarded is the relay's.

use std::time::{Duration, SystemTime};

use anyhow::ensure;
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use prost::Message;
use rustls::pki_types::{CertificateDer, UnixTime};
use weald_proto::id::{Identity, Label, NodeId, Organisation};
use weald_proto::token::{CheckedClaims, MAX_TOKEN_LEN, RelayToken, TokenFault};
use webpki::EndEntityCert;
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::OID_SIG_ED25519;
use x509_parser::prelude::FromDer;

use crate::pki::{BACKDATE, ClusterAuthority, unix_time};
use crate::tls::{
    Credentials, Facts, KeyHash, Peer, PeerFault, RevocationSet, TrustRoot, cluster_of, day,
    unix_seconds,
};

#[cfg(test)]
mod tests;

/// How long a token lives unless told otherwise: days of partition do no harm.
pub const TOKEN_LIFE: Duration = Duration::from_hours(7 * 24);

/// What a relay learns from a valid token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayAdmission {
    /// The node, which is the session's peer.
    pub node: NodeId,
    /// The organisation that its traffic is accounted to.
    pub organisation: Organisation,
    /// When the admission ends.
    pub expires: UnixTime,
    /// The key of the cluster that has signed the token: once it is revoked, so is the admission.
    pub issuer: KeyHash,
}

/// Why a token is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The bytes are no token.
    #[error(transparent)]
    Unreadable(#[from] TokenFault),
    /// The certificate in the token is not that of a cluster under the root.
    #[error("the relay token's issuer is refused: {0}")]
    Issuer(PeerFault),
    /// The certificate in the token was not signed by the root.
    #[error("the relay token's issuer was not signed by root {0}")]
    ForeignIssuer(Label),
    /// The claims were not signed by the issuer.
    #[error("the relay token was changed, or not signed by cluster {0}")]
    Signature(Label),
    /// A cluster signed for a node of another one.
    #[error("cluster {signer} signed a relay token for {node}, which is not its own")]
    ForeignCluster {
        /// The cluster that signed.
        signer: Label,
        /// The node that it signed for.
        node: NodeId,
    },
    /// The token's life has not begun.
    #[error("the relay token of {node} is not valid before {not_before}; it is now {now}")]
    NotYetValid {
        /// The node that it was made for.
        node: NodeId,
        /// When its life begins.
        not_before: String,
        /// What this process takes for the current time.
        now: String,
    },
    /// The token's life is over.
    #[error("the relay token of {node} expired on {expired}; it is now {now}")]
    Expired {
        /// The node that it was made for.
        node: NodeId,
        /// When its life ended.
        expired: String,
        /// What this process takes for the current time.
        now: String,
    },
    /// Another one presents the token than it was made for.
    #[error("the relay token was made for {made_for}, but {presented_by} presents it")]
    OtherNode {
        /// The node that it was made for.
        made_for: NodeId,
        /// Who presents it.
        presented_by: Identity,
    },
    /// The node has another key than the token was made for.
    #[error("the relay token of {0} was made for another key; fetch a new token")]
    OtherKey(NodeId),
}

/// Makes the token of a node.
///
/// It ends after `life`, but not after the cluster's own certificate.
///
/// # Errors
/// The node belongs to another cluster, or the cluster cannot sign.
pub fn issue(
    cluster: &ClusterAuthority,
    node: &NodeId,
    key: KeyHash,
    organisation: &Organisation,
    now: SystemTime,
    life: Duration,
) -> anyhow::Result<Vec<u8>> {
    ensure!(
        node.cluster == *cluster.name(),
        "cluster {} cannot issue a relay token for {node}",
        cluster.name()
    );
    let issuer = &cluster.certificate().der;
    let expires = unix_time(now + life).as_secs();
    let claims = CheckedClaims {
        root: cluster.trust().name().clone(),
        node: node.clone(),
        node_key: key.0,
        organisation: organisation.clone(),
        not_before: unix_time(now.checked_sub(BACKDATE).unwrap_or(now)).as_secs(),
        expires: expires.min(Facts::parse(issuer)?.not_after.as_secs()),
        cluster: cluster.name().clone(),
    }
    .write();
    let token = RelayToken {
        signature: cluster.sign(&RelayToken::signed_bytes(&claims))?,
        claims,
        issuer: issuer.to_vec(),
    }
    .encode_to_vec();
    ensure!(token.len() <= MAX_TOKEN_LEN, "the relay token is too long");
    Ok(token)
}

/// Verifies the token that an authenticated peer presents.
///
/// # Errors
/// Says which check failed; none of them tells the peer anything that it does not know.
pub fn verify(
    bytes: &[u8],
    root: &TrustRoot,
    now: UnixTime,
    peer: &Peer,
    revoked: &RevocationSet,
) -> Result<RelayAdmission, TokenError> {
    let token = RelayToken::read(bytes)?;
    let (signer, issuer) = verify_issuer(&token.issuer, root, now, revoked)?;
    let signed = RelayToken::signed_bytes(&token.claims);
    if !signed_by(&issuer.public_key, &signed, &token.signature) {
        return Err(TokenError::Signature(signer));
    }
    let statement = CheckedClaims::read(&token.claims)?;
    check_signer(&statement, root, &signer)?;
    check_life(&statement, now)?;
    let presenter = Identity::Node(statement.node.clone());
    if presenter != peer.identity {
        return Err(TokenError::OtherNode {
            made_for: statement.node,
            presented_by: peer.identity.clone(),
        });
    }
    if statement.node_key != peer.spki_sha256.0 {
        return Err(TokenError::OtherKey(statement.node));
    }
    Ok(RelayAdmission {
        node: statement.node,
        organisation: statement.organisation,
        expires: unix_seconds(statement.expires),
        issuer: issuer.spki_sha256,
    })
}

impl Credentials {
    /// Verifies a token against the own root, clock and set of revoked keys.
    ///
    /// # Errors
    /// As [`verify`].
    pub fn admit_to_relay(&self, token: &[u8], peer: &Peer) -> Result<RelayAdmission, TokenError> {
        verify(
            token,
            self.root(),
            self.clock().now(),
            peer,
            &self.revoked(),
        )
    }
}

/// Checks that the issuer is a cluster under the root; returns its name and certificate.
fn verify_issuer(
    der: &[u8],
    root: &TrustRoot,
    now: UnixTime,
    revoked: &RevocationSet,
) -> Result<(Label, Facts), TokenError> {
    // webpki is the stricter reader: what it refuses need not be looked at.
    EndEntityCert::try_from(&CertificateDer::from(der)).map_err(|_| TokenFault::Malformed)?;
    let (rest, issuer) = X509Certificate::from_der(der).map_err(|_| TokenFault::Malformed)?;
    if !rest.is_empty() {
        return Err(TokenFault::Malformed.into());
    }
    let ed25519 = issuer.signature_algorithm.algorithm == OID_SIG_ED25519
        && issuer.tbs_certificate.signature.algorithm == OID_SIG_ED25519
        && issuer.public_key().algorithm.algorithm == OID_SIG_ED25519;
    let signature = &issuer.signature_value.data;
    if !ed25519
        || !signed_by(
            root.public_key(),
            issuer.tbs_certificate.as_ref(),
            signature,
        )
    {
        return Err(TokenError::ForeignIssuer(root.name().clone()));
    }
    let facts = Facts::of(&issuer).map_err(TokenError::Issuer)?;
    facts
        .judge_cluster(root, now, revoked)
        .map_err(TokenError::Issuer)?;
    let cluster = cluster_of(root, &facts).map_err(TokenError::Issuer)?;
    Ok((cluster, facts))
}

fn check_signer(
    statement: &CheckedClaims,
    root: &TrustRoot,
    signer: &Label,
) -> Result<(), TokenError> {
    let node = &statement.node;
    if statement.root == *root.name() && node.cluster == *signer && statement.cluster == *signer {
        return Ok(());
    }
    Err(TokenError::ForeignCluster {
        signer: signer.clone(),
        node: node.clone(),
    })
}

fn check_life(statement: &CheckedClaims, now: UnixTime) -> Result<(), TokenError> {
    let node = || statement.node.clone();
    if now.as_secs() < statement.not_before {
        return Err(TokenError::NotYetValid {
            node: node(),
            not_before: day(unix_seconds(statement.not_before)),
            now: day(now),
        });
    }
    if now.as_secs() >= statement.expires {
        return Err(TokenError::Expired {
            node: node(),
            expired: day(unix_seconds(statement.expires)),
            now: day(now),
        });
    }
    Ok(())
}

fn signed_by(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, key)
        .verify(message, signature)
        .is_ok()
}
