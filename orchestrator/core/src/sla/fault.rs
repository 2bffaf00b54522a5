//! What can be wrong with an SLA, where it stands and what to write instead.

use std::collections::BTreeSet;
use std::fmt;

use weald_proto::slip;

/// One fault of an SLA.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {fault}")]
pub struct SlaError {
    /// Where, as a JSON path such as `$.applications[0].microservices[1].port`.
    pub path: String,
    /// What.
    pub fault: Fault,
}

/// What is wrong at a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The text is no JSON.
    #[error("not JSON: {0}")]
    Json(String),
    /// Too much of something.
    #[error("has {found} {what}; at most {limit} are allowed")]
    TooMany {
        /// How many there are.
        found: usize,
        /// Of what.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// A field that must be there is not.
    #[error("is missing; write {0}")]
    Missing(&'static str),
    /// A value of another JSON type.
    #[error("is {found}; write {expected}")]
    Type {
        /// What is there.
        found: &'static str,
        /// What is to be there.
        expected: &'static str,
    },
    /// A word outside a closed list.
    #[error("unknown {what} {word:?}; allowed are {}{}", allowed.join(", "), Hint(nearest.as_deref()))]
    Unknown {
        /// What kind of word.
        what: &'static str,
        /// The word.
        word: String,
        /// The list.
        allowed: Vec<String>,
        /// What was probably meant.
        nearest: Option<String>,
    },
    /// A value that breaks a rule.
    #[error("{value:?} is not allowed; write {rule}")]
    Value {
        /// The value, cut to a readable length.
        value: String,
        /// What is allowed.
        rule: String,
    },
    /// A name that would make semantic names ambiguous.
    #[error(
        "{0:?} is reserved (policy words, numbers, \"any\" and the labels of zones are); choose another"
    )]
    Reserved(String),
    /// Something that stands twice.
    #[error("{what} is already taken by {first}; choose another")]
    Taken {
        /// What.
        what: String,
        /// The path that has it.
        first: String,
    },
    /// A field that Weald does not carry out.
    #[error("is refused: {0}")]
    Refused(&'static str),
    /// There is more than is worth listing.
    #[error("has more faults than are listed; correct these first")]
    More,
}

struct Hint<'a>(Option<&'a str>);

impl fmt::Display for Hint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .map_or(Ok(()), |word| write!(f, "; did you mean {word:?}?"))
    }
}

/// Every fault so far.
#[derive(Debug, Default)]
pub(super) struct Faults(pub(super) Vec<SlaError>);

impl Faults {
    pub(super) fn add(&mut self, path: impl Into<String>, fault: Fault) {
        let path = path.into();
        match self.0.len() {
            0..MAX_FAULTS => self.0.push(SlaError { path, fault }),
            MAX_FAULTS => self.0.push(SlaError {
                path: "$".into(),
                fault: Fault::More,
            }),
            _ => {}
        }
    }

    /// All faults, without those that only follow from a value of a wrong type.
    pub(super) fn finish(self) -> Vec<SlaError> {
        let wrong: BTreeSet<String> = (self.0.iter())
            .filter(|error| matches!(error.fault, Fault::Type { .. }))
            .map(|error| error.path.clone())
            .collect();
        let follows = |error: &SlaError| {
            let ends = error.path.match_indices(['.', '[']).map(|(at, _)| at);
            let own = !matches!(error.fault, Fault::Type { .. }) && wrong.contains(&error.path);
            own || ends
                .filter_map(|at| error.path.get(..at))
                .any(|p| wrong.contains(p))
        };
        self.0.into_iter().filter(|error| !follows(error)).collect()
    }

    pub(super) fn value(&mut self, path: impl Into<String>, value: &str, rule: impl Into<String>) {
        let (value, rule) = (shorten(value), rule.into());
        self.add(path, Fault::Value { value, rule });
    }

    pub(super) fn unknown(
        &mut self,
        path: impl Into<String>,
        what: &'static str,
        word: &str,
        allowed: &[&str],
    ) {
        let fault = Fault::Unknown {
            what,
            word: shorten(word),
            allowed: allowed.iter().map(ToString::to_string).collect(),
            nearest: nearest(word, allowed).map(ToString::to_string),
        };
        self.add(path, fault);
    }
}

/// How many faults are listed: more than anybody corrects in one go.
const MAX_FAULTS: usize = 200;

/// How much of a wrong value is shown, in characters.
const SHOWN: usize = 64;

fn shorten(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

/// The candidate that takes the fewest edits, if those are at most a third of the longer word.
fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let word = shorten(word).to_ascii_lowercase();
    let length = word.chars().count();
    candidates
        .iter()
        .filter_map(|candidate| {
            let edits = slip::distance(&word, &candidate.to_ascii_lowercase());
            let longer = length.max(candidate.chars().count());
            (edits * 3 <= longer).then_some((edits, *candidate))
        })
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_found_and_nothing_far_off() {
        assert_eq!(nearest("Direkt", &["geo", "direct"]), Some("direct"));
        assert_eq!(nearest("x", &["geo", "direct"]), None);
    }
}
