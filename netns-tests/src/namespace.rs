//! One network namespace: made, entered by a thread or a program, removed.
//!
//! A thread that enters stays inside, so every entry is a thread (or a forked child) of its own;
//! a shared thread never moves. What a namespace is for, [`crate::Lab`] knows.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::process::{self, Process};

/// Where `ip netns` keeps its namespaces.
pub const NAMESPACES_DIR: &str = "/run/netns";

/// The environment variable that marks a lab's programs with the lab's name, so that teardown
/// finds them wherever they moved.
pub const MARKER: &str = "WEALD_LAB";

/// A network namespace with a name under [`NAMESPACES_DIR`].
#[derive(Debug)]
pub struct Namespace {
    name: String,
    marker: String,
    handle: Arc<OwnedFd>,
    /// The mount namespace that goes with it, if it has its own.
    mounts: Option<Arc<OwnedFd>>,
}

impl Namespace {
    /// Makes namespaces, with nothing but a loopback that is down.
    pub(crate) fn create_all(names: &[String]) -> Result<()> {
        let commands: String = names
            .iter()
            .map(|name| format!("netns add {name}\n"))
            .collect();
        let mut ip = Command::new("ip");
        ip.args(["-batch", "-"]);
        process::feed(ip, &commands)
    }

    /// Opens a namespace that something else made, such as a netmanager for an instance.
    ///
    /// Programs started in it are marked as belonging to the lab called `marker`.
    ///
    /// # Errors
    /// Fails if there is no namespace of this name.
    pub fn open(name: &str, marker: &str) -> Result<Self> {
        let path = path_of(name);
        let file = File::open(&path).with_context(|| format!("open namespace {path:?}"))?;
        Ok(Self {
            name: name.to_owned(),
            marker: marker.to_owned(),
            handle: Arc::new(OwnedFd::from(file)),
            mounts: None,
        })
    }

    /// Gives the namespace a mount namespace of its own, in which each of `covered` is an empty
    /// directory; it vanishes with its last program and this value.
    pub(crate) fn make_mounts(&mut self, covered: &[PathBuf]) -> Result<()> {
        let mounts = self.in_ns(|| {
            unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace")?;
            let (none, no_data) = (None::<&str>, None::<&str>);
            mount(
                none,
                "/",
                none,
                MsFlags::MS_REC | MsFlags::MS_PRIVATE,
                no_data,
            )?;
            for path in covered {
                fs::create_dir_all(path)?;
                mount(
                    Some("tmpfs"),
                    path,
                    Some("tmpfs"),
                    MsFlags::empty(),
                    Some("mode=0755"),
                )
                .with_context(|| format!("cover {path:?}"))?;
            }
            Ok(File::open("/proc/thread-self/ns/mnt")?)
        })?;
        self.mounts = Some(Arc::new(OwnedFd::from(mounts)));
        Ok(())
    }

    /// Opens a namespace that a program inside this one made, seen with this one's mounts.
    ///
    /// # Errors
    /// Fails if there is no namespace of this name.
    pub fn open_inner(&self, name: &str) -> Result<Self> {
        let inner = self.in_ns(|| Self::open(name, &self.marker))?;
        Ok(Self {
            mounts: self.mounts.clone(),
            ..inner
        })
    }

    /// The name, as in `ip netns exec NAME`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a thread of its own inside the namespace and returns its result.
    ///
    /// Sockets opened inside stay inside, whatever thread uses them later.
    ///
    /// # Errors
    /// Fails if the namespace cannot be entered or `work` fails.
    ///
    /// # Panics
    /// Panics if `work` does.
    pub fn in_ns<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let entered = || {
            self.enter()
                .with_context(|| format!("enter {:?} (needs root)", self.name))?;
            work()
        };
        thread::scope(|scope| match scope.spawn(entered).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Starts a program inside the namespace; it is killed with its process group when the
    /// returned value is dropped.
    ///
    /// # Errors
    /// Fails if the program cannot be started.
    pub fn spawn(&self, mut command: Command) -> Result<Process> {
        self.enter_on_exec(&mut command);
        Process::spawn(command)
    }

    /// Runs a program inside the namespace to its end, and then kills what is left of its process
    /// group; a daemon must leave the group (as `setsid` does) to live on until the lab's end.
    ///
    /// # Errors
    /// Fails if the program cannot be started or does not end within `timeout`; the error shows
    /// its output so far. A non-zero exit status is no error here.
    pub fn run(&self, command: Command, timeout: Duration) -> Result<Output> {
        self.spawn(command)?.into_output(timeout)
    }

    /// Runs a program inside the namespace and returns its standard output.
    ///
    /// # Errors
    /// As [`Namespace::run`], and if the exit status is not zero.
    pub fn run_ok(&self, command: Command, timeout: Duration) -> Result<String> {
        let title = process::title(&command);
        let output = self.run(command, timeout)?;
        ensure!(
            output.status.success(),
            "{title} in {}: {}\n{}{}",
            self.name,
            output.status,
            process::without_secrets(&String::from_utf8_lossy(&output.stdout)),
            process::without_secrets(&String::from_utf8_lossy(&output.stderr))
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Opens a UDP socket inside the namespace.
    ///
    /// # Errors
    /// Fails if the address cannot be bound.
    pub fn udp_bind(&self, address: SocketAddr) -> Result<UdpSocket> {
        self.in_ns(|| UdpSocket::bind(address).with_context(|| format!("bind udp {address}")))
    }

    /// Opens a TCP listener inside the namespace.
    ///
    /// # Errors
    /// Fails if the address cannot be bound.
    pub fn tcp_listen(&self, address: SocketAddr) -> Result<TcpListener> {
        self.in_ns(|| TcpListener::bind(address).with_context(|| format!("bind tcp {address}")))
    }

    /// Connects by TCP from inside the namespace; the error kind tells refused from timed out.
    ///
    /// # Errors
    /// Fails as the connection attempt does.
    pub fn tcp_connect(&self, to: SocketAddr, timeout: Duration) -> Result<io::Result<TcpStream>> {
        self.in_ns(|| Ok(TcpStream::connect_timeout(&to, timeout)))
    }

    /// Sets a sysctl of the namespace, such as `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// Fails if the kernel does not know the key or refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.sysctls(&[(key, value)])
    }

    /// Sets several sysctls.
    pub(crate) fn sysctls(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.in_ns(|| {
            for (key, value) in settings {
                let path = Path::new("/proc/sys").join(key);
                fs::write(&path, value).with_context(|| format!("write {value:?} to {path:?}"))?;
            }
            Ok(())
        })
    }

    /// Runs commands of `ip`, one a line, inside the namespace.
    ///
    /// # Errors
    /// Fails with the program's message if one command does.
    pub fn ip_batch(&self, commands: &str) -> Result<()> {
        let mut ip = Command::new("ip");
        ip.args(["-batch", "-"]);
        self.feed(ip, commands)
            .with_context(|| format!("commands were:\n{commands}"))
    }

    /// Loads an nft ruleset inside the namespace.
    ///
    /// # Errors
    /// Fails with the program's message if the ruleset is refused.
    pub fn nft(&self, ruleset: &str) -> Result<()> {
        let mut nft = Command::new("nft");
        nft.args(["-f", "-"]);
        self.feed(nft, ruleset)
            .with_context(|| format!("the ruleset was:\n{ruleset}"))
    }

    /// Runs a short program inside with `input` on its standard input; it must succeed.
    fn feed(&self, mut command: Command, input: &str) -> Result<()> {
        self.enter_on_exec(&mut command);
        process::feed(command, input).with_context(|| format!("in {}", self.name))
    }

    /// Moves the calling thread, which must end in there.
    fn enter(&self) -> nix::Result<()> {
        enter(&self.handle, self.mounts.as_deref())
    }

    fn enter_on_exec(&self, command: &mut Command) {
        command.env(MARKER, &self.marker);
        let (handle, mounts) = (Arc::clone(&self.handle), self.mounts.clone());
        let enter = move || Ok(enter(&handle, mounts.as_deref())?);
        // SAFETY: the closure makes system calls in the forked child and touches no lock or heap.
        unsafe { command.pre_exec(enter) };
    }
}

fn enter(handle: &OwnedFd, mounts: Option<&OwnedFd>) -> nix::Result<()> {
    setns(handle.as_fd(), CloneFlags::CLONE_NEWNET)?;
    if let Some(mounts) = mounts {
        // A thread shares its working directory with the process, and may not move until not.
        unshare(CloneFlags::CLONE_FS)?;
        setns(mounts.as_fd(), CloneFlags::CLONE_NEWNS)?;
    }
    Ok(())
}

/// The path of a named namespace.
pub fn path_of(name: &str) -> PathBuf {
    Path::new(NAMESPACES_DIR).join(name)
}

/// The names of all namespaces that start with `prefix`.
pub(crate) fn names_with_prefix(prefix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(NAMESPACES_DIR) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect()
}

/// Removes a named namespace; what is already gone is fine.
pub(crate) fn remove(name: &str) {
    let path = path_of(name);
    // Either may have been done by a parallel sweep; what stays is found by the next one.
    let _ = umount2(&path, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(&path);
}
