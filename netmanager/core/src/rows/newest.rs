//! The newest statement of each subject, whatever order they come in.
//!
//! What it is about is the type parameters'; who may state it is not asked.

use std::collections::BTreeMap;

use weald_proto::control::Generation;
use weald_proto::statement::Signed;

/// Most subjects of one kind. A cluster of that size does not exist, but one that lasts may have had so
/// many: then those that are gone are forgotten.
const MAX_SUBJECTS: usize = 1 << 18;

/// The newest statement of each subject.
#[derive(Debug, Clone)]
pub(super) struct Newest<K, T> {
    subjects: BTreeMap<K, Entry<T>>,
}

/// The newest of one subject. A subject that is gone is remembered by its generation, so that an
/// older statement cannot bring it back.
#[derive(Debug, Clone)]
struct Entry<T> {
    generation: Generation,
    removed: bool,
    /// None once a complete list was without it.
    row: Option<T>,
    signed: Signed,
}

impl<K: Ord, T> Newest<K, T> {
    pub(super) const fn new() -> Self {
        Self {
            subjects: BTreeMap::new(),
        }
    }

    /// Takes a statement; false if it changes nothing. Of one generation, a removal wins, then the
    /// greater bytes: any rule will do, as long as the order of arrival does not matter.
    pub(super) fn put(
        &mut self,
        key: K,
        generation: Generation,
        removed: bool,
        row: T,
        signed: Signed,
    ) -> bool {
        if self.subjects.len() >= MAX_SUBJECTS && !self.subjects.contains_key(&key) {
            self.subjects
                .retain(|_, entry| entry.row.is_some() && !entry.removed);
        }
        let known = self.subjects.get(&key);
        let wins = match known {
            None => self.subjects.len() < MAX_SUBJECTS,
            Some(known) => {
                let before = (known.generation, known.removed, &known.signed);
                let after = (generation, removed, &signed);
                after > before || (after == before && known.row.is_none())
            }
        };
        if wins {
            self.subjects.insert(
                key,
                Entry {
                    generation,
                    removed,
                    row: Some(row),
                    signed,
                },
            );
        }
        wins
    }

    /// Takes the subjects for gone, but remembers their generations.
    pub(super) fn withdraw(&mut self, gone: impl Fn(&K) -> bool) {
        for (key, entry) in &mut self.subjects {
            if gone(key) {
                entry.row = None;
            }
        }
    }

    /// Takes those for gone whose statement does not hold any more, but remembers their generations.
    pub(super) fn withdraw_unless(&mut self, holds: &mut dyn FnMut(&Signed) -> bool) {
        for entry in self.subjects.values_mut() {
            if entry.row.is_some() && !holds(&entry.signed) {
                entry.row = None;
            }
        }
    }

    /// Forgets the subjects as if they had never been.
    pub(super) fn forget(&mut self, gone: impl Fn(&K) -> bool) {
        self.subjects.retain(|key, _| !gone(key));
    }

    /// The newest generation that was stated of a subject, be it there or not.
    pub(super) fn generation(&self, key: &K) -> Option<Generation> {
        Some(self.subjects.get(key)?.generation)
    }

    /// The statement that a subject is gone, if that is the newest word and holds.
    pub(super) fn removed(&self, key: &K) -> Option<&T> {
        let entry = self.subjects.get(key)?;
        entry.row.as_ref().filter(|_| entry.removed)
    }

    pub(super) fn get(&self, key: &K) -> Option<&T> {
        let entry = self.subjects.get(key)?;
        entry.row.as_ref().filter(|_| !entry.removed)
    }

    /// Every subject that is there, in the order of the keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        let there = self.subjects.values().filter(|entry| !entry.removed);
        there.filter_map(|entry| entry.row.as_ref())
    }

    /// What was stated last of every subject that was not withdrawn, removals among them.
    pub(super) fn signed(&self) -> impl Iterator<Item = &Signed> {
        let stated = self.subjects.values().filter(|entry| entry.row.is_some());
        stated.map(|entry| &entry.signed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed() -> Signed {
        Signed {
            statement: Vec::new(),
            signature: Vec::new(),
            cluster: None,
        }
    }

    #[test]
    fn those_that_are_gone_make_room_and_those_that_are_there_do_not() {
        let mut newest: Newest<usize, ()> = Newest::new();
        for key in 0..MAX_SUBJECTS {
            assert!(newest.put(key, 7, key % 4 == 0, (), signed()));
        }
        newest.withdraw(|key| *key == 1);
        assert!(newest.put(MAX_SUBJECTS, 7, false, (), signed()));
        assert_eq!(newest.generation(&0), None, "removed");
        assert_eq!(newest.generation(&1), None, "withdrawn");
        assert!(newest.get(&2).is_some());
        let left = newest.iter().count();
        for key in 0..MAX_SUBJECTS - left {
            assert!(newest.put(2 * MAX_SUBJECTS + key, 7, false, (), signed()));
        }
        assert!(
            !newest.put(4 * MAX_SUBJECTS, 7, false, (), signed()),
            "full"
        );
        assert!(
            newest.put(2, 8, false, (), signed()),
            "a known one is taken"
        );
    }
}
