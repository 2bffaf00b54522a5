//! TCP sockets whose other ends are programs, where this process ends connections on their behalf.
//!
//! How they are set and how they end; whose they are, and what they carry, is the L4 lane's and
//! userspace mode's.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, Socket, TcpKeepalive};

/// Silence on a connection after which the kernel asks whether the program is still there.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
/// How often it asks, and how often in vain.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;

/// A broken connection is an error of the call, not a signal for the process.
pub(crate) const NO_SIGNAL: i32 = nix::libc::MSG_NOSIGNAL;

/// What `connect` says when it goes on by itself.
const IN_PROGRESS: i32 = nix::Error::EINPROGRESS as i32;

/// Sets a socket: no delay, and programs that are gone are noticed.
pub(crate) fn configure(socket: &Socket) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_TIME)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    socket.set_tcp_keepalive(&keepalive)
}

/// Begins to connect a socket that does not block.
pub(crate) fn connect(socket: &Socket, to: SocketAddr) -> io::Result<()> {
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() == Some(IN_PROGRESS) => Ok(()),
        other => other,
    }
}

/// Closes a socket so that its program hears a reset.
pub(crate) fn reset(socket: Socket) {
    // Without it the program would see an ordinary end of a stream that was cut.
    if let Err(error) = SockRef::from(&socket).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "no reset for a connection");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_that_are_gone_are_noticed() {
        let socket = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        configure(&socket).unwrap();
        assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
        let (time, interval) = (socket.tcp_keepalive_time(), socket.tcp_keepalive_interval());
        assert_eq!(time.unwrap(), KEEPALIVE_TIME);
        assert_eq!(interval.unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_RETRIES);
    }
}
