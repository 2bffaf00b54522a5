//! One connection: its socket, its stream, and what waits between the two.

use std::collections::VecDeque;
use std::io;
use std::time::Instant;

use bytes::Bytes;
use netmanager_core::flow::FlowId;
use netmanager_core::lane::Refused;
use netmanager_core::vnet::VnetHeader;
use quinn_proto::StreamId;
use slab::Slab;
use socket2::Socket;

use crate::quic::Slot;

/// Names a connection for as long as it lives; never means another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ConnId {
    index: u32,
    generation: u32,
}

impl ConnId {
    /// As epoll carries it.
    pub(super) const fn data(self) -> u64 {
        (self.generation as u64) << 32 | self.index as u64
    }

    pub(super) const fn of_data(data: u64) -> Self {
        Self {
            index: data as u32,
            generation: (data >> 32) as u32,
        }
    }
}

/// How far a connection has come.
#[derive(Debug)]
pub(super) enum Stage {
    /// Opened here: the far end connects; the packet waits.
    Asking { vnet: VnetHeader, packet: Vec<u8> },
    /// Opened here: the target has accepted, or the client need not wait for it; the stack has yet
    /// to accept.
    Admitted,
    /// Opened by a peer: what it says it wants is not all here.
    Hearing { heard: Vec<u8> },
    /// Opened by a peer: the stack connects to the target.
    Connecting,
    /// Bytes flow.
    Open,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) slot: Slot,
    pub(super) stream: StreamId,
    /// None until a peer's stream has said what it wants.
    pub(super) flow: Option<FlowId>,
    pub(super) stage: Stage,
    pub(super) deadline: Option<Instant>,
    /// Whether the far end has said that the target has accepted; true for what a peer has opened.
    pub(super) answered: bool,
    pub(super) socket: Option<Socket>,
    /// Whether the socket may have something to read, and take something.
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// Read from the socket, not taken by the stream yet.
    pub(super) to_stream: Bytes,
    /// The program has closed its direction, and the stream knows.
    pub(super) local_end: bool,
    pub(super) finished: bool,
    /// Read from the stream, not taken by the socket yet.
    pub(super) to_socket: VecDeque<Bytes>,
    /// The far end has closed its direction, and the socket knows.
    pub(super) remote_end: bool,
    pub(super) shut: bool,
}

impl Conn {
    pub(super) const fn new(
        slot: Slot,
        stream: StreamId,
        flow: Option<FlowId>,
        stage: Stage,
        deadline: Instant,
    ) -> Self {
        Self {
            slot,
            stream,
            flow,
            stage,
            deadline: Some(deadline),
            answered: flow.is_none(),
            socket: None,
            readable: false,
            writable: false,
            to_stream: Bytes::new(),
            local_end: false,
            finished: false,
            to_socket: VecDeque::new(),
            remote_end: false,
            shut: false,
        }
    }

    /// Whether both directions are closed and everything was passed on.
    pub(super) const fn is_done(&self) -> bool {
        self.finished && self.shut
    }

    /// Bytes that wait for the socket.
    pub(super) fn waiting_for_socket(&self) -> usize {
        self.to_socket.iter().map(Bytes::len).sum()
    }

    /// Takes out what the socket has taken.
    pub(super) fn written(&mut self, mut count: usize) {
        while count > 0 {
            let Some(front) = self.to_socket.front_mut() else {
                return;
            };
            if front.len() > count {
                bytes::Buf::advance(front, count);
                return;
            }
            count -= front.len();
            self.to_socket.pop_front();
        }
    }
}

/// What an error of a socket is called on the stream.
pub(super) fn refusal_of(error: &io::Error) -> Refused {
    match error.raw_os_error() {
        Some(code) if code == nix::Error::ECONNREFUSED as i32 => Refused::PortClosed,
        Some(code)
            if code == nix::Error::ETIMEDOUT as i32
                || code == nix::Error::EHOSTUNREACH as i32
                || code == nix::Error::ENETUNREACH as i32 =>
        {
            Refused::NoAnswer
        }
        Some(_) | None => Refused::Reset,
    }
}

/// The connections by their ids.
#[derive(Debug, Default)]
pub(super) struct Conns {
    conns: Slab<(u32, Box<Conn>)>,
    generation: u32,
}

impl Conns {
    pub(super) fn insert(&mut self, conn: Conn) -> ConnId {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let index = self.conns.insert((generation, Box::new(conn)));
        // There are far fewer descriptors than that.
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        ConnId { index, generation }
    }

    pub(super) fn get(&self, id: ConnId) -> Option<&Conn> {
        let (generation, conn) = self.conns.get(id.index as usize)?;
        (*generation == id.generation).then_some(conn)
    }

    pub(super) fn get_mut(&mut self, id: ConnId) -> Option<&mut Conn> {
        let (generation, conn) = self.conns.get_mut(id.index as usize)?;
        (*generation == id.generation).then_some(conn)
    }

    pub(super) fn remove(&mut self, id: ConnId) -> Option<Conn> {
        self.get(id)?;
        let (_, conn) = self.conns.try_remove(id.index as usize)?;
        Some(*conn)
    }

    pub(super) fn ids(&self) -> Vec<ConnId> {
        let taken = self.conns.iter();
        taken
            .filter_map(|(index, (generation, _))| {
                Some(ConnId {
                    index: u32::try_from(index).ok()?,
                    generation: *generation,
                })
            })
            .collect()
    }

    pub(super) fn len(&self) -> usize {
        self.conns.len()
    }
}

#[cfg(test)]
mod tests {
    use netmanager_core::lane::Refused;
    use quinn_proto::{Dir, Side};

    use super::*;

    fn conn() -> Conn {
        let stream = StreamId::new(Side::Client, Dir::Bi, 0);
        Conn::new(Slot(1), stream, None, Stage::Open, Instant::now())
    }

    #[test]
    fn an_id_never_means_another_connection() {
        let mut conns = Conns::default();
        let first = conns.insert(conn());
        assert!(conns.remove(first).is_some());
        let second = conns.insert(conn());
        assert_ne!(first, second);
        assert!(conns.get(first).is_none() && conns.remove(first).is_none());
        assert_eq!(ConnId::of_data(second.data()), second);
        assert_eq!(conns.ids(), [second]);
        assert_eq!(conns.len(), 1);
    }

    #[test]
    fn what_a_socket_has_taken_is_taken_out() {
        let mut conn = conn();
        conn.to_socket.extend([
            Bytes::from_static(b"abc"),
            Bytes::from_static(b"defg"),
            Bytes::from_static(b"h"),
        ]);
        conn.written(5);
        assert_eq!(conn.waiting_for_socket(), 3);
        assert_eq!(conn.to_socket.front().map(|b| &b[..]), Some(&b"fg"[..]));
        conn.written(3);
        assert_eq!(conn.waiting_for_socket(), 0);
    }

    #[test]
    fn errors_of_sockets_have_codes() {
        let of = |error: nix::Error| refusal_of(&error.into());
        assert_eq!(of(nix::Error::ECONNREFUSED), Refused::PortClosed);
        assert_eq!(of(nix::Error::EHOSTUNREACH), Refused::NoAnswer);
        assert_eq!(of(nix::Error::ECONNRESET), Refused::Reset);
        assert_eq!(of(nix::Error::EPIPE), Refused::Reset);
    }
}
