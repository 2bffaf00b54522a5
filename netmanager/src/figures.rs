//! Figures of the daemon and of the relay for Prometheus: what their reports say, as text.
//!
//! Nothing is counted here; names are listed in `docs/metrics.md`.

use std::collections::BTreeMap;

use netmanager_core::portmap::Protocol;
use weald_metrics::Text;

use crate::api::report::{DropCounter, GatewayReport, PacketStatus, Status};
use crate::relay_server::{CountersReport, RelayReport};

/// Links that are up, by what is at their other end.
const LINKS: (&str, &str, &str) = ("weald_links_up", "gauge", "Links that are up.");
/// Handshakes of strangers.
const HANDSHAKES: (&str, &str) = (
    "weald_handshakes_refused_total",
    "Handshakes of others that were refused or given up.",
);

/// What a daemon tells of itself; `drops` has every reason, also those without a count.
#[must_use]
pub fn of_daemon(status: &Status, drops: &[DropCounter]) -> String {
    let mut text = Text::of("netmanager");
    let count = |cluster: bool| usize::from(cluster);
    let packets = status.packets.clone().unwrap_or_default();
    let reached = status
        .cluster
        .as_ref()
        .is_some_and(|it| it.observed.is_some());
    let relays = packets.relays.iter().filter(|it| it.state == "up").count();
    text.by(
        LINKS,
        "peer",
        [
            ("cluster", count(reached)),
            ("netmanager", packets.peers_up),
            ("relay", relays),
        ],
    );
    let help = "Other nodes that are known.";
    text.single("weald_peers", "gauge", help, packets.peers);
    let help = "Instances that this node hosts.";
    let hosted = status.instances.len();
    text.single("weald_instances_hosted", "gauge", help, hosted);
    let table = &status.table;
    text.by(
        ("weald_table_rows", "gauge", "Rows of the table in use."),
        "kind",
        [
            ("instances", table.instances),
            ("nodes", table.nodes),
            ("relays", table.relays),
            ("services", table.services),
        ],
    );
    let help = "Tables that were used since the start.";
    text.single("weald_tables_total", "counter", help, table.epoch);
    write_packets(&mut text, &packets);
    write_gateways(&mut text, status.gateways.as_deref().unwrap_or_default());
    let drops = drops.iter().map(|it| (it.reason.as_str(), it.packets));
    text.by(
        (
            "weald_dropped_packets_total",
            "counter",
            "Packets that were dropped.",
        ),
        "reason",
        drops,
    );
    let drops = status.nft_drops.iter();
    text.by(
        (
            "weald_nft_dropped_packets_total",
            "counter",
            "Packets that the overlay's nft rules have dropped.",
        ),
        "counter",
        drops.map(|it| (it.reason.as_str(), it.packets)),
    );
    let names = status.names.iter();
    text.by(
        (
            "weald_name_queries_total",
            "counter",
            "Queries for names that were answered or refused.",
        ),
        "outcome",
        names.map(|it| (it.outcome.as_str(), it.queries)),
    );
    text.finish()
}

fn write_packets(text: &mut Text, packets: &PacketStatus) {
    text.single("weald_flows", "gauge", "Open flows.", packets.flows);
    let traffic = &packets.traffic;
    for (name, help, read, written) in [
        (
            "weald_tun_packets_total",
            "Packets read from the TUN and written to it; some are super-packets.",
            traffic.tun_in_packets,
            traffic.tun_out_packets,
        ),
        (
            "weald_tun_bytes_total",
            "Bytes read from the TUN and written to it.",
            traffic.tun_in_bytes,
            traffic.tun_out_bytes,
        ),
        (
            "weald_socket_datagrams_total",
            "Datagrams read from the data socket and written to it.",
            traffic.socket_in_datagrams,
            traffic.socket_out_datagrams,
        ),
        (
            "weald_socket_bytes_total",
            "Bytes read from the data socket and written to it.",
            traffic.socket_in_bytes,
            traffic.socket_out_bytes,
        ),
    ] {
        let values = [("in", read), ("out", written)];
        text.by((name, "counter", help), "direction", values);
    }
    let (name, help) = HANDSHAKES;
    text.single(name, "counter", help, packets.refused_handshakes);
    let (name, help) = (
        "weald_flows_opened_total",
        "Flows that were opened, by their lanes and the reasons for those.",
    );
    text.head(name, "counter", help);
    for it in &packets.lanes {
        text.sample(
            name,
            &[("lane", it.lane.as_str()), ("reason", it.reason.as_str())],
            it.flows,
        );
    }
    let streams = &packets.streams;
    let help = "Open connections of the L4 lane.";
    text.single("weald_streams", "gauge", help, streams.open);
    text.by(
        (
            "weald_streams_opened_total",
            "counter",
            "Connections of the L4 lane whose targets have accepted.",
        ),
        "by",
        [("here", streams.opened), ("peer", streams.accepted)],
    );
    let refused = streams.refused.iter();
    text.by(
        (
            "weald_streams_refused_total",
            "counter",
            "Connections of the L4 lane that ended otherwise than by both ends' closing.",
        ),
        "reason",
        refused.map(|(reason, count)| (reason.as_str(), count)),
    );
}

fn write_gateways(text: &mut Text, gateways: &[GatewayReport]) {
    let mapped = |protocol: Protocol| {
        let all = gateways.iter().filter(|it| it.refused.is_none());
        let all = all.filter_map(|it| it.protocol.as_deref());
        all.filter(|word| *word == protocol.word()).count()
    };
    text.by(
        (
            "weald_port_mappings",
            "gauge",
            "Ports of routers that lead to the data socket.",
        ),
        "protocol",
        Protocol::ALL.map(|protocol| (protocol.word(), mapped(protocol))),
    );
    let sum = |count: fn(&GatewayReport) -> u64| gateways.iter().map(count).sum::<u64>();
    text.by(
        (
            "weald_port_mapping_answers_total",
            "counter",
            "What routers have answered to requests for ports.",
        ),
        "outcome",
        [
            ("granted", sum(|it| it.grants)),
            ("refused", sum(|it| it.refusals)),
            ("ignored", sum(|it| it.ignored)),
            ("restarted", sum(|it| it.restarts)),
        ],
    );
    let help = "Requests for ports that were sent to routers.";
    let name = "weald_port_mapping_requests_total";
    text.single(name, "counter", help, sum(|it| it.requests));
}

/// What a relay tells of itself.
#[must_use]
pub fn of_relay(report: &RelayReport) -> String {
    let mut text = Text::of("relay");
    text.by(LINKS, "peer", [("netmanager", report.registrations)]);
    text.single(
        "weald_certificate_expires_seconds",
        "gauge",
        "When the own certificate ends, in seconds since 1970.",
        report.certificate_expires,
    );
    text.single(
        "weald_sessions_unregistered",
        "gauge",
        "Sessions that are not registered (yet).",
        report.unregistered_sessions,
    );
    let (name, help) = HANDSHAKES;
    text.single(name, "counter", help, report.handshakes_refused);
    text.single(
        "weald_tokens_refused_total",
        "counter",
        "Registrations that were refused because of their tokens.",
        report.tokens_refused,
    );
    text.single(
        "weald_certificates_refused_total",
        "counter",
        "Handshakes that were refused because of the nodes' certificates.",
        report.certificates_refused,
    );
    let revocations = &report.revocations;
    text.single(
        "weald_relay_revocations_epoch",
        "gauge",
        "The epoch of the newest list of the revoked that the relay has; 0 for none.",
        revocations.epoch,
    );
    text.single(
        "weald_relay_lists_refused_total",
        "counter",
        "Lists of the revoked that changed nothing: old ones, and those that root has not signed.",
        revocations.lists_refused,
    );
    text.single(
        "weald_relay_sessions_cut_total",
        "counter",
        "Sessions that were ended because the node or its cluster is revoked.",
        revocations.sessions_cut,
    );
    let tcp = &report.tcp;
    let help = "TCP connections of nodes whose networks let no UDP through.";
    text.single(
        "weald_relay_tcp_connections",
        "gauge",
        help,
        tcp.connections,
    );
    text.by(
        (
            "weald_relay_tcp_refused_total",
            "counter",
            "TCP connections that the relay has refused or ended.",
        ),
        "reason",
        [
            ("too_many", tcp.refused),
            ("handshake", tcp.handshakes_failed),
            ("unregistered", tcp.unregistered),
            ("broken", tcp.broken),
        ],
    );
    let help = "Datagrams that were lost because nodes read their TCP connections too slowly.";
    text.single("weald_relay_tcp_lost_total", "counter", help, tcp.lost);
    let total = &report.total;
    for (name, unit, received, sent) in [
        (
            "weald_relay_frames_total",
            "Frames",
            total.received.frames,
            total.sent.frames,
        ),
        (
            "weald_relay_bytes_total",
            "Bytes of frames",
            total.received.bytes,
            total.sent.bytes,
        ),
    ] {
        let help = format!("{unit} that came in and went out.");
        let values = [("in", received), ("out", sent)];
        text.by((name, "counter", &help), "direction", values);
    }
    let help = "Frames that wait to be sent.";
    let waiting = total.queued.frames;
    text.single("weald_relay_queued_frames", "gauge", help, waiting);
    let drops = &total.dropped_by_reason;
    text.by(
        (
            "weald_dropped_frames_total",
            "counter",
            "Frames that were dropped.",
        ),
        "reason",
        drops
            .iter()
            .map(|(reason, it)| (reason.as_str(), it.frames)),
    );
    let organisations: BTreeMap<&str, &CountersReport> = report
        .organisations
        .iter()
        .map(|(name, it)| (name.as_str(), &it.counters))
        .collect();
    text.by(
        (
            "weald_relay_organisation_bytes_total",
            "counter",
            "Bytes that an organisation's nodes had forwarded.",
        ),
        "organisation",
        organisations
            .iter()
            .map(|(name, it)| (*name, it.sent.bytes)),
    );
    text.finish()
}

#[cfg(test)]
mod tests {
    use weald_metrics::samples;

    use super::*;
    use crate::api::report::{
        ClusterReport, LaneCounter, RelayReport as RelayLink, TableReport, Traffic,
    };

    fn status() -> Status {
        let link = |state: &str| RelayLink {
            relay: "site/r1".to_owned(),
            address: None,
            state: state.to_owned(),
            rtt_us: None,
            observed_address: None,
            reason: None,
            carrier: "udp".to_owned(),
            carrier_reason: "udp_preferred".to_owned(),
        };
        let packets = PacketStatus {
            flows: 3,
            peers_up: 2,
            peers: 5,
            relays: vec![link("up"), link("down")],
            refused_handshakes: 7,
            lanes: vec![LaneCounter {
                lane: "l4".to_owned(),
                reason: "long path".to_owned(),
                flows: 2,
            }],
            traffic: Traffic {
                socket_out_bytes: 99,
                ..Traffic::default()
            },
            ..PacketStatus::default()
        };
        Status {
            version: "1".to_owned(),
            pid: 1,
            node: "site/a".to_owned(),
            organisation: None,
            overlay: "o".to_owned(),
            listen: "0.0.0.0:1".parse().unwrap(),
            uptime_ms: 1,
            table: TableReport {
                epoch: 4,
                services: 6,
                ..TableReport::default()
            },
            cluster: Some(ClusterReport {
                observed: Some("192.0.2.1:1".parse().unwrap()),
                ..ClusterReport::default()
            }),
            instances: vec!["a.b.c.d.0".to_owned()],
            names: Vec::new(),
            nft_drops: Vec::new(),
            userspace: None,
            gateways: Some(gateways()),
            packets: Some(packets),
        }
    }

    /// One that maps, and one whose mapping is of no use.
    fn gateways() -> Vec<GatewayReport> {
        let gateway = |protocol: &str, refused: Option<&str>| GatewayReport {
            gateway: [192, 168, 1, 1].into(),
            own: [192, 168, 1, 7].into(),
            speaks: vec![protocol.to_owned()],
            state: "mapped".to_owned(),
            protocol: Some(protocol.to_owned()),
            external: None,
            granted_s: Some(7200),
            refused: refused.map(str::to_owned),
            reason: None,
            requests: 9,
            grants: 2 + u64::from(refused.is_none()),
            refusals: 0,
            ignored: 1,
            restarts: 0,
        };
        vec![
            gateway("pcp", None),
            gateway("upnp", Some("private_address")),
        ]
    }

    #[test]
    fn a_daemon_says_what_its_status_says() {
        let drops = [DropCounter {
            reason: "no_route".to_owned(),
            packets: 8,
        }];
        let values = samples(&of_daemon(&status(), &drops));
        for (name, value) in [
            ("weald_links_up{peer=\"cluster\"}", 1.0),
            ("weald_links_up{peer=\"netmanager\"}", 2.0),
            ("weald_links_up{peer=\"relay\"}", 1.0),
            ("weald_peers", 5.0),
            ("weald_flows", 3.0),
            (
                "weald_flows_opened_total{lane=\"l4\",reason=\"long path\"}",
                2.0,
            ),
            ("weald_instances_hosted", 1.0),
            ("weald_table_rows{kind=\"services\"}", 6.0),
            ("weald_tables_total", 4.0),
            ("weald_socket_bytes_total{direction=\"out\"}", 99.0),
            ("weald_handshakes_refused_total", 7.0),
            ("weald_port_mappings{protocol=\"pcp\"}", 1.0),
            ("weald_port_mappings{protocol=\"upnp\"}", 0.0),
            ("weald_port_mapping_answers_total{outcome=\"granted\"}", 5.0),
            ("weald_port_mapping_answers_total{outcome=\"ignored\"}", 2.0),
            ("weald_port_mapping_requests_total", 18.0),
            ("weald_dropped_packets_total{reason=\"no_route\"}", 8.0),
        ] {
            assert_eq!(values.get(name), Some(&value), "{name}");
        }
        // A packet thread that does not answer has nothing to tell, and the rest is told.
        let silent = Status {
            packets: None,
            cluster: None,
            ..status()
        };
        let values = samples(&of_daemon(&silent, &[]));
        assert_eq!(values["weald_links_up{peer=\"cluster\"}"], 0.0);
        assert_eq!(values["weald_instances_hosted"], 1.0);
    }
}
