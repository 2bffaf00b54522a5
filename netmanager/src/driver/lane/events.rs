//! What the kernel says of the lane's sockets, and QUIC of its streams.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use netmanager_core::lane::{CONNECTED, Refused};
use quinn_proto::{Dir, StreamEvent, StreamId};
use rustix::event::{Timespec, epoll};
use socket2::Socket;

use super::conn::{ConnId, Stage, refusal_of};
use crate::driver::Driver;
use crate::program_socket::{configure, reset};
use crate::quic::Slot;

/// Events taken at once; what is left is told again.
const EVENTS: usize = 256;
/// Connections accepted at once, so that QUIC has its turn.
const ACCEPTS: usize = 64;

/// How long nothing is accepted after that has failed: descriptors do not come back sooner.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What epoll says of the listener with that number; no connection has it, because there are not so
/// many.
pub(super) const fn listener_data(number: usize) -> u64 {
    u64::MAX - number as u64
}

impl Driver {
    /// Acts on what the lane's sockets have.
    pub(in crate::driver) fn handle_lane_sockets(&mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let buffer = rustix::buffer::spare_capacity(&mut events);
        if let Err(error) = epoll::wait(&self.lane.epoll, buffer, Some(&at_once)) {
            tracing::debug!(%error, "epoll");
            return;
        }
        for event in events {
            let (flags, data) = (event.flags, event.data.u64());
            if let Some(number) = [0, 1].into_iter().find(|one| listener_data(*one) == data) {
                self.accept_local(number);
                continue;
            }
            let id = ConnId::of_data(data);
            let ended = epoll::EventFlags::ERR | epoll::EventFlags::HUP;
            let Some(conn) = self.lane.conns.get_mut(id) else {
                continue;
            };
            conn.readable |= flags.intersects(epoll::EventFlags::IN | ended);
            conn.writable |= flags.intersects(epoll::EventFlags::OUT | ended);
            match conn.stage {
                Stage::Connecting if conn.writable => self.finish_connect(id),
                Stage::Open => {
                    let slot = conn.slot;
                    // What has ended is not read any more, and so does not say that it was reset.
                    let broken = conn.local_end && flags.intersects(epoll::EventFlags::ERR);
                    match conn
                        .socket
                        .as_ref()
                        .filter(|_| broken)
                        .map(Socket::take_error)
                    {
                        Some(Ok(Some(error)) | Err(error)) => self.fail(id, refusal_of(&error)),
                        Some(Ok(None)) | None => self.want_turn(slot, id),
                    }
                }
                Stage::Connecting
                | Stage::Asking { .. }
                | Stage::Admitted
                | Stage::Hearing { .. } => {}
            }
        }
    }

    /// Has epoll tell of a connection's socket.
    pub(super) fn watch(&self, id: ConnId, socket: &Socket) -> io::Result<()> {
        let flags = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::ET;
        let data = epoll::EventData::new_u64(id.data());
        Ok(epoll::add(&self.lane.epoll, socket, data, flags)?)
    }

    /// Takes the connections that the stack has accepted, each for the flow whose phantom it is.
    fn accept_local(&mut self, number: usize) {
        for _ in 0..ACCEPTS {
            let Some(listener) = self.lane.sockets.listeners.get(number) else {
                return;
            };
            match listener.accept() {
                Ok((socket, phantom)) => self.attach(socket.into(), phantom),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "connections of the L4 lane are not accepted");
                    self.pause_accepting();
                    return;
                }
            }
        }
    }

    /// Looks at the listeners no more for a while: what cannot be accepted would be told of without
    /// end.
    fn pause_accepting(&mut self) {
        for listener in &self.lane.sockets.listeners {
            let _ = epoll::delete(&self.lane.epoll, listener);
        }
        self.lane.accepts_at = Some(self.now + ACCEPT_PAUSE);
    }

    /// Looks at the listeners again.
    pub(super) fn accept_again(&mut self) {
        self.lane.accepts_at = None;
        if let Err(error) = self.lane.watch_listeners() {
            tracing::warn!(%error, "the listeners of the L4 lane cannot be watched");
            self.pause_accepting();
        }
    }

    fn attach(&mut self, socket: Socket, phantom: SocketAddr) {
        let flow = self.plane.stream_of(phantom, self.now);
        let id = flow.and_then(|flow| self.lane.by_flow.get(&flow).copied());
        let found = id.and_then(|id| Some((id, self.lane.conns.get(id)?)));
        let Some((id, Stage::Admitted)) = found.map(|(id, conn)| (id, &conn.stage)) else {
            // Its stream has ended meanwhile.
            reset(socket);
            return;
        };
        if let Err(error) = configure(&socket).and_then(|()| self.watch(id, &socket)) {
            tracing::warn!(%error, "a connection cannot be watched");
            reset(socket);
            self.fail(id, Refused::NoRoom);
            return;
        }
        self.open(id, socket);
    }

    fn open(&mut self, id: ConnId, socket: Socket) {
        if let Some(conn) = self.lane.conns.get_mut(id) {
            conn.socket = Some(socket);
            conn.stage = Stage::Open;
            (conn.readable, conn.writable) = (true, true);
            let (slot, answered) = (conn.slot, conn.answered);
            self.want_turn(slot, id);
            if answered {
                self.lane.settle(id);
            }
        }
    }

    /// The stack has connected to the target, or could not.
    fn finish_connect(&mut self, id: ConnId) {
        let Some(conn) = self.lane.conns.get_mut(id) else {
            return;
        };
        let error = conn.socket.as_ref().map(Socket::take_error);
        let refused = match error {
            Some(Ok(None)) => None,
            Some(Ok(Some(error)) | Err(error)) => Some(refusal_of(&error)),
            None => Some(Refused::Reset),
        };
        if let Some(refused) = refused {
            // There is no connection that a reset could be of.
            self.fail(id, refused);
            return;
        }
        let slot = conn.slot;
        conn.stage = Stage::Open;
        // Before all that the target says, when the stream takes it.
        conn.to_stream = Bytes::from_static(&[CONNECTED]);
        self.lane.settle(id);
        self.lane.counters.accepted += 1;
        self.want_turn(slot, id);
    }

    /// Acts on what QUIC says of a stream of the lane.
    pub(in crate::driver) fn handle_lane_stream(&mut self, slot: Slot, event: StreamEvent) {
        match event {
            StreamEvent::Opened { dir: Dir::Bi } => self.take_streams(slot),
            StreamEvent::Readable { id } => self.stream_readable(slot, id),
            StreamEvent::Writable { id } => {
                if let Some(id) = self.lane.by_stream.get(&(slot, id)).copied() {
                    self.want_turn(slot, id);
                }
            }
            StreamEvent::Stopped { id, error_code } => {
                if let Some(id) = self.lane.by_stream.get(&(slot, id)).copied() {
                    self.fail(id, Refused::of_code(error_code.into_inner()));
                }
            }
            StreamEvent::Opened { dir: Dir::Uni }
            | StreamEvent::Finished { .. }
            | StreamEvent::Available { .. } => {}
        }
    }

    fn stream_readable(&mut self, slot: Slot, stream: StreamId) {
        let Some(id) = self.lane.by_stream.get(&(slot, stream)).copied() else {
            return;
        };
        match self.lane.conns.get(id).map(|conn| &conn.stage) {
            Some(Stage::Asking { .. }) => self.hear_outcome(id),
            Some(Stage::Hearing { .. }) => self.hear_hello(id),
            Some(Stage::Open) => self.want_turn(slot, id),
            // What has come waits, and holds the sender back.
            Some(Stage::Admitted | Stage::Connecting) | None => {}
        }
    }
}
