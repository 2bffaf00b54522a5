//! Connections to services that begin again with another instance: the first one has refused them,
//! or is gone before it has answered.
//!
//! The opener has heard nothing yet, so nothing is lost: its first packet is kept until there is an
//! answer, and is handled anew, as if it had just come. Connections only; the programs behind UDP ask
//! again by themselves. What one instance refuses because nobody listens there the next one may
//! take: one that is about to go or has only just come refuses, and others do not.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;

use super::DataPlane;
use crate::balance::{Family, MAX_ATTEMPTS};
use crate::flow::{Direction, Flow, FlowId, FlowState, Lane, TcpState};
use crate::packet::PacketInfo;
use crate::table::Snapshot;
use crate::verdict::Verdict;
use crate::vnet::VnetHeader;

/// How many instances are tried for one connection before its opener is told that it is refused.
/// Where nobody listens on a port, that is known after so many round trips.
const MAX_TRIED: usize = 4;
/// First packets that are kept; connections that open at once share these places.
const PLACES: usize = 1024;
/// Longer than any first packet without data, which is never kept: what carries some (RFC 7413) must
/// not come twice.
const MAX_PACKET: usize = 120;
/// Where the sequence and the acknowledgment number stand in a TCP header.
const SEQUENCE: usize = 4;
const ACKNOWLEDGMENT: usize = 8;
/// Packets that wait to be handled anew.
const MAX_AGAIN: usize = 1024;

/// The first packets of connections whose responders have not answered.
#[derive(Debug, Default)]
pub(super) struct Openings {
    places: Vec<Option<(FlowId, Again)>>,
    /// What has been tried for the packet that is being handled.
    tried: Vec<IpAddr>,
    /// The flow that it has opened, if that may begin again.
    opened: Option<FlowId>,
    queue: VecDeque<Again>,
}

/// The first packet of a connection, as it came, to be handled as if it had just come.
#[derive(Debug)]
pub struct Again {
    /// Its virtio-net header.
    pub vnet: VnetHeader,
    /// The packet.
    pub packet: Vec<u8>,
    /// The instances that it does not go to again.
    tried: Vec<IpAddr>,
}

impl Openings {
    fn place(flow: FlowId) -> usize {
        flow.place() % PLACES
    }

    /// A flow was opened that may begin again.
    pub(super) const fn note(&mut self, flow: FlowId) {
        self.opened = Some(flow);
    }

    /// Keeps the packet that is being handled, if it has opened such a flow.
    pub(super) fn keep(&mut self, vnet: &VnetHeader, info: &PacketInfo, packet: &[u8]) {
        let Some(flow) = self.opened.take() else {
            return;
        };
        let is_whole = info.fragment.is_none() && info.payload_len() == 0;
        if !is_whole || packet.len() > MAX_PACKET {
            return;
        }
        if self.places.is_empty() {
            self.places.resize_with(PLACES, || None);
        }
        let Some(place) = self.places.get_mut(Self::place(flow)) else {
            return;
        };
        // The memory of the last one serves again.
        let mut bytes = place
            .take()
            .map(|(_, last)| last.packet)
            .unwrap_or_default();
        bytes.clear();
        bytes.extend_from_slice(packet);
        let again = Again {
            vnet: *vnet,
            packet: bytes,
            tried: std::mem::take(&mut self.tried),
        };
        *place = Some((flow, again));
    }

    /// What was kept of a flow.
    fn of(&self, flow: FlowId) -> Option<&Again> {
        let place = self.places.get(Self::place(flow))?.as_ref();
        place.filter(|(of, _)| *of == flow).map(|(_, again)| again)
    }

    /// Has the first packet of a flow be handled anew, without the instance that it went to.
    fn begin_again(&mut self, flow: FlowId, responder: IpAddr) {
        let place = self.places.get_mut(Self::place(flow));
        let kept = place.and_then(|place| place.take_if(|(of, _)| *of == flow));
        if let Some((_, mut again)) = kept {
            again.tried.push(responder);
            self.queue.push_back(again);
        }
    }

    /// Whether the packet that is being handled begins its connection again.
    pub(super) const fn is_again(&self) -> bool {
        !self.tried.is_empty()
    }

    /// Whether the packet that is being handled has been to that instance.
    pub(super) fn has_tried(&self, ip: IpAddr) -> bool {
        self.tried.contains(&ip)
    }
}

impl DataPlane {
    /// The next connection that begins again.
    pub fn poll_again(&mut self) -> Option<Again> {
        self.openings.queue.pop_front()
    }

    /// Handles the first packet of a connection that begins again, as [`DataPlane::handle_tun`]
    /// does.
    pub fn handle_again(&mut self, again: &mut Again, now: Instant) -> Verdict {
        self.openings.tried = std::mem::take(&mut again.tried);
        let verdict = self.handle_tun(&again.vnet, &mut again.packet, now);
        self.openings.tried.clear();
        verdict
    }

    /// Has a connection begin again that its responder has not taken, if another instance could;
    /// its flow is forgotten then. False if its opener has to be told.
    pub(super) fn begin_again(&mut self, id: FlowId) -> bool {
        let Some(table) = self.table.clone() else {
            return false;
        };
        let Some(flow) = self.flows.flow(id) else {
            return false;
        };
        let Some(kept) = self.openings.of(id) else {
            return false;
        };
        let waits = flow.state() == FlowState::Tcp(TcpState::SynSent);
        let responder = flow.responder();
        let may = waits
            && self.openings.queue.len() < MAX_AGAIN
            && kept.tried.len() + 1 < MAX_TRIED
            && self.has_another(&table, flow, &kept.tried);
        if may {
            self.flows.remove(id);
            self.openings.begin_again(id, responder);
        }
        may
    }

    /// Whether an instance could be picked for a flow that is neither the one that it went to nor
    /// among those tried.
    pub(super) fn has_another(&self, table: &Snapshot, flow: &Flow, tried: &[IpAddr]) -> bool {
        let Some((service, policy)) = table.service_at(flow.asked()) else {
            return false;
        };
        let family = Family::of(flow.asked());
        (0..MAX_ATTEMPTS)
            .map_while(|attempt| {
                let pick = self
                    .balancer
                    .pick(table, &self.peers, service, policy, family, attempt);
                pick.ok()
            })
            .any(|pick| pick.ip != flow.responder() && !tried.contains(&pick.ip))
    }

    /// Whether a reset is an instance's refusal of a connection that another instance is asked for
    /// now. It must answer the packet that was kept, and not one before or after it with the same
    /// ports (RFC 9293, section 3.10.7.3).
    pub(super) fn is_passed_over(
        &mut self,
        id: FlowId,
        direction: Direction,
        info: &PacketInfo,
        packet: &[u8],
    ) -> bool {
        let waits = direction == Direction::Reply
            && self.flows.flow(id).is_some_and(|flow| {
                let (lane, _) = flow.lane();
                lane != Lane::L4 && flow.state() == FlowState::Tcp(TcpState::SynSent)
            });
        let answers = || {
            let kept = &self.openings.of(id)?.packet;
            let asked = number(kept, &PacketInfo::parse(kept).ok()?, SEQUENCE)?;
            Some(number(packet, info, ACKNOWLEDGMENT)? == asked.wrapping_add(1))
        };
        waits && answers() == Some(true) && self.begin_again(id)
    }
}

/// A number of a packet's TCP header.
fn number(packet: &[u8], info: &PacketInfo, at: usize) -> Option<u32> {
    let bytes = packet.get(usize::from(info.l4_offset) + at..)?;
    Some(u32::from_be_bytes(*bytes.first_chunk()?))
}
