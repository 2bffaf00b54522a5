//! The comparison at the end of the demos sees what a lab's programs leave behind; here it is left on
//! purpose.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::stage::leaves_nothing;
use netns_tests::{Description, Lab, Machine, Segment, command};

/// How long things may take to go away that do not go away.
const PATIENCE: Duration = Duration::from_millis(100);
const SOON: Duration = Duration::from_secs(20);
/// An overlay's name, as a fleet would give it, of an address that no other test uses.
const OVERLAY: &str = "wleft00";

fn lab() -> Result<Lab> {
    let lab = Lab::new(
        &Description::new()
            .segment(Segment::new("net").v4("192.0.2.0/24"))
            .machine(Machine::host("host").at("net", 1)),
    )?;
    lab.own_namespaces(OVERLAY);
    Ok(lab)
}

fn complaint(lab: &Lab, work: impl FnOnce() -> Result<()>) -> Result<String> {
    let found = leaves_nothing(lab, PATIENCE, work);
    let error = found.err().context("nothing was found")?;
    Ok(format!("{error:#}"))
}

/// A folder in which cgroups can be made that are not of any other's: that of version 2, or of one
/// controller of version 1.
fn hierarchy() -> Result<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    let folders = fs::read_dir(&root)?.flatten().map(|entry| entry.path());
    let mut all = std::iter::once(root).chain(folders);
    let found = all.find(|it| it.join("cgroup.procs").exists());
    found.context("no cgroups on this machine")
}

#[test]
fn a_namespace_of_an_instance_that_stays_is_found_with_its_mount() -> Result<()> {
    let lab = lab()?;
    ensure!(leaves_nothing(&lab, PATIENCE, || Ok(()))? > 0);
    let name = format!("{OVERLAY}.shop.prod.web.prod.0");
    let add = format!("ip netns add {name}");
    let said = complaint(&lab, || {
        lab.node("host").run_ok(command(&add), SOON).map(drop)
    })?;
    ensure!(said.contains(&format!("+ namespace {name}\n")), "{said}");
    let mount = format!("+ mount /run/netns/{name} nsfs\n");
    ensure!(said.contains(&mount), "{said}");
    ensure!(said.contains("left something behind"), "{said}");
    let remove = format!("ip netns del {name}");
    lab.node("host").run_ok(command(&remove), SOON)?;
    leaves_nothing(&lab, PATIENCE, || Ok(())).map(drop)
}

#[test]
fn a_cgroup_of_an_instance_that_stays_is_found() -> Result<()> {
    let lab = lab()?;
    ensure!(lab.learn_groups().is_err(), "a group without an instance");
    let name = "weald.1ef70e5e.shop.prod.web.prod.0.1";
    let group = hierarchy()?.join(name);
    let _removed = Removed(&group);
    let said = complaint(&lab, || {
        fs::create_dir(&group)?;
        let sleep = lab.node("host").spawn(command("sleep 1000"))?;
        fs::write(group.join("cgroup.procs"), sleep.pid().to_string())?;
        // As while an instance runs; it ends with this block.
        lab.learn_groups()
    })?;
    ensure!(lab.names().iter().any(|it| it == "weald.1ef70e5e."));
    let line = format!("+ cgroup {}\n", group.display());
    ensure!(said.contains(&line), "{said}");
    fs::remove_dir(&group)?;
    leaves_nothing(&lab, PATIENCE, || Ok(())).map(drop)
}

#[test]
fn a_life_of_an_instance_that_stays_in_its_workers_folder_is_found() -> Result<()> {
    let lab = lab()?;
    let life = lab.node("host").dir()?.join("worker/instances/0.web");
    let said = complaint(&lab, || {
        fs::create_dir_all(&life)?;
        Ok(fs::write(life.join("order"), "")?)
    })?;
    let line = format!("+ path {}/order\n", life.display());
    ensure!(said.contains(&line), "{said}");
    fs::remove_dir_all(&life)?;
    leaves_nothing(&lab, PATIENCE, || Ok(())).map(drop)
}

/// A cgroup that goes away also when a test fails.
struct Removed<'a>(&'a Path);

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        // Usually it is gone.
        let _ = fs::remove_dir(self.0);
    }
}
