//! Tells the choice of relays how far they are, and brings the sessions in line with it.

use netmanager_core::peer::paths::RelayIndex;
use netmanager_core::peer::relay_choice::RelayChoice;
use weald_proto::id::RelayId;
use weald_proto::table::RelayRow;

use super::Driver;
use crate::quic::Slot;

/// Which relays there are to be, and what the next one is called.
#[derive(Debug, Default)]
pub(in crate::driver) struct Plan {
    pub(super) choice: RelayChoice,
    next: u32,
}

impl Plan {
    /// A name for paths that no relay has had.
    pub(super) const fn next_index(&mut self) -> RelayIndex {
        let index = RelayIndex(self.next);
        self.next += 1;
        index
    }
}

impl Driver {
    /// The rows of the relays that have a session now, or are to have one.
    pub(super) fn wanted_relays(&mut self) -> Vec<RelayRow> {
        let rows = self.table.relays();
        let ids: Vec<RelayId> = rows.iter().map(|row| row.id.clone()).collect();
        let choice = &mut self.relay_plan.choice;
        choice.set_rows(&ids, self.now);
        choice.take_changed();
        let wanted = rows.iter().filter(|row| choice.wants(&row.id));
        wanted.cloned().collect()
    }

    /// Begins and ends what is due of the choice.
    pub(super) fn choose_relays(&mut self) {
        let due = self.relay_plan.choice.poll_timeout();
        if due.is_some_and(|at| at <= self.now) {
            for entry in self.relays.iter().filter(|entry| entry.is_registered()) {
                let session = entry.session.and_then(|slot| self.sessions.of(slot));
                if let Some(session) = session {
                    let rtt = session.connection.rtt();
                    self.relay_plan.choice.handle_rtt(&entry.id, rtt, self.now);
                }
            }
            self.relay_plan.choice.handle_timeout(self.now);
        }
        if self.relay_plan.choice.take_changed() {
            self.update_relays();
        }
    }

    /// The handshake with a relay is done, which shows how far it is. Whether it is to stay.
    pub(super) fn is_to_stay(&mut self, slot: Slot, index: RelayIndex) -> bool {
        let entry = self.relays.iter().find(|entry| entry.index == index);
        let session = self.sessions.of(slot);
        if let (Some(entry), Some(session)) = (entry, session) {
            let rtt = session.connection.rtt();
            tracing::debug!(relay = %entry.id, ?rtt, "the relay answers");
            self.relay_plan.choice.handle_rtt(&entry.id, rtt, self.now);
        }
        if self.relay_plan.choice.take_changed() {
            self.update_relays();
        }
        self.relays.iter().any(|entry| entry.index == index)
    }

    /// Everything may be nearer or farther than it was.
    pub(in crate::driver) fn measure_relays_anew(&mut self) {
        self.relay_plan.choice.network_changed();
    }
}
