//! What a bench measures, in which order and under which names; and how it is shown.
//!
//! Every round measures everything once over the overlay, and then once over the bare path if the
//! peer offers it, so that the two are compared under the same conditions.

use std::fmt::Write as _;
use std::io::Write;
use std::time::Duration;

use anyhow::{Result, ensure};
use weald_measure::compare::is_less_better;
use weald_measure::page::{self, Chart, Layout};
use weald_measure::prober::RoundTrips;
use weald_measure::results::{Results, shown, spread};
use weald_measure::stream::{self, Stream};

use super::far::Far;
use super::load::{self, Way};

/// The way through the overlay, as figures name it.
pub const OVERLAY: &str = "overlay";
/// The way beside it, as figures name it.
pub const BARE: &str = "bare";

/// A TCP load: its name, its way, its connections, and the names of its costs.
type Tcp = (&'static str, Way, usize, [&'static str; 3]);

/// The TCP loads. Costs are seconds of CPU for each GB: of the near end, of the far end (daemon and
/// load), and of the two daemons.
const TCP: [Tcp; 6] = [
    (
        "tcp_up_1",
        Way::Up,
        1,
        [
            "tcp_up_1_cpu_near",
            "tcp_up_1_cpu_far",
            "tcp_up_1_cpu_daemons",
        ],
    ),
    (
        "tcp_down_1",
        Way::Down,
        1,
        [
            "tcp_down_1_cpu_near",
            "tcp_down_1_cpu_far",
            "tcp_down_1_cpu_daemons",
        ],
    ),
    (
        "tcp_both_1",
        Way::Both,
        1,
        [
            "tcp_both_1_cpu_near",
            "tcp_both_1_cpu_far",
            "tcp_both_1_cpu_daemons",
        ],
    ),
    (
        "tcp_up_8",
        Way::Up,
        8,
        [
            "tcp_up_8_cpu_near",
            "tcp_up_8_cpu_far",
            "tcp_up_8_cpu_daemons",
        ],
    ),
    (
        "tcp_down_8",
        Way::Down,
        8,
        [
            "tcp_down_8_cpu_near",
            "tcp_down_8_cpu_far",
            "tcp_down_8_cpu_daemons",
        ],
    ),
    (
        "tcp_both_8",
        Way::Both,
        8,
        [
            "tcp_both_8_cpu_near",
            "tcp_both_8_cpu_far",
            "tcp_both_8_cpu_daemons",
        ],
    ),
];

/// The streams of datagrams: name, and bytes of payload.
const UDP: [(&str, usize); 3] = [("udp_64", 64), ("udp_512", 512), ("udp_1200", 1200)];

const IDLE: [&str; 3] = ["rtt_idle_p50", "rtt_idle_p99", "rtt_idle_p999"];
const LOADED: [&str; 3] = ["rtt_load_p50", "rtt_load_p99", "rtt_load_p999"];
const CONNECTIONS: &str = "connections";

/// What can be asked for by itself.
pub const PARTS: [&str; 12] = [
    "rtt_idle",
    "tcp_up_1",
    "tcp_down_1",
    "tcp_both_1",
    "tcp_up_8",
    "tcp_down_8",
    "tcp_both_8",
    "udp_64",
    "udp_512",
    "udp_1200",
    CONNECTIONS,
    "rtt_load",
];

/// What is drawn.
const CHARTS: [Chart; 20] = [
    chart("tcp_up_1", "TCP up, one connection"),
    chart("tcp_up_8", "TCP up, eight connections"),
    chart("tcp_down_1", "TCP down, one connection"),
    chart("tcp_down_8", "TCP down, eight connections"),
    chart("tcp_both_1", "TCP both ways, one connection each, sum"),
    chart("tcp_both_8", "TCP both ways, eight connections each, sum"),
    chart("udp_64", "UDP without loss, 64 B"),
    chart("udp_512", "UDP without loss, 512 B"),
    chart("udp_1200", "UDP without loss, 1,200 B"),
    cost("rtt_idle_p50", "Round trip, idle, median"),
    cost("rtt_idle_p99", "Round trip, idle, 99 of 100"),
    cost("rtt_idle_p999", "Round trip, idle, 999 of 1,000"),
    cost("rtt_load_p50", "Round trip beside a TCP connection, median"),
    cost(
        "rtt_load_p99",
        "Round trip beside a TCP connection, 99 of 100",
    ),
    cost(
        "rtt_load_p999",
        "Round trip beside a TCP connection, 999 of 1,000",
    ),
    chart(CONNECTIONS, "TCP connections, eight at once"),
    cost("tcp_up_1_cpu_near", "CPU of this end, TCP up"),
    cost("tcp_up_1_cpu_far", "CPU of the far end, TCP up"),
    cost("tcp_up_1_cpu_daemons", "CPU of both daemons, TCP up"),
    cost("tcp_down_1_cpu_daemons", "CPU of both daemons, TCP down"),
];

const fn chart(metric: &'static str, heading: &'static str) -> Chart {
    Chart {
        metric,
        heading,
        less: false,
    }
}

const fn cost(metric: &'static str, heading: &'static str) -> Chart {
    Chart {
        metric,
        heading,
        less: true,
    }
}

/// What to measure.
#[derive(Debug, Clone)]
pub struct Order {
    /// How often.
    pub rounds: u32,
    /// How long each load and each series of probes lasts; tries of the search for a rate of
    /// datagrams last a fifth of it.
    pub time: Duration,
    /// Which of [`PARTS`]; everything if none is named.
    pub only: Vec<String>,
    /// The process of this end's daemon, whose CPU time counts.
    pub daemon: u32,
}

/// One way to the peer.
#[derive(Debug)]
pub struct Road {
    /// [`OVERLAY`] or [`BARE`].
    pub name: &'static str,
    /// What answers there.
    pub far: Far,
}

/// Measures all rounds over all roads, telling progress; what fails is noted in `results` as missing
/// and the rest is measured.
///
/// # Errors
/// Nothing at all could be measured, or progress cannot be told.
pub fn run(
    order: &Order,
    roads: &mut [Road],
    results: &mut Results,
    progress: &mut dyn Write,
) -> Result<()> {
    for round in 1..=order.rounds {
        for road in &mut *roads {
            let mut step = Step {
                order,
                round,
                road,
                results,
                progress,
            };
            step.all()?;
        }
    }
    ensure!(
        !results.records().is_empty(),
        "nothing could be measured: {:?}",
        results.about().missing
    );
    Ok(())
}

/// One round over one road.
struct Step<'a> {
    order: &'a Order,
    round: u32,
    road: &'a mut Road,
    results: &'a mut Results,
    progress: &'a mut dyn Write,
}

impl Step<'_> {
    fn all(&mut self) -> Result<()> {
        let (time, daemon) = (self.order.time, self.order.daemon);
        self.part("rtt_idle", |step| {
            let found = load::round_trips(&step.road.far, time)?;
            step.round_trips(IDLE, found);
            Ok(())
        })?;
        for (name, way, streams, costs) in TCP {
            self.part(name, |step| {
                let moved = load::tcp(&mut step.road.far, way, streams, time, daemon)?;
                step.add(name, moved.bits_per_second / 1e6, "Mbit/s");
                let [near, far] = moved.ends;
                for (name, seconds) in costs.into_iter().zip([near, far, moved.daemons]) {
                    step.add(name, seconds * 1e9, "s/GB");
                }
                Ok(())
            })?;
        }
        for (name, size) in UDP {
            self.part(name, |step| {
                let stream = Stream {
                    size,
                    batched: false,
                    time: time / 5,
                };
                let far = &mut step.road.far;
                let rate = stream::search(&stream, |rate| far.pass(&stream, rate))?;
                step.add(name, rate / 1e6, "Mbit/s");
                Ok(())
            })?;
        }
        self.part(CONNECTIONS, |step| {
            let rate = load::connections(&step.road.far, time)?;
            step.add(CONNECTIONS, rate, "1/s");
            Ok(())
        })?;
        self.part("rtt_load", |step| {
            let found = load::round_trips_under_load(&mut step.road.far, time)?;
            step.round_trips(LOADED, found);
            Ok(())
        })
    }

    /// Measures a part if it is asked for, and tells the first of its figures.
    fn part(&mut self, name: &str, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let only = &self.order.only;
        if !only.is_empty() && !only.iter().any(|wanted| wanted == name) {
            return Ok(());
        }
        let before = self.results.records().len();
        let outcome = work(self);
        let road = self.road.name;
        let told = match (&outcome, self.results.records().get(before)) {
            (Ok(()), Some(first)) => format!("{} {}", shown(first.value), first.unit),
            (Ok(()), None) => String::new(),
            (Err(error), _) => format!("{error:#}"),
        };
        let (round, rounds) = (self.round, self.order.rounds);
        writeln!(
            self.progress,
            "round {round}/{rounds}: {road}: {name}: {told}"
        )?;
        if outcome.is_err() {
            let what = format!("{road}, {name}, round {round}");
            self.results.add_missing(&what, &told);
        }
        Ok(())
    }

    fn add(&mut self, metric: &str, value: f64, unit: &str) {
        let (round, road) = (self.round, self.road.name);
        self.results.add(round, road, metric, value, unit);
    }

    fn round_trips(&mut self, [p50, p99, p999]: [&str; 3], found: RoundTrips) {
        self.add(p50, found.p50, "us");
        self.add(p99, found.p99, "us");
        self.add(p999, found.p999, "us");
    }
}

/// The figures as lines of text: medians, spreads, and their ratio to the bare path.
#[must_use]
pub fn table(results: &Results) -> String {
    let mut text = String::new();
    for (what, note) in &results.about().notes {
        let _ = writeln!(text, "{what:<10} {note}");
    }
    let has_bare = results.systems().contains(&BARE);
    let bare_head = if has_bare { "bare" } else { "" };
    let _ = writeln!(
        text,
        "\n{:<24} {:>10} {:>21} {:>10}",
        "median of the rounds", OVERLAY, "least .. most", bare_head
    );
    for metric in results.metrics(OVERLAY) {
        let Some(own) = spread(&results.values(OVERLAY, metric)) else {
            continue;
        };
        let unit = results.unit(metric).unwrap_or_default();
        let range = format!("{} .. {}", shown(own.least), shown(own.most));
        let bare = spread(&results.values(BARE, metric)).map_or_else(String::new, |bare| {
            let median = shown(bare.median);
            if is_less_better(unit) {
                format!("{median:>10}  ({} more)", shown(own.median - bare.median))
            } else {
                format!("{median:>10}  (x {})", shown(own.median / bare.median))
            }
        });
        let _ = writeln!(
            text,
            "{metric:<24} {:>10} {range:>21} {unit:<7} {bare}",
            shown(own.median)
        );
    }
    for (what, why) in &results.about().missing {
        let _ = writeln!(text, "missing: {what}: {why}");
    }
    text
}

/// The figures as a page of plots.
#[must_use]
pub fn html(results: &Results) -> String {
    page::html(
        results,
        &Layout {
            title: "netmanager bench",
            charts: &CHARTS,
            ours: OVERLAY,
            table: &table(results),
        },
    )
}
