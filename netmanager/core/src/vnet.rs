//! The virtio-net header that stands before every packet of the TUN device.
//!
//! It says whether the checksum of the packet is still to be finished by whoever receives it, and
//! whether the packet is a super-packet: many segments under one header (GSO). Here are its layout
//! and the check that it agrees with the packet behind it; it is no device and does no I/O. The
//! TUN shell parses and writes it, the chunk layer makes it, everyone else passes it on.
//!
//! Layout (virtio 1.2, section 5.1.6, without `num_buffers`), in the machine's own byte order, as
//! the TUN device has it unless told otherwise:
//!
//! ```text
//! 0 flags   1 gso_type   2..4 hdr_len   4..6 gso_size   6..8 csum_start   8..10 csum_offset
//! ```

use thiserror::Error;

use crate::packet::checksum::{fold, pseudo_sum};
use crate::packet::{L4, PROTOCOL_TCP, PROTOCOL_UDP, PacketError, PacketInfo};

/// Bytes of the header.
pub const VNET_HEADER_LEN: usize = 10;
/// Flag: the checksum field holds the sum of the pseudo-header only.
pub const FLAG_NEEDS_CSUM: u8 = 1;
/// Flag: the kernel has checked the checksum. A hint that we do not pass on.
pub const FLAG_DATA_VALID: u8 = 2;
/// GSO type: one packet, no super-packet.
pub const GSO_NONE: u8 = 0;
/// GSO type: TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// GSO type: TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// GSO type: UDP datagrams of equal size, over either family.
pub const GSO_UDP_L4: u8 = 5;
/// Bit of the GSO type: only the first segment has the TCP flag CWR.
pub const GSO_ECN: u8 = 0x80;
/// Most segments in one super-packet: 64 KiB in segments of 48 bytes, the smallest maximum segment
/// size that Linux's TCP lets itself be talked into. More would be a small packet that costs its
/// receiver a large amount of work.
pub const MAX_SEGMENTS: usize = 65_535 / 48 + 1;

/// What kind of super-packet stands behind the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gso {
    /// None: a packet like any other.
    None,
    /// TCP segments over IPv4.
    Tcp4,
    /// TCP segments over IPv6.
    Tcp6,
    /// UDP datagrams.
    Udp,
    /// A kind that we did not ask the device for.
    Unknown(u8),
}

/// A virtio-net header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VnetHeader {
    /// [`FLAG_NEEDS_CSUM`], [`FLAG_DATA_VALID`].
    pub flags: u8,
    /// One of the GSO types, perhaps with [`GSO_ECN`].
    pub gso_type: u8,
    /// Bytes of headers before the payload of the first segment; Linux gives and takes it as a
    /// hint only.
    pub hdr_len: u16,
    /// Payload bytes of every segment but the last.
    pub gso_size: u16,
    /// Where the bytes that the checksum covers begin: the L4 header.
    pub csum_start: u16,
    /// Where the checksum field stands, counted from there.
    pub csum_offset: u16,
}

/// How a virtio-net header contradicts its packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum VnetError {
    /// A GSO type that we never asked for.
    #[error("unknown GSO type {0:#04x}")]
    UnknownGso(u8),
    /// A super-packet of another protocol than the packet's.
    #[error("GSO type {gso_type:#04x} does not fit protocol {protocol}")]
    GsoProtocol {
        /// The header's GSO type.
        gso_type: u8,
        /// The packet's protocol.
        protocol: u8,
    },
    /// A super-packet without a segment size, or with one that makes too many segments.
    #[error("segments of {gso_size} bytes in a payload of {payload}")]
    GsoSize {
        /// The header's segment size.
        gso_size: u16,
        /// Bytes behind the packet's headers.
        payload: usize,
    },
    /// A super-packet whose checksums are not left to the receiver.
    #[error("a super-packet without a partial checksum")]
    GsoWithoutPartialChecksum,
    /// A fragment that is a super-packet or has a partial checksum.
    #[error("offloads on a fragment")]
    Fragment,
    /// A checksum to be finished where the packet has none.
    #[error("a checksum at {start} + {offset}, where the packet has none")]
    Checksum {
        /// The header's start of the checksummed bytes.
        start: u16,
        /// The header's offset of the field.
        offset: u16,
    },
    /// Headers longer than the packet.
    #[error("headers of {hdr_len} bytes in a packet of {total}")]
    HeaderLength {
        /// The header's length of headers.
        hdr_len: u16,
        /// The packet's length.
        total: u16,
    },
}

impl VnetHeader {
    /// Reads the header as the TUN device gives it.
    #[must_use]
    pub fn parse(bytes: &[u8; VNET_HEADER_LEN]) -> Self {
        let [flags, gso_type, a, b, c, d, e, f, g, h] = *bytes;
        Self {
            flags,
            gso_type,
            hdr_len: u16::from_ne_bytes([a, b]),
            gso_size: u16::from_ne_bytes([c, d]),
            csum_start: u16::from_ne_bytes([e, f]),
            csum_offset: u16::from_ne_bytes([g, h]),
        }
    }

    /// Writes the header as the TUN device takes it.
    pub fn write(&self, out: &mut [u8; VNET_HEADER_LEN]) {
        let [a, b] = self.hdr_len.to_ne_bytes();
        let [c, d] = self.gso_size.to_ne_bytes();
        let [e, f] = self.csum_start.to_ne_bytes();
        let [g, h] = self.csum_offset.to_ne_bytes();
        *out = [self.flags, self.gso_type, a, b, c, d, e, f, g, h];
    }

    /// Whether the L4 checksum field holds the pseudo-header's sum only.
    #[must_use]
    pub const fn needs_csum(&self) -> bool {
        self.flags & FLAG_NEEDS_CSUM != 0
    }

    /// Which kind of super-packet this is.
    #[must_use]
    pub const fn gso(&self) -> Gso {
        match self.gso_type & !GSO_ECN {
            GSO_NONE => Gso::None,
            GSO_TCPV4 => Gso::Tcp4,
            GSO_TCPV6 => Gso::Tcp6,
            GSO_UDP_L4 => Gso::Udp,
            other => Gso::Unknown(other),
        }
    }

    /// The header of a packet that is no super-packet; `partial` leaves the checksum to the
    /// receiver, where the packet has one that can be left.
    #[must_use]
    pub fn plain(info: &PacketInfo, partial: bool) -> Self {
        match info.l4.checksum_offset() {
            Some(csum_offset) if partial && info.fragment.is_none() => Self {
                flags: FLAG_NEEDS_CSUM,
                csum_start: info.l4_offset,
                csum_offset,
                ..Self::default()
            },
            _ => Self::default(),
        }
    }

    /// The header of TCP segments of `gso_size` bytes under one header, or of a single segment with 0;
    /// their checksums are left to the receiver, and the packet's is made to say so. A packet of
    /// another kind stays as it is.
    #[must_use]
    pub fn tcp_segments(packet: &mut [u8], gso_size: u16) -> Self {
        let Ok(info) = PacketInfo::parse(packet) else {
            return Self::default();
        };
        let L4::Tcp { .. } = info.l4 else {
            return Self::default();
        };
        let header = Self::plain(&info, true);
        let len = usize::from(info.total_len - info.l4_offset);
        let sum = fold(pseudo_sum(info.src, info.dst, info.protocol, len));
        let at = usize::from(header.csum_start + header.csum_offset);
        if let Some(field) = packet.get_mut(at..at + 2).filter(|_| header.needs_csum()) {
            field.copy_from_slice(&sum.to_be_bytes());
        }
        if gso_size == 0 {
            return header;
        }
        Self {
            gso_type: if info.src.is_ipv4() {
                GSO_TCPV4
            } else {
                GSO_TCPV6
            },
            gso_size,
            hdr_len: u16::try_from(info.header_len()).unwrap_or(u16::MAX),
            ..header
        }
    }

    /// Checks that this header does not contradict the packet behind it.
    ///
    /// # Errors
    /// [`PacketError::Vnet`] with what is wrong.
    pub fn check(&self, info: &PacketInfo) -> Result<(), PacketError> {
        self.check_all(info).map_err(PacketError::Vnet)
    }

    fn check_all(&self, info: &PacketInfo) -> Result<(), VnetError> {
        let gso = self.gso();
        if self.hdr_len > info.total_len {
            return Err(VnetError::HeaderLength {
                hdr_len: self.hdr_len,
                total: info.total_len,
            });
        }
        if info.fragment.is_some() && (self.needs_csum() || gso != Gso::None) {
            return Err(VnetError::Fragment);
        }
        if self.needs_csum() {
            self.check_checksum(info)?;
        }
        let fits = match gso {
            Gso::None => return Ok(()),
            Gso::Tcp4 => info.protocol == PROTOCOL_TCP && info.src.is_ipv4(),
            Gso::Tcp6 => info.protocol == PROTOCOL_TCP && info.src.is_ipv6(),
            Gso::Udp => info.protocol == PROTOCOL_UDP && self.gso_type & GSO_ECN == 0,
            Gso::Unknown(other) => return Err(VnetError::UnknownGso(other)),
        };
        if !fits {
            return Err(VnetError::GsoProtocol {
                gso_type: self.gso_type,
                protocol: info.protocol,
            });
        }
        if !self.needs_csum() {
            return Err(VnetError::GsoWithoutPartialChecksum);
        }
        let payload = info.payload_len();
        if self.gso_size == 0 || payload.div_ceil(usize::from(self.gso_size)) > MAX_SEGMENTS {
            return Err(VnetError::GsoSize {
                gso_size: self.gso_size,
                payload,
            });
        }
        Ok(())
    }

    fn check_checksum(&self, info: &PacketInfo) -> Result<(), VnetError> {
        let offloadable = matches!(info.l4, L4::Tcp { .. } | L4::Udp { .. });
        if offloadable
            && self.csum_start == info.l4_offset
            && info.l4.checksum_offset() == Some(self.csum_offset)
        {
            return Ok(());
        }
        Err(VnetError::Checksum {
            start: self.csum_start,
            offset: self.csum_offset,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reject::{Reject, reject};

    /// A SYN, and the reset that answers it, which has a full checksum.
    const SYN: [u8; 40] = [
        0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 30, 0, 1, 10, 30, 0, 2, 0x9c, 0x40, 0, 80,
        0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0,
    ];

    #[test]
    fn a_checksum_is_left_to_the_receiver() {
        let whole = reject(&SYN, Reject::NoInstance).unwrap();
        let mut packet = whole.clone();
        let header = VnetHeader::tcp_segments(&mut packet, 0);
        let info = PacketInfo::parse(&packet).unwrap();
        assert_eq!(header.check(&info), Ok(()));
        assert!(header.needs_csum() && header.gso() == Gso::None);
        // What a receiver does: it sums up what stands there, and puts the complement in its place.
        let segment = &packet[20..];
        let sum = !fold(crate::packet::checksum::sum(segment));
        assert_eq!(sum.to_be_bytes(), whole[36..38]);
        let header = VnetHeader::tcp_segments(&mut packet, 1360);
        assert_eq!((header.gso(), header.gso_size), (Gso::Tcp4, 1360));
        assert_eq!((header.hdr_len, header.csum_start), (40, 20));
        assert_eq!(header.check(&info), Ok(()));
    }

    #[test]
    fn what_is_no_tcp_stays_as_it_is() {
        let mut udp = SYN;
        udp[9] = 17;
        for mut bytes in [udp.to_vec(), vec![0x45; 9], Vec::new()] {
            let before = bytes.clone();
            let header = VnetHeader::tcp_segments(&mut bytes, 1360);
            assert_eq!((header, bytes), (VnetHeader::default(), before));
        }
    }
}
