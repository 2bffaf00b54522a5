//! Where this node may be reached, and which of the addresses that a peer names may be probed.
//!
//! [`Surroundings`] collects what interfaces, observers and the operator say, tells how the NAT in
//! front maps ports, and judges what peers name: a node must not be made to send packets to third
//! parties. Gathering is the shell's; when probes go out is [`super::punch`]'s.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use weald_proto::addr::Pools;
use weald_proto::session::{CandidateKind, NatMapping, PeerCandidate};

/// Addresses that a node names to a peer, and takes from one: a few per family and link.
pub const MAX_PEER_CANDIDATES: usize = 16;
/// Observers whose words are kept: the relays on two ports each, and the cluster.
pub const MAX_OBSERVERS: usize = 16;
/// Outside addresses of gateways that are told: a host has one default gateway, or two.
pub const MAX_MAPPED: usize = 4;
/// Two ports that a NAT has given out one after the other are no further apart than this; two of
/// 64,512 random ones are so by chance in one case of five hundred.
pub const SEQUENTIAL_WINDOW: u16 = 64;
/// How long an observer that is asked again may take before what it saw last is forgotten: some
/// round trips and a lost packet.
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);
/// How long the word of an observer that cannot be asked counts: a relay that restarts is back by
/// then, and mappings live about as long.
const LOST_PATIENCE: Duration = Duration::from_secs(60);

/// An address of an interface, and how much of it names the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interface {
    /// The data socket's address there.
    pub address: SocketAddr,
    /// Bits of the prefix that the link has.
    pub prefix_len: u8,
}

impl Interface {
    /// Whether an address is on the link of this interface.
    #[must_use]
    pub fn is_on_link(&self, ip: IpAddr) -> bool {
        let (mine, len) = (self.address.ip(), u32::from(self.prefix_len));
        match (mine, ip) {
            (IpAddr::V4(mine), IpAddr::V4(ip)) => {
                let shift = 32_u32.saturating_sub(len);
                let mask = u32::MAX.checked_shl(shift).unwrap_or(0);
                (u32::from(mine) ^ u32::from(ip)) & mask == 0
            }
            (IpAddr::V6(mine), IpAddr::V6(ip)) => {
                let shift = 128_u32.saturating_sub(len);
                let mask = u128::MAX.checked_shl(shift).unwrap_or(0);
                (u128::from(mine) ^ u128::from(ip)) & mask == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// Why an address that a peer has named is not probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// Loopback, multicast, broadcast, link-local, reserved, or port 0.
    Special,
    /// It is within the overlay's own prefixes.
    Overlay,
    /// It is this node's own address.
    Own,
    /// It is a private address of networks that this node has no interface in.
    ForeignPrivate,
    /// It is a private address, and stands for the outside of a router.
    Private,
    /// This node has no address of that family.
    Family,
    /// It stands beyond the [`MAX_PEER_CANDIDATES`] that are taken.
    TooMany,
}

impl Refusal {
    /// The stable word that stands in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Special => "special_address",
            Self::Overlay => "overlay_address",
            Self::Own => "own_address",
            Self::ForeignPrivate => "foreign_private_address",
            Self::Private => "private_address",
            Self::Family => "family_not_here",
            Self::TooMany => "too_many_candidates",
        }
    }
}

/// What is known of where this node is.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    interfaces: BTreeSet<Interface>,
    configured: Vec<SocketAddr>,
    /// What gateways lead to the data socket.
    mapped: Vec<SocketAddr>,
    /// What each observer sees, by the address at which it was sent to.
    observed: BTreeMap<SocketAddr, Observation>,
}

#[derive(Debug, Clone, Copy)]
struct Observation {
    seen: SocketAddr,
    /// When it is forgotten unless the observer says it again.
    until: Option<Instant>,
    /// Whether the observer has been asked since.
    asked: bool,
}

impl Surroundings {
    /// Takes the addresses of the interfaces; true if they are others than before.
    pub fn set_interfaces(&mut self, interfaces: impl IntoIterator<Item = Interface>) -> bool {
        let interfaces = interfaces
            .into_iter()
            .filter(|one| !is_special(one.address));
        let interfaces: BTreeSet<_> = interfaces.collect();
        let changed = interfaces != self.interfaces;
        self.interfaces = interfaces;
        changed
    }

    /// The addresses of the interfaces.
    pub fn interfaces(&self) -> impl Iterator<Item = Interface> + '_ {
        self.interfaces.iter().copied()
    }

    /// Takes the addresses that the operator has named; true if they are others than before.
    pub fn set_configured(&mut self, configured: Vec<SocketAddr>) -> bool {
        let changed = configured != self.configured;
        self.configured = configured;
        changed
    }

    /// Takes the outside addresses that gateways lead to the data socket, each of them judged by
    /// [`Self::judge_mapping`]; true if they are others than before.
    pub fn set_mapped(&mut self, mut mapped: Vec<SocketAddr>) -> bool {
        mapped.truncate(MAX_MAPPED);
        let changed = mapped != self.mapped;
        self.mapped = mapped;
        changed
    }

    /// Takes what `observer` sees; true if that is news.
    pub fn observe(&mut self, observer: SocketAddr, seen: SocketAddr) -> bool {
        let is_known = self.observed.contains_key(&observer);
        if is_special(seen) || (!is_known && self.observed.len() == MAX_OBSERVERS) {
            return false;
        }
        let observation = Observation {
            seen,
            until: None,
            asked: false,
        };
        let former = self.observed.insert(observer, observation);
        former.map(|former| former.seen) != Some(seen)
    }

    /// Notes that `observer` is asked again: what it has seen may not be so any more.
    pub fn ask(&mut self, observer: SocketAddr, now: Instant) {
        if let Some(observation) = self.observed.get_mut(&observer) {
            observation.expire_at(now + ANSWER_PATIENCE);
            observation.asked = true;
        }
    }

    /// Notes that `observer` cannot be asked any more, for now at least.
    pub fn lose_observer(&mut self, observer: SocketAddr, now: Instant) {
        if let Some(observation) = self.observed.get_mut(&observer) {
            observation.expire_at(now + LOST_PATIENCE);
            observation.asked = false;
        }
    }

    /// Whether every observer that was asked again has answered. Before that, what is known may be
    /// half of before and half of now, and look like another kind of NAT.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        !self.observed.values().any(|observation| observation.asked)
    }

    /// Forgets what `observer` has seen; true if that was something.
    pub fn forget_observer(&mut self, observer: SocketAddr) -> bool {
        self.observed.remove(&observer).is_some()
    }

    /// Forgets what observers have not said again in time; true if that was something.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        let before = self.observed.len();
        self.observed
            .retain(|_, observation| observation.until.is_none_or(|at| now < at));
        self.observed.len() < before
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.observed
            .values()
            .filter_map(|observation| observation.until)
            .min()
    }

    /// What each observer sees, by the observer's address.
    pub fn observations(&self) -> impl Iterator<Item = (SocketAddr, SocketAddr)> + '_ {
        self.observed.iter().map(|(by, one)| (*by, one.seen))
    }

    /// How the NAT towards the outside maps IPv4 ports, as far as two observers tell. Who sees an own
    /// address while others do not is inside, on whatever network, and tells nothing of the NAT.
    #[must_use]
    pub fn mapping(&self) -> NatMapping {
        let seen = self
            .observations()
            .filter(|(by, _)| by.is_ipv4() && !self.is_on_link(by.ip()))
            .map(|(_, seen)| seen);
        let (own, outside): (Vec<_>, Vec<_>) = seen.partition(|seen| self.is_own(*seen));
        let Some(first) = outside.first() else {
            return if own.is_empty() {
                NatMapping::Unknown
            } else {
                NatMapping::Independent
            };
        };
        if outside.len() < 2 {
            return NatMapping::Unknown;
        }
        if outside.iter().all(|seen| seen == first) {
            return NatMapping::Independent;
        }
        let ports = || outside.iter().map(|seen| seen.port());
        let spread = ports().max().unwrap_or(0) - ports().min().unwrap_or(0);
        let one_ip = outside.iter().all(|seen| seen.ip() == first.ip());
        if one_ip && spread <= SEQUENTIAL_WINDOW {
            NatMapping::Sequential
        } else {
            NatMapping::Random
        }
    }

    /// What peers are told: own addresses first, then what the operator says and what gateways lead
    /// here, then what observers see, where the highest port comes last, because a sequential NAT has given it out last.
    #[must_use]
    pub fn candidates(&self) -> Vec<PeerCandidate> {
        let own = self.interfaces.iter().map(|one| one.address);
        let seen: BTreeSet<SocketAddr> = self
            .observations()
            .map(|(_, seen)| seen)
            .filter(|seen| !self.is_own(*seen))
            .collect();
        let configured = self.configured.iter().copied();
        let configured = configured.map(|address| (CandidateKind::Configured, address));
        let mapped = self.mapped.iter().copied();
        let mapped: Vec<SocketAddr> = mapped.filter(|at| !self.configured.contains(at)).collect();
        let seen = seen
            .into_iter()
            .map(|seen| (CandidateKind::Reflexive, seen));
        // Many own addresses must not crowd out the few that matter most across NATs.
        let room =
            MAX_PEER_CANDIDATES.saturating_sub(self.configured.len() + mapped.len() + seen.len());
        let own = own.take(room).map(|own| (CandidateKind::Interface, own));
        let mapped = mapped.into_iter();
        let mapped = mapped.map(|address| (CandidateKind::Mapped, address));
        let mut all: Vec<PeerCandidate> = own
            .chain(configured)
            .chain(mapped)
            .chain(seen)
            .map(|(kind, address)| PeerCandidate { kind, address })
            .collect();
        all.truncate(MAX_PEER_CANDIDATES);
        all
    }

    /// Whether an address that a peer has named may be probed.
    ///
    /// # Errors
    /// Says why not.
    pub fn judge(&self, address: SocketAddr, pools: &Pools) -> Result<(), Refusal> {
        let ip = address.ip();
        if is_special(address) {
            return Err(Refusal::Special);
        }
        if pools.contains(ip) {
            return Err(Refusal::Overlay);
        }
        if self.is_own(address) {
            return Err(Refusal::Own);
        }
        let same_family = |one: &Interface| one.address.is_ipv4() == address.is_ipv4();
        if !self.interfaces.iter().any(same_family) {
            return Err(Refusal::Family);
        }
        let block = PrivateBlock::of(ip);
        let is_near = |one: &Interface| PrivateBlock::of(one.address.ip()) == block;
        if block.is_some() && !self.interfaces.iter().any(is_near) {
            return Err(Refusal::ForeignPrivate);
        }
        Ok(())
    }

    /// Whether an outside address that a gateway says it leads to this node may be told to peers.
    ///
    /// # Errors
    /// Says why not. Behind two NATs the inner gateway's outside is private, and of use to nobody.
    pub fn judge_mapping(&self, address: SocketAddr, pools: &Pools) -> Result<(), Refusal> {
        let ip = address.ip();
        if is_special(address) {
            return Err(Refusal::Special);
        }
        if pools.contains(ip) {
            return Err(Refusal::Overlay);
        }
        if self.interfaces.iter().any(|one| one.address.ip() == ip) {
            return Err(Refusal::Own);
        }
        if is_private(ip) {
            return Err(Refusal::Private);
        }
        Ok(())
    }

    fn is_own(&self, address: SocketAddr) -> bool {
        self.interfaces.iter().any(|one| one.address == address)
    }

    fn is_on_link(&self, ip: IpAddr) -> bool {
        self.interfaces.iter().any(|one| one.is_on_link(ip))
    }
}

impl Observation {
    fn expire_at(&mut self, until: Instant) {
        self.until = Some(self.until.map_or(until, |at| at.min(until)));
    }
}

/// Blocks of addresses that mean another host at every site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PrivateBlock {
    /// 10.0.0.0/8 (RFC 1918).
    Ten,
    /// 172.16.0.0/12 (RFC 1918).
    OneSevenTwo,
    /// 192.168.0.0/16 (RFC 1918).
    OneNineTwo,
    /// 100.64.0.0/10, between a provider and its customers (RFC 6598).
    Shared,
    /// fc00::/7 (RFC 4193).
    UniqueLocal,
}

impl PrivateBlock {
    fn of(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(ip) => match ip.octets() {
                [10, ..] => Some(Self::Ten),
                [172, second, ..] if second & 0xf0 == 16 => Some(Self::OneSevenTwo),
                [192, 168, ..] => Some(Self::OneNineTwo),
                [100, second, ..] if second & 0xc0 == 64 => Some(Self::Shared),
                _ => None,
            },
            IpAddr::V6(ip) => ip.is_unique_local().then_some(Self::UniqueLocal),
        }
    }
}

/// Whether an address is of the private blocks: NATs have such addresses on their inner sides.
#[must_use]
pub fn is_private(ip: IpAddr) -> bool {
    PrivateBlock::of(ip).is_some()
}

/// Whether no probe is ever sent to an address: loopback, multicast, link-local and reserved ones,
/// and port 0.
#[must_use]
pub fn is_special(address: SocketAddr) -> bool {
    if address.port() == 0 {
        return true;
    }
    match address.ip() {
        IpAddr::V4(ip) => is_special_v4(ip),
        IpAddr::V6(ip) => is_special_v6(ip),
    }
}

fn is_special_v4(ip: Ipv4Addr) -> bool {
    let first = ip.octets()[0];
    // 0.0.0.0/8 and 240.0.0.0/4 with the broadcast address (RFC 6890).
    first == 0 || first >= 240 || ip.is_loopback() || ip.is_multicast() || ip.is_link_local()
}

fn is_special_v6(ip: Ipv6Addr) -> bool {
    // IPv4 in disguise (::ffff:0:0/96, ::/96, 64:ff9b::/96) and the discard prefix 100::/64.
    let segments = ip.segments();
    let hidden_v4 = ip.to_ipv4_mapped().is_some() || segments[..6] == [0; 6];
    let translated = segments[..2] == [0x64, 0xff9b];
    let discard = segments[..4] == [0x100, 0, 0, 0];
    let local = ip.is_loopback() || ip.is_unspecified() || ip.is_unicast_link_local();
    hidden_v4 || translated || discard || local || ip.is_multicast()
}

#[cfg(test)]
mod tests;
