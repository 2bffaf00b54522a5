//! `netcheck`: what the network around this host lets through.
//!
//! Sends from sockets of its own, in the host's namespace, frames that the daemon has sealed for
//! relays, and looks what comes back, from where. What follows from that is [`verdict`]'s.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use netmanager_core::peer::carrier::Carrier;
use rustix::net::sockopt;
use weald_proto::frame::{Knocked, RelayHeader, TAG_LEN};

use super::Options;
use super::failure::Failure;
use super::show::unexpected;
use super::table::{print, print_json};
use crate::api::client::Client;
use crate::api::inspect::KnockQuery;
use crate::api::message::{Answer, Request};
use crate::api::report::{NetworkReport, RelayDoor};

use self::verdict::{Findings, NetcheckReport, RelayFinding};

mod verdict;

/// How often a knock is sent until it counts as unanswered: one may be lost.
const TRIES: usize = 3;
/// How long an answer may take: around the world.
const PATIENCE: Duration = Duration::from_millis(400);
/// Knocks by which the round-trip time to a relay is measured.
const MEASURED: usize = 3;
/// Bytes of packets that are tried, headers of IPv4 and UDP included: Ethernet, PPPoE, tunnels, the
/// least of IPv6.
const SIZES: [u16; 5] = [1500, 1492, 1440, 1400, 1280];
/// Headers of IPv4 and UDP.
const HEADERS: u16 = 28;
/// What a datagram to oneself says.
const HAIRPIN: &[u8] = b"weald netcheck hairpin";

pub(super) fn netcheck(options: &Options) -> Result<(), Failure> {
    let mut client = options.client()?;
    let Answer::Network(network) = client.ask(&Request::Network {})? else {
        return Err(unexpected());
    };
    let findings = Check { client, network }.run()?;
    let report = NetcheckReport::of(&findings);
    if options.json {
        return Ok(print_json(&report)?);
    }
    Ok(print(&report.text())?)
}

/// A check under way.
#[derive(Debug)]
struct Check {
    client: Client,
    network: Box<NetworkReport>,
}

/// An answer to a knock.
#[derive(Debug, Clone, Copy)]
struct Heard {
    rtt: Duration,
    seen: SocketAddr,
}

/// A knock at a relay: at which address, and what is wished for.
#[derive(Debug, Clone, Copy)]
struct At<'a> {
    door: &'a RelayDoor,
    to: SocketAddr,
    port: u16,
    from_other_port: bool,
    length: u16,
}

impl<'a> At<'a> {
    const fn new(door: &'a RelayDoor, to: SocketAddr) -> Self {
        Self {
            door,
            to,
            port: 0,
            from_other_port: false,
            length: 0,
        }
    }
}

impl Check {
    fn run(mut self) -> Result<Findings, Failure> {
        let doors = std::mem::take(&mut self.network.relays);
        let mut findings = Findings {
            own: std::mem::take(&mut self.network.own),
            gateways: self.network.gateways.take(),
            ..Findings::default()
        };
        let first = socket(Ipv4Addr::UNSPECIFIED.into())?;
        findings.port = first.local_addr()?.port();
        for door in &doors {
            let finding = self.measure(&first, door, &mut findings)?;
            findings.relays.push(finding);
        }
        let measured = doors.iter().zip(&findings.relays);
        let answering = measured.filter(|(_, found)| found.rtt.is_some());
        let answering: Vec<&RelayDoor> = answering.map(|(door, _)| door).collect();
        if let Some((door, to)) = answering.first().and_then(|door| Some((*door, v4(door)?))) {
            findings.other_port = self.other_port(door, to)?;
            let mut others = answering
                .iter()
                .filter_map(|other| Some((*other, v4(other)?)));
            if let Some(other) = others.find(|(_, at)| at.ip() != to.ip()) {
                findings.other_host = Some(self.other_host(At::new(door, to), other, &first)?);
            }
            findings.packet_bytes = self.packet_bytes(&first, At::new(door, to))?;
        }
        let outside = findings.seen.first().map(|(_, seen)| *seen);
        if let Some(outside) = outside.filter(|at| !findings.is_own(at.ip())) {
            findings.hairpin = Some(hairpin(&first, outside)?);
        }
        findings.v6 = self.v6(&doors)?;
        Ok(findings)
    }

    /// How far a relay is, and what both of its ports see of a socket.
    fn measure(
        &mut self,
        socket: &UdpSocket,
        door: &RelayDoor,
        findings: &mut Findings,
    ) -> Result<RelayFinding, Failure> {
        let mut finding = RelayFinding {
            relay: door.relay.clone(),
            address: door.address,
            reason: door.reason.clone(),
            over_tcp: door.state == "up" && door.carrier == Carrier::Tcp.word(),
            ..RelayFinding::default()
        };
        let Some(to) = v4(door).filter(|_| door.state == "up") else {
            return Ok(finding);
        };
        for _ in 0..MEASURED {
            let Some(heard) = self.knock(socket, socket, At::new(door, to))? else {
                break;
            };
            let least = finding.rtt.map_or(heard.rtt, |rtt| rtt.min(heard.rtt));
            (finding.rtt, finding.seen) = (Some(least), Some(heard.seen));
        }
        findings.seen.extend(finding.seen.map(|seen| (to, seen)));
        if let Some(port) = door.observe_port.filter(|_| finding.rtt.is_some()) {
            let second = SocketAddr::new(to.ip(), port);
            if let Some(heard) = self.knock(socket, socket, At::new(door, second))? {
                findings.seen.push((second, heard.seen));
            }
        }
        Ok(finding)
    }

    /// Whether a port of the relay is let in that was never sent to; none if it has one port only.
    fn other_port(&mut self, door: &RelayDoor, to: SocketAddr) -> Result<Option<bool>, Failure> {
        if door.observe_port.is_none() {
            return Ok(None);
        }
        let fresh = socket(Ipv4Addr::UNSPECIFIED.into())?;
        let at = At {
            from_other_port: true,
            ..At::new(door, to)
        };
        Ok(Some(self.knock(&fresh, &fresh, at)?.is_some()))
    }

    /// Whether a host is let in that was never sent to: another relay sends to where the first one
    /// has seen a socket.
    fn other_host(
        &mut self,
        first: At<'_>,
        (door, to): (&RelayDoor, SocketAddr),
        known: &UdpSocket,
    ) -> Result<bool, Failure> {
        let fresh = socket(Ipv4Addr::UNSPECIFIED.into())?;
        let Some(heard) = self.knock(&fresh, &fresh, first)? else {
            return Ok(false);
        };
        let at = At {
            port: heard.seen.port(),
            ..At::new(door, to)
        };
        Ok(self.knock(known, &fresh, at)?.is_some())
    }

    /// The largest packet that reaches a relay whole.
    fn packet_bytes(&mut self, socket: &UdpSocket, at: At<'_>) -> Result<Option<u16>, Failure> {
        // Has the kernel lose packets that are too long, and not send them in fragments.
        let whole = sockopt::Ipv4PathMtuDiscovery::PROBE;
        sockopt::set_ip_mtu_discover(socket, whole).map_err(std::io::Error::from)?;
        for bytes in SIZES {
            let length = bytes - HEADERS;
            if self.knock(socket, socket, At { length, ..at })?.is_some() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// Whether a relay answers over IPv6; none if no relay has such an address.
    fn v6(&mut self, doors: &[RelayDoor]) -> Result<Option<bool>, Failure> {
        let mut asked = None;
        for door in doors.iter().filter(|door| door.state == "up") {
            let Some(to) = door.addresses.iter().copied().find(SocketAddr::is_ipv6) else {
                continue;
            };
            let Ok(socket) = socket(Ipv6Addr::UNSPECIFIED.into()) else {
                return Ok(Some(false));
            };
            if self.knock(&socket, &socket, At::new(door, to))?.is_some() {
                return Ok(Some(true));
            }
            asked = Some(false);
        }
        Ok(asked)
    }

    /// Knocks from one socket and waits on another one.
    fn knock(
        &mut self,
        from: &UdpSocket,
        on: &UdpSocket,
        at: At<'_>,
    ) -> Result<Option<Heard>, Failure> {
        let mut tags: Vec<([u8; TAG_LEN], Instant)> = Vec::new();
        for _ in 0..TRIES {
            let query = KnockQuery {
                relay: at.door.relay.clone(),
                port: at.port,
                from_other_port: at.from_other_port,
                length: at.length,
            };
            let Answer::Knock(frame) = self.client.ask(&Request::Knock(query))? else {
                return Err(unexpected());
            };
            let Some(frame) = frame else {
                return Ok(None);
            };
            let tag = frame.get(RelayHeader::TAG);
            let Some(tag) = tag.and_then(|tag| tag.try_into().ok()) else {
                return Err(unexpected());
            };
            tags.push((tag, Instant::now()));
            // What the host does not send is as lost as what a router drops.
            let _ = from.send_to(&frame, at.to);
            if let Some(heard) = hear(on, &tags)? {
                return Ok(Some(heard));
            }
        }
        Ok(None)
    }
}

/// Waits for the answer to one of these knocks.
fn hear(socket: &UdpSocket, tags: &[([u8; TAG_LEN], Instant)]) -> Result<Option<Heard>, Failure> {
    let end = Instant::now() + PATIENCE;
    let mut buffer = [0; 2048];
    while let Some((length, _)) = receive(socket, &mut buffer, end)? {
        let Some(answer) = buffer.get(..length).and_then(Knocked::decode) else {
            continue;
        };
        if let Some((_, sent)) = tags.iter().find(|(tag, _)| *tag == answer.tag) {
            return Ok(Some(Heard {
                rtt: sent.elapsed(),
                seen: answer.seen,
            }));
        }
    }
    Ok(None)
}

/// Whether the NAT leads packets to its own outside address back in.
fn hairpin(socket: &UdpSocket, outside: SocketAddr) -> Result<bool, Failure> {
    let sender = self::socket(Ipv4Addr::UNSPECIFIED.into())?;
    let mut buffer = [0; 2048];
    for _ in 0..TRIES {
        let _ = sender.send_to(HAIRPIN, outside);
        let end = Instant::now() + PATIENCE;
        while let Some((length, _)) = receive(socket, &mut buffer, end)? {
            if buffer.get(..length) == Some(HAIRPIN) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The next datagram, if one comes before `end`.
fn receive(
    socket: &UdpSocket,
    buffer: &mut [u8],
    end: Instant,
) -> Result<Option<(usize, SocketAddr)>, Failure> {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left))?;
        match socket.recv_from(buffer) {
            Ok(received) => return Ok(Some(received)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(None);
            }
            // An ICMP error of something sent before.
            Err(_) => {}
        }
    }
}

fn socket(ip: IpAddr) -> std::io::Result<UdpSocket> {
    UdpSocket::bind(SocketAddr::new(ip, 0))
}

fn v4(door: &RelayDoor) -> Option<SocketAddr> {
    let used = door.address.filter(SocketAddr::is_ipv4);
    used.or_else(|| door.addresses.iter().copied().find(SocketAddr::is_ipv4))
}
