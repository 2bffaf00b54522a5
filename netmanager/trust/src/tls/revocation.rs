//! Keys and certificates that are refused although they verify.
//!
//! Only the set: who signs it, how it spreads and which epoch wins is the control plane's.

use std::collections::BTreeSet;

use super::KeyHash;

/// What has been revoked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RevocationSet {
    /// Keys of nodes, relays or intermediates.
    pub keys: BTreeSet<KeyHash>,
    /// Single certificates: the key of their issuer and their serial number.
    pub serials: BTreeSet<(KeyHash, Vec<u8>)>,
}

impl RevocationSet {
    /// Whether a key, or the certificate with this serial number, is revoked.
    #[must_use]
    pub fn covers(&self, key: &KeyHash, issuer: &KeyHash, serial: &[u8]) -> bool {
        self.keys.contains(key) || self.serials.contains(&(*issuer, serial.to_vec()))
    }
}
