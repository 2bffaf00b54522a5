//! How much each client may ask.
//!
//! A client is a source address. Each has a bucket of queries that refills with time and a number
//! of queries that may wait for upstream servers, so that one that floods is refused while the
//! others are served. All addresses that are not of this node share one bucket.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use crate::rate::{Bucket, Rate};

/// What each client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientLimits {
    /// Queries per second in the long run, and at once after a rest of a second.
    pub queries_per_sec: u32,
    /// Refusals per second to a client above that; beyond them it gets no answer at all.
    pub refusals_per_sec: u32,
    /// Queries of one client that wait for upstream servers.
    pub forwards_per_client: u32,
    /// Queries of all clients that wait for upstream servers.
    pub forwards: u32,
    /// TCP connections of one client.
    pub connections_per_client: u32,
    /// TCP connections of all clients.
    pub connections: u32,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            // A program that opens 1000 connections a second by name, without a cache, asks twice
            // for each; 2000 queries cost about 3 % of a core.
            queries_per_sec: 2000,
            // Enough for a resolver library to notice; a flood is read and forgotten.
            refusals_per_sec: 100,
            // Each takes a socket and up to 4 KiB for at most 6 s.
            forwards_per_client: 64,
            forwards: 512,
            // Stub resolvers open one, rarely two.
            connections_per_client: 16,
            connections: 256,
        }
    }
}

/// Most clients that are remembered at once. A node has as many as it has instances, times two
/// address families; when more ask, those that do nothing are forgotten.
const MAX_CLIENTS: usize = 8192;

/// Whether a query is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It is answered.
    Admitted,
    /// It is refused.
    Refused,
    /// It gets no answer.
    Dropped,
}

/// What every client has asked lately.
#[derive(Debug)]
pub struct Clients {
    limits: ClientLimits,
    clients: BTreeMap<Option<IpAddr>, Client>,
    forwards: u32,
    connections: u32,
}

#[derive(Debug, Default)]
struct Client {
    queries: Bucket,
    refusals: Bucket,
    forwards: u32,
    connections: u32,
}

impl Clients {
    /// Nobody has asked anything yet.
    #[must_use]
    pub const fn new(limits: ClientLimits) -> Self {
        Self {
            limits,
            clients: BTreeMap::new(),
            forwards: 0,
            connections: 0,
        }
    }

    /// Counts a query of a client; none stands for everybody who is not of this node.
    pub fn admit(&mut self, client: Option<IpAddr>, now: Instant) -> Admission {
        let second = |count| Rate::per_second(count, count);
        let queries = second(self.limits.queries_per_sec);
        let refusals = second(self.limits.refusals_per_sec);
        let Some(client) = self.client(client, now) else {
            return Admission::Dropped;
        };
        if client.queries.take(queries, now) {
            Admission::Admitted
        } else if client.refusals.take(refusals, now) {
            Admission::Refused
        } else {
            Admission::Dropped
        }
    }

    /// Whether one more query of the client may wait for an upstream server; if so, it must be
    /// given back with [`Self::end_forward`].
    pub fn begin_forward(&mut self, client: Option<IpAddr>, now: Instant) -> bool {
        let limits = self.limits;
        if self.forwards >= limits.forwards {
            return false;
        }
        let Some(of_client) = self.client(client, now) else {
            return false;
        };
        if of_client.forwards >= limits.forwards_per_client {
            return false;
        }
        of_client.forwards += 1;
        self.forwards += 1;
        true
    }

    /// A query of the client no longer waits.
    pub fn end_forward(&mut self, client: Option<IpAddr>) {
        if let Some(client) = self.clients.get_mut(&client) {
            client.forwards = client.forwards.saturating_sub(1);
            self.forwards = self.forwards.saturating_sub(1);
        }
    }

    /// Whether the client may have one more connection; if so, it must be given back with
    /// [`Self::close`].
    pub fn open(&mut self, client: Option<IpAddr>, now: Instant) -> bool {
        let limits = self.limits;
        if self.connections >= limits.connections {
            return false;
        }
        let Some(of_client) = self.client(client, now) else {
            return false;
        };
        if of_client.connections >= limits.connections_per_client {
            return false;
        }
        of_client.connections += 1;
        self.connections += 1;
        true
    }

    /// A connection of the client is gone.
    pub fn close(&mut self, client: Option<IpAddr>) {
        if let Some(client) = self.clients.get_mut(&client) {
            client.connections = client.connections.saturating_sub(1);
            self.connections = self.connections.saturating_sub(1);
        }
    }

    /// What is known of a client; none when there are too many of them at once.
    fn client(&mut self, client: Option<IpAddr>, now: Instant) -> Option<&mut Client> {
        if !self.clients.contains_key(&client) && self.clients.len() >= MAX_CLIENTS {
            self.clients.retain(|_, client| !client.is_idle(now));
            if self.clients.len() >= MAX_CLIENTS {
                return None;
            }
        }
        Some(self.clients.entry(client).or_default())
    }
}

impl Client {
    /// Whether forgetting the client changes nothing for it.
    fn is_idle(&self, now: Instant) -> bool {
        self.forwards == 0
            && self.connections == 0
            && self.queries.is_full(now)
            && self.refusals.is_full(now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMITS: ClientLimits = ClientLimits {
        queries_per_sec: 10,
        refusals_per_sec: 2,
        forwards_per_client: 2,
        forwards: 3,
        connections_per_client: 1,
        connections: 2,
    };

    fn client(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 30, 0, last]))
    }

    fn start() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        Instant::now()
    }

    #[test]
    fn a_flood_is_refused_then_dropped_and_others_are_served() {
        let (mut clients, now) = (Clients::new(LIMITS), start());
        let flood: Vec<_> = (0..20).map(|_| clients.admit(client(1), now)).collect();
        let count = |what| flood.iter().filter(|admission| **admission == what).count();
        assert_eq!(count(Admission::Admitted), 10);
        assert_eq!(count(Admission::Refused), 2);
        assert_eq!(count(Admission::Dropped), 8);
        assert_eq!(clients.admit(client(2), now), Admission::Admitted);
        assert_eq!(clients.admit(None, now), Admission::Admitted);
    }

    #[test]
    fn the_bucket_refills_at_its_rate() {
        let (mut clients, now) = (Clients::new(LIMITS), start());
        while clients.admit(client(1), now) != Admission::Dropped {}
        let later = now + Duration::from_millis(100);
        assert_eq!(clients.admit(client(1), later), Admission::Admitted);
        assert_eq!(clients.admit(client(1), later), Admission::Dropped);
        let much_later = now + Duration::from_secs(3600);
        let admitted = (0..30)
            .filter(|_| clients.admit(client(1), much_later) == Admission::Admitted)
            .count();
        assert_eq!(admitted, 10);
    }

    #[test]
    fn a_rate_of_zero_admits_nobody() {
        let limits = ClientLimits {
            queries_per_sec: 0,
            refusals_per_sec: 0,
            ..LIMITS
        };
        assert_eq!(
            Clients::new(limits).admit(client(1), start()),
            Admission::Dropped
        );
    }

    #[test]
    fn forwards_are_bounded_per_client_and_in_all() {
        let (mut clients, now) = (Clients::new(LIMITS), start());
        assert!(clients.begin_forward(client(1), now));
        assert!(clients.begin_forward(client(1), now));
        assert!(!clients.begin_forward(client(1), now));
        assert!(clients.begin_forward(client(2), now));
        assert!(!clients.begin_forward(client(3), now));
        clients.end_forward(client(1));
        assert!(clients.begin_forward(client(3), now));
    }

    #[test]
    fn connections_are_bounded_per_client_and_in_all() {
        let (mut clients, now) = (Clients::new(LIMITS), start());
        assert!(clients.open(client(1), now));
        assert!(!clients.open(client(1), now));
        assert!(clients.open(client(2), now));
        assert!(!clients.open(client(3), now));
        clients.close(client(2));
        assert!(clients.open(client(3), now));
    }

    #[test]
    fn idle_clients_make_room_and_busy_ones_do_not() {
        let (mut clients, now) = (Clients::new(LIMITS), start());
        let ip = |index: usize| Some(IpAddr::from((index as u32).to_be_bytes()));
        assert!(clients.begin_forward(ip(0), now));
        for index in 1..MAX_CLIENTS {
            assert_eq!(clients.admit(ip(index), now), Admission::Admitted);
        }
        assert_eq!(clients.admit(ip(MAX_CLIENTS), now), Admission::Dropped);
        let later = now + Duration::from_secs(1);
        assert_eq!(clients.admit(ip(MAX_CLIENTS), later), Admission::Admitted);
        assert_eq!(clients.clients.len(), 2);
    }
}
