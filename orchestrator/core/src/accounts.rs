//! Who may ask: users with their roles, the organisations that they belong to, and the secrets that
//! logging in rests on.
//!
//! Pure, and beside [`Root`](crate::root::Root), which knows organisations only as owners of things.
//! Passwords are hashed, secrets made and sessions signed outside; here is what must survive. Every
//! method that changes something returns the writes; the answer may be told once they are committed.
//! What somebody may do is said by `rights`.

mod change;
mod organisations;
mod rights;
mod state;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use weald_proto::id::{Label, LabelError, Organisation};

use crate::Now;
use crate::record::{Record, RecordError, Write};

pub use rights::Caller;
use state::{META, Meta, ORGANISATION, USER};
pub use state::{Member, NewUser, Role, Secret, Tenant, User, UserChange, UserName};

/// The organisation that is always there; its admins administrate everything.
pub const ROOT: &str = "root";
/// How many users there may be.
pub const MAX_USERS: usize = 10_000;
/// How many organisations there may be.
pub const MAX_ORGANISATIONS: usize = 1000;

/// Why nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// A text is no user's name.
    #[error(
        "{0:?} is no name of a user: write 1 to 64 letters, digits and any of the characters . _ - @ +"
    )]
    UserName(String),
    /// A text is no organisation's name.
    #[error("{0:?} is no name of an organisation: {1}")]
    OrganisationName(String, LabelError),
    /// A word is no role.
    #[error(
        "unknown role {0:?}; allowed are Admin, Organization_Admin, Application_Provider and Infrastructure_Provider"
    )]
    Role(String),
    /// Somebody has the name.
    #[error("there is already {0} {1}; choose another name")]
    Exists(&'static str, String),
    /// There is no such thing, or none that the caller may know of.
    #[error("there is no {0} {1}")]
    Unknown(&'static str, String),
    /// Nobody could administrate root any more.
    #[error("{0} is the last Admin of organisation root; make another one first")]
    LastAdmin(String),
    /// The organisation that is always there.
    #[error("organisation root stays as it is")]
    RootStays,
    /// An organisation that has something cannot go.
    #[error("organisation {0} still has {1}; remove them first")]
    NotEmpty(String, &'static str),
    /// An organisation's name stands in what was signed.
    #[error(
        "the name of organisation {0} stands in certificates and rows; make another organisation instead"
    )]
    Renamed(String),
    /// More than there may be.
    #[error("there are {0} {1}, which is the most; remove some")]
    TooMany(usize, &'static str),
    /// The one-time secret was used, replaced or never given out.
    #[error(
        "this is not the one-time secret, or it was used already; ask an admin for an account, or have root make a new secret"
    )]
    WrongSecret,
    /// A fault of the program.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Every account, and what logging in rests on.
#[derive(Debug)]
pub struct Accounts {
    users: BTreeMap<UserName, User>,
    tenants: BTreeMap<Organisation, Tenant>,
    meta: Meta,
}

impl Accounts {
    /// Takes up the accounts from their records; the writes are to be committed first of all.
    ///
    /// # Errors
    /// A record cannot be read.
    pub fn restore(records: &[Record], now: Now) -> Result<(Self, Vec<Write>), RecordError> {
        let mut accounts = Self {
            users: BTreeMap::new(),
            tenants: BTreeMap::new(),
            meta: Meta::default(),
        };
        for record in records {
            match record.kind.as_str() {
                META => accounts.meta = record.read()?,
                USER => {
                    let user: User = record.read()?;
                    accounts.users.insert(user.name.clone(), user);
                }
                ORGANISATION => {
                    let tenant: Tenant = record.read()?;
                    accounts.tenants.insert(tenant.name.clone(), tenant);
                }
                _ => {}
            }
        }
        let mut writes = Vec::new();
        let unnamed = |_| RecordError {
            kind: ORGANISATION.to_owned(),
            key: ROOT.to_owned(),
            reason: "is no label".to_owned(),
        };
        let root = Organisation(Label::new(ROOT).map_err(unnamed)?);
        if !accounts.tenants.contains_key(&root) {
            let tenant = Tenant {
                id: accounts.next_id(now),
                name: root.clone(),
            };
            writes.push(accounts.meta.put()?);
            writes.push(tenant.put()?);
            accounts.tenants.insert(root, tenant);
        }
        Ok((accounts, writes))
    }

    /// Every user, by name.
    pub fn users(&self) -> impl Iterator<Item = &User> {
        self.users.values()
    }

    /// A user.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name)
    }

    /// Every organisation, by name.
    pub fn organisations(&self) -> impl Iterator<Item = &Tenant> {
        self.tenants.values()
    }

    /// An organisation, by its id or its name.
    #[must_use]
    pub fn organisation(&self, id: &str) -> Option<&Tenant> {
        let mut all = self.tenants.values();
        all.find(|it| it.id == id || it.name.0.as_str() == id)
    }

    /// Who it is that asks; none if there is no such user any more.
    #[must_use]
    pub fn caller(&self, name: &str) -> Option<Caller> {
        let user = self.users.get(name)?;
        let tenant = self.tenants.get(&user.organisation)?;
        Some(Caller::new(user.clone(), tenant.clone()))
    }

    /// The key that sessions are signed with, once there is one.
    #[must_use]
    pub const fn session_key(&self) -> Option<&Secret> {
        self.meta.session_key.as_ref()
    }

    /// Keeps `fresh` as the key that sessions are signed with, unless there is one; returns the one
    /// that there is now.
    ///
    /// # Errors
    /// [`AccountError::Record`].
    pub fn keep_session_key(
        &mut self,
        fresh: Secret,
    ) -> Result<(Vec<Write>, Secret), AccountError> {
        if let Some(key) = &self.meta.session_key {
            return Ok((Vec::new(), key.clone()));
        }
        self.meta.session_key = Some(fresh.clone());
        Ok((vec![self.meta.put()?], fresh))
    }

    /// Whether a one-time secret was given out and waits to be exchanged.
    #[must_use]
    pub const fn waits_for_first(&self) -> bool {
        self.meta.first.is_some()
    }

    /// Whether the first account was made, ever.
    #[must_use]
    pub const fn had_first(&self) -> bool {
        self.meta.had_first
    }

    /// Whether this is the hash of the one-time secret that waits.
    #[must_use]
    pub fn is_first(&self, hash: &[u8; 32]) -> bool {
        let first = self.meta.first.as_ref();
        first.is_some_and(|first| first.equals(hash))
    }

    /// Has the first account be given to whoever shows a secret with this hash, in place of any
    /// earlier secret.
    ///
    /// # Errors
    /// [`AccountError::Record`].
    pub fn offer_first(&mut self, hash: [u8; 32]) -> Result<Vec<Write>, AccountError> {
        self.meta.first = Some(Secret(hash));
        Ok(vec![self.meta.put()?])
    }

    /// Exchanges the one-time secret for an account of an Admin of organisation root.
    ///
    /// # Errors
    /// [`AccountError::WrongSecret`], [`AccountError::Exists`] or [`AccountError::TooMany`];
    /// the secret is good still.
    pub fn take_first(
        &mut self,
        hash: &[u8; 32],
        mut user: NewUser,
        now: Now,
    ) -> Result<(Vec<Write>, User), AccountError> {
        if !self.is_first(hash) {
            return Err(AccountError::WrongSecret);
        }
        user.roles = Role::ALL.into_iter().collect();
        user.organisation = ROOT.to_owned();
        let (mut writes, user) = self.add(user, now)?;
        self.meta.first = None;
        self.meta.had_first = true;
        writes.push(self.meta.put()?);
        Ok((writes, user))
    }

    /// 24 hexadecimal digits; the middle ones tell it from root's own ids.
    fn next_id(&mut self, now: Now) -> String {
        self.meta.ids += 1;
        format!(
            "{:08x}ac{:014x}",
            now.unix & 0xffff_ffff,
            self.meta.ids & 0x00ff_ffff_ffff_ffff
        )
    }
}
