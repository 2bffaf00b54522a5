//! Where packets go, and where they do not.

use std::io::Read as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use netmanager::env::config::{RESOLVER_PORT, RESOLVER_V4, RESOLVER_V6};
use netmanager::env::{DnsSockets, Overlay};
use netmanager::tun::Offloads;

use crate::host::*;

/// Answers one datagram on each socket with the address of whoever asked.
fn answer_each(sockets: DnsSockets, times: usize) {
    for socket in sockets.udp {
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        std::thread::spawn(move || {
            for _ in 0..times {
                let mut buffer = [0; 64];
                if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                    let answer = from.ip().to_string();
                    socket.send_to(answer.as_bytes(), from).unwrap();
                }
            }
        });
    }
}

#[test]
fn instances_and_host_reach_the_resolver() {
    let config = config();
    let name = config.name.clone();
    on_host(&[&name], || {
        let overlay = Overlay::up(config.clone()).unwrap();
        answer_each(overlay.dns_sockets().unwrap(), 2);
        let v4 = SocketAddr::from((RESOLVER_V4, RESOLVER_PORT));
        let v6 = SocketAddr::from((RESOLVER_V6, RESOLVER_PORT));
        let ask_both = || [v4, v6].map(|to| String::from_utf8(ask(to).unwrap()).unwrap());
        assert_eq!(in_instance(&name, 1, ask_both), ["10.30.0.11", "fdff::11"]);
        assert_eq!(ask_both(), ["10.30.0.1", "fdff::1"]);
        // Nothing else of the namespace can be reached from an instance.
        let refused = SocketAddr::from((RESOLVER_V4, 54));
        let (_udp, _tcp) = overlay.bind_in(refused).unwrap();
        in_instance(&name, 1, || {
            let timeout = std::time::Duration::from_millis(300);
            let error = std::net::TcpStream::connect_timeout(&refused, timeout).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
        });
    });
}

#[test]
fn every_pair_of_one_node_passes_the_tun() {
    let config = config();
    let name = config.name.clone();
    on_host(&[&name], || {
        let overlay = Overlay::up(config.clone()).unwrap();
        let reflector = Reflector::start(overlay.open_tun(Offloads::On).unwrap());
        for (instance, node) in [
            ("10.30.0.11:80", "10.30.0.1:80"),
            ("[fdff::11]:80", "[fdff::1]:80"),
        ] {
            let (instance, node): (SocketAddr, SocketAddr) =
                (instance.parse().unwrap(), node.parse().unwrap());
            let listen = || TcpListener::bind(instance).unwrap();
            let server = accept_one(in_instance(&name, 1, listen));
            let source = in_instance(&name, 0, || connect(instance)).unwrap();
            assert_eq!(server.join().unwrap(), source);

            let server = accept_one(in_instance(&name, 1, listen));
            assert_eq!(connect(instance).unwrap(), node.ip());
            assert_eq!(server.join().unwrap(), node.ip());

            let server = accept_one(TcpListener::bind(node).unwrap());
            let source = in_instance(&name, 0, || connect(node)).unwrap();
            assert_eq!(server.join().unwrap(), source);
        }
        // Both ways of six connections.
        let packets = reflector.stop();
        for (source, destination) in [
            ("10.30.0.10", "10.30.0.11"),
            ("10.30.0.1", "10.30.0.11"),
            ("10.30.0.10", "10.30.0.1"),
        ] {
            for (from, to) in [(source, destination), (destination, source)] {
                let from: Ipv4Addr = from.parse().unwrap();
                let to: Ipv4Addr = to.parse().unwrap();
                assert!(
                    packets.iter().any(|packet| packet[0] >> 4 == 4
                        && packet[12..16] == from.octets()
                        && packet[16..20] == to.octets()),
                    "{from} to {to} took a short cut"
                );
            }
        }
        let to: Ipv6Addr = "fdff::10".parse().unwrap();
        assert!(packets.iter().any(|packet| packet[24..40] == to.octets()));
    });
}

#[test]
fn super_packets_stay_whole_unless_offloads_are_off() {
    for (offloads, are_whole) in [(Offloads::On, true), (Offloads::Off, false)] {
        let config = config();
        let name = config.name.clone();
        on_host(&[&name], || {
            let overlay = Overlay::up(config.clone()).unwrap();
            let reflector = Reflector::start(overlay.open_tun(offloads).unwrap());
            let target: SocketAddr = "10.30.0.11:80".parse().unwrap();
            let listener = in_instance(&name, 1, || TcpListener::bind(target).unwrap());
            let reader = std::thread::spawn(move || {
                let mut received = Vec::new();
                let (mut stream, _) = listener.accept().unwrap();
                stream.read_to_end(&mut received).unwrap();
                received
            });
            let sent: Vec<u8> = (0..3_000_000_u32).map(|number| number as u8).collect();
            in_instance(&name, 0, || {
                let mut stream = std::net::TcpStream::connect_timeout(&target, PATIENCE).unwrap();
                std::io::Write::write_all(&mut stream, &sent).unwrap();
            });
            assert!(reader.join().unwrap() == sent, "the bytes differ");
            let longest = reflector.stop().iter().map(Vec::len).max().unwrap();
            assert_eq!(longest > 1400, are_whole, "longest packet: {longest}");
        });
    }
}
