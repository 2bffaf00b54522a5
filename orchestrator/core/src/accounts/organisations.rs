//! Organisations that come and go, and who belongs to them.

use super::change::{organisation, unknown_organisation, unknown_user};
use super::state::{self, Member, Tenant, User};
use super::{AccountError, Accounts, Caller, MAX_ORGANISATIONS, ROOT};
use crate::Now;
use crate::record::Write;

impl Accounts {
    /// Makes an organisation and moves users into it.
    ///
    /// # Errors
    /// The name is none or taken, a member unknown, or nobody could administrate root any more.
    pub fn add_organisation(
        &mut self,
        by: &Caller,
        name: &str,
        members: &[Member],
        now: Now,
    ) -> Result<(Vec<Write>, Tenant), AccountError> {
        let name = organisation(name)?;
        if !by.is_admin() {
            return Err(unknown_organisation(name.0.as_str()));
        }
        if self.tenants.contains_key(&name) {
            return Err(AccountError::Exists("an organisation", name.to_string()));
        }
        if self.tenants.len() >= MAX_ORGANISATIONS {
            return Err(AccountError::TooMany(MAX_ORGANISATIONS, "organisations"));
        }
        let tenant = Tenant {
            id: self.next_id(now),
            name,
        };
        let moved = self.moved(&tenant, members)?;
        let mut writes = vec![self.meta.put()?, tenant.put()?];
        for user in moved {
            writes.push(user.put()?);
            self.users.insert(user.name.clone(), user);
        }
        self.tenants.insert(tenant.name.clone(), tenant.clone());
        Ok((writes, tenant))
    }

    /// Moves users into an organisation. `name` is the one that it has.
    ///
    /// # Errors
    /// There is no such organisation or member, or the name is another one.
    pub fn change_organisation(
        &mut self,
        by: &Caller,
        id: &str,
        name: Option<&str>,
        members: &[Member],
    ) -> Result<(Vec<Write>, Tenant), AccountError> {
        let tenant = self.organisation(id).filter(|_| by.is_admin());
        let tenant = tenant.cloned().ok_or_else(|| unknown_organisation(id))?;
        if name.is_some_and(|name| name != tenant.name.0.as_str()) {
            return Err(AccountError::Renamed(tenant.name.to_string()));
        }
        let mut writes = Vec::new();
        for user in self.moved(&tenant, members)? {
            writes.push(user.put()?);
            self.users.insert(user.name.clone(), user);
        }
        Ok((writes, tenant))
    }

    /// Removes an organisation without users. `owns` says what else it has, if anything.
    ///
    /// # Errors
    /// There is none, it is root, or it has something.
    pub fn remove_organisation(
        &mut self,
        by: &Caller,
        id: &str,
        owns: impl FnOnce(&Tenant) -> Option<&'static str>,
    ) -> Result<Vec<Write>, AccountError> {
        let tenant = self.organisation(id).filter(|_| by.is_admin());
        let tenant = tenant.cloned().ok_or_else(|| unknown_organisation(id))?;
        if tenant.name.0.as_str() == ROOT {
            return Err(AccountError::RootStays);
        }
        let mut users = self.users.values();
        let has = if users.any(|it| it.organisation == tenant.name) {
            Some("users")
        } else {
            owns(&tenant)
        };
        if let Some(what) = has {
            return Err(AccountError::NotEmpty(tenant.name.to_string(), what));
        }
        self.tenants.remove(&tenant.name);
        Ok(vec![Write::Delete {
            kind: state::ORGANISATION.to_owned(),
            key: tenant.name.to_string(),
        }])
    }

    /// The members as they are once they have moved.
    fn moved(&self, to: &Tenant, members: &[Member]) -> Result<Vec<User>, AccountError> {
        let mut moved = Vec::new();
        for member in members {
            let mut users = self.users.values();
            let user = users.find(|it| it.id == member.user || it.name.as_str() == member.user);
            let mut user = user.cloned().ok_or_else(|| unknown_user(&member.user))?;
            user.organisation = to.name.clone();
            if let Some(roles) = &member.roles {
                user.roles.clone_from(roles);
            }
            self.must_keep_an_admin(&user)?;
            moved.push(user);
        }
        Ok(moved)
    }
}
