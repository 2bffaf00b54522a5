//! The processes of `weald dev`: how each is started, known to be ready, and stopped.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Signal, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::folder::{Book, Folder};
use crate::runtime::process::identity::{Found, Identity};

/// Where root's API is.
pub(super) const API: &str = "127.0.0.1:10000";
/// Where the cluster dials root, and joins.
const ROOT: [&str; 2] = ["127.0.0.1:10100", "127.0.0.1:10101"];
/// Where the node dials the cluster, and joins.
const CLUSTER: [&str; 2] = ["127.0.0.1:10110", "127.0.0.1:10111"];
/// The netmanager's data socket: nobody but this machine has anything to say to it.
const DATA: &str = "127.0.0.1:10260";

/// How long a part has from SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// The pause between two looks at a process.
const PAUSE: Duration = Duration::from_millis(10);
/// How many lines of a log are shown.
const TAIL: usize = 15;
/// Bytes from the end of a log that these are looked for in.
const TAIL_BYTES: usize = 16 << 10;

/// One of the processes, in the order in which they are started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Part {
    Root,
    Cluster,
    Netmanager,
    Worker,
}

impl Part {
    pub(super) const ALL: [Self; 4] = [Self::Root, Self::Cluster, Self::Netmanager, Self::Worker];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Cluster => "cluster",
            Self::Netmanager => "netmanager",
            Self::Worker => "worker",
        }
    }

    /// Where others find it; none for a worker, whom nobody calls.
    pub(super) fn address(self) -> Option<String> {
        match self {
            Self::Root => Some(format!("http://{API}")),
            Self::Cluster => Some(CLUSTER[0].to_owned()),
            Self::Netmanager => Some(DATA.to_owned()),
            Self::Worker => None,
        }
    }

    /// What it writes.
    pub(super) fn log(self, folder: &Folder) -> PathBuf {
        folder.join(&format!("{}.log", self.name()))
    }

    fn command(self, folder: &Folder) -> anyhow::Result<Command> {
        let mut command = Command::new(match self {
            Self::Netmanager => netmanager()?,
            Self::Root | Self::Cluster | Self::Worker => own_program()?,
        });
        let own = folder.join(self.name());
        match self {
            Self::Root => {
                command.args(["root", "--name", "dev", "--compat-login", "--api", API]);
                command.args(["--listen", ROOT[0], "--join", ROOT[1]]);
            }
            Self::Cluster => {
                command.args(["cluster", "--listen", CLUSTER[0], "--join", CLUSTER[1]]);
            }
            Self::Netmanager => {
                command.arg("--config").arg(config(folder)).arg("up");
                return Ok(command);
            }
            Self::Worker => {
                command
                    .args(["worker", "--netmanager"])
                    .arg(folder.socket());
            }
        }
        command.arg("--folder").arg(own);
        Ok(command)
    }

    /// Starts it in a process group of its own, so that it outlives the terminal's, and notes it.
    ///
    /// # Errors
    /// It cannot be started, or not be noted; then it does not run.
    pub(super) fn spawn(self, folder: &Folder, book: &mut Book) -> anyhow::Result<Child> {
        let mut options = OpenOptions::new();
        options.create(true).write(true).truncate(true).mode(0o600);
        let path = self.log(folder);
        let log: File = options
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        let mut command = self.command(folder)?;
        command.current_dir(folder.path()).process_group(0);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot run {}", command.get_program().display()))?;
        let noted = Identity::of(child.id().cast_signed())
            .map_err(anyhow::Error::from)
            .and_then(|identity| {
                book.parts.insert(self, identity);
                folder.write(book)
            });
        if let Err(error) = noted {
            // It is our child and has not been waited for, so the id is its own.
            let _ = child.kill();
            let _ = child.wait();
            return Err(error.context(format!("cannot keep who the {} is", self.name())));
        }
        Ok(child)
    }

    /// The line with which it says that it is ready.
    pub(super) fn is_ready(self, folder: &Folder) -> bool {
        let text = fs::read(self.log(folder)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        text.lines().any(|line| match self {
            Self::Netmanager => line.starts_with("ready: "),
            Self::Root | Self::Cluster | Self::Worker => {
                line.starts_with('{') && line.contains("\"ready\":")
            }
        })
    }

    /// The end of its log, indented.
    pub(super) fn tail(self, folder: &Folder) -> String {
        let text = fs::read(self.log(folder)).unwrap_or_default();
        let text = text.get(text.len().saturating_sub(TAIL_BYTES)..);
        let text = String::from_utf8_lossy(text.unwrap_or_default());
        let lines: Vec<&str> = text.lines().collect();
        let last = lines.get(lines.len().saturating_sub(TAIL)..);
        let last = last.unwrap_or_default();
        last.iter().map(|line| format!("\n  {line}")).collect()
    }
}

/// The configuration of the netmanager.
pub(super) fn config(folder: &Folder) -> PathBuf {
    folder.join("net.toml")
}

/// What the netmanager's program prints.
///
/// # Errors
/// It cannot be run, or fails; the error is what it says.
pub(super) fn ask_netmanager(folder: &Folder, arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
    let mut command = Command::new(netmanager()?);
    command.arg("--config").arg(config(folder)).args(arguments);
    let output = command.stdin(Stdio::null()).output();
    let output = output.context("cannot run netmanager")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", said.trim());
    Ok(output.stdout)
}

/// Writes the configuration of the netmanager.
///
/// # Errors
/// It cannot be written.
pub(super) fn configure(folder: &Folder, overlay: &str) -> anyhow::Result<()> {
    let path = config(folder);
    let text = format!(
        "state_dir = {:?}\nsocket = {:?}\nlisten = {DATA:?}\n\n[cluster]\naddresses = [{:?}]\n\n\
         [pki]\ndir = {:?}\n\n[overlay]\nname = {overlay:?}\n",
        folder.join("netmanager"),
        folder.socket(),
        CLUSTER[0],
        folder.join(Part::Worker.name()),
    );
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn own_program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("cannot find the program that runs")
}

/// The program `netmanager`, beside this one.
///
/// # Errors
/// It is not there.
pub(super) fn netmanager() -> anyhow::Result<PathBuf> {
    let path = own_program()?.with_file_name("netmanager");
    if !path.is_file() {
        bail!(
            "there is no {}; put the program netmanager beside weald (`make build` makes both)",
            path.display()
        );
    }
    Ok(path)
}

/// Stops parts, all at once: SIGTERM, and SIGKILL to those that take too long.
///
/// # Errors
/// One does not end.
pub(super) async fn stop(book: &Book, parts: &[Part]) -> anyhow::Result<()> {
    let noted = |part: &Part| book.parts.get(part).map(|identity| (*part, identity));
    let noted: Vec<_> = parts.iter().filter_map(noted).collect();
    for signal in [Signal::TERM, Signal::KILL] {
        for (part, identity) in &noted {
            if let Found::There(handle) = identity.find()? {
                match pidfd_send_signal(&handle, signal) {
                    Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                    Err(error) => {
                        let error = io::Error::from(error);
                        return Err(error).with_context(|| format!("cannot stop {}", part.name()));
                    }
                }
            }
        }
        let since = Instant::now();
        while since.elapsed() < GRACE {
            let mut running = false;
            for (_, identity) in &noted {
                running |= matches!(identity.find()?, Found::There(_));
            }
            if !running {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    let names: Vec<_> = noted.iter().map(|(part, _)| part.name()).collect();
    bail!("of {} not all end, not even by SIGKILL", names.join(", "))
}
