//! Starts the packet thread with what the daemon has prepared.

use std::sync::mpsc::Sender;

use crate::config::{NetConfig, RowSource};
use crate::driver::{self, DriverConfig, RunningDriver};
use crate::env::Overlay;
use crate::socket::DataSocket;
use crate::tun::Offloads;

use super::{Event, Identified, TableKeeper};

/// Opens the TUN and starts the packet thread on it and on `socket`.
pub(super) fn start(
    config: &NetConfig,
    identified: &Identified,
    keeper: &TableKeeper,
    overlay: &Overlay,
    socket: DataSocket,
    events: &Sender<Event>,
) -> anyhow::Result<RunningDriver> {
    let offloads = if config.overlay.offloads {
        Offloads::On
    } else {
        Offloads::Off
    };
    let cluster = match &config.source {
        RowSource::File(_) => None,
        RowSource::Cluster(addresses) => Some(addresses.clone()),
    };
    let (shown, relay_token) = keeper.starts_with();
    let (events, told) = (events.clone(), events.clone());
    driver::spawn(DriverConfig {
        credentials: identified.credentials.clone(),
        socket,
        tun: overlay.open_tun(offloads)?,
        table: keeper.snapshot().load_full(),
        reset_key: keeper.reset_key()?,
        known_peers: keeper.kept_peers(),
        cluster,
        relay_token,
        shown,
        heard: Box::new(move |heard| drop(told.send(Event::Heard(heard)))),
        // The packet thread writes no files: the daemon's thread does.
        on_peers: Box::new(move |peers| drop(events.send(Event::Peers(peers)))),
    })
}
