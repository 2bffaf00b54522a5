//! Watches the table's file by inotify on its folder, because editors replace files.
//!
//! It only says that something may have changed; what, is found by reading.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::mpsc::Sender;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Runtime;

use super::Event;

/// How long to let a writer finish: editors make several changes for one save.
const SETTLE: Duration = Duration::from_millis(50);

/// Room for a batch of notices; what they say is not looked at.
const NOTICE_BYTES: usize = 4096;

/// Sends [`Event::Table`] whenever something happens to files in the folder of `table`.
///
/// If the folder cannot be watched, a warning says that only SIGHUP reloads.
pub(super) fn watch(runtime: &Runtime, table: &Path, events: &Sender<Event>) {
    let folder = match table.parent() {
        Some(folder) if folder != Path::new("") => folder,
        Some(_) | None => Path::new("."),
    };
    let _entered = runtime.enter();
    let notices = match open(folder) {
        Ok(notices) => notices,
        Err(error) => {
            tracing::warn!(
                folder = %folder.display(), %error,
                "cannot watch the table's folder; send SIGHUP after a change"
            );
            return;
        }
    };
    let events = events.clone();
    runtime.spawn(async move {
        while wait(&notices).await.is_ok() && events.send(Event::Table).is_ok() {}
    });
}

fn open(folder: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let notices = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let changes = WatchFlags::CLOSE_WRITE
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVED_FROM
        | WatchFlags::CREATE
        | WatchFlags::DELETE;
    inotify::add_watch(&notices, folder, changes)?;
    // SAFETY: the `OwnedFd` owns its descriptor, and nothing replaces it while `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register(notices)? })
}

/// Waits for a notice, lets the writer finish, and forgets what has been noticed by then.
async fn wait(notices: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut ready = notices.readable().await?;
    tokio::time::sleep(SETTLE).await;
    let mut buffer = [0; NOTICE_BYTES];
    loop {
        match rustix::io::read(notices.get_ref(), &mut buffer) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                ready.clear_ready();
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
    }
}
