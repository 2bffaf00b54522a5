//! What an overlay has made on the machine, on disk, so that anyone can undo it.
//!
//! Written before the first step is taken and again after the last, to
//! `/run/weald/<overlay>/env.json`: whatever crashes in between, `down` finds what there is.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use weald_proto::id::Label;
use weald_proto::table::Transport;

use super::config::{EnvConfig, STATE_ROOT, host_device, state_dir};
use super::desired;
use super::item::{Item, Place};
use super::namespace;
use super::plan::{Plan, Step};

/// The name of the state file in an overlay's directory.
const STATE_FILE: &str = "env.json";

/// The state file while it is written.
const FRESH_STATE_FILE: &str = "env.json.new";

/// Where the daemon keeps where connections to services go.
pub(super) const CONNECTIONS_FILE: &str = "connections";

/// The file that the daemon of an overlay holds a lock on.
const LOCK_FILE: &str = "lock";

/// The format of the state file; another one is not understood.
const VERSION: u32 = 1;

/// What one overlay has made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    version: u32,
    /// The host's namespace, by which overlays of one host know each other.
    pub(super) host: HostId,
    /// Everything that was made or was about to be.
    pub(super) items: Vec<Item>,
    /// Host settings as they were before the first change, in the order of changing.
    pub(super) previous: Vec<Item>,
    /// Whether the host must forward for it.
    pub(super) forwards: bool,
    /// Mapped ports of the host, and the instance that each leads to.
    pub(super) ports: BTreeMap<String, String>,
}

/// A network namespace, as the kernel knows it.
///
/// The inode of a namespace that is gone is used again, its cookie is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HostId {
    inode: u64,
    cookie: u64,
}

impl HostId {
    /// The identity of an open namespace.
    pub(super) fn of(namespace: &File) -> io::Result<Self> {
        Ok(Self {
            inode: namespace.metadata()?.ino(),
            cookie: namespace::inside(namespace.as_fd(), namespace::cookie)?,
        })
    }

    /// Finds the namespace: by name, or by a process that is in it.
    pub(super) fn find(self) -> Option<File> {
        let named = namespace::names().unwrap_or_default();
        let named = named.iter().map(|name| namespace::path(name));
        let entries = fs::read_dir("/proc").ok().into_iter().flatten().flatten();
        let processes = entries.map(|entry| entry.path().join("ns/net"));
        named
            .chain(processes)
            .filter(|path| fs::metadata(path).is_ok_and(|found| found.ino() == self.inode))
            .filter_map(|path| File::open(path).ok())
            .find(|file| Self::of(file).is_ok_and(|id| id == self))
    }
}

impl State {
    /// A state that holds nothing yet.
    pub(super) const fn new(host: HostId) -> Self {
        Self {
            version: VERSION,
            host,
            items: Vec::new(),
            previous: Vec::new(),
            forwards: false,
            ports: BTreeMap::new(),
        }
    }

    /// Reads the state of an overlay; none if there is none.
    pub(super) fn load(overlay: &Label) -> io::Result<Option<Self>> {
        Self::read(&state_dir(overlay).join(STATE_FILE))
    }

    fn read(path: &Path) -> io::Result<Option<Self>> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let invalid = |what: String| {
            let text = format!("{}: {what}", path.display());
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        let state: Self =
            serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))?;
        if state.version == VERSION {
            Ok(Some(state))
        } else {
            Err(invalid(format!("unknown version {}", state.version)))
        }
    }

    /// The states of the other overlays on the same host.
    pub(super) fn neighbours(overlay: &Label, host: HostId) -> Vec<(String, Self)> {
        let entries = fs::read_dir(STATE_ROOT)
            .ok()
            .into_iter()
            .flatten()
            .flatten();
        entries
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let state = Self::read(&entry.path().join(STATE_FILE)).ok()??;
                (name != overlay.as_str() && state.host == host).then_some((name, state))
            })
            .collect()
    }

    /// Writes the state, so that either the old or the new one is found after a crash.
    pub(super) fn save(&self, overlay: &Label) -> io::Result<()> {
        let dir = make_dir(overlay)?;
        let text = serde_json::to_vec_pretty(self)?;
        let fresh = dir.join(FRESH_STATE_FILE);
        let mut file = File::create(&fresh)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&fresh, dir.join(STATE_FILE))
    }

    /// Removes the state, and its directory unless others keep something there.
    pub(super) fn clear(overlay: &Label) -> io::Result<()> {
        let dir = state_dir(overlay);
        for file in [STATE_FILE, FRESH_STATE_FILE, CONNECTIONS_FILE, LOCK_FILE] {
            let file = dir.join(file);
            match fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        let _ = fs::remove_dir(&dir);
        let _ = fs::remove_dir(STATE_ROOT);
        Ok(())
    }

    /// Notes what a plan is about to make, and what stood where it changes the host's settings.
    pub(super) fn note(&mut self, config: &EnvConfig, plan: &Plan) {
        for item in desired::items(config) {
            if !self.items.contains(&item) {
                self.items.push(item);
            }
        }
        for step in &plan.steps {
            let Step::Change { from, .. } = step else {
                continue;
            };
            if is_host_setting(from, config)
                && !self.previous.iter().any(|was| was.is_same_thing(from))
            {
                self.previous.push(from.clone());
            }
        }
        self.forwards |= desired::needs_forwarding(config);
        self.ports.extend(ports(config));
    }

    /// Notes that what the config wants is there and nothing else.
    pub(super) fn settle(&mut self, config: &EnvConfig) {
        self.items = desired::items(config);
        self.ports = ports(config).collect();
        self.forwards = desired::needs_forwarding(config);
        if !self.forwards {
            self.previous.clear();
        }
    }
}

/// Whether an item is a setting of the host that was there before us.
fn is_host_setting(item: &Item, config: &EnvConfig) -> bool {
    let own = format!("/{}/", host_device(&config.name));
    matches!(item, Item::Sysctl { place: Place::Host, key, .. } if !key.contains(&own))
}

fn ports(config: &EnvConfig) -> impl Iterator<Item = (String, String)> {
    config.instances.iter().flat_map(|instance| {
        let ports = instance.ports.iter();
        ports.map(|port| {
            let key = port_key(port.host, port.transport);
            (key, instance.id.to_string())
        })
    })
}

/// Locks an overlay for as long as the result lives; none if another process has it.
pub(super) fn lock(overlay: &Label) -> io::Result<Option<Flock<File>>> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(make_dir(overlay)?.join(LOCK_FILE))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::Error::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error.into()),
    }
}

fn make_dir(overlay: &Label) -> io::Result<PathBuf> {
    let dir = state_dir(overlay);
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o755).create(&dir)?;
    Ok(dir)
}

/// How a mapped port stands in the state file.
pub(super) fn port_key(port: u16, transport: Transport) -> String {
    format!("{port}/{}", transport.word())
}
