//! Who is connected: the present connection of each peer, and no earlier one.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use quinn::{Connection, VarInt};
use weald_proto::codec::Message;

use super::{Outbox, post};

#[derive(Debug)]
struct Line {
    number: u64,
    outbox: Outbox,
    connection: Connection,
}

/// The connections of one listener, by whose they are.
///
/// What a machine is told of connections and messages is told while the board is locked, so that a
/// message of an earlier connection never comes after the news of a later one.
#[derive(Debug)]
pub struct Switchboard<K> {
    lines: Mutex<(u64, HashMap<K, Line>)>,
}

impl<K> Default for Switchboard<K> {
    fn default() -> Self {
        Self {
            lines: Mutex::new((0, HashMap::new())),
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
        let mut lines = self.lock();
        lines.0 += 1;
        let number = lines.0;
        let line = Line {
            number,
            outbox,
            connection,
        };
        if let Some(former) = lines.1.insert(peer.clone(), line) {
            let why = b"another connection of the same peer";
            former.connection.close(VarInt::from_u32(2), why);
        }
        tell();
        number
    }

    /// Something was heard on a connection; false if it is not the present one.
    pub fn hear(&self, peer: &K, number: u64, tell: impl FnOnce()) -> bool {
        let lines = self.lock();
        let present = lines.1.get(peer).is_some_and(|line| line.number == number);
        if present {
            tell();
        }
        present
    }

    /// A connection has ended; it is told only if no later one has taken its place.
    pub fn disconnect(&self, peer: &K, number: u64, tell: impl FnOnce()) {
        let mut lines = self.lock();
        if lines.1.get(peer).is_some_and(|line| line.number == number) {
            lines.1.remove(peer);
            tell();
        }
    }

    /// Says something to a peer; nothing if it is not connected.
    pub fn say(&self, peer: &K, message: &impl Message) {
        let lines = self.lock();
        if let Some(line) = lines.1.get(peer)
            && let Err(why) = post(&line.outbox, message)
        {
            tracing::warn!(%peer, %why, "connection closed");
            line.connection.close(VarInt::from_u32(1), why.as_bytes());
        }
    }

    /// Closes a peer's connection, saying why.
    pub fn close(&self, peer: &K, why: &str) {
        if let Some(line) = self.lock().1.get(peer) {
            tracing::warn!(%peer, why, "connection closed");
            line.connection.close(VarInt::from_u32(1), why.as_bytes());
        }
    }

    /// Nothing that the closures of callers do can leave the map half changed.
    fn lock(&self) -> MutexGuard<'_, (u64, HashMap<K, Line>)> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
