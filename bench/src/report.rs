//! The table on the terminal: medians of all rounds, and how far they spread.

use std::fmt::Write as _;

use weald_measure::results::{Results, spread};

/// The figures of the table, in its order: metric, heading, digits after the point.
pub const COLUMNS: [(&str, &str, usize); 16] = [
    ("tcp1", "TCP Gbit/s", 2),
    ("tcp1_ratio", "x bare", 3),
    ("tcp1_cpu_sender", "send ns/B", 2),
    ("tcp1_cpu_receiver", "recv ns/B", 2),
    ("tcp1_cpu_all", "all s/GB", 2),
    ("tcp4", "4 flows", 2),
    ("tcp_reverse", "reverse", 2),
    ("tcp_both", "both", 2),
    ("tcp1_service", "service", 2),
    ("udp1200", "UDP1200", 2),
    ("udp1200_gso", "UDP GSO", 2),
    ("udp64_cpu", "64B us/p", 2),
    ("rtt_idle_p50", "rtt50 us", 0),
    ("rtt_load_p99", "load99 us", 0),
    ("rtt_half_p99", "half99 us", 0),
    ("rss_load", "RSS MB", 1),
];

/// The table, and under it what is missing and why.
#[must_use]
pub fn table(results: &Results) -> String {
    let systems = results.systems();
    let width = systems
        .iter()
        .map(|name| name.len())
        .max()
        .unwrap_or(0)
        .max(6);
    let mut text = format!("medians\n{:<width$}", "system");
    for (_, heading, _) in COLUMNS {
        let _ = write!(text, " {heading:>10}");
    }
    for system in &systems {
        let _ = write!(text, "\n{system:<width$}");
        for (metric, _, digits) in COLUMNS {
            match spread(&results.values(system, metric)) {
                Some(spread) => {
                    let _ = write!(text, " {:>10.digits$}", spread.median);
                }
                None => {
                    let _ = write!(text, " {:>10}", "-");
                }
            }
        }
    }
    let _ = write!(
        text,
        "\n\nspread over the rounds: least .. most\n{:<width$}",
        "system"
    );
    let spreads = [
        "tcp1",
        "tcp1_ratio",
        "tcp1_cpu_all",
        "udp1200",
        "rtt_idle_p50",
    ];
    for metric in spreads {
        let _ = write!(text, " {metric:>18}");
    }
    for system in &systems {
        let _ = write!(text, "\n{system:<width$}");
        for metric in spreads {
            let shown = spread(&results.values(system, metric)).map_or_else(
                || "-".to_owned(),
                |spread| format!("{:.2} .. {:.2}", spread.least, spread.most),
            );
            let _ = write!(text, " {shown:>18}");
        }
    }
    text.push('\n');
    let about = results.about();
    let machine: Vec<String> = about
        .machine
        .iter()
        .map(|(key, value)| format!("{key} {value}"))
        .collect();
    let _ = write!(text, "\n{}; {}\n", about.commit, machine.join("; "));
    for (what, reason) in &about.missing {
        let _ = writeln!(text, "missing: {what}: {reason}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_medians_spreads_and_what_is_missing() {
        let mut results = Results::new("test");
        for (round, value) in [(1, 1.0), (2, 3.0), (3, 2.0)] {
            results.add(round, "weald", "tcp1", value, "Gbit/s");
        }
        results.add_missing("other", "not to be had");
        let table = table(&results);
        let row = table.lines().find(|line| line.starts_with("weald"));
        let cells: Vec<&str> = row.unwrap_or_default().split_whitespace().collect();
        assert_eq!(cells.get(..3), Some(&["weald", "2.00", "-"][..]), "{table}");
        assert!(table.contains("1.00 .. 3.00"), "{table}");
        assert!(table.contains("missing: other: not to be had"), "{table}");
    }
}
