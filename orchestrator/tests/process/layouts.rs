//! The layouts of cgroups that this machine can have, as real mounts: each is found at start, and
//! in each a group is made, limited, killed and removed. What a layout cannot limit is refused.
//!
//! A layout that is not the machine's own is mounted in a mount namespace, in which the calling
//! test is run once more.

use std::fs;
use std::path::Path;
use std::process::Command;

use orchestrator::runtime::cgroup::Cgroups;

use super::lab::{Lab, lives, script};
use super::limits::{holds_memory, must_be_held};

/// Tells the test which layout it is in.
const INSIDE: &str = "WEALD_TEST_CGROUPS";

/// Where cgroups are mounted, and version 2 in a hybrid layout.
const MOUNT: &str = "/sys/fs/cgroup";
const UNIFIED: &str = "/sys/fs/cgroup/unified";

/// What makes each other layout out of a hybrid one.
const VERSION_1: &str = "umount /sys/fs/cgroup/unified";
const VERSION_2: &str = "umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup";

/// The controllers that limits need.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

fn is_version_2(folder: &str) -> bool {
    Path::new(folder).join("cgroup.controllers").exists()
}

#[tokio::test]
async fn the_layout_of_the_machine_holds_limits() {
    let version_2 = if is_version_2(UNIFIED) {
        UNIFIED
    } else {
        MOUNT
    };
    let mut lab = found(is_version_2(version_2).then_some(version_2));
    makes_and_removes(&mut lab).await;
    holds_memory(&mut lab).await;
    holds_processors(&mut lab).await;
}

#[tokio::test]
async fn version_1_alone_holds_limits() {
    if std::env::var_os(INSIDE).is_none() {
        // A machine with version 2 alone lends version 1 nothing.
        if is_version_2(UNIFIED) {
            once_more(VERSION_1);
        }
        return;
    }
    let mut lab = found(None);
    makes_and_removes(&mut lab).await;
    holds_memory(&mut lab).await;
    holds_processors(&mut lab).await;
}

#[tokio::test]
async fn version_2_alone_holds_limits_or_refuses_them() {
    if std::env::var_os(INSIDE).is_none() {
        once_more(VERSION_2);
        return;
    }
    let mut lab = found(Some(MOUNT));
    makes_and_removes(&mut lab).await;
    let there = fs::read_to_string(format!("{MOUNT}/cgroup.controllers")).unwrap();
    let has = |controller: &str| there.split_whitespace().any(|it| it == controller);
    if has("memory") {
        holds_memory(&mut lab).await;
    } else {
        let mut limited = script(0, 2, "exec sleep 1000");
        limited.spec.resources.memory_mib = 32;
        let why = lab.refusal(limited).await;
        let words = "this node cannot limit memory: the cgroup controller `memory` is not at hand";
        assert!(why.contains(words), "{why}");
        lab.must_be_clean();
    }
    if has("cpu") {
        holds_processors(&mut lab).await;
    } else {
        let mut limited = script(0, 3, "exec sleep 1000");
        limited.spec.resources.millicpus = 500;
        let why = lab.refusal(limited).await;
        let words =
            "this node cannot limit processor time: the cgroup controller `cpu` is not at hand";
        assert!(why.contains(words), "{why}");
        lab.must_be_clean();
    }
}

/// Runs the calling test once more where these commands have changed what is mounted.
fn once_more(mounts: &str) {
    let name = std::thread::current().name().unwrap().to_owned();
    let run = format!("{mounts}; exec \"$@\"");
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-ec", &run, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let passed = output.status.success() && said.contains("test result: ok. 1 passed");
    assert!(passed, "{mounts}: {output:?}");
}

/// A lab in the cgroups that are found, which must be those that are mounted: version 2 there, if
/// anywhere, and of version 1 what is there. What is lacking is said of each controller.
fn found(version_2: Option<&str>) -> Lab {
    let cgroups = Cgroups::find(None).unwrap();
    let lent = version_2.map(|folder| fs::read_to_string(format!("{folder}/cgroup.controllers")));
    let lent = lent.map_or_else(String::new, Result::unwrap);
    let is_there = |controller: &str| {
        Path::new(MOUNT).join(controller).join("tasks").exists()
            || lent.split_whitespace().any(|it| it == controller)
    };
    let lacking: Vec<_> = CONTROLLERS.iter().filter(|it| !is_there(it)).collect();
    let said = cgroups.shortcomings();
    assert_eq!(said.len(), lacking.len(), "{said:?}");
    for (said, controller) in said.iter().zip(lacking) {
        let words = format!("no cgroup controller `{controller}`: there are ");
        assert!(said.starts_with(&words), "{said}");
    }
    Lab::of(cgroups)
}

/// An instance is in a group of every hierarchy that instances are limited or killed by, and ends
/// with all that it has started.
async fn makes_and_removes(lab: &mut Lab) {
    let leaves = "setsid sh -c 'echo daemon $$; exec sleep 1000' & exec sleep 1000";
    lab.run(script(0, 1, leaves)).await;
    let line = lab.line(0, |line| line.starts_with("daemon ")).await;
    let daemon = line["daemon ".len()..].to_owned();
    let groups = lab.groups();
    for group in &groups {
        let processes = fs::read_to_string(group.join("cgroup.procs")).unwrap();
        let is_in = processes.lines().any(|it| it == daemon);
        assert!(is_in, "{group:?}: {processes}");
    }
    let version_1 = ["cpu", "cpuacct", "memory", "pids", "freezer"];
    let version_1 = version_1.map(|controller| format!("{MOUNT}/{controller}"));
    let version_1 = version_1.iter().map(String::as_str);
    let version_1 = version_1.filter(|folder| Path::new(folder).join("tasks").exists());
    let version_2 = [MOUNT, UNIFIED].into_iter().filter(|it| is_version_2(it));
    for folder in version_1.chain(version_2) {
        // Controllers that share a hierarchy are links to it.
        let folder = fs::canonicalize(folder).unwrap();
        let has = groups.iter().any(|group| group.starts_with(&folder));
        assert!(has, "none below {folder:?}: {groups:?}");
    }
    lab.stop(0, 1).await;
    assert!(!lives(daemon.parse().unwrap()));
    lab.must_be_clean();
}

async fn holds_processors(lab: &mut Lab) {
    let mut hog = script(0, 3, "while :; do :; done");
    hog.spec.resources.millicpus = 200;
    lab.run(hog).await;
    must_be_held(lab, 20.0).await;
    lab.stop(0, 3).await;
    lab.must_be_clean();
}
