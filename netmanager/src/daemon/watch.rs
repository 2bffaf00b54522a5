//! Watches the table's file by inotify on its folder, because editors replace files; and on the
//! folders that symbolic links lead to, if it is one.
//!
//! It only says that something may have changed; what, is found by reading.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
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

/// Links that are followed, one after the other: as many as Linux follows.
const MAX_LINKS: usize = 40;

/// Sends [`Event::Table`] whenever something happens to files in the folder of `table`, or in that of
/// the file that it is a link to.
///
/// If a folder cannot be watched, a warning says that only SIGHUP reloads.
pub(super) fn watch(runtime: &Runtime, table: &Path, events: &Sender<Event>) {
    let _entered = runtime.enter();
    let mut watched = match Watched::open(table.to_owned()) {
        Ok(watched) => watched,
        Err(error) => {
            tracing::warn!(%error, "cannot watch the table's file; send SIGHUP after a change");
            return;
        }
    };
    watched.follow();
    let events = events.clone();
    runtime.spawn(async move {
        while wait(&watched.notices).await.is_ok() {
            // Before the file is read: what happens there from now on is another change.
            watched.follow();
            if events.send(Event::Table).is_err() {
                return;
            }
        }
    });
}

/// The folders that are watched for one file.
#[derive(Debug)]
struct Watched {
    table: PathBuf,
    notices: AsyncFd<OwnedFd>,
    /// What the kernel calls them.
    folders: BTreeSet<i32>,
    /// A folder that could not be watched the last time, which has been told.
    missing: Option<PathBuf>,
}

impl Watched {
    fn open(table: PathBuf) -> io::Result<Self> {
        let notices = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self {
            table,
            // SAFETY: the `OwnedFd` owns its descriptor, and nothing replaces it while `AsyncFd` owns it.
            notices: unsafe { AsyncFd::register(notices)? },
            folders: BTreeSet::new(),
            missing: None,
        })
    }

    /// Watches the folders in which the file is now, and no others.
    fn follow(&mut self) {
        let changes = WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::CREATE
            | WatchFlags::DELETE;
        let mut now = BTreeSet::new();
        let mut missing = None;
        for folder in folders_of(&self.table) {
            match inotify::add_watch(self.notices.get_ref(), &folder, changes) {
                Ok(watch) => {
                    now.insert(watch);
                }
                Err(error) => {
                    if self.missing.as_ref() != Some(&folder) {
                        tracing::warn!(
                            folder = %folder.display(), %error,
                            "cannot watch the table's folder; send SIGHUP after a change"
                        );
                    }
                    missing = Some(folder);
                }
            }
        }
        self.missing = missing;
        for former in self.folders.difference(&now) {
            // A folder that is gone is not watched any more.
            let _ = inotify::remove_watch(self.notices.get_ref(), *former);
        }
        self.folders = now;
    }
}

/// The folder of a file, and if it is a link, those of all that it leads to.
pub(super) fn folders_of(file: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    let mut at = file.to_owned();
    for _ in 0..MAX_LINKS {
        let folder = match at.parent() {
            Some(folder) if folder != Path::new("") => folder.to_owned(),
            Some(_) | None => PathBuf::from("."),
        };
        let target = fs::read_link(&at).map(|target| folder.join(target));
        if !folders.contains(&folder) {
            folders.push(folder);
        }
        match target {
            Ok(target) => at = target,
            Err(_) => break,
        }
    }
    folders
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
