//! What commands write to standard output: one JSON value, or aligned columns.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use serde::Serialize;

/// Rows of text whose columns are aligned.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(head: &[&str]) -> Self {
        Self {
            rows: vec![head.iter().map(ToString::to_string).collect()],
        }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows
            .push(cells.iter().map(|cell| plain(cell)).collect());
    }

    pub(super) fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                // Writing to a String cannot fail.
                let _ = write!(line, "{cell:width$}  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A text as a cell: on one line, with nothing that a terminal would obey, `-` if it is empty.
fn plain(text: &str) -> String {
    if text.is_empty() {
        return "-".to_owned();
    }
    let shown = |it: char| if it.is_control() { ' ' } else { it };
    text.chars().map(shown).collect()
}

/// Writes text. A reader who has gone, as `head` does, is no failure.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// Writes one value as a line of JSON.
pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string(value)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_cells_are_plain() {
        let mut table = Table::new(&["NAME", "N"]);
        table.row(["ä".to_owned(), String::new()]);
        table.row(["longer\u{1b}[31m\nred".to_owned(), "1".to_owned()]);
        let text = table.text();
        assert_eq!(
            text,
            "NAME             N\nä                -\nlonger [31m red  1\n"
        );
    }
}
