//! An instance with CAP_NET_RAW sends from addresses that are not its own.

use std::net::{IpAddr, SocketAddr};

use netmanager::env::Overlay;
use netmanager::env::config::{RESOLVER_V4, RESOLVER_V6};
use netmanager::tun::Offloads;
use socket2::{Domain, Protocol, Socket, Type};

use crate::host::*;

/// The protocol number with which a raw socket takes the IP header from its user.
const IPPROTO_RAW: i32 = 255;

/// Addresses that are not instance 0's: another instance's, the node's, a stranger's in the
/// pools, one outside them, and the resolver's own.
const FOREIGN: [&str; 10] = [
    "10.30.0.11",
    "10.30.0.1",
    "10.30.99.99",
    "198.51.100.7",
    "169.254.1.1",
    "fdff::11",
    "fdff::1",
    "fdff:2000::99",
    "2001:db8::7",
    "fdfe:ffff::53",
];

/// Sends an empty datagram from any source to a port 53.
fn send_from(source: IpAddr, destination: IpAddr) {
    let udp = [0x12, 0x34, 0, 53, 0, 8, 0, 0];
    let (domain, packet) = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut packet = vec![0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0];
            packet.extend(source.octets());
            packet.extend(destination.octets());
            (Domain::IPV4, packet)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut packet = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
            packet.extend(source.octets());
            packet.extend(destination.octets());
            (Domain::IPV6, packet)
        }
        _ => panic!("{source} and {destination} are of different families"),
    };
    let packet = [packet, udp.to_vec()].concat();
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(IPPROTO_RAW))).unwrap();
    let to = SocketAddr::new(destination, 0);
    socket.send_to(&packet, &to.into()).unwrap();
}

#[test]
fn foreign_sources_reach_neither_the_tun_nor_the_resolver() {
    let mut config = config();
    config.egress = true;
    let name = config.name.clone();
    on_host(&[&name], || {
        let outside = Outside::new();
        let overlay = Overlay::up(config.clone()).unwrap();
        let reflector = Reflector::start(overlay.open_tun(Offloads::On).unwrap());
        let sockets = overlay.dns_sockets().unwrap();
        let mut sent = 0;
        for source in FOREIGN.map(|source| source.parse::<IpAddr>().unwrap()) {
            let destinations: [IpAddr; 3] = match source {
                IpAddr::V4(_) => ["10.30.0.11", "203.0.113.1"]
                    .map(|ip| ip.parse().unwrap())
                    .into_iter()
                    .chain([RESOLVER_V4.into()])
                    .collect::<Vec<_>>()
                    .try_into()
                    .unwrap(),
                IpAddr::V6(_) => ["fdff::11", "2001:db8::1"]
                    .map(|ip| ip.parse().unwrap())
                    .into_iter()
                    .chain([RESOLVER_V6.into()])
                    .collect::<Vec<_>>()
                    .try_into()
                    .unwrap(),
            };
            for destination in destinations {
                in_instance(&name, 0, || send_from(source, destination));
                sent += 1;
            }
        }
        assert_eq!(counted(&overlay, "spoofed", sent), sent);
        // What is for neighbours goes nowhere either; the kernel sends some of it itself.
        let neighbour = "fe80::7".parse().unwrap();
        in_instance(&name, 0, || {
            send_from(neighbour, "fdff::11".parse().unwrap());
        });
        assert!(counted(&overlay, "link_local", 1) >= 1);
        // An honest one gets through, so the way was open; it is also the first to arrive.
        for (socket, source, resolver) in [
            (&sockets.udp[0], "10.30.0.10", IpAddr::V4(RESOLVER_V4)),
            (&sockets.udp[1], "fdff::10", IpAddr::V6(RESOLVER_V6)),
        ] {
            let source: IpAddr = source.parse().unwrap();
            let other = if source.is_ipv4() {
                "10.30.0.11"
            } else {
                "fdff::11"
            };
            in_instance(&name, 0, || {
                send_from(source, resolver);
                send_from(source, other.parse().unwrap());
            });
            socket.set_nonblocking(false).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            // A zero checksum is not valid in IPv6, so the socket never sees that one.
            if source.is_ipv4() {
                let (_, from) = socket.recv_from(&mut [0; 8]).unwrap();
                assert_eq!(from.ip(), source);
            }
        }
        let honest: Vec<IpAddr> = ["10.30.0.10", "fdff::10"]
            .map(|ip| ip.parse().unwrap())
            .to_vec();
        drop(outside);
        for packet in reflector.stop() {
            let is_v4 = packet[0] >> 4 == 4;
            // Instance 1 may answer that nobody listens.
            if packet[if is_v4 { 9 } else { 6 }] != 17 {
                continue;
            }
            let source: IpAddr = if is_v4 {
                <[u8; 4]>::try_from(&packet[12..16]).unwrap().into()
            } else {
                <[u8; 16]>::try_from(&packet[8..24]).unwrap().into()
            };
            assert!(honest.contains(&source), "{source} reached the TUN");
        }
        assert_eq!(counted(&overlay, "spoofed", sent), sent);
    });
}

#[test]
fn the_host_sends_from_the_pools_only_as_itself() {
    let config = config();
    let name = config.name.clone();
    on_host(&[&name], || {
        let overlay = Overlay::up(config.clone()).unwrap();
        let reflector = Reflector::start(overlay.open_tun(Offloads::On).unwrap());
        // Past the host's own rules, which would make it the node's address.
        run("nft", &["delete", "table", "inet", name.as_str()]);
        send_from("10.30.0.10".parse().unwrap(), "10.30.0.11".parse().unwrap());
        send_from("fdff::10".parse().unwrap(), "fdff::11".parse().unwrap());
        let spoofed = overlay.inside(|| {
            let until = std::time::Instant::now() + PATIENCE;
            loop {
                let listed = run(
                    "nft",
                    &["list", "counter", "inet", name.as_str(), "spoofed"],
                );
                if listed.contains("packets 2") || std::time::Instant::now() > until {
                    return Ok(listed);
                }
            }
        });
        assert!(spoofed.unwrap().contains("packets 2 "));
        assert!(reflector.stop().is_empty());
    });
}
