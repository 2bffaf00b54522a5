//! What users do: they apply, scale, undeploy and delete, and see what is there before they ask.

use std::collections::BTreeMap;

use super::process::Machine;
use super::site::{MOST, SERVICES, Who, service};
use super::user::{Ask, version};
use super::world::World;

/// A service as a user sees it at root.
#[derive(Debug)]
struct Seen {
    id: String,
    version: u32,
    numbers: Vec<u32>,
}

/// Versions of a service that users have.
const VERSIONS: u64 = 3;
/// Texts of the application that users have.
const TEXTS: u64 = 1000;

impl World {
    /// A user asks for one thing. What is gone is applied again, maybe in another version.
    pub(super) fn users_ask(&mut self) {
        let Some((application, services)) = self.see() else {
            return;
        };
        let at = usize::try_from(self.random.below(SERVICES.len() as u64)).unwrap();
        let name = SERVICES[at].0;
        let text = u32::try_from(self.random.below(TEXTS)).unwrap();
        let Some(seen) = services.get(name) else {
            let one = self.random.one_in(2).then_some(name);
            let ask = self.apply(&services, one, text);
            return self.ask(ask);
        };
        let (id, there) = (seen.id.clone(), seen.numbers.len() as u64);
        let to = u32::try_from(self.random.below(MOST + 1)).unwrap();
        let ask = match (self.random.below(24), application) {
            (0, _) => Ask::Undeploy(id, name, None),
            (1, _) => Ask::DeleteService(id, name),
            (2 | 3, _) if there > 0 => {
                let which = usize::try_from(self.random.below(there)).unwrap();
                Ask::Undeploy(id, name, Some(seen.numbers[which]))
            }
            (4 | 5, _) if there < MOST => Ask::Deploy(id, name),
            (6 | 7, _) => self.apply(&services, None, text),
            // Another version of what is there is refused, and so is all that comes with it.
            (8, _) => {
                let mut versions: BTreeMap<_, _> = services
                    .iter()
                    .map(|(name, it)| (*name, it.version))
                    .collect();
                versions.insert(name, seen.version + 1);
                Ask::Apply(versions, text)
            }
            (9, Some(application)) => Ask::Describe(application, text),
            (10, Some(application)) => Ask::DeleteApplication(application),
            _ => Ask::Scale(id, name, to),
        };
        self.ask(ask);
    }

    /// Applies one service or all of them, those that are there as they are.
    fn apply(
        &mut self,
        services: &BTreeMap<&'static str, Seen>,
        one: Option<&'static str>,
        text: u32,
    ) -> Ask {
        let mut versions = BTreeMap::new();
        for (name, ..) in SERVICES {
            let fresh = u32::try_from(self.random.below(VERSIONS)).unwrap();
            if one.is_none_or(|one| one == name) {
                let there = services.get(name).map(|it| it.version);
                versions.insert(name, there.unwrap_or(fresh));
            }
        }
        Ask::Apply(versions, text)
    }

    /// The application and the services that root shows, if it is there.
    fn see(&self) -> Option<(Option<String>, BTreeMap<&'static str, Seen>)> {
        let process = &self.processes[&Who::Root];
        let Machine::Root(root) = &process.machine else {
            return None;
        };
        if process.down.is_some() {
            return None;
        }
        let application = root.applications().next().map(|it| it.id.clone());
        let services = SERVICES.into_iter().filter_map(|(name, ..)| {
            let known = root.services().find(|it| it.spec.name == service(name))?;
            let instances = root.instances().filter(|it| !it.withdrawn);
            let here = instances.filter(|it| it.id.service == known.spec.name);
            let seen = Seen {
                id: known.id.clone(),
                version: version(&known.spec.command),
                numbers: here.map(|it| it.id.number).collect(),
            };
            Some((name, seen))
        });
        Some((application, services.collect()))
    }
}
