//! One registration: a node's keys, its address, and who has to hear of its end.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Instant;

use weald_proto::id::{NodeId, Organisation};

use super::queue::OrganisationKey;
use crate::rate::Bucket;
use crate::seal::{Opener, SealKey, Sealer};

/// A node that asks to be registered; its session and its token have been checked.
#[derive(Debug)]
pub struct Registration {
    /// Who the node is, by its certificate.
    pub node: NodeId,
    /// Its organisation, by its token.
    pub organisation: Organisation,
    /// Where its session comes from.
    pub address: SocketAddr,
    /// Opens frames from the node.
    pub up: SealKey,
    /// Seals frames to the node.
    pub down: SealKey,
    /// When its token expires.
    pub expires: Instant,
}

/// A registered node.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) node: NodeId,
    pub(super) organisation: OrganisationKey,
    /// The source of its newest authenticated frame, or of its session.
    pub(super) address: SocketAddr,
    pub(super) opener: Opener,
    pub(super) sealer: Sealer,
    pub(super) expires: Instant,
    /// The peers that it has opened; all are registered.
    pub(super) opened: BTreeSet<u32>,
    /// Links that have opened this one or were opened by it; all are registered.
    pub(super) acquainted: BTreeSet<u32>,
    /// When it was last told that it sends to a dead id.
    pub(super) last_gone: Option<Instant>,
    /// How often it has knocked of late.
    pub(super) knocks: Bucket,
}

impl Link {
    pub(super) fn new(registration: Registration, organisation: OrganisationKey) -> Self {
        Self {
            node: registration.node,
            organisation,
            address: registration.address,
            opener: Opener::new(registration.up),
            sealer: Sealer::new(registration.down),
            expires: registration.expires,
            opened: BTreeSet::new(),
            acquainted: BTreeSet::new(),
            last_gone: None,
            knocks: Bucket::default(),
        }
    }
}
