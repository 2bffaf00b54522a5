//! What is kept of users and organisations, record by record.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use weald_proto::id::Organisation;

use super::AccountError;
use crate::record::{Record, RecordError, Write};

pub(super) const USER: &str = "user";
pub(super) const ORGANISATION: &str = "organisation";
/// The one record of [`Meta`], under the key [`ONLY`].
pub(super) const META: &str = "accounts";
pub(super) const ONLY: &str = "all";

/// Characters of the longest user's name.
const MAX_USER_NAME: usize = 64;

/// What a user may do, in Oakestra's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Everything in its organisation; in organisation root, everything.
    Admin,
    /// Users of its organisation, and its applications.
    #[serde(rename = "Organization_Admin")]
    OrganizationAdmin,
    /// Applications of its organisation.
    #[serde(rename = "Application_Provider")]
    ApplicationProvider,
    /// Clusters of its organisation.
    #[serde(rename = "Infrastructure_Provider")]
    InfrastructureProvider,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [
        Self::Admin,
        Self::OrganizationAdmin,
        Self::ApplicationProvider,
        Self::InfrastructureProvider,
    ];

    /// The word that stands for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Admin => "Admin",
            Self::OrganizationAdmin => "Organization_Admin",
            Self::ApplicationProvider => "Application_Provider",
            Self::InfrastructureProvider => "Infrastructure_Provider",
        }
    }
}

impl std::str::FromStr for Role {
    type Err = AccountError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|it| it.word() == text);
        found.ok_or_else(|| AccountError::Role(text.chars().take(64).collect()))
    }
}

/// The name of a user: 1 to 64 letters, digits and `. _ - @ +`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserName(String);

impl UserName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for UserName {
    type Error = AccountError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-@+".contains(c);
        if (1..=MAX_USER_NAME).contains(&text.len()) && text.chars().all(fits) {
            Ok(Self(text))
        } else {
            let shown = text.chars().take(MAX_USER_NAME).collect();
            Err(AccountError::UserName(shown))
        }
    }
}

impl From<UserName> for String {
    fn from(name: UserName) -> Self {
        name.0
    }
}

impl Borrow<str> for UserName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A user.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// 24 hexadecimal digits.
    pub id: String,
    /// Under which one logs in; unique over all organisations.
    pub name: UserName,
    /// Where to write to; may be empty.
    pub email: String,
    /// The hash of the password, as the hasher wrote it; none can log in if it is empty.
    pub password: String,
    /// Seconds since 1970.
    pub created: u64,
    /// What it may do.
    pub roles: BTreeSet<Role>,
    /// The tenant.
    pub organisation: Organisation,
    /// Sessions of an earlier epoch are over: it grows with each change of the password.
    pub epoch: u64,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("name", &self.name)
            .field("roles", &self.roles)
            .field("organisation", &self.organisation)
            .finish_non_exhaustive()
    }
}

impl User {
    pub(super) fn put(&self) -> Result<Write, RecordError> {
        Record::new(USER, self.name.to_string(), self).map(Write::Put)
    }
}

/// An organisation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// 24 hexadecimal digits.
    pub id: String,
    /// What owners of things are called.
    pub name: Organisation,
}

impl Tenant {
    pub(super) fn put(&self) -> Result<Write, RecordError> {
        Record::new(ORGANISATION, self.name.to_string(), self).map(Write::Put)
    }
}

/// A user to be made.
#[derive(Clone, PartialEq, Eq)]
pub struct NewUser {
    /// The name, not checked yet.
    pub name: String,
    /// Where to write to; may be empty.
    pub email: String,
    /// The hash of the password.
    pub password: String,
    /// What it may do.
    pub roles: BTreeSet<Role>,
    /// The id or name of its organisation.
    pub organisation: String,
}

impl fmt::Debug for NewUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewUser")
            .field("name", &self.name)
            .field("roles", &self.roles)
            .field("organisation", &self.organisation)
            .finish_non_exhaustive()
    }
}

/// What shall become different of a user; none stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UserChange {
    /// Where to write to.
    pub email: Option<String>,
    /// What it may do.
    pub roles: Option<BTreeSet<Role>>,
    /// The id or name of its organisation.
    pub organisation: Option<String>,
}

/// A user as a member of an organisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The user's id or name.
    pub user: String,
    /// What it may do there; none stays as it is.
    pub roles: Option<BTreeSet<Role>>,
}

/// 32 bytes that are shown to nobody.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(pub [u8; 32]);

impl Secret {
    /// Whether these bytes are the same, in a time that does not depend on where they differ.
    #[must_use]
    pub fn equals(&self, other: &[u8; 32]) -> bool {
        let pairs = self.0.iter().zip(other);
        pairs.fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What there is once.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Meta {
    /// The number in the last id that was given.
    pub(super) ids: u64,
    /// The hash of the one-time secret, while it waits.
    pub(super) first: Option<Secret>,
    /// Whether one was exchanged.
    pub(super) had_first: bool,
    /// What sessions are signed with.
    pub(super) session_key: Option<Secret>,
}

impl Meta {
    pub(super) fn put(&self) -> Result<Write, RecordError> {
        Record::new(META, ONLY.to_owned(), self).map(Write::Put)
    }
}
