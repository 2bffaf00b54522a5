//! The lower side: what it has taken on, and what follows from it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weald_proto::control::Generation;
use weald_proto::name::InstanceId;

/// What the lower side has taken on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Duty<T> {
    /// To run this.
    Run(T),
    /// To end it; it may still run.
    End,
}

/// A duty as it is persisted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept<T> {
    /// Which life.
    pub generation: Generation,
    /// What to do.
    pub duty: Duty<T>,
}

/// What is to be done, after what stands in [`Outcome::keep`] is persisted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action<T> {
    /// Start it.
    Start {
        /// Which instance.
        instance: InstanceId,
        /// Which life.
        generation: Generation,
        /// What it is.
        what: T,
    },
    /// End every life up to this one, and say Terminated of this one, also when nothing runs.
    End {
        /// Which instance.
        instance: InstanceId,
        /// The last life that ends.
        generation: Generation,
    },
    /// It is known already: say again how it is.
    Repeat(InstanceId),
}

/// What follows from a want.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome<T> {
    /// To be persisted first.
    pub keep: Option<(InstanceId, Kept<T>)>,
    /// To be done then.
    pub actions: Vec<Action<T>>,
}

impl<T> Outcome<T> {
    const fn nothing() -> Self {
        Self {
            keep: None,
            actions: Vec::new(),
        }
    }

    fn repeat(instance: InstanceId) -> Self {
        Self {
            keep: None,
            actions: vec![Action::Repeat(instance)],
        }
    }
}

/// What one lower side has taken on.
#[derive(Debug, Clone)]
pub struct Duties<T> {
    kept: BTreeMap<InstanceId, Kept<T>>,
    /// Lives that have ended on this connection: a want that was sent before can still arrive.
    ended: BTreeMap<InstanceId, Generation>,
}

impl<T> Default for Duties<T> {
    fn default() -> Self {
        Self {
            kept: BTreeMap::new(),
            ended: BTreeMap::new(),
        }
    }
}

impl<T: Clone> Duties<T> {
    /// Takes up what was persisted. What each duty asks for is to be done again; starting what runs
    /// already is the runtime's to notice.
    pub fn restore(
        kept: impl IntoIterator<Item = (InstanceId, Kept<T>)>,
    ) -> (Self, Vec<Action<T>>) {
        let duties = Self {
            kept: kept.into_iter().collect(),
            ended: BTreeMap::new(),
        };
        let act = |(instance, kept): (&InstanceId, &Kept<T>)| match &kept.duty {
            Duty::Run(what) => Action::Start {
                instance: instance.clone(),
                generation: kept.generation,
                what: what.clone(),
            },
            Duty::End => Action::End {
                instance: instance.clone(),
                generation: kept.generation,
            },
        };
        let actions = duties.kept.iter().map(act).collect();
        (duties, actions)
    }

    /// What was taken on for an instance.
    #[must_use]
    pub fn get(&self, instance: &InstanceId) -> Option<&Kept<T>> {
        self.kept.get(instance)
    }

    /// Everything that was taken on.
    pub fn iter(&self) -> impl Iterator<Item = (&InstanceId, &Kept<T>)> {
        self.kept.iter()
    }

    /// Whether a want to run it in this life would be taken on as something new.
    #[must_use]
    pub fn is_new(&self, instance: &InstanceId, generation: Generation) -> bool {
        let ended = self.ended.get(instance);
        let kept = self.kept.get(instance).map(|kept| &kept.generation);
        ended
            .into_iter()
            .chain(kept)
            .all(|known| *known < generation)
    }

    /// Gives up a duty to run something, because nobody below takes it. Returns whether the
    /// persisted one is to be removed.
    pub fn give_up(&mut self, instance: &InstanceId, generation: Generation) -> bool {
        let meant = self
            .kept
            .get(instance)
            .is_some_and(|kept| kept.generation == generation && matches!(kept.duty, Duty::Run(_)));
        if meant {
            self.kept.remove(instance);
        }
        meant
    }

    /// A new connection: no want of an earlier one can arrive any more.
    pub fn connected(&mut self) {
        self.ended.clear();
    }

    /// The upper side wants it to run.
    pub fn handle_run(
        &mut self,
        instance: InstanceId,
        generation: Generation,
        what: T,
    ) -> Outcome<T> {
        if self
            .ended
            .get(&instance)
            .is_some_and(|ended| generation <= *ended)
        {
            return Outcome::nothing();
        }
        let before = self.kept.get(&instance).map(|kept| kept.generation);
        if before.is_some_and(|before| generation <= before) {
            return Outcome::repeat(instance);
        }
        let kept = Kept {
            generation,
            duty: Duty::Run(what.clone()),
        };
        self.kept.insert(instance.clone(), kept.clone());
        let start = Action::Start {
            instance: instance.clone(),
            generation,
            what,
        };
        Outcome {
            keep: Some((instance, kept)),
            actions: vec![start],
        }
    }

    /// The upper side wants it gone.
    pub fn handle_end(&mut self, instance: InstanceId, generation: Generation) -> Outcome<T> {
        match self.kept.get(&instance) {
            // A later life than is meant.
            Some(kept) if kept.generation > generation => Outcome::repeat(instance),
            Some(Kept {
                generation: present,
                duty: Duty::End,
            }) if *present == generation => Outcome::repeat(instance),
            Some(_) | None => {
                let kept = Kept {
                    generation,
                    duty: Duty::End,
                };
                self.kept.insert(instance.clone(), kept.clone());
                let end = Action::End {
                    instance: instance.clone(),
                    generation,
                };
                Outcome {
                    keep: Some((instance, kept)),
                    actions: vec![end],
                }
            }
        }
    }

    /// The upper side knows that every life up to this one has ended: the duty is done, if no later
    /// one is to end. Returns whether the persisted one is to be removed.
    pub fn handle_known_end(&mut self, instance: &InstanceId, generation: Generation) -> bool {
        let ended = match self.kept.get(instance) {
            Some(kept) if kept.generation <= generation && matches!(kept.duty, Duty::End) => {
                kept.generation
            }
            Some(_) | None => return false,
        };
        self.kept.remove(instance);
        self.ended.insert(instance.clone(), ended);
        true
    }
}
