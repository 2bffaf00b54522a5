//! Peers that want to reach published servers.
//!
//! The packet that asks for a connection waits until the server has accepted: then the stack
//! accepts as well. So a refusal of the server's is a refusal for the peer, at once.

use std::net::SocketAddr;

use netmanager_core::packet::{L4, PacketInfo, TcpFlags};
use socket2::{Domain, Protocol, Socket, Type};

use super::conn::{CONNECT_TIMEOUT, Conn, ConnId, Kind, Stage};
use super::run::Runner;
use super::stack::{Incoming, Standing};
use crate::program_socket::{configure, connect};

impl Runner {
    /// Takes in a packet from the pipe.
    pub(super) fn handle_packet(&mut self, packet: Incoming) {
        let Some((local, remote)) = opening(&packet.info) else {
            if !self.hear_echo(&packet) {
                self.stack.take_in(packet, self.now);
            }
            return;
        };
        let server = self.shared.servers.load().get(&local).copied();
        let ends = (local, remote);
        if self.dialling.contains_key(&ends) {
            // It has come again because nobody has answered yet.
            return;
        }
        if self.has_connection(ends) {
            return self.stack.take_in(packet, self.now);
        }
        match server {
            Some(server) if self.has_room() => self.dial(packet, ends, server),
            Some(_) | None => self.stack.refuse(packet.packet()),
        }
    }

    fn dial(&mut self, packet: Incoming, ends: (SocketAddr, SocketAddr), server: SocketAddr) {
        let domain = Domain::for_address(server);
        let dialled = Socket::new(domain, Type::STREAM, Some(Protocol::TCP));
        let dialled = dialled.and_then(|socket| {
            configure(&socket)?;
            connect(&socket, server)?;
            Ok(socket)
        });
        let socket = match dialled {
            Ok(socket) => socket,
            Err(error) => {
                tracing::debug!(%error, %server, "a published server is not reached");
                self.shared.counters.count_refused();
                return self.stack.refuse(packet.packet());
            }
        };
        let until = self.now + CONNECT_TIMEOUT;
        let conn = Conn::new(
            Kind::Published,
            Stage::Dialling(Box::new(packet)),
            socket,
            until,
        );
        if let Some(id) = self.insert(conn) {
            self.dialling.insert(ends, id);
        }
    }

    /// Looks whether a server has accepted.
    pub(super) fn look_at_dialling(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| conn.writable) else {
            return;
        };
        if !matches!(conn.socket.take_error(), Ok(None)) {
            return self.give_up_dialling(id);
        }
        let stage = std::mem::replace(&mut conn.stage, Stage::Admitted);
        let Stage::Dialling(packet) = stage else {
            return;
        };
        let Some((local, remote)) = opening(&packet.info) else {
            return self.cut(id);
        };
        self.dialling.remove(&(local, remote));
        let port = self.stack.accept(local, remote, *packet, self.now);
        let Some(port) = port else {
            return self.cut(id);
        };
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.port = Some(port);
        }
        let until = self.now + CONNECT_TIMEOUT;
        self.advance(id, Stage::Admitted, Some(until));
    }

    /// The server has refused, or has not answered.
    pub(super) fn give_up_dialling(&mut self, id: ConnId) {
        let Some(conn) = self.remove(id) else {
            return;
        };
        self.shared.counters.count_refused();
        if let Stage::Dialling(packet) = conn.stage {
            self.stack.refuse(packet.packet());
        }
    }

    /// Looks whether the peer has heard that its connection was accepted.
    pub(super) fn look_at_admitted(&mut self, id: ConnId) {
        let Some(port) = self.conns.get(&id).and_then(|conn| conn.port) else {
            return self.cut(id);
        };
        match self.stack.standing(port) {
            Standing::Opening => {}
            Standing::Closed => self.cut(id),
            Standing::Open => {
                self.shared.counters.count_accepted();
                self.advance(id, Stage::Open, None);
            }
        }
    }

    /// Ends the connections to servers that are published no more.
    pub(super) fn cut_unpublished(&mut self) {
        let servers = self.shared.servers.load_full();
        let ended = self.conns.iter().filter(|(_, conn)| {
            let local = match &conn.stage {
                Stage::Dialling(packet) => opening(&packet.info).map(|(local, _)| local),
                Stage::Admitted | Stage::Open => conn.port.map(|port| port.local),
                Stage::Greeting | Stage::Asking | Stage::Locating(_) | Stage::Connecting(_) => None,
            };
            let is_there = local.is_none_or(|local| servers.contains_key(&local));
            conn.kind == Kind::Published && !is_there
        });
        for id in ended.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.cut(id);
        }
    }

    fn has_connection(&self, (local, remote): (SocketAddr, SocketAddr)) -> bool {
        self.conns.values().any(|conn| {
            conn.port
                .is_some_and(|port| port.local == local && port.remote == remote)
        })
    }
}

/// The two ends of the connection that a packet asks for: here, and there.
fn opening(info: &PacketInfo) -> Option<(SocketAddr, SocketAddr)> {
    let L4::Tcp {
        src_port,
        dst_port,
        flags,
        ..
    } = info.l4
    else {
        return None;
    };
    let begins = flags.contains(TcpFlags::SYN)
        && !flags.intersects(TcpFlags::ACK.union(TcpFlags::RST))
        && info.fragment.is_none();
    begins.then(|| {
        (
            SocketAddr::new(info.dst, dst_port),
            SocketAddr::new(info.src, src_port),
        )
    })
}
