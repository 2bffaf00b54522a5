//! Groups in folders that stand for version 2, whose controllers this machine may not lend, and
//! what is refused where a controller is missing.

use std::fs;
use std::path::Path;

use super::*;

/// A folder of version 2 with these controllers, lent already or not.
fn version_2(folder: &Path, controllers: &str, lent: &str) -> Layout {
    fs::write(folder.join("cgroup.controllers"), controllers).unwrap();
    fs::write(folder.join("cgroup.subtree_control"), lent).unwrap();
    Layout {
        v1: std::collections::BTreeMap::new(),
        v2: Some(Hierarchy {
            mount: folder.to_owned(),
            own: folder.to_owned(),
        }),
    }
}

fn touch(folder: &Path, names: &[&str]) {
    fs::create_dir(folder).unwrap();
    for name in names {
        fs::write(folder.join(name), "").unwrap();
    }
}

fn read(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join(name)).unwrap()
}

#[test]
fn limits_of_version_2_are_written_where_they_belong() {
    let root = tempfile::tempdir().unwrap();
    let layout = version_2(
        root.path(),
        "cpuset cpu io memory pids\n",
        "cpu memory pids\n",
    );
    let cgroups = Cgroups::of_layout(&layout, None).unwrap();
    assert_eq!(cgroups.shortcomings(), [""; 0]);
    let folder = root.path().join("weald.1.a@1");
    let files = [
        "cpu.max",
        "memory.max",
        "memory.swap.max",
        "memory.oom.group",
        "pids.max",
    ];
    touch(&folder, &files);
    let limits = Limits {
        memory_mib: 64,
        millicpus: 200,
        pids: 100,
    };
    let group = cgroups.create("weald.1.a@1", &limits).unwrap();
    assert_eq!(read(&folder, "cpu.max"), "20000 100000");
    assert_eq!(read(&folder, "memory.max"), "67108864");
    assert_eq!(read(&folder, "memory.swap.max"), "0");
    assert_eq!(read(&folder, "memory.oom.group"), "1");
    assert_eq!(read(&folder, "pids.max"), "100");

    fs::write(folder.join("cpu.stat"), "usage_usec 1500000\nuser_usec 1\n").unwrap();
    fs::write(folder.join("memory.current"), "5000\n").unwrap();
    fs::write(folder.join("memory.stat"), "anon 1\ninactive_file 1000\n").unwrap();
    fs::write(folder.join("memory.events"), "oom 9\noom_kill 2\n").unwrap();
    let usage = Usage {
        processor: std::time::Duration::from_millis(1_500),
        memory_bytes: 4_000,
    };
    assert_eq!(group.usage(), Some(usage));
    assert_eq!(group.out_of_memory_kills(), 2);
    assert_eq!(
        cgroups.list("weald.1.").unwrap(),
        [("weald.1.a@1".to_owned(), group)]
    );
    assert_eq!(cgroups.list("weald.2.").unwrap(), []);
}

#[test]
fn the_smallest_share_of_a_processor_has_a_quota_that_the_kernel_takes() {
    let root = tempfile::tempdir().unwrap();
    let layout = version_2(root.path(), "cpu", "cpu");
    let cgroups = Cgroups::of_layout(&layout, None).unwrap();
    let folder = root.path().join("g");
    touch(&folder, &["cpu.max"]);
    let limits = Limits {
        millicpus: 1,
        ..Limits::default()
    };
    cgroups.create("g", &limits).unwrap();
    assert_eq!(read(&folder, "cpu.max"), "1000 1000000");
}

#[test]
fn controllers_that_are_there_are_lent_to_the_groups() {
    let root = tempfile::tempdir().unwrap();
    let layout = version_2(root.path(), "cpuset cpu memory pids", "memory");
    let cgroups = Cgroups::of_layout(&layout, None).unwrap();
    assert_eq!(read(root.path(), "cgroup.subtree_control"), "+cpu +pids");
    assert_eq!(cgroups.shortcomings(), [""; 0]);
}

#[test]
fn groups_are_made_beside_a_worker_that_has_moved_already() {
    let root = tempfile::tempdir().unwrap();
    let mut layout = version_2(root.path(), "cpu", "cpu");
    layout.v2.as_mut().unwrap().own = root.path().join("weald.worker");
    let cgroups = Cgroups::of_layout(&layout, None).unwrap();
    touch(&root.path().join("g"), &["cpu.max"]);
    let limits = Limits {
        millicpus: 1_500,
        ..Limits::default()
    };
    cgroups.create("g", &limits).unwrap();
    assert_eq!(read(&root.path().join("g"), "cpu.max"), "150000 100000");
}

#[test]
fn a_limit_that_nothing_can_hold_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let layout = version_2(root.path(), "hugetlb pids", "");
    let cgroups = Cgroups::of_layout(&layout, None).unwrap();
    assert_eq!(cgroups.shortcomings().len(), 2);
    let memory = Limits {
        memory_mib: 1,
        ..Limits::default()
    };
    let error = cgroups.create("g", &memory).unwrap_err();
    assert_eq!(
        error.to_string(),
        "this node cannot limit memory: the cgroup controller `memory` is not at hand \
         (there are pids)"
    );
    let processor = Limits {
        millicpus: 1,
        ..Limits::default()
    };
    let error = Cgroups::default().create("g", &processor).unwrap_err();
    assert_eq!(
        error.to_string(),
        "this node cannot limit processor time: the cgroup controller `cpu` is not at hand \
         (there are none)"
    );
    assert!(!root.path().join("g").exists());
}

#[test]
fn what_the_kernel_refuses_leaves_no_group() {
    let root = tempfile::tempdir().unwrap();
    let layout = version_2(root.path(), "memory", "memory");
    let cgroups = Cgroups::of_layout(&layout, None).unwrap();
    let limits = Limits {
        memory_mib: 1,
        ..Limits::default()
    };
    // An ordinary folder has no memory.max.
    let error = cgroups.create("g", &limits).unwrap_err();
    assert!(error.to_string().contains("memory.max"), "{error}");
    assert!(!root.path().join("g").exists());
}

#[test]
fn without_any_hierarchy_there_is_an_empty_group() {
    let limits = Limits {
        pids: 100,
        ..Limits::default()
    };
    let group = Cgroups::default().create("g", &limits).unwrap();
    assert!(group.is_empty());
    assert_eq!(group.usage(), None);
    group.join().unwrap();
    group.kill().unwrap();
    group.remove().unwrap();
}

#[test]
fn a_parent_is_made_from_the_mount_on() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("own")).unwrap();
    let layout = Layout {
        v1: [(
            "memory".to_owned(),
            Hierarchy {
                mount: root.path().to_owned(),
                own: root.path().join("own"),
            },
        )]
        .into(),
        v2: None,
    };
    Cgroups::of_layout(&layout, Some(Path::new("/weald/a"))).unwrap();
    assert!(root.path().join("weald/a").is_dir());
}
