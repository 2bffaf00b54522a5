//! One group, in as many folders as the layout takes: joined, limited, measured, killed, removed.
//!
//! It is a list of paths and can be written down: a supervisor and the next worker know it by
//! nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::CgroupError;

/// How long a turn of killing waits for what it has killed, before it looks again.
const KILL_TURN: Duration = Duration::from_secs(1);

/// How many turns of killing there are: a process that survives is stuck in the kernel.
const KILL_TURNS: u32 = 10;

/// How long a group may stay busy after its last process has ended: the kernel lets go of an
/// ended process a little later than it says so.
const BUSY_TIME: Duration = Duration::from_secs(1);

/// How long to wait between two looks at a busy group; there is no event for it in version 1.
const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// The period over which processor time is held: the kernel's own default.
const PERIOD: Duration = Duration::from_millis(100);

/// The period for shares below a hundredth of a processor: the kernel takes no quota below 1 ms.
const LONG_PERIOD: Duration = Duration::from_secs(1);

/// What a group may use; zero means that there is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// MiB of memory, swap included.
    pub memory_mib: u32,
    /// Thousandths of a processor.
    pub millicpus: u32,
    /// Processes and threads; held where the controller is at hand.
    pub pids: u32,
}

/// What a group has used so far, and what it uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time since it was made.
    pub processor: Duration,
    /// Bytes of memory, without the files that the kernel would let go of first.
    pub memory_bytes: u64,
}

/// One group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The folders of version 1, by controller.
    pub(super) v1: BTreeMap<String, PathBuf>,
    /// The folder of version 2.
    pub(super) v2: Option<PathBuf>,
    /// The controllers that the folder of version 2 has.
    pub(super) v2_controllers: Vec<String>,
}

impl Group {
    /// Whether there is any folder: without one, nothing can be limited or counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v1.is_empty() && self.v2.is_none()
    }

    /// Moves the calling process into the group.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn join(&self) -> Result<(), CgroupError> {
        for folder in self.folders() {
            write(&folder.join("cgroup.procs"), "0")?;
        }
        Ok(())
    }

    pub(super) fn limit(&self, limits: &Limits) -> Result<(), CgroupError> {
        if limits.memory_mib > 0 {
            self.limit_memory(u64::from(limits.memory_mib) << 20)?;
        }
        if limits.millicpus > 0 {
            self.limit_processor(limits.millicpus)?;
        }
        if limits.pids > 0
            && let Some((folder, _)) = self.controller("pids")
        {
            write(&folder.join("pids.max"), &limits.pids.to_string())?;
        }
        Ok(())
    }

    /// What the group uses; none where nothing counts it.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        Some(Usage {
            processor: self.processor_time()?,
            memory_bytes: self.memory().unwrap_or(0),
        })
    }

    /// How many processes of the group were killed because it had used up its memory.
    #[must_use]
    pub fn out_of_memory_kills(&self) -> u64 {
        let counted = self.controller("memory").and_then(|(folder, version)| {
            let file = match version {
                Version::One => "memory.oom_control",
                Version::Two => "memory.events",
            };
            field(&folder.join(file), "oom_kill")
        });
        counted.unwrap_or(0)
    }

    /// Kills everything in the group and in groups below it, and waits until it is gone.
    ///
    /// # Errors
    /// Something in it does not end, or the kernel does not let us look.
    pub fn kill(&self) -> io::Result<()> {
        for _ in 0..KILL_TURNS {
            self.kill_at_once();
            let left = self.processes()?;
            if left.is_empty() {
                return Ok(());
            }
            self.freeze("FROZEN");
            let killed: Vec<_> = left.into_iter().filter_map(kill_one).collect();
            self.freeze("THAWED");
            wait_for_all(&killed)?;
        }
        let left = self.processes()?;
        if left.is_empty() {
            return Ok(());
        }
        Err(io::Error::other(format!("processes {left:?} do not end")))
    }

    /// Removes the group and those below it. What is gone already is no error.
    ///
    /// # Errors
    /// It has processes still, or the kernel refuses.
    pub fn remove(&self) -> io::Result<()> {
        for folder in self.folders() {
            remove_tree(folder)?;
        }
        Ok(())
    }

    /// Kills what an earlier group of the same name may hold.
    pub(super) fn kill_leftovers(&self) {
        if self.folders().iter().any(|folder| folder.exists()) {
            // What stays makes the group refuse to go later, and is told then.
            let _ = self.kill();
        }
    }

    fn limit_memory(&self, bytes: u64) -> Result<(), CgroupError> {
        let Some((folder, version)) = self.controller("memory") else {
            return Ok(());
        };
        let bytes = bytes.to_string();
        match version {
            Version::One => {
                write(&folder.join("memory.limit_in_bytes"), &bytes)?;
                write_if_there(&folder.join("memory.memsw.limit_in_bytes"), &bytes)
            }
            Version::Two => {
                write(&folder.join("memory.max"), &bytes)?;
                write_if_there(&folder.join("memory.swap.max"), "0")?;
                write_if_there(&folder.join("memory.oom.group"), "1")
            }
        }
    }

    fn limit_processor(&self, millicpus: u32) -> Result<(), CgroupError> {
        let Some((folder, version)) = self.controller("cpu") else {
            return Ok(());
        };
        let period = if millicpus < 10 { LONG_PERIOD } else { PERIOD };
        let quota = (period / 1_000 * millicpus).as_micros();
        let period = period.as_micros();
        match version {
            Version::One => {
                write(&folder.join("cpu.cfs_period_us"), &period.to_string())?;
                write(&folder.join("cpu.cfs_quota_us"), &quota.to_string())
            }
            Version::Two => write(&folder.join("cpu.max"), &format!("{quota} {period}")),
        }
    }

    fn processor_time(&self) -> Option<Duration> {
        if let Some(folder) = self.v1.get("cpuacct") {
            let text = fs::read_to_string(folder.join("cpuacct.usage")).ok()?;
            return Some(Duration::from_nanos(text.trim().parse().ok()?));
        }
        // Version 2 counts it in every group, with or without the controller.
        let folder = self.v2.as_ref()?;
        field(&folder.join("cpu.stat"), "usage_usec").map(Duration::from_micros)
    }

    fn memory(&self) -> Option<u64> {
        let (folder, version) = self.controller("memory")?;
        let (all, files) = match version {
            Version::One => ("memory.usage_in_bytes", "total_inactive_file"),
            Version::Two => ("memory.current", "inactive_file"),
        };
        let all: u64 = fs::read_to_string(folder.join(all))
            .ok()?
            .trim()
            .parse()
            .ok()?;
        let files = field(&folder.join("memory.stat"), files).unwrap_or(0);
        Some(all.saturating_sub(files))
    }

    /// Where a controller's files are.
    fn controller(&self, name: &str) -> Option<(&Path, Version)> {
        if let Some(folder) = self.v1.get(name) {
            return Some((folder, Version::One));
        }
        let lent = self.v2_controllers.iter().any(|lent| lent == name);
        let folder = self.v2.as_deref().filter(|_| lent)?;
        Some((folder, Version::Two))
    }

    /// Kills the whole tree in one step where the kernel can: nothing escapes by forking.
    fn kill_at_once(&self) {
        if let Some(folder) = &self.v2 {
            // Absent before Linux 5.14; what is left is killed one by one.
            let _ = open_and_write(&folder.join("cgroup.kill"), "1");
        }
    }

    /// Holds everything still, so that nothing forks while it is killed one by one.
    fn freeze(&self, state: &str) {
        if let Some(folder) = self.v1.get("freezer") {
            // Without it, killing takes more turns.
            let _ = open_and_write(&folder.join("freezer.state"), state);
        }
    }

    fn processes(&self) -> io::Result<BTreeSet<i32>> {
        let mut found = BTreeSet::new();
        for folder in self.folders() {
            collect_processes(folder, &mut found)?;
        }
        Ok(found)
    }

    /// Every folder, each once.
    fn folders(&self) -> Vec<&Path> {
        let mut folders: Vec<&Path> = self.v1.values().map(PathBuf::as_path).collect();
        folders.extend(self.v2.as_deref());
        folders.sort_unstable();
        folders.dedup();
        folders
    }
}

/// Whose files a controller has.
#[derive(Debug, Clone, Copy)]
enum Version {
    One,
    Two,
}

/// Writes to a file that must be there, and makes none.
fn open_and_write(path: &Path, value: &str) -> io::Result<()> {
    let mut file = fs::File::options().write(true).open(path)?;
    io::Write::write_all(&mut file, value.as_bytes())
}

fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    open_and_write(path, value).map_err(|error| CgroupError::Write {
        path: path.to_owned(),
        value: value.to_owned(),
        error,
    })
}

fn write_if_there(path: &Path, value: &str) -> Result<(), CgroupError> {
    if path.exists() {
        write(path, value)
    } else {
        Ok(())
    }
}

/// The number after a word at the beginning of a line.
fn field(path: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let (word, number) = line.split_once(' ')?;
        (word == name).then(|| number.trim().parse().ok()).flatten()
    })
}

/// Adds the processes of a group and of those below it; a group that is gone has none.
fn collect_processes(folder: &Path, found: &mut BTreeSet<i32>) -> io::Result<()> {
    let text = match fs::read_to_string(folder.join("cgroup.procs")) {
        Ok(text) => text,
        Err(error) if is_gone(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    for below in subfolders(folder)? {
        collect_processes(&below, found)?;
    }
    Ok(())
}

fn remove_tree(folder: &Path) -> io::Result<()> {
    for below in subfolders(folder)? {
        remove_tree(&below)?;
    }
    let deadline = Instant::now() + BUSY_TIME;
    loop {
        match fs::remove_dir(folder) {
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error)
                if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline =>
            {
                thread::sleep(BUSY_PAUSE);
            }
            Err(error) => {
                let text = format!("cannot remove the cgroup {folder:?}: {error}");
                return Err(io::Error::new(error.kind(), text));
            }
            Ok(()) => return Ok(()),
        }
    }
}

fn subfolders(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// A group that is removed while it is read says ENODEV.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

/// Kills a process; what it returns becomes readable when the process has ended. None if it has.
fn kill_one(pid: i32) -> Option<rustix::fd::OwnedFd> {
    // A process of another pid namespace is shown as 0.
    let pid = Some(pid).filter(|pid| *pid > 0).and_then(Pid::from_raw)?;
    let handle = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    pidfd_send_signal(&handle, Signal::KILL).ok()?;
    Some(handle)
}

/// Waits until all have ended, or a turn is over.
fn wait_for_all(handles: &[rustix::fd::OwnedFd]) -> io::Result<()> {
    let deadline = Instant::now() + KILL_TURN;
    for handle in handles {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut polled = [PollFd::new(handle, PollFlags::IN)];
        match poll(&mut polled, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
