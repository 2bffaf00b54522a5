//! Starts a program in an instance's namespace: what `netmanager run --instance` does.
//!
//! The program gets the instance's network, and a mount namespace of its own in which
//! `/etc/resolv.conf` is the instance's and `/sys` shows the instance's devices.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use weald_proto::id::Label;
use weald_proto::name::InstanceId;

use super::config::{instance_namespace, resolv_conf_path};
use super::namespace;

/// What the C library reads to find the resolver.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Replaces the process by a program that runs in an instance's namespace.
///
/// It returns only when it fails; the calling thread may then be in other namespaces, so the
/// process should end.
#[must_use]
pub fn run_in_instance(overlay: &Label, instance: &InstanceId, argv: &[OsString]) -> io::Error {
    let Some((program, arguments)) = argv.split_first() else {
        return io::Error::new(io::ErrorKind::InvalidInput, "no program to run");
    };
    if let Err(error) = enter(overlay, instance) {
        return error;
    }
    let error = Command::new(program).args(arguments).exec();
    let text = format!("{}: {error}", Path::new(program).display());
    io::Error::new(error.kind(), text)
}

/// Moves the calling thread into an instance's network and a mount namespace of its own.
fn enter(overlay: &Label, instance: &InstanceId) -> io::Result<()> {
    let name = instance_namespace(overlay, instance);
    let Some(file) = namespace::open(&name)? else {
        let text =
            format!("instance {instance} has no namespace in overlay {overlay} on this node");
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    };
    namespace::enter(file)?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    let flags = MsFlags::MS_SLAVE | MsFlags::MS_REC;
    mount(none, "/", none, flags, none)?;
    show_own_devices();
    let resolv_conf = resolv_conf_path(overlay, instance);
    // The mount must not follow a link out of a directory that does not exist.
    let target = fs::canonicalize(RESOLV_CONF).map_err(|error| {
        let text = format!("{RESOLV_CONF} must exist to be mounted over: {error}");
        io::Error::new(error.kind(), text)
    })?;
    Ok(mount(
        Some(&resolv_conf),
        &target,
        none,
        MsFlags::MS_BIND,
        none,
    )?)
}

/// Mounts a `/sys` that belongs to the namespace. Programs do without where that is not allowed.
fn show_own_devices() {
    let none = None::<&str>;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let shown = umount2("/sys", MntFlags::MNT_DETACH)
        .and_then(|()| mount(Some("sysfs"), "/sys", Some("sysfs"), flags, none));
    if let Err(error) = shown {
        tracing::debug!(%error, "cannot mount /sys for the instance");
    }
}
