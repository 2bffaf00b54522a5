//! Root, clusters, workers and their netmanagers in a [`Lab`], started the way an operator would:
//! by joining with tokens, and by command lines.
//!
//! The netmanagers are a [`Fleet`]'s; here are the orchestrators above them, and in `user` what a user
//! asks root for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::fleet::{Fleet, RELAY_PORT, netmanager_binary};
use crate::lab::Lab;
use crate::process::Process;

pub use self::user::Life;

mod user;

/// The ports of root and clusters, as they are by default.
const ROOT_PORT: u16 = 10_100;
const CLUSTER_PORT: u16 = 10_110;
const CLUSTER_JOIN: u16 = 10_111;
/// What users have roles log.
const USUAL_LOG: &str = "info";
/// How long a role may take to be ready, and a command to end.
const SOON: Duration = Duration::from_secs(20);

/// The orchestrators of a lab.
#[derive(Debug)]
pub struct Tiers<'lab> {
    /// The netmanagers.
    pub fleet: Fleet<'lab>,
    lab: &'lab Lab,
    weald: PathBuf,
    roles: BTreeMap<(String, Role), Process>,
    /// The machine of root.
    root: String,
    token: Option<String>,
    /// What the roles log.
    log: &'static str,
}

/// A role on a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Root.
    Root,
    /// A cluster's orchestrator.
    Cluster,
    /// A worker.
    Worker,
}

impl Role {
    const fn word(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Cluster => "cluster",
            Self::Worker => "worker",
        }
    }
}

impl<'lab> Tiers<'lab> {
    /// Starts root on a machine.
    ///
    /// # Errors
    /// The programs are not built, or root does not get ready.
    pub fn new(lab: &'lab Lab, root: &str) -> Result<Self> {
        Self::logging(lab, root, "info,orchestrator=debug")
    }

    /// The same, with everything logging what users have it log, for measuring.
    ///
    /// # Errors
    /// As [`Tiers::new`].
    pub fn log_as_usual(lab: &'lab Lab, root: &str) -> Result<Self> {
        Self::logging(lab, root, USUAL_LOG)
    }

    fn logging(lab: &'lab Lab, root: &str, log: &'static str) -> Result<Self> {
        let mut tiers = Self {
            fleet: Fleet::new(lab)?,
            lab,
            weald: netmanager_binary()?.with_file_name("weald"),
            roles: BTreeMap::new(),
            root: root.to_owned(),
            token: None,
            log,
        };
        tiers.start(root, Role::Root)?;
        Ok(tiers)
    }

    /// Starts a role on a machine; its folder stays what it was.
    ///
    /// # Errors
    /// It does not get ready.
    pub fn start(&mut self, machine: &str, role: Role) -> Result<()> {
        let host = self.lab.node(machine);
        let folder = self.folder(machine, role)?;
        let mut command = Command::new(&self.weald);
        command.args(["--json", "--log", self.log]);
        command.arg(role.word()).arg("--folder").arg(&folder);
        match role {
            Role::Root => {
                let advertised = format!("{}:{}", host.v4(), ROOT_PORT + 1);
                command.args(["--advertise", &advertised, "--name", "lab"]);
                command.args(["--owner", "root", "--compat-login"]);
            }
            Role::Cluster => {
                let advertised = format!("{}:{CLUSTER_JOIN}", host.v4());
                command.args(["--advertise", &advertised]);
                let relay = self.lab.node(&self.root).v4();
                command.args(["--relay", &format!("r1={relay}:{RELAY_PORT}")]);
            }
            Role::Worker => {
                command.arg("--netmanager").arg(self.fleet.socket(machine)?);
                command.args(["--millicpus", "4000", "--memory", "2000"]);
            }
        }
        let mut process = host.spawn(command)?;
        process.wait_for_line("\"ready\":", SOON)?;
        self.roles.insert((machine.to_owned(), role), process);
        Ok(())
    }

    /// Kills a role (SIGKILL), as a crash would.
    ///
    /// # Errors
    /// The kernel does not let it die.
    pub fn crash(&mut self, machine: &str, role: Role) -> Result<()> {
        if let Some(mut process) = self.roles.remove(&(machine.to_owned(), role)) {
            process.kill()?;
        }
        Ok(())
    }

    /// The running process of a role.
    ///
    /// # Errors
    /// It was not started.
    pub fn process(&mut self, machine: &str, role: Role) -> Result<&mut Process> {
        let process = self.roles.get_mut(&(machine.to_owned(), role));
        process.with_context(|| format!("no {} on {machine}", role.word()))
    }

    /// A cluster joins at root and is started.
    ///
    /// # Errors
    /// It is not let in, or does not get ready.
    pub fn add_cluster(&mut self, machine: &str, name: &str) -> Result<()> {
        let root = self.folder(&self.root, Role::Root)?;
        let create = ["token", "create", "cluster", "--cluster", name, "--folder"];
        let token = self.weald_on(&self.root, &[&create[..], &[text(&root)?]].concat())?;
        let folder = self.folder(machine, Role::Cluster)?;
        let join = ["join", token.trim(), "--folder", text(&folder)?];
        self.weald_on(machine, &join)?;
        self.start(machine, Role::Cluster)
    }

    /// A node joins the cluster whose orchestrator is on `cluster`; its netmanager and its worker are
    /// started.
    ///
    /// # Errors
    /// It is not let in, or something does not get ready.
    pub fn add_node(&mut self, cluster: &str, machine: &str) -> Result<()> {
        let folder = self.folder(machine, Role::Worker)?;
        self.join_member(cluster, "worker", machine, machine, &folder)?;
        let address = format!("{}:{CLUSTER_PORT}", self.lab.node(cluster).v4());
        self.fleet.add_joined(machine, &folder, &address)?;
        if self.log == USUAL_LOG {
            self.fleet.start_quiet(machine)?;
        } else {
            self.fleet.start(machine)?;
        }
        self.start(machine, Role::Worker)
    }

    /// A relay on root's machine, with a certificate of the cluster on `cluster`; that one is behind a
    /// NAT, so the relay's certificate is fetched there.
    ///
    /// # Errors
    /// It is not let in, or does not get ready.
    pub fn add_relay(&mut self, cluster: &str, id: &str) -> Result<()> {
        let folder = self.lab.node(&self.root).dir()?.join("pki");
        self.join_member(cluster, "relay", cluster, "r1", &folder)?;
        let root = self.root.clone();
        self.fleet.start_relay(&root, id, "")
    }

    fn join_member(
        &self,
        cluster: &str,
        role: &str,
        machine: &str,
        name: &str,
        folder: &Path,
    ) -> Result<()> {
        let issuer = self.folder(cluster, Role::Cluster)?;
        let create = ["token", "create", role, "--folder", text(&issuer)?];
        let token = self.weald_on(cluster, &create)?;
        let (token, folder) = (token.trim(), text(folder)?);
        let join = ["join", token, "--name", name, "--folder", folder];
        self.weald_on(machine, &join).map(drop)
    }

    /// The folder of a role on a machine.
    ///
    /// # Errors
    /// The machine has no folder.
    pub fn folder(&self, machine: &str, role: Role) -> Result<PathBuf> {
        Ok(self.lab.node(machine).dir()?.join(role.word()))
    }

    /// Runs `weald` on a machine and returns what it prints.
    ///
    /// # Errors
    /// It fails; the error shows its output.
    pub fn weald_on(&self, machine: &str, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.weald);
        command.args(arguments);
        self.lab.node(machine).run_ok(command, SOON)
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}
