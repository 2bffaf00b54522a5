//! Between the TUN and the packet path, and what the packet path has made itself.

use std::io;
use std::time::Instant;

use netmanager_core::dataplane::{DataPlane, Target};
use netmanager_core::table::PeerId;
use netmanager_core::verdict::{DropReason, Verdict};
use netmanager_core::vnet::{VNET_HEADER_LEN, VnetHeader};

use super::Driver;
use super::io::Io;

/// Packets read from the TUN before the data socket has its turn: half of what QUIC's queue takes
/// if all of them are super-packets.
const TUN_ROUNDS: usize = 8;

/// A packet of this many bytes is sent before the next one is read: it fills a call to the socket,
/// and what is sent at once is still in the CPU's cache. Smaller ones wait for each other.
const SENT_AT_ONCE: usize = 32 << 10;

/// A packet that goes on to another peer than the one it came from.
#[derive(Debug)]
pub(super) struct Forwarded {
    to: PeerId,
    vnet: VnetHeader,
    packet: Vec<u8>,
}

/// Takes a packet that came from a peer through the packet path.
pub(super) fn take_from_peer(
    plane: &mut DataPlane,
    io: &mut Io,
    forwards: &mut Vec<Forwarded>,
    from: PeerId,
    vnet: VnetHeader,
    packet: &mut [u8],
    now: Instant,
) {
    match plane.handle_peer(from, &vnet, packet, now) {
        Verdict::Deliver => io.deliver(&vnet, packet),
        Verdict::Forward(to) => {
            forwards.push(Forwarded {
                to,
                vnet,
                packet: packet.to_vec(),
            });
        }
        // A connection that comes from a peer as packets goes on as packets.
        Verdict::Stream(_) | Verdict::Await(_) | Verdict::Drop(_) | Verdict::Reject(_) => {}
    }
}

impl Driver {
    /// Reads what instances and host programs have sent.
    pub(super) fn read_tun(&mut self) {
        for _ in 0..TUN_ROUNDS {
            let mut buffer = std::mem::take(&mut self.tun_buffer);
            let read = self.io.tun.recv(&mut buffer);
            match read {
                Ok(len) => {
                    self.handle_tun(&mut buffer, len);
                    if len >= SENT_AT_ONCE {
                        self.drive_touched();
                    }
                }
                Err(error) => {
                    if !matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) {
                        // Such as a device that somebody has deleted: there is no way on.
                        tracing::error!(%error, "the TUN cannot be read, the packet thread ends");
                        self.stopping = true;
                    }
                    self.tun_buffer = buffer;
                    break;
                }
            }
            self.tun_buffer = buffer;
        }
        self.poll_plane();
        // Before anything else is looked after: all of that is out of the CPU's caches when a single
        // packet comes, which would wait for it.
        self.transmit_touched();
    }

    fn handle_tun(&mut self, buffer: &mut [u8], len: usize) {
        let Some(read) = buffer.get_mut(..len) else {
            return;
        };
        let Some((header, packet)) = read.split_first_chunk_mut::<VNET_HEADER_LEN>() else {
            self.counters.count(DropReason::Malformed);
            return;
        };
        self.io.traffic.tun_in_packets += 1;
        self.io.traffic.tun_in_bytes += packet.len() as u64;
        self.take_from_tun(VnetHeader::parse(header), packet);
    }

    /// Takes a packet that an instance or host program has sent through the packet path.
    pub(super) fn take_from_tun(&mut self, vnet: VnetHeader, packet: &mut [u8]) {
        let verdict = self.plane.handle_tun(&vnet, packet, self.now);
        self.act_on(verdict, vnet, packet);
    }

    fn act_on(&mut self, verdict: Verdict, vnet: VnetHeader, packet: &[u8]) {
        match verdict {
            Verdict::Deliver => self.io.deliver(&vnet, packet),
            Verdict::Forward(peer) => self.forward(peer, &vnet, packet),
            Verdict::Stream(flow) => self.want_stream(flow, vnet, packet),
            Verdict::Await(peer) => self.await_peer(peer, &vnet, packet),
            Verdict::Drop(reason) | Verdict::Reject(reason) => {
                tracing::trace!(%reason, len = packet.len(), "dropped");
            }
        }
    }

    /// Acts on what handling packets from a peer has led to.
    pub(super) fn after_plane(&mut self, forwards: Vec<Forwarded>) {
        for forwarded in forwards {
            self.forward(forwarded.to, &forwarded.vnet, &forwarded.packet);
        }
        self.poll_plane();
    }

    /// Sends what the packet path has made, lets connections begin again, and opens sessions that `closest` wants to measure.
    pub(super) fn poll_plane(&mut self) {
        loop {
            while let Some((target, packet)) = self.plane.poll_packet() {
                let vnet = VnetHeader::default();
                match target {
                    Target::Tun => self.io.deliver(&vnet, &packet),
                    Target::Peer(peer) => self.forward(peer, &vnet, &packet),
                }
            }
            let Some(mut again) = self.plane.poll_again() else {
                break;
            };
            let verdict = self.plane.handle_again(&mut again, self.now);
            self.act_on(verdict, again.vnet, &again.packet);
        }
        self.keep_choices();
        let interests: Vec<PeerId> = self.plane.interests().collect();
        for peer in interests {
            self.want(peer);
        }
    }
}
