//! The packet thread's descriptors: the data socket, the TUN, and what could not be written yet.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

use netmanager_core::vnet::VnetHeader;

use super::extra::{ExtraSockets, Key};
use super::tunnels::Tunnels;
use crate::api::report::Traffic;
use crate::device::Device;
use crate::socket::{DataSocket, Sent};

/// Batches that wait for the socket to become writable. Sessions are not driven meanwhile, so only
/// answers to strangers and probes add to them.
const MAX_BLOCKED: usize = 64;

/// The descriptors and their counters.
#[derive(Debug)]
pub(super) struct Io {
    pub(super) socket: DataSocket,
    /// The TUN, or what stands in its place.
    pub(super) tun: Device,
    pub(super) traffic: Traffic,
    /// Sockets of sprays, and of paths that were found by one.
    pub(super) extra: ExtraSockets,
    /// TCP connections to relays.
    pub(super) tunnels: Tunnels,
    blocked: VecDeque<Blocked>,
    tun_refused: u64,
    socket_refused: u64,
}

#[derive(Debug)]
struct Blocked {
    destination: SocketAddr,
    contents: Vec<u8>,
    segment_size: usize,
}

impl Io {
    pub(super) fn new(socket: DataSocket, tun: Device) -> io::Result<Self> {
        Ok(Self {
            socket,
            tun,
            traffic: Traffic::default(),
            extra: ExtraSockets::new()?,
            tunnels: Tunnels::new()?,
            blocked: VecDeque::new(),
            tun_refused: 0,
            socket_refused: 0,
        })
    }

    /// Whether the socket took everything so far.
    pub(super) fn is_writable(&self) -> bool {
        self.blocked.is_empty()
    }

    /// Sends a batch, or keeps it until the socket is writable.
    pub(super) fn send(&mut self, destination: SocketAddr, contents: &[u8], segment_size: usize) {
        if !self.tunnels.send(destination, contents, segment_size) {
            self.send_udp(destination, contents, segment_size);
        }
    }

    /// Sends a batch from the data socket, also to a relay that is reached over TCP.
    pub(super) fn send_udp(
        &mut self,
        destination: SocketAddr,
        contents: &[u8],
        segment_size: usize,
    ) {
        if !self.socket.reaches(destination) {
            self.refuse(contents, segment_size);
            return;
        }
        if contents.is_empty() {
            return;
        }
        let extra = self.extra.towards(destination);
        let is_extra = extra.is_some();
        let sent = if let Some(socket) = extra {
            socket.send(destination, contents, segment_size)
        } else if self.blocked.is_empty() {
            self.socket.send(destination, contents, segment_size)
        } else {
            Sent::Blocked(0)
        };
        let rest = self.count_sent(sent, contents, segment_size);
        // Without room it goes as the network might have lost it; what a spray's socket has none for
        // is not kept at all.
        if is_extra || self.blocked.len() >= MAX_BLOCKED {
            self.refuse(rest, segment_size);
        } else if !rest.is_empty() {
            self.blocked.push_back(Blocked {
                destination,
                contents: rest.to_vec(),
                segment_size,
            });
        }
    }

    /// Sends one datagram that is to die after so many hops. It is lost if the socket is full.
    pub(super) fn send_short_lived(
        &mut self,
        destination: SocketAddr,
        contents: &[u8],
        hops: u8,
        from: Option<Key>,
    ) {
        let socket = from.and_then(|key| self.extra.open(key, &self.socket));
        let socket = match from {
            Some(_) => socket,
            None => Some(&self.socket),
        };
        if let Some(socket) = socket.filter(|socket| socket.reaches(destination)) {
            socket.send_short_lived(destination, contents, hops);
            self.traffic.socket_out_datagrams += 1;
            self.traffic.socket_out_bytes += contents.len() as u64;
        }
    }

    /// Sends what waited, now that the socket is writable.
    pub(super) fn flush(&mut self) {
        while let Some(mut batch) = self.blocked.pop_front() {
            let sent = self
                .socket
                .send(batch.destination, &batch.contents, batch.segment_size);
            let rest = self
                .count_sent(sent, &batch.contents, batch.segment_size)
                .len();
            if rest > 0 {
                batch.contents.drain(..batch.contents.len() - rest);
                self.blocked.push_front(batch);
                return;
            }
        }
    }

    /// Counts what was sent of a batch; returns the rest.
    fn count_sent<'a>(&mut self, sent: Sent, contents: &'a [u8], segment_size: usize) -> &'a [u8] {
        let taken = match sent {
            Sent::Done => contents.len(),
            Sent::Blocked(taken) => taken,
        };
        self.traffic.socket_out_datagrams += taken.div_ceil(segment_size) as u64;
        self.traffic.socket_out_bytes += taken as u64;
        contents.get(taken..).unwrap_or_default()
    }

    fn refuse(&mut self, contents: &[u8], segment_size: usize) {
        self.socket_refused += contents.len().div_ceil(segment_size.max(1)) as u64;
    }

    /// Datagrams that the data socket did not take.
    pub(super) const fn socket_refused(&self) -> u64 {
        self.socket_refused
    }

    /// Writes one packet to the TUN behind its header.
    pub(super) fn deliver(&mut self, vnet: &VnetHeader, packet: &[u8]) {
        match self.tun.send(vnet, packet) {
            Ok(()) => {
                self.traffic.tun_out_packets += 1;
                self.traffic.tun_out_bytes += packet.len() as u64;
            }
            Err(error) => {
                self.tun_refused += 1;
                tracing::debug!(%error, len = packet.len(), ?vnet, "the TUN refused a packet");
            }
        }
    }

    /// Packets that the device did not take.
    pub(super) const fn tun_refused(&self) -> u64 {
        self.tun_refused
    }
}
