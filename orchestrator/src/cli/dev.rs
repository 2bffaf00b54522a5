//! `weald dev up`, `down` and `status`: root, a cluster, a netmanager and a worker on this machine,
//! in the background, to try things with.
//!
//! Everything is in one folder, listens on loopback only, and goes with `down`. There is no relay:
//! the only node has nobody whom it could not reach.

mod clear;
mod folder;
mod part;
mod show;
mod start;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::json;

use self::clear::clear;
use self::folder::{Book, Folder};
use self::part::{API, Part};
use super::{output, session};

#[derive(Debug, Args)]
pub(super) struct DevArguments {
    /// Where keys, state and logs are kept; removed by `down`.
    #[arg(long, global = true, default_value = "/var/lib/weald-dev")]
    dir: PathBuf,
    #[command(subcommand)]
    command: DevCommand,
}

#[derive(Debug, Subcommand)]
enum DevCommand {
    /// Start root, a cluster, a netmanager and a worker, and log in.
    ///
    /// They run in the background, on loopback, until `down`. `Admin` with the password `Admin` may
    /// log in from processes of the same user. What is up already stays as it is. Needs to be root.
    ///
    /// Fields with --json: up, already, seconds, dir, root, overlay, user, session, parts (name, pid, alive,
    /// address, log).
    Up,
    /// End all instances, stop everything and remove it, the overlay and the folder included.
    ///
    /// Fields with --json: down, dir, was_up.
    Down,
    /// Show what runs.
    ///
    /// Fields with --json: up, dir, parts (name, pid, alive, address, log), error (why root cannot be
    /// asked), nodes (those of GET /api/v1/nodes), services (name, ipv4, ipv6, running, instances).
    Status,
}

pub(super) async fn dev(
    arguments: DevArguments,
    named_session: Option<PathBuf>,
    json: bool,
) -> anyhow::Result<()> {
    let path = std::path::absolute(&arguments.dir).context("--dir")?;
    let folder = Folder::new(path);
    match arguments.command {
        DevCommand::Up => up(&folder, session::file(named_session)?, json).await,
        DevCommand::Down => down(&folder, json).await,
        DevCommand::Status => show::status(&folder, json).await,
    }
}

async fn up(folder: &Folder, session: PathBuf, json: bool) -> anyhow::Result<()> {
    need_root("up")?;
    let begun = Instant::now();
    folder.make()?;
    let _lock = folder.lock()?;
    let (mut book, fresh) = match folder.read()? {
        Some(book) => (book, false),
        None => (Book::new(folder), true),
    };
    let already = Part::ALL.into_iter().all(|part| book.is_alive(part));
    if fresh {
        if let Err(error) = start::check_machine(folder) {
            // Nothing but the folder and its lock has been made.
            let _ = folder.remove();
            return Err(error);
        }
        folder.write(&book)?;
    }
    let before: Vec<_> = Part::ALL
        .into_iter()
        .filter(|it| book.is_alive(*it))
        .collect();
    let started = tokio::select! {
        started = start::start(folder, &mut book, &session, json) => started,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("given up")),
    };
    if let Err(error) = started {
        return Err(take_down(folder, &mut book, &before, fresh, error).await);
    }
    let seconds = begun.elapsed().as_secs_f64();
    if json {
        return output::json(&json!({
            "up": true,
            "already": already,
            "seconds": (seconds * 1000.0).round() / 1000.0,
            "dir": folder.path(),
            "root": format!("http://{API}"),
            "overlay": book.overlay,
            "user": start::USER,
            "session": book.session,
            "parts": show::parts(folder, &book),
        }));
    }
    let word = if already { "is up already" } else { "is up" };
    let session = book.session.unwrap_or_default();
    output::print(&format!(
        "{word} after {seconds:.1} s: root at http://{API}, node dev/local, all of it in {}\n\
         logged in as {user} (session in {}); next: weald app apply examples/shop.json --deploy 1\n\
         stop and remove all of it: weald dev down\n",
        folder.path().display(),
        session.display(),
        user = start::USER,
    ))
}

/// Ends what was started, all of it if nothing was there before; returns the error to tell.
async fn take_down(
    folder: &Folder,
    book: &mut Book,
    before: &[Part],
    fresh: bool,
    error: anyhow::Error,
) -> anyhow::Error {
    let cleared = if fresh {
        clear(folder, book).await
    } else {
        let started = Part::ALL.into_iter().filter(|it| !before.contains(it));
        part::stop(book, &started.collect::<Vec<_>>()).await
    };
    match cleared {
        Ok(()) => error.context("what was started is stopped again"),
        Err(left) => error.context(format!("and taking it down failed as well: {left:#}")),
    }
}

async fn down(folder: &Folder, json: bool) -> anyhow::Result<()> {
    need_root("down")?;
    let was_up = folder.exists();
    if was_up {
        let _lock = folder.lock()?;
        match folder.read()? {
            Some(mut book) => clear(folder, &mut book).await?,
            // `up` was killed before it had written anything.
            None => folder.remove()?,
        }
    }
    if json {
        return output::json(&json!({ "down": true, "dir": folder.path(), "was_up": was_up }));
    }
    let shown = folder.path().display();
    output::print(&if was_up {
        format!("all of {shown} is stopped and removed\n")
    } else {
        format!("nothing is up in {shown}\n")
    })
}

fn need_root(command: &str) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("network namespaces need root; run `sudo weald dev {command}`");
    }
    Ok(())
}
