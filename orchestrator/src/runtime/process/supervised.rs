//! A supervisor as its worker sees it: a handle on a process that is perhaps not our child, whose
//! end is an event; and what a life's folder says of it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::fd::{AsFd as _, OwnedFd};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::identity::{Found, Identity};
use super::life::{Life, Order, Outcome};

/// The status of a life whose supervisor was killed: that of its first process, which the kernel
/// kills with it.
const KILLED_STATUS: i32 = 137;

/// What a folder says of its life.
#[derive(Debug)]
pub(super) enum Standing {
    /// It runs.
    Running(Arc<Running>),
    /// It has ended, or could not be started.
    Over(Outcome),
    /// It has not run, or ran before the machine was started again.
    Nothing,
}

/// A life that runs, and the process that watches over it.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) order: Order,
    pub(super) supervisor: Identity,
    handle: OwnedFd,
}

/// Waits until a life is not being started any more, and says how it stands. Blocks, and reads
/// files.
pub(super) fn look(life: &Life) -> io::Result<Standing> {
    let Some(order) = life.order()? else {
        return Ok(Standing::Nothing);
    };
    drop(life.lock_start()?);
    if let Some(outcome) = life.outcome()? {
        return Ok(Standing::Over(outcome));
    }
    let Some(supervisor) = life.supervisor()? else {
        return Ok(Standing::Nothing);
    };
    match supervisor.find()? {
        Found::There(handle) => Ok(Standing::Running(Arc::new(Running {
            order,
            supervisor,
            handle,
        }))),
        Found::Gone => conclude(life, &order).map(Standing::Over),
        Found::Rebooted => Ok(Standing::Nothing),
    }
}

/// How a life ended whose supervisor has ended; clears up after one that was killed. Blocks.
pub(super) fn conclude(life: &Life, order: &Order) -> io::Result<Outcome> {
    if let Some(outcome) = life.outcome()? {
        return Ok(outcome);
    }
    order.group.kill()?;
    order.group.remove()?;
    let outcome = Outcome::Exited {
        status: KILLED_STATUS,
        detail: Some("killed: the process that watched over it ended without a word".to_owned()),
    };
    life.write_outcome(&outcome)?;
    Ok(outcome)
}

/// The end of a supervisor, as an event.
#[derive(Debug)]
pub(super) struct Watched {
    handle: AsyncFd<OwnedFd>,
}

impl Watched {
    /// Watches a running life's supervisor.
    pub(super) fn new(running: &Running) -> io::Result<Self> {
        let handle = running.handle.try_clone()?;
        // SAFETY: the handle is owned by the `AsyncFd` that is returned, gives the same descriptor
        // as long as it lives, and is closed by nobody else.
        // JUSTIFICATION: tokio has no safe way to wait for a descriptor that is not its own.
        let handle = unsafe { AsyncFd::register_with_interest(handle, Interest::READABLE) }?;
        Ok(Self { handle })
    }

    /// Returns when the supervisor has ended; at once if it has. Harmless to drop.
    pub(super) async fn ended(&self) -> io::Result<()> {
        // The handle stays readable, so readiness is never cleared.
        let _ = self.handle.readable().await?;
        // Without this a child of ours would stay as a zombie. Those of an earlier worker are not
        // ours, and the answer is an error then.
        let _ = waitid(
            WaitId::PidFd(self.handle.get_ref().as_fd()),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        );
        Ok(())
    }

    /// Tells the supervisor to end its instance, and waits until it has; kills it after `time`.
    pub(super) async fn end(&self, time: Duration) -> io::Result<()> {
        self.signal(Signal::TERM)?;
        if let Ok(ended) = tokio::time::timeout(time, self.ended()).await {
            return ended;
        }
        self.signal(Signal::KILL)?;
        self.ended().await
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(self.handle.get_ref(), signal) {
            // It has ended.
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
