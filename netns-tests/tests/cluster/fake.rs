//! A cluster's end of the session with netmanagers: it knows what to say to whom, and decides
//! nothing.
//!
//! It welcomes every node of its book, answers interests from it, and says what it is told to. It
//! can die without a word.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use bytes::BytesMut;
use quinn_proto::{
    Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig, Event,
    ServerConfig, StreamEvent, StreamId,
};
use weald_proto::addr::{Dual, Pools};
use weald_proto::codec::{MAX_MESSAGE_LEN, Message as _};
use weald_proto::id::{Identity, NodeId};
use weald_proto::join::RenewResponse;
use weald_proto::name::{ApplicationName, Zone};
use weald_proto::session::{ALPN, ClusterToNet, NetToCluster, VERSION};
use weald_proto::statement::Signed;
use weald_proto::stream::{Deframer, framed};
use weald_trust::pki::ClusterAuthority;
use weald_trust::tls::{self, Credentials};

/// The longest pause between two looks at the clock.
const LOOK: Duration = Duration::from_millis(5);

/// What a cluster knows.
#[derive(Debug, Clone, Default)]
pub(super) struct Book {
    pub(super) grants: Vec<Signed>,
    pub(super) nodes: BTreeMap<NodeId, (Dual, Signed)>,
    pub(super) applications: BTreeMap<ApplicationName, Vec<Signed>>,
    /// Gives nodes their next certificates; without it nobody answers.
    pub(super) issuer: Option<Arc<ClusterAuthority>>,
}

/// What nodes have said.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) hellos: Vec<(NodeId, NetToCluster)>,
    pub(super) interests: BTreeMap<NodeId, BTreeSet<ApplicationName>>,
    /// The hashes of the keys that nodes have shown.
    pub(super) keys: BTreeMap<NodeId, [u8; 32]>,
}

/// A running cluster. It dies when dropped.
pub(super) struct FakeCluster {
    orders: Sender<(NodeId, ClusterToNet)>,
    pub(super) said: Arc<Mutex<Said>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl FakeCluster {
    pub(super) fn start(socket: UdpSocket, credentials: &Credentials, book: Book) -> Result<Self> {
        let crypto = credentials.server_config(&[ALPN])?;
        let mut config = EndpointConfig::default();
        config.grease_quic_bit(false);
        let server = ServerConfig::with_crypto(Arc::new(crypto));
        let (orders, inbox) = mpsc::channel();
        let said = Arc::new(Mutex::new(Said::default()));
        socket.set_read_timeout(Some(LOOK))?;
        let end = End {
            socket,
            endpoint: Endpoint::new(Arc::new(config), Some(Arc::new(server)), false, None),
            book,
            inbox,
            said: Arc::clone(&said),
            links: BTreeMap::new(),
        };
        let thread = std::thread::spawn(move || end.run());
        Ok(Self {
            orders,
            said,
            thread: Some(thread),
        })
    }

    /// Says something to a node, if it has a session.
    pub(super) fn say(&self, node: &NodeId, message: ClusterToNet) {
        let _ = self.orders.send((node.clone(), message));
    }

    /// Ends without a word, as a crash would.
    pub(super) fn die(mut self) -> Result<()> {
        let thread = self.thread.take();
        drop(self);
        match thread.map(JoinHandle::join) {
            Some(Ok(ended)) => ended,
            Some(Err(_)) => anyhow::bail!("the cluster has panicked"),
            None => Ok(()),
        }
    }
}

struct Link {
    connection: Connection,
    node: Option<NodeId>,
    stream: Option<StreamId>,
    deframer: Deframer,
    waiting: Vec<u8>,
}

struct End {
    socket: UdpSocket,
    endpoint: Endpoint,
    book: Book,
    inbox: Receiver<(NodeId, ClusterToNet)>,
    said: Arc<Mutex<Said>>,
    links: BTreeMap<usize, (ConnectionHandle, Link)>,
}

impl End {
    fn run(mut self) -> Result<()> {
        let mut buffer = [0; 2048];
        loop {
            loop {
                match self.inbox.try_recv() {
                    Ok((node, message)) => self.order(&node, &message)?,
                    Err(mpsc::TryRecvError::Empty) => break,
                    Err(mpsc::TryRecvError::Disconnected) => return Ok(()),
                }
            }
            match self.socket.recv_from(&mut buffer) {
                Ok((len, from)) => self.receive(&buffer[..len], from)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            for key in self.links.keys().copied().collect::<Vec<_>>() {
                self.drive(key)?;
            }
        }
    }

    fn order(&mut self, node: &NodeId, message: &ClusterToNet) -> Result<()> {
        let links = self.links.values_mut();
        for (_, link) in links.filter(|(_, link)| link.node.as_ref() == Some(node)) {
            link.waiting.extend(framed(&message.encode()?));
        }
        Ok(())
    }

    fn receive(&mut self, datagram: &[u8], from: SocketAddr) -> Result<()> {
        let now = Instant::now();
        let mut answer = Vec::new();
        let bytes = BytesMut::from(datagram);
        let event = self
            .endpoint
            .handle(now, from, None, None, bytes, &mut answer);
        match event {
            Some(DatagramEvent::NewConnection(incoming)) => {
                if let Ok((handle, connection)) =
                    self.endpoint.accept(incoming, now, &mut answer, None)
                {
                    let link = Link {
                        connection,
                        node: None,
                        stream: None,
                        deframer: Deframer::new(MAX_MESSAGE_LEN),
                        waiting: Vec::new(),
                    };
                    self.links.insert(handle.0, (handle, link));
                }
            }
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some((_, link)) = self.links.get_mut(&handle.0) {
                    link.connection.handle_event(event);
                }
            }
            Some(DatagramEvent::Response(response)) => {
                self.socket.send_to(&answer[..response.size], from)?;
            }
            None => {}
        }
        Ok(())
    }

    fn drive(&mut self, key: usize) -> Result<()> {
        let now = Instant::now();
        let Some((handle, link)) = self.links.get_mut(&key) else {
            return Ok(());
        };
        if link.connection.poll_timeout().is_some_and(|at| at <= now) {
            link.connection.handle_timeout(now);
        }
        while let Some(event) = link.connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(*handle, event) {
                link.connection.handle_event(event);
            }
        }
        let mut is_readable = false;
        let mut is_lost = false;
        while let Some(event) = link.connection.poll() {
            match event {
                Event::Connected => {
                    let peer = tls::peer_identity(link.connection.crypto_session());
                    if let Some(peer) = peer
                        && let Identity::Node(node) = peer.identity
                    {
                        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
                        said.keys.insert(node.clone(), peer.spki_sha256.0);
                        link.node = Some(node);
                    }
                }
                Event::ConnectionLost { .. } => is_lost = true,
                Event::Stream(StreamEvent::Opened { .. }) => {
                    link.stream = link.connection.streams().accept(Dir::Bi);
                    is_readable = true;
                }
                Event::Stream(StreamEvent::Readable { .. }) => is_readable = true,
                Event::Stream(_)
                | Event::DatagramReceived
                | Event::HandshakeDataReady
                | Event::DatagramsUnblocked => {}
            }
        }
        if is_readable {
            link.read();
            let from = link.connection.remote_address();
            while let Ok(Some(message)) = link.deframer.next_message() {
                let message = NetToCluster::decode(message)?;
                if let Some(node) = link.node.clone() {
                    let answers = answer(&self.book, &self.said, &node, message, from);
                    for answer in answers {
                        link.waiting.extend(framed(&answer.encode()?));
                    }
                }
            }
        }
        if let Some(stream) = link.stream
            && !link.waiting.is_empty()
            && let Ok(written) = link.connection.send_stream(stream).write(&link.waiting)
        {
            link.waiting.drain(..written);
        }
        let mut buffer = Vec::new();
        while let Some(transmit) = link.connection.poll_transmit(now, 1, &mut buffer) {
            self.socket
                .send_to(&buffer[..transmit.size], transmit.destination)?;
            buffer.clear();
        }
        if is_lost {
            self.links.remove(&key);
        }
        Ok(())
    }
}

impl Link {
    fn read(&mut self) {
        let Some(stream) = self.stream else {
            return;
        };
        let mut received = self.connection.recv_stream(stream);
        let Ok(mut chunks) = received.read(true) else {
            return;
        };
        while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
            self.deframer.feed(&chunk.bytes);
        }
        let _ = chunks.finalize();
    }
}

fn answer(
    book: &Book,
    said: &Mutex<Said>,
    node: &NodeId,
    message: NetToCluster,
    from: SocketAddr,
) -> Vec<ClusterToNet> {
    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
    match message {
        NetToCluster::Hello { .. } => {
            said.hellos.push((node.clone(), message));
            let Some((node_ip, lease)) = book.nodes.get(node) else {
                return Vec::new();
            };
            let welcome = ClusterToNet::Welcome {
                version: VERSION,
                observed: from,
                pools: Pools::default(),
                zones: Zone::defaults(),
                node_ip: *node_ip,
                relay_token: Vec::new(),
            };
            let grants = book.grants.iter().cloned().map(ClusterToNet::Grant);
            let lease = ClusterToNet::Lease(lease.clone());
            std::iter::once(welcome)
                .chain(grants)
                .chain([lease])
                .collect()
        }
        NetToCluster::Interests(applications) => {
            said.interests
                .insert(node.clone(), applications.iter().cloned().collect());
            let answer = |application| match book.applications.get(&application) {
                Some(rows) => ClusterToNet::Rows {
                    complete: vec![application],
                    rows: rows.clone(),
                    more: false,
                },
                None => ClusterToNet::Unknown(application),
            };
            applications.into_iter().map(answer).collect()
        }
        NetToCluster::Renew(request) => {
            let node = Identity::Node(node.clone());
            let renewed = book.issuer.iter().map(|issuer| {
                match issuer.issue_for_csr(&node, &request.csr, SystemTime::now()) {
                    Ok(chain) => RenewResponse::Renewed {
                        chain: chain.ders().into_iter().map(|der| der.to_vec()).collect(),
                    },
                    Err(error) => RenewResponse::Refused {
                        text: format!("{error:#}"),
                    },
                }
            });
            renewed.map(ClusterToNet::Renewed).collect()
        }
        NetToCluster::Addresses(_) | NetToCluster::KeepAlive => Vec::new(),
    }
}
