//! The pipe as smoltcp sees it: packets in and out without their virtio headers.
//!
//! Super-packets go in and, with IPv4, come out whole: a segment of 64 KiB costs the stack no more than a small one,
//! and the packet path cuts it as it cuts the kernel's. Checksums of what goes out are left to the
//! receiver, as a TUN with offloads leaves them. Those of what comes from peers are whole or left to the receiver, as the header says; those
//! that are whole are checked here, because smoltcp checks all or none.

use std::collections::VecDeque;
use std::num::{NonZeroU16, NonZeroUsize};
use std::os::fd::{AsFd, BorrowedFd};

use netmanager_core::packet::{L4, MAX_PACKET_LEN, PacketInfo};
use netmanager_core::vnet::{VNET_HEADER_LEN, VnetHeader};
use smoltcp::phy::{
    Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, PacketMeta,
};
use smoltcp::time::Instant;
use smoltcp::wire::TcpPacket;

use crate::env::config::INNER_MTU;
use crate::pipe::StackEnd;

/// A packet that has come.
#[derive(Debug)]
pub(in crate::userspace) struct Incoming {
    /// With its virtio header.
    bytes: Vec<u8>,
    /// What it says.
    pub(in crate::userspace) info: PacketInfo,
}

impl Incoming {
    /// The packet alone.
    pub(in crate::userspace) fn packet(&self) -> &[u8] {
        self.bytes.get(VNET_HEADER_LEN..).unwrap_or_default()
    }

    /// Reads a packet behind its virtio header; none if it is broken.
    pub(in crate::userspace) fn read(bytes: Vec<u8>) -> Option<Self> {
        let (header, packet) = bytes.split_first_chunk()?;
        let vnet = VnetHeader::parse(header);
        let info = PacketInfo::parse(packet).ok()?;
        let is_whole = vnet.needs_csum() || has_right_checksum(packet, &info);
        is_whole.then_some(Self { bytes, info })
    }
}

fn has_right_checksum(packet: &[u8], info: &PacketInfo) -> bool {
    if !matches!(info.l4, L4::Tcp { .. }) || info.fragment.is_some() {
        return true;
    }
    let end = usize::from(info.total_len);
    let segment = packet.get(usize::from(info.l4_offset)..end);
    let segment = segment.and_then(|segment| TcpPacket::new_checked(segment).ok());
    segment.is_some_and(|segment| segment.verify_checksum(&info.src.into(), &info.dst.into()))
}

/// The pipe's end, with what waits on this side of it.
#[derive(Debug)]
pub(super) struct Phy {
    pipe: StackEnd,
    incoming: Option<Incoming>,
    /// What the pipe had no room for; answers to single packets at most.
    outgoing: VecDeque<Vec<u8>>,
}

/// Answers that wait for room, beyond which they are lost as on a network.
const MAX_OUTGOING: usize = 64;

impl Phy {
    pub(super) const fn new(pipe: StackEnd) -> Self {
        Self {
            pipe,
            incoming: None,
            outgoing: VecDeque::new(),
        }
    }

    pub(super) fn next_packet(&self) -> Option<Incoming> {
        loop {
            let bytes = self.pipe.recv()?;
            if let Some(packet) = Incoming::read(bytes) {
                return Some(packet);
            }
        }
    }

    pub(super) fn take_in(&mut self, packet: Incoming) {
        self.incoming = Some(packet);
    }

    /// Sends a packet of our own making.
    pub(super) fn send(&mut self, packet: &[u8]) {
        let header = [0; VNET_HEADER_LEN];
        self.push([&header, packet].concat());
    }

    fn push(&mut self, bytes: Vec<u8>) {
        if !self.outgoing.is_empty() {
            self.keep(bytes);
        } else if let Err(bytes) = self.pipe.send(bytes) {
            self.keep(bytes);
        }
    }

    fn keep(&mut self, bytes: Vec<u8>) {
        if self.outgoing.len() < MAX_OUTGOING {
            self.outgoing.push_back(bytes);
        }
    }

    /// Sends what has waited, as far as there is room.
    pub(super) fn flush(&mut self) {
        while let Some(bytes) = self.outgoing.pop_front() {
            if let Err(bytes) = self.pipe.send(bytes) {
                self.outgoing.push_front(bytes);
                return;
            }
        }
    }

    /// Whether the pipe has no room; its descriptor tells when it has.
    pub(super) fn is_full(&self) -> bool {
        !self.outgoing.is_empty()
    }
}

impl AsFd for Phy {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

impl Device for Phy {
    type RxToken<'a> = RxToken;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _: Instant) -> Option<(RxToken, TxToken<'_>)> {
        let packet = self.incoming.take()?;
        Some((RxToken(packet), TxToken::new(self)))
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_>> {
        (!self.is_full()).then(|| TxToken::new(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = INNER_MTU as usize;
        let mut checksum = ChecksumCapabilities::default();
        checksum.tcp = Checksum::None;
        capabilities.checksum = checksum;
        // Not with IPv6: smoltcp 0.14 drops there whatever is longer than the MTU.
        capabilities.segmentation.tcpv4 = NonZeroUsize::new(MAX_PACKET_LEN);
        capabilities
    }
}

/// A packet for the stack.
pub(super) struct RxToken(Incoming);

impl smoltcp::phy::RxToken for RxToken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(self.0.packet())
    }
}

/// Room for a packet of the stack's.
pub(super) struct TxToken<'a> {
    phy: &'a mut Phy,
    /// Payload of each segment, if it is a super-packet.
    gso_size: u16,
}

impl<'a> TxToken<'a> {
    const fn new(phy: &'a mut Phy) -> Self {
        Self { phy, gso_size: 0 }
    }
}

impl smoltcp::phy::TxToken for TxToken<'_> {
    fn set_meta(&mut self, meta: PacketMeta) {
        self.gso_size = meta.segmentation_offload_size.map_or(0, NonZeroU16::get);
    }

    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let mut bytes = vec![0; VNET_HEADER_LEN + len];
        let packet = bytes.get_mut(VNET_HEADER_LEN..).unwrap_or_default();
        let result = fill(packet);
        let vnet = VnetHeader::tcp_segments(packet, self.gso_size);
        if let Some(header) = bytes.first_chunk_mut() {
            vnet.write(header);
        }
        self.phy.push(bytes);
        result
    }
}
