//! Starts sessions from this side, with peers and with relays alike.

use anyhow::Context as _;
use quinn_proto::ClientConfig;
use weald_trust::tls::SERVER_NAME;

use super::Driver;
use super::session::{Session, With};
use crate::quic::Slot;

impl Driver {
    /// Starts a handshake; `place` says where its packets go.
    pub(super) fn connect(
        &mut self,
        config: ClientConfig,
        with: With,
        place: impl FnOnce(&mut Session),
    ) -> anyhow::Result<Slot> {
        let slot = self.sessions.next_slot().context("too many sessions")?;
        let virtual_address = self.addresses.for_dial();
        self.current_slot.set(slot);
        let connected = self
            .endpoint
            .connect(self.now, config, virtual_address, SERVER_NAME);
        self.current_slot.clear();
        let (handle, connection) = connected?;
        let seed = self.next_seed();
        let start = (seed, self.now);
        let mut session = Session::new(handle, connection, virtual_address, with, true, start);
        place(&mut session);
        self.sessions.insert(slot, session);
        self.touched.insert(slot);
        Ok(slot)
    }
}
