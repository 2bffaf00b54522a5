//! Moves bytes between sockets and streams, as far as both sides take them.

use std::io::{self, IoSlice};
use std::net::Shutdown;

use bytes::Bytes;
use netmanager_core::lane::Refused;
use quinn_proto::{Connection, ReadError, WriteError};
use socket2::Socket;

use super::conn::{Conn, ConnId, Stage, refusal_of};
use super::open::outcome;
use super::turns::TURN_BYTES;
use crate::driver::Driver;
use crate::driver::pool::BufferPool;
use crate::program_socket::NO_SIGNAL;
use crate::quic::Slot;

/// Read from a socket at once: what the TUN hands over at once.
const READ_BYTES: usize = 64 << 10;
/// Up to so many bytes are copied out of the buffer that they were read into.
const COPIED_BYTES: usize = 8 << 10;
/// Taken from a stream before the socket is asked whether it takes it.
const GATHER_BYTES: usize = 256 << 10;
/// Pieces written to a socket at once; the kernel takes 1024.
const GATHER_PIECES: usize = 512;

/// Why moving has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// There is nothing to move, or no room for it.
    Idle,
    /// The turn is over.
    Turn,
    /// The connection is broken.
    Broken(Refused),
}

impl Driver {
    /// Notes that a connection may have something to move.
    pub(super) fn want_turn(&mut self, slot: Slot, id: ConnId) {
        self.lane.turns.want(slot, id);
        self.touched.insert(slot);
    }

    /// Gives each connection of a session its turn that may have something to move.
    pub(in crate::driver) fn take_turns(&mut self, slot: Slot) {
        for id in self.lane.turns.take(slot) {
            self.pump(id);
        }
    }

    /// Moves what can be moved for one connection.
    fn pump(&mut self, id: ConnId) {
        let Self {
            lane,
            sessions,
            pool,
            ..
        } = self;
        let Some(conn) = lane.conns.get_mut(id) else {
            return;
        };
        // Before it is open there is only its opening to be sent.
        let is_open = matches!(conn.stage, Stage::Open);
        if !is_open && conn.to_stream.is_empty() {
            return;
        }
        let slot = conn.slot;
        let Some(session) = sessions.of_mut(slot) else {
            return;
        };
        let connection = &mut session.connection;
        let mut left = lane.turns.left(slot, id);
        let turn = left;
        let inwards = to_stream(conn, connection, pool, &mut left);
        if left < turn {
            lane.turns.served(slot, id, turn - left);
        }
        let was_answered = conn.answered;
        let outwards = match inwards {
            Stop::Idle | Stop::Turn if is_open => to_program(conn, connection),
            Stop::Idle | Stop::Turn | Stop::Broken(_) => Stop::Idle,
        };
        let now_answered = conn.answered && !was_answered;
        let done = conn.is_done();
        if now_answered {
            lane.counters.opened += 1;
            lane.settle(id);
        }
        for stop in [inwards, outwards] {
            match stop {
                Stop::Broken(why) => {
                    self.fail(id, why);
                    return;
                }
                Stop::Turn => {
                    self.lane.turns.want(slot, id);
                }
                Stop::Idle => {}
            }
        }
        if done {
            // The kernel sends what it still has, and QUIC as well.
            self.lane.remove(id);
        }
    }
}

/// From the socket into the stream, until so many bytes of the turn are used up.
fn to_stream(
    conn: &mut Conn,
    connection: &mut Connection,
    pool: &mut BufferPool,
    left: &mut usize,
) -> Stop {
    let mut stream = connection.send_stream(conn.stream);
    loop {
        while !conn.to_stream.is_empty() {
            match stream.write_chunks(std::slice::from_mut(&mut conn.to_stream)) {
                Ok(written) => *left = left.saturating_sub(written.bytes),
                Err(WriteError::Blocked) => return Stop::Idle,
                Err(WriteError::Stopped(code)) => {
                    return Stop::Broken(Refused::of_code(code.into_inner()));
                }
                Err(WriteError::ClosedStream) => return Stop::Broken(Refused::Reset),
            }
        }
        if conn.local_end {
            if !conn.finished {
                // Only a stopped stream refuses; its event follows.
                let _ = stream.finish();
                conn.finished = true;
            }
            return Stop::Idle;
        }
        if *left == 0 {
            return Stop::Turn;
        }
        match read(conn, pool, *left) {
            Ok(true) => {}
            Ok(false) => return Stop::Idle,
            Err(error) => return Stop::Broken(refusal_of(&error)),
        }
    }
}

/// Reads the socket once, at most so many bytes; false if it has nothing.
fn read(conn: &mut Conn, pool: &mut BufferPool, most: usize) -> io::Result<bool> {
    let Some(socket) = conn.socket.as_ref().filter(|_| conn.readable) else {
        return Ok(false);
    };
    let mut buffer = pool.take(READ_BYTES);
    let room = buffer.spare_capacity_mut();
    let room = room.len().min(READ_BYTES).min(most);
    match socket.recv(
        buffer
            .spare_capacity_mut()
            .get_mut(..room)
            .unwrap_or_default(),
    ) {
        Ok(count) => {
            // To write zeros over it first took longer than the call.
            // SAFETY: the buffer was empty, and the kernel has written its first `count` bytes.
            unsafe { buffer.set_len(count) };
            // Few bytes must not hold a large buffer until they are acknowledged.
            conn.to_stream = match buffer.get(..count) {
                Some(few) if count <= COPIED_BYTES => Bytes::copy_from_slice(few),
                Some(_) | None => buffer.split_to(count).freeze(),
            };
            conn.local_end = count == 0;
            pool.put(buffer);
            // An end hides the reset that came behind it.
            let reset = if conn.local_end {
                conn.socket.as_ref().map(Socket::take_error).transpose()?
            } else {
                None
            };
            reset.flatten().map_or(Ok(true), Err)
        }
        Err(error) => {
            pool.put(buffer);
            if error.kind() == io::ErrorKind::WouldBlock {
                conn.readable = false;
                return Ok(false);
            }
            if error.kind() == io::ErrorKind::Interrupted {
                return Ok(true);
            }
            Err(error)
        }
    }
}

/// From the stream into the socket, once it has said that the target has accepted: a program that
/// was told so before hears a reset if that was not true.
fn to_program(conn: &mut Conn, connection: &mut Connection) -> Stop {
    if !conn.answered {
        match outcome(connection, conn.stream) {
            Ok(answered) => conn.answered = answered,
            Err(why) => return Stop::Broken(why),
        }
    }
    if conn.answered {
        to_socket(conn, connection)
    } else {
        Stop::Idle
    }
}

/// From the stream into the socket.
fn to_socket(conn: &mut Conn, connection: &mut Connection) -> Stop {
    let mut moved = 0;
    loop {
        if let Err(why) = gather(conn, connection) {
            return Stop::Broken(why);
        }
        if conn.to_socket.is_empty() {
            return shut(conn);
        }
        if moved >= TURN_BYTES {
            return Stop::Turn;
        }
        match write(conn) {
            Ok(0) => return Stop::Idle,
            Ok(count) => moved += count,
            Err(error) => return Stop::Broken(refusal_of(&error)),
        }
    }
}

/// Takes from the stream what one call can write.
fn gather(conn: &mut Conn, connection: &mut Connection) -> Result<(), Refused> {
    if conn.remote_end {
        return Ok(());
    }
    let mut waiting = conn.waiting_for_socket();
    if waiting >= GATHER_BYTES {
        return Ok(());
    }
    let mut stream = connection.recv_stream(conn.stream);
    let Ok(mut chunks) = stream.read(true) else {
        return Err(Refused::Reset);
    };
    let mut result = Ok(());
    while waiting < GATHER_BYTES && conn.to_socket.len() < GATHER_PIECES {
        match chunks.next(usize::MAX) {
            Ok(Some(chunk)) => {
                waiting += chunk.bytes.len();
                conn.to_socket.push_back(chunk.bytes);
            }
            Ok(None) => {
                conn.remote_end = true;
                break;
            }
            Err(ReadError::Blocked) => break,
            Err(ReadError::Reset(code)) => {
                result = Err(Refused::of_code(code.into_inner()));
                break;
            }
        }
    }
    // The driver transmits after every pump, so more credit goes out anyway.
    let _ = chunks.finalize();
    result
}

/// Writes once; 0 if the socket takes nothing.
fn write(conn: &mut Conn) -> io::Result<usize> {
    let Some(socket) = conn.socket.as_ref().filter(|_| conn.writable) else {
        return Ok(0);
    };
    let pieces: Vec<IoSlice<'_>> = conn
        .to_socket
        .iter()
        .take(GATHER_PIECES)
        .map(|piece: &Bytes| IoSlice::new(piece))
        .collect();
    match socket.send_vectored_with_flags(&pieces, NO_SIGNAL) {
        Ok(count) => {
            conn.written(count);
            Ok(count)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            conn.writable = false;
            Ok(0)
        }
        Err(error) => Err(error),
    }
}

/// Closes the program's receiving direction once all has been written.
fn shut(conn: &mut Conn) -> Stop {
    if conn.remote_end && !conn.shut {
        conn.shut = true;
        let closed = conn
            .socket
            .as_ref()
            .map(|socket| socket.shutdown(Shutdown::Write));
        if let Some(Err(error)) = closed {
            return Stop::Broken(refusal_of(&error));
        }
    }
    Stop::Idle
}
