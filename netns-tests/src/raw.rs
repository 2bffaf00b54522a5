//! Arbitrary packets from inside a namespace, for spoof tests, and builders for such packets.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result};
use etherparse::{IpHeaders, Ipv4Header, Ipv6Header, PacketBuilder, PacketBuilderStep};
use nix::libc;
use nix::sys::socket::{MsgFlags, SockType, sendto};
use socket2::{Domain, Protocol, Socket, Type};

use crate::namespace::Namespace;
use crate::packet_socket::{link_address, open_sender};
use crate::process::command;

/// The hop limit of built packets.
const HOPS: u8 = 64;

/// How long the answer to a neighbour's query may take.
const NEIGHBOUR_TIME: Duration = Duration::from_secs(3);

/// Sends whole IP packets, with whatever addresses they claim.
#[derive(Debug)]
pub enum RawSender {
    /// By the namespace's routes. The kernel sets total length and header checksum on IPv4.
    Routed {
        /// Raw sockets that take the header from the caller, for IPv4 and IPv6.
        sockets: [Socket; 2],
    },
    /// On one interface, untouched by routes, rules and the kernel's corrections.
    Link {
        /// The packet socket.
        socket: OwnedFd,
        /// The interface.
        index: u32,
        /// The neighbour that gets the packets; none on a TUN device.
        neighbour: Option<[u8; 6]>,
    },
}

impl Namespace {
    /// Makes a sender whose packets take the namespace's routes.
    ///
    /// # Errors
    /// Fails without CAP_NET_RAW.
    pub fn raw_routed(&self) -> Result<RawSender> {
        self.in_ns(|| {
            let raw = Some(Protocol::from(libc::IPPROTO_RAW));
            let v4 = Socket::new(Domain::IPV4, Type::RAW, raw).context("open a raw socket")?;
            v4.set_header_included_v4(true)?;
            let v6 = Socket::new(Domain::IPV6, Type::RAW, raw).context("open a raw socket")?;
            v6.set_header_included_v6(true)?;
            Ok(RawSender::Routed { sockets: [v4, v6] })
        })
    }

    /// Makes a sender whose packets leave on one interface, to the neighbour with that hardware
    /// address.
    ///
    /// # Errors
    /// Fails without CAP_NET_RAW or such an interface.
    pub fn raw_link(&self, interface: &str, neighbour: Option<[u8; 6]>) -> Result<RawSender> {
        let (socket, index) = open_sender(self, interface, SockType::Datagram)?;
        Ok(RawSender::Link {
            socket,
            index,
            neighbour,
        })
    }

    /// Sends one Ethernet frame, as it is, on an interface.
    ///
    /// # Errors
    /// Fails without CAP_NET_RAW or such an interface, or if the kernel refuses the frame.
    pub fn send_frame(&self, interface: &str, frame: &[u8]) -> Result<()> {
        let (socket, index) = open_sender(self, interface, SockType::Raw)?;
        let address = link_address(index, 0, None)?;
        sendto(socket.as_raw_fd(), frame, &address, MsgFlags::empty()).context("send a frame")?;
        Ok(())
    }

    /// Finds the hardware address of a neighbour on an interface by asking for it.
    ///
    /// # Errors
    /// Fails if the neighbour does not answer.
    pub fn neighbour(&self, interface: &str, address: IpAddr) -> Result<[u8; 6]> {
        // Whether it answers the ping does not matter, only that it was asked who it is.
        let ping = command(&format!("ping -c1 -W1 -I {interface} {address}"));
        self.run(ping, NEIGHBOUR_TIME)?;
        let show = command(&format!("ip neighbour show to {address} dev {interface}"));
        let text = self.run_ok(show, NEIGHBOUR_TIME)?;
        let mac = text
            .split_whitespace()
            .skip_while(|word| *word != "lladdr")
            .nth(1);
        mac.and_then(parse_mac)
            .with_context(|| format!("{address} on {interface} in {}: {text:?}", self.name()))
    }
}

impl RawSender {
    /// Sends one IP packet.
    ///
    /// # Errors
    /// Fails if the kernel refuses the packet.
    pub fn send(&self, packet: &[u8]) -> Result<()> {
        let v6 = packet.first().is_some_and(|byte| byte >> 4 == 6);
        match self {
            Self::Routed { sockets } => {
                let socket = &sockets[usize::from(v6)];
                let to = destination(packet).context("the packet has no destination")?;
                socket
                    .send_to(packet, &SocketAddr::new(to, 0).into())
                    .context("send raw")?;
            }
            Self::Link {
                socket,
                index,
                neighbour,
            } => {
                let ethertype = if v6 { libc::ETH_P_IPV6 } else { libc::ETH_P_IP };
                let address = link_address(*index, ethertype as u16, *neighbour)?;
                sendto(socket.as_raw_fd(), packet, &address, MsgFlags::empty())
                    .context("send on a link")?;
            }
        }
        Ok(())
    }
}

/// Builds an IP packet with a UDP datagram and right checksums.
///
/// # Panics
/// Panics if the families differ or the payload does not fit.
pub fn udp(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let step = ip(source.ip(), destination.ip()).udp(source.port(), destination.port());
    let mut packet = Vec::with_capacity(step.size(payload.len()));
    written(step.write(&mut packet, payload));
    packet
}

/// Builds an IP packet with a TCP SYN and right checksums.
///
/// # Panics
/// Panics if the families differ.
pub fn tcp_syn(source: SocketAddr, destination: SocketAddr, sequence: u32) -> Vec<u8> {
    let step = ip(source.ip(), destination.ip());
    let step = step
        .tcp(source.port(), destination.port(), sequence, u16::MAX)
        .syn();
    let mut packet = Vec::with_capacity(step.size(0));
    written(step.write(&mut packet, &[]));
    packet
}

/// Builds an IP packet with an ICMP or ICMPv6 echo request and right checksums.
///
/// # Panics
/// Panics if the families differ or the payload does not fit.
pub fn echo_request(source: IpAddr, destination: IpAddr, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let step = ip(source, destination);
    if source.is_ipv4() {
        written(step.icmpv4_echo_request(id, 1).write(&mut packet, payload));
    } else {
        written(step.icmpv6_echo_request(id, 1).write(&mut packet, payload));
    }
    packet
}

fn ip(source: IpAddr, destination: IpAddr) -> PacketBuilderStep<IpHeaders> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let header = Ipv4Header {
                source: source.octets(),
                destination: destination.octets(),
                time_to_live: HOPS,
                ..Ipv4Header::default()
            };
            PacketBuilder::ip(IpHeaders::Ipv4(
                header,
                etherparse::Ipv4Extensions::default(),
            ))
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = Ipv6Header {
                source: source.octets(),
                destination: destination.octets(),
                hop_limit: HOPS,
                ..Ipv6Header::default()
            };
            PacketBuilder::ip(IpHeaders::Ipv6(
                header,
                etherparse::Ipv6Extensions::default(),
            ))
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            panic!("one packet cannot go from {source} to {destination}")
        }
    }
}

fn written<E: std::fmt::Display>(result: Result<(), E>) {
    if let Err(error) = result {
        panic!("the packet cannot be built: {error}");
    }
}

fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?)),
        6 => Some(IpAddr::from(
            <[u8; 16]>::try_from(packet.get(24..40)?).ok()?,
        )),
        _ => None,
    }
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|part| u8::from_str_radix(part, 16))
        .collect::<Result<_, _>>()
        .ok()?;
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_name_their_destination() {
        let v4 = tcp_syn(
            "10.0.0.1:1".parse().unwrap(),
            "10.0.0.2:2".parse().unwrap(),
            7,
        );
        assert_eq!(destination(&v4), Some("10.0.0.2".parse().unwrap()));
        let v6 = echo_request(
            "fd00::1".parse().unwrap(),
            "fd00::2".parse().unwrap(),
            7,
            b"x",
        );
        assert_eq!(destination(&v6), Some("fd00::2".parse().unwrap()));
        assert_eq!(destination(&[]), None);
    }

    #[test]
    fn hardware_addresses_are_read() {
        assert_eq!(parse_mac("02:00:00:00:00:ff"), Some([2, 0, 0, 0, 0, 255]));
        assert_eq!(parse_mac("02:00"), None);
    }
}
