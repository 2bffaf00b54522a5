//! Answers the questions of the local API from the packet thread's own state.

use std::time::Duration;

use netmanager_core::balance::{Candidate, Family};
use netmanager_core::flow::FlowView;
use netmanager_core::peer::Reach;
use netmanager_core::peer::carrier::Carrier;
use netmanager_core::peer::paths::{Path, PathView};
use netmanager_core::table::{Host, PeerId};
use netmanager_core::verdict::DropReason;
use weald_proto::name::Policy;
use weald_proto::table::AcceptPolicy;

mod direct;
mod network;
mod unreached;

use super::Driver;
use super::peers::PeerEntry;
use super::relays::RelayEntry;
use crate::api::inspect::{ExplainQuery, FlowFilter, Inspect, MAX_FLOWS_PER_ANSWER};
use crate::api::report::{
    CandidateReport, DropCounter, FastReport, FlowReport, LaneCounter, PacketStatus, PathCandidate,
    PathReport, PeerReport, PolicyExplanation, RelayReport,
};

impl Driver {
    pub(super) fn answer(&mut self, question: Inspect) {
        match question {
            Inspect::Status(reply) => reply.send(self.packet_status()),
            Inspect::Peers(reply) => {
                reply.send(
                    self.peers
                        .iter()
                        .map(|(id, entry)| self.peer_report(*id, entry))
                        .collect(),
                );
            }
            Inspect::Flows(filter, reply) => reply.send(self.flow_reports(&filter)),
            Inspect::Explain(query, reply) => reply.send(self.explain(&query)),
            Inspect::Counters(reply) => reply.send(self.drop_counters().collect()),
            Inspect::Network(reply) => reply.send(Box::new(self.network_report())),
            Inspect::Knock(query, reply) => {
                let knock = self.sealed_knock(&query);
                reply.send(knock);
            }
        }
    }

    fn packet_status(&self) -> PacketStatus {
        PacketStatus {
            flows: self.plane.flow_count(),
            peers_up: self
                .peers
                .values()
                .filter(|entry| entry.session.is_some())
                .count(),
            peers: self.peers.len(),
            relays: self
                .relays
                .iter()
                .map(|entry| self.relay_report(entry))
                .collect(),
            refused_handshakes: self.refused_handshakes,
            streams: self.lane.report(),
            lanes: self.lane_counters(),
            traffic: self.io.traffic,
            drops: self
                .drop_counters()
                .filter(|counter| counter.packets > 0)
                .collect(),
        }
    }

    fn lane_counters(&self) -> Vec<LaneCounter> {
        let lanes = self.plane.lanes().iter();
        lanes
            .map(|((lane, reason), flows)| LaneCounter {
                lane: lane.word().to_owned(),
                reason: reason.word().to_owned(),
                flows: *flows,
            })
            .collect()
    }

    fn drop_counters(&self) -> impl Iterator<Item = DropCounter> + '_ {
        DropReason::ALL.iter().map(|reason| {
            let core = self.plane.counters().of(*reason) + self.counters.of(*reason);
            let refused = [
                (DropReason::TunRefused, self.io.tun_refused()),
                (DropReason::SocketRefused, self.io.socket_refused()),
            ];
            let mut refused = refused.iter().filter(|(of, _)| of == reason);
            DropCounter {
                reason: reason.word().to_owned(),
                packets: core + refused.next().map_or(0, |(_, count)| *count),
            }
        })
    }

    fn relay_report(&self, entry: &RelayEntry) -> RelayReport {
        let session = entry.session.and_then(|slot| self.sessions.of(slot));
        let established = session.filter(|session| session.established.is_some());
        RelayReport {
            relay: entry.id.to_string(),
            address: entry.address(),
            state: entry.state_word().to_owned(),
            rtt_us: established.map(|session| micros(session.connection.rtt())),
            observed_address: entry.observed,
            reason: entry.reason.clone(),
            carrier: entry.carriers.in_use().word().to_owned(),
            carrier_reason: entry.carriers.reason().word().to_owned(),
        }
    }

    fn peer_report(&self, id: PeerId, entry: &PeerEntry) -> PeerReport {
        let session = entry.session.and_then(|slot| self.sessions.of(slot));
        let views: Vec<PathView> =
            session.map_or_else(Vec::new, |session| session.paths.views(self.now).collect());
        let active = views.iter().find(|view| view.active);
        let state = match entry.machine.reach() {
            Reach::Unknown => "unknown",
            Reach::Connecting => "connecting",
            Reach::Up => "up",
            Reach::Down => "down",
        };
        let reason = match session {
            Some(session) => session
                .paths
                .reason()
                .map_or("", |reason| reason.word())
                .to_owned(),
            None => entry.last_failure.clone().unwrap_or_default(),
        };
        PeerReport {
            node: entry.node.to_string(),
            state: state.to_owned(),
            path: self.path_report(session.and_then(|session| session.path)),
            reason,
            rtt_us: active.and_then(|view| view.last_rtt).map(micros),
            min_rtt_us: active.and_then(|view| view.min_rtt).map(micros),
            session_ms: entry
                .since
                .map(|since| millis(self.now.duration_since(since))),
            loss_permille: session.and_then(|_| entry.loss_permille()),
            mtu: session.map(|session| session.connection.current_mtu()),
            direct: session.and_then(|session| self.direct_report(session)),
            candidates: match session {
                Some(_) => views.iter().map(|view| self.path_candidate(view)).collect(),
                None => self.ways_without_session(id, entry),
            },
            sent_bytes: entry.sent_bytes,
            received_bytes: entry.received_bytes,
            fast_lane: self.fast.is_wanted().then(|| {
                let counters = entry.fast.counters(self.now);
                FastReport {
                    up: counters.is_up,
                    sent_frames: counters.sealed,
                    received_frames: counters.opened,
                    agreements: counters.agreements,
                }
            }),
        }
    }

    fn path_candidate(&self, view: &PathView) -> PathCandidate {
        let state = if view.active {
            "active"
        } else if view.narrow {
            "narrow"
        } else if view.answers {
            "working"
        } else if view.lost > 0 {
            "failed"
        } else if view.sent > 0 {
            "probing"
        } else {
            "untried"
        };
        PathCandidate {
            path: self.path_report(Some(view.path)),
            state: state.to_owned(),
            reason: None,
            rtt_us: view.last_rtt.map(micros),
            probes_sent: view.sent,
            probes_lost: view.lost,
        }
    }

    fn path_report(&self, path: Option<Path>) -> PathReport {
        match path {
            None => PathReport::None,
            Some(Path::Direct(address)) => PathReport::Direct { address },
            Some(Path::Relay { relay, .. }) => {
                let entry = self.relays.iter().find(|entry| entry.index == relay);
                let address = self.relay_address(relay);
                let relay = entry.map_or_else(|| relay.0.to_string(), |it| it.id.to_string());
                match entry.filter(|entry| entry.carriers.in_use() == Carrier::Tcp) {
                    Some(entry) => PathReport::RelayTcp {
                        relay,
                        address: entry.tcp_address(),
                    },
                    None => PathReport::Relay { relay, address },
                }
            }
        }
    }

    /// A path in words, for logs.
    pub(super) fn show_path(&self, path: Option<Path>) -> String {
        self.path_report(path).to_string()
    }

    fn flow_reports(&self, filter: &FlowFilter) -> Vec<FlowReport> {
        let reports = self
            .plane
            .flows(self.now)
            .map(|view| self.flow_report(&view));
        reports
            .filter(|report| filter.accepts(report))
            .take(MAX_FLOWS_PER_ANSWER)
            .collect()
    }

    fn flow_report(&self, view: &FlowView) -> FlowReport {
        let entry = view.peer.and_then(|peer| self.peers.get(&peer));
        let session = entry.and_then(|entry| self.sessions.of(entry.session?));
        let active = session.and_then(|s| s.paths.views(self.now).find(|view| view.active));
        let me = self.table.me().to_string();
        let path = match view.peer {
            None => PathReport::Local,
            Some(_) => self.path_report(session.and_then(|session| session.path)),
        };
        FlowReport {
            protocol: protocol_word(view.protocol),
            source: view.client,
            source_port: view.client_port,
            destination: view.asked,
            destination_port: view.asked_port,
            opened_here: view.opener == Host::Local,
            policy: view.policy.map(|policy| policy.to_string()),
            instance: view.instance.as_ref().map(ToString::to_string),
            instance_ip: view.instance_ip,
            node: entry.map_or(me, |entry| entry.node.to_string()),
            state: view.state.word().to_owned(),
            lane: view.lane.word().to_owned(),
            lane_reason: view.lane_reason.word().to_owned(),
            accept: view.accept.map(|accept| accept_word(accept).to_owned()),
            path,
            rtt_us: active.and_then(|view| view.last_rtt).map(micros),
            age_ms: millis(view.age),
            idle_ms: millis(view.idle),
        }
    }

    fn explain(&self, query: &ExplainQuery) -> Vec<PolicyExplanation> {
        let Some(index) = self.table.service_by_name(&query.service) else {
            return Vec::new();
        };
        let service = self.table.service(index);
        let families = [Family::V4, Family::V6];
        let pairs = query
            .policies
            .iter()
            .flat_map(|policy| families.map(|f| (*policy, f)));
        pairs
            .map(|(policy, family)| {
                let addresses = match policy {
                    Policy::RoundRobin => Some(service.round_robin),
                    Policy::Closest => Some(service.closest),
                    Policy::Instance => None,
                };
                let (family_word, service_ip) = match family {
                    Family::V4 => ("ipv4", addresses.and_then(|a| a.v4.map(Into::into))),
                    Family::V6 => ("ipv6", addresses.and_then(|a| a.v6.map(Into::into))),
                };
                let candidates = self.plane.explain(&query.service, policy, family);
                PolicyExplanation {
                    policy: policy.to_string(),
                    family: family_word.to_owned(),
                    service_ip,
                    candidates: candidates.iter().map(candidate_report).collect(),
                }
            })
            .collect()
    }
}

fn candidate_report(candidate: &Candidate) -> CandidateReport {
    CandidateReport {
        instance: candidate.instance.to_string(),
        instance_ip: candidate.ip,
        node: candidate.node.to_string(),
        local: candidate.host == Host::Local,
        reachability: candidate.reachable.word().to_owned(),
        min_rtt_us: candidate.min_rtt.map(micros),
        picked: candidate.picked,
        reason: candidate.reason.word().to_owned(),
    }
}

const fn accept_word(accept: AcceptPolicy) -> &'static str {
    match accept {
        AcceptPolicy::Late => "late",
        AcceptPolicy::Early => "early",
    }
}

fn protocol_word(protocol: u8) -> String {
    match protocol {
        1 | 58 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        other => other.to_string(),
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
