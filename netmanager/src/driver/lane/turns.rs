//! Whose turn it is: the connections of each session that have something to move.
//!
//! What may be written to a session's streams opens up by pieces of all sizes, and quinn-proto tells
//! the stream first that was held back last. So whoever may go on is only noted, and then all are
//! served in a circle. A turn is so many bytes, not one of those pieces: it lasts over as many of
//! them as it takes, and the next one's begins where it ends (deficit round robin as of Shreedhar
//! and Varghese, SIGCOMM'95, without deficits, because a turn can end at any byte).

use std::collections::{BTreeMap, BTreeSet};

use super::conn::ConnId;
use crate::quic::Slot;

/// Moved for one connection before others have their turn, in each direction: less than may be
/// written ahead, so that one turn does not take what all others wait for.
pub(super) const TURN_BYTES: usize = 64 << 10;

/// The circles of all sessions.
#[derive(Debug, Default)]
pub(super) struct Turns {
    of: BTreeMap<Slot, Circle>,
}

#[derive(Debug, Default)]
struct Circle {
    waiting: BTreeSet<ConnId>,
    /// Whose turn it is, or was, and the bytes of it that are left.
    turn: Option<(ConnId, usize)>,
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
        if let Some((of, left)) = circle.turn {
            let next = all.partition_point(|id| *id < of || (*id == of && left == 0));
            all.rotate_left(next);
        }
        all
    }

    /// How many bytes a connection may move before its turn ends.
    pub(super) fn left(&self, slot: Slot, id: ConnId) -> usize {
        match self.of.get(&slot).and_then(|circle| circle.turn) {
            Some((of, left @ 1..)) if of == id => left,
            Some(_) | None => TURN_BYTES,
        }
    }

    /// Notes that a connection has got so many bytes into its stream.
    pub(super) fn served(&mut self, slot: Slot, id: ConnId, bytes: usize) {
        let left = self.left(slot, id).saturating_sub(bytes);
        self.of.entry(slot).or_default().turn = Some((id, left));
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

    const SLOT: Slot = Slot(3);

    fn id(number: usize) -> ConnId {
        ConnId::of_data(number as u64)
    }

    /// What each of three connections gets of a window that opens by such pieces, all of them being
    /// told of it each time, the last one first.
    fn shares(pieces: impl Iterator<Item = usize>) -> [usize; 3] {
        let (mut turns, mut got) = (Turns::default(), [0; 3]);
        for mut piece in pieces {
            for number in [2, 1, 0] {
                turns.want(SLOT, id(number));
            }
            while piece > 0 {
                for conn in turns.take(SLOT) {
                    let bytes = piece.min(turns.left(SLOT, conn));
                    if bytes > 0 {
                        turns.served(SLOT, conn, bytes);
                    }
                    got[conn.data() as usize] += bytes;
                    piece -= bytes;
                    turns.want(SLOT, conn);
                }
            }
        }
        got
    }

    #[test]
    fn shares_are_equal_whatever_a_window_opens_by() {
        let within_a_turn = |pieces: &[usize]| {
            let got = shares(pieces.iter().copied().cycle().take(999));
            let spread = got.iter().max().unwrap() - got.iter().min().unwrap();
            assert!(spread <= TURN_BYTES, "{pieces:?}: {got:?}");
        };
        // Were a turn one piece, the same one of three would always get the large one.
        within_a_turn(&[100_000, 1_000, 1_000]);
        within_a_turn(&[TURN_BYTES / 8]);
        within_a_turn(&[3 * TURN_BYTES, 7, TURN_BYTES - 1]);
        within_a_turn(&[1_200, 64 << 10]);
    }

    #[test]
    fn a_turn_is_whose_it_was_until_its_bytes_are_used_up() {
        let mut turns = Turns::default();
        let all = |turns: &mut Turns| {
            for number in 0..3 {
                turns.want(SLOT, id(number));
            }
            turns.take(SLOT)
        };
        assert_eq!(all(&mut turns), [id(0), id(1), id(2)]);
        turns.served(SLOT, id(1), TURN_BYTES - 1);
        assert_eq!(
            (turns.left(SLOT, id(1)), turns.left(SLOT, id(0))),
            (1, TURN_BYTES)
        );
        assert_eq!(all(&mut turns), [id(1), id(2), id(0)]);
        turns.served(SLOT, id(1), 1);
        assert_eq!(turns.left(SLOT, id(1)), TURN_BYTES);
        assert_eq!(all(&mut turns), [id(2), id(0), id(1)]);
        // Who has nothing to move holds nobody up.
        turns.served(SLOT, id(0), 5);
        assert_eq!(all(&mut turns), [id(0), id(1), id(2)]);
        turns.want(SLOT, id(2));
        assert_eq!(turns.take(SLOT), [id(2)]);
    }

    #[test]
    fn what_is_gone_has_no_turn() {
        let mut turns = Turns::default();
        turns.want(SLOT, id(1));
        turns.want(Slot(4), id(1));
        turns.remove(SLOT, id(1));
        assert!(turns.slots().eq([Slot(4)]));
        turns.forget(Slot(4));
        assert!(turns.take(Slot(4)).is_empty());
    }
}
