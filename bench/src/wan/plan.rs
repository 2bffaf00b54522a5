//! What `make bench-wan` measures where: the parts, the paths that each has, and what a user's
//! restrictions leave of them.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use netns_tests::emulator::{Impairment, Loss, Queue};

/// What may wait for the link.
const QUEUE: Duration = Duration::from_millis(40);
/// The system that differs from `weald-l4` in new connections only.
pub const EARLY: &str = "weald-l4-early";

/// A path.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Path {
    /// The round-trip time of an empty link.
    pub round_trip: Duration,
    /// The share of packets that is lost, in percent, each way.
    pub loss_percent: f64,
    /// Megabits per second.
    pub rate_mbit: u32,
}

impl Path {
    /// The name of a figure on this path.
    #[must_use]
    pub fn metric(&self, figure: &str) -> String {
        format!(
            "{figure}_rtt{}_loss{}_rate{}",
            self.round_trip.as_millis(),
            self.loss_percent,
            self.rate_mbit
        )
    }

    /// What the link does to packets.
    #[must_use]
    pub fn impairment(&self) -> Impairment {
        Impairment {
            delay: self.round_trip / 2,
            loss: Loss::Random(self.loss_percent / 100.0),
            rate_bits_per_sec: Some(u64::from(self.rate_mbit) * 1_000_000),
            queue: Queue {
                time: QUEUE,
                ..Queue::default()
            },
            ..Impairment::default()
        }
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// One TCP connection that sends as fast as it can.
    Bulk,
    /// Pages fetched on new connections.
    Http,
    /// Round trips beside one TCP connection that sends as fast as it can.
    Ping,
    /// The L4 lane beside the L3 lane on a clean LAN.
    Lan,
    /// New connections in quick succession on a clean LAN.
    Connections,
}

impl Part {
    /// Every part.
    pub const ALL: [Self; 5] = [
        Self::Bulk,
        Self::Http,
        Self::Ping,
        Self::Lan,
        Self::Connections,
    ];

    /// Its name in `ONLY`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Bulk => "bulk",
            Self::Http => "http",
            Self::Ping => "ping",
            Self::Lan => "lan",
            Self::Connections => "connections",
        }
    }

    /// The part of that name.
    ///
    /// # Errors
    /// There is none; the error lists all.
    pub fn of_word(word: &str) -> Result<Self> {
        let Some(part) = Self::ALL.into_iter().find(|part| part.word() == word) else {
            let words = Self::ALL.map(Self::word).join(", ");
            bail!("no part {word:?}; there are {words}");
        };
        Ok(part)
    }

    /// The paths that it is measured on where nothing else is asked for: round-trip times in
    /// milliseconds, losses in percent, rates in Mbit/s.
    const fn paths(self) -> (&'static [u64], &'static [f64], &'static [u32]) {
        match self {
            Self::Bulk => (&[10, 20, 100, 250], &[0.0, 0.1, 1.0, 3.0], &[100, 300]),
            Self::Http => (&[100], &[0.0, 1.0], &[100]),
            Self::Ping => (&[20], &[0.0], &[100]),
            Self::Lan | Self::Connections => (&[], &[], &[]),
        }
    }

    /// Whether it is measured of that system where no systems are named.
    pub(super) fn suits(self, system: &str) -> bool {
        self == Self::Http || system != EARLY
    }
}

/// What a user asks for; nothing means all of it.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Round-trip times in milliseconds.
    pub round_trips: Vec<u64>,
    /// Losses in percent.
    pub losses: Vec<f64>,
    /// Rates in Mbit/s.
    pub rates: Vec<u32>,
    /// The parts.
    pub only: Vec<Part>,
}

/// A path, and what is measured on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// The path.
    pub path: Path,
    /// The parts, in their order.
    pub parts: Vec<Part>,
}

/// What is measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// On paths.
    pub cells: Vec<Cell>,
    /// On the clean LAN.
    pub lan: Vec<Part>,
}

impl Selection {
    /// What is to be measured. A part that is not named is left out where its own paths are not
    /// asked for; one that is named is measured on whatever paths are.
    ///
    /// # Errors
    /// Nothing is left.
    pub fn plan(&self) -> Result<Plan> {
        let mut plan = Plan {
            cells: Vec::new(),
            lan: Vec::new(),
        };
        let has_paths =
            !(self.round_trips.is_empty() && self.losses.is_empty() && self.rates.is_empty());
        for part in Part::ALL {
            let named = self.only.contains(&part);
            if !named && !self.only.is_empty() {
                continue;
            }
            if matches!(part, Part::Lan | Part::Connections) {
                if named || !has_paths {
                    plan.lan.push(part);
                }
                continue;
            }
            let (round_trips, losses, rates) = part.paths();
            for rate_mbit in left(rates, &self.rates, named) {
                for millis in left(round_trips, &self.round_trips, named) {
                    for loss_percent in left(losses, &self.losses, named) {
                        let path = Path {
                            round_trip: Duration::from_millis(millis),
                            loss_percent,
                            rate_mbit,
                        };
                        plan.add(path, part);
                    }
                }
            }
        }
        ensure!(
            !plan.cells.is_empty() || !plan.lan.is_empty(),
            "nothing is measured on such paths unless ONLY names it: {}",
            Part::ALL.map(Part::word).join(", ")
        );
        Ok(plan)
    }
}

impl Plan {
    fn add(&mut self, path: Path, part: Part) {
        match self.cells.iter_mut().find(|cell| cell.path == path) {
            Some(cell) => cell.parts.push(part),
            None => self.cells.push(Cell {
                path,
                parts: vec![part],
            }),
        }
    }
}

/// What is left of a part's own values.
fn left<T: Copy + PartialEq>(own: &[T], asked: &[T], named: bool) -> Vec<T> {
    if asked.is_empty() {
        own.to_vec()
    } else if named {
        asked.to_vec()
    } else {
        let both = own.iter().filter(|one| asked.contains(one));
        both.copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_names_and_an_impairment() {
        let path = Path {
            round_trip: Duration::from_millis(20),
            loss_percent: 0.1,
            rate_mbit: 100,
        };
        assert_eq!(path.metric("tcp1"), "tcp1_rtt20_loss0.1_rate100");
        assert_eq!(path.impairment().delay, Duration::from_millis(10));
        assert_eq!(path.impairment().loss, Loss::Random(0.001));
    }

    fn shown(plan: &Plan) -> Vec<String> {
        let words = |parts: &[Part]| {
            parts
                .iter()
                .map(|it| it.word())
                .collect::<Vec<_>>()
                .join("+")
        };
        let cells = plan.cells.iter();
        cells
            .map(|cell| cell.path.metric(&words(&cell.parts)))
            .chain((!plan.lan.is_empty()).then(|| words(&plan.lan)))
            .collect()
    }

    #[test]
    fn everything_is_what_was_promised() {
        let plan = Selection::default().plan().unwrap();
        let shown = shown(&plan);
        assert_eq!(plan.cells.len(), 4 * 4 * 2);
        for cell in [
            "bulk_rtt250_loss3_rate300",
            "bulk+http_rtt100_loss0_rate100",
            "bulk+http_rtt100_loss1_rate100",
            "bulk+ping_rtt20_loss0_rate100",
            "lan+connections",
        ] {
            assert!(shown.iter().any(|one| one == cell), "{cell}: {shown:?}");
        }
    }

    #[test]
    fn restrictions_leave_what_they_say() {
        let narrow = Selection {
            round_trips: vec![20],
            losses: vec![1.0],
            ..Selection::default()
        };
        let plan = narrow.plan().unwrap();
        let expected = ["bulk_rtt20_loss1_rate100", "bulk_rtt20_loss1_rate300"];
        assert_eq!(shown(&plan), expected);
        // What is named is measured wherever that is.
        let named = Selection {
            only: vec![Part::Http],
            rates: vec![50],
            ..narrow.clone()
        };
        assert_eq!(shown(&named.plan().unwrap()), ["http_rtt20_loss1_rate50"]);
        let lan = Selection {
            only: vec![Part::Lan],
            ..Selection::default()
        };
        assert_eq!(shown(&lan.plan().unwrap()), ["lan"]);
        let nowhere = Selection {
            round_trips: vec![7],
            ..Selection::default()
        };
        assert!(nowhere.plan().is_err());
        assert!(Part::of_word("htp").is_err());
    }
}
