//! The status socket: one line of JSON asks, one line of JSON answers.
//!
//! `{"request":"status"}` is the only request. Who may ask is decided by the socket's mode, 0660,
//! which the kernel enforces; nothing can be changed over it. A thread of its own serves one
//! connection after the other, so that a slow one cannot hold up packets.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::Mode;
use rustix::process::umask;
use serde::{Deserialize, Serialize};
use tracing::{debug, warn};

use super::{RelayHandle, RelayReport};

/// How long a client may take to ask or to read: it is on the same machine.
const CLIENT_TIME: Duration = Duration::from_secs(1);
/// Bytes of the longest request.
const MAX_REQUEST_LEN: u64 = 1024;
/// Bytes of the longest answer that is read: the report of some ten thousand organisations.
const MAX_ANSWER_LEN: u64 = 16 << 20;

/// What may be asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
enum Question {
    Status,
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Status(Box<RelayReport>),
    Error(String),
}

/// Asks the relay behind a status socket for its report.
///
/// # Errors
/// No relay answers there, or it refuses.
pub fn ask(socket: &Path) -> anyhow::Result<RelayReport> {
    let mut stream = UnixStream::connect(socket)
        .with_context(|| format!("no relay answers on {}", socket.display()))?;
    stream.set_read_timeout(Some(super::ANSWER_TIME))?;
    let question = serde_json::to_string(&Question::Status)?;
    stream.write_all(format!("{question}\n").as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_ANSWER_LEN)).read_line(&mut line)?;
    match serde_json::from_str(&line).context("the relay's answer cannot be read")? {
        Answer::Status(report) => Ok(*report),
        Answer::Error(error) => bail!("the relay refuses: {error}"),
    }
}

/// The thread behind a status socket; dropping it ends the thread and removes the socket.
#[derive(Debug)]
pub(super) struct StatusThread {
    path: PathBuf,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl StatusThread {
    pub(super) fn start(path: &Path, relay: RelayHandle) -> anyhow::Result<Self> {
        let listener = listen(path)?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).context("cannot make an eventfd")?);
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("relay-status".to_owned())
            .spawn(move || serve(&listener, &stopped, &relay))
            .context("cannot start the status thread")?;
        Ok(Self {
            path: path.to_owned(),
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for StatusThread {
    fn drop(&mut self) {
        // Both fail only when there is nothing left to end or to remove.
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Binds the socket; one that a dead relay has left behind is replaced.
fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    if path.exists() {
        if UnixStream::connect(path).is_ok() {
            bail!("another relay answers on {}", path.display());
        }
        std::fs::remove_file(path).with_context(|| format!("cannot replace {}", path.display()))?;
    }
    let before = umask(Mode::from_raw_mode(0o117));
    let listener = UnixListener::bind(path);
    umask(before);
    listener.with_context(|| format!("cannot listen on {}", path.display()))
}

fn serve(listener: &UnixListener, stop: &OwnedFd, relay: &RelayHandle) {
    loop {
        let mut ready = [
            PollFd::new(listener, PollFlags::IN),
            PollFd::new(stop, PollFlags::IN),
        ];
        match poll(&mut ready, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                warn!(%error, "the status socket is not served any more");
                return;
            }
        }
        let [incoming, stopping] = ready.map(|fd| !fd.revents().is_empty());
        if stopping {
            return;
        }
        if incoming {
            let served = listener
                .accept()
                .map_err(anyhow::Error::from)
                .and_then(|(stream, _)| answer(stream, relay));
            if let Err(error) = served {
                debug!(%error, "a client of the status socket was not answered");
            }
        }
    }
}

fn answer(mut stream: UnixStream, relay: &RelayHandle) -> anyhow::Result<()> {
    stream.set_read_timeout(Some(CLIENT_TIME))?;
    stream.set_write_timeout(Some(CLIENT_TIME))?;
    let mut line = String::new();
    BufReader::new((&stream).take(MAX_REQUEST_LEN)).read_line(&mut line)?;
    let answer = serde_json::from_str(&line)
        .map_err(|error| anyhow!("{error}; send {{\"request\":\"status\"}}"))
        .and_then(|Question::Status| relay.report())
        .map_or_else(
            |error| Answer::Error(format!("{error:#}")),
            |report| Answer::Status(Box::new(report)),
        );
    let answer = serde_json::to_string(&answer)?;
    stream.write_all(format!("{answer}\n").as_bytes())?;
    Ok(())
}
