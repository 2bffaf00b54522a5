//! Forwards sealed packets between registered nodes.
//!
//! A relay sees who talks to whom and how much, never what: the packets are QUIC between the nodes,
//! opaque to it. It authenticates every frame of a registered node, hands it to the peer that the
//! frame names, sealed anew with that peer's key, and is fair between organisations. Frames that
//! are not from a registered node are dropped and counted, never answered.
//!
//! This is the pure part: sessions, tokens and sockets are netmanager's `relay_server`. Its loop:
//!
//! ```text
//! session says Hello, token good     -> register           -> Welcome
//! session says Open                  -> open               -> Opened
//! session ends                       -> unregister
//! datagram with FrameKind::RelayData -> handle_frame; ::RelayQuestion -> handle_question;
//!                    ::RelayKnock -> handle_knock (send what it returns)
//! poll_timeout has come              -> handle_timeout
//! then: poll_notice until none (say it on the link's session), poll_transmit until none (send it)
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use weald_proto::frame::{RELAY_HEADER_LEN, RelayHeader};
use weald_proto::id::{NodeId, Organisation};
use weald_proto::relay::OpenRefusal;

use crate::seal::{OpenError, Order};

mod counters;
mod link;
mod pacer;
mod questions;
mod queue;
mod send;

pub use counters::{RelayCounters, RelayDrop, Tally};
pub use link::Registration;
pub use questions::KnockAnswer;
pub use send::{MAX_BATCH_BYTES, RelayTransmit};

use link::Link;
use pacer::Pacer;
use queue::{FairQueue, OrganisationKey, QueueLimits};

/// Bytes of the largest packet in a frame: what fits an Ethernet of 1500 bytes under IPv4, UDP and
/// the frame's header.
pub const MAX_PACKET: usize = 1500 - 28 - RELAY_HEADER_LEN;
/// How many nodes may be registered: at a few kilobytes each, some tens of megabytes.
pub const MAX_LINKS: usize = 10_000;
/// How many peers a node may open: more than one node talks to, and bounds what it makes us keep.
pub const MAX_PEERS_OPENED: usize = 1024;
/// How often a node is told that it sends to a dead id: the first time at once, then as often as
/// a round trip lets it react.
pub const GONE_INTERVAL: Duration = Duration::from_millis(100);
/// How many organisations' counters are kept; beyond it those without a node are summed up.
pub const MAX_ORGANISATIONS: usize = 4096;
/// How long an organisation's queue may be at the whole configured rate: half of what makes calls
/// unpleasant, as the peers' own queues come on top.
pub const QUEUE_TIME: Duration = Duration::from_millis(50);
/// Bytes that an organisation may queue at the most: a receive buffer's worth.
pub const MAX_ORGANISATION_BYTES: usize = 4 << 20;
/// Bytes that an organisation may queue at low rates: one super-packet in chunks.
pub const MIN_ORGANISATION_BYTES: usize = 96 << 10;
/// Bytes that all organisations may queue.
pub const MAX_QUEUED_BYTES: usize = 64 << 20;

/// What has to be said on the session of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// A peer's registration has ended.
    Gone {
        /// Whom to tell.
        link: u32,
        /// The id that has ended.
        peer: u32,
    },
    /// A registered node asks where it comes from.
    Observed {
        /// Whom to tell.
        link: u32,
        /// Where it came from.
        from: SocketAddr,
        /// To which port.
        asked_port: u16,
    },
    /// The same node has registered again; this link is no longer registered.
    Superseded {
        /// Whom to tell.
        link: u32,
    },
    /// The link's token has expired; it is no longer registered.
    Expired {
        /// Whom to tell.
        link: u32,
    },
}

/// The relay has [`MAX_LINKS`] registrations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the relay has all of its {MAX_LINKS} registrations in use; try another one")]
pub struct Full;

/// All registrations of a relay and what is queued between them.
#[derive(Debug)]
pub struct Relay {
    links: HashMap<u32, Link, FixedState>,
    nodes: BTreeMap<NodeId, u32>,
    expiries: BTreeSet<(Instant, u32)>,
    organisations: BTreeMap<Organisation, OrganisationKey>,
    tenants: BTreeMap<OrganisationKey, Tenant>,
    queue: FairQueue,
    pacer: Pacer,
    notices: VecDeque<Notice>,
    /// Frames of nobody that we know, and those of organisations that are forgotten.
    unattributed: RelayCounters,
    id_key: hmac::Key,
    ids_made: u64,
}

/// What is kept of an organisation beside its queue.
#[derive(Debug, Default)]
struct Tenant {
    links: usize,
    counters: RelayCounters,
}

impl Relay {
    /// Makes a relay that sends at most `bits_per_second`; 0 is unlimited.
    ///
    /// `seed` must be secret and fresh: link ids and the order of hash tables come from it.
    #[must_use]
    pub fn new(bits_per_second: u64, seed: [u8; 32], now: Instant) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = seed;
        let hash_seed = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        Self {
            links: HashMap::with_hasher(FixedState::with_seed(hash_seed)),
            nodes: BTreeMap::new(),
            expiries: BTreeSet::new(),
            organisations: BTreeMap::new(),
            tenants: BTreeMap::new(),
            queue: FairQueue::new(queue_limits(bits_per_second)),
            pacer: Pacer::new(bits_per_second, now),
            notices: VecDeque::new(),
            unattributed: RelayCounters::default(),
            id_key: hmac::Key::new(hmac::HMAC_SHA256, &seed),
            ids_made: 0,
        }
    }

    /// Registers a node and returns its link id. A registration that it had before ends.
    ///
    /// # Errors
    /// There are as many registrations as there may be.
    pub fn register(&mut self, registration: Registration) -> Result<u32, Full> {
        if let Some(old) = self.nodes.get(&registration.node).copied() {
            self.unregister(old);
            self.notices.push_back(Notice::Superseded { link: old });
        }
        if self.links.len() >= MAX_LINKS {
            return Err(Full);
        }
        let organisation = self.organisation(&registration.organisation);
        let id = self.fresh_id();
        self.expiries.insert((registration.expires, id));
        self.nodes.insert(registration.node.clone(), id);
        if let Some(tenant) = self.tenants.get_mut(&organisation) {
            tenant.links += 1;
        }
        self.links.insert(id, Link::new(registration, organisation));
        Ok(id)
    }

    /// Ends a registration and tells those who know it. Nothing happens if there is none.
    pub fn unregister(&mut self, id: u32) {
        let Some(link) = self.links.remove(&id) else {
            return;
        };
        self.expiries.remove(&(link.expires, id));
        self.nodes.remove(&link.node);
        if let Some(tenant) = self.tenants.get_mut(&link.organisation) {
            tenant.links -= 1;
        }
        for other in link.acquainted {
            if let Some(acquaintance) = self.links.get_mut(&other) {
                acquaintance.acquainted.remove(&id);
                acquaintance.opened.remove(&id);
                self.notices.push_back(Notice::Gone {
                    link: other,
                    peer: id,
                });
            }
        }
    }

    /// The id of another node's registration, for data frames.
    ///
    /// # Errors
    /// It is not registered, or not of the same organisation, which looks the same; or too many
    /// peers are open.
    pub fn open(&mut self, id: u32, node: &NodeId) -> Result<u32, OpenRefusal> {
        let peer = self.nodes.get(node).copied();
        let peer = peer.filter(|peer| self.may_reach(id, *peer));
        let peer = peer.ok_or(OpenRefusal::UnknownNode)?;
        let link = self.links.get_mut(&id).ok_or(OpenRefusal::UnknownNode)?;
        if link.opened.len() >= MAX_PEERS_OPENED && !link.opened.contains(&peer) {
            return Err(OpenRefusal::TooManyPeers);
        }
        link.opened.insert(peer);
        link.acquainted.insert(peer);
        if let Some(other) = self.links.get_mut(&peer) {
            other.acquainted.insert(id);
        }
        Ok(peer)
    }

    /// Notes that a link's session has moved to another address.
    pub fn set_address(&mut self, id: u32, address: SocketAddr) {
        if let Some(link) = self.links.get_mut(&id) {
            link.address = address;
        }
    }

    /// Takes a datagram that is no QUIC packet; queues it for its receiver or drops and counts it.
    ///
    /// The frame is the same afterwards.
    pub fn handle_frame(&mut self, from: SocketAddr, frame: &mut [u8], now: Instant) {
        let Some((id, header, link)) = self.authenticate(from, frame) else {
            return;
        };
        let (organisation, last_gone) = (link.organisation, link.last_gone);
        let reachable = self.may_reach(id, header.peer);
        if !reachable && last_gone.is_none_or(|last| now >= last + GONE_INTERVAL) {
            self.tell_gone(id, header.peer, now);
        }
        let queued = reachable && self.queue.push(organisation, id, header.peer, frame);
        let Some(tenant) = self.tenants.get_mut(&organisation) else {
            return;
        };
        tenant.counters.received.add(1, frame.len());
        if queued {
            tenant.counters.queued.add(1, frame.len());
        } else if reachable {
            let reason = RelayDrop::QueueFull;
            tenant.counters.drop_frame(reason, frame.len());
        } else {
            let reason = RelayDrop::UnknownPeer;
            tenant.counters.drop_frame(reason, frame.len());
        }
    }

    /// What has to be said to whom.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// Ends the registrations whose tokens have expired.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, link)) = self.expiries.first().copied() {
            if at > now {
                break;
            }
            self.unregister(link);
            self.notices.push_back(Notice::Expired { link });
        }
    }

    /// When to call [`Relay::handle_timeout`] and [`Relay::poll_transmit`] next, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let expiry = self.expiries.first().map(|(at, _)| (*at, "token expiry"));
        let rate = (!self.queue.is_empty()).then(|| (self.pacer.ready_at(), "rate"));
        expiry.into_iter().chain(rate).min()
    }

    /// How many nodes are registered.
    #[must_use]
    pub fn links(&self) -> usize {
        self.links.len()
    }

    /// The counters of every organisation that is known, with how many nodes it has registered.
    pub fn organisations(&self) -> impl Iterator<Item = (&Organisation, usize, &RelayCounters)> {
        self.organisations.iter().filter_map(|(name, key)| {
            let tenant = self.tenants.get(key)?;
            Some((name, tenant.links, &tenant.counters))
        })
    }

    /// The counters of the whole: every organisation, and what belongs to none.
    #[must_use]
    pub fn total(&self) -> RelayCounters {
        let mut total = self.unattributed;
        for tenant in self.tenants.values() {
            total += &tenant.counters;
        }
        total
    }

    /// Whether two links are registered, differ, and are of one organisation.
    fn may_reach(&self, id: u32, peer: u32) -> bool {
        match (self.links.get(&id), self.links.get(&peer)) {
            (Some(link), Some(other)) => id != peer && link.organisation == other.organisation,
            _ => false,
        }
    }

    /// The link that a frame is from, once its form, tag and counter are checked. What fails is
    /// counted here, for nobody.
    fn authenticate(
        &mut self,
        from: SocketAddr,
        frame: &mut [u8],
    ) -> Option<(u32, RelayHeader, &Link)> {
        let length = frame.len();
        let reason = match RelayHeader::decode(frame) {
            None => RelayDrop::Malformed,
            Some(_) if length == RELAY_HEADER_LEN => RelayDrop::Malformed,
            Some(_) if length > RELAY_HEADER_LEN + MAX_PACKET => RelayDrop::Oversized,
            Some(header) => match self.links.get_mut(&header.link) {
                None => RelayDrop::UnknownLink,
                Some(link) => match link.opener.open(frame, RelayHeader::TAG) {
                    Ok(order) => {
                        if order == Order::Newest {
                            link.address = from;
                        }
                        return self
                            .links
                            .get(&header.link)
                            .map(|link| (header.link, header, link));
                    }
                    Err(OpenError::Replayed) => RelayDrop::Replayed,
                    Err(OpenError::Tag) => RelayDrop::Unauthenticated,
                    Err(OpenError::Short) => RelayDrop::Malformed,
                },
            },
        };
        self.unattributed.received.add(1, length);
        self.unattributed.drop_frame(reason, length);
        None
    }

    fn tell_gone(&mut self, id: u32, peer: u32, now: Instant) {
        if let Some(link) = self.links.get_mut(&id) {
            link.last_gone = Some(now);
            self.notices.push_back(Notice::Gone { link: id, peer });
        }
    }

    /// The key of an organisation, which is made if it is new.
    fn organisation(&mut self, name: &Organisation) -> OrganisationKey {
        if let Some(key) = self.organisations.get(name) {
            return *key;
        }
        if self.organisations.len() >= MAX_ORGANISATIONS {
            self.forget_organisation();
        }
        let key = self.queue.add_organisation();
        self.organisations.insert(name.clone(), key);
        self.tenants.insert(key, Tenant::default());
        key
    }

    /// Forgets one organisation without nodes, if there is one, and keeps its sums.
    fn forget_organisation(&mut self) {
        let idle = self.organisations.iter().find(|(_, key)| {
            self.tenants
                .get(key)
                .is_some_and(|tenant| tenant.links == 0 && tenant.counters.queued.frames == 0)
        });
        let Some((name, key)) = idle.map(|(name, key)| (name.clone(), *key)) else {
            return;
        };
        self.organisations.remove(&name);
        self.queue.remove_organisation(key);
        if let Some(tenant) = self.tenants.remove(&key) {
            self.unattributed += &tenant.counters;
        }
    }

    /// A link id that is not in use, not zero, and cannot be guessed from others.
    fn fresh_id(&mut self) -> u32 {
        loop {
            self.ids_made += 1;
            let tag = hmac::sign(&self.id_key, &self.ids_made.to_be_bytes());
            let id = tag.as_ref().first_chunk().copied().map(u32::from_be_bytes);
            match id {
                Some(id) if id != 0 && !self.links.contains_key(&id) => return id,
                // With at most 10,000 of 2^32 in use, the next one is free.
                Some(_) | None => {}
            }
        }
    }
}

fn queue_limits(bits_per_second: u64) -> QueueLimits {
    let by_rate = u128::from(bits_per_second) / 8 * QUEUE_TIME.as_millis() / 1000;
    let by_rate = usize::try_from(by_rate).unwrap_or(usize::MAX);
    let organisation = if bits_per_second == 0 {
        MAX_ORGANISATION_BYTES
    } else {
        by_rate.clamp(MIN_ORGANISATION_BYTES, MAX_ORGANISATION_BYTES)
    };
    QueueLimits {
        organisation,
        total: MAX_QUEUED_BYTES,
    }
}

#[cfg(test)]
mod tests;
