//! What is kept on disk over a restart: the last good table, the stateless reset key, the peers
//! that were active, the instances that are attached.
//!
//! Nothing here is needed to start: what is missing or broken is made anew or left out, with a
//! warning. Files are replaced whole, so a power cut leaves the old or the new one. Used by the
//! daemon only; the overlay's own state is `env`'s.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use netmanager_core::rows::Attached;
use rustix::fs::FlockOperation;
use weald_proto::id::NodeId;
use weald_proto::table::Table;
use weald_trust::pki::files::{self, Existing, SECRET};
use weald_trust::statement::Memory;

use crate::api::hosting::Attachment;
use crate::config::{ConfigErrors, load_table};

/// The last table that was valid, as its file had it.
const TABLE_FILE: &str = "table.toml";

/// The key of QUIC's stateless resets.
const RESET_KEY_FILE: &str = "reset.key";

/// The peers that were active, one id a line.
const PEERS_FILE: &str = "peers";

/// The attached instances, one a line of JSON.
const ATTACHED_FILE: &str = "attached";

/// What a cluster has said, as the messages that would say it again.
const ROWS_FILE: &str = "rows";

/// What the judge of statements remembers, as JSON.
const MEMORY_FILE: &str = "memory";

/// The largest file of rows or of memory: a hundred thousand rows.
const MAX_LARGE_FILE_BYTES: u64 = 64 << 20;

/// Held by the daemon that uses the folder.
const LOCK_FILE: &str = "lock";

/// The most peers that are remembered: enough to reach the rest, few enough to dial at once.
pub const MAX_KEPT_PEERS: usize = 64;

/// The largest small file that is read: 64 ids of two labels each take 8 KiB.
const MAX_SMALL_FILE_BYTES: u64 = 64 << 10;

/// The key of QUIC's stateless resets: with it a restarted daemon tells its peers at once that
/// their sessions are gone.
pub const RESET_KEY_LEN: usize = 32;

/// The folder of a daemon's state, locked against a second daemon.
#[derive(Debug)]
pub struct StateDir {
    folder: PathBuf,
    /// Holds the lock.
    _lock: File,
}

impl StateDir {
    /// Opens the folder, and makes it if it is not there, for root's eyes only.
    ///
    /// # Errors
    /// The folder cannot be made, or another daemon uses it.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .with_context(|| format!("cannot make the state folder {}", folder.display()))?;
        let path = folder.join(LOCK_FILE);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).with_context(|| {
            let folder = folder.display();
            format!("another netmanager uses {folder}; stop it, or set another state_dir")
        })?;
        Ok(Self {
            folder: folder.to_owned(),
            _lock: lock,
        })
    }

    /// Keeps the text of a table that was found valid.
    ///
    /// # Errors
    /// It could not be written; the one kept before is still there.
    pub fn keep_table(&self, text: &str) -> anyhow::Result<()> {
        self.replace(TABLE_FILE, text.as_bytes())
    }

    /// The table that was kept; none if there never was one.
    ///
    /// # Errors
    /// What was kept cannot be read or is not a table.
    pub fn kept_table(&self) -> Result<Option<Table>, ConfigErrors> {
        kept_table(&self.folder)
    }

    /// The stateless reset key. Makes one if there is none; a broken one is replaced.
    ///
    /// # Errors
    /// There is none and none can be written.
    pub fn reset_key(&self) -> anyhow::Result<[u8; RESET_KEY_LEN]> {
        match self.read_small(RESET_KEY_FILE) {
            Ok(bytes) => match <[u8; RESET_KEY_LEN]>::try_from(bytes.as_slice()) {
                Ok(key) => return Ok(key),
                Err(_) => tracing::warn!(
                    file = %self.folder.join(RESET_KEY_FILE).display(),
                    found = bytes.len(),
                    wanted = RESET_KEY_LEN,
                    "the reset key has a wrong length; making a new one"
                ),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, "the reset key cannot be read; making a new one"),
        }
        let mut key = [0; RESET_KEY_LEN];
        aws_lc_rs::rand::fill(&mut key)
            .map_err(|_| anyhow::anyhow!("the system has no randomness to make a key of"))?;
        self.replace(RESET_KEY_FILE, &key)?;
        Ok(key)
    }

    /// Keeps the peers that were active, at most [`MAX_KEPT_PEERS`].
    ///
    /// # Errors
    /// They could not be written.
    pub fn keep_peers<'a>(&self, peers: impl Iterator<Item = &'a NodeId>) -> anyhow::Result<()> {
        let lines: String = peers
            .take(MAX_KEPT_PEERS)
            .map(|peer| format!("{peer}\n"))
            .collect();
        self.replace(PEERS_FILE, lines.as_bytes())
    }

    /// The peers that were active when they were last kept. Lines that are no ids are left out.
    #[must_use]
    pub fn kept_peers(&self) -> Vec<NodeId> {
        let bytes = match self.read_small(PEERS_FILE) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                tracing::warn!(%error, "the list of active peers cannot be read; starting without");
                return Vec::new();
            }
        };
        let text = String::from_utf8_lossy(&bytes);
        let (peers, broken): (Vec<_>, Vec<_>) = text
            .lines()
            .take(MAX_KEPT_PEERS)
            .map(str::parse)
            .partition(Result::is_ok);
        if !broken.is_empty() {
            tracing::warn!(lines = broken.len(), "the list of active peers is damaged");
        }
        peers.into_iter().flatten().collect()
    }

    /// Keeps which instances are attached.
    ///
    /// # Errors
    /// They could not be written; those kept before are still there.
    pub fn keep_attached(&self, attached: &[Attached]) -> anyhow::Result<()> {
        let mut lines = Vec::new();
        for attached in attached {
            serde_json::to_writer(&mut lines, &Attachment::from(attached))?;
            lines.push(b'\n');
        }
        self.replace(ATTACHED_FILE, &lines)
    }

    /// The instances that were attached when they were last kept. Lines that are none are left out.
    #[must_use]
    pub fn kept_attached(&self) -> Vec<Attached> {
        kept_attached(&self.folder)
    }

    /// Keeps what a cluster has said.
    ///
    /// # Errors
    /// It could not be written; what was kept before is still there.
    pub fn keep_rows(&self, messages: &[u8]) -> anyhow::Result<()> {
        self.replace(ROWS_FILE, messages)
    }

    /// What a cluster had said when it was last kept; nothing if it cannot be read.
    #[must_use]
    pub fn kept_rows(&self) -> Vec<u8> {
        self.read_large(ROWS_FILE)
    }

    /// Keeps what the judge of statements remembers.
    ///
    /// # Errors
    /// It could not be written; what was kept before is still there.
    pub fn keep_memory(&self, memory: &Memory) -> anyhow::Result<()> {
        self.replace(MEMORY_FILE, &serde_json::to_vec(memory)?)
    }

    /// What the judge of statements remembered when it was last kept; none if there is none or it
    /// cannot be read.
    #[must_use]
    pub fn kept_memory(&self) -> Option<Memory> {
        let bytes = self.read_large(MEMORY_FILE);
        if bytes.is_empty() {
            return None;
        }
        serde_json::from_slice(&bytes)
            .inspect_err(|error| {
                tracing::warn!(%error, "the memory of statements is damaged; starting anew");
            })
            .ok()
    }

    fn read_large(&self, name: &str) -> Vec<u8> {
        let read = || -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            File::open(self.folder.join(name))?
                .take(MAX_LARGE_FILE_BYTES)
                .read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match read() {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::warn!(file = name, %error, "a kept file cannot be read; starting without");
                Vec::new()
            }
        }
    }

    fn read_small(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(self.folder.join(name))?
            .take(MAX_SMALL_FILE_BYTES)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        files::write(&self.folder.join(name), bytes, SECRET, Existing::Replace)
    }
}

/// The table that a daemon kept in the state folder `folder`, whether it runs or not; none if it
/// never kept one.
///
/// # Errors
/// What was kept cannot be read or is not a table.
pub fn kept_table(folder: &Path) -> Result<Option<Table>, ConfigErrors> {
    let path = folder.join(TABLE_FILE);
    if path.exists() {
        load_table(&path).map(Some)
    } else {
        Ok(None)
    }
}

/// The instances that a daemon kept as attached in the state folder `folder`, whether it runs or
/// not. Lines that are none are left out, with a warning.
#[must_use]
pub fn kept_attached(folder: &Path) -> Vec<Attached> {
    let path = folder.join(ATTACHED_FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::warn!(
                file = %path.display(), %error,
                "the list of attached instances cannot be read; starting without"
            );
            return Vec::new();
        }
    };
    let read = |line: &str| {
        let attachment: Attachment =
            serde_json::from_str(line).map_err(|error| error.to_string())?;
        attachment.check()
    };
    let lines = text.lines().filter_map(|line| match read(line) {
        Ok(attached) => Some(attached),
        Err(error) => {
            tracing::warn!(file = %path.display(), %error, "a line is no attached instance");
            None
        }
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const TABLE: &str = "[[node]]\nid = \"a/b\"\norganisation = \"acme\"\nipv4 = \"10.30.0.1\"\n";

    fn state() -> (tempfile::TempDir, StateDir) {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(&folder.path().join("state")).unwrap();
        (folder, state)
    }

    fn put(folder: &tempfile::TempDir, name: &str, bytes: &[u8]) {
        fs::write(folder.path().join("state").join(name), bytes).unwrap();
    }

    #[test]
    fn the_last_good_table_is_kept() {
        let (folder, state) = state();
        assert_eq!(state.kept_table(), Ok(None));
        state.keep_table(TABLE).unwrap();
        let table = state.kept_table().unwrap().unwrap();
        assert_eq!(table.nodes[0].id.to_string(), "a/b");
        assert!(!folder.path().join("state/table.toml.next").exists());
    }

    #[test]
    fn a_damaged_table_is_an_error_that_names_the_file() {
        let (folder, state) = state();
        put(&folder, TABLE_FILE, &TABLE.as_bytes()[..15]);
        let error = state.kept_table().unwrap_err().to_string();
        assert!(error.contains("state/table.toml:2:"), "{error}");
        put(&folder, TABLE_FILE, &[0xff, 0xfe]);
        let error = state.kept_table().unwrap_err().to_string();
        assert!(error.ends_with("is not UTF-8 text (byte 0)"), "{error}");
    }

    #[test]
    fn the_reset_key_is_made_once_and_for_root_only() {
        let (folder, state) = state();
        let key = state.reset_key().unwrap();
        assert_eq!(state.reset_key().unwrap(), key);
        let path = folder.path().join("state").join(RESET_KEY_FILE);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_ne!(key, [0; RESET_KEY_LEN]);
    }

    #[test]
    fn a_damaged_reset_key_is_replaced() {
        let (folder, state) = state();
        for damaged in [&b""[..], b"short", &[7; RESET_KEY_LEN + 1]] {
            put(&folder, RESET_KEY_FILE, damaged);
            let key = state.reset_key().unwrap();
            assert_eq!(state.reset_key().unwrap(), key);
        }
    }

    #[test]
    fn peers_are_kept_and_damaged_lines_left_out() {
        let (folder, state) = state();
        assert_eq!(state.kept_peers(), []);
        let peers: Vec<NodeId> = vec!["a/b".parse().unwrap(), "a/c".parse().unwrap()];
        state.keep_peers(peers.iter()).unwrap();
        assert_eq!(state.kept_peers(), peers);
        put(&folder, PEERS_FILE, b"a/b\n\xff\xff\n\"\n\na/c\n");
        assert_eq!(state.kept_peers(), peers);
        let many: Vec<NodeId> = (0..100)
            .map(|i| format!("a/n{i}").parse().unwrap())
            .collect();
        state.keep_peers(many.iter()).unwrap();
        assert_eq!(state.kept_peers(), many[..MAX_KEPT_PEERS]);
    }

    #[test]
    fn attached_instances_are_kept_and_damaged_lines_left_out() {
        let (folder, state) = state();
        assert_eq!(state.kept_attached(), []);
        let attached = Attached {
            instance: "shop.prod.web.prod.1".parse().unwrap(),
            generation: 7,
            instance_ip: weald_proto::addr::Dual {
                v4: Some("10.30.0.2".parse().unwrap()),
                v6: None,
            },
            organisation: None,
            ports: vec!["8080:80/udp".parse().unwrap()],
        };
        state
            .keep_attached(std::slice::from_ref(&attached))
            .unwrap();
        assert_eq!(state.kept_attached(), std::slice::from_ref(&attached));
        let path = folder.path().join("state").join(ATTACHED_FILE);
        let line = fs::read_to_string(path).unwrap();
        assert_eq!(
            line,
            "{\"instance\":\"shop.prod.web.prod.1\",\"generation\":7,\"ipv4\":\"10.30.0.2\",\
             \"ports\":[\"8080:80/udp\"]}\n"
        );
        put(
            &folder,
            ATTACHED_FILE,
            format!("{{}}\n{line}x\n").as_bytes(),
        );
        assert_eq!(state.kept_attached(), [attached]);
    }

    #[test]
    fn a_second_daemon_is_refused() {
        let (folder, state) = state();
        let error = StateDir::open(&folder.path().join("state")).unwrap_err();
        assert!(error.to_string().starts_with("another netmanager uses "));
        drop(state);
        assert!(StateDir::open(&folder.path().join("state")).is_ok());
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = StateDir::open(&file.join("state")).unwrap_err().to_string();
        assert!(error.starts_with("cannot make the state folder"), "{error}");
    }
}
