//! Nebula: a certificate authority, two hosts that know each other's address, no lighthouse.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use netns_tests::{Lab, Node, Process};

use super::{Found, System, Tunnel, programs};
use crate::ground;

/// The TUN at either end.
const DEVICE: &str = "nebula1";
/// The outer UDP port.
const PORT: u16 = 4_242;
/// How long a certificate may take.
const SOON: Duration = Duration::from_secs(10);

struct Nebula<'lab> {
    lab: &'lab Lab,
    program: PathBuf,
    authority: PathBuf,
    running: Option<[Process; 2]>,
}

pub(super) fn find(lab: &Lab) -> Found<'_> {
    let both = programs::program("nebula").zip(programs::program("nebula-cert"));
    let Some((program, authority)) = both else {
        return Found::Missing(
            "no programs nebula and nebula-cert (Go module github.com/slackhq/nebula): \
             bench/peers installs them, or says why not"
                .to_owned(),
        );
    };
    let version = programs::go_version(&program);
    let system = Nebula {
        lab,
        program,
        authority,
        running: None,
    };
    Found::System(Box::new(system), version)
}

impl Nebula<'_> {
    /// Makes the authority and both certificates in the first machine's folder.
    fn certify(&self, node: &Node) -> Result<PathBuf> {
        let folder = node.dir()?.join("nebula");
        if folder.exists() {
            return Ok(folder);
        }
        std::fs::create_dir_all(&folder)?;
        let run = |arguments: &[&str]| {
            let mut command = Command::new(&self.authority);
            command.current_dir(&folder).args(arguments);
            node.run_ok(command, SOON)
        };
        run(&["ca", "-name", "bench"])?;
        for (name, address) in ground::MACHINES.into_iter().zip(ground::INNER) {
            run(&["sign", "-name", name, "-ip", &format!("{address}/24")])?;
        }
        Ok(folder)
    }
}

impl System for Nebula<'_> {
    fn name(&self) -> &'static str {
        "nebula"
    }

    fn start(&mut self) -> Result<Tunnel> {
        let nodes = ground::nodes(self.lab);
        let folder = self.certify(nodes[0])?;
        let folder = folder.to_str().context("a path that is not UTF-8")?;
        let spawn = |end: usize| {
            let (name, far) = (ground::MACHINES[end], 1 - end);
            let (inner, outer) = (ground::INNER[far], ground::OUTER[far]);
            let config = nodes[end].write_file(
                "nebula.yml",
                format!(
                    "pki: {{ca: {folder}/ca.crt, cert: {folder}/{name}.crt, \
                     key: {folder}/{name}.key}}\n\
                     static_host_map: {{\"{inner}\": [\"{outer}:{PORT}\"]}}\n\
                     lighthouse: {{am_lighthouse: false}}\n\
                     listen: {{host: 0.0.0.0, port: {PORT}}}\n\
                     tun: {{dev: {DEVICE}}}\n\
                     logging: {{level: error}}\n\
                     firewall:\n  outbound: [{{port: any, proto: any, host: any}}]\n  \
                     inbound: [{{port: any, proto: any, host: any}}]\n"
                ),
            )?;
            let mut command = Command::new(&self.program);
            command.arg("-config").arg(config);
            nodes[end].spawn(command)
        };
        let processes = [spawn(0)?, spawn(1)?];
        let processes = self.running.insert(processes);
        programs::finish(self.lab, [DEVICE; 2], processes, false)
    }

    fn stop(&mut self) -> Result<()> {
        programs::end(self.running.take())
    }
}
