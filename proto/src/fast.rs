//! The frame of the fast lane: one datagram of inner packets ([`crate::chunk`]), sealed without
//! QUIC.
//!
//! This module holds the layout only; sealing and the window against replays are netmanager-core's
//! `fast`, agreeing on keys is the shell's. Numbers are big-endian. The header is authenticated
//! with what follows it (AES-128-GCM, the header as associated data) and not encrypted, so that a
//! receiver finds the key without trying any.
//!
//! ```text
//! 0       kind: 0x20
//! 1..8    key id: which of its keys the receiver opens the frame with
//! 8..16   counter: never used twice under one key
//! 16..    what is sealed
//! last 16 tag
//! ```

use crate::frame::FAST;

/// Bytes of the header.
pub const HEADER_LEN: usize = 16;
/// Bytes of the tag behind what is sealed: GCM's, whole.
pub const TAG_LEN: usize = 16;
/// Bytes that a frame adds to what it carries.
pub const OVERHEAD: usize = HEADER_LEN + TAG_LEN;
/// Key ids have 56 bits.
pub const MAX_KEY_ID: u64 = (1 << 56) - 1;

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FastHeader {
    /// Which key, as its receiver knows it; at most [`MAX_KEY_ID`].
    pub key: u64,
    /// Counts the frames under this key.
    pub counter: u64,
}

impl FastHeader {
    /// Writes the header.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[..8].copy_from_slice(&(self.key & MAX_KEY_ID).to_be_bytes());
        out[0] = FAST;
        out[8..].copy_from_slice(&self.counter.to_be_bytes());
        out
    }

    /// Reads the header of a frame. None if it is too short to be whole, or another frame.
    #[must_use]
    pub fn decode(frame: &[u8]) -> Option<Self> {
        if frame.len() < OVERHEAD || frame.first() != Some(&FAST) {
            return None;
        }
        let (key, rest) = frame.split_first_chunk::<8>()?;
        let counter = rest.first_chunk::<8>()?;
        Some(Self {
            key: u64::from_be_bytes(*key) & MAX_KEY_ID,
            counter: u64::from_be_bytes(*counter),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::FrameKind;

    #[test]
    fn golden_header() {
        let header = FastHeader {
            key: 0x01_0203_0405_0607,
            counter: 0x1112_1314_1516_1718,
        };
        let bytes = header.encode();
        assert_eq!(
            bytes,
            [
                0x20, 1, 2, 3, 4, 5, 6, 7, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18
            ]
        );
        let frame = [&bytes[..], &[0; TAG_LEN]].concat();
        assert_eq!(FrameKind::of(&frame), FrameKind::Fast);
        assert_eq!(FastHeader::decode(&frame), Some(header));
    }

    #[test]
    fn short_and_foreign_frames_are_none() {
        let mut frame = [0; OVERHEAD];
        assert_eq!(FastHeader::decode(&frame), None);
        frame[0] = FAST;
        assert_eq!(
            FastHeader::decode(&frame),
            Some(FastHeader { key: 0, counter: 0 })
        );
        assert_eq!(FastHeader::decode(&frame[1..]), None);
        assert_eq!(FastHeader::decode(&frame[..OVERHEAD - 1]), None);
        assert_eq!(FastHeader::decode(&[]), None);
    }
}
