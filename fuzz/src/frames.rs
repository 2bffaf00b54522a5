//! Target on what stands beside QUIC on the data socket, and on the layouts of chunks.

use weald_proto::chunk::{ChunkHeader, DatagramKind, split_batch};
use weald_proto::frame::{FrameKind, Knock, Knocked, Probe, RelayHeader};

/// One UDP datagram, read as each of the frames; what is read is written and read again.
///
/// # Panics
/// If that changes it.
pub fn frames(data: &[u8]) {
    let kind = FrameKind::of(data);
    if let Some(probe) = Probe::decode(data) {
        assert_eq!(kind, FrameKind::Probe);
        let again = Probe::decode(&probe.encode(data.len()));
        assert_eq!(again, Some(probe));
    }
    if let Some(header) = RelayHeader::decode(data) {
        assert_eq!(kind, FrameKind::RelayData);
        assert_eq!(header.encode()[..15], data[..15]);
        assert_eq!(RelayHeader::decode(&header.encode()), Some(header));
    }
    if let Some(header) = RelayHeader::decode_observe(data) {
        assert_eq!(kind, FrameKind::RelayQuestion);
        let again = RelayHeader::encode_observe(header.link);
        assert_eq!(again[..5], data[..5]);
    }
    if let Some(knock) = Knock::decode(data) {
        assert_eq!(kind, FrameKind::RelayKnock);
        assert_eq!(Knock::decode(&knock.encode(data.len())), Some(knock));
    }
    if let Some(answer) = Knocked::decode(data) {
        assert_eq!(Knocked::decode(&answer.encode()), Some(answer));
    }
    if let Some(kind) = DatagramKind::of(data) {
        assert_eq!(data.first(), Some(&kind.first_byte()));
    }
    if let Some((header, rest)) = ChunkHeader::decode(data) {
        assert_eq!([&header.encode()[..], rest].concat(), data);
    }
    let mut rest = data;
    while let Some((_, packet, after)) = split_batch(rest) {
        assert_eq!(rest.len(), 2 + packet.len() + after.len());
        rest = after;
    }
}
