//! The byte layout of what the tiers say to each other, and of what they sign.
//!
//! The `.proto` files of package `weald.v1` describe the layout; the checked types become it and
//! come out of it here, and nowhere else. Every text, list and number has a bound. Whoever encodes
//! is held to what whoever decodes would take, so that no peer gets what it must refuse. What the
//! values mean, and whether they may be said, is not known here. How messages are told apart on a
//! stream is [`crate::stream`]'s.

use prost::Message as _;

mod control;
mod join;
mod parts;
mod session;
mod spec;
mod statement;
mod values;

#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;

/// Bytes of the longest message: a complete report of some ten thousand instances.
pub const MAX_MESSAGE_LEN: usize = 4 << 20;
/// Bytes of the longest text.
pub const MAX_TEXT_LEN: usize = 64 << 10;
/// How many instances one report may have, and leases, rows or applications one message.
pub const MAX_LIST_LEN: usize = 16_384;
/// How many of anything else a list may have: addresses, constraints, variables, arguments.
pub const MAX_SHORT_LIST_LEN: usize = 1024;

#[allow(
    unreachable_pub,
    missing_docs,
    clippy::all,
    clippy::use_self,
    reason = "generated code: public within its private module, and not ours to lint"
)]
mod wire {
    include!(concat!(env!("OUT_DIR"), "/weald.v1.rs"));
}

/// Why bytes are not a message, or a value cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// More bytes than any message may have.
    #[error("a message of {0} bytes; at most {MAX_MESSAGE_LEN} are allowed")]
    TooLong(usize),
    /// The bytes are no protobuf of the expected type.
    #[error("not a protobuf message of the expected type")]
    Encoding,
    /// One field is wrong.
    #[error("field {path}: {fault}")]
    Field {
        /// The field's name behind those of what it is in, as in `report.instances.node`.
        path: String,
        /// What is wrong with it.
        fault: String,
    },
}

/// What can be encoded and decoded.
pub trait Message: Sized {
    /// The message as bytes.
    ///
    /// # Errors
    /// Says which field is beyond what a reader takes.
    fn encode(&self) -> Result<Vec<u8>, CodecError>;

    /// Reads a message.
    ///
    /// # Errors
    /// Says what is wrong with the bytes.
    fn decode(bytes: &[u8]) -> Result<Self, CodecError>;
}

macro_rules! messages {
    ($($type:ty),* $(,)?) => {$(
        impl Message for $type {
            fn encode(&self) -> Result<Vec<u8>, CodecError> {
                let message = parts::Wire::put(self);
                // What a reader would refuse must not be sent.
                <Self as parts::Wire>::take(message.clone())?;
                match message.encoded_len() {
                    len if len > MAX_MESSAGE_LEN => Err(CodecError::TooLong(len)),
                    _ => Ok(message.encode_to_vec()),
                }
            }

            fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
                if bytes.len() > MAX_MESSAGE_LEN {
                    return Err(CodecError::TooLong(bytes.len()));
                }
                let message = <Self as parts::Wire>::Message::decode(bytes);
                let message = message.map_err(|_| CodecError::Encoding)?;
                Ok(<Self as parts::Wire>::take(message)?)
            }
        }
    )*};
}

messages!(
    crate::control::ClusterToRoot,
    crate::control::RootToCluster,
    crate::control::WorkerToCluster,
    crate::control::ClusterToWorker,
    crate::session::NetToCluster,
    crate::session::ClusterToNet,
    crate::join::JoinRequest,
    crate::join::JoinResponse,
    crate::session::PeerToPeer,
    crate::statement::Statement,
);

impl From<parts::Fault> for CodecError {
    fn from(fault: parts::Fault) -> Self {
        let (path, fault) = fault.told();
        Self::Field { path, fault }
    }
}
