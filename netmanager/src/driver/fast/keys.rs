//! Keys of the fast lane: the handshakes that give them, and when they end.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use netmanager_core::fast::lane::{FastKeys, FastLane};
use netmanager_core::fast::{FastOpener, FastSealer, FastSecret, Library};
use netmanager_core::table::PeerId;
use quinn_proto::ConnectionError;
use weald_proto::id::Identity;
use weald_trust::tls;

use crate::driver::Driver;
use crate::driver::drive::CloseCode;
use crate::driver::session::{Session, With};
use crate::quic::{Slot, agreement};

/// How long a session has lasted before it gets keys: short ones do without a second handshake.
const SETTLED: Duration = Duration::from_secs(1);
/// The label of the keys (RFC 8446, section 7.5).
const LABEL: &str = "weald fast";

impl Driver {
    /// Begins a handshake for keys, if this end has dialled the session: then the other one waits
    /// for it.
    pub(super) fn agree(&mut self, peer: PeerId) {
        let session = self.session_with(peer);
        let is_due = session.is_some_and(|session| {
            let settled = session
                .established
                .is_some_and(|at| at + SETTLED <= self.now);
            settled && session.dialled && session.path.is_some()
        });
        let path = session.and_then(|session| session.path);
        let Some(entry) = self.peers.get_mut(&peer).filter(|_| is_due) else {
            return;
        };
        entry.fast.handle_dial();
        let expected = Identity::Node(entry.node.clone());
        let crypto = self
            .credentials
            .client_config(&expected, agreement::FAST_ALPN);
        let dialled = crypto.and_then(|crypto| {
            let config = agreement::client_config(crypto);
            self.connect(config, With::Agreement(peer), |session| {
                session.path = path;
                session.is_agreement = true;
            })
        });
        if let Err(error) = dialled {
            tracing::error!(%error, %expected, "cannot dial for keys of the fast lane");
            if let Some(entry) = self.peers.get_mut(&peer) {
                entry.fast.handle_end_of_dial(self.now);
            }
        }
    }

    /// A handshake for keys is complete, dialled by this node or by the peer.
    pub(in crate::driver) fn establish_agreement(&mut self, slot: Slot, peer: PeerId) {
        let library = tls::faster_aes();
        let Some(session) = self.sessions.of_mut(slot) else {
            return;
        };
        session.with = With::Agreement(peer);
        let dialled = session.dialled;
        let keys = derive(session, library, self.now);
        self.sessions.settle(slot, self.now);
        let keys = match keys {
            Ok(keys) => keys,
            Err(error) => {
                tracing::error!(%error, peer = %self.name_of(peer), "no keys for the fast lane");
                return;
            }
        };
        let id = keys.opener.id();
        // Two of 2^56 that are the same: the next agreement gives others.
        let is_taken = self.fast.owners.contains_key(&id);
        let Some(entry) = self.peers.get_mut(&peer).filter(|entry| {
            // Keys end with the session, so there are none without one.
            entry.session.is_some() && !is_taken
        }) else {
            return;
        };
        let former = entry.agreement.replace(slot);
        let gone = entry.fast.handle_keys(keys, dialled, self.now);
        self.fast.forget(gone);
        self.fast.owners.insert(id, peer);
        tracing::debug!(peer = %self.name_of(peer), dialled, "keys of the fast lane");
        // A peer holds no more than one of them open.
        if let Some(former) = former.filter(|former| *former != slot) {
            self.close(former, CloseCode::Superseded);
        }
        if !dialled {
            self.prove(peer);
        }
    }

    /// Shows a peer that this end has the keys that it has dialled for. If this is lost, the next
    /// packet does.
    fn prove(&mut self, peer: PeerId) {
        let path = self.session_with(peer).and_then(|session| session.path);
        let sealer = self.peers.get_mut(&peer);
        let sealer = sealer.and_then(|entry| entry.fast.sealer(self.now));
        let (Some(path), Some(sealer)) = (path, sealer) else {
            return;
        };
        let mut frame = Vec::new();
        if sealer.seal(&[], &mut frame).is_ok() {
            let len = frame.len();
            self.send_on(path, &frame, len);
        }
    }

    /// A handshake for keys is over. If it gave any, they stay.
    pub(in crate::driver) fn agreement_lost(
        &mut self,
        slot: Slot,
        peer: PeerId,
        reason: &ConnectionError,
    ) {
        let session = self.sessions.of(slot);
        let failed = session.is_some_and(|it| it.dialled && it.established.is_none());
        let Some(entry) = self.peers.get_mut(&peer) else {
            return;
        };
        entry.agreement.take_if(|agreement| *agreement == slot);
        if failed {
            tracing::debug!(peer = %entry.node, %reason, "no keys for the fast lane");
            entry.fast.handle_end_of_dial(self.now);
        }
    }

    /// The session with a peer is another one, or gone: so are the keys.
    pub(in crate::driver) fn forget_fast(&mut self, peer: PeerId) {
        if let Some(entry) = self.peers.get_mut(&peer) {
            let gone = entry.fast.reset();
            self.fast.forget(gone);
        }
    }

    pub(in crate::driver) fn fast_deadline(&self) -> Option<Instant> {
        let lanes = self.peers.values().map(|entry| &entry.fast);
        lanes.filter_map(FastLane::poll_timeout).min()
    }

    /// Forgets keys that are too old.
    pub(in crate::driver) fn handle_fast_timeouts(&mut self) {
        for entry in self.peers.values_mut() {
            if entry.fast.poll_timeout().is_some_and(|at| at <= self.now) {
                let gone = entry.fast.handle_timeout(self.now);
                self.fast.forget(gone);
            }
        }
    }
}

/// The keys that a handshake gives this end.
fn derive(session: &Session, library: tls::AesLibrary, now: Instant) -> anyhow::Result<FastKeys> {
    let crypto = session.connection.crypto_session();
    let export = |what: &str, end: &str| -> anyhow::Result<[u8; 16]> {
        let mut out = [0; 16];
        tls::export(crypto, LABEL, format!("{what} {end}").as_bytes(), &mut out)
            .ok()
            .context("the handshake exports no keys")?;
        Ok(out)
    };
    let secret = |from: &str, to: &str| -> anyhow::Result<FastSecret> {
        let id = export("id at", to)?;
        Ok(FastSecret {
            key: export("key of", from)?,
            salt: export("salt of", from)?,
            id: id.first_chunk().map_or(0, |id| u64::from_be_bytes(*id)),
        })
    };
    let (own, other) = if session.dialled {
        ("client", "server")
    } else {
        ("server", "client")
    };
    let library = match library {
        tls::AesLibrary::AwsLc => Library::AwsLc,
        tls::AesLibrary::Ring => Library::Ring,
    };
    Ok(FastKeys {
        sealer: FastSealer::new(&secret(own, other)?, library, now),
        opener: FastOpener::new(&secret(other, own)?, library, now),
    })
}
