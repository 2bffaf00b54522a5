//! What a case is about, and the reference: which path its pair must get.

use std::time::Duration;

use crate::nat::{Filtering, Kind, Mapping};
use crate::random::Random;

/// What is between a node and the internet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Site {
    /// NATs from the inside out.
    pub(crate) nats: Vec<Kind>,
    /// Whether the router leads a port to whoever asks it to; of those whose ports depend on where a
    /// packet goes, the kernel's are what `port_mapping` of the namespace tests is about.
    pub(crate) maps_ports: bool,
    /// Whether there is IPv6, where every node has an address of its own, and if so, whether nobody
    /// is let in who was not asked.
    pub(crate) v6: Option<bool>,
    pub(crate) blocks_udp: bool,
    /// How long its routers remember what is answered.
    pub(crate) lifetime: Duration,
}

/// A case.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) sites: [Site; 2],
    /// Both nodes are in the first site.
    pub(crate) together: bool,
    /// How long after the session each node learns of its own interfaces.
    pub(crate) late: [Duration; 2],
    /// The first node is where it has been for long.
    first_stayed: bool,
    /// Where the second node goes later, if it does.
    pub(crate) moves_to: Option<Site>,
    pub(crate) delay: Duration,
    pub(crate) relay_delay: Duration,
    pub(crate) jitter_ms: u64,
    pub(crate) loss_percent: u64,
}

/// What the model says about a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    Direct,
    Relayed,
    /// Direct, if a search within the budget finds a port, or by chance.
    Search,
}

impl Scenario {
    pub(crate) fn draw(random: &mut Random) -> Self {
        let late = |random: &mut Random| match random.percent(30) {
            true => random.millis(1, 500),
            false => Duration::ZERO,
        };
        Self {
            sites: [Site::draw(random), Site::draw(random)],
            together: random.percent(10),
            late: [late(random), late(random)],
            first_stayed: false,
            moves_to: random.percent(30).then(|| Site::draw(random)),
            delay: random.millis(2, 80),
            relay_delay: random.millis(2, 150),
            jitter_ms: random.one_of(&[0, 5, 40]),
            loss_percent: random.one_of(&[0, 0, 1, 3]),
        }
    }

    /// The same after the second node has moved.
    pub(crate) fn moved(&self) -> Option<Self> {
        let there = self.moves_to.clone()?;
        Some(Self {
            sites: [self.sites[0].clone(), there],
            together: false,
            first_stayed: true,
            moves_to: None,
            ..self.clone()
        })
    }

    /// Whether a router of either site may take a packet that it has not asked for, as what a node that
    /// has moved asks its former path, for its own, and keep the way closed until it forgets it.
    pub(crate) fn may_remember_strangers(&self) -> bool {
        let mut nats = self.sites.iter().flat_map(|site| &site.nats);
        nats.any(|nat| nat.remembers_strangers)
    }

    /// Written for being right at a glance: what the behaviours of two NATs allow.
    pub(crate) fn expected(&self) -> Expected {
        let [a, b] = &self.sites;
        if self.together {
            return Expected::Direct;
        }
        if a.blocks_udp || b.blocks_udp {
            return Expected::Relayed;
        }
        if (a.v6.is_some() && b.v6.is_some()) || a.maps_ports || b.maps_ports {
            return Expected::Direct;
        }
        let (a, b) = (a.seen_from_outside(), b.seen_from_outside());
        match (a.mapping, b.mapping) {
            (Mapping::Independent, Mapping::Independent) => Expected::Direct,
            (Mapping::Independent, other) => across(a.filtering, other, false),
            (other, Mapping::Independent) => across(b.filtering, other, self.first_stayed),
            _ => Expected::Relayed,
        }
    }
}

/// One end keeps its port and filters like this, the other one's port changes; how far a NAT has
/// counted that was seen long ago nobody knows.
fn across(filtering: Filtering, other: Mapping, seen_long_ago: bool) -> Expected {
    match (filtering, other) {
        (Filtering::AddressAndPort, Mapping::Random) => Expected::Search,
        (Filtering::AddressAndPort, Mapping::Sequential) if seen_long_ago => Expected::Search,
        _ => Expected::Direct,
    }
}

impl Site {
    fn draw(random: &mut Random) -> Self {
        let mapping = random.one_of(&[
            Mapping::Independent,
            Mapping::Independent,
            Mapping::Independent,
            Mapping::Sequential,
            Mapping::Random,
        ]);
        let filtering = match mapping {
            Mapping::Independent => random.one_of(&[
                Filtering::Independent,
                Filtering::Address,
                Filtering::AddressAndPort,
                Filtering::AddressAndPort,
            ]),
            Mapping::Sequential | Mapping::Random => Filtering::AddressAndPort,
        };
        let outer = Kind {
            mapping,
            filtering,
            remembers_strangers: filtering == Filtering::AddressAndPort && random.percent(50),
        };
        let inner = Kind {
            mapping: Mapping::Independent,
            filtering: Filtering::AddressAndPort,
            remembers_strangers: random.percent(50),
        };
        let nats = match random.below(10) {
            0 => Vec::new(),
            1 | 2 => vec![inner, outer],
            _ => vec![outer],
        };
        Self {
            maps_ports: nats.len() == 1 && mapping == Mapping::Independent && random.percent(15),
            nats,
            v6: random.percent(30).then(|| random.percent(70)),
            blocks_udp: random.percent(5),
            lifetime: Duration::from_secs(random.one_of(&[30, 60, 180])),
        }
    }

    /// The whole chain of NATs as one.
    fn seen_from_outside(&self) -> Kind {
        let mut seen = Kind {
            mapping: Mapping::Independent,
            filtering: Filtering::Independent,
            remembers_strangers: false,
        };
        for nat in &self.nats {
            if nat.mapping != Mapping::Independent {
                seen.mapping = nat.mapping;
            }
            seen.filtering = seen.filtering.max(nat.filtering);
        }
        seen
    }
}
