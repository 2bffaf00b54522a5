//! Root, clusters, workers and their netmanagers in a [`Lab`], started the way an operator would:
//! by joining with tokens, and by command lines.
//!
//! The netmanagers are a [`Fleet`]'s; here are the orchestrators above them, and root's API.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::fleet::{Fleet, RELAY_PORT, netmanager_binary};
use crate::lab::Lab;
use crate::process::Process;
use crate::wait;

/// The ports of root and clusters, as they are by default.
const ROOT_PORT: u16 = 10_100;
const CLUSTER_PORT: u16 = 10_110;
const CLUSTER_JOIN: u16 = 10_111;
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
        let mut tiers = Self {
            fleet: Fleet::new(lab)?,
            lab,
            weald: netmanager_binary()?.with_file_name("weald"),
            roles: BTreeMap::new(),
            root: root.to_owned(),
            token: None,
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
        command.args(["--json", "--log", "info,orchestrator=debug"]);
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
        self.fleet.start(machine)?;
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

    /// Runs `weald` on root's machine with `--json` and returns the value that it prints.
    ///
    /// # Errors
    /// It fails, or prints no JSON.
    pub fn weald_json(&self, arguments: &[&str]) -> Result<Value> {
        let arguments = [&["--json"], arguments].concat();
        let printed = self.weald_on(&self.root, &arguments)?;
        serde_json::from_str(&printed).with_context(|| format!("no JSON: {printed}"))
    }

    /// Waits until something holds of root's answer to a request.
    ///
    /// # Errors
    /// It does not hold in time; the error shows the last answer.
    pub fn wait_api(
        &self,
        what: &str,
        path: &str,
        holds: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        wait::until(what, SOON, || {
            let answer = self.api("GET", path, None)?;
            ensure!(holds(&answer), "{path}: {answer}");
            Ok(answer)
        })
    }

    /// Asks root's API, as the user that [`Tiers::login`] has logged in.
    ///
    /// # Errors
    /// It does not answer 200, or with no JSON.
    pub fn api(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let answer = self.ask(method, path, body)?;
        serde_json::from_str(&answer).with_context(|| format!("no JSON: {answer}"))
    }

    /// The same for what is text.
    ///
    /// # Errors
    /// It does not answer 200.
    pub fn api_text(&self, path: &str) -> Result<String> {
        self.ask("GET", path, None)
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<String> {
        let mut command = Command::new("curl");
        command.args([
            "-sS",
            "--max-time",
            "10",
            "-X",
            method,
            "-w",
            "\n%{http_code}",
        ]);
        if let Some(token) = &self.token {
            command.args(["-H", &format!("Authorization: Bearer {token}")]);
        }
        if let Some(body) = body {
            command.args([
                "-H",
                "Content-Type: application/json",
                "-d",
                &body.to_string(),
            ]);
        }
        command.arg(format!("http://127.0.0.1:10000{path}"));
        let printed = self.lab.node(&self.root).run_ok(command, SOON)?;
        let (answer, status) = printed.rsplit_once('\n').context("no status")?;
        ensure!(status == "200", "{method} {path}: {status} {answer}");
        Ok(answer.to_owned())
    }

    /// Logs in for [`Tiers::api`].
    ///
    /// # Errors
    /// The user is not let in.
    pub fn login(&mut self, username: &str, password: &str) -> Result<()> {
        let body = serde_json::json!({ "username": username, "password": password });
        let answer = self.api("POST", "/api/auth/login", Some(&body))?;
        let token = answer["token"].as_str().context("no token")?;
        self.token = Some(token.to_owned());
        Ok(())
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}
