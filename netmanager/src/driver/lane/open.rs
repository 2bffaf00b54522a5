//! How connections begin: asked for here, or by a peer; and how they end before they have begun.

use std::net::SocketAddr;

use netmanager_core::flow::FlowId;
use netmanager_core::lane::{CONNECTED, Hello, HelloError, MAX_HELLO_LEN, Refused};
use netmanager_core::table::PeerId;
use netmanager_core::verdict::Verdict;
use netmanager_core::vnet::VnetHeader;
use quinn_proto::{Dir, ReadError, StreamId, VarInt};
use weald_proto::table::AcceptPolicy;

use super::conn::{Conn, ConnId, Stage, refusal_of};
use super::peers::Waiting;
use super::sockets::Ready;
use super::{OPEN_TIMEOUT, SOCKET_PAUSE};
use crate::driver::Driver;
use crate::driver::session::With;
use crate::program_socket::{connect, reset};
use crate::quic::Slot;

impl Driver {
    /// A flow wants a stream; its first packet waits. A packet that comes again changes nothing.
    pub(in crate::driver) fn want_stream(&mut self, flow: FlowId, vnet: VnetHeader, packet: &[u8]) {
        if self.lane.by_flow.contains_key(&flow) {
            return;
        }
        let Some(wanted) = self.plane.stream_wanted(flow) else {
            return;
        };
        let has_room = self.lane.has_room();
        let lane_peer = self.lane.peers.entry(wanted.peer).or_default();
        if lane_peer.waits_for(flow) {
            return;
        }
        let waiting = Waiting {
            flow,
            vnet,
            packet: packet.to_vec(),
            since: self.now,
        };
        let refused = match lane_peer.up {
            _ if !has_room => Some(waiting),
            Some(slot) => self.ask(slot, waiting).err(),
            None => lane_peer.wait(waiting).err(),
        };
        if let Some(waiting) = refused {
            self.lane.count(Refused::NoRoom);
            // Without room here there is none for a stream to another node either.
            let elsewhere = has_room && self.lane.looks_elsewhere(Refused::NoRoom);
            self.plane
                .refuse_stream(waiting.flow, &waiting.packet, elsewhere);
            return;
        }
        self.want(wanted.peer);
        self.dial_lane(wanted.peer);
    }

    /// Opens a stream for a flow that has waited.
    pub(super) fn ask(&mut self, slot: Slot, waiting: Waiting) -> Result<(), Waiting> {
        let Some(wanted) = self.plane.stream_wanted(waiting.flow) else {
            // The flow has ended meanwhile, and its opener has been told.
            return Ok(());
        };
        let Some(session) = self.sessions.of_mut(slot) else {
            return Err(waiting);
        };
        let Some(stream) = session.connection.streams().open(Dir::Bi) else {
            return Err(waiting);
        };
        let Waiting { vnet, packet, .. } = waiting;
        let stage = Stage::Asking { vnet, packet };
        let deadline = self.now + OPEN_TIMEOUT;
        let mut conn = Conn::new(slot, stream, Some(waiting.flow), stage, deadline);
        conn.to_stream = wanted.hello.encode().into();
        let id = self.lane.insert(conn, deadline);
        self.want_turn(slot, id);
        match wanted.accept {
            AcceptPolicy::Late => {}
            AcceptPolicy::Early => self.admit(id),
        }
        Ok(())
    }

    /// Reads whether the target has accepted. If so, the packet that has waited goes to the stack.
    pub(super) fn hear_outcome(&mut self, id: ConnId) {
        let Some(conn) = self.lane.conns.get_mut(id) else {
            return;
        };
        let Some(session) = self.sessions.of_mut(conn.slot) else {
            return;
        };
        match outcome(&mut session.connection, conn.stream) {
            Ok(false) => {}
            Ok(true) => {
                conn.answered = true;
                self.lane.counters.opened += 1;
                self.admit(id);
            }
            Err(refused) => self.fail(id, refused),
        }
    }

    /// Has the stack accept a connection: the packet that has waited goes to it.
    fn admit(&mut self, id: ConnId) {
        let Some(conn) = self.lane.conns.get_mut(id) else {
            return;
        };
        let stage = std::mem::replace(&mut conn.stage, Stage::Admitted);
        let (Stage::Asking { vnet, mut packet }, Some(flow)) = (stage, conn.flow) else {
            return;
        };
        self.plane.admit_stream(flow);
        match self.plane.handle_tun(&vnet, &mut packet, self.now) {
            Verdict::Deliver => self.io.deliver(&vnet, &packet),
            Verdict::Forward(_)
            | Verdict::Stream(_)
            | Verdict::Await(_)
            | Verdict::Drop(_)
            | Verdict::Reject(_) => {
                // The flow has ended while the far end connected.
                self.fail(id, Refused::Gone);
            }
        }
    }

    /// Takes the streams that a peer has opened.
    pub(super) fn take_streams(&mut self, slot: Slot) {
        loop {
            let stream = match self.sessions.of_mut(slot) {
                Some(session) if matches!(session.with, With::Lane(_)) => {
                    session.connection.streams().accept(Dir::Bi)
                }
                Some(_) | None => return,
            };
            let Some(stream) = stream else {
                return;
            };
            let deadline = self.now + OPEN_TIMEOUT;
            let stage = Stage::Hearing { heard: Vec::new() };
            let conn = Conn::new(slot, stream, None, stage, deadline);
            let id = self.lane.insert(conn, deadline);
            self.hear_hello(id);
        }
    }

    /// Reads what a peer's stream wants, and connects.
    pub(super) fn hear_hello(&mut self, id: ConnId) {
        let Some(conn) = self.lane.conns.get_mut(id) else {
            return;
        };
        let Stage::Hearing { heard } = &mut conn.stage else {
            return;
        };
        let Some(session) = self.sessions.of_mut(conn.slot) else {
            return;
        };
        let With::Lane(peer) = session.with else {
            return;
        };
        let hello = loop {
            match Hello::decode(heard) {
                Ok((hello, _)) => break hello,
                Err(HelloError::Incomplete) => {}
                Err(error @ (HelloError::Version(_) | HelloError::Family(_))) => {
                    tracing::debug!(%error, "a stream was not understood");
                    self.fail(id, Refused::Malformed);
                    return;
                }
            }
            // Byte by byte at the end, because what follows is the client's; a few dozen at most.
            match read_some(&mut session.connection, conn.stream, missing(heard)) {
                Ok(None) => return,
                Ok(Some(bytes)) => heard.extend_from_slice(&bytes),
                Err(refused) => {
                    self.fail(id, refused);
                    return;
                }
            }
        };
        if self.is_unjudged(peer) {
            self.lane.held.insert(id);
            return;
        }
        self.connect_to(id, peer, &hello);
    }

    /// Whether what the peer may send from has yet to be judged.
    fn is_unjudged(&self, peer: PeerId) -> bool {
        // The lane's session may be up first.
        self.session_with(peer)
            .is_none_or(|session| Self::is_held(session.held_until, self.now))
    }

    fn connect_to(&mut self, id: ConnId, peer: PeerId, hello: &Hello) {
        if !self.lane.has_room() {
            self.fail(id, Refused::NoRoom);
            return;
        }
        let end = match self.lane.sockets.ready(hello.target.is_ipv6()) {
            Ok(Ready::Stack(port)) => {
                let accepted = self.plane.accept_stream(peer, hello, port, self.now);
                accepted
                    .map(|(flow, phantom)| (Some(flow), phantom))
                    .map_err(Refused::from)
            }
            Ok(Ready::Published) => {
                let server = self.published_to(id, peer, hello);
                server.map(|server| (None, server))
            }
            Ok(Ready::Soon) => {
                self.lane.held.insert(id);
                self.lane.sockets_at = Some(self.now + SOCKET_PAUSE);
                return;
            }
            Err(error) => {
                tracing::warn!(%error, target = %hello.target, "cannot connect");
                self.fail(id, Refused::NoRoom);
                return;
            }
        };
        match end {
            Ok((flow, address)) => self.begin_connect(id, flow, address),
            Err(why) => {
                tracing::debug!(peer = %self.name_of(peer), client = %hello.client,
                    target = %hello.target, reason = why.word(), "a stream was refused");
                self.fail(id, why);
            }
        }
    }

    /// Connects the local end of a peer's stream: the stack's of `flow`, or a published server's.
    fn begin_connect(&mut self, id: ConnId, flow: Option<FlowId>, address: SocketAddr) {
        let connected = self
            .lane
            .sockets
            .take(address.is_ipv6())
            .map_err(|error| (Refused::NoRoom, error));
        let connected = connected.and_then(|socket| {
            let begun = (|| {
                connect(&socket, address)?;
                self.watch(id, &socket)
            })();
            match begun {
                Ok(()) => Ok(socket),
                Err(error) => Err((refusal_of(&error), error)),
            }
        });
        match connected {
            Ok(socket) => {
                if let Some(conn) = self.lane.conns.get_mut(id) {
                    conn.flow = flow;
                    conn.socket = Some(socket);
                    conn.stage = Stage::Connecting;
                }
                if let Some(flow) = flow {
                    self.lane.by_flow.insert(flow, id);
                }
            }
            Err((why, error)) => {
                tracing::warn!(%error, %address, "cannot connect");
                if let Some(flow) = flow {
                    self.plane.forget_stream(flow);
                }
                self.fail(id, why);
            }
        }
    }

    /// Ends a connection from this side: its stream is reset, its program hears a reset.
    pub(super) fn fail(&mut self, id: ConnId, why: Refused) {
        if let Some(conn) = self.lane.conns.get(id)
            && let Some(session) = self.sessions.of_mut(conn.slot)
            && !session.connection.is_closed()
        {
            let code = VarInt::from_u32(why.code());
            let _ = session.connection.send_stream(conn.stream).reset(code);
            let _ = session.connection.recv_stream(conn.stream).stop(code);
            self.touched.insert(conn.slot);
        }
        self.drop_conn(id, why);
    }

    /// Forgets a connection whose stream is gone; its program hears a reset.
    pub(super) fn drop_conn(&mut self, id: ConnId, why: Refused) {
        let Some(conn) = self.lane.remove(id) else {
            return;
        };
        self.lane.count(why);
        tracing::debug!(%why, stage = ?std::mem::discriminant(&conn.stage), "connection ended");
        if let (Stage::Asking { packet, .. }, Some(flow)) = (&conn.stage, conn.flow) {
            let elsewhere = self.lane.looks_elsewhere(why);
            self.plane.refuse_stream(flow, packet, elsewhere);
        }
        if let Some(socket) = conn.socket {
            reset(socket);
        }
        self.poll_plane();
    }
}

/// How much of an opening can be read without reading what follows it.
fn missing(heard: &[u8]) -> usize {
    let shortest = MAX_HELLO_LEN - 24;
    shortest.saturating_sub(heard.len()).max(1)
}

/// Reads whether the target has accepted; false if nothing has come yet.
pub(super) fn outcome(
    connection: &mut quinn_proto::Connection,
    stream: StreamId,
) -> Result<bool, Refused> {
    match read_some(connection, stream, 1)? {
        None => Ok(false),
        Some(byte) if *byte == [CONNECTED] => Ok(true),
        Some(_) => Err(Refused::Malformed),
    }
}

/// Reads at most so many bytes of a stream: nothing yet, or some; an end is a reset here.
fn read_some(
    connection: &mut quinn_proto::Connection,
    stream: StreamId,
    most: usize,
) -> Result<Option<bytes::Bytes>, Refused> {
    let mut receiving = connection.recv_stream(stream);
    let Ok(mut chunks) = receiving.read(true) else {
        return Err(Refused::Reset);
    };
    let read = match chunks.next(most) {
        Ok(Some(chunk)) => Ok(Some(chunk.bytes)),
        Ok(None) => Err(Refused::Reset),
        Err(ReadError::Blocked) => Ok(None),
        Err(ReadError::Reset(code)) => Err(Refused::of_code(code.into_inner())),
    };
    let _ = chunks.finalize();
    read
}
