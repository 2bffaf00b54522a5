//! The hard pairs: one NAT gives every destination a random port, the other one lets in only what
//! was sent to.
//!
//! The end behind the random NAT opens [`SPRAY_SOCKETS`] sockets and sends from each to the other
//! end's one known port, which makes as many mappings; their probes die in transit, as in any
//! round. The other end sends to random ports of the first one's address until it meets one of
//! them: the birthday of two sets, 98 % after 1024 probes. Both are slow on purpose.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use weald_proto::session::NatMapping;

use super::super::paths::next_nonce;
use super::theirs::Theirs;
use super::{From, Punch, PunchEvent};

/// Sockets of the end behind the random NAT, and so mappings there: a home router holds thousands.
pub const SPRAY_SOCKETS: u16 = 256;
/// Probes of the other end. Each meets a mapping with 256 in 64,512: all together with 98 %.
pub const SPRAY_PROBES: u16 = 1024;
/// Packets in a second: above it, routers and intrusion detection take it for an attack.
pub const SPRAY_RATE: u32 = 100;
/// Between two sprays towards one peer from one network.
pub const SPRAY_PAUSE: Duration = Duration::from_secs(3600);
/// Networks from which one peer has been searched for that are remembered. A node that is in yet
/// another one within the hour does not search there.
const MAX_NETWORKS: usize = 4;
/// How long mappings are kept after the last probe of either end: it may be on its way, and the two
/// ends start half a round trip apart.
const TAIL: Duration = Duration::from_secs(2);
/// The first port that NATs give out.
const FIRST_PORT: u16 = 1024;

/// When ports of a peer were searched for, and from which networks. Outlives the session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Searches {
    made: Vec<(Instant, Vec<IpAddr>)>,
}

impl Searches {
    /// Whether one may be made from a network now; it counts then.
    fn take(&mut self, network: Vec<IpAddr>, now: Instant) -> bool {
        self.made
            .retain(|(at, _)| now.saturating_duration_since(*at) < SPRAY_PAUSE);
        let is_known = self.made.iter().any(|(_, from)| *from == network);
        if is_known || self.made.len() == MAX_NETWORKS {
            return false;
        }
        self.made.push((now, network));
        true
    }
}

/// A spray under way.
#[derive(Debug)]
pub(super) struct Spray {
    role: Role,
    started: Instant,
    sent: u16,
}

#[derive(Debug, Clone, Copy)]
enum Role {
    /// Behind the random NAT: many sockets, one target.
    Open { to: SocketAddr },
    /// The other end: many ports of one address. `step` is odd, so that all ports are met.
    Search {
        to: SocketAddr,
        start: u16,
        step: u16,
    },
}

impl Role {
    const fn probes(self) -> u16 {
        match self {
            Self::Open { .. } => SPRAY_SOCKETS,
            Self::Search { .. } => SPRAY_PROBES,
        }
    }
}

impl Punch {
    /// Starts to spray if this is a hard pair and it is allowed.
    pub(super) fn begin_spray(&mut self, now: Instant) {
        // Who is reached already only follows a round of the other end.
        if !self.limits.spray || self.is_direct || self.udp_blocked || self.spray.is_some() {
            return;
        }
        let theirs = self.theirs.as_ref();
        // A port that is led to one of the ends needs no search, unless it turns out not to be.
        let is_mapped = theirs.is_some_and(Theirs::has_mapping) || self.mine.has_mapping();
        if is_mapped && self.failures == 0 {
            return;
        }
        let seen = theirs.and_then(|theirs| Some((theirs.mapping, theirs.reflexive_v4()?)));
        let Some((mapping, to)) = seen else {
            return;
        };
        let is_random = |mapping| mapping == NatMapping::Random;
        let is_stable = |mapping| matches!(mapping, NatMapping::Independent | NatMapping::Unknown);
        let role = if is_random(self.mine.told.mapping) && is_stable(mapping) {
            Role::Open { to }
        } else if is_stable(self.mine.told.mapping) && is_random(mapping) {
            self.seed = next_nonce(self.seed);
            let [first, second, third, fourth, ..] = self.seed.to_be_bytes();
            Role::Search {
                to,
                start: u16::from_be_bytes([first, second]),
                step: u16::from_be_bytes([third, fourth]) | 1,
            }
        } else {
            return;
        };
        if !self.searches.take(self.mine.network(), now) {
            return;
        }
        self.spray = Some(Spray {
            role,
            started: now,
            sent: 0,
        });
    }

    pub(super) fn end_spray(&mut self) {
        if self.spray.take().is_some() {
            self.events.push_back(PunchEvent::EndSpray);
        }
    }
}

impl Spray {
    /// Sends what is due; false when all is over.
    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        events: &mut VecDeque<PunchEvent>,
    ) -> bool {
        while self.sent < self.role.probes() && self.due(self.sent) <= now {
            let (to, short_lived, from) = match self.role {
                Role::Open { to } => (to, true, From::Extra(self.sent)),
                Role::Search { to, start, step } => {
                    let port = start.wrapping_add(step.wrapping_mul(self.sent));
                    (SocketAddr::new(to.ip(), port), false, From::Main)
                }
            };
            self.sent += 1;
            // Low ports are never given out; the few that are met are left out.
            if to.port() >= FIRST_PORT {
                events.push_back(PunchEvent::Probe {
                    to,
                    short_lived,
                    from,
                });
            }
        }
        now < self.end()
    }

    pub(super) fn deadline(&self) -> Instant {
        if self.sent < self.role.probes() {
            self.due(self.sent)
        } else {
            self.end()
        }
    }

    /// When the spray is over, whichever end this is.
    pub(super) fn end(&self) -> Instant {
        self.due(SPRAY_PROBES) + TAIL
    }

    fn due(&self, nth: u16) -> Instant {
        self.started + Duration::from_secs(1) * u32::from(nth) / SPRAY_RATE
    }
}
