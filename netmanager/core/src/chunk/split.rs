//! The sending half: one inner packet in, datagrams out.

use weald_proto::chunk::{
    CHUNK_HEADER_LEN, ChunkHeader, ChunkKind, DatagramKind, ONE_HEADER_LEN, batch_entry,
};

use super::geometry::narrow;
use super::{ChunkError, MIN_CHUNK_LEN};
use crate::packet::PacketInfo;
use crate::vnet::{GSO_ECN, Gso, VnetHeader};

/// Cuts packets for one peer session.
#[derive(Debug, Default)]
pub struct Chunker {
    /// The number of the next packet that is cut.
    next: u32,
}

/// One datagram, as what stands one behind the other in it: our header, the headers of a
/// super-packet (empty otherwise), and bytes of the packet. Whoever sends it puts them together at
/// their last place, so that they are copied once.
pub type Parts<'a> = [&'a [u8]; 3];

/// Collects several small packets for one datagram.
#[derive(Debug)]
pub struct Batch {
    max_datagram: usize,
    datagram: Vec<u8>,
}

impl Chunker {
    /// A chunker for a new session.
    #[must_use]
    pub const fn new() -> Self {
        Self::starting_at(0)
    }

    /// A chunker whose first cut packet has the given number.
    pub(super) const fn starting_at(next: u32) -> Self {
        Self { next }
    }

    /// Hands the datagrams that carry `packet` to `emit`, in order; none is longer than
    /// `max_datagram`, and all chunks but the last are of one size.
    ///
    /// # Errors
    /// Why it cannot be cut; then nothing was emitted.
    pub fn split(
        &mut self,
        vnet: &VnetHeader,
        packet: &[u8],
        max_datagram: usize,
        emit: &mut dyn FnMut(Parts<'_>),
    ) -> Result<(), ChunkError> {
        let info = PacketInfo::parse(packet)?;
        vnet.check(&info)?;
        let packet = packet.get(..usize::from(info.total_len)).unwrap_or(packet);
        let is_super = vnet.gso() != Gso::None && info.payload_len() > usize::from(vnet.gso_size);
        if is_super {
            self.split_super(vnet, packet, &info, max_datagram, emit)
        } else if ONE_HEADER_LEN + packet.len() <= max_datagram {
            let kind = DatagramKind::One {
                needs_csum: vnet.needs_csum(),
            };
            emit([&[kind.first_byte()], &[], packet]);
            Ok(())
        } else {
            self.split_large(vnet.needs_csum(), packet, max_datagram, emit)
        }
    }

    fn split_super(
        &mut self,
        vnet: &VnetHeader,
        packet: &[u8],
        info: &PacketInfo,
        max_datagram: usize,
        emit: &mut dyn FnMut(Parts<'_>),
    ) -> Result<(), ChunkError> {
        let template_len = info.header_len();
        let header_len =
            u8::try_from(template_len).map_err(|_| ChunkError::HeaderTooLong(template_len))?;
        let room = room(max_datagram, template_len)?;
        let (template, payload) = packet
            .split_at_checked(template_len)
            .unwrap_or((packet, &[]));
        let gso_size = usize::from(vnet.gso_size);
        // Whole segments where one fits: then a lost chunk costs no other segment.
        let chunk_len = if gso_size <= room {
            room - room % gso_size
        } else {
            room
        };
        let header = ChunkHeader {
            kind: ChunkKind::Super {
                ecn: vnet.gso_type & GSO_ECN != 0,
            },
            packet: self.number(),
            index: 0,
            total: narrow(payload.len()),
            chunk_len: narrow(chunk_len),
            gso_size: vnet.gso_size,
            template_len: header_len,
        };
        chunks(header, template, payload, emit);
        Ok(())
    }

    fn split_large(
        &mut self,
        needs_csum: bool,
        packet: &[u8],
        max_datagram: usize,
        emit: &mut dyn FnMut(Parts<'_>),
    ) -> Result<(), ChunkError> {
        // Equal pieces: two halves instead of a long and a short one.
        let pieces = packet.len().div_ceil(room(max_datagram, 0)?);
        let header = ChunkHeader {
            kind: ChunkKind::Piece { needs_csum },
            packet: self.number(),
            index: 0,
            total: narrow(packet.len()),
            chunk_len: narrow(packet.len().div_ceil(pieces)),
            gso_size: 0,
            template_len: 0,
        };
        chunks(header, &[], packet, emit);
        Ok(())
    }

    fn number(&mut self) -> u32 {
        let number = self.next;
        self.next = number.wrapping_add(1);
        number
    }
}

impl Batch {
    /// An empty batch for datagrams of at most `max_datagram` bytes.
    #[must_use]
    pub fn new(max_datagram: usize) -> Self {
        Self {
            max_datagram,
            datagram: vec![DatagramKind::Batch.first_byte()],
        }
    }

    /// Adds a packet that has been parsed. False, and nothing is changed, if it does not fit or is
    /// a super-packet.
    pub fn push(&mut self, vnet: &VnetHeader, packet: &[u8]) -> bool {
        let Some(entry) = batch_entry(packet.len(), vnet.needs_csum()) else {
            return false;
        };
        let len = self.datagram.len() + entry.len() + packet.len();
        if len > self.max_datagram || vnet.gso() != Gso::None {
            return false;
        }
        self.datagram.extend_from_slice(&entry);
        self.datagram.extend_from_slice(packet);
        true
    }

    /// The datagram with all packets so far; none if there are none.
    #[must_use]
    pub fn datagram(&self) -> Option<&[u8]> {
        (self.datagram.len() > 1).then_some(&*self.datagram)
    }

    /// Forgets the packets, and keeps the memory.
    pub fn clear(&mut self) {
        self.datagram.truncate(1);
    }
}

fn chunks(
    mut header: ChunkHeader,
    template: &[u8],
    payload: &[u8],
    emit: &mut dyn FnMut(Parts<'_>),
) {
    for chunk in payload.chunks(usize::from(header.chunk_len).max(1)) {
        emit([&header.encode(), template, chunk]);
        header.index = header.index.wrapping_add(1);
    }
}

/// Bytes of a chunk that fit beside its headers.
fn room(max_datagram: usize, template_len: usize) -> Result<usize, ChunkError> {
    // Of a room of twice the least chunk, whole segments fill more than half.
    max_datagram
        .min(usize::from(u16::MAX))
        .checked_sub(CHUNK_HEADER_LEN + template_len)
        .filter(|room| *room >= 2 * MIN_CHUNK_LEN)
        .ok_or(ChunkError::DatagramTooSmall { max_datagram })
}
