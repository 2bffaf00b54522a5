//! Programs that speak WireGuard: all take the same orders on a unix socket (the cross-platform
//! userspace interface of wireguard-tools), so no further tool is needed.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::{Lab, Process, wait};

use super::bare::NO_UDP_SEGMENTATION;
use super::{Found, System, Tunnel, programs};
use crate::ground;

/// The two private keys and their public keys: examples of RFC 7748 or like them, for a tunnel
/// that carries nothing but zeros.
const KEYS: [[&str; 2]; 2] = [
    [
        "77076d0a7318a57d3c16c17251b26645df4c2f92ebc0992ac177fba51db92c2a",
        "f8a9535a2d2ff605e8e144d54f4ef5c62313a2055dbb21fddd3fd9c299eb015d",
    ],
    [
        "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
        "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
    ],
];
/// The devices: their sockets lie in one folder, so they differ.
const DEVICES: [&str; 2] = ["wgbencha", "wgbenchb"];
/// Where the programs make their sockets.
const SOCKETS: &str = "/var/run/wireguard";
/// The outer UDP port.
const PORT: u16 = 51_820;
/// How long a program may take to make its socket.
const SOON: Duration = Duration::from_secs(10);

/// One program.
#[derive(Debug)]
pub(super) struct Kind {
    /// The file's name.
    program: &'static str,
    /// What stands before the device's name.
    arguments: &'static [&'static str],
    /// How it is had.
    source: &'static str,
    /// A feature of the veth that is off while it is measured.
    without: &'static str,
}

pub(super) const BORINGTUN: Kind = Kind {
    program: "boringtun-cli",
    arguments: &["--foreground", "--disable-drop-privileges"],
    source: "crate boringtun-cli",
    without: "",
};
pub(super) const GOTATUN: Kind = Kind {
    program: "gotatun",
    arguments: &["--foreground", "--disable-drop-privileges"],
    source: "crate gotatun-cli",
    without: "",
};
pub(super) const WIREGUARD_GO: Kind = Kind {
    program: "wireguard",
    arguments: &["--foreground"],
    source: "Go module golang.zx2c4.com/wireguard",
    without: "",
};
pub(super) const PLAIN_WIRE: Kind = Kind {
    without: NO_UDP_SEGMENTATION,
    ..WIREGUARD_GO
};
pub(super) const TAILSCALE: Kind = Kind {
    program: "wireguard-go",
    arguments: &["--foreground"],
    source: "Go module github.com/tailscale/wireguard-go",
    without: "",
};

struct WireGuard<'lab> {
    lab: &'lab Lab,
    name: String,
    program: PathBuf,
    kind: &'static Kind,
    running: Option<[Process; 2]>,
}

pub(super) fn find<'lab>(lab: &'lab Lab, name: &str, kind: &'static Kind) -> Found<'lab> {
    let Some(program) = programs::program(kind.program) else {
        let Kind {
            program, source, ..
        } = kind;
        return Found::Missing(format!(
            "no program {program} ({source}): bench/peers installs it, or says why not"
        ));
    };
    let version = version(&program, kind);
    let system = WireGuard {
        lab,
        name: name.to_owned(),
        program,
        kind,
        running: None,
    };
    Found::System(Box::new(system), version)
}

fn version(program: &Path, kind: &Kind) -> String {
    if kind.source.starts_with("Go") {
        return programs::go_version(program);
    }
    let output = Command::new(program).arg("--version").output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

impl WireGuard<'_> {
    fn spawn(&self, end: usize) -> Result<Process> {
        let socket = socket(end);
        // A program that was killed leaves its socket, and the next one then refuses.
        let _ = std::fs::remove_file(&socket);
        let mut command = Command::new(&self.program);
        command.args(self.kind.arguments).arg(DEVICES[end]);
        command.env("LOG_LEVEL", "error");
        let mut process = ground::nodes(self.lab)[end].spawn(command)?;
        let configured = configure(&socket, end);
        if configured.is_err() {
            let ended = process.exit_status()?;
            return Err(configured.err().context("not configured")?.context(format!(
                "{} ({ended:?})\n{}",
                self.name,
                process.shown()
            )));
        }
        Ok(process)
    }
}

impl System for WireGuard<'_> {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&mut self) -> Result<Tunnel> {
        ground::set_feature(self.lab, self.kind.without, "off")?;
        let processes = [self.spawn(0)?, self.spawn(1)?];
        let processes = self.running.insert(processes);
        programs::finish(self.lab, DEVICES, processes, true)
    }

    fn stop(&mut self) -> Result<()> {
        programs::end(self.running.take())?;
        ground::set_feature(self.lab, self.kind.without, "on")
    }
}

fn socket(end: usize) -> PathBuf {
    Path::new(SOCKETS).join(format!("{}.sock", DEVICES[end]))
}

/// Gives one end its key and its peer.
fn configure(socket: &Path, end: usize) -> Result<()> {
    let mut stream = wait::unix_socket(socket, SOON)?;
    let far = 1 - end;
    let orders = format!(
        "set=1\nprivate_key={}\nlisten_port={PORT}\nreplace_peers=true\npublic_key={}\n\
         endpoint={}:{PORT}\nreplace_allowed_ips=true\nallowed_ip={}/32\n\n",
        KEYS[end][0],
        KEYS[far][1],
        ground::OUTER[far],
        ground::INNER[far],
    );
    stream.write_all(orders.as_bytes())?;
    let answer = answer(&mut stream)?;
    ensure!(answer.contains("errno=0"), "{answer}");
    Ok(())
}

/// Reads up to the empty line that ends an answer.
fn answer(stream: &mut UnixStream) -> Result<String> {
    stream.set_read_timeout(Some(SOON))?;
    let mut answer = Vec::new();
    let mut buffer = [0; 256];
    while !answer.ends_with(b"\n\n") {
        let length = stream.read(&mut buffer).context("no answer")?;
        ensure!(length > 0, "half an answer: {answer:?}");
        answer.extend_from_slice(&buffer[..length]);
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
