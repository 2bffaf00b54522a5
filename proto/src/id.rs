//! Identities: labels, nodes, relays, organisations, services and instances.
//!
//! Every id is made of [`Label`]s, so that whatever names a thing can stand in a DNS name, a
//! certificate URI, a file name or an nft rule without escaping. Parsing is the only place that
//! can fail.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest label that DNS allows (RFC 1035, section 2.3.4).
pub const MAX_LABEL_LEN: usize = 63;

/// A lower-case DNS label: 1 to 63 of `a-z`, `0-9` and `-`, not starting or ending with `-`.
///
/// Upper case is folded when parsing, so two labels that differ only in case are equal.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(Box<str>);

/// Why a text is not a [`Label`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// The text is empty.
    #[error("a name must not be empty")]
    Empty,
    /// The text is longer than 63 characters.
    #[error("name {0:?} has {1} characters; at most {MAX_LABEL_LEN} are allowed")]
    TooLong(String, usize),
    /// The text has a character that may not stand in a label.
    #[error("name {0:?} has {1:?}; only letters a-z, digits and '-' are allowed")]
    Character(String, char),
    /// The text starts or ends with a hyphen.
    #[error("name {0:?} must not start or end with '-'")]
    Hyphen(String),
}

impl Label {
    /// Parses a label, folding upper case.
    ///
    /// # Errors
    /// Says which rule of DNS labels the text breaks.
    pub fn new(text: &str) -> Result<Self, LabelError> {
        if text.is_empty() {
            return Err(LabelError::Empty);
        }
        let shown: String = text.chars().take(MAX_LABEL_LEN + 1).collect();
        if let Some(bad) = text
            .chars()
            .find(|c| !(c.is_ascii_alphanumeric() || *c == '-'))
        {
            return Err(LabelError::Character(shown, bad));
        }
        if text.len() > MAX_LABEL_LEN {
            return Err(LabelError::TooLong(shown, text.len()));
        }
        if text.starts_with('-') || text.ends_with('-') {
            return Err(LabelError::Hyphen(shown));
        }
        Ok(Self(text.to_ascii_lowercase().into_boxed_str()))
    }

    /// The label's text, lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for Label {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl TryFrom<String> for Label {
    type Error = LabelError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text)
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0.into()
    }
}

/// A tenant: within one everything may talk, between two nothing may unless both open it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Organisation(pub Label);

impl fmt::Display for Organisation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A node: its cluster and its name within it. Written `cluster/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId {
    /// The cluster that issued the node's certificate.
    pub cluster: Label,
    /// Unique within the cluster.
    pub name: Label,
}

/// A relay: the cluster that issued its certificate and its name. Written `cluster/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RelayId {
    /// The cluster that issued the relay's certificate.
    pub cluster: Label,
    /// Unique within the cluster.
    pub name: Label,
}

/// Why a text is not an id of several labels.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The id has not the two parts it needs.
    #[error("{0:?} is not of the form cluster/name")]
    Form(String),
    /// One of the id's parts is not a label.
    #[error(transparent)]
    Label(#[from] LabelError),
    /// A certificate URI has not the form that Weald's certificates have.
    #[error(
        "{0:?} is not of the form weald://<root>/root or weald://<root>/cluster/<cluster>[/control, /node/<node> or /relay/<relay>]"
    )]
    Uri(String),
}

fn cluster_and_name(text: &str) -> Result<(Label, Label), IdError> {
    let form = || IdError::Form(text.chars().take(2 * MAX_LABEL_LEN).collect());
    let (cluster, name) = text.split_once('/').ok_or_else(form)?;
    Ok((Label::new(cluster)?, Label::new(name)?))
}

macro_rules! cluster_scoped_id {
    ($id:ident) => {
        impl $id {
            /// Puts an id together from two labels.
            #[must_use]
            pub const fn new(cluster: Label, name: Label) -> Self {
                Self { cluster, name }
            }
        }

        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", self.cluster, self.name)
            }
        }

        impl FromStr for $id {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let (cluster, name) = cluster_and_name(text)?;
                Ok(Self { cluster, name })
            }
        }

        impl TryFrom<String> for $id {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$id> for String {
            fn from(id: $id) -> Self {
                id.to_string()
            }
        }
    };
}

cluster_scoped_id!(NodeId);
cluster_scoped_id!(RelayId);

/// Whom a certificate of ours speaks for, as its one URI name says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// Root as clusters dial it: `weald://<root>/root`.
    Root,
    /// A cluster's intermediate: `weald://<root>/cluster/<cluster>`.
    Cluster(Label),
    /// A cluster's orchestrator as it dials root and is dialled by its members:
    /// `weald://<root>/cluster/<cluster>/control`.
    Control(Label),
    /// A node: `weald://<root>/cluster/<cluster>/node/<node>`.
    Node(NodeId),
    /// A relay: `weald://<root>/cluster/<cluster>/relay/<relay>`.
    Relay(RelayId),
}

impl Identity {
    /// The URI that stands in the certificate; `root` is the name of the root.
    #[must_use]
    pub fn uri(&self, root: &Label) -> String {
        match self {
            Self::Root => format!("weald://{root}/root"),
            Self::Cluster(cluster) => format!("weald://{root}/cluster/{cluster}"),
            Self::Control(cluster) => format!("weald://{root}/cluster/{cluster}/control"),
            Self::Node(id) => format!("weald://{root}/cluster/{}/node/{}", id.cluster, id.name),
            Self::Relay(id) => format!("weald://{root}/cluster/{}/relay/{}", id.cluster, id.name),
        }
    }

    /// Reads a certificate's URI: the root's name and the identity.
    ///
    /// # Errors
    /// Says so when the text has another form.
    pub fn from_uri(uri: &str) -> Result<(Label, Self), IdError> {
        let form = || IdError::Uri(uri.chars().take(256).collect());
        let path = uri.strip_prefix("weald://").ok_or_else(form)?;
        let parts: Vec<&str> = path.split('/').collect();
        let (root, identity) = match parts.as_slice() {
            [root, "root"] => (root, Self::Root),
            [root, "cluster", cluster] => (root, Self::Cluster(Label::new(cluster)?)),
            [root, "cluster", cluster, "control"] => (root, Self::Control(Label::new(cluster)?)),
            [root, "cluster", cluster, "node", node] => (
                root,
                Self::Node(NodeId::new(Label::new(cluster)?, Label::new(node)?)),
            ),
            [root, "cluster", cluster, "relay", relay] => (
                root,
                Self::Relay(RelayId::new(Label::new(cluster)?, Label::new(relay)?)),
            ),
            _ => return Err(form()),
        };
        Ok((Label::new(root)?, identity))
    }

    /// The cluster that this identity is, or belongs to; root belongs to none.
    #[must_use]
    pub const fn cluster(&self) -> Option<&Label> {
        match self {
            Self::Root => None,
            Self::Cluster(cluster) | Self::Control(cluster) => Some(cluster),
            Self::Node(id) => Some(&id.cluster),
            Self::Relay(id) => Some(&id.cluster),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("root"),
            Self::Cluster(cluster) => write!(f, "cluster {cluster}"),
            Self::Control(cluster) => write!(f, "control of cluster {cluster}"),
            Self::Node(id) => write!(f, "node {id}"),
            Self::Relay(id) => write!(f, "relay {id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(text: &str) -> Label {
        Label::new(text).unwrap()
    }

    #[test]
    fn labels_fold_case() {
        assert_eq!(label("Shop"), label("shop"));
        assert_eq!(label("SHOP").as_str(), "shop");
    }

    #[test]
    fn labels_refuse_what_dns_refuses() {
        assert_eq!(Label::new(""), Err(LabelError::Empty));
        assert_eq!(Label::new("-a"), Err(LabelError::Hyphen("-a".into())));
        for bad in ["a.b", "a\nb", "a\"b", "*", "a b", "ä", "a/b", "a\0b"] {
            assert!(
                matches!(Label::new(bad), Err(LabelError::Character(..))),
                "{bad:?}"
            );
        }
        assert!(matches!(
            Label::new(&"a".repeat(64)),
            Err(LabelError::TooLong(_, 64))
        ));
        assert_eq!(Label::new(&"a".repeat(63)).unwrap().as_str().len(), 63);
    }

    #[test]
    fn uris_round_trip() {
        let root = label("main");
        for identity in [
            Identity::Root,
            Identity::Cluster(label("munich")),
            Identity::Control(label("munich")),
            Identity::Node(NodeId::new(label("munich"), label("a1"))),
            Identity::Relay(RelayId::new(label("munich"), label("r1"))),
        ] {
            let uri = identity.uri(&root);
            assert_eq!(Identity::from_uri(&uri), Ok((root.clone(), identity)));
        }
    }

    #[test]
    fn foreign_uris_are_refused() {
        for uri in [
            "",
            "weald://",
            "https://a/cluster/b",
            "weald://r",
            "weald://r/",
            "weald://r/root/",
            "weald://r/root/cluster",
            "weald://r/cluster/c/control/",
            "weald://r/cluster/c/control/a",
            "weald://r/cluster/c/node/",
            "weald://r/cluster/c/node/a/b",
        ] {
            assert!(Identity::from_uri(uri).is_err(), "{uri:?}");
        }
    }

    #[test]
    fn node_ids_round_trip() {
        let id: NodeId = "munich/a1".parse().unwrap();
        assert_eq!(id.to_string(), "munich/a1");
        assert_eq!(
            "munich".parse::<NodeId>(),
            Err(IdError::Form("munich".into()))
        );
    }
}
