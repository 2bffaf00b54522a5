//! `status`, `peers` and `flows`: asks the daemon and shows what it says.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use netmanager_core::peer::carrier::Carrier;
use serde::Serialize;

use super::failure::{Failure, Kind};
use super::table::{Table, loss, number, or_dash, print, print_json, rtt, span};
use super::{FlowsArgs, Options, userspace};
use crate::api::inspect::FlowFilter;
use crate::api::message::{Answer, Request};
use crate::api::report::{FlowReport, PacketStatus, PeerReport, Status, StreamReport};

/// Peers that `status` lists.
const MAX_STATUS_PEERS: usize = 16;

pub(super) fn status(options: &Options) -> Result<(), Failure> {
    let Answer::Status(status) = options.ask(&Request::Status {})? else {
        return Err(unexpected());
    };
    // Without its packet thread a daemon has no peers to tell of, which the status says.
    let peers = match options.ask(&Request::Peers {}) {
        Ok(Answer::Peers(peers)) => peers,
        Ok(_) => return Err(unexpected()),
        Err(_) => Vec::new(),
    };
    if options.json {
        return Ok(print_json(&StatusAndPeers {
            status: &status,
            peers: &peers,
        })?);
    }
    let text = [status_text(&status), status_peers_text(&peers)];
    Ok(print(&text.concat())?)
}

/// What `status --json` writes: the status, and in `peers` what `peers --json` writes.
#[derive(Debug, Serialize)]
struct StatusAndPeers<'a> {
    #[serde(flatten)]
    status: &'a Status,
    peers: &'a [PeerReport],
}

pub(super) fn peers(options: &Options) -> Result<(), Failure> {
    let Answer::Peers(peers) = options.ask(&Request::Peers {})? else {
        return Err(unexpected());
    };
    if options.json {
        return Ok(print_json(&peers)?);
    }
    Ok(print(&peers_text(&peers))?)
}

pub(super) fn flows(options: &Options, args: &FlowsArgs) -> Result<(), Failure> {
    let filter = FlowFilter {
        protocol: args.protocol.clone(),
        source: args.source,
        source_port: None,
        destination: args.destination,
    };
    let Answer::Flows(flows) = options.ask(&Request::Flows { filter })? else {
        return Err(unexpected());
    };
    if options.json {
        return Ok(print_json(&flows)?);
    }
    Ok(print(&flows_text(&flows))?)
}

/// The daemon answered another question than the one asked.
pub(super) fn unexpected() -> Failure {
    Failure::new(
        Kind::Failed,
        "the netmanager's answer does not fit the question; are both of one version?",
    )
}

fn status_text(status: &Status) -> String {
    let mut table = Table::default();
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    row(
        "node",
        format!(
            "{} (organisation {})",
            status.node,
            or_dash(status.organisation.as_deref())
        ),
    );
    row(
        "running",
        format!(
            "{}, version {}, process {}",
            span(status.uptime_ms),
            status.version,
            status.pid
        ),
    );
    match &status.userspace {
        None => row("overlay", status.overlay.clone()),
        Some(userspace) => userspace::rows(userspace, &mut row),
    }
    row("data socket", status.listen.to_string());
    let source = if status.table.from_kept_copy {
        "kept copy of "
    } else {
        ""
    };
    row(
        "table",
        format!(
            "{source}{}: {} nodes, {} relays, {} services, {} instances",
            status.table.file,
            status.table.nodes,
            status.table.relays,
            status.table.services,
            status.table.instances
        ),
    );
    if let Some(cluster) = &status.cluster {
        let reached = cluster.reached.map(|at| at.to_string());
        let reason = cluster.reason.as_deref();
        row(
            "cluster",
            match (reached, cluster.observed) {
                (Some(at), Some(observed)) => format!("at {at}, sees this node at {observed}"),
                (Some(at), None) => format!("at {at}, has not answered yet"),
                (None, _) => format!("not reached: {}", or_dash(reason)),
            },
        );
    }
    for (i, instance) in status.instances.iter().enumerate() {
        row(if i == 0 { "instances" } else { "" }, instance.clone());
    }
    if !status.names.is_empty() {
        let counts = status.names.iter();
        let counts: Vec<String> = counts
            .map(|counter| format!("{} {}", counter.queries, counter.outcome))
            .collect();
        row("queries", counts.join(", "));
    }
    for gateway in status.gateways.iter().flatten() {
        row("gateway", gateway.to_string());
    }
    match &status.packets {
        Some(packets) => packet_rows(packets, &mut row),
        None => row("packets", "the packet thread does not answer".to_owned()),
    }
    let mut text = table.text();
    if let Some(error) = &status.table.error {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "\nThe table's file is at fault and not in use:\n{error}"
        );
    }
    text
}

fn packet_rows(packets: &PacketStatus, row: &mut impl FnMut(&str, String)) {
    row(
        "peers",
        format!("{} of {} up", packets.peers_up, packets.peers),
    );
    for relay in &packets.relays {
        let reason = relay.reason.as_deref().map(|reason| format!(", {reason}"));
        let over_tcp = relay.carrier == Carrier::Tcp.word();
        let over = over_tcp.then(|| format!(", relay-tcp because: {}", relay.carrier_reason));
        row(
            "relay",
            format!(
                "{} {}, rtt {}{}{}",
                relay.relay,
                relay.state,
                rtt(relay.rtt_us),
                over.unwrap_or_default(),
                reason.unwrap_or_default()
            ),
        );
    }
    row("flows", packets.flows.to_string());
    let streams = &packets.streams;
    if *streams != StreamReport::default() {
        let refused = streams.refused.iter();
        let refused: String = refused
            .map(|(reason, count)| format!(", {count} {reason}"))
            .collect();
        row(
            "l4 connections",
            format!(
                "{} open; {} opened, {} accepted{refused}",
                streams.open, streams.opened, streams.accepted
            ),
        );
    }
    if packets.refused_handshakes > 0 {
        row("handshakes refused", packets.refused_handshakes.to_string());
    }
    let traffic = &packets.traffic;
    row(
        "tun",
        format!(
            "{} packets, {} bytes in; {} packets, {} bytes out",
            traffic.tun_in_packets,
            traffic.tun_in_bytes,
            traffic.tun_out_packets,
            traffic.tun_out_bytes
        ),
    );
    row(
        "socket",
        format!(
            "{} datagrams, {} bytes in; {} datagrams, {} bytes out",
            traffic.socket_in_datagrams,
            traffic.socket_in_bytes,
            traffic.socket_out_datagrams,
            traffic.socket_out_bytes
        ),
    );
    for counter in packets.drops.iter().filter(|counter| counter.packets > 0) {
        row("dropped", format!("{} {}", counter.packets, counter.reason));
    }
}

/// The ways to the peers that are reached or wanted, as far as they fit on a screen.
fn status_peers_text(peers: &[PeerReport]) -> String {
    let known = || peers.iter().filter(|peer| peer.state != "unknown");
    let mut table = Table::new(&["PEER", "STATE", "PATH", "RTT", "LOSS", "MTU"]);
    for peer in known().take(MAX_STATUS_PEERS) {
        table.row([
            peer.node.clone(),
            peer.state.clone(),
            peer.path.to_string(),
            rtt(peer.rtt_us),
            loss(peer.loss_permille),
            number(peer.mtu),
        ]);
    }
    let left = known().count().saturating_sub(MAX_STATUS_PEERS);
    match (known().count(), left) {
        (0, _) => String::new(),
        (_, 0) => format!("\n{}", table.text()),
        (_, left) => format!("\n{}and {left} more: netmanager peers\n", table.text()),
    }
}

fn peers_text(peers: &[PeerReport]) -> String {
    let mut table = Table::new(&[
        "NODE", "STATE", "PATH", "RTT", "MIN RTT", "LOSS", "MTU", "SENT", "RECEIVED", "REASON",
    ]);
    for peer in peers {
        table.row([
            peer.node.clone(),
            peer.state.clone(),
            peer.path.to_string(),
            rtt(peer.rtt_us),
            rtt(peer.min_rtt_us),
            loss(peer.loss_permille),
            number(peer.mtu),
            peer.sent_bytes.to_string(),
            peer.received_bytes.to_string(),
            or_dash(Some(&peer.reason)),
        ]);
    }
    table.text()
}

fn flows_text(flows: &[FlowReport]) -> String {
    let mut table = Table::new(&[
        "PROTOCOL", "FROM", "TO", "POLICY", "INSTANCE", "NODE", "STATE", "LANE", "PATH", "RTT",
        "IDLE",
    ]);
    for flow in flows {
        table.row([
            flow.protocol.clone(),
            endpoint(flow.source, flow.source_port),
            endpoint(flow.destination, flow.destination_port),
            or_dash(flow.policy.as_deref()),
            or_dash(flow.instance.as_deref()),
            flow.node.clone(),
            flow.state.clone(),
            lane(flow),
            flow.path.to_string(),
            rtt(flow.rtt_us),
            span(flow.idle_ms),
        ]);
    }
    table.text()
}

fn lane(flow: &FlowReport) -> String {
    let early = match flow.accept.as_deref() {
        Some("early") => ", accepted early",
        Some(_) | None => "",
    };
    format!("{} ({}{early})", flow.lane, flow.lane_reason)
}

fn endpoint(ip: IpAddr, port: u16) -> String {
    SocketAddr::new(ip, port).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::report::{PathReport, TableReport};

    fn peer(node: &str) -> PeerReport {
        PeerReport {
            node: node.to_owned(),
            state: "up".to_owned(),
            path: PathReport::Direct {
                address: "192.0.2.1:10260".parse().unwrap(),
            },
            reason: "lowest_rtt".to_owned(),
            rtt_us: Some(12_345),
            min_rtt_us: Some(9_000),
            loss_permille: Some(15),
            mtu: Some(1452),
            sent_bytes: 7,
            received_bytes: 8,
            ..PeerReport::default()
        }
    }

    fn words(line: &str) -> Vec<&str> {
        line.split("  ")
            .map(str::trim)
            .filter(|word| !word.is_empty())
            .collect()
    }

    #[test]
    fn peers_are_shown_with_loss_and_mtu() {
        let down = PeerReport {
            node: "a/two".to_owned(),
            state: "down".to_owned(),
            ..PeerReport::default()
        };
        let text = peers_text(&[peer("a/one"), down]);
        let lines: Vec<Vec<&str>> = text.lines().map(words).collect();
        let way = peer("a/one").path.to_string();
        assert_eq!(
            lines[0],
            [
                "NODE", "STATE", "PATH", "RTT", "MIN RTT", "LOSS", "MTU", "SENT", "RECEIVED",
                "REASON"
            ]
        );
        assert_eq!(
            lines[1],
            [
                "a/one",
                "up",
                &way,
                "12.345 ms",
                "9.000 ms",
                "1.5 %",
                "1452",
                "7",
                "8",
                "lowest_rtt"
            ]
        );
        assert_eq!(lines[2][..2], ["a/two", "down"]);
        assert_eq!(lines[2][3..], ["-", "-", "-", "-", "0", "0", "-"]);
    }

    #[test]
    fn the_status_lists_the_ways_to_peers_and_says_where_there_are_more() {
        let unknown = PeerReport {
            state: "unknown".to_owned(),
            ..peer("a/idle")
        };
        assert_eq!(status_peers_text(std::slice::from_ref(&unknown)), "");
        let text = status_peers_text(&[unknown.clone(), peer("a/one")]);
        let lines: Vec<Vec<&str>> = text.lines().map(words).collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].is_empty());
        assert_eq!(lines[1], ["PEER", "STATE", "PATH", "RTT", "LOSS", "MTU"]);
        let way = peer("a/one").path.to_string();
        assert_eq!(
            lines[2],
            ["a/one", "up", &way, "12.345 ms", "1.5 %", "1452"]
        );
        let many: Vec<PeerReport> = (0..20).map(|at| peer(&format!("a/n{at}"))).collect();
        let text = status_peers_text(&[&many[..], &[unknown]].concat());
        assert_eq!(text.lines().count(), 2 + 16 + 1, "{text}");
        assert!(text.ends_with("\nand 4 more: netmanager peers\n"), "{text}");
    }

    #[test]
    fn the_status_in_json_has_the_peers_beside_what_it_had() {
        let status = Status {
            version: "1".to_owned(),
            pid: 1,
            node: "a/me".to_owned(),
            organisation: None,
            overlay: "o".to_owned(),
            listen: "0.0.0.0:1".parse().unwrap(),
            uptime_ms: 1,
            table: TableReport::default(),
            cluster: None,
            instances: Vec::new(),
            names: Vec::new(),
            nft_drops: Vec::new(),
            gateways: None,
            packets: None,
            userspace: None,
        };
        let peers = [peer("a/one")];
        let whole = StatusAndPeers {
            status: &status,
            peers: &peers,
        };
        let json = serde_json::to_value(whole).unwrap();
        assert_eq!(json["node"], "a/me");
        assert_eq!(json["peers"][0]["loss_permille"], 15);
        assert_eq!(json["peers"][0]["mtu"], 1452);
        let alone = serde_json::to_value(&status).unwrap();
        assert!(alone.get("peers").is_none(), "nothing is hidden");
    }
}
