//! Tests over loopback: real sockets, clients on addresses of their own, and upstream servers that
//! do as they are told. The pool is the loopback network, so that clients can be instances.

use std::net::Ipv4Addr;

use hickory_proto::op::{Message, MessageType, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use netmanager_core::table::Nodes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener as Listener, TcpStream, UdpSocket as Datagrams};
use tokio::sync::mpsc;
use tokio::time::timeout;
use weald_proto::addr::{Dual, Pools};
use weald_proto::id::{Label, NodeId, Organisation};
use weald_proto::name::{ApplicationName, InstanceId, ServiceName, Zone};
use weald_proto::table::{AcceptPolicy, InstanceRow, LanePolicy, NodeRow, ServiceRow, Table};

use super::*;

const CLIENT: &str = "127.0.0.2";
const OTHER_CLIENT: &str = "127.0.0.3";
const STRANGER: &str = "127.0.0.99";
const WEB: &str = "127.0.8.1";
const NAME: &str = "web.prod.rr.local";

/// How long a test waits for what must come.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn names_are_answered_over_both_transports() {
    let server = Server::start(vec![]);
    assert_eq!(server.ask(CLIENT, NAME).await, WEB);
    assert_eq!(server.ask_tcp(CLIENT, NAME).await, WEB);
    assert_eq!(server.ask(CLIENT, "nope.prod.rr.local").await, "NXDomain");
    assert_eq!(server.count(Outcome::Answered), 2);
    assert_eq!(server.count(Outcome::NameError), 1);
}

#[tokio::test]
async fn strangers_are_refused_over_both_transports() {
    let server = Server::start(vec![]);
    assert_eq!(server.ask(STRANGER, NAME).await, "Refused");
    assert_eq!(server.ask_tcp(STRANGER, NAME).await, "Refused");
    assert_eq!(server.count(Outcome::Refused), 2);
}

#[tokio::test]
async fn a_wildcard_socket_answers_from_the_address_that_was_asked() {
    let server = Server::start_at("0.0.0.0:0", Options::default());
    let port = server.address.port();
    for asked in ["127.0.0.1", "127.0.7.7"] {
        let client = Datagrams::bind((CLIENT, 0)).await.unwrap();
        // A connected socket takes answers only from there.
        client.connect((asked, port)).await.unwrap();
        client.send(&query(NAME)).await.unwrap();
        assert_eq!(show(&receive(&client).await), WEB);
    }
}

#[tokio::test]
async fn ipv6_clients_are_answered_from_a_wildcard_socket() {
    let server = Server::start_at("[::]:0", Options::default());
    let client = Datagrams::bind("[::1]:0").await.unwrap();
    client
        .connect(("::1", server.address.port()))
        .await
        .unwrap();
    client.send(&query("shop.prod.web.prod.rr")).await.unwrap();
    assert_eq!(show(&receive(&client).await), WEB);
}

#[tokio::test]
async fn a_new_table_and_status_act_at_once() {
    let server = Server::start(vec![]);
    assert_eq!(server.ask(CLIENT, NAME).await, WEB);
    server.server.set_status(TableStatus::CutOff);
    assert_eq!(server.ask(CLIENT, "nope.prod.rr").await, "ServFail");
    server.server.set_status(TableStatus::Authoritative);
    let mut empty = table();
    empty.services.retain(|row| row.name.name.as_str() != "web");
    server.table.store(Arc::new(snapshot(&empty)));
    assert_eq!(server.ask(CLIENT, NAME).await, "NXDomain");
}

#[tokio::test]
async fn malformed_queries_are_turned_down() {
    let server = Server::start(vec![]);
    let client = server.client(CLIENT).await;
    for bad in [
        [&query(NAME)[..], b"x"].concat(),
        vec![0; 5000],
        query(NAME)[..12].to_vec(),
    ] {
        client.send(&bad).await.unwrap();
        assert_eq!(show(&receive(&client).await), "FormErr");
    }
    // No answers to these, and the next one is served.
    for ignored in [vec![], vec![1; 11], vec![0xff; 12]] {
        client.send(&ignored).await.unwrap();
    }
    client.send(&query(NAME)).await.unwrap();
    assert_eq!(show(&receive(&client).await), WEB);
    assert_eq!(server.count(Outcome::FormatError), 3);
    assert_eq!(server.count(Outcome::Ignored), 3);
}

#[tokio::test]
async fn a_long_message_on_a_stream_is_turned_down_and_ends_it() {
    let server = Server::start(vec![]);
    let mut stream = server.connect(CLIENT).await;
    stream.write_all(&u16::MAX.to_be_bytes()).await.unwrap();
    stream.write_all(&[0; 5000]).await.unwrap();
    assert_eq!(show(&read(&mut stream).await.unwrap()), "FormErr");
    assert!(read(&mut stream).await.is_none());
    for end in [0_u16, 3] {
        let mut stream = server.connect(CLIENT).await;
        stream.write_all(&end.to_be_bytes()).await.unwrap();
        stream.write_all(&vec![0; usize::from(end)]).await.unwrap();
        assert!(read(&mut stream).await.is_none(), "{end}");
    }
    assert_eq!(server.ask_tcp(CLIENT, NAME).await, WEB);
}

#[tokio::test]
async fn one_connection_carries_many_queries() {
    let server = Server::start(vec![]);
    let mut stream = server.connect(CLIENT).await;
    for _ in 0..3 {
        // Two at once, the second in pieces.
        let framed = frame(&query(NAME));
        stream
            .write_all(&[&framed[..], &framed[..5]].concat())
            .await
            .unwrap();
        assert_eq!(show(&read(&mut stream).await.unwrap()), WEB);
        stream.write_all(&framed[5..]).await.unwrap();
        assert_eq!(show(&read(&mut stream).await.unwrap()), WEB);
    }
}

#[tokio::test]
async fn idle_and_slow_connections_are_closed() {
    let server = Server::start_at(
        "127.0.0.1:0",
        Options {
            timing: Timing {
                idle: Duration::from_millis(50),
                ..Timing::default()
            },
            ..Options::default()
        },
    );
    let mut idle = server.connect(CLIENT).await;
    let mut slow = server.connect(CLIENT).await;
    slow.write_all(&frame(&query(NAME))[..7]).await.unwrap();
    assert!(read(&mut idle).await.is_none());
    assert!(read(&mut slow).await.is_none());
}

#[tokio::test]
async fn connections_are_limited_per_client() {
    let server = Server::start_at(
        "127.0.0.1:0",
        Options {
            limits: ClientLimits {
                connections_per_client: 2,
                ..ClientLimits::default()
            },
            ..Options::default()
        },
    );
    let mut held = [server.connect(CLIENT).await, server.connect(CLIENT).await];
    for stream in &mut held {
        stream.write_all(&frame(&query(NAME))).await.unwrap();
        assert_eq!(show(&read(stream).await.unwrap()), WEB);
    }
    let mut third = server.connect(CLIENT).await;
    assert!(read(&mut third).await.is_none());
    assert_eq!(server.count(Outcome::ConnectionLimited), 1);
    assert_eq!(server.ask_tcp(OTHER_CLIENT, NAME).await, WEB);
    drop(held);
    // The server learns of the closed connections in its own time.
    loop {
        let mut stream = server.connect(CLIENT).await;
        let sent = stream.write_all(&frame(&query(NAME))).await;
        if sent.is_ok() && read(&mut stream).await.is_some() {
            break;
        }
    }
}

#[tokio::test]
async fn other_names_are_asked_upstream_with_a_fresh_id() {
    let mut upstream = Upstream::start(|mut message| {
        message.metadata.message_type = MessageType::Response;
        answer_with(&mut message, "192.0.2.80");
        vec![message.to_vec().unwrap()]
    })
    .await;
    let server = Server::start(vec![upstream.address]);
    let mut ids = Vec::new();
    for _ in 0..8 {
        assert_eq!(server.ask(CLIENT, "ExAmPlE.com").await, "192.0.2.80");
        let asked = upstream.seen.recv().await.unwrap();
        assert_eq!(asked.queries[0].name().to_ascii(), "ExAmPlE.com.");
        ids.push(asked.metadata.id);
    }
    assert!(ids.iter().any(|id| *id != ids[0]), "random ids: {ids:?}");
    assert_eq!(server.ask_tcp(CLIENT, "example.com").await, "192.0.2.80");
    assert_eq!(server.count(Outcome::Forwarded), 9);
    // Names of ours are not asked upstream.
    for name in [
        "nope.prod.rr.local",
        "x.weald.internal",
        "9.9.9.127.in-addr.arpa",
    ] {
        assert_eq!(server.ask(CLIENT, name).await, "NXDomain");
    }
    assert_eq!(
        upstream.seen.recv().await.unwrap().queries[0]
            .name()
            .to_ascii(),
        "example.com."
    );
    assert!(upstream.seen.try_recv().is_err());
}

#[tokio::test]
async fn forged_replies_are_passed_over() {
    let upstream = Upstream::start(|mut message| {
        message.metadata.message_type = MessageType::Response;
        answer_with(&mut message, "192.0.2.66");
        let mut wrong_id = message.clone();
        wrong_id.metadata.id ^= 1;
        let mut wrong_question = message.clone();
        wrong_question.queries[0].set_name(Name::from_ascii("evil.example.").unwrap());
        message.answers.clear();
        answer_with(&mut message, "192.0.2.80");
        [vec![], vec![0xff; 700]]
            .into_iter()
            .chain([wrong_id, wrong_question, message].map(|m| m.to_vec().unwrap()))
            .collect()
    })
    .await;
    let server = Server::start(vec![upstream.address]);
    assert_eq!(server.ask(CLIENT, "example.com").await, "192.0.2.80");
}

#[tokio::test]
async fn truncation_is_passed_on_and_streams_go_by_stream() {
    let upstream = Upstream::start(|mut message| {
        message.metadata.message_type = MessageType::Response;
        message.metadata.truncation = true;
        vec![message.to_vec().unwrap()]
    })
    .await;
    let server = Server::start(vec![upstream.address]);
    let client = server.client(CLIENT).await;
    client.send(&query("example.com")).await.unwrap();
    assert!(receive(&client).await.metadata.truncation);
    let mut stream = server.connect(CLIENT).await;
    stream
        .write_all(&frame(&query("example.com")))
        .await
        .unwrap();
    // The fake server truncates there as well, which shows that it was asked by stream.
    assert!(read(&mut stream).await.unwrap().metadata.truncation);
}

#[tokio::test]
async fn the_next_server_is_asked_when_one_fails_or_is_silent() {
    let good = Upstream::start(|mut message| {
        message.metadata.message_type = MessageType::Response;
        answer_with(&mut message, "192.0.2.80");
        vec![message.to_vec().unwrap()]
    })
    .await;
    let failing = Upstream::start(|mut message| {
        message.metadata.message_type = MessageType::Response;
        message.metadata.response_code = ResponseCode::ServFail;
        vec![message.to_vec().unwrap()]
    })
    .await;
    let silent = Upstream::start(|_| vec![]).await;
    // Bound by nobody: the kernel says so at once.
    let closed = "127.0.200.1:9".parse().unwrap();
    for first in [failing.address, silent.address, closed] {
        let server = Server::start(vec![first, good.address]);
        assert_eq!(
            server.ask(CLIENT, "example.com").await,
            "192.0.2.80",
            "{first}"
        );
    }
    // With nobody better, the failure; with nobody at all, ours.
    let server = Server::start(vec![failing.address, closed]);
    assert_eq!(server.ask(CLIENT, "example.com").await, "ServFail");
    assert_eq!(server.count(Outcome::Forwarded), 1);
    for upstreams in [vec![], vec![closed], vec![silent.address]] {
        let server = Server::start_with_deadline(upstreams, Duration::from_millis(300));
        assert_eq!(server.ask(CLIENT, "example.com").await, "ServFail");
        assert_eq!(server.ask_tcp(CLIENT, "example.com").await, "ServFail");
        assert_eq!(server.count(Outcome::UpstreamFailed), 2);
    }
}

#[tokio::test]
async fn a_resolver_does_not_ask_itself() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let own = socket.local_addr().unwrap();
    let server = DnsServer::new(
        Arc::new(ArcSwap::from_pointee(snapshot(&table()))),
        vec![own],
        ClientLimits::default(),
        Arc::default(),
    );
    let sockets = DnsSockets {
        udp: vec![socket],
        tcp: vec![],
    };
    let error = server.serve(sockets).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "upstream DNS server {own} is this resolver itself; name another one in [dns] upstreams"
        )
    );
}

#[tokio::test]
async fn queries_that_wait_are_limited_per_client() {
    let upstream = Upstream::start(|message| {
        // Only the other client's name is answered.
        if message.queries[0].name().to_ascii() != "good.example." {
            return vec![];
        }
        let mut message = message;
        message.metadata.message_type = MessageType::Response;
        answer_with(&mut message, "192.0.2.80");
        vec![message.to_vec().unwrap()]
    })
    .await;
    let server = Server::start_at(
        "127.0.0.1:0",
        Options {
            upstreams: vec![upstream.address],
            limits: ClientLimits {
                forwards_per_client: 4,
                ..ClientLimits::default()
            },
            timing: Timing::default(),
        },
    );
    let client = server.client(CLIENT).await;
    for _ in 0..6 {
        client.send(&query("silent.example")).await.unwrap();
    }
    for _ in 0..2 {
        assert_eq!(show(&receive(&client).await), "Refused");
    }
    assert_eq!(server.count(Outcome::ForwardLimited), 2);
    assert_eq!(server.ask(OTHER_CLIENT, "good.example").await, "192.0.2.80");
    // What the node knows itself is still answered.
    assert_eq!(server.ask(CLIENT, NAME).await, WEB);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_does_not_keep_others_from_their_answers() {
    let server = Server::start_at(
        "127.0.0.1:0",
        Options {
            limits: ClientLimits {
                queries_per_sec: 50,
                refusals_per_sec: 10,
                ..ClientLimits::default()
            },
            ..Options::default()
        },
    );
    let address = server.address;
    let stop = Arc::new(AtomicBool::new(false));
    let flood = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let socket = UdpSocket::bind((CLIENT, 0)).unwrap();
            let query = query(NAME);
            let mut sent = 0_u64;
            while !stop.load(Ordering::Relaxed) || sent < 20_000 {
                sent += u64::from(socket.send_to(&query, address).is_ok());
            }
            sent
        }
    });
    for _ in 0..20 {
        let client = server.client(OTHER_CLIENT).await;
        // A datagram may be lost where the flood fills the socket; stub resolvers ask again.
        let mut answer = None;
        for _ in 0..50 {
            client.send(&query(NAME)).await.unwrap();
            let mut buffer = [0; 512];
            if let Ok(len) = timeout(Duration::from_millis(200), client.recv(&mut buffer)).await {
                answer = Some(Message::from_vec(&buffer[..len.unwrap()]).unwrap());
                break;
            }
        }
        assert_eq!(show(&answer.unwrap()), WEB);
    }
    stop.store(true, Ordering::Relaxed);
    let sent = flood.join().unwrap();
    let flooding = server.count(Outcome::Flooding);
    let told = server.count(Outcome::Answered) + server.count(Outcome::RateLimited);
    assert!(flooding > 0, "{sent} sent");
    assert!(told < sent / 2, "{told} of {sent} were answered");
}

#[derive(Default)]
struct Options {
    upstreams: Vec<SocketAddr>,
    limits: ClientLimits,
    timing: Timing,
}

/// A resolver under test.
struct Server {
    address: SocketAddr,
    server: DnsServer,
    table: Arc<ArcSwap<Snapshot>>,
    counters: Arc<DnsCounters>,
    _serving: JoinSet<anyhow::Result<()>>,
}

impl Server {
    /// With upstream servers, and little patience with each of them.
    fn start(upstreams: Vec<SocketAddr>) -> Self {
        Self::start_with_deadline(upstreams, Timing::default().deadline)
    }

    fn start_with_deadline(upstreams: Vec<SocketAddr>, deadline: Duration) -> Self {
        let timing = Timing {
            patience: Duration::from_millis(100),
            deadline,
            ..Timing::default()
        };
        let options = Options {
            upstreams,
            timing,
            ..Options::default()
        };
        Self::start_at("127.0.0.1:0", options)
    }

    fn start_at(address: &str, options: Options) -> Self {
        // UDP and TCP on the same port; another process may hold one of them.
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind(address).unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let table = Arc::new(ArcSwap::from_pointee(snapshot(&table())));
        let counters = Arc::new(DnsCounters::default());
        let server = DnsServer::with_timing(
            Arc::clone(&table),
            options.upstreams,
            options.limits,
            Arc::clone(&counters),
            options.timing,
        );
        let sockets = DnsSockets {
            udp: vec![udp],
            tcp: vec![tcp],
        };
        let mut serving = JoinSet::new();
        let running = server.clone();
        serving.spawn(async move { running.serve(sockets).await });
        Self {
            address,
            server,
            table,
            counters,
            _serving: serving,
        }
    }

    fn count(&self, outcome: Outcome) -> u64 {
        self.counters.of(outcome)
    }

    async fn client(&self, source: &str) -> Datagrams {
        let client = Datagrams::bind((source, 0)).await.unwrap();
        client.connect(self.address).await.unwrap();
        client
    }

    async fn connect(&self, source: &str) -> TcpStream {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket
            .bind(SocketAddr::new(source.parse().unwrap(), 0))
            .unwrap();
        socket.connect(self.address).await.unwrap()
    }

    async fn ask(&self, source: &str, name: &str) -> String {
        let client = self.client(source).await;
        client.send(&query(name)).await.unwrap();
        show(&receive(&client).await)
    }

    async fn ask_tcp(&self, source: &str, name: &str) -> String {
        let mut stream = self.connect(source).await;
        stream.write_all(&frame(&query(name))).await.unwrap();
        show(&read(&mut stream).await.unwrap())
    }
}

/// An upstream server that answers each query with the datagrams that a function makes of it.
struct Upstream {
    address: SocketAddr,
    seen: mpsc::UnboundedReceiver<Message>,
    _serving: JoinSet<()>,
}

impl Upstream {
    async fn start(reply: impl Fn(Message) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        // UDP and TCP on the same port; another process may hold one of them.
        let (socket, listener) = loop {
            let socket = Datagrams::bind("127.0.0.1:0").await.unwrap();
            if let Ok(listener) = Listener::bind(socket.local_addr().unwrap()).await {
                break (socket, listener);
            }
        };
        let address = socket.local_addr().unwrap();
        let (seen, receiver) = mpsc::unbounded_channel();
        let reply = Arc::new(reply);
        let mut serving = JoinSet::new();
        let (by_stream, seen_by_stream) = (Arc::clone(&reply), seen.clone());
        serving.spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let message = read(&mut stream).await.unwrap();
                seen_by_stream.send(message.clone()).unwrap();
                for reply in by_stream(message) {
                    stream.write_all(&frame(&reply)).await.unwrap();
                }
            }
        });
        serving.spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                let (len, client) = socket.recv_from(&mut buffer).await.unwrap();
                let message = Message::from_vec(&buffer[..len]).unwrap();
                seen.send(message.clone()).unwrap();
                for reply in reply(message) {
                    socket.send_to(&reply, client).await.unwrap();
                }
            }
        });
        Self {
            address,
            seen: receiver,
            _serving: serving,
        }
    }
}

fn query(name: &str) -> Vec<u8> {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Question::query(
        Name::from_ascii(name).unwrap(),
        RecordType::A,
    ));
    message.to_vec().unwrap()
}

fn answer_with(message: &mut Message, ip: &str) {
    let ip: Ipv4Addr = ip.parse().unwrap();
    let name = message.queries[0].name().clone();
    message.add_answer(Record::from_rdata(name, 60, RData::A(A(ip))));
}

/// The first address, or the code without one.
fn show(message: &Message) -> String {
    assert_eq!(message.metadata.message_type, MessageType::Response);
    match message.answers.first().map(|record| &record.data) {
        Some(data) => data.to_string(),
        None => format!("{:?}", message.metadata.response_code),
    }
}

async fn receive(client: &Datagrams) -> Message {
    let mut buffer = [0; 4096];
    let len = timeout(SOON, client.recv(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    Message::from_vec(&buffer[..len]).unwrap()
}

fn frame(message: &[u8]) -> Vec<u8> {
    let len = u16::try_from(message.len()).unwrap();
    [&len.to_be_bytes(), message].concat()
}

/// The next message of a stream; none when it has ended.
async fn read(stream: &mut TcpStream) -> Option<Message> {
    let read = async {
        let len = stream.read_u16().await.ok()?;
        let mut message = vec![0; usize::from(len)];
        stream.read_exact(&mut message).await.ok()?;
        Some(Message::from_vec(&message).unwrap())
    };
    timeout(SOON, read).await.unwrap()
}

fn snapshot(table: &Table) -> Snapshot {
    Snapshot::build(table, &node(), &mut Nodes::new(), 1)
}

fn table() -> Table {
    Table {
        pools: Pools {
            v4: "127.0.0.0/8".parse().unwrap(),
            v6: "::1/128".parse().unwrap(),
        },
        zones: Zone::defaults(),
        nodes: vec![NodeRow {
            id: node(),
            organisation: Organisation(label("acme")),
            addresses: Vec::new(),
            node_ip: dual("127.0.0.1", "::1"),
        }],
        relays: Vec::new(),
        services: vec![
            service("web", WEB, "127.0.9.1"),
            service("client", "127.0.8.2", "127.0.9.2"),
        ],
        instances: vec![instance(0, CLIENT), instance(1, OTHER_CLIENT)],
    }
}

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

fn node() -> NodeId {
    NodeId::new(label("munich"), label("a1"))
}

fn dual(v4: &str, v6: &str) -> Dual {
    Dual {
        v4: v4.parse().ok(),
        v6: v6.parse().ok(),
    }
}

fn service_name(name: &str) -> ServiceName {
    ServiceName {
        application: ApplicationName {
            name: label("shop"),
            namespace: label("prod"),
        },
        name: label(name),
        namespace: label("prod"),
    }
}

fn service(name: &str, round_robin: &str, closest: &str) -> ServiceRow {
    ServiceRow {
        name: service_name(name),
        organisation: Organisation(label("acme")),
        round_robin: dual(round_robin, ""),
        closest: dual(closest, ""),
        lane: LanePolicy::Auto,
        accept: AcceptPolicy::Late,
    }
}

fn instance(number: u32, ip: &str) -> InstanceRow {
    InstanceRow {
        id: InstanceId {
            service: service_name("client"),
            number,
        },
        node: node(),
        instance_ip: dual(ip, ""),
        ports: Vec::new(),
    }
}
