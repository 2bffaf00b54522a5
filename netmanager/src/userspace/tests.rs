//! Two nodes in userspace mode with a wire between their pipes: real sockets, no privileges.
//!
//! The wire stands for the packet path, so targets are instance addresses: what services mean is
//! the packet path's.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc;

use netmanager_core::table::Nodes;
use netmanager_core::vnet::VNET_HEADER_LEN;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::config::parse_table;

const TABLE: &str = r#"
[[node]]
id = "home/a"
organisation = "acme"
ipv4 = "10.30.0.1"
ipv6 = "fdff::1"

[[node]]
id = "home/b"
organisation = "acme"
ipv4 = "10.30.0.2"
ipv6 = "fdff::2"

[[service]]
application = "home.lab"
name = "echo.lab"
organisation = "acme"
rr = { ipv4 = "10.30.100.1", ipv6 = "fdff:2000::1" }
closest = { ipv4 = "10.30.101.1", ipv6 = "fdff:1000::1" }

[[service.instance]]
number = 0
node = "home/b"
ipv4 = "10.30.1.1"
ipv6 = "fdff::1:1"
"#;
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

#[test]
fn a_client_reaches_a_published_server_in_both_families() {
    let pair = Pair::new();
    for target in ["10.30.1.1:80", "[fdff::1:1]:80"] {
        let (mut client, mut server) = pair.connected(target);
        client.write_all(b"question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut server), b"question");
        server.write_all(b"an answer after the end").unwrap();
        drop(server);
        assert_eq!(read_all(&mut client), b"an answer after the end");
    }
    let [a, b] = [&pair.a, &pair.b].map(|node| node.shared.report());
    assert_eq!((a.opened, a.refused), (2, 0), "{a:?}");
    assert_eq!((b.accepted, b.refused), (2, 0), "{b:?}");
}

#[test]
fn many_bytes_cross_both_ways_at_once_and_arrive_whole() {
    const BYTES: usize = 8_000_000;
    let pair = Pair::new();
    let run = |mut writer: TcpStream, mut reader: TcpStream, seed: u8| {
        let writing = thread::spawn(move || {
            let block: Vec<u8> = (0..1 << 16).map(|at| pattern(at, seed)).collect();
            for at in (0..BYTES).step_by(1 << 16) {
                let len = (BYTES - at).min(1 << 16);
                writer.write_all(&block[..len]).unwrap();
            }
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let reading = thread::spawn(move || {
            let all = read_all(&mut reader);
            assert_eq!(all.len(), BYTES);
            let right = all.iter().enumerate();
            assert!(
                right
                    .into_iter()
                    .all(|(at, byte)| *byte == pattern(at % (1 << 16), seed))
            );
        });
        [writing, reading]
    };
    for target in ["10.30.1.1:80", "[fdff::1:1]:80"] {
        let (client, server) = pair.connected(target);
        let there = run(client.try_clone().unwrap(), server.try_clone().unwrap(), 1);
        let back = run(server, client, 2);
        for thread in there.into_iter().chain(back) {
            thread.join().unwrap();
        }
    }
}

#[test]
fn refusals_are_exact() {
    let pair = Pair::new();
    // Not published; published, and nobody listens; outside; no name of the overlay.
    for (target, reply) in [
        ("10.30.1.1:9", 5),
        ("10.30.1.1:81", 5),
        ("192.0.2.1:80", 2),
        ("example.com:80", 4),
        ("home.lab.wbe.lab.rr.local:80", 4),
    ] {
        let (answer, _) = pair.ask(target);
        assert_eq!(answer[1], reply, "{target}");
    }
    // The local one of the two clients of forwarded ports hears a reset.
    let mut client = TcpStream::connect(pair.a.shared.bound.forwards[0]).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn what_clients_say_may_come_in_pieces_and_with_what_follows() {
    let pair = Pair::new();
    let mut client = pair.client();
    let mut bytes = vec![5, 1, 0];
    bytes.extend([5, 1, 0, 1, 10, 30, 1, 1, 0, 80]);
    let (slowly, together) = bytes.split_at(bytes.len() - 1);
    for byte in slowly {
        client.write_all(&[*byte]).unwrap();
    }
    let last = [together, b"what follows"].concat();
    client.write_all(&last).unwrap();
    let (mut server, _) = pair.server.accept().unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut heard = [0; 12];
    server.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"what follows");
    let mut replies = [0; 12];
    client.read_exact(&mut replies).unwrap();
    assert_eq!(replies[..5], [5, 0, 5, 0, 0]);
    // Another protocol, a password that is wanted, and a head without an end.
    for (words, answer) in [
        (&b"\x04\x01"[..], &b""[..]),
        (b"\x05\x01\x02", b"\x05\xff"),
        (b"\x05\x01\x00\x05\x02", b"\x05\x00\x05\x07"),
    ] {
        let mut client = pair.client();
        client.write_all(words).unwrap();
        let heard = read_all(&mut client);
        assert!(heard.starts_with(answer), "{words:?}: {heard:?}");
        assert_eq!(heard.is_empty(), answer.is_empty());
    }
    let mut client = TcpStream::connect(pair.a.shared.bound.http.unwrap()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(&[b'x'; 9000]).unwrap();
    let answer = String::from_utf8(read_all(&mut client)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[test]
fn a_reset_crosses_in_both_directions_and_the_end_resets_all() {
    let mut pair = Pair::new();
    for server_resets in [true, false] {
        let (client, server) = pair.connected("10.30.1.1:80");
        let (gone, mut stays) = if server_resets {
            (server, client)
        } else {
            (client, server)
        };
        let linger = Some(std::time::Duration::ZERO);
        socket2::SockRef::from(&gone).set_linger(linger).unwrap();
        drop(gone);
        let error = stays.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    let (mut client, mut server) = pair.connected("10.30.1.1:80");
    pair.a.shutdown();
    for end in [&mut client, &mut server] {
        let error = end.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}

#[test]
fn an_application_that_is_not_known_is_asked_for_and_waited_for() {
    use netmanager_core::table::Scope;
    let unknown = snapshot("home/a").with_scope(Scope::Applications([].into()));
    let pair = Pair::with(unknown);
    let asking = thread::spawn({
        let at = pair.a.shared.bound.socks.unwrap();
        move || ask(at, "other.lab.echo.lab.rr.local:80").0
    });
    let asked = pair.asked.recv_timeout(PATIENCE).unwrap();
    assert_eq!(asked.to_string(), "other.lab");
    // Now it is known that there is none.
    let known = snapshot("home/a").with_scope(Scope::Applications([asked].into()));
    pair.table.store(Arc::new(known.clone()));
    pair.a.use_table(&known);
    assert_eq!(asking.join().unwrap()[1], 4);
}

#[test]
fn clients_beyond_the_bound_wait_until_others_leave() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = maximum;
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
    let pair = Pair::new();
    let mut idle: Vec<TcpStream> = (0..run::MAX_CONNECTIONS).map(|_| pair.client()).collect();
    let open = || pair.a.shared.report().open;
    let began = std::time::Instant::now();
    while open() < run::MAX_CONNECTIONS as u64 {
        assert!(began.elapsed() < PATIENCE, "{} are in", open());
        thread::yield_now();
    }
    let mut next = pair.client();
    next.write_all(&[5, 1, 0]).unwrap();
    let soon = std::time::Duration::from_millis(200);
    next.set_read_timeout(Some(soon)).unwrap();
    let error = next.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    drop(idle.pop());
    next.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut method = [0; 2];
    next.read_exact(&mut method).unwrap();
    assert_eq!(method, [5, 0]);
}

/// Two nodes, and the server that `b` publishes as an instance at port 80.
struct Pair {
    a: Userspace,
    b: Userspace,
    table: Arc<ArcSwap<Snapshot>>,
    server: TcpListener,
    asked: mpsc::Receiver<ApplicationName>,
}

impl Pair {
    fn new() -> Self {
        Self::with(snapshot("home/a"))
    }

    fn with(table: Snapshot) -> Self {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let loopback = "127.0.0.1:0".parse().unwrap();
        let at_a = UserspaceConfig {
            socks: Some(loopback),
            http: Some(loopback),
            forwards: vec!["0=10.30.1.1:9".parse().unwrap()],
            ..UserspaceConfig::default()
        };
        let closed = TcpListener::bind("127.0.0.1:0").unwrap();
        let publish = |port: u16, server: &TcpListener| {
            let server = server.local_addr().unwrap();
            let text = format!("home.lab.echo.lab.0:{port}={server}");
            text.parse().unwrap()
        };
        let at_b = UserspaceConfig {
            publish: vec![publish(80, &server), publish(81, &closed)],
            ..UserspaceConfig::default()
        };
        drop(closed);
        let (mut a, a_wire) = Userspace::prepare(at_a, &table).unwrap();
        let (mut b, b_wire) = Userspace::prepare(at_b, &snapshot("home/b")).unwrap();
        let (tell, asked) = mpsc::channel();
        let table = Arc::new(ArcSwap::from_pointee(table));
        let of_a = Tell {
            closest: Box::new(|_| {}),
            application: Box::new(move |name| drop(tell.send(name))),
        };
        let of_b = Tell {
            closest: Box::new(|_| {}),
            application: Box::new(|_| {}),
        };
        a.start(Arc::clone(&table), of_a).unwrap();
        let b_table = Arc::new(ArcSwap::from_pointee(snapshot("home/b")));
        b.start(b_table, of_b).unwrap();
        thread::spawn(move || wire(&a_wire, &b_wire));
        Self {
            a,
            b,
            table,
            server,
            asked,
        }
    }

    fn client(&self) -> TcpStream {
        let client = TcpStream::connect(self.a.shared.bound.socks.unwrap()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    }

    fn ask(&self, target: &str) -> (Vec<u8>, TcpStream) {
        ask(self.a.shared.bound.socks.unwrap(), target)
    }

    fn connected(&self, target: &str) -> (TcpStream, TcpStream) {
        let (reply, client) = self.ask(target);
        assert_eq!(reply[..2], [5, 0], "{target}");
        let (server, _) = self.server.accept().unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        (client, server)
    }
}

/// Asks SOCKS5 for a target; the reply, and the connection.
fn ask(socks: SocketAddr, target: &str) -> (Vec<u8>, TcpStream) {
    let mut client = TcpStream::connect(socks).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let (host, port) = target.rsplit_once(':').unwrap();
    let host = host.trim_matches(['[', ']']).as_bytes();
    let mut request = vec![5, 1, 0, 5, 1, 0, 3, u8::try_from(host.len()).unwrap()];
    request.extend(host);
    request.extend(port.parse::<u16>().unwrap().to_be_bytes());
    client.write_all(&request).unwrap();
    let mut method = [0; 2];
    client.read_exact(&mut method).unwrap();
    assert_eq!(method, [5, 0]);
    let mut reply = vec![0; 4];
    client.read_exact(&mut reply).unwrap();
    let rest = if reply[3] == 4 { 18 } else { 6 };
    client.read_exact(&mut vec![0; rest]).unwrap();
    (reply, client)
}

fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    all
}

fn pattern(at: usize, seed: u8) -> u8 {
    let mixed = (at as u64 / 8 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed.to_be_bytes()[at % 8] ^ seed
}

fn snapshot(me: &str) -> Snapshot {
    let table = parse_table(Path::new("table.toml"), TABLE).unwrap();
    Snapshot::build(&table, &me.parse().unwrap(), &mut Nodes::new(), 1)
}

/// Carries packets between two nodes until one of them is gone.
fn wire(a: &PacketEnd, b: &PacketEnd) {
    let mut buffer = vec![0; 1 << 17];
    loop {
        let mut fds = [a, b].map(|end| PollFd::new(end, PollFlags::IN));
        let timeout = Timespec::try_from(PATIENCE).unwrap();
        poll(&mut fds, Some(&timeout)).unwrap();
        for (from, to) in [(a, b), (b, a)] {
            while let Ok(len) = from.recv(&mut buffer) {
                let (header, packet) = buffer[..len].split_first_chunk().unwrap();
                let header: &[u8; VNET_HEADER_LEN] = header;
                match to.send(header, packet) {
                    // A full pipe loses packets, as a network does.
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
        }
    }
}
