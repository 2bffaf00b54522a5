//! One simulated NAT: mapping and filtering as RFC 4787 names them, and Linux's trap.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::random::Random;

/// How outside ports are given out (RFC 4787, section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mapping {
    Independent,
    Sequential,
    Random,
}

/// Who is let in (RFC 4787, section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Filtering {
    Independent,
    Address,
    AddressAndPort,
}

/// What a NAT is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) mapping: Mapping,
    pub(crate) filtering: Filtering,
    /// Whether what was not asked for is remembered as if it were for the router itself, so that
    /// the tuple is not free any more: Linux without `ct state new drop`.
    pub(crate) remembers_strangers: bool,
}

/// How long Linux remembers an unanswered packet (`nf_conntrack_udp_timeout`).
const UNANSWERED_LIFETIME: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy)]
struct Flow {
    port: u16,
    used: Instant,
    answered: bool,
}

#[derive(Debug)]
pub(crate) struct Nat {
    kind: Kind,
    ip: IpAddr,
    lifetime: Duration,
    /// By inside and destination.
    flows: BTreeMap<(SocketAddr, SocketAddr), Flow>,
    ports: BTreeMap<SocketAddr, u16>,
    strangers: BTreeMap<(SocketAddr, u16), Instant>,
    /// What a port mapping leads to (RFC 6887 and its kind), whoever sends there.
    leads: Option<(u16, SocketAddr)>,
    next_port: u16,
    moves_ports: bool,
}

impl Nat {
    pub(crate) fn new(kind: Kind, ip: IpAddr, lifetime: Duration) -> Self {
        Self {
            kind,
            ip,
            lifetime,
            flows: BTreeMap::new(),
            ports: BTreeMap::new(),
            strangers: BTreeMap::new(),
            leads: None,
            next_port: 20_000,
            moves_ports: false,
        }
    }

    pub(crate) fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Leads a port to somebody inside; returns where that is from outside.
    pub(crate) fn lead(&mut self, port: u16, inside: SocketAddr) -> SocketAddr {
        self.leads = Some((port, inside));
        SocketAddr::new(self.ip, port)
    }

    /// Forgets everything but a port mapping, as a router that restarts, and gives out other ports from
    /// now on.
    pub(crate) fn forget(&mut self) {
        self.forget_flows();
        self.ports.clear();
        self.moves_ports = true;
    }

    /// Forgets whom it lets in, as a firewall that restarts.
    pub(crate) fn forget_flows(&mut self) {
        self.flows.clear();
        self.strangers.clear();
    }

    /// Translates a packet on its way out; returns its source from now on.
    pub(crate) fn outbound(
        &mut self,
        inside: SocketAddr,
        to: SocketAddr,
        random: &mut Random,
        now: Instant,
    ) -> SocketAddr {
        self.expire(now);
        let known = self.flows.get(&(inside, to)).copied();
        let mut flow = known.unwrap_or_else(|| Flow {
            port: self.port_for(inside, to, random),
            used: now,
            answered: false,
        });
        flow.used = now;
        self.flows.insert((inside, to), flow);
        SocketAddr::new(self.ip, flow.port)
    }

    /// Who inside gets a packet that has come to `port`, if anybody.
    pub(crate) fn inbound(
        &mut self,
        from: SocketAddr,
        port: u16,
        now: Instant,
    ) -> Option<SocketAddr> {
        self.expire(now);
        let filtering = self.kind.filtering;
        let open = self.flows.iter_mut().find(|((_, to), flow)| {
            flow.port == port
                && match filtering {
                    Filtering::Independent => true,
                    Filtering::Address => to.ip() == from.ip(),
                    Filtering::AddressAndPort => *to == from,
                }
        });
        if let Some(((inside, to), flow)) = open {
            flow.used = now;
            flow.answered |= *to == from;
            return Some(*inside);
        }
        if let Some((_, inside)) = self.leads.filter(|(led, _)| *led == port) {
            // Answers come from there too, unless something was sent to the same address before.
            self.flows.entry((inside, from)).or_insert(Flow {
                port,
                used: now,
                answered: true,
            });
            return Some(inside);
        }
        if self.kind.remembers_strangers {
            self.strangers
                .insert((from, port), now + UNANSWERED_LIFETIME);
        }
        None
    }

    fn port_for(&mut self, inside: SocketAddr, to: SocketAddr, random: &mut Random) -> u16 {
        let preferred = match self.kind.mapping {
            Mapping::Independent => {
                let moved = self.moves_ports;
                *self.ports.entry(inside).or_insert_with(|| {
                    if moved {
                        any_port(random)
                    } else {
                        inside.port()
                    }
                })
            }
            Mapping::Sequential => {
                self.next_port += 1;
                self.next_port
            }
            Mapping::Random => any_port(random),
        };
        let mut port = preferred;
        while self.is_taken(inside, to, port) {
            port = any_port(random);
        }
        port
    }

    fn is_taken(&self, inside: SocketAddr, to: SocketAddr, port: u16) -> bool {
        let by_other = self
            .flows
            .iter()
            .any(|((other, _), flow)| flow.port == port && *other != inside);
        by_other
            || self.leads.is_some_and(|(led, _)| led == port)
            || self.strangers.contains_key(&(to, port))
    }

    fn expire(&mut self, now: Instant) {
        let lifetime = self.lifetime;
        self.flows.retain(|_, flow| {
            let lifetime = if flow.answered {
                lifetime
            } else {
                lifetime.min(UNANSWERED_LIFETIME)
            };
            now < flow.used + lifetime
        });
        self.strangers.retain(|_, until| now < *until);
    }
}

fn any_port(random: &mut Random) -> u16 {
    1024 + u16::try_from(random.below(64_512)).unwrap()
}
