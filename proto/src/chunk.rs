//! What a QUIC DATAGRAM between two nodes holds: whole inner packets, or a chunk of one.
//!
//! This module holds the layouts only; cutting and putting together are netmanager-core's `chunk`.
//! All numbers are big-endian. The low four bits of the first byte are the kind, the high ones are
//! flags; a flag that a kind does not know makes the datagram unknown, so that later versions can
//! give it a meaning.
//!
//! ```text
//! one packet               several packets           a chunk
//! 0    kind 1, flag CSUM   0     kind 2              0       kind 3, flag ECN; or kind 4, flag CSUM
//! 1..  the packet          then, for each:           1..5    number of the cut packet
//!                          0..2  length; bit 15:     5..7    index of the chunk
//!                                flag CSUM           7..9    length of what is cut, in bytes
//!                          2..   the packet          9..11   length of every chunk but the last
//!                                                    11..13  segment size (kind 3), or 0
//!                                                    13      length of the template (kind 3), or 0
//!                                                    14..    template, then the chunk's bytes
//! ```
//!
//! *Kind 3* is a chunk of a super-packet. What is cut is its payload; its headers, from IP to the
//! options of TCP, are the template and stand in every chunk, so that each can be delivered without
//! the others. Its checksum is partial always. *Kind 4* is a piece of one packet that is larger than
//! a datagram; the packet is cut as it is, and all pieces are needed.

/// Bytes of a chunk's header. A packet of the inner MTU of 1400 and this make 1414 bytes: what a
/// QUIC DATAGRAM holds in a 1452-byte UDP payload with 8-byte connection ids.
pub const CHUNK_HEADER_LEN: usize = 14;
/// Bytes before a packet that has its datagram for itself.
pub const ONE_HEADER_LEN: usize = 1;
/// Bytes before each packet of several.
pub const BATCH_ENTRY_LEN: usize = 2;
/// Longest packet that can be one of several in a datagram.
pub const MAX_BATCH_PACKET: usize = 0x7fff;

const KIND_ONE: u8 = 1;
const KIND_BATCH: u8 = 2;
const KIND_SUPER: u8 = 3;
const KIND_PIECE: u8 = 4;
const KIND_MASK: u8 = 0x0f;
const FLAG_CSUM: u8 = 0x80;
const FLAG_ECN: u8 = 0x40;
const BATCH_CSUM: u16 = 0x8000;

/// What kind of datagram this is, by its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatagramKind {
    /// One whole packet.
    One {
        /// Whether its checksum is partial.
        needs_csum: bool,
    },
    /// Several whole packets.
    Batch,
    /// A chunk.
    Chunk(ChunkKind),
}

/// What a chunk is cut from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkKind {
    /// The payload of a super-packet.
    Super {
        /// Whether only its first segment has the TCP flag CWR.
        ecn: bool,
    },
    /// A whole packet.
    Piece {
        /// Whether its checksum is partial.
        needs_csum: bool,
    },
}

/// The header of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHeader {
    /// What it is cut from.
    pub kind: ChunkKind,
    /// Which packet it is cut from: counts the cut packets of one direction of a session.
    pub packet: u32,
    /// Which chunk it is.
    pub index: u16,
    /// Bytes of what is cut.
    pub total: u16,
    /// Bytes of every chunk but the last.
    pub chunk_len: u16,
    /// Payload bytes of every segment but the last; 0 for a piece.
    pub gso_size: u16,
    /// Bytes of the template behind this header; 0 for a piece.
    pub template_len: u8,
}

impl DatagramKind {
    /// Reads the first byte of a datagram; none if it is empty or unknown.
    #[must_use]
    pub fn of(datagram: &[u8]) -> Option<Self> {
        let first = *datagram.first()?;
        let flags = first & !KIND_MASK;
        let csum = flags & FLAG_CSUM != 0;
        match (first & KIND_MASK, flags & !FLAG_CSUM, flags & !FLAG_ECN) {
            (KIND_ONE, 0, _) => Some(Self::One { needs_csum: csum }),
            (KIND_BATCH, 0, 0) => Some(Self::Batch),
            (KIND_PIECE, 0, _) => Some(Self::Chunk(ChunkKind::Piece { needs_csum: csum })),
            (KIND_SUPER, _, 0) => Some(Self::Chunk(ChunkKind::Super {
                ecn: flags & FLAG_ECN != 0,
            })),
            _ => None,
        }
    }

    /// The first byte of a datagram of this kind.
    #[must_use]
    pub const fn first_byte(self) -> u8 {
        match self {
            Self::One { needs_csum: false } => KIND_ONE,
            Self::One { needs_csum: true } => KIND_ONE | FLAG_CSUM,
            Self::Batch => KIND_BATCH,
            Self::Chunk(ChunkKind::Piece { needs_csum: false }) => KIND_PIECE,
            Self::Chunk(ChunkKind::Piece { needs_csum: true }) => KIND_PIECE | FLAG_CSUM,
            Self::Chunk(ChunkKind::Super { ecn: false }) => KIND_SUPER,
            Self::Chunk(ChunkKind::Super { ecn: true }) => KIND_SUPER | FLAG_ECN,
        }
    }
}

impl ChunkHeader {
    /// Writes the header.
    #[must_use]
    pub fn encode(&self) -> [u8; CHUNK_HEADER_LEN] {
        let mut out = [0; CHUNK_HEADER_LEN];
        out[0] = DatagramKind::Chunk(self.kind).first_byte();
        out[1..5].copy_from_slice(&self.packet.to_be_bytes());
        out[5..7].copy_from_slice(&self.index.to_be_bytes());
        out[7..9].copy_from_slice(&self.total.to_be_bytes());
        out[9..11].copy_from_slice(&self.chunk_len.to_be_bytes());
        out[11..13].copy_from_slice(&self.gso_size.to_be_bytes());
        out[13] = self.template_len;
        out
    }

    /// Reads the header and returns what follows it. None if it is too short or no chunk; whether
    /// the numbers make sense is not looked at.
    #[must_use]
    pub fn decode(datagram: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = datagram.split_first_chunk::<CHUNK_HEADER_LEN>()?;
        let kind = match DatagramKind::of(head)? {
            DatagramKind::Chunk(kind) => kind,
            DatagramKind::One { .. } | DatagramKind::Batch => return None,
        };
        let header = Self {
            kind,
            packet: u32::from_be_bytes([head[1], head[2], head[3], head[4]]),
            index: u16::from_be_bytes([head[5], head[6]]),
            total: u16::from_be_bytes([head[7], head[8]]),
            chunk_len: u16::from_be_bytes([head[9], head[10]]),
            gso_size: u16::from_be_bytes([head[11], head[12]]),
            template_len: head[13],
        };
        Some((header, rest))
    }
}

/// The bytes before one of several packets; none if the packet is too long for it.
#[must_use]
pub fn batch_entry(len: usize, needs_csum: bool) -> Option<[u8; BATCH_ENTRY_LEN]> {
    let len = u16::try_from(len)
        .ok()
        .filter(|len| len & BATCH_CSUM == 0)?;
    Some((len | if needs_csum { BATCH_CSUM } else { 0 }).to_be_bytes())
}

/// Splits the first packet off what follows the first byte of a datagram of several: whether its
/// checksum is partial, its bytes, and the rest. None if the bytes end too early.
#[must_use]
pub fn split_batch(bytes: &[u8]) -> Option<(bool, &[u8], &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<BATCH_ENTRY_LEN>()?;
    let field = u16::from_be_bytes(*head);
    let (packet, rest) = rest.split_at_checked(usize::from(field & !BATCH_CSUM))?;
    Some((field & BATCH_CSUM != 0, packet, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_super_chunk() {
        let header = ChunkHeader {
            kind: ChunkKind::Super { ecn: true },
            packet: 0x0102_0304,
            index: 5,
            total: 0xfde8,
            chunk_len: 1348,
            gso_size: 1348,
            template_len: 52,
        };
        let bytes = header.encode();
        let expected = [
            0x43, 1, 2, 3, 4, 0, 5, 0xfd, 0xe8, 0x05, 0x44, 0x05, 0x44, 52,
        ];
        assert_eq!(bytes, expected);
        let with_rest = [&bytes[..], b"rest"].concat();
        assert_eq!(
            ChunkHeader::decode(&with_rest),
            Some((header, &b"rest"[..]))
        );
    }

    #[test]
    fn golden_piece() {
        let header = ChunkHeader {
            kind: ChunkKind::Piece { needs_csum: true },
            packet: 7,
            index: 1,
            total: 1400,
            chunk_len: 1148,
            gso_size: 0,
            template_len: 0,
        };
        let bytes = header.encode();
        let expected = [0x84, 0, 0, 0, 7, 0, 1, 0x05, 0x78, 0x04, 0x7c, 0, 0, 0];
        assert_eq!(bytes, expected);
        assert_eq!(ChunkHeader::decode(&bytes), Some((header, &[][..])));
    }

    #[test]
    fn golden_batch() {
        let first = batch_entry(2, true).unwrap();
        let second = batch_entry(1, false).unwrap();
        let bytes = [&first[..], &[0xaa, 0xbb], &second[..], &[0xcc]].concat();
        assert_eq!(bytes, [0x80, 2, 0xaa, 0xbb, 0, 1, 0xcc]);
        let (needs_csum, packet, rest) = split_batch(&bytes).unwrap();
        assert_eq!((needs_csum, packet), (true, &[0xaa, 0xbb][..]));
        let (needs_csum, packet, rest) = split_batch(rest).unwrap();
        assert_eq!((needs_csum, packet, rest), (false, &[0xcc][..], &[][..]));
        assert_eq!(split_batch(rest), None);
        assert_eq!(split_batch(&[0, 2, 0xaa]), None);
        assert_eq!(batch_entry(MAX_BATCH_PACKET + 1, false), None);
    }

    #[test]
    fn first_bytes() {
        for first in 0..=u8::MAX {
            if let Some(kind) = DatagramKind::of(&[first]) {
                assert_eq!(kind.first_byte(), first);
            }
        }
        let known: Vec<u8> = (0..=u8::MAX)
            .filter(|first| DatagramKind::of(&[*first]).is_some())
            .collect();
        assert_eq!(known, [0x01, 0x02, 0x03, 0x04, 0x43, 0x81, 0x84]);
        assert_eq!(DatagramKind::of(&[]), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn any_chunk_that_is_read_is_written_the_same(bytes in prop::collection::vec(any::<u8>(), 0..32)) {
            if let Some((header, rest)) = ChunkHeader::decode(&bytes) {
                prop_assert_eq!([&header.encode()[..], rest].concat(), bytes);
            }
        }
    }
}
