//! The server of the local API: the socket, its bounds, and who is let in.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::access::Caller;
use super::answer::ApiContext;
use super::message::{Answer, ApiError, ErrorCode, MAX_REQUEST_BYTES, Request};

/// The most connections at once: tools ask and go, so more than a few are a runaway script.
const MAX_CONNECTIONS: usize = 64;

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 128;

/// How long a connection may say nothing; tools that poll reconnect.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a client may take to read an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long to wait after `accept` failed, for instance for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The bound socket of the API. Its file goes when this is dropped.
#[derive(Debug)]
pub struct ApiServer {
    listener: UnixListener,
    path: PathBuf,
}

impl ApiServer {
    /// Binds the socket, replacing what a dead daemon left. To be called within tokio.
    ///
    /// # Errors
    /// A living daemon answers there, something else is in the way, or it cannot be bound.
    pub fn bind(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        remove_stale(path)?;
        let listen = || -> io::Result<UnixListener> {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.bind(&SockAddr::unix(path)?)?;
            // Nobody can connect before `listen`, so nobody does under another mode.
            fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            UnixListener::from_std(socket.into())
        };
        let listener = listen().with_context(|| format!("cannot listen on {shown}"))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    /// Serves until dropped.
    pub async fn serve(self, context: Arc<ApiContext>) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the API cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let admitted = self.admit(&stream);
            let context = Arc::clone(&context);
            match Arc::clone(&slots).try_acquire_owned() {
                Ok(slot) => drop(tokio::spawn(async move {
                    match admitted {
                        Err(refusal) => refuse(stream, refusal).await,
                        Ok(may_change) => converse(stream, &context, may_change).await,
                    }
                    drop(slot);
                })),
                // Without a slot there is no task either: what does not fit the socket's buffer
                // at once is not said.
                Err(_) => refuse_at_once(&stream),
            }
        }
    }

    /// Lets somebody in or not, and says whether they may change anything.
    fn admit(&self, stream: &UnixStream) -> Result<bool, ApiError> {
        let refused = |message: String| ApiError::new(ErrorCode::Refused, message);
        let caller = Caller::of(stream).map_err(|error| refused(error.to_string()))?;
        let socket_gid = fs::metadata(&self.path).map_or(0, |file| file.gid());
        let daemon_uid = rustix::process::geteuid().as_raw();
        if caller.may_ask(daemon_uid, socket_gid) {
            return Ok(caller.may_change(daemon_uid));
        }
        tracing::debug!(uid = caller.uid, "refused a connection to the API");
        Err(refused(format!(
            "user {} may not use this netmanager; be root, its user {daemon_uid}, or in the \
             socket's group {socket_gid}",
            caller.uid
        )))
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
    }
}

/// Removes the socket of a daemon that is gone.
fn remove_stale(path: &Path) -> anyhow::Result<()> {
    let shown = path.display();
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot look at {shown}")),
        Ok(file) if file.file_type().is_socket() => {}
        Ok(_) => bail!("{shown} is not a socket; remove it, or set another socket path"),
    }
    if StdUnixStream::connect(path).is_ok() {
        bail!("another netmanager answers on {shown}; stop it, or set another socket path");
    }
    fs::remove_file(path).with_context(|| format!("cannot remove the old socket {shown}"))
}

async fn refuse(stream: UnixStream, refusal: ApiError) {
    let (_, mut writer) = stream.into_split();
    drop(write_line(&mut writer, &Answer::Error(refusal)).await);
}

fn refuse_at_once(stream: &UnixStream) {
    let busy = ApiError::new(
        ErrorCode::Busy,
        format!("{MAX_CONNECTIONS} connections are open; close some"),
    );
    if let Ok(line) = line_of(&Answer::Error(busy)) {
        drop(stream.try_write(&line));
    }
}

/// Answers one request after the other until the client goes, is silent for too long, or sends
/// something that cannot be a request.
async fn converse(stream: UnixStream, context: &ApiContext, may_change: bool) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = timeout(IDLE_TIMEOUT, read_line(&mut reader, &mut line)).await;
        let answer = match read {
            Ok(Ok(true)) => match serde_json::from_slice::<Request>(&line) {
                Ok(request) => context.answer(request, may_change).await,
                Err(error) => Answer::Error(ApiError::new(
                    ErrorCode::BadRequest,
                    format!("this is not a request: {error}"),
                )),
            },
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                let error = ApiError::new(ErrorCode::BadRequest, error.to_string());
                drop(write_line(&mut writer, &Answer::Error(error)).await);
                return;
            }
            Ok(Ok(false) | Err(_)) | Err(_) => return,
        };
        if write_line(&mut writer, &answer).await.is_err() {
            return;
        }
    }
}

/// Reads a line of at most [`MAX_REQUEST_BYTES`]; false at the end of the stream.
async fn read_line(
    reader: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
) -> io::Result<bool> {
    loop {
        let available = reader.fill_buf().await?;
        if available.is_empty() {
            return Ok(false);
        }
        let newline = available.iter().position(|byte| *byte == b'\n');
        let taken = newline.unwrap_or(available.len());
        if line.len() + taken > MAX_REQUEST_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a request may have {MAX_REQUEST_BYTES} bytes"),
            ));
        }
        line.extend_from_slice(available.get(..taken).unwrap_or_default());
        reader.consume(taken + usize::from(newline.is_some()));
        if newline.is_some() {
            return Ok(true);
        }
    }
}

async fn write_line(writer: &mut OwnedWriteHalf, answer: &Answer) -> io::Result<()> {
    let line = line_of(answer)?;
    timeout(WRITE_TIMEOUT, writer.write_all(&line))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

fn line_of(answer: &Answer) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    Ok(line)
}
