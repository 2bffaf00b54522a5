//! One packet, from arrival to verdict.

use std::time::Instant;

use super::check::{Refusal, sender};
use super::streams::waits;
use super::{DataPlane, Target};
use crate::flow::tcp::is_open;
use crate::flow::{Direction, FlowId, FlowKey, FlowState, Side, TcpState};
use crate::packet::{L4, Packet, PacketInfo, TcpFlags};
use crate::reject::reject;
use crate::table::Host;
use crate::translate;
use crate::verdict::{DropReason, Verdict};
use crate::vnet::VnetHeader;

/// Where a packet goes that is not refused.
#[derive(Debug, Clone, Copy)]
enum Next {
    /// To that place.
    To(Host),
    /// Nowhere, until the flow has a stream.
    Wait(FlowId),
}

impl DataPlane {
    /// Handles a packet that comes from that place.
    pub(super) fn handle(
        &mut self,
        from: Host,
        vnet: &VnetHeader,
        bytes: &mut [u8],
        now: Instant,
    ) -> Verdict {
        match self.forward(from, vnet, bytes, now) {
            Ok(Next::To(Host::Local)) => Verdict::Deliver,
            Ok(Next::To(Host::Peer(peer))) => Verdict::Forward(peer),
            Ok(Next::Wait(flow)) => Verdict::Stream(flow),
            Err(refusal) => self.refuse(from, bytes, refusal, now),
        }
    }

    /// Rewrites a packet and says where it goes. A refused packet is unchanged.
    fn forward(
        &mut self,
        from: Host,
        vnet: &VnetHeader,
        bytes: &mut [u8],
        now: Instant,
    ) -> Result<Next, Refusal> {
        let checked = |error: crate::packet::PacketError| Refusal::Drop(error.reason());
        let mut packet = Packet::parse(bytes).map_err(checked)?;
        vnet.check(packet.info()).map_err(checked)?;
        let info = *packet.info();
        let (flow, direction) = match FlowKey::of(Side::of(from), &info) {
            Some(key) => self.flow_of(from, key, &info, now)?,
            None => match info.l4 {
                L4::LaterFragment => self.flow_of_fragment(from, &info, now)?,
                L4::IcmpError { .. } => {
                    return self
                        .forward_error(from, &mut packet, vnet, now)
                        .map(Next::To);
                }
                L4::Icmp | L4::Other => {
                    sender(self.table.as_deref(), from, &info)?;
                    return Err(Refusal::Drop(DropReason::UnsupportedProtocol));
                }
                // These have a key.
                L4::Tcp { .. } | L4::Udp { .. } | L4::IcmpEcho { .. } => {
                    return Err(Refusal::Drop(DropReason::Malformed));
                }
            },
        };
        self.openings.keep(vnet, &info, packet.bytes());
        if self.flows.flow(flow).is_some_and(waits) {
            return Ok(Next::Wait(flow));
        }
        if matches!(info.l4, L4::Tcp { flags, .. } if flags.contains(TcpFlags::RST.union(TcpFlags::ACK)))
            && self.is_passed_over(flow, direction, &info, packet.bytes())
        {
            return Err(Refusal::Drop(DropReason::RefusedByInstance));
        }
        let flow = self
            .flows
            .note(flow, direction, &info, packet.bytes(), now)
            .ok_or(Refusal::Drop(DropReason::FlowUnknown))?;
        translate::packet(flow, direction, &mut packet, vnet);
        Ok(Next::To(flow.destination(direction)))
    }

    /// The flow of a packet with a key, opened if there is none.
    fn flow_of(
        &mut self,
        from: Host,
        key: FlowKey,
        info: &PacketInfo,
        now: Instant,
    ) -> Result<(FlowId, Direction), Refusal> {
        let is_first_fragment = info.fragment.is_some_and(|fragment| fragment.more);
        if is_first_fragment && !self.fragments.has_place(from, info, now) {
            sender(self.table.as_deref(), from, info)?;
            return Err(Refusal::Drop(DropReason::FragmentTableFull));
        }
        let (flow, direction) = match self.known_flow(from, &key, info, now)? {
            Some(known) => known,
            None => (self.open(from, key, info, now)?, Direction::Forward),
        };
        if is_first_fragment {
            self.fragments
                .begin(from, info, flow, direction, now)
                .map_err(|_| Refusal::Drop(DropReason::FragmentTableFull))?;
        }
        Ok((flow, direction))
    }

    /// The flow of a packet with a key. A connection that is over makes room for the next one with
    /// the same ports.
    fn known_flow(
        &mut self,
        from: Host,
        key: &FlowKey,
        info: &PacketInfo,
        now: Instant,
    ) -> Result<Option<(FlowId, Direction)>, Refusal> {
        let Some((id, direction)) = self.flows.find(key, now) else {
            return Ok(None);
        };
        let Some(flow) = self.flows.flow(id) else {
            return Ok(None);
        };
        // The flow's ends are where the table says, so another sender has no lease.
        if flow.source(direction) != from {
            return Err(Refusal::Drop(DropReason::SourceNotLeased));
        }
        if flow.state() == FlowState::Tcp(TcpState::Closed)
            && matches!(info.l4, L4::Tcp { flags, .. } if is_open(flags))
        {
            self.flows.remove(id);
            return Ok(None);
        }
        Ok(Some((id, direction)))
    }

    fn flow_of_fragment(
        &mut self,
        from: Host,
        info: &PacketInfo,
        now: Instant,
    ) -> Result<(FlowId, Direction), Refusal> {
        sender(self.table.as_deref(), from, info)?;
        self.fragments
            .follow(from, info, now)
            .filter(|(flow, direction)| {
                self.flows
                    .flow(*flow)
                    .is_some_and(|flow| flow.source(*direction) == from)
            })
            .ok_or(Refusal::Drop(DropReason::FragmentWithoutFirst))
    }

    /// Sends an ICMP error the way of the flow whose packet it quotes.
    fn forward_error(
        &mut self,
        from: Host,
        packet: &mut Packet<'_>,
        vnet: &VnetHeader,
        now: Instant,
    ) -> Result<Host, Refusal> {
        const UNKNOWN: Refusal = Refusal::Drop(DropReason::IcmpErrorWithoutFlow);
        let info = *packet.info();
        let owner = *sender(self.table.as_deref(), from, &info)?;
        let side = Side::of(from);
        let quoted = packet.embedded().ok_or(UNKNOWN)?;
        // What is quoted was delivered on this side, so its answers have the flow's key.
        let answer = FlowKey::of(side, &quoted).ok_or(UNKNOWN)?.reversed(side);
        let (id, direction) = self.flows.find(&answer, now).ok_or(UNKNOWN)?;
        // The other end of a connection of the L4 lane is the stack, which hears by itself.
        let flow = self.flows.flow(id).filter(|flow| flow.stream().is_none());
        let flow = flow.ok_or(UNKNOWN)?;
        if flow.source(direction) != from {
            return Err(Refusal::Drop(DropReason::SourceNotLeased));
        }
        let arriving = flow.arriving(direction);
        // Nodes may report about any packet, instances about those that were theirs.
        let is_node = owner.instance.is_none() && !self.is_leased(info.src);
        let may_report = is_node || info.src == arriving.source;
        if !may_report || info.dst != arriving.destination {
            return Err(UNKNOWN);
        }
        translate::error(flow, direction, packet, &quoted, vnet);
        Ok(flow.destination(direction))
    }

    /// Whether an address is an instance's by its node's lease alone.
    fn is_leased(&self, ip: std::net::IpAddr) -> bool {
        let table = self.table.as_deref();
        table.is_some_and(|table| table.instance_id_at(ip).is_some())
    }

    /// Counts a packet that goes no further, and answers it if it may be.
    fn refuse(&mut self, from: Host, bytes: &[u8], refusal: Refusal, now: Instant) -> Verdict {
        let (reason, why) = match refusal {
            Refusal::Drop(reason) => {
                self.counters.count(reason);
                return Verdict::Drop(reason);
            }
            Refusal::Reject(reason, why) => (reason, why),
            Refusal::Await(peer) => return Verdict::Await(peer),
        };
        let source = PacketInfo::parse(bytes).map(|info| info.src);
        // Who begins again would have heard the refusal that was kept from it.
        let admitted =
            self.openings.is_again() || source.is_ok_and(|source| self.answers.admit(source, now));
        if !admitted {
            self.counters.count(DropReason::RejectRateLimited);
            return Verdict::Drop(DropReason::RejectRateLimited);
        }
        self.counters.count(reason);
        let Some(answer) = reject(bytes, why) else {
            return Verdict::Drop(reason);
        };
        let target = match from {
            Host::Local => Target::Tun,
            Host::Peer(peer) => Target::Peer(peer),
        };
        self.answers.push(target, answer);
        Verdict::Reject(reason)
    }
}
