//! The fair queue: deficit round robin over organisations, first in first out within one.
//!
//! An organisation that floods fills and overflows its own queue only; the others get their share
//! of the rate (M. Shreedhar and G. Varghese, 1995). Bytes are bounded per organisation and in
//! all. It knows nothing of keys and addresses.

use std::collections::VecDeque;

use slab::Slab;

/// What an organisation may send in one turn: enough for a batch, and above the largest frame, so
/// that every turn sends something.
pub(super) const QUANTUM: usize = 16 << 10;

/// Buffers that are kept for reuse.
const MAX_SPARE_BUFFERS: usize = 1024;

/// Which organisation, within the relay; stable while it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OrganisationKey(pub(super) usize);

/// A frame that waits.
#[derive(Debug)]
pub(super) struct Queued {
    /// The link of the node that it came from.
    pub(super) sender: u32,
    /// The link of the node that it goes to.
    pub(super) receiver: u32,
    /// The whole frame.
    pub(super) frame: Vec<u8>,
}

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueueLimits {
    /// Bytes of one organisation.
    pub(super) organisation: usize,
    /// Bytes of all; beyond it every organisation has only an equal part of this.
    pub(super) total: usize,
}

#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<Queued>,
    bytes: usize,
    /// What it may still send in this turn.
    credit: usize,
}

/// The queues of all organisations.
#[derive(Debug)]
pub(super) struct FairQueue {
    limits: QueueLimits,
    lanes: Slab<Lane>,
    /// Organisations with waiting frames, in the order of their turns.
    turns: VecDeque<OrganisationKey>,
    bytes: usize,
    spare: Vec<Vec<u8>>,
}

impl FairQueue {
    pub(super) const fn new(limits: QueueLimits) -> Self {
        Self {
            limits,
            lanes: Slab::new(),
            turns: VecDeque::new(),
            bytes: 0,
            spare: Vec::new(),
        }
    }

    /// Makes room for one more organisation.
    pub(super) fn add_organisation(&mut self) -> OrganisationKey {
        OrganisationKey(self.lanes.insert(Lane::default()))
    }

    /// Forgets an organisation; it must have nothing waiting.
    pub(super) fn remove_organisation(&mut self, key: OrganisationKey) {
        if let Some(lane) = self.lanes.try_remove(key.0) {
            debug_assert!(lane.waiting.is_empty(), "frames are waiting");
        }
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Copies a frame to the end of its organisation's queue; false if there is no room.
    pub(super) fn push(
        &mut self,
        key: OrganisationKey,
        sender: u32,
        receiver: u32,
        bytes: &[u8],
    ) -> bool {
        let share = self.limits.total / self.turns.len().max(1);
        let Some(lane) = self.lanes.get_mut(key.0) else {
            return false;
        };
        let after = lane.bytes + bytes.len();
        if after > self.limits.organisation
            || (self.bytes + bytes.len() > self.limits.total && after > share)
        {
            return false;
        }
        let mut frame = self.spare.pop().unwrap_or_default();
        frame.clear();
        frame.extend_from_slice(bytes);
        if lane.waiting.is_empty() {
            lane.credit = QUANTUM;
            self.turns.push_back(key);
        }
        lane.waiting.push_back(Queued {
            sender,
            receiver,
            frame,
        });
        lane.bytes = after;
        self.bytes += bytes.len();
        true
    }

    /// The frame whose turn it is, and whose it is.
    pub(super) fn peek(&mut self) -> Option<(OrganisationKey, &Queued)> {
        let key = self.turn()?;
        let queued = self.lanes.get(key.0)?.waiting.front()?;
        Some((key, queued))
    }

    /// The frame after the one that was just taken, if the same organisation may send it in the
    /// same turn.
    pub(super) fn peek_more(&self, key: OrganisationKey) -> Option<&Queued> {
        let lane = self.lanes.get(key.0)?;
        lane.waiting
            .front()
            .filter(|queued| queued.frame.len() <= lane.credit)
    }

    /// Takes the first frame of an organisation and charges its turn for it.
    pub(super) fn pop(&mut self, key: OrganisationKey) -> Option<Queued> {
        let lane = self.lanes.get_mut(key.0)?;
        let queued = lane.waiting.pop_front()?;
        lane.bytes -= queued.frame.len();
        lane.credit = lane.credit.saturating_sub(queued.frame.len());
        self.bytes -= queued.frame.len();
        if lane.waiting.is_empty() {
            lane.credit = 0;
            self.turns.retain(|turn| *turn != key);
        }
        Some(queued)
    }

    /// Gives a taken frame's buffer back.
    pub(super) fn recycle(&mut self, queued: Queued) {
        if self.spare.len() < MAX_SPARE_BUFFERS {
            self.spare.push(queued.frame);
        }
    }

    /// Whose turn it is. Who has used up the turn goes to the end with credit for the next one,
    /// which no frame exceeds: so this ends after one round at most.
    fn turn(&mut self) -> Option<OrganisationKey> {
        for _ in 0..=self.turns.len() {
            let key = *self.turns.front()?;
            let lane = self.lanes.get_mut(key.0)?;
            let first = lane.waiting.front()?.frame.len();
            if first <= lane.credit {
                return Some(key);
            }
            lane.credit += QUANTUM;
            self.turns.rotate_left(1);
        }
        None
    }
}
