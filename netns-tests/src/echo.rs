//! An echo server and client for TCP and UDP, as threads with sockets inside a namespace.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket;

use crate::namespace::Namespace;

/// How often a UDP server looks whether it shall stop.
const STOP_POLL: Duration = Duration::from_millis(20);

/// The largest datagram.
const MAX_DATAGRAM: usize = 1 << 16;

/// A server that sends back what it gets; it stops when dropped.
#[derive(Debug)]
pub struct EchoServer {
    address: SocketAddr,
    state: Arc<State>,
    listener: Option<TcpListener>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    stopped: AtomicBool,
    requests: AtomicU64,
}

impl EchoServer {
    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many datagrams or connections came in.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::Relaxed)
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::Relaxed);
        if let Some(listener) = &self.listener {
            // Wakes the accepting thread; there is nothing to do if that fails.
            let _ = socket::shutdown(listener.as_raw_fd(), socket::Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Namespace {
    /// Starts a TCP echo server; port 0 takes a free one.
    ///
    /// # Errors
    /// Fails if the address cannot be bound.
    pub fn tcp_echo(&self, address: SocketAddr) -> Result<EchoServer> {
        let listener = self.tcp_listen(address)?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::default());
        let (accepting, shared) = (listener.try_clone()?, Arc::clone(&state));
        let thread = thread::spawn(move || serve_tcp(&accepting, &shared));
        Ok(EchoServer {
            address,
            state,
            listener: Some(listener),
            thread: Some(thread),
        })
    }

    /// Starts a UDP echo server; port 0 takes a free one.
    ///
    /// # Errors
    /// Fails if the address cannot be bound.
    pub fn udp_echo(&self, address: SocketAddr) -> Result<EchoServer> {
        let socket = self.udp_bind(address)?;
        socket.set_read_timeout(Some(STOP_POLL))?;
        let address = socket.local_addr()?;
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let thread = thread::spawn(move || serve_udp(&socket, &shared));
        Ok(EchoServer {
            address,
            state,
            listener: None,
            thread: Some(thread),
        })
    }

    /// Sends `payload` over a TCP connection, closes that direction and returns what comes back.
    ///
    /// # Errors
    /// Fails if the connection does, or nothing comes for `timeout`.
    pub fn tcp_exchange(
        &self,
        to: SocketAddr,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<Vec<u8>> {
        let mut stream = self
            .tcp_connect(to, timeout)?
            .with_context(|| format!("connect to tcp {to}"))?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        let mut reader = stream.try_clone()?;
        let answer = thread::spawn(move || {
            let mut answer = Vec::new();
            reader.read_to_end(&mut answer).map(|_| answer)
        });
        stream
            .write_all(payload)
            .and_then(|()| stream.shutdown(Shutdown::Write))?;
        match answer.join() {
            Ok(answer) => answer.with_context(|| format!("read from tcp {to}")),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Sends one datagram from a new socket and returns the one that comes back from there.
    ///
    /// # Errors
    /// Fails if nothing comes within `timeout`, or the address is unreachable.
    pub fn udp_exchange(
        &self,
        to: SocketAddr,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<Vec<u8>> {
        let any: SocketAddr = if to.is_ipv4() {
            ([0; 4], 0).into()
        } else {
            ([0_u16; 8], 0).into()
        };
        let socket = self.udp_bind(any)?;
        socket.set_read_timeout(Some(timeout))?;
        socket
            .connect(to)
            .with_context(|| format!("connect to udp {to}"))?;
        let sent = socket.send(payload)?;
        ensure!(sent == payload.len(), "only {sent} bytes were sent");
        let mut buffer = vec![0; MAX_DATAGRAM];
        let length = socket
            .recv(&mut buffer)
            .with_context(|| format!("read from udp {to}"))?;
        buffer.truncate(length);
        Ok(buffer)
    }
}

fn serve_tcp(listener: &TcpListener, state: &State) {
    while let Ok((mut stream, _)) = listener.accept() {
        state.requests.fetch_add(1, Ordering::Relaxed);
        thread::spawn(move || {
            // A client that goes away early ends its connection, not the server.
            let copied = stream
                .try_clone()
                .and_then(|mut from| io::copy(&mut from, &mut stream));
            let _ = copied.and_then(|_| stream.shutdown(Shutdown::Both));
        });
    }
}

fn serve_udp(socket: &UdpSocket, state: &State) {
    let mut buffer = vec![0; MAX_DATAGRAM];
    while !state.stopped.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            state.requests.fetch_add(1, Ordering::Relaxed);
            // An answer that cannot be sent is missed by the client, who says so.
            let _ = socket.send_to(&buffer[..length], from);
        }
    }
}
