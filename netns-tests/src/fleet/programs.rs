//! Programs inside the instances of a fleet.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Fleet;
use crate::process::Process;
use crate::sweep;

impl Fleet<'_> {
    /// A command that runs `program` inside an instance, as `netmanager run` does.
    ///
    /// # Errors
    /// The machine is not of the fleet.
    pub fn in_instance(&self, machine: &str, instance: &str, program: &[&str]) -> Result<Command> {
        let arguments = ["run", "--instance", instance, "--"];
        let arguments: Vec<&str> = arguments.iter().chain(program).copied().collect();
        self.tool_command(machine, &arguments)
    }

    /// Runs a program inside an instance to its end and returns its standard output.
    ///
    /// # Errors
    /// It fails; the error shows its output.
    pub fn run_in(
        &self,
        machine: &str,
        instance: &str,
        program: &[&str],
        timeout: Duration,
    ) -> Result<String> {
        self.lab
            .node(machine)
            .run_ok(self.in_instance(machine, instance, program)?, timeout)
    }

    /// Starts a program inside an instance; it ends when the returned value is dropped.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn_in(&self, machine: &str, instance: &str, program: &[&str]) -> Result<Process> {
        self.lab
            .node(machine)
            .spawn(self.in_instance(machine, instance, program)?)
    }

    /// The processes of an instance that a worker runs, by id, each with when it was started, in clock
    /// ticks since boot; what else was started in its namespace is left out.
    ///
    /// # Errors
    /// There is no such instance, or it has no processes.
    pub fn processes(&self, machine: &str, instance: &str) -> Result<BTreeMap<i32, u64>> {
        let name = format!("{}.{instance}", self.overlay_name(machine));
        let found = sweep::instance_processes(&name);
        ensure!(!found.is_empty(), "no process of {instance} on {machine}");
        Ok(found)
    }

    /// Serves the page `from MACHINE` on port 80 of an instance, until the returned value is dropped.
    ///
    /// # Errors
    /// The page cannot be written, or the server cannot be started.
    pub fn serve_page(&self, machine: &str, instance: &str) -> Result<Process> {
        let folder = self.lab.dir().join(format!("page-{machine}"));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("index.html"), format!("from {machine}"))?;
        let folder = folder.to_str().context("a path that is not UTF-8")?;
        let server = [
            "python3",
            "-m",
            "http.server",
            "80",
            "-d",
            folder,
            "-b",
            "::",
        ];
        self.spawn_in(machine, instance, &server)
    }
}
