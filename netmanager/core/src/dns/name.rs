//! The form of semantic names: which names are ours, and what one asks for.
//!
//! Labels in, a checked [`SemanticName`] out. Nothing here knows which services exist or who
//! asks; that is `resolve`'s.

use std::fmt;

use weald_proto::id::{Label, LabelError};
use weald_proto::name::{ANY, ApplicationName, Policy, Zone};

/// The zone that we share with mDNS and with whoever else uses it: only the names below a policy
/// word are ours there. Every other zone is wholly ours.
pub const SHARED_ZONE: &str = "local";

/// The longest name in text, without its final dot (RFC 1035: 255 bytes on the wire).
pub const MAX_NAME_TEXT_LEN: usize = 253;

/// A well-formed semantic name, its zone left out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SemanticName {
    /// The application; none in the short form, which means the caller's own.
    pub application: Option<ApplicationName>,
    /// The service's name.
    pub service: Label,
    /// The service's namespace.
    pub namespace: Label,
    /// Which instance is wanted.
    pub target: Target,
}

/// Which instance of a service a name asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// Each in turn.
    RoundRobin,
    /// The nearest.
    Closest,
    /// The one with that number.
    Instance(u32),
}

impl Target {
    /// The policy whose word stands in the name.
    #[must_use]
    pub const fn policy(self) -> Policy {
        match self {
            Self::RoundRobin => Policy::RoundRobin,
            Self::Closest => Policy::Closest,
            Self::Instance(_) => Policy::Instance,
        }
    }
}

/// Writes the labels from the service's policy down: with the instance label, without a zone.
impl fmt::Display for SemanticName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(application) = &self.application {
            write!(f, "{application}.")?;
        }
        write!(f, "{}.{}.", self.service, self.namespace)?;
        match self.target {
            Target::Instance(number) => write!(f, "{number}")?,
            Target::RoundRobin | Target::Closest => f.write_str(ANY)?,
        }
        write!(f, ".{}", self.target.policy())
    }
}

/// Why a name is not a semantic name. Each says what to write instead, if it can.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name is empty, or too long for DNS.
    #[error("a name has 1 to {MAX_NAME_TEXT_LEN} characters")]
    Length,
    /// No policy word stands where it must.
    #[error(
        "{name:?} has no policy before its zone; a semantic name ends in rr, closest or instance, and then in one of the zones {zones}, or in none"
    )]
    NoPolicy {
        /// The name.
        name: String,
        /// The zones that the resolver answers for.
        zones: String,
    },
    /// A label that no service could have.
    #[error(transparent)]
    Label(#[from] LabelError),
    /// A number where the policy chooses the instance.
    #[error(
        "'{label}' is a number, policy {policy} takes '{ANY}' or nothing; for that very instance write '{label}.instance'"
    )]
    NumberNotAllowed {
        /// The number.
        label: String,
        /// The policy of the name.
        policy: Policy,
    },
    /// The instance policy without a number.
    #[error("policy instance needs the instance's number before it, as in '0.instance'; found {}",
        .found.as_ref().map_or_else(|| "nothing".to_owned(), |found| format!("'{found}'")))]
    NumberMissing {
        /// What stands in the number's place.
        found: Option<String>,
    },
    /// Digits that are not the one way to write an instance's number.
    #[error(
        "'{label}' is not an instance number; they are written without leading zeros, up to {}",
        u32::MAX
    )]
    BadNumber {
        /// The digits.
        label: String,
    },
    /// Neither the two labels of a service nor the four with its application.
    #[error(
        "expected appname.appns.servicename.servicens, or servicename.servicens within the caller's application, before the instance and the policy; found {found} labels"
    )]
    LabelCount {
        /// How many labels there are.
        found: usize,
    },
}

impl SemanticName {
    /// Reads a name in text, with or without zone, with or without the final dot.
    ///
    /// # Errors
    /// Says why it is not a semantic name.
    pub fn parse(text: &str, zones: &[Zone]) -> Result<Self, NameError> {
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() || name.len() > MAX_NAME_TEXT_LEN {
            return Err(NameError::Length);
        }
        let labels: Vec<&[u8]> = name.split('.').map(str::as_bytes).collect();
        let Some(Domain {
            policy: Some(policy),
            before,
            ..
        }) = Domain::of(&labels, zones)
        else {
            return Err(NameError::NoPolicy {
                name: name.to_owned(),
                zones: join(zones),
            });
        };
        Self::from_labels(labels.get(..before).unwrap_or_default(), policy)
    }

    /// Reads the labels that stand before a policy word.
    pub(crate) fn from_labels(before: &[&[u8]], policy: Policy) -> Result<Self, NameError> {
        let (target, rest) = split_target(before, policy)?;
        let label = |bytes: &[u8]| Label::new(&String::from_utf8_lossy(bytes));
        let (application, service, namespace) = match rest {
            [service, namespace] => (None, service, namespace),
            [name, application_namespace, service, namespace] => {
                let application = ApplicationName {
                    name: label(name)?,
                    namespace: label(application_namespace)?,
                };
                (Some(application), service, namespace)
            }
            _ => return Err(NameError::LabelCount { found: rest.len() }),
        };
        Ok(Self {
            application,
            service: label(service)?,
            namespace: label(namespace)?,
            target,
        })
    }
}

/// Takes the instance label off the end of the labels before a policy word.
fn split_target<'a, 'b>(
    before: &'a [&'b [u8]],
    policy: Policy,
) -> Result<(Target, &'a [&'b [u8]]), NameError> {
    let text = |label: &[u8]| label.escape_ascii().to_string();
    let last = before.split_last();
    let chosen = match policy {
        Policy::RoundRobin => Target::RoundRobin,
        Policy::Closest => Target::Closest,
        Policy::Instance => {
            return match last {
                Some((label, rest)) if is_digits(label) => {
                    Ok((Target::Instance(number(label)?), rest))
                }
                last => Err(NameError::NumberMissing {
                    found: last.map(|(label, _)| text(label)),
                }),
            };
        }
    };
    match last {
        Some((label, rest)) if label.eq_ignore_ascii_case(ANY.as_bytes()) => Ok((chosen, rest)),
        Some((label, _)) if is_digits(label) => Err(NameError::NumberNotAllowed {
            label: text(label),
            policy,
        }),
        _ => Ok((chosen, before)),
    }
}

fn is_digits(label: &[u8]) -> bool {
    !label.is_empty() && label.iter().all(u8::is_ascii_digit)
}

/// The number that digits stand for, if they are its one canonical form.
fn number(digits: &[u8]) -> Result<u32, NameError> {
    let text = String::from_utf8_lossy(digits);
    match text.parse::<u32>() {
        Ok(number) if text.len() == 1 || !text.starts_with('0') => Ok(number),
        Ok(_) | Err(_) => Err(NameError::BadNumber {
            label: text.into_owned(),
        }),
    }
}

/// Where a name stands among those that we answer for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Domain {
    /// Index of the first label of the domain that is ours: the zone, or in the shared zone and
    /// without a zone the policy word.
    pub(crate) apex: usize,
    /// The policy word before the zone.
    pub(crate) policy: Option<Policy>,
    /// How many labels stand before the policy word, or before the zone.
    pub(crate) before: usize,
}

impl Domain {
    /// Finds the domain of ours that a name is in; none when the name is not ours.
    pub(crate) fn of(labels: &[&[u8]], zones: &[Zone]) -> Option<Self> {
        let zone = zones
            .iter()
            .filter(|zone| ends_in(labels, zone))
            .max_by_key(|zone| zone.labels().len());
        let start = labels.len() - zone.map_or(0, |zone| zone.labels().len());
        let policy = start.checked_sub(1).and_then(|index| {
            let label = std::str::from_utf8(labels.get(index)?).ok()?;
            Some((index, Policy::from_word(label)?))
        });
        match (policy, zone) {
            (Some((index, policy)), zone) => Some(Self {
                apex: if zone.is_some_and(is_wholly_ours) {
                    start
                } else {
                    index
                },
                policy: Some(policy),
                before: index,
            }),
            (None, Some(zone)) if is_wholly_ours(zone) => Some(Self {
                apex: start,
                policy: None,
                before: start,
            }),
            (None, _) => None,
        }
    }
}

fn is_wholly_ours(zone: &Zone) -> bool {
    let mut labels = zone.labels();
    let first = labels.next().map(Label::as_str);
    first != Some(SHARED_ZONE) || labels.next().is_some()
}

fn ends_in(labels: &[&[u8]], zone: &Zone) -> bool {
    let len = zone.labels().len();
    len <= labels.len()
        && labels
            .iter()
            .rev()
            .zip(zone.labels().rev())
            .all(|(label, of_zone)| label.eq_ignore_ascii_case(of_zone.as_str().as_bytes()))
}

fn join(zones: &[Zone]) -> String {
    let zones: Vec<String> = zones.iter().map(ToString::to_string).collect();
    zones.join(", ")
}

#[cfg(test)]
mod tests;
