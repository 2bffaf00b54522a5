//! The folder of one life: what is to run, who watches over it, how it ended.
//!
//! The folder is all that a worker and the supervisors of its instances share, and all that is
//! left to the next worker. Files that the other side reads are put in place by renaming.
//!
//! | file | written by | what |
//! |---|---|---|
//! | `order.json` | worker | what the supervisor is to run, and how |
//! | `starting` | nobody | locked from before the supervisor is started until the instance is |
//! | `supervisor.json` | supervisor | which process it is |
//! | `outcome.json` | supervisor | how it ended; by the worker if the supervisor was killed |
//! | `log`, `log.1` | supervisor | what the instance wrote |
//! | `supervisor.log` | supervisor | what went wrong with itself |

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use weald_proto::control::Generation;
use weald_proto::name::InstanceId;

use super::identity::Identity;
use crate::runtime::cgroup::Group;

/// The longest instance name that a folder is called after in full: names may have 266 bytes, and
/// a file name at most 255, with a prefix and the generation.
const MAX_STEM: usize = 200;

/// How much of a name that is too long is kept before its hash.
const CUT_STEM: usize = 180;

/// What a supervisor is to run, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) instance: InstanceId,
    pub(crate) generation: Generation,
    /// The program's file.
    pub(crate) program: PathBuf,
    /// What the program is told it is called, and its arguments.
    pub(crate) words: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) netns: Option<PathBuf>,
    pub(crate) resolv_conf: Option<PathBuf>,
    pub(crate) grace_ms: u64,
    /// Bytes that both log files may have together.
    pub(crate) log_bytes: u64,
    /// The limit of memory, for words about it; 0 for none.
    pub(crate) memory_mib: u32,
    pub(crate) group: Group,
}

/// How a life ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// It never ran; why.
    NotStarted(String),
    /// It ran.
    Exited { status: i32, detail: Option<String> },
}

/// The folder of one life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Life {
    folder: PathBuf,
}

impl Life {
    /// The folder of a life in a runtime's folder, there or not.
    pub(crate) fn of(lives: &Path, instance: &InstanceId, generation: Generation) -> Self {
        let folder = lives.join(format!("{}@{generation}", stem(instance)));
        Self { folder }
    }

    pub(crate) fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Every life of an instance that has a folder, the earliest first.
    pub(crate) fn of_instance(
        lives: &Path,
        instance: &InstanceId,
    ) -> io::Result<Vec<(Generation, Self)>> {
        let stem = stem(instance);
        let mut found = Vec::new();
        for life in Self::all(lives)? {
            let name = life.name();
            if let Some((first, generation)) = name.rsplit_once('@')
                && first == stem
                && let Ok(generation) = generation.parse()
            {
                found.push((generation, life));
            }
        }
        found.sort_by_key(|(generation, _)| *generation);
        Ok(found)
    }

    /// Every life that has a folder.
    pub(crate) fn all(lives: &Path) -> io::Result<Vec<Self>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(lives)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                found.push(Self::at(entry.path()));
            }
        }
        Ok(found)
    }

    /// What the folder and the group of the life are called.
    pub(crate) fn name(&self) -> String {
        let name = self.folder.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn make(&self) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
    }

    /// Removes the folder; that there is none is no error.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// The lock that says that it is being started; blocks while someone else holds it.
    pub(crate) fn lock_start(&self) -> io::Result<File> {
        let file = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(self.folder.join("starting"))?;
        file.lock()?;
        Ok(file)
    }

    pub(crate) fn supervisor_log(&self) -> PathBuf {
        self.folder.join("supervisor.log")
    }

    pub(crate) fn order(&self) -> io::Result<Option<Order>> {
        self.read("order.json")
    }

    pub(crate) fn write_order(&self, order: &Order) -> io::Result<()> {
        self.write("order.json", order, false)
    }

    pub(crate) fn supervisor(&self) -> io::Result<Option<Identity>> {
        self.read("supervisor.json")
    }

    /// Processes do not survive a power cut, so neither need this.
    pub(crate) fn write_supervisor(&self, identity: &Identity) -> io::Result<()> {
        self.write("supervisor.json", identity, false)
    }

    pub(crate) fn outcome(&self) -> io::Result<Option<Outcome>> {
        self.read("outcome.json")
    }

    /// What has run to its end must not run again after a power cut, so this survives one.
    pub(crate) fn write_outcome(&self, outcome: &Outcome) -> io::Result<()> {
        self.write("outcome.json", outcome, true)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        let path = self.folder.join(name);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{path:?}: {error}"))
        })
    }

    fn write(&self, name: &str, value: &impl Serialize, durable: bool) -> io::Result<()> {
        let path = self.folder.join(name);
        let new = self.folder.join(format!("{name}.new"));
        let mut file = File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(&serde_json::to_vec(value)?)?;
        if durable {
            file.sync_all()?;
        }
        fs::rename(new, path)?;
        if durable {
            File::open(&self.folder)?.sync_all()?;
        }
        Ok(())
    }
}

/// What the folders of an instance's lives begin with.
fn stem(instance: &InstanceId) -> String {
    let name = instance.to_string();
    if name.len() <= MAX_STEM {
        return name;
    }
    // Names are ASCII, so that the cut is between characters.
    let kept = name.get(..CUT_STEM).unwrap_or_default();
    format!("{kept}~{:016x}", hash(name.as_bytes()))
}

/// FNV-1a: the same in every release, because folders are found again by it. Names are checked
/// labels of users of this cluster, and a folder says whose it is, so it need not resist attacks.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_are_found_by_instance_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let long = "a".repeat(63);
        let long = format!("{long}.{long}.{long}.{long}.12");
        for name in ["shop.prod.web.a.1", long.as_str()] {
            let instance: InstanceId = name.parse().unwrap();
            for generation in [10, 2, u64::MAX] {
                Life::of(folder.path(), &instance, generation)
                    .make()
                    .unwrap();
            }
            let found = Life::of_instance(folder.path(), &instance).unwrap();
            let generations: Vec<u64> = found.iter().map(|(generation, _)| *generation).collect();
            assert_eq!(generations, [2, 10, u64::MAX], "{name}");
        }
        let other: InstanceId = "shop.prod.web.a.11".parse().unwrap();
        assert_eq!(Life::of_instance(folder.path(), &other).unwrap(), []);
        assert_eq!(Life::all(folder.path()).unwrap().len(), 6);
    }

    #[test]
    fn what_is_written_is_read_and_what_is_damaged_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let life = Life::at(folder.path().join("a"));
        life.make().unwrap();
        assert_eq!(life.outcome().unwrap(), None);
        let outcome = Outcome::Exited {
            status: 3,
            detail: Some("so".into()),
        };
        life.write_outcome(&outcome).unwrap();
        assert_eq!(life.outcome().unwrap(), Some(outcome));
        fs::write(life.folder().join("outcome.json"), "{").unwrap();
        let error = life.outcome().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains("outcome.json"), "{error}");
        life.remove().unwrap();
        life.remove().unwrap();
    }
}
