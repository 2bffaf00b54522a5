//! One case of the matrix: which routers, of which flavour, over which families; and what is
//! expected of it. Data only.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Error, Result, bail};

use crate::nat::Nat;
use crate::nat_probe::{Behaviour, Filtering, Mapping};

/// What stands between a site and the internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A router without translation.
    None,
    /// A full cone.
    FullCone,
    /// An address-restricted cone.
    AddressRestricted,
    /// A port-restricted cone.
    PortRestricted,
    /// A random port for every destination.
    SymmetricRandom,
    /// The next port for every destination.
    SymmetricSequential,
    /// A port-restricted cone that lets no UDP through.
    UdpBlocked,
    /// A port-restricted cone behind another.
    Double,
}

impl Kind {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 8] = [
        Self::None,
        Self::FullCone,
        Self::AddressRestricted,
        Self::PortRestricted,
        Self::SymmetricRandom,
        Self::SymmetricSequential,
        Self::UdpBlocked,
        Self::Double,
    ];

    /// The word in tables and on the command line.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::FullCone => "cone",
            Self::AddressRestricted => "address",
            Self::PortRestricted => "port",
            Self::SymmetricRandom => "symmetric",
            Self::SymmetricSequential => "sequential",
            Self::UdpBlocked => "blocked",
            Self::Double => "double",
        }
    }

    /// The translation of the router nearest to the site.
    #[must_use]
    pub const fn nat(self) -> Nat {
        match self {
            Self::None => Nat::None,
            Self::FullCone => Nat::FullCone,
            Self::AddressRestricted => Nat::AddressRestricted,
            Self::PortRestricted | Self::UdpBlocked | Self::Double => Nat::PortRestricted,
            Self::SymmetricRandom => Nat::Symmetric,
            Self::SymmetricSequential => Nat::SequentialSymmetric,
        }
    }

    /// What plain UDP must find.
    #[must_use]
    pub const fn behaviour(self, flavour: Flavour) -> Behaviour {
        match self {
            Self::UdpBlocked => Behaviour {
                mapping: Mapping::Blocked,
                filtering: Filtering::AddressAndPortDependent,
            },
            Self::None
            | Self::FullCone
            | Self::AddressRestricted
            | Self::PortRestricted
            | Self::SymmetricRandom
            | Self::SymmetricSequential
            | Self::Double => Behaviour::of(self.nat(), matches!(flavour, Flavour::Drops)),
        }
    }

    const fn is_symmetric(self) -> bool {
        matches!(self, Self::SymmetricRandom | Self::SymmetricSequential)
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        named(Self::ALL, Self::word, text)
    }
}

/// What routers do with packets that nobody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flavour {
    /// They drop them, and connection tracking never hears of them.
    Drops,
    /// They answer that no such port is open, and connection tracking keeps an entry.
    Answers,
}

impl Flavour {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Drops, Self::Answers];

    /// The word in tables and on the command line.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Drops => "drops",
            Self::Answers => "answers",
        }
    }
}

impl FromStr for Flavour {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        named(Self::ALL, Self::word, text)
    }
}

/// Which sites have IPv6 besides IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Families {
    /// Neither.
    V4,
    /// The first.
    V6OnOne,
    /// Both, routed; a router that drops what nobody asked for does so here too.
    V6OnBoth,
}

impl Families {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::V4, Self::V6OnOne, Self::V6OnBoth];

    /// The word in tables and on the command line.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::V4 => "v4",
            Self::V6OnOne => "v6-one",
            Self::V6OnBoth => "v6-both",
        }
    }

    /// Whether the site at this index has IPv6.
    #[must_use]
    pub const fn has_v6(self, site: usize) -> bool {
        match self {
            Self::V4 => false,
            Self::V6OnOne => site == 0,
            Self::V6OnBoth => true,
        }
    }
}

impl FromStr for Families {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        named(Self::ALL, Self::word, text)
    }
}

/// What is behind which routers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pair {
    /// A node each behind routers of their own.
    Apart(Kind, Kind),
    /// Both nodes behind one router.
    Same(Kind),
}

impl Pair {
    /// Every pair, each once.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let kinds = Kind::ALL;
        let apart = kinds.iter().enumerate().flat_map(|(at, one)| {
            kinds[at..]
                .iter()
                .map(move |other| Self::Apart(*one, *other))
        });
        apart.chain(kinds.map(Self::Same)).collect()
    }

    /// The routers of the sites that there are.
    #[must_use]
    pub fn sites(self) -> Vec<Kind> {
        match self {
            Self::Apart(one, other) => vec![one, other],
            Self::Same(kind) => vec![kind],
        }
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apart(one, other) => write!(f, "{}:{}", one.word(), other.word()),
            Self::Same(kind) => write!(f, "{}:same", kind.word()),
        }
    }
}

impl FromStr for Pair {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some((one, other)) = text.split_once(':') else {
            bail!("{text:?} is no pair, as in cone:symmetric or cone:same");
        };
        if other == "same" {
            return Ok(Self::Same(one.parse()?));
        }
        Ok(Self::Apart(one.parse()?, other.parse()?))
    }
}

/// One case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Case {
    /// Where the nodes are.
    pub pair: Pair,
    /// What the routers do with what nobody asked for.
    pub router: Flavour,
    /// Which sites have IPv6.
    pub ip: Families,
}

/// The path that two nodes should come to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Direct, soon.
    Direct,
    /// Direct in most runs, by many probes against random ports.
    Sprayed,
    /// Through a relay for good.
    Relayed,
}

impl Case {
    /// What the project promises of this case.
    #[must_use]
    pub fn expected(self) -> Expected {
        let Pair::Apart(one, other) = self.pair else {
            return Expected::Direct;
        };
        let either = |kind| one == kind || other == kind;
        if either(Kind::UdpBlocked) {
            return Expected::Relayed;
        }
        if self.ip == Families::V6OnBoth {
            return Expected::Direct;
        }
        if one.is_symmetric() && other.is_symmetric() {
            return Expected::Relayed;
        }
        let filters = |kind: Kind| {
            kind.behaviour(self.router).filtering == Filtering::AddressAndPortDependent
                && !kind.is_symmetric()
        };
        if either(Kind::SymmetricRandom) && (filters(one) || filters(other)) {
            return Expected::Sprayed;
        }
        Expected::Direct
    }
}

impl Expected {
    /// The word in lists for programs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Sprayed => "sprayed",
            Self::Relayed => "relayed",
        }
    }

    /// The longest that it may take until packets go direct; none where they never do.
    #[must_use]
    pub const fn limit(self) -> Option<Duration> {
        match self {
            Self::Direct => Some(Duration::from_secs(5)),
            Self::Sprayed => Some(Duration::from_secs(15)),
            Self::Relayed => None,
        }
    }

    /// How long to watch: past the limit, to tell late from never, and long enough to see a direct
    /// path that was thought impossible.
    #[must_use]
    pub const fn patience(self) -> Duration {
        match self {
            Self::Direct => Duration::from_secs(8),
            Self::Sprayed => Duration::from_secs(20),
            Self::Relayed => Duration::from_secs(3),
        }
    }
}

/// The one that is written so.
fn named<T: Copy, const N: usize>(
    all: [T; N],
    word: fn(T) -> &'static str,
    text: &str,
) -> Result<T> {
    let found = all.into_iter().find(|one| word(*one) == text);
    found.with_context(|| format!("{text:?} is none of {}", all.map(word).join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(pair: &str, router: Flavour, ip: Families) -> Expected {
        let pair = pair.parse().unwrap();
        Case { pair, router, ip }.expected()
    }

    #[test]
    fn pairs_are_read_as_they_are_written() {
        let all = Pair::all();
        assert_eq!(all.len(), 36 + 8);
        for pair in all {
            assert_eq!(pair.to_string().parse::<Pair>().unwrap(), pair);
        }
        let wrong = "cone:cube".parse::<Pair>().unwrap_err().to_string();
        assert!(wrong.contains("symmetric"), "{wrong}");
        assert!("cone".parse::<Pair>().is_err());
    }

    #[test]
    fn what_is_promised() {
        use Expected::{Direct, Relayed, Sprayed};
        let v4 = |pair| expected(pair, Flavour::Drops, Families::V4);
        assert_eq!(v4("port:port"), Direct);
        assert_eq!(v4("cone:symmetric"), Direct);
        assert_eq!(v4("port:sequential"), Direct);
        assert_eq!(v4("port:symmetric"), Sprayed);
        assert_eq!(v4("symmetric:double"), Sprayed);
        assert_eq!(v4("symmetric:sequential"), Relayed);
        assert_eq!(v4("none:blocked"), Relayed);
        assert_eq!(v4("blocked:same"), Direct);
        assert_eq!(v4("none:symmetric"), Sprayed);
        let open = expected("none:symmetric", Flavour::Answers, Families::V4);
        assert_eq!(open, Direct);
        let v6 = |ip| expected("symmetric:symmetric", Flavour::Drops, ip);
        assert_eq!(v6(Families::V6OnBoth), Direct);
        assert_eq!(v6(Families::V6OnOne), Relayed);
    }
}
