//! `up` and `down`: runs the daemon; stops it and removes the overlay.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tracing_subscriber::EnvFilter;

use super::failure::{Failure, Kind};
use super::table::{print, print_json};
use super::{Options, UpArgs};
use crate::api::client::{Client, ClientError};
use crate::api::message::{Answer, Request};
use crate::daemon::{self, Identified, Ready};
use crate::env::Overlay;

/// How long a daemon may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn up(options: &Options, args: &UpArgs) -> Result<(), Failure> {
    start_logging(&options.log)?;
    let config = options.load()?;
    let json = options.json;
    daemon::run(
        config,
        args.metrics,
        args.userspace.config(),
        move |ready| {
            weald_memory::settle();
            if json {
                print_json(ready)?;
            } else {
                print(&ready_text(ready))?;
            }
            Ok(())
        },
    )?;
    Ok(())
}

fn ready_text(ready: &Ready) -> String {
    let (node, api) = (&ready.node, ready.socket.display());
    let Some(doors) = &ready.userspace else {
        return format!("ready: node {node}, overlay {}, API {api}\n", ready.overlay);
    };
    let at = |door: Option<SocketAddr>| door.map_or_else(|| "off".to_owned(), |at| at.to_string());
    let (socks, http) = (at(doors.socks), at(doors.http));
    format!("ready: node {node}, userspace, SOCKS5 {socks}, HTTP CONNECT {http}, API {api}\n")
}

pub(super) fn down(options: &Options) -> Result<(), Failure> {
    let config = options.load()?;
    let identified = Identified::of(&config)?;
    let mut was_userspace = false;
    match Client::connect(&config.socket) {
        Ok(mut client) => {
            let Answer::Status(status) = client.ask(&Request::Status {})? else {
                return Err(super::show::unexpected());
            };
            stop(status.pid)?;
            was_userspace = status.userspace.is_some();
        }
        Err(ClientError::NotRunning { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    if !was_userspace {
        Overlay::down(&identified.overlay)?;
    }
    if options.json {
        print_json(&serde_json::json!({ "down": identified.overlay.as_str() }))?;
    } else if was_userspace {
        print("the daemon has stopped; it had no overlay to remove\n")?;
    } else {
        print(&format!("overlay {} is removed\n", identified.overlay))?;
    }
    Ok(())
}

/// Asks a process to stop and waits until it has.
fn stop(pid: u32) -> Result<(), Failure> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.context("the daemon's process id is not one")?;
    let handle = pidfd_open(pid, PidfdFlags::empty()).context("the daemon cannot be found")?;
    pidfd_send_signal(&handle, Signal::TERM).context("the daemon cannot be stopped")?;
    let mut waited = [PollFd::new(&handle, PollFlags::IN)];
    let limit = Timespec::try_from(STOP_TIMEOUT).context("the limit is a time")?;
    match poll(&mut waited, Some(&limit)) {
        Ok(1..) => Ok(()),
        Ok(0) => Err(Failure::new(
            Kind::Failed,
            format!(
                "the daemon did not stop within {} s",
                STOP_TIMEOUT.as_secs()
            ),
        )),
        Err(error) => Err(anyhow::Error::new(error).into()),
    }
}

/// Logs to standard error; names and addresses at `debug`, packets at `trace`.
pub(super) fn start_logging(filter: &str) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| Failure::new(Kind::Usage, format!("--log {filter:?}: {error}")))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init()
        .map_err(|error| Failure::new(Kind::Failed, error.to_string()))
}
