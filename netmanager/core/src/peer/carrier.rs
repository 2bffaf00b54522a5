//! What carries the datagrams between this node and one relay: UDP, or TLS over TCP where UDP does
//! not get through.
//!
//! Pure: the shell opens and closes the TCP connection, knocks at the relay over UDP, and tells this
//! machine what has come over what. Who talks to whom at the relay, with which keys, is the same
//! over both; a change of carrier is no change of path and ends no session.
//!
//! ```text
//!  UDP answers       silent for SILENCE           TCP stands, UDP still silent
//!      Udp  ----------------------->  Udp, opening TCP  ------------------->  Tcp, knocking over UDP
//!       ^                                                                      |  UDP answers, or
//!       +----------------------------------------------------------------------+  TCP is lost
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long UDP may leave a question unanswered before TCP is tried beside it: an intercontinental
/// round trip, and a delay of the relay's. A path through the relay is given up after a second.
pub const SILENCE: Duration = Duration::from_millis(400);
/// A relay that nothing has come from for so long is asked; its session is kept alive more often.
pub const QUIET: Duration = Duration::from_secs(10);
/// How long a connection and its handshake may take: two round trips and a lost packet.
pub const OPEN_TIME: Duration = Duration::from_secs(4);
/// Between two knocks over UDP while TCP is used: about 25 bit/s, and UDP is back within it.
pub const KNOCK_INTERVAL: Duration = Duration::from_secs(3);
/// How long TCP is kept after UDP has answered again: it may go at once.
pub const LINGER: Duration = Duration::from_secs(10);
/// First pause after TCP has failed; doubled with every further failure.
pub const RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest pause between attempts to connect.
pub const RETRY_MAX: Duration = Duration::from_secs(30);

/// What carries datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Carrier {
    /// The data socket.
    Udp,
    /// A TLS connection over TCP.
    Tcp,
}

impl Carrier {
    /// The stable word that stands in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// Why a carrier is used, from a fixed catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CarrierReason {
    /// Nothing speaks against UDP.
    Preferred,
    /// The relay does not answer over UDP, and does over TCP.
    UdpSilent,
    /// The relay answers over UDP again.
    UdpAnswers,
    /// The TCP connection has ended.
    TcpLost,
}

impl CarrierReason {
    /// The stable word that stands in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Preferred => "udp_preferred",
            Self::UdpSilent => "udp_silent",
            Self::UdpAnswers => "udp_answers",
            Self::TcpLost => "tcp_lost",
        }
    }
}

/// What the shell has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CarrierAction {
    /// Connect over TCP.
    Open,
    /// Close the TCP connection, or give up the attempt.
    Close,
    /// Ask the relay over UDP, whatever carries everything else, for an answer over UDP.
    Knock,
    /// Send everything over this one from now on.
    Use(Carrier, CarrierReason),
}

/// The TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tcp {
    Closed { retry_at: Option<Instant> },
    Opening { until: Instant },
    Open { until: Option<Instant> },
}

/// The carriers of one relay.
#[derive(Debug)]
pub struct Carriers {
    in_use: Carrier,
    reason: CarrierReason,
    /// Since when a question over UDP has had no answer.
    asked: Option<Instant>,
    /// When something came over UDP last.
    heard: Option<Instant>,
    knock_at: Option<Instant>,
    tcp: Tcp,
    failures: u32,
    actions: VecDeque<CarrierAction>,
}

impl Default for Carriers {
    fn default() -> Self {
        Self {
            in_use: Carrier::Udp,
            reason: CarrierReason::Preferred,
            asked: None,
            heard: None,
            knock_at: None,
            tcp: Tcp::Closed { retry_at: None },
            failures: 0,
            actions: VecDeque::new(),
        }
    }
}

impl Carriers {
    /// What everything is sent over.
    #[must_use]
    pub const fn in_use(&self) -> Carrier {
        self.in_use
    }

    /// Why.
    #[must_use]
    pub const fn reason(&self) -> CarrierReason {
        self.reason
    }

    /// Notes that something was sent which the relay has to answer, over what is in use.
    pub fn handle_asked(&mut self, now: Instant) {
        if self.in_use == Carrier::Udp {
            self.asked.get_or_insert(now);
        }
    }

    /// Notes that something authentic has come from the relay over UDP.
    pub fn handle_heard(&mut self, now: Instant) {
        self.asked = None;
        self.heard = Some(now);
        if self.in_use == Carrier::Tcp {
            self.take(Carrier::Udp, CarrierReason::UdpAnswers);
            self.tcp = Tcp::Open {
                until: Some(now + LINGER),
            };
        }
    }

    /// Notes that the TCP connection stands.
    pub fn handle_open(&mut self, now: Instant) {
        self.failures = 0;
        if self.asked.is_some() {
            self.use_tcp(now);
        } else {
            self.close();
        }
    }

    /// Notes that the TCP connection has ended, or could not be made.
    pub fn handle_closed(&mut self, now: Instant) {
        let pause = RETRY_MIN
            .saturating_mul(1 << self.failures.min(5))
            .min(RETRY_MAX);
        self.failures = self.failures.saturating_add(1);
        self.tcp = Tcp::Closed {
            retry_at: Some(now + pause),
        };
        if self.in_use == Carrier::Tcp {
            self.take(Carrier::Udp, CarrierReason::TcpLost);
            self.asked = Some(now);
        }
    }

    /// Notes that there is no session with the relay any more: that it says nothing is no news.
    pub fn handle_forgotten(&mut self) {
        self.heard = None;
    }

    /// Does what has become due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let quiet = self.quiet_at().is_some_and(|at| at <= now);
        if quiet {
            self.asked = Some(now);
            self.actions.push_back(CarrierAction::Knock);
        }
        if self.tcp_at().is_some_and(|at| at <= now) {
            if matches!(self.tcp, Tcp::Open { .. }) {
                self.use_tcp(now);
            } else {
                self.tcp = Tcp::Opening {
                    until: now + OPEN_TIME,
                };
                self.actions.push_back(CarrierAction::Open);
            }
        }
        if self.in_use == Carrier::Tcp && self.knock_at.is_some_and(|at| at <= now) {
            self.knock_at = Some(now + KNOCK_INTERVAL);
            self.actions.push_back(CarrierAction::Knock);
        }
        match self.tcp {
            Tcp::Opening { until } if until <= now => {
                self.actions.push_back(CarrierAction::Close);
                self.handle_closed(now);
            }
            Tcp::Open { until: Some(until) } if until <= now => self.close(),
            Tcp::Closed { .. } | Tcp::Opening { .. } | Tcp::Open { .. } => {}
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let tcp = match self.tcp {
            Tcp::Opening { until } => Some(until),
            Tcp::Open { until } => until,
            Tcp::Closed { .. } => None,
        };
        let knock = self.knock_at.filter(|_| self.in_use == Carrier::Tcp);
        [self.quiet_at(), self.tcp_at(), knock, tcp]
            .into_iter()
            .flatten()
            .min()
    }

    /// The next thing for the shell to do.
    pub fn poll_action(&mut self) -> Option<CarrierAction> {
        self.actions.pop_front()
    }

    /// When a relay over UDP that says nothing is asked.
    fn quiet_at(&self) -> Option<Instant> {
        let idle = self.in_use == Carrier::Udp && self.asked.is_none();
        self.heard.filter(|_| idle).map(|at| at + QUIET)
    }

    /// When TCP is tried or used, as UDP does not answer.
    fn tcp_at(&self) -> Option<Instant> {
        let silent = self.asked.filter(|_| self.in_use == Carrier::Udp)? + SILENCE;
        match self.tcp {
            Tcp::Closed { retry_at } => Some(retry_at.map_or(silent, |at| at.max(silent))),
            Tcp::Open { .. } => Some(silent),
            Tcp::Opening { .. } => None,
        }
    }

    fn use_tcp(&mut self, now: Instant) {
        self.tcp = Tcp::Open { until: None };
        self.knock_at = Some(now + KNOCK_INTERVAL);
        self.take(Carrier::Tcp, CarrierReason::UdpSilent);
    }

    fn take(&mut self, carrier: Carrier, reason: CarrierReason) {
        self.in_use = carrier;
        self.reason = reason;
        self.actions.push_back(CarrierAction::Use(carrier, reason));
    }

    fn close(&mut self) {
        self.tcp = Tcp::Closed { retry_at: None };
        self.actions.push_back(CarrierAction::Close);
    }
}

#[cfg(test)]
mod tests;
