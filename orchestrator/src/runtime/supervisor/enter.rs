//! Becomes the instance: group, session, namespaces, mounts, and then its program in place of
//! ours.
//!
//! Standard output is the instance's own already; standard error is where to say why it cannot
//! be started. It closes as soon as the program runs, which is how the supervisor knows.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::unistd::{dup2_stderr, execve, setsid};

use crate::runtime::process::life::{Life, Order};
use crate::runtime::process::preflight::RESOLV_CONF;

/// Becomes the instance of the life in `folder`; comes back only with an error, which has been
/// said already.
pub(super) fn enter(folder: &Path) -> io::Result<()> {
    // Closed by the kernel when the program is executed.
    let mut fault = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let error = match become_instance(folder) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    fault.write_all(error.to_string().as_bytes())?;
    Err(error)
}

fn become_instance(folder: &Path) -> io::Result<Infallible> {
    let order = Life::at(folder.to_owned()).order()?;
    let order = order.ok_or_else(|| io::Error::other("the order is gone"))?;
    set_pdeathsig(Signal::SIGKILL)?;
    restore_signals()?;
    order.group.join().map_err(io::Error::other)?;
    setsid()?;
    enter_namespaces(&order)?;
    dup2_stderr(io::stdout())?;
    execute(&order)
}

/// Not by way of the standard library: what is no program is not handed to a shell.
fn execute(order: &Order) -> io::Result<Infallible> {
    let program = CString::new(order.program.as_os_str().as_bytes())?;
    let words = order.words.iter().map(|word| CString::new(word.as_str()));
    let words = words.collect::<Result<Vec<_>, _>>()?;
    let variables = order
        .environment
        .iter()
        .map(|(name, value)| CString::new(format!("{name}={value}")));
    let variables = variables.collect::<Result<Vec<_>, _>>()?;
    execve(&program, &words, &variables).map_err(|error| {
        io::Error::other(format!("cannot run {:?}: {}", order.program, error.desc()))
    })
}

/// The supervisor holds signals back, and the standard library ignores one.
fn restore_signals() -> io::Result<()> {
    // SAFETY: the default action runs no code of this process.
    // JUSTIFICATION: a program that writes into a closed pipe is to end, as everywhere.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
    Ok(SigSet::empty().thread_set_mask()?)
}

fn enter_namespaces(order: &Order) -> io::Result<()> {
    let told = |what: &Path, error: &dyn std::fmt::Display| {
        io::Error::other(format!("cannot enter with {what:?}: {error}"))
    };
    if let Some(netns) = &order.netns {
        let file = File::open(netns).map_err(|error| told(netns, &error))?;
        setns(file, CloneFlags::CLONE_NEWNET).map_err(|error| told(netns, &error))?;
    }
    if let Some(resolv_conf) = &order.resolv_conf {
        cover(resolv_conf).map_err(|error| told(resolv_conf, &error))?;
    }
    Ok(())
}

/// Puts a file over /etc/resolv.conf in a mount namespace of our own. What the host mounts later
/// is seen, and nothing that is mounted here reaches the host.
fn cover(resolv_conf: &Path) -> nix::Result<()> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none)?;
    mount(Some(resolv_conf), RESOLV_CONF, none, MsFlags::MS_BIND, none)
}
