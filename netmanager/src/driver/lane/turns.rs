//! Whose turn it is: the connections of each session that have something to move.
//!
//! What may be written to a session's streams opens up a little at a time, and quinn-proto tells the
//! stream first that was held back last. So whoever may go on is only noted, and then all are
//! served in a circle, beginning behind whoever was served last.

use std::collections::{BTreeMap, BTreeSet};

use super::conn::ConnId;
use crate::quic::Slot;

/// The circles of all sessions.
#[derive(Debug, Default)]
pub(super) struct Turns {
    of: BTreeMap<Slot, Circle>,
}

#[derive(Debug, Default)]
struct Circle {
    waiting: BTreeSet<ConnId>,
    served: Option<ConnId>,
}

impl Turns {
    /// Notes that a connection of the session in `slot` may have something to move.
    pub(super) fn want(&mut self, slot: Slot, id: ConnId) {
        self.of.entry(slot).or_default().waiting.insert(id);
    }

    /// Takes out all that wait, in the order in which they are to be served.
    pub(super) fn take(&mut self, slot: Slot) -> Vec<ConnId> {
        let Some(circle) = self.of.get_mut(&slot) else {
            return Vec::new();
        };
        let mut all: Vec<ConnId> = std::mem::take(&mut circle.waiting).into_iter().collect();
        if let Some(served) = circle.served {
            let next = all.partition_point(|id| *id <= served);
            all.rotate_left(next);
        }
        all
    }

    /// Notes that a connection has got something into its stream.
    pub(super) fn served(&mut self, slot: Slot, id: ConnId) {
        self.of.entry(slot).or_default().served = Some(id);
    }

    /// Forgets a connection.
    pub(super) fn remove(&mut self, slot: Slot, id: ConnId) {
        if let Some(circle) = self.of.get_mut(&slot) {
            circle.waiting.remove(&id);
        }
    }

    /// Forgets a session.
    pub(super) fn forget(&mut self, slot: Slot) {
        self.of.remove(&slot);
    }

    /// The sessions with connections that wait.
    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> {
        let waiting =
            |(slot, circle): (&Slot, &Circle)| (!circle.waiting.is_empty()).then_some(*slot);
        self.of.iter().filter_map(waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_was_served_last_is_the_last_again() {
        let id = |number| ConnId::of_data(number);
        let (mut turns, slot) = (Turns::default(), Slot(3));
        let mut got = [0; 3];
        // There is room for one of three at a time, and all are told of it, the last one first.
        for _ in 0..300 {
            for number in [2, 1, 0] {
                turns.want(slot, id(number));
            }
            let order = turns.take(slot);
            assert_eq!(order.len(), 3);
            turns.served(slot, order[0]);
            got[order[0].data() as usize] += 1;
        }
        assert_eq!(got, [100; 3]);
        assert_eq!(turns.slots().count(), 0);
        turns.want(slot, id(1));
        turns.want(Slot(4), id(1));
        turns.remove(slot, id(1));
        assert!(turns.slots().eq([Slot(4)]));
        turns.forget(Slot(4));
        assert!(turns.take(Slot(4)).is_empty());
    }
}
