//! A packet of which some chunks have come, and what can be delivered of it.

use std::net::IpAddr;
use std::time::Instant;

use weald_proto::chunk::{ChunkHeader, ChunkKind};

use super::geometry::{Chunk, narrow};
use super::{ChunkDrop, MAX_CHUNKS};
use crate::packet::checksum::{fold, pseudo_sum, sum};
use crate::packet::{IPV6_HEADER_LEN, L4, Packet, PacketError, PacketInfo, TcpFlags};
use crate::vnet::{GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, VnetHeader};

/// Takes one packet that is done, with the header to write before it.
pub(super) type Out<'a> = dyn FnMut(VnetHeader, &mut [u8]) + 'a;

/// Bytes of the longest template: its length is one byte on the wire.
const MAX_TEMPLATE_LEN: usize = u8::MAX as usize;

#[derive(Debug)]
pub(super) struct Incomplete {
    /// The header of the first chunk that came; of the others only the index differs.
    header: ChunkHeader,
    /// Template and payload, each chunk at its place; may be longer than the packet. Bytes of
    /// chunks that have not come are what an earlier packet left there and are never delivered.
    buffer: Vec<u8>,
    seen: Seen,
    missing: usize,
    /// Of a super-packet: what its template says.
    info: Option<PacketInfo>,
    pub(super) first: Instant,
    pub(super) last: Instant,
    /// How many chunks had come on the session when the last one of this packet did.
    pub(super) last_arrival: u64,
}

impl Incomplete {
    /// Begins with the first chunk that came. `buffer` is any that is to be used again.
    pub(super) fn new(
        chunk: &Chunk<'_>,
        mut buffer: Vec<u8>,
        now: Instant,
        arrival: u64,
    ) -> Result<Self, (ChunkDrop, Vec<u8>)> {
        let len = chunk.template.len() + usize::from(chunk.header.total);
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        copy_at(&mut buffer, 0, chunk.template);
        let packet = buffer.get(..len).unwrap_or(&buffer);
        let info = match check_template(&chunk.header, packet) {
            Ok(info) => info,
            Err(error) => return Err((error.into(), buffer)),
        };
        let mut new = Self {
            header: chunk.header,
            buffer,
            seen: Seen::default(),
            missing: chunk.count,
            info,
            first: now,
            last: now,
            last_arrival: arrival,
        };
        new.take(chunk, now, arrival);
        Ok(new)
    }

    /// The number of the packet.
    pub(super) const fn packet(&self) -> u32 {
        self.header.packet
    }

    /// Bytes that it occupies.
    pub(super) fn bytes(&self) -> usize {
        self.buffer.len()
    }

    pub(super) const fn is_complete(&self) -> bool {
        self.missing == 0
    }

    /// How many of its chunks have come.
    pub(super) fn come(&self) -> u64 {
        let come = self.count().saturating_sub(self.missing);
        u64::try_from(come).unwrap_or(u64::MAX)
    }

    fn count(&self) -> usize {
        usize::from(self.header.total).div_ceil(usize::from(self.header.chunk_len))
    }

    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }

    /// Adds another chunk.
    pub(super) fn add(
        &mut self,
        chunk: &Chunk<'_>,
        now: Instant,
        arrival: u64,
    ) -> Result<(), ChunkDrop> {
        let ChunkHeader { packet, index, .. } = chunk.header;
        let alike = ChunkHeader {
            index: self.header.index,
            ..chunk.header
        };
        if alike != self.header || !self.holds(0, chunk.template) {
            return Err(ChunkDrop::Conflict { packet, index });
        }
        if self.seen.has(chunk.index()) {
            return Err(if self.holds(self.place(chunk), chunk.bytes) {
                ChunkDrop::Duplicate { packet, index }
            } else {
                ChunkDrop::Conflict { packet, index }
            });
        }
        self.take(chunk, now, arrival);
        Ok(())
    }

    fn take(&mut self, chunk: &Chunk<'_>, now: Instant, arrival: u64) {
        let place = self.place(chunk);
        copy_at(&mut self.buffer, place, chunk.bytes);
        self.seen.insert(chunk.index());
        self.missing = self.missing.saturating_sub(1);
        self.last = now;
        self.last_arrival = arrival;
    }

    fn place(&self, chunk: &Chunk<'_>) -> usize {
        usize::from(self.header.template_len) + chunk.offset()
    }

    fn holds(&self, at: usize, bytes: &[u8]) -> bool {
        self.buffer.get(at..at + bytes.len()) == Some(bytes)
    }

    /// Delivers the whole packet.
    pub(super) fn deliver(&mut self, out: &mut Out<'_>) -> Result<(), PacketError> {
        let len = usize::from(self.header.template_len) + usize::from(self.header.total);
        let packet = self.buffer.get_mut(..len).unwrap_or_default();
        let vnet = match (self.header.kind, self.info) {
            (ChunkKind::Super { ecn }, Some(info)) => {
                super_header(&info, self.header.gso_size, ecn)
            }
            (ChunkKind::Piece { needs_csum }, _) => {
                VnetHeader::plain(&PacketInfo::parse(packet)?, needs_csum)
            }
            // A super-packet always has what its template says.
            (ChunkKind::Super { .. }, None) => return Err(PacketError::Empty),
        };
        hand_out(vnet, packet, out)
    }

    /// Delivers what can be of a packet that will not be complete. The result is how many chunks
    /// had come in vain.
    pub(super) fn deliver_runs(&mut self, out: &mut Out<'_>) -> u64 {
        let count = self.count();
        let mut in_vain = 0;
        let mut at = 0;
        let template_len = usize::from(self.header.template_len);
        let mut template = [0; MAX_TEMPLATE_LEN];
        copy_at(
            &mut template,
            0,
            self.buffer.get(..template_len).unwrap_or_default(),
        );
        let template = template.get(..template_len).unwrap_or_default();
        while at < count {
            let end = (at..count)
                .find(|index| !self.seen.has(*index))
                .unwrap_or(count);
            if end > at && !self.deliver_run(template, at, end, out) {
                in_vain += u64::try_from(end - at).unwrap_or(u64::MAX);
            }
            at = end + 1;
        }
        in_vain
    }

    /// Delivers the chunks from `first` up to `end` as a packet of their own, its headers written
    /// over the bytes before them. False if there was nothing that can stand alone.
    fn deliver_run(
        &mut self,
        template: &[u8],
        first: usize,
        end: usize,
        out: &mut Out<'_>,
    ) -> bool {
        let Some(info) = self.info else {
            return false;
        };
        let chunk_len = usize::from(self.header.chunk_len);
        let total = usize::from(self.header.total);
        let (start, end) = (first * chunk_len, (end * chunk_len).min(total));
        let run = Run::new(&info, &self.header, start, end);
        if run.start >= run.end {
            return false;
        }
        let Some(packet) = self.buffer.get_mut(run.start..template.len() + run.end) else {
            return false;
        };
        copy_at(packet, 0, template);
        run.patch(packet, &info);
        let Ok(info) = PacketInfo::parse(packet) else {
            return false;
        };
        let vnet = if run.end - run.start > usize::from(run.gso_size) {
            super_header(&info, run.gso_size, run.ecn && run.start == 0)
        } else {
            VnetHeader::plain(&info, true)
        };
        hand_out(vnet, packet, out).is_ok()
    }
}

/// A part of a super-packet's payload that becomes a packet.
#[derive(Debug, Clone, Copy)]
struct Run {
    start: usize,
    end: usize,
    /// Whether it holds the last byte.
    is_last: bool,
    gso_size: u16,
    /// Whether only the first segment of the whole has the TCP flag CWR.
    ecn: bool,
}

impl Run {
    /// The bytes from `start` to `end`; of UDP, the whole datagrams among them.
    fn new(info: &PacketInfo, header: &ChunkHeader, start: usize, end: usize) -> Self {
        let gso_size = usize::from(header.gso_size).max(1);
        let is_last = end == usize::from(header.total);
        let (start, end) = match info.l4 {
            L4::Udp { .. } if is_last => (start.next_multiple_of(gso_size), end),
            L4::Udp { .. } => (start.next_multiple_of(gso_size), end - end % gso_size),
            L4::Tcp { .. }
            | L4::IcmpEcho { .. }
            | L4::IcmpError { .. }
            | L4::Icmp
            | L4::Other
            | L4::LaterFragment => (start, end),
        };
        Self {
            start,
            end,
            is_last,
            gso_size: header.gso_size,
            ecn: header.kind == (ChunkKind::Super { ecn: true }),
        }
    }

    /// Makes the headers of the whole those of this run.
    fn patch(&self, packet: &mut [u8], info: &PacketInfo) {
        let l4 = usize::from(info.l4_offset);
        let len = packet.len();
        match info.src {
            IpAddr::V4(_) => {
                put(packet, 2, narrow(len));
                // Each segment has the next identification.
                let segments = narrow(self.start / usize::from(self.gso_size).max(1));
                let id = peek(packet, 4).wrapping_add(segments);
                put(packet, 4, id);
                put(packet, 10, 0);
                let checksum = !fold(sum(packet.get(..l4).unwrap_or_default()));
                put(packet, 10, checksum);
            }
            IpAddr::V6(_) => put(packet, 4, narrow(len.saturating_sub(IPV6_HEADER_LEN))),
        }
        let l4_len = len.saturating_sub(l4);
        match info.l4 {
            L4::Tcp { flags, .. } => self.patch_tcp(packet, l4, flags),
            L4::Udp { .. } => put(packet, l4 + 4, narrow(l4_len)),
            L4::IcmpEcho { .. }
            | L4::IcmpError { .. }
            | L4::Icmp
            | L4::Other
            | L4::LaterFragment => {}
        }
        if let Some(offset) = info.l4.checksum_offset() {
            let partial = fold(pseudo_sum(info.src, info.dst, info.protocol, l4_len));
            put(packet, l4 + usize::from(offset), partial);
        }
    }

    fn patch_tcp(&self, packet: &mut [u8], l4: usize, mut flags: TcpFlags) {
        if !self.is_last {
            flags = flags.without(TcpFlags::FIN.union(TcpFlags::PSH));
        }
        if self.ecn && self.start != 0 {
            flags = flags.without(TcpFlags::CWR);
        }
        if let Some(field) = packet.get_mut(l4 + 13) {
            *field = flags.0;
        }
        if let Some(field) = packet
            .get_mut(l4 + 4..)
            .and_then(|rest| rest.first_chunk_mut())
        {
            let start = u32::from(narrow(self.start));
            *field = u32::from_be_bytes(*field).wrapping_add(start).to_be_bytes();
        }
    }
}

/// Which chunks have come.
#[derive(Debug, Clone, Copy, Default)]
struct Seen([u64; MAX_CHUNKS / 64]);

impl Seen {
    fn has(&self, index: usize) -> bool {
        self.0
            .get(index / 64)
            .is_some_and(|word| word >> (index % 64) & 1 != 0)
    }

    fn insert(&mut self, index: usize) {
        if let Some(word) = self.0.get_mut(index / 64) {
            *word |= 1 << (index % 64);
        }
    }
}

/// Checks the template of a super-packet against what its chunks say; `packet` has the length of
/// the whole, but only its headers are there yet.
fn check_template(header: &ChunkHeader, packet: &[u8]) -> Result<Option<PacketInfo>, PacketError> {
    let ChunkKind::Super { ecn } = header.kind else {
        return Ok(None);
    };
    let info = PacketInfo::parse(packet)?;
    if usize::from(info.total_len) != packet.len() {
        return Err(PacketError::Truncated {
            needed: packet.len(),
            have: usize::from(info.total_len),
        });
    }
    if info.header_len() != usize::from(header.template_len) {
        return Err(PacketError::HeaderLength(info.header_len()));
    }
    super_header(&info, header.gso_size, ecn).check(&info)?;
    Ok(Some(info))
}

/// The header of a super-packet as Linux would write it.
fn super_header(info: &PacketInfo, gso_size: u16, ecn: bool) -> VnetHeader {
    let gso_type = match (info.l4, info.src) {
        (L4::Tcp { .. }, IpAddr::V4(_)) => GSO_TCPV4,
        (L4::Tcp { .. }, IpAddr::V6(_)) => GSO_TCPV6,
        (L4::Udp { .. }, _) => GSO_UDP_L4,
        (
            L4::IcmpEcho { .. } | L4::IcmpError { .. } | L4::Icmp | L4::Other | L4::LaterFragment,
            _,
        ) => GSO_NONE,
    };
    VnetHeader {
        gso_type: gso_type | if ecn { GSO_ECN } else { 0 },
        hdr_len: narrow(info.header_len()),
        gso_size,
        ..VnetHeader::plain(info, true)
    }
}

/// Checks a packet once more, whole, and hands it out.
pub(super) fn hand_out(
    vnet: VnetHeader,
    bytes: &mut [u8],
    out: &mut Out<'_>,
) -> Result<(), PacketError> {
    let packet = Packet::parse(bytes)?;
    vnet.check(packet.info())?;
    let len = usize::from(packet.info().total_len);
    out(vnet, bytes.get_mut(..len).unwrap_or_default());
    Ok(())
}

fn copy_at(to: &mut [u8], at: usize, from: &[u8]) {
    if let Some(to) = to.get_mut(at..at + from.len()) {
        to.copy_from_slice(from);
    }
}

fn peek(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |field| u16::from_be_bytes(*field))
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    copy_at(bytes, at, &value.to_be_bytes());
}
