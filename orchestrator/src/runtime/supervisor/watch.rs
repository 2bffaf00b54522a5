//! A supervisor's one loop: start the instance, keep what it writes, wait for its end or for the
//! word to end it, clear up, and put down how it went.

use std::fs::File;
use std::io::{self, PipeReader, Read as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, dup2_stdout, setsid};

use super::children::{self, End, Reaped};
use super::{ARGUMENT, ENTER, OWN_PROGRAM};
use crate::runtime::logs::Log;
use crate::runtime::process::identity::Identity;
use crate::runtime::process::life::{Life, Order, Outcome};

/// How much output is taken at once: a quarter of a pipe, so that the supervisor stays small.
const CHUNK: usize = 16 << 10;

/// How many more chunks are taken when everything has ended: a full pipe of the largest size.
/// Whoever was handed the pipe from the instance and lives on elsewhere is not waited for.
const MAX_LAST_CHUNKS: u32 = 64;

/// Watches over the life in `folder` until nothing is left of the instance.
///
/// # Errors
/// It could not even say how it ended; the worker notes then that it ended without a word.
pub(super) fn watch(folder: &Path) -> io::Result<()> {
    let life = Life::at(folder.to_owned());
    let order = life.order()?;
    let order = order.ok_or_else(|| io::Error::other("there is no order"))?;
    // Fails for the leader of a group, which is one of its own session then.
    let _ = setsid();
    set_child_subreaper(true)?;
    let signals = take_signals()?;
    life.write_supervisor(&Identity::own()?)?;
    let log = Log::open(life.folder(), order.log_bytes)?;
    let outcome = match start(&life) {
        Ok((main, output)) => {
            release_start()?;
            Watch {
                order: &order,
                main,
                signals,
                output: Some(output),
                log,
                kill_at: None,
            }
            .run()?
        }
        Err(error) => {
            children::end_all(&order.group)?;
            Outcome::NotStarted(error.to_string())
        }
    };
    // A group that does not go is said in the supervisor's log, and tried again by the worker.
    if let Err(error) = order.group.remove() {
        eprintln!("{error}");
    }
    life.write_outcome(&outcome)
}

/// Signals come as something to read from now on.
fn take_signals() -> io::Result<SignalFd> {
    let taken = [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
    ];
    let mask: SigSet = taken.into_iter().collect();
    mask.thread_block()?;
    Ok(SignalFd::with_flags(
        &mask,
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?)
}

/// Starts the instance; its first process and what it writes. An error is for the user.
fn start(life: &Life) -> io::Result<(Pid, PipeReader)> {
    let (output, output_end) = io::pipe()?;
    let (mut fault, fault_end) = io::pipe()?;
    let child = Command::new(OWN_PROGRAM)
        .args([ARGUMENT, ENTER])
        .arg(life.folder())
        .stdin(Stdio::null())
        .stdout(Stdio::from(output_end))
        .stderr(Stdio::from(fault_end))
        .spawn()?;
    let mut text = String::new();
    fault.read_to_string(&mut text)?;
    if !text.is_empty() {
        return Err(io::Error::other(text));
    }
    Ok((Pid::from_raw(child.id().cast_signed()), output))
}

/// Standard output is the lock that says that the instance is being started; it is let go.
fn release_start() -> io::Result<()> {
    let null = File::options().write(true).open("/dev/null")?;
    Ok(dup2_stdout(null)?)
}

struct Watch<'a> {
    order: &'a Order,
    main: Pid,
    signals: SignalFd,
    /// None once every writer is gone.
    output: Option<PipeReader>,
    log: Log,
    /// When patience ends, once it was told to end.
    kill_at: Option<Instant>,
}

impl Watch<'_> {
    fn run(mut self) -> io::Result<Outcome> {
        let mut chunk = vec![0; CHUNK];
        let end = loop {
            let timeout = self.timeout();
            let (signalled, written) = self.wait(timeout)?;
            if written {
                self.take_output(&mut chunk)?;
            }
            if signalled && let Some(end) = self.handle_signals()? {
                break end;
            }
            if self.kill_at.is_some_and(|at| at <= Instant::now()) {
                self.kill_at = None;
                let _ = killpg(self.main, Signal::SIGKILL);
            }
        };
        children::end_all(&self.order.group)?;
        // Who wrote has ended; what is in the pipe is all there will be.
        let mut chunks = 0;
        while chunks < MAX_LAST_CHUNKS && self.wait(PollTimeout::ZERO)?.1 {
            self.take_output(&mut chunk)?;
            chunks += 1;
        }
        Ok(Outcome::Exited {
            status: end.status,
            detail: self.detail(end),
        })
    }

    /// Waits for a signal or for output, and says which came.
    fn wait(&self, timeout: PollTimeout) -> io::Result<(bool, bool)> {
        let mut polled = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        if let Some(output) = &self.output {
            polled.push(PollFd::new(output.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let came = |at: usize| polled.get(at).and_then(PollFd::any).unwrap_or(false);
        Ok((came(0), came(1)))
    }

    fn timeout(&self) -> PollTimeout {
        let Some(at) = self.kill_at else {
            return PollTimeout::NONE;
        };
        let left = at.saturating_duration_since(Instant::now());
        // Rounded up, so that the time has come when the wait is over.
        let left = left + Duration::from_millis(1);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    }

    fn take_output(&mut self, chunk: &mut [u8]) -> io::Result<()> {
        let Some(output) = &mut self.output else {
            return Ok(());
        };
        match output.read(chunk) {
            Ok(0) => self.output = None,
            Ok(read) => self.log.add(chunk.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// How the first process has ended, if it has.
    fn handle_signals(&mut self) -> io::Result<Option<End>> {
        while let Some(signal) = self.signals.read_signal()? {
            if signal.ssi_signo != Signal::SIGCHLD as u32 && self.kill_at.is_none() {
                self.kill_at = Some(Instant::now() + Duration::from_millis(self.order.grace_ms));
                // It may be over already.
                let _ = killpg(self.main, Signal::SIGTERM);
            }
        }
        loop {
            match children::reap(false)? {
                Reaped::Ended(pid, end) if pid == self.main => return Ok(Some(end)),
                Reaped::Ended(..) => {}
                Reaped::Nothing | Reaped::NoneLeft => return Ok(None),
            }
        }
    }

    fn detail(&self, end: End) -> Option<String> {
        let limit = self.order.memory_mib;
        let failed = end.status != 0;
        if failed && limit > 0 && self.order.group.out_of_memory_kills() > 0 {
            return Some(format!(
                "killed: it used more than its {limit} MiB of memory"
            ));
        }
        let signal = end.signal?;
        Some(format!("ended by {}", signal.as_str()))
    }
}
