//! The packet thread: feeds the core with packets, frames and time, and does what it says.
//!
//! One plain thread owns the TUN, the data socket, the QUIC endpoint and the core's state, so the
//! packet path takes no lock and wakes nobody. Other threads talk to it through
//! [`DriverHandle`]: a new table, a question of the local API, the end. It decides nothing about
//! packets, names, flows or paths; that is netmanager-core's.
//!
//! ```text
//! TUN  --> packets --> DataPlane --> peers (queue) --> session --> drive --> socket
//! TUN <--  packets <-- DataPlane <-- session (chunks) <-- inbound <-- socket
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use netmanager_core::dataplane::{DataPlane, FlowLimits};
use netmanager_core::peer::budget::ProbeBudget;
use netmanager_core::peer::candidates::Surroundings;
use netmanager_core::peer::punch::PunchLimits;
use netmanager_core::peer::relay_link::Revoked;
use netmanager_core::rate::Bucket;
use netmanager_core::table::{PeerId, Snapshot};
use netmanager_core::verdict::Counters;
use quinn_proto::Endpoint;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use weald_proto::id::NodeId;
use weald_trust::tls::{self, Credentials};

use crate::device::Device;
use crate::quic::{self, CurrentSlot, Slot, VirtualAddresses};
use crate::socket::{DataSocket, ReceiveBuffers};

mod carriers;
mod choices;
mod cluster;
mod dial;
mod drive;
mod extra;
mod fast;
mod handle;
mod inbound;
mod inspect;
mod io;
mod lane;
mod networks;
mod packets;
mod peers;
mod pool;
mod punching;
mod queue;
mod relays;
mod session;
mod showing;
mod talk;
#[cfg(test)]
mod tests;
mod transmit;
mod tunnels;
mod unmeasured;

pub use self::choices::ChoiceFile;
pub use self::cluster::Heard;
pub use self::handle::DriverHandle;
pub use self::lane::LaneSockets;

use self::cluster::ClusterLink;
use self::fast::Fast;
use self::handle::Command;
use self::io::Io;
use self::lane::Lane;
use self::peers::PeerEntry;
use self::pool::BufferPool;
use self::relays::RelayEntry;
use self::session::Sessions;

/// What the TUN hands over at once: a super-packet of 64 KiB behind its header.
const TUN_BUFFER_BYTES: usize = 65_535 + 64;
/// The longest sleep, so that a timer that was forgotten shows as a delay and not as a hang.
const MAX_SLEEP: Duration = Duration::from_secs(5);

/// What the packet thread needs to start.
pub struct DriverConfig {
    /// This node's certificate, key and relay token.
    pub credentials: Arc<Credentials>,
    /// The bound data socket.
    pub socket: DataSocket,
    /// The overlay's TUN, or what stands in its place.
    pub tun: Device,
    /// The table to start with.
    pub table: Arc<Snapshot>,
    /// The kept key of stateless resets: peers learn of a restart by them.
    pub reset_key: [u8; 32],
    /// Peers that had sessions before a restart; they are dialled at once.
    pub known_peers: Vec<NodeId>,
    /// Told whenever the set of peers with a session changes.
    pub on_peers: Box<dyn Fn(Vec<NodeId>) + Send>,
    /// Where the own cluster is dialled; none without one.
    pub cluster: Option<Vec<SocketAddr>>,
    /// The relay token that the cluster has given; none means the one beside the certificate.
    pub relay_token: Option<Vec<u8>>,
    /// What peers are shown, each message behind its length; empty without a cluster.
    pub shown: Vec<u8>,
    /// The newest list of the revoked, for relays; none without a cluster.
    pub revoked: Option<Revoked>,
    /// Whether direct ways are opened through NATs, and how hard.
    pub punch: PunchLimits,
    /// After how long sessions that nobody uses are closed.
    pub idle_teardown: Duration,
    /// Addresses of this node that the operator has named.
    pub advertise: Vec<SocketAddr>,
    /// Told what the cluster says, and what peers show.
    pub heard: Box<dyn Fn(Heard) + Send>,
    /// Where connections of the L4 lane end.
    pub lane: LaneSockets,
    /// Whether TCP goes in sealed frames beside QUIC to peers that have it as well.
    pub fast_lane: bool,
    /// Where it is kept over a restart where connections to services go.
    pub choices: ChoiceFile,
}

impl std::fmt::Debug for DriverConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DriverConfig")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

/// The running packet thread.
#[derive(Debug)]
pub struct RunningDriver {
    handle: DriverHandle,
    thread: JoinHandle<()>,
}

impl RunningDriver {
    /// Something to talk to the thread with.
    #[must_use]
    pub const fn handle(&self) -> &DriverHandle {
        &self.handle
    }

    /// Ends the sessions, stops the thread and waits for it.
    pub fn shutdown(self) {
        let _ = self.handle.send(Command::Shutdown);
        if self.thread.join().is_err() {
            tracing::error!("the packet thread has panicked");
        }
    }

    /// Whether the thread has ended by itself.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Starts the packet thread.
///
/// # Errors
/// The kernel or the TLS library refuses something.
pub fn spawn(config: DriverConfig) -> anyhow::Result<RunningDriver> {
    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let wake = Arc::new(wake);
    let (commands, receiver) = mpsc::channel();
    let mut driver = Driver::new(config, receiver, Arc::clone(&wake))?;
    let thread = thread::Builder::new()
        .name("packets".to_owned())
        .spawn(move || driver.run())
        .context("cannot start the packet thread")?;
    Ok(RunningDriver {
        handle: DriverHandle { commands, wake },
        thread,
    })
}

/// Which descriptors have something.
#[derive(Debug, Clone, Copy)]
struct Ready {
    socket: bool,
    tun: bool,
    commands: bool,
    lane: bool,
    extra: bool,
    tunnels: bool,
}

/// The state of the packet thread.
struct Driver {
    io: Io,
    receive_buffers: ReceiveBuffers,
    tun_buffer: Vec<u8>,
    batch: Vec<u8>,
    frames: Vec<u8>,
    scratch: Vec<u8>,
    pool: BufferPool,

    endpoint: Endpoint,
    current_slot: CurrentSlot,
    addresses: VirtualAddresses,
    credentials: Arc<Credentials>,
    sessions: Sessions,
    touched: BTreeSet<Slot>,
    /// Peers that connections waited for and that are measured now.
    measured: BTreeSet<PeerId>,

    peers: BTreeMap<PeerId, PeerEntry>,
    relays: Vec<RelayEntry>,
    relay_plan: relays::Plan,
    cluster: Option<ClusterLink>,
    relay_token: Option<Vec<u8>>,
    shown: Vec<u8>,
    revoked: Option<Revoked>,
    guests: BTreeMap<Slot, NodeId>,
    heard: Box<dyn Fn(Heard) + Send>,
    on_peers: Box<dyn Fn(Vec<NodeId>) + Send>,
    told_peers: Vec<NodeId>,

    lane: Lane,
    choices: ChoiceFile,
    /// For connections of the L4 lane that others dial.
    lane_server: quinn_proto::ServerConfig,
    fast: Fast,

    table: Arc<Snapshot>,
    plane: DataPlane,
    counters: Counters,
    surroundings: Surroundings,
    /// Observers have said something that peers have not been told.
    has_untold: bool,
    /// How often it was asked of late whether the NAT has forgotten its ports.
    doubts: Bucket,
    punch_limits: PunchLimits,
    probe_budget: ProbeBudget,
    idle_teardown: Duration,
    /// Hops after which opening probes die: one beyond the NATs of this site.
    opening_hops: u8,
    /// The socket of a spray that is being read.
    arrived_on: Option<extra::Key>,
    /// What is being read has come over TCP.
    arrived_over_tcp: bool,
    /// Handshakes of strangers that came to nothing.
    refused_handshakes: u64,

    commands: Receiver<Command>,
    wake: Arc<OwnedFd>,
    now: Instant,
    seed: u64,
    stopping: bool,
}

/// Waits for descriptors: data socket, TUN, commands, the lane, those of sprays, TCP to relays.
fn ready_of(mut fds: [PollFd<'_>; 6], timeout: &Timespec) -> Ready {
    // After EINTR and the like: look at everything.
    let failed = poll(&mut fds, Some(timeout)).is_err();
    let [socket, tun, commands, lane, extra, tunnels] =
        fds.map(|fd| failed || !fd.revents().is_empty());
    Ready {
        socket,
        tun,
        commands,
        lane,
        extra,
        tunnels,
    }
}

impl Driver {
    fn new(
        config: DriverConfig,
        commands: Receiver<Command>,
        wake: Arc<OwnedFd>,
    ) -> anyhow::Result<Self> {
        let current_slot = CurrentSlot::new();
        let crypto = config.credentials.server_config(&[tls::PEER_ALPN])?;
        let server = Arc::new(quic::server_config(crypto));
        let crypto = config.credentials.server_config(&[quic::LANE_ALPN])?;
        let lane_server = quic::lane_server_config(crypto);
        let fast = Fast::new(if config.fast_lane {
            let alpn = &[quic::agreement::FAST_ALPN];
            let crypto = config.credentials.server_config(alpn)?;
            Some(quic::agreement::server_config(crypto))
        } else {
            None
        });
        let endpoint_config = Arc::new(quic::endpoint_config(&config.reset_key, &current_slot));
        let mut seed = [0; 8];
        aws_lc_rs::rand::fill(&mut seed).map_err(|_| anyhow::anyhow!("no randomness"))?;
        let seed = u64::from_ne_bytes(seed);
        let now = Instant::now();
        let plane = DataPlane::new(FlowLimits::default(), seed);
        let plane = if config.lane.has_stack() {
            plane
        } else {
            plane.without_stack()
        };
        let mut driver = Self {
            io: Io::new(config.socket, config.tun)?,
            receive_buffers: ReceiveBuffers::new(),
            tun_buffer: vec![0; TUN_BUFFER_BYTES],
            batch: Vec::new(),
            frames: Vec::new(),
            scratch: Vec::new(),
            pool: BufferPool::default(),
            endpoint: Endpoint::new(endpoint_config, Some(server), true, None),
            current_slot,
            addresses: VirtualAddresses::new(),
            credentials: config.credentials,
            sessions: Sessions::default(),
            touched: BTreeSet::new(),
            measured: BTreeSet::new(),
            peers: BTreeMap::new(),
            relays: Vec::new(),
            relay_plan: relays::Plan::default(),
            cluster: config
                .cluster
                .map(|addresses| ClusterLink::new(addresses, now)),
            relay_token: config.relay_token,
            shown: config.shown,
            revoked: config.revoked,
            guests: BTreeMap::new(),
            heard: config.heard,
            on_peers: config.on_peers,
            told_peers: Vec::new(),
            lane: Lane::new(config.lane)?,
            choices: config.choices,
            lane_server,
            fast,
            table: Arc::clone(&config.table),
            plane,
            counters: Counters::default(),
            surroundings: Surroundings::default(),
            has_untold: false,
            doubts: Bucket::default(),
            punch_limits: config.punch,
            probe_budget: ProbeBudget::default(),
            idle_teardown: config.idle_teardown,
            opening_hops: punching::OPENING_HOPS,
            arrived_on: None,
            arrived_over_tcp: false,
            refused_handshakes: 0,
            commands,
            wake,
            now,
            seed,
            stopping: false,
        };
        driver.restore_choices();
        driver.surroundings.set_configured(config.advertise);
        driver.set_table(config.table);
        let known: Vec<PeerId> = driver
            .peers
            .iter()
            .filter(|(_, entry)| config.known_peers.contains(&entry.node))
            .map(|(peer, _)| *peer)
            .collect();
        for peer in known {
            driver.want(peer);
        }
        Ok(driver)
    }

    fn run(&mut self) {
        while !self.stopping {
            let ready = self.sleep();
            self.now = Instant::now();
            if !self.io.is_writable() {
                self.io.flush();
                if self.io.is_writable() {
                    self.touched.extend(self.sessions.slots());
                }
            }
            if ready.socket {
                self.receive();
            }
            if ready.extra {
                self.receive_extra();
            }
            if ready.tunnels {
                self.receive_tunnels();
            }
            if ready.tun {
                self.read_tun();
            }
            if ready.lane {
                self.handle_lane_sockets();
            }
            if ready.commands {
                self.handle_commands();
            }
            self.handle_timeouts();
            self.drive_touched();
            self.decide_measured();
            self.flush_tunnels();
        }
        self.end_sessions();
    }

    /// Sleeps until a descriptor is ready or something is due.
    fn sleep(&mut self) -> Ready {
        let due = self
            .deadline()
            .map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = due.unwrap_or(MAX_SLEEP).min(MAX_SLEEP);
        let is_idle = self.touched.is_empty() && self.measured.is_empty();
        let timeout = if is_idle && !self.lane.has_more() {
            timeout
        } else {
            Duration::ZERO
        };
        let socket_events = if self.io.is_writable() {
            PollFlags::IN
        } else {
            PollFlags::IN | PollFlags::OUT
        };
        let fds = [
            PollFd::from_borrowed_fd(self.io.socket.as_fd(), socket_events),
            PollFd::from_borrowed_fd(self.io.tun.as_fd(), PollFlags::IN),
            PollFd::new(&*self.wake, PollFlags::IN),
            PollFd::new(self.lane.descriptor(), PollFlags::IN),
            PollFd::new(self.io.extra.descriptor(), PollFlags::IN),
            PollFd::new(self.io.tunnels.descriptor(), PollFlags::IN),
        ];
        let timeout = Timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        ready_of(fds, &timeout)
    }

    fn deadline(&mut self) -> Option<Instant> {
        let sessions = self.sessions.deadline();
        let plane = self.plane.poll_timeout().map(|(at, _)| at);
        let lane = self.lane_deadline();
        let relays = [self.relay_deadline(), self.carrier_deadline()];
        let links = [self.cluster_deadline(), lane, self.fast_deadline()];
        let links = links.into_iter().chain(relays);
        let observers = self.surroundings.poll_timeout();
        [sessions, plane, self.peer_deadline(), observers]
            .into_iter()
            .chain(links)
            .flatten()
            .min()
    }

    fn handle_timeouts(&mut self) {
        self.handle_session_timeouts();
        self.handle_peer_timeouts();
        self.handle_carrier_timeouts();
        self.handle_relay_timeouts();
        self.handle_cluster_timeouts();
        self.handle_observer_timeouts();
        self.handle_lane_timeouts();
        self.handle_fast_timeouts();
        if self
            .plane
            .poll_timeout()
            .is_some_and(|(at, _)| at <= self.now)
        {
            self.plane.handle_timeout(self.now);
        }
        self.poll_plane();
    }

    fn set_table(&mut self, table: Arc<Snapshot>) {
        let other_pools = self.table.pools() != table.pools();
        self.table = Arc::clone(&table);
        self.plane.set_table(table, self.now);
        self.check_published();
        self.update_relays();
        self.update_peers();
        if other_pools {
            // Which addresses of peers are the overlay's own is not as it was.
            self.tell_surroundings();
        }
        self.seat_guests();
        self.poll_plane();
    }

    fn set_relay_token(&mut self, token: Vec<u8>) {
        self.relay_token = (!token.is_empty()).then_some(token);
    }

    /// Tells whoever keeps it on disk which peers have a session, if that has changed.
    fn remember_peers(&mut self) {
        let up = self.peers.values().filter(|entry| entry.session.is_some());
        let up: Vec<NodeId> = up.map(|entry| entry.node.clone()).collect();
        // At the end all sessions go; the next start wants to know who was there.
        if up != self.told_peers && !self.stopping {
            self.told_peers.clone_from(&up);
            (self.on_peers)(up);
        }
    }
}
