//! The folder of `weald dev`, and the book in it: which processes run, and what was made elsewhere.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use weald_trust::pki::files::{self, Existing, SECRET};

use super::part::Part;
use crate::runtime::process::identity::{Found, Identity};

/// The file that the folder is known by.
const BOOK: &str = "dev.json";
/// Held while something is changed.
const LOCK: &str = "dev.lock";
/// The longest path of a unix socket in the folder (`sun_path` less its closing zero).
const MAX_SOCKET_PATH: usize = 107;

/// The folder.
#[derive(Debug, Clone)]
pub(super) struct Folder(PathBuf);

/// What is kept of what was started.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Book {
    /// The name of the overlay; at most eight characters, because interfaces are named so.
    pub(super) overlay: String,
    /// The processes. One that has ended is left until it is started again.
    pub(super) parts: BTreeMap<Part, Identity>,
    /// The file of the user's session, once it is written.
    pub(super) session: Option<PathBuf>,
    /// Folders elsewhere that were not there before, the innermost first, and the cgroups that a
    /// worker may move into.
    pub(super) made: Vec<PathBuf>,
}

impl Folder {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(super) fn exists(&self) -> bool {
        self.join(BOOK).exists() || self.join(LOCK).exists()
    }

    /// Makes the folder, if it is not there or is empty.
    ///
    /// # Errors
    /// It holds something else, or cannot be made.
    pub(super) fn make(&self) -> anyhow::Result<()> {
        let shown = self.0.display();
        if self.exists() {
            return Ok(());
        }
        if self.socket().as_os_str().len() > MAX_SOCKET_PATH {
            bail!("{shown} is too long for the sockets in it; choose a shorter --dir");
        }
        let mut builder = fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&self.0);
        made.with_context(|| format!("cannot make {shown}"))?;
        let mut inside = fs::read_dir(&self.0).with_context(|| format!("cannot list {shown}"))?;
        if inside.next().is_some() {
            bail!("{shown} holds other things, and `down` would remove them; choose another --dir");
        }
        Ok(())
    }

    /// Keeps other `weald dev` commands away until the result is dropped.
    ///
    /// # Errors
    /// One is at work.
    pub(super) fn lock(&self) -> anyhow::Result<File> {
        let path = self.join(LOCK);
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).mode(0o600).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        if file.try_lock().is_err() {
            let shown = self.0.display();
            bail!("another `weald dev` is at work in {shown}; wait until it has ended");
        }
        Ok(file)
    }

    /// The book; none before anything was started.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn read(&self) -> anyhow::Result<Option<Book>> {
        let path = self.join(BOOK);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let book = serde_json::from_slice(&text);
        book.map(Some).with_context(|| {
            let path = path.display();
            format!("{path} is not understood; was it written by another version of weald?")
        })
    }

    /// Keeps the book; whoever reads meanwhile gets the old or the new one.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(super) fn write(&self, book: &Book) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(book)?;
        files::write(&self.join(BOOK), &text, SECRET, Existing::Replace)
    }

    /// Removes the folder with all that is in it.
    ///
    /// # Errors
    /// It cannot be removed.
    pub(super) fn remove(&self) -> anyhow::Result<()> {
        let removed = fs::remove_dir_all(&self.0);
        removed.with_context(|| format!("cannot remove {}", self.0.display()))
    }

    /// The netmanager's socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.join("netmanager.sock")
    }

    /// The session with which these commands ask root.
    pub(super) fn session(&self) -> PathBuf {
        self.join("session.json")
    }

    /// The session that the user had before.
    pub(super) fn former_session(&self) -> PathBuf {
        self.join("former-session.json")
    }
}

impl Book {
    /// An empty book; the overlay's name follows from the folder's.
    pub(super) fn new(folder: &Folder) -> Self {
        let mut hasher = DefaultHasher::new();
        folder.path().hash(&mut hasher);
        Self {
            overlay: format!("wd{:06x}", hasher.finish() & 0xff_ffff),
            parts: BTreeMap::new(),
            session: None,
            made: Vec::new(),
        }
    }

    /// Whether a part runs.
    pub(super) fn is_alive(&self, part: Part) -> bool {
        let found = self.parts.get(&part).map(Identity::find);
        matches!(found, Some(Ok(Found::There(_))))
    }

    /// Notes the folders above a file that are not there yet.
    pub(super) fn will_make(&mut self, file: &Path) {
        let missing = file.ancestors().skip(1).take_while(|it| !it.exists());
        self.remove_at_last(missing.map(Path::to_owned));
    }

    /// Notes folders that are to be removed if they are empty by then.
    pub(super) fn remove_at_last(&mut self, folders: impl IntoIterator<Item = PathBuf>) {
        for folder in folders {
            if !self.made.contains(&folder) {
                self.made.push(folder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_other_things_is_left_alone() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("mine"), "x").unwrap();
        let folder = Folder::new(place.path().to_owned());
        let error = folder.make().unwrap_err().to_string();
        assert!(error.contains("another --dir"), "{error}");
        let long = Folder::new(place.path().join("x".repeat(100)));
        let error = long.make().unwrap_err().to_string();
        assert!(error.contains("too long"), "{error}");
        assert!(!long.path().exists());
    }

    #[test]
    fn the_book_is_kept_and_only_one_writes_it() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::new(place.path().join("new"));
        assert!(!folder.exists());
        folder.make().unwrap();
        let lock = folder.lock().unwrap();
        let error = folder.lock().unwrap_err().to_string();
        assert!(error.contains("at work"), "{error}");
        assert!(folder.read().unwrap().is_none());
        let mut book = Book::new(&folder);
        book.parts.insert(Part::Root, Identity::own().unwrap());
        book.will_make(&place.path().join("a/b/file"));
        let inner = [place.path().join("a/b"), place.path().join("a")];
        assert_eq!(book.made, inner);
        folder.write(&book).unwrap();
        // What is there already may be started again.
        folder.make().unwrap();
        let read = folder.read().unwrap().unwrap();
        assert!(read.is_alive(Part::Root) && !read.is_alive(Part::Worker));
        assert_eq!((read.overlay.len(), read.made.len()), (8, 2));
        fs::write(folder.join(BOOK), "{").unwrap();
        assert!(folder.read().is_err());
        drop(lock);
        folder.remove().unwrap();
        assert!(!folder.path().exists());
    }
}
