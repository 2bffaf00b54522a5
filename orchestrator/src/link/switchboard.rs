//! Who is connected: the present connection of each peer, and no earlier one.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use quinn::{Connection, VarInt};
use weald_proto::codec::Message;
use weald_trust::tls::{RevocationSet, keys_of_verified};

use super::{Outbox, post};

#[derive(Debug)]
struct Line {
    number: u64,
    outbox: Outbox,
    connection: Connection,
}

/// What a board has counted, and how many links are up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkFigures {
    /// Links that are up.
    pub up: u64,
    /// Connections that were made since the start.
    pub connections: u64,
    /// Messages that were given to a connection.
    pub sent: u64,
    /// Messages that were not: the peer was away, or did not read.
    pub refused: u64,
    /// Messages that were heard on present connections.
    pub received: u64,
}

#[derive(Debug)]
struct Board<K> {
    lines: HashMap<K, Line>,
    /// `connections` is the number of the last one as well; `up` is not kept.
    figures: LinkFigures,
}

/// The connections of one listener, by whose they are.
///
/// What a machine is told of connections and messages is told while the board is locked, so that a
/// message of an earlier connection never comes after the news of a later one.
#[derive(Debug)]
pub struct Switchboard<K> {
    board: Mutex<Board<K>>,
}

impl<K> Default for Switchboard<K> {
    fn default() -> Self {
        Self {
            board: Mutex::new(Board {
                lines: HashMap::new(),
                figures: LinkFigures::default(),
            }),
        }
    }
}

impl<K: Hash + Eq + Clone + fmt::Display> Switchboard<K> {
    /// A new connection, in place of any earlier one of the same peer; returns its number.
    pub fn connect(
        &self,
        peer: &K,
        outbox: Outbox,
        connection: Connection,
        tell: impl FnOnce(),
    ) -> u64 {
        let mut board = self.lock();
        board.figures.connections += 1;
        let number = board.figures.connections;
        let line = Line {
            number,
            outbox,
            connection,
        };
        if let Some(former) = board.lines.insert(peer.clone(), line) {
            let why = b"another connection of the same peer";
            former.connection.close(VarInt::from_u32(2), why);
        }
        tell();
        number
    }

    /// Something was heard on a connection; false if it is not the present one.
    pub fn hear(&self, peer: &K, number: u64, tell: impl FnOnce()) -> bool {
        let mut board = self.lock();
        let present = board.lines.get(peer);
        let present = present.is_some_and(|line| line.number == number);
        if present {
            board.figures.received += 1;
            tell();
        }
        present
    }

    /// A connection has ended; it is told only if no later one has taken its place.
    pub fn disconnect(&self, peer: &K, number: u64, tell: impl FnOnce()) {
        let mut board = self.lock();
        let present = board.lines.get(peer);
        if present.is_some_and(|line| line.number == number) {
            board.lines.remove(peer);
            tell();
        }
    }

    /// Says something to a peer; nothing if it is not connected.
    pub fn say(&self, peer: &K, message: &impl Message) {
        let mut board = self.lock();
        let sent = match board.lines.get(peer) {
            None => false,
            Some(line) => match post(&line.outbox, message) {
                Ok(()) => true,
                Err(why) => {
                    tracing::warn!(%peer, %why, "connection closed");
                    line.connection.close(VarInt::from_u32(1), why.as_bytes());
                    false
                }
            },
        };
        let figures = &mut board.figures;
        let counter = if sent {
            &mut figures.sent
        } else {
            &mut figures.refused
        };
        *counter += 1;
    }

    /// What was counted since the start, and how many links are up.
    pub fn figures(&self) -> LinkFigures {
        let board = self.lock();
        LinkFigures {
            up: board.lines.len() as u64,
            ..board.figures
        }
    }

    /// Closes a peer's connection, saying why.
    pub fn close(&self, peer: &K, why: &str) {
        if let Some(line) = self.lock().lines.get(peer) {
            tracing::warn!(%peer, why, "connection closed");
            line.connection.close(VarInt::from_u32(1), why.as_bytes());
        }
    }

    /// Closes the connections of all whose keys are revoked, or their cluster's: they may have come
    /// again before that was known here. From now on they are refused.
    pub fn cut(&self, revoked: &RevocationSet) {
        for (peer, line) in &self.lock().lines {
            let shown = line.connection.peer_identity();
            let shown = shown.map(|chain| keys_of_verified(chain.as_ref()));
            let mut keys = shown.into_iter().flatten();
            if keys.any(|key| revoked.keys.contains(&key)) {
                tracing::warn!(%peer, "connection closed, the key is revoked");
                line.connection
                    .close(VarInt::from_u32(1), b"the key is revoked");
            }
        }
    }

    /// Nothing that the closures of callers do can leave the map half changed.
    fn lock(&self) -> MutexGuard<'_, Board<K>> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
