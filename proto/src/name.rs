//! Semantic names: `appname.appns.servicename.servicens.instance.policy.<zone>`.
//!
//! Holds the checked names and which labels are reserved. How a DNS query becomes one of them, and
//! what is answered, is netmanager-core's `dns`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{Label, LabelError, MAX_LABEL_LEN};

/// An application: its name and its namespace. Written `name.namespace`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ApplicationName {
    /// The application's name.
    pub name: Label,
    /// The application's namespace.
    pub namespace: Label,
}

impl fmt::Display for ApplicationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.name, self.namespace)
    }
}

/// A service of an application. Written `appname.appns.servicename.servicens`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceName {
    /// The application that the service belongs to.
    pub application: ApplicationName,
    /// The service's name.
    pub name: Label,
    /// The service's namespace.
    pub namespace: Label,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.application, self.name, self.namespace)
    }
}

/// One instance of a service. Written `appname.appns.servicename.servicens.number`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InstanceId {
    /// The service that this is an instance of.
    pub service: ServiceName,
    /// The instance's number, unique within the service.
    pub number: u32,
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.service, self.number)
    }
}

/// Why a text is not a name of an application, a service or an instance.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It has not the parts that it needs.
    #[error("{text:?} is not of the form {form}")]
    Form {
        /// The text.
        text: String,
        /// The parts that it needs.
        form: &'static str,
    },
    /// One of its parts is not a label.
    #[error(transparent)]
    Label(#[from] LabelError),
}

impl NameError {
    fn form(text: &str, form: &'static str) -> Self {
        let text = text.chars().take(5 * MAX_LABEL_LEN).collect();
        Self::Form { text, form }
    }
}

impl FromStr for ApplicationName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let split = text.split_once('.');
        let (name, namespace) = split.ok_or_else(|| NameError::form(text, "appname.appns"))?;
        Ok(Self {
            name: Label::new(name)?,
            namespace: Label::new(namespace)?,
        })
    }
}

impl FromStr for ServiceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let parts: Vec<&str> = text.split('.').collect();
        let [app, app_namespace, name, namespace] = parts.as_slice() else {
            let form = "appname.appns.servicename.servicens";
            return Err(NameError::form(text, form));
        };
        Ok(Self {
            application: ApplicationName {
                name: Label::new(app)?,
                namespace: Label::new(app_namespace)?,
            },
            name: Label::new(name)?,
            namespace: Label::new(namespace)?,
        })
    }
}

impl FromStr for InstanceId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let form = || NameError::form(text, "appname.appns.servicename.servicens.number");
        let (service, number) = text.rsplit_once('.').ok_or_else(form)?;
        // One text per number: no sign, no leading zeros.
        let digits = number.bytes().all(|b| b.is_ascii_digit());
        let canonical = digits && (number == "0" || !number.starts_with('0'));
        let number = canonical.then(|| number.parse().ok()).flatten();
        Ok(Self {
            number: number.ok_or_else(form)?,
            service: service.parse()?,
        })
    }
}

/// How a new flow to a service finds its instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Policy {
    /// `rr`: each instance in turn.
    RoundRobin,
    /// `closest`: the instance behind the smallest measured round-trip time.
    Closest,
    /// `instance`: the one whose number the name gives.
    Instance,
}

impl Policy {
    /// Every policy with its word, in the order of the documentation.
    pub const ALL: [Self; 3] = [Self::RoundRobin, Self::Closest, Self::Instance];

    /// The policy's word in a name.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::RoundRobin => "rr",
            Self::Closest => "closest",
            Self::Instance => "instance",
        }
    }

    /// The policy whose word `label` is.
    #[must_use]
    pub fn from_word(label: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|policy| policy.word().eq_ignore_ascii_case(label))
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The instance label of names that leave the choice to the policy.
pub const ANY: &str = "any";

/// The zones that every resolver answers for.
pub const DEFAULT_ZONES: [&str; 2] = ["local", "weald.internal"];

/// Whether `label` may not name an application, a service or a namespace, because a semantic name
/// with it could be read in two ways: policy words, numbers, `any` and the labels of the zones.
#[must_use]
pub fn is_reserved(label: &Label, zones: &[Zone]) -> bool {
    let text = label.as_str();
    Policy::from_word(text).is_some()
        || text == ANY
        || text.bytes().all(|b| b.is_ascii_digit())
        || zones.iter().any(|zone| zone.labels().any(|z| z == label))
}

/// A zone that semantic names may end in, such as `local` or `weald.internal`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Zone(Vec<Label>);

impl Zone {
    /// Parses a zone of one or more labels, leftmost first.
    ///
    /// # Errors
    /// Says which label is wrong.
    pub fn new(text: &str) -> Result<Self, LabelError> {
        text.split('.')
            .map(Label::new)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The zones of [`DEFAULT_ZONES`].
    #[must_use]
    pub fn defaults() -> Vec<Self> {
        DEFAULT_ZONES
            .iter()
            .filter_map(|zone| Self::new(zone).ok())
            .collect()
    }

    /// The zone's labels, leftmost first.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &Label> + ExactSizeIterator {
        self.0.iter()
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, label) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(".")?;
            }
            label.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_words_numbers_any_and_zones_are_reserved() {
        let zones = Zone::defaults();
        assert_eq!(zones.len(), 2);
        for text in [
            "rr", "closest", "instance", "0", "17", "any", "local", "weald", "internal",
        ] {
            assert!(is_reserved(&Label::new(text).unwrap(), &zones), "{text}");
        }
        for text in ["web", "a1", "rr1", "prod", "anybody"] {
            assert!(!is_reserved(&Label::new(text).unwrap(), &zones), "{text}");
        }
    }

    #[test]
    fn names_are_read_as_they_are_printed() {
        let text = "shop.prod.web.prod.17";
        let id: InstanceId = text.parse().unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(id.service.to_string().parse(), Ok(id.service.clone()));
        let application = &id.service.application;
        assert_eq!(application.to_string().parse(), Ok(application.clone()));
        for bad in [
            "",
            "a",
            "a.b.c.d",
            "a.b.c.d.",
            "a.b.c.d.x",
            "a.b.c.d.01",
            "a.b.c.d.+1",
            "a.b.c.d.e.1",
            "a.b.c.-.1",
            "a.b.c.d.4294967296",
        ] {
            assert!(bad.parse::<InstanceId>().is_err(), "{bad:?}");
        }
        assert!("a.b.c".parse::<ApplicationName>().is_err());
        assert!("a.b.c".parse::<ServiceName>().is_err());
    }

    #[test]
    fn zones_print_as_written() {
        assert_eq!(
            Zone::new("weald.internal").unwrap().to_string(),
            "weald.internal"
        );
        assert!(Zone::new("a..b").is_err());
    }
}
