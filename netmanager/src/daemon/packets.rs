//! Starts the packet thread with what the daemon has prepared.

use std::sync::mpsc::Sender;

use netmanager_core::peer::punch::PunchLimits;
use weald_trust::tls;

use crate::config::{NetConfig, RowSource};
use crate::driver::{self, DriverConfig, RunningDriver};
use crate::socket::DataSocket;

use super::ground::Footing;
use super::{Event, Identified, TableKeeper};

/// Starts the packet thread on its footing and on `socket`.
pub(super) fn start(
    config: &NetConfig,
    identified: &Identified,
    keeper: &TableKeeper,
    footing: Footing,
    socket: DataSocket,
    events: &Sender<Event>,
) -> anyhow::Result<RunningDriver> {
    let cluster = match &config.source {
        RowSource::File(_) => None,
        RowSource::Cluster(addresses) => Some(addresses.clone()),
    };
    let (shown, relay_token) = keeper.starts_with();
    let (events, told) = (events.clone(), events.clone());
    let fast_lane = config.data_plane.fast_lane;
    if fast_lane && !tls::has_aes() {
        tracing::warn!("fast_lane = true is without effect: this CPU has no instructions for AES");
    }
    driver::spawn(DriverConfig {
        credentials: identified.credentials.clone(),
        socket,
        tun: footing.device,
        lane: footing.lane,
        choices: footing.choices,
        table: keeper.snapshot().load_full(),
        reset_key: keeper.reset_key()?,
        known_peers: keeper.kept_peers(),
        cluster,
        relay_token,
        shown,
        revoked: keeper.revoked(),
        fast_lane: fast_lane && tls::has_aes(),
        advertise: config.paths.advertise.clone(),
        idle_teardown: config.paths.idle_teardown,
        punch: PunchLimits {
            punch: config.paths.punch,
            spray: config.paths.spray,
        },
        heard: Box::new(move |heard| drop(told.send(Event::Heard(heard)))),
        // The packet thread waits for no disk: the daemon's thread writes this.
        on_peers: Box::new(move |peers| drop(events.send(Event::Peers(peers)))),
    })
}
