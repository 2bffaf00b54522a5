//! Echos that `ping` asks for over the local API: no socket of the host's reaches the overlay.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use netmanager_core::packet::L4;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Packet, Ipv4Repr,
    Ipv6Packet, Ipv6Repr,
};

use super::front::own_addresses;
use super::run::Runner;
use super::stack::Incoming;
use crate::api::inspect::Reply;
use crate::api::report::EchoReport;

/// Echos that wait for their answers, beyond which nothing is sent.
const MAX_WAITING: usize = 64;
/// How long an answer is waited for; whoever asks waits for less.
const PATIENCE: Duration = Duration::from_secs(10);
/// As of everything that we send.
const HOP_LIMIT: u8 = 64;
/// What an echo carries besides its header: as much as other pings send.
const PAYLOAD: [u8; 56] = [0x57; 56];

/// Which echo: where it goes, its id and its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Echo {
    /// Where it goes: an address of the overlay.
    pub destination: IpAddr,
    /// Tells askers apart.
    pub id: u16,
    /// Its number among those of one asker.
    pub sequence: u16,
}

/// Echos that the thread has yet to send.
#[derive(Debug, Default)]
pub(super) struct EchoQueue(Mutex<Vec<(Echo, Reply<EchoReport>)>>);

impl EchoQueue {
    /// Adds one, unless too many wait already: then nobody answers.
    pub(super) fn push(&self, echo: Echo, reply: Reply<EchoReport>) {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() < MAX_WAITING {
            queue.push((echo, reply));
        }
    }

    fn take(&self) -> Vec<(Echo, Reply<EchoReport>)> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Echos that were sent.
pub(super) type Waiting = BTreeMap<Echo, (Instant, Reply<EchoReport>)>;

impl Runner {
    /// Sends the echos that were asked for.
    pub(super) fn send_echos(&mut self) {
        let asked = self.shared.echos.take();
        if asked.is_empty() {
            return;
        }
        let now = self.now;
        self.echos.retain(|_, (sent, _)| now < *sent + PATIENCE);
        let own = own_addresses(&self.table.load());
        for (echo, reply) in asked {
            let from = own.of_family(echo.destination);
            if let Some(packet) = from.and_then(|from| request(from, &echo))
                && self.echos.len() < MAX_WAITING
            {
                self.stack.send(&packet);
                self.echos.insert(echo, (now, reply));
            }
        }
    }

    /// Answers whoever has asked for the echo that a packet is about; false if nobody has.
    pub(super) fn hear_echo(&mut self, packet: &Incoming) -> bool {
        let (echo, unreachable_by) = match packet.info.l4 {
            L4::IcmpEcho { id, reply: true } => {
                let at = usize::from(packet.info.l4_offset) + 6;
                let sequence = number_at(packet.packet(), at);
                let destination = packet.info.src;
                (
                    sequence.map(|sequence| Echo {
                        destination,
                        id,
                        sequence,
                    }),
                    None,
                )
            }
            L4::IcmpError { embedded } => {
                let quoted = packet.packet().get(usize::from(embedded)..);
                (quoted.and_then(quoted_echo), Some(packet.info.src))
            }
            L4::Tcp { .. }
            | L4::Udp { .. }
            | L4::IcmpEcho { .. }
            | L4::Icmp
            | L4::Other
            | L4::LaterFragment => (None, None),
        };
        let Some((sent, reply)) = echo.and_then(|echo| self.echos.remove(&echo)) else {
            return false;
        };
        let micros = self.now.saturating_duration_since(sent).as_micros();
        reply.send(EchoReport {
            rtt_us: unreachable_by
                .is_none()
                .then(|| u64::try_from(micros).unwrap_or(u64::MAX)),
            unreachable_by,
        });
        true
    }
}

/// The echo that an ICMP error quotes.
fn quoted_echo(quoted: &[u8]) -> Option<Echo> {
    let (destination, at) = match quoted.first()? >> 4 {
        4 => {
            let octets: [u8; 4] = quoted.get(16..20)?.try_into().ok()?;
            (
                IpAddr::from(octets),
                usize::from(quoted.first()? & 0x0f) * 4,
            )
        }
        6 => {
            let octets: [u8; 16] = quoted.get(24..40)?.try_into().ok()?;
            (IpAddr::from(octets), 40)
        }
        _ => return None,
    };
    Some(Echo {
        destination,
        id: number_at(quoted, at + 4)?,
        sequence: number_at(quoted, at + 6)?,
    })
}

fn number_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_be_bytes(*bytes))
}

/// The packet of an echo request; none if the two are of different families.
fn request(from: IpAddr, echo: &Echo) -> Option<Vec<u8>> {
    let checksums = ChecksumCapabilities::default();
    let (ident, seq_no, data) = (echo.id, echo.sequence, &PAYLOAD[..]);
    match (from, echo.destination) {
        (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => {
            let icmp = Icmpv4Repr::EchoRequest {
                ident,
                seq_no,
                data,
            };
            let ip = Ipv4Repr {
                src_addr,
                dst_addr,
                next_header: IpProtocol::Icmp,
                payload_len: icmp.buffer_len(),
                hop_limit: HOP_LIMIT,
            };
            let mut bytes = vec![0; ip.buffer_len() + icmp.buffer_len()];
            let (head, body) = bytes.split_at_mut(ip.buffer_len());
            icmp.emit(&mut Icmpv4Packet::new_unchecked(body), &checksums);
            ip.emit(&mut Ipv4Packet::new_unchecked(head), &checksums);
            Some(bytes)
        }
        (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => {
            let icmp = Icmpv6Repr::EchoRequest {
                ident,
                seq_no,
                data,
            };
            let ip = Ipv6Repr {
                src_addr,
                dst_addr,
                next_header: IpProtocol::Icmpv6,
                payload_len: icmp.buffer_len(),
                hop_limit: HOP_LIMIT,
            };
            let mut bytes = vec![0; ip.buffer_len() + icmp.buffer_len()];
            let (head, body) = bytes.split_at_mut(ip.buffer_len());
            let packet = &mut Icmpv6Packet::new_unchecked(body);
            icmp.emit(&src_addr, &dst_addr, packet, &checksums);
            ip.emit(&mut Ipv6Packet::new_unchecked(head));
            Some(bytes)
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use netmanager_core::packet::PacketInfo;

    use super::*;

    #[test]
    fn a_request_is_what_an_error_would_quote() {
        for (from, to) in [("10.30.0.1", "10.30.0.2"), ("fdff::1", "fdff::2")] {
            let echo = Echo {
                destination: to.parse().unwrap(),
                id: 7,
                sequence: 300,
            };
            let packet = request(from.parse().unwrap(), &echo).unwrap();
            let info = PacketInfo::parse(&packet).unwrap();
            assert_eq!(info.src.to_string(), from);
            assert_eq!(usize::from(info.total_len), packet.len());
            let l4 = L4::IcmpEcho {
                id: 7,
                reply: false,
            };
            assert_eq!(info.l4, l4);
            assert_eq!(quoted_echo(&packet), Some(echo));
            for end in 0..usize::from(info.l4_offset) + 8 {
                assert_eq!(quoted_echo(&packet[..end]), None, "{end} bytes");
            }
            let other = if echo.destination.is_ipv4() {
                "fdff::1"
            } else {
                "10.30.0.1"
            };
            assert_eq!(request(other.parse().unwrap(), &echo), None);
        }
        assert_eq!(quoted_echo(&[0x50; 80]), None);
    }
}
