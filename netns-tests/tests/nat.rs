//! Each NAT flavour maps and filters as its name says (RFC 4787), seen with plain UDP sockets.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::Result;
use netns_tests::{Description, Lab, Machine, Nat, Node, Segment};

const SECOND: Duration = Duration::from_secs(1);

/// Which of the probes come through that were not asked for.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
struct Filter {
    other_port: bool,
    other_address: bool,
}

const STRICT: Filter = Filter {
    other_port: false,
    other_address: false,
};
const BY_ADDRESS: Filter = Filter {
    other_port: true,
    other_address: false,
};
const OPEN: Filter = Filter {
    other_port: true,
    other_address: true,
};

fn lab(router: Machine) -> Result<Lab> {
    Lab::new(
        &Description::new()
            .segment(
                Segment::new("internet")
                    .v4("203.0.113.0/24")
                    .v6("2001:db8::/64"),
            )
            .segment(Segment::new("site").v4("192.168.1.0/24").v6("fd00:1::/64"))
            .machine(Machine::host("s1").on("internet"))
            .machine(Machine::host("s2").on("internet"))
            .machine(router)
            .machine(Machine::host("inside").on("site")),
    )
}

fn gateway(nat: Nat) -> Machine {
    Machine::router("gateway", "internet", "site")
        .nat(nat)
        .nat66(nat)
}

fn address(node: &Node, v6: bool) -> IpAddr {
    if v6 {
        node.v6().into()
    } else {
        node.v4().into()
    }
}

fn socket(node: &Node, v6: bool, port: u16) -> Result<UdpSocket> {
    let socket = node.udp_bind(SocketAddr::new(address(node, v6), port))?;
    socket.set_read_timeout(Some(5 * SECOND))?;
    Ok(socket)
}

/// The mappings that three outside sockets see of one inside socket.
fn mappings(lab: &Lab, v6: bool) -> Result<Vec<SocketAddr>> {
    let (s1, s2) = (lab.node("s1"), lab.node("s2"));
    let inside = socket(lab.node("inside"), v6, 40_000)?;
    let mut seen = Vec::new();
    for outside in [
        socket(s1, v6, 1000)?,
        socket(s1, v6, 1001)?,
        socket(s2, v6, 1000)?,
    ] {
        inside.send_to(b"hello", outside.local_addr()?)?;
        seen.push(outside.recv_from(&mut [0; 16])?.1);
    }
    let gateway = lab.node("gateway").interfaces()[0].clone();
    let outside: Option<IpAddr> = if v6 {
        gateway.v6.map(IpAddr::V6)
    } else {
        gateway.v4.map(IpAddr::V4)
    };
    assert!(
        seen.iter().all(|from| Some(from.ip()) == outside),
        "{seen:?}"
    );
    Ok(seen)
}

/// Sends to one outside socket, and has others answer; the one asked answers last.
fn filter(lab: &Lab, v6: bool) -> Result<Filter> {
    let (s1, s2) = (lab.node("s1"), lab.node("s2"));
    let inside = socket(lab.node("inside"), v6, 40_001)?;
    let asked = socket(s1, v6, 2000)?;
    inside.send_to(b"hello", asked.local_addr()?)?;
    let (_, mapping) = asked.recv_from(&mut [0; 16])?;
    socket(s1, v6, 2001)?.send_to(b"other port", mapping)?;
    socket(s2, v6, 2000)?.send_to(b"other address", mapping)?;
    asked.send_to(b"end", mapping)?;
    let mut got = BTreeSet::new();
    loop {
        let mut buffer = [0; 16];
        let length = inside.recv(&mut buffer)?;
        match &buffer[..length] {
            b"end" => break,
            other => got.insert(String::from_utf8_lossy(other).into_owned()),
        };
    }
    Ok(Filter {
        other_port: got.contains("other port"),
        other_address: got.contains("other address"),
    })
}

/// Checks one flavour, for both families and with both kinds of routers.
fn check(nat: Nat, expected: Filter, mapping: impl Fn(&[u16]) -> bool) -> Result<()> {
    for router in [gateway(nat), gateway(nat).drop_unsolicited()] {
        let lab = lab(router)?;
        for v6 in [false, true] {
            let ports: Vec<u16> = mappings(&lab, v6)?
                .iter()
                .map(|address| address.port())
                .collect();
            assert!(mapping(&ports), "{nat:?} maps to {ports:?}, v6: {v6}");
            assert_eq!(filter(&lab, v6)?, expected, "{nat:?}, v6: {v6}");
        }
    }
    Ok(())
}

fn one_for_all(ports: &[u16]) -> bool {
    ports.iter().all(|port| *port == 40_000)
}

fn one_each(ports: &[u16]) -> bool {
    ports.iter().collect::<BTreeSet<_>>().len() == ports.len()
}

#[test]
fn port_restricted() -> Result<()> {
    check(Nat::PortRestricted, STRICT, one_for_all)
}

#[test]
fn symmetric() -> Result<()> {
    check(Nat::Symmetric, STRICT, one_each)
}

#[test]
fn sequential_symmetric() -> Result<()> {
    check(Nat::SequentialSymmetric, STRICT, |ports| {
        ports.windows(2).all(|pair| pair[1] == pair[0] + 1) && ports[0] >= 20_000
    })
}

#[test]
fn full_cone() -> Result<()> {
    check(Nat::FullCone, OPEN, one_for_all)
}

#[test]
fn address_restricted() -> Result<()> {
    check(Nat::AddressRestricted, BY_ADDRESS, one_for_all)
}

#[test]
fn blocked_udp_leaves_tcp() -> Result<()> {
    let lab = lab(gateway(Nat::PortRestricted).block_udp())?;
    let (inside, s1) = (lab.node("inside"), lab.node("s1"));
    let (tcp, udp) = (
        s1.tcp_echo((s1.v4(), 80).into())?,
        s1.udp_echo((s1.v4(), 80).into())?,
    );
    assert_eq!(
        inside.tcp_exchange(tcp.address(), b"hello", 5 * SECOND)?,
        b"hello"
    );
    assert!(
        inside
            .udp_exchange(udp.address(), b"hello", SECOND / 5)
            .is_err()
    );
    assert_eq!((tcp.requests(), udp.requests()), (1, 0));
    Ok(())
}

#[test]
fn a_nat_behind_a_nat() -> Result<()> {
    let lab = Lab::new(
        &Description::new()
            .segment(Segment::new("internet").v4("203.0.113.0/24"))
            .segment(Segment::new("provider").v4("100.64.0.0/10"))
            .segment(Segment::new("home").v4("192.168.1.0/24"))
            .machine(Machine::host("server").on("internet"))
            .machine(
                Machine::router("carrier", "internet", "provider")
                    .nat(Nat::Symmetric)
                    .drop_unsolicited(),
            )
            .machine(Machine::router("box", "provider", "home").nat(Nat::PortRestricted))
            .machine(Machine::host("inside").on("home")),
    )?;
    let server = lab.node("server");
    let echo = server.udp_echo((server.v4(), 7).into())?;
    let answer = lab
        .node("inside")
        .udp_exchange(echo.address(), b"hello", 5 * SECOND)?;
    assert_eq!(answer, b"hello");
    Ok(())
}
