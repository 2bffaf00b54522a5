//! Cuts inner (super-)packets into datagrams and puts them together again.
//!
//! A packet that fits goes as it is, one byte longer. A super-packet is cut at its segments into
//! chunks of equal size, each with the headers of the whole, so that losing one costs that one
//! only: what arrived is written as super-packets of its own. A packet that is larger than a
//! datagram, because the path is narrow, is cut into pieces that are all needed. So the inner MTU
//! is constant, whatever the path.
//!
//! The layouts are in `weald_proto::chunk`. The packet thread owns one [`Chunker`] and one
//! [`Reassembler`] per peer session. Whatever the reassembler hands out has been parsed and agrees
//! with its virtio-net header, whoever sent it; whether the peer may send it is the data plane's
//! question.
//!
//! ```text
//! chunker.split(&vnet, packet, max_datagram, &mut |parts| connection.send(&parts.concat()))?;
//!
//! reassembler.handle(&datagram, now, &mut |vnet, packet| ...)?;   // Err: count error.reason()
//! reassembler.handle_timeout(now, &mut |vnet, packet| ...);       // when poll_timeout() says so
//! while let Some((reason, count)) = reassembler.poll_drop() { ... }
//! ```

use thiserror::Error;

use crate::packet::PacketError;
use crate::verdict::DropReason;

pub use reassemble::{Reassembler, ReassemblyLimits};
pub use split::{Batch, Chunker, Parts};

mod geometry;
mod incomplete;
mod reassemble;
mod split;
#[cfg(test)]
mod tests;

/// Most chunks of one packet; it bounds what a receiver keeps to know which have come. 64 KiB in
/// chunks of [`MIN_CHUNK_LEN`].
pub const MAX_CHUNKS: usize = 256;
/// Least bytes of a chunk that is not the last: smaller ones would make many of them, and a
/// datagram on the narrowest path that QUIC allows holds four times as much.
pub const MIN_CHUNK_LEN: usize = 256;

/// Why a packet cannot be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ChunkError {
    /// The packet, or its virtio-net header, is not well-formed.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// The datagrams are too small for the headers and [`MIN_CHUNK_LEN`] twice.
    #[error("datagrams of {max_datagram} bytes are too small")]
    DatagramTooSmall {
        /// The size that was asked for.
        max_datagram: usize,
    },
    /// The super-packet's headers are longer than a template can be.
    #[error("{0} bytes of headers")]
    HeaderTooLong(usize),
}

/// Why a datagram, or part of it, was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ChunkDrop {
    /// Empty, or of a kind that we do not know.
    #[error("a datagram of unknown kind")]
    UnknownKind,
    /// Shorter than its own headers.
    #[error("a datagram shorter than its headers")]
    Truncated,
    /// It reaches outside its packet, or the packet is cut as none may be.
    #[error("chunk {index} of {chunk_len} bytes in {total}")]
    OutOfRange {
        /// The chunk's index.
        index: u16,
        /// Bytes of every chunk but the last.
        chunk_len: u16,
        /// Bytes of what is cut.
        total: u16,
    },
    /// It came twice.
    #[error("chunk {index} of packet {packet} came twice")]
    Duplicate {
        /// The cut packet.
        packet: u32,
        /// The chunk's index.
        index: u16,
    },
    /// It contradicts the chunks that are already here.
    #[error("chunk {index} contradicts others of packet {packet}")]
    Conflict {
        /// The cut packet.
        packet: u32,
        /// The chunk's index.
        index: u16,
    },
    /// Its packet is done with.
    #[error("a chunk of packet {packet}, which is done with")]
    Late {
        /// The cut packet.
        packet: u32,
    },
    /// The packet inside is not well-formed, or lies about its offloads.
    #[error(transparent)]
    Packet(#[from] PacketError),
}

impl ChunkDrop {
    /// The reason under which it is counted.
    #[must_use]
    pub const fn reason(self) -> DropReason {
        match self {
            Self::UnknownKind => DropReason::ChunkUnknownKind,
            Self::Truncated => DropReason::ChunkTruncated,
            Self::OutOfRange { .. } => DropReason::ChunkOutOfRange,
            Self::Duplicate { .. } => DropReason::ChunkDuplicate,
            Self::Conflict { .. } => DropReason::ChunkConflict,
            Self::Late { .. } => DropReason::ChunkLate,
            Self::Packet(error) => error.reason(),
        }
    }
}
