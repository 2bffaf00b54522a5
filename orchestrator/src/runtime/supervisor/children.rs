//! The processes that are left to a supervisor: reaped, and killed to the last one.

use std::fs;
use std::io;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::runtime::cgroup::Group;

/// The status of a process that a signal has ended is this and the signal's number.
const SIGNAL_STATUS: i32 = 128;

/// How long to wait before the list of children is read again that lacked one.
const LOOK_PAUSE: Duration = Duration::from_millis(1);

/// How a process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    /// Its exit status; 128 + n after signal n.
    pub(super) status: i32,
    /// The signal that ended it, if one did.
    pub(super) signal: Option<Signal>,
}

/// What a look at the children has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reaped {
    /// This one has ended.
    Ended(Pid, End),
    /// None has ended that was not known of.
    Nothing,
    /// There are none.
    NoneLeft,
}

/// Takes note of one child that has ended; waits for it if there is none yet and `wait` is set.
pub(super) fn reap(wait: bool) -> io::Result<Reaped> {
    let flags = if wait {
        WaitPidFlag::empty()
    } else {
        WaitPidFlag::WNOHANG
    };
    loop {
        return match waitpid(None, Some(flags)) {
            Ok(WaitStatus::Exited(pid, status)) => {
                let signal = None;
                Ok(Reaped::Ended(pid, End { status, signal }))
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) => {
                let status = SIGNAL_STATUS + signal as i32;
                let signal = Some(signal);
                Ok(Reaped::Ended(pid, End { status, signal }))
            }
            Ok(WaitStatus::StillAlive) => Ok(Reaped::Nothing),
            // Stopped and traced ones have not ended.
            Ok(
                WaitStatus::Stopped(..)
                | WaitStatus::Continued(_)
                | WaitStatus::PtraceEvent(..)
                | WaitStatus::PtraceSyscall(_),
            )
            | Err(Errno::EINTR) => continue,
            Err(Errno::ECHILD) => Ok(Reaped::NoneLeft),
            Err(error) => Err(error.into()),
        };
    }
}

/// Kills whatever the instance has left, wherever it went, and waits until all of it is gone.
pub(super) fn end_all(group: &Group) -> io::Result<()> {
    group.kill()?;
    // What is not in the group, or where there is none: children, and what they leave to us.
    loop {
        let children = own_children()?;
        for child in &children {
            // It may have ended by now.
            let _ = kill(*child, Signal::SIGKILL);
        }
        // One that was killed is sure to come. The kernel's list may lack one while others end,
        // so that an empty list is no reason to wait for ever.
        match reap(!children.is_empty())? {
            Reaped::NoneLeft => return Ok(()),
            Reaped::Ended(..) => {}
            Reaped::Nothing => thread::sleep(LOOK_PAUSE),
        }
    }
}

/// The kernel's list of our children, among them those that have ended and were not reaped.
fn own_children() -> io::Result<Vec<Pid>> {
    let text = fs::read_to_string("/proc/thread-self/children")?;
    let pids = text.split_whitespace().filter_map(|pid| pid.parse().ok());
    Ok(pids.map(Pid::from_raw).collect())
}
