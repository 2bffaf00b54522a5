//! What a semantic name means to the one who asks: which service, which policy, which addresses.
//!
//! The answer to a query and `netmanager dig` rest on the same look-up, so that what `dig` explains
//! is what programs get. It reads one snapshot and changes nothing; which instance a policy would
//! pick now is the data plane's to say.

use std::net::IpAddr;

use weald_proto::addr::Dual;
use weald_proto::name::{ANY, ApplicationName, Policy, ServiceName};

use super::name::{NameError, SemanticName, Target};
use super::suggest;
use crate::table::{Host, InstanceIndex, OrganisationIndex, ServiceIndex, Snapshot};

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The source address of the query: an instance's, or this node's for host programs.
    pub ip: IpAddr,
}

impl Caller {
    /// Whether the caller is an instance of this node, or the node itself; others are refused.
    #[must_use]
    pub fn is_known(&self, table: &Snapshot) -> bool {
        View::of(self, table).is_some()
    }
}

/// What a name means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The service.
    pub service: ServiceIndex,
    /// How new flows to the addresses find their instance.
    pub policy: Policy,
    /// The instance that the name asks for; only with [`Policy::Instance`].
    pub instance: Option<InstanceIndex>,
    /// What the name resolves to: service addresses, or the instance's own.
    pub addresses: Dual,
    /// The name with everything spelled out, without a zone.
    pub canonical: String,
}

/// Why a name means nothing to the one who asks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotResolved {
    /// The caller is no instance of this node, and not the node itself.
    #[error("{0} is not the address of an instance of this node, nor this node's own")]
    UnknownCaller(IpAddr),
    /// The name is not a semantic name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The short form, asked by one that has no application.
    #[error(
        "'{service}' leaves out the application, and the caller belongs to none; write appname.appns.{service}"
    )]
    NoApplication {
        /// The service and its namespace as asked for.
        service: String,
    },
    /// The caller's organisation has no such service.
    #[error("there is no service {service}{}",
        .nearest.as_ref().map_or_else(String::new, |nearest| format!("; did you mean {nearest}?")))]
    UnknownService {
        /// The service asked for.
        service: String,
        /// The most similar name of the caller's organisation.
        nearest: Option<String>,
    },
    /// The service has no instance with that number.
    #[error("service {service} has no instance {number}; it has {}", list(.known))]
    UnknownInstance {
        /// The service.
        service: String,
        /// The number asked for.
        number: u32,
        /// The numbers that it has.
        known: Vec<u32>,
    },
}

/// Finds out what `name` means to `caller`: with or without zone, short or whole.
///
/// # Errors
/// Says why it means nothing, and what would.
pub fn resolve(name: &str, caller: &Caller, table: &Snapshot) -> Result<Resolved, NotResolved> {
    let view = View::of(caller, table).ok_or(NotResolved::UnknownCaller(caller.ip))?;
    let asked = SemanticName::parse(name, table.zones())?;
    let missing = match view.look_up(&asked) {
        Ok(found) => return Ok(view.resolved(&asked, found)),
        Err(missing) => missing,
    };
    Err(match missing {
        Missing::Application => NotResolved::NoApplication {
            service: format!("{}.{}", asked.service, asked.namespace),
        },
        Missing::Service(service) => NotResolved::UnknownService {
            nearest: suggest::nearest(&service, &view),
            service: service.to_string(),
        },
        Missing::Instance(service, number) => NotResolved::UnknownInstance {
            service: table.service(service).name.to_string(),
            number,
            known: view.numbers(service).collect(),
        },
    })
}

/// What one caller may see of a snapshot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) table: &'a Snapshot,
    pub(crate) organisation: OrganisationIndex,
    pub(crate) application: Option<&'a ApplicationName>,
}

/// What a look-up found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) service: ServiceIndex,
    pub(crate) instance: Option<InstanceIndex>,
    pub(crate) addresses: Dual,
}

/// What a look-up missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Missing {
    /// The caller has no application, so the short form means nothing to it.
    Application,
    /// No such service, as far as the caller may know.
    Service(ServiceName),
    /// The service has no such instance.
    Instance(ServiceIndex, u32),
}

impl<'a> View<'a> {
    /// The view of a caller; none for one that is not on this node.
    pub(crate) fn of(caller: &Caller, table: &'a Snapshot) -> Option<Self> {
        let owner = table.owner(caller.ip)?;
        match owner.host {
            Host::Local => Some(Self {
                table,
                organisation: owner.organisation,
                application: table.application_of(caller.ip),
            }),
            Host::Peer(_) => None,
        }
    }

    /// Finds what a name asks for. Another organisation's service is not found in the very same
    /// way as one that does not exist.
    pub(crate) fn look_up(&self, asked: &SemanticName) -> Result<Found, Missing> {
        let application = asked
            .application
            .as_ref()
            .or(self.application)
            .ok_or(Missing::Application)?;
        let name = ServiceName {
            application: application.clone(),
            name: asked.service.clone(),
            namespace: asked.namespace.clone(),
        };
        let Some(index) = self.table.service_by_name(&name) else {
            return Err(Missing::Service(name));
        };
        let service = self.table.service(index);
        if service.organisation != self.organisation {
            return Err(Missing::Service(name));
        }
        let (instance, addresses) = match asked.target {
            Target::RoundRobin => (None, service.round_robin),
            Target::Closest => (None, service.closest),
            Target::Instance(number) => {
                let instance = self
                    .instance(index, number)
                    .ok_or(Missing::Instance(index, number))?;
                (Some(instance), self.table.instance(instance).instance_ip)
            }
        };
        Ok(Found {
            service: index,
            instance,
            addresses,
        })
    }

    /// The canonical name, without a zone, of the service or instance address `ip`.
    pub(crate) fn name_of(&self, ip: IpAddr) -> Option<String> {
        if let Some((index, policy)) = self.table.service_at(ip) {
            let service = self.table.service(index);
            let visible = service.organisation == self.organisation;
            return visible.then(|| format!("{}.{ANY}.{policy}", service.name));
        }
        let owner = self.table.owner(ip)?;
        let instance = self.table.instance(owner.instance?);
        let visible = owner.organisation == self.organisation;
        visible.then(|| format!("{}.{}", instance.id, Policy::Instance))
    }

    fn instance(&self, service: ServiceIndex, number: u32) -> Option<InstanceIndex> {
        let instances = &self.table.service(service).instances;
        let position = instances
            .binary_search_by_key(&number, |index| self.table.instance(*index).id.number)
            .ok()?;
        instances.get(position).copied()
    }

    fn numbers(&self, service: ServiceIndex) -> impl Iterator<Item = u32> {
        let instances = &self.table.service(service).instances;
        instances
            .iter()
            .map(|index| self.table.instance(*index).id.number)
    }

    fn resolved(&self, asked: &SemanticName, found: Found) -> Resolved {
        let name = &self.table.service(found.service).name;
        let canonical = SemanticName {
            application: Some(name.application.clone()),
            ..asked.clone()
        };
        Resolved {
            service: found.service,
            policy: asked.target.policy(),
            instance: found.instance,
            addresses: found.addresses,
            canonical: canonical.to_string(),
        }
    }
}

/// How many instance numbers an error lists before it only counts them.
const MAX_LISTED: usize = 16;

fn list(numbers: &[u32]) -> String {
    if numbers.is_empty() {
        return "none".to_owned();
    }
    let shown: Vec<String> = numbers
        .iter()
        .take(MAX_LISTED)
        .map(ToString::to_string)
        .collect();
    let more = match numbers.len().saturating_sub(MAX_LISTED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests;
