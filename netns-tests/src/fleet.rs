//! A fleet of real netmanagers and relays in a [`Lab`]: certificates, configurations, daemons.
//!
//! It drives the `netmanager` program the way an operator would, by its command line and files
//! only, so that what works here works for them. The demo and the overlay's tests stand on it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

pub use self::files::{elements, netmanager_binary};
pub use self::reports::Pick;
pub use self::userspace::NOBODY;

use self::files::{path, replace_file};
use crate::lab::Lab;
use crate::namespace::Namespace;
use crate::node::Node;
use crate::process::Process;

mod files;
mod programs;
mod reports;
mod userspace;

/// The UDP port of every netmanager in a fleet.
pub const DATA_PORT: u16 = 10_260;
/// The UDP port of every relay in a fleet.
pub const RELAY_PORT: u16 = 10_250;
/// Where a netmanager serves its figures, on loopback of its machine.
pub const METRICS: &str = "127.0.0.1:9103";
/// Where a relay serves its figures.
pub const RELAY_METRICS: &str = "127.0.0.1:9104";
/// The name of a relay's configuration in its machine's folder.
const RELAY_CONFIG: &str = "relay.toml";
/// How long a daemon may take to be ready.
const READY_TIME: Duration = Duration::from_secs(20);
/// How long a command may take.
const COMMAND_TIME: Duration = Duration::from_secs(20);

/// The netmanagers and relays of a lab.
#[derive(Debug)]
pub struct Fleet<'lab> {
    lab: &'lab Lab,
    binary: PathBuf,
    daemons: BTreeMap<String, Process>,
    relays: BTreeMap<String, Process>,
    members: BTreeMap<String, Member>,
    table_text: String,
    listen: String,
}

#[derive(Debug, Clone)]
struct Member {
    overlay: String,
    config: PathBuf,
    table: PathBuf,
}

impl<'lab> Fleet<'lab> {
    /// An empty fleet; makes the root of its certificates.
    ///
    /// # Errors
    /// The program is not built, or refuses.
    pub fn new(lab: &'lab Lab) -> Result<Self> {
        let binary = netmanager_binary()?;
        fs::create_dir_all(lab.dir())?;
        let fleet = Self {
            lab,
            binary,
            daemons: BTreeMap::new(),
            relays: BTreeMap::new(),
            members: BTreeMap::new(),
            table_text: String::new(),
            listen: format!("0.0.0.0:{DATA_PORT}"),
        };
        let authority = fleet.authority();
        fleet.program(&["pki", "init", path(&authority)?, "--root", "lab"])?;
        Ok(fleet)
    }

    /// The folder with the root and the clusters' intermediates.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.lab.dir().join("authority")
    }

    /// Has nodes that are added from now on use IPv6 as well.
    pub fn listen_on_both_families(&mut self) {
        self.listen = format!("[::]:{DATA_PORT}");
    }

    /// Gives every node, also those added later, this table. Running daemons read it by themselves.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write_table(&mut self, text: &str) -> Result<()> {
        text.clone_into(&mut self.table_text);
        self.members
            .values()
            .try_for_each(|member| replace_file(&member.table, text))
    }

    /// Gives one node a table of its own.
    ///
    /// # Errors
    /// The node is not of the fleet, or the file cannot be written.
    pub fn write_table_of(&self, machine: &str, text: &str) -> Result<()> {
        replace_file(&self.member(machine)?.table, text)
    }

    /// Issues a node's certificate and writes its configuration; `machine` is the lab's name of
    /// the host, `id` is `cluster/name`, `extra` is appended to the configuration.
    ///
    /// # Errors
    /// The program refuses, or a file cannot be written.
    pub fn add_node(
        &mut self,
        machine: &str,
        id: &str,
        organisation: &str,
        extra: &str,
    ) -> Result<()> {
        let table = self
            .lab
            .node(machine)
            .write_file("table.toml", &self.table_text)?;
        let source = format!("table = {table:?}\n");
        self.add_member(machine, id, organisation, &source, extra)
    }

    /// Like [`Fleet::add_node`], with a cluster to dial instead of a table.
    ///
    /// # Errors
    /// The program refuses, or a file cannot be written.
    pub fn add_node_of_cluster(
        &mut self,
        machine: &str,
        id: &str,
        organisation: &str,
        address: &str,
    ) -> Result<()> {
        let cluster = format!("[cluster]\naddresses = [{address:?}]\n");
        self.add_member(machine, id, organisation, "", &cluster)
    }

    fn add_member(
        &mut self,
        machine: &str,
        id: &str,
        organisation: &str,
        source: &str,
        extra: &str,
    ) -> Result<()> {
        let pki = self.lab.node(machine).dir()?.join("pki");
        self.issue_node(id, organisation, &self.authority(), &pki)?;
        self.configure(machine, &pki, source, extra)
    }

    /// Takes up a node that has joined a cluster and has its certificates in a folder.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn add_joined(&mut self, machine: &str, pki: &Path, address: &str) -> Result<()> {
        let cluster = format!("[cluster]\naddresses = [{address:?}]\n");
        self.configure(machine, pki, "", &cluster)
    }

    fn configure(&mut self, machine: &str, pki: &Path, source: &str, extra: &str) -> Result<()> {
        let host = self.lab.node(machine);
        let overlay = self.overlay_name(machine);
        self.lab.own_namespaces(&overlay);
        let socket = host.dir()?.join("api.sock");
        let table = host.dir()?.join("table.toml");
        let config = host.write_file(
            "net.toml",
            format!(
                "{source}state_dir = {state:?}\nsocket = {socket:?}\n\
                 listen = {listen:?}\n{extra}\n\
                 [pki]\ndir = {pki:?}\n\n[overlay]\nname = {overlay:?}\n",
                state = host.dir()?.join("state"),
                listen = self.listen,
            ),
        )?;
        self.members.insert(
            machine.to_owned(),
            Member {
                overlay,
                config,
                table,
            },
        );
        Ok(())
    }

    /// Issues a node's certificate into a folder.
    ///
    /// # Errors
    /// The program refuses.
    pub fn issue_node(
        &self,
        id: &str,
        organisation: &str,
        authority: &Path,
        out: &Path,
    ) -> Result<()> {
        let (authority, out) = (path(authority)?, path(out)?);
        let issue = ["pki", "issue", authority, "--node", id];
        let rest = ["--organisation", organisation, "--out", out];
        self.program(&[&issue[..], &rest].concat()).map(drop)
    }

    /// Issues a relay's certificate and starts it; returns when it is ready.
    ///
    /// # Errors
    /// The program refuses or does not get ready.
    pub fn start_relay(&mut self, machine: &str, id: &str, extra: &str) -> Result<()> {
        let host = self.lab.node(machine);
        let pki = host.dir()?.join("pki");
        if !pki.exists() {
            let authority = self.authority();
            let arguments = [
                "pki",
                "issue",
                path(&authority)?,
                "--relay",
                id,
                "--out",
                path(&pki)?,
            ];
            self.program(&arguments)?;
        }
        let config = host.write_file(
            RELAY_CONFIG,
            format!(
                "listen = [\"0.0.0.0:{RELAY_PORT}\"]\nstatus = \"relay.sock\"\n{extra}\n\
                 [pki]\ndir = {pki:?}\n"
            ),
        )?;
        let mut command = Command::new(&self.binary);
        command.args(["relay", "--config"]).arg(config);
        command.args(["--metrics", RELAY_METRICS]);
        let mut process = host.spawn(command)?;
        process.wait_for_line("ready", READY_TIME)?;
        self.relays.insert(machine.to_owned(), process);
        Ok(())
    }

    /// The running relay on a machine.
    ///
    /// # Panics
    /// Panics if none was started there.
    #[track_caller]
    pub fn relay(&mut self, machine: &str) -> &mut Process {
        match self.relays.get_mut(machine) {
            Some(process) => process,
            None => panic!("no relay on {machine:?}"),
        }
    }

    /// Starts a node's daemon and returns when it is ready.
    ///
    /// # Errors
    /// It ends, or does not get ready in time; the error shows its output.
    pub fn start(&mut self, machine: &str) -> Result<()> {
        let mut command = self.tool_command(machine, &["up", "--metrics", METRICS])?;
        command.env("NETMANAGER_LOG", "debug");
        self.start_daemon(machine, command)
    }

    /// Like [`Fleet::start`], with the log as users have it: for figures.
    ///
    /// # Errors
    /// As [`Fleet::start`].
    pub fn start_quiet(&mut self, machine: &str) -> Result<()> {
        let command = self.tool_command(machine, &["up"])?;
        self.start_daemon(machine, command)
    }

    fn start_daemon(&mut self, machine: &str, command: Command) -> Result<()> {
        let mut process = self.lab.node(machine).spawn(command)?;
        process.wait_for_line("ready", READY_TIME)?;
        self.daemons.insert(machine.to_owned(), process);
        Ok(())
    }

    /// The running daemon of a node.
    ///
    /// # Panics
    /// Panics if it was not started.
    #[track_caller]
    pub fn daemon(&mut self, machine: &str) -> &mut Process {
        match self.daemons.get_mut(machine) {
            Some(process) => process,
            None => panic!("no daemon on {machine:?}"),
        }
    }

    /// Kills a node's daemon (SIGKILL), as a crash would.
    ///
    /// # Errors
    /// The kernel does not let it die.
    pub fn crash(&mut self, machine: &str) -> Result<()> {
        if let Some(mut process) = self.daemons.remove(machine) {
            process.kill()?;
        }
        Ok(())
    }

    /// Where a node's daemon has its local API.
    ///
    /// # Errors
    /// The machine has no folder.
    pub fn socket(&self, machine: &str) -> Result<PathBuf> {
        Ok(self.lab.node(machine).dir()?.join("api.sock"))
    }

    /// Asks a node's daemon to stop (SIGTERM); its overlay stays.
    ///
    /// # Errors
    /// It does not stop in time, or with another status than 0.
    pub fn stop(&mut self, machine: &str) -> Result<()> {
        if let Some(mut process) = self.daemons.remove(machine) {
            let status = process.terminate(COMMAND_TIME)?;
            ensure!(
                status.success(),
                "netmanager on {machine}: {status}\n{}",
                process.shown()
            );
        }
        Ok(())
    }

    /// Stops a node's daemon and removes its overlay.
    ///
    /// # Errors
    /// The program refuses.
    pub fn down(&mut self, machine: &str) -> Result<()> {
        self.stop(machine)?;
        let said = self.tool_json(machine, &["down"])?;
        let overlay = self.overlay_name(machine);
        let is_down = said.iter().any(|said| said["down"] == overlay.as_str());
        ensure!(is_down, "down says {said:?} of {overlay}");
        Ok(())
    }

    /// Runs a tool of the netmanager on a machine and returns what it prints.
    ///
    /// # Errors
    /// It fails; the error shows its output.
    pub fn tool(&self, machine: &str, arguments: &[&str]) -> Result<String> {
        self.lab
            .node(machine)
            .run_ok(self.tool_command(machine, arguments)?, COMMAND_TIME)
    }

    /// Runs a tool with `--json` and returns the values that it prints, one a line.
    ///
    /// # Errors
    /// It fails, or prints no JSON.
    pub fn tool_json(&self, machine: &str, arguments: &[&str]) -> Result<Vec<Value>> {
        let arguments: Vec<&str> = ["--json"].iter().chain(arguments).copied().collect();
        let printed = self.tool(machine, &arguments)?;
        let values = printed.lines().map(|line| {
            serde_json::from_str(line)
                .with_context(|| format!("no JSON from {arguments:?}: {line}"))
        });
        values.collect()
    }

    /// The command line of a tool.
    ///
    /// # Errors
    /// The machine is not of the fleet.
    pub fn tool_command(&self, machine: &str, arguments: &[&str]) -> Result<Command> {
        let member = self.member(machine)?;
        let mut command = Command::new(&self.binary);
        command.arg("--config").arg(&member.config).args(arguments);
        Ok(command)
    }

    /// The namespace of an instance on a machine.
    ///
    /// # Errors
    /// There is none; its node's daemon makes it.
    pub fn instance(&self, machine: &str, instance: &str) -> Result<Namespace> {
        self.lab
            .open_namespace(&format!("{}.{instance}", self.overlay_name(machine)))
    }

    /// The name of a machine's overlay namespace.
    #[must_use]
    pub fn overlay_name(&self, machine: &str) -> String {
        // At most eight characters, unique over all labs of the host: interface names start so.
        let unique = format!("{}/{machine}", self.lab.name());
        let hash = unique
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        format!("w{:07x}", hash & 0xfff_ffff)
    }

    /// The host of a member.
    #[must_use]
    pub fn host(&self, machine: &str) -> &Node {
        self.lab.node(machine)
    }

    /// The program under test.
    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Runs the program outside the lab, as for certificates.
    ///
    /// # Errors
    /// It fails; the error shows what it wrote.
    pub fn program(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(&self.binary).args(arguments).output()?;
        ensure!(
            output.status.success(),
            "netmanager {}: {}\n{}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn member(&self, machine: &str) -> Result<&Member> {
        match self.members.get(machine) {
            Some(member) => Ok(member),
            None => bail!(
                "{machine:?} is not of the fleet, only {:?}",
                self.members.keys()
            ),
        }
    }
}

impl Drop for Fleet<'_> {
    /// Removes every overlay, also after a failure; the lab removes the rest.
    fn drop(&mut self) {
        self.daemons.clear();
        self.relays.clear();
        for (machine, member) in &self.members {
            let mut command = Command::new(&self.binary);
            command.arg("--config").arg(&member.config).arg("down");
            if let Err(error) = self.lab.node(machine).run(command, COMMAND_TIME) {
                eprintln!(
                    "cannot remove overlay {} of {machine}: {error:#}",
                    member.overlay
                );
            }
        }
    }
}
