//! The table over restarts and changes of its file, and the watcher. No namespace is touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use super::table_keeper::TableKeeper;
use super::{Event, watch};
use crate::state::StateDir;

const TABLE: &str = "[[node]]\nid = \"a/b\"\norganisation = \"acme\"\nipv4 = \"10.30.0.1\"\n";

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn table(&self) -> PathBuf {
        self.folder.path().join("shop.toml")
    }

    fn write(&self, text: &str) {
        fs::write(self.table(), text).unwrap();
    }

    fn load(&self) -> anyhow::Result<TableKeeper> {
        let state = StateDir::open(&self.folder.path().join("state"))?;
        TableKeeper::load(&self.table(), state, &"a/b".parse()?)
    }
}

fn with_second_node(text: &str) -> String {
    format!("{text}\n[[node]]\nid = \"a/c\"\norganisation = \"acme\"\nipv4 = \"10.30.0.2\"\n")
}

#[test]
fn a_start_without_file_or_copy_says_what_is_missing() {
    let files = Files::new();
    let error = files.load().unwrap_err().to_string();
    assert!(
        error.contains("shop.toml: cannot be read: No such file"),
        "{error}"
    );
}

#[test]
fn the_kept_copy_serves_while_the_file_is_missing_or_invalid() {
    let files = Files::new();
    files.write(TABLE);
    drop(files.load().unwrap());
    fs::remove_file(files.table()).unwrap();
    let keeper = files.load().unwrap();
    assert_eq!(keeper.table().nodes.len(), 1);
    let report = keeper.report().load_full();
    assert!(report.from_kept_copy);
    assert!(report.error.as_ref().unwrap().contains("No such file"));
    drop(keeper);
    files.write("[[node]]\nid = 5\n");
    let report = files.load().unwrap().report().load_full();
    assert!(report.from_kept_copy);
    assert!(
        report
            .error
            .as_ref()
            .unwrap()
            .contains("shop.toml:2:6: id in [[node]] must be")
    );
}

#[test]
fn a_damaged_copy_does_not_hide_the_files_fault() {
    let files = Files::new();
    fs::create_dir(files.folder.path().join("state")).unwrap();
    fs::write(files.folder.path().join("state/table.toml"), b"\xff").unwrap();
    let error = files.load().unwrap_err().to_string();
    assert!(error.contains("shop.toml: cannot be read"), "{error}");
}

#[test]
fn a_table_without_this_node_is_refused() {
    let files = Files::new();
    files.write(&TABLE.replace("a/b", "a/x"));
    let error = files.load().unwrap_err().to_string();
    assert!(
        error.ends_with("shop.toml: has no row for this node, a/b; it has a/x"),
        "{error}"
    );
}

#[test]
fn an_invalid_change_keeps_the_table_and_is_reported() {
    let files = Files::new();
    files.write(TABLE);
    let mut keeper = files.load().unwrap();
    assert!(keeper.read_change().is_none());
    files.write("nonsense");
    assert!(keeper.read_change().is_none());
    assert_eq!(keeper.table().nodes.len(), 1);
    let error = keeper.report().load_full().error.clone().unwrap();
    assert!(error.contains("shop.toml:1:"), "{error}");
    files.write(TABLE);
    assert!(keeper.read_change().is_none());
    assert_eq!(keeper.report().load_full().error, None);
}

#[test]
fn a_valid_change_is_taken_up_and_kept() {
    let files = Files::new();
    files.write(TABLE);
    let mut keeper = files.load().unwrap();
    files.write(&with_second_node(TABLE));
    let candidate = keeper.read_change().unwrap();
    assert_eq!(candidate.table().nodes.len(), 2);
    let snapshot = keeper.accept(candidate);
    assert_eq!(snapshot.peers().count(), 1);
    assert_eq!(keeper.epoch(), 2);
    drop(keeper);
    fs::remove_file(files.table()).unwrap();
    assert_eq!(files.load().unwrap().table().nodes.len(), 2);
}

#[test]
fn a_table_that_the_overlay_refuses_is_tried_again() {
    let files = Files::new();
    files.write(TABLE);
    let mut keeper = files.load().unwrap();
    files.write(&with_second_node(TABLE));
    let candidate = keeper.read_change().unwrap();
    keeper.refuse(candidate, &anyhow::anyhow!("port 80/tcp is taken"));
    let error = keeper.report().load_full().error.clone();
    assert_eq!(error.as_deref(), Some("port 80/tcp is taken"));
    assert!(keeper.read_change().is_some());
}

#[test]
fn the_watcher_sees_writes_and_renames_also_where_links_lead() {
    let files = Files::new();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (events, inbox) = mpsc::channel();
    watch::watch(&runtime, &files.table(), &events);
    let quiet = || while inbox.recv_timeout(Duration::from_millis(200)).is_ok() {};
    let expect = || {
        let event = inbox.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(matches!(event, Event::Table));
        quiet();
    };
    files.write(TABLE);
    expect();
    let next = files.folder.path().join("next");
    fs::write(&next, TABLE).unwrap();
    expect();
    fs::rename(next, files.table()).unwrap();
    expect();
    // A link into another folder, an edit there, and a link to yet another one.
    let folder = |name: &str| {
        let folder = files.folder.path().join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("real.toml"), TABLE).unwrap();
        folder.join("real.toml")
    };
    let link_to = |target: &Path| {
        let link = files.folder.path().join("link");
        std::os::unix::fs::symlink(target, &link).unwrap();
        fs::rename(link, files.table()).unwrap();
    };
    for real in [folder("one"), folder("two")] {
        quiet();
        link_to(&real);
        expect();
        fs::write(&real, TABLE).unwrap();
        expect();
        fs::write(real.with_extension("next"), TABLE).unwrap();
        fs::rename(real.with_extension("next"), &real).unwrap();
        expect();
    }
    watch::watch(&runtime, Path::new("/nowhere/shop.toml"), &events);
}

#[test]
fn a_table_that_is_a_link_is_in_every_folder_on_the_way() {
    let files = Files::new();
    let at = |name: &str| files.folder.path().join(name);
    let link = |target: &str, from: &str| std::os::unix::fs::symlink(target, at(from)).unwrap();
    for folder in ["etc", "one", "two"] {
        fs::create_dir(at(folder)).unwrap();
    }
    assert_eq!(watch::folders_of(&at("etc/shop.toml")), [at("etc")]);
    link("../one/shop.toml", "etc/shop.toml");
    assert_eq!(
        watch::folders_of(&at("etc/shop.toml")).len(),
        2,
        "a link to nothing yet"
    );
    link(at("two/real.toml").to_str().unwrap(), "one/shop.toml");
    let folders = watch::folders_of(&at("etc/shop.toml"));
    assert_eq!(folders, [at("etc"), at("etc/../one"), at("two")]);
    link("shop.toml", "two/shop.toml");
    assert_eq!(
        watch::folders_of(&at("two/shop.toml")),
        [at("two")],
        "a circle"
    );
    assert_eq!(watch::folders_of(Path::new("shop.toml")), [Path::new(".")]);
}
