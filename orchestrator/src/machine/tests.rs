//! What is committed before what is done, written down in the order in which it happens.

use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};

use orchestrator_core::record::Record;

use super::*;
use crate::store::Revision;

/// What has happened, in order.
type Journal = Arc<Mutex<Vec<String>>>;

fn note(journal: &Journal, what: String) {
    journal.lock().unwrap().push(what);
}

/// Wants every number kept, says it, and has the judge say something as well.
#[derive(Debug, Default)]
struct Echo {
    /// Whether a number is to be kept before it is said.
    forgets: bool,
    judged: bool,
}

fn put(key: String) -> Write {
    Write::Put(Record {
        kind: "number".to_owned(),
        key,
        value: Vec::new(),
    })
}

impl Machine for Echo {
    type Input = u32;
    type Effect = u32;

    fn handle(
        &mut self,
        input: Option<u32>,
        _: Now,
        writes: &mut Vec<Write>,
        effects: &mut Vec<u32>,
    ) -> Result<(), RecordError> {
        let number = input.unwrap_or_default();
        if !self.forgets {
            writes.push(put(number.to_string()));
        }
        effects.push(number);
        Ok(())
    }

    fn next_due(&self) -> Option<Duration> {
        None
    }

    fn add_writes(&mut self, writes: &mut Vec<Write>) -> Result<(), RecordError> {
        if self.judged {
            writes.push(put("judged".to_owned()));
        }
        Ok(())
    }
}

/// A disk that notes every commit, and may be full.
struct Disk {
    journal: Journal,
    full: bool,
}

impl StateStore for Disk {
    fn load(&self) -> Result<Vec<Record>, StoreError> {
        Ok(Vec::new())
    }

    fn commit(&mut self, writes: &[Write]) -> Result<Revision, StoreError> {
        if self.full {
            let reason = "the disk is full".to_owned();
            return Err(StoreError::Commit { reason });
        }
        let keys = writes.iter().map(|write| match write {
            Write::Put(record) => record.key.clone(),
            Write::Delete { key, .. } => format!("no {key}"),
        });
        let keys: Vec<_> = keys.collect();
        note(&self.journal, format!("keep {}", keys.join(" ")));
        Ok(Revision(0))
    }

    fn revision(&self) -> Revision {
        Revision(0)
    }
}

/// Runs a machine that is told 1, 2 and 3, and 4 by whoever hears the 1.
fn lived(mut machine: Echo, full: bool) -> (Result<(), MachineError>, Vec<String>) {
    let journal = Journal::default();
    let mut disk = Disk {
        journal: Arc::clone(&journal),
        full,
    };
    let (tell, inputs) = mpsc::channel();
    for number in 1..=3 {
        tell.send(number).unwrap();
    }
    let mut tell: Option<Sender<u32>> = Some(tell);
    let ended = run(&mut machine, &mut disk, Clock::start(), &inputs, |effect| {
        note(&journal, format!("say {effect}"));
        if let Some(tell) = tell.take() {
            tell.send(4).unwrap();
        }
    });
    let journal = journal.lock().unwrap().clone();
    (ended, journal)
}

#[test]
fn all_of_a_batch_is_kept_before_any_of_it_is_said() {
    let machine = Echo {
        judged: true,
        ..Echo::default()
    };
    let (ended, journal) = lived(machine, false);
    ended.unwrap();
    assert_eq!(
        journal,
        [
            "keep 1 2 3 judged",
            "say 1",
            "say 2",
            "say 3",
            "keep 4 judged",
            "say 4"
        ]
    );
}

#[test]
fn what_changes_nothing_is_said_without_a_commit() {
    let machine = Echo {
        forgets: true,
        ..Echo::default()
    };
    let (ended, journal) = lived(machine, true);
    ended.unwrap();
    assert_eq!(journal, ["say 1", "say 2", "say 3", "say 4"]);
}

#[test]
fn a_machine_that_cannot_keep_its_state_ends_and_says_nothing() {
    // Whoever tells it is still there: nothing but the disk ends it.
    let (ended, journal) = lived(Echo::default(), true);
    let text = ended.unwrap_err().to_string();
    assert_eq!(
        text,
        "cannot write the state, nothing was changed: the disk is full"
    );
    assert_eq!(journal, [""; 0]);
}
