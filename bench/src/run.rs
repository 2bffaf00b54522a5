//! Rounds: every system in turn, as often as asked; ratios to the bare veth of the same round.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use netns_tests::require;
use weald_measure::results::Results;

use crate::scenarios::{self, Figure, Times};
use crate::systems;
use crate::{ground, page, report};

/// The system that ratios refer to.
pub const BARE: &str = "raw";

/// Figures that are also given as a share of the bare veth's, and the share's name.
const SHARES: [(&str, &str); 7] = [
    ("tcp1", "tcp1_ratio"),
    ("tcp4", "tcp4_ratio"),
    ("tcp_reverse", "tcp_reverse_ratio"),
    ("tcp_both", "tcp_both_ratio"),
    ("tcp1_service", "tcp1_service_ratio"),
    ("udp1200", "udp1200_ratio"),
    ("udp1200_gso", "udp1200_gso_ratio"),
];

/// Figures that are also given as what they add to the bare veth's.
const ADDED: [(&str, &str); 6] = [
    ("rtt_idle_p50", "rtt_idle_p50_added"),
    ("rtt_idle_p99", "rtt_idle_p99_added"),
    ("rtt_load_p50", "rtt_load_p50_added"),
    ("rtt_load_p99", "rtt_load_p99_added"),
    ("rtt_half_p50", "rtt_half_p50_added"),
    ("rtt_half_p99", "rtt_half_p99_added"),
];

/// What to run.
#[derive(Debug, Clone)]
pub struct Order {
    /// The systems, by name.
    pub systems: Vec<String>,
    /// How often each.
    pub rounds: u32,
    /// How long things are measured.
    pub times: Times,
    /// Which parts of [`scenarios::PARTS`]; everything if none is named.
    pub only: Vec<String>,
    /// Where the list goes; a page of plots and what the run was lie beside it.
    pub out: Option<PathBuf>,
    /// The command that repeats the run.
    pub command: String,
}

/// Runs it all, telling progress; writes the files and prints the table.
///
/// # Errors
/// The two namespaces cannot be built, or no system could be measured. What goes wrong with one
/// system is noted as missing, and the others are measured.
pub fn run(order: &Order, progress: &mut dyn Write) -> Result<Results> {
    require::privileges()?;
    require::programs(&["iperf3", "ip"])?;
    let lab = ground::build()?;
    let mut results = Results::new(&order.command);
    let mut found = systems::find_all(&lab, &order.systems, &mut results, progress)?;
    for round in 1..=order.rounds {
        for system in &mut found {
            let begin = Instant::now();
            let name = system.name().to_owned();
            let outcome = systems::while_up(system.as_mut(), |tunnel| {
                scenarios::measure(tunnel, &order.times, &order.only)
            });
            let seconds = begin.elapsed().as_secs_f64();
            match outcome {
                Ok((figures, failures)) => {
                    let shown = summary(&figures);
                    writeln!(progress, "round {round}: {name}: {shown} ({seconds:.0} s)")?;
                    for figure in &figures {
                        results.add(round, &name, figure.metric, figure.value, figure.unit);
                    }
                    add_relative(&mut results, round, &name);
                    for failure in failures {
                        writeln!(progress, "round {round}: {name}: {failure}")?;
                        results.add_missing(&format!("{name}, round {round}"), &failure);
                    }
                }
                Err(error) => {
                    writeln!(progress, "round {round}: {name}: {error:#}")?;
                    let reason = format!("{error:#}");
                    results.add_missing(&format!("{name}, round {round}"), &reason);
                }
            }
        }
    }
    ensure!(
        !results.records().is_empty(),
        "nothing was measured: {:?}",
        results.about().missing
    );
    writeln!(progress, "\n{}", report::table(&results))?;
    if let Some(out) = &order.out {
        results.write(out)?;
        let plots = out.with_extension("html");
        std::fs::write(&plots, page::html(&results))
            .with_context(|| format!("write {}", plots.display()))?;
        writeln!(progress, "written: {}", out.display())?;
        writeln!(progress, "plots:   {}", plots.display())?;
    }
    Ok(results)
}

/// A line for those who wait.
fn summary(figures: &[Figure]) -> String {
    let shown = figures
        .iter()
        .filter(|figure| ["tcp1", "tcp1_cpu_all", "rtt_idle_p50"].contains(&figure.metric));
    let shown: Vec<String> = shown
        .map(|figure| format!("{} {:.2} {}", figure.metric, figure.value, figure.unit))
        .collect();
    shown.join(", ")
}

/// Adds what refers to the bare veth of the same round, if that was measured before.
fn add_relative(results: &mut Results, round: u32, name: &str) {
    let pair = |results: &Results, metric| {
        let bare = results.value(round, BARE, metric)?;
        Some((results.value(round, name, metric)?, bare))
    };
    for (metric, share) in SHARES {
        // By service IP there is no bare way; one plain flow is what it is compared with.
        let of = if metric == "tcp1_service" {
            "tcp1"
        } else {
            metric
        };
        let both = results
            .value(round, name, metric)
            .zip(results.value(round, BARE, of));
        if let Some((value, bare)) = both {
            results.add(round, name, share, value / bare, "x bare");
        }
    }
    for (metric, added) in ADDED {
        if let Some((value, bare)) = pair(results, metric) {
            results.add(round, name, added, value - bare, "us");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_refer_to_the_same_round() {
        let mut results = Results::new("test");
        results.add(1, BARE, "tcp1", 20.0, "Gbit/s");
        results.add(2, BARE, "tcp1", 10.0, "Gbit/s");
        results.add(2, BARE, "rtt_idle_p50", 30.0, "us");
        results.add(2, "weald", "tcp1", 5.0, "Gbit/s");
        results.add(2, "weald", "tcp1_service", 4.0, "Gbit/s");
        results.add(2, "weald", "rtt_idle_p50", 80.0, "us");
        add_relative(&mut results, 2, "weald");
        assert_eq!(results.value(2, "weald", "tcp1_ratio"), Some(0.5));
        assert_eq!(results.value(2, "weald", "tcp1_service_ratio"), Some(0.4));
        assert_eq!(results.value(2, "weald", "rtt_idle_p50_added"), Some(50.0));
        assert_eq!(results.value(2, "weald", "udp1200_ratio"), None);
    }
}
