//! What becomes of a packet: a verdict, and for a dropped one a reason that is counted.
//!
//! Dropping is a result here, not an error. The shell acts on a [`Verdict`]; operators read the
//! [`Counters`].

use std::fmt;

use crate::flow::FlowId;
use crate::table::PeerId;

/// What the shell does with a packet that the core has looked at and rewritten in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Write it to the TUN: its destination is on this node.
    Deliver,
    /// Send it to that peer; the shell queues it while the session comes up.
    Forward(PeerId),
    /// Keep it: it is the first of a connection of the L4 lane, which wants a stream first. The
    /// packet is as it came.
    Stream(FlowId),
    /// Keep it: which lane its connection takes depends on the way to that peer, which is not known
    /// yet. It is handed in again when [`PeerState::measuring`] is over. The packet is as it came,
    /// and nothing was opened.
    ///
    /// [`PeerState::measuring`]: crate::dataplane::PeerState::measuring
    Await(PeerId),
    /// Drop it.
    Drop(DropReason),
    /// Drop it; an answer for its sender waits to be polled.
    Reject(DropReason),
}

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $reason:ident => $word:literal,)*) => {
        /// Why a packet was dropped. Every reason has a counter and a stable word.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DropReason {
            $($(#[$doc])* $reason,)*
        }

        impl DropReason {
            /// Every reason, in the order in which they are shown.
            pub const ALL: &'static [Self] = &[$(Self::$reason,)*];

            /// The stable word that stands in JSON and in metrics.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$reason => $word,)*
                }
            }
        }
    };
}

drop_reasons! {
    /// The inner packet is not a well-formed IP packet.
    Malformed => "malformed",
    /// The virtio-net header contradicts the packet.
    LyingVnetHeader => "lying_vnet_header",
    /// From the TUN: the source is not an address of this node.
    SourceNotLocal => "source_not_local",
    /// From a peer: the source is not in the sending node's lease.
    SourceNotLeased => "source_not_leased",
    /// From a peer: the destination is not hosted here.
    DestinationNotHosted => "destination_not_hosted",
    /// The destination is in the pools but belongs to nobody.
    DestinationUnknown => "destination_unknown",
    /// The service has no instance that could be picked.
    NoInstance => "no_instance",
    /// A new connection to an instance that is out of the tables.
    InstanceDrains => "instance_drains",
    /// An instance refused a connection, and another one of its service is asked.
    RefusedByInstance => "refused_by_instance",
    /// The two organisations may not talk.
    PolicyDenied => "policy_denied",
    /// No session with the peer could be made.
    PeerUnreachable => "peer_unreachable",
    /// The queue towards the peer is full.
    PeerQueueFull => "peer_queue_full",
    /// The packet waited too long for a session.
    PeerQueueExpired => "peer_queue_expired",
    /// Both directions of two flows would be the same on the wire.
    FlowCollision => "flow_collision",
    /// In the middle of a conversation that is not known here, and whose other end cannot be told.
    FlowUnknown => "flow_unknown",
    /// The flow table is full of flows that are in use.
    FlowTableFull => "flow_table_full",
    /// A fragment whose first one was never seen.
    FragmentWithoutFirst => "fragment_without_first",
    /// Too many fragmented packets at once.
    FragmentTableFull => "fragment_table_full",
    /// An ICMP error about a packet that is not of a known flow.
    IcmpErrorWithoutFlow => "icmp_error_without_flow",
    /// Multicast, broadcast, loopback or another address that cannot be routed here.
    UnroutableAddress => "unroutable_address",
    /// A protocol or ICMP type that the overlay does not carry.
    UnsupportedProtocol => "unsupported_protocol",
    /// Port 0.
    PortZero => "port_zero",
    /// The answer to a rejected packet would exceed the rate of such answers.
    RejectRateLimited => "reject_rate_limited",
    /// An empty datagram, or one of a kind that we do not know.
    ChunkUnknownKind => "chunk_unknown_kind",
    /// A chunk shorter than its own headers.
    ChunkTruncated => "chunk_truncated",
    /// A chunk that reaches outside its super-packet.
    ChunkOutOfRange => "chunk_out_of_range",
    /// A chunk that came twice.
    ChunkDuplicate => "chunk_duplicate",
    /// A chunk that overlaps another one, or contradicts those already here.
    ChunkConflict => "chunk_conflict",
    /// A chunk of a super-packet that is done with.
    ChunkLate => "chunk_late",
    /// Too many incomplete super-packets.
    ChunkTableFull => "chunk_table_full",
    /// Chunks that cannot be written because others of the super-packet are missing.
    ChunkIncomplete => "chunk_incomplete",
    /// A datagram on the data socket that is neither QUIC nor a frame of ours.
    UnknownFrame => "unknown_frame",
    /// A probe or relay frame of no known session, or with a wrong tag.
    FrameUnauthenticated => "frame_unauthenticated",
    /// A probe or relay frame that was seen before.
    FrameReplayed => "frame_replayed",
    /// A candidate that a peer has named and that must not be probed.
    CandidateRefused => "candidate_refused",
    /// A candidate beyond the number that a peer may name.
    CandidateListTooLong => "candidate_list_too_long",
    /// A probe that was not sent because its address has had its share.
    ProbeOverBudget => "probe_over_budget",
    /// A QUIC packet that belongs to no session and opens none.
    QuicUnknown => "quic_unknown",
    /// A handshake of somebody else, while there are as many sessions, or halves of them, as may be.
    SessionTableFull => "session_table_full",
    /// A datagram that the data socket does not take: as many wait as may, or it has no way to such
    /// an address.
    SocketRefused => "socket_refused",
    /// A datagram for a peer behind a relay whose session has ended.
    RelayGone => "relay_gone",
    /// The kernel did not take a packet written to the TUN.
    TunRefused => "tun_refused",
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// One counter for every [`DropReason`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters([u64; DropReason::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Self([0; DropReason::ALL.len()])
    }
}

impl Counters {
    /// Counts one dropped packet.
    pub fn count(&mut self, reason: DropReason) {
        self.add(reason, 1);
    }

    /// Counts several packets, dropped for the same reason.
    pub fn add(&mut self, reason: DropReason, packets: u64) {
        if let Some(counter) = self.0.get_mut(reason as usize) {
            *counter += packets;
        }
    }

    /// How many packets were dropped for `reason`.
    #[must_use]
    pub fn of(&self, reason: DropReason) -> u64 {
        self.0.get(reason as usize).copied().unwrap_or(0)
    }

    /// Every reason with its count.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL
            .iter()
            .map(|reason| (*reason, self.of(*reason)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn words_are_distinct() {
        let words: BTreeSet<_> = DropReason::ALL.iter().map(|reason| reason.word()).collect();
        assert_eq!(words.len(), DropReason::ALL.len());
    }

    #[test]
    fn counting_one_reason_leaves_the_others() {
        let mut counters = Counters::default();
        counters.count(DropReason::NoInstance);
        counters.count(DropReason::NoInstance);
        for (reason, count) in counters.iter() {
            assert_eq!(
                count,
                if reason == DropReason::NoInstance {
                    2
                } else {
                    0
                },
                "{reason}"
            );
        }
    }
}
