//! Removing what `weald dev up` has made: instances, processes, the overlay, files.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc::unbounded_channel;

use super::folder::{Book, Folder};
use super::part::{self, API, Part};
use super::start::USER;
use crate::cli::session::Session;
use crate::runtime::cgroup::Cgroups;
use crate::runtime::process::{Config, ProcessRuntime};

/// How long all instances may take to end: each has its grace, then it is killed.
const INSTANCES_TIME: Duration = Duration::from_secs(20);

/// Ends and removes everything, whatever of it there is. Root need not run for it.
///
/// # Errors
/// Something does not go; then the folder stays, and the command can be given again.
pub(super) async fn clear(folder: &Folder, book: &mut Book) -> anyhow::Result<()> {
    // Nothing is started any more from here on.
    part::stop(book, &[Part::Root, Part::Cluster, Part::Worker]).await?;
    let instances = folder.join(Part::Worker.name()).join("instances");
    if instances.exists() {
        let (events, _) = unbounded_channel();
        // What ended ones leave stands in their folders, their cgroups too.
        let config = Config::new(instances, Cgroups::default());
        let runtime = ProcessRuntime::open(config, events)?;
        let ended = runtime.end_all(INSTANCES_TIME).await;
        ended.context("instances do not end")?;
    }
    if book.parts.contains_key(&Part::Netmanager) {
        remove_overlay(folder)?;
        part::stop(book, &[Part::Netmanager]).await?;
    }
    if let Some(file) = &book.session {
        give_back_session(folder, file)?;
    }
    folder.remove()?;
    for made in &book.made {
        // Others may use it by now; then it stays.
        let _ = fs::remove_dir(made);
    }
    Ok(())
}

fn remove_overlay(folder: &Folder) -> anyhow::Result<()> {
    part::ask_netmanager(folder, &["down"])
        .context("the overlay stays")
        .map(drop)
}

/// Puts back the session that the user had before, unless it has made another since.
fn give_back_session(folder: &Folder, file: &Path) -> anyhow::Result<()> {
    let ours = |it: &Session| it.root == format!("http://{API}") && it.user == USER;
    if !Session::load(file).is_ok_and(|it| ours(&it)) {
        return Ok(());
    }
    let former = folder.former_session();
    let given = if former.exists() {
        Session::load(&former)?.save(file)
    } else {
        fs::remove_file(file).map_err(Into::into)
    };
    given.with_context(|| format!("the session in {} stays", file.display()))
}
