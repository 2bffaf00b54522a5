//! Opens a direct way to one peer through the NATs of both.
//!
//! Both ends tell each other their candidates inside the session, which stands on a relay until
//! then. The one with the lower node id leads rounds:
//!
//! ```text
//! leader                                         follower
//!   short-lived probes to all candidates
//!   Punch {round}                          ->    full probes to all candidates
//!                                          <-    PunchOpened {round}
//!   full probes to all candidates
//! ```
//!
//! The order is what matters, not the time: the leader's probes have opened its own NAT before the
//! follower hears of the round, and live too few hops to reach the follower's NAT, where an
//! unexpected packet would take the very mapping that the follower is about to need (a router with
//! Linux's conntrack that does not drop unsolicited packets then translates to another port, for as
//! long as such packets come). The follower's packets meet an open NAT, and so do the leader's next.
//!
//! A probe is authentic or it is dropped, and its source becomes a candidate of [`super::paths`],
//! which proves it by an authenticated two-way probe before anything is sent there. This machine
//! only says where probes go, how far, and when. Hard pairs are [`spray`]'s.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use weald_proto::addr::Pools;
use weald_proto::session::{NatMapping, PeerToPeer};

use super::candidates::{Refusal, Surroundings};
use crate::rate::{Bucket, Rate};

mod mine;
mod spray;
mod standing;
#[cfg(test)]
mod tests;
mod theirs;

use self::mine::Mine;
use self::spray::Spray;
use self::theirs::Theirs;

pub use self::spray::{SPRAY_PAUSE, SPRAY_PROBES, SPRAY_RATE, SPRAY_SOCKETS, Searches};
pub use self::standing::{Standing, TargetView};

/// When full probes of a round go out, after its start: most answers come at once, the later ones
/// are for lost packets and for a peer whose start was late.
pub const SEND_AT: [Duration; 7] = [
    Duration::ZERO,
    Duration::from_millis(40),
    Duration::from_millis(120),
    Duration::from_millis(280),
    Duration::from_millis(600),
    Duration::from_millis(1000),
    Duration::from_millis(1600),
];
/// How long a round lasts after its start: the last probe and a long round trip.
pub const ROUND_TIME: Duration = Duration::from_millis(2200);
/// How long the leader waits for the follower to say that it has opened its side: a retransmission
/// on a slow relay fits in it.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// Pauses after rounds without success. Thirty seconds let a conntrack entry of an unanswered
/// packet expire, so every pair gets a round from a clean state.
pub const PAUSES: [Duration; 6] = [
    Duration::from_millis(300),
    Duration::from_secs(2),
    Duration::from_secs(8),
    Duration::from_secs(35),
    Duration::from_secs(120),
    Duration::from_secs(300),
];
/// A peer that asks for rounds faster than this is not followed: each makes this node send packets.
pub const MIN_ROUND_INTERVAL: Duration = Duration::from_millis(500);
/// Short-lived probes to each candidate: one may be lost on the way to the own NAT.
const OPENING_PROBES: usize = 2;
/// Ports above the last observed one that are tried if the peer's NAT counts them up.
pub const PREDICTED_PORTS: u16 = 20;
/// Ports below it that are: a node that has moved asks its former ways, and so this node, before any
/// observer says where it is now.
pub const PASSED_PORTS: u16 = 6;
/// Lists of the peer that make attempts begin anew: as many as an honest one says at once. Later
/// ones are taken as they come, and tried when the next round is due.
const HEARD_LISTS: Rate = Rate::every(Duration::from_secs(30), 6);
/// Sendings of a round that predicted ports are part of: they are many.
const PREDICTED_SENDINGS: usize = 3;

/// Which local socket a probe leaves from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum From {
    /// The data socket.
    Main,
    /// One of the sockets that a spray opens, by number.
    Extra(u16),
}

/// What the shell has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PunchEvent {
    /// Say this to the peer inside the session.
    Say(PeerToPeer),
    /// Send a probe.
    Probe {
        /// Where to.
        to: SocketAddr,
        /// Whether it must die in transit, just beyond the own NATs.
        short_lived: bool,
        /// From which socket.
        from: From,
    },
    /// Sockets of a spray are not needed any more, but for one that has become a path.
    EndSpray,
}

/// What is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PunchLimits {
    /// Whether direct ways are opened at all.
    pub punch: bool,
    /// Whether hard pairs may spray.
    pub spray: bool,
}

impl Default for PunchLimits {
    fn default() -> Self {
        Self {
            punch: true,
            spray: true,
        }
    }
}

/// The attempts to reach one peer directly, for the life of one session.
#[derive(Debug)]
pub struct Punch {
    leads: bool,
    limits: PunchLimits,
    mine: Mine,
    theirs: Option<Theirs>,
    is_direct: bool,
    /// This node's network lets no UDP out, as far as can be told.
    udp_blocked: bool,
    round: u32,
    failures: usize,
    last_round: Option<Instant>,
    stage: Stage,
    spray: Option<Spray>,
    searches: Searches,
    heard: Bucket,
    seed: u64,
    events: VecDeque<PunchEvent>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing is to be done until something is heard.
    Idle,
    /// The leader begins a round at this time.
    Resting { until: Instant },
    /// The leader has opened its side and waits for the follower.
    Opened { until: Instant },
    /// Full probes go out.
    Sending { started: Instant, next: usize },
}

impl Punch {
    /// Nothing known of the peer yet. `leads` is whether this node's id is the lower one, `seed`
    /// makes the ports of a spray, `searches` are those of earlier sessions with the peer.
    #[must_use]
    pub fn new(leads: bool, limits: PunchLimits, seed: u64, searches: Searches) -> Self {
        Self {
            leads,
            limits,
            mine: Mine::default(),
            theirs: None,
            is_direct: false,
            udp_blocked: false,
            round: 0,
            failures: 0,
            last_round: None,
            stage: Stage::Idle,
            spray: None,
            searches,
            heard: Bucket::default(),
            seed,
            events: VecDeque::new(),
        }
    }

    /// Takes where this node may be reached. If that is news, for the peer or for what may be tried
    /// of the peer's, the peer is told and attempts start anew; not too often. A node that has just
    /// started and knows no interface of its own says nothing yet: it would refuse every address of
    /// the peer, and open no way for what the peer sends then.
    pub fn set_local(&mut self, surroundings: &Surroundings, pools: &Pools, now: Instant) {
        if self.mine.generation == 0 && surroundings.interfaces().next().is_none() {
            return;
        }
        let theirs = self.theirs.as_mut();
        let others = theirs.is_some_and(|theirs| theirs.judge(surroundings, pools));
        if self.mine.set(surroundings) || others {
            self.renew(now);
        }
    }

    /// Takes what the peer says; other messages than those about punching are ignored. Returns the
    /// addresses that will not be probed, and why.
    pub fn handle_message(
        &mut self,
        message: &PeerToPeer,
        surroundings: &Surroundings,
        pools: &Pools,
        now: Instant,
    ) -> Vec<(SocketAddr, Refusal)> {
        match message {
            PeerToPeer::Candidates {
                generation,
                mapping,
                candidates,
            } => {
                let known = self.theirs.as_ref().map_or(0, |theirs| theirs.generation);
                if *generation <= known {
                    return Vec::new();
                }
                let theirs = Theirs::judged(*generation, *mapping, candidates, surroundings, pools);
                let refused = theirs.refused.clone();
                let former = self.theirs.as_ref();
                let is_elsewhere = former.is_some_and(|former| former.is_left_by(&theirs));
                self.theirs = Some(theirs);
                if self.heard.take(HEARD_LISTS, now) {
                    self.start_anew(is_elsewhere, now);
                }
                refused
            }
            PeerToPeer::Punch { round } => {
                self.follow(*round, now);
                Vec::new()
            }
            PeerToPeer::PunchOpened { round } => {
                if matches!(self.stage, Stage::Opened { .. }) && *round == self.round {
                    self.send_fully(now);
                }
                Vec::new()
            }
            PeerToPeer::Hello { .. }
            | PeerToPeer::Grant(_)
            | PeerToPeer::Lease(_)
            | PeerToPeer::Revocations(_)
            | PeerToPeer::BenchAsk { .. }
            | PeerToPeer::BenchAnswer { .. } => Vec::new(),
        }
    }

    /// Notes whether this node's network lets no UDP out. Rounds go on, because a peer may be on the same
    /// LAN, but no port is searched for: it would be in vain, and the next time is an hour later.
    pub const fn set_udp_blocked(&mut self, is_blocked: bool) {
        self.udp_blocked = is_blocked;
    }

    /// Notes whether a direct path to the peer is proven. When the last one is lost, attempts start
    /// anew at once.
    pub fn set_direct(&mut self, is_direct: bool, now: Instant) {
        if is_direct == self.is_direct {
            return;
        }
        self.is_direct = is_direct;
        if is_direct {
            self.stage = Stage::Idle;
            self.failures = 0;
            self.end_spray();
        } else {
            // The follower cannot start a round: a new list makes the leader do so.
            self.mine.again = !self.leads;
            if self.mine.generation > 0 {
                self.renew(now);
            }
        }
    }

    /// Does what has become due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.mine.deadline().is_some_and(|at| at <= now) {
            self.renew(now);
        }
        match self.stage {
            Stage::Idle => {}
            Stage::Resting { until } if until <= now => self.begin_round(now),
            Stage::Opened { until } if until <= now => self.fail_round(now),
            Stage::Sending { started, next } => self.keep_sending(started, next, now),
            Stage::Resting { .. } | Stage::Opened { .. } => {}
        }
        if let Some(spray) = &mut self.spray
            && !spray.handle_timeout(now, &mut self.events)
        {
            self.end_spray();
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let stage = match self.stage {
            Stage::Idle => None,
            Stage::Resting { until } | Stage::Opened { until } => Some(until),
            Stage::Sending { started, next } => {
                let next = SEND_AT.get(next).copied().unwrap_or(ROUND_TIME);
                Some(started + next)
            }
        };
        let spray = self.spray.as_ref().map(Spray::deadline);
        let told = self.mine.deadline();
        [stage, spray, told].into_iter().flatten().min()
    }

    /// The next thing for the shell to do.
    pub fn poll_event(&mut self) -> Option<PunchEvent> {
        self.events.pop_front()
    }

    /// The searches for ports of the peer so far, for its next session.
    #[must_use]
    pub const fn searches(&self) -> &Searches {
        &self.searches
    }

    /// Whether sockets of a search are in use.
    #[must_use]
    pub const fn is_searching(&self) -> bool {
        self.spray.is_some()
    }

    /// Begins rounds anew; a round that is under way goes on, unless one of the ends is elsewhere now
    /// and it goes to where nobody is.
    fn start_anew(&mut self, is_elsewhere: bool, now: Instant) {
        self.failures = 0;
        let is_round = matches!(self.stage, Stage::Opened { .. } | Stage::Sending { .. });
        let is_busy = is_round && !is_elsewhere;
        let is_ready = self.theirs.is_some() && self.mine.generation > 0;
        if self.leads && is_ready && self.limits.punch && !self.is_direct && !is_busy {
            let earliest = self.last_round.map_or(now, |at| at + MIN_ROUND_INTERVAL);
            self.stage = Stage::Resting {
                until: earliest.max(now),
            };
        }
    }

    fn begin_round(&mut self, now: Instant) {
        self.round = self.round.saturating_add(1);
        self.last_round = Some(now);
        for nth in 0..OPENING_PROBES {
            self.send_to_targets(true, nth == 0);
        }
        let round = self.round;
        self.events
            .push_back(PunchEvent::Say(PeerToPeer::Punch { round }));
        self.stage = Stage::Opened {
            until: now + OPEN_TIMEOUT,
        };
    }

    fn follow(&mut self, round: u32, now: Instant) {
        let is_early = self
            .last_round
            .is_some_and(|at| now.saturating_duration_since(at) < MIN_ROUND_INTERVAL);
        let is_new = round > self.round;
        // A side that is not open must not be said to be: see above what full probes do to it.
        let is_ready = self.theirs.is_some() && self.mine.generation > 0;
        if self.leads || !is_new || is_early || !is_ready || !self.limits.punch {
            return;
        }
        self.round = round;
        self.last_round = Some(now);
        self.events
            .push_back(PunchEvent::Say(PeerToPeer::PunchOpened { round }));
        self.send_fully(now);
    }

    fn send_fully(&mut self, now: Instant) {
        self.stage = Stage::Sending {
            started: now,
            next: 0,
        };
        self.begin_spray(now);
        self.keep_sending(now, 0, now);
    }

    fn keep_sending(&mut self, started: Instant, mut next: usize, now: Instant) {
        while SEND_AT.get(next).is_some_and(|at| started + *at <= now) {
            self.send_to_targets(false, next < PREDICTED_SENDINGS);
            next += 1;
        }
        if started + ROUND_TIME <= now {
            self.fail_round(now);
        } else {
            self.stage = Stage::Sending { started, next };
        }
    }

    fn fail_round(&mut self, now: Instant) {
        let pause = PAUSES.get(self.failures).or(PAUSES.last()).copied();
        self.failures = self.failures.saturating_add(1);
        // A spray is a round of its own, much longer.
        let rest = self.spray.as_ref().map_or(now, Spray::end);
        self.stage = if self.leads && !self.is_direct {
            Stage::Resting {
                until: rest.max(now) + pause.unwrap_or_default(),
            }
        } else {
            Stage::Idle
        };
    }

    fn send_to_targets(&mut self, short_lived: bool, predicted: bool) {
        let Some(theirs) = &mut self.theirs else {
            return;
        };
        let base = theirs.reflexive_v4();
        for target in &mut theirs.targets {
            target.sent += 1;
            self.events.push_back(PunchEvent::Probe {
                to: target.candidate.address,
                short_lived,
                from: From::Main,
            });
        }
        if predicted
            && theirs.mapping == NatMapping::Sequential
            && let Some(base) = base
        {
            let base_port = base.port();
            let passed = base_port.saturating_sub(PASSED_PORTS).max(1)..base_port;
            let ahead = (1..=PREDICTED_PORTS).filter_map(|step| base_port.checked_add(step));
            let targets = &theirs.targets;
            let is_target = |port: &u16| {
                let address = SocketAddr::new(base.ip(), *port);
                targets.iter().any(|one| one.candidate.address == address)
            };
            for port in passed.filter(|port| !is_target(port)).chain(ahead) {
                self.events.push_back(PunchEvent::Probe {
                    to: SocketAddr::new(base.ip(), port),
                    short_lived,
                    from: From::Main,
                });
            }
        }
    }
}
