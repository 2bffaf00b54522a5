//! A page with the plots of a run: one file, no script, nothing loaded from elsewhere.
//!
//! One bar chart a figure: a bar is the median of the rounds, dots are the rounds.

use std::fmt::Write as _;

use crate::results::{Results, shown, spread};

/// Height of a bar and of the space to the next one.
const ROW: usize = 26;
/// Where bars begin: room for names.
const LEFT: usize = 190;
/// The longest bar.
const BAR: usize = 520;
/// How it looks.
const STYLE: &str = "<style>body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;\
     padding:0 1em;color:#222}h2{font-size:1.1em;margin:1.6em 0 .3em}svg{max-width:100%}\
     svg text{font:13px system-ui,sans-serif;fill:#222}pre{overflow-x:auto;font-size:12px}\
     td{padding-right:1.5em;vertical-align:top}</style>";
/// The whole width: room for values behind bars.
const WIDTH: usize = LEFT + BAR + 110;

/// A chart of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chart {
    /// Of which figure.
    pub metric: &'static str,
    /// Its heading.
    pub heading: &'static str,
    /// Whether less is better.
    pub less: bool,
}

/// What a page says besides the figures.
#[derive(Debug, Clone, Copy)]
pub struct Layout<'a> {
    /// Its heading.
    pub title: &'a str,
    /// The charts, in their order; those without a figure are left out.
    pub charts: &'a [Chart],
    /// Systems whose names begin so have a colour of their own.
    pub ours: &'a str,
    /// The same as text, at the end.
    pub table: &'a str,
}

/// The page.
#[must_use]
pub fn html(results: &Results, layout: &Layout<'_>) -> String {
    let about = results.about();
    let title = escaped(layout.title);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\n\
         {STYLE}\n<h1>{title}</h1>\n<table>\n",
    );
    let facts = [
        ("commit", &about.commit),
        ("command", &about.command),
        ("begun", &about.started),
    ];
    let machine = about
        .machine
        .iter()
        .map(|(key, value)| (key.as_str(), value));
    for (key, value) in facts.into_iter().chain(machine) {
        let _ = writeln!(page, "<tr><td>{key}<td>{}", escaped(value));
    }
    for (key, value) in &about.notes {
        let _ = writeln!(page, "<tr><td>{}<td>{}", escaped(key), escaped(value));
    }
    for (key, value) in &about.missing {
        let _ = writeln!(
            page,
            "<tr><td>missing: {}<td>{}",
            escaped(key),
            escaped(value)
        );
    }
    page.push_str("</table>\n<p>Bars are medians of the rounds, dots the rounds.\n");
    for one in layout.charts {
        page.push_str(&chart(results, one, layout.ours));
    }
    let _ = write!(
        page,
        "<h2>Table</h2>\n<pre>{}</pre>\n</html>\n",
        escaped(layout.table)
    );
    page
}

/// A chart, or nothing if no system has the figure.
fn chart(results: &Results, chart: &Chart, ours: &str) -> String {
    let Chart {
        metric,
        heading,
        less,
    } = *chart;
    let rows: Vec<(&str, Vec<f64>, f64)> = results
        .systems()
        .into_iter()
        .filter_map(|system| {
            let values = results.values(system, metric);
            let median = spread(&values)?.median;
            Some((system, values, median))
        })
        .collect();
    let most = rows
        .iter()
        .flat_map(|(_, values, _)| values)
        .fold(0.0_f64, |most, value| most.max(*value));
    if rows.is_empty() || most <= 0.0 {
        return String::new();
    }
    let unit = results.unit(metric).unwrap_or_default();
    let better = if less { "less" } else { "more" };
    let height = rows.len() * ROW;
    let mut text = format!(
        "<h2>{}, {unit} ({better} is better)</h2>\n\
         <svg viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" role=\"img\" \
         aria-label=\"{}\">\n",
        escaped(heading),
        escaped(heading)
    );
    let scale = BAR as f64 / most;
    for (index, (system, values, median)) in rows.iter().enumerate() {
        let (top, middle) = (index * ROW + 4, index * ROW + ROW / 2);
        let colour = if system.starts_with(ours) {
            "#2f7d4f"
        } else {
            "#9db4c8"
        };
        let _ = writeln!(
            text,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LEFT}\" y=\"{top}\" width=\"{:.1}\" height=\"{}\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"{}\">{}</text>",
            LEFT - 8,
            middle + 4,
            escaped(system),
            (median * scale).max(0.5),
            ROW - 8,
            LEFT + BAR + 10,
            middle + 4,
            shown(*median),
        );
        for value in values {
            let x = LEFT as f64 + value.max(0.0) * scale;
            let _ = writeln!(
                text,
                "<circle cx=\"{x:.1}\" cy=\"{middle}\" r=\"2.5\" fill=\"#222\"/>"
            );
        }
    }
    text.push_str("</svg>\n");
    text
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_a_bar_per_system_and_loads_nothing() {
        let mut results = Results::new("make bench <this>");
        results.add(1, "raw", "tcp1", 20.0, "Gbit/s");
        results.add(2, "raw", "tcp1", 10.0, "Gbit/s");
        results.add(1, "weald", "tcp1", 7.5, "Gbit/s");
        let chart = Chart {
            metric: "tcp1",
            heading: "One TCP flow",
            less: false,
        };
        let layout = Layout {
            title: "Compared",
            charts: &[chart],
            ours: "weald",
            table: "the table",
        };
        let page = html(&results, &layout);
        assert_eq!(page.matches("<rect").count(), 2, "{page}");
        assert_eq!(page.matches("<circle").count(), 3, "{page}");
        assert!(page.contains("make bench &lt;this&gt;"), "{page}");
        for foreign in ["http:", "https:", "<script", "src="] {
            assert!(!page.contains(foreign), "{foreign} in {page}");
        }
    }
}
