//! The token that admits a node to relays, as bytes.
//!
//! A cluster signs who may use its relays' bandwidth, for which organisation and until when; a
//! relay verifies it offline. Here is the layout only: signing and judging is weald-trust's
//! `token`. The signed claims travel as opaque bytes, so that what is verified is exactly what
//! was signed; only then does [`CheckedClaims::read`] make something of them.

use prost::Message;

use crate::id::{Identity, Label, NodeId, Organisation};

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

/// What a cluster says of a node, as it is written.
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

/// What a cluster says of a node, in checked types; whether it is true is not known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedClaims {
    /// The root that the node is under.
    pub root: Label,
    /// The node.
    pub node: NodeId,
    /// SHA-256 of the node's SubjectPublicKeyInfo.
    pub node_key: [u8; 32],
    /// The organisation that the node's traffic is accounted to.
    pub organisation: Organisation,
    /// Seconds since 1970 from which the token is valid.
    pub not_before: u64,
    /// Seconds since 1970 from which the token is not valid any more.
    pub expires: u64,
    /// The cluster that signed.
    pub cluster: Label,
}

/// Why bytes are no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// More bytes than any token of ours has.
    #[error("the relay token has {0} bytes, at most {MAX_TOKEN_LEN} are read")]
    TooLong(usize),
    /// They are not laid out as a token, or hold no ids of ours.
    #[error("the relay token cannot be read")]
    Malformed,
    /// A version of the claims that this process does not know.
    #[error("the relay token has version {0}, this relay reads version {VERSION}")]
    Version(u32),
}

impl CheckedClaims {
    /// Reads the claims of a token.
    ///
    /// # Errors
    /// [`TokenFault::Malformed`] or [`TokenFault::Version`].
    pub fn read(claims: &[u8]) -> Result<Self, TokenFault> {
        let claims = Claims::decode(claims).map_err(|_| TokenFault::Malformed)?;
        if claims.version != VERSION {
            return Err(TokenFault::Version(claims.version));
        }
        let label = |text: &str| Label::new(text).map_err(|_| TokenFault::Malformed);
        let Ok((root, Identity::Node(node))) = Identity::from_uri(&claims.node) else {
            return Err(TokenFault::Malformed);
        };
        Ok(Self {
            root,
            node,
            node_key: claims
                .node_key
                .try_into()
                .map_err(|_| TokenFault::Malformed)?,
            organisation: Organisation(label(&claims.organisation)?),
            not_before: claims.not_before,
            expires: claims.expires,
            cluster: label(&claims.cluster)?,
        })
    }

    /// Writes the claims of a token.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        Claims {
            version: VERSION,
            node: Identity::Node(self.node.clone()).uri(&self.root),
            node_key: self.node_key.to_vec(),
            organisation: self.organisation.to_string(),
            not_before: self.not_before,
            expires: self.expires,
            cluster: self.cluster.to_string(),
        }
        .encode_to_vec()
    }
}

impl RelayToken {
    /// Reads a token; its claims stay bytes until their signature is verified.
    ///
    /// # Errors
    /// [`TokenFault::TooLong`] or [`TokenFault::Malformed`].
    pub fn read(bytes: &[u8]) -> Result<Self, TokenFault> {
        if bytes.len() > MAX_TOKEN_LEN {
            return Err(TokenFault::TooLong(bytes.len()));
        }
        Self::decode(bytes).map_err(|_| TokenFault::Malformed)
    }

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

    #[test]
    fn faults_of_claims_are_named() {
        let label = |text| Label::new(text).unwrap();
        let statement = CheckedClaims {
            root: label("main"),
            node: NodeId::new(label("munich"), label("a1")),
            node_key: [7; 32],
            organisation: Organisation(label("shop")),
            not_before: 1,
            expires: 300,
            cluster: label("munich"),
        };
        let bytes = statement.write();
        assert_eq!(CheckedClaims::read(&bytes), Ok(statement));
        let fault = |change: fn(&mut Claims)| {
            let mut claims = Claims::decode(bytes.as_slice()).unwrap();
            change(&mut claims);
            CheckedClaims::read(&claims.encode_to_vec())
        };
        assert_eq!(
            fault(|claims| claims.version = 0),
            Err(TokenFault::Version(0))
        );
        let malformed: [fn(&mut Claims); 6] = [
            |claims| claims.node = "weald://main/cluster/munich".to_owned(),
            |claims| claims.node = "weald://main/cluster/munich/relay/a1".to_owned(),
            |claims| claims.node.push('/'),
            |claims| claims.node_key = vec![7; 31],
            |claims| claims.organisation.clear(),
            |claims| claims.cluster = "a.b".to_owned(),
        ];
        for change in malformed {
            assert_eq!(fault(change), Err(TokenFault::Malformed));
        }
        let long = [0; MAX_TOKEN_LEN + 1];
        assert_eq!(RelayToken::read(&long), Err(TokenFault::TooLong(2049)));
        assert_eq!(RelayToken::read(&[0xff]), Err(TokenFault::Malformed));
    }
}
