//! What is asked of one gateway, and when: which protocols it speaks, then a mapping by the best of
//! them, renewed at half of its life and at once when the gateway has forgotten it.
//!
//! ```text
//!            something is spoken           granted
//! Asking ------------------------> Wanting -------> Holding --+ half of the life is over,
//!   ^  | nothing is                   ^ |  refused     |      | or the gateway has restarted
//!   |  v                              | v  by all      |      |
//!  Resting <--------------------------+-+              +------+--> Wanting
//! ```
//!
//! Only what comes from the gateway's own address is looked at, and only what was asked for is
//! believed; PCP's answers also show the nonce. Whether the address that it grants may be told to
//! peers is [`super::super::peer::candidates`]'s. Every request is caused by this node's own clock,
//! or by an answer to one, within [`REACTIONS`].

use std::collections::{BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::http::Place;
use super::pcp::Nonce;
use super::upnp::Service;
use super::{Gateway, Protocol};
use crate::rate::{Bucket, Rate};

mod answers;
mod asking;
mod epoch;
mod view;

use self::epoch::Epoch;

pub use self::view::{Counts, MapperView};

/// Pauses after the first, the second and the last sending of what is not answered: as NAT-PMP's
/// (RFC 6886, section 3.1), but fewer, because a direct path is wanted within seconds.
pub const PAUSES: [Duration; 3] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_millis(1000),
];
/// How long a gateway that grants nothing is left alone; the last one is for ever after.
pub const RESTS: [Duration; 3] = [
    Duration::from_secs(300),
    Duration::from_secs(900),
    Duration::from_secs(3600),
];
/// How often a gateway is asked how long it has been up: it has forgotten the mapping when that
/// begins anew. Two packets a minute.
pub const LOOK: Duration = Duration::from_secs(60);
/// How often a mapping by UPnP is asked for again, since a restart does not show there.
pub const UPNP_RENEWAL: Duration = Duration::from_secs(600);
/// The least pause between two renewals, however short a life the gateway grants.
pub const RENEWAL_MIN: Duration = Duration::from_secs(30);
/// The longest life that is believed (RFC 6887, section 15).
pub const LIFE_MAX: Duration = Duration::from_secs(24 * 3600);
/// How often answers, or changes of the network, may make this node ask at once.
pub const REACTIONS: Rate = Rate::every(Duration::from_secs(10), 6);
/// How long an exchange over TCP may take; the shell gives up earlier.
const FETCH_TIME: Duration = Duration::from_secs(10);
/// Outside ports that are tried with UPnP when others have them.
const PORTS_TRIED: u8 = 4;

/// What the shell has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Send a datagram to the gateway.
    Send {
        /// At which port.
        port: u16,
        /// What.
        datagram: Vec<u8>,
    },
    /// Connect to the gateway, send a request, and hand what comes back, or that nothing did, to
    /// [`Mapper::handle_fetched`].
    Fetch {
        /// At which port.
        port: u16,
        /// What.
        request: Vec<u8>,
    },
}

/// Why there is no mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The gateway speaks none of the protocols.
    Silent,
    /// It does not answer any more.
    Unanswered(Protocol),
    /// It refuses, with this code of the protocol.
    Refused(Protocol, u16),
    /// What it answers makes no sense.
    Senseless(Protocol),
}

/// Why something that came is not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// It is not from the gateway.
    Stranger,
    /// It is no message of the protocols.
    Malformed,
    /// It is no answer to what was asked.
    Unasked,
}

/// A mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapped {
    /// By which protocol.
    pub with: Protocol,
    /// Where peers reach the data socket.
    pub external: SocketAddr,
    /// How long it was granted for.
    pub life: Duration,
    /// When it ends unless it is renewed.
    pub until: Instant,
}

/// The mapping of one port at one gateway.
#[derive(Debug)]
pub struct Mapper {
    gateway: Gateway,
    port: u16,
    nonce: Nonce,
    pcp: Option<Epoch>,
    natpmp: Option<NatPmp>,
    upnp: Option<Upnp>,
    /// What has been spoken, also what has failed since.
    spoken: BTreeSet<Protocol>,
    /// What has failed since it was asked what is spoken.
    failed: BTreeSet<Protocol>,
    stage: Stage,
    mapped: Option<Mapped>,
    fault: Option<Fault>,
    failures: usize,
    reactions: Bucket,
    counts: Counts,
    events: VecDeque<Event>,
}

/// What a gateway has shown that speaks NAT-PMP.
#[derive(Debug, Clone, Copy)]
struct NatPmp {
    epoch: Epoch,
    address: Option<Ipv4Addr>,
    /// A port and its life in seconds that the address is still missing for.
    granted: Option<(u16, u32)>,
}

/// What a gateway has shown that speaks UPnP.
#[derive(Debug, Clone)]
struct Upnp {
    description: Place,
    service: Option<Service>,
    address: Option<Ipv4Addr>,
    external: u16,
    conflicts: u8,
    /// It grants no other mappings than those which live until they are removed.
    permanent: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Which protocols are spoken was asked so often.
    Asking { asked: usize, until: Instant },
    /// A mapping was asked for so often.
    Wanting {
        with: Protocol,
        asked: usize,
        until: Instant,
    },
    /// There is one.
    Holding { look_at: Instant, renew_at: Instant },
    /// Nothing is asked before.
    Resting { until: Instant },
    /// The mapping is being removed.
    Ending { asked: usize, until: Instant },
    /// Nothing is to be done any more.
    Ended,
}

impl Mapper {
    /// Asks `gateway` for a mapping of the UDP port `port` from `now` on. The nonce must be secret and
    /// the same after a restart, or the gateway keeps what it has for somebody else's.
    #[must_use]
    pub fn new(gateway: Gateway, port: u16, nonce: Nonce, now: Instant) -> Self {
        Self {
            gateway,
            port,
            nonce,
            pcp: None,
            natpmp: None,
            upnp: None,
            spoken: BTreeSet::new(),
            failed: BTreeSet::new(),
            stage: Stage::Resting { until: now },
            mapped: None,
            fault: None,
            failures: 0,
            reactions: Bucket::default(),
            counts: Counts::default(),
            events: VecDeque::new(),
        }
    }

    /// The gateway.
    #[must_use]
    pub const fn gateway(&self) -> Gateway {
        self.gateway
    }

    /// Looks whether all is as it was, after links, addresses or routes have changed.
    pub fn handle_network_change(&mut self, now: Instant) {
        if !self.may_react(now) {
            return;
        }
        match self.stage {
            Stage::Resting { .. } => {
                self.failures = 0;
                self.begin(now);
            }
            Stage::Holding { renew_at, .. } => match self.mapped.map(|mapped| mapped.with) {
                Some(Protocol::Upnp) => self.want(Protocol::Upnp, now),
                Some(Protocol::Pcp | Protocol::NatPmp) | None => {
                    let look_at = now;
                    self.stage = Stage::Holding { look_at, renew_at };
                }
            },
            Stage::Asking { .. } | Stage::Wanting { .. } | Stage::Ending { .. } | Stage::Ended => {}
        }
    }

    /// Removes the mapping, if there is one; what is to be done until [`Self::is_ended`] takes less
    /// than a second.
    pub fn end(&mut self, now: Instant) {
        if matches!(self.stage, Stage::Ending { .. } | Stage::Ended) {
            return;
        }
        self.events.clear();
        self.ask_to_remove(0, now);
    }

    /// Whether nothing is to be done any more.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.stage == Stage::Ended && self.events.is_empty()
    }

    /// Does what has become due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.mapped.is_some_and(|mapped| mapped.until <= now) {
            self.mapped = None;
        }
        match self.stage {
            Stage::Resting { until } if until <= now => self.begin(now),
            Stage::Asking { asked, until } if until <= now => self.ask_on(asked, now),
            Stage::Wanting { with, asked, until } if until <= now => self.want_on(with, asked, now),
            Stage::Holding { renew_at, .. } if renew_at <= now => self.renew(now),
            Stage::Holding { look_at, renew_at } if look_at <= now => {
                let look_at = now + LOOK;
                self.stage = Stage::Holding { look_at, renew_at };
                self.look();
            }
            Stage::Ending { asked, until } if until <= now => self.ask_to_remove(asked, now),
            Stage::Resting { .. }
            | Stage::Asking { .. }
            | Stage::Wanting { .. }
            | Stage::Holding { .. }
            | Stage::Ending { .. }
            | Stage::Ended => {}
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let stage = match self.stage {
            Stage::Resting { until }
            | Stage::Asking { until, .. }
            | Stage::Wanting { until, .. }
            | Stage::Ending { until, .. } => until,
            Stage::Holding { look_at, renew_at } => look_at.min(renew_at),
            Stage::Ended => return None,
        };
        let ends = self.mapped.map(|mapped| mapped.until);
        Some(ends.map_or(stage, |at| at.min(stage)))
    }

    /// The next thing for the shell to do.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Finds out from the start what is spoken.
    fn begin(&mut self, now: Instant) {
        (self.pcp, self.natpmp, self.upnp) = (None, None, None);
        self.failed.clear();
        self.ask(0, now);
    }

    /// Goes on with what was heard, or asks again.
    fn ask_on(&mut self, asked: usize, now: Instant) {
        match self.best() {
            Some(with) => self.want(with, now),
            None if asked < PAUSES.len() => self.ask(asked, now),
            None => {
                self.spoken.clear();
                self.rest(Fault::Silent, now);
            }
        }
    }

    /// The best protocol that is spoken and has not failed.
    fn best(&self) -> Option<Protocol> {
        let mut spoken = Protocol::ALL.into_iter().filter(|one| self.speaks(*one));
        spoken.find(|one| !self.failed.contains(one))
    }

    const fn speaks(&self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::Pcp => self.pcp.is_some(),
            Protocol::NatPmp => self.natpmp.is_some(),
            Protocol::Upnp => self.upnp.is_some(),
        }
    }

    fn renew(&mut self, now: Instant) {
        match self
            .mapped
            .map(|mapped| mapped.with)
            .or_else(|| self.best())
        {
            Some(with) => self.want(with, now),
            None => self.begin(now),
        }
    }

    fn want(&mut self, with: Protocol, now: Instant) {
        // What was granted before, and where, is not what will be.
        if let Some(natpmp) = &mut self.natpmp {
            natpmp.granted = None;
        }
        if let Some(upnp) = &mut self.upnp {
            upnp.address = None;
        }
        self.ask_for(with, 0, now);
    }

    fn want_on(&mut self, with: Protocol, asked: usize, now: Instant) {
        if asked < PAUSES.len() && with != Protocol::Upnp {
            self.ask_for(with, asked, now);
        } else {
            self.give_up(with, Fault::Unanswered(with), now);
        }
    }

    fn may_react(&mut self, now: Instant) -> bool {
        self.reactions.take(REACTIONS, now)
    }

    /// Goes on with the next protocol, or leaves the gateway alone for a while.
    fn give_up(&mut self, with: Protocol, fault: Fault, now: Instant) {
        self.failed.insert(with);
        if matches!(fault, Fault::Refused(..) | Fault::Senseless(_)) {
            self.counts.refused += 1;
        }
        match self.best() {
            // What is still held by one protocol is not asked for by another one as well.
            Some(next) if self.mapped.is_none() => {
                self.fault = Some(fault);
                self.want(next, now);
            }
            Some(_) | None => self.rest(fault, now),
        }
    }

    fn rest(&mut self, fault: Fault, now: Instant) {
        self.fault = Some(fault);
        let rest = match self.mapped {
            // Again after half of what is left of it.
            Some(mapped) => (mapped.until.saturating_duration_since(now) / 2).max(RENEWAL_MIN),
            None => {
                let rest = RESTS.get(self.failures).or(RESTS.last()).copied();
                self.failures = self.failures.saturating_add(1);
                rest.unwrap_or_default()
            }
        };
        self.stage = Stage::Resting { until: now + rest };
    }
}
