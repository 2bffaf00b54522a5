//! The text form of Prometheus, version 0.0.4.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

/// A text that grows by families of figures.
#[derive(Debug, Default)]
pub struct Text(String);

impl Text {
    /// A text that begins with what runs: the role and the release.
    #[must_use]
    pub fn of(role: &str) -> Self {
        let mut text = Self::default();
        text.head("weald_info", "gauge", "What runs.");
        let labels = [("role", role), ("version", env!("CARGO_PKG_VERSION"))];
        text.sample("weald_info", &labels, 1);
        text
    }

    /// Introduces a family; `kind` is `counter` or `gauge`.
    pub fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One value of the family that was introduced last. Labels' values are words and names of our
    /// own, in which nothing needs escaping.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<_> = labels
            .iter()
            .map(|(label, value)| format!("{label}=\"{value}\""))
            .collect();
        let _ = if labels.is_empty() {
            writeln!(self.0, "{name} {value}")
        } else {
            writeln!(self.0, "{name}{{{}}} {value}", labels.join(","))
        };
    }

    /// A family with one value and no labels.
    pub fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.head(name, kind, help);
        self.sample(name, &[], value);
    }

    /// A family with a value for each of some words.
    pub fn by<'a, V: Display>(
        &mut self,
        (name, kind, help): (&str, &str, &str),
        label: &str,
        values: impl IntoIterator<Item = (&'a str, V)>,
    ) {
        self.head(name, kind, help);
        for (word, value) in values {
            self.sample(name, &[(label, word)], value);
        }
    }

    /// All of it.
    #[must_use]
    pub fn finish(self) -> String {
        self.0
    }
}

/// The values of a text, by their names with labels; lines that are none are left out.
#[must_use]
pub fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_introduced_and_read_back() {
        let mut text = Text::of("relay");
        text.single("weald_flows", "gauge", "Open flows.", 3);
        let drops = ("weald_dropped_packets_total", "counter", "Dropped packets.");
        text.by(drops, "reason", [("no route", 4), ("spoofed", 0)]);
        let text = text.finish();
        assert!(
            text.starts_with("# HELP weald_info What runs.\n# TYPE weald_info gauge\n"),
            "{text}"
        );
        let values = samples(&text);
        let info = format!(
            "weald_info{{role=\"relay\",version=\"{}\"}}",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(values[&info], 1.0);
        assert_eq!(values["weald_flows"], 3.0);
        assert_eq!(
            values["weald_dropped_packets_total{reason=\"no route\"}"],
            4.0
        );
        assert_eq!(values.len(), 4);
        assert!(samples("# TYPE x gauge\nnonsense\n").is_empty());
    }
}
