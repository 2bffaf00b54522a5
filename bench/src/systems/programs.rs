//! Tunnels that are one program at each end with a TUN: starting, addressing, stopping.
//!
//! Peers are looked for in the folder that `bench/peers` installs them into, then in `PATH`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use netns_tests::{Lab, Process, wait};

use super::Tunnel;
use crate::ground;

/// How long a device or a first packet may take.
const SOON: Duration = Duration::from_secs(20);
/// How long a program may take to end.
const END: Duration = Duration::from_secs(10);

/// Where peers are installed, below the workspace's folder.
#[must_use]
pub(super) fn peers_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers/bin")
}

/// Finds a peer's program.
pub(super) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).collect::<Vec<_>>();
    std::iter::once(peers_folder())
        .chain(folders)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// What a Go program was built from, as the toolchain tells, or an empty text.
pub(super) fn go_version(program: &Path) -> String {
    let output = Command::new("go")
        .args(["version", "-m"])
        .arg(program)
        .output();
    let text = output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    );
    let module = text
        .lines()
        .find(|line| line.trim_start().starts_with("mod"));
    let words: Vec<&str> = module.unwrap_or_default().split_whitespace().collect();
    words.get(1..3).unwrap_or_default().join(" ")
}

/// Waits until both devices are there, gives them the inner addresses where asked to, and waits
/// until a packet passes.
pub(super) fn finish(
    lab: &Lab,
    devices: [&str; 2],
    processes: &mut [Process; 2],
    addressed: bool,
) -> Result<Tunnel> {
    let nodes = ground::nodes(lab);
    for i in 0..2 {
        let path = format!("/proc/sys/net/ipv4/conf/{}", devices[i]);
        let what = format!("the device {}", devices[i]);
        wait::until(&what, SOON, || {
            ensure!(
                processes[i].exit_status()?.is_none(),
                "it ended\n{}",
                processes[i].shown()
            );
            nodes[i].in_ns(|| {
                ensure!(Path::new(&path).exists(), "not there yet");
                Ok(())
            })
        })?;
        if addressed {
            let (device, address) = (devices[i], ground::INNER[i]);
            nodes[i].ip_batch(&format!(
                "addr add {address}/24 dev {device}\nlink set {device} up\n"
            ))?;
        }
    }
    let [client, server] = nodes;
    let reached = client.wait_reachable(IpAddr::V4(ground::INNER[1]), SOON);
    if let Err(error) = reached {
        let [near, far] = processes;
        return Err(error.context(format!("{}\n{}", near.shown(), far.shown())));
    }
    Ok(Tunnel {
        namespaces: [
            lab.open_namespace(client.name())?,
            lab.open_namespace(server.name())?,
        ],
        addresses: ground::INNER.map(IpAddr::V4),
        daemons: Some([processes[0].pid(), processes[1].pid()]),
        by_service: None,
    })
}

/// Ends both programs; their devices go with them.
pub(super) fn end(processes: Option<[Process; 2]>) -> Result<()> {
    for mut process in processes.into_iter().flatten() {
        // Some programs ignore SIGTERM; dropping them kills.
        if process.terminate(END).is_err() {
            process.kill()?;
        }
    }
    Ok(())
}
