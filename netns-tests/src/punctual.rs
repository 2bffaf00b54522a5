//! Real-time priority for threads that keep time: on a busy machine an ordinary thread waits
//! milliseconds for a core, and a measurement would show that.

use std::io;

use nix::libc;

/// The lowest real-time priority: enough to go before everything ordinary.
const PRIORITY: libc::c_int = 1;

/// Lets the calling thread run as soon as it is woken.
///
/// Only for threads that mostly wait: one that computes would keep its core from the others.
///
/// # Errors
/// Fails without CAP_SYS_NICE; the thread then goes on as an ordinary one.
pub fn be_punctual() -> io::Result<()> {
    // Without it the kernel may wake an ordinary thread 50 microseconds late.
    nix::sys::prctl::set_timerslack(1)?;
    let parameters = libc::sched_param {
        sched_priority: PRIORITY,
    };
    // SAFETY: the kernel reads one sched_param, which outlives the call; 0 is the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
