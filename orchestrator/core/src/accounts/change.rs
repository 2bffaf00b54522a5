//! Users that come, change and go. Each change is checked whole before anything is changed.

use weald_proto::id::{Label, Organisation};

use super::state::{self, NewUser, Role, User, UserChange, UserName};
use super::{AccountError, Accounts, Caller, MAX_USERS, ROOT};
use crate::Now;
use crate::record::Write;

impl Accounts {
    /// Makes a user.
    ///
    /// # Errors
    /// The name is none or taken, the organisation unknown to the caller, or a role is not the
    /// caller's to give.
    pub fn register(
        &mut self,
        by: &Caller,
        user: NewUser,
        now: Now,
    ) -> Result<(Vec<Write>, User), AccountError> {
        let organisation = self.named(&user.organisation)?;
        if !by.may_manage(&organisation) || !by.may_give(&user.roles) {
            return Err(unknown_organisation(&user.organisation));
        }
        self.add(user, now)
    }

    pub(super) fn add(
        &mut self,
        user: NewUser,
        now: Now,
    ) -> Result<(Vec<Write>, User), AccountError> {
        let name = UserName::try_from(user.name)?;
        let organisation = self.named(&user.organisation)?;
        if self.users.contains_key(&name) {
            return Err(AccountError::Exists("a user", name.to_string()));
        }
        if self.users.len() >= MAX_USERS {
            return Err(AccountError::TooMany(MAX_USERS, "users"));
        }
        let user = User {
            id: self.next_id(now),
            name: name.clone(),
            email: user.email,
            password: user.password,
            created: now.unix,
            roles: user.roles,
            organisation,
            epoch: 0,
        };
        let writes = vec![self.meta.put()?, user.put()?];
        self.users.insert(name, user.clone());
        Ok((writes, user))
    }

    /// Makes a user that nobody can log in as with a password, unless there is one of this name;
    /// for those who are known by other means.
    ///
    /// # Errors
    /// The name is none, or the organisation unknown.
    pub fn ensure(&mut self, name: &str, now: Now) -> Result<(Vec<Write>, User), AccountError> {
        if let Some(user) = self.users.get(name) {
            return Ok((Vec::new(), user.clone()));
        }
        let user = NewUser {
            name: name.to_owned(),
            email: String::new(),
            password: String::new(),
            roles: Role::ALL.into_iter().collect(),
            organisation: ROOT.to_owned(),
        };
        self.add(user, now)
    }

    /// Changes what a user is.
    ///
    /// # Errors
    /// There is no such user or organisation that the caller may change, or nobody could
    /// administrate root any more.
    pub fn change(
        &mut self,
        by: &Caller,
        name: &str,
        change: UserChange,
    ) -> Result<(Vec<Write>, User), AccountError> {
        let mut user = self.managed(by, name)?.clone();
        if let Some(email) = change.email {
            user.email = email;
        }
        if let Some(roles) = change.roles {
            if !by.may_give(&roles) {
                return Err(AccountError::Unknown("role", Role::Admin.word().to_owned()));
            }
            user.roles = roles;
        }
        if let Some(id) = change.organisation {
            user.organisation = self.named(&id)?;
            if !by.may_manage(&user.organisation) {
                return Err(unknown_organisation(&id));
            }
        }
        self.must_keep_an_admin(&user)?;
        let writes = vec![user.put()?];
        self.users.insert(user.name.clone(), user.clone());
        Ok((writes, user))
    }

    /// Gives a user another password, and ends all of its sessions.
    ///
    /// # Errors
    /// There is no such user.
    pub fn set_password(&mut self, name: &str, hash: String) -> Result<Vec<Write>, AccountError> {
        let user = self.users.get_mut(name).ok_or_else(|| unknown_user(name))?;
        user.password = hash;
        user.epoch += 1;
        Ok(vec![user.put()?])
    }

    /// Removes a user; its sessions are over.
    ///
    /// # Errors
    /// There is no such user that the caller may remove, or it is the last Admin.
    pub fn remove(&mut self, by: &Caller, name: &str) -> Result<Vec<Write>, AccountError> {
        let mut user = self.managed(by, name)?.clone();
        user.roles.clear();
        self.must_keep_an_admin(&user)?;
        self.users.remove(name);
        Ok(vec![Write::Delete {
            kind: state::USER.to_owned(),
            key: name.to_owned(),
        }])
    }

    fn managed(&self, by: &Caller, name: &str) -> Result<&User, AccountError> {
        let user = self.users.get(name);
        // Whoever is not everybody's admin cannot touch one who is.
        user.filter(|it| by.may_manage(&it.organisation) && by.may_give(&it.roles))
            .ok_or_else(|| unknown_user(name))
    }

    /// The organisation of an id or name.
    pub(super) fn named(&self, id: &str) -> Result<Organisation, AccountError> {
        let tenant = self.organisation(id);
        tenant
            .map(|it| it.name.clone())
            .ok_or_else(|| unknown_organisation(id))
    }

    /// Refuses a change after which nobody who can log in administrates root.
    pub(super) fn must_keep_an_admin(&self, changed: &User) -> Result<(), AccountError> {
        let was = self.users.get(&changed.name).is_some_and(is_admin);
        let others = self.users.values();
        let mut others = others.filter(|it| it.name != changed.name);
        if was && !is_admin(changed) && !others.any(is_admin) {
            return Err(AccountError::LastAdmin(changed.name.to_string()));
        }
        Ok(())
    }
}

/// Whether somebody can log in with a password and administrate everything.
fn is_admin(user: &User) -> bool {
    user.organisation.0.as_str() == ROOT
        && user.roles.contains(&Role::Admin)
        && !user.password.is_empty()
}

pub(super) fn unknown_user(name: &str) -> AccountError {
    AccountError::Unknown("user", name.chars().take(64).collect())
}

pub(super) fn unknown_organisation(id: &str) -> AccountError {
    AccountError::Unknown("organisation", id.chars().take(64).collect())
}

pub(super) fn organisation(text: &str) -> Result<Organisation, AccountError> {
    let label = Label::new(text);
    label.map(Organisation).map_err(|error| {
        let shown = text.chars().take(64).collect();
        AccountError::OrganisationName(shown, error)
    })
}
