//! The thread that a machine of orchestrator-core lives on, with its store.
//!
//! It takes what has happened from a queue, all that is there at once, and asks the machine what
//! follows. What must be persisted is committed, of all those inputs together, before the first
//! effect of any of them is carried out. What the inputs and effects are is the roles'.

use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant, SystemTime};

use orchestrator_core::Now;
use orchestrator_core::record::{RecordError, Write};

use crate::store::{StateStore, StoreError};

/// Inputs that are handled with one commit.
const MAX_BATCH: usize = 256;

/// What lives on such a thread.
pub trait Machine {
    /// What it is told.
    type Input;
    /// What it has done.
    type Effect;

    /// Takes in what happened; none stands for time that has passed.
    fn handle(
        &mut self,
        input: Option<Self::Input>,
        now: Now,
        writes: &mut Vec<Write>,
        effects: &mut Vec<Self::Effect>,
    ) -> Result<(), RecordError>;

    /// When it wants to be told that time has passed.
    fn next_due(&self) -> Option<Duration>;

    /// Writes that belong to every commit, as of what the keys have judged.
    fn add_writes(&mut self, writes: &mut Vec<Write>) -> Result<(), RecordError>;
}

/// Why a machine has stopped.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The state cannot be kept, so nothing may be promised any more.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record cannot be written; a fault of the program.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Tells the time as machines want it.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    pub fn now(&self) -> Now {
        Now {
            elapsed: self.start.elapsed(),
            unix: unix_now(),
        }
    }
}

/// Seconds since 1970.
pub(crate) fn unix_now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

/// Runs a machine until nobody can tell it anything any more.
///
/// # Errors
/// Its state cannot be kept.
pub fn run<M: Machine>(
    machine: &mut M,
    store: &mut dyn StateStore,
    clock: Clock,
    inputs: &Receiver<M::Input>,
    mut carry_out: impl FnMut(M::Effect),
) -> Result<(), MachineError> {
    let mut writes = Vec::new();
    let mut effects = Vec::new();
    loop {
        let due = machine.next_due();
        let wait = due.map(|due| due.saturating_sub(clock.now().elapsed));
        let first = match wait {
            Some(wait) => match inputs.recv_timeout(wait) {
                Ok(input) => Some(input),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            },
            None => match inputs.recv() {
                Ok(input) => Some(input),
                Err(_) => return Ok(()),
            },
        };
        machine.handle(first, clock.now(), &mut writes, &mut effects)?;
        for _ in 1..MAX_BATCH {
            match inputs.try_recv() {
                Ok(input) => {
                    machine.handle(Some(input), clock.now(), &mut writes, &mut effects)?;
                }
                // The last effects are carried out before the end is noticed.
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        machine.add_writes(&mut writes)?;
        if !writes.is_empty() {
            store.commit(&writes)?;
            writes.clear();
        }
        effects.drain(..).for_each(&mut carry_out);
    }
}

#[cfg(test)]
mod tests;
