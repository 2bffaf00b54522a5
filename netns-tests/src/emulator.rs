//! The link emulator: a userspace link between two TAP devices in two namespaces.
//!
//! [`Impairment`] says what a direction does to frames, `Line` decides it without I/O, and a
//! thread per link moves frames and keeps time. Impairments may change while traffic flows.

mod driver;
mod impairment;
mod line;
mod random;

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result};
use rustix::event::{EventfdFlags, eventfd};

pub use impairment::{DEFAULT_QUEUE_BYTES, DEFAULT_QUEUE_TIME, Impairment, Loss, Queue};
pub use line::Counters;

use crate::tap::Tap;
use line::Line;

/// A direction of an emulated link between a machine and a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the machine to the segment.
    Up,
    /// From the segment to the machine.
    Down,
}

/// A running emulated link; it stops when dropped.
#[derive(Debug)]
pub struct EmulatedLink {
    lines: Arc<Lines>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// Both directions, shared between the link's thread and whoever changes or reads it.
#[derive(Debug)]
pub(crate) struct Lines(Mutex<[Line; 2]>);

impl Lines {
    /// Locks both lines; they stay usable after a panic elsewhere.
    pub(crate) fn lock(&self) -> MutexGuard<'_, [Line; 2]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EmulatedLink {
    /// Starts a perfect link between two devices, the machine's first.
    pub(crate) fn start(ends: [Tap; 2], seed: u64) -> Result<Self> {
        let perfect = Impairment::default();
        let lines = [Line::new(perfect, seed), Line::new(perfect, !seed)];
        let lines = Arc::new(Lines(Mutex::new(lines)));
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let stop = Arc::new(stop);
        let (shared, stopped) = (Arc::clone(&lines), Arc::clone(&stop));
        let thread = thread::Builder::new()
            .name("emulated-link".to_owned())
            .spawn(move || driver::run(&ends, &shared, &stopped))
            .context("start the thread of an emulated link")?;
        Ok(Self {
            lines,
            stop,
            thread: Some(thread),
        })
    }

    /// Changes one direction for frames that come from now on.
    pub fn set(&self, direction: Direction, impairment: Impairment) {
        self.lines.lock()[direction as usize].set(impairment);
    }

    /// Changes both directions for frames that come from now on.
    pub fn set_both(&self, impairment: Impairment) {
        for line in self.lines.lock().iter_mut() {
            line.set(impairment);
        }
    }

    /// The impairment in force.
    pub fn impairment(&self, direction: Direction) -> Impairment {
        self.lines.lock()[direction as usize].impairment()
    }

    /// What happened to the frames of one direction so far.
    pub fn counters(&self, direction: Direction) -> Counters {
        self.lines.lock()[direction as usize].counters()
    }
}

impl Drop for EmulatedLink {
    fn drop(&mut self) {
        // The counter cannot overflow by one write, and the thread ends by itself if its devices
        // are gone.
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
