//! Starts sessions from this side, with peers and with relays alike, and ends all of them.

use anyhow::Context as _;
use quinn_proto::ClientConfig;
use weald_trust::tls::SERVER_NAME;

use super::Driver;
use super::drive::CloseCode;
use super::session::{Session, With};
use crate::quic::Slot;

/// How long the end of the sessions may take to be sent at shutdown.
const SHUTDOWN_ROUNDS: usize = 3;

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

    /// Says good-bye on every session, so that peers need not wait for silence.
    pub(super) fn end_sessions(&mut self) {
        self.end_lane();
        for slot in self.sessions.slots() {
            self.close(slot, CloseCode::Shutdown);
        }
        for _ in 0..SHUTDOWN_ROUNDS {
            self.drive_touched();
            self.io.flush();
            self.flush_tunnels();
        }
    }

    pub(super) fn next_seed(&mut self) -> u64 {
        self.seed = self
            .seed
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(1);
        self.seed
    }
}
