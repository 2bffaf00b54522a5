//! Signals: SIGTERM and SIGINT stop the daemon, SIGHUP makes it look at the table's file.

use std::sync::mpsc::Sender;

use anyhow::Context;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use super::Event;

/// Turns signals into events from now on, also while the daemon is still starting.
pub(super) fn watch(runtime: &Runtime, events: &Sender<Event>) -> anyhow::Result<()> {
    let _entered = runtime.enter();
    let kinds: [(SignalKind, fn() -> Event); 3] = [
        (SignalKind::terminate(), || Event::Stop),
        (SignalKind::interrupt(), || Event::Stop),
        (SignalKind::hangup(), || Event::Table),
    ];
    for (kind, event) in kinds {
        let mut signals = signal(kind).context("cannot watch for signals")?;
        let events = events.clone();
        runtime.spawn(async move {
            while signals.recv().await.is_some() && events.send(event()).is_ok() {}
        });
    }
    Ok(())
}
