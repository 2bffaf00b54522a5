//! An ICMP echo socket for one destination, IPv4 or IPv6.
//!
//! Raw where the user may (root), else the kernel's unprivileged ping socket, which chooses the
//! id itself.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// What an echo carries besides its header: as much as other pings send.
const PAYLOAD: [u8; 56] = [0x57; 56];

/// An ICMP header with id and sequence number.
const HEADER_LEN: usize = 8;

/// The largest packet that we care for: an echo's reply, or an error that quotes an echo.
const BUFFER_LEN: usize = 2048;

/// The length of an IPv6 header.
const IPV6_HEADER_LEN: usize = 40;

/// ICMP types, for IPv4 and for IPv6.
struct Types {
    request: u8,
    reply: u8,
    unreachable: u8,
}

const V4: Types = Types {
    request: 8,
    reply: 0,
    unreachable: 3,
};

const V6: Types = Types {
    request: 128,
    reply: 129,
    unreachable: 1,
};

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    /// The reply to the echo with that number.
    Reply(u16),
    /// A router, or the overlay, says that the echo with that number cannot arrive.
    Unreachable { by: IpAddr, sequence: u16 },
}

/// Sends echos to one destination.
#[derive(Debug)]
pub(super) struct EchoSocket {
    socket: Socket,
    destination: IpAddr,
    id: u16,
}

impl EchoSocket {
    pub(super) fn open(destination: IpAddr) -> io::Result<Self> {
        let (domain, protocol) = match destination {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let raw = Socket::new(domain, Type::RAW, Some(protocol));
        let (socket, raw) = match raw {
            Ok(socket) => (socket, true),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                (Socket::new(domain, Type::DGRAM, Some(protocol))?, false)
            }
            Err(error) => return Err(error),
        };
        let id = if raw {
            // Low bits of the process id, as pings do; 0 is left out, it is a port in our tables.
            u16::try_from(std::process::id() % 0xffff).unwrap_or(0) + 1
        } else {
            let any: SocketAddr = match destination {
                IpAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
                IpAddr::V6(_) => ([0u16; 8], 0).into(),
            };
            socket.bind(&SockAddr::from(any))?;
            let bound = socket.local_addr()?.as_socket();
            bound.map_or(0, |address| address.port())
        };
        Ok(Self {
            socket,
            destination,
            id,
        })
    }

    /// The id of its echos: what stands for the source port in the flow table.
    pub(super) const fn id(&self) -> u16 {
        self.id
    }

    pub(super) fn send(&self, sequence: u16) -> io::Result<()> {
        let mut packet = Vec::with_capacity(HEADER_LEN + PAYLOAD.len());
        packet.extend_from_slice(&[self.types().request, 0, 0, 0]);
        packet.extend_from_slice(&self.id.to_be_bytes());
        packet.extend_from_slice(&sequence.to_be_bytes());
        packet.extend_from_slice(&PAYLOAD);
        if self.destination.is_ipv4() {
            // For IPv6 the kernel does it, whose sum covers addresses.
            let sum = checksum(&packet).to_be_bytes();
            if let Some(field) = packet.get_mut(2..4) {
                field.copy_from_slice(&sum);
            }
        }
        let to = SockAddr::from(SocketAddr::new(self.destination, 0));
        self.socket.send_to(&packet, &to).map(drop)
    }

    /// Waits for something about our echos; none after `limit`.
    pub(super) fn receive(&self, limit: Duration) -> io::Result<Option<Received>> {
        let end = std::time::Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left))?;
            let mut packet = [0; BUFFER_LEN];
            let length = match (&self.socket).read(&mut packet) {
                Ok(length) => length,
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock
                            | io::ErrorKind::TimedOut
                            | io::ErrorKind::Interrupted
                    ) =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            };
            let packet = packet.get(..length).unwrap_or_default();
            if let Some(received) = self.read(packet) {
                return Ok(Some(received));
            }
        }
    }

    /// Reads a packet; none if it is not about our echos.
    fn read(&self, packet: &[u8]) -> Option<Received> {
        let (from, icmp) = strip_ipv4(packet).unwrap_or((self.destination, packet));
        let types = self.types();
        let kind = *icmp.first()?;
        if kind == types.reply {
            // Another host's reply to an echo of the same id is not ours.
            let ours = from == self.destination && id_of(icmp)? == self.id;
            return ours
                .then(|| sequence_of(icmp).map(Received::Reply))
                .flatten();
        }
        if kind != types.unreachable {
            return None;
        }
        let quoted = icmp.get(HEADER_LEN..)?;
        let echo = match self.destination {
            IpAddr::V4(_) => strip_ipv4(quoted)?.1,
            IpAddr::V6(_) => quoted.get(IPV6_HEADER_LEN..)?,
        };
        let ours = *echo.first()? == types.request && id_of(echo)? == self.id;
        let sequence = sequence_of(echo)?;
        ours.then_some(Received::Unreachable { by: from, sequence })
    }

    const fn types(&self) -> Types {
        match self.destination {
            IpAddr::V4(_) => V4,
            IpAddr::V6(_) => V6,
        }
    }
}

/// The source and the payload of an IPv4 packet; none if it is none, as on ping sockets.
fn strip_ipv4(packet: &[u8]) -> Option<(IpAddr, &[u8])> {
    let first = *packet.first()?;
    if first >> 4 != 4 {
        return None;
    }
    let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
    let payload = packet.get(usize::from(first & 0x0f) * 4..)?;
    Some((source.into(), payload))
}

fn id_of(icmp: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(icmp.get(4..6)?.try_into().ok()?))
}

fn sequence_of(icmp: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(icmp.get(6..8)?.try_into().ok()?))
}

/// The Internet checksum (RFC 1071) of whole 16-bit words.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [high] => u32::from(*high) << 8,
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs root or an open ping group range.
    #[test]
    fn loopback_answers() {
        for ip in ["127.0.0.1", "::1"] {
            let socket = EchoSocket::open(ip.parse().unwrap()).unwrap();
            socket.send(3).unwrap();
            let received = socket.receive(Duration::from_secs(5)).unwrap();
            assert_eq!(received, Some(Received::Reply(3)), "{ip}");
        }
    }

    #[test]
    fn foreign_and_broken_packets_are_passed_over() {
        let socket = EchoSocket::open("127.0.0.1".parse().unwrap()).unwrap();
        for packet in [
            &[][..],
            &[0],
            &[0x45],
            &[3, 1, 0, 0, 0, 0, 0, 0],
            &[0x4f; 20],
            &[0, 0, 0, 0, 0, 0, 0, 1],
        ] {
            assert_eq!(socket.read(packet), None, "{packet:?}");
        }
    }

    #[test]
    fn the_checksum_of_a_summed_packet_is_zero() {
        let mut packet = [8, 0, 0, 0, 0x12, 0x34, 0, 1, 0xff, 0xff, 0xab];
        let sum = checksum(&packet).to_be_bytes();
        packet[2..4].copy_from_slice(&sum);
        assert_eq!(checksum(&packet), 0);
    }
}
