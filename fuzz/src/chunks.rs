//! Target on chunks: a reassembler that a hostile peer talks to.

use std::time::{Duration, Instant};

use netmanager_core::chunk::{Chunker, Reassembler, ReassemblyLimits};
use netmanager_core::packet::PacketInfo;
use netmanager_core::vnet::VnetHeader;

/// Most packets that the target's reassembler may hold.
const MAX_INCOMPLETE: usize = 4;

/// Datagrams, each behind its length in two bytes; after a length of 0xffff time passes. What comes
/// out is cut again and has to be put together to the same.
///
/// # Panics
/// If something comes out that is no packet or contradicts its header, if a limit is exceeded, or
/// if cutting and putting together changes a packet.
pub fn chunks(data: &[u8]) {
    let mut reassembler = Reassembler::new(ReassemblyLimits {
        max_incomplete: MAX_INCOMPLETE,
        ..ReassemblyLimits::default()
    });
    let mut now = Instant::now();
    let mut rest = data;
    while let Some((len, after)) = rest.split_first_chunk::<2>() {
        let len = u16::from_be_bytes(*len);
        if len == u16::MAX {
            rest = after;
            now += Duration::from_millis(10);
            reassembler.handle_timeout(now, &mut |vnet, packet| sound(&vnet, packet));
            continue;
        }
        let (datagram, after) = after
            .split_at_checked(usize::from(len))
            .unwrap_or((after, &[]));
        rest = after;
        let result = reassembler.handle(datagram, now, &mut |vnet, packet| sound(&vnet, packet));
        if let Err(drop) = result {
            let _ = (drop.reason(), drop.to_string());
        }
        assert!(reassembler.incomplete() <= MAX_INCOMPLETE);
    }
    while let Some(due) = reassembler.poll_timeout() {
        reassembler.handle_timeout(due, &mut |vnet, packet| sound(&vnet, packet));
    }
    while reassembler.poll_drop().is_some() {}
    assert_eq!(reassembler.incomplete(), 0);
}

fn sound(vnet: &VnetHeader, packet: &[u8]) {
    let info = PacketInfo::parse(packet);
    let Ok(info) = info else {
        panic!("handed out what is no packet: {info:?}");
    };
    assert_eq!(vnet.check(&info), Ok(()));
    assert_eq!(usize::from(info.total_len), packet.len());
    again(vnet, packet);
}

fn again(vnet: &VnetHeader, packet: &[u8]) {
    let mut datagrams = Vec::new();
    let cut = Chunker::new().split(vnet, packet, 1414, &mut |parts| {
        datagrams.push(parts.concat());
    });
    if cut.is_err() {
        return;
    }
    let mut reassembler = Reassembler::new(ReassemblyLimits::default());
    let mut packets = Vec::new();
    let now = Instant::now();
    for datagram in datagrams {
        let result = reassembler.handle(&datagram, now, &mut |_, packet| {
            packets.push(packet.to_vec());
        });
        assert_eq!(result, Ok(()));
    }
    assert_eq!(packets, [packet]);
}
