//! Packets that wait for one peer, whatever they wait for.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use netmanager_core::peer::CONNECT_TIMEOUT;
use netmanager_core::vnet::VnetHeader;

use super::pool::BufferPool;

/// Packets that wait for one peer; super-packets count as one.
const MAX_QUEUED_PACKETS: usize = 512;
/// Bytes that wait for one peer: 20 ms at 800 Mbit/s.
const MAX_QUEUED_BYTES: usize = 2 << 20;
/// How long packets wait for a session that is being made.
const MAX_WAIT: Duration = CONNECT_TIMEOUT;

/// A packet that waits for its peer.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) vnet: VnetHeader,
    pub(super) packet: BytesMut,
    since: Instant,
}

/// The packets that wait for one peer, bounded in number, bytes and time.
#[derive(Debug, Default)]
pub(super) struct Queue {
    packets: VecDeque<Parked>,
    bytes: usize,
}

impl Queue {
    /// Takes a copy of a packet; false if there is no room for it.
    pub(super) fn push(
        &mut self,
        pool: &mut BufferPool,
        vnet: VnetHeader,
        packet: &[u8],
        now: Instant,
    ) -> bool {
        let fits = self.packets.len() < MAX_QUEUED_PACKETS
            && self.bytes + packet.len() <= MAX_QUEUED_BYTES;
        if fits {
            self.bytes += packet.len();
            let mut buffer = pool.take(packet.len());
            buffer.extend_from_slice(packet);
            self.packets.push_back(Parked {
                vnet,
                packet: buffer.split(),
                since: now,
            });
            pool.put(buffer);
        }
        fits
    }

    pub(super) fn front(&self) -> Option<&Parked> {
        self.packets.front()
    }

    pub(super) fn pop(&mut self) -> Option<Parked> {
        let parked = self.packets.pop_front()?;
        self.bytes -= parked.packet.len();
        Some(parked)
    }

    /// When the first of them has waited too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.front().map(|parked| parked.since + MAX_WAIT)
    }

    pub(super) fn len(&self) -> u64 {
        self.packets.len() as u64
    }

    pub(super) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }
}
