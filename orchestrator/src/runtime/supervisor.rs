//! The process that watches over one instance and outlives the worker: it starts the instance,
//! keeps its output and its exit status, and leaves nothing of it behind.
//!
//! It is the worker's own program, executed again with a hidden argument, so there is nothing
//! else to install, and it has one thread, so that namespaces and mounts are its own affair. It
//! decides nothing: its order is a file, a SIGTERM tells it to end the instance, and what became
//! of it is a file again ([`crate::runtime::process`] has the other side).
//!
//! Every process that the instance leaves becomes a child of the supervisor, so that it can wait
//! for all of them to end. Should the supervisor itself be killed, the instance's first process is
//! killed by the kernel, and the worker kills the rest of the group.

mod children;
mod enter;
mod watch;

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

/// The hidden argument, followed by what to do and the folder of a life.
pub(crate) const ARGUMENT: &str = "instance-supervisor";
/// Watches over the instance.
pub(crate) const WATCH: &str = "watch";
/// Becomes the instance.
const ENTER: &str = "enter";

/// The program that this process runs, also after its file was replaced by a newer one.
pub(crate) const OWN_PROGRAM: &str = "/proc/self/exe";

/// Does a supervisor's work if this process was started to do so, and returns its exit code; none
/// if it is an ordinary one.
///
/// To be called before anything else in `main`, above all before any thread is started.
#[must_use]
pub fn main() -> Option<ExitCode> {
    let mut arguments = env::args_os().skip(1);
    if arguments.next().as_deref() != Some(OsStr::new(ARGUMENT)) {
        return None;
    }
    Some(work(arguments.next().as_deref(), arguments.next()))
}

fn work(task: Option<&OsStr>, folder: Option<OsString>) -> ExitCode {
    let task = task.and_then(OsStr::to_str);
    let (Some(task), Some(folder)) = (task, folder) else {
        eprintln!("{ARGUMENT} is for a worker's own use");
        return ExitCode::FAILURE;
    };
    let folder = Path::new(&folder);
    let done = match task {
        WATCH => watch::watch(folder),
        ENTER => enter::enter(folder),
        other => Err(std::io::Error::other(format!("no such task: {other:?}"))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
