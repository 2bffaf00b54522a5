//! Why an instance is where it is, or nowhere: the text of `weald explain`.
//!
//! Made of the refusals that were recorded when they came, and of nothing else: nothing is asked or
//! scheduled again to explain it, so that it is true of what was decided.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};
use weald_proto::control::{Generation, Reason, Refusal};
use weald_proto::name::InstanceId;

use crate::Now;

/// How many attempts are kept of an instance; older ones are counted only.
pub const KEPT: usize = 16;

/// One attempt at placing an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Of which life.
    pub generation: Generation,
    /// When, in seconds since 1970.
    pub at: u64,
    /// Everybody who refused, in order.
    pub refusals: Vec<Refusal>,
    /// Who took it: a cluster's name or `cluster/node`; none if nobody did.
    pub taken: Option<String>,
}

/// The attempts at one instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct History {
    /// How many were made before the first that is kept.
    forgotten: u64,
    attempts: VecDeque<Attempt>,
}

impl History {
    /// Records an attempt, and forgets the oldest beyond [`KEPT`].
    pub fn record(&mut self, attempt: Attempt) {
        self.attempts.push_back(attempt);
        while self.attempts.len() > KEPT {
            self.attempts.pop_front();
            self.forgotten += 1;
        }
    }

    /// The attempts that are kept, oldest first.
    pub fn attempts(&self) -> impl DoubleEndedIterator<Item = &Attempt> {
        self.attempts.iter()
    }

    /// The same for somebody who `sees` some clusters only and `knows` of some instances only: nothing is
    /// said of the others.
    #[must_use]
    pub fn told_to(
        &self,
        sees: impl Fn(&str) -> bool,
        knows: impl Fn(&InstanceId) -> bool,
    ) -> Self {
        let cluster = |by: &str| by.split('/').next().is_some_and(&sees);
        let told = |attempt: &Attempt| {
            let mut attempt = attempt.clone();
            attempt.refusals.retain(|refusal| cluster(&refusal.by));
            for refusal in &mut attempt.refusals {
                if let Reason::PortTaken { by, .. } = &mut refusal.reason
                    && !by.parse::<InstanceId>().is_ok_and(|id| knows(&id))
                {
                    by.clear();
                }
            }
            attempt
        };
        Self {
            forgotten: self.forgotten,
            attempts: self.attempts.iter().map(told).collect(),
        }
    }

    /// The text for a user, a line per refusal, the newest attempt first; ends with a newline.
    #[must_use]
    pub fn explain(&self, instance: &InstanceId, now: Now) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut text, instance, now);
        text
    }

    fn write(&self, text: &mut String, instance: &InstanceId, now: Now) -> fmt::Result {
        if self.attempts.is_empty() {
            return writeln!(text, "{instance}: no attempt to place it has been made");
        }
        let (mut number, kept) = (self.forgotten, self.attempts.len());
        number += u64::try_from(kept).unwrap_or_default();
        writeln!(text, "{instance}: {}", count(number, "attempt"))?;
        for attempt in self.attempts.iter().rev() {
            let ago = now.unix.saturating_sub(attempt.at);
            let refused = u64::try_from(attempt.refusals.len()).unwrap_or_default();
            write!(
                text,
                "attempt {number}, generation {}, {ago} s ago: ",
                attempt.generation
            )?;
            match &attempt.taken {
                Some(by) => write!(text, "taken by {}", Shown(by))?,
                None => text.push_str("taken by nobody"),
            }
            match refused {
                0 => text.push('\n'),
                _ => writeln!(text, ", {}", count(refused, "refusal"))?,
            }
            for refusal in &attempt.refusals {
                writeln!(text, "  {}: {}", Shown(&refusal.by), Told(&refusal.reason))?;
            }
            number -= 1;
        }
        if self.forgotten > 0 {
            writeln!(text, "earlier attempts are no longer kept")?;
        }
        Ok(())
    }
}

/// How an instance is now, and where, as its tiers have said: a line for a user, with its newline.
#[must_use]
pub fn present(instance: &InstanceId, status: &str, node: Option<&str>, detail: &str) -> String {
    let on = node.map(|node| format!(" on {}", Shown(node)));
    let why = if detail.is_empty() { "" } else { ": " };
    format!(
        "{instance} is {status}{}{why}{}\n",
        on.unwrap_or_default(),
        Shown(detail)
    )
}

fn count(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// Text that others wrote, without what a terminal would obey.
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if character.is_control() {
                write!(f, "{}", character.escape_default())?;
            } else {
                f.write_char(character)?;
            }
        }
        Ok(())
    }
}

/// A reason in words.
struct Told<'a>(&'a Reason);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Reason::Insufficient {
                resource,
                needed,
                free,
            } => write!(f, "{}: {needed} needed, {free} free", Shown(resource)),
            Reason::Runtime { needed, available } => {
                let there = match available.as_slice() {
                    [] => "none".to_owned(),
                    some => some.join(", "),
                };
                write!(
                    f,
                    "runtime: {} needed, {} there",
                    Shown(needed),
                    Shown(&there)
                )
            }
            Reason::Constraint { text } => write!(f, "constraint: {}", Shown(text)),
            Reason::Unavailable { text } => write!(f, "not available: {}", Shown(text)),
            Reason::PortTaken { port, by } if by.is_empty() => {
                write!(f, "port {} is taken", Shown(port))
            }
            Reason::PortTaken { port, by } => {
                write!(f, "port {} is taken by {}", Shown(port), Shown(by))
            }
            Reason::NoAddress => f.write_str("no address is left"),
            Reason::Deadline { after_ms } => write!(f, "no answer within {after_ms} ms"),
            Reason::Failed { text } => write!(f, "tried and failed: {}", Shown(text)),
        }
    }
}

#[cfg(test)]
mod tests;
