//! Which lane a flow takes, decided once, with the reason.

use std::time::Duration;

use weald_proto::table::LanePolicy;

use super::FlowState;

/// From this round-trip time on a path counts as long: below it one lost segment costs TCP less
/// than two terminations do.
const LONG_PATH: Duration = Duration::from_millis(5);

/// How a flow's bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Within this node, through the TUN and back.
    Local,
    /// As inner packets.
    L3,
    /// As a stream between two terminated TCP connections. Not built yet.
    L4,
}

/// Why a flow has its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneReason {
    /// Both ends are on this node.
    SameNode,
    /// The service's policy says so.
    Policy,
    /// Only TCP can be terminated.
    NotTcp,
    /// The path is direct and short.
    ShortPath,
    /// The path has not been measured yet.
    UnmeasuredPath,
    /// No service, and so no policy: the flow was opened to an instance or node address.
    Direct,
    /// The other node has opened the flow and decided.
    OpenersChoice,
    /// The policy, the distance or a relay asks for the L4 lane, which is not there.
    L4NotAvailable,
}

/// What is known of the path to a flow's other node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PathFacts {
    /// The smallest round-trip time measured.
    pub min_rtt: Option<Duration>,
    /// Whether packets go through a relay.
    pub relayed: bool,
}

/// The lane of a new flow from here to another node.
#[must_use]
pub(crate) fn decide(
    policy: Option<LanePolicy>,
    state: FlowState,
    path: PathFacts,
) -> (Lane, LaneReason) {
    let tcp = matches!(state, FlowState::Tcp(_));
    let reason = match policy {
        None => LaneReason::Direct,
        Some(_) if !tcp => LaneReason::NotTcp,
        Some(LanePolicy::L3) => LaneReason::Policy,
        Some(LanePolicy::L4) => LaneReason::L4NotAvailable,
        Some(LanePolicy::Auto) if path.relayed => LaneReason::L4NotAvailable,
        Some(LanePolicy::Auto) => match path.min_rtt {
            None => LaneReason::UnmeasuredPath,
            Some(rtt) if rtt < LONG_PATH => LaneReason::ShortPath,
            Some(_) => LaneReason::L4NotAvailable,
        },
    };
    (Lane::L3, reason)
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
            Self::L4NotAvailable => "l4 not available",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::TcpState;

    #[test]
    fn the_lane_follows_policy_protocol_and_path() {
        let tcp = FlowState::Tcp(TcpState::SynSent);
        let udp = FlowState::Udp { assured: false };
        let path = |millis, relayed| PathFacts {
            min_rtt: Some(Duration::from_millis(millis)),
            relayed,
        };
        for (policy, state, facts, reason) in [
            (None, tcp, path(1, false), LaneReason::Direct),
            (
                Some(LanePolicy::L3),
                tcp,
                path(90, true),
                LaneReason::Policy,
            ),
            (
                Some(LanePolicy::L4),
                tcp,
                path(1, false),
                LaneReason::L4NotAvailable,
            ),
            (
                Some(LanePolicy::L4),
                udp,
                path(1, false),
                LaneReason::NotTcp,
            ),
            (
                Some(LanePolicy::Auto),
                tcp,
                path(4, false),
                LaneReason::ShortPath,
            ),
            (
                Some(LanePolicy::Auto),
                tcp,
                path(5, false),
                LaneReason::L4NotAvailable,
            ),
            (
                Some(LanePolicy::Auto),
                tcp,
                path(1, true),
                LaneReason::L4NotAvailable,
            ),
            (
                Some(LanePolicy::Auto),
                tcp,
                PathFacts::default(),
                LaneReason::UnmeasuredPath,
            ),
        ] {
            assert_eq!(
                decide(policy, state, facts),
                (Lane::L3, reason),
                "{policy:?} {facts:?}"
            );
        }
    }
}
