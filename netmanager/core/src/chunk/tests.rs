//! Cutting and putting together: losses, reordering, and whatever a hostile peer may send.

use std::time::Instant;

use super::*;
use crate::vnet::VnetHeader;

#[test]
fn a_small_packet_is_one_byte_longer() {
    let packet = [
        &[
            0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 30, 0, 1, 10, 30, 0, 2,
        ][..],
        &[0, 1, 0, 2, 0, 8, 0, 0],
    ]
    .concat();
    let mut datagrams = Vec::new();
    Chunker::new()
        .split(&VnetHeader::default(), &packet, 1414, &mut |datagram| {
            datagrams.push(datagram.to_vec());
        })
        .unwrap();
    assert_eq!(datagrams, [[&[1], &packet[..]].concat()]);
    let mut packets = Vec::new();
    Reassembler::new(ReassemblyLimits::default())
        .handle(&datagrams[0], start(), &mut |vnet, packet| {
            packets.push((vnet, packet.to_vec()));
        })
        .unwrap();
    assert_eq!(packets, [(VnetHeader::default(), packet)]);
}

/// Any moment will do: only differences count.
#[expect(
    clippy::disallowed_methods,
    reason = "there is no other way to make an Instant"
)]
fn start() -> Instant {
    Instant::now()
}
