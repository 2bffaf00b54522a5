//! Egress, port mappings, and what never leaves the host.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use netmanager::env::Overlay;
use netmanager::tun::Offloads;

use crate::host::*;

/// The servers outside that instances connect to.
const OUTSIDE: [&str; 2] = ["203.0.113.1:80", "[2001:db8::1]:80"];

#[test]
fn egress_is_masqueraded_and_can_be_switched_off() {
    let mut config = config();
    config.egress = true;
    let name = config.name.clone();
    on_host(&[&name], || {
        let outside = Outside::new();
        std::fs::write("/proc/sys/net/ipv6/conf/lan0/accept_ra", "1").unwrap();
        let before = snapshot(&[&name]);
        let mut overlay = Overlay::up(config.clone()).unwrap();
        for (server, host) in OUTSIDE.into_iter().zip(["203.0.113.2", "2001:db8::2"]) {
            let server: SocketAddr = server.parse().unwrap();
            let listener = outside.inside(|| TcpListener::bind(server).unwrap());
            let seen = accept_one(listener);
            let own = in_instance(&name, 0, || connect(server)).unwrap();
            assert!(config.pools.contains(own));
            assert_eq!(seen.join().unwrap(), host.parse::<IpAddr>().unwrap());
        }
        let accept_ra = std::fs::read_to_string("/proc/sys/net/ipv6/conf/lan0/accept_ra");
        assert_eq!(accept_ra.unwrap(), "2\n");

        config.egress = false;
        overlay.update(config.clone()).unwrap();
        for server in OUTSIDE {
            let error = in_instance(&name, 0, || connect(server.parse().unwrap())).unwrap_err();
            assert_eq!(
                error.raw_os_error(),
                Some(nix::libc::ENETUNREACH),
                "{server}"
            );
        }
        Overlay::down(&name).unwrap();
        assert_eq!(difference(&before, &snapshot(&[&name])), "");
    });
}

#[test]
fn mapped_ports_lead_to_their_instance() {
    let mut config = config();
    config.instances[1] = instance(1, &["8080:80/tcp", "5353:53/udp"]);
    let name = config.name.clone();
    on_host(&[&name], || {
        let outside = Outside::new();
        let overlay = Overlay::up(config.clone()).unwrap();
        let _reflector = Reflector::start(overlay.open_tun(Offloads::On).unwrap());
        let listen = || TcpListener::bind("[::]:80").unwrap();
        for (target, from_outside, seen_as) in [
            ("203.0.113.2:8080", true, "10.30.0.1"),
            ("[2001:db8::2]:8080", true, "fdff::1"),
            ("203.0.113.2:8080", false, "10.30.0.1"),
            ("[2001:db8::2]:8080", false, "fdff::1"),
            ("127.0.0.1:8080", false, "10.30.0.1"),
        ] {
            let target: SocketAddr = target.parse().unwrap();
            let seen = accept_one(in_instance(&name, 1, listen));
            if from_outside {
                outside.inside(|| connect(target)).unwrap();
            } else {
                connect(target).unwrap();
            }
            let seen_as: IpAddr = seen_as.parse().unwrap();
            assert_eq!(seen.join().unwrap(), seen_as, "{target}");
        }
        let error = connect("[::1]:8080".parse().unwrap()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::ECONNREFUSED));

        let socket = in_instance(&name, 1, || UdpSocket::bind("0.0.0.0:53").unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 8];
            let (_, from) = socket.recv_from(&mut buffer).unwrap();
            socket.send_to(b"answer", from).unwrap();
        });
        let answer = outside.inside(|| ask("203.0.113.2:5353".parse().unwrap()));
        assert_eq!(answer.unwrap(), b"answer");
    });
}

#[test]
fn outsiders_cannot_route_into_the_overlay() {
    let mut config = config();
    config.instances[1] = instance(1, &["8080:80/tcp"]);
    let name = config.name.clone();
    on_host(&[&name], || {
        let outside = Outside::new();
        let overlay = Overlay::up(config.clone()).unwrap();
        let reflector = Reflector::start(overlay.open_tun(Offloads::On).unwrap());
        let socket = in_instance(&name, 1, || UdpSocket::bind("[::]:9").unwrap());
        outside.inside(|| {
            for (pool, gateway) in [
                ("10.30.0.0/16", "203.0.113.2"),
                ("fdff::/16", "2001:db8::2"),
            ] {
                run("ip", &["route", "add", pool, "via", gateway]);
            }
            let socket = UdpSocket::bind("[::]:0").unwrap();
            for target in ["10.30.0.11", "fdff::11"] {
                let target = target.parse::<IpAddr>().unwrap();
                let any: IpAddr = if target.is_ipv4() {
                    [0; 4].into()
                } else {
                    [0_u16; 8].into()
                };
                let socket = UdpSocket::bind((any, 0)).unwrap();
                socket.send_to(b"x", (target, 9)).unwrap();
            }
            drop(socket);
        });
        assert_eq!(counted(&overlay, "host refused", 2), 2);
        socket.set_nonblocking(true).unwrap();
        assert!(socket.recv_from(&mut [0; 8]).is_err());
        assert!(reflector.stop().is_empty());
    });
}

#[test]
fn a_taken_port_is_refused_by_name() {
    let mut config = config();
    config.instances[1] = instance(1, &["8080:80/tcp", "8080:80/udp"]);
    let mut other = self::other(&config);
    let (name, second) = (config.name.clone(), other.name.clone());
    on_host(&[&name, &second], || {
        let before = snapshot(&[&name, &second]);
        let refuse = |holder: &str, transport: &str, config: &netmanager::env::EnvConfig| {
            let error = Overlay::up(config.clone()).unwrap_err();
            let expected = format!(
                "port 8080/{transport} of the host cannot lead to shop.prod.web.prod.1: {holder} has it"
            );
            assert_eq!(error.to_string(), expected);
        };
        let listener = TcpListener::bind("127.0.0.1:8080").unwrap();
        refuse("a program of the host", "tcp", &config);
        assert_eq!(difference(&before, &snapshot(&[&name, &second])), "");
        drop(listener);
        let socket = UdpSocket::bind("[::1]:8080").unwrap();
        refuse("a program of the host", "udp", &config);
        drop(socket);

        let overlay = Overlay::up(config.clone()).unwrap();
        refuse(&format!("overlay {name}"), "tcp", &other);
        // A program that listens later does not keep the daemon from coming back.
        drop(overlay);
        let _listener = TcpListener::bind("127.0.0.1:8080").unwrap();
        drop(Overlay::up(config.clone()).unwrap());
        other.instances[1].ports.clear();
        Overlay::up(other.clone()).unwrap();
    });
}

/// Another overlay that could be on the same host.
fn other(config: &netmanager::env::EnvConfig) -> netmanager::env::EnvConfig {
    let mut other = config.clone();
    other.name = unique_name();
    other.node_ip.v4 = Some("10.30.0.2".parse().unwrap());
    other.node_ip.v6 = Some("fdff::2".parse().unwrap());
    other
}

#[test]
fn two_overlays_share_a_host() {
    let mut config = config();
    config.egress = true;
    let other = other(&config);
    let (name, second) = (config.name.clone(), other.name.clone());
    on_host(&[&name, &second], || {
        let _outside = Outside::new();
        let before = snapshot(&[&name, &second]);
        drop(Overlay::up(config.clone()).unwrap());
        let with_one = snapshot(&[&second]);
        drop(Overlay::up(other.clone()).unwrap());
        Overlay::down(&second).unwrap();
        assert_eq!(difference(&with_one, &snapshot(&[&second])), "");

        // The first to come is the first to go: the second still forwards, and gives back what
        // the first one found.
        let mut first = Overlay::up(config.clone()).unwrap();
        drop(Overlay::up(other.clone()).unwrap());
        config.egress = false;
        first.update(config.clone()).unwrap();
        Overlay::down(&name).unwrap();
        let forwards = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
        assert_eq!(forwards, "1\n");
        Overlay::down(&second).unwrap();
        assert_eq!(difference(&before, &snapshot(&[&name, &second])), "");
    });
}

#[test]
fn pool_traffic_never_takes_the_default_route() {
    let config = config();
    let name = config.name.clone();
    on_host(&[&name], || {
        let _outside = Outside::new();
        let unreachable = |what: &str| {
            for target in [
                "10.30.0.11:80",
                "10.30.7.7:80",
                "[fdff::11]:80",
                "[fdff:7::7]:80",
            ] {
                let error = connect(target.parse().unwrap()).unwrap_err();
                let code = error.raw_os_error().unwrap_or_default();
                // An IPv6 router says "no route" where an IPv4 one says "no host".
                let codes = [nix::libc::EHOSTUNREACH, nix::libc::ENETUNREACH];
                assert!(codes.contains(&code), "{target} {what}: {error}");
            }
        };
        let overlay = Overlay::up(config.clone()).unwrap();
        let reflector = Reflector::start(overlay.open_tun(Offloads::On).unwrap());
        drop(reflector);
        drop(overlay);
        unreachable("without a daemon");
        let device = netmanager::env::config::host_device(&name);
        run("ip", &["link", "delete", &device]);
        unreachable("without the veth");
        Overlay::up(config.clone()).unwrap();
        run("ip", &["netns", "delete", name.as_str()]);
        // The kernel takes a namespace apart in the background.
        let until = std::time::Instant::now() + PATIENCE;
        while attempt("ip", &["link", "show", &device]).status.success() {
            assert!(std::time::Instant::now() < until, "{device} stays");
        }
        unreachable("without the overlay");
        Overlay::down(&name).unwrap();
        // Now it is the outside's to say.
        let route = run("ip", &["route", "get", "10.30.0.11"]);
        assert!(route.contains("via 203.0.113.1 dev lan0"), "{route}");
    });
}
