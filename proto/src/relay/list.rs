//! The list of the revoked as it passes between node and relay: the one message that may be long.

use super::{MAX_LONG_MESSAGE_LEN, MAX_MESSAGE_LEN, MAX_REVOCATIONS_LEN, MessageError, wire};
use crate::statement::Signed;
use crate::stream::TooLong;

/// Bytes of an Ed25519 signature.
pub(super) const SIGNATURE_LEN: usize = 64;

/// Only lists may be long.
pub(super) const fn check_len(len: usize, is_list: bool) -> Result<(), MessageError> {
    let max = if is_list {
        MAX_LONG_MESSAGE_LEN
    } else {
        MAX_MESSAGE_LEN
    };
    if len > max {
        return Err(MessageError::TooLong(TooLong { len, max }));
    }
    Ok(())
}

/// What root has signed, without a signer: it is root.
pub(super) fn to_wire(signed: &Signed) -> wire::Revocations {
    debug_assert_eq!(signed.cluster, None, "root's to sign");
    wire::Revocations {
        statement: signed.statement.clone(),
        signature: signed.signature.clone(),
    }
}

impl TryFrom<wire::Revocations> for Signed {
    type Error = MessageError;

    fn try_from(list: wire::Revocations) -> Result<Self, MessageError> {
        if list.statement.len() > MAX_REVOCATIONS_LEN {
            return Err(MessageError::Field("statement"));
        }
        if list.signature.len() != SIGNATURE_LEN {
            return Err(MessageError::Field("signature"));
        }
        Ok(Self {
            statement: list.statement,
            signature: list.signature,
            cluster: None,
        })
    }
}
