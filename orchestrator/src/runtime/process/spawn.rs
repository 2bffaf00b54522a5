//! Brings a life into being: checks, folder, group, order, supervisor. Whatever fails leaves
//! nothing behind and is said in words for the user.

use std::fs::File;
use std::io;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use super::life::{Life, Order, Outcome};
use super::supervised::{self, Running, Standing};
use super::{Shared, preflight};
use crate::runtime::Launch;
use crate::runtime::cgroup::{Group, Limits};
use crate::runtime::supervisor::{ARGUMENT, WATCH};

/// What has come of starting a life.
#[derive(Debug)]
pub(super) enum Started {
    /// It runs.
    Running(Arc<Running>),
    /// It ran, and has ended already.
    Over(Outcome),
}

/// Starts a life whose folder is not there. Blocks until its program runs.
///
/// # Errors
/// It could not be started; why, for the user.
pub(super) fn start(shared: &Shared, launch: &Launch) -> Result<Started, String> {
    let program = preflight::check(launch).map_err(|error| error.to_string())?;
    let life = Life::of(&shared.config.folder, &launch.instance, launch.generation);
    life.make()
        .map_err(|error| format!("cannot make {:?}: {error}", life.folder()))?;
    let limits = Limits {
        memory_mib: launch.spec.resources.memory_mib,
        millicpus: launch.spec.resources.millicpus,
        pids: shared.config.pids,
    };
    let started = match shared
        .config
        .cgroups
        .create(&shared.group_name(&life), &limits)
    {
        Ok(group) => start_in(shared, launch, &life, program, group),
        Err(error) => Err(error.to_string()),
    };
    if started.is_err()
        && let Err(error) = life.remove()
    {
        tracing::warn!("cannot remove {:?}: {error}", life.folder());
    }
    started
}

fn start_in(
    shared: &Shared,
    launch: &Launch,
    life: &Life,
    program: preflight::Program,
    group: Group,
) -> Result<Started, String> {
    let order = Order {
        instance: launch.instance.clone(),
        generation: launch.generation,
        program: program.file,
        words: program.words,
        environment: program.environment,
        netns: launch.netns.clone(),
        resolv_conf: launch.resolv_conf.clone(),
        grace_ms: u64::try_from(shared.config.grace.as_millis()).unwrap_or(u64::MAX),
        log_bytes: shared.config.log_bytes,
        memory_mib: launch.spec.resources.memory_mib,
        group,
    };
    let started = supervise(shared, life, &order);
    if started.is_err()
        && let Err(error) = order.group.kill().and_then(|()| order.group.remove())
    {
        tracing::warn!("cannot clear up after {}: {error}", launch.instance);
    }
    started
}

fn supervise(shared: &Shared, life: &Life, order: &Order) -> Result<Started, String> {
    let told = |error: io::Error| format!("cannot start its supervisor: {error}");
    life.write_order(order).map_err(told)?;
    let mut child = spawn(shared, life).map_err(told)?;
    let standing = supervised::look(life).map_err(told)?;
    match standing {
        Standing::Running(running) => Ok(Started::Running(running)),
        Standing::Over(outcome) => {
            // It has nothing more to do than to exit.
            child.wait().map_err(told)?;
            match outcome {
                Outcome::NotStarted(why) => Err(why),
                outcome @ Outcome::Exited { .. } => Ok(Started::Over(outcome)),
            }
        }
        Standing::Nothing => {
            let status = child.wait().map_err(told)?;
            let said = std::fs::read_to_string(life.supervisor_log()).unwrap_or_default();
            Err(format!(
                "its supervisor gave up ({status}): {}",
                said.trim()
            ))
        }
    }
}

fn spawn(shared: &Shared, life: &Life) -> io::Result<Child> {
    let lock = life.lock_start()?;
    let log = File::options()
        .create(true)
        .append(true)
        .open(life.supervisor_log())?;
    Command::new(&shared.config.supervisor)
        .args([ARGUMENT, WATCH])
        .arg(life.folder())
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::from(lock))
        .stderr(Stdio::from(log))
        .spawn()
}
