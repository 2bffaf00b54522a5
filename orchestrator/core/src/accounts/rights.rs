//! What somebody may see and do.

use std::collections::BTreeSet;

use weald_proto::id::Organisation;

use super::ROOT;
use super::state::{Role, Tenant, User};
use crate::root::{ClusterState, Scope};

/// Somebody who asks, as the accounts say of them now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    user: User,
    tenant: Tenant,
}

impl Caller {
    pub(super) const fn new(user: User, tenant: Tenant) -> Self {
        Self { user, tenant }
    }

    /// Who it is.
    #[must_use]
    pub const fn user(&self) -> &User {
        &self.user
    }

    /// The organisation that it belongs to.
    #[must_use]
    pub const fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// Whether it administrates everything.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.has(Role::Admin) && self.tenant.name.0.as_str() == ROOT
    }

    /// Whose things it sees.
    #[must_use]
    pub fn scope(&self) -> Scope {
        if self.is_admin() {
            Scope::All
        } else {
            Scope::Of(self.tenant.name.clone())
        }
    }

    /// Whether it may have its organisation's services run and end.
    #[must_use]
    pub fn may_deploy(&self) -> bool {
        self.administrates() || self.has(Role::ApplicationProvider)
    }

    /// Whether it may let clusters in and remove them: all of them, so it must be of root.
    #[must_use]
    pub fn may_operate(&self) -> bool {
        let root = self.tenant.name.0.as_str() == ROOT;
        root && (self.has(Role::Admin) || self.has(Role::InfrastructureProvider))
    }

    /// Whether it may make, change and remove users of an organisation.
    #[must_use]
    pub fn may_manage(&self, organisation: &Organisation) -> bool {
        self.is_admin() || (self.administrates() && self.tenant.name == *organisation)
    }

    /// Whether it may make, change and remove any users.
    #[must_use]
    pub fn may_manage_some(&self) -> bool {
        self.administrates()
    }

    /// Whether it may give these roles: nobody gives more than what they have.
    #[must_use]
    pub fn may_give(&self, roles: &BTreeSet<Role>) -> bool {
        self.has(Role::Admin) || !roles.contains(&Role::Admin)
    }

    /// Whether it may know of a cluster: it owns it, or its instances may run there.
    #[must_use]
    pub fn sees(&self, cluster: &ClusterState) -> bool {
        let own = &self.tenant.name;
        let hosts = cluster.organisations.as_ref();
        self.is_admin()
            || cluster.owner == *own
            || hosts.is_none_or(|organisations| organisations.contains(own))
    }

    fn administrates(&self) -> bool {
        self.has(Role::Admin) || self.has(Role::OrganizationAdmin)
    }

    fn has(&self, role: Role) -> bool {
        self.user.roles.contains(&role)
    }
}
