//! Nodes in userspace mode: their daemons run as nobody, without any capability.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::Fleet;

/// The user of daemons without privileges.
pub const NOBODY: u32 = 65_534;

impl Fleet<'_> {
    /// Starts a node's daemon in userspace mode as [`NOBODY`], with further arguments of `up`, and
    /// returns when it is ready.
    ///
    /// # Errors
    /// It ends, or does not get ready in time; the error shows its output.
    pub fn start_userspace(&mut self, machine: &str, arguments: &[&str]) -> Result<()> {
        let folder = self.lab.node(machine).dir()?.to_owned();
        give(&folder)?;
        let program = self.program_for_nobody(&folder)?;
        let config = self.member(machine)?.config.clone();
        let mut command = as_nobody();
        command.arg(program).arg("--config").arg(config);
        command.args(["up", "--userspace"]).args(arguments);
        command.env("NETMANAGER_LOG", "debug");
        self.start_daemon(machine, command)
    }

    /// The command line of a tool, which runs as [`NOBODY`] as well.
    ///
    /// # Errors
    /// The machine is not of the fleet.
    pub fn tool_of_nobody(&self, machine: &str, arguments: &[&str]) -> Result<Command> {
        let folder = self.lab.node(machine).dir()?.to_owned();
        let mut command = as_nobody();
        command.arg(self.program_for_nobody(&folder)?);
        command.arg("--config").arg(&self.member(machine)?.config);
        command.args(arguments);
        Ok(command)
    }

    /// A copy of the program that everybody may run: where it was built, not everybody can look.
    fn program_for_nobody(&self, folder: &Path) -> Result<PathBuf> {
        let copy = folder.join("netmanager");
        if !copy.exists() {
            fs::copy(self.binary(), &copy).context("copy the program")?;
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
        }
        Ok(copy)
    }
}

/// A command that drops everything that root has, and runs what is appended.
fn as_nobody() -> Command {
    let mut command = Command::new("setpriv");
    let user = NOBODY.to_string();
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
    command.args(["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]);
    command.arg("--");
    command
}

/// Gives a folder and all that is in it to [`NOBODY`], and lets it get there.
fn give(folder: &Path) -> Result<()> {
    for parent in folder.ancestors().skip(1).take(1) {
        fs::set_permissions(parent, fs::Permissions::from_mode(0o711))?;
    }
    let mut left = vec![folder.to_owned()];
    while let Some(path) = left.pop() {
        chown(&path, Some(NOBODY), Some(NOBODY))
            .with_context(|| format!("give {} away", path.display()))?;
        if path.is_dir() {
            for entry in fs::read_dir(&path)? {
                left.push(entry?.path());
            }
        }
    }
    Ok(())
}
