//! Which plots the page of a run has; how they are drawn is [`weald_measure::page`]'s.

use weald_measure::page::{self, Chart, Layout};
use weald_measure::results::Results;

use crate::report;

const CHARTS: [Chart; 17] = [
    chart("tcp1", "One TCP flow", false),
    chart(
        "tcp1_ratio",
        "One TCP flow as a share of the bare veth of the same round",
        false,
    ),
    chart("tcp1_cpu_all", "CPU of everything, one TCP flow", true),
    chart(
        "tcp1_cpu_sender",
        "CPU of the sending daemon, one TCP flow",
        true,
    ),
    chart(
        "tcp1_cpu_receiver",
        "CPU of the receiving daemon, one TCP flow",
        true,
    ),
    chart("tcp4", "Four TCP flows", false),
    chart("tcp_reverse", "One TCP flow in reverse", false),
    chart("tcp_both", "One TCP flow each way, sum", false),
    chart("tcp1_service", "One TCP flow by service IP", false),
    chart(
        "udp1200",
        "UDP, 1,200 B, without loss, one datagram per call",
        false,
    ),
    chart(
        "udp1200_gso",
        "UDP, 1,200 B, without loss, batches (GSO)",
        false,
    ),
    chart(
        "udp64_cpu",
        "CPU of both daemons per datagram of 64 B",
        true,
    ),
    chart("rtt_idle_p50", "Round trip, idle, median", true),
    chart("rtt_idle_p99", "Round trip, idle, 99th of 100", true),
    chart(
        "rtt_load_p99",
        "Round trip beside 200 Mbit/s, 99th of 100",
        true,
    ),
    chart(
        "rtt_half_p99",
        "Round trip beside half of the tunnel's own rate, 99th of 100",
        true,
    ),
    chart("rss_load", "Memory after load", true),
];

const fn chart(metric: &'static str, heading: &'static str, less: bool) -> Chart {
    Chart {
        metric,
        heading,
        less,
    }
}

/// The page.
#[must_use]
pub fn html(results: &Results) -> String {
    page::html(
        results,
        &Layout {
            title: "Tunnels compared",
            charts: &CHARTS,
            ours: "weald",
            table: &report::table(results),
        },
    )
}
