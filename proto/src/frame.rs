//! The frames beside QUIC on the data socket: path probes and relay frames. Those of the fast lane
//! are laid out by [`crate::fast`].
//!
//! A UDP datagram whose first byte has the QUIC fixed bit (`0x40`) is QUIC (RFC 9000, section
//! 17.2; greasing of that bit is off on every node). All else is one of the frames below, told
//! apart by the first byte. Both kinds are authenticated with keys that each side exports from a
//! TLS session (RFC 8446, section 7.5): AES-128-GMAC over everything but the tag, with the counter
//! as nonce, cut to [`TAG_LEN`] bytes. This module holds the layouts only; keys, replay windows
//! and what is done about a frame are netmanager-core's `seal`, `peer` and `relay`.
//!
//! ```text
//! probe                                   relay data
//! 0      kind: 0x01 request, 0x02 reply   0      kind: 0x10, or 0x11 with no packet behind
//! 1..9   session id of the receiver       1..5   link id: which registration at this relay
//! 9..15  counter                          5..9   peer id: to whom (up) or from whom (down)
//! 15..23 nonce, echoed by the reply       9..15  counter
//! 23..31 tag                              15..23 tag
//! 31..   padding, authenticated           23..   one sealed packet, opaque to the relay
//!
//! knock, answered by a datagram           its answer
//! 0      kind: 0x12                       0      kind: 0x13
//! 1..5   link id                          1..9   tag of the knock
//! 5..7   port to answer to; 0: the own    9..27  address that the knock came from
//! 7      1: answer from the other port
//! 9..15  counter
//! 15..23 tag
//! 23..   padding, authenticated, at least up to 32
//! ```

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The bit of the first byte that QUIC packets have and our frames have not.
pub const QUIC_FIXED_BIT: u8 = 0x40;
/// First byte of a probe request.
pub const PROBE_REQUEST: u8 = 0x01;
/// First byte of a probe reply.
pub const PROBE_REPLY: u8 = 0x02;
/// First byte of a relay data frame.
pub const RELAY_DATA: u8 = 0x10;
/// First byte of a frame by which a node asks a relay where it comes from: a header and no packet.
pub const RELAY_OBSERVE: u8 = 0x11;
/// First byte of a frame by which a node has a relay send it a datagram.
pub const RELAY_KNOCK: u8 = 0x12;
/// First byte of that datagram.
pub const RELAY_KNOCKED: u8 = 0x13;
/// First byte of a frame of the fast lane; its layout is [`crate::fast`]'s.
pub const FAST: u8 = 0x20;
/// The least bytes of a knock: more than its answer has, so that nobody gains by it.
pub const KNOCK_LEN: usize = 32;
/// Bytes of the answer to a knock.
pub const KNOCKED_LEN: usize = 27;
/// Bytes of a frame's authentication tag: 64 bits, guessed once in 2^64 frames, at 8 bytes a frame.
pub const TAG_LEN: usize = 8;
/// Bytes of a probe without padding.
pub const PROBE_LEN: usize = 31;
/// Bytes that a relay frame adds to the packet it carries.
pub const RELAY_HEADER_LEN: usize = 23;
/// Counters are 48 bits: at 10 million frames per second they last most of a year.
pub const MAX_COUNTER: u64 = (1 << 48) - 1;

/// Which of the frames, or QUIC, a datagram is, by its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// A QUIC packet.
    Quic,
    /// A probe request or reply.
    Probe,
    /// A relay data frame.
    RelayData,
    /// A node's question where its packets come from.
    RelayQuestion,
    /// A node's wish to be sent a datagram.
    RelayKnock,
    /// A sealed datagram of the fast lane.
    Fast,
    /// None that we know.
    Unknown,
}

impl FrameKind {
    /// Classifies a datagram; an empty one is [`FrameKind::Unknown`].
    #[must_use]
    pub fn of(datagram: &[u8]) -> Self {
        match datagram.first() {
            Some(first) if first & QUIC_FIXED_BIT != 0 => Self::Quic,
            Some(&(PROBE_REQUEST | PROBE_REPLY)) => Self::Probe,
            Some(&RELAY_DATA) => Self::RelayData,
            Some(&RELAY_OBSERVE) => Self::RelayQuestion,
            Some(&RELAY_KNOCK) => Self::RelayKnock,
            Some(&FAST) => Self::Fast,
            _ => Self::Unknown,
        }
    }
}

/// A probe, without its tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Whether this answers a request.
    pub reply: bool,
    /// The session, by the id that its receiver knows it by.
    pub session: u64,
    /// Counts the frames of one direction of the session; never used twice.
    pub counter: u64,
    /// Fresh in a request, repeated in the reply.
    pub nonce: u64,
}

impl Probe {
    /// Writes the probe with a zeroed tag, to be sealed, and zero padding up to `len` bytes.
    #[must_use]
    pub fn encode(&self, len: usize) -> Vec<u8> {
        let mut out = vec![0; len.max(PROBE_LEN)];
        out[0] = if self.reply {
            PROBE_REPLY
        } else {
            PROBE_REQUEST
        };
        out[1..9].copy_from_slice(&self.session.to_be_bytes());
        out[9..15].copy_from_slice(&self.counter.to_be_bytes()[2..]);
        out[15..23].copy_from_slice(&self.nonce.to_be_bytes());
        out
    }

    /// Reads a probe; the tag is at [`Probe::TAG`]. None if it is too short or no probe.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, _) = bytes.split_first_chunk::<PROBE_LEN>()?;
        let reply = match head[0] {
            PROBE_REQUEST => false,
            PROBE_REPLY => true,
            _ => return None,
        };
        Some(Self {
            reply,
            session: u64::from_be_bytes(*array(head, 1)),
            counter: u48(array(head, 9)),
            nonce: u64::from_be_bytes(*array(head, 15)),
        })
    }

    /// Where the tag stands.
    pub const TAG: std::ops::Range<usize> = 23..PROBE_LEN;
}

/// The header of a relay data frame, without its tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayHeader {
    /// The registration at the relay whose keys authenticate this frame.
    pub link: u32,
    /// From node to relay, the registration to hand the packet to; from relay to node, the one
    /// that it came from.
    pub peer: u32,
    /// Counts the frames of one direction of the link; never used twice.
    pub counter: u64,
}

impl RelayHeader {
    /// Writes the header with a zeroed tag, to be sealed.
    #[must_use]
    pub fn encode(&self) -> [u8; RELAY_HEADER_LEN] {
        let mut out = [0; RELAY_HEADER_LEN];
        out[0] = RELAY_DATA;
        out[1..5].copy_from_slice(&self.link.to_be_bytes());
        out[5..9].copy_from_slice(&self.peer.to_be_bytes());
        out[9..15].copy_from_slice(&self.counter.to_be_bytes()[2..]);
        out
    }

    /// Reads a header; the tag is at [`RelayHeader::TAG`]. None if it is too short or another frame.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, _) = bytes.split_first_chunk::<RELAY_HEADER_LEN>()?;
        (head[0] == RELAY_DATA).then(|| Self::read(head))
    }

    fn read(head: &[u8; RELAY_HEADER_LEN]) -> Self {
        Self {
            link: u32::from_be_bytes(*array(head, 1)),
            peer: u32::from_be_bytes(*array(head, 5)),
            counter: u48(array(head, 9)),
        }
    }

    /// Where the tag stands.
    pub const TAG: std::ops::Range<usize> = 15..RELAY_HEADER_LEN;

    /// Writes a question to the observing port of a relay: nobody is named, nothing is carried.
    #[must_use]
    pub fn encode_observe(link: u32) -> [u8; RELAY_HEADER_LEN] {
        let header = Self {
            link,
            peer: 0,
            counter: 0,
        };
        let mut out = header.encode();
        out[0] = RELAY_OBSERVE;
        out
    }

    /// Reads such a question. None if it is anything else.
    #[must_use]
    pub fn decode_observe(bytes: &[u8]) -> Option<Self> {
        let head: &[u8; RELAY_HEADER_LEN] = bytes.try_into().ok()?;
        (head[0] == RELAY_OBSERVE).then(|| Self::read(head))
    }
}

/// A node's wish to be sent one datagram, which shows what its NAT lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Knock {
    /// The registration at the relay whose keys authenticate this frame.
    pub link: u32,
    /// The port to send to at the address of the registration; 0 means where the knock comes from.
    pub port: u16,
    /// Whether to send from the port that was not knocked at.
    pub from_other_port: bool,
}

impl Knock {
    /// Writes the knock with a zeroed tag, to be sealed at [`RelayHeader::TAG`], and zero padding up
    /// to `len` bytes.
    #[must_use]
    pub fn encode(&self, len: usize) -> Vec<u8> {
        let mut out = vec![0; len.max(KNOCK_LEN)];
        out[0] = RELAY_KNOCK;
        out[1..5].copy_from_slice(&self.link.to_be_bytes());
        out[5..7].copy_from_slice(&self.port.to_be_bytes());
        out[7] = u8::from(self.from_other_port);
        out
    }

    /// Reads a knock. None if it is too short or anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, _) = bytes.split_first_chunk::<KNOCK_LEN>()?;
        (head[0] == RELAY_KNOCK).then(|| Self {
            link: u32::from_be_bytes(*array(head, 1)),
            port: u16::from_be_bytes(*array(head, 5)),
            from_other_port: head[7] & 1 != 0,
        })
    }
}

/// The answer to a [`Knock`]: whoever has it shows that the relay had the knock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Knocked {
    /// The tag of the knock.
    pub tag: [u8; TAG_LEN],
    /// Where the knock came from, as the relay saw it.
    pub seen: SocketAddr,
}

impl Knocked {
    /// Writes the answer.
    #[must_use]
    pub fn encode(&self) -> [u8; KNOCKED_LEN] {
        let mut out = [0; KNOCKED_LEN];
        out[0] = RELAY_KNOCKED;
        out[1..9].copy_from_slice(&self.tag);
        out[9..25].copy_from_slice(&mapped(self.seen.ip()).octets());
        out[25..27].copy_from_slice(&self.seen.port().to_be_bytes());
        out
    }

    /// Reads an answer. None if it is anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let head: &[u8; KNOCKED_LEN] = bytes.try_into().ok()?;
        let ip = Ipv6Addr::from(*array::<16>(head, 9)).to_canonical();
        (head[0] == RELAY_KNOCKED).then(|| Self {
            tag: *array(head, 1),
            seen: SocketAddr::new(ip, u16::from_be_bytes(*array(head, 25))),
        })
    }
}

fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

/// `N` bytes of a header at a constant offset.
fn array<const N: usize>(head: &[u8], at: usize) -> &[u8; N] {
    const { assert!(N <= PROBE_LEN) };
    match head.get(at..).and_then(|rest| rest.first_chunk()) {
        Some(bytes) => bytes,
        // Callers pass offsets within the fixed-size head that they have just split off.
        None => unreachable!("header offsets are constants within the header"),
    }
}

fn u48(bytes: &[u8; 6]) -> u64 {
    bytes
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn socket_address() -> impl Strategy<Value = SocketAddr> {
        let v4 = any::<[u8; 4]>().prop_map(IpAddr::from);
        let v6 = any::<[u8; 16]>().prop_map(IpAddr::from);
        let ip = prop_oneof![v4, v6].prop_map(|ip| ip.to_canonical());
        (ip, 1..=u16::MAX).prop_map(SocketAddr::from)
    }

    /// Bytes that are often of one of the frames, and of about its length.
    fn datagram() -> impl Strategy<Value = Vec<u8>> {
        let first = prop_oneof![
            Just(PROBE_REQUEST),
            Just(PROBE_REPLY),
            Just(RELAY_DATA),
            Just(RELAY_OBSERVE),
            Just(RELAY_KNOCK),
            Just(RELAY_KNOCKED),
            any::<u8>(),
        ];
        let rest = prop::collection::vec(any::<u8>(), 0..PROBE_LEN + 8);
        let whole = (first, rest).prop_map(|(first, rest)| [vec![first], rest].concat());
        prop_oneof![9 => whole, 1 => Just(Vec::new())]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            (session, counter, nonce) in (any::<u64>(), 0..=MAX_COUNTER, any::<u64>()),
            (link, peer, port) in any::<(u32, u32, u16)>(),
            from_other_port in any::<bool>(),
            (tag, seen) in (any::<[u8; TAG_LEN]>(), socket_address()),
            len in 0..1500_usize,
        ) {
            let reply = Probe { reply: true, session, counter, nonce };
            let request = Probe { reply: false, ..reply };
            for probe in [reply, request] {
                let bytes = probe.encode(len);
                prop_assert_eq!(bytes.len(), len.max(PROBE_LEN));
                prop_assert_eq!(Probe::decode(&bytes), Some(probe));
            }
            let header = RelayHeader { link, peer, counter };
            prop_assert_eq!(RelayHeader::decode(&header.encode()), Some(header));
            let question = RelayHeader { link, peer: 0, counter: 0 };
            let bytes = RelayHeader::encode_observe(link);
            prop_assert_eq!(RelayHeader::decode_observe(&bytes), Some(question));
            let knock = Knock { link, port, from_other_port };
            prop_assert_eq!(Knock::decode(&knock.encode(len)), Some(knock));
            let answer = Knocked { tag, seen };
            prop_assert_eq!(Knocked::decode(&answer.encode()), Some(answer));
        }

        #[test]
        fn no_bytes_panic_or_are_two_frames_at_once(bytes in datagram()) {
            let kind = FrameKind::of(&bytes);
            let read = [
                (FrameKind::Probe, Probe::decode(&bytes).is_some()),
                (FrameKind::RelayData, RelayHeader::decode(&bytes).is_some()),
                (FrameKind::RelayQuestion, RelayHeader::decode_observe(&bytes).is_some()),
                (FrameKind::RelayKnock, Knock::decode(&bytes).is_some()),
                (FrameKind::Unknown, Knocked::decode(&bytes).is_some()),
            ];
            for (of, is_read) in read {
                prop_assert!(!is_read || of == kind, "{:?} is read as {:?}", kind, of);
            }
        }
    }

    #[test]
    fn golden_probe_reply() {
        let probe = Probe {
            reply: true,
            session: 0x0102_0304_0506_0708,
            counter: 0xa1_a2a3_a4a5,
            nonce: 0x1112_1314_1516_1718,
        };
        let bytes = probe.encode(0);
        let expected: Vec<u8> = [
            &[0x02][..],
            &[1, 2, 3, 4, 5, 6, 7, 8],
            &[0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5],
            &[0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18],
            &[0; 8],
        ]
        .concat();
        assert_eq!(bytes, expected);
        assert_eq!(Probe::decode(&bytes), Some(probe));
    }

    #[test]
    fn golden_relay_header() {
        let header = RelayHeader {
            link: 0x0a0b_0c0d,
            peer: 7,
            counter: 0x1_0000,
        };
        let bytes = header.encode();
        assert_eq!(
            bytes[..15],
            [0x10, 10, 11, 12, 13, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0]
        );
        assert_eq!(RelayHeader::decode(&bytes), Some(header));
    }

    #[test]
    fn golden_relay_question() {
        let bytes = RelayHeader::encode_observe(0x0a0b_0c0d);
        assert_eq!(bytes[..6], [0x11, 10, 11, 12, 13, 0]);
        assert_eq!(FrameKind::of(&bytes), FrameKind::RelayQuestion);
        assert_eq!(RelayHeader::decode(&bytes), None);
        let read = RelayHeader::decode_observe(&bytes).unwrap();
        assert_eq!((read.link, read.peer, read.counter), (0x0a0b_0c0d, 0, 0));
        assert_eq!(
            RelayHeader::decode_observe(&[bytes.as_slice(), &[0]].concat()),
            None
        );
    }

    #[test]
    fn golden_knock_and_its_answer() {
        let knock = Knock {
            link: 0x0a0b_0c0d,
            port: 0x1234,
            from_other_port: true,
        };
        let bytes = knock.encode(0);
        assert_eq!(bytes[..9], [0x12, 10, 11, 12, 13, 0x12, 0x34, 1, 0]);
        assert_eq!(bytes.len(), KNOCK_LEN);
        assert_eq!(FrameKind::of(&bytes), FrameKind::RelayKnock);
        assert_eq!(Knock::decode(&knock.encode(1400)), Some(knock));
        assert_eq!(Knock::decode(&bytes[..KNOCK_LEN - 1]), None);

        let answer = Knocked {
            tag: [1, 2, 3, 4, 5, 6, 7, 8],
            seen: "203.0.113.7:4660".parse().unwrap(),
        };
        let bytes = answer.encode();
        assert_eq!(bytes[..9], [0x13, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(bytes[19..], [0xff, 0xff, 203, 0, 113, 7, 0x12, 0x34]);
        assert_eq!(Knocked::decode(&bytes), Some(answer));
        assert_eq!(Knocked::decode(&bytes[1..]), None);
        assert_eq!(FrameKind::of(&bytes), FrameKind::Unknown);
    }

    #[test]
    fn short_and_foreign_frames_are_no_frames() {
        assert_eq!(FrameKind::of(&[]), FrameKind::Unknown);
        assert_eq!(FrameKind::of(&[0x40]), FrameKind::Quic);
        assert_eq!(FrameKind::of(&[0xc3, 0]), FrameKind::Quic);
        assert_eq!(FrameKind::of(&[0x3f]), FrameKind::Unknown);
        assert_eq!(Probe::decode(&[PROBE_REQUEST; PROBE_LEN - 1]), None);
        assert_eq!(Probe::decode(&[0x03; PROBE_LEN]), None);
        assert_eq!(
            RelayHeader::decode(&[RELAY_DATA; RELAY_HEADER_LEN - 1]),
            None
        );
    }
}
