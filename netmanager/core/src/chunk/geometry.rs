//! How a packet is cut: which bytes a chunk holds, checked against what may be.

use weald_proto::chunk::{ChunkHeader, ChunkKind};

use super::{ChunkDrop, MAX_CHUNKS, MIN_CHUNK_LEN};
use crate::packet::MAX_PACKET_LEN;

/// A chunk whose place in its packet has been checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunk<'a> {
    pub(super) header: ChunkHeader,
    pub(super) template: &'a [u8],
    pub(super) bytes: &'a [u8],
    /// How many chunks the packet is cut into.
    pub(super) count: usize,
}

impl<'a> Chunk<'a> {
    pub(super) fn parse(datagram: &'a [u8]) -> Result<Self, ChunkDrop> {
        let (header, rest) = ChunkHeader::decode(datagram).ok_or(ChunkDrop::Truncated)?;
        let (template, bytes) = rest
            .split_at_checked(usize::from(header.template_len))
            .ok_or(ChunkDrop::Truncated)?;
        let chunk = Self {
            header,
            template,
            bytes,
            count: usize::from(header.total).div_ceil(usize::from(header.chunk_len).max(1)),
        };
        if chunk.is_in_range() {
            Ok(chunk)
        } else {
            Err(ChunkDrop::OutOfRange {
                index: header.index,
                chunk_len: header.chunk_len,
                total: header.total,
            })
        }
    }

    /// Where its bytes begin in what is cut.
    pub(super) fn offset(&self) -> usize {
        self.index() * usize::from(self.header.chunk_len)
    }

    pub(super) fn index(&self) -> usize {
        usize::from(self.header.index)
    }

    fn is_in_range(&self) -> bool {
        let total = usize::from(self.header.total);
        let chunk_len = usize::from(self.header.chunk_len);
        let kind_fits = match self.header.kind {
            ChunkKind::Super { .. } => self.header.gso_size != 0 && !self.template.is_empty(),
            ChunkKind::Piece { .. } => self.header.gso_size == 0 && self.template.is_empty(),
        };
        let count_fits = self.count == 1 || chunk_len >= MIN_CHUNK_LEN;
        kind_fits
            && total != 0
            && chunk_len != 0
            && self.template.len() + total <= MAX_PACKET_LEN
            && count_fits
            && self.count <= MAX_CHUNKS
            && self.index() < self.count
            && self.bytes.len() == chunk_len.min(total - self.offset())
    }
}

/// A length of at most [`MAX_PACKET_LEN`] as the wire has it.
pub(super) fn narrow(len: usize) -> u16 {
    debug_assert!(len <= MAX_PACKET_LEN);
    u16::try_from(len).unwrap_or(u16::MAX)
}
