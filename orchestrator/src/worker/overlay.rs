//! The worker's words with the netmanager of its node: attaching instances, and detaching them.
//!
//! One line of JSON each way over the netmanager's unix socket, as `netmanager/src/api/` describes.
//! The worker waits a while for a netmanager that is being restarted.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use weald_proto::control::Generation;
use weald_proto::name::InstanceId;

use orchestrator_core::worker::Work;

/// How long a netmanager is waited for that does not run.
const PATIENCE: Duration = Duration::from_secs(3);
/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(200);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(10);
/// Bytes of the longest answer.
const MAX_ANSWER: u64 = 1 << 20;

/// Where an attached instance has its network.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Attached {
    /// Its network namespace.
    pub(super) netns: PathBuf,
    /// The resolv.conf that its programs are to see.
    pub(super) resolv_conf: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "answer", content = "data", rename_all = "snake_case")]
enum Answer {
    Attached(Attached),
    Detached(serde::de::IgnoredAny),
    Error { message: String },
}

/// Has the netmanager make an instance's network; the same again changes nothing.
///
/// # Errors
/// It does not run, or says why not.
pub(super) async fn attach(
    socket: &Path,
    instance: &InstanceId,
    generation: Generation,
    work: &Work,
) -> anyhow::Result<Attached> {
    let ports: Vec<_> = work.spec.ports.iter().map(ToString::to_string).collect();
    let request = json!({
        "request": "attach",
        "instance": instance.to_string(),
        "generation": generation,
        "ipv4": work.instance_ip.v4,
        "ipv6": work.instance_ip.v6,
        "organisation": work.spec.organisation.to_string(),
        "ports": ports,
    });
    match ask(socket, &request).await? {
        Answer::Attached(attached) => Ok(attached),
        Answer::Error { message } => bail!("the netmanager does not attach it: {message}"),
        Answer::Detached(_) => bail!("the netmanager answered another question"),
    }
}

/// Has the netmanager take away the network of every life up to `generation`.
///
/// # Errors
/// It does not run, or says why not.
pub(super) async fn detach(
    socket: &Path,
    instance: &InstanceId,
    generation: Generation,
) -> anyhow::Result<()> {
    let request = json!({
        "request": "detach",
        "instance": instance.to_string(),
        "generation": generation,
    });
    match ask(socket, &request).await? {
        Answer::Detached(_) => Ok(()),
        Answer::Error { message } => bail!("the netmanager does not detach it: {message}"),
        Answer::Attached(_) => bail!("the netmanager answered another question"),
    }
}

async fn ask(socket: &Path, request: &serde_json::Value) -> anyhow::Result<Answer> {
    let stream = connect(socket).await?;
    let asked = async {
        let mut stream = BufReader::new(stream);
        stream.write_all(format!("{request}\n").as_bytes()).await?;
        let mut line = String::new();
        (&mut stream).take(MAX_ANSWER).read_line(&mut line).await?;
        let answer: Answer = serde_json::from_str(&line).with_context(|| {
            let shown: String = line.chars().take(200).collect();
            format!("the netmanager's answer is not understood: {shown:?}")
        })?;
        anyhow::Ok(answer)
    };
    tokio::time::timeout(ANSWER, asked)
        .await
        .context("the netmanager does not answer")?
}

async fn connect(socket: &Path) -> anyhow::Result<UnixStream> {
    let since = tokio::time::Instant::now();
    loop {
        match UnixStream::connect(socket).await {
            Ok(stream) => return Ok(stream),
            Err(error) if since.elapsed() >= PATIENCE => {
                return Err(error).with_context(|| {
                    format!(
                        "no netmanager answers at {}; start one with `netmanager up`",
                        socket.display()
                    )
                });
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
