//! A program that a test runs: its output is collected, waited for and shown in errors, and it
//! is killed with its process group when dropped.

use std::collections::VecDeque;
use std::io::{self, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// The most output kept per stream: enough for every real program of a test; a flood loses its
/// beginning.
const MAX_OUTPUT_BYTES: usize = 16 << 20;

/// What stands before secrets in command lines and in what programs print.
const SECRETS: [&str; 6] = [
    "weald-join-",
    "Bearer ",
    "--secret ",
    "\"first_secret\":\"",
    "\"token\":\"",
    "\"refresh_token\":\"",
];

/// How long after a program's end its output is awaited: what it wrote is already in the pipe,
/// but a daemon that it left may hold the pipe open for ever.
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// How often a wait looks whether the program has ended.
const EXIT_POLL: Duration = Duration::from_millis(5);

/// Splits a command line at white space: `command("curl -sS http://10.0.0.1/")`.
pub fn command(line: &str) -> Command {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    command
}

/// A running program.
#[derive(Debug)]
pub struct Process {
    title: String,
    child: Child,
    output: Arc<Collected>,
}

/// What a program wrote so far.
#[derive(Debug, Default)]
struct Collected {
    streams: Mutex<Streams>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct Streams {
    stdout: VecDeque<u8>,
    stderr: VecDeque<u8>,
    open: usize,
}

/// One of a program's output streams.
#[derive(Debug, Clone, Copy)]
enum Stream {
    Stdout,
    Stderr,
}

impl Process {
    pub(crate) fn spawn(mut command: Command) -> Result<Self> {
        let title = title(&command);
        command.process_group(0);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {title}"))?;
        let output = Arc::new(Collected::default());
        if let Some(pipe) = child.stdout.take() {
            collect(&output, Stream::Stdout, pipe);
        }
        if let Some(pipe) = child.stderr.take() {
            collect(&output, Stream::Stderr, pipe);
        }
        Ok(Self {
            title,
            child,
            output,
        })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything on standard output so far.
    pub fn stdout(&self) -> String {
        text(&self.output.lock().stdout)
    }

    /// Everything on standard error so far.
    pub fn stderr(&self) -> String {
        text(&self.output.lock().stderr)
    }

    /// The exit status, if the program has ended.
    ///
    /// # Errors
    /// Fails if the kernel does not tell.
    pub fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until a line of either stream contains `pattern`, and returns the line.
    ///
    /// # Errors
    /// Fails when `timeout` has passed or the program ends without such a line; the error shows
    /// the program's output.
    pub fn wait_for_line(&mut self, pattern: &str, timeout: Duration) -> Result<String> {
        let deadline = Instant::now() + timeout;
        loop {
            let ended = self.child.try_wait()?;
            let output = Arc::clone(&self.output);
            let streams = output.lock();
            for stream in [&streams.stdout, &streams.stderr] {
                if let Some(line) = text(stream).lines().find(|line| line.contains(pattern)) {
                    return Ok(line.to_owned());
                }
            }
            let complete = ended.is_some() && streams.open == 0;
            if complete || Instant::now() >= deadline {
                let state =
                    ended.map_or_else(|| "still runs".to_owned(), |status| status.to_string());
                drop(streams);
                bail!(
                    "no line with {pattern:?} from {} ({state})\n{}",
                    self.title,
                    self.shown()
                );
            }
            drop(self.output.news.wait_timeout(streams, EXIT_POLL));
        }
    }

    /// Waits for the program's end.
    ///
    /// # Errors
    /// Fails when `timeout` has passed; the error shows the program's output.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.drain(deadline.min(Instant::now() + DRAIN_TIME));
                return Ok(status);
            }
            ensure!(
                Instant::now() < deadline,
                "{} still runs after {timeout:?}\n{}",
                self.title,
                self.shown()
            );
            let streams = self.output.lock();
            drop(self.output.news.wait_timeout(streams, EXIT_POLL));
        }
    }

    /// Waits for the program's end and returns all it wrote.
    ///
    /// # Errors
    /// Fails when `timeout` has passed; the error shows the program's output.
    pub fn into_output(mut self, timeout: Duration) -> Result<Output> {
        let status = self.wait(timeout)?;
        let mut streams = self.output.lock();
        Ok(Output {
            status,
            stdout: std::mem::take(&mut streams.stdout).into(),
            stderr: std::mem::take(&mut streams.stderr).into(),
        })
    }

    /// Sends a signal to the program's process group.
    ///
    /// # Errors
    /// Fails if no process of the group is left.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        killpg(self.group(), signal).with_context(|| format!("signal {}", self.title))
    }

    /// Asks the program to end (SIGTERM) and waits for it.
    ///
    /// # Errors
    /// Fails when `timeout` has passed; the error shows the program's output.
    pub fn terminate(&mut self, timeout: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(timeout)
    }

    /// Kills the program's process group (SIGKILL) and waits for it, as a crash would end it.
    ///
    /// # Errors
    /// Fails if the kernel does not let it die.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        // The group may be gone already, which is what is wanted.
        let _ = killpg(self.group(), Signal::SIGKILL);
        Ok(self.child.wait()?)
    }

    /// The program's command line and output, for error texts.
    pub fn shown(&self) -> String {
        let streams = self.output.lock();
        let shown = format!(
            "--- {} wrote:\n{}--- and as errors:\n{}---",
            self.title,
            text(&streams.stdout),
            text(&streams.stderr)
        );
        without_secrets(&shown)
    }

    fn group(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    fn drain(&self, deadline: Instant) {
        let mut streams = self.output.lock();
        while streams.open > 0 && Instant::now() < deadline {
            streams = match self.output.news.wait_timeout(streams, EXIT_POLL) {
                Ok((streams, _)) => streams,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Errors mean that it is gone already.
        let _ = killpg(self.group(), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

impl Collected {
    /// Locks the streams; a reader that panicked leaves them usable.
    fn lock(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a pipe to its end on a thread of its own.
fn collect(output: &Arc<Collected>, stream: Stream, mut pipe: impl Read + Send + 'static) {
    output.lock().open += 1;
    let output = Arc::clone(output);
    thread::spawn(move || {
        let mut chunk = vec![0; 64 << 10];
        loop {
            let read = match pipe.read(&mut chunk) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(0) | Err(_) => break,
                Ok(read) => read,
            };
            let mut streams = output.lock();
            let kept = match stream {
                Stream::Stdout => &mut streams.stdout,
                Stream::Stderr => &mut streams.stderr,
            };
            kept.extend(&chunk[..read]);
            let excess = kept.len().saturating_sub(MAX_OUTPUT_BYTES);
            kept.drain(..excess);
            output.news.notify_all();
        }
        output.lock().open -= 1;
        output.news.notify_all();
    });
}

fn text(bytes: &VecDeque<u8>) -> String {
    let (front, back) = bytes.as_slices();
    String::from_utf8_lossy(&[front, back].concat()).into_owned()
}

/// A command as one would type it, without secrets.
pub(crate) fn title(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    without_secrets(&words.join(" "))
}

/// What commands are given and print, as it may be shown in errors, logs and results: tokens for
/// joining and for root's API, and first secrets, are left out.
pub(crate) fn without_secrets(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    loop {
        let found = SECRETS.iter().filter_map(|start| {
            let at = rest.find(start)?;
            Some((at, at + start.len()))
        });
        let Some((_, begin)) = found.min() else {
            shown.push_str(rest);
            return shown;
        };
        let (before, secret) = rest.split_at(begin);
        let is_part = |it: char| it.is_ascii_alphanumeric() || "-_.".contains(it);
        let end = secret.find(|it| !is_part(it)).unwrap_or(secret.len());
        shown.push_str(before);
        if end > 0 {
            shown.push_str("...");
        }
        rest = secret.get(end..).unwrap_or_default();
    }
}

/// Runs a short program with `input` on its standard input; it must succeed.
pub(crate) fn feed(mut command: Command, input: &str) -> Result<()> {
    let title = title(&command);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("start {title} (is the program installed?)"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that fails early closes its input; its own message says more.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "{title}: {}{}its input was:\n{input}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_shown_nowhere() {
        for (text, shown) in [
            (
                "weald join weald-join-aeahg23x --name a1",
                "weald join weald-join-... --name a1",
            ),
            (
                "curl -H Authorization: Bearer ey.J-_.x http://127.0.0.1/ weald-join-abc\n",
                "curl -H Authorization: Bearer ... http://127.0.0.1/ weald-join-...\n",
            ),
            (
                "{\"ready\":\"root\",\"first_secret\":\"abc\",\"token\":null}",
                "{\"ready\":\"root\",\"first_secret\":\"...\",\"token\":null}",
            ),
            ("no token", "no token"),
            ("ends with weald-join-", "ends with weald-join-"),
        ] {
            assert_eq!(without_secrets(text), shown);
        }
        let token = "weald-join-aeahg23x";
        let mut failing = Command::new("/bin/sh");
        failing.args(["-c", "echo $0; echo $0 >&2; exit 1", token]);
        let mut process = Process::spawn(failing).unwrap();
        process.wait(Duration::from_secs(20)).unwrap();
        let told = process.wait_for_line("never", Duration::from_secs(20));
        let told = format!("{:#}", told.unwrap_err());
        assert!(!told.contains("aeahg23x"), "{told}");
        assert_eq!(told.matches("weald-join-...").count(), 4, "{told}");
    }
}
