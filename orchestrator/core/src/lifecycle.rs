//! The life of one instance: which phase may follow which, and which reports count.
//!
//! What brings an instance from one phase to the next is the machines' affair; here is only what
//! they may not do. A life is a generation: it goes forward and ends, and whoever wants the
//! instance again begins another with a larger one.

use serde::{Deserialize, Serialize};
use weald_proto::control::{Generation, Phase};

/// Every phase, in the order of a life.
pub const PHASES: [Phase; 9] = [
    Phase::Registered,
    Phase::Requested,
    Phase::ClusterScheduled,
    Phase::NodeScheduled,
    Phase::Creating,
    Phase::Running,
    Phase::Completed,
    Phase::Failed,
    Phase::Terminated,
];

/// The phases that may follow `phase` within one life.
///
/// A cluster that lost a node, or whose node rejected or could not start the instance, may choose
/// another one within the same life, so the three phases on a node lead back to
/// [`Phase::ClusterScheduled`]; back to [`Phase::Requested`] leads only a new life.
#[must_use]
pub const fn next(phase: Phase) -> &'static [Phase] {
    use Phase::{
        ClusterScheduled, Completed, Creating, Failed, NodeScheduled, Registered, Requested,
        Running, Terminated,
    };
    match phase {
        Registered => &[Requested, Terminated],
        Requested => &[ClusterScheduled, Failed, Terminated],
        ClusterScheduled => &[NodeScheduled, Failed, Terminated],
        NodeScheduled => &[Creating, ClusterScheduled, Failed, Terminated],
        Creating => &[Running, ClusterScheduled, Failed, Terminated],
        Running => &[Completed, Creating, ClusterScheduled, Failed, Terminated],
        Completed | Failed => &[Terminated],
        Terminated => &[],
    }
}

/// Whether nothing runs and nothing will in this life.
#[must_use]
pub const fn is_over(phase: Phase) -> bool {
    matches!(phase, Phase::Completed | Phase::Failed | Phase::Terminated)
}

/// Whether `to` follows `from` through any number of legal transitions.
///
/// Reports say what is, so those of the phases between may never have come.
#[must_use]
pub fn reaches(from: Phase, to: Phase) -> bool {
    let mut seen = vec![from];
    let mut index = 0;
    while let Some(phase) = seen.get(index).copied() {
        for follower in next(phase) {
            if *follower == to {
                return true;
            }
            if !seen.contains(follower) {
                seen.push(*follower);
            }
        }
        index += 1;
    }
    false
}

/// A transition that no life has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "an instance cannot go from {from:?} to {to:?} in generation {generation}; a new life needs a larger generation"
)]
pub struct IllegalTransition {
    /// The phase that it is in.
    pub from: Phase,
    /// The phase that was wanted or reported.
    pub to: Phase,
    /// The life.
    pub generation: Generation,
}

/// A new life or a removal whose generation is not larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("generation {wanted} is not larger than {known}, which the instance already has")]
pub struct StaleGeneration {
    /// The generation that was wanted.
    pub wanted: Generation,
    /// The generation that the instance has.
    pub known: Generation,
}

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It is of an earlier life and changes nothing.
    Stale,
    /// It says what was known.
    Same,
    /// It changed the phase or the life.
    Changed,
}

/// Where an instance is, as one tier knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Life {
    generation: Generation,
    phase: Phase,
}

impl Default for Life {
    fn default() -> Self {
        Self::registered()
    }
}

impl Life {
    /// An instance that nobody wants yet: generation 0.
    #[must_use]
    pub const fn registered() -> Self {
        Self {
            generation: 0,
            phase: Phase::Registered,
        }
    }

    /// The present life.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// The present phase.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// Takes one step of the present life.
    ///
    /// # Errors
    /// `to` does not follow the present phase directly; nothing has changed.
    pub fn step(&mut self, to: Phase) -> Result<(), IllegalTransition> {
        if next(self.phase).contains(&to) {
            self.phase = to;
            Ok(())
        } else {
            Err(self.illegal(to))
        }
    }

    /// Begins a new life, at [`Phase::Requested`], whatever became of the present one.
    ///
    /// # Errors
    /// The generation is not larger than the present one; nothing has changed.
    pub fn renew(&mut self, generation: Generation) -> Result<(), StaleGeneration> {
        self.raise(generation)?;
        self.phase = Phase::Requested;
        Ok(())
    }

    /// Withdraws every life before `generation`: the phase stays until it is heard to have ended, and
    /// late reports of those lives no longer count.
    ///
    /// # Errors
    /// The generation is not larger than the present one; nothing has changed.
    pub fn withdraw(&mut self, generation: Generation) -> Result<(), StaleGeneration> {
        self.raise(generation)
    }

    /// Takes up a report. A larger generation wins whatever it reports; a smaller one is ignored.
    ///
    /// # Errors
    /// The report is of the present life, and no legal transitions lead there; nothing has changed.
    pub fn hear(
        &mut self,
        generation: Generation,
        phase: Phase,
    ) -> Result<Heard, IllegalTransition> {
        if generation < self.generation {
            return Ok(Heard::Stale);
        }
        if generation == self.generation {
            if phase == self.phase {
                return Ok(Heard::Same);
            }
            if !reaches(self.phase, phase) {
                return Err(self.illegal(phase));
            }
        }
        *self = Self { generation, phase };
        Ok(Heard::Changed)
    }

    const fn raise(&mut self, generation: Generation) -> Result<(), StaleGeneration> {
        if generation <= self.generation {
            return Err(StaleGeneration {
                wanted: generation,
                known: self.generation,
            });
        }
        self.generation = generation;
        Ok(())
    }

    const fn illegal(&self, to: Phase) -> IllegalTransition {
        IllegalTransition {
            from: self.phase,
            to,
            generation: self.generation,
        }
    }
}

#[cfg(test)]
mod tests;
