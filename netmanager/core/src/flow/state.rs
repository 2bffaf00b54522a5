//! How long a flow is kept, and how much it would hurt to lose it.

use std::time::Duration;

use super::{Direction, TcpState};
use crate::packet::{L4, TcpFlags};

/// An established TCP connection: 2 h, RFC 5382's REQ-5 asks for no less than 2 h 4 min between
/// keep-alives of 2 h, which the kernel sends by default every 2 h; the design says 2 h.
const TCP_ESTABLISHED: Duration = Duration::from_secs(2 * 60 * 60);
/// A TCP connection that ends: long enough for retransmitted FINs and for TIME_WAIT (RFC 9293).
const TCP_CLOSING: Duration = Duration::from_secs(120);
/// A TCP connection that begins: Linux gives up a SYN after about that long under load.
const TCP_OPENING: Duration = Duration::from_secs(60);
/// A TCP connection found in mid-stream, until its other direction is heard: it can be picked up
/// again at any time, so no longer than UDP.
const TCP_PICKED_UP: Duration = Duration::from_secs(180);
/// UDP with traffic both ways: above the 2 min of RFC 4787's REQ-5.
const UDP_ASSURED: Duration = Duration::from_secs(180);
/// UDP that nobody has answered.
const UDP_NEW: Duration = Duration::from_secs(30);
/// An echo: every request renews it.
const ECHO: Duration = Duration::from_secs(30);

/// What a flow's packets have shown of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowState {
    /// A TCP connection.
    Tcp(TcpState),
    /// UDP, answered or not.
    Udp {
        /// Whether a packet has come back.
        assured: bool,
    },
    /// ICMP or ICMPv6 echo.
    Echo,
}

/// Whom to lose first when the table is full. The order is that of eviction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Usefulness {
    /// Over, kept for stragglers.
    Closing,
    /// Never answered, or cheap to make again.
    Unassured,
    /// In use: never evicted.
    Assured,
}

impl FlowState {
    /// The state of a flow that begins with such a packet; none if flows cannot.
    #[must_use]
    pub const fn opened_by(l4: &L4) -> Option<Self> {
        match l4 {
            L4::Tcp { flags, .. } => Some(Self::Tcp(TcpState::opened_by(*flags))),
            L4::Udp { .. } => Some(Self::Udp { assured: false }),
            L4::IcmpEcho { .. } => Some(Self::Echo),
            L4::IcmpError { .. } | L4::Icmp | L4::Other | L4::LaterFragment => None,
        }
    }

    /// The state after a packet in that direction; `flags` are those of TCP.
    #[must_use]
    pub fn after(self, direction: Direction, flags: Option<TcpFlags>) -> Self {
        match (self, flags) {
            (Self::Tcp(state), Some(flags)) => Self::Tcp(state.after(direction, flags)),
            (Self::Udp { assured }, _) => Self::Udp {
                assured: assured || direction == Direction::Reply,
            },
            (Self::Tcp(_), None) | (Self::Echo, _) => self,
        }
    }

    /// How long the flow is kept after its last packet.
    #[must_use]
    pub const fn lifetime(self) -> Duration {
        match self {
            Self::Tcp(TcpState::SynSent | TcpState::SynReceived) => TCP_OPENING,
            Self::Tcp(TcpState::Established) => TCP_ESTABLISHED,
            Self::Tcp(TcpState::HalfClosed(_) | TcpState::Closed) => TCP_CLOSING,
            Self::Tcp(TcpState::PickedUp(_)) => TCP_PICKED_UP,
            Self::Udp { assured: true } => UDP_ASSURED,
            Self::Udp { assured: false } => UDP_NEW,
            Self::Echo => ECHO,
        }
    }

    /// Whom to lose first. A half-closed connection may still carry a long download.
    #[must_use]
    pub const fn usefulness(self) -> Usefulness {
        match self {
            Self::Tcp(TcpState::Closed) => Usefulness::Closing,
            Self::Tcp(TcpState::SynSent | TcpState::SynReceived | TcpState::PickedUp(_))
            | Self::Udp { assured: false }
            | Self::Echo => Usefulness::Unassured,
            Self::Tcp(TcpState::Established | TcpState::HalfClosed(_))
            | Self::Udp { assured: true } => Usefulness::Assured,
        }
    }

    /// Whether a new flow that needs the same key may take this one's place: nothing is lost, or
    /// what was opened from the other side by a straggler after a restart.
    #[must_use]
    pub const fn gives_way(self) -> bool {
        matches!(
            self,
            Self::Tcp(TcpState::Closed | TcpState::PickedUp(_))
                | Self::Udp { assured: false }
                | Self::Echo
        )
    }

    /// The state's word in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Tcp(state) => state.word(),
            Self::Udp { assured: true } => "assured",
            Self::Udp { assured: false } => "new",
            Self::Echo => "echo",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_those_of_the_design() {
        let tcp = |state| FlowState::Tcp(state).lifetime().as_secs();
        assert_eq!(tcp(TcpState::SynSent), 60);
        assert_eq!(tcp(TcpState::SynReceived), 60);
        assert_eq!(tcp(TcpState::Established), 7200);
        assert_eq!(tcp(TcpState::HalfClosed(Direction::Reply)), 120);
        assert_eq!(tcp(TcpState::Closed), 120);
        assert_eq!(FlowState::Udp { assured: true }.lifetime().as_secs(), 180);
        assert_eq!(FlowState::Udp { assured: false }.lifetime().as_secs(), 30);
        assert_eq!(FlowState::Echo.lifetime().as_secs(), 30);
    }

    #[test]
    fn udp_is_assured_by_the_first_answer() {
        let new = FlowState::Udp { assured: false };
        assert_eq!(new.after(Direction::Forward, None), new);
        assert_eq!(
            new.after(Direction::Reply, None),
            FlowState::Udp { assured: true }
        );
    }
}
