//! What can go wrong in a history, by what it breaks.

use std::fmt;

/// What does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Something that was acknowledged to a user is not so, or something runs that nobody wants.
    Promise,
    /// An address has two owners.
    Owner,
    /// Tiers do not say the same, or a disk does not have what its process knows.
    Agreement,
    /// A process takes what it hears for impossible.
    Belief,
}

/// What went wrong, and in words how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) broken: Broken,
    text: String,
}

impl Fault {
    pub(crate) fn new(broken: Broken, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { broken, text }
    }

    /// The same, noticed at that moment.
    pub(crate) fn at(self, now: std::time::Duration) -> Self {
        let text = format!("at {now:?}: {}", self.text);
        Self { text, ..self }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.broken, self.text)
    }
}
