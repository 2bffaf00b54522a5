//! Named network namespaces as `ip netns` knows them: made, entered, removed.
//!
//! Entering one is a matter of a thread, so every function here that must be inside does its work
//! on a thread of its own, which ends with it. A thread of a runtime is never moved.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{FsType, fstatfs};

/// Where named namespaces are.
const NETNS_DIR: &str = "/run/netns";

/// The magic number of the file system that namespace handles are on (`NSFS_MAGIC`).
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// The namespace of the calling thread.
const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";

/// The path of a named namespace.
pub(super) fn path(name: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(name)
}

/// Opens the namespace of the calling thread.
pub(super) fn open_own() -> io::Result<File> {
    File::open(OWN_NAMESPACE)
}

/// Opens a named namespace; none if there is none.
pub(super) fn open(name: &str) -> io::Result<Option<File>> {
    let file = match File::open(path(name)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // A file that no namespace is mounted on was left by a crash or another mount namespace.
    let is_namespace = fstatfs(&file)?.filesystem_type() == FsType(NSFS_MAGIC);
    Ok(is_namespace.then_some(file))
}

/// The names of all namespaces.
pub(super) fn names() -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(NETNS_DIR) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect())
}

/// Makes a named namespace.
pub(super) fn create(name: &str) -> io::Result<()> {
    prepare_dir()?;
    let path = path(name);
    let made = File::options().write(true).create_new(true).open(&path);
    match made {
        Ok(_) => {}
        // A leftover without a namespace is used; a namespace is not replaced.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if open(name)?.is_some() {
                return Err(error);
            }
        }
        Err(error) => return Err(error),
    }
    let bound = on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        bind(Path::new(OWN_NAMESPACE), &path)
    });
    if bound.is_err() {
        let _ = fs::remove_file(&path);
    }
    bound
}

/// Removes a named namespace. Programs in it keep it until they end.
pub(super) fn delete(name: &str) -> io::Result<()> {
    let path = path(name);
    match umount2(&path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes the empty file of a namespace that another mount namespace had, as that of each `ip netns
/// exec` is; a namespace, and what is no such file, stays.
pub(super) fn clear_leftover(name: &str) -> io::Result<()> {
    if open(name)?.is_some() {
        return Ok(());
    }
    match fs::symlink_metadata(path(name)) {
        Ok(file) if file.is_file() && file.len() == 0 => delete(name),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Runs `work` on a thread of its own inside a namespace.
pub(super) fn inside<T: Send>(
    namespace: BorrowedFd<'_>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    on_thread(|| {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        work()
    })
}

/// The number that the kernel gave to the namespace of the calling thread, and to no other since
/// it started.
pub(super) fn cookie() -> io::Result<u64> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let mut cookie = 0_u64;
    // The length of an integer of 64 bits fits.
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel writes at most `length` bytes to `cookie`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Moves the calling thread into a namespace, for good.
pub(super) fn enter(namespace: impl AsFd) -> io::Result<()> {
    Ok(setns(namespace, CloneFlags::CLONE_NEWNET)?)
}

fn on_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("netns".into());
        let thread = builder.spawn_scoped(scope, work)?;
        let panicked = || Err(io::Error::other("a thread inside a namespace panicked"));
        thread.join().unwrap_or_else(|_| panicked())
    })
}

/// Makes the directory of namespaces a shared mount, as `ip netns` does, so that a namespace
/// removed here is removed in every mount namespace and does not live on in one.
fn prepare_dir() -> io::Result<()> {
    fs::create_dir_all(NETNS_DIR)?;
    let share = || {
        let flags = MsFlags::MS_SHARED | MsFlags::MS_REC;
        mount(None::<&str>, NETNS_DIR, None::<&str>, flags, None::<&str>)
    };
    match share() {
        Ok(()) => Ok(()),
        // Not a mount point yet.
        Err(nix::Error::EINVAL) => {
            bind_recursive(Path::new(NETNS_DIR), Path::new(NETNS_DIR))?;
            Ok(share()?)
        }
        Err(error) => Err(error.into()),
    }
}

fn bind(from: &Path, to: &Path) -> io::Result<()> {
    let none = None::<&str>;
    Ok(mount(Some(from), to, none, MsFlags::MS_BIND, none)?)
}

fn bind_recursive(from: &Path, to: &Path) -> io::Result<()> {
    let none = None::<&str>;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    Ok(mount(Some(from), to, none, flags, none)?)
}
