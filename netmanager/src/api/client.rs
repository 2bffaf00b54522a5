//! The client of the local API, for the command line and for tests.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::message::{Answer, ApiError, MAX_ANSWER_BYTES, Request};

/// How long an answer may take: the packet thread has 2 s, and a busy machine may double that.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

/// Why a daemon did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing listens at the socket.
    #[error(
        "no netmanager runs at {}: {error}; start one with `netmanager up`, or name its socket with --socket",
        .socket.display()
    )]
    NotRunning {
        /// The socket.
        socket: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The socket may not be opened.
    #[error(
        "{} may not be opened by this user; be root, or in the socket's group",
        .socket.display()
    )]
    NoPermission {
        /// The socket.
        socket: PathBuf,
    },
    /// The connection broke.
    #[error("the netmanager did not answer: {0}")]
    Broken(#[from] io::Error),
    /// The answer is not one of ours.
    #[error("the netmanager's answer is not understood: {0}; are both of one version?")]
    Answer(#[from] serde_json::Error),
    /// The daemon refuses to answer.
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl Client {
    /// Connects to the daemon whose API is at `socket`.
    ///
    /// # Errors
    /// None runs there, or its socket may not be opened.
    pub fn connect(socket: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(socket).map_err(|error| {
            let socket = socket.to_owned();
            if error.kind() == io::ErrorKind::PermissionDenied {
                ClientError::NoPermission { socket }
            } else {
                ClientError::NotRunning { socket, error }
            }
        })?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Asks and waits for the answer, which is never [`Answer::Error`].
    ///
    /// # Errors
    /// There is no answer, or it is an error.
    pub fn ask(&mut self, request: &Request) -> Result<Answer, ClientError> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        // A daemon that refuses says so before it reads, and then the pipe may be broken.
        let sent = self.stream.get_mut().write_all(&line);
        let mut answer = Vec::new();
        let read = self
            .stream
            .by_ref()
            .take(MAX_ANSWER_BYTES)
            .read_until(b'\n', &mut answer);
        if answer.last() != Some(&b'\n') {
            sent?;
            read?;
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        match serde_json::from_slice(&answer)? {
            Answer::Error(error) => Err(error.into()),
            answer @ (Answer::Status(_)
            | Answer::Peers(_)
            | Answer::Flows(_)
            | Answer::Explanation(_)
            | Answer::Counters(_)
            | Answer::Network(_)
            | Answer::Knock(_)
            | Answer::Attached(_)
            | Answer::Detached(_)
            | Answer::Attachments(_)
            | Answer::Echo(_)
            | Answer::Bench(_)) => Ok(answer),
        }
    }
}
