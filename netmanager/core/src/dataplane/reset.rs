//! The segment that makes a connection's end hear of a reset.
//!
//! A reset is the answer to a segment. When nothing has been sent that could be answered, the last
//! segment of that end is made up from what the flow remembers of it.

use std::net::IpAddr;

use crate::flow::{Direction, Flow, FlowState, TcpState};
use crate::packet::{PROTOCOL_TCP, TcpFlags};

/// A segment as the end that packets in direction `toward` reach could have sent it last; none if
/// the flow is no open TCP connection, or nothing was heard from that end.
pub(super) fn segment_of_end(flow: &Flow, toward: Direction) -> Option<Vec<u8>> {
    match flow.state() {
        FlowState::Tcp(TcpState::Closed) | FlowState::Udp { .. } | FlowState::Echo => return None,
        FlowState::Tcp(
            TcpState::SynSent
            | TcpState::SynReceived
            | TcpState::Established
            | TcpState::HalfClosed(_)
            | TcpState::PickedUp(_),
        ) => {}
    }
    let from = toward.opposite();
    let end = flow.tcp_end(from);
    let next = end.next?;
    let (sequence, acknowledgment, flags) = match end.ack {
        Some(ack) => (next, ack, TcpFlags::ACK),
        // Only its SYN was heard.
        None => (next.wrapping_sub(1), 0, TcpFlags::SYN),
    };
    let key = flow.key(from);
    let mut tcp = [0u8; TCP_LEN];
    tcp[0..2].copy_from_slice(&key.source_port().to_be_bytes());
    tcp[2..4].copy_from_slice(&key.destination_port().to_be_bytes());
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
    tcp[8..12].copy_from_slice(&acknowledgment.to_be_bytes());
    tcp[12] = 5 << 4;
    tcp[13] = flags.0;
    Some(with_ip_header(key.source(), key.destination(), &tcp))
}

/// Bytes of a TCP header without options.
const TCP_LEN: usize = 20;

fn with_ip_header(source: IpAddr, destination: IpAddr, tcp: &[u8; TCP_LEN]) -> Vec<u8> {
    let mut packet = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut head = [0u8; 20];
            head[0] = 0x45;
            head[3] = (20 + TCP_LEN) as u8;
            head[8] = 64;
            head[9] = PROTOCOL_TCP;
            head[12..16].copy_from_slice(&source.octets());
            head[16..20].copy_from_slice(&destination.octets());
            head.to_vec()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut head = [0u8; 40];
            head[0] = 0x60;
            head[5] = TCP_LEN as u8;
            head[6] = PROTOCOL_TCP;
            head[7] = 64;
            head[8..24].copy_from_slice(&source.octets());
            head[24..40].copy_from_slice(&destination.octets());
            head.to_vec()
        }
        // Both addresses of a flow are of one family.
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => Vec::new(),
    };
    packet.extend_from_slice(tcp);
    packet
}
