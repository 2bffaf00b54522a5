//! The token that admits a node to relays, as bytes.
//!
//! A cluster signs who may use its relays' bandwidth, for which organisation and until when; a
//! relay verifies it offline. Here is the layout only: signing and judging is netmanager's
//! `token`. The signed claims travel as opaque bytes, so that what is verified is exactly what
//! was signed.

use prost::Message;

/// Bytes of the longest token: the issuer's certificate takes about 500, the longest names 600.
pub const MAX_TOKEN_LEN: usize = 2048;
/// The version of [`Claims`] that is written and read.
pub const VERSION: u32 = 1;
/// What the signature covers before the claims, so that it is valid for nothing else.
pub const SIGNATURE_CONTEXT: &[u8] = b"weald relay token v1\0";

/// A token: claims, who signed them, and the signature.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RelayToken {
    /// The encoded [`Claims`].
    #[prost(bytes = "vec", tag = "1")]
    pub claims: Vec<u8>,
    /// Ed25519 over [`SIGNATURE_CONTEXT`] and the claims.
    #[prost(bytes = "vec", tag = "2")]
    pub signature: Vec<u8>,
    /// The DER of the intermediate certificate whose key signed.
    #[prost(bytes = "vec", tag = "3")]
    pub issuer: Vec<u8>,
}

/// What a cluster says of a node.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Claims {
    /// [`VERSION`].
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// The URI name of the node's certificate.
    #[prost(string, tag = "2")]
    pub node: String,
    /// SHA-256 of the node's SubjectPublicKeyInfo.
    #[prost(bytes = "vec", tag = "3")]
    pub node_key: Vec<u8>,
    /// The organisation that the node's traffic is accounted to.
    #[prost(string, tag = "4")]
    pub organisation: String,
    /// Seconds since 1970 from which the token is valid.
    #[prost(uint64, tag = "5")]
    pub not_before: u64,
    /// Seconds since 1970 from which the token is not valid any more.
    #[prost(uint64, tag = "6")]
    pub expires: u64,
    /// The cluster that signed.
    #[prost(string, tag = "7")]
    pub cluster: String,
}

impl RelayToken {
    /// The bytes that the signature covers.
    #[must_use]
    pub fn signed_bytes(claims: &[u8]) -> Vec<u8> {
        [SIGNATURE_CONTEXT, claims].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_kept() {
        let claims = Claims {
            version: 1,
            node: "n".to_owned(),
            node_key: vec![7, 8],
            organisation: "o".to_owned(),
            not_before: 1,
            expires: 300,
            cluster: "c".to_owned(),
        };
        assert_eq!(
            claims.encode_to_vec(),
            [
                0x08, 1, 0x12, 1, b'n', 0x1a, 2, 7, 8, 0x22, 1, b'o', 0x28, 1, 0x30, 0xac, 2, 0x3a,
                1, b'c'
            ]
        );
        let token = RelayToken {
            claims: vec![1],
            signature: vec![2],
            issuer: vec![3],
        };
        assert_eq!(token.encode_to_vec(), [0x0a, 1, 1, 0x12, 1, 2, 0x1a, 1, 3]);
    }
}
