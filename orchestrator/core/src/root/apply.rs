//! Making what users ask for known: applications with their services, and what they are called.
//!
//! What becomes of them later is `commands`'.

use weald_proto::id::Organisation;
use weald_proto::name::ApplicationName;
use weald_proto::spec::ServiceSpec;

use super::state;
use super::{Application, CommandError, Done, Root, Scope, Service, Step};
use crate::Now;
use crate::addresses::{AddressError, Pins, RootAddresses};
use crate::record::{RecordError, Write};
use crate::sla::{ApplicationDraft, ServiceDraft};

/// A draft whose application and services are checked against what is known.
struct Planned {
    known: Option<Application>,
    draft: ApplicationDraft,
    /// What becomes of each service of the draft.
    services: Vec<PlannedService>,
}

/// A service of a draft.
enum PlannedService {
    /// It is known by this id, and the same.
    Known(String),
    /// It is to be made, with these addresses.
    New(Box<ServiceDraft>),
}

impl Root {
    /// Makes all applications known, or none: everything is checked before anything is changed.
    pub(super) fn apply(
        &mut self,
        drafts: Vec<ApplicationDraft>,
        organisation: &Organisation,
        new: bool,
        scope: &Scope,
        now: Now,
        step: &mut Step,
    ) -> Result<Done, CommandError> {
        self.must_trust(organisation)?;
        let mut addresses = self.addresses.clone();
        let mut planned = Vec::new();
        for draft in drafts {
            planned.push(self.plan(draft, organisation, new, scope, &mut addresses, now)?);
        }
        self.addresses = addresses;
        let mut done = Done::default();
        for planned in planned {
            let draft = planned.draft;
            let id = match planned.known {
                Some(known) => {
                    let (id, text) = (known.id, draft.description);
                    if !text.is_empty() && text != known.description {
                        self.describe(&id, text, &Scope::All, step)?;
                    }
                    id
                }
                None => {
                    let (name, description) = (draft.name, draft.description);
                    let owner = organisation.clone();
                    self.make_application(name, description, draft.customer, owner, now, step)?
                        .id
                }
            };
            for service in planned.services {
                done.services.push(match service {
                    PlannedService::Known(id) => id,
                    PlannedService::New(draft) => self.make_service(&id, *draft, now, step)?,
                });
            }
            done.applications.push(id);
        }
        Ok(done)
    }

    fn plan(
        &self,
        mut draft: ApplicationDraft,
        organisation: &Organisation,
        new: bool,
        scope: &Scope,
        addresses: &mut RootAddresses,
        now: Now,
    ) -> Result<Planned, CommandError> {
        let known = self.applications.values().find(|it| it.name == draft.name);
        if let Some(foreign) = known.filter(|it| it.organisation != *organisation) {
            return Err(CommandError::Taken {
                kind: "application",
                name: draft.name.to_string(),
                owner: Some(foreign.organisation.clone()).filter(|it| scope.has(it)),
            });
        }
        // Until the last instance of the former owner's has ended, its name is not anybody else's.
        let lives_on = self.instances.values().any(|it| {
            it.id.service.application == draft.name
                && self.owner_of(&it.id.service) != Some(organisation)
        });
        if lives_on {
            return Err(CommandError::Taken {
                kind: "application",
                name: draft.name.to_string(),
                owner: None,
            });
        }
        if new && known.is_some() {
            return Err(CommandError::Exists {
                kind: "application",
                name: draft.name.to_string(),
                remedy: "choose another name or namespace, or add services to it",
            });
        }
        let known = known.cloned();
        let mut services = Vec::new();
        for mut service in std::mem::take(&mut draft.services) {
            let name = service.spec.name.clone();
            service.spec.organisation = organisation.clone();
            if let Some(there) = self.service_named(&name) {
                let kept = there.connectivity == service.connectivity
                    && there.added_files == service.added_files;
                if !kept || !same(&there.spec, &service.spec) {
                    return Err(CommandError::Exists {
                        kind: "service",
                        name: name.to_string(),
                        remedy: "delete it first if it is to be another",
                    });
                }
                services.push(PlannedService::Known(there.id.clone()));
                continue;
            }
            let pins = Pins {
                round_robin: service.spec.round_robin,
                closest: service.spec.closest,
            };
            let assigned = addresses.assign(&name, organisation, &pins, now);
            let assigned = assigned.map_err(|errors| CommandError::Addresses {
                service: name,
                errors: told_to(errors, scope),
            })?;
            service.spec.round_robin = assigned.round_robin;
            service.spec.closest = assigned.closest;
            services.push(PlannedService::New(Box::new(service)));
        }
        Ok(Planned {
            known,
            draft,
            services,
        })
    }

    pub(super) fn describe(
        &mut self,
        id: &str,
        description: String,
        scope: &Scope,
        step: &mut Step,
    ) -> Result<(), CommandError> {
        let known = self.applications.get_mut(id);
        let application = known
            .filter(|it| scope.has(&it.organisation))
            .ok_or_else(|| CommandError::unknown("application", id))?;
        application.description = description;
        let stored = Write::put(state::APPLICATION, id.to_owned(), application)?;
        step.writes.push(stored);
        Ok(())
    }

    fn make_application(
        &mut self,
        name: ApplicationName,
        description: String,
        customer: String,
        organisation: Organisation,
        now: Now,
        step: &mut Step,
    ) -> Result<Application, RecordError> {
        self.know_organisation(&organisation, now, step)?;
        let application = Application {
            id: self.next_id(now),
            name,
            organisation,
            description,
            customer,
        };
        let stored = Write::put(state::APPLICATION, application.id.clone(), &application)?;
        step.writes.push(stored);
        self.applications
            .insert(application.id.clone(), application.clone());
        Ok(application)
    }

    fn make_service(
        &mut self,
        application: &str,
        draft: ServiceDraft,
        now: Now,
        step: &mut Step,
    ) -> Result<String, RecordError> {
        let id = self.next_id(now);
        let name = draft.spec.name.clone();
        let service = Service {
            id: id.clone(),
            application: application.to_owned(),
            spec: draft.spec,
            connectivity: draft.connectivity,
            added_files: draft.added_files,
            written: draft.written,
            generation: self.next_generation(),
            next_instance: 0,
        };
        if self.removed.remove(&name).is_some() {
            step.writes
                .push(Write::delete(state::REMOVED, name.to_string()));
        }
        step.writes
            .push(Write::put(state::SERVICE, id.clone(), &service)?);
        self.sign_service(&service, step);
        self.services.insert(id.clone(), service);
        Ok(id)
    }
}

/// What of these faults somebody may know.
fn told_to(errors: Vec<AddressError>, scope: &Scope) -> Vec<AddressError> {
    match scope {
        Scope::All => errors,
        Scope::Of(_) => {
            let told = errors.into_iter().map(|it| it.told_to(|of| scope.has(of)));
            told.collect()
        }
    }
}

/// Whether a draft says the same as a service that is there, whose addresses were assigned.
fn same(there: &ServiceSpec, draft: &ServiceSpec) -> bool {
    let mut draft = draft.clone();
    for (pinned, has) in [
        (&mut draft.round_robin, there.round_robin),
        (&mut draft.closest, there.closest),
    ] {
        pinned.v4 = pinned.v4.or(has.v4);
        pinned.v6 = pinned.v6.or(has.v6);
    }
    draft == *there
}
