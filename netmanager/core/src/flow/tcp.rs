//! How far a TCP connection has come, as seen from the middle.
//!
//! Only flags are judged, no windows: both ends are behind authenticated sessions, so nobody else
//! can inject segments. Sequence numbers are kept only to be able to reset a connection whose far
//! end is gone.

use super::Direction;
use crate::packet::TcpFlags;

/// The state of a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpState {
    /// The opener has sent its SYN.
    SynSent,
    /// The responder has answered with its own.
    SynReceived,
    /// Data may flow.
    Established,
    /// The sender in that direction has finished, the other may still send.
    HalfClosed(Direction),
    /// Both have finished, or one has reset the connection.
    Closed,
    /// First seen in mid-stream; packets in that direction only so far.
    PickedUp(Direction),
}

impl TcpState {
    /// The state of a connection that begins with a packet with these flags.
    #[must_use]
    pub const fn opened_by(flags: TcpFlags) -> Self {
        if flags.intersects(TcpFlags::RST) {
            Self::Closed
        } else if is_open(flags) {
            Self::SynSent
        } else {
            Self::PickedUp(Direction::Forward)
        }
    }

    /// The state after a packet with these flags in that direction.
    #[must_use]
    pub fn after(self, direction: Direction, flags: TcpFlags) -> Self {
        if flags.intersects(TcpFlags::RST) {
            return Self::Closed;
        }
        let state = self.after_handshake(direction, flags);
        if !flags.intersects(TcpFlags::FIN) {
            return state;
        }
        match state {
            Self::HalfClosed(first) if first != direction => Self::Closed,
            Self::SynReceived | Self::Established | Self::PickedUp(_) => {
                Self::HalfClosed(direction)
            }
            Self::SynSent | Self::HalfClosed(_) | Self::Closed => state,
        }
    }

    fn after_handshake(self, direction: Direction, flags: TcpFlags) -> Self {
        let syn = flags.intersects(TcpFlags::SYN);
        match self {
            Self::SynSent if direction == Direction::Reply && syn => Self::SynReceived,
            Self::SynReceived if direction == Direction::Forward && !syn => Self::Established,
            Self::PickedUp(seen) if seen != direction => Self::Established,
            Self::SynSent
            | Self::SynReceived
            | Self::PickedUp(_)
            | Self::Established
            | Self::HalfClosed(_)
            | Self::Closed => self,
        }
    }

    /// The state's word in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::SynSent => "syn_sent",
            Self::SynReceived => "syn_received",
            Self::Established => "established",
            Self::HalfClosed(_) => "half_closed",
            Self::Closed => "closed",
            Self::PickedUp(_) => "picked_up",
        }
    }
}

/// Whether the flags are those of a packet that opens a connection.
#[must_use]
pub(crate) const fn is_open(flags: TcpFlags) -> bool {
    flags.contains(TcpFlags::SYN)
        && !flags.intersects(TcpFlags::ACK.union(TcpFlags::RST).union(TcpFlags::FIN))
}

/// What one end of a connection has sent last: enough to reset it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpEnd {
    /// The sequence number after all that it has sent; none before its first packet.
    pub next: Option<u32>,
    /// The acknowledgment number that it sent last.
    pub ack: Option<u32>,
}

impl TcpEnd {
    /// Takes note of a packet from this end. `l4` begins with the TCP header; `payload` is how many
    /// bytes follow it.
    pub fn note(&mut self, l4: &[u8], flags: TcpFlags, payload: usize) {
        let Some(&[_, _, _, _, s0, s1, s2, s3, a0, a1, a2, a3]) = l4.first_chunk() else {
            return;
        };
        let controls =
            u32::from(flags.intersects(TcpFlags::SYN)) + u32::from(flags.intersects(TcpFlags::FIN));
        let length = u32::try_from(payload).unwrap_or(0).wrapping_add(controls);
        let next = u32::from_be_bytes([s0, s1, s2, s3]).wrapping_add(length);
        // Retransmissions do not take it back.
        if self
            .next
            .is_none_or(|seen| next.wrapping_sub(seen) < 1 << 31)
        {
            self.next = Some(next);
        }
        if flags.intersects(TcpFlags::ACK) {
            self.ack = Some(u32::from_be_bytes([a0, a1, a2, a3]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACK: TcpFlags = TcpFlags::ACK;
    const SYN: TcpFlags = TcpFlags::SYN;
    const SYN_ACK: TcpFlags = TcpFlags::SYN.union(TcpFlags::ACK);
    const FIN: TcpFlags = TcpFlags::FIN.union(TcpFlags::ACK);
    const RST: TcpFlags = TcpFlags::RST;

    #[test]
    fn a_connection_lives_and_ends() {
        use Direction::{Forward, Reply};
        let steps = [
            (Reply, SYN_ACK, TcpState::SynReceived),
            (Reply, SYN_ACK, TcpState::SynReceived),
            (Forward, ACK, TcpState::Established),
            (Reply, ACK, TcpState::Established),
            (Forward, SYN, TcpState::Established),
            (Reply, FIN, TcpState::HalfClosed(Reply)),
            (Reply, FIN, TcpState::HalfClosed(Reply)),
            (Forward, ACK, TcpState::HalfClosed(Reply)),
            (Forward, FIN, TcpState::Closed),
            (Reply, ACK, TcpState::Closed),
        ];
        let mut state = TcpState::opened_by(SYN);
        assert_eq!(state, TcpState::SynSent);
        for (direction, flags, expected) in steps {
            state = state.after(direction, flags);
            assert_eq!(state, expected, "{direction:?} {flags:?}");
        }
    }

    #[test]
    fn a_refused_connection_is_closed() {
        let state = TcpState::opened_by(SYN).after(Direction::Reply, RST);
        assert_eq!(state, TcpState::Closed);
        assert_eq!(TcpState::opened_by(RST), TcpState::Closed);
    }

    #[test]
    fn a_connection_in_mid_stream_is_established_once_both_were_heard() {
        let state = TcpState::opened_by(ACK);
        assert_eq!(state, TcpState::PickedUp(Direction::Forward));
        assert_eq!(state.after(Direction::Forward, ACK), state);
        assert_eq!(state.after(Direction::Reply, ACK), TcpState::Established);
        assert_eq!(
            state.after(Direction::Forward, FIN),
            TcpState::HalfClosed(Direction::Forward)
        );
    }

    #[test]
    fn an_end_remembers_what_it_sent_last_also_over_the_wrap() {
        let mut end = TcpEnd::default();
        let mut header = [0u8; 20];
        header[4..8].copy_from_slice(&0xffff_fff0u32.to_be_bytes());
        end.note(&header, SYN, 0);
        assert_eq!(
            end,
            TcpEnd {
                next: Some(0xffff_fff1),
                ack: None
            }
        );
        header[4..8].copy_from_slice(&0xffff_fff1u32.to_be_bytes());
        header[8..12].copy_from_slice(&77u32.to_be_bytes());
        end.note(&header, ACK, 100);
        assert_eq!(
            end,
            TcpEnd {
                next: Some(0x55),
                ack: Some(77)
            }
        );
        end.note(&header, ACK, 10);
        assert_eq!(
            end.next,
            Some(0x55),
            "a retransmission does not take it back"
        );
    }
}
