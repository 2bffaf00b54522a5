//! What a user asks root for: by its commands, and by its API where there is none.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{SOON, Tiers, text};
use crate::wait;

/// One life of an instance, as far as a restart would show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// The machine that it is on.
    pub machine: String,
    /// Which of its lives it is.
    pub generation: u64,
    /// Its processes, by id, and when each was started, in clock ticks since boot.
    pub processes: BTreeMap<i32, u64>,
}

impl Tiers<'_> {
    /// Runs `weald` on root's machine as the user that [`Tiers::login`] has logged in, and returns what
    /// it prints.
    ///
    /// # Errors
    /// It fails; the error shows its output.
    pub fn weald(&self, arguments: &[&str]) -> Result<String> {
        let session = self.session();
        let session = ["--session", text(&session)?];
        self.weald_on(&self.root, &[&session[..], arguments].concat())
    }

    /// The same with `--json`; returns the value that it prints.
    ///
    /// # Errors
    /// It fails, or prints no JSON.
    pub fn weald_json(&self, arguments: &[&str]) -> Result<Value> {
        let printed = self.weald(&[&["--json"], arguments].concat())?;
        serde_json::from_str(&printed).with_context(|| format!("no JSON: {printed}"))
    }

    /// Logs in, as `weald login` does, for all that is asked from now on.
    ///
    /// # Errors
    /// The user is not let in.
    pub fn login(&mut self, username: &str, password: &str) -> Result<()> {
        let session = self.session();
        let mut command = Command::new(&self.weald);
        command.args(["--session", text(&session)?]);
        command.args(["login", "--user", username]);
        command.env("WEALD_PASSWORD", password);
        self.lab.node(&self.root).run_ok(command, SOON)?;
        let kept: Value = serde_json::from_str(&fs::read_to_string(&session)?)?;
        let token = kept["token"].as_str().context("no token")?;
        self.token = Some(token.to_owned());
        Ok(())
    }

    fn session(&self) -> PathBuf {
        self.lab.dir().join("session.json")
    }

    /// What the user that has logged in asks root's API with.
    #[must_use]
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
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

    /// How a node stands, in root's word: `alive`, `suspect`, `dead` or `gone`.
    ///
    /// # Errors
    /// Root does not answer, or knows no such node.
    pub fn standing_of(&self, node: &str) -> Result<String> {
        let nodes = self.api("GET", "/api/v1/nodes", None)?;
        let mut all = nodes.as_array().into_iter().flatten();
        let found = all.find(|it| it["name"] == node);
        let standing = found.and_then(|it| it["standing"].as_str());
        Ok(standing.context("no such node")?.to_owned())
    }

    /// Asks root's API, as the user that [`Tiers::login`] has logged in.
    ///
    /// # Errors
    /// It does not answer 200, or with no JSON.
    pub fn api(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let (status, answer) = self.ask(method, path, body)?;
        ensure!(status == 200, "{method} {path}: {status} {answer}");
        serde_json::from_str(&answer).with_context(|| format!("no JSON: {answer}"))
    }

    /// The same whatever the answer is: its status, and its text.
    ///
    /// # Errors
    /// Root does not answer.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, String)> {
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "10", "-X", method]);
        command.args(["-w", "\n%{http_code}"]);
        if let Some(token) = &self.token {
            command.args(["-H", &format!("Authorization: Bearer {token}")]);
        }
        if let Some(body) = body {
            command.args(["-H", "Content-Type: application/json"]);
            command.args(["-d", &body.to_string()]);
        }
        command.arg(format!("http://127.0.0.1:10000{path}"));
        let printed = self.lab.node(&self.root).run_ok(command, SOON)?;
        let (answer, status) = printed.rsplit_once('\n').context("no status")?;
        Ok((status.parse()?, answer.to_owned()))
    }

    /// The lives of all instances, by their names, as root has them and as they are in the kernel.
    ///
    /// # Errors
    /// Root does not answer, or an instance has no processes.
    pub fn lives(&self) -> Result<BTreeMap<String, Life>> {
        let all = self.api("GET", "/api/v1/instances", None)?;
        let lives = all.as_array().into_iter().flatten().map(|it| {
            let name = it["name"].as_str().context("no name")?;
            let life = self.life(name, it);
            Ok((
                name.to_owned(),
                life.with_context(|| format!("{name}: {it}"))?,
            ))
        });
        lives.collect()
    }

    fn life(&self, name: &str, known: &Value) -> Result<Life> {
        let node = known["node"].as_str().context("it is on no node")?;
        let machine = node.rsplit('/').next().unwrap_or(node);
        Ok(Life {
            machine: machine.to_owned(),
            generation: known["generation"].as_u64().context("no generation")?,
            processes: self.fleet.processes(machine, name)?,
        })
    }
}
