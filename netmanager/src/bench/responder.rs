//! The far end of a bench: takes load and gives it, for one peer and for a while.
//!
//! It is bound to the node's overlay address and to the host's end of the overlay's link, so that
//! only what came through the overlay reaches it, where nobody sends from an address that is not his;
//! of that it answers the asking node's alone, and only with the token that was told over the
//! session. For comparison there may be a second pair of sockets at the host's other addresses,
//! where the token alone counts. It sends nothing unasked: a datagram is answered by one of its own
//! size, bytes flow on connections that the other end opened. It ends by itself: when the asker goes,
//! or does not come, and after the time that was granted.

use std::io::{self, ErrorKind, IoSliceMut, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use quinn_udp::{RecvMeta, UdpSockRef, UdpSocketState};
use rustix::event::PollFlags;
use socket2::{Domain, Socket, Type};
use weald_measure::{stream, usage};

use super::wire::{COUNTS_BYTES, Counts, Datagram, HEAD_BYTES, Purpose, Token};

/// Connections at once: more than any bench opens.
const MAX_CONNECTIONS: usize = 64;
/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 128;
/// How often it is looked whether the bench is over.
const LOOK: Duration = Duration::from_millis(50);
/// How long a connection may take to say what it is for.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the asker may take to come.
const COMING_TIMEOUT: Duration = Duration::from_secs(15);
/// How often a port is tried that TCP and UDP both have free.
const PORT_TRIES: usize = 16;
/// What is read or written at once.
const BLOCK: usize = 128 << 10;
/// The name of all its threads, by which their CPU time is told from the daemon's.
const THREADS: &str = "bench-load";
/// What programs have where nothing else is said; the default differs between machines.
pub(super) const CONTROL: &str = "cubic";

/// A responder; dropping it ends the bench.
#[derive(Debug)]
pub struct Responder {
    shared: Arc<Shared>,
    port: u16,
    bare_port: Option<u16>,
}

/// What its threads have in common.
#[derive(Debug)]
struct Shared {
    token: Token,
    begun: Instant,
    until: Instant,
    over: AtomicBool,
    has_come: AtomicBool,
    connections: AtomicUsize,
    sink_bytes: AtomicU64,
    datagram_bytes: AtomicU64,
    /// CPU time of threads that have ended, in nanoseconds.
    ended_cpu: AtomicU64,
}

/// Where it answers.
#[derive(Debug, Clone)]
pub struct Place {
    /// The node's address in the overlay.
    pub address: IpAddr,
    /// The link that its packets come in by; none in tests without an overlay.
    pub device: Option<String>,
    /// The asker's address in the overlay.
    pub asker: IpAddr,
    /// Whether to answer at the host's other addresses as well.
    pub bare: bool,
}

impl Responder {
    /// Binds the sockets and starts to answer, for at most `time`.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn start(place: &Place, time: Duration) -> anyhow::Result<Self> {
        let begun = Instant::now();
        let shared = Arc::new(Shared {
            token: Token::draw()?,
            begun,
            until: begun + time,
            over: AtomicBool::new(false),
            has_come: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            sink_bytes: AtomicU64::new(0),
            datagram_bytes: AtomicU64::new(0),
            ended_cpu: AtomicU64::new(0),
        });
        // From here on an error ends what runs.
        let mut responder = Self {
            shared,
            port: 0,
            bare_port: None,
        };
        let sockets = bind(place.address, place.device.as_deref())
            .with_context(|| format!("cannot answer a bench at {}", place.address))?;
        responder.port = responder.serve(sockets, Some(place.asker))?;
        if place.bare {
            let any = bind(Ipv6Addr::UNSPECIFIED.into(), None)
                .or_else(|_| bind(Ipv4Addr::UNSPECIFIED.into(), None))
                .context("cannot answer a bench outside of the overlay")?;
            responder.bare_port = Some(responder.serve(any, None)?);
        }
        Ok(responder)
    }

    /// What load must show.
    #[must_use]
    pub fn token(&self) -> &Token {
        &self.shared.token
    }

    /// The port at the node's overlay address.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The port at the host's other addresses; none if it does not answer there.
    #[must_use]
    pub const fn bare_port(&self) -> Option<u16> {
        self.bare_port
    }

    /// Whether it answers no more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.shared.is_over()
    }

    fn serve(&self, sockets: (TcpListener, UdpSocket), asker: Option<IpAddr>) -> io::Result<u16> {
        let (listener, datagrams) = sockets;
        let port = listener.local_addr()?.port();
        let shared = Arc::clone(&self.shared);
        spawn(&self.shared, move || {
            accept(&listener, &shared, asker);
        })?;
        let shared = Arc::clone(&self.shared);
        spawn(&self.shared, move || {
            if let Err(error) = answer_datagrams(&datagrams, &shared, asker) {
                tracing::warn!("a bench's datagrams are not answered any more: {error:#}");
            }
        })?;
        Ok(port)
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn is_over(&self) -> bool {
        let now = Instant::now();
        let is_late = !self.has_come.load(Ordering::Relaxed) && now > self.begun + COMING_TIMEOUT;
        self.over.load(Ordering::Relaxed) || is_late || now > self.until
    }

    fn counts(&self) -> Counts {
        let nanoseconds = |seconds: f64| (seconds * 1e9) as u64;
        let living = usage::thread_seconds_of(std::process::id(), THREADS).unwrap_or(0.0);
        let load_cpu = nanoseconds(living) + self.ended_cpu.load(Ordering::Relaxed);
        let elapsed = self.begun.elapsed().as_nanos();
        Counts {
            nanoseconds: u64::try_from(elapsed).unwrap_or(u64::MAX),
            sink_bytes: self.sink_bytes.load(Ordering::Relaxed),
            datagram_bytes: self.datagram_bytes.load(Ordering::Relaxed),
            daemon_cpu: nanoseconds(usage::own_seconds()).saturating_sub(load_cpu),
            load_cpu,
        }
    }
}

/// A TCP listener and a UDP socket with the same port.
fn bind(address: IpAddr, device: Option<&str>) -> io::Result<(TcpListener, UdpSocket)> {
    let domain = Domain::for_address((address, 0).into());
    let mut tries = 0;
    loop {
        let socket = |kind, port| -> io::Result<Socket> {
            let socket = Socket::new(domain, kind, None)?;
            socket.bind_device(device.map(str::as_bytes))?;
            if domain == Domain::IPV6 {
                socket.set_only_v6(false)?;
            }
            socket.bind(&SocketAddr::new(address, port).into())?;
            Ok(socket)
        };
        let listener = socket(Type::STREAM, 0)?;
        // Accepted connections inherit it; where the module is missing the default remains.
        let _ = listener.set_tcp_congestion(CONTROL.as_bytes());
        listener.set_nonblocking(true)?;
        listener.listen(BACKLOG)?;
        let listener = TcpListener::from(listener);
        tries += 1;
        match socket(Type::DGRAM, listener.local_addr()?.port()) {
            Ok(datagrams) => return Ok((listener, datagrams.into())),
            Err(error) if error.kind() != ErrorKind::AddrInUse || tries == PORT_TRIES => {
                return Err(error);
            }
            Err(_) => {}
        }
    }
}

/// Starts a thread whose CPU time counts as load.
fn spawn(shared: &Arc<Shared>, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let shared = Arc::clone(shared);
    thread::Builder::new()
        .name(THREADS.to_owned())
        .spawn(move || {
            work();
            let used = (usage::thread_seconds() * 1e9) as u64;
            shared.ended_cpu.fetch_add(used, Ordering::Relaxed);
        })
        .map(drop)
}

/// Whether this is the asker; without one anybody may show the token.
fn is_from(asker: Option<IpAddr>, from: SocketAddr) -> bool {
    asker.is_none_or(|asker| asker == from.ip().to_canonical())
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, asker: Option<IpAddr>) {
    while !shared.is_over() {
        let (stream, from) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let _ = stream::wait(listener, PollFlags::IN, LOOK);
                continue;
            }
            // For want of descriptors, or gone before it was taken.
            Err(_) => {
                thread::sleep(LOOK);
                continue;
            }
        };
        let is_full = shared.connections.load(Ordering::Relaxed) >= MAX_CONNECTIONS;
        if is_full || !is_from(asker, from) {
            continue;
        }
        shared.connections.fetch_add(1, Ordering::Relaxed);
        let own = Arc::clone(shared);
        let spawned = spawn(shared, move || {
            // Whoever breaks off has his reasons.
            let _ = converse(stream, &own);
            own.connections.fetch_sub(1, Ordering::Relaxed);
        });
        if spawned.is_err() {
            shared.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn converse(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(HEAD_TIMEOUT))?;
    let mut head = [0; HEAD_BYTES];
    stream.read_exact(&mut head)?;
    let Some(purpose) = Purpose::read(&head, &shared.token) else {
        return Ok(());
    };
    stream.set_read_timeout(Some(LOOK))?;
    stream.set_write_timeout(Some(LOOK))?;
    match purpose {
        Purpose::Sink => sink(&mut stream, shared),
        Purpose::Source => source(&mut stream, shared),
        Purpose::Touch => stream.write_all(&[0]),
        Purpose::Report => {
            shared.has_come.store(true, Ordering::Relaxed);
            let reported = report(&mut stream, shared);
            shared.over.store(true, Ordering::Relaxed);
            reported
        }
    }
}

fn sink(stream: &mut TcpStream, shared: &Shared) -> io::Result<()> {
    let mut block = vec![0; BLOCK];
    while !shared.is_over() {
        match stream.read(&mut block) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                shared.sink_bytes.fetch_add(read as u64, Ordering::Relaxed);
            }
            Err(error) if is_pause(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn source(stream: &mut TcpStream, shared: &Shared) -> io::Result<()> {
    let block = vec![0x5a; BLOCK];
    while !shared.is_over() {
        match stream.write(&block) {
            Ok(_) => {}
            Err(error) if is_pause(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn report(stream: &mut TcpStream, shared: &Shared) -> io::Result<()> {
    while !shared.is_over() {
        match stream.read(&mut [0]) {
            Ok(0) => return Ok(()),
            Ok(_) => {
                let counts = shared.counts().encode();
                debug_assert_eq!(counts.len(), COUNTS_BYTES);
                stream.write_all(&counts)?;
            }
            Err(error) if is_pause(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Nothing came or went in time.
fn is_pause(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

fn answer_datagrams(
    socket: &UdpSocket,
    shared: &Shared,
    asker: Option<IpAddr>,
) -> anyhow::Result<()> {
    stream::set_buffers(socket)?;
    let state = UdpSocketState::new(UdpSockRef::from(socket))?;
    let mut buffers = vec![vec![0; 65_535]; quinn_udp::BATCH_SIZE];
    let mut metas = [RecvMeta::default(); quinn_udp::BATCH_SIZE];
    while !shared.is_over() {
        let mut slices: Vec<IoSliceMut<'_>> =
            buffers.iter_mut().map(|b| IoSliceMut::new(b)).collect();
        let batches = match state.recv(UdpSockRef::from(socket), &mut slices, &mut metas) {
            Ok(batches) => batches,
            Err(error) if is_pause(&error) => {
                stream::wait(socket, PollFlags::IN, LOOK)?;
                continue;
            }
            Err(error) => return Err(error).context("receive datagrams"),
        };
        for (meta, buffer) in metas.iter().zip(&buffers).take(batches) {
            if !is_from(asker, meta.addr) {
                continue;
            }
            let bytes = buffer.get(..meta.len).unwrap_or_default();
            for datagram in bytes.chunks(meta.stride.max(1)) {
                match Datagram::read(datagram, &shared.token) {
                    Some(Datagram::Count) => {
                        let length = datagram.len() as u64;
                        shared.datagram_bytes.fetch_add(length, Ordering::Relaxed);
                    }
                    // What cannot be answered counts as lost at the other end.
                    Some(Datagram::Echo) => drop(socket.send_to(datagram, meta.addr)),
                    None => {}
                }
            }
        }
    }
    Ok(())
}
