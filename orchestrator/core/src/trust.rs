//! What the machines need of keys: signing what they say, and judging what others have signed.
//!
//! Keys and certificates are not here; a machine is given a [`Trust`] and calls it as it would a
//! function: the same statement gives the same bytes. Also which row a statement is, for the books.

use std::fmt;

use weald_proto::control::Generation;
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

/// Bits of a row's generation that count its changes within one life of an instance: a change in
/// every tenth of a second for ten months. Those that are left are enough for a thousand lives a
/// second for two years.
const CHANGE_BITS: u32 = 28;
/// The most changes that are told apart.
const MAX_CHANGES: u32 = (1 << CHANGE_BITS) - 1;

/// How often the row of this generation had changed within a life; 0 if it is another life's.
#[must_use]
pub const fn row_changes(row: Generation, life: Generation) -> u32 {
    if row >> CHANGE_BITS == life {
        row as u32 & MAX_CHANGES
    } else {
        0
    }
}

/// The generation of an instance's row: rows of a later life win over those of every earlier one,
/// whichever cluster signed them; within a life they are counted.
#[must_use]
pub const fn row_generation(life: Generation, change: u32) -> Generation {
    let change = if change < MAX_CHANGES {
        change
    } else {
        MAX_CHANGES
    };
    life << CHANGE_BITS | change as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_life_wins_however_often_the_one_before_it_changed() {
        assert!(row_generation(7, 1) < row_generation(7, 2));
        assert!(row_generation(7, u32::MAX) < row_generation(8, 1));
        assert_eq!(row_changes(row_generation(7, 5), 7), 5);
        assert_eq!(row_changes(row_generation(7, 5), 8), 0);
        assert_eq!(row_changes(row_generation(7, u32::MAX), 7), MAX_CHANGES);
    }
}
