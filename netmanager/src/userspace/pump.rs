//! Moves bytes between the host's sockets and the stack's, as far as both sides take them.
//!
//! Nothing is kept in between: what is read from one goes straight into the other's buffer, so
//! whoever reads slowly holds back whoever writes.

use std::io::{self, ErrorKind};
use std::net::Shutdown;

use socket2::Socket;

use super::conn::{Conn, ConnId};
use super::run::Runner;
use super::stack::{Readable, Stack, Standing};
use crate::program_socket::NO_SIGNAL;

/// Moved for one connection in each direction before others have their turn.
const TURN_BYTES: usize = 256 << 10;

/// Why moving has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// There is nothing to move, or no room for it.
    Idle,
    /// The turn is over.
    Turn,
    /// The connection is broken.
    Broken,
}

impl Runner {
    /// Moves what can be moved for one connection.
    pub(super) fn pump(&mut self, id: ConnId) {
        let Self { conns, stack, .. } = self;
        let Some(conn) = conns.get_mut(&id) else {
            return;
        };
        let stops = [to_overlay(conn, stack), to_program(conn, stack)];
        if stops.contains(&Stop::Broken) {
            self.cut(id);
            return;
        }
        let is_done = conn.is_done();
        if stops.contains(&Stop::Turn) {
            self.want_turn(id);
        } else if is_done && let Some(conn) = self.remove(id) {
            // The kernel sends what it still has, and the stack as well.
            if let Some(port) = conn.port {
                self.stack.linger(port, self.now);
            }
        }
    }
}

/// From the host's socket into the stack.
fn to_overlay(conn: &mut Conn, stack: &mut Stack) -> Stop {
    let Some(port) = conn.port else {
        return Stop::Broken;
    };
    if stack.standing(port) == Standing::Closed {
        // In order only if the program had closed, and all of it has arrived.
        let in_order = conn.local_end && stack.is_sent(port);
        return if in_order { Stop::Idle } else { Stop::Broken };
    }
    let mut moved = 0;
    while conn.readable && !conn.local_end {
        if moved >= TURN_BYTES {
            return Stop::Turn;
        }
        let read = stack.fill(port, |room| {
            let read = read(&conn.socket, room);
            let count = read.as_ref().map_or(0, |count| count.unwrap_or(0));
            (count, read)
        });
        match read {
            // The stack has no room: its acknowledgements give the next turn.
            None => return Stop::Idle,
            Some(Ok(None)) => conn.readable = false,
            Some(Ok(Some(0))) => {
                stack.close(port);
                conn.local_end = true;
            }
            Some(Ok(Some(count))) => moved += count,
            Some(Err(_)) => return Stop::Broken,
        }
    }
    Stop::Idle
}

/// From the stack into the host's socket.
fn to_program(conn: &mut Conn, stack: &mut Stack) -> Stop {
    let Some(port) = conn.port else {
        return Stop::Broken;
    };
    let mut moved = 0;
    while !conn.remote_end {
        if moved >= TURN_BYTES {
            return Stop::Turn;
        }
        if !conn.writable && stack.has_unread(port) {
            return Stop::Idle;
        }
        let mut failed = None;
        let taken = stack.drain(port, |bytes| match write(&conn.socket, bytes) {
            Ok(count) => count,
            Err(error) => {
                failed = Some(error);
                0
            }
        });
        match (taken, failed) {
            (_, Some(error)) if error.kind() == ErrorKind::WouldBlock => conn.writable = false,
            (_, Some(_)) => return Stop::Broken,
            (Readable::Taken(count), None) => moved += count,
            (Readable::Nothing, None) => return Stop::Idle,
            (Readable::Reset, None) => return Stop::Broken,
            (Readable::End, None) => {
                conn.remote_end = true;
                if conn.socket.shutdown(Shutdown::Write).is_err() {
                    return Stop::Broken;
                }
            }
        }
    }
    Stop::Idle
}

/// Reads once; none if there is nothing, 0 at the end.
fn read(socket: &Socket, room: &mut [u8]) -> io::Result<Option<usize>> {
    match rustix::net::recv(socket, room, rustix::net::RecvFlags::empty()) {
        Ok((count, _)) => Ok(Some(count)),
        Err(rustix::io::Errno::AGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn write(socket: &Socket, bytes: &[u8]) -> io::Result<usize> {
    socket.send_with_flags(bytes, NO_SIGNAL)
}
