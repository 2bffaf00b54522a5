//! What the machines need of keys: signing what they say, and judging what others have signed.
//!
//! Keys and certificates are not here; a machine is given a [`Trust`] and calls it as it would a
//! function: the same statement gives the same bytes. Also which row a statement is, for the books.

use std::fmt;

use weald_proto::id::{NodeId, Organisation};
use weald_proto::statement::{Signed, Statement};

use crate::interests::{Row, Subject};

/// Signs in the name of root or of a cluster, and judges others' statements.
pub trait Trust: fmt::Debug + Send {
    /// Signs a statement.
    ///
    /// # Errors
    /// Why it cannot; a fault of the keys or of the program.
    fn sign(&self, statement: &Statement) -> Result<Signed, String>;

    /// Whether a statement may be believed: its signature, its signer's grant, its life, and that
    /// it is not older than what was believed before.
    ///
    /// # Errors
    /// Why not.
    fn judge(&mut self, signed: &Signed, unix: u64) -> Result<Statement, String>;

    /// By what a cluster's key (Ed25519) is revoked: SHA-256 of its SubjectPublicKeyInfo.
    fn key_hash(&self, key: &[u8; 32]) -> [u8; 32];

    /// The token that admits a node with this key (SHA-256 of its SubjectPublicKeyInfo) to relays.
    ///
    /// # Errors
    /// Why there is none.
    fn relay_token(
        &self,
        node: &NodeId,
        key: &[u8; 32],
        organisation: &Organisation,
        unix: u64,
    ) -> Result<Vec<u8>, String>;
}

/// The row that a statement is; none for grants, leases and revocations.
#[must_use]
pub fn row(statement: &Statement, signed: Signed) -> Option<Row> {
    let (subject, generation, removed, host) = match statement {
        Statement::Service(it) => (
            Subject::Service(it.name.clone()),
            it.generation,
            it.removed,
            None,
        ),
        Statement::Instance(it) => (
            Subject::Instance(it.instance.clone()),
            it.generation,
            it.removed,
            (!it.removed).then(|| it.node.clone()),
        ),
        Statement::Node(it) => (
            Subject::Node(it.node.clone()),
            it.generation,
            it.removed,
            None,
        ),
        Statement::Relay(it) => (
            Subject::Relay(it.relay.clone()),
            it.generation,
            it.removed,
            None,
        ),
        Statement::Grant(_) | Statement::Revocations(_) | Statement::Lease(_) => return None,
    };
    Some(Row {
        subject,
        generation,
        removed,
        host,
        signed,
    })
}
