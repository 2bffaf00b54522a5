//! Which lane a flow takes, decided once, with the reason.

use std::time::Duration;

use weald_proto::table::LanePolicy;

use super::{FlowState, TcpState};

/// From this round-trip time on a path counts as long: below it one lost segment costs TCP less
/// than two terminations do.
pub(crate) const LONG_PATH: Duration = Duration::from_millis(5);

/// From this share on, in thousandths, a path counts as lossy: TCP that takes each loss for
/// congestion gets a few Mbit/s of it over a path that is not very short.
const LOSSY_PATH_PERMILLE: u16 = 10;
/// Below this round-trip time losses are made up for before they matter, and those of a machine
/// that does not keep up must not be taken for the network's.
const LOSS_MATTERS_FROM: Duration = Duration::from_millis(1);

/// How a flow's bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Within this node, through the TUN and back.
    Local,
    /// As inner packets.
    L3,
    /// As a stream between two terminated TCP connections.
    L4,
}

/// Why a flow has its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LaneReason {
    /// Both ends are on this node.
    SameNode,
    /// The service's policy says so.
    Policy,
    /// Only TCP can be terminated.
    NotTcp,
    /// Its beginning was not seen, so it cannot be terminated any more.
    NotFromTheStart,
    /// The path is direct and short.
    ShortPath,
    /// The path has not been measured yet.
    UnmeasuredPath,
    /// No service, and so no policy: the flow was opened to an instance or node address.
    Direct,
    /// The other node has opened the flow and decided.
    OpenersChoice,
    /// The path is long.
    LongPath,
    /// The path goes through a relay.
    RelayedPath,
    /// The path loses packets.
    LossyPath,
    /// This node has no kernel stack in the overlay at which a connection could end.
    NoStack,
}

/// What is known of the path to a flow's other node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PathFacts {
    /// The smallest round-trip time measured.
    pub min_rtt: Option<Duration>,
    /// Whether packets go through a relay.
    pub relayed: bool,
    /// Thousandths of the packets that were lost lately, if enough were sent.
    pub loss_permille: Option<u16>,
}

impl PathFacts {
    fn is_lossy(&self) -> bool {
        self.loss_permille
            .is_some_and(|share| share >= LOSSY_PATH_PERMILLE)
            && self.min_rtt.is_some_and(|rtt| rtt >= LOSS_MATTERS_FROM)
    }
}

/// The lane of a new flow from here to another node; `has_stack` says whether connections can end
/// at this one.
#[must_use]
pub(crate) fn decide(
    policy: Option<LanePolicy>,
    state: FlowState,
    path: PathFacts,
    has_stack: bool,
) -> (Lane, LaneReason) {
    let FlowState::Tcp(tcp) = state else {
        let reason = policy.map_or(LaneReason::Direct, |_| LaneReason::NotTcp);
        return (Lane::L3, reason);
    };
    let (lane, reason) = match policy {
        None => (Lane::L3, LaneReason::Direct),
        Some(LanePolicy::L3) => (Lane::L3, LaneReason::Policy),
        Some(LanePolicy::L4) => (Lane::L4, LaneReason::Policy),
        Some(LanePolicy::Auto) if path.is_lossy() => (Lane::L4, LaneReason::LossyPath),
        Some(LanePolicy::Auto) if path.relayed => (Lane::L4, LaneReason::RelayedPath),
        Some(LanePolicy::Auto) => match path.min_rtt {
            None => (Lane::L3, LaneReason::UnmeasuredPath),
            Some(rtt) if rtt < LONG_PATH => (Lane::L3, LaneReason::ShortPath),
            Some(_) => (Lane::L4, LaneReason::LongPath),
        },
    };
    match lane {
        Lane::L4 if tcp != TcpState::SynSent => (Lane::L3, LaneReason::NotFromTheStart),
        Lane::L4 if !has_stack => (Lane::L3, LaneReason::NoStack),
        Lane::Local | Lane::L3 | Lane::L4 => (lane, reason),
    }
}

impl Lane {
    /// The lane's word in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::L3 => "l3",
            Self::L4 => "l4",
        }
    }
}

impl LaneReason {
    /// The reason in words.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::SameNode => "both ends on this node",
            Self::Policy => "policy of the service",
            Self::NotTcp => "not tcp",
            Self::ShortPath => "short direct path",
            Self::UnmeasuredPath => "path not measured yet",
            Self::Direct => "opened to an instance or node address",
            Self::OpenersChoice => "chosen by the opener's node",
            Self::NotFromTheStart => "beginning not seen",
            Self::LongPath => "long path",
            Self::RelayedPath => "relayed path",
            Self::LossyPath => "lossy path",
            Self::NoStack => "userspace mode has no l4 lane",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lane_follows_policy_protocol_and_path() {
        use LanePolicy::{Auto, L3, L4};
        use LaneReason::{
            Direct, LongPath, LossyPath, NotFromTheStart, NotTcp, Policy, RelayedPath, ShortPath,
            UnmeasuredPath,
        };
        let tcp = FlowState::Tcp(TcpState::SynSent);
        let later = FlowState::Tcp(TcpState::Established);
        let udp = FlowState::Udp { assured: false };
        let path = |millis, relayed| PathFacts {
            min_rtt: Some(Duration::from_millis(millis)),
            relayed,
            loss_permille: None,
        };
        let losing = |millis, permille| PathFacts {
            loss_permille: Some(permille),
            ..path(millis, false)
        };
        // A relay of the same LAN is a relay.
        let (near, far, relayed) = (path(4, false), path(5, false), path(1, true));
        let unmeasured = PathFacts {
            min_rtt: None,
            ..relayed
        };
        for (policy, state, facts, lane, reason) in [
            (None, tcp, near, Lane::L3, Direct),
            (None, udp, near, Lane::L3, Direct),
            (Some(L3), tcp, relayed, Lane::L3, Policy),
            (Some(L4), tcp, near, Lane::L4, Policy),
            (Some(L4), later, near, Lane::L3, NotFromTheStart),
            (Some(L4), udp, near, Lane::L3, NotTcp),
            (Some(Auto), tcp, near, Lane::L3, ShortPath),
            (Some(Auto), tcp, far, Lane::L4, LongPath),
            (Some(Auto), tcp, relayed, Lane::L4, RelayedPath),
            (Some(Auto), tcp, unmeasured, Lane::L4, RelayedPath),
            (Some(Auto), later, far, Lane::L3, NotFromTheStart),
            (Some(Auto), udp, far, Lane::L3, NotTcp),
            (Some(Auto), udp, relayed, Lane::L3, NotTcp),
            (Some(Auto), tcp, losing(1, 10), Lane::L4, LossyPath),
            (Some(Auto), tcp, losing(1, 9), Lane::L3, ShortPath),
            (Some(Auto), tcp, losing(0, 900), Lane::L3, ShortPath),
            (Some(Auto), later, losing(20, 10), Lane::L3, NotFromTheStart),
            (Some(Auto), udp, losing(20, 10), Lane::L3, NotTcp),
            (Some(L3), tcp, losing(20, 10), Lane::L3, Policy),
            (
                Some(Auto),
                tcp,
                PathFacts::default(),
                Lane::L3,
                UnmeasuredPath,
            ),
        ] {
            let decided = decide(policy, state, facts, true);
            assert_eq!(decided, (lane, reason), "{policy:?} {facts:?}");
            let expected = match lane {
                Lane::L4 => (Lane::L3, LaneReason::NoStack),
                Lane::Local | Lane::L3 => (lane, reason),
            };
            let decided = decide(policy, state, facts, false);
            assert_eq!(decided, expected, "{policy:?} {facts:?}, without a stack");
        }
    }
}
