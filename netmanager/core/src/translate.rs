//! Service IP to instance IP and back, in packets and in what ICMP errors quote.
//!
//! Only the opener's node translates, and only the destination; [`Flow`] knows what the addresses
//! are on either side of it. Connections of the L4 lane are led to this node's own stack and back,
//! addresses and ports. Checksums are `packet`'s.

use crate::flow::{Direction, Flow};
use crate::packet::{Packet, PacketInfo};
use crate::vnet::VnetHeader;

/// Gives a packet of a flow the addresses with which it leaves.
pub fn packet(flow: &Flow, direction: Direction, packet: &mut Packet<'_>, vnet: &VnetHeader) {
    if !flow.is_translated() {
        return;
    }
    let leaving = flow.leaving(direction);
    if packet.info().src != leaving.source {
        packet.set_src(leaving.source, vnet);
    }
    if packet.info().dst != leaving.destination {
        packet.set_dst(leaving.destination, vnet);
    }
    if flow.stream().is_some() {
        // To the stack and back, both ends are others.
        let answer = flow.key(direction.opposite());
        packet.set_tcp_ports(answer.destination_port(), answer.source_port(), vnet);
    }
}

/// Gives an ICMP error about a packet of a flow the addresses with which it leaves, outside and in
/// what it quotes, so that the quoted packet looks as when it was sent.
///
/// `direction` is that of the error; the packet that it quotes went the other way. A source that is
/// not the flow's, such as a node's own address, stays.
pub fn error(
    flow: &Flow,
    direction: Direction,
    packet: &mut Packet<'_>,
    quoted: &PacketInfo,
    vnet: &VnetHeader,
) {
    if !flow.is_translated() {
        return;
    }
    let (arriving, leaving) = (flow.arriving(direction), flow.leaving(direction));
    if packet.info().src == arriving.source && leaving.source != arriving.source {
        packet.set_src(leaving.source, vnet);
    }
    if packet.info().dst != leaving.destination {
        packet.set_dst(leaving.destination, vnet);
    }
    let sent = flow.arriving(direction.opposite());
    if quoted.src != sent.source {
        packet.set_embedded_src(sent.source);
    }
    if quoted.dst != sent.destination {
        packet.set_embedded_dst(sent.destination);
    }
}
