//! Long and lossy paths: systems side by side, path by path, and the L4 lane on a clean LAN.
//!
//! A path is an emulated link: a rate, a round-trip time, random losses in both directions, and a
//! short queue. On every path, in every round, each system is started, measured and stopped. Weald
//! is measured from instance to instance by service IP, because only services have a lane. What is
//! measured where is `plan`'s, how is `cell`'s, `http`'s and `lan`'s.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use netns_tests::{Lab, require};
use weald_measure::results::{Results, shown, spread};

pub use self::cell::Times;
pub use self::http::Amount;
pub use self::lan::Crowd;
pub use self::plan::{Cell, EARLY, Part, Path, Plan, Selection};

use self::cell::Figure;
use crate::ground;
use crate::systems::{self, System, Tunnel};

mod cell;
mod http;
mod lan;
mod plan;

/// What to run.
#[derive(Debug, Clone)]
pub struct Order {
    /// The systems, by name; empty means all, each with the parts that suit it.
    pub systems: Vec<String>,
    /// What is measured where.
    pub plan: Plan,
    /// How often each.
    pub rounds: u32,
    /// How long things are measured.
    pub times: Times,
    /// The connections in quick succession.
    pub crowd: Crowd,
    /// Where the list goes; what the run was lies beside it.
    pub out: Option<PathBuf>,
    /// The command that repeats the run.
    pub command: String,
}

/// Runs it all, telling progress; writes the files and prints the table.
///
/// # Errors
/// A lab cannot be built, or nothing could be measured. What goes wrong with one system is noted
/// as missing, and the others are measured.
pub fn run(order: &Order, progress: &mut dyn Write) -> Result<Results> {
    require::privileges()?;
    require::programs(&["iperf3", "ip"])?;
    if order.has(Part::Http) {
        require::programs(&["nginx"])?;
    }
    let (far, near) = (ground::build_far()?, ground::build()?);
    let mut run = Run {
        order,
        results: Results::new(&order.command),
        progress: &mut *progress,
    };
    let names = order.names();
    let mut on_paths = systems::find_all(&far, &names, &mut run.results, run.progress)?;
    let lanes = order.lanes()?;
    let mut on_lan = systems::find_all(&near, &lanes, &mut run.results, run.progress)?;
    for round in 1..=order.rounds {
        for cell in &order.plan.cells {
            ground::impair(&far, cell.path.impairment());
            for system in &mut on_paths {
                run.cell(&far, round, cell, system.as_mut())?;
            }
        }
        for part in &order.plan.lan {
            for system in &mut on_lan {
                run.lan(round, *part, system.as_mut())?;
            }
        }
    }
    let results = run.results;
    ensure!(
        !results.records().is_empty(),
        "nothing was measured: {:?}",
        results.about().missing
    );
    writeln!(progress, "\n{}", table(&results))?;
    if let Some(out) = &order.out {
        results.write(out)?;
        writeln!(progress, "written: {}", out.display())?;
    }
    Ok(results)
}

/// A run under way.
struct Run<'a> {
    order: &'a Order,
    results: Results,
    progress: &'a mut dyn Write,
}

impl Order {
    fn has(&self, part: Part) -> bool {
        let mut cells = self.plan.cells.iter();
        cells.any(|cell| cell.parts.contains(&part))
    }

    fn names(&self) -> Vec<String> {
        if self.plan.cells.is_empty() {
            Vec::new()
        } else if self.systems.is_empty() {
            systems::WAN.map(ToOwned::to_owned).to_vec()
        } else {
            self.systems.clone()
        }
    }

    /// The systems of the clean LAN.
    fn lanes(&self) -> Result<Vec<String>> {
        if self.plan.lan.is_empty() {
            return Ok(Vec::new());
        }
        let asked = &self.systems;
        let lanes = lan::LANES.iter().map(|name| (*name).to_owned());
        let lanes: Vec<String> = lanes
            .filter(|name| asked.is_empty() || asked.contains(name))
            .collect();
        ensure!(
            !lanes.is_empty(),
            "on a LAN only {} are measured",
            lan::LANES.join(" and ")
        );
        Ok(lanes)
    }
}

impl Run<'_> {
    fn cell(&mut self, lab: &Lab, round: u32, cell: &Cell, system: &mut dyn System) -> Result<()> {
        let (name, times) = (system.name().to_owned(), self.order.times);
        let all = !self.order.systems.is_empty();
        let parts = cell.parts.iter().copied();
        let parts: Vec<Part> = parts.filter(|part| all || part.suits(&name)).collect();
        if parts.is_empty() {
            return Ok(());
        }
        let found = systems::while_up(system, |tunnel| {
            Ok(cell::measure(lab, &name, tunnel, cell, &parts, &times))
        });
        self.note(round, &name, &cell.path.metric("all"), found)
    }

    fn lan(&mut self, round: u32, part: Part, system: &mut dyn System) -> Result<()> {
        let name = system.name().to_owned();
        let is_compared = name == lan::LANES[1];
        if part == Part::Connections && !is_compared {
            return Ok(());
        }
        let measure = |tunnel: &Tunnel| match part {
            Part::Connections => lan::connections(tunnel, self.order.crowd),
            Part::Lan | Part::Bulk | Part::Http | Part::Ping => {
                let rate = lan::rate(&name, tunnel, self.order.times.tcp)?;
                Ok((rate, Vec::new()))
            }
        };
        let found = systems::while_up(system, measure);
        self.note(round, &name, part.word(), found)?;
        let of = |results: &Results, name: &str| results.value(round, name, lan::RATE);
        let both = of(&self.results, &name).zip(of(&self.results, lan::LANES[0]));
        if part == Part::Lan
            && is_compared
            && let Some((rate, packets)) = both
        {
            let ratio = Figure::new(lan::RATIO, rate / packets, "x l3");
            self.note(round, &name, part.word(), Ok((vec![ratio], Vec::new())))?;
        }
        Ok(())
    }

    /// Takes note of what was found, or of why not.
    fn note(
        &mut self,
        round: u32,
        system: &str,
        what: &str,
        found: Result<(Vec<Figure>, Vec<String>)>,
    ) -> Result<()> {
        let (figures, failures) = match found {
            Ok(found) => found,
            Err(error) => (Vec::new(), vec![format!("{error:#}")]),
        };
        for Figure {
            metric,
            value,
            unit,
        } in figures
        {
            writeln!(
                self.progress,
                "round {round}: {metric}: {system}: {} {unit}",
                shown(value)
            )?;
            self.results.add(round, system, &metric, value, unit);
        }
        for failure in failures {
            writeln!(self.progress, "round {round}: {what}: {system}: {failure}")?;
            let what = format!("{system}, {what}, round {round}");
            self.results.add_missing(&what, &failure);
        }
        Ok(())
    }
}

/// Medians, and from least to most; a line for each figure and a column for each system.
fn table(results: &Results) -> String {
    let systems = results.systems();
    let mut metrics: Vec<&str> = Vec::new();
    for system in &systems {
        for metric in results.metrics(system) {
            if !metrics.contains(&metric) {
                metrics.push(metric);
            }
        }
    }
    let mut text = format!("{:<44}", "median (least-most)");
    for system in &systems {
        text += &format!(" {system:>22}");
    }
    for metric in metrics {
        let unit = results.unit(metric).unwrap_or_default();
        text += &format!("\n{:<44}", format!("{metric}, {unit}"));
        for system in &systems {
            let cell = spread(&results.values(system, metric)).map_or_else(
                || "-".to_owned(),
                |it| {
                    let [median, least, most] = [it.median, it.least, it.most].map(shown);
                    format!("{median} ({least}-{most})")
                },
            );
            text += &format!(" {cell:>22}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_every_figure_of_every_system() {
        let mut results = Results::new("test");
        for (round, value) in [(1, 10.0), (2, 30.0), (3, 20.0)] {
            results.add(round, "weald-l4", "tcp1_lan", value, "Mbit/s");
        }
        results.add(1, "nebula", "http_1k_p50", 200.0, "ms");
        let table = table(&results);
        let line = |begin: &str| {
            let mut lines = table.lines();
            lines
                .find(|line| line.starts_with(begin))
                .unwrap_or_default()
        };
        let cells: Vec<&str> = line("tcp1_lan, Mbit/s").split_whitespace().collect();
        assert_eq!(cells[2..], ["20.0", "(10.0-30.0)", "-"], "{table}");
        let cells: Vec<&str> = line("http_1k_p50, ms").split_whitespace().collect();
        assert_eq!(cells[2..], ["-", "200", "(200-200)"], "{table}");
    }
}
