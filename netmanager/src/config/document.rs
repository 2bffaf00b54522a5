//! Reads TOML so that every fault is found in one pass and has a place.
//!
//! Deriving a deserialiser would stop at the first fault. Here the parsed tree is walked with
//! [`Reader`], which collects faults and goes on. It knows nothing of what the keys mean; that is
//! in the sibling modules.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The largest file that is read: a table of 50,000 instances takes about 10 MB.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// How many faults are reported: more than anyone mends in one go.
const MAX_ERRORS: usize = 100;

/// How much of a wrong value is shown.
const MAX_SHOWN_CHARS: usize = 64;

/// One fault of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// Line and column, from 1; none when the file as a whole is at fault.
    pub place: Option<(usize, usize)>,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// All faults of a configuration file, in the order of their places. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().take(MAX_ERRORS).enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            error.fmt(f)?;
        }
        match self.0.len().checked_sub(MAX_ERRORS) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for ConfigErrors {}

/// Reads a configuration file as text, of at most 16 MiB.
///
/// # Errors
/// It cannot be read, is too large, or is not text.
pub fn read_file(path: &Path) -> Result<String, ConfigErrors> {
    let fault = |message: String| {
        ConfigErrors(vec![ConfigError {
            file: path.to_owned(),
            place: None,
            message,
        }])
    };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| fault(format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(fault(format!(
            "is larger than {} MiB",
            MAX_FILE_BYTES >> 20
        )));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        fault(format!("is not UTF-8 text (byte {at})"))
    })
}

/// Collects the faults of one file.
#[derive(Debug)]
pub(super) struct Reader<'t> {
    file: PathBuf,
    text: &'t str,
    faults: Vec<(usize, String)>,
}

/// A table of the file, with the keys that it may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Section<'a> {
    table: &'a DeTable<'a>,
    /// How messages call it, such as `[[service]]`.
    name: &'a str,
    /// Where it begins.
    pub(super) at: usize,
}

/// A value with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placed<T> {
    pub(super) value: T,
    pub(super) at: usize,
}

impl<'t> Reader<'t> {
    pub(super) fn new(file: &Path, text: &'t str) -> Self {
        Self {
            file: file.to_owned(),
            text,
            faults: Vec::new(),
        }
    }

    /// Parses the text; what has broken syntax is reported and left out.
    pub(super) fn parse(&mut self) -> Spanned<DeTable<'t>> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in errors {
            let at = error.span().map_or(0, |span| span.start);
            self.fault(at, error.message().trim().replace('\n', ", "));
        }
        table
    }

    pub(super) fn fault(&mut self, at: usize, message: impl Into<String>) {
        self.faults.push((at, message.into()));
    }

    pub(super) fn is_faultless(&self) -> bool {
        self.faults.is_empty()
    }

    /// The value if nothing was at fault.
    pub(super) fn finish<T>(self, value: T) -> Result<T, ConfigErrors> {
        if self.faults.is_empty() {
            return Ok(value);
        }
        let mut faults = self.faults;
        faults.sort();
        faults.dedup();
        let place = |at: usize| line_and_column(self.text, at);
        let errors = faults.into_iter().map(|(at, message)| ConfigError {
            file: self.file.clone(),
            place: Some(place(at)),
            message,
        });
        Err(ConfigErrors(errors.collect()))
    }

    /// Opens a table and reports the keys that are not `allowed`.
    pub(super) fn section<'a>(
        &mut self,
        table: &'a DeTable<'a>,
        at: usize,
        name: &'a str,
        allowed: &[&str],
    ) -> Section<'a> {
        for key in table.keys() {
            let word: &str = key.get_ref();
            if !allowed.contains(&word) {
                let hint = hint(word, allowed);
                let shown = shorten(word);
                self.fault(
                    key.span().start,
                    format!("unknown key {shown:?} in {name}; {hint}"),
                );
            }
        }
        Section { table, name, at }
    }

    /// Opens the table under `key`; none if it is not there.
    pub(super) fn subsection<'a>(
        &mut self,
        section: &Section<'a>,
        key: &str,
        name: &'a str,
        allowed: &[&str],
    ) -> Option<Section<'a>> {
        let value = section.table.get(key)?;
        self.as_section(value, name, allowed)
    }

    /// Opens every table of the list under `key`.
    pub(super) fn sections<'a>(
        &mut self,
        section: &Section<'a>,
        key: &str,
        name: &'a str,
        allowed: &[&str],
    ) -> Vec<Section<'a>> {
        let values = self.values(section, key);
        values
            .into_iter()
            .filter_map(|value| self.as_section(value, name, allowed))
            .collect()
    }

    fn as_section<'a>(
        &mut self,
        value: &'a Spanned<DeValue<'a>>,
        name: &'a str,
        allowed: &[&str],
    ) -> Option<Section<'a>> {
        let Span(at) = value.span().into();
        match value.get_ref().as_table() {
            Some(table) => Some(self.section(table, at, name, allowed)),
            None => {
                let found = value.get_ref().type_str();
                self.fault(
                    at,
                    format!("{name} must be a table, not {}", article(found)),
                );
                None
            }
        }
    }

    fn values<'a>(&mut self, section: &Section<'a>, key: &str) -> Vec<&'a Spanned<DeValue<'a>>> {
        let Some(value) = section.table.get(key) else {
            return Vec::new();
        };
        match value.get_ref().as_array() {
            Some(array) => array.iter().collect(),
            None => {
                let found = article(value.get_ref().type_str());
                self.fault(
                    value.span().start,
                    format!("{key} in {} must be a list, not {found}", section.name),
                );
                Vec::new()
            }
        }
    }

    /// Reads a text and parses it.
    pub(super) fn value<T>(&mut self, section: &Section<'_>, key: &str) -> Option<Placed<T>>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        self.value_with(section, key, |text| {
            text.parse().map_err(|error: T::Err| error.to_string())
        })
    }

    /// Reads a text and parses it; a fault if the key is not there.
    pub(super) fn required<T>(&mut self, section: &Section<'_>, key: &str) -> Option<Placed<T>>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        self.require(section, key);
        self.value(section, key)
    }

    /// Reads a text and parses it with `parse`, whose error is the message.
    pub(super) fn value_with<T>(
        &mut self,
        section: &Section<'_>,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Placed<T>> {
        let value = section.table.get(key)?;
        self.text_value(value, key, section.name, &parse)
    }

    /// Reads a list of texts and parses each with `parse`.
    pub(super) fn list_with<T>(
        &mut self,
        section: &Section<'_>,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<Placed<T>> {
        let values = self.values(section, key);
        values
            .into_iter()
            .filter_map(|value| self.text_value(value, key, section.name, &parse))
            .collect()
    }

    fn text_value<T>(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        key: &str,
        name: &str,
        parse: &impl Fn(&str) -> Result<T, String>,
    ) -> Option<Placed<T>> {
        let Span(at) = value.span().into();
        let Some(text) = value.get_ref().as_str() else {
            let found = article(value.get_ref().type_str());
            self.fault(
                at,
                format!("{key} in {name} must be a text in quotes, not {found}"),
            );
            return None;
        };
        match parse(text) {
            Ok(value) => Some(Placed { value, at }),
            Err(message) => {
                self.fault(at, format!("{key}: {message}"));
                None
            }
        }
    }

    /// Reads `true` or `false`.
    pub(super) fn flag(&mut self, section: &Section<'_>, key: &str) -> Option<bool> {
        let value = section.table.get(key)?;
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            let found = article(value.get_ref().type_str());
            let name = section.name;
            self.fault(
                value.span().start,
                format!("{key} in {name} must be true or false, not {found}"),
            );
        }
        flag
    }

    /// Reads a whole number from 0 to `u32::MAX`.
    pub(super) fn number(&mut self, section: &Section<'_>, key: &str) -> Option<Placed<u32>> {
        let value = section.table.get(key)?;
        let Span(at) = value.span().into();
        let number = value
            .get_ref()
            .as_integer()
            .and_then(|number| u32::from_str_radix(number.as_str(), number.radix()).ok());
        if number.is_none() {
            let name = section.name;
            self.fault(
                at,
                format!(
                    "{key} in {name} must be a whole number from 0 to {}",
                    u32::MAX
                ),
            );
        }
        number.map(|value| Placed { value, at })
    }

    /// Reports `key` as missing if it is not there.
    pub(super) fn require(&mut self, section: &Section<'_>, key: &str) {
        if !section.table.contains_key(key) {
            self.fault(
                section.at,
                format!("{} needs the key {key:?}", section.name),
            );
        }
    }
}

/// The beginning of a byte range.
struct Span(usize);

impl From<Range<usize>> for Span {
    fn from(range: Range<usize>) -> Self {
        Self(range.start)
    }
}

/// Says which keys or words are allowed, and which one is nearest to what stands there.
pub(super) fn hint(word: &str, allowed: &[&str]) -> String {
    let list = allowed.join(", ");
    let nearest = allowed
        .iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .min()
        .filter(|(edits, candidate)| *edits <= 1 + candidate.chars().count() / 4);
    match nearest {
        Some((_, candidate)) => format!("did you mean {candidate:?}? (allowed: {list})"),
        None => format!("allowed are {list}"),
    }
}

/// How many single-character edits make `a` into `b`; long texts count as far apart.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(MAX_SHOWN_CHARS).collect();
    let b: Vec<char> = b.chars().take(MAX_SHOWN_CHARS).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut before = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(&b) {
            let edits = (before + usize::from(x != y)).min(*cell + 1).min(left + 1);
            before = *cell;
            *cell = edits;
            left = edits;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

/// The beginning of a text that someone wrote, to be shown in a message.
pub(super) fn shorten(text: &str) -> String {
    text.chars().take(MAX_SHOWN_CHARS).collect()
}

fn article(kind: &str) -> String {
    match kind.chars().next() {
        Some('a' | 'e' | 'i' | 'o' | 'u') => format!("an {kind}"),
        _ => format!("a {kind}"),
    }
}

fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let mut end = at.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = text.get(..end).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.matches('\n').count() + 1;
    let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
    (line, column)
}
