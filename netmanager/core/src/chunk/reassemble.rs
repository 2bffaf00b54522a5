//! The receiving half: datagrams in, inner packets out.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use weald_proto::chunk::{DatagramKind, ONE_HEADER_LEN, split_batch};

use super::ChunkDrop;
use super::geometry::Chunk;
use super::incomplete::{Incomplete, Out, hand_out};
use crate::packet::PacketInfo;
use crate::verdict::DropReason;
use crate::vnet::VnetHeader;

/// How much a peer's incomplete packets may cost, and how long they wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReassemblyLimits {
    /// Most packets that wait for chunks. Chunks of one packet follow one another, so more than a
    /// few mean that chunks are lost.
    pub max_incomplete: usize,
    /// Most bytes that they may occupy.
    pub max_bytes: usize,
    /// How long a packet waits after its last chunk: longer than the distance of two chunks on a
    /// path of 1 Mbit/s (12 ms), and than the reordering of most paths.
    pub idle: Duration,
    /// How long a packet waits after its first chunk: 64 KiB take as long at 2 Mbit/s.
    pub lifetime: Duration,
    /// How many chunks of other packets may come after a packet's last one before it is given up:
    /// its own are behind them only if the path reorders so far.
    pub reordering: u64,
}

impl Default for ReassemblyLimits {
    fn default() -> Self {
        Self {
            max_incomplete: 64,
            max_bytes: 2 * 1024 * 1024,
            idle: Duration::from_millis(25),
            lifetime: Duration::from_millis(250),
            reordering: 16,
        }
    }
}

/// Buffers that are kept for later packets.
const MAX_FREE: usize = 8;
/// Packets whose end is remembered, to tell a late chunk from one of a new packet.
const DONE_LEN: usize = 512;

/// Puts the packets of one peer session together.
#[derive(Debug)]
pub struct Reassembler {
    limits: ReassemblyLimits,
    /// In the order in which their first chunks came.
    incomplete: VecDeque<Incomplete>,
    bytes: usize,
    /// The newest packet number so far.
    newest: Option<u32>,
    /// At its number modulo the length: the last packet that was done with.
    done: Vec<Option<u32>>,
    free: Vec<Vec<u8>>,
    /// Chunks so far.
    arrivals: u64,
    /// Chunks that came in vain, because others of their packet did not.
    in_vain: u64,
    /// Packets given up early because there were too many.
    evicted: u64,
    /// Where a whole packet stands while it is handed out.
    scratch: Vec<u8>,
}

impl Reassembler {
    /// A reassembler for a new session.
    #[must_use]
    pub fn new(limits: ReassemblyLimits) -> Self {
        Self {
            limits,
            incomplete: VecDeque::new(),
            bytes: 0,
            newest: None,
            done: vec![None; DONE_LEN],
            free: Vec::new(),
            arrivals: 0,
            in_vain: 0,
            evicted: 0,
            scratch: Vec::new(),
        }
    }

    /// Takes one datagram and hands out the packets that are complete with it, and those that it
    /// shows never will be.
    ///
    /// # Errors
    /// Why the datagram, or one of the packets in it, was dropped; others were handed out.
    pub fn handle(
        &mut self,
        datagram: &[u8],
        now: Instant,
        out: &mut Out<'_>,
    ) -> Result<(), ChunkDrop> {
        match DatagramKind::of(datagram).ok_or(ChunkDrop::UnknownKind)? {
            DatagramKind::One { needs_csum } => {
                let packet = datagram.get(ONE_HEADER_LEN..).unwrap_or_default();
                self.whole(needs_csum, packet, out)
            }
            DatagramKind::Batch => self.batch(datagram.get(1..).unwrap_or_default(), out),
            DatagramKind::Chunk(_) => self.chunk(&Chunk::parse(datagram)?, now, out),
        }
    }

    /// Hands out what can be of the packets that have waited long enough.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Out<'_>) {
        while let Some(at) = self.position(|this, limits| deadline(this, limits) <= now) {
            self.give_up(at, out);
        }
    }

    /// When [`Self::handle_timeout`] is to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.incomplete
            .iter()
            .map(|incomplete| deadline(incomplete, &self.limits))
            .min()
    }

    /// What was dropped later than at its arrival, since the last call: a reason and how often.
    pub fn poll_drop(&mut self) -> Option<(DropReason, u64)> {
        if self.in_vain != 0 {
            return Some((
                DropReason::ChunkIncomplete,
                std::mem::take(&mut self.in_vain),
            ));
        }
        if self.evicted != 0 {
            return Some((
                DropReason::ChunkTableFull,
                std::mem::take(&mut self.evicted),
            ));
        }
        None
    }

    /// How many packets wait for chunks.
    #[must_use]
    pub fn incomplete(&self) -> usize {
        self.incomplete.len()
    }

    /// How many chunks wait for others of their packets. With the session they are lost.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        let come = self.incomplete.iter().map(Incomplete::come);
        come.sum()
    }

    fn whole(
        &mut self,
        needs_csum: bool,
        packet: &[u8],
        out: &mut Out<'_>,
    ) -> Result<(), ChunkDrop> {
        let info = PacketInfo::parse(packet)?;
        self.scratch.clear();
        self.scratch.extend_from_slice(packet);
        hand_out(VnetHeader::plain(&info, needs_csum), &mut self.scratch, out)?;
        Ok(())
    }

    fn batch(&mut self, mut bytes: &[u8], out: &mut Out<'_>) -> Result<(), ChunkDrop> {
        let mut result = Ok(());
        while !bytes.is_empty() {
            let Some((needs_csum, packet, rest)) = split_batch(bytes) else {
                return result.and(Err(ChunkDrop::Truncated));
            };
            let one = self.whole(needs_csum, packet, out);
            result = result.and(one);
            bytes = rest;
        }
        result
    }

    fn chunk(
        &mut self,
        chunk: &Chunk<'_>,
        now: Instant,
        out: &mut Out<'_>,
    ) -> Result<(), ChunkDrop> {
        let packet = chunk.header.packet;
        let arrival = self.arrivals + 1;
        let known = self
            .incomplete
            .iter()
            .rposition(|this| this.packet() == packet);
        let result = match known {
            Some(at) => self.go_on(at, chunk, now, arrival, out),
            None => self.begin(chunk, now, arrival, out),
        };
        if !matches!(
            result,
            Err(ChunkDrop::Duplicate { .. } | ChunkDrop::Conflict { .. } | ChunkDrop::Late { .. })
        ) {
            self.arrivals = arrival;
        }
        self.give_up_overtaken(packet, out);
        result
    }

    /// Adds a chunk to the packet at `at`, and hands it out if it is complete.
    fn go_on(
        &mut self,
        at: usize,
        chunk: &Chunk<'_>,
        now: Instant,
        arrival: u64,
        out: &mut Out<'_>,
    ) -> Result<(), ChunkDrop> {
        let Some(incomplete) = self.incomplete.get_mut(at) else {
            return Ok(());
        };
        incomplete.add(chunk, now, arrival)?;
        if !incomplete.is_complete() {
            return Ok(());
        }
        let result = incomplete.deliver(out);
        self.remove(at);
        Ok(result?)
    }

    /// Begins the packet that a chunk is the first of.
    fn begin(
        &mut self,
        chunk: &Chunk<'_>,
        now: Instant,
        arrival: u64,
        out: &mut Out<'_>,
    ) -> Result<(), ChunkDrop> {
        let packet = chunk.header.packet;
        if self.is_late(packet) {
            return Err(ChunkDrop::Late { packet });
        }
        let buffer = self.free.pop().unwrap_or_default();
        let mut new = match Incomplete::new(chunk, buffer, now, arrival) {
            Ok(new) => new,
            Err((error, buffer)) => {
                self.free.push(buffer);
                return Err(error);
            }
        };
        if self.newest.is_none_or(|newest| is_newer(packet, newest)) {
            self.newest = Some(packet);
        }
        if new.is_complete() {
            let result = new.deliver(out);
            self.finish(new);
            return Ok(result?);
        }
        self.make_room(new.bytes(), out);
        self.bytes += new.bytes();
        self.incomplete.push_back(new);
        Ok(())
    }

    /// Gives up the oldest packets until another one fits.
    fn make_room(&mut self, bytes: usize, out: &mut Out<'_>) {
        while !self.incomplete.is_empty()
            && (self.incomplete.len() >= self.limits.max_incomplete
                || self.bytes + bytes > self.limits.max_bytes)
        {
            self.evicted += 1;
            self.give_up(0, out);
        }
    }

    fn is_late(&self, packet: u32) -> bool {
        let Some(newest) = self.newest else {
            return false;
        };
        let behind = newest.wrapping_sub(packet);
        let forgotten = !is_newer(packet, newest) && behind as usize >= DONE_LEN;
        forgotten || self.done.get(slot(packet)) == Some(&Some(packet))
    }

    /// Gives up the packets older than `packet` that it has overtaken by too much.
    fn give_up_overtaken(&mut self, packet: u32, out: &mut Out<'_>) {
        let arrivals = self.arrivals;
        while let Some(at) = self.position(|this, limits| {
            is_newer(packet, this.packet()) && arrivals - this.last_arrival > limits.reordering
        }) {
            self.give_up(at, out);
        }
    }

    fn give_up(&mut self, at: usize, out: &mut Out<'_>) {
        if let Some(incomplete) = self.incomplete.get_mut(at) {
            self.in_vain += incomplete.deliver_runs(out);
        }
        self.remove(at);
    }

    fn remove(&mut self, at: usize) {
        if let Some(incomplete) = self.incomplete.remove(at) {
            self.bytes = self.bytes.saturating_sub(incomplete.bytes());
            self.finish(incomplete);
        }
    }

    /// Remembers that a packet is done with, and keeps its buffer.
    fn finish(&mut self, incomplete: Incomplete) {
        let packet = incomplete.packet();
        if let Some(done) = self.done.get_mut(slot(packet)) {
            *done = Some(packet);
        }
        if self.free.len() < MAX_FREE {
            self.free.push(incomplete.into_buffer());
        }
    }

    fn position(
        &self,
        condition: impl Fn(&Incomplete, &ReassemblyLimits) -> bool,
    ) -> Option<usize> {
        self.incomplete
            .iter()
            .position(|incomplete| condition(incomplete, &self.limits))
    }
}

fn deadline(incomplete: &Incomplete, limits: &ReassemblyLimits) -> Instant {
    (incomplete.last + limits.idle).min(incomplete.first + limits.lifetime)
}

/// Whether `packet` comes after `other`; numbers wrap.
const fn is_newer(packet: u32, other: u32) -> bool {
    let ahead = packet.wrapping_sub(other);
    ahead != 0 && ahead < 1 << 31
}

const fn slot(packet: u32) -> usize {
    packet as usize % DONE_LEN
}
