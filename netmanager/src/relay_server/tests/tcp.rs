//! The relay's TCP port: nodes without UDP, and what strangers get there.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustls::client::ResolvesClientCert;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, SignatureScheme};
use weald_proto::datagram::{self, MAX_LEN, TCP_ALPN};
use weald_trust::tls::SERVER_NAME;

use super::*;
use crate::tunnel::Tunnel;

/// The bound of every wait: far longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Carries what one client sends over UDP to a relay's TCP port, and back.
struct Bridge {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Tunnel>>,
}

impl Bridge {
    fn new(world: &World, issued: &Issued) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        let credentials = issued.credentials(None, Clock::system()).unwrap();
        let config = credentials
            .tcp_client_config(&world.identity, TCP_ALPN)
            .unwrap();
        let stream = TcpStream::connect(world.tcp()).unwrap();
        let mut tunnel = Tunnel::new(stream, tls(config).into()).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut client = None;
            let mut buffer = [0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((size, from)) = socket.recv_from(&mut buffer) {
                    client = Some(from);
                    tunnel.send(&buffer[..size]);
                }
                while tunnel.read().unwrap_or(false) {}
                while let Ok(Some(datagram)) = tunnel.next_datagram() {
                    socket.send_to(datagram, client.unwrap()).unwrap();
                }
                let _ = tunnel.flush();
            }
            tunnel
        });
        Self {
            address,
            stop,
            thread: Some(thread),
        }
    }

    /// Carries nothing any more: the connection, which nobody reads.
    fn freeze(mut self) -> Tunnel {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

impl World {
    fn tcp(&self) -> SocketAddr {
        self.server.tcp_addresses()[0]
    }

    /// A node that has only TCP, and its registration.
    fn join_over_tcp(&self, name: &str) -> (Client, Bridge) {
        let issued = self.issue(name);
        let bridge = Bridge::new(self, &issued);
        let credentials = issued.credentials(None, Clock::system()).unwrap();
        let mut client = Client::new(bridge.address, &self.identity, &credentials);
        client.over_tcp = true;
        let answer = client.hello(&self.token(name, &issued, "shop"));
        assert!(matches!(answer, RelayMessage::Welcome(_)), "{answer:?}");
        (client, bridge)
    }

    /// A connection whose TLS handshake is done, and what to talk TLS with.
    fn connect_tls(
        &self,
        config: ClientConfig,
    ) -> rustls::StreamOwned<ClientConnection, TcpStream> {
        let stream = TcpStream::connect(self.tcp()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        rustls::StreamOwned::new(tls(config), stream)
    }

    fn config_of(&self, name: &str) -> ClientConfig {
        let credentials = self.issue(name).credentials(None, Clock::system()).unwrap();
        credentials
            .tcp_client_config(&self.identity, TCP_ALPN)
            .unwrap()
    }
}

/// Shows nothing.
#[derive(Debug)]
struct Bare;

impl ResolvesClientCert for Bare {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

fn tls(config: ClientConfig) -> ClientConnection {
    let name = ServerName::try_from(SERVER_NAME).unwrap();
    ClientConnection::new(Arc::new(config), name).unwrap()
}

#[test]
fn nodes_over_tcp_and_over_udp_exchange_packets() {
    let world = World::new();
    let (mut a, _bridge_a) = world.join_over_tcp("a1");
    let (mut b, _bridge_b) = world.join_over_tcp("b1");
    let mut c = world.join("c1", "shop");
    let (to_b, to_c) = (
        a.open(&node("b1")).result.unwrap(),
        a.open(&node("c1")).result.unwrap(),
    );
    for length in [1, 600, MAX_PACKET] {
        let packet: Vec<u8> = (0..length).map(|i| i as u8).collect();
        a.send(to_b, &packet);
        assert_eq!(b.receive(), (a.link, packet.clone()));
        b.send(a.link, &packet);
        assert_eq!(a.receive(), (b.link, packet.clone()));
        a.send(to_c, &packet);
        assert_eq!(c.receive(), (a.link, packet.clone()));
        c.send(a.link, &packet);
        assert_eq!(a.receive(), (c.link, packet));
    }
    let report = world.report();
    assert_eq!(report.registrations, 3);
    assert_eq!(report.tcp.connections, 2);
    assert_balanced(&report.total);
    world.server.stop().unwrap();
}

#[test]
fn a_node_that_does_not_read_loses_datagrams_and_costs_no_memory() {
    let world = World::new();
    let (slow, bridge) = world.join_over_tcp("b1");
    let mut a = world.join("a1", "shop");
    assert_eq!(a.open(&node("b1")).result.unwrap(), slow.link);
    let unread = bridge.freeze();
    let started = Instant::now();
    let packet = vec![7; 1200];
    while world.report().tcp.lost == 0 {
        for _ in 0..500 {
            a.send(slow.link, &packet);
        }
        a.flush();
        assert!(started.elapsed() < PATIENCE, "{:?}", world.report());
    }
    let report = world.report_when(|report| report.total.queued.frames == 0);
    let slow_reader = &report.total.dropped_by_reason["slow_reader"];
    assert!(slow_reader.frames > 0, "{report:?}");
    assert_balanced(&report.total);
    drop(unread);
}

#[test]
fn strangers_at_the_tcp_port_are_refused_and_counted() {
    let world = World::new();
    // Garbage is no TLS.
    let mut stream = TcpStream::connect(world.tcp()).unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: relay\r\n\r\n")
        .unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // An alert or a reset, and then nothing.
    let _ = stream.read_to_end(&mut Vec::new());
    world.report_when(|report| report.tcp.handshakes_failed == 1);

    // Without a certificate.
    let mut config = world.config_of("a1");
    config.client_auth_cert_resolver = Arc::new(Bare);
    let mut bare = world.connect_tls(config);
    let _ = bare.write_all(&[0, 1, 0]);
    assert!(bare.read_to_end(&mut Vec::new()).is_err());
    world.report_when(|report| report.tcp.handshakes_failed == 2);

    // Under another root.
    let foreign = cluster().issue(&Identity::Node(node("a1")), SystemTime::now());
    let foreign = foreign.unwrap().credentials(None, Clock::system()).unwrap();
    let mut config = world.config_of("a1");
    let shown = foreign
        .tcp_client_config(&world.identity, TCP_ALPN)
        .unwrap();
    config.client_auth_cert_resolver = shown.client_auth_cert_resolver;
    let mut liar = world.connect_tls(config);
    let _ = liar.write_all(&[0, 1, 0]);
    assert!(liar.read_to_end(&mut Vec::new()).is_err());
    world.report_when(|report| report.tcp.handshakes_failed == 3);

    // A node that speaks something else in TLS: no datagram is empty.
    let mut rude = world.connect_tls(world.config_of("a1"));
    rude.write_all(&[0, 0]).unwrap();
    rude.flush().unwrap();
    let _ = rude.read_to_end(&mut Vec::new());
    world.report_when(|report| report.tcp.broken == 1);

    // One that sends frames without a registration is heard and not answered.
    let mut unknown = world.connect_tls(world.config_of("a1"));
    let mut frame = Vec::new();
    datagram::append(&mut frame, &[0x10; MAX_LEN]).unwrap();
    unknown.write_all(&frame).unwrap();
    unknown.flush().unwrap();
    let report = world.report_when(|report| report.total.dropped.frames == 1);
    assert_eq!(report.total.dropped_by_reason["unknown_link"].frames, 1);
    assert_eq!(report.tcp.connections, 1);
    world.server.stop().unwrap();
}

#[test]
fn a_token_is_asked_for_over_tcp_as_well() {
    let world = World::new();
    let issued = world.issue("a1");
    let bridge = Bridge::new(&world, &issued);
    let credentials = issued.credentials(None, Clock::system()).unwrap();
    let mut client = Client::new(bridge.address, &world.identity, &credentials);
    client.over_tcp = true;
    let other = world.token("b1", &world.issue("b1"), "shop");
    let refused = refusal(client.hello(&other));
    assert_eq!(refused.reason, HelloRefusal::Token);
    let report = world.report();
    assert_eq!((report.tokens_refused, report.registrations), (1, 0));
}

#[test]
fn connections_that_dawdle_are_ended_while_others_are_served() {
    let world = World::new();
    let dawdlers: Vec<TcpStream> = (0..40)
        .map(|_| {
            let mut stream = TcpStream::connect(world.tcp()).unwrap();
            // The beginning of a record that never ends.
            stream.write_all(&[22, 3, 1, 2, 0, 1]).unwrap();
            stream
        })
        .collect();
    world.report_when(|report| report.tcp.handshakes == 40);
    let (mut a, _bridge) = world.join_over_tcp("a1");
    let mut b = world.join("b1", "shop");
    let to_b = a.open(&node("b1")).result.unwrap();
    a.send(to_b, b"here");
    assert_eq!(b.receive().1, b"here");
    let report = world.report_when(|report| report.tcp.handshakes == 0);
    assert_eq!(report.tcp.handshakes_failed, 40);
    assert_eq!(report.tcp.connections, 1);
    drop(dawdlers);
}
