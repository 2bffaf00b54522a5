//! What a case is about, and the reference: which path its pair must get.

use std::time::Duration;

use crate::nat::{Filtering, Kind, Mapping};
use crate::random::Random;

/// What is between a node and the internet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Site {
    /// NATs from the inside out.
    pub(crate) nats: Vec<Kind>,
    pub(crate) blocks_udp: bool,
}

/// A case.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) sites: [Site; 2],
    /// Both nodes are in the first site.
    pub(crate) together: bool,
    pub(crate) delay: Duration,
    pub(crate) relay_delay: Duration,
    pub(crate) jitter_ms: u64,
    pub(crate) loss_percent: u64,
    pub(crate) lifetime: Duration,
}

/// What the model says about a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    Direct,
    Relayed,
    /// Direct, if a search within the budget finds a port.
    Search,
}

impl Scenario {
    pub(crate) fn draw(random: &mut Random) -> Self {
        Self {
            sites: [Site::draw(random), Site::draw(random)],
            together: random.percent(10),
            delay: random.millis(2, 80),
            relay_delay: random.millis(2, 150),
            jitter_ms: random.one_of(&[0, 5, 40]),
            loss_percent: random.one_of(&[0, 0, 1, 3]),
            lifetime: Duration::from_secs(random.one_of(&[30, 60, 180])),
        }
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
        let (a, b) = (a.seen_from_outside(), b.seen_from_outside());
        match (a.mapping, b.mapping) {
            (Mapping::Independent, Mapping::Independent) => Expected::Direct,
            (Mapping::Independent, other) => across(a.filtering, other),
            (other, Mapping::Independent) => across(b.filtering, other),
            _ => Expected::Relayed,
        }
    }
}

/// One end keeps its port and filters like this, the other one's port changes.
fn across(filtering: Filtering, other: Mapping) -> Expected {
    match (filtering, other) {
        (Filtering::AddressAndPort, Mapping::Random) => Expected::Search,
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
            nats,
            blocks_udp: random.percent(5),
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
