//! The packet thread's descriptors: the data socket, the TUN, and what could not be written yet.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;

use netmanager_core::vnet::{VNET_HEADER_LEN, VnetHeader};

use crate::api::report::Traffic;
use crate::socket::{DataSocket, Sent};
use crate::tun::Tun;

/// Batches that wait for the socket to become writable. Sessions are not driven meanwhile, so only
/// answers to strangers and probes add to them.
const MAX_BLOCKED: usize = 64;

/// The descriptors and their counters.
#[derive(Debug)]
pub(super) struct Io {
    pub(super) socket: DataSocket,
    pub(super) tun: Tun,
    pub(super) traffic: Traffic,
    blocked: VecDeque<Blocked>,
    tun_refused: u64,
}

#[derive(Debug)]
struct Blocked {
    destination: SocketAddr,
    contents: Vec<u8>,
    segment_size: usize,
}

impl Io {
    pub(super) fn new(socket: DataSocket, tun: Tun) -> Self {
        Self {
            socket,
            tun,
            traffic: Traffic::default(),
            blocked: VecDeque::new(),
            tun_refused: 0,
        }
    }

    /// Whether the socket took everything so far.
    pub(super) fn is_writable(&self) -> bool {
        self.blocked.is_empty()
    }

    /// Sends a batch, or keeps it until the socket is writable.
    pub(super) fn send(&mut self, destination: SocketAddr, contents: &[u8], segment_size: usize) {
        if contents.is_empty() || !self.socket.reaches(destination) {
            return;
        }
        let sent = if self.blocked.is_empty() {
            self.socket.send(destination, contents, segment_size)
        } else {
            Sent::WouldBlock
        };
        match sent {
            Sent::Done => {
                self.traffic.socket_out_datagrams += contents.len().div_ceil(segment_size) as u64;
                self.traffic.socket_out_bytes += contents.len() as u64;
            }
            Sent::WouldBlock if self.blocked.len() < MAX_BLOCKED => {
                let contents = contents.to_vec();
                self.blocked.push_back(Blocked {
                    destination,
                    contents,
                    segment_size,
                });
            }
            // As the network might have lost it.
            Sent::WouldBlock => {}
        }
    }

    /// Sends what waited, now that the socket is writable.
    pub(super) fn flush(&mut self) {
        while let Some(batch) = self.blocked.pop_front() {
            let sent = self
                .socket
                .send(batch.destination, &batch.contents, batch.segment_size);
            if sent == Sent::WouldBlock {
                self.blocked.push_front(batch);
                return;
            }
            let datagrams = batch.contents.len().div_ceil(batch.segment_size);
            self.traffic.socket_out_datagrams += datagrams as u64;
            self.traffic.socket_out_bytes += batch.contents.len() as u64;
        }
    }

    /// Writes one packet to the TUN behind its header.
    pub(super) fn deliver(&mut self, vnet: &VnetHeader, packet: &[u8]) {
        let mut header = [0; VNET_HEADER_LEN];
        vnet.write(&mut header);
        let parts = [IoSlice::new(&header), IoSlice::new(packet)];
        match rustix::io::writev(self.tun.as_fd(), &parts) {
            Ok(_) => {
                self.traffic.tun_out_packets += 1;
                self.traffic.tun_out_bytes += packet.len() as u64;
            }
            Err(error) => {
                self.tun_refused += 1;
                let error = io::Error::from(error);
                tracing::debug!(%error, len = packet.len(), ?vnet, "the TUN refused a packet");
            }
        }
    }

    /// Packets that the kernel did not take.
    pub(super) const fn tun_refused(&self) -> u64 {
        self.tun_refused
    }
}
