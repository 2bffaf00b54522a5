//! What the daemon stands on: an overlay namespace with a TUN, or userspace mode.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use anyhow::Context;
use netmanager_core::table::Snapshot;

use super::table_keeper::Candidate;
use super::{Event, Identified, TableKeeper, env_config};
use crate::config::NetConfig;
use crate::device::Device;
use crate::dns_server::DnsSockets;
use crate::driver::{ChoiceFile, DriverHandle, LaneSockets};
use crate::env::{NftCounters, Overlay};
use crate::tun::Offloads;
use crate::userspace::{self, Tell, Userspace, UserspaceConfig};

/// What is behind the packet thread's device.
#[derive(Debug)]
pub(super) enum Ground {
    /// The kernel, in the overlay's namespace.
    Overlay(Overlay),
    /// A stack of this process.
    Userspace(Userspace),
}

/// What the packet thread stands on.
#[derive(Debug)]
pub(super) struct Footing {
    pub(super) device: Device,
    pub(super) lane: LaneSockets,
    pub(super) choices: ChoiceFile,
}

impl Ground {
    /// Makes it, and what the packet thread needs of it.
    pub(super) fn make(
        config: &NetConfig,
        userspace: Option<UserspaceConfig>,
        identified: &Identified,
        keeper: &TableKeeper,
    ) -> anyhow::Result<(Self, Footing)> {
        if let Some(wanted) = userspace {
            let (userspace, packets) = Userspace::prepare(wanted, &keeper.snapshot().load())?;
            let footing = Footing {
                device: Device::Pipe(packets),
                lane: LaneSockets::published(userspace.servers()),
                // Its connections end with the process.
                choices: ChoiceFile::default(),
            };
            return Ok((Self::Userspace(userspace), footing));
        }
        let env = env_config(config, identified, &keeper.candidate_in_use())?;
        let overlay = Overlay::up(env).context(
            "cannot make the overlay; without privileges there is `netmanager up --userspace`",
        )?;
        let offloads = if config.overlay.offloads {
            Offloads::On
        } else {
            Offloads::Off
        };
        let footing = Footing {
            device: Device::Tun(overlay.open_tun(offloads)?),
            lane: LaneSockets::open(&overlay)?,
            choices: ChoiceFile::open(&overlay.connections_path()),
        };
        Ok((Self::Overlay(overlay), footing))
    }

    /// Starts what stands beside the packet thread.
    pub(super) fn start(
        &mut self,
        keeper: &TableKeeper,
        packets: &DriverHandle,
        events: &Sender<Event>,
    ) -> anyhow::Result<()> {
        let Self::Userspace(userspace) = self else {
            return Ok(());
        };
        let (packets, events) = (packets.clone(), events.clone());
        let tell = Tell {
            // Without a packet thread nobody is left to measure anything.
            closest: Box::new(move |service| {
                let _ = packets.note_interest(service);
            }),
            // Whoever ends the daemon asks for nothing more.
            application: Box::new(move |name| drop(events.send(Event::Ask(name)))),
        };
        userspace.start(keeper.snapshot(), tell)
    }

    /// Changes it to what a candidate wants.
    pub(super) fn update(
        &mut self,
        config: &NetConfig,
        identified: &Identified,
        candidate: &Candidate,
    ) -> anyhow::Result<()> {
        match self {
            Self::Overlay(overlay) => overlay.update(env_config(config, identified, candidate)?),
            // It follows the table when that is in use.
            Self::Userspace(_) => Ok(()),
        }
    }

    /// Follows the table in use.
    pub(super) fn follow(&self, table: &Snapshot) {
        if let Self::Userspace(userspace) = self {
            userspace.use_table(table);
        }
    }

    /// Where instances ask for names; none where there are none but the proxies' own.
    pub(super) fn dns_sockets(&self) -> anyhow::Result<Option<DnsSockets>> {
        match self {
            Self::Overlay(overlay) => overlay.dns_sockets().map(Some),
            Self::Userspace(_) => Ok(None),
        }
    }

    pub(super) fn nft_counters(&self) -> anyhow::Result<Option<Arc<NftCounters>>> {
        match self {
            Self::Overlay(overlay) => Ok(Some(Arc::new(overlay.nft_counters()?))),
            Self::Userspace(_) => Ok(None),
        }
    }

    /// What userspace mode shares with the local API; none with an overlay namespace.
    pub(super) const fn userspace(&self) -> Option<&Arc<userspace::Shared>> {
        match self {
            Self::Overlay(_) => None,
            Self::Userspace(userspace) => Some(userspace.shared()),
        }
    }

    /// Whether something of it has ended by itself.
    pub(super) fn is_finished(&self) -> bool {
        matches!(self, Self::Userspace(userspace) if userspace.is_finished())
    }

    /// Ends what must end before the packet thread does.
    pub(super) fn stop(&mut self) {
        match self {
            Self::Overlay(_) => {
                tracing::info!("stopping; the overlay stays, `netmanager down` removes it");
            }
            Self::Userspace(userspace) => {
                tracing::info!("stopping");
                userspace.shutdown();
            }
        }
    }
}
