//! Which process is meant: its id together with when it began, so that another one that was given
//! the same id is not taken for it.

use std::fs;
use std::io;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

/// A process of this machine, for as long as the kernel runs and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) pid: i32,
    /// When it began, in the kernel's ticks since it started.
    began: u64,
    /// Which run of the kernel that was.
    boot: String,
}

/// What has become of a process.
#[derive(Debug)]
pub(crate) enum Found {
    /// It runs; the handle is its own.
    There(OwnedFd),
    /// It has ended.
    Gone,
    /// It ended with the machine's previous run.
    Rebooted,
}

impl Identity {
    /// The calling process.
    pub(crate) fn own() -> io::Result<Self> {
        Self::of(std::process::id().cast_signed())
    }

    /// The process that has an id now.
    pub(crate) fn of(pid: i32) -> io::Result<Self> {
        Ok(Self {
            pid,
            began: began(pid)?,
            boot: boot()?,
        })
    }

    /// Looks for the process.
    pub(crate) fn find(&self) -> io::Result<Found> {
        if boot()? != self.boot {
            return Ok(Found::Rebooted);
        }
        let positive = Some(self.pid).filter(|pid| *pid > 0);
        let Some(pid) = positive.and_then(Pid::from_raw) else {
            return Ok(Found::Gone);
        };
        // The handle first: it stays with whatever process has the id now.
        let handle = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Ok(Found::Gone),
            Err(error) => return Err(error.into()),
        };
        let same = began(self.pid).is_ok_and(|began| began == self.began);
        // One that nobody has asked for its status yet has ended as well.
        let now = Timespec::default();
        let ended = poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&now))? > 0;
        Ok(if same && !ended {
            Found::There(handle)
        } else {
            Found::Gone
        })
    }
}

/// When a process began, in ticks since the kernel started.
fn began(pid: i32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold anything; the 22nd field is the 20th after it.
    let after = text.rsplit_once(')').map(|(_, after)| after);
    let field = after.and_then(|after| after.split_whitespace().nth(19));
    field
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat")))
}

/// The id of this run of the kernel.
fn boot() -> io::Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_process_of_the_same_boot_is_found() {
        let own = Identity::own().unwrap();
        assert!(matches!(own.find().unwrap(), Found::There(_)));
        let other = Identity {
            began: own.began + 1,
            ..own.clone()
        };
        assert!(matches!(other.find().unwrap(), Found::Gone));
        for pid in [i32::MAX, 0, -1] {
            let none = Identity { pid, ..own.clone() };
            assert!(matches!(none.find().unwrap(), Found::Gone), "{pid}");
        }
        let before = Identity {
            boot: "another".into(),
            ..own
        };
        assert!(matches!(before.find().unwrap(), Found::Rebooted));
    }

    #[test]
    fn an_ended_process_is_gone() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id().cast_signed();
        let identity = Identity::of(pid).unwrap();
        assert!(matches!(identity.find().unwrap(), Found::There(_)));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(identity.find().unwrap(), Found::Gone));
    }
}
