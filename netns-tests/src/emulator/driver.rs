//! The thread of one emulated link: reads both devices, feeds the lines, writes what is due.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::Lines;
use crate::punctual::be_punctual;
use crate::tap::Tap;

/// The largest frame that a device can hand over.
const MAX_FRAME_BYTES: usize = 1 << 16;

/// How many frames are read from one device before what is due is written: keeps one busy
/// direction from delaying the other.
const BATCH: usize = 64;

/// Runs until `stop` is written to or a device is gone.
pub(super) fn run(ends: &[Tap; 2], lines: &Lines, stop: &OwnedFd) {
    // A refusal costs only precision.
    let _ = be_punctual();
    let mut buffer = vec![0; MAX_FRAME_BYTES];
    loop {
        let due = lines
            .lock()
            .iter()
            .filter_map(|line| line.poll_timeout())
            .min();
        let timeout = due.map(|due| timespec(due.saturating_duration_since(Instant::now())));
        let mut waits = [
            PollFd::new(&ends[0], PollFlags::IN),
            PollFd::new(&ends[1], PollFlags::IN),
            PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
        ];
        match poll(&mut waits, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
        if !waits[2].revents().is_empty() {
            return;
        }
        let ready = [
            !waits[0].revents().is_empty(),
            !waits[1].revents().is_empty(),
        ];
        for index in 0..2 {
            if ready[index] && take_in(&ends[index], index, lines, &mut buffer).is_err() {
                return;
            }
        }
        for index in 0..2 {
            send_due(&ends[1 - index], index, lines);
        }
    }
}

/// Reads a batch of frames from one end into its line.
fn take_in(end: &Tap, index: usize, lines: &Lines, buffer: &mut [u8]) -> io::Result<()> {
    for _ in 0..BATCH {
        match end.read(buffer) {
            Ok(length) => {
                let now = Instant::now();
                lines.lock()[index].handle_frame(&buffer[..length], now);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes what is due on one line to the other end.
fn send_due(end: &Tap, index: usize, lines: &Lines) {
    let now = Instant::now();
    loop {
        let Some(frame) = lines.lock()[index].poll_frame(now) else {
            return;
        };
        let sent = end.write(&frame).is_ok();
        lines.lock()[index].recycle(frame, sent);
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: duration.as_secs().cast_signed(),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}
